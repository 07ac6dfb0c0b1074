// SPDX-License-Identifier: Apache-2.0
import DNSLists
import Structures
import Testing

@Suite("The cache of answers")
struct AnswerCacheTests {
  static let hash = SipHash(k0: 1, k1: 2)
  static let client = Address(v4: 0xC000_0201)
  static let listed = CachedAnswer.matched(ItemSet(rawValue: 5))

  static func at(_ seconds: Double) -> Instant { Instant(seconds: seconds) }

  @Test(
    "keeps an answer for its TTL, within bounds",
    arguments: [
      (listed, UInt32(300), 300.0), (listed, 1, 60), (listed, 86_400, 3_600),
      (CachedAnswer.none, 300, 300), (.none, 1, 60), (.none, 86_400, 600),
      (.none, UInt32.max, 600),
    ])
  func lifetimes(answer: CachedAnswer, seconds: UInt32, kept: Double) {
    var cache = AnswerCache(capacity: 64, hash: Self.hash)
    cache.store(answer, question: 3, Self.client, seconds: seconds, now: Self.at(1_000))
    #expect(cache.find(question: 3, Self.client, now: Self.at(1_000 + kept - 0.2)) == answer)
    #expect(cache.find(question: 3, Self.client, now: Self.at(1_000 + kept + 0.2)) == nil)
    #expect(cache.find(question: 4, Self.client, now: Self.at(1_000)) == nil)
    #expect(cache.find(question: 3, Address(v4: 1), now: Self.at(1_000)) == nil)
  }

  @Test("a failure is kept for 10 to 30 s, a negative answer without a TTL for the shortest time")
  func defaults() {
    var cache = AnswerCache(capacity: 4_096, hash: Self.hash)
    var ends: Set<Int> = []
    for i in 0..<200 {
      let client = Address(v4: UInt32(i))
      cache.store(.failed, question: 0, client, seconds: nil, now: .origin)
      #expect(cache.find(question: 0, client, now: Self.at(9.8)) == .failed)
      let end = (10...30).first {
        cache.find(question: 0, client, now: Self.at(Double($0) + 0.2)) == nil
      }
      ends.insert(end ?? 99)
    }
    #expect(ends.isSubset(of: Set(10...30)) && ends.count > 15)
    cache.store(.none, question: 1, Self.client, seconds: nil, now: .origin)
    #expect(cache.find(question: 1, Self.client, now: Self.at(59)) == CachedAnswer.none)
    #expect(cache.find(question: 1, Self.client, now: Self.at(61)) == nil)
  }

  @Test("a newer answer takes the place of the older one")
  func replaced() {
    var cache = AnswerCache(capacity: 8, hash: Self.hash)
    cache.store(Self.listed, question: 0, Self.client, seconds: 600, now: .origin)
    cache.store(.none, question: 0, Self.client, seconds: 600, now: .origin)
    #expect(cache.find(question: 0, Self.client, now: .origin) == CachedAnswer.none)
    #expect(cache.evictions == 0)
  }

  @Test("when it is full, what would expire first goes first")
  func full() {
    var cache = AnswerCache(capacity: 8, hash: Self.hash)
    #expect(cache.capacity == 8 && cache.footprint <= 8 * 16)
    for i in 0..<8 {
      cache.store(
        Self.listed, question: 0, Address(v4: UInt32(i)), seconds: UInt32(100 + i), now: .origin)
    }
    #expect(cache.evictions == 0)
    cache.store(Self.listed, question: 0, Self.client, seconds: 3_600, now: .origin)
    #expect(cache.evictions == 1)
    let left = (0..<8).map { cache.find(question: 0, Address(v4: UInt32($0)), now: .origin) != nil }
    #expect(left == [false, true, true, true, true, true, true, true])
    #expect(cache.find(question: 0, Self.client, now: .origin) == Self.listed)
    // What has expired makes room without being missed.
    cache.store(.none, question: 1, Self.client, seconds: 60, now: Self.at(200))
    #expect(cache.evictions == 1)
  }

