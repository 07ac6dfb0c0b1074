// SPDX-License-Identifier: Apache-2.0

/// A place in a table file, for people: lines and columns (in bytes) count from 1.
package struct SourcePosition: Hashable, Sendable, CustomStringConvertible {
  package var file: String
  package var line: Int
  package var column: Int

  package init(file: String, line: Int, column: Int) {
    self.file = file
    self.line = line
    self.column = column
  }

  package var description: String { "\(file):\(line):\(column)" }
}

/// Something wrong in a table file, told in such a way that it can be put right without the manual.
///
/// Not thrown: everything wrong in a file is reported at once. Kept: `line` is the physical line that
/// `position` points into.
package struct TableProblem: Hashable, Sendable, CustomStringConvertible {
  package enum Severity: String, Sendable {
    /// The line has no effect; the table must not be taken into use.
    case error
    /// The table does what it says, which may not be what was meant.
    case warning
  }

  package let severity: Severity
  package let position: SourcePosition
  /// The line itself, at most 160 bytes of it, control characters replaced.
  package let line: String
  package let reason: String
  /// What to write instead; may be empty.
  package let hint: String

  package init(
    _ severity: Severity, at position: SourcePosition, line: String, reason: String, hint: String
  ) {
    self.severity = severity
    self.position = position
    self.line = line
    self.reason = reason
    self.hint = hint
  }

  /// Three or four lines: place and reason, the line, a mark under the column, the hint.
  package var description: String {
    var text = "\(position): \(severity.rawValue): \(reason)\n  \(line)"
    if position.column <= line.utf8.count + 1 {
      text += "\n  " + String(repeating: " ", count: position.column - 1) + "^"
    }
    return hint.isEmpty ? text : text + "\n  \(hint)"
  }
}

/// Collects problems up to a limit, so that a million bad lines do not become a gigabyte of text.
package struct TableProblems: Sendable {
  /// Of each severity; more than anybody reads at once.
  package static let kept = 1_000

  private(set) var all: [TableProblem] = []
  private var counts: [TableProblem.Severity: Int] = [:]

  mutating func add(_ problem: @autoclosure () -> TableProblem, _ severity: TableProblem.Severity) {
    counts[severity, default: 0] += 1
    if counts[severity, default: 0] <= TableProblems.kept { all.append(problem()) }
  }

  func count(_ severity: TableProblem.Severity) -> Int { counts[severity] ?? 0 }

  /// In the order of the file; where some were left out, a last entry says how many.
  func sorted(file: String) -> [TableProblem] {
    var list = all.sorted {
      ($0.position.line, $0.position.column) < ($1.position.line, $1.position.column)
    }
    for severity in [TableProblem.Severity.error, .warning] {
      let more = count(severity) - TableProblems.kept
      if more > 0, let last = list.last {
        list.append(
          TableProblem(
            severity, at: SourcePosition(file: file, line: last.position.line, column: 1), line: "",
            reason: "\(more) more \(severity.rawValue)s are not shown",
            hint: "correct the first \(TableProblems.kept) and check again"))
      }
    }
    return list
  }
}
