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
  private let hour: Int64 = 3_600_000_000
  private let day: Int64 = 86_400_000_000
  private let host = Source(host: Address(v4: 0xC000_0207))
  private let network = Source(networkOf: Address(v4: 0xC000_0207), length: 24)
  /// What the clock on the wall says at the origin.
  private let epoch: Int64 = 1_795_255_200_000_000

  private func learn(
    _ table: inout ReputationTable, _ what: Change.What, of source: Source, for period: Int64 = 0,
    stages: UInt8 = 0, at now: Instant = .origin
  ) {
    let change = Change(
      what, of: source, at: epoch + now.microseconds, for: period, stages: stages)
    table.learn(change, epoch: epoch, chanceAfter: minute)
  }

  @Test("a source is known good for the configured time and no longer")
  func good() {
    var table = table()
    let key = table.key(host)
    #expect(table.isGood(key, now: .origin) == false)
    learn(&table, .accepted, of: host, for: 30 * day)
    #expect(table.isGood(key, now: Instant(seconds: 29.9 * 86_400)) == true)
    #expect(table.isGood(key, now: Instant(seconds: 30 * 86_400 + 121)) == false)
  }

  @Test("a proof takes the good standing away and is forgotten in time")
  func bad() {
    var table = table()
    let key = table.key(host)
    learn(&table, .accepted, of: host, for: hour)
    learn(&table, .proven, of: host, for: hour)
    #expect(table.isGood(key, now: Instant(seconds: 1)) == false)
    #expect(table.isBad(key, now: Instant(seconds: 1_800)) == true)
    #expect(table.isBad(key, now: Instant(seconds: 4_000)) == false)
  }

  @Test(
    "neither a good standing nor a proof comes back when the clock has gone round",
    arguments: 1...40)
  func noReturn(month: Int) {
    var table = table()
    let good = table.key(host)
    let bad = table.key(network)
    learn(&table, .accepted, of: host, for: hour)
    learn(&table, .proven, of: network, for: hour)
    let later = Instant(seconds: Double(month) * 30 * 86_400)
    #expect(table.isGood(good, now: later) == false && table.isBad(bad, now: later) == false)
  }

  @Test("nearly as many sources are remembered as there is room for, in 16 bytes each")
  func capacity() {
    let count = 50_000
    var table = table(count)
    for number in 0..<count {
      learn(&table, .left, of: Source(host: Address(v4: UInt32(number))), stages: 1 << 0)
    }
    let kept = (0..<count).count {
      let key = table.key(Source(host: Address(v4: UInt32($0))))
      return table.divisor(key, stage: 0, after: minute, now: Instant(seconds: 120)) == 2
    }
    #expect(kept * 16 >= table.footprint && kept >= count / 100 * 99, "\(kept)")
  }

  @Test("who left while delayed and comes back after a minute waits half, then not at all")
  func secondChance() {
    var table = table()
    let key = table.key(network)
    #expect(table.divisor(key, stage: 0, after: minute, now: .origin) == 1)
    learn(&table, .left, of: network, stages: 1 << 0, at: Instant(seconds: 10))
    let soon = table.divisor(key, stage: 0, after: minute, now: Instant(seconds: 40))
    #expect(soon == 1, "back within the minute earns nothing")
    #expect(table.divisor(key, stage: 0, after: minute, now: Instant(seconds: 75)) == 2)
    #expect(table.divisor(key, stage: 1, after: minute, now: Instant(seconds: 75)) == 1)
    learn(&table, .left, of: network, stages: 1 << 0, at: Instant(seconds: 80))
    #expect(table.divisor(key, stage: 0, after: minute, now: Instant(seconds: 150)) == 0)
  }

  @Test("a chance earned at one stage outlives a departure at another")
  func stages() {
    var table = table()
    let key = table.key(network)
    learn(&table, .left, of: network, stages: 1 << 4, at: Instant(seconds: 10))
    learn(&table, .left, of: network, stages: 1 << 7, at: Instant(seconds: 100))
    learn(&table, .left, of: network, stages: 1 << 4, at: Instant(seconds: 200))
    let now = Instant(seconds: 300)
    #expect(table.divisor(key, stage: 4, after: minute, now: now) == 0)
    #expect(table.divisor(key, stage: 7, after: minute, now: now) == 2)
    #expect(table.divisor(key, stage: 0, after: minute, now: now) == 1)
  }

  @Test("leaving again and again within the minute earns no more than leaving once")
  func hammering() {
    var table = table()
    let key = table.key(network)
    for second in 0..<30 {
      learn(&table, .left, of: network, stages: 1 << 0, at: Instant(seconds: Double(second)))
    }
    #expect(table.divisor(key, stage: 0, after: minute, now: Instant(seconds: 100)) == 2)
  }

  @Test("a flood of sources that leave cannot wash out a good one")
  func flood() {
    var table = table(64)
    let key = table.key(host)
    learn(&table, .accepted, of: host, for: day)
    for n in 0..<100_000 {
      let stranger = Source(host: Address(v4: UInt32(n)))
      if stranger != host {
        learn(&table, .left, of: stranger, stages: 1 << 0, at: Instant(seconds: 5))
      }
    }
    #expect(table.isGood(key, now: Instant(seconds: 10)) == true)
    #expect(table.evictions > 90_000, "the table was meant to be full: \(table.evictions)")
  }

  @Test("a HELO domain is one source in any letter case, and never an address or a user")
  func heloDomain() {
    let table = table()
    let names = SourceNames(secret: (1, 2))
    let lower = Array("example.org".utf8)
    let upper = Array("Example.ORG".utf8)
    let other = Array("example.net".utf8)
    #expect(names.source(heloDomain: lower.span) == names.source(heloDomain: upper.span))
    #expect(names.source(heloDomain: lower.span) != names.source(heloDomain: other.span))
    #expect(names.source(heloDomain: lower.span).high != names.source(user: lower.span).high)
    #expect(table.key(host) != table.key(network))
    #expect(
      table.key(host) != table.key(Source(networkOf: Address(v4: 0xC000_0207), length: 32)))
  }

  @Test("a name is the same source under the same secret, and another under another")
  func secrets() {
    let name = Array("example.org".utf8)
    let here = SourceNames(secret: (7, 9)).source(heloDomain: name.span)
    let there = SourceNames(secret: (7, 9)).source(heloDomain: name.span)
    let stranger = SourceNames(secret: (7, 10)).source(heloDomain: name.span)
    #expect(here == there && here != stranger)
  }

  @Test(
    "a record of what was learnt, played into a fresh table after a restart, gives the same answers",
    arguments: 0..<8)
  func replay(seed: Int) {
    var random = SeededGenerator(seed: UInt64(seed))
    func pick(_ count: Int) -> Int { Int(random.next() % UInt64(count)) }
    let hosts = (0..<40).map { Source(host: Address(v4: UInt32(0x0A00_0000 + 65_536 * $0))) }
    let domains = (0..<8).map { Source(.heloDomain, hash: UInt64($0) &* 0x9E37_79B9_7F4A_7C15) }
    let sources = hosts + domains
    var before = table(4_096)
    var record: [Change] = []
    var now = Instant(seconds: 5)
    for _ in 0..<600 {
      now = now.after(microseconds: Int64(pick(3_600)) * 1_000_000)
      let what: Change.What = [.accepted, .proven, .left][pick(3)]
      let change = Change(
        what, of: sources[pick(sources.count)], at: epoch + now.microseconds,
        for: what == .left ? 0 : Int64(pick(20)) * day, stages: UInt8(pick(256)))
      before.learn(change, epoch: epoch, chanceAfter: minute)
      record.append(change)
    }
    // Another process, which began now: other keys, another origin.
    let restart = epoch + now.microseconds + 7_000_000
    var after = ReputationTable(
      capacity: 4_096, hash: SipHash(k0: UInt64(seed) + 3, k1: 4))
    for change in record where change.at >= restart - ReputationTable.past {
      after.learn(change, epoch: restart, chanceAfter: minute)
    }
    // At times that leave some of what was learnt behind; by the table's own units of four minutes.
    for passed in [Int64(0), hour, day, 3 * day, 9 * day, 40 * day] {
      let then = restart + 500_000_000 + passed
      let old = Instant(microseconds: then - epoch)
      let new = Instant(microseconds: then - restart)
      for source in sources {
        let (a, b) = (before.key(source), after.key(source))
        // A boundary of a unit may lie between the two clocks: not within one unit of the end.
        let ends = record.filter { $0.source == source && $0.what != .left }.map(\.until)
        if ends.contains(where: { abs($0 - then) < 600_000_000 }) { continue }
        #expect(before.isGood(a, now: old) == after.isGood(b, now: new), "seed \(seed)")
        #expect(before.isBad(a, now: old) == after.isBad(b, now: new), "seed \(seed)")
        // The circle of departures closes after 24 days.
        guard passed < 9 * day else { continue }
        for stage in UInt8(0)..<8 {
          let had = before.divisor(a, stage: stage, after: minute, now: old)
          let has = after.divisor(b, stage: stage, after: minute, now: new)
          #expect(had == has, "seed \(seed), stage \(stage)")
        }
      }
    }
  }

  @Test("changes wait in the order in which they came, and what has no room is counted")
  func queue() {
    var queue = ChangeQueue(capacity: 3)
    for n in 0..<5 { queue.append(Change(.accepted, of: host, at: Int64(n))) }
    #expect(queue.lost == 2)
    let first = queue.next()
    #expect(first?.at == 0)
    queue.append(Change(.accepted, of: host, at: 9))
    var left: [Int64] = []
    while let next = queue.next() { left.append(next.at) }
    #expect(left == [1, 2, 9])
  }
}
