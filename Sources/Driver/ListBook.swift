// SPDX-License-Identifier: Apache-2.0
//
// What all workers know of the DNS lists together: what was answered, and which zones can be believed. Not the asking,
// which is each worker's own (`ListDesk`). Kept: an answer of a zone that does not count is neither found nor kept, also
// not after the zone has recovered; times are on the clock that all workers share.

package import DNSLists
package import Policy
package import Resolver
package import Structures
import Synchronization

package final class ListBook: Sendable {
  /// Bounds that no operator needs to know.
  package struct Bounds: Sendable, Equatable {
    /// Clients of a worker whose look-up has not ended. With 2,000 new clients a second each may take two seconds.
    package var lookUps = 4_096
    /// Queries in flight of all workers together. A server's socket holds some 200; beyond that answers are lost
    /// (measured: 867 of 10,000 at 1,000).
    package var queries = 150
    /// How long an answer is believed.
    package var lifetimes = AnswerCache.Lifetimes()
    /// When zones are tested.
    package var tests = ZoneHealth.Intervals()

    package init() {}
  }

  /// What is known of an address.
  struct Findings {
    /// The items that it is on.
    var matched = ItemSet()
    /// The zones to ask, each a bit, and their items.
    var unknown: UInt32 = 0
    var pending = ItemSet()
    /// Zones whose answer was there.
    var known = 0
  }

  private struct Zone {
    var health: ZoneHealth
    /// In which of its healthy times it is: what it said in an earlier one is not found any more.
    var edition: UInt32 = 0
  }

  private struct State: ~Copyable {
    var cache: AnswerCache
    var zones: [Zone]
  }

  let sites: ListSites
  let bounds: Bounds
  let resolverSettings: ResolverSettings
  /// Keyed, as an outsider chooses what is looked up.
  let hash: SipHash
  let settings: LookUpSettings
  private let state: Mutex<State>
  /// When a test is due, in microseconds: read in each turn of a loop, so not behind the lock.
  private let testAt: Atomic<Int64>

  /// - Parameters:
  ///   - sites: the lists; each zone is untested.
  ///   - workers: how many of them ask.
  ///   - hash: with a secret key.
  ///   - now: on the clock of the workers.
  /// - Throws: if a resolver with these settings cannot be had.
  package init(
    _ sites: ListSites, _ settings: LookUpSettings, bounds: Bounds = Bounds(), workers: Int,
    hash: SipHash, now: Instant
  ) throws(ResolverError) {
    self.sites = sites
    self.settings = settings
    self.bounds = bounds
    self.hash = hash
    resolverSettings = ListBook.resolverSettings(settings, bounds, workers: workers)
    // Each worker makes one of its own, on its thread. What is wrong with the settings is to be known here.
    _ = try Resolver(resolverSettings, hash: hash, now: now)
    let health = ZoneHealth(now: now, intervals: bounds.tests)
    state = Mutex(
      State(
        cache: AnswerCache(
          capacity: max(settings.cacheEntries, 1), lifetimes: bounds.lifetimes, hash: hash),
        zones: Array(repeating: Zone(health: health), count: sites.zones.count)))
    testAt = Atomic(sites.zones.isEmpty ? .max : now.microseconds)
  }

  private static func resolverSettings(
    _ settings: LookUpSettings, _ bounds: Bounds, workers: Int
  ) -> ResolverSettings {
    var resolver = ResolverSettings()
    resolver.servers = settings.servers.map { ServerAddress($0.address, port: $0.port) }
    resolver.timeout = .microseconds(settings.timeout)
    resolver.inFlightMax = max(bounds.queries / max(workers, 1), 1)
    return resolver
  }

  /// Whether lists with these settings are asked as this book has it. A threshold, or what a listing leads to, is no
  /// reason for another one.
  package func fits(_ sites: ListSites, _ settings: LookUpSettings) -> Bool {
    sites.items == self.sites.items && settings == self.settings
  }

  /// Bytes of a worker's look-ups and resolver at most, with what c-ares has of queries in flight.
  package static var workerBytes: Int {
    let bounds = Bounds()
    let resolver = resolverSettings(LookUpSettings(), bounds, workers: 1)
    return bounds.lookUps * ListDesk.bytesEach + Resolver.footprint(resolver)
      + bounds.queries * 300
  }

  // MARK: Answers

  /// What is known of an address, and whom to ask for the rest.
  func find(_ address: Address, now: Instant) -> Findings {
    state.withLock { state in
      var found = Findings()
      for zone in state.zones.indices where state.zones[zone].health.counts {
        let question = ListBook.question(zone, state.zones[zone].edition)
        switch state.cache.find(question: question, address, now: now) {
        case .some(.matched(let items)):
          found.matched.formUnion(items)
          found.known += 1
        case .some(.none), .some(.failed): found.known += 1
        case nil:
          found.unknown |= 1 << UInt32(zone)
          found.pending.formUnion(sites.items(of: zone))
        }
      }
      return found
    }
  }

  /// A zone has answered about an address.
  func keep(
    _ answer: CachedAnswer, of zone: Int, _ address: Address, seconds: UInt32?, now: Instant
  ) {
    state.withLock { state in
      guard state.zones[zone].health.counts else { return }
      state.cache.store(
        answer, question: ListBook.question(zone, state.zones[zone].edition), address,
        seconds: seconds, now: now)
    }
  }

  private static func question(_ zone: Int, _ edition: UInt32) -> UInt32 {
    UInt32(zone) | edition << 5
  }

  // MARK: Health

  /// Whether a zone's answers count.
  package func counts(_ zone: Int) -> Bool { state.withLock { $0.zones[zone].health.counts } }

  /// When a test is due.
  var nextTestAt: Instant { Instant(microseconds: testAt.load(ordering: .relaxed)) }

  /// The zones whose test is due, each a bit. It counts as begun.
  func beginTests(now: Instant) -> UInt32 {
    state.withLock { state in
      var due: UInt32 = 0
      for zone in state.zones.indices where state.zones[zone].health.testAt <= now {
        state.zones[zone].health.testBegan(now: now)
        due |= 1 << UInt32(zone)
      }
      setTestTime(state.zones)
      return due
    }
  }

  /// A zone's test has ended.
  func tested(_ zone: Int, _ outcome: HealthOutcome, now: Instant) -> HealthNotice? {
    change(zone) { $0.tested(outcome, now: now) }
  }

  /// A zone has answered about a client with an error.
  func failed(_ zone: Int, _ error: ListError, now: Instant) -> HealthNotice? {
    change(zone) { $0.answeredWithError(error, now: now) }
  }

  private func change(
    _ zone: Int, _ step: (inout ZoneHealth) -> HealthNotice?
  ) -> HealthNotice? {
    state.withLock { state in
      let notice = step(&state.zones[zone].health)
      if case .alarm? = notice { state.zones[zone].edition &+= 1 }
      setTestTime(state.zones)
      return notice
    }
  }

  private func setTestTime(_ zones: [Zone]) {
    var earliest = Int64.max
    for zone in zones { earliest = min(earliest, zone.health.testAt.microseconds) }
    testAt.store(earliest, ordering: .relaxed)
  }
}
