// SPDX-License-Identifier: Apache-2.0
import Configuration
import Flow
import Personas
import Structures

/// What a quantity counts, and so how it is written.
enum Measure: Sendable {
  /// Seconds: `21s`, `5m`, `30d`; `forever` is 1,000,000,000 s.
  case time
  /// A number of things.
  case number
  /// Octets: `4k`, `10M`.
  case octets

  static let forever = 1_000_000_000.0
  /// Tries from which on they are without end.
  static let endless = 65_535.0

  var name: String {
    switch self {
    case .time: "a duration"
    case .number: "a number"
    case .octets: "a size"
    }
  }

  /// - Returns: seconds, things or octets.
  func read(_ node: ConfigNode) throws(BadNode) -> Double {
    let example = self == .time ? "21s" : self == .octets ? "4k" : "3"
    let text = try word(node, "\(name) such as \(example)")
    do throws(BadValue) {
      switch self {
      case .time:
        if text == "forever" { return Measure.forever }
        return Double(try Form.duration(text)) / 1_000_000
      case .number:
        if text == "forever" { return Measure.endless }
        return try Form.number(text)
      case .octets: return Double(try Form.size(text))
      }
    } catch {
      throw BadNode(node, error)
    }
  }

  func write(_ value: Double) -> String {
    switch self {
    case .time:
      if value >= Measure.forever { return "forever" }
      return value == 0 ? "0s" : Form.write(duration: Int64((value * 1_000_000).rounded()))
    case .number:
      if value == Measure.endless { return "forever" }
      return value == value.rounded() ? "\(Int(value))" : "\(value)"
    case .octets: return Form.write(size: Int(value))
    }
  }
}

/// The text of a value that is one word.
func word(_ node: ConfigNode, _ form: String) throws(BadNode) -> String {
  if case .scalar(let text) = node.content { return text }
  throw BadNode(node, "found \(node.kind) instead of \(form)", "write \(form)")
}

/// A share, `88%`.
func share(_ node: ConfigNode) throws(BadNode) -> Double {
  let text = try word(node, "a share such as 88%")
  if text.hasPrefix("-") {
    throw BadNode(
      node, "'\(ConfigNode.cut(text))' is below nothing", "write a share from 0% to 100%")
  }
  do throws(BadValue) {
    let value = try Form.percentage(text)
    if value > 1 {
      throw BadValue(
        reason: "'\(ConfigNode.cut(text))' is more than 100%",
        hint: "write a share from 0% to 100%")
    }
    return value
  } catch {
    throw BadNode(node, error)
  }
}

private let distributionNames = ["const", "uniform", "normal", "lognormal", "mix"]

extension Distribution {
  /// The forms that `read` takes, for the manual.
  static func range(_ measure: Measure) -> String { "\(measure.name), or a distribution of them" }

  /// Whether a node has the form of a distribution, rather than keys for stages.
  static func isOne(_ node: ConfigNode) -> Bool {
    guard case .map(let members) = node.content else { return true }
    return members.contains { distributionNames.contains($0.name) }
  }

  /// One value, `{uniform: [2s, 6s]}`, or `{mix: [{share: 91%, lognormal: [4s, 0.4]}, …]}`.
  static func read(_ node: ConfigNode, _ measure: Measure) throws(BadNode) -> Distribution {
    switch node.content {
    case .scalar: return .const(try measure.read(node))
    case .map(let members):
      guard members.count == 1, let member = members.first else {
        throw BadNode(
          node, "a distribution is one of \(distributionNames.joined(separator: ", "))",
          "write one key, such as {normal: [21s, 0.3s]}")
      }
      return try read(member, measure)
    case .null, .list:
      throw BadNode(
        node, "found \(node.kind) instead of \(range(measure))",
        "write one value, or {uniform: [least, most]}")
    }
  }

  private static func read(
    _ member: ConfigNode.Member, _ measure: Measure
  ) throws(BadNode) -> Distribution {
    let node = member.value
    switch member.name {
    case "const": return .const(try measure.read(node))
    case "uniform":
      let (low, high) = try pair(node, "{uniform: [least, most]}")
      let (least, most) = (try measure.read(low), try measure.read(high))
      if least > most {
        throw BadNode(high, "the maximum is below the minimum", "swap the two")
      }
      return .uniform(least, most)
    case "normal":
      let (mean, deviation) = try pair(node, "{normal: [mean, standard deviation]}")
      return .normal(try measure.read(mean), try measure.read(deviation))
    case "lognormal":
      let (median, sigma) = try pair(node, "{lognormal: [median, sigma]}")
      let width = try Measure.number.read(sigma)
      if width > 5 {
        throw BadNode(
          sigma, "a sigma of \(width) reaches over more than any client",
          "write a number from 0 to 5; it is the standard deviation of the logarithm")
      }
      return .lognormal(try measure.read(median), width)
    case "mix":
      guard case .list(let items) = node.content, !items.isEmpty else {
        throw BadNode(
          node, "a mix is a list of shares, not \(node.kind)",
          "write - {share: 91%, lognormal: [4s, 0.4]} for each part")
      }
      var parts: [(share: Double, of: Distribution)] = []
      for item in items { parts.append(try part(item, measure)) }
      if parts.reduce(0, { $0 + $1.share }) <= 0 {
        throw BadNode(node, "all shares are 0%", "give one of them a share")
      }
      return .mix(parts)
    default:
      throw BadNode(
        node, "unknown key '\(ConfigNode.cut(member.name))' in a distribution",
        nearest(to: member.name, among: distributionNames).map { "did you mean '\($0)'?" }
          ?? "the keys are \(distributionNames.joined(separator: ", "))")
    }
  }

