// SPDX-License-Identifier: Apache-2.0
import DNSLists
package import Flow
import Glibc

/// The text of a configuration file by lines, as YAML counts them.
///
/// Not a parser: it finds what no parser should be handed (control characters, bytes that are not UTF-8,
/// nesting as deep as a stack). Kept: `line(n)` is the line that a mark of Yams with line n points into.
package struct SourceText: Sendable {
  package let file: String
  package let content: String
  private let lines: [String]
  private let isUTF8: Bool

  /// More than a thousand times what a configuration needs.
  package static let bytesMax = 16 << 20
  /// Yams reads nested values by calling itself, and a thread of the Swift runtime has 512 KB of stack.
  private static let nestingMax = 64
  private static let indentMax = 100
  private static let lineMax = 1_000

  package init(file: String, bytes: [UInt8]) {
    self.file = file
    let valid = String(validating: bytes, as: UTF8.self)
    isUTF8 = valid != nil
    let text = valid ?? String(decoding: bytes, as: UTF8.self)
    // A byte-order mark is no part of the text; Yams would count it as a column.
    content =
      text.unicodeScalars.first == "\u{FEFF}" ? String(text.unicodeScalars.dropFirst()) : text
    lines = SourceText.split(content)
  }

  /// The line with this number from 1, fit to be shown and without keys of DNS lists; empty if there is none.
  package func line(_ number: Int) -> String {
    guard lines.indices.contains(number - 1) else { return "" }
    var shown = String.UnicodeScalarView()
    // A tab becomes one space so that the mark below the line stands under its column.
    for scalar in lines[number - 1].unicodeScalars {
      shown.append(scalar == "\t" ? " " : SourceText.isAllowed(scalar) ? scalar : "?")
    }
    return ListZone.hidingKeys(in: String(shown))
  }

  package var lineCount: Int { lines.count }

  /// Whether there is nothing but blanks, comments and marks of documents in it.
  package var isBlank: Bool {
    lines.allSatisfy { line in
      let first = line.unicodeScalars.first { $0 != " " && $0 != "\t" }
      return first == nil || first == "#" || line == "---" || line == "..."
    }
  }

  /// The scalars of a line from a column on, both counted from 1.
  package func tail(line: Int, column: Int) -> Substring.UnicodeScalarView {
    guard lines.indices.contains(line - 1), column > 0 else { return Substring().unicodeScalars }
    return lines[line - 1].unicodeScalars.dropFirst(column - 1)
  }

  /// Where a word begins, as a whole word between blanks, commas, quotes or brackets, from a place on; nil if it is not
  /// within the next hundred lines.
  package func find(_ word: String, from start: SourcePosition) -> SourcePosition? {
    let word = Array(word.unicodeScalars)
    guard !word.isEmpty, start.line > 0 else { return nil }
    for line in start.line..<min(start.line + 100, lines.count + 1) {
      let column = line == start.line ? start.column : 1
      let text = Array(tail(line: line, column: column))
      guard text.count >= word.count else { continue }
      for i in 0...(text.count - word.count)
      where text[i] == word[0] && (i == 0 || SourceText.isBetweenWords(text[i - 1])) {
        let end = i + word.count
        if text[i..<end].elementsEqual(word)
          && (end == text.count || SourceText.isBetweenWords(text[end]))
        {
          return SourcePosition(file: file, line: line, column: column + i)
        }
      }
    }
    return nil
  }

  private static func isBetweenWords(_ scalar: Unicode.Scalar) -> Bool {
    " \t,\"'[]".unicodeScalars.contains(scalar)
  }

  /// The same text with some scalars of one line replaced by as many others.
  package func replacing(line: Int, column: Int, with scalars: [Unicode.Scalar]) -> SourceText {
    var view = content.unicodeScalars
    var start = view.startIndex
    for _ in 1..<max(line, 1) {
      while start < view.endIndex, !SourceText.isBreak(view[start]) {
        view.formIndex(after: &start)
      }
      guard start < view.endIndex else { return self }
      let wasReturn = view[start] == "\r"
      view.formIndex(after: &start)
      if wasReturn, start < view.endIndex, view[start] == "\n" { view.formIndex(after: &start) }
    }
    guard let from = view.index(start, offsetBy: column - 1, limitedBy: view.endIndex),
      let to = view.index(from, offsetBy: scalars.count, limitedBy: view.endIndex)
    else { return self }
    view.replaceSubrange(from..<to, with: scalars)
    return SourceText(file: file, bytes: Array(String(view).utf8))
  }

  private static func isBreak(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.value {
    case 0x0A, 0x0D, 0x85, 0x2028, 0x2029: true
    default: false
    }
  }

  private static func split(_ text: String) -> [String] {
    var lines: [String] = []
    var line = String.UnicodeScalarView()
    var afterReturn = false
    for scalar in text.unicodeScalars {
      defer { afterReturn = scalar == "\r" }
      if scalar == "\n" && afterReturn { continue }
      if isBreak(scalar) {
        lines.append(String(line))
        line = String.UnicodeScalarView()
      } else {
        line.append(scalar)
      }
    }
    if !line.isEmpty { lines.append(String(line)) }
    return lines
  }

  /// What YAML 1.1 calls printable.
  private static func isAllowed(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.value {
    case 0x09, 0x20...0x7E, 0x85, 0xA0...0xD7FF, 0xE000...0xFEFE, 0xFF00...0xFFFD,
      0x10000...0x10FFFF:
      true
    default: false
    }
  }

  // What no parser should see

  /// Reports what makes the text unfit for parsing, one problem a line.
  ///
  /// - Returns: whether it may be parsed.
  package func checkFitness(_ problems: inout ProblemList) -> Bool {
    var isFit = true
    var depth = 0
    func report(_ line: Int, _ column: Int, _ reason: String, _ hint: String) {
      isFit = false
      problems.add(
        .error, at: SourcePosition(file: file, line: line, column: column), reason, hint)
    }
    for (index, line) in lines.enumerated() {
      let scalars = line.unicodeScalars
      if let bad = scalars.firstIndex(where: { !SourceText.isAllowed($0) }) {
        let column = scalars.distance(from: scalars.startIndex, to: bad) + 1
        let code = String(scalars[bad].value, radix: 16, uppercase: true)
        report(
          index + 1, column, "a control character (U+\(code)) is not allowed here", "delete it")
      } else if !isUTF8, let bad = scalars.firstIndex(of: "\u{FFFD}") {
        let column = scalars.distance(from: scalars.startIndex, to: bad) + 1
        report(index + 1, column, "these bytes are not UTF-8", "save the file as UTF-8")
      }
      if scalars.count > SourceText.lineMax {
        report(
          index + 1, SourceText.lineMax, "the line is longer than \(SourceText.lineMax) characters",
          "write one value a line")
      }
      let indent = scalars.prefix { $0 == " " || $0 == "-" || $0 == "?" }
      if indent.count > SourceText.indentMax {
        report(
          index + 1, SourceText.indentMax, "the line is indented too far",
          "use two spaces for each level; there are three levels")
      }
      for scalar in scalars {
        if scalar == "[" || scalar == "{" { depth += 1 }
        if scalar == "]" || scalar == "}" { depth = max(depth - 1, 0) }
      }
      if depth > SourceText.nestingMax {
        report(
          index + 1, 1, "more than \(SourceText.nestingMax) brackets are open here",
          "close them; a configuration needs two")
        return false
      }
    }
    return isFit
  }
}

