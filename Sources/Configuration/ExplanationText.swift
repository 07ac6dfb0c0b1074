// SPDX-License-Identifier: Apache-2.0
import Flow
import Policy
import Structures
import Suspicion

/// An explanation for people and for programs.
///
/// Kept: the text may change with any release; the JSON only grows within a version.
extension Explanation: CustomStringConvertible {
  /// Lines of at most 80 columns, but for what the operator wrote.
  package var description: String {
    var lines = ["\(address)"]
    func add(_ name: String, _ value: String) {
      lines.append("  " + name + String(repeating: " ", count: max(9 - name.count, 1)) + value)
    }
    add("access", access.map { "\($0.position.file):\($0.position.line): \($0.text)" } ?? "no rule")
    add("rates", rate.map { "\($0.position.file):\($0.position.line): \($0.text)" } ?? "no rule")
    if let bucket { add("bucket", bucket) }
    add("class", "\(standing.peerClass)")
    add("signals", signalNames.isEmpty ? "none at connect" : signalNames.joined(separator: ", "))
    add(
      "tier", "\(standing.tier.name) at connect, without history; score \(rounded(score))")
    add("mode", modeNote)
    add("verdict", verdict)
    for (index, line) in history.enumerated() { add(index == 0 ? "history" : "", line) }
    if standing.isTrusted && rate != nil { add("limits", "none apply to a trusted client") }
    for (index, limit) in limits.enumerated() { add(index == 0 ? "limits" : "", limit) }
    for (index, line) in listWords.enumerated() { add(index == 0 ? "lists" : "", line) }
    if standing.isRefused { return lines.joined(separator: "\n") }
    lines.append("")
    // The next tier is T3 itself where the client begins as T2.
    let hasWorst = nextTier == .suspicious && stages.contains { $0.worst != nil }
    var head = "  delay at         \(standing.tier.name)"
    if let nextTier { head += "        " + (nextTier == .bad ? "T3" : "T2 at most") }
    if hasWorst { head += "  T3" }
    lines.append(head)
    for row in stages {
      var cells = [row.now]
      if let next = row.next { cells.append(next) }
      if hasWorst, let worst = row.worst { cells.append(worst) }
      let texts = cells.enumerated().map { place, delay in
        Form.write(duration: delay).padded(to: place == 0 ? 10 : 12)
      }
      var line = "  " + row.stage.name.padded(to: 17) + texts.joined()
      while line.last == " " { line.removeLast() }
      lines.append(line)
    }
    if nextTier != nil { lines.append("") }
    if nextTier == .suspicious {
      lines.append("  T2: shows suspicious signs; delayed longer, then let through")
    }
    if nextTier == .bad || hasWorst {
      let names = proofs.map(\.name)
      lines.append(
        "  T3: held, never let through; one of these is enough: \(names.joined(separator: ", "))")
    }
    return lines.joined(separator: "\n")
  }

  private var verdict: String {
    let isOpen = ifKnown != nil || ifBad != nil
    switch outcome {
    case .refused where standing.isRefused: return "would be rejected immediately"
    case .refused: return "would be held, never let through"
    case .pass where isOpen: return "a new client would pass without delay; see history"
    case .pass: return "would pass without delay"
    case .slowed where isOpen: return "a new client would be delayed, then let through; see history"
    case .slowed: return "would be delayed, then let through"
    }
  }

  /// What is not known here and would change the verdict.
  private var history: [String] {
    if standing.isRefused || ifKnown == nil && ifBad == nil { return [] }
    func line(_ what: String, _ remembered: Remembered?) -> String? {
      remembered.map {
        "\(what): \($0.tier.name), banner after \(Form.write(duration: $0.banner))"
      }
    }
    return ["unknown to this command; if the running daemon remembers that"]
      + [line("its mail was accepted", ifKnown), line("it was proven bad", ifBad)].compactMap {
        $0
      }
  }

  private var listWords: [String] {
    guard let lists else { return [] }
    if !lists.areAsked {
      return ["not asked about a \(standing.isTrusted ? "trusted" : "rejected") client"]
    }
    let allow = lists.allowThreshold.map { "; at \($0) or less it is allowed (T0)" } ?? ""
    let reject =
      lists.rejectAt == .never ? [] : ["a listed client is rejected at \(lists.rejectAt.rawValue)"]
    return ["asked at inbound listeners; the answers are not known offline"]
      + lists.items.map { "  \($0.text) (weight \($0.weight))" }
      + ["at a sum of \(lists.threshold) it is listed\(allow)"] + reject
  }

