// SPDX-License-Identifier: Apache-2.0
import Policy
import SMTP
import Structures
import Suspicion

/// Places of which there is a fixed number, and of which no source may take all.
enum Pool: UInt8, BitwiseCopyable {
  /// Connected clients (`limits.connections`).
  case slots
  /// Talking clients (`limits.sessions`).
  case sessions
  /// Downstream connections (`limits.downstream_connections`).
  case links
  /// Clients that speak TLS (`limits.tls_sessions`).
  case tlsPlaces
  /// Those whose handshake is under way: a quarter of the places for TLS.
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
/// Not who comes first, and not for how long: see `hurry`. Kept: each place is counted under two keys for as long as it
/// is held, so the exact table, which has two keys for each place, is never full.
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

  /// A pool with few places in all gives a source so many of them, where that is a fifth (of a network: half) of it or less.
  private static let fewest = (address: 10, network: 20)
  /// Who has delivered mail may have so many times as much.
  private static let knownFactor = 4.0
  /// What is counted exactly ends there; so does every share.
  private static let most = 65_534
  /// What is left of a share in a crowd.
  private static let crowdFactor = 1.0 / 25
  /// Held connections are counted by estimate, and below this the estimate is too coarse.
  private static let leastOfSlots = 16.0
  /// How long a pool counts as crowded after it ran out, in microseconds: until those who held much have been cut and
  /// those who were turned away had their turn.
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

  /// Whether nobody holds anything.
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

// What protects the machine, in observe as in enforce: who holds too much of it gets no more, and when a pool runs out,
// those who hold its places are hurried, those who hold most first.
extension Engine {
  /// Whether a client's places are counted. The operator vouches for the others, or they are load balancers themselves.
  private func isCounted(_ i: Int) -> Bool {
    !connections[i].flags.contains(.trusted) && !connections[i].isNobody
  }

  /// Whether nobody holds a place of any pool: so it must be when nobody is there.
  package var sharesAreEmpty: Bool { shares.isEmpty }

  /// How many places a pool has, and how many nobody holds.
  private func places(_ pool: Pool) -> (all: Int, free: Int) {
    switch pool {
    case .slots: (limits.connections, clientIndexes.free)
    case .sessions: (limits.sessions, sessionIndexes.free)
    case .links: (limits.downstreamConnections, linkIndexes.free)
    case .tlsPlaces: (secured.capacity, secured.capacity - secured.count)
    case .handshakes: (limits.handshakes, limits.handshakes - secured.handshakes)
    }
  }

  private func fullness(_ pool: Pool) -> Double {
    let (all, free) = places(pool)
    return Double(all - free) / Double(max(all, 1))
  }

  /// A pool as it is for a source.
  private func room(_ pool: Pool, isKnown: Bool, now: Instant) -> Shares.Room {
    Shares.Room(
      places: places(pool).all, isKnown: isKnown,
      isCrowded: fullness(pool) >= policy.shrinkAt || shares.wasCrowded(pool, now: now))
  }

  /// Whether a pool runs out: of its places so many are taken that strangers hardly find one.
  func isUnderStress(_ pool: Pool) -> Bool {
    fullness(pool) >= min(policy.shedAt, 1 - policy.reservedForKnown)
  }

  /// Whether a pool of which a client holds a place runs out.
  func isPressed(_ i: Int) -> Bool {
    let s = Int(connections[i].session)
    return isUnderStress(.slots) || s >= 0 && isUnderStress(.sessions)
      || s >= 0 && sessions[s].link >= 0 && isUnderStress(.links)
      || connections[i].flags.contains(.encrypted) && isUnderStress(.tlsPlaces)
      || secured[i]?.isInHandshake == true && isUnderStress(.handshakes)
  }

  /// Whether a peer that has no slot yet may have one; says so in the log if not.
  mutating func mayEnter(_ peer: Peer, isKnown: Bool, isTrusted: Bool, now: Instant) -> Bool {
    if isTrusted || peer.isNobody { return true }
    guard
      let scope = shares.excess(
        .slots, peer.address, room(.slots, isKnown: isKnown, now: now), policy)
    else { return true }
    var entry = JournalEntry(.share, at: now)
    entry.address = peer.address
    entry.port = peer.port
    entry.listener = peer.listener
    entry.subject = Self.subject(.slots, scope)
    entry.reply = PitText.crowded.code
    overShare(.slots, entry)
    return false
  }

