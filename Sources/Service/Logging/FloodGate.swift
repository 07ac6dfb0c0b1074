// SPDX-License-Identifier: Apache-2.0
import Configuration
package import Structures

/// Keeps a flood of clients from becoming a flood of log lines: so many of a kind each second, the rest
/// counted and told in one line.
///
/// Not the log: it says what to write, and when. Kept: every line is either admitted or in exactly one
/// summary, so that admitted + summed up + still counted = asked.
package struct FloodGate: Sendable {
  /// How long lines are counted before the summary is due.
  package static let summaryAfter = Duration.seconds(10)
  /// Kinds of events are words of our own; more than this would be a mistake, and they share one entry.
  package static let kindsMax = 256

  private struct Kind {
    /// The start of the second that `written` counts in.
    var second: Instant
    var written = 0
    var held: UInt64 = 0
    /// When the first of `held` came.
    var heldSince = Instant.origin

    /// Whether one more line may be written in this second; if not, it is counted.
    mutating func admits(_ now: Instant, _ linesPerSecond: Int) -> Bool {
      if now - second >= .seconds(1) {
        second = now
        written = 0
      }
      if written < linesPerSecond {
        written += 1
        return true
      }
      if held == 0 { heldSince = now }
      held += 1
      return false
    }
  }

  private let linesPerSecond: Int
  private var kinds: [String: Kind] = [:]
  /// Lines that were not written, ever; for the metrics.
  package private(set) var heldTotal: UInt64 = 0

  /// - Parameter linesPerSecond: of each kind; 1 and more.
  package init(linesPerSecond: Int) { self.linesPerSecond = max(linesPerSecond, 1) }

  /// Whether a line of this kind may be written now; if not, it is counted.
  ///
  /// - Parameter kind: the event's word, such as `CONNECT`.
  package mutating func admits(_ kind: String, now: Instant) -> Bool {
    let name = kinds[kind] != nil || kinds.count < FloodGate.kindsMax ? kind : "other"
    let isAdmitted = kinds[name, default: Kind(second: now)].admits(now, linesPerSecond)
    if !isAdmitted { heldTotal += 1 }
    return isAdmitted
  }

  /// The summaries that are due: call it about once a second.
  package mutating func due(now: Instant) -> [String] {
    summaries(heldBefore: now + (.zero - FloodGate.summaryAfter), now)
  }

  /// All that is still counted: at the end, and before the log goes elsewhere.
  package mutating func flush(now: Instant) -> [String] {
    summaries(heldBefore: .distantFuture, now)
  }

  private mutating func summaries(heldBefore limit: Instant, _ now: Instant) -> [String] {
    var lines: [String] = []
    // By name, so that the same run gives the same log.
    for name in kinds.keys.sorted() {
      guard let kind = kinds[name], kind.held > 0, kind.heldSince <= limit else { continue }
      let seconds = max(((now - kind.heldSince).microseconds + 500_000) / 1_000_000, 1)
      lines.append(
        "... \(grouped(kind.held)) more \(name) line\(kind.held == 1 ? "" : "s") in \(grouped(seconds)) s"
      )
      kinds[name]?.held = 0
    }
    return lines
  }
}
