// SPDX-License-Identifier: Apache-2.0

// Searching, folding, comparing and copying of bytes for the parsers of this module. Not a text
// library: nothing here knows about characters, and nothing allocates. Invariant: every read is inside
// the span and every write inside the output's capacity; the only memory touched without the compiler's
// help is in `firstLineControl`, `appendRun` and `Keyword`, each with its proof beside it.

package let carriageReturn: UInt8 = 0x0D
package let lineFeed: UInt8 = 0x0A

extension Span where Element == UInt8 {
  /// The index of the first octet ≤ 13 at or after `start`, or `count`.
  ///
  /// CR, LF and NUL are all ≤ 13, so one comparison finds the three; TAB and a few more are false
  /// hits, sorted out by the caller. Three exact comparisons were tried on paper: they cost twice as
  /// much on every block to save a branch on the rare TAB.
  ///
  /// Safe: `start` ≥ 0 is checked and `i` only grows from it, the loop's condition keeps i + 32 ≤
  /// `count`, any bit pattern is a `SIMD16<UInt8>`, and the casts are between types of 16 octets
  /// without padding. (The checked load costs 9 instructions in a loop of 16.)
  @inline(__always)
  package func firstLineControl(from start: Int) -> Int {
    precondition(start >= 0, "a search begins inside the span")
    let raw = self.bytes
    var i = start
    let limit = SIMD16<UInt8>(repeating: 13)
    while i &+ 32 <= count {
      let inA =
        raw.unsafeLoadUnaligned(fromUncheckedByteOffset: i, as: SIMD16<UInt8>.self) .<= limit
      if isSet(inA) { return i &+ firstLane(inA) }
      let inB =
        raw.unsafeLoadUnaligned(fromUncheckedByteOffset: i &+ 16, as: SIMD16<UInt8>.self) .<= limit
      if isSet(inB) { return i &+ 16 &+ firstLane(inB) }
      i &+= 32
    }
    while i < count && self[i] > 13 { i &+= 1 }
    return i
  }

  /// The index of the first octet in `range` that is not printable ASCII or SP, or the range's end.
  func firstUnprintable(in range: Range<Int>) -> Int {
    var i = range.lowerBound
    while i < range.upperBound && self[i] &- 0x20 < 0x5F { i += 1 }
    return i
  }

  /// Whether an octet of `range` is a control octet (below SP, or DEL).
  func hasControl(in range: Range<Int>, butTab: Bool = false) -> Bool {
    for i in range where self[i] < 0x20 || self[i] == 0x7F {
      if !(butTab && self[i] == 0x09) { return true }
    }
    return false
  }

  /// Whether `index` is inside `range` and holds SP or TAB.
  @inline(__always)
  func isBlank(at index: Int, in range: Range<Int>) -> Bool {
    index < range.upperBound && (self[index] == 0x20 || self[index] == 0x09)
  }

  /// The first SP or TAB in `range`, or the range's end.
  func firstBlank(in range: Range<Int>) -> Int {
    var i = range.lowerBound
    while i < range.upperBound && !isBlank(at: i, in: range) { i += 1 }
    return i
  }

  /// The first octet in `range` that is neither SP nor TAB, or the range's end.
  func skippingBlanks(in range: Range<Int>) -> Int {
    var i = range.lowerBound
    while isBlank(at: i, in: range) { i += 1 }
    return i
  }

  /// Whether an octet of `range` has its eighth bit set.
  func hasEightBit(in range: Range<Int>) -> Bool {
    for i in range where self[i] >= 0x80 { return true }
    return false
  }

  /// `range` without the SP and TAB at its end (RFC 5321, 4.1.1: tolerate trailing white space).
  func withoutTrailingSpace(_ range: Range<Int>) -> Range<Int> {
    var end = range.upperBound
    while end > range.lowerBound, self[end - 1] == 0x20 || self[end - 1] == 0x09 { end -= 1 }
    return range.lowerBound..<end
  }

