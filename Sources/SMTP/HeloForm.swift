// SPDX-License-Identifier: Apache-2.0

package import Structures

/// What kind of name a client gives itself in HELO or EHLO (RFC 5321, 4.1.1.1).
///
/// A classification of the bytes, not a verdict and not a look-up: whether the name exists, or fits the
/// client's address, is for others. Invariant: a form other than `invalid` means that the argument is
/// printable ASCII without spaces, at most 255 octets, and safe to put into a line or a log.
package enum HeloForm: Equatable, Sendable {
  /// Two labels or more, as RFC 5321, 2.3.5 wants it.
  case fullyQualified
  /// One label: `WIN-4F2K`, `friend`. What worms and misconfigured hosts say.
  case bareWord
  /// `[192.0.2.1]`, `[IPv6:2001:db8::1]` (RFC 5321, 4.1.3). Nil: brackets around something else.
  case addressLiteral(Address?)
  /// An address that should have had brackets.
  case bareAddress(Address)
  /// `localhost`, `localhost.localdomain`, or below `.localhost` (RFC 6761, 6.3): true of every host.
  case localhost
  /// Empty, longer than 255, illegal octets, an empty or overlong label, a hyphen at a label's edge,
  /// or a last label of digits only (no top-level domain is; RFC 3696, 2).
  case invalid

  package static let octetsMax = 255

  package init(_ argument: Span<UInt8>) {
    let all = 0..<argument.count
    guard (1...HeloForm.octetsMax).contains(argument.count) else {
      self = .invalid
      return
    }
    if argument[0] == UInt8(ascii: "[") {
      self = HeloForm.literal(argument)
    } else if let address = Address(bytes: argument, in: all) {
      self = .bareAddress(address)
    } else {
      self = HeloForm.name(argument)
    }
  }

  private static func literal(_ argument: Span<UInt8>) -> HeloForm {
    let end = argument.count - 1
    guard end >= 2, argument[end] == UInt8(ascii: "]") else { return .invalid }
    let tag = min(6, end)
    // Without the tag an IPv6 literal breaks the grammar, but says the same; common enough to read.
    let start = argument.matches("IPv6:", in: 1..<tag) ? 6 : 1
    for i in 1..<end {
      guard argument[i] > 0x20, argument[i] < 0x7F, !(0x5B...0x5D).contains(argument[i]) else {
        return .invalid
      }
    }
    let address = Address(bytes: argument, in: start..<end)
    if start == 6, let address, address.isIPv4, !argument.hasColon(in: 6..<end) {
      return .addressLiteral(nil)
    }
    return .addressLiteral(address)
  }

  private static func name(_ argument: Span<UInt8>) -> HeloForm {
    let end = nameEnd(argument)
    var labels = 0
    var start = 0
    var allDigits = false
    while true {
      let labelEnd = argument.first(UInt8(ascii: "."), in: start..<end) ?? end
      guard isLabel(argument, start..<labelEnd) else { return .invalid }
      allDigits = true
      for i in start..<labelEnd where !isDigit(argument[i]) { allDigits = false }
      labels += 1
      if labelEnd == end { break }
      start = labelEnd + 1
    }
    if allDigits { return .invalid }
    let last = argument.matches("localhost", in: start..<end)
    if last || argument.matches("localhost.localdomain", in: 0..<end) { return .localhost }
    return labels == 1 ? .bareWord : .fullyQualified
  }

  /// Letters, digits and hyphens (RFC 1034, 3.5), and the underscore that Windows hosts have.
  private static func isLabel(_ argument: Span<UInt8>, _ label: Range<Int>) -> Bool {
    guard (1...63).contains(label.count), argument[label.lowerBound] != UInt8(ascii: "-"),
      argument[label.upperBound - 1] != UInt8(ascii: "-")
    else { return false }
    for i in label {
      guard
        isAlphanumeric(argument[i]) || argument[i] == UInt8(ascii: "-")
          || argument[i] == UInt8(ascii: "_")
      else { return false }
    }
    return true
  }
}

/// Where the name ends: before one trailing dot, if there is one.
private func nameEnd(_ argument: Span<UInt8>) -> Int {
  let count = argument.count
  return count > 1 && argument[count - 1] == UInt8(ascii: ".") ? count - 1 : count
}

