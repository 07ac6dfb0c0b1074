// SPDX-License-Identifier: Apache-2.0
package import Structures

/// What a table keeps of its file beside the networks.
package enum TableDetail: Sendable {
  /// The line of each rule, for the log: what a running Sluice needs.
  case lines
  /// The text as well, to show rules to people: some 45 bytes a rule more.
  case text
}

/// A table in the syntax of Postfix's `cidr_table(5)`: which rule of a file is the first to match an address.
///
/// Not an opinion on what the results mean: `AccessTable` and `RateTable` read those, and give each rule an
/// outcome, a small number by which they know it again. Kept: `find` gives the outcome of the rule
/// that trying all rules from the top would give, whatever the nesting, negations and `if`s.
///
/// Differences from Postfix, all reported: an octet with a leading zero is refused, text after `endif`
/// or after the network of an `if` is an error, and a # between white space starts a comment. Rules that
/// can never match are reported too, with the lines that come before them.
package final class CIDRTable: Sendable {
  let file: String
  private let table: PrefixTable
  private let lines: RisingNumbers
  /// The rules as written, in the order of the file, dead ones included; a rule with an error is not
  /// there. Empty when only lines were to be kept.
  package let rules: CIDRRules
  let found: TableProblems

  /// Negations and `if`s multiply networks; at 32 bytes each this is 256 MB while loading.
  package static let networksMax = 8 * 1024 * 1024

  /// - Parameters:
  ///   - content: the bytes of the file, in any line-ending style; at most 1 GB.
  ///   - file: its name, for messages.
  ///   - networksMax: more networks than this, negations and `if`s taken apart, are an error.
  package convenience init(
    content: [UInt8], file: String, networksMax: Int = CIDRTable.networksMax
  ) {
    self.init(content: content, file: file, networksMax: networksMax, keeping: .text) { _, _ in 0 }
  }

  /// - Parameter outcome: of a rule, below 2^32 - 1; the fewer different ones, the smaller the table.
  init(
    content: [UInt8], file: String, networksMax: Int = CIDRTable.networksMax,
    keeping detail: TableDetail, outcome: (CIDRRule, inout TableProblems) -> UInt32
  ) {
    var reader = CIDRReader(content: content, file: file, networksMax: networksMax)
    let rules = CIDRRules(text: reader.text, records: reader.records)
    let outcomes = rules.map { outcome($0, &reader.problems) }
    // Which single rule holds every network of this one; `nobody`, or `several` when there are more.
    var coveredBy = [UInt32](repeating: nobody, count: rules.count)
    let table = PrefixTable(&reader.networks, preferring: .smallestValue, outcomes: outcomes) {
      rule, by in
      let known = coveredBy[Int(rule)]
      coveredBy[Int(rule)] = known == nobody || known == by ? by : several
    }
    var wins = [Bool](repeating: false, count: rules.count)
    table.forEachValue { wins[Int($0)] = true }
    if wins.contains(false) {
      reader.warnAboutDeadRules(wins, coveredBy, table)
    }
    self.file = file
    self.table = table
    lines = RisingNumbers(count: rules.count) { rules.records[$0].line }
    self.rules = detail == .text ? rules : CIDRRules(text: TableText(file: file), records: [])
    found = reader.problems
  }

  /// The outcome of the rule that comes first among those matching an address, or nil when none does;
  /// and a number by which `rule(at:)` and `position(at:)` know the rule.
  @inline(__always)
  func find(_ address: Address) -> PrefixTable.Match? { table.find(address) }

  /// The rule that comes first among those matching an address, or nil when none does.
  package func lookup(_ address: Address) -> Int? { table.lookup(address).map { Int($0) } }

  /// The number, from 0, of the rule at a place that this table has given.
  func rule(at place: UInt32) -> Int? { table.value(at: place).map { Int($0) } }

  /// Where the rule stands that is at a place of this table; nil for a number that is no place.
  func position(at place: UInt32) -> SourcePosition? {
    guard let rule = rule(at: place) else { return nil }
    if rule < rules.count { return rules[rule].position }
    // A rule begins in the first column, or else it would continue the one above it.
    return SourcePosition(file: file, line: Int(lines[rule]), column: 1)
  }

  /// How many rules the file has, dead ones included.
  package var count: Int { lines.count }

  /// Everything wrong in the file, in its order.
  package var problems: [TableProblem] { found.sorted(file: file) }

  /// Bytes of what is read to decide.
  package var footprintOfDecisions: Int { table.footprintOfOutcomes }
  /// Bytes of what leads from a decision to its line.
  package var footprintOfLines: Int { table.footprintOfValues + lines.footprint }
  /// Bytes this table takes.
  package var footprint: Int { footprintOfDecisions + footprintOfLines + rules.footprint }
}

