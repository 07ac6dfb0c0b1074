// SPDX-License-Identifier: Apache-2.0
package import Structures

/// Made-up tables that look like those of the world; the same for the same seed.
package enum PrefixMix: String, Sendable, CaseIterable {
  /// Routes: allocations of /12 to /22 (IPv6 /32) and what is announced out of them; 60 % are /24 (half /48), the
  /// rest /12 to /23 (/29 to /44).
  case bgp
  /// Offenders: 70 % single addresses, 20 % /24 (IPv6 /64), 10 % /20 to /31 (/32 to /56), strewn evenly,
  /// which is the worst for a packed table: real ones come in clumps.
  case blocklist

  /// - Parameter count: distinct prefixes, in random order.
  package func prefixes(_ count: Int, isIPv4: Bool, seed: UInt64) -> [Prefix] {
    var random = SeededGenerator(seed: seed)
    var seen: Set<Prefix> = []
    var list: [Prefix] = []
    seen.reserveCapacity(count)
    list.reserveCapacity(count)
    func add(_ address: Address, _ length: Int) {
      guard list.count < count, let prefix = Prefix(address.network(length), length: length) else {
        return
      }
      if seen.insert(prefix).inserted { list.append(prefix) }
    }
    while list.count < count {
      switch (self, isIPv4) {
      case (.blocklist, true):
        let draw = Int.random(in: 0..<100, using: &random)
        let length = draw < 70 ? 32 : draw < 90 ? 24 : Int.random(in: 20...31, using: &random)
        add(Self.addressIPv4(&random), length)
      case (.blocklist, false):
        let draw = Int.random(in: 0..<100, using: &random)
        let length = draw < 70 ? 128 : draw < 90 ? 64 : Int.random(in: 32...56, using: &random)
        add(Self.addressIPv6(&random), length)
      case (.bgp, true):
        let lengths = [12, 13, 14, 15, 16, 16, 17, 18, 19, 19, 20, 20, 21, 22]
        let outer = lengths[Int.random(in: 0..<lengths.count, using: &random)]
        let base = Self.addressIPv4(&random)
        add(base, outer)
        for _ in 0..<Int.random(in: 0...1 << min(6, 24 - outer), using: &random) {
          let draw = Int.random(in: 0..<100, using: &random)
          let length = draw < 68 ? 24 : draw < 84 ? 22 : draw < 92 ? 23 : draw < 96 ? 21 : 20
          let host = UInt32.random(in: .min ... .max, using: &random) & (.max >> UInt32(outer))
          add(Address(v4: base.v4 & ~(.max >> UInt32(outer)) | host), max(length, outer))
        }
      case (.bgp, false):
        let draw = Int.random(in: 0..<100, using: &random)
        let length =
          draw < 50 ? 48 : draw < 75 ? 32 : draw < 85 ? 44 : draw < 92 ? 40 : draw < 97 ? 36 : 29
        add(Self.addressIPv6(&random), length)
      }
    }
    list.shuffle(using: &random)
    return list
  }

  /// From 1.0.0.0 to 223.255.255.255.
  package static func addressIPv4(_ random: inout SeededGenerator) -> Address {
    Address(v4: .random(in: 1 << 24..<224 << 24, using: &random))
  }

  /// In one of 40,000 networks of /32, strewn over 2000::/3.
  package static func addressIPv6(_ random: inout SeededGenerator) -> Address {
    let network = UInt64.random(in: 0..<40_000, using: &random) &* 0x9E37_79B9_7F4A_7C15
    let high = 0x2000_0000_0000_0000 | network >> 3 & ~0xFFFF_FFFF
    return Address(high: high | random.next() >> 32, low: random.next())
  }

  /// Half of them in networks of the table, half anywhere.
  package static func probes(_ count: Int, of prefixes: [Prefix], seed: UInt64) -> [Address] {
    var random = SeededGenerator(seed: seed ^ 0x5EED)
    return (0..<count).map { number in
      let prefix = prefixes[Int.random(in: 0..<prefixes.count, using: &random)]
      let isIPv4 = prefix.address.isIPv4
      if number % 2 == 1 { return isIPv4 ? addressIPv4(&random) : addressIPv6(&random) }
      let all = Address(high: .max, low: .max)
      let mask = all.network(prefix.length + (isIPv4 ? 96 : 0))
      return Address(
        high: prefix.address.high | random.next() & ~mask.high,
        low: prefix.address.low | random.next() & ~mask.low)
    }
  }
}
