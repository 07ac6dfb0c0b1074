// SPDX-License-Identifier: Apache-2.0

/// An IPv4 or IPv6 address in one 128-bit shape; IPv4 is kept in its mapped form (::ffff:a.b.c.d).
///
/// Folding the mapped form means that an IPv4 client on a dual-stack socket and the same client on an
/// IPv4 socket are one source with one history.
@frozen
public struct Address: Hashable, Sendable {
  /// The first 64 bits, in host order; 0 for IPv4.
  public var high: UInt64
  /// The last 64 bits, in host order.
  public var low: UInt64

  /// An address from its 128 bits in host order.
  @inlinable
  public init(high: UInt64, low: UInt64) {
    self.high = high
    self.low = low
  }

  /// An IPv4 address from its 32 bits in host order: 192.0.2.1 is 0xC0000201.
  @inlinable
  public init(v4 bits: UInt32) {
    high = 0
    low = 0x0000_FFFF_0000_0000 | UInt64(bits)
  }

  /// Whether this is an IPv4 address, mapped ones included.
  @inlinable public var isIPv4: Bool { high == 0 && low >> 32 == 0xFFFF }

  /// The 32 bits of an IPv4 address; meaningless otherwise.
  @inlinable public var v4: UInt32 { UInt32(truncatingIfNeeded: low) }

  /// How many bits an address of this family has: 32 or 128.
  @inlinable public var width: Int { isIPv4 ? 32 : 128 }

  /// The network this address lies in: all bits after the first `length` of its family cleared.
  ///
  /// - Parameter length: 0…32 for IPv4, 0…128 for IPv6; more is taken as the whole address.
  @inlinable
  public func network(_ length: Int) -> Address {
    let bits = isIPv4 ? Swift.min(length, 32) + 96 : Swift.min(length, 128)
    if bits >= 128 { return self }
    if bits >= 64 {
      let keep = bits == 64 ? 0 : ~UInt64(0) << UInt64(128 - bits)
      return Address(high: high, low: low & keep)
    }
    let keep = bits == 0 ? 0 : ~UInt64(0) << UInt64(64 - bits)
    return Address(high: high & keep, low: 0)
  }

  /// Whether this is a loopback address: 127.0.0.0/8 or ::1.
  public var isLoopback: Bool { isIPv4 ? v4 >> 24 == 127 : (high == 0 && low == 1) }
}

extension Address: CustomStringConvertible {
  /// Dotted quad, or IPv6 text in the form of RFC 5952.
  public var description: String {
    if isIPv4 {
      let b = v4
      return "\(b >> 24).\(b >> 16 & 255).\(b >> 8 & 255).\(b & 255)"
    }
    let groups = (0..<8).map { i in
      UInt16(truncatingIfNeeded: (i < 4 ? high : low) >> UInt64(48 - 16 * (i & 3)))
    }
    // RFC 5952, 4.2: the longest run of two or more zero groups becomes "::", the first if equal.
    var best = 0..<0
    var i = 0
    while i < 8 {
      var j = i
      while j < 8 && groups[j] == 0 { j += 1 }
      if j - i > best.count && j - i >= 2 { best = i..<j }
      i = max(j, i + 1)
    }
    func text(_ range: Range<Int>) -> String {
      groups[range].map { String($0, radix: 16) }.joined(separator: ":")
    }
    return best.isEmpty ? text(0..<8) : text(0..<best.lowerBound) + "::" + text(best.upperBound..<8)
  }
}

extension Address {
  /// Reads an address as people write it: dotted quad without leading zeros, or RFC 4291 text with at
  /// most one "::" and an optional dotted tail. No zone, no brackets, no port.
  public init?(_ text: some StringProtocol) {
    let bytes = Array(text.utf8)
    if bytes.contains(UInt8(ascii: ":")) {
      guard let parsed = Address.parseV6(bytes) else { return nil }
      self = parsed
    } else {
      guard let bits = Address.parseV4(bytes[...]) else { return nil }
      self = Address(v4: bits)
    }
  }

  private static func parseV4(_ bytes: ArraySlice<UInt8>) -> UInt32? {
    let parts = bytes.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
    guard parts.count == 4 else { return nil }
    var bits: UInt32 = 0
    for part in parts {
      guard (1...3).contains(part.count), part.allSatisfy({ (48...57).contains($0) }) else {
        return nil
      }
      // A leading zero would be octal to some readers and decimal to others: refuse to guess.
      if part.count > 1 && part.first == 48 { return nil }
      let value = part.reduce(0) { $0 * 10 + UInt32($1 - 48) }
      guard value < 256 else { return nil }
      bits = bits << 8 | value
    }
    return bits
  }

  private static func parseV6(_ bytes: [UInt8]) -> Address? {
    var text = bytes[...]
    var tail: [UInt16] = []
    if text.contains(UInt8(ascii: ".")) {
      guard let colon = text.lastIndex(of: UInt8(ascii: ":")),
        let quad = parseV4(text[(colon + 1)...])
      else { return nil }
      tail = [UInt16(quad >> 16), UInt16(quad & 0xFFFF)]
      // Keep the colon of a "::" that stands right before the quad; drop a single separator.
      let doubled = colon > 0 && text[colon - 1] == UInt8(ascii: ":")
      text = text[..<(doubled ? colon + 1 : colon)]
    }
    func groups(_ part: ArraySlice<UInt8>) -> [UInt16]? {
      if part.isEmpty { return [] }
      var found: [UInt16] = []
      for piece in part.split(separator: UInt8(ascii: ":"), omittingEmptySubsequences: false) {
        guard (1...4).contains(piece.count) else { return nil }
        var value: UInt16 = 0
        for byte in piece {
          guard let digit = hexDigit(byte) else { return nil }
          value = value << 4 | UInt16(digit)
        }
        found.append(value)
      }
      return found
    }
    var all: [UInt16]
    if let gap = firstDoubleColon(text) {
      let after = text[(gap + 2)...]
      if firstDoubleColon(after) != nil { return nil }
      guard let left = groups(text[..<gap]), let right = groups(after) else { return nil }
      let zeros = 8 - left.count - right.count - tail.count
      guard zeros >= 1 else { return nil }
      all = left + Array(repeating: 0, count: zeros) + right + tail
    } else {
      guard let plain = groups(text) else { return nil }
      all = plain + tail
    }
    guard all.count == 8 else { return nil }
    let high = all[0..<4].reduce(UInt64(0)) { $0 << 16 | UInt64($1) }
    let low = all[4..<8].reduce(UInt64(0)) { $0 << 16 | UInt64($1) }
    return Address(high: high, low: low)
  }

  private static func firstDoubleColon(_ text: ArraySlice<UInt8>) -> Int? {
    text.indices.dropLast().first { text[$0] == 58 && text[$0 + 1] == 58 }
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

/// A network: an address whose host bits are zero, and a prefix length counted in its own family.
public struct Prefix: Hashable, Sendable, CustomStringConvertible {
  /// The first address of the network.
  public let address: Address
  /// 0…32 for IPv4, 0…128 for IPv6.
  public let length: Int

  /// Fails if host bits are set or the length is out of range.
  public init?(_ address: Address, length: Int) {
    guard (0...address.width).contains(length), address.network(length) == address else {
      return nil
    }
    self.address = address
    self.length = length
  }

  /// Whether `other` lies in the network; never for the other family.
  public func contains(_ other: Address) -> Bool {
    other.isIPv4 == address.isIPv4 && other.network(length) == address
  }

  /// The address and the length, as in `192.0.2.0/24`.
  public var description: String { "\(address)/\(length)" }
}
