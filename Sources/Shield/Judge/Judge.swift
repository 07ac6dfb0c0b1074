// SPDX-License-Identifier: Apache-2.0
import Policy
import Flow
import Reputation
import SMTP
import Structures
import Suspicion

/// Judgement: from what a peer did to what it gets. Signals enter here; tiers, delays, limits and places leave here.
/// Nothing else in the engine decides how long anyone waits.
///
/// Its answers are values. It never speaks to a peer, and what it must be told of a client it reads from the record.
package struct Judge: ~Copyable {
  var buckets: BucketTable
  var open: OpenCounts
  var shares: Shares
  /// What is known of sources.
  package var memory: Memory
  let hash: SipHash
  private let staysPut = StaysPut()

  /// - Parameters:
  ///   - hash: of sources that are counted.
  ///   - bucketHash: of the bucket table's own keys.
  init(_ limits: Limits, memory: consuming Memory, hash: SipHash, bucketHash: SipHash) {
    self.hash = hash
    self.memory = memory
    buckets = BucketTable(capacity: limits.buckets, hash: bucketHash)
    // A connection counts under its rule and, in the tarpit, under its source: as many keys as
    // connections are enough, unless most are alone in both; then the last are not counted.
    open = OpenCounts(capacity: limits.connections)
    shares = Shares(limits, hash: hash)
  }

  // MARK: Arrival

  /// How a peer is rated when it connects. Its network alone does not count: one bot whose message was accepted would
  /// let in all its neighbours. Other addresses of a pool become known by network and HELO domain together.
  func standing(of peer: Peer, _ core: borrowing Core, now: Instant) -> Standing {
    let source = Source(host: peer.address)
    let history = Standing.History(
      isKnown: memory.isGood(source, now: now), isBad: memory.isBad(source, now: now))
    return Standing(peer.address, history: history, core.policy)
  }

  // MARK: Signals

  /// Records that a peer did something, and judges it anew.
  ///
  /// - Parameter words: what it said, where that is the matter.
  /// - Returns: whether the peer is now T3 and that counts.
  @discardableResult
  mutating func note(
    _ signal: Signal, _ i: ClientIndex, said words: Span<UInt8> = Span(),
    _ clients: inout Clients, _ core: inout Core, now: Instant
  ) -> Bool {
    if core.policy[signal].action == .ignore { return false }
    let isNew = !clients.connections[i].signals.contains(SignalSet(signal))
    let before = clients.connections[i].tier
    clients.connections[i].signals.insert(SignalSet(signal))
    judge(i, &clients, core, now: now)
    // Of a peer the operator vouches for the closing line says enough.
    if isNew && !clients.connections[i].flags.contains(.trusted) {
      var entry = clients.entry(.signal, i, core, now: now)
      entry.signal = signal
      entry.quoteFirstLine(words)
      core.journal.append(entry)
    }
    if core.policy.mode == .observe && clients.connections[i].tier == .bad && before != .bad {
      wouldTarpit(i, clients, &core, now: now)
    }
    return core.policy.mode == .enforce && clients.connections[i].tier == .bad
  }

  /// Sets the tier from the signals seen, and remembers a proof.
  mutating func judge(
    _ i: ClientIndex, _ clients: inout Clients, _ core: borrowing Core, now: Instant
  ) {
    let before = clients.connections[i].tier
    let flags = clients.connections[i].flags
    let tier = core.policy.tier(
      clients.connections[i].signals, known: flags.contains(.known),
      trusted: flags.contains(.trusted))
    clients.connections[i].tier = tier
    if tier == .bad && before != .bad
      && !clients.connections[i].signals.contains(SignalSet(.listedBad))
    {
      // Only the address: a network may slow its members, and one bot must not slow its neighbours.
      memory.learn(
        .proven, of: Source(host: clients.connections[i].address), for: core.policy.badFor, now: now
      )
    }
  }

  /// In observe mode: enforce would hold this client in the tarpit, unless it had refused it before.
  func wouldTarpit(
    _ i: ClientIndex, _ clients: borrowing Clients, _ core: inout Core, now: Instant
  ) {
    if clients.wouldBeRefused(i) { return }
    let s = clients.connections[i].session
    var entry = clients.entry(.tarpit, i, core, now: now)
    entry.stage = s.exists ? clients.sessions[s].verb.stage : .banner
    entry.micros = core.policy.delays[entry.stage].bad
    core.journal.append(entry)
  }

  // MARK: Trust

  /// The network whose record a client's shares: /24 of IPv4, /64 of IPv6.
  static func network(_ address: Address) -> Source {
    Source(networkOf: address, length: address.isIPv4 ? 24 : 64)
  }

  /// The domain the client said in HELO, if it has said one.
  func heloDomain(
    _ i: ClientIndex, _ clients: borrowing Clients, _ core: borrowing Core
  ) -> Source? {
    let s = clients.connections[i].session
    guard s.exists, clients.sessions[s].greeting.nameCount > 0 else { return nil }
    let kept = core.layout.helo(s).prefix(Int(clients.sessions[s].greeting.nameCount))
    let name = core.arena.span(kept)
    guard let domain = SMTP.heloDomain(name) else { return nil }
    return memory.source(heloDomain: name.extracting(domain))
  }

  /// Whether a client with a new address belongs to a known pool: its network and its HELO domain
  /// have both delivered before. Each alone proves too little; a HELO can be copied, and a network
  /// has other hosts.
  mutating func recognizePool(
    _ i: ClientIndex, _ clients: inout Clients, _ core: borrowing Core, now: Instant
  ) {
    guard !clients.connections[i].flags.contains(.known), let domain = heloDomain(i, clients, core),
      memory.isGood(domain, now: now),
      memory.isGood(Self.network(clients.connections[i].address), now: now)
    else { return }
    clients.connections[i].flags.insert(.known)
    judge(i, &clients, core, now: now)
  }

  /// A message was accepted downstream: its source is known good from now on.
  mutating func earnedTrust(
    _ i: ClientIndex, _ clients: inout Clients, _ core: borrowing Core, now: Instant
  ) {
    let address = clients.connections[i].address
    let period = core.policy.goodFor
    memory.learn(.accepted, of: Source(host: address), for: period, now: now)
    memory.learn(.accepted, of: Self.network(address), for: period, now: now)
    if let domain = heloDomain(i, clients, core) {
      memory.learn(.accepted, of: domain, for: period, now: now)
    }
    clients.connections[i].flags.insert(.known)
    judge(i, &clients, core, now: now)
  }

  /// A log-in succeeded. From here on the user's identity counts, not the form of earlier commands.
  mutating func forgetForm(
    _ i: ClientIndex, _ clients: inout Clients, _ core: borrowing Core, now: Instant
  ) {
    // In observe mode alone: enforce had not let it come so far.
    if clients.connections[i].tier == .bad { return }
    clients.connections[i].signals.subtract(.ofForm)
    clients.sessions[clients.connections[i].session].use.forgive()
    judge(i, &clients, core, now: now)
  }
}

extension Clients {
  /// In observe mode: whether enforce would have refused this client, or one of its commands.
  func wouldBeRefused(_ i: ClientIndex) -> Bool {
    let s = connections[i].session
    return connections[i].wouldBeTurnedAway || s.exists && sessions[s].ending == .wouldRefuse
  }
}

extension Connection {
  /// In observe mode: whether enforce would have refused this client when it connected, and done nothing else to it.
  /// The maximum of `delayed` marks this: a real sum of delays stays far below.
  var wouldBeTurnedAway: Bool { delayed == .max }

  /// In observe mode: enforce would have refused this client when it connected.
  mutating func wouldTurnAway() { delayed = .max }
}

extension Policy {
  /// The tier that counts: in observe mode everybody is treated as known.
  func effectiveTier(_ connection: Connection) -> Tier {
    mode == .observe ? .known : connection.tier
  }
}

extension Verb {
  /// At which moment of a session it is said.
  var stage: Stage {
    switch self {
    case .ehlo, .helo: .helo
    case .mail: .mail
    case .rcpt: .recipientAccepted
    case .data: .data
    case .starttls: .startTLS
    default: .other
    }
  }
}