  @Test("agrees with a dictionary in whatever it still has", arguments: [UInt64(1), 2, 3])
  func twin(seed: UInt64) {
    struct Key: Hashable { let question: UInt32, address: Address }
    var random = SeededGenerator(seed: seed)
    var cache = AnswerCache(capacity: 1_024, hash: SipHash(k0: seed, k1: 7))
    var twin: [Key: (answer: CachedAnswer, end: Double)] = [:]
    var now = 0.0
    var hits = 0
    for _ in 0..<20_000 {
      now += Double(Int.random(in: 0..<8, using: &random)) / 8
      let key = Key(
        question: UInt32.random(in: 0..<4, using: &random),
        address: Address(v4: UInt32.random(in: 0..<600, using: &random)))
      let found = cache.find(question: key.question, key.address, now: Self.at(now))
      if let found {
        hits += 1
        let known = twin[key]
        #expect(known?.answer == found && (known?.end ?? 0) > now - 0.25, "seed \(seed)")
      } else {
        let seconds = UInt32.random(in: 60...600, using: &random)
        let answer: CachedAnswer =
          Bool.random(using: &random)
          ? .none : .matched(ItemSet(rawValue: UInt32.random(in: 1...9, using: &random)))
        cache.store(
          answer, question: key.question, key.address, seconds: seconds, now: Self.at(now))
        twin[key] = (answer, now + Double(seconds))
      }
    }
    #expect(hits > 1_000, "seed \(seed)")
  }
}

@Suite("The health of a list")
struct ZoneHealthTests {
  static let on = TestAnswer.addresses([Address(v4: 0x7F00_0002)])
  static func answers(_ text: String) throws -> TestAnswer {
    .addresses([try #require(Address(text))])
  }

  @Test(
    "is what its two test addresses say (RFC 5782, 5)",
    arguments: [
      (on, TestAnswer.noSuchName, HealthOutcome.healthy),
      (.addresses([Address(v4: 0x7F00_0A00)]), .noSuchName, .healthy),
      (on, on, .listsEverything),
      (.failure, on, .listsEverything),
      (.noSuchName, on, .listsEverything),
      (.noSuchName, .noSuchName, .listsNothing),
      (.noSuchName, .failure, .listsNothing),
      (.failure, .failure, .silent),
      (on, .failure, .silent),
      (.failure, .noSuchName, .silent),
      (.addresses([Address(v4: 0x7FFF_FFFE)]), .noSuchName, .refuses(.publicResolver)),
      (.addresses([Address(v4: 0x7FFF_FFFF)]), .failure, .refuses(.tooManyQueries)),
      (
        .addresses([Address(v4: 0x0A00_0001)]), .addresses([Address(v4: 0x0A00_0001)]),
        .refuses(.outsideLoopback)
      ),
    ])
  func outcomes(two: TestAnswer, one: TestAnswer, outcome: HealthOutcome) {
    #expect(HealthOutcome(two: two, one: one) == outcome)
  }

  @Test("one alarm for an illness, one notice for a recovery, and only a healthy zone counts")
  func notices() {
    var health = ZoneHealth(now: .origin)
    #expect(!health.counts && health.testAt == .origin)
    health.testBegan(now: .origin)
    #expect(health.testAt == Instant(seconds: 300))
    let steps: [(HealthOutcome, HealthNotice?, Bool)] = [
      (.healthy, nil, true), (.healthy, nil, true), (.silent, .alarm(.silent), false),
      (.silent, nil, false), (.listsNothing, nil, false), (.healthy, .recovered, true),
      (.listsEverything, .alarm(.listsEverything), false), (.healthy, .recovered, true),
    ]
    for (outcome, notice, counts) in steps {
      let told = health.tested(outcome, now: .origin)
      #expect(told == notice && health.counts == counts)
      #expect(health.testAt == Instant(seconds: counts ? 3_600 : 300))
    }
    let told = health.answeredWithError(.tooManyQueries, now: .origin)
    #expect(told == .alarm(.refuses(.tooManyQueries)) && !health.counts)
    #expect(health.testAt == Instant(seconds: 300))
    let again = health.answeredWithError(.tooManyQueries, now: .origin)
    #expect(again == nil)
  }

  @Test("a zone that fails its first test raises the alarm")
  func first() {
    var health = ZoneHealth(now: .origin)
    let told = health.tested(.silent, now: .origin)
    #expect(told == .alarm(.silent))
  }
}
