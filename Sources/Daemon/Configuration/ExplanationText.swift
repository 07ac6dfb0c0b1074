// SPDX-License-Identifier: Apache-2.0
import Flow
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
      "tier", "\(standing.tier.name) at connect, without history; score \(rounded(standing.score))")
    add("mode", modeNote)
    add("verdict", verdict)
    for (index, limit) in limits.enumerated() { add(index == 0 ? "limits" : "", limit) }
    if standing.isRefused { return lines.joined(separator: "\n") }
    lines.append("")
    var head = "  delay at         \(standing.tier.name)"
    if let nextTier { head += "        \(nextTier.name) at most, if it misbehaves" }
    lines.append(head)
    for row in stages {
      let now = Form.write(duration: row.now)
      var line = "  " + row.stage.name.padded(to: 17)
      line += row.next.map { now.padded(to: 10) + Form.write(duration: $0) } ?? now
      lines.append(line)
    }
    return lines.joined(separator: "\n")
  }

  private var verdict: String {
    switch outcome {
    case .pass: "would pass without delay"
    case .slowed: "would be slowed, then let through"
    case .refused:
      standing.isRefused ? "would be refused at once" : "would be held, never let through"
    }
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
    return JSON.object([
      ("version", .number(1)),
      ("address", .string("\(address)")),
      ("access", rule(access)),
      ("rate", rule(rate)),
      ("bucket", bucket.map { .string($0) } ?? .null),
      ("class", .string("\(standing.peerClass)")),
      ("signals", .array(signalNames.map { .string($0) })),
      ("tier", .string(standing.tier.name)),
      ("score", .decimal(standing.score)),
      ("next_tier", nextTier.map { .string($0.name) } ?? .null),
      (
        "delays_ms",
        .array(
          stages.map { row in
            .object([
              ("stage", .string(row.stage.name)), ("now", .number(Int(row.now / 1_000))),
              ("next", row.next.map { .number(Int($0 / 1_000)) } ?? .null),
            ])
          })
      ),
      ("limits", .array(limits.map { .string($0) })),
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
