// SPDX-License-Identifier: Apache-2.0
package import Structures

/// What one logical line of a `cidr_table(5)` file says, parsed from bytes.
///
/// Not aware of any other line: nesting and order are `CIDRReader`'s business. Kept: the ranges lie in
/// the bytes that were parsed, and neither is empty.
enum CIDRLine {
  case rule(CIDRPattern, pattern: Range<Int>, result: Range<Int>)
  /// `extra` is where text begins that has no business there: an error, but the block counts.
  case beginIf(CIDRPattern, pattern: Range<Int>, extra: Int?)
  case endIf(extra: Int?)
}

/// A network or, negated, the rest of its address family.
package struct CIDRPattern: Hashable, Sendable, BitwiseCopyable {
  package let block: AddressBlock
  package let isNegated: Bool
}

/// What is wrong with a line, and at which byte.
struct CIDRLineError: Error {
  let offset: Int
  let reason: String
  let hint: String
}

extension CIDRLine {
  /// - Parameters:
  ///   - bytes: comments and line ends are not expected between `start` and `end`.
  ///   - start: a byte that is not white space.
  ///   - end: after the last byte that is not white space.
  init(_ bytes: Span<UInt8>, _ start: Int, _ end: Int) throws(CIDRLineError) {
    if CIDRLine.hasWord("endif", bytes, start, end) {
      self = .endIf(extra: start + 5 < end ? CIDRLine.skipSpace(bytes, start + 5, end) : nil)
      return
    }
    if CIDRLine.hasWord("if", bytes, start, end) {
      var cursor = CIDRLine.skipSpace(bytes, start + 2, end)
      if cursor == end {
        throw CIDRLineError(
          offset: start, reason: "`if` without a network", hint: "write: if 192.0.2.0/24")
      }
      let first = cursor
      let pattern = try CIDRPattern(bytes, &cursor, end)
      let extra = cursor < end ? CIDRLine.skipSpace(bytes, cursor, end) : nil
      self = .beginIf(pattern, pattern: first..<cursor, extra: extra)
      return
    }
    var cursor = start
    let pattern = try CIDRPattern(bytes, &cursor, end)
    let result = CIDRLine.skipSpace(bytes, cursor, end)
    if result == end {
      throw CIDRLineError(
        offset: end, reason: "a network without a result",
        hint: "write the result after it, separated by white space")
    }
    self = .rule(pattern, pattern: start..<cursor, result: result..<end)
  }

  /// Whether the word stands here, in any letter case, and nothing that would make it another word.
  private static func hasWord(
    _ word: String, _ bytes: Span<UInt8>, _ start: Int, _ end: Int
  ) -> Bool {
    var cursor = start
    for letter in word.utf8 {
      guard cursor < end, bytes[cursor] | 0x20 == letter else { return false }
      cursor += 1
    }
    return cursor == end || isSpace(bytes[cursor]) || bytes[cursor] == UInt8(ascii: "!")
  }

  static func skipSpace(_ bytes: Span<UInt8>, _ start: Int, _ end: Int) -> Int {
    var cursor = start
    while cursor < end && isSpace(bytes[cursor]) { cursor += 1 }
    return cursor
  }
}

@inline(__always)
func isSpace(_ byte: UInt8) -> Bool { byte == 32 || byte == 9 || byte == 13 }

@inline(__always)
func isDigit(_ byte: UInt8) -> Bool { byte &- 48 < 10 }

/// The bytes as text for a message, cut at 60.
func quoted(_ bytes: Span<UInt8>, _ start: Int, _ end: Int) -> String {
  var copy: [UInt8] = []
  for i in start..<min(end, start + 60) { copy.append(bytes[i]) }
  return "\"" + String(decoding: copy, as: UTF8.self) + "\""
}

