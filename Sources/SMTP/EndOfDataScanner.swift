// SPDX-License-Identifier: Apache-2.0

/// What must not stand in a message.
package enum DataFault: UInt8, Equatable, Sendable {
  case bareCR, bareLF, nul, lineTooLong
}

/// What a piece of message bytes is.
package enum DataStep: Equatable, Sendable {
  /// All of it belongs to the message, which goes on.
  case body
  /// The message ends with the first `count` bytes of this piece.
  case end(Int)
  case fault(DataFault, at: Int)
}

/// What became of a piece of message bytes that is being normalised.
package enum NormalizeStep: Equatable, Sendable {
  /// The first `consumed` bytes were taken; fewer than all only if the output was full.
  case more(consumed: Int)
  /// The message ends with the first `consumed` bytes.
  case end(consumed: Int)
  case fault(DataFault, at: Int)
}

/// Finds the end of a message: CR LF . CR LF and nothing else (RFC 5321, 4.1.1.4).
///
/// An automaton over octets, so that the result is the same however the bytes are split. The text stays
/// dot-stuffed: it goes to the downstream as it came. A bare CR, a bare LF or a NUL is a fault, because
/// what two servers read differently is how mail is smuggled (CVE-2023-51764 and its family).
package struct EndOfDataScanner: BitwiseCopyable, Sendable {
  private enum State: UInt8 {
    /// Within a line.
    case text
    /// After CR.
    case cr
    /// After CRLF, or at the very beginning.
    case lineStart
    /// After CRLF and a dot.
    case dot
    /// After CRLF, a dot and CR.
    case dotCR
    /// After a bare LF that was made CRLF: a dot here is the client's text and must be stuffed.
    case madeLineStart
  }

  private var state = State.lineStart
  private var line = 0
  private let lineLimit: Int
  /// Octets taken so far, the final dot's line included.
  package private(set) var octets: UInt64 = 0

  /// - Parameter lineLimit: octets of a line without its line end; 0 for any number.
  package init(lineLimit: Int = 0) { self.lineLimit = lineLimit }

  /// Looks at the next piece of the message.
  package mutating func scan(_ bytes: Span<UInt8>) -> DataStep {
    let step = find(bytes)
    switch step {
    case .body: octets &+= UInt64(bytes.count)
    case .end(let count): octets &+= UInt64(count)
    case .fault(_, let at): octets &+= UInt64(at)
    }
    return step
  }

  private mutating func find(_ bytes: Span<UInt8>) -> DataStep {
    var k = 0
    let count = bytes.count
    while k < count {
      switch state {
      case .text, .madeLineStart:
        let start = k
        k = Self.skipText(bytes, from: k)
        line += k - start
        if lineLimit > 0 && line > lineLimit { return .fault(.lineTooLong, at: k) }
        if k == count {
          state = .text
          return .body
        }
        switch bytes[k] {
        case 13: state = .cr
        case 10: return .fault(.bareLF, at: k)
        case 0: return .fault(.nul, at: k)
        default:
          state = .text
          line += 1
        }
        k += 1
      case .cr:
        guard bytes[k] == 10 else { return .fault(.bareCR, at: k) }
        state = .lineStart
        line = 0
        k += 1
      case .lineStart:
        if bytes[k] == UInt8(ascii: ".") {
          state = .dot
          line = 1
          k += 1
        } else {
          state = .text
        }
      case .dot:
        if bytes[k] == 13 {
          state = .dotCR
          k += 1
        } else {
          state = .text
        }
      case .dotCR:
        guard bytes[k] == 10 else { return .fault(.bareCR, at: k) }
        state = .lineStart
        return .end(k + 1)
      }
    }
    return .body
  }

  /// The place of the next octet that is not plain text (13 or less), or the end.
  ///
  /// Sixteen at a time: the smallest of sixteen tells whether all of them are text.
  private static func skipText(_ bytes: Span<UInt8>, from start: Int) -> Int {
    var k = start
    while k + 16 <= bytes.count {
      var least: UInt8 = 255
      for j in 0..<16 { least = min(least, bytes[k + j]) }
      if least <= 13 { break }
      k += 16
    }
    while k < bytes.count && bytes[k] > 13 { k += 1 }
    return k
  }

  /// Copies the next piece, with every bare LF made CRLF.
  ///
  /// A line that begins after such an LF and starts with a dot gets its dot stuffed, as does a dot line
  /// that was ended by a bare LF: normalising never makes an end of data. At most twice the input and
  /// three bytes come out; where the output is full it says how far it got.
  package mutating func normalize(
    _ bytes: Span<UInt8>, into out: inout OutputSpan<UInt8>
  ) -> NormalizeStep {
    var k = 0
    while k < bytes.count {
      // A turn appends at most four bytes.
      if out.freeCapacity < 4 { break }
      let byte = bytes[k]
      if byte == 0 {
        octets &+= UInt64(k)
        return .fault(.nul, at: k)
      }
      switch state {
      case .text, .madeLineStart:
        if byte == 13 {
          state = .cr
        } else if byte == 10 {
          endLine(&out)
          state = .madeLineStart
        } else {
          if state == .madeLineStart && byte == UInt8(ascii: ".") { out.append(byte) }
          state = .text
          out.append(byte)
          line += 1
          if lineLimit > 0 && line > lineLimit {
            octets &+= UInt64(k)
            return .fault(.lineTooLong, at: k)
          }
        }
        k += 1
      case .cr:
        guard byte == 10 else {
          octets &+= UInt64(k)
          return .fault(.bareCR, at: k)
        }
        endLine(&out)
        state = .lineStart
        k += 1
      case .lineStart:
        if byte == UInt8(ascii: ".") {
          state = .dot
          k += 1
        } else {
          state = .text
        }
      case .dot:
        switch byte {
        case 13:
          state = .dotCR
          k += 1
        case 10:
          // CR LF . LF is a line of one dot, not the end: stuffed, it stays one.
          out.append(UInt8(ascii: "."))
          out.append(UInt8(ascii: "."))
          endLine(&out)
          state = .madeLineStart
          k += 1
        default:
          out.append(UInt8(ascii: "."))
          line = 1
          state = .text
        }
      case .dotCR:
        guard byte == 10 else {
          octets &+= UInt64(k)
          return .fault(.bareCR, at: k)
        }
        out.append(UInt8(ascii: "."))
        endLine(&out)
        state = .lineStart
        octets &+= UInt64(k + 1)
        return .end(consumed: k + 1)
      }
    }
    octets &+= UInt64(k)
    return .more(consumed: k)
  }

  private mutating func endLine(_ out: inout OutputSpan<UInt8>) {
    out.append(13)
    out.append(10)
    line = 0
  }
}