/// Why a file could not be read, with the system's own words and the likely cause.
package struct FileFailure: Error {
  package let path: String
  package let operation: String
  package let errno: Int32
  /// Where the system's own words would not say it.
  package var words: (reason: String, hint: String)?

  package var reason: String {
    "cannot \(operation) \(path): \(words?.reason ?? String(cString: strerror(errno)))"
  }

  package var hint: String {
    if let words { return words.hint }
    return switch errno {
    case ENOENT: "check the path; a relative path starts at the folder of the configuration file"
    case EACCES, EPERM: "give Sluice's user permission to read the file and to enter its folders"
    case EISDIR: "name a file, not a folder"
    case EFBIG: "split the file"
    default: ""
    }
  }

  package var kind: Problem.Kind { errno == EACCES || errno == EPERM ? .forbidden : .missing }

  /// The problem to report for the setting that names the file.
  package func problem(at position: SourcePosition, lineText: String) -> Problem {
    Problem(.error, kind: kind, at: position, lineText: lineText, reason: reason, hint: hint)
  }
}

/// Reads a whole file, which may be a pipe without a name (`-c <(generate)`). One with a name would wait for a writer
/// that need not come.
///
/// - Parameter bytesMax: more than that is EFBIG.
package func readFile(_ path: String, bytesMax: Int) throws(FileFailure) -> [UInt8] {
  // O_NONBLOCK: opening a named pipe waits for its other side.
  let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)
  guard descriptor >= 0 else {
    throw FileFailure(path: path, operation: "open", errno: errno)
  }
  defer { close(descriptor) }
  var facts = stat()
  if fstat(descriptor, &facts) == 0 && facts.st_mode & S_IFMT == S_IFIFO && hasName(descriptor) {
    throw FileFailure(
      path: path, operation: "read", errno: EINVAL,
      words: ("it is a named pipe", "use a regular file: it is read again at each reload"))
  }
  var bytes: [UInt8] = []
  var chunk = [UInt8](repeating: 0, count: 65_536)
  while true {
    let count = chunk.withUnsafeMutableBytes { read(descriptor, $0.baseAddress, $0.count) }
    if count == 0 { return bytes }
    if count < 0 {
      if errno == EINTR { continue }
      if errno == EAGAIN {
        var item = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        if poll(&item, 1, pipePatience) > 0 { continue }
        throw FileFailure(
          path: path, operation: "read", errno: ETIMEDOUT,
          words: ("no data for 10 seconds", "use a regular file"))
      }
      throw FileFailure(path: path, operation: "read", errno: errno)
    }
    bytes += chunk[..<count]
    if bytes.count > bytesMax {
      throw FileFailure(path: path, operation: "read", errno: EFBIG)
    }
  }
}

