// SPDX-License-Identifier: Apache-2.0

import Structures

/// The SASL mechanisms that a server's EHLO lists behind AUTH (RFC 4954, 3): of all its AUTH lines together, in their
/// order, each once.
///
/// Names are in upper case with one space between two. Where there are more than a reply's line has room for, whole names are left out, and never PLAIN or
/// LOGIN: hardly a client can do without both.
package struct AuthMechanisms: Sendable, BitwiseCopyable {
  /// What a reply's line of 512 octets has room for behind `250-AUTH ` (RFC 5321, 4.5.3.1.5).
  package static let octetsMax = 500

  private var text = InlineArray<500, UInt8>(repeating: 0)
  private var count: UInt16 = 0
  private var hasPlain = false
  private var hasLogin = false
  /// Whether some were left out because there was no room for them.
  package private(set) var isCut = false

  package init() {}

  package var isEmpty: Bool { count == 0 }

  /// Adds the mechanisms of a list.
  mutating func add(_ bytes: Span<UInt8>, _ list: Range<Int>) {
    var start = list.lowerBound
    while start < list.upperBound {
      let end = bytes.first(0x20, in: start..<list.upperBound) ?? list.upperBound
      addName(bytes, start..<end)
      start = end + 1
    }
  }

  /// Those that are in both lists.
  func common(_ other: AuthMechanisms) -> AuthMechanisms {
    var both = AuthMechanisms()
    let mine = text.span
    var start = 0
    while start < Int(count) {
      let end = mine.first(0x20, in: start..<Int(count)) ?? Int(count)
      if other.contains(mine, start..<end) { both.addName(mine, start..<end) }
      start = end + 1
    }
    both.isCut = isCut || other.isCut
    return both
  }

  /// Adds a mechanism, if that is one (RFC 4422, 3.1) and not there yet.
  private mutating func addName(_ bytes: Span<UInt8>, _ name: Range<Int>) {
    guard bytes.isMechanism(name), !contains(bytes, name) else { return }
    let isPlain = bytes.matches("PLAIN", in: name)
    let isLogin = bytes.matches("LOGIN", in: name)
    // Room for these two is kept until they have come.
    let kept = (hasPlain || isPlain ? 0 : 6) + (hasLogin || isLogin ? 0 : 6)
    guard Int(count) + 1 + name.count + kept <= AuthMechanisms.octetsMax else {
      isCut = true
      return
    }
    hasPlain = hasPlain || isPlain
    hasLogin = hasLogin || isLogin
    if count > 0 { push(0x20) }
    for i in name { push(upper(bytes[i])) }
  }

  private func contains(_ bytes: Span<UInt8>, _ name: Range<Int>) -> Bool {
    var start = 0
    while start < Int(count) {
      var end = start
      while end < Int(count) && text[end] != 0x20 { end += 1 }
      var k = 0
      while k < name.count && start + k < end
        && text[start + k] == upper(bytes[name.lowerBound + k])
      {
        k += 1
      }
      if k == name.count && start + k == end { return true }
      start = end + 1
    }
    return false
  }

  private func upper(_ byte: UInt8) -> UInt8 { isLetter(byte) ? byte & 0xDF : byte }

  private mutating func push(_ byte: UInt8) {
    text[Int(count)] = byte
    count += 1
  }

  /// Appends the names, if they fit.
  func write(into out: inout OutputSpan<UInt8>) -> Bool {
    guard Int(count) <= out.freeCapacity else { return false }
    for i in 0..<Int(count) { out.append(text[i]) }
    return true
  }
}

extension Span where Element == UInt8 {
  /// Calls `body` with each line behind the first of a good reply to EHLO, without its code and trailing space. The
  /// first is the server's name, even if that reads like a keyword.
  func forEachKeywordLine(_ body: (Range<Int>) -> Void) {
    var start = 0
    var isGreeting = true
    while start < count {
      var end = first(carriageReturn, in: start..<count) ?? count
      guard end - start >= 3, self[start] == UInt8(ascii: "2") else { return }
      end = withoutTrailingSpace(start..<end).upperBound
      if !isGreeting && end > start + 4 { body(start + 4..<end) }
      isGreeting = false
      start = (first(lineFeed, in: end..<count) ?? count - 1) + 1
    }
  }

  /// Where the mechanisms stand in a line of an EHLO reply; nil if it is not about AUTH. Behind `AUTH=`, too, as
  /// servers wrote it before RFC 2554.
  func authNames(in line: Range<Int>) -> Range<Int>? {
    guard line.count > 5, matches("AUTH", in: line.prefix(4)) else { return nil }
    let separator = self[line.lowerBound + 4]
    guard separator == 0x20 || separator == UInt8(ascii: "=") else { return nil }
    return line.lowerBound + 5..<line.upperBound
  }

  fileprivate func isMechanism(_ name: Range<Int>) -> Bool {
    guard (1...20).contains(name.count) else { return false }
    for i in name
    where !isAlphanumeric(self[i]) && self[i] != UInt8(ascii: "-") && self[i] != UInt8(ascii: "_") {
      return false
    }
    return true
  }
}