/// The part of a fully qualified name that stands for whoever runs the host; nil for other forms.
///
/// A heuristic, used for reputation only and never for trust: the last two labels, or the last three
/// when the last has two letters and the one before at most three (`co.uk`, `com.br`). It errs towards
/// too long a name for `ab.de`-like owners (`mail.ab.de` keeps three), which splits a history and
/// never merges two. The Public Suffix List would be right and is 200 KB that age.
package func heloDomain(_ argument: Span<UInt8>) -> Range<Int>? {
  guard HeloForm(argument) == .fullyQualified else { return nil }
  let end = nameEnd(argument)
  let last = labelStart(argument, before: end)
  let second = labelStart(argument, before: last - 1)
  if second > 0 && end - last == 2 && last - 1 - second <= 3 {
    return labelStart(argument, before: second - 1)..<end
  }
  return second..<end
}

private func labelStart(_ argument: Span<UInt8>, before end: Int) -> Int {
  var i = end
  while i > 0 && argument[i - 1] != UInt8(ascii: ".") { i -= 1 }
  return i
}

extension Span where Element == UInt8 {
  fileprivate func hasColon(in range: Range<Int>) -> Bool {
    first(UInt8(ascii: ":"), in: range) != nil
  }
}

extension Address {
  /// Reads an address from bytes: the same texts as `Address(_: some StringProtocol)`, which
  /// allocates and so is for configuration; this one is for what clients send.
  package init?(bytes: Span<UInt8>, in range: Range<Int>) {
    if bytes.first(UInt8(ascii: ":"), in: range) == nil {
      guard let bits = dottedQuad(bytes, range) else { return nil }
      self.init(v4: bits)
    } else {
      guard let (high, low) = colonGroups(bytes, range) else { return nil }
      self.init(high: high, low: low)
    }
  }
}

/// Four decimal numbers without leading zeros, which some read as octal.
private func dottedQuad(_ bytes: Span<UInt8>, _ range: Range<Int>) -> UInt32? {
  guard range.count <= 15 else { return nil }
  var bits: UInt32 = 0
  var start = range.lowerBound
  for part in 0..<4 {
    let dot = bytes.first(UInt8(ascii: "."), in: start..<range.upperBound)
    let end = dot ?? range.upperBound
    guard (dot == nil) == (part == 3), end - start <= 3,
      let value = bytes.decimal(in: start..<end), value < 256,
      end - start == 1 || bytes[start] != UInt8(ascii: "0")
    else { return nil }
    bits = bits << 8 | UInt32(value)
    start = min(end + 1, range.upperBound)
  }
  return bits
}

/// RFC 4291, 2.2: eight groups, at most one `::`, and perhaps a dotted tail.
private func colonGroups(_ bytes: Span<UInt8>, _ range: Range<Int>) -> (UInt64, UInt64)? {
  let colon = UInt8(ascii: ":")
  let end = range.upperBound
  guard (2...45).contains(range.count) else { return nil }
  var all: UInt128 = 0
  var groups = 0
  var gap: Int? = nil
  var i = range.lowerBound
  if bytes[i] == colon {
    guard bytes[i + 1] == colon else { return nil }
    gap = 0
    i += 2
  }
  while i < end {
    let groupEnd = bytes.first(colon, in: i..<end) ?? end
    if groupEnd == end && bytes.first(UInt8(ascii: "."), in: i..<end) != nil {
      guard groups <= 6, let quad = dottedQuad(bytes, i..<end) else { return nil }
      all = all << 32 | UInt128(quad)
      groups += 2
      break
    }
    guard groups < 8, let value = hexGroup(bytes, i..<groupEnd) else { return nil }
    all = all << 16 | UInt128(value)
    groups += 1
    if groupEnd == end { break }
    i = groupEnd + 1
    if i == end { return nil }
    if bytes[i] == colon {
      guard gap == nil else { return nil }
      gap = groups
      i += 1
    }
  }
  if let gap {
    guard groups < 8 else { return nil }
    // Everything behind the gap stays at the low end; what is before moves up.
    let behind = UInt128(16 * (groups - gap))
    let low = all & ((UInt128(1) << behind) - 1)
    all = gap == 0 ? low : (all >> behind) << UInt128(16 * (8 - gap)) | low
  } else if groups != 8 {
    return nil
  }
  return (UInt64(truncatingIfNeeded: all >> 64), UInt64(truncatingIfNeeded: all))
}

private func hexGroup(_ bytes: Span<UInt8>, _ range: Range<Int>) -> UInt16? {
  guard (1...4).contains(range.count) else { return nil }
  var value: UInt16 = 0
  for i in range {
    let byte = bytes[i]
    let digit: UInt8
    switch byte {
    case 0x30...0x39: digit = byte - 0x30
    case 0x41...0x46: digit = byte - 0x37
    case 0x61...0x66: digit = byte - 0x57
    default: return nil
    }
    value = value << 4 | UInt16(digit)
  }
  return value
}
