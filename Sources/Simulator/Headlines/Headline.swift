// SPDX-License-Identifier: Apache-2.0
import Personas

/// What a headline came to.
package struct Headline: Sendable {
  package enum Outcome: Sendable {
    case inBand, missed
    /// Nothing that a simulation can show: a measurement on real sockets, told here and not counted as passed.
    case measuredElsewhere
  }

  package var id: String
  /// What was published or promised.
  package var claim: String
  /// What counts as the same.
  package var band: String
  package var figure: String
  package var outcome: Outcome
  /// What was chosen for the set-up, and what explains a difference.
  package var note = ""

  package init(
    id: String, claim: String, band: String, figure: String, passed: Bool, note: String = ""
  ) {
    self.id = id
    self.claim = claim
    self.band = band
    self.figure = figure
    outcome = passed ? .inBand : .missed
    self.note = note
  }

  static func percent(_ share: Double) -> String { "\((share * 1_000).rounded() / 10) %" }

  /// As it is printed, over several lines.
  package var text: String {
    let word =
      switch outcome {
      case .inBand: "in the band"
      case .missed: "NOT IN THE BAND"
      case .measuredElsewhere: "measured elsewhere"
      }
    var lines = ["\(id)  \(word)", "    \(claim)", "    band: \(band)", "    seen: \(figure)"]
    if !note.isEmpty { lines.append("    note: \(note)") }
    return lines.joined(separator: "\n")
  }

  /// The last line of many: what is measured elsewhere is not among those that passed.
  package static func summary(_ all: [Headline], seed: UInt64) -> String {
    let simulated = all.count { $0.outcome != .measuredElsewhere }
    let passed = all.count { $0.outcome == .inBand }
    let elsewhere = all.count - simulated
    return "\(passed) of \(simulated) in their bands"
      + (elsewhere > 0 ? ", \(elsewhere) measured elsewhere" : "") + ", seed \(seed)"
  }
}

/// What a run of the benchmarks on real sockets found of H7.
package struct MeasuredVolume: Sendable {
  /// Connections held at once in one process.
  package var held: Double
  /// Connections accepted a second while they were opened.
  package var opened: Double
  /// When and on what: "2026-11-21, 2 × AMD EPYC".
  package var place: String
  /// The command that measures it again.
  package var command: String

  package init(held: Double, opened: Double, place: String, command: String) {
    self.held = held
    self.opened = opened
    self.place = place
    self.command = command
  }
}
