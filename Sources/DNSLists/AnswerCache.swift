// SPDX-License-Identifier: Apache-2.0
//
// What was answered, for as long as it may be believed: 16 bytes an answer in fixed memory. Not a cache of DNS records:
// what an answer came to is kept, as a set of items. Kept: never more answers than there are places. Clients with many
// addresses can fill it; then the answer that would expire first makes room.

package import Structures

/// What a question came to.
package enum CachedAnswer: Hashable, Sendable {
  /// At least one of them.
  case matched(ItemSet)
  case none
  /// No usable answer: SERVFAIL, silence, an error code.
  case failed
}

/// Answers by question and address.
package struct AnswerCache: ~Copyable {
  /// How long answers are kept, in seconds: the TTL within these bounds.
  package struct Lifetimes: Hashable, Sendable {
    /// Postscreen's bounds.
    package var listed: ClosedRange<UInt32> = 60...3_600
    package var unlisted: ClosedRange<UInt32> = 60...600
    /// Where there is no TTL to go by. Each failure gets another time out of it, so that not all are asked again at once.
    package var failed: ClosedRange<UInt32> = 10...30

    package init() {}
  }

  private var table: TwoSetTable<EightAnswers>
  private let hash: SipHash
  private let lifetimes: Lifetimes
  /// Answers that were dropped before their time to make room.
  package private(set) var evictions = 0

  /// - Parameters:
  ///   - capacity: answers, 1 and more; rounded up to eight times a power of two.
  ///   - hash: with a secret key, or clients could aim at each other's places.
  package init(capacity: Int, lifetimes: Lifetimes = Lifetimes(), hash: SipHash) {
    invariant(capacity > 0, "a cache cannot have \(capacity) places")
    table = TwoSetTable(sets: Self.places(for: capacity) / 8)
    self.hash = hash
    self.lifetimes = lifetimes
  }

  /// How many places a cache for so many answers has.
  package static func places(for capacity: Int) -> Int {
    var sets = 1
    while 8 * sets < capacity { sets *= 2 }
    return 8 * sets
  }

  /// Bytes of a place.
  package static var bytesEach: Int { MemoryLayout<EightAnswers>.stride / 8 }

  /// Answers there is room for.
  package var capacity: Int { 8 * Int(table.sets) }
  /// Bytes this cache takes.
  package var footprint: Int { table.footprint }

  /// Looks for what is still to be believed.
  ///
  /// - Parameter question: which zone, or which other question; numbers are the caller's.
  package func find(question: UInt32, _ address: Address, now: Instant) -> CachedAnswer? {
    let hash = hash(UInt64(question), address.high, address.low)
    guard let place = table.find(hash, tag: EightAnswers.tag(hash)) else { return nil }
    let kind = table[place.set].kinds[place.way]
    guard kind >> 2 == EightAnswers.check(hash),
      table[place.set].ends[place.way] > Self.clock(now)
    else { return nil }
    switch kind & 3 {
    case EightAnswers.matched: return .matched(ItemSet(rawValue: table[place.set].items[place.way]))
    case EightAnswers.unmatched: return CachedAnswer.none
    default: return .failed
    }
  }

  /// Keeps an answer; one that is there for the same question and address is replaced.
  ///
  /// - Parameter seconds: its TTL, if it has one; a failure has none.
  package mutating func store(
    _ answer: CachedAnswer, question: UInt32, _ address: Address, seconds: UInt32?, now: Instant
  ) {
    let hash = hash(UInt64(question), address.high, address.low)
    let tag = EightAnswers.tag(hash)
    let clock = Self.clock(now)
    let place: TwoSetPlace
    if let found = table.find(hash, tag: tag) {
      place = found
    } else {
      let chosen = table.choose(hash) { eight, way in
        eight.ends[way] <= clock ? 0 : UInt64(eight.ends[way] - clock)
      }
      place = chosen.place
      if chosen.worth > 0 { evictions += 1 }
    }
    let (kind, items, life) = shape(answer, seconds, hash)
    let (end, isOver) = clock.addingReportingOverflow(life * Self.ticks)
    table[place.set].put(
      place.way, tag: tag, kind: kind | EightAnswers.check(hash) << 2, items: items,
      end: isOver ? .max : end)
  }

  private func shape(
    _ answer: CachedAnswer, _ seconds: UInt32?, _ hash: UInt64
  ) -> (kind: UInt16, items: UInt32, seconds: UInt32) {
    switch answer {
    case .matched(let items):
      (EightAnswers.matched, items.rawValue, Self.clamp(seconds, lifetimes.listed))
    case .none: (EightAnswers.unmatched, 0, Self.clamp(seconds, lifetimes.unlisted))
    case .failed:
      (
        EightAnswers.failed, 0,
        lifetimes.failed.lowerBound
          + UInt32(truncatingIfNeeded: hash) % UInt32(lifetimes.failed.count)
      )
    }
  }

  /// Without a TTL the shortest time.
  private static func clamp(_ seconds: UInt32?, _ bounds: ClosedRange<UInt32>) -> UInt32 {
    min(max(seconds ?? 0, bounds.lowerBound), bounds.upperBound)
  }

  /// Of a second. 32 bits of them last for 17 years.
  private static let ticks: UInt32 = 8

  /// Begins with 1, so that a free place, whose end is 0, is over at any time.
  private static func clock(_ now: Instant) -> UInt32 {
    UInt32(clamping: max(now.microseconds, 0) / (1_000_000 / Int64(ticks)) + 1)
  }
}

/// Eight answers of one set.
package struct EightAnswers: EightRecords {
  package var tags: InlineArray<8, UInt32> = InlineArray(repeating: 0)
  var items: InlineArray<8, UInt32> = InlineArray(repeating: 0)
  var ends: InlineArray<8, UInt32> = InlineArray(repeating: 0)
  /// What it is in the lowest 2 bits, and 14 more bits of the hash: with the tag's alone a full table would take one
  /// address for another once a week at 500 look-ups a second.
  var kinds: InlineArray<8, UInt16> = InlineArray(repeating: 0)

  package init() {}
  package static var mixer: UInt64 { 0x9FB2_1C65_1E98_DF25 }

  static let matched: UInt16 = 1
  static let unmatched: UInt16 = 2
  static let failed: UInt16 = 3

  static func tag(_ hash: UInt64) -> UInt32 { UInt32(truncatingIfNeeded: hash) }
  static func check(_ hash: UInt64) -> UInt16 { UInt16(truncatingIfNeeded: hash >> 32) & 0x3FFF }

  mutating func put(_ way: Int, tag: UInt32, kind: UInt16, items: UInt32, end: UInt32) {
    tags[way] = tag
    kinds[way] = kind
    self.items[way] = items
    ends[way] = end
  }
}
