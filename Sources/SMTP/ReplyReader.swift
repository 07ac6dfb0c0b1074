// SPDX-License-Identifier: Apache-2.0

import Structures

/// What is wrong with a reply of the downstream. Any of these ends the link: after it nobody knows which
/// reply belongs to which command.
package enum ReplyFault: UInt8, Sendable, BitwiseCopyable {
  /// Not three digits, or not 2–5, 0–5, 0–9 (RFC 5321, 4.2).
  case badCode
  /// A line of a reply with another code than its first line.
  case codeChanged
  /// Neither space, hyphen nor the line's end behind the code.
  case badSeparator
  case lineTooLong
  case tooManyLines
  case bareCR
  case bareLF
}

/// How far the reply is.
package enum ReplyStep: Equatable, Sendable {
  case needMore
  /// The reply is in the text; what follows it was not consumed.
  case complete
  case fault(ReplyFault)
}

/// Reads one reply of the downstream and re-makes it for the client (RFC 5321, 4.2).
///
/// Strict in what it takes, because a reply that can be read in two ways is how commands and replies
/// come apart; and nothing is copied that was not checked: codes, separators and line ends are written
/// anew, octets that are not printable ASCII become `?`. Not a pairing of replies with commands: the
/// session does that. Invariant: `text[0..<length]` is at every line's end a well-formed reply but for
/// its last separator, and what it will be does not depend on how the bytes were split.
package struct ReplyReader: Sendable, BitwiseCopyable {
  /// Octets of one line taken, CR LF included: four times what RFC 5321, 4.5.3.1.5 allows.
  package static let lineOctetsMax = 2_048
  /// Octets of one line re-made, without CR LF (RFC 5321, 4.5.3.1.5).
  package static let madeLineOctetsMax = 510
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
  /// Octets of this line, in and out.
  private var column: UInt16 = 0
  private var madeColumn: UInt16 = 0
  private var lineCode: UInt16 = 0
  private var lastSeparator: UInt32 = 0
  private var made: UInt32 = 0

  /// The reply's code; 0 before the first line's is known.
  package private(set) var code: UInt16 = 0
  /// The first line's enhanced status code, if it has one whose class is the code's first digit.
  package private(set) var enhanced: EnhancedCode?
  /// Lines read so far.
  package private(set) var lines: Int = 0

  package init() {}

  /// Octets of the text that are the reply so far.
  package var length: Int { Int(made) }

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
  package mutating func read(
    _ input: Span<UInt8>, consumed: inout Int, into text: inout MutableSpan<UInt8>
  ) -> ReplyStep {
    invariant(text.count >= ReplyReader.textOctetsMin, "no room for the shortest reply")
    consumed = 0
    if state == .failed { return .fault(fault) }
    while state != .complete {
      if state == .text { takeText(input, &consumed, &text) }
      if consumed == input.count { return .needMore }
      let byte = input[consumed]
      consumed += 1
      if let found = take(byte, &text) {
        fault = found
        state = .failed
        return .fault(found)
      }
    }
    return .complete
  }

  /// Takes what is plain text up to the end of the line, or of the input, or of what a line may have.
  private mutating func takeText(
    _ input: Span<UInt8>, _ consumed: inout Int, _ text: inout MutableSpan<UInt8>
  ) {
    let most = ReplyReader.lineOctetsMax - 2 - Int(column)
    let end = min(input.count, consumed + max(most, 0))
    // What is written is less than what is read where the line is dropped or cut.
    let room = min(
      ReplyReader.madeLineOctetsMax - Int(madeColumn), text.count - 2 - length, end - consumed)
    let start = consumed
    let target = length
    let kept = isKept ? max(room, 0) : 0
    while consumed < end {
      let byte = input[consumed]
      if byte == carriageReturn || byte == lineFeed { break }
      let at = consumed - start
      if at < kept { text[target + at] = byte &- 0x20 < 0x5F ? byte : UInt8(ascii: "?") }
      consumed += 1
    }
    let taken = consumed - start
    column += UInt16(taken)
    made += UInt32(min(taken, kept))
    madeColumn += UInt16(min(taken, kept))
  }

  private mutating func take(_ byte: UInt8, _ text: inout MutableSpan<UInt8>) -> ReplyFault? {
    column += 1
    switch state {
    case .code:
      return takeDigit(byte)
    case .separator:
      switch byte {
      case UInt8(ascii: "-"): isLastLine = false
      case UInt8(ascii: " "), carriageReturn: isLastLine = true
      case lineFeed: return .bareLF
      default: return .badSeparator
      }
      if let changed = beginLine(&text) { return changed }
      state = byte == carriageReturn ? .lineEnd : .text
    case .text:
      if byte == carriageReturn {
        state = .lineEnd
      } else if byte == lineFeed {
        return .bareLF
      } else {
        // Two octets of the line are for its CR LF.
        if Int(column) > ReplyReader.lineOctetsMax - 2 { return .lineTooLong }
        put(byte &- 0x20 < 0x5F ? byte : UInt8(ascii: "?"), &text)
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
    let allowed: ClosedRange<UInt8> =
      column == 1 ? 0x32...0x35 : column == 2 ? 0x30...0x35 : 0x30...0x39
    guard allowed.contains(byte) else { return .badCode }
    lineCode = lineCode * 10 + UInt16(byte - 0x30)
    if column == 3 { state = .separator }
    return nil
  }

  private mutating func beginLine(_ text: inout MutableSpan<UInt8>) -> ReplyFault? {
    if lines == 0 {
      code = lineCode
    } else if lineCode != code {
      return .codeChanged
    }
    isKept = text.count - length >= ReplyReader.textOctetsMin
    madeColumn = 0
    guard isKept else { return nil }
    put(UInt8(truncatingIfNeeded: 0x30 + code / 100), &text)
    put(UInt8(truncatingIfNeeded: 0x30 + code / 10 % 10), &text)
    put(UInt8(truncatingIfNeeded: 0x30 + code % 10), &text)
    lastSeparator = made
    put(isLastLine ? UInt8(ascii: " ") : UInt8(ascii: "-"), &text)
    return nil
  }

  /// Writes one octet of the line unless the line is dropped or full.
  private mutating func put(_ byte: UInt8, _ text: inout MutableSpan<UInt8>) {
    guard isKept, Int(madeColumn) < ReplyReader.madeLineOctetsMax, length + 2 < text.count else {
      return
    }
    text[length] = byte
    made += 1
    madeColumn += 1
  }

  private mutating func endLine(_ text: inout MutableSpan<UInt8>) -> ReplyFault? {
    if lines == 0 { enhanced = readEnhanced(text) }
    if isKept {
      text[length] = carriageReturn
      text[length + 1] = lineFeed
      made += 2
    }
    lines += 1
    if isLastLine {
      // If the last lines were dropped, the last one kept becomes the last.
      text[Int(lastSeparator)] = UInt8(ascii: " ")
      state = .complete
      return nil
    }
    if lines == ReplyReader.linesMax { return .tooManyLines }
    state = .code
    column = 0
    lineCode = 0
    return nil
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
