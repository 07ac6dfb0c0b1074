// SPDX-License-Identifier: Apache-2.0
import Glibc
import Structures
import Testing

/// `scripts/test --fast` runs fewer seeds of what is random here; the whole run has all of them.
private let isFast = getenv("SLUICE_TESTS_FAST") != nil

/// The flat table against a scan over all prefixes, which is slow and obviously right.
@Suite struct PrefixTableTests {
  private func prefix(_ text: String, _ length: Int) throws -> Prefix {
    let address = try #require(Address(text))
    return try #require(Prefix(address, length: length))
  }

  @Test("an empty table has no answer for anybody")
  func empty() {
    let table = PrefixTable([])
    #expect(table.lookup(Address(v4: 0)) == nil)
    #expect(table.lookup(Address(v4: .max)) == nil)
    #expect(table.lookup(Address(high: .max, low: .max)) == nil)
  }

  @Test("the longest prefix wins, and where it ends the one around it goes on")
  func nested() throws {
    let table = PrefixTable([
      (try prefix("0.0.0.0", 0), 1), (try prefix("10.0.0.0", 8), 2),
      (try prefix("10.1.0.0", 16), 3),
      (try prefix("10.255.255.255", 32), 4), (try prefix("255.255.255.255", 32), 5),
      (try prefix("::", 0), 6), (try prefix("2001:db8::", 32), 7),
      (try prefix("2001:db8::1", 128), 8),
    ])
    let cases: [(String, UInt32, String)] = [
      ("9.255.255.255", 1, "before the /8"), ("10.0.0.0", 2, "first of the /8"),
      ("10.0.255.255", 2, "before the /16"), ("10.1.0.0", 3, "first of the /16"),
      ("10.1.255.255", 3, "last of the /16"), ("10.2.0.0", 2, "after the /16"),
      ("10.255.255.254", 2, "before the /32"),
      ("10.255.255.255", 4, "the /32 at the end of the /8"),
      ("11.0.0.0", 1, "after both"), ("255.255.255.254", 1, "before the last address"),
      ("255.255.255.255", 5, "the last address"), ("0.0.0.0", 1, "the first address"),
      ("::", 6, "IPv6 has a default of its own"), ("2001:db8::", 7, "before the /128"),
      ("2001:db8::1", 8, "the /128"), ("2001:db8::2", 7, "after it"),
      ("2001:db9::", 6, "after the /32"),
      ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 6, "the last address"),
    ]
    for (text, value, reason) in cases {
      let address = try #require(Address(text))
      #expect(table.lookup(address) == value, "\(text): \(reason)")
    }
  }

  @Test(
    "a list within one network has no answer outside of it",
    arguments: [
      ("2001:db8::1", 128, "one address"), ("2001:db8::", 64, "one /64"), ("::1", 128, "near zero"),
      ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 128, "the last address"), ("8000::", 1, "a half"),
    ])
  func narrow(text: String, length: Int, reason: String) throws {
    let only = try prefix(text, length)
    let table = PrefixTable([(only, 5)])
    let high: [UInt64] = [0, 1, 0x2001_0db8_0000_0000, 0x2001_0db8_0000_0001, 1 << 63, .max]
    for high in high {
      for low: UInt64 in [0, 1, 2, 1 << 63, .max] {
        let address = Address(high: high, low: low)
        #expect(
          table.lookup(address) == (only.contains(address) ? 5 : nil), "\(reason), \(address)")
      }
    }
  }

  @Test("neighbouring prefixes with one value become one range")
  func adjacent() throws {
    let table = PrefixTable([
      (try prefix("192.0.2.0", 25), 9), (try prefix("192.0.2.128", 25), 9),
      (try prefix("192.0.3.0", 24), 9), (try prefix("192.0.4.0", 24), 10),
    ])
    // Nothing, 9, 10, nothing.
    #expect(table.rangeCount.ipv4 == 4)
    #expect(table.lookup(Address(v4: 0xC000_02FF)) == 9)
    #expect(table.lookup(Address(v4: 0xC000_0400)) == 10)
    #expect(table.lookup(Address(v4: 0xC000_0500)) == nil)
  }

  @Test("a network that is given twice stops the process")
  func duplicate() async {
    await #expect(processExitsWith: .failure) {
      if let prefix = Prefix(Address(v4: 0), length: 8) {
        _ = PrefixTable([(prefix, 1), (prefix, 2)])
      }
    }
  }

  @Test("an IPv4 range takes at most ten bytes")
  func footprint() {
    var prefixes: [(Prefix, UInt32)] = []
    for i in 0..<100_000 {
      guard let prefix = Prefix(Address(v4: UInt32(i) << 8), length: 24) else { continue }
      prefixes.append((prefix, UInt32(i)))
    }
    let table = PrefixTable(prefixes)
    #expect(table.rangeCount.ipv4 == 100_001)
    #expect(table.footprint <= 10 * 100_001 + 65_537 * 4)
  }

  /// Random prefixes close to each other, so that they nest, touch and share their ends.
  static func randomPrefixes(
    _ random: inout SeededGenerator, count: Int, isIPv4: Bool
  ) -> [(Prefix, UInt32)] {
    var seen: Set<Prefix> = []
    var list: [(Prefix, UInt32)] = []
    for value in 0..<count {
      let address = randomAddress(&random, isIPv4: isIPv4)
      let width = isIPv4 ? 32 : 128
      var length = Int.random(in: 0...width, using: &random)
      if Bool.random(using: &random) {
        length = max(0, width - Int.random(in: 0...6, using: &random))
      }
      guard let prefix = Prefix(address.network(length), length: length) else { continue }
      if seen.insert(prefix).inserted { list.append((prefix, UInt32(value))) }
    }
    return list
  }

  static func randomAddress(_ random: inout SeededGenerator, isIPv4: Bool) -> Address {
    // Few different bits: most of the address is all zeros or all ones.
    let noise = UInt64.random(in: 0..<64, using: &random)
    let shift = UInt64.random(in: 0..<64, using: &random)
    let ones = Bool.random(using: &random)
    let low = noise << shift ^ (ones ? .max : 0)
    if isIPv4 { return Address(v4: UInt32(truncatingIfNeeded: low ^ low >> 32)) }
    let high = ones ? UInt64.max : noise << (63 - shift)
    let address = Address(high: high, low: low)
    return address.isIPv4 ? Address(high: 1, low: low) : address
  }

  @Test("the table agrees with a scan over all prefixes", arguments: 0..<(isFast ? 12 : 60))
  func twin(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    let count = Int.random(in: 1...300, using: &random)
    let list =
      Self.randomPrefixes(&random, count: count, isIPv4: true)
      + Self.randomPrefixes(&random, count: count, isIPv4: false)
    let table = PrefixTable(list)
    var probes: [Address] = []
    for (prefix, _) in list {
      // Both ends and what lies just outside: where range arithmetic goes wrong.
      let first = prefix.address
      probes += [first, neighbour(first, -1)]
      let width = first.width
      var last = first
      for bit in prefix.length..<width {
        let place = UInt64(width - 1 - bit)
        if place >= 64 { last.high |= 1 << (place - 64) } else { last.low |= 1 << place }
      }
      probes += [last, neighbour(last, 1)]
    }
    for _ in 0..<200 {
      probes.append(Self.randomAddress(&random, isIPv4: Bool.random(using: &random)))
    }
    for address in probes {
      let expected = list.filter { $0.0.contains(address) }.max { $0.0.length < $1.0.length }?.1
      let found = table.lookup(address)
      if found != expected {
        Issue.record(
          "seed \(seed), \(address): \(String(describing: found)), not \(String(describing: expected))"
        )
        return
      }
    }
  }

  private func neighbour(_ address: Address, _ step: Int) -> Address {
    if address.isIPv4 { return Address(v4: address.v4 &+ UInt32(truncatingIfNeeded: step)) }
    let bits = UInt128(address.high) << 64 | UInt128(address.low)
    let moved = bits &+ UInt128(truncatingIfNeeded: step)
    return Address(high: UInt64(moved >> 64), low: UInt64(truncatingIfNeeded: moved))
  }

  @Test("a block without another is exactly the rest of it", arguments: 0..<40)
  func subtraction(seed: UInt64) throws {
    var random = SeededGenerator(seed: seed)
    let isIPv4 = seed % 2 == 0
    let pair = Self.randomPrefixes(&random, count: 2, isIPv4: isIPv4)
    let a = AddressBlock(pair[0].0)
    let b = AddressBlock(pair[pair.count - 1].0)
    let rest = a.subtracting(b)
    for _ in 0..<300 {
      let address = Self.randomAddress(&random, isIPv4: isIPv4)
      let bits = UInt128(address.high) << 64 | UInt128(address.low)
      let one = AddressBlock(bits: bits, depth: 128, isIPv4: isIPv4)
      let pieces = rest.count { $0.contains(one) }
      #expect(pieces == (a.contains(one) && !b.contains(one) ? 1 : 0), "seed \(seed), \(address)")
    }
  }
}
