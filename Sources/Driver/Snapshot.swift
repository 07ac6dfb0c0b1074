// SPDX-License-Identifier: Apache-2.0
package import Shield
package import Uring

/// What a worker tells about itself, as of about a second ago.
package struct Snapshot: Sendable {
  package var engine = Counters()
  package var ring = RingCounters()
  package var driver = DriverCounters()
  package var journalDropped: UInt64 = 0
  package var downstreamUp: Bool?
  package var connections = 0
  package var links = 0
  /// What was learnt of sources and had no room on its way to the other workers.
  package var changesLost: UInt64 = 0
  /// Until the first of the certificates ends; nil without any. Of the process, so not a worker's to tell.
  package var tlsCertificateDays: Int64?
  package init() {}
}

extension Snapshot {
  /// The figures of several workers together. What is of the process alone stays as it is.
  package mutating func add(_ other: Snapshot) {
    engine.add(other.engine)
    ring.sqFull += other.ring.sqFull
    ring.cqOverflow += other.ring.cqOverflow
    ring.noBuffers += other.ring.noBuffers
    ring.enters += other.ring.enters
    ring.retries += other.ring.retries
    ring.submissions += other.ring.submissions
    ring.completions += other.ring.completions
    driver.add(other.driver)
    journalDropped += other.journalDropped
    connections += other.connections
    links += other.links
    changesLost += other.changesLost
    // Up where one of them reaches it; down where one does not and none does.
    downstreamUp =
      switch (downstreamUp, other.downstreamUp) {
      case (true?, _), (_, true?): true
      case (false?, _), (_, false?): false
      case (nil, nil): nil
      }
  }
}
