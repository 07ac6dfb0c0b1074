// SPDX-License-Identifier: Apache-2.0
import Testing

/// Option sets are not enumerations, so nothing stops two flags from sharing a bit; this reads them in the sources.
@Suite("Option sets")
struct OptionSetTests {
  /// Sets whose flags share a word with something else, and how many bits they have there.
  static let narrow = ["ConnectionFlags": 12]

  /// The flags of each set that are given as a number: name, value.
  private static func flags(in text: String) throws -> [String: [(name: Substring, bits: UInt64)]] {
    let flag = #/static let (\w+)(?:: \w+)? = (\w+)\(rawValue: ([\d_]+)(?: << (\d+))?\)/#
    var found: [String: [(name: Substring, bits: UInt64)]] = [:]
    for match in text.matches(of: flag) {
      let number = UInt64(match.3.replacing("_", with: "")) ?? 0
      found[String(match.2), default: []].append((match.1, number << (UInt64(match.4 ?? "") ?? 0)))
    }
    return found
  }

  @Test("every flag has one bit, and none shares it", arguments: ImportRuleTests.pure)
  func bits(module: String) throws {
    for (file, text) in try ImportRuleTests.files(of: module) {
      for (set, flags) in try Self.flags(in: text) where text.contains("struct \(set): OptionSet") {
        var seen: UInt64 = 0
        for (name, bits) in flags {
          #expect(bits.nonzeroBitCount == 1, "\(file): \(set).\(name)")
          #expect(seen & bits == 0, "\(file): \(set).\(name) shares its bit with another")
          #expect(bits >> UInt64(Self.narrow[set] ?? 32) == 0, "\(file): \(set).\(name)")
          seen |= bits
        }
      }
    }
  }

  @Test("the sets are found")
  func found() throws {
    var sets: Set<String> = []
    for module in ImportRuleTests.pure {
      for (_, text) in try ImportRuleTests.files(of: module) {
        for (set, flags) in try Self.flags(in: text) where flags.count > 2 { sets.insert(set) }
      }
    }
    let wanted: Set = [
      "ConnectionFlags", "Keywords", "ParameterSet", "ClientAttributes",
    ]
    #expect(wanted.subtracting(sets).isEmpty)
  }
}
