// SPDX-License-Identifier: Apache-2.0

/// The bytes of a table file, and the way back from an offset to line and column.
///
/// Not a copy per rule: rules hold offsets into this. Lines that continue over several physical lines
/// are joined behind the content of the file, so that every rule is one run of bytes. Kept: `joins` rises
/// in `offset`, and each joined byte belongs to exactly one of its pieces.
struct TableText: Sendable {
  /// A piece of a joined line, and where in the file it came from.
  struct Join: Sendable {
    var offset: UInt32
    var source: UInt32
    var line: UInt32
  }

  let file: String
  /// The content of the file, then the joined lines.
  private(set) var bytes: [UInt8]
  private let fileCount: Int
  private var joins: [Join] = []

  init(file: String, content: [UInt8] = []) {
    self.file = file
    bytes = content
    fileCount = content.count
  }

  mutating func append(joined: [UInt8], _ joins: [Join]) {
    bytes += joined
    self.joins += joins
  }

  /// - Parameters:
  ///   - offset: of a byte in `bytes`.
  ///   - line: the number of the line in which it is; for a joined byte this is found here.
  func position(_ offset: Int, line: Int) -> SourcePosition {
    let (source, line) = origin(offset, line: line)
    return SourcePosition(file: file, line: line, column: source - lineStart(source) + 1)
  }

  /// The physical line around a byte, fit to be shown: at most 160 bytes, no control characters.
  func lineText(_ offset: Int) -> String {
    let start = lineStart(origin(offset, line: 0).source)
    var shown: [UInt8] = []
    var cursor = start
    while cursor < fileCount, bytes[cursor] != 10, shown.count < 160 {
      let byte = bytes[cursor]
      // A tab becomes one space so that the mark below the line stands under its column.
      shown.append(byte == 9 ? 32 : byte < 32 || byte == 127 ? UInt8(ascii: "?") : byte)
      cursor += 1
    }
    if shown.last == UInt8(ascii: "?"), cursor > start, bytes[cursor - 1] == 13 {
      shown.removeLast()
    }
    return String(decoding: shown, as: UTF8.self)
  }

  func problem(
    _ severity: TableProblem.Severity, _ offset: Int, line: Int, _ reason: String, _ hint: String
  ) -> TableProblem {
    TableProblem(
      severity, at: position(offset, line: line), line: lineText(offset), reason: reason, hint: hint
    )
  }

  func string(_ range: Range<Int>) -> String { String(decoding: bytes[range], as: UTF8.self) }

  private func origin(_ offset: Int, line: Int) -> (source: Int, line: Int) {
    if offset < fileCount || joins.isEmpty { return (min(offset, fileCount), line) }
    var low = 0
    var high = joins.count - 1
    while low < high {
      let middle = (low + high + 1) / 2
      if Int(joins[middle].offset) <= offset { low = middle } else { high = middle - 1 }
    }
    let join = joins[low]
    return (Int(join.source) + offset - Int(join.offset), Int(join.line))
  }

  private func lineStart(_ offset: Int) -> Int {
    var start = min(offset, fileCount)
    while start > 0 && bytes[start - 1] != 10 { start -= 1 }
    return start
  }
}