  /// The first index in `range` that holds `byte`, or nil.
  func first(_ byte: UInt8, in range: Range<Int>) -> Int? {
    for i in range where self[i] == byte { return i }
    return nil
  }

  /// A decimal number of 1…20 digits, or nil if it is something else.
  ///
  /// - Returns: `.max` when the digits are good but the value does not fit: too big stays too big.
  func decimal(in range: Range<Int>) -> UInt64? {
    guard (1...20).contains(range.count) else { return nil }
    var value: UInt64 = 0
    var overflowed = false
    for i in range {
      let digit = self[i] &- 0x30
      guard digit < 10 else { return nil }
      let (product, carry) = value.multipliedReportingOverflow(by: 10)
      let (sum, carry2) = product.addingReportingOverflow(UInt64(digit))
      if carry || carry2 { overflowed = true }
      value = sum
    }
    return overflowed ? .max : value
  }

  /// Whether `range` is well-formed UTF-8 (RFC 3629, 4: no overlong forms, surrogates, or beyond
  /// U+10FFFF).
  func isUTF8(in range: Range<Int>) -> Bool {
    var i = range.lowerBound
    while i < range.upperBound {
      let lead = self[i]
      i += 1
      if lead < 0x80 { continue }
      let more: Int
      // The second octet carries the restrictions, the others are plain continuations.
      var low: UInt8 = 0x80
      var high: UInt8 = 0xBF
      switch lead {
      case 0xC2...0xDF: more = 1
      case 0xE0: (more, low) = (2, 0xA0)
      case 0xE1...0xEC, 0xEE, 0xEF: more = 2
      case 0xED: (more, high) = (2, 0x9F)
      case 0xF0: (more, low) = (3, 0x90)
      case 0xF1...0xF3: more = 3
      case 0xF4: (more, high) = (3, 0x8F)
      default: return false
      }
      guard range.upperBound - i >= more, self[i] >= low, self[i] <= high else { return false }
      for j in 1..<3 where j < more {
        guard self[i + j] & 0xC0 == 0x80 else { return false }
      }
      i += more
    }
    return true
  }

  /// Whether `range` reads as `text`, ASCII case aside.
  func matches(_ text: StaticString, in range: Range<Int>) -> Bool {
    guard range.count == text.utf8CodeUnitCount else { return false }
    // A StaticString's bytes live as long as the program; the index stays below its count.
    for i in 0..<range.count
    where lowercased(self[range.lowerBound + i]) != lowercased(text.utf8Start[i]) {
      return false
    }
    return true
  }
}

/// Whether two runs of bytes are equal, ASCII case aside; the octets beyond ASCII must be the same.
package func equalsIgnoringCase(_ a: Span<UInt8>, _ b: Span<UInt8>) -> Bool {
  guard a.count == b.count else { return false }
  for i in 0..<a.count where lowercased(a[i]) != lowercased(b[i]) { return false }
  return true
}

/// Whether any lane of a mask is set: one comparison, where `any` becomes a call in code that is not inlined.
@inline(__always)
private func isSet(_ mask: SIMDMask<SIMD16<Int8>>) -> Bool {
  unsafeBitCast(mask, to: UInt128.self) != 0
}

/// The first lane of a mask that is set, of one that has any.
@inline(__always)
private func firstLane(_ mask: SIMDMask<SIMD16<Int8>>) -> Int {
  unsafeBitCast(mask, to: UInt128.self).littleEndian.trailingZeroBitCount / 8
}

extension StaticString {
  /// The octet at `index`. A StaticString's bytes live as long as the program.
  @inline(__always)
  func octet(_ index: Int) -> UInt8 {
    precondition(index >= 0 && index < utf8CodeUnitCount, "an octet outside a literal")
    return utf8Start[index]
  }
}

@inline(__always)
func lowercased(_ byte: UInt8) -> UInt8 { byte &- 0x41 < 26 ? byte | 0x20 : byte }

@inline(__always)
func isLetter(_ byte: UInt8) -> Bool { (byte | 0x20) &- 0x61 < 26 }

@inline(__always)
func isDigit(_ byte: UInt8) -> Bool { byte &- 0x30 < 10 }

