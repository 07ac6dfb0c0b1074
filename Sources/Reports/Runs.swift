// SPDX-License-Identifier: Apache-2.0

import Personas

/// The runs of a page, their names and colours, and which persona is in which of them. What all sections share.
struct Runs {
  let reports: [RunReport]
  /// "A", "B"; empty if there is only one.
  let keys: [String]
  /// Personas of each report, each once.
  let found: [[PersonaFindings]]
  /// All personas, in the order of their first appearance.
  let personas: [(id: String, label: String, kind: String)]
  /// The same in a comparison and alone.
  let duration: Double

  init(_ reports: [RunReport]) {
    self.reports = reports
    keys =
      reports.count < 2
      ? [""]
      : reports.indices.map { k in
        k < 26 ? String(UnicodeScalar(UInt8(65 + k))) : String(k + 1)
      }
    found = reports.map(\.merged)
    var seen: Set<String> = []
    var all: [(id: String, label: String, kind: String)] = []
    for personas in found {
      for persona in personas where seen.insert(persona.id).inserted {
        all.append((persona.id, persona.label, persona.kind))
      }
    }
    personas = all
    duration = reports.map { max($0.duration, $0.samples.last?.at ?? 0) }.max() ?? 0
  }

  var isComparison: Bool { reports.count > 1 }

  /// A persona in a run.
  func of(_ id: String, _ k: Int) -> PersonaFindings? { found[k].first { $0.id == id } }

  /// A run's colour in a comparison, `alone` otherwise.
  func color(_ k: Int, alone: String) -> String { isComparison ? "s\(k % 6)" : alone }

  /// "A held" in a comparison, "held" alone.
  func named(_ k: Int, _ name: String) -> String { isComparison ? "\(keys[k]) \(name)" : name }

  /// "A: on average" in a comparison.
  func said(_ k: Int, _ text: String) -> String { isComparison ? "\(keys[k]): \(text)" : text }

  /// What tells a run apart from the others.
  func difference(_ k: Int) -> String {
    let report = reports[k]
    return "\(report.scenario), \(report.configuration)"
      + (report.lists.isEmpty ? "" : ", with lists") + ", \(report.kind)"
  }

  /// A run's letter in its colour.
  func key(_ k: Int) -> String {
    "<span class=\"key\" style=\"background:var(--s\(k % 6))\">\(keys[k])</span> "
  }

  /// "A is blue, B is red"
  var hues: String {
    let names = ["blue", "red", "green", "violet", "ochre", "pink"]
    return keys.indices.map { "\(keys[$0]) is \(names[$0 % 6])" }.joined(separator: ", ")
  }

  static func color(ofKind kind: String) -> String {
    kind == "sender" || kind == "probe" ? kind : "bot"
  }
}
