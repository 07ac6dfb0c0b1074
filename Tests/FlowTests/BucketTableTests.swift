// SPDX-License-Identifier: Apache-2.0
import Flow
import Structures
import TableTwins
import Testing

/// The bucket table against a dictionary of exact fractions that never forgets anybody.
@Suite struct BucketTableTests {
  /// Terms as written, for the twin; the table has them in lowest terms.
  struct Terms: Sendable {
    var units: UInt64
    var period: Duration
    var burst: UInt64
    var rate: Rate {
      get throws { try #require(Rate(units, per: period, burst: burst)) }
    }
  }

  private func key(_ number: Int) -> BucketKey {
    BucketKey(Address(v4: UInt32(number)), length: 32)
  }

  private func table(_ capacity: Int) -> BucketTable {
    BucketTable(capacity: capacity, hash: SipHash(k0: 0x1234, k1: 0x5678))
  }

  static let exact: [Terms] = [
    Terms(units: 64 * 1024, period: .seconds(1), burst: 16_384),
    Terms(units: 60, period: .seconds(60), burst: 60),
    Terms(units: 7, period: .seconds(60), burst: 7),
    Terms(units: 1, period: .seconds(3600), burst: 3),
    Terms(units: 16_381, period: .seconds(1), burst: 100),
    Terms(units: 1 << 20, period: .seconds(1), burst: 1 << 18),
    Terms(units: 3, period: .microseconds(1), burst: 1),
  ]

  @Test("decisions are those of exact fractions while the table has room", arguments: exact.indices)
  func twin(index: Int) throws {
    let terms = Self.exact[index]
    let rate = try terms.rate
    let seed = UInt64(index)
    var random = SeededGenerator(seed: seed)
    // 20 sources in 800 places: no set overflows with this key.
    var buckets = table(800)
    var twin = ExactBuckets(
      units: terms.units, period: terms.period.microseconds, burst: terms.burst)
    var now = Instant.origin
    let pace = max(1, terms.period.microseconds / Int64(terms.units))
    for round in 0..<20_000 {
      now = now + .microseconds(Int64.random(in: 0...pace * 2, using: &random))
      let source = key(Int.random(in: 0..<20, using: &random))
      let units = UInt64.random(in: 0...terms.burst + terms.burst / 4 + 1, using: &random) >> 2
      let wait = twin.wait(source, units, now)
      let room = buckets.peek(source, rate, now: now)
      let earliest = buckets.earliest(source, units, rate, now: now)
      guard room == twin.room(source, now), earliest == now + wait else {
        Issue.record("seed \(seed), round \(round): room \(room), earliest \(earliest)")
        return
      }
      if round % 5 == 0 {
        let over = buckets.charge(source, units, rate, now: now)
        twin.add(source, units, now)
        guard over == twin.wait(source, 0, now) else {
          Issue.record("seed \(seed), round \(round): charge says \(over)")
          return
        }
      } else {
        let decision = buckets.take(source, units, rate, now: now)
        guard decision == (wait == .zero ? .allowed : .over(retryAfter: wait)) else {
          Issue.record("seed \(seed), round \(round): \(decision), exact wait \(wait)")
          return
        }
        if wait == .zero { twin.add(source, units, now) }
      }
    }
    #expect(buckets.evicted == 0)
  }

  @Test("a rate does not drift: single bytes add up to the exact time")
  func noDrift() throws {
    let rate = try Terms(units: 64 * 1024, period: .seconds(1), burst: 1).rate
    var buckets = table(8)
    var passed = 0
    var now = Instant.origin
    // A byte every 15.26 µs: ask at each moment the table itself names, for ten seconds.
    while now.microseconds < 10_000_000 {
      let decision = buckets.take(key(1), 1, rate, now: now)
      if decision == .allowed { passed += 1 }
      now = buckets.earliest(key(1), 1, rate, now: now)
    }
    // One waits in whole microseconds, so 15.26 becomes 16 when each byte is waited for alone. The
    // account itself is not rounded, as charging shows.
    #expect(passed == 625_000)
    var owed = table(8)
    let start = Instant(microseconds: 0)
    for _ in 0..<65_536 { _ = owed.charge(key(1), 1, rate, now: start) }
    let wait = owed.charge(key(1), 0, rate, now: start)
    // The first byte was the burst; exactly one second less one byte is left: 1 s - 15.2587890625 µs.
    #expect(wait == .microseconds(999_985))
  }

  @Test("a rate that is not exact is off by less than a millionth")
  func inexact() throws {
    let rate = try Terms(units: 1_000_003, period: .seconds(3600), burst: 1).rate
    var buckets = table(8)
    let half = buckets.charge(key(1), 500_002, rate, now: .origin)
    // Debt without the burst of one: 500,001 units at 3,599.9892 µs each.
    #expect(abs(half.microseconds - 1_799_998_200) <= 1_800)
  }

  @Test("a source under its rate is never refused, whatever a flood does to the table")
  func noFalseLimit() throws {
    let rate = try Terms(units: 60, period: .seconds(60), burst: 5).rate
    var random = SeededGenerator(seed: 3)
    var buckets = table(64)
    var refused = 0
    for second in 0..<200 {
      let now = Instant(microseconds: Int64(second) * 1_000_000)
      let decision = buckets.take(key(1), 1, rate, now: now)
      if decision != .allowed { refused += 1 }
      for _ in 0..<200 {
        _ = buckets.take(key(Int.random(in: 2..<1_000_000, using: &random)), 1, rate, now: now)
      }
    }
    #expect(refused == 0)
    #expect(buckets.evicted > 0, "the flood was too small to test anything")
  }