  private static func part(
    _ node: ConfigNode, _ measure: Measure
  ) throws(BadNode) -> (share: Double, of: Distribution) {
    guard case .map(let members) = node.content, members.count == 2,
      let size = members.first(where: { $0.name == "share" }),
      let form = members.first(where: { $0.name != "share" })
    else {
      throw BadNode(
        node, "a part of a mix is its share and a distribution",
        "write {share: 91%, lognormal: [4s, 0.4]}")
    }
    return (try share(size.value), try read(form, measure))
  }

  private static func pair(
    _ node: ConfigNode, _ form: String
  ) throws(BadNode) -> (ConfigNode, ConfigNode) {
    guard case .list(let items) = node.content, items.count == 2 else {
      throw BadNode(node, "found \(node.kind) instead of two values", "write \(form)")
    }
    return (items[0], items[1])
  }

  func written(_ measure: Measure) -> String {
    switch self {
    case .const(let value): return measure.write(value)
    case .uniform, .normal, .lognormal, .mix: return "{\(inner(measure))}"
    }
  }

  private func inner(_ measure: Measure) -> String {
    switch self {
    case .const(let value): return "const: \(measure.write(value))"
    case .uniform(let low, let high):
      return "uniform: [\(measure.write(low)), \(measure.write(high))]"
    case .normal(let mean, let deviation):
      return "normal: [\(measure.write(mean)), \(measure.write(deviation))]"
    case .lognormal(let median, let sigma):
      return "lognormal: [\(measure.write(median)), \(Measure.number.write(sigma))]"
    case .mix(let parts):
      let list = parts.map {
        "{share: \(Form.write(percentage: $0.share)), \($0.of.inner(measure))}"
      }
      return "mix: [\(list.joined(separator: ", "))]"
    }
  }
}

extension SheetKey {
  typealias Field<Value> = any WritableKeyPath<Target, Value> & Sendable

  static func share(_ key: String, _ field: Field<Double>) -> SheetKey {
    SheetKey(key, "0%…100%") { (node, target) throws(BadNode) in
      target[keyPath: field] = try Lab.share(node)
    } show: {
      Form.write(percentage: $0[keyPath: field])
    }
  }

  static func varying(_ key: String, _ field: Field<Distribution>, _ measure: Measure) -> SheetKey {
    SheetKey(key, Distribution.range(measure)) { (node, target) throws(BadNode) in
      target[keyPath: field] = try Distribution.read(node, measure)
    } show: {
      $0[keyPath: field].written(measure)
    }
  }

  /// One duration, in seconds.
  static func time(
    _ key: String, _ field: Field<Double>, _ range: ClosedRange<Double>
  ) -> SheetKey {
    quantity(key, field, .time, range)
  }

  static func number(
    _ key: String, _ field: Field<Double>, _ range: ClosedRange<Double>
  ) -> SheetKey {
    quantity(key, field, .number, range)
  }

  private static func quantity(
    _ key: String, _ field: Field<Double>, _ measure: Measure, _ range: ClosedRange<Double>
  ) -> SheetKey {
    let span = "\(measure.write(range.lowerBound))…\(measure.write(range.upperBound))"
    return SheetKey(key, span) {
      (node, target) throws(BadNode) in
      let value = try measure.read(node)
      try require(value, in: range, measure, node)
      target[keyPath: field] = value
    } show: {
      $0[keyPath: field] == .infinity ? "forever" : measure.write($0[keyPath: field])
    }
  }

  static func count(_ key: String, _ field: Field<Int>, _ range: ClosedRange<Int>) -> SheetKey {
    SheetKey(key, "\(range.lowerBound)…\(range.upperBound)") { (node, target) throws(BadNode) in
      let text = try word(node, "a whole number")
      let value: Int
      do throws(BadValue) {
        value = try Form.count(text)
      } catch {
        throw BadNode(node, error)
      }
      try require(
        Double(value), in: Double(range.lowerBound)...Double(range.upperBound), .number, node)
      target[keyPath: field] = value
    } show: {
      "\($0[keyPath: field])"
    }
  }

  private static func require(
    _ value: Double, in range: ClosedRange<Double>, _ measure: Measure, _ node: ConfigNode
  ) throws(BadNode) {
    guard !range.contains(value) else { return }
    let bound = value < range.lowerBound ? range.lowerBound : range.upperBound
    let words = value < range.lowerBound ? "below the minimum" : "above the maximum"
    throw BadNode(
      node, "\(measure.write(value)) is \(words), \(measure.write(bound))",
      "write a value from \(measure.write(range.lowerBound)) to \(measure.write(range.upperBound))")
  }

  static func choice<Value: Equatable & Sendable>(
    _ key: String, _ field: Field<Value>, _ words: [(String, Value)], isClaim: Bool = true
  ) -> SheetKey {
    let names = words.map(\.0)
    return SheetKey(key, names.joined(separator: ", "), isClaim: isClaim) {
      (node, target) throws(BadNode) in
      let text = try word(node, names.joined(separator: " or "))
      do throws(BadValue) {
        target[keyPath: field] = words[try Form.choice(text, names)].1
      } catch {
        throw BadNode(node, error)
      }
    } show: { target in
      words.first { $0.1 == target[keyPath: field] }?.0 ?? ""
    }
  }

  static func toggle(_ key: String, _ field: Field<Bool>) -> SheetKey {
    choice(key, field, [("yes", true), ("no", false)])
  }

  static func text(
    _ key: String, _ field: Field<String>, _ range: String, isClaim: Bool = true
  ) -> SheetKey {
    SheetKey(key, range, isClaim: isClaim) { (node, target) throws(BadNode) in
      target[keyPath: field] = try word(node, range)
    } show: {
      $0[keyPath: field].isEmpty ? "none" : $0[keyPath: field]
    }
  }
}
