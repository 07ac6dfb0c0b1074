// SPDX-License-Identifier: Apache-2.0
import Structures

/// Reads a `cidr_table(5)` file: logical lines, nested `if` blocks, negations, everything wrong at once.
///
/// Not the table: it hands its rules and networks to `CIDRTable`, which decides which rule wins where. Kept: a
/// rule's networks are exactly the addresses its pattern and its enclosing `if`s have in common, less
/// perhaps such as a negated rule before it in the same block has taken already.
struct CIDRReader {
  /// Deeper nesting is a mistake, and each level may cut the space into 128 more pieces.
  static let nestingMax = 64
  /// Offsets are 32 bits; a file of 20 million rules is smaller.
  static let bytesMax = 1 << 30

  /// 20 bytes a rule: offsets into the text instead of strings.
  struct Record: BitwiseCopyable {
    var pattern: UInt32
    var result: UInt32
    var resultCount: UInt32
    var line: UInt32
    var patternCount: UInt16
  }

  /// An `if` that is open, or the whole file.
  private struct Block {
    /// Where its `if` stands; nil for the file.
    var opened: (offset: Int, line: Int)?
    /// The addresses that get here.
    var space: [AddressBlock]
    /// Those that no negated rule of this block or an outer one has matched yet. After `!p` only p is
    /// left, which keeps a file full of negations from growing 32 networks a line.
    var rest: [AddressBlock]
    /// The lines of those negated rules.
    var narrowedBy: [UInt32]
    /// Nested too deep: an error has said so, and nothing inside needs a word.
    var isIgnored = false
  }

  private(set) var text: TableText
  private(set) var records: [Record] = []
  var networks = PrefixTableBuilder()
  /// For rules that are dead for certain: the lines of negated rules without which they might not be.
  private(set) var narrowedBy: [UInt32: [UInt32]] = [:]
  var problems = TableProblems()
  /// Rules about whose death enough has been said while reading.
  private(set) var explained: Set<UInt32> = []
  private var blocks: [Block]
  private var tooManyReported = false
  private let networksMax: Int

  init(content: [UInt8], file: String, networksMax: Int) {
    self.networksMax = networksMax
    text = TableText(file: file, content: content)
    let everything = [AddressBlock.allIPv4, .allIPv6]
    blocks = [Block(opened: nil, space: everything, rest: everything, narrowedBy: [])]
    guard content.count <= CIDRReader.bytesMax else {
      report(0, line: 1, "the file is larger than \(CIDRReader.bytesMax >> 20) MB", "split it")
      return
    }
    // Some 25 bytes a line in the lists we have seen; one growth too many does no harm.
    records.reserveCapacity(content.count / 24)
    networks.reserve(ipv4: content.count / 24)
    readLines(content)
    for block in blocks.dropFirst() {
      if let opened = block.opened {
        report(
          opened.offset, line: opened.line, "this `if` has no `endif`",
          "write `endif` where it ends")
      }
    }
  }

  private mutating func report(_ offset: Int, line: Int, _ reason: String, _ hint: String) {
    problems.add(text.problem(.error, offset, line: line, reason, hint), .error)
  }

  private mutating func reportExtra(_ offset: Int, _ line: Int, _ what: String) {
    report(
      offset, line: line, "nothing may follow \(what) on its line",
      "an indented line continues the line above it: start rules in the first column")
  }

  // Lines

  /// A physical line without its comment and the white space around it.
  private struct Piece {
    var start: Int
    var end: Int
    var line: Int
  }

