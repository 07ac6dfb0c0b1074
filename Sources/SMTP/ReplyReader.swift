// SPDX-License-Identifier: Apache-2.0

/// What is wrong with a reply.
package enum ReplyFault: UInt8, Equatable, Sendable {
  /// No three digits with a first one of 2…5 and a second one of 0…5, or no space or hyphen behind them.
  case code
  /// A line has another code than the first.
  case codeChanged
  /// A bare CR or LF, or a NUL.
  case lineEnd
  case lineTooLong
  case tooManyLines
  /// The whole reply is longer than we keep.
  case tooLong
}

package enum ReplyStep: Equatable, Sendable {
  case needMore
  case complete
  case fault(ReplyFault)
}

/// Reads a downstream's reply (RFC 5321, 4.2.1) and makes it anew for the client.
///
/// Line by line with one code, at most 100 lines of at most 2,048 octets. What is made anew keeps code,
/// enhanced code and text, cuts lines to 512 octets, and holds printable ASCII only: every other octet
/// becomes a question mark, so nothing that a downstream says can move a client's parser or a terminal.
package struct ReplyReader: BitwiseCopyable, Sendable {
  package static let linesMax = 100
  package static let lineMax = 2_048
  /// Octets of a line as made anew, its CRLF included (RFC 5321, 4.5.3.1.5).
  package static let outLineMax = 512

  /// The reply's code; meaningful from its first line on.
  package private(set) var code: UInt16 = 0
  /// Octets of the reply as made anew.
  package private(set) var length = 0
  package private(set) var lines = 0
  private var lineCode: UInt16 = 0
  /// Octets of the present line so far, its code included.
  private var column = 0
  private var lineStart = 0
  private var isLast = false
  private var sawCR = false

  package init() {}

  package mutating func reset() { self = ReplyReader() }

  /// Reads on. After `complete` the rest of the input is not looked at.
  ///
  /// - Parameters:
  ///   - consumed: set to how many bytes of the input were read.
  ///   - text: where the reply is made anew; what earlier calls put there must still be there.
  package mutating func read(
    _ input: Span<UInt8>, consumed: inout Int, into text: inout MutableSpan<UInt8>
  ) -> ReplyStep {
    var k = 0
    while k < input.count {
      let byte = input[k]
      k += 1
      consumed = k
      if sawCR {
        guard byte == 10 else { return .fault(.lineEnd) }
        sawCR = false
        if let step = endLine(&text) { return step }
        continue
      }
      if byte == 10 || byte == 0 { return .fault(.lineEnd) }
      if byte == 13 {
        if column < 3 { return .fault(.code) }
        if column == 3 {
          // A line of the code alone is a last line (RFC 5321, 4.2.1: text is optional to a reader).
          isLast = true
          if let fault = startText(separator: UInt8(ascii: " "), &text) { return .fault(fault) }
        }
        sawCR = true
        continue
      }
      column += 1
      if column + 2 > Self.lineMax { return .fault(.lineTooLong) }
      switch column {
      case 1...3:
        guard byte >= 48 && byte <= 57 else { return .fault(.code) }
        lineCode = (column == 1 ? 0 : lineCode * 10) + UInt16(byte - 48)
        if column == 1 && !(50...53).contains(byte) { return .fault(.code) }
        if column == 2 && byte > 53 { return .fault(.code) }
      case 4:
        guard byte == UInt8(ascii: " ") || byte == UInt8(ascii: "-") else { return .fault(.code) }
        isLast = byte == UInt8(ascii: " ")
        if let fault = startText(separator: byte, &text) { return .fault(fault) }
      default:
        if length - lineStart < Self.outLineMax - 2 {
          if length + 2 >= text.count { return .fault(.tooLong) }
          text[length] = byte >= 32 && byte <= 126 ? byte : UInt8(ascii: "?")
          length += 1
        }
      }
    }
    return .needMore
  }

  private mutating func startText(
    separator: UInt8, _ text: inout MutableSpan<UInt8>
  ) -> ReplyFault? {
    if lines == 0 {
      code = lineCode
    } else if lineCode != code {
      return .codeChanged
    }
    if length + 6 > text.count { return .tooLong }
    lineStart = length
    text[length] = UInt8(48 + lineCode / 100)
    text[length + 1] = UInt8(48 + lineCode / 10 % 10)
    text[length + 2] = UInt8(48 + lineCode % 10)
    text[length + 3] = separator
    length += 4
    return nil
  }

  private mutating func endLine(_ text: inout MutableSpan<UInt8>) -> ReplyStep? {
    lines += 1
    if lines > Self.linesMax { return .fault(.tooManyLines) }
    if length + 2 > text.count { return .fault(.tooLong) }
    text[length] = 13
    text[length + 1] = 10
    length += 2
    column = 0
    lineCode = 0
    return isLast ? .complete : nil
  }
}
