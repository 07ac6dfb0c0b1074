// SPDX-License-Identifier: Apache-2.0
import SMTP
import Structures

/// A session's input: what the client said and was not dealt with yet, in the session's input region.
///
/// What the client sent ahead stays here, which is the bounded queue of pipelined commands; when it is full we stop
/// reading and TCP slows the client. The current line stays in front until it is finished.
struct Inbox: BitwiseCopyable, Sendable {
  /// Bytes at `start..<end` of the region are not dealt with yet.
  private(set) var start: Int32 = 0
  private(set) var end: Int32 = 0
  /// Where the receive that is outstanding puts its bytes.
  private(set) var fillStart: Int32 = 0
  /// A receive is outstanding.
  private(set) var isFilling = false
  /// The client has closed its sending side, and all it sent is here.
  private(set) var hasEnded = false
  /// The rest of a line that was too long is being thrown away.
  private(set) var isSkipping = false
  /// The current line: its octets without white space at its end, those it takes with its line end, and where in it its
  /// argument begins.
  private(set) var lineCount: Int32 = 0
  private(set) var lineConsumed: Int32 = 0
  private(set) var argumentStart: Int32 = 0
  private var lines: LineScanner

  init(lineEnds: LineEnds) { lines = LineScanner(lineEnds: lineEnds) }

  var isEmpty: Bool { start == end }
  /// Octets that wait.
  var count: Int { Int(end - start) }

  // MARK: Arrival

  /// The first words, or words that crossed with the banner, have been put behind the others.
  mutating func append(_ count: Int) { end += Int32(count) }

  /// `count` bytes were received: they wait where the receive put them. That is behind the others, or, after a DATA that
  /// was refused, where the message would have come.
  mutating func take(_ count: Int) {
    if start == end { start = fillStart }
    end = fillStart + Int32(count)
  }

  /// The receive that was outstanding is answered.
  mutating func filled() { isFilling = false }

  /// The client has closed its sending side. Only a receive sees that nothing lies unread before the end: to a slot that
  /// is watched it is told ahead of octets that are still in the kernel.
  ///
  /// - Returns: whether a receive was outstanding.
  mutating func ended() -> Bool {
    defer { isFilling = false }
    hasEnded = isFilling
    return isFilling
  }

  /// Where more input may go; what waits is moved to the front if that makes room. Empty if there is none.
  mutating func room(in region: Region, _ arena: inout Arena) -> Region {
    if start == end {
      start = 0
      end = 0
    } else if start > 0 && Int(end) == region.count {
      let left = Region(offset: region.offset + Int(start), count: count)
      arena.move(left, to: region.offset)
      end = Int32(left.count)
      start = 0
    }
    return region.from(Int(end))
  }

  /// What is said next is received into `room`, a part of `region`.
  mutating func receive(into room: Region, of region: Region) {
    isFilling = true
    fillStart = Int32(room.offset - region.offset)
  }

  /// All that waits is forgotten: a message or TLS begins.
  mutating func clear() {
    start = 0
    end = 0
    lines.reset()
  }

  /// Of what was received as a message, commands begin at `start`.
  mutating func endMessage(at start: Int, _ end: Int) {
    self.start = Int32(start)
    self.end = Int32(end)
  }

  /// The receive of a message is the whole region from here on.
  mutating func emptied() {
    start = 0
    end = 0
  }

  // MARK: Lines

  /// The bytes that wait, from `ahead` octets on.
  func waiting(in region: Region, ahead: Int = 0) -> Region {
    let first = Int(start) + ahead
    return Region(offset: region.offset + first, count: max(Int(end) - first, 0))
  }

  /// Looks for the next line, `ahead` octets from the front.
  ///
  /// Nothing is kept of it until `begin`.
  func nextLine(
    in bytes: Span<UInt8>, limit: Int
  ) -> (step: LineStep, lines: LineScanner) {
    var lines = lines
    let step = lines.next(in: bytes, limit: limit)
    return (step, lines)
  }

  /// Keeps how far the scanner came.
  mutating func keep(_ lines: LineScanner) { self.lines = lines }

  /// The line before was done with when it went downstream: the next one is at hand.
  mutating func skip(_ ahead: Int) { start += Int32(ahead) }

  /// A line is at hand.
  mutating func begin(_ count: Int, consumed: Int) {
    lineCount = Int32(count)
    lineConsumed = Int32(consumed)
  }

  /// Where the argument of the current line is, without white space behind it.
  mutating func setArgument(_ argument: Range<Int>) {
    argumentStart = Int32(argument.lowerBound)
    lineCount = Int32(argument.upperBound)
  }

  /// The current line is all argument: an answer to a challenge.
  mutating func takeWhole() { argumentStart = 0 }

  /// A line that is too long stands for a command; the rest of it is thrown away when it comes.
  mutating func skipRest(keepingCount: Bool) {
    lineConsumed = 0
    if !keepingCount { lineCount = 0 }
    isSkipping = true
  }

  /// Throws away the rest of such a line: the first `count` octets that wait.
  mutating func skipped(_ count: Int, isWhole: Bool) {
    start += Int32(count)
    if isWhole { isSkipping = false }
    lines.reset()
  }

  /// Is done with the current line: it leaves the input.
  mutating func finish() {
    start += lineConsumed
    lineConsumed = 0
    lineCount = 0
  }

  /// Is done with it, and its words are still of use: QUIT.
  mutating func dropLine() { start += lineConsumed }

  /// There is no line at hand any more: a message has ended.
  mutating func forgetLine() { lineConsumed = 0 }

  /// The bytes of the current line, and of its argument.
  func line(in region: Region) -> Region {
    Region(offset: region.offset + Int(start), count: Int(lineCount))
  }
  func argument(in region: Region) -> Region { line(in: region).from(Int(argumentStart)) }
  var hasArgument: Bool { lineCount > argumentStart }

  /// Whether the client sent more than the current line.
  var hasMore: Bool { start + lineConsumed < end }
}
