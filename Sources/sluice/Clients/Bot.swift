// SPDX-License-Identifier: Apache-2.0
// The demo's unwelcome clients, each a caricature of one habit that real spamware has. They speak to
// loopback only, deliver nothing anybody would miss, and end when their patience or the demo does.

import Foundation
import Glibc

/// One bot; its kind says what it does wrong.
struct Bot: Sendable {
  var kind: ClientKind
  var target: LoopbackEndpoint
  var source: [UInt8]
  /// Seconds without a whole reply after which it gives up. The median bot of 2008 gave up after four, and
  /// one in ten stayed ten (MailChannels).
  var patience = Double.random(in: 1.5...7)
  /// The longest it stays in all.
  var secondsMax = 600.0

  /// Lives its life; returns when it is over.
  func run(_ board: Scoreboard, _ stop: StopSign) {
    board.update(kind) { $0.started += 1 }
    var age = 0.0
    do throws(ClientFailure) {
      var socket = try ClientSocket(to: target, from: source, stop: stop)
      board.update(kind) { $0.inside += 1 }
      defer {
        age = socket.age
        board.update(kind) {
          $0.inside -= 1
          $0.secondsHeld += age
        }
      }
      try act(&socket, board)
      board.update(kind) { $0.left += 1 }
    } catch {
      board.update(kind) {
        switch error {
        case .cannotConnect: $0.failed += 1
        case .closed, .malformed: $0.refused += 1
        case .outOfPatience, .stopped: $0.left += 1
        }
      }
    }
  }

  private func act(_ socket: inout ClientSocket, _ board: Scoreboard) throws(ClientFailure) {
    switch kind {
    case .honest, .impatient:
      try greet(&socket, board)
      try deliver(&socket, board)
    case .pregreeter:
      // Does not wait for anything: the whole dialogue in one piece, before the banner.
      try socket.send(
        "EHLO pc-\(source[3])\r\nMAIL FROM:<win@example.org>\r\nRCPT TO:<you@example.com>\r\nDATA\r\n"
      )
      try greet(&socket, board)
      _ = try ask(nil, &socket, board)
      throw socket.hold(for: patience)
    case .nonSMTP:
      try socket.send("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: scanner\r\n\r\n")
      throw socket.hold(for: secondsMax)
    case .harvester:
      try greet(&socket, board)
      _ = try ask("HELO friend\r\n", &socket, board)
      _ = try ask("MAIL FROM:<>\r\n", &socket, board)
      for name in ["info", "sales", "admin", "test", "john", "mary", "office", "support"] {
        if try ask("RCPT TO:<\(name)-nobody@example.com>\r\n", &socket, board) == 421 {
          throw ClientFailure.closed
        }
      }
    case .silent:
      try greet(&socket, board)
      throw socket.hold(for: secondsMax)
    }
  }

  private func greet(_ socket: inout ClientSocket, _ board: Scoreboard) throws(ClientFailure) {
    let banner = try socket.reply(within: kind == .silent ? secondsMax : patience)
    let waited = socket.age
    if banner.code != 220 {
      board.update(kind) { $0.codes[banner.code, default: 0] += 1 }
      throw .closed
    }
    board.update(kind) {
      $0.banners += 1
      $0.bannerSecondsSum += waited
      $0.bannerSecondsMax = max($0.bannerSecondsMax, waited)
    }
  }

  /// Says a line and returns the code of the answer; 4xx and 5xx are counted.
  private func ask(
    _ command: String?, _ socket: inout ClientSocket, _ board: Scoreboard
  ) throws(ClientFailure) -> Int {
    if let command { try socket.send(command) }
    let code = try socket.reply(within: patience).code
    if code >= 400 { board.update(kind) { $0.codes[code, default: 0] += 1 } }
    return code
  }

  private func deliver(_ socket: inout ClientSocket, _ board: Scoreboard) throws(ClientFailure) {
    let commands = [
      "HELO pc\(source[3]).dsl.example.org\r\n", "MAIL FROM:<win@example.org>\r\n",
      "RCPT TO:<you@example.com>\r\n", "DATA\r\n",
      "Subject: you have won\r\n\r\nSend your bank account.\r\n.\r\n",
    ]
    for command in commands where try ask(command, &socket, board) >= 400 {
      throw ClientFailure.closed
    }
    board.update(kind) { $0.delivered += 1 }
  }
}