  @Test("a refused attempt does not count: the wait does not grow by asking again")
  func strict() throws {
    let rate = try Terms(units: 1, period: .seconds(10), burst: 1).rate
    var buckets = table(8)
    let first = buckets.take(key(1), 1, rate, now: .origin)
    let second = buckets.take(key(1), 1, rate, now: .origin)
    let third = buckets.take(key(1), 1, rate, now: Instant(seconds: 4))
    let fourth = buckets.take(key(1), 1, rate, now: Instant(seconds: 10))
    #expect(first == .allowed)
    #expect(second == .over(retryAfter: .seconds(10)))
    #expect(third == .over(retryAfter: .seconds(6)))
    #expect(fourth == .allowed)
  }

  @Test("a request larger than the burst passes on a full bucket and is counted whole")
  func largeRequest() throws {
    let rate = try Terms(units: 1, period: .seconds(1), burst: 3).rate
    var buckets = table(8)
    let first = buckets.take(key(1), 10, rate, now: .origin)
    let second = buckets.take(key(1), 1, rate, now: .origin)
    #expect(first == .allowed)
    #expect(second == .over(retryAfter: .seconds(8)))
  }

  @Test("debt is forgiven beyond an hour")
  func boundedDebt() throws {
    let rate = try Terms(units: 1, period: .seconds(1), burst: 10).rate
    var buckets = table(8)
    for _ in 0..<5 { _ = buckets.charge(key(1), 1 << 47, rate, now: .origin) }
    let wait = buckets.charge(key(1), 0, rate, now: .origin)
    #expect(wait == .seconds(3600))
    let room = buckets.peek(key(1), rate, now: .origin)
    #expect(room == 0)
    let again = buckets.take(key(1), 1, rate, now: Instant(seconds: 3601))
    #expect(again == .allowed)
  }

  @Test("an unlimited rate allows everything and records nobody")
  func unlimited() {
    var buckets = table(8)
    let decision = buckets.take(key(1), .max, .unlimited, now: .origin)
    let wait = buckets.charge(key(1), .max, .unlimited, now: .origin)
    #expect(decision == .allowed && wait == .zero)
    #expect(buckets.peek(key(1), .unlimited, now: .origin) == .max)
  }

  @Test("limits of one source have buckets of their own")
  func separateLimits() throws {
    let rate = try Terms(units: 1, period: .seconds(60), burst: 1).rate
    var buckets = table(64)
    for limit in UInt8(0)..<5 {
      let decision = buckets.take(key(1).with(limit: limit), 1, rate, now: .origin)
      #expect(decision == .allowed, "limit \(limit)")
    }
  }

  @Test("a set full of sources over their limits keeps them and lets newcomers pass unrecorded")
  func fullOfOffenders() throws {
    let rate = try Terms(units: 1, period: .seconds(60), burst: 1).rate
    // Two sets, and each source may be in either of them.
    var buckets = table(8)
    for offender in 0..<16 {
      for _ in 0..<2 { _ = buckets.take(key(offender), 1, rate, now: .origin) }
    }
    for fresh in 100..<200 {
      let decision = buckets.take(key(fresh), 1, rate, now: Instant(seconds: 1))
      #expect(decision == .allowed)
    }
    let kept = (0..<16).count { buckets.peek(key($0), rate, now: Instant(seconds: 1)) == 0 }
    #expect(kept == 16 && buckets.evicted == 0 && buckets.unrecorded == 100)
    // A minute later their debts are paid and the places are free.
    let later = buckets.take(key(100), 1, rate, now: Instant(seconds: 61))
    let twice = buckets.take(key(100), 1, rate, now: Instant(seconds: 61))
    #expect(later == .allowed && twice == .over(retryAfter: .seconds(60)))
  }

  @Test("a place whose debt is paid is taken before a live one")
  func expiredFirst() throws {
    let rate = try Terms(units: 1, period: .seconds(10), burst: 5).rate
    var buckets = table(8)
    for source in 0..<16 {
      _ = buckets.take(key(source), source == 3 ? 1 : 4, rate, now: .origin)
    }
    _ = buckets.take(key(99), 1, rate, now: Instant(seconds: 15))
    #expect(buckets.evicted == 0)
    #expect(buckets.peek(key(99), rate, now: Instant(seconds: 15)) == 4)
    #expect(buckets.peek(key(0), rate, now: Instant(seconds: 15)) == 2)
  }

  @Test(
    "a rate out of range is none",
    arguments: [
      (units: 0, period: 1_000_000, burst: 1, reason: "nothing per second"),
      (1, 0, 1, "no time"), (1, 1, 0, "no burst"), (1, 32 * 86_400_000_000, 1, "more than a month"),
      (1 << 49, 1, 1, "too many units"),
    ] as [(UInt64, Int64, UInt64, String)])
  func ranges(units: UInt64, period: Int64, burst: UInt64, reason: String) {
    #expect(Rate(units, per: .microseconds(period), burst: burst) == nil, "\(reason)")
  }

  @Test("equal rates in other words are equal")
  func lowestTerms() {
    #expect(
      Rate(64, per: .seconds(1), burst: 9) == Rate(128, per: .seconds(2), burst: 9))
  }

  @Test("a source takes at most sixteen bytes in a table that has room for all of them")
  func footprint() throws {
    let count = 100_000
    var buckets = table(count)
    #expect(buckets.capacity == count && buckets.footprint <= 15 * count + 96)
    let rate = try Terms(units: 1, period: .seconds(60), burst: 2).rate
    for source in 0..<count { _ = buckets.take(key(source), 1, rate, now: .origin) }
    let kept = (0..<count).count { buckets.peek(key($0), rate, now: .origin) == 1 }
    #expect(kept * 16 >= buckets.footprint && kept >= count - count / 1_000, "\(kept)")
  }
}
