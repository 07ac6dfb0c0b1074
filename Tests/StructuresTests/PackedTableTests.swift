// SPDX-License-Identifier: Apache-2.0
import Glibc
import Structures
import TableTwins
import Testing

/// `scripts/test --fast` runs fewer seeds of what is random here; the whole run has all of them.
private let isFast = getenv("SLUICE_TESTS_FAST") != nil

/// The packed table against a scan over all prefixes and against a poptrie, in tables of many blocks.
@Suite("The packed prefix table")
struct PackedTableTests {
  /// Both ends of every prefix, what lies just outside, and a few addresses anywhere.
  static func probes(_ prefixes: [Prefix], _ random: inout SeededGenerator) -> [Address] {
    var probes: [Address] = []
    for prefix in prefixes {
      let isIPv4 = prefix.address.isIPv4
      let mask = Address(high: .max, low: .max).network(prefix.length + (isIPv4 ? 96 : 0))
      let first = prefix.address
      let last = Address(high: first.high | ~mask.high, low: first.low | ~mask.low)
      probes += [first, last, step(first, down: true), step(last, down: false)]
      probes.append(
        Address(
          high: first.high | random.next() & ~mask.high, low: first.low | random.next() & ~mask.low)
      )
    }
    for _ in 0..<500 {
      probes.append(PrefixTableTests.randomAddress(&random, isIPv4: Bool.random(using: &random)))
    }
    let v4: [UInt32] = [0, 1, 1 << 31 - 1, 1 << 31, .max - 1, .max]
    probes += v4.map { Address(v4: $0) }
    // Around the mapped addresses, which are IPv4: a table of IPv6 must not answer for them.
    for low: UInt64 in [0, 1, 0xFFFE_FFFF_FFFF, 0xFFFF_0000_0000, 0x1_0000_0000_0000, .max] {
      probes += [Address(high: 0, low: low), Address(high: .max, low: low)]
    }
    return probes
  }

  static func step(_ address: Address, down: Bool) -> Address {
    if address.isIPv4 { return Address(v4: down ? address.v4 &- 1 : address.v4 &+ 1) }
    let bits = UInt128(address.high) << 64 | UInt128(address.low)
    let moved = down ? bits &- 1 : bits &+ 1
    return Address(high: UInt64(moved >> 64), low: UInt64(truncatingIfNeeded: moved))
  }

  /// Tables that nest, touch and share their ends; some with both default routes.
  static func prefixes(_ seed: UInt64, _ random: inout SeededGenerator) -> [Prefix] {
    let count = Int.random(in: 200...600, using: &random)
    var list: [Prefix]
    switch seed % 4 {
    case 0:
      list = PrefixMix.bgp.prefixes(count, isIPv4: true, seed: seed)
      list += PrefixMix.bgp.prefixes(count, isIPv4: false, seed: seed)
    case 1:
      list = PrefixMix.blocklist.prefixes(count, isIPv4: true, seed: seed)
      list += PrefixMix.blocklist.prefixes(count, isIPv4: false, seed: seed)
    case 2:
      // All in one /20 and one /100, so that most of a start is zeros.
      list = []
      var seen: Set<Prefix> = []
      for number in 0..<2 * count {
        let noise = random.next()
        let address =
          number % 2 == 0
          ? Address(v4: 0xC0A8_0000 | UInt32(truncatingIfNeeded: noise & 0xFFF))
          : Address(high: 0x2001_0db8_0000_0000, low: noise & 0xFFF_FFFF)
        let least = number % 2 == 0 ? 20 : 100
        let length = Int.random(in: least...address.width, using: &random)
        if let prefix = Prefix(address.network(length), length: length),
          seen.insert(prefix).inserted
        {
          list.append(prefix)
        }
      }
    default:
      list = PrefixTableTests.randomPrefixes(&random, count: count, isIPv4: true).map(\.0)
      list += PrefixTableTests.randomPrefixes(&random, count: count, isIPv4: false).map(\.0)
    }
    if seed % 3 == 0 {
      for address in [Address(v4: 0), Address(high: 0, low: 0)] {
        if let all = Prefix(address, length: 0), !list.contains(all) { list.append(all) }
      }
    }
    return list
  }

  @Test(
    "with few values and with many it agrees with a scan and with a poptrie",
    arguments: 0..<(isFast ? 4 : 12))
  func twins(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    let prefixes = Self.prefixes(seed, &random)
    let distinct = seed % 2 == 0 ? UInt32(4) : .max
    let rows = prefixes.enumerated().map { ($1, UInt32($0) % distinct) }
    let table = PrefixTable(rows)
    let naive = NaivePrefixes(rows)
    let trie = PoptrieTable(rows)
    var probes = Self.probes(prefixes, &random)
    probes.shuffle(using: &random)
    for (number, address) in probes.enumerated() {
      let found = table.lookup(address)
      let published = trie.lookup(address)
      // The scan is slow: it referees a part of them.
      let scanned = number < 400 ? naive.lookup(address) : published
      if found != published || found != scanned {
        Issue.record(
          "seed \(seed), \(address): table \(found as UInt32?), poptrie \(published as UInt32?), scan \(scanned as UInt32?)"
        )
        return
      }
    }
  }