  /// Whether a client may have one place more of a pool; says so in the log if not.
  mutating func mayTake(_ pool: Pool, _ i: Int, now: Instant) -> Bool {
    guard isCounted(i),
      let scope = shares.excess(
        pool, connections[i].address,
        room(pool, isKnown: connections[i].tier == .known, now: now), policy)
    else { return true }
    var entry = entry(.share, i, now: now)
    entry.subject = Self.subject(pool, scope)
    entry.reply =
      switch pool {
      case .slots, .sessions: PitText.crowded.code
      case .links: OwnReply.tooManyLinks.code
      case .tlsPlaces, .handshakes: OwnReply.tlsUnavailable.code
      }
    overShare(pool, entry)
    return false
  }

  private mutating func overShare(_ pool: Pool, _ entry: borrowing JournalEntry) {
    switch pool {
    case .slots: counters.overShareSlots += 1
    case .sessions: counters.overShareSessions += 1
    case .links: counters.overShareLinks += 1
    case .tlsPlaces, .handshakes: counters.overShareTLS += 1
    }
    journal.append(entry)
  }

  private static func subject(_ pool: Pool, _ scope: Shares.Scope) -> Subject {
    switch (pool, scope) {
    case (.slots, .address): .slotsOfAddress
    case (.slots, .network): .slotsOfNetwork
    case (.sessions, .address): .sessionsOfAddress
    case (.sessions, .network): .sessionsOfNetwork
    case (.links, .address): .linksOfAddress
    case (.links, .network): .linksOfNetwork
    case (.tlsPlaces, .address): .tlsOfAddress
    case (.tlsPlaces, .network): .tlsOfNetwork
    case (.handshakes, .address): .handshakesOfAddress
    case (.handshakes, .network): .handshakesOfNetwork
    }
  }

  /// A client has a place more of a pool.
  mutating func took(_ pool: Pool, _ i: Int) {
    if isCounted(i) { shares.take(pool, connections[i].address) }
  }

  /// A client has a place less of a pool.
  mutating func gaveBack(_ pool: Pool, _ i: Int) {
    if isCounted(i) { shares.giveBack(pool, connections[i].address) }
  }

  /// For whom a downstream connection that is opened now is counted: it outlives its session.
  func holder(_ i: Int) -> Address? { isCounted(i) ? connections[i].address : nil }

  // MARK: Hurry

  /// Octets of a message that buy a second more.
  private static let octetsPerSecond: Int64 = 1_024

  /// Whether a client has held a scarce place for too long without coming to anything. Counted from when it got its
  /// session, its downstream connection, or the reply to its last message, whichever was last: commands do not move it.
  func isOverdue(_ i: Int, now: Instant) -> Bool {
    let s = Int(connections[i].session)
    guard isCounted(i), isPressed(i) else { return false }
    let pool: Pool = sessions[s].link >= 0 ? .links : .sessions
    let isGreedy = shares.isGreedy(
      pool, connections[i].address,
      room(pool, isKnown: connections[i].tier == .known, now: now), policy)
    var allowed = policy.timeouts.messageUnderStress / (isGreedy ? 2 : 1)
    allowed += Int64(sessions[s].acceptedRecipients) * 1_000_000
    switch sessions[s].phase {
    case .body, .swallow:
      let octets = Int64(clamping: sessions[s].data.octets)
      allowed += octets / Self.octetsPerSecond * 1_000_000
    case .spliced:
      allowed += Int64(clamping: sessions[s].bytesIn) / Self.octetsPerSecond * 1_000_000
    default: break
    }
    return (now - sessions[s].progress).microseconds > allowed
  }

  /// A talking client, once a second: where a pool runs out of which it holds a place, it must get on.
  mutating func hurry(_ i: Int, now: Instant) {
    guard isPressed(i) else { return }
    let s = Int(connections[i].session)
    let soon = now.after(microseconds: commandTimeout(i))
    switch sessions[s].phase {
    case .command, .challenge: moveDeadline(i, to: isOverdue(i, now: now) ? now : soon)
    case .securing: moveDeadline(i, to: soon)
    case .body where isOverdue(i, now: now), .swallow where isOverdue(i, now: now),
      .spliced where isOverdue(i, now: now):
      moveDeadline(i, to: now)
    // Ours to wait, or the downstream's clock is running.
    case .body, .swallow, .spliced, .delaying, .opening, .forwarded, .holding, .final, .leaving:
      break
    }
  }

  /// Moves a client's deadline up.
  mutating func moveDeadline(_ i: Int, to soon: Instant) {
    if let due = wheel.deadline(of: i), due > soon { wheel.set(i, at: soon) }
  }
}