  private mutating func readLines(_ content: [UInt8]) {
    let bytes = content.span
    var cursor = 0
    if bytes.count >= 3 && bytes[0] == 0xEF && bytes[1] == 0xBB && bytes[2] == 0xBF { cursor = 3 }
    var number = 0
    var open: Piece?
    var more: [Piece] = []
    var hasToldReturn = false
    while cursor < bytes.count {
      number += 1
      let start = cursor
      var hasHash = false
      var hasReturn = false
      while cursor < bytes.count && bytes[cursor] != 10 {
        if bytes[cursor] == UInt8(ascii: "#") { hasHash = true }
        if bytes[cursor] == 13 { hasReturn = true }
        cursor += 1
      }
      // Else all lines of a file with CR alone would be one rule, or one comment.
      if hasReturn && !hasToldReturn, let place = CIDRReader.bareReturn(bytes, start, cursor) {
        hasToldReturn = true
        report(
          place, line: number, "a carriage return stands within the line",
          "save the file with lines that end in LF or CRLF: CR alone ends no line")
      }
      var end = cursor
      cursor += 1
      let first = CIDRLine.skipSpace(bytes, start, end)
      if first == end || bytes[first] == UInt8(ascii: "#") { continue }
      if hasHash { end = CIDRReader.commentStart(bytes, first, end) }
      while isSpace(bytes[end - 1]) { end -= 1 }
      let piece = Piece(start: first, end: end, line: number)
      if first == start {
        if let line = open { readLogicalLine(bytes, line, more) }
        open = piece
        if !more.isEmpty { more.removeAll() }
      } else if open != nil {
        more.append(piece)
      } else {
        report(
          first, line: number, "the first rule of a file cannot start with white space",
          "an indented line continues the line above it: start the rule in the first column")
      }
    }
    if let line = open { readLogicalLine(bytes, line, more) }
  }

  /// The first CR of a line that is not at its end.
  private static func bareReturn(_ bytes: Span<UInt8>, _ start: Int, _ end: Int) -> Int? {
    var last = end
    while last > start && bytes[last - 1] == 13 { last -= 1 }
    for i in start..<last where bytes[i] == 13 { return i }
    // The only line of a file (behind a byte-order mark, perhaps) has no LF to tell by.
    return last < end && end == bytes.count && start <= 3 ? last : nil
  }

  /// A comment after a rule starts with a # between white space, so that "ticket #12" in a reply stays.
  private static func commentStart(_ bytes: Span<UInt8>, _ start: Int, _ end: Int) -> Int {
    for i in start + 1..<max(end, start + 1) {
      guard bytes[i] == UInt8(ascii: "#"), isSpace(bytes[i - 1]) else { continue }
      if i + 1 == end || isSpace(bytes[i + 1]) || bytes[i + 1] == UInt8(ascii: "#") { return i }
    }
    return end
  }

  private mutating func readLogicalLine(_ bytes: Span<UInt8>, _ first: Piece, _ more: [Piece]) {
    if more.isEmpty {
      read(bytes, first.start, first.end, shift: 0, line: first.line)
      return
    }
    let base = text.bytes.count
    var joined: [UInt8] = []
    var joins: [TableText.Join] = []
    for piece in [first] + more {
      if !joined.isEmpty { joined.append(32) }
      joins.append(
        TableText.Join(
          offset: UInt32(base + joined.count), source: UInt32(piece.start), line: UInt32(piece.line)
        ))
      for i in piece.start..<piece.end { joined.append(bytes[i]) }
    }
    text.append(joined: joined, joins)
    read(joined.span, 0, joined.count, shift: base, line: first.line)
  }

  /// - Parameter shift: from offsets in `bytes` to offsets in the text.
  private mutating func read(
    _ bytes: Span<UInt8>, _ start: Int, _ end: Int, shift: Int, line: Int
  ) {
    do throws(CIDRLineError) {
      switch try CIDRLine(bytes, start, end) {
      case .rule(let pattern, let patternRange, let result):
        let rule = UInt32(records.count)
        records.append(
          Record(
            pattern: UInt32(patternRange.lowerBound + shift),
            result: UInt32(result.lowerBound + shift), resultCount: UInt32(result.count),
            line: UInt32(line), patternCount: UInt16(clamping: patternRange.count)))
        add(pattern, rule, offset: start + shift, line: line)
      case .beginIf(let pattern, let range, let extra):
        if let extra { reportExtra(extra + shift, line, "the network of an `if`") }
        begin(pattern, offset: range.lowerBound + shift, line: line)
      case .endIf(let extra):
        if let extra { reportExtra(extra + shift, line, "`endif`") }
        if blocks.count == 1 {
          report(start + shift, line: line, "`endif` without an `if`", "delete it")
        } else {
          blocks.removeLast()
        }
      }
    } catch {
      report(error.offset + shift, line: line, error.reason, error.hint)
    }
  }

  // Networks

