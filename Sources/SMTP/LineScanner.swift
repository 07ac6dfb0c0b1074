// SPDX-License-Identifier: Apache-2.0

import Structures

/// What looking for the next line found.
package enum LineStep: Equatable, Sendable {
  /// A whole line of `length` octets; the line with its end took `consumed` octets.
  case line(length: Int, consumed: Int)
  /// No line end yet: call again with the same bytes and more behind them.
  case needMore
  /// More octets than the limit without a line end.
  case tooLong
  /// An LF without CR before it, at this index. Strict mode only.
  case bareLF(at: Int)
  /// A CR without LF after it, at this index.
  case bareCR(at: Int)
  /// A NUL, at this index.
  case nul(at: Int)
}

/// How a line may end.
package enum LineEnds: UInt8, Sendable, BitwiseCopyable {
  /// CR LF and nothing else (RFC 5321, 2.3.8).
  case strict
  /// A bare LF ends a line too; a bare CR is still a fault.
  case normalize
}

/// Finds command lines in a buffer of bytes not yet consumed.
///
/// Not a parser and not a buffer: the bytes stay where they are and the caller drops what a line
/// consumed. Invariant: `cursor` octets at the front of the buffer are known to hold no line end and
/// no fault, so a client that drips one octet at a time makes us look at each octet once. Which event
/// comes, and where, does not depend on how the bytes were split. Every fault is final.
package struct LineScanner: Sendable, BitwiseCopyable {
  private var cursor: UInt32 = 0
  package let lineEnds: LineEnds

  package init(lineEnds: LineEnds = .strict) { self.lineEnds = lineEnds }

  /// Looks for the next line at the front of `input`.
  ///
  /// - Parameters:
  ///   - input: the bytes not yet consumed; after `.needMore` it must begin with the same bytes.
  ///   - limit: the most octets a line may have, its line end not counted. The caller's buffer must
  ///     hold `limit` + 2, or a longest line would neither fit nor be refused.
  package mutating func next(in input: Span<UInt8>, limit: Int) -> LineStep {
    var i = Int(cursor)
    invariant(i <= input.count, "bytes vanished from the front of an unfinished line")
    while true {
      i = input.firstLineControl(from: i)
      if i > limit { return .tooLong }
      if i == input.count { return wait(at: i) }
      switch input[i] {
      case carriageReturn:
        if i + 1 == input.count { return wait(at: i) }
        return input[i + 1] == lineFeed ? line(i, consumed: i + 2) : .bareCR(at: i)
      case lineFeed:
        return lineEnds == .normalize ? line(i, consumed: i + 1) : .bareLF(at: i)
      case 0:
        return .nul(at: i)
      default:
        i += 1
      }
    }
  }

  /// Forgets the unfinished line, for when the buffer was emptied by other means (STARTTLS).
  package mutating func reset() { cursor = 0 }

  private mutating func wait(at index: Int) -> LineStep {
    cursor = UInt32(truncatingIfNeeded: index)
    return .needMore
  }

  private mutating func line(_ length: Int, consumed: Int) -> LineStep {
    cursor = 0
    return .line(length: length, consumed: consumed)
  }
}