private let nobody = UInt32.max
private let several = UInt32.max - 1

/// The rules of a table as written; a rule is a handle, and its strings are made when asked for.
package struct CIDRRules: RandomAccessCollection, Sendable {
  let text: TableText
  let records: [CIDRReader.Record]

  package var startIndex: Int { 0 }
  package var endIndex: Int { records.count }
  package subscript(index: Int) -> CIDRRule {
    precondition(indices.contains(index), "rule index out of range")
    return CIDRRule(text: text, record: records[index])
  }

  /// Bytes they take: the text, and 20 for each rule.
  var footprint: Int {
    text.bytes.count + records.count * MemoryLayout<CIDRReader.Record>.stride
  }
}

/// One rule of a table.
package struct CIDRRule: Sendable {
  let text: TableText
  let record: CIDRReader.Record

  /// As written, with `!` and brackets.
  package var pattern: String {
    text.string(Int(record.pattern)..<Int(record.pattern) + Int(record.patternCount))
  }

  /// Everything after the pattern, comments and line breaks removed.
  package var result: String { text.string(resultRange) }

  /// Where the rule starts in its file.
  package var position: SourcePosition { text.position(Int(record.pattern), line: line) }

  /// The network of the pattern, without the enclosing `if`s.
  package var network: CIDRPattern {
    let bytes = text.bytes
    var cursor = Int(record.pattern)
    do throws(CIDRLineError) {
      return try CIDRPattern(bytes.span, &cursor, cursor + Int(record.patternCount))
    } catch {
      invariantFailed(
        "a pattern that was read once cannot be read again", file: #fileID, line: #line)
    }
  }

  var line: Int { Int(record.line) }
  var resultRange: Range<Int> {
    Int(record.result)..<Int(record.result) + Int(record.resultCount)
  }
}

extension CIDRReader {
  /// Warns about each rule that wins nowhere, naming the lines that win in its place.
  fileprivate mutating func warnAboutDeadRules(
    _ wins: [Bool], _ coveredBy: [UInt32], _ table: PrefixTable
  ) {
    let dead = wins.indices.filter { !wins[$0] && !explained.contains(UInt32($0)) }
    // The others are only counted.
    let shown = Set(dead.prefix(TableProblems.kept).map { UInt32($0) })
    var pieces: [UInt32: [AddressBlock]] = [:]
    networks.forEachNetwork { block, rule in
      if !wins[Int(rule)] && shown.contains(rule) { pieces[rule, default: []].append(block) }
    }
    for rule in dead {
      let index = UInt32(rule)
      let record = records[rule]
      var lines: [UInt32] = []
      if shown.contains(index) {
        // No networks at all: the file has too many, and an error says so.
        guard let blocks = pieces[index] else { continue }
        if blocks.count == 1 && narrowedBy[index] == nil && coveredBy[rule] < several {
          lines = [records[Int(coveredBy[rule])].line]
        } else {
          let winners = Set(blocks.flatMap { table.values(in: $0, limit: 5) })
          let taken = winners.map { records[Int($0)].line }
          lines = Set(taken + (narrowedBy[index] ?? [])).sorted()
        }
      }
      problems.add(
        text.problem(
          .warning, Int(record.pattern), line: Int(record.line),
          CIDRReader.neverMatches(Int(record.line), lines), CIDRReader.hint(lines)), .warning)
    }
  }
}