extension CIDRPattern {
  /// Reads `[!] address[/length]`, the address in square brackets or not, up to white space.
  ///
  /// - Parameter cursor: the first byte; afterwards the byte behind the pattern.
  init(_ bytes: Span<UInt8>, _ cursor: inout Int, _ end: Int) throws(CIDRLineError) {
    var negated = false
    while cursor < end
      && (bytes[cursor] == UInt8(ascii: "!") || (negated && isSpace(bytes[cursor])))
    {
      if bytes[cursor] == UInt8(ascii: "!") { negated.toggle() }
      cursor += 1
    }
    let token = cursor
    while cursor < end && !isSpace(bytes[cursor]) { cursor += 1 }
    let tokenEnd = cursor
    if token == tokenEnd {
      throw CIDRLineError(
        offset: token, reason: "`!` without a network", hint: "write: !192.0.2.0/24")
    }
    var first = token
    var last = token
    var slash: Int?
    if bytes[token] == UInt8(ascii: "[") {
      first = token + 1
      last = first
      while last < tokenEnd && bytes[last] != UInt8(ascii: "]") { last += 1 }
      if last == tokenEnd {
        throw CIDRLineError(
          offset: token, reason: "`[` without `]`", hint: "write: [2001:db8::]/32")
      }
      if last + 1 < tokenEnd {
        guard bytes[last + 1] == UInt8(ascii: "/") else {
          throw CIDRLineError(
            offset: last + 1, reason: "only a prefix length may follow `]`",
            hint: "write: [2001:db8::]/32")
        }
        slash = last + 1
      }
    } else {
      while last < tokenEnd && bytes[last] != UInt8(ascii: "/") { last += 1 }
      if last < tokenEnd { slash = last }
    }
    let address = try CIDRPattern.address(bytes, first, last)
    block = try CIDRPattern.block(address, slash, tokenEnd, bytes, (first, last))
    isNegated = negated
  }

  private struct ParsedAddress {
    var bits: UInt128
    /// Written with dots only; an IPv6 text may still mean an IPv4 address.
    var isDotted: Bool
  }

  private static func block(
    _ address: ParsedAddress, _ slash: Int?, _ end: Int, _ bytes: Span<UInt8>,
    _ text: (first: Int, last: Int)
  ) throws(CIDRLineError) -> AddressBlock {
    let width = address.isDotted ? 32 : 128
    var length = width
    if let slash {
      length = 0
      var cursor = slash + 1
      while cursor < end && isDigit(bytes[cursor]) && length <= width {
        length = length * 10 + Int(bytes[cursor] - 48)
        cursor += 1
      }
      if cursor < end || slash + 1 == end || length > width {
        throw CIDRLineError(
          offset: slash + 1,
          reason:
            "the prefix length \(quoted(bytes, slash + 1, end)) is not a number from 0 to \(width)",
          hint: address.isDotted
            ? netmaskLength(bytes, slash + 1, end).map {
              "write \(AddressBlock(bits: address.bits, depth: $0 + 96, isIPv4: true).address)/\($0)"
            } ?? "write a length such as /24"
            : "write a length such as /64")
      }
    }
    // A mapped IPv4 network is the IPv4 network: addresses of clients are folded in the same way.
    let isMapped = address.bits >> 32 == 0xFFFF
    let depth = address.isDotted ? length + 96 : length
    let block = AddressBlock(
      bits: address.bits, depth: depth, isIPv4: address.isDotted || (isMapped && depth >= 96))
    if block.bits != address.bits {
      throw CIDRLineError(
        offset: text.first,
        reason: "\(quoted(bytes, text.first, text.last)) has bits set after the first \(length)",
        hint: "write \(block.address)/\(length) for the network, "
          + "or leave /\(length) out for the one address")
    }
    return block
  }

  /// The length that a netmask (255.255.252.0) or a wildcard mask (0.0.3.255) stands for; nil if it is neither.
  private static func netmaskLength(_ bytes: Span<UInt8>, _ first: Int, _ last: Int) -> Int? {
    guard let mask = try? ipv4(bytes, first, last) else { return nil }
    for bits in [mask, ~mask] {
      let length = (~bits).leadingZeroBitCount
      if bits.leadingZeroBitCount == 0, length == bits.nonzeroBitCount { return length }
    }
    return nil
  }

  private static func address(
    _ bytes: Span<UInt8>, _ first: Int, _ last: Int
  ) throws(CIDRLineError) -> ParsedAddress {
    for i in first..<last where bytes[i] == UInt8(ascii: ":") {
      return ParsedAddress(bits: try ipv6(bytes, first, last), isDotted: false)
    }
    let v4 = try ipv4(bytes, first, last)
    return ParsedAddress(bits: 0xFFFF_0000_0000 | UInt128(v4), isDotted: true)
  }

  private static func ipv4(
    _ bytes: Span<UInt8>, _ first: Int, _ last: Int
  ) throws(CIDRLineError) -> UInt32 {
    var bits: UInt32 = 0
    var octets = 0
    var cursor = first
    while true {
      let start = cursor
      var value: UInt32 = 0
      while cursor < last && isDigit(bytes[cursor]) && cursor - start < 9 {
        value = value * 10 + UInt32(bytes[cursor] - 48)
        cursor += 1
      }
      if cursor == start || (cursor < last && bytes[cursor] != UInt8(ascii: ".")) {
        throw notAnAddress(bytes, first, last)
      }
      if bytes[start] == 48 && cursor - start > 1 {
        throw leadingZero(bytes, start, cursor, first, last)
      }
      if value > 255 {
        throw CIDRLineError(
          offset: start,
          reason: "\(value) is more than the 255 that fit into one part of an address",
          hint: "write four numbers from 0 to 255, such as 192.0.2.1")
      }
      octets += 1
      if octets > 4 { throw notAnAddress(bytes, first, last) }
      bits = bits << 8 | value
      if cursor == last { break }
      cursor += 1
    }
    if octets < 4 {
      let full = "\((bits << UInt32(8 * (4 - octets))) >> 24)"
      throw CIDRLineError(
        offset: first,
        reason: "\(quoted(bytes, first, last)) has \(octets) of the four parts of an IPv4 address",
        hint: "write all four, such as \(full).0.0.0/8 for a network")
    }
    return bits
  }