/// Whether a pipe has a path: proc(5) shows others as `pipe:[inode]`.
private func hasName(_ descriptor: Int32) -> Bool {
  var target = [CChar](repeating: 0, count: 5)
  let count = readlink("/proc/self/fd/\(descriptor)", &target, target.count)
  return count > 0 && !target.elementsEqual("pipe:".utf8.map { CChar($0) })
}

/// How long a pipe may say nothing, in milliseconds.
private let pipePatience: Int32 = 10_000

/// The names in a folder that end in `suffix`, hidden ones left out, in byte order; none if there is no
/// such folder.
package func names(in folder: String, endingIn suffix: String) throws(FileFailure) -> [String] {
  guard let directory = opendir(folder) else {
    if errno == ENOENT || errno == ENOTDIR { return [] }
    throw FileFailure(path: folder, operation: "list", errno: errno)
  }
  defer { closedir(directory) }
  var found: [String] = []
  while let entry = readdir(directory) {
    let name = withUnsafeBytes(of: &entry.pointee.d_name) { raw in
      String(decoding: raw.prefix { $0 != 0 }, as: UTF8.self)
    }
    if name.hasSuffix(suffix) && !name.hasPrefix(".") { found.append(name) }
  }
  return found.sorted { Array($0.utf8).lexicographicallyPrecedes(Array($1.utf8)) }
}
