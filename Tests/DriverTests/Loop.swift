// SPDX-License-Identifier: Apache-2.0
//
// A driver with its engine and ring in the test's own thread, turned by the test: between two turns it looks what its
// sockets have heard. Nothing runs beside it, so what a test sees does not hang on how threads are scheduled.

import ConfigurationFixtures
import Flow
import Foundation
import Policy
import Shield
import Structures
import Suspicion
import TLS
import Testing
import Uring

@testable import Driver

/// A policy in force that delays nobody, unless it is changed.
func promptPolicy(access: String = "", _ change: (inout Policy) -> Void = { _ in }) -> Policy {
  var policy = Policy(
    access: AccessTable.load(content: Array(access.utf8), file: "access").table,
    rates: RateTable.load(content: [], file: "rates").table)
  policy.mode = .enforce
  policy.hostname = "mx.example.test"
  for stage in Stage.allCases {
    policy.delays[stage].clean = 0
    policy.delays[stage].suspicious = 0
  }
  policy.sharePerAddress = 1
  policy.sharePerNetwork = 1
  change(&policy)
  return policy
}

func fewLimits(_ change: (inout Limits) -> Void = { _ in }) -> Limits {
  var limits = Limits()
  limits.connections = 32
  limits.sessions = 16
  limits.downstreamConnections = 8
  limits.tlsSessions = 8
  limits.buckets = 256
  limits.sources = 256
  limits.journal = 256
  limits.receiveBuffers = 16
  change(&limits)
  return limits
}

final class Loop {
  var driver: Driver
  let port: UInt16
  private let listener: ListeningSocket
  /// The mail server behind, which says what it is told to.
  let server: TestSocket
  let serverPort: UInt16
  private var links: [TestSocket] = []
  /// What the server was told, on all connections.
  private(set) var told = ""
  private var parts: [String] = []

  init(
    _ policy: Policy = promptPolicy(), _ limits: Limits = fewLimits(),
    terms: DownstreamTerms = DownstreamTerms(), tls: TLSContexts = TLSContexts(),
    lists: ListBook? = nil, testsLists: Bool = true, origin: Int64 = MonotonicClock.now()
  ) throws {
    let home = Address(v4: 0x7F00_0001)
    let listener = try ListeningSocket(home, port: 0)
    let (server, serverPort) = try #require(TestSocket.listening())
    driver = try Driver(
      engine: Engine(
        policy: policy, limits: limits, seed: 1,
        servers: [Server(terms, at: [home], port: serverPort)]),
      listeners: [listener.descriptor], origin: origin, ringEntries: 256, tls: tls, lists: lists,
      testsLists: testsLists)
    port = listener.localPort
    self.listener = consume listener
    self.server = server
    self.serverPort = serverPort
  }

  /// A client of this driver.
  ///
  /// - Parameter source: its address, of 127.0.0.0/8.
  func client(from source: UInt32 = 0x7F00_0001) throws -> TestSocket {
    try #require(TestSocket.connect(to: port, from: source))
  }

  /// Turns until it is so, for at most five seconds.
  func turn(until isSo: (Loop) -> Bool) throws -> Bool {
    let end = MonotonicClock.now() + 5_000_000
    while MonotonicClock.now() < end {
      _ = try driver.turn(longest: 1_000)
      serve()
      if isSo(self) { return true }
    }
    return false
  }

  /// Says a line and turns until the answer has come whole.
  func ask(_ client: TestSocket, _ text: String) throws -> String {
    client.forget()
    client.say(text)
    _ = try turn { _ in client.look().hasSuffix("\r\n") || client.isEnded }
    return client.heard
  }

  /// The server's part: a greeting, and 250 to whatever is said, with 354 for DATA.
  private func serve() {
    while let link = server.accepted() {
      link.say("220 behind.example.test ESMTP\r\n")
      links.append(link)
      parts.append("")
    }
    for (number, link) in links.enumerated() {
      let before = link.heard.count
      let new = String(link.look().dropFirst(before))
      told += new
      parts[number] += new
      while let end = parts[number].range(of: "\r\n") {
        let line = String(parts[number][..<end.lowerBound])
        parts[number].removeSubrange(..<end.upperBound)
        if let reply = Loop.reply(to: line) { link.say(reply) }
      }
    }
  }

  private static func reply(to line: String) -> String? {
    switch line.prefix(4) {
    case "EHLO": "250-behind.example.test\r\n250 PIPELINING\r\n"
    case "DATA": "354 go ahead\r\n"
    case "QUIT": "221 bye\r\n"
    case "MAIL", "RCPT", "RSET", "NOOP", ".": "250 ok\r\n"
    default: nil
    }
  }
}
