// SPDX-License-Identifier: Apache-2.0

/// What the bytes at the beginning of an input buffer are.
package enum LineStep: Equatable, Sendable {
  /// A whole line of `length` bytes; it takes `consumed` bytes with its line end.
  case line(length: Int, consumed: Int)
  /// No line end yet.
  case needMore
  /// More than the limit without a line end.
  case tooLong
  case bareLF(at: Int)
  case bareCR(at: Int)
  case nul(at: Int)
}

/// Finds command lines in an input buffer (RFC 5321, 2.3.8: a line ends in CRLF and in nothing else).
///
/// Remembers how far it has looked, so that a client that drips its bytes does not make us look at them
/// again and again. The same bytes give the same steps however they are split.
package struct LineScanner: BitwiseCopyable, Sendable {
  package enum Mode: UInt8, BitwiseCopyable, Sendable {
    case strict
    /// A bare LF ends a line too. A bare CR is a fault in either mode.
    case normalize
  }

  private var looked = 0
  private let mode: Mode

  package init(mode: Mode = .strict) { self.mode = mode }

  /// Looks at the bytes not yet consumed. After a line the caller must drop `consumed` bytes.
  ///
  /// - Parameter limit: the most bytes a line may have, its line end included.
  package mutating func next(in bytes: Span<UInt8>, limit: Int) -> LineStep {
    var k = looked
    while k < bytes.count {
      let byte = bytes[k]
      if byte > 13 {
        k += 1
        if k > limit { return .tooLong }
        continue
      }
      switch byte {
      case UInt8(ascii: "\r"):
        if k + 1 == bytes.count {
          looked = k
          return k + 2 > limit ? .tooLong : .needMore
        }
        guard bytes[k + 1] == UInt8(ascii: "\n") else { return .bareCR(at: k) }
        if k + 2 > limit { return .tooLong }
        looked = 0
        return .line(length: k, consumed: k + 2)
      case UInt8(ascii: "\n"):
        guard mode == .normalize else { return .bareLF(at: k) }
        if k + 1 > limit { return .tooLong }
        looked = 0
        return .line(length: k, consumed: k + 1)
      case 0: return .nul(at: k)
      default: k += 1
      }
      if k > limit { return .tooLong }
    }
    looked = k
    return k >= limit ? .tooLong : .needMore
  }
}
