// SPDX-License-Identifier: Apache-2.0

import Structures

/// What is wrong with a reply of the downstream. Any of these ends the link: after it nobody knows which
/// reply belongs to which command.
package enum ReplyFault: UInt8, Sendable, BitwiseCopyable {
  /// Not three digits, or the first of them not 2–5: only that one must be understood (RFC 5321, 4.2, 4.3.2).
  case badCode
  /// A line of a reply whose code begins with another digit than the line's before it.
  case codeChanged
  /// Neither space, hyphen nor the line's end behind the code.
  case badSeparator
  case lineTooLong
  case tooManyLines
  case bareCR
}

/// Who reads a reply's text, and so what may be in it.
package enum ReplyUse: UInt8, Sendable, BitwiseCopyable {
  /// A client: lines of 512 octets, of printable ASCII.
  case client
  /// A client in a transaction that uses SMTPUTF8: also UTF-8 (RFC 6531, 3.7.4.1).
  case clientUTF8
  /// A client in an AUTH exchange: a challenge is handed on in pieces, as long as it is (RFC 4954, 4).
  case login
  /// Us: what a good reply to EHLO offers may stand in longer lines.
  case ourselves
}

/// How far the reply is.
package enum ReplyStep: Equatable, Sendable {
  case needMore
  /// The text is full of a challenge that goes on: it is to be emptied (`taken`). Only with `ReplyUse.login`.
  case full
  /// The reply is in the text; what follows it was not consumed.
  case complete
  case fault(ReplyFault)
}

