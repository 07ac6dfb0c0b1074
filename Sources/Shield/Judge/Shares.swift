// SPDX-License-Identifier: Apache-2.0
import Policy
import SMTP
import Structures
import Suspicion

/// A fixed number of places. No source may take all of them.
enum Pool: UInt8, BitwiseCopyable {
  /// Connected clients (`limits.connections`).
  case slots
  /// Talking clients (`limits.sessions`).
  case sessions
  /// Downstream connections (`limits.downstream_connections`).
  case links
  /// Clients that speak TLS (`limits.tls_sessions`).
  case tlsPlaces
  /// Clients whose handshake is under way: a quarter of the places for TLS.
  case handshakes

  /// How many there are; `allCases` would be made on the heap each time it is asked for.
  static let count = 5
}

/// How many places each source holds in each pool, and how many it may hold.
///
/// A source is an address (/32, or the /64 that one host can fill) and, beside it, its network (/24, or /48). It may have
/// its share of the pool, and where the pool is crowded a small part of that: so one source never keeps another one out,
/// and to leave nothing to strangers for long takes hundreds of addresses.
///
/// It does not decide who comes first or for how long: see `hurry`. Kept: each place is counted under two keys for as
/// long as it is held, so the exact table, which has two keys for each place, is never full.
struct Shares: ~Copyable {
  /// Under what a source has more than its share.
  enum Scope: UInt8, BitwiseCopyable { case address, network }

  /// A pool as it is now, for a source.
  struct Room {
    let places: Int
    let isKnown: Bool
    /// It runs out, or did a moment ago.
    let isCrowded: Bool
  }

  private var crowd: CrowdCounts
  private var counts: OpenCounts
  private let hash: SipHash

  /// A small pool gives an address or a network at least this many places, but at most a fifth or a half of the pool.
  private static let fewest = (address: 10, network: 20)
  /// A source that has delivered mail may have this many times as much.
  private static let knownFactor = 4.0
  /// Exact counts end here, and so does every share.
  private static let most = 65_534
  /// What is left of a share in a crowd.
  private static let crowdFactor = 1.0 / 25
  /// Held connections are counted by estimate, and below this the estimate is too coarse.
  private static let leastOfSlots = 16.0
  /// How long a pool counts as crowded after it ran out, in microseconds: until sources that held much have been cut
  /// and sources that were turned away had their turn.
  private static let crowdedFor: Int64 = 60_000_000
  private var crowdedUntil = InlineArray<5, Instant>(repeating: .origin)

  init(_ limits: Limits, hash: SipHash) {
    self.hash = hash
    crowd = CrowdCounts(places: limits.connections)
    counts = OpenCounts(
      capacity: 2
        * (limits.sessions + limits.downstreamConnections + limits.tlsSessions
          + limits.handshakes))
  }

  /// Bytes for each place of a pool that is counted exactly.
  static let bytesEach = 14
  /// Bytes for each held connection, at most.
  static let bytesOfSlot = 4

  /// Whether no source holds a place.
  var isEmpty: Bool { crowd.total == 0 && counts.entries == 0 }

  private func key(_ pool: Pool, _ scope: Scope, _ source: Address) -> UInt64 {
    let length =
      switch scope {
      case .address: source.isIPv4 ? 32 : 64
      case .network: source.isIPv4 ? 24 : 48
      }
    let block = source.network(length)
    return hash(
      4 << 32 | UInt64(pool.rawValue) << 8 | UInt64(scope.rawValue), block.high, block.low)
  }

  private func held(_ pool: Pool, _ scope: Scope, _ source: Address) -> Int {
    let key = key(pool, scope, source)
    return pool == .slots ? crowd.count(key) : Int(counts.count(key))
  }

  /// How many places of a pool a source may have as things are.
  private func limit(
    _ pool: Pool, _ scope: Scope, _ room: Room, _ policy: borrowing Policy
  ) -> Int {
    let share = scope == .address ? policy.sharePerAddress : policy.sharePerNetwork
    if share >= 1 { return Self.most }
    let places = Double(room.places)
    let fewest =
      scope == .address
      ? min(Double(Self.fewest.address), places / 5)
      : min(Double(Self.fewest.network), places / 2)
    let factor = room.isKnown ? Self.knownFactor : 1
    var most = max(share * places, fewest)
    if room.isCrowded { most = share * places * Self.crowdFactor }
    let least = pool == .slots ? Self.leastOfSlots : 1
    return min(Int(max(most, least) * factor), Self.most)
  }

  /// A pool has run out.
  mutating func crowd(_ pool: Pool, now: Instant) {
    crowdedUntil[Int(pool.rawValue)] = now.after(microseconds: Self.crowdedFor)
  }

  /// Whether a pool ran out a moment ago.
  func wasCrowded(_ pool: Pool, now: Instant) -> Bool { now < crowdedUntil[Int(pool.rawValue)] }

  /// Whether a source holds more than it would get as things are.
  func isGreedy(_ pool: Pool, _ source: Address, _ room: Room, _ policy: borrowing Policy) -> Bool {
    held(pool, .address, source) > limit(pool, .address, room, policy)
      || held(pool, .network, source) > limit(pool, .network, room, policy)
  }

  /// Under what a source would have more than its share with one place more; nil if it may have it.
  func excess(
    _ pool: Pool, _ source: Address, _ room: Room, _ policy: borrowing Policy
  ) -> Scope? {
    func isOver(_ scope: Scope) -> Bool {
      held(pool, scope, source) >= limit(pool, scope, room, policy)
    }
    return isOver(.address) ? .address : isOver(.network) ? .network : nil
  }

  /// A source has a place more.
  mutating func take(_ pool: Pool, _ source: Address) {
    add(pool, key(pool, .address, source))
    add(pool, key(pool, .network, source))
  }

  private mutating func add(_ pool: Pool, _ key: UInt64) {
    if pool == .slots {
      crowd.add(key)
    } else {
      let count = counts.increment(key)
      invariant(count != nil, "more places are shared out than there are")
    }
  }

  /// A source has a place less.
  mutating func giveBack(_ pool: Pool, _ source: Address) {
    remove(pool, key(pool, .address, source))
    remove(pool, key(pool, .network, source))
  }

  private mutating func remove(_ pool: Pool, _ key: UInt64) {
    if pool == .slots { crowd.remove(key) } else { counts.decrement(key) }
  }
}
