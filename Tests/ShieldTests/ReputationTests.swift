// SPDX-License-Identifier: Apache-2.0
import Reputation
import Structures
import Testing

@Suite("What is remembered of sources")
struct ReputationTests {
  private func table(_ capacity: Int = 64) -> ReputationTable {
    ReputationTable(capacity: capacity, hash: SipHash(k0: 1, k1: 2))
  }

  private let minute: Int64 = 60_000_000
  private let source = Address(v4: 0xC000_0207)

  @Test("a source is known good for the configured time and no longer")
  func good() {
    var table = table()
    let key = table.key(.address, source)
    #expect(table.isGood(key, now: .origin) == false)
    table.markGood(key, for: 30 * 86_400 * 1_000_000, now: .origin)
    #expect(table.isGood(key, now: Instant(seconds: 29.9 * 86_400)) == true)
    #expect(table.isGood(key, now: Instant(seconds: 30 * 86_400 + 121)) == false)
  }

  @Test("a proof takes the good standing away and is forgotten in time")
  func bad() {
    var table = table()
    let key = table.key(.address, source)
    table.markGood(key, for: 3_600_000_000, now: .origin)
    table.markBad(key, for: 3_600_000_000, now: .origin)
    #expect(table.isGood(key, now: Instant(seconds: 1)) == false)
    #expect(table.isBad(key, now: Instant(seconds: 1_800)) == true)
    #expect(table.isBad(key, now: Instant(seconds: 4_000)) == false)
  }

  @Test(
    "neither a good standing nor a proof comes back when the clock has gone round",
    arguments: 1...40)
  func noReturn(month: Int) {
    var table = table()
    let good = table.key(.address, source)
    let bad = table.key(.network, source)
    table.markGood(good, for: 3_600_000_000, now: .origin)
    table.markBad(bad, for: 3_600_000_000, now: .origin)
    let later = Instant(seconds: Double(month) * 30 * 86_400)
    #expect(table.isGood(good, now: later) == false && table.isBad(bad, now: later) == false)
  }

  @Test("nearly as many sources are remembered as there is room for, in 16 bytes each")
  func capacity() {
    let count = 50_000
    var table = table(count)
    for number in 0..<count {
      let key = table.key(.address, Address(v4: UInt32(number)))
      table.left(key, stages: 1 << 0, after: minute, now: .origin)
    }
    let kept = (0..<count).count {
      let key = table.key(.address, Address(v4: UInt32($0)))
      return table.divisor(key, stage: 0, after: minute, now: Instant(seconds: 120)) == 2
    }
    #expect(kept * 16 >= table.footprint && kept >= count / 100 * 99, "\(kept)")
  }

  @Test("who left while delayed and comes back after a minute waits half, then not at all")
  func secondChance() {
    var table = table()
    let key = table.key(.network, source.network(24))
    #expect(table.divisor(key, stage: 0, after: minute, now: .origin) == 1)
    table.left(key, stages: 1 << 0, after: minute, now: Instant(seconds: 10))
    let soon = table.divisor(key, stage: 0, after: minute, now: Instant(seconds: 40))
    #expect(soon == 1, "back within the minute earns nothing")
    #expect(table.divisor(key, stage: 0, after: minute, now: Instant(seconds: 75)) == 2)
    #expect(table.divisor(key, stage: 1, after: minute, now: Instant(seconds: 75)) == 1)
    table.left(key, stages: 1 << 0, after: minute, now: Instant(seconds: 80))
    #expect(table.divisor(key, stage: 0, after: minute, now: Instant(seconds: 150)) == 0)
  }

  @Test("a chance earned at one stage outlives a departure at another")
  func stages() {
    var table = table()
    let key = table.key(.network, source.network(24))
    table.left(key, stages: 1 << 4, after: minute, now: Instant(seconds: 10))
    table.left(key, stages: 1 << 7, after: minute, now: Instant(seconds: 100))
    table.left(key, stages: 1 << 4, after: minute, now: Instant(seconds: 200))
    let now = Instant(seconds: 300)
    #expect(table.divisor(key, stage: 4, after: minute, now: now) == 0)
    #expect(table.divisor(key, stage: 7, after: minute, now: now) == 2)
    #expect(table.divisor(key, stage: 0, after: minute, now: now) == 1)
  }

  @Test("leaving again and again within the minute earns no more than leaving once")
  func hammering() {
    var table = table()
    let key = table.key(.network, source.network(24))
    for second in 0..<30 {
      table.left(key, stages: 1 << 0, after: minute, now: Instant(seconds: Double(second)))
    }
    #expect(table.divisor(key, stage: 0, after: minute, now: Instant(seconds: 100)) == 2)
  }

  @Test("a flood of sources that leave cannot wash out a good one")
  func flood() {
    var table = table(64)
    let key = table.key(.address, source)
    table.markGood(key, for: 86_400 * 1_000_000, now: .origin)
    for n in 0..<100_000 {
      let stranger = table.key(.address, Address(v4: UInt32(n)))
      if stranger != key {
        table.left(stranger, stages: 1 << 0, after: minute, now: Instant(seconds: 5))
      }
    }
    #expect(table.isGood(key, now: Instant(seconds: 10)) == true)
    #expect(table.evictions > 90_000, "the table was meant to be full: \(table.evictions)")
  }

  @Test("a HELO domain is one source in any letter case, and never an address")
  func heloDomain() {
    let table = table()
    let lower = Array("example.org".utf8)
    let upper = Array("Example.ORG".utf8)
    let other = Array("example.net".utf8)
    #expect(table.key(heloDomain: lower.span) == table.key(heloDomain: upper.span))
    #expect(table.key(heloDomain: lower.span) != table.key(heloDomain: other.span))
    #expect(table.key(.address, source) != table.key(.network, source))
  }
}