  private var listJSON: JSON {
    guard let lists else { return .null }
    return .object([
      ("asked", .bool(lists.areAsked)),
      (
        "items",
        .array(
          lists.items.map {
            .object([
              ("text", .string($0.text)), ("zone", .string($0.zone)),
              ("weight", .number($0.weight)),
            ])
          })
      ),
      ("threshold", .number(lists.threshold)),
      ("allow_threshold", lists.allowThreshold.map { .number($0) } ?? .null),
      ("reject_at", .string(lists.rejectAt.rawValue)),
    ])
  }

  private var signalNames: [String] { standing.signals.members.map(\.name) }

  private func rounded(_ score: Double) -> String {
    Form.write(number: (score * 100).rounded() / 100)
  }

  /// `{"version":1,…}` on one line; delays in milliseconds.
  package var json: String {
    func rule(_ rule: Rule?) -> JSON {
      guard let rule else { return .null }
      return .object([
        ("file", .string(rule.position.file)), ("line", .number(rule.position.line)),
        ("text", .string(rule.text)),
      ])
    }
    func remembered(_ memory: Remembered?) -> JSON {
      guard let memory else { return .null }
      return .object([
        ("tier", .string(memory.tier.name)), ("banner_ms", .number(Int(memory.banner / 1_000))),
      ])
    }
    return JSON.object([
      ("version", .number(1)),
      ("address", .string("\(address)")),
      ("access", rule(access)),
      ("rate", rule(rate)),
      ("bucket", bucket.map { .string($0) } ?? .null),
      ("class", .string("\(standing.peerClass)")),
      ("signals", .array(signalNames.map { .string($0) })),
      ("tier", .string(standing.tier.name)),
      ("score", .decimal(score)),
      ("next_tier", nextTier.map { .string($0.name) } ?? .null),
      ("proofs", .array(proofs.map { .string($0.name) })),
      ("if_known", remembered(ifKnown)), ("if_bad", remembered(ifBad)),
      (
        "delays_ms",
        .array(
          stages.map { row in
            .object([
              ("stage", .string(row.stage.name)), ("now", .number(Int(row.now / 1_000))),
              ("next", row.next.map { .number(Int($0 / 1_000)) } ?? .null),
              ("worst", row.worst.map { .number(Int($0 / 1_000)) } ?? .null),
            ])
          })
      ),
      ("limits", .array(limits.map { .string($0) })),
      ("lists", listJSON),
      ("mode", .string(mode.name)),
      ("outcome", .string(outcome.name)),
    ]).text
  }
}

extension String {
  /// With blanks behind it up to a width.
  fileprivate func padded(to width: Int) -> String {
    self + String(repeating: " ", count: max(width - count, 1))
  }
}

/// A JSON value to be written; keys keep their order, so that two outputs can be compared by eye.
package indirect enum JSON: Sendable {
  case null
  case bool(Bool)
  case number(Int)
  case decimal(Double)
  case string(String)
  case array([JSON])
  case object([(String, JSON)])

  /// RFC 8259 on one line.
  package var text: String {
    switch self {
    case .null: return "null"
    case .bool(let value): return value ? "true" : "false"
    case .number(let value): return "\(value)"
    case .decimal(let value): return value.isFinite ? "\(value)" : "null"
    case .string(let value): return JSON.quoted(value)
    case .array(let values): return "[" + values.map(\.text).joined(separator: ",") + "]"
    case .object(let members):
      return "{" + members.map { JSON.quoted($0) + ":" + $1.text }.joined(separator: ",") + "}"
    }
  }

  private static func quoted(_ value: String) -> String {
    var text = "\""
    for scalar in value.unicodeScalars {
      switch scalar {
      case "\"": text += "\\\""
      case "\\": text += "\\\\"
      case "\n": text += "\\n"
      case "\r": text += "\\r"
      case "\t": text += "\\t"
      default:
        if scalar.value < 32 || scalar.value == 127 {
          let hex = String(scalar.value, radix: 16)
          text += "\\u" + String(repeating: "0", count: 4 - hex.count) + hex
        } else {
          text.unicodeScalars.append(scalar)
        }
      }
    }
    return text + "\""
  }
}
