// SPDX-License-Identifier: Apache-2.0

package import Structures
package import Uring

/// What `sluice flood hold` was told, checked already.
package struct HoldSettings: Sendable {
  package var target: SocketAddress
  /// In turn, one after the other.
  package var sources: [Address]
  package var connections: Int
  package var rampSeconds: Double
  /// Connects a second; 0 for no limit.
  package var rate: Int
  package var burst: Int
  /// What is said after each whole reply, in order, CRLF included.
  package var lines: [[UInt8]]
  package var early: Bool
  /// nil: be woken for bytes.
  package var sweepSeconds: Double?
  package var threads: Int
  /// The nominal seconds between two bytes; nil for no sample.
  package var interval: Double?
  package var sample: Int

  package init(
    target: SocketAddress, sources: [Address], connections: Int, rampSeconds: Double, rate: Int,
    burst: Int, lines: [[UInt8]], early: Bool, sweepSeconds: Double?, threads: Int,
    interval: Double?, sample: Int
  ) {
    self.target = target
    self.sources = sources
    self.connections = connections
    self.rampSeconds = rampSeconds
    self.rate = rate
    self.burst = burst
    self.lines = lines
    self.early = early
    self.sweepSeconds = sweepSeconds
    self.threads = threads
    self.interval = interval
    self.sample = sample
  }

  /// Connections being opened are ordinary descriptors, and half the limit is left for rings and others.
  package static var burstMax: Int { max(1, DescriptorLimit.current / 2) }
}