  @Test(
    "the smallest value wins with duplicates, and each place leads back to it", arguments: 0..<12)
  func firstMatch(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    var prefixes = Self.prefixes(seed, &random)
    prefixes += prefixes.prefix(50)
    prefixes.shuffle(using: &random)
    let outcomes = prefixes.map { _ in UInt32.random(in: 0..<3, using: &random) }
    var builder = PrefixTableBuilder()
    for (rule, prefix) in prefixes.enumerated() { builder.add(AddressBlock(prefix), UInt32(rule)) }
    let table = PrefixTable(&builder, preferring: .smallestValue, outcomes: outcomes)
    var winners: Set<UInt32> = []
    var probes = Self.probes(prefixes, &random)
    probes.shuffle(using: &random)
    for address in probes.prefix(1_500) {
      let first = prefixes.firstIndex { $0.contains(address) }
      let match = table.find(address)
      let value = match.flatMap { table.value(at: $0.place) }
      if value != first.map({ UInt32($0) }) || match?.outcome != first.map({ outcomes[$0] })
        || table.lookup(address) != value
      {
        Issue.record(
          "seed \(seed), \(address): \(match as PrefixTable.Match?), rule \(first as Int?)")
        return
      }
      if let value { winners.insert(value) }
    }
    var all: Set<UInt32> = []
    table.forEachValue { all.insert($0) }
    #expect(winners.isSubset(of: all), "seed \(seed)")
    // What wins somewhere wins at the first address of itself or of a network within it, or behind one.
    for rule in all where !winners.contains(rule) {
      let prefix = prefixes[Int(rule)]
      let inside = table.values(in: AddressBlock(prefix), limit: .max)
      #expect(inside.contains(rule), "seed \(seed): rule \(rule) is said to win and does not")
    }
    for prefix in prefixes.prefix(40) {
      let inside = Set(table.values(in: AddressBlock(prefix), limit: .max))
      for address in probes.prefix(1_500) where prefix.contains(address) {
        if let value = table.lookup(address) { #expect(inside.contains(value), "seed \(seed)") }
      }
    }
  }

  @Test("a number that is no place of this table has no value")
  func strangePlaces() throws {
    let prefix = try #require(Prefix(Address(v4: 10 << 24), length: 8))
    var builder = PrefixTableBuilder()
    builder.add(AddressBlock(prefix), 0)
    let table = PrefixTable(&builder, preferring: .smallestValue, outcomes: [7])
    var values = 0
    for place: UInt32 in [0, 1, 2, 3, 4, 254, 255, 256, 257, 511, 512, 1 << 20, .max] {
      if let value = table.value(at: place) {
        #expect(value == 0)
        values += 1
      }
    }
    #expect(values == 1)
    #expect(table.find(Address(v4: 10 << 24))?.outcome == 7)
  }

  @Test(
    "a prefix costs at most 3 bytes in IPv4 and 25 in IPv6",
    arguments: PrefixMix.allCases, [true, false])
  func bytes(mix: PrefixMix, isIPv4: Bool) {
    let count = 50_000
    let prefixes = mix.prefixes(count, isIPv4: isIPv4, seed: 1)
    // What follows from a route is one of four, from a listed network nearly always the same.
    let table = PrefixTable(
      prefixes.enumerated().map { ($1, UInt32(mix == .bgp ? $0 % 4 : $0 % 10 / 9)) })
    let bytes = Double(table.footprint) / Double(count)
    // Twenty times fewer networks than the budget is stated for lie 4 bits further apart.
    #expect(bytes <= (isIPv4 ? 3.5 : 25), "\(mix) \(isIPv4): \(bytes)")
    // Few values need no list of their own.
    #expect(table.footprintOfValues == 0)
  }

  @Test("numbers that rise are found by their index", arguments: 0..<20)
  func rising(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    let count = seed == 0 ? 0 : Int.random(in: 1...400, using: &random)
    let jump: UInt32 = [1, 2, 100, 5_000_000][Int(seed % 4)]
    var numbers: [UInt32] = []
    var number: UInt32 = 0
    for _ in 0..<count {
      number += UInt32.random(in: 1...jump, using: &random)
      numbers.append(number)
    }
    let packed = RisingNumbers(count: count) { numbers[$0] }
    #expect(packed.count == count)
    for (index, number) in numbers.enumerated() where packed[index] != number {
      Issue.record("seed \(seed), index \(index): \(packed[index]), not \(number)")
      return
    }
    if jump == 1 { #expect(packed.footprint <= count / 8 + 40) }
  }
}
