// SPDX-License-Identifier: Apache-2.0
//
// Names as DNS carries them, in fixed buffers. Not text: a query name can hold the secret key of a list, so it has no
// way to print itself; a host name that came out of DNS may be printed, because only letters, digits, hyphens, underscores
// and dots are in it. Kept: at most 254 octets before the root, 1...63 in each label (RFC 1035, 2.3.4), lower case.

package import Structures

/// A domain name in the form of RFC 1035, 3.1: labels with their lengths before them, and an empty one at the end.
package struct QueryName: BitwiseCopyable, Sendable {
  /// Octets of a whole name, the empty label included.
  package static let octetsMax = 255
  /// Octets of a label.
  package static let labelMax = 63

  /// What is after `used` is zero, so the root is always there.
  private var octets = InlineArray<255, UInt8>(repeating: 0)
  private var used: UInt8 = 0

  /// The root.
  package init() {}

  /// Octets in the form that goes over the wire, the empty label included: 1...255.
  package var count: Int { Int(used) + 1 }

  /// The name as it goes over the wire.
  package var wire: Span<UInt8> {
    @_lifetime(borrow self)
    borrowing get { octets.span.extracting(0..<(Int(used) + 1)) }
  }

  /// Appends a label, letters in lower case.
  ///
  /// - Returns: false, and the name stays as it is, if the label is empty or one of the limits would be passed.
  package mutating func append(_ label: Span<UInt8>) -> Bool {
    guard open(label.count) else { return false }
    for i in 0..<label.count { put(label[i]) }
    return true
  }

  /// Appends all labels of another name; false, and nothing is appended, if it does not fit.
  package mutating func append(_ other: QueryName) -> Bool {
    guard Int(used) + other.count <= Self.octetsMax else { return false }
    for i in 0..<Int(other.used) { octets[Int(used) + i] = other.octets[i] }
    used += other.used
    return true
  }

  private mutating func open(_ count: Int) -> Bool {
    guard (1...Self.labelMax).contains(count), self.count + 1 + count <= Self.octetsMax else {
      return false
    }
    octets[Int(used)] = UInt8(count)
    used += 1
    return true
  }

  private mutating func put(_ octet: UInt8) {
    octets[Int(used)] = (65...90).contains(octet) ? octet + 32 : octet
    used += 1
  }
}

extension QueryName {
  /// The name under which an address stands in a zone (RFC 5782, 2.1 and 2.4): octets or nibbles, last one first.
  ///
  /// - Parameter asIPv6: writes an IPv4 address in its mapped form, as the tests of RFC 5782, 5 want it.
  /// - Returns: nil if it would be longer than a name may be; never for a `ListZone`.
  package init?(_ address: Address, in zone: QueryName, asIPv6: Bool = false) {
    self.init()
    if address.isIPv4 && !asIPv6 { appendOctets(address.v4) } else { appendNibbles(address) }
    guard append(zone) else { return nil }
  }

  /// The name at which the host's name of an address is found (RFC 1035, 3.5, and RFC 3596, 2.5).
  package init(pointerOf address: Address) {
    self.init()
    if address.isIPv4 {
      appendOctets(address.v4)
      appendText("in-addr")
    } else {
      appendNibbles(address)
      appendText("ip6")
    }
    appendText("arpa")
  }

  /// At most 16 octets, into an empty name.
  private mutating func appendOctets(_ bits: UInt32) {
    for shift in stride(from: UInt32(0), through: 24, by: 8) {
      let value = UInt8(truncatingIfNeeded: bits >> shift)
      let digits = value >= 100 ? 3 : value >= 10 ? 2 : 1
      guard open(digits) else { return }
      if digits == 3 { put(48 + value / 100) }
      if digits >= 2 { put(48 + value / 10 % 10) }
      put(48 + value % 10)
    }
  }

  /// 64 octets, into an empty name.
  private mutating func appendNibbles(_ address: Address) {
    for half in [address.low, address.high] {
      for shift in stride(from: UInt64(0), through: 60, by: 4) {
        let nibble = UInt8(truncatingIfNeeded: half >> shift & 15)
        guard open(1) else { return }
        put(nibble < 10 ? 48 + nibble : 87 + nibble)
      }
    }
  }

  private mutating func appendText(_ label: StaticString) {
    guard open(label.utf8CodeUnitCount) else { return }
    for scalar in label.description.utf8 { put(scalar) }
  }
}

extension QueryName: Hashable {
  package static func == (a: QueryName, b: QueryName) -> Bool {
    guard a.used == b.used else { return false }
    for i in 0..<Int(a.used) where a.octets[i] != b.octets[i] { return false }
    return true
  }

  package func hash(into hasher: inout Hasher) {
    for i in 0..<Int(used) { hasher.combine(octets[i]) }
  }
}

/// Nothing of a name is shown, whatever way it is printed: it may hold a key.
extension QueryName: CustomStringConvertible, CustomDebugStringConvertible, CustomReflectable {
  package var description: String { "(name of \(count) octets)" }
  package var debugDescription: String { description }
  package var customMirror: Mirror { Mirror(self, children: EmptyCollection<Mirror.Child>()) }
}

/// The name of a host as DNS told it: letters, digits, hyphens and underscores in labels, so that it can be logged and
/// passed on (what else a PTR record may hold has been used for injection: CVE-2026-28753).
package struct HostName: BitwiseCopyable, Hashable, Sendable {
  /// The name, to be asked for.
  package let name: QueryName

  /// Fails for the root, and for a label with other characters, or with a hyphen at one of its ends (RFC 1123, 2.1).
  package init?(_ name: QueryName) {
    guard name.count > 1, Self.isPlain(name.wire) else { return nil }
    self.name = name
  }

  /// Reads `mail.example.com`, with or without a dot at the end.
  package init?(_ text: some StringProtocol) {
    var name = QueryName()
    var rest = Array(text.utf8)
    if rest.last == UInt8(ascii: ".") { rest.removeLast() }
    for label in rest.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false) {
      guard name.append(Array(label).span) else { return nil }
    }
    self.init(name)
  }

  private static func isPlain(_ wire: Span<UInt8>) -> Bool {
    var start = 0
    while wire[start] != 0 {
      let end = start + Int(wire[start])
      for i in (start + 1)...end {
        switch wire[i] {
        case 48...57, 97...122, UInt8(ascii: "_"): break
        case UInt8(ascii: "-") where i != start + 1 && i != end: break
        default: return false
        }
      }
      start = end + 1
    }
    return true
  }
}

extension HostName: CustomStringConvertible {
  /// With dots between its labels and none at its end.
  package var description: String {
    let wire = name.wire
    var text: [UInt8] = []
    var start = 0
    while wire[start] != 0 {
      let end = start + Int(wire[start])
      if start > 0 { text.append(UInt8(ascii: ".")) }
      for i in (start + 1)...end { text.append(wire[i]) }
      start = end + 1
    }
    return String(decoding: text, as: UTF8.self)
  }
}
