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
  }
}