/// Reads one reply of the downstream and re-makes it for the client (RFC 5321, 4.2).
///
/// It takes whatever can be read in one way only: any three digits that begin with 2 to 5, lines that end in CR LF or
/// LF, lines whose codes differ in their last two digits, of which the last line's counts. A reply that can be read
/// in two ways is how commands and replies come apart, so all else is a fault. Nothing is copied that was not checked:
/// codes, separators and line ends are written anew, octets that the client may not get become `?`. Not a pairing of
/// replies with commands: the session does that. Invariant: `text[0..<length]` is at every line's end a well-formed
/// reply but for its last separator, and what it will be does not depend on how the bytes were split.
package struct ReplyReader: Sendable, BitwiseCopyable {
  /// Octets of one line taken, CR LF included: a challenge of 12,288 octets behind its code (RFC 4954, 4).
  package static let lineOctetsMax = 12_294
  /// Octets of one line re-made, without CR LF (RFC 5321, 4.5.3.1.5).
  package static let madeLineOctetsMax = 510
  /// The same of a line that is for ourselves.
  package static let keptLineOctetsMax = 2_046
  package static let linesMax = 100
  /// The smallest text that any reply can be re-made in: `ddd`, separator, CR LF.
  package static let textOctetsMin = 6

  private enum State: UInt8, BitwiseCopyable {
    /// Goes to: separator.
    case code
    /// Goes to: text, lineEnd.
    case separator
    /// Goes to: lineEnd.
    case text
    /// CR seen. Goes to: code, complete.
    case lineEnd
    case complete
    case failed
  }

  private var state = State.code
  private var fault = ReplyFault.badCode
  private var isLastLine = false
  /// Whether this line is being written; a reply bigger than its text loses lines, not its form.
  private var isKept = false
  /// Whether this line is a challenge, which is handed on in pieces; whether a piece of it was.
  private var isChallenge = false
  private var isTaken = false
  /// Whether a line had another code than the one before it.
  private var codesDiffer = false
  /// Whether octets of this line are not ASCII.
  private var isEightBit = false
  /// Octets of this line, in and out.
  private var column: UInt16 = 0
  private var madeColumn: UInt16 = 0
  private var lineCode: UInt16 = 0
  private var lastSeparator: UInt32 = 0
  private var made: UInt32 = 0

  /// The reply's code, which is its last line's; 0 before the first line's is known.
  package private(set) var code: UInt16 = 0
  /// The first line's enhanced status code, if it has one whose class is the code's first digit.
  package private(set) var enhanced: EnhancedCode?
  /// Lines read so far.
  package private(set) var lines: Int = 0

  package init() {}

  /// Octets of the text that are the reply so far.
  package var length: Int { Int(made) }

  /// What `text` holds was taken out of it: the rest of the challenge is written from its beginning.
  package mutating func taken() {
    invariant(isChallenge, "a piece was taken of a reply that is no challenge")
    isTaken = true
    made = 0
    madeColumn = 0
  }

  /// Makes ready for the next reply.
  package mutating func reset() { self = ReplyReader() }

  /// Reads on.
  ///
  /// - Parameters:
  ///   - input: bytes from the downstream.
  ///   - consumed: set to how many of them were part of this reply.
  ///   - text: where the reply is re-made; the same for all calls of one reply, at least
  ///     `textOctetsMin` long. Lines beyond its size are dropped whole, save that the last kept may
  ///     be cut.
  ///   - use: the same for all calls of one reply.
  package mutating func read(
    _ input: Span<UInt8>, consumed: inout Int, into text: inout MutableSpan<UInt8>,
    for use: ReplyUse = .client
  ) -> ReplyStep {
    invariant(text.count >= ReplyReader.textOctetsMin, "no room for the shortest reply")
    consumed = 0
    if state == .failed { return .fault(fault) }
    while state != .complete {
      if state == .text {
        takeText(input, &consumed, &text, use)
        if isChallenge && consumed < input.count && length + 2 == text.count { return .full }
      }
      if consumed == input.count { return .needMore }
      let byte = input[consumed]
      consumed += 1
      if let found = take(byte, &text, use) {
        fault = found
        state = .failed
        return .fault(found)
      }
    }
    return .complete
  }

  /// Takes what is plain text up to the end of the line, or of the input, or of what a line may have.
  private mutating func takeText(
    _ input: Span<UInt8>, _ consumed: inout Int, _ text: inout MutableSpan<UInt8>, _ use: ReplyUse
  ) {
    let most = ReplyReader.lineOctetsMax - 2 - Int(column)
    var end = min(input.count, consumed + max(most, 0))
    // What is written is less than what is read where the line is dropped or cut.
    let room = min(
      madeMost(use) - Int(madeColumn), text.count - 2 - length, end - consumed)
    let start = consumed
    let target = length
    let kept = isKept ? max(room, 0) : 0
    if isChallenge { end = min(end, start + kept) }
    while consumed < end {
      let byte = input[consumed]
      if byte == carriageReturn || byte == lineFeed { break }
      let at = consumed - start
      if at < kept { text[target + at] = fit(byte, use) }
      consumed += 1
    }
    let taken = consumed - start
    column += UInt16(taken)
    made += UInt32(min(taken, kept))
    madeColumn += UInt16(min(taken, kept))
  }

  /// The most octets of a line re-made, without CR LF.
  private func madeMost(_ use: ReplyUse) -> Int {
    if isChallenge { return ReplyReader.lineOctetsMax }
    // What refuses is for a client.
    return use == .ourselves && code / 100 == 2
      ? ReplyReader.keptLineOctetsMax : ReplyReader.madeLineOctetsMax
  }

  /// An octet of text as the client may have it. Whether those beyond ASCII are UTF-8 is seen at the line's end.
  @inline(__always)
  private mutating func fit(_ byte: UInt8, _ use: ReplyUse) -> UInt8 {
    if byte &- 0x20 < 0x5F { return byte }
    guard byte >= 0x80 && use == .clientUTF8 else { return UInt8(ascii: "?") }
    isEightBit = true
    return byte
  }

  private mutating func take(
    _ byte: UInt8, _ text: inout MutableSpan<UInt8>, _ use: ReplyUse
  ) -> ReplyFault? {
    column += 1
    switch state {
    case .code:
      return takeDigit(byte)
    case .separator:
      switch byte {
      case UInt8(ascii: "-"): isLastLine = false
      case UInt8(ascii: " "), carriageReturn, lineFeed: isLastLine = true
      default: return .badSeparator
      }
      if let changed = beginLine(&text, use) { return changed }
      if byte == lineFeed { return endLine(&text) }
      state = byte == carriageReturn ? .lineEnd : .text
    case .text:
      if byte == carriageReturn {
        state = .lineEnd
      } else if byte == lineFeed {
        return endLine(&text)
      } else {
        // Two octets of the line are for its CR LF.
        if Int(column) > ReplyReader.lineOctetsMax - 2 { return .lineTooLong }
        put(fit(byte, use), &text, madeMost(use))
      }
    case .lineEnd:
      guard byte == lineFeed else { return .bareCR }
      return endLine(&text)
    case .complete, .failed:
      break
    }
    return nil
  }

  private mutating func takeDigit(_ byte: UInt8) -> ReplyFault? {
    let allowed: ClosedRange<UInt8> = column == 1 ? 0x32...0x35 : 0x30...0x39
    guard allowed.contains(byte) else { return .badCode }
    lineCode = lineCode * 10 + UInt16(byte - 0x30)
    if column == 3 { state = .separator }
    return nil
  }

  private mutating func beginLine(
    _ text: inout MutableSpan<UInt8>, _ use: ReplyUse
  ) -> ReplyFault? {
    if lines > 0 && lineCode != code {
      guard lineCode / 100 == code / 100 else { return .codeChanged }
      codesDiffer = true
    }
    code = lineCode
    isKept = text.count - length >= ReplyReader.textOctetsMin
    isChallenge = use == .login && isLastLine && lines == 0 && code / 100 == 3
    isEightBit = false
    madeColumn = 0
    guard isKept else { return nil }
    let most = madeMost(use)
    put(digit(0), &text, most)
    put(digit(1), &text, most)
    put(digit(2), &text, most)
    lastSeparator = made
    put(isLastLine ? UInt8(ascii: " ") : UInt8(ascii: "-"), &text, most)
    return nil
  }

  /// A digit of the code, as text.
  private func digit(_ place: Int) -> UInt8 {
    UInt8(
      truncatingIfNeeded: 0x30 + (place == 0 ? code / 100 : place == 1 ? code / 10 % 10 : code % 10)
    )
  }

  /// Writes one octet of the line unless the line is dropped or full.
  private mutating func put(_ byte: UInt8, _ text: inout MutableSpan<UInt8>, _ most: Int) {
    guard isKept, Int(madeColumn) < most, length + 2 < text.count else { return }
    text[length] = byte
    made += 1
    madeColumn += 1
  }

  private mutating func endLine(_ text: inout MutableSpan<UInt8>) -> ReplyFault? {
    if lines == 0 && !isTaken { enhanced = readEnhanced(text) }
    if isEightBit { replaceBroken(&text) }
    if isKept {
      text[length] = carriageReturn
      text[length + 1] = lineFeed
      made += 2
    }
    lines += 1
    if isLastLine {
      // If the last lines were dropped, the last one kept becomes the last.
      if !isTaken { text[Int(lastSeparator)] = UInt8(ascii: " ") }
      if codesDiffer { writeCodes(&text) }
      state = .complete
      return nil
    }
    if lines == ReplyReader.linesMax { return .tooManyLines }
    state = .code
    column = 0
    lineCode = 0
    return nil
  }

  /// Writes the code anew in front of each line.
  private func writeCodes(_ text: inout MutableSpan<UInt8>) {
    var isStart = true
    for i in 0..<length {
      if isStart { for place in 0..<3 { text[i + place] = digit(place) } }
      isStart = text[i] == lineFeed
    }
  }

  /// Puts `?` for each octet of the line that is no part of well-formed UTF-8 (RFC 3629, 4), or of a control
  /// character beyond ASCII (U+0080 to U+009F), which a terminal may obey.
  private func replaceBroken(_ text: inout MutableSpan<UInt8>) {
    var i = length - Int(madeColumn)
    while i < length {
      let lead = text[i]
      let count = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4
      let end = min(i + count, length)
      if text.span.isUTF8(in: i..<end), lead != 0xC2 || text[i + 1] >= 0xA0 {
        i = end
      } else {
        text[i] = UInt8(ascii: "?")
        i += 1
      }
    }
  }

  /// The enhanced code at the front of the first line's text: `d.ddd.ddd` and then a space or the end
  /// (RFC 2034, 4). One that contradicts the code is as good as none.
  private func readEnhanced(_ text: borrowing MutableSpan<UInt8>) -> EnhancedCode? {
    guard length >= 9, text[5] == UInt8(ascii: "."), isDigit(text[4]) else { return nil }
    let kind = text[4] - 0x30
    guard UInt16(kind) == code / 100, kind != 3 else { return nil }
    var i = 6
    guard let subject = smallNumber(text, &i), i < length, text[i] == UInt8(ascii: ".") else {
      return nil
    }
    i += 1
    guard let detail = smallNumber(text, &i), i == length || text[i] == UInt8(ascii: " ") else {
      return nil
    }
    return EnhancedCode(kind, subject, detail)
  }

  /// One to three digits.
  private func smallNumber(_ text: borrowing MutableSpan<UInt8>, _ i: inout Int) -> UInt16? {
    let start = i
    var value: UInt16 = 0
    while i < length, i - start < 3, isDigit(text[i]) {
      value = value * 10 + UInt16(text[i] - 0x30)
      i += 1
    }
    return i > start ? value : nil
  }
}
