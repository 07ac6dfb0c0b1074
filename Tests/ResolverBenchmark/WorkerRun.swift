// SPDX-License-Identifier: Apache-2.0
//
// What a look-up costs in a worker: the real driver, engine and ring, with clients of loopback addresses that come and go,
// half of them listed, with lists and without. Of two such runs the difference is the look-up, from the client's arrival
// to what the engine makes of the answer; all else, the clients' own part included, is in both.

import DNSLists
import Driver
import Flow
import Glibc
import Policy
import Shield
import Structures
import Suspicion
import Uring

extension Run {
  private static var home: Address { Address(v4: 0x7F00_0001) }

  /// Distinct ones, half of them in 127.128.0.0/9.
  private static func source(_ i: Int) -> SocketAddress {
    let bits = UInt32(truncatingIfNeeded: i &* 0x9E_3779) & 0xFF_FFFF
    return SocketAddress(Address(v4: 0x7F00_0000 | max(bits, 16)), port: 0)
  }

  private func policy(_ lists: ListTerms?) -> Policy {
    var policy = Policy(
      access: AccessTable.load(content: [], file: "none").table,
      rates: RateTable.load(content: [], file: "none").table)
    policy.mode = .enforce
    policy.lists = lists
    // Nobody hears a banner, so that all do the same.
    policy.delays[.banner].clean = 60_000_000
    policy.delays[.banner].suspicious = 60_000_000
    (policy.sharePerAddress, policy.sharePerNetwork) = (1, 1)
    (policy.shrinkAt, policy.shedAt, policy.reservedForKnown) = (1, 1, 0)
    return policy
  }

  func worker(looksUp: Bool) throws {
    let lookups = number("lookups")
    let window = number("window")
    let origin = MonotonicClock.now()
    var terms: ListTerms?
    var book: ListBook?
    if looksUp {
      let made = ListTerms(try ListSites([try ListSite("bl.example")]))
      var settings = LookUpSettings()
      settings.servers = [NameServer(Run.home, port: port)]
      book = try ListBook(
        made.sites, settings, workers: 1, hash: SipHash(k0: 1, k1: 2), now: .origin)
      terms = made
    }
    var limits = Limits()
    limits.connections = window + 64
    limits.sessions = 8
    limits.downstreamConnections = 8
    let listener = try ListeningSocket(Run.home, port: 0)
    var driver = try Driver(
      engine: Engine(
        policy: policy(terms), limits: limits, seed: 1, servers: [Server(at: [Run.home], port: 1)]),
      listeners: [listener.descriptor], origin: origin, ringEntries: 1_024, lists: book)
    if let book { while !book.counts(0) { _ = try driver.turn(longest: 1_000) } }
    let target = SocketAddress(Run.home, port: listener.localPort)
    let start = Use()
    var come = 0
    while come < lookups {
      var clients: [Int32] = []
      while clients.count < window && come < lookups {
        let client = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        let own = Run.source(come)
        guard client >= 0, PlainSocket.bind(client, to: own) == 0,
          PlainSocket.connect(client, to: target) == 0
        else { ResolverBenchmark.fail("connection \(come): \(String(cString: strerror(errno)))") }
        clients.append(client)
        come += 1
      }
      while driver.engine.core.counters.accepted < UInt64(come)
        || looksUp && driver.engine.core.counters.lookUpsAnswered < UInt64(come)
      {
        _ = try driver.turn(longest: 1_000)
      }
      for client in clients { PlainSocket.close(client) }
      while driver.engine.heldCount > 0 { _ = try driver.turn(longest: 1_000) }
      while driver.engine.core.journal.next() != nil {}
    }
    let counters = driver.engine.core.counters
    Use().report(
      looksUp ? "worker" : "no-lists", lookups, Int(counters.lookUpsAnswered),
      listed: Int(counters.listed), since: start)
  }
}
