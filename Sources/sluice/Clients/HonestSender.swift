// SPDX-License-Identifier: Apache-2.0
// A sender as a good mail server is one: it waits for each reply as long as RFC 5321 (4.5.3.2) asks, says
// what it should, retries what was put off, and remembers what it was told. It is the demo's proof that
// honest mail gets through; it is no MTA.

import Foundation
import Glibc

/// Sends a number of messages to a server on loopback.
struct HonestSender: Sendable {
  var target: LoopbackEndpoint
  var source: [UInt8]
  var name = "mail.example.net"
  var messages = 1
  /// Sizes of the messages in octets, drawn evenly.
  var sizes = 400...40_000
  var recipient = "postmaster@example.com"
  /// Tries for one message; an honest sender comes back after a 4xx.
  var triesMax = 3
  var secondsBetweenTries = 2.0
  /// 5 minutes for any reply, as the RFC asks; 10 for the one after the dot.
  var patience = 300.0

  /// Sends them all, one after the other on one connection as far as the server lets it.
  ///
  /// - Returns: how many were delivered.
  func run(_ board: Scoreboard, _ stop: StopSign) -> Int {
    var delivered = 0
    var number = 0
    var tries = 0
    board.update(.honest) { $0.started += 1 }
    while number < messages && !stop.isRaised {
      let before = delivered
      let failure = session(from: &number, delivered: &delivered, board, stop)
      tries = delivered > before ? 0 : tries + 1
      if failure == nil { break }
      if tries >= triesMax {
        board.update(.honest) { $0.refused += 1 }
        break
      }
      HonestSender.nap(secondsBetweenTries, stop)
    }
    return delivered
  }

  static func nap(_ seconds: Double, _ stop: StopSign) {
    let until = ClientSocket.now() + seconds
    while !stop.isRaised && ClientSocket.now() < until { usleep(50_000) }
  }

  /// One connection: as many of the messages as it bears.
  ///
  /// - Returns: nil when all are sent.
  private func session(
    from number: inout Int, delivered: inout Int, _ board: Scoreboard, _ stop: StopSign
  ) -> ClientFailure? {
    do throws(ClientFailure) {
      var socket = try ClientSocket(to: target, from: source, stop: stop)
      board.update(.honest) { $0.inside += 1 }
      defer {
        let age = socket.age
        board.update(.honest) {
          $0.inside -= 1
          $0.secondsHeld += age
        }
      }
      let banner = try socket.reply(within: patience)
      let waited = socket.age
      if banner.code != 220 {
        note(banner.code, board)
        return .closed
      }
      board.update(.honest) {
        $0.banners += 1
        $0.bannerSecondsSum += waited
        $0.bannerSecondsMax = max($0.bannerSecondsMax, waited)
      }
      try expect(250, "EHLO \(name)\r\n", &socket, board)
      while number < messages && !stop.isRaised {
        try expect(250, "MAIL FROM:<sender\(source[3])@\(name)>\r\n", &socket, board)
        try expect(250, "RCPT TO:<\(recipient)>\r\n", &socket, board)
        try expect(354, "DATA\r\n", &socket, board)
        try socket.send(message(number), within: patience)
        let reply = try socket.reply(within: 600)
        note(reply.code, board)
        if reply.code != 250 { return .closed }
        number += 1
        delivered += 1
        board.update(.honest) { $0.delivered += 1 }
      }
      try socket.send("QUIT\r\n")
      _ = try socket.reply(within: 10)
      return nil
    } catch {
      if case .cannotConnect = error { board.update(.honest) { $0.failed += 1 } }
      // A hang-up after the last message's 250 costs nothing.
      return number >= messages ? nil : error
    }
  }

  private func expect(
    _ code: Int, _ command: String, _ socket: inout ClientSocket, _ board: Scoreboard
  ) throws(ClientFailure) {
    try socket.send(command)
    let reply = try socket.reply(within: patience)
    if reply.code != code {
      note(reply.code, board)
      throw .closed
    }
  }

  private func note(_ code: Int, _ board: Scoreboard) {
    board.update(.honest) { $0.codes[code, default: 0] += 1 }
  }

  /// A message of random size, some lines of which start with a dot.
  private func message(_ number: Int) -> [UInt8] {
    let size = Int.random(in: sizes)
    var text = """
      From: <sender\(source[3])@\(name)>\r
      To: <\(recipient)>\r
      Subject: honest mail \(number)\r
      Message-ID: <\(number).\(source[2]).\(source[3]).\(UInt32.random(in: 0 ... .max))@\(name)>\r
      \r

      """
    var line = 0
    while text.utf8.count < size {
      // Stuffed, as RFC 5321 (4.5.2) asks: the receiver sees one dot.
      text +=
        line % 7 == 6 ? "..dots stay what they are\r\n" : "Line \(line) of an honest letter.\r\n"
      line += 1
    }
    return Array((text + ".\r\n").utf8)
  }
}
