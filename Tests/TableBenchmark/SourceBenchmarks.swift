// SPDX-License-Identifier: Apache-2.0
import Flow
import Reputation
import Structures
import TableTwins

/// The tables that remember sources: what one takes and what a decision costs, with as many sources as the
/// table says it has room for; and whether it keeps its promises at full size.
struct SourceBenchmark {
  private let options: Options
  init(_ options: Options) { self.options = options }

  private var hash: SipHash { SipHash(k0: options.seed, k1: 0x5A17) }

  func run() {
    let sources = options.number("sources", 10_000_000)
    let decisions = options.number("decisions", 5_000_000)
    if options.text("table", "buckets", of: ["buckets", "reputation"]) == "buckets" {
      buckets(sources, decisions)
    } else {
      reputation(sources, decisions)
    }
  }

  private func key(_ number: Int) -> BucketKey {
    BucketKey(Address(v4: UInt32(number)), length: 32)
  }

  private func buckets(_ sources: Int, _ decisions: Int) {
    guard let rate = Rate(60, per: .seconds(3_600), burst: 60) else { return }
    var table = BucketTable(capacity: sources, hash: hash)
    let filling = timed("ns per decision, first of a source", "buckets", sources) { number in
      _ = table.take(key(number), 1, rate, now: .origin)
      return 0
    }
    keep(filling)
    var kept = 0
    for number in 0..<sources where table.peek(key(number), rate, now: .origin) == 59 { kept += 1 }
    tracked("buckets", table.footprint, sources, kept)
    var random = SeededGenerator(seed: options.seed)
    let now = Instant(seconds: 1)
    let allowed = timed("ns per decision, known source", "buckets", decisions) { _ in
      let source = Int(truncatingIfNeeded: random.next() >> 32) % sources
      return table.take(key(source), 1, rate, now: now) == .allowed ? 1 : 0
    }
    keep(allowed)
    // As many whatever the decisions, so that their number alone makes the difference of two runs.
    let room = timed("ns per question, known source", "buckets", sources) { _ in
      let source = Int(truncatingIfNeeded: random.next() >> 32) % sources
      return Int(truncatingIfNeeded: table.peek(key(source), rate, now: now))
    }
    keep(room)
  }

  private func reputation(_ sources: Int, _ decisions: Int) {
    let minute: Int64 = 60_000_000
    var table = ReputationTable(capacity: sources, hash: hash)
    func source(_ number: Int) -> Source { Source(host: Address(v4: UInt32(number))) }
    let filling = timed("ns per departure, first of a source", "reputation", sources) { number in
      let change = Change(.left, of: source(number), at: 0, stages: 1 << 0)
      table.learn(change, epoch: 0, chanceAfter: minute)
      return 0
    }
    keep(filling)
    let later = Instant(seconds: 120)
    var kept = 0
    for number in 0..<sources
    where table.divisor(table.key(source(number)), stage: 0, after: minute, now: later) == 2 {
      kept += 1
    }
    tracked("reputation", table.footprint, sources, kept)
    var random = SeededGenerator(seed: options.seed)
    let sum = timed("ns per question, known source", "reputation", decisions) { _ in
      let key = table.key(source(Int(truncatingIfNeeded: random.next() >> 32) % sources))
      return table.isGood(key, now: later) ? 1 : 0
    }
    keep(sum)
  }

  private func tracked(_ name: String, _ footprint: Int, _ sources: Int, _ kept: Int) {
    report("bytes per place", Double(footprint) / Double(sources), "B", name)
    report("sources put in", sources, "", name)
    report("sources still there", kept, "", name)
    report("bytes per tracked source", Double(footprint) / Double(kept), "B", name)
  }

  @inline(__always)
  private func timed(_ what: String, _ name: String, _ count: Int, _ body: (Int) -> Int) -> Int {
    let start = nanoseconds()
    var sum = 0
    for number in 0..<count { sum &+= body(number) }
    report(what, Double(nanoseconds() - start) / Double(count), "ns", name)
    return sum
  }

  func replay() {
    let sources = options.number("sources", 300_000)
    let capacity = options.number("capacity", 10_000)
    var table = BucketTable(capacity: capacity, hash: hash)
    let result = TableTwins.replay(
      &table, sources: sources, events: options.number("decisions", 5_000_000), seed: options.seed)
    let name = "\(sources) sources, room for \(capacity)"
    report("decisions compared with the exact model", result.decisions, "", name)
    report("limited", result.limited, "", name)
    report("limited though under the rate", result.falselyLimited, "", name)
    report("passed though over the rate, forgotten", result.forgiven, "", name)
    report("forgotten before they were full again", Int(table.evicted), "", name)
  }

  func attack() {
    let capacity = options.number("capacity", 200_000)
    let addresses = options.number("addresses", 1_000_000)
    var table = BucketTable(capacity: capacity, hash: hash)
    let result = TableTwins.attack(
      &table, offenders: options.number("offenders", 20_000), addresses: addresses)
    let name = "\(addresses) addresses, room for \(capacity)"
    report("sources over their limits", result.offenders, "", name)
    report("still limited after the attack", result.stillLimited, "", name)
    report("forgotten", Int(result.evicted), "", name)
    report("not recorded", Int(result.unrecorded), "", name)
  }
}
