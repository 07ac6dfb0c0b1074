// SPDX-License-Identifier: Apache-2.0
import SMTP

/// Finds the end of a message, CR LF . CR LF, and goes on where a strict reader would stop: bare CR, bare LF and NUL are
/// counted, and end nothing. Not the engine's automaton, which stops at the first of them; what the two make of the same
/// octets is compared in `MessageReaderTests`.
package struct MessageReader: BitwiseCopyable, Sendable {
  /// What the octets before mean for the next one.
  private enum Place: BitwiseCopyable { case lineStart, dot, dotCR, text, cr }

  private var place = Place.lineStart
  /// Of the message without the dots that stuff it and without the dot that ends it.
  package private(set) var size = 0
  package private(set) var bare = BareOctets()

  package init() {}

  /// Reads octets of a message.
  ///
  /// - Returns: how many of them belong to it if it ends here, the final dot's line included; nil if it goes on.
  package mutating func read(_ bytes: Span<UInt8>) -> Int? {
    var k = 0
    while k < bytes.count {
      let byte = bytes[k]
      switch place {
      case .lineStart where byte == 46:
        place = .dot
        k += 1
      case .dot where byte == 13:
        place = .dotCR
        k += 1
      case .dotCR where byte == 10:
        return k + 1
      case .dotCR:
        // The CR was not the end after all: it belongs to the message.
        size += 1
        place = .cr
      case .cr where byte == 10:
        size += 1
        k += 1
        place = .lineStart
      case .lineStart, .dot, .text, .cr:
        if place == .cr { bare.cr += 1 }
        var end = bytes.firstLineControl(from: k)
        // Line after line: only a dot first in one needs the automaton.
        while end &+ 2 < bytes.count && bytes[end] == 13 && bytes[end &+ 1] == 10
          && bytes[end &+ 2] != 46
        {
          end = bytes.firstLineControl(from: end &+ 2)
        }
        size += end - k
        k = end
        place = .text
        if k < bytes.count {
          if bytes[k] == 13 { place = .cr }
          if bytes[k] == 10 { bare.lf += 1 }
          if bytes[k] == 0 { bare.nul += 1 }
          size += 1
          k += 1
        }
      }
    }
    return nil
  }

  /// The connection ends in the middle of the message.
  package mutating func cutOff() {
    if place == .cr || place == .dotCR { bare.cr += 1 }
  }

  /// A message as it came, without its stuffing and its final dot (RFC 5321, 4.5.2).
  package static func unstuffed(_ message: [UInt8]) -> [UInt8] {
    var text: [UInt8] = []
    text.reserveCapacity(message.count)
    var isLineStart = true
    for k in message.indices.dropLast(3) {
      if !(isLineStart && message[k] == 46) { text.append(message[k]) }
      isLineStart = message[k] == 10 && k > 0 && message[k - 1] == 13
    }
    return text
  }
}

/// Octets that no client may send by themselves (RFC 5321, 2.3.8).
package struct BareOctets: BitwiseCopyable, Sendable, Equatable {
  package var lf = 0
  package var cr = 0
  package var nul = 0

  package var sum: Int { lf + cr + nul }

  static func += (all: inout BareOctets, more: BareOctets) {
    all.lf += more.lf
    all.cr += more.cr
    all.nul += more.nul
  }
}