  private mutating func add(_ pattern: CIDRPattern, _ rule: UInt32, offset: Int, line: Int) {
    // The way of nearly every line of a long list.
    if blocks.count == 1 && !pattern.isNegated && networks.count < networksMax {
      networks.add(pattern.block, rule)
      return
    }
    let here = blocks.count - 1
    var pieces: [AddressBlock]
    if pattern.isNegated {
      pieces = CIDRReader.without(blocks[here].rest, pattern.block)
      if !blocks[here].narrowedBy.isEmpty { narrowedBy[rule] = blocks[here].narrowedBy }
      if pieces.isEmpty {
        let reached = !CIDRReader.without(blocks[here].space, pattern.block).isEmpty
        warnUnreachable(rule, offset, line, reached)
      } else {
        // What this rule leaves over of its own family; the other family is left whole.
        blocks[here].rest = blocks[here].rest.compactMap { piece in
          piece.isIPv4 == pattern.block.isIPv4 ? piece.intersection(pattern.block) : piece
        }
        blocks[here].narrowedBy.append(UInt32(line))
      }
    } else {
      pieces = blocks[here].space.compactMap { $0.intersection(pattern.block) }
      if pieces.isEmpty { warnUnreachable(rule, offset, line, false) }
    }
    guard networks.count + pieces.count <= networksMax else {
      if !tooManyReported {
        report(
          offset, line: line,
          "with this line the file comes to more than \(networksMax) networks",
          "use fewer `!` and `if`: each may stand for up to 128 networks")
      }
      tooManyReported = true
      return
    }
    for piece in pieces { networks.add(piece, rule) }
  }

  /// The addresses of the same family outside of a network.
  private static func without(_ space: [AddressBlock], _ block: AddressBlock) -> [AddressBlock] {
    space.flatMap { $0.isIPv4 == block.isIPv4 ? $0.subtracting(block) : [] }
  }

  private mutating func warnUnreachable(_ rule: UInt32, _ offset: Int, _ line: Int, _ reached: Bool)
  {
    explained.insert(rule)
    let block = blocks[blocks.count - 1]
    if block.isIgnored { return }
    let reason: String
    let hint: String
    if reached {
      reason = CIDRReader.neverMatches(line, block.narrowedBy)
      hint = CIDRReader.hint(block.narrowedBy)
    } else if let opened = block.opened {
      reason = "line \(line) can never match: it lies outside the `if` of line \(opened.line)"
      hint = "move it behind the `endif`, or correct one of the two networks"
    } else {
      reason = "line \(line) can never match: nothing lies outside its network"
      hint = "delete it, or write the network that is to be excluded"
    }
    problems.add(text.problem(.warning, offset, line: line, reason, hint), .warning)
  }

  /// - Parameter lines: those that take every address first; not empty.
  static func neverMatches(_ line: Int, _ lines: [UInt32]) -> String {
    let shown = lines.prefix(3).map { String($0) }
    let list =
      shown.count == 1
      ? "line \(shown[0])"
      : lines.count > 3
        ? "lines \(shown.joined(separator: ", ")) and others together"
        : "lines \(shown.dropLast().joined(separator: ", ")) and \(shown[shown.count - 1]) together"
    return "line \(line) can never match: covered by \(list)"
  }

  static func hint(_ lines: [UInt32]) -> String {
    "delete it, or move it above line \(lines.min() ?? 1): the first match wins"
  }

  private mutating func begin(_ pattern: CIDRPattern, offset: Int, line: Int) {
    let outer = blocks[blocks.count - 1]
    if blocks.count > CIDRReader.nestingMax {
      if !outer.isIgnored {
        report(
          offset, line: line, "`if` is nested more than \(CIDRReader.nestingMax) deep",
          "put the inner rules before the outer ones instead: the first match wins")
      }
      // Counted nevertheless, so that each `endif` still finds its `if`.
      blocks.append(
        Block(opened: (offset, line), space: [], rest: [], narrowedBy: [], isIgnored: true))
      return
    }
    func inside(_ space: [AddressBlock]) -> [AddressBlock] {
      pattern.isNegated
        ? CIDRReader.without(space, pattern.block)
        : space.compactMap { $0.intersection(pattern.block) }
    }
    blocks.append(
      Block(
        opened: (offset, line), space: inside(outer.space), rest: inside(outer.rest),
        narrowedBy: outer.narrowedBy))
  }
}
