// SPDX-License-Identifier: Apache-2.0

/// What the driver counts besides the ring and the engine.
package struct DriverCounters: BitwiseCopyable, Sendable, Equatable {
  package var acceptErrors: UInt64 = 0
  package var descriptorsExhausted: UInt64 = 0
  package var vanishedBeforeAccept: UInt64 = 0
  package var canceled: UInt64 = 0
  package var stale: UInt64 = 0
  package var installs: UInt64 = 0
  /// Connections that ended because there was no memory for a TLS session or for what it had to send or keep.
  package var outOfMemory: UInt64 = 0
  /// Pauses of the whole process after which what had arrived was dealt with before what was due.
  package var pauses: UInt64 = 0
  package var lookUps = LookUpCounters()
  package init() {}

  package mutating func add(_ other: DriverCounters) {
    acceptErrors += other.acceptErrors
    descriptorsExhausted += other.descriptorsExhausted
    vanishedBeforeAccept += other.vanishedBeforeAccept
    canceled += other.canceled
    stale += other.stale
    installs += other.installs
    outOfMemory += other.outOfMemory
    pauses += other.pauses
    lookUps.add(other.lookUps)
  }
}

/// What the driver counts of DNS lists.
package struct LookUpCounters: BitwiseCopyable, Sendable, Equatable {
  /// Clients that were not looked up because too many were, or because there was no resolver.
  package var turnedAway: UInt64 = 0
  /// Answers that were known already.
  package var cached: UInt64 = 0
  /// Queries to DNS servers, those that test zones included.
  package var queries: UInt64 = 0
  /// Questions that another client's query answered as well.
  package var joined: UInt64 = 0
  /// Questions that were not asked because too many waited.
  package var overloaded: UInt64 = 0
  /// Questions about clients that had no usable answer: silence, SERVFAIL, an error code.
  package var failed: UInt64 = 0
  /// Polls of the resolver's sockets that the kernel refused.
  package var pollsFailed: UInt64 = 0
  package init() {}

  package mutating func add(_ other: LookUpCounters) {
    turnedAway += other.turnedAway
    cached += other.cached
    queries += other.queries
    joined += other.joined
    overloaded += other.overloaded
    failed += other.failed
    pollsFailed += other.pollsFailed
  }
}
