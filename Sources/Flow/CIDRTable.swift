// SPDX-License-Identifier: Apache-2.0
package import Structures

/// A table in the syntax of Postfix's `cidr_table(5)`: which rule of a file is the first to match an address.
///
/// Not an opinion on what the results mean: `AccessTable` and `RateTable` read those. Kept: `lookup` gives
/// the rule that trying all rules from the top would give, whatever the nesting, negations and `if`s.
///
/// Differences from Postfix, all reported: an octet with a leading zero is refused, text after `endif`
/// or after the network of an `if` is an error, and a # between white space starts a comment. Rules that
/// can never match are reported too, with the lines that come before them.
package final class CIDRTable: Sendable {
  let text: TableText
  let records: [CIDRReader.Record]
  private let table: PrefixTable
  let found: TableProblems

  /// Negations and `if`s multiply networks; at 32 bytes each this is 256 MB while loading.
  package static let networksMax = 8 * 1024 * 1024

  /// - Parameters:
  ///   - content: the bytes of the file, in any line-ending style; at most 1 GB.
  ///   - file: its name, for messages.
  ///   - networksMax: more networks than this, negations and `if`s taken apart, are an error.
  package init(content: [UInt8], file: String, networksMax: Int = CIDRTable.networksMax) {
    var reader = CIDRReader(content: content, file: file, networksMax: networksMax)
    let rules = reader.records.count
    // Which single rule holds every network of this one; `nobody`, or `several` when there are more.
    var coveredBy = [UInt32](repeating: nobody, count: rules)
    let table = PrefixTable(&reader.networks, preferring: .smallestValue) { rule, by in
      let known = coveredBy[Int(rule)]
      coveredBy[Int(rule)] = known == nobody || known == by ? by : several
    }
    var wins = [Bool](repeating: false, count: rules)
    table.forEachValue { wins[Int($0)] = true }
    if wins.contains(false) {
      reader.warnAboutDeadRules(wins, coveredBy, table)
    }
    self.table = table
    text = reader.text
    records = reader.records
    found = reader.problems
  }

  /// The rule that comes first among those matching an address, or nil when none does.
  package func lookup(_ address: Address) -> Int? { table.lookup(address).map { Int($0) } }

  /// The rules in the order of the file, dead ones included; a rule with an error is not there.
  package var rules: CIDRRules { CIDRRules(table: self) }

  /// Everything wrong in the file, in its order.
  package var problems: [TableProblem] { found.sorted(file: text.file) }

  /// Bytes this table takes: the text, 20 bytes a rule, and the ranges.
  package var footprint: Int {
    text.bytes.count + records.count * MemoryLayout<CIDRReader.Record>.stride + table.footprint
  }
}

private let nobody = UInt32.max
private let several = UInt32.max - 1

/// The rules of a table as a collection; a rule is a handle, and its strings are made when asked for.
package struct CIDRRules: RandomAccessCollection, Sendable {
  let table: CIDRTable

  package var startIndex: Int { 0 }
  package var endIndex: Int { table.records.count }
  package subscript(index: Int) -> CIDRRule {
    precondition(indices.contains(index), "rule index out of range")
    return CIDRRule(table: table, index: index)
  }
}

/// One rule of a table.
package struct CIDRRule: Sendable {
  let table: CIDRTable
  /// Its place among the rules, from 0.
  package let index: Int

  private var record: CIDRReader.Record { table.records[index] }

  /// As written, with `!` and brackets.
  package var pattern: String {
    table.text.string(Int(record.pattern)..<Int(record.pattern) + Int(record.patternCount))
  }

  /// Everything after the pattern, comments and line breaks removed.
  package var result: String { table.text.string(resultRange) }

  /// Where the rule starts in its file.
  package var position: SourcePosition { table.text.position(Int(record.pattern), line: line) }

  /// The network of the pattern, without the enclosing `if`s.
  package var network: CIDRPattern {
    let bytes = table.text.bytes
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
