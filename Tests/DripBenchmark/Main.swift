// SPDX-License-Identifier: Apache-2.0
//
// `drip-benchmark CONNECTIONS DRIPS`: the real driver, engine and ring on one thread, with so many tarpitted
// clients on loopback, until so many bytes were dripped. For counting instructions: two runs of different
// length have the same start, so their difference is what the drips cost. One thread, because valgrind lets
// only one run at a time and a daemon's worker sleeps in the kernel.

import Driver
import Flow
import Glibc
import Policy
import Shield
import Structures
import Suspicion
import Uring

@main
enum DripBenchmark {
  static func main() throws {
    let words = CommandLine.arguments.dropFirst().compactMap { Int($0) }
    guard words.count == 2, words[0] >= 1, words[0] <= 15_000, words[1] >= 1 else {
      print("usage: drip-benchmark CONNECTIONS DRIPS, with 1…15000 connections")
      exit(64)
    }
    let (connections, wanted) = (words[0], UInt64(words[1]))
    var limits = Limits()
    limits.connections = connections + 64
    limits.sessions = 8
    limits.downstreamConnections = 8
    var policy = Policy(
      access: AccessTable.load(content: Array("127.0.0.0/8 bad\n".utf8), file: "bad").table,
      rates: RateTable.load(content: [], file: "none").table)
    policy.mode = .enforce
    // A byte each 100 ms: a banner of 250 in 25 s.
    policy.hostname = String(repeating: "a-long-name.", count: 19) + "example.org"
    policy.delays[.banner].bad = 25_000_000
    policy.badSessionsPerSource = 60_000
    (policy.sharePerAddress, policy.sharePerNetwork) = (1, 1)
    (policy.shrinkAt, policy.shedAt, policy.reservedForKnown) = (1, 1, 0)
    let home = Address(v4: 0x7F00_0001)
    let listener = try ListeningSocket(home, port: 0)
    var driver = try Driver(
      engine: Engine(
        policy: policy, limits: limits, seed: 1, servers: [Server(at: [home], port: 1)]),
      listeners: [listener.descriptor], origin: MonotonicClock.now(), ringEntries: 4_096)
    var clients: [Int32] = []
    let target = SocketAddress(home, port: listener.localPort)
    while clients.count < connections {
      let client = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
      guard client >= 0, PlainSocket.connect(client, to: target) == 0 else {
        print("drip-benchmark: connection \(clients.count): \(String(cString: strerror(errno)))")
        exit(1)
      }
      clients.append(client)
      if clients.count % 64 == 0 { _ = try driver.turn(longest: 1_000) }
    }
    while driver.engine.core.counters.drips < wanted { _ = try driver.turn(longest: 100_000) }
    guard driver.engine.heldCount == connections else {
      print("drip-benchmark: \(driver.engine.heldCount) of \(connections) are held")
      exit(1)
    }
    print("drips=\(driver.engine.core.counters.drips) enters=\(driver.ringCounters.enters)")
  }
}