  private static func leadingZero(
    _ bytes: Span<UInt8>, _ start: Int, _ end: Int, _ first: Int, _ last: Int
  ) -> CIDRLineError {
    var octal: UInt32? = 0
    var plain: [UInt8] = []
    for i in start..<end {
      let digit = UInt32(bytes[i] - 48)
      octal = octal.flatMap { digit < 8 ? $0 * 8 + digit : nil }
      if !plain.isEmpty || digit != 0 || i == end - 1 { plain.append(bytes[i]) }
    }
    let decimal = String(decoding: plain, as: UTF8.self)
    let meant = octal.map { "octal, that is as \($0)" } ?? "octal, which it is not"
    return CIDRLineError(
      offset: start,
      reason: "\(quoted(bytes, start, end)) starts with a zero: Postfix would read it as \(meant), "
        + "people read it as \(decimal)",
      hint: "write \(decimal)\(octal.map { $0 == UInt32(decimal) ? "" : " or \($0)" } ?? ""), "
        + "without the zero in front")
  }

  private static func notAnAddress(_ bytes: Span<UInt8>, _ first: Int, _ last: Int) -> CIDRLineError
  {
    CIDRLineError(
      offset: first, reason: "\(quoted(bytes, first, last)) is not an address",
      hint: "write an IPv4 or IPv6 network first, such as 192.0.2.0/24 or 2001:db8::/32; "
        + "names are not looked up here")
  }

  /// RFC 4291, 2.2: eight groups of hexadecimal digits, one run of zero groups written as "::", the
  /// last two groups perhaps as a dotted quad.
  private static func ipv6(
    _ bytes: Span<UInt8>, _ first: Int, _ last: Int
  ) throws(CIDRLineError) -> UInt128 {
    var before: UInt128 = 0
    var groups = 0
    /// How many groups stood before the "::".
    var gap: Int?
    var cursor = first
    func fail(_ reason: String) -> CIDRLineError {
      CIDRLineError(
        offset: first, reason: "\(quoted(bytes, first, last)) is not an IPv6 address: \(reason)",
        hint: "write eight groups of up to four hexadecimal digits, or fewer with one \"::\", "
          + "such as 2001:db8::/32")
    }
    if cursor + 1 < last && bytes[cursor] == 58 && bytes[cursor + 1] == 58 {
      gap = 0
      cursor += 2
    }
    while cursor < last {
      let start = cursor
      var value: UInt128 = 0
      while cursor < last, let digit = hexDigit(bytes[cursor]), cursor - start < 4 {
        value = value << 4 | UInt128(digit)
        cursor += 1
      }
      if cursor < last && bytes[cursor] == UInt8(ascii: ".") {
        before = before << 32 | UInt128(try ipv4(bytes, start, last))
        groups += 2
        cursor = last
        break
      }
      if cursor == start { throw fail("a group is empty or holds a strange character") }
      before = before << 16 | value
      groups += 1
      if groups > 8 { throw fail("it has more than eight groups") }
      if cursor == last { break }
      if bytes[cursor] != 58 { throw fail("a group is too long or holds a strange character") }
      cursor += 1
      if cursor < last && bytes[cursor] == 58 {
        if gap != nil { throw fail("\"::\" occurs twice") }
        gap = groups
        cursor += 1
      } else if cursor == last {
        throw fail("it ends with a single colon")
      }
    }
    guard let gap else {
      if groups != 8 { throw fail("it has \(groups) groups and no \"::\"") }
      return before
    }
    if groups > 7 { throw fail("\"::\" stands for nothing") }
    let after = groups - gap
    let tail = after == 0 ? 0 : before & (UInt128.max >> UInt128(128 - 16 * after))
    let head = gap == 0 ? 0 : (before >> UInt128(16 * after)) << UInt128(128 - 16 * gap)
    return head | tail
  }

  private static func hexDigit(_ byte: UInt8) -> UInt8? {
    switch byte {
    case 48...57: byte - 48
    case 65...70: byte - 55
    case 97...102: byte - 87
    default: nil
    }
  }
}