@inline(__always)
func isAlphanumeric(_ byte: UInt8) -> Bool { isLetter(byte) || isDigit(byte) }

/// A word of up to 16 letters, digits and hyphens, case folded into one number, so that a `switch` over
/// keywords is a row of integer comparisons.
///
/// Clearing bit 5 folds case. It would also fold `-` to CR and digits to other control octets, which
/// is unambiguous only because `init` is given nothing but letters, digits and hyphens.
struct Keyword: Equatable, ExpressibleByStringLiteral {
  let bits: UInt128

  /// Fails if the range is empty, longer than 16, or has octets that no keyword has.
  @inline(__always)
  init?(_ bytes: Span<UInt8>, in range: Range<Int>) {
    guard range.count <= 16, !range.isEmpty else { return nil }
    var bits: UInt128 = 0
    for i in range {
      let byte = bytes[i]
      guard isAlphanumeric(byte) || byte == UInt8(ascii: "-") else { return nil }
      bits = bits << 8 | UInt128(byte & 0xDF)
    }
    self.bits = bits
  }

  /// Folds to a constant in optimised builds. Safe: the index stays below the literal's own count.
  @inline(__always)
  init(stringLiteral text: StaticString) {
    var bits: UInt128 = 0
    for i in 0..<text.utf8CodeUnitCount {
      bits = bits << 8 | UInt128(text.utf8Start[i] & 0xDF)
    }
    self.bits = bits
  }
}

extension OutputSpan where Element == UInt8 {
  /// Appends `range` of `bytes` in one copy.
  ///
  /// Safe: room is checked before, `range` is checked against the span by `extracting`, and the two
  /// cannot overlap since the output is exclusively held.
  @inline(__always)
  mutating func appendRun(_ bytes: Span<UInt8>, in range: Range<Int>) {
    precondition(range.count <= freeCapacity, "no room for the run")
    if range.isEmpty { return }
    let run = bytes.extracting(range)
    withUnsafeMutableBufferPointer { buffer, used in
      run.withUnsafeBufferPointer { source in
        guard let from = source.baseAddress, let to = buffer.baseAddress else { return }
        (to + used).initialize(from: from, count: source.count)
        used += source.count
      }
    }
  }

  /// Appends octets if all of them fit.
  package mutating func appendAll(_ bytes: Span<UInt8>) -> Bool {
    if bytes.count > freeCapacity { return false }
    appendRun(bytes, in: bytes.indices)
    return true
  }

  /// Appends a literal if it fits.
  package mutating func appendLiteral(_ text: StaticString) -> Bool {
    guard text.utf8CodeUnitCount <= freeCapacity else { return false }
    for i in 0..<text.utf8CodeUnitCount { append(text.utf8Start[i]) }
    return true
  }

  /// Appends a number in decimal if it fits.
  package mutating func appendDecimal(_ value: UInt64) -> Bool {
    var divisor: UInt64 = 1
    var digits = 1
    while value / divisor >= 10 {
      divisor *= 10
      digits += 1
    }
    guard digits <= freeCapacity else { return false }
    while divisor > 0 {
      append(UInt8(truncatingIfNeeded: 0x30 + value / divisor % 10))
      divisor /= 10
    }
    return true
  }

  /// Appends octets from the peer to a line, or refuses.
  ///
  /// The one gate through which a peer's bytes get into a line of ours (docs/reliability.md; CWE-93):
  /// no control octet passes, so no argument can end the line and begin another.
  ///
  /// - Returns: false, with nothing appended, if a control octet is found or there is no room.
  package mutating func appendToken(_ bytes: Span<UInt8>, in range: Range<Int>) -> Bool {
    guard range.count <= freeCapacity, !bytes.hasControl(in: range) else { return false }
    appendRun(bytes, in: range)
    return true
  }

  /// Appends CR LF if it fits.
  package mutating func appendLineEnd() -> Bool {
    guard freeCapacity >= 2 else { return false }
    append(carriageReturn)
    append(lineFeed)
    return true
  }
}
