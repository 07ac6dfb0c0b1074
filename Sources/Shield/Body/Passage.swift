// SPDX-License-Identifier: Apache-2.0
import SMTP
import Structures

/// A message on its way through the session's input region: read, scanned, sent on from there, read again.
///
/// The region's first octet is kept free for a CR that was held back: no bare CR ever goes downstream.
struct Passage: BitwiseCopyable, Sendable {
  private var data = EndOfDataScanner()
  /// Which bytes of the input region wait to be rewritten, because they hold bare LFs.
  private var rewriteStart: Int32 = 0
  private var rewriteEnd: Int32 = 0
  /// The most octets this message may have; 0 for any number.
  private var sizeLimit: UInt64 = 0
  /// Octets of the message at which the deadline for more of it was last set.
  private var deadlineMark: UInt64 = 0
  /// Whether a CR that ended the last piece of the message is held back until its LF has come.
  private var holdsCR = false
  /// The end of the message has been seen and is among the bytes being forwarded.
  private(set) var hasEnded = false
  /// Shaping: reading waits for credit.
  private(set) var isPaused = false

  /// Octets so far, and those that count towards its size (RFC 1870, 3).
  var octets: UInt64 { data.octets }
  var size: UInt64 { data.size }
  /// Whether bytes wait to be rewritten.
  var hasRest: Bool { rewriteStart < rewriteEnd }
  var isTooLarge: Bool { sizeLimit > 0 && data.size > sizeLimit }

  /// Where message bytes arrive.
  static func room(in input: Region) -> Region { input.from(1) }

  /// A message may come.
  ///
  /// - Parameter limit: octets; 0 for any number.
  mutating func begin(lineOctetsMax: Int, lineEnds: LineEnds, limit: UInt64) {
    self = Passage()
    data = EndOfDataScanner(lineOctetsMax: lineOctetsMax, lineEnds: lineEnds)
    sizeLimit = limit
  }

  mutating func pause() { isPaused = true }
  mutating func resume() { isPaused = false }
  mutating func end() { hasEnded = true }
  /// Nothing is left of it.
  mutating func finish() {
    hasEnded = false
    isPaused = false
  }

  /// Whether a kilobyte has come since the deadline was set: it moves with each of them, not with each byte, so that a
  /// trickle does not hold a downstream.
  var movesDeadline: Bool { data.octets &- deadlineMark >= 1_024 }
  mutating func deadlineSet() { deadlineMark = data.octets }

  /// Whether what has come goes on with the header before it (RFC 5322, 2.2.3): it begins with white space.
  func continuesHeader(_ piece: Span<UInt8>) -> Bool { data.beginsWithSpace(piece) }

  /// What came of looking at a piece.
  enum Step {
    /// These bytes of the input region go on as they are. Commands follow from `rest` on, if the message ends with them.
    case forward(Range<Int>, ends: Bool)
    /// A part holds bare LFs: what is before it goes on as it is.
    case rewrite(Range<Int>)
    case fault(BodyFault)
  }

  /// Looks at `count` bytes that were received.
  ///
  /// - Parameters:
  ///   - isDiscarded: nobody wants them; only the end is looked for.
  ///   - inbox: gets what follows the end: commands.
  mutating func take(
    _ count: Int, of input: Region, isDiscarded: Bool, _ inbox: inout Inbox, _ arena: inout Arena
  ) -> Step {
    let piece = Self.room(in: input).prefix(count)
    let step = data.scan(arena.span(piece), isDiscarded: isDiscarded)
    let start = holdsCR ? 0 : 1
    if holdsCR { arena[input.offset] = carriageReturn }
    holdsCR = false
    switch step {
    case .body:
      holdsCR = data.endsInCR
      let end = 1 + count - (data.endsInCR ? 1 : 0)
      return .forward(start..<max(end, start), ends: false)
    case .rewrite(let from):
      rewriteStart = Int32(1 + from)
      rewriteEnd = Int32(1 + count)
      return .rewrite(start..<(1 + from))
    case .end(let length):
      inbox.endMessage(at: 1 + length, 1 + count)
      return .forward(start..<(1 + length), ends: true)
    case .fault(let fault, _): return .fault(fault)
    }
  }

  /// Rewrites what came with bare LFs into `target`, as much as that takes.
  ///
  /// - Returns: how many octets are there, whether the message ends with them, and what is wrong.
  mutating func rewrite(
    of input: Region, into target: Region, _ inbox: inout Inbox, _ arena: inout Arena
  ) -> (written: Int, ends: Bool, fault: BodyFault?) {
    let source = input.prefix(Int(rewriteEnd)).from(Int(rewriteStart))
    var data = data
    var step = RewriteStep.body
    let written = arena.transform(from: source, into: target) { input, out in
      step = data.rewrite(input, into: &out)
    }
    self.data = data
    switch step {
    case .body:
      rewriteStart = rewriteEnd
      holdsCR = data.endsInCR
    case .full(let consumed): rewriteStart += Int32(consumed)
    case .end(let consumed):
      inbox.endMessage(at: Int(rewriteStart) + consumed, Int(rewriteEnd))
      rewriteStart = rewriteEnd
      return (written, true, nil)
    case .fault(let fault, _): return (written, false, fault)
    }
    return (written, false, nil)
  }

  /// Throws away what was waiting to be rewritten.
  ///
  /// - Returns: whether the message ends there, or what is wrong.
  mutating func discardRest(
    of input: Region, _ inbox: inout Inbox, _ arena: borrowing Arena
  ) -> (ends: Bool, fault: BodyFault?) {
    let (start, end) = (rewriteStart, rewriteEnd)
    rewriteStart = end
    let rest = input.prefix(Int(end)).from(Int(start))
    switch data.scan(arena.span(rest), isDiscarded: true) {
    case .body: return (false, nil)
    case .end(let length):
      inbox.endMessage(at: Int(start) + length, Int(end))
      return (true, nil)
    case .fault(let fault, _): return (false, fault)
    case .rewrite: invariantFailed("what is thrown away was to be rewritten")
    }
  }
}
