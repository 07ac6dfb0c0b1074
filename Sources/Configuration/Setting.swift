// SPDX-License-Identifier: Apache-2.0
import Structures

/// One key of the configuration: where it lies, what it may be, how it is read and how it is shown.
///
/// Not the value: that is in `Configuration`. Kept: what `show` gives for a configuration, `read` takes
/// and sets to the same value; so `dump` is a file that loads.
package struct Setting: Sendable {
  typealias Field<Value> = any WritableKeyPath<Configuration, Value> & Sendable

  /// With dots: `timeouts.command`.
  package let key: String
  /// What may be written, for the manual: `0s…25s`, `yes or no`.
  package let range: String
  let read: @Sendable (ConfigNode, inout ConfigurationReader) throws(BadValue) -> Void
  /// The value of a configuration as it would be written in a file.
  package let show: @Sendable (Configuration) -> String
}

extension Setting {
  /// Text of a value that is one word; a section or a list in its place is a mistake.
  static func text(_ node: ConfigNode, _ form: String) throws(BadValue) -> String {
    if case .scalar(let text) = node.content { return text }
    throw BadValue(reason: "found \(node.kind) instead of \(form)", hint: "write \(form)")
  }

  private static func require<Value: Comparable>(
    _ value: Value, in range: ClosedRange<Value>, _ write: (Value) -> String
  ) throws(BadValue) {
    guard !range.contains(value) else { return }
    let bound = value < range.lowerBound ? range.lowerBound : range.upperBound
    let word = value < range.lowerBound ? "below the minimum" : "above the maximum"
    throw BadValue(
      reason: "\(write(value)) is \(word), \(write(bound))",
      hint: "write a value from \(write(range.lowerBound)) to \(write(range.upperBound))")
  }

  /// A range for the manual, with what 0 stands for if that is apart from it.
  private static func span(_ least: String, _ most: String, zero: String?) -> String {
    "\(least)…\(most)" + (zero.map { ", or 0: \($0)" } ?? "")
  }

  static func duration(_ key: String, _ field: Field<Int64>, _ range: ClosedRange<Int64>) -> Setting
  {
    let write: @Sendable (Int64) -> String = { Form.write(duration: $0) }
    return Setting(
      key: key, range: span(write(range.lowerBound), write(range.upperBound), zero: nil),
      read: { (node, reader) throws(BadValue) in
        let value = try Form.duration(try text(node, "a duration such as 6s"))
        try require(value, in: range, write)
        reader.draft[keyPath: field] = value
      },
      show: { write($0[keyPath: field]) })
  }

  /// A delay, whose bounds come from what senders tolerate.
  static func delay(
    _ key: String, _ field: Field<Int64>, most: Int64, _ why: String
  ) -> Setting {
    let write: @Sendable (Int64) -> String = { Form.write(duration: $0) }
    return Setting(
      key: key, range: span("0s", write(most), zero: nil),
      read: { (node, reader) throws(BadValue) in
        let value = try Form.duration(try text(node, "a duration such as 6s"))
        if value > most {
          throw BadValue(
            reason: "a delay of \(write(value)) is above the ceiling of \(write(most)): \(why)",
            hint: "write \(write(most)) at most")
        }
        reader.draft[keyPath: field] = value
      },
      show: { write($0[keyPath: field]) })
  }

  static func count(
    _ key: String, _ field: Field<Int>, _ range: ClosedRange<Int>, zero: String? = nil
  ) -> Setting {
    Setting(
      key: key, range: span("\(range.lowerBound)", "\(range.upperBound)", zero: zero),
      read: { (node, reader) throws(BadValue) in
        let value = try Form.count(try text(node, "a whole number"))
        if zero == nil || value != 0 { try require(value, in: range) { "\($0)" } }
        reader.draft[keyPath: field] = value
      },
      show: { "\($0[keyPath: field])" })
  }

  static func size(
    _ key: String, _ field: Field<Int>, _ range: ClosedRange<Int>, zero: String? = nil
  ) -> Setting {
    let write: @Sendable (Int) -> String = { Form.write(size: $0) }
    return Setting(
      key: key, range: span(write(range.lowerBound), write(range.upperBound), zero: zero),
      read: { (node, reader) throws(BadValue) in
        let value = try Form.size(try text(node, "a size such as 64k"))
        if zero == nil || value != 0 { try require(value, in: range, write) }
        reader.draft[keyPath: field] = value
      },
      show: { write($0[keyPath: field]) })
  }

  static func number(_ key: String, _ field: Field<Double>, _ range: ClosedRange<Double>) -> Setting
  {
    let write: @Sendable (Double) -> String = { Form.write(number: $0) }
    return Setting(
      key: key, range: span(write(range.lowerBound), write(range.upperBound), zero: nil),
      read: { (node, reader) throws(BadValue) in
        let value = try Form.number(try text(node, "a number such as 0.4"))
        try require(value, in: range, write)
        reader.draft[keyPath: field] = value
      },
      show: { write($0[keyPath: field]) })
  }

  static func percentage(
    _ key: String, _ field: Field<Double>, _ range: ClosedRange<Double>
  ) -> Setting {
    let write: @Sendable (Double) -> String = { Form.write(percentage: $0) }
    return Setting(
      key: key, range: span(write(range.lowerBound), write(range.upperBound), zero: nil),
      read: { (node, reader) throws(BadValue) in
        let value = try Form.percentage(try text(node, "a percentage such as 70%"))
        try require(value, in: range, write)
        reader.draft[keyPath: field] = value
      },
      show: { write($0[keyPath: field]) })
  }

  static func toggle(_ key: String, _ field: Field<Bool>) -> Setting {
    Setting(
      key: key, range: "yes or no",
      read: { (node, reader) throws(BadValue) in
        reader.draft[keyPath: field] = try Form.toggle(try text(node, "yes or no"))
      },
      show: { $0[keyPath: field] ? "yes" : "no" })
  }

  /// One of several words, each standing for a value.
  static func choice<Value: Equatable & Sendable>(
    _ key: String, _ field: Field<Value>, _ words: [(String, Value)]
  ) -> Setting {
    let names = words.map(\.0)
    return Setting(
      key: key, range: names.joined(separator: ", "),
      read: { (node, reader) throws(BadValue) in
        let word = try text(node, names.joined(separator: " or "))
        reader.draft[keyPath: field] = words[try Form.choice(word, names)].1
      },
      show: { configuration in
        words.first { $0.1 == configuration[keyPath: field] }?.0 ?? ""
      })
  }
}
