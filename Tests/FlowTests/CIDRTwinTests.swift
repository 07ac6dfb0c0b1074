// SPDX-License-Identifier: Apache-2.0
import Flow
import Glibc
import Structures
import Testing

/// `scripts/test --fast` runs fewer seeds of what is random here; the whole run has all of them.
private let isFast = getenv("SLUICE_TESTS_FAST") != nil

/// Random rule lists with negations and nested ifs against a reader that tries every line from the top,
/// as the manual of `cidr_table(5)` tells it. The twin works on the rules, not on the text.
@Suite struct CIDRTwinTests {
  struct Pattern {
    var prefix: Prefix
    var negated: Bool
    func matches(_ address: Address) -> Bool {
      address.isIPv4 == prefix.address.isIPv4 && prefix.contains(address) != negated
    }
    var text: String { (negated ? "!" : "") + prefix.description }
  }

  enum Line {
    case rule(Pattern)
    case begin(Pattern)
    case end
  }

  /// Four free bits of the address at each end: small enough to try everything that can matter.
  static func address(_ bits: Int, isIPv4: Bool) -> Address {
    let high = UInt64(bits >> 4)
    let low = UInt64(bits & 15)
    return isIPv4
      ? Address(v4: UInt32(high << 28 | low)) : Address(high: high << 60, low: low | 0x100)
  }

  static func pattern(_ random: inout SeededGenerator) -> Pattern {
    let isIPv4 = Int.random(in: 0..<4, using: &random) > 0
    let address = address(Int.random(in: 0..<256, using: &random), isIPv4: isIPv4)
    let width = isIPv4 ? 32 : 128
    let end = Int.random(in: 0...4, using: &random)
    let length = Bool.random(using: &random) ? end : width - end
    guard let prefix = Prefix(address.network(length), length: length) else {
      fatalError("a network made by clearing host bits has none")
    }
    return Pattern(prefix: prefix, negated: Int.random(in: 0..<3, using: &random) == 0)
  }

  static func lines(_ random: inout SeededGenerator) -> [Line] {
    var lines: [Line] = []
    var depth = 0
    for _ in 0..<Int.random(in: 1...30, using: &random) {
      switch Int.random(in: 0..<10, using: &random) {
      case 0, 1:
        lines.append(.begin(pattern(&random)))
        depth += 1
      case 2 where depth > 0, 3 where depth > 0:
        lines.append(.end)
        depth -= 1
      default: lines.append(.rule(pattern(&random)))
      }
    }
    for _ in 0..<depth { lines.append(.end) }
    return lines
  }

  /// The line of the first match: an `if` that does not hold skips to its `endif`.
  static func firstMatch(_ lines: [Line], _ address: Address) -> Int? {
    var skipping = 0
    for (number, line) in lines.enumerated() {
      switch line {
      case .rule(let pattern):
        if skipping == 0 && pattern.matches(address) { return number + 1 }
      case .begin(let pattern):
        if skipping > 0 || !pattern.matches(address) { skipping += 1 }
      case .end:
        skipping = max(0, skipping - 1)
      }
    }
    return nil
  }

  @Test(
    "the table answers as trying every line from the top does",
    arguments: 0..<(isFast ? 300 : 1_500))
  func twin(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    let lines = Self.lines(&random)
    let text = lines.map { line in
      switch line {
      case .rule(let pattern): pattern.text + " x"
      case .begin(let pattern): "if " + pattern.text
      case .end: "endif"
      }
    }.joined(separator: "\n")
    let table = CIDRTable(content: Array(text.utf8), file: "twin")
    let problems = table.problems
    if problems.contains(where: { $0.severity == .error }) {
      Issue.record("seed \(seed): \(problems)\n\(text)")
      return
    }
    var winners: Set<Int> = []
    for isIPv4 in [true, false] {
      for bits in 0..<256 {
        let address = Self.address(bits, isIPv4: isIPv4)
        // An address in the middle of nowhere besides: all of the free bits' neighbours look like it.
        let other = Address(high: address.high, low: address.low ^ 0x00F0_0000)
        for probe in [address, other] {
          let expected = Self.firstMatch(lines, probe)
          let found = table.lookup(probe).map { table.rules[$0].position.line }
          if found != expected {
            Issue.record(
              "seed \(seed), \(probe): \(String(describing: found)) not \(String(describing: expected))\n\(text)"
            )
            return
          }
          if let expected { winners.insert(expected) }
        }
      }
    }
    // No line that won is called dead; the lines named as being in the way come earlier.
    for problem in problems {
      if winners.contains(problem.position.line) {
        Issue.record("seed \(seed): \(problem)\n\(text)")
      }
    }
    // In this small world a line with no winner is dead, unless it wins only between the probes.
    let dead = Set(problems.map(\.position.line))
    for (number, line) in lines.enumerated() {
      guard case .rule(let pattern) = line, !winners.contains(number + 1), !pattern.negated,
        pattern.prefix.length == pattern.prefix.address.width
      else { continue }
      #expect(
        dead.contains(number + 1), "seed \(seed): line \(number + 1) was not reported\n\(text)")
    }
  }
}
