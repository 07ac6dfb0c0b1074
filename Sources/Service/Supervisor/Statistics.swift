// SPDX-License-Identifier: Apache-2.0
package import Driver
import Shield
import Uring

/// The counters on one screen, each by the name that docs/logs.md explains.
package enum Statistics {
  /// What the engines of all workers counted.
  static func engine(_ snapshot: Snapshot) -> [(name: String, value: String)] {
    Counters.fields.map { ($0.name, "\(snapshot.engine[keyPath: $0.path])") }
  }

  /// What rings and drivers counted, and what is said of the process as a whole.
  static func ring(_ snapshot: Snapshot) -> [(name: String, value: String)] {
    let (ring, driver, lists) = (snapshot.ring, snapshot.driver, snapshot.driver.lookUps)
    let counts: [(name: String, value: UInt64)] = [
      ("enters", UInt64(ring.enters)), ("submissions", UInt64(ring.submissions)),
      ("completions", UInt64(ring.completions)), ("sq_full", UInt64(ring.sqFull)),
      ("cq_overflow", UInt64(ring.cqOverflow)), ("no_buffers", UInt64(ring.noBuffers)),
      ("retries", UInt64(ring.retries)), ("accept_errors", UInt64(driver.acceptErrors)),
      ("descriptors_exhausted", UInt64(driver.descriptorsExhausted)),
      ("vanished", UInt64(driver.vanishedBeforeAccept)), ("canceled", UInt64(driver.canceled)),
      ("stale", UInt64(driver.stale)), ("installs", UInt64(driver.installs)),
      ("out_of_memory", UInt64(driver.outOfMemory)), ("pauses", UInt64(driver.pauses)),
      ("dns_queries", lists.queries), ("dns_cached", lists.cached), ("dns_joined", lists.joined),
      ("dns_failed", lists.failed), ("dns_overloaded", lists.overloaded + lists.pollsFailed),
      ("dns_turned_away", lists.turnedAway),
      ("journal_dropped", snapshot.journalDropped), ("changes_lost", snapshot.changesLost),
    ]
    let downstream = snapshot.downstreamUp.map { $0 ? "1" : "0" } ?? "unknown"
    return counts.map { ($0.name, "\($0.value)") } + [("downstream_up", downstream)]
      + (snapshot.tlsCertificateDays.map { [("tls_certificate_days", "\($0)")] } ?? [])
  }

  package static func lines(_ snapshot: Snapshot) -> [String] {
    func text(_ word: String, _ figures: [(name: String, value: String)]) -> String {
      word + " " + figures.map { "\($0.name)=\($0.value)" }.joined(separator: " ")
    }
    return [text("STATS", engine(snapshot)), text("STATS ring", ring(snapshot))]
  }
}
