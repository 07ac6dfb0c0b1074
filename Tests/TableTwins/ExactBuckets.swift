// SPDX-License-Identifier: Apache-2.0
package import Flow
package import Structures

/// GCRA in exact fractions in a dictionary that never forgets anybody: what the bucket table must not be
/// stricter than. Times are whole numbers of 1/units of a microsecond.
package struct ExactBuckets {
  package let units: UInt64
  package let period: Int64
  package let burst: UInt64
  private var arrivals: [BucketKey: Int128] = [:]

  private var parts: Int128 { Int128(units) }
  private var tolerance: Int128 { Int128(burst) * Int128(period) }

  /// - Parameter period: in microseconds.
  package init(units: UInt64, period: Int64, burst: UInt64) {
    self.units = units
    self.period = period
    self.burst = burst
  }

  package func debt(_ key: BucketKey, _ now: Instant) -> Int128 {
    max(0, (arrivals[key] ?? 0) - Int128(now.microseconds) * parts)
  }

  /// How long until `units` would pass; zero when they do.
  package func wait(_ key: BucketKey, _ units: UInt64, _ now: Instant) -> Duration {
    let excess = debt(key, now) + Int128(min(units, burst)) * Int128(period) - tolerance
    return excess <= 0 ? .zero : .microseconds(Int64((excess + parts - 1) / parts))
  }

  package mutating func add(_ key: BucketKey, _ units: UInt64, _ now: Instant) {
    let sum = debt(key, now) + Int128(units) * Int128(period)
    let cut = min(sum, tolerance + 3_600_000_000 * parts)
    arrivals[key] = Int128(now.microseconds) * parts + cut
  }

  package func room(_ key: BucketKey, _ now: Instant) -> UInt64 {
    UInt64(max(0, tolerance - debt(key, now)) / Int128(period))
  }
}

/// What a replay against the exact model found.
package struct ReplayResult: Sendable {
  package var decisions = 0
  package var limited = 0
  /// Limited though the exact model says that the source is under its rate.
  package var falselyLimited = 0
  /// Passed though the exact model would have limited it: forgotten, which is in the source's favour.
  package var forgiven = 0
}

/// Random traffic of many sources at several rates, some busy and most of them rare, through one table and
/// the exact model at once.
///
/// - Parameters:
///   - table: of any size; too small for all sources is the interesting case.
///   - sources: different ones.
package func replay(
  _ table: inout BucketTable, sources: Int, events: Int, seed: UInt64
) -> ReplayResult {
  var random = SeededGenerator(seed: seed)
  var models = [
    ExactBuckets(units: 60, period: 60_000_000, burst: 5),
    ExactBuckets(units: 7, period: 60_000_000, burst: 7),
    ExactBuckets(units: 65_536, period: 1_000_000, burst: 16_384),
  ]
  let rates = models.map { Rate($0.units, per: .microseconds($0.period), burst: $0.burst) }
  var result = ReplayResult()
  var now = Instant.origin
  // So that the busy ones are well over their rates and the rare ones far below.
  let pace = Int64(40_000_000 / sources)
  for _ in 0..<events {
    now = now + .microseconds(Int64.random(in: 0...2 * pace, using: &random))
    // The product of two draws: a few sources make most of the traffic.
    let draw =
      Double.random(in: 0..<1, using: &random) * Double.random(in: 0..<1, using: &random)
      * Double.random(in: 0..<1, using: &random)
    let source = UInt32(draw * Double(sources))
    let kind = Int.random(in: 0..<3, using: &random)
    let key = BucketKey(Address(v4: source), length: 32, limit: UInt8(kind))
    guard let rate = rates[kind] else { continue }
    let units = kind == 2 ? UInt64.random(in: 0...20_000, using: &random) : 1
    if kind == 2 {
      _ = table.charge(key, units, rate, now: now)
      models[kind].add(key, units, now)
      continue
    }
    result.decisions += 1
    let wait = models[kind].wait(key, units, now)
    switch table.take(key, units, rate, now: now) {
    case .allowed:
      models[kind].add(key, units, now)
      if wait > .zero { result.forgiven += 1 }
    case .over(let retryAfter):
      result.limited += 1
      // Not a microsecond longer than the exact model either.
      if wait == .zero || retryAfter > wait { result.falselyLimited += 1 }
    }
  }
  return result
}

/// What became of sources over their limits under attack.
package struct AttackResult: Sendable {
  package var offenders = 0
  package var stillLimited = 0
  package var evicted: UInt64 = 0
  package var unrecorded: UInt64 = 0
}

/// Some sources go over their limits; then an attacker comes from fresh addresses, every other time going
/// over its own limit at once by a debt far deeper than theirs.
package func attack(
  _ table: inout BucketTable, offenders: Int, addresses: Int
) -> AttackResult {
  guard let rate = Rate(10, per: .seconds(60), burst: 10) else { return AttackResult() }
  func key(_ number: Int) -> BucketKey { BucketKey(Address(v4: UInt32(number)), length: 32) }
  for offender in 0..<offenders {
    for _ in 0..<11 { _ = table.take(key(offender), 1, rate, now: .origin) }
  }
  // While the attack lasts they pay off a part of their debts, and stay recorded.
  let now = Instant(seconds: 5)
  for number in 0..<addresses {
    let fresh = key(1 << 24 + number)
    if number % 2 == 0 {
      _ = table.take(fresh, 1, rate, now: now)
    } else {
      _ = table.charge(fresh, 1_000, rate, now: now)
    }
  }
  let limited = (0..<offenders).count { table.peek(key($0), rate, now: now) == 0 }
  return AttackResult(
    offenders: offenders, stillLimited: limited, evicted: table.evicted,
    unrecorded: table.unrecorded)
}
