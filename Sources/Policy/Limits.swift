// SPDX-License-Identifier: Apache-2.0
import Structures

/// Every limit on what the process may hold, in one place. The sum of what they can take is printed at
/// start; being at a limit is a normal, tested state.
///
/// Figures are for the whole process; a worker gets its share.
package struct Limits: Sendable, Equatable {
  /// Connections from clients, held and talking. 64 bytes each, and about 4 KB in the kernel.
  package var connections = 10_000
  /// Clients that talk (from their first command on) at once. Each has an input buffer, an outbox and
  /// a record; a client beyond them hears 421 4.3.2.
  package var sessions = 2_000
  /// Connections to downstreams at once; one per session that has mail. Beyond them: 451 4.3.2.
  package var downstreamConnections = 1_000
  /// Clients that speak TLS at once. Each has some 16 KB with OpenSSL besides; one beyond them hears
  /// 454 4.7.0 to STARTTLS.
  package var tlsSessions = 2_000
  /// Of those, how many may be in their handshake at once: it holds three times the memory of one that is done.
  package var handshakes: Int { max(tlsSessions / 4, min(tlsSessions, 4)) }
  /// Connections from load balancers whose PROXY header has not come yet, 287 bytes each; one balancer may
  /// have a quarter of them. Beyond: 421 4.3.2. Taken only where a listener stands behind a balancer.
  package var proxyHeaders = 1_024
  /// Bytes of a session's input buffer, through which message bytes also pass. 4 KiB…1 MiB.
  package var inputBytes = 32_768
  /// Token buckets, 15 bytes each.
  package var buckets = 262_144
  /// Remembered sources, 15.75 bytes each.
  package var sources = 262_144
  /// Events waiting for the log; more are dropped and counted.
  package var journal = 2_048
  /// Provided receive buffers of a worker, 512 bytes each. A power of two.
  package var receiveBuffers = 1_024

  package init() {}

  /// The most connections, of clients and of downstreams together, that one worker can have: its timers and
  /// the kernel's table of a ring's descriptors end there.
  package static var slotsOfWorkerMax: Int { TimingWheel.capacityMax }

  /// Entries of the submission queue of each worker's ring. Many workers together take no more than a few
  /// have: a million held connections are 53 rings where a process may have 20,000 descriptors.
  package static func ringEntries(workers: Int) -> Int {
    var entries = 4_096
    while entries > 256 && entries * workers > 16_384 { entries /= 2 }
    return entries
  }

  /// The share of one of `workers` workers. Rounded up, and never less than a working minimum.
  package func share(of workers: Int) -> Limits {
    var mine = self
    func part(_ value: Int, atLeast floor: Int) -> Int {
      max((value + workers - 1) / workers, floor)
    }
    mine.connections = part(connections, atLeast: 8)
    mine.sessions = part(sessions, atLeast: 4)
    mine.downstreamConnections = part(downstreamConnections, atLeast: 4)
    mine.tlsSessions = part(tlsSessions, atLeast: 4)
    mine.proxyHeaders = part(proxyHeaders, atLeast: 16)
    mine.buckets = part(buckets, atLeast: 64)
    mine.sources = part(sources, atLeast: 64)
    mine.journal = part(journal, atLeast: 32)
    return mine
  }
}
