// SPDX-License-Identifier: Apache-2.0
package import Flow

/// Something wrong in what the operator wrote, told so that it can be put right without the manual.
///
/// Not thrown: everything wrong is reported at once. Kept: an error always comes with no configuration,
/// and the position is never empty, though line 0 stands for the whole file or a command-line option.
package struct Problem: Hashable, Sendable {
  package enum Severity: String, Sendable {
    /// There is no configuration as long as this is there.
    case error
    /// It works and may not be what was meant.
    case warning
  }

  /// What kind of mistake it is, for the exit code.
  package enum Kind: Sendable {
    /// The text is wrong: 78, EX_CONFIG.
    case content
    /// A file is not there: 66, EX_NOINPUT.
    case missing
    /// A file may not be read: 77, EX_NOPERM.
    case forbidden
  }

  package let severity: Severity
  package let kind: Kind
  /// Line and column count from 1; line 0 is the whole file, or the option that `file` names.
  package let position: SourcePosition
  /// The line itself without control characters; empty when the problem is not in a line.
  package let lineText: String
  package let reason: String
  /// What to write instead; may be empty.
  package let hint: String

  package init(
    _ severity: Severity, kind: Kind = .content, at position: SourcePosition, lineText: String = "",
    reason: String, hint: String = ""
  ) {
    self.severity = severity
    self.kind = kind
    self.position = position
    self.lineText = lineText
    self.reason = reason
    self.hint = hint
  }

  /// The same problem of a table file.
  package init(_ problem: TableProblem) {
    self.init(
      problem.severity == .error ? .error : .warning, at: problem.position, lineText: problem.line,
      reason: problem.reason, hint: problem.hint)
  }

  /// The code of sysexits(3) that a program ends with because of this; 0 for a warning.
  package var exitCode: Int32 {
    guard severity == .error else { return 0 }
    switch kind {
    case .content: return 78
    case .missing: return 66
    case .forbidden: return 77
    }
  }
}

extension Problem: CustomStringConvertible {
  /// The most of a line that is shown; a longer one is cut around the column.
  private static let shown = 100

  /// Place and reason, the line, a mark under the column, the hint.
  package var description: String { text(namingSeverity: true) }

  /// The same, also for where the severity is named already.
  package func text(namingSeverity: Bool) -> String {
    let place = position.line > 0 ? position.description : position.file
    var text = "\(place): \(namingSeverity ? severity.rawValue + ": " : "")\(reason)"
    if !lineText.isEmpty {
      var line = Array(lineText.unicodeScalars)
      var column = max(position.column, 1)
      if line.count > Problem.shown {
        let start = column > Problem.shown - 20 ? min(column - 40, line.count) : 0
        line = Array(line[start..<min(start + Problem.shown, line.count)])
        column -= start
      }
      text += "\n    " + String(String.UnicodeScalarView(line))
      if column <= line.count + 1 {
        text += "\n    " + String(repeating: " ", count: column - 1) + "^"
      }
    }
    return hint.isEmpty ? text : text + "\n  hint: \(hint)"
  }
}

extension [Problem] {
  package var hasErrors: Bool { contains { $0.severity == .error } }

  /// The exit code for all of them: of the first error, 0 if there is none.
  package var exitCode: Int32 { first { $0.severity == .error }?.exitCode ?? 0 }
}

/// Problems as they are found, with the text of the files they lie in.
package struct ProblemList {
  package private(set) var all: [Problem] = []
  private var sources: [String: SourceText] = [:]
  private var order: [String: Int] = [:]

  package init() {}

  /// More than anybody reads; a file that is no configuration at all should not print a book.
  package static let kept = 500

  package mutating func know(_ source: SourceText) {
    sources[source.file] = source
    order[source.file] = order.count
  }

  package mutating func add(_ problem: Problem) {
    if all.count < ProblemList.kept { all.append(problem) }
  }

  package mutating func add(
    _ severity: Problem.Severity, at position: SourcePosition, _ reason: String, _ hint: String = ""
  ) {
    add(
      Problem(
        severity, at: position, lineText: line(at: position), reason: reason, hint: hint))
  }

  package func line(at position: SourcePosition) -> String {
    sources[position.file]?.line(position.line) ?? ""
  }

  /// Where a word of a value begins; nil if it is not written there as it is.
  func find(_ word: String, from start: SourcePosition) -> SourcePosition? {
    sources[start.file]?.find(word, from: start)
  }

  /// By file as they were read, then by line; tables and options come last.
  package var sorted: [Problem] {
    all.enumerated().sorted { a, b in
      let (p, q) = (a.element.position, b.element.position)
      return (order[p.file] ?? .max, p.line, p.column, a.offset)
        < (order[q.file] ?? .max, q.line, q.column, b.offset)
    }.map(\.element)
  }
}
