// SPDX-License-Identifier: Apache-2.0
import Flow
import Policy
import Reputation
import SMTP
import Structures
import Suspicion

// Judgement: from what a peer did to what it gets. Signals enter here, tiers and delays leave here.
// Nothing else in the engine decides how long anyone waits.
extension Engine {
  /// The tier that counts: in observe mode everybody is treated as known.
  func effectiveTier(_ i: Int) -> Tier { policy.mode == .observe ? .known : connections[i].tier }

  /// Records that a peer did something, and judges it anew.
  ///
  /// - Returns: whether the peer is now T3 and that counts.
  @discardableResult
  ///
  /// - Parameter words: what it said, where that is the matter.
  mutating func note(
    _ signal: Signal, _ i: Int, said words: Span<UInt8> = Span(), now: Instant
  ) -> Bool {
    let rule = policy[signal]
    if rule.action == .ignore { return false }
    let isNew = !connections[i].signals.contains(SignalSet(signal))
    let before = connections[i].tier
    connections[i].signals.insert(SignalSet(signal))
    judge(i, now: now)
    // Of a peer the operator vouches for the closing line says enough.
    if isNew && !connections[i].flags.contains(.trusted) {
      var entry = entry(.signal, i, now: now)
      entry.signal = signal
      entry.quoteFirstLine(words)
      journal.append(entry)
    }
    if policy.mode == .observe && connections[i].tier == .bad && before != .bad {
      wouldTarpit(i, now: now)
    }
    return policy.mode == .enforce && connections[i].tier == .bad
  }

  /// In observe mode: enforce would hold this client in the tarpit, unless it had refused it before.
  mutating func wouldTarpit(_ i: Int, now: Instant) {
    if wouldBeRefused(i) { return }
    let s = Int(connections[i].session)
    var entry = entry(.tarpit, i, now: now)
    entry.stage = s >= 0 ? stage(of: sessions[s].verb) : .banner
    entry.micros = policy.delays[entry.stage].bad
    journal.append(entry)
  }

  /// In observe mode: whether enforce would have refused this client, or a command of it.
  func wouldBeRefused(_ i: Int) -> Bool {
    let s = Int(connections[i].session)
    return wouldBeTurnedAway(i) || s >= 0 && sessions[s].ending == .wouldRefuse
  }

  /// In observe mode: whether enforce would have refused this client when it came, so that nothing else would have
  /// been done to it. Its account of delays, whose sum stays far below, is used up for a mark.
  func wouldBeTurnedAway(_ i: Int) -> Bool { connections[i].delayed == .max }

  /// In observe mode: enforce would have refused this client when it came.
  mutating func wouldTurnAway(_ i: Int) { connections[i].delayed = .max }

  /// Sets the tier from the signals seen, and remembers a proof.
  mutating func judge(_ i: Int, now: Instant) {
    let before = connections[i].tier
    let flags = connections[i].flags
    let tier = policy.tier(
      connections[i].signals, known: flags.contains(.known), trusted: flags.contains(.trusted))
    connections[i].tier = tier
    if tier == .bad && before != .bad && !connections[i].signals.contains(SignalSet(.listedBad)) {
      // Only the address: a network may slow its members, and one bot must not slow its neighbours.
      memory.learn(.proven, of: Source(host: connections[i].address), for: policy.badFor, now: now)
    }
  }

  /// A log-in succeeded. Who that is counts from here on, and no more the form of what it said before.
  mutating func forgetForm(_ i: Int, now: Instant) {
    // In observe mode alone: enforce had not let it come so far.
    if connections[i].tier == .bad { return }
    connections[i].signals.subtract(.ofForm)
    sessions[Int(connections[i].session)].use.forgive()
    judge(i, now: now)
  }

  /// The network whose record a client's shares: /24 of IPv4, /64 of IPv6.
  private func network(_ i: Int) -> Source {
    let address = connections[i].address
    return Source(networkOf: address, length: address.isIPv4 ? 24 : 64)
  }

  /// The rule of the rate table that holds for a client.
  func rateRule(_ i: Int) -> RateRule? {
    policy.rates.lookup(connections[i].address)
  }

  // MARK: Delays

  /// How long this stage is to be delayed for this peer, in microseconds, and adds it to its account.
  ///
  /// Order: the curve, the rate table's own delay at the banner, the stage's ceiling, the second
  /// chance, the shrinking under load, the sum of the session. T3 never gets here: the tarpit has it.
  ///
  /// - Parameters:
  ///   - count: which rejection or failed log-in this is.
  ///   - least: a wait a rate rule asks for; held under the stage's ceiling like all else. No second
  ///     chance shortens it: leaving does not lift a limit.
  ///   - most: what the stage's own account has left, for what no rule asks for.
  mutating func delay(
    _ stage: Stage, _ i: Int, count: Int = 1, least: Int64 = 0, most: Int64 = .max, now: Instant
  ) -> Int64 {
    let connection = connections[i]
    let tier = connection.tier
    guard tier != .bad, policy.mode == .enforce || !wouldBeTurnedAway(i) else { return 0 }
    let row = policy.delays[stage]
    let isRuled = stage == .banner && !connection.flags.contains(.trusted)
    var delay = policy.delay(
      stage, tier: tier, score: policy.score(connection.signals), count: count,
      greeting: isRuled ? rateRule(i)?.greetingDelay : nil)
    delay = min(delay, row.ceiling, max(most, 0))
    if delay == 0 && least == 0 { return 0 }
    if delay > 0 && policy.secondChance && tier != .known {
      let divisor = secondChance(stage, i, now: now)
      if divisor != 1 { counters.secondChances += 1 }
      delay = divisor == 0 ? 0 : delay / divisor
    }
    if tier == .suspicious {
      let room = 1 - occupancy
      let shed = 1 - policy.shedAt
      if room < shed && shed > 0 { delay = Int64(Double(delay) * max(room, 0) / shed) }
    }
    delay = max(delay, min(least, row.ceiling))
    let spent = Int64(connection.delayed) * 10_000
    // A wait that a rate rule asks for may go up to the ceiling of all sums.
    let room = max((least > 0 ? policy.delays.sumMost : policy.delaySum(tier)) - spent, 0)
    delay = min(delay, room)
    if delay < 10_000 { return 0 }
    if policy.mode == .observe {
      counters.wouldDelay += 1
      var entry = entry(.wouldDelay, i, now: now)
      entry.stage = stage
      entry.micros = delay
      journal.append(entry)
      // What would have been spent counts, so that observed sums are the ones enforced sums would be.
      connections[i].delayed = UInt16(clamping: Int64(connection.delayed) + delay / 10_000)
      return 0
    }
    counters.delays += 1
    counters.delayedMicros += UInt64(delay)
    connections[i].delayed = UInt16(clamping: Int64(connection.delayed) + delay / 10_000)
    if delay >= 1_000_000 {
      var entry = entry(.delay, i, now: now)
      entry.stage = stage
      entry.micros = delay
      journal.append(entry)
    }
    return delay
  }

  private func secondChance(_ stage: Stage, _ i: Int, now: Instant) -> Int64 {
    var best = memory.divisor(
      network(i), stage: stage.rawValue, after: policy.secondChanceAfter, now: now)
    if let domain = heloDomain(i) {
      let other = memory.divisor(
        domain, stage: stage.rawValue, after: policy.secondChanceAfter, now: now)
      // 0 lifts the delay, 2 halves it, 1 leaves it: the kindest of the two keys counts.
      if other == 0 || (other == 2 && best == 1) { best = other }
    }
    return best
  }

  /// A peer that may be legitimate left while we delayed it: its next try is treated better.
  mutating func leftWhileDelayed(_ stage: Stage, _ i: Int, now: Instant) {
    var stages = Self.bit(stage)
    let s = Int(connections[i].session)
    if s >= 0 {
      // What is spent ahead of its stage is lifted with the one it is spent at.
      if sessions[s].flags.contains(.paidRecipient) { stages |= Self.bit(.recipientAccepted) }
      if sessions[s].flags.contains(.paidData) { stages |= Self.bit(.data) }
    }
    let tier = connections[i].tier
    guard tier == .clean || tier == .suspicious, policy.mode == .enforce else { return }
    left(network(i), stages, now: now)
    if let domain = heloDomain(i) { left(domain, stages, now: now) }
  }

  private mutating func left(_ source: Source, _ stages: UInt8, now: Instant) {
    memory.learn(
      .left, of: source, stages: stages, chanceAfter: policy.secondChanceAfter, now: now)
  }

  /// The place of a stage among those that have chances; 0 for one that has none.
  private static func bit(_ stage: Stage) -> UInt8 {
    stage.rawValue < 8 ? 1 << stage.rawValue : 0
  }

  /// The domain the client said in HELO, if it has said one.
  private func heloDomain(_ i: Int) -> Source? {
    let s = Int(connections[i].session)
    guard s >= 0, sessions[s].heloCount > 0 else { return nil }
    let name = arena.span(heloRegion(s).prefix(Int(sessions[s].heloCount)))
    guard let domain = SMTP.heloDomain(name) else { return nil }
    return memory.source(heloDomain: name.extracting(domain))
  }

  /// Whether a client whose address is new belongs to a known pool: its network and the domain it says it
  /// is of have both delivered before. Each alone proves too little; a HELO can be copied, and a network
  /// has other hosts.
  mutating func recognizePool(_ i: Int, now: Instant) {
    guard !connections[i].flags.contains(.known), let domain = heloDomain(i),
      memory.isGood(domain, now: now), memory.isGood(network(i), now: now)
    else { return }
    connections[i].flags.insert(.known)
    judge(i, now: now)
  }

  /// A message was accepted downstream: its source is known good from now on.
  mutating func earnedTrust(_ i: Int, now: Instant) {
    let host = Source(host: connections[i].address)
    memory.learn(.accepted, of: host, for: policy.goodFor, now: now)
    memory.learn(.accepted, of: network(i), for: policy.goodFor, now: now)
    if let domain = heloDomain(i) {
      memory.learn(.accepted, of: domain, for: policy.goodFor, now: now)
    }
    connections[i].flags.insert(.known)
    judge(i, now: now)
  }

  // MARK: Room

  /// Share of client slots in use, 0…1.
  var occupancy: Double {
    Double(limits.connections - clientIndexes.free) / Double(max(limits.connections, 1))
  }

  /// How long a connection has been there, in microseconds. Ticks come round after 497 days; a session
  /// does not.
  func age(_ i: Int, now: Instant) -> Int64 {
    let tick = UInt32(truncatingIfNeeded: now.microseconds / 10_000)
    return Int64(tick &- connections[i].accepted) * 10_000
  }

  /// How long a T3 peer may be held as things are, in microseconds: when room runs out the worst go first,
  /// at the first mark after 30 s, at the second at once.
  var tarpitTime: Int64 {
    let room = occupancy
    if room >= policy.shedAt { return 0 }
    return room >= policy.shrinkAt ? min(30_000_000, policy.badSession) : policy.badSession
  }

  /// Makes room, once a second at most: tarpitted peers that have been held long enough for the present,
  /// and clients that hold places of which there are few left, get their timers moved up. Walks all connections then;
  /// whether there is need is looked at ten times a second, which a turn of the loop does not feel.
  mutating func relieve(now: Instant) {
    guard now >= nextRelief else { return }
    nextRelief = now.after(microseconds: 100_000)
    var isStressed = false
    for number in 0..<Pool.count {
      guard let pool = Pool(rawValue: UInt8(number)), isUnderStress(pool) else { continue }
      shares.crowd(pool, now: now)
      isStressed = true
    }
    guard isStressed || occupancy >= policy.shrinkAt else { return }
    nextRelief = now.after(microseconds: 1_000_000)
    let most = tarpitTime
    for i in 0..<connections.capacity {
      switch connections[i].state {
      case .pit where age(i, now: now) >= most: wheel.set(i, at: now)
      case .idle where isStressed, .securing where isStressed:
        moveDeadline(i, to: now.after(microseconds: commandTimeout(i)))
      case .talking where isStressed: hurry(i, now: now)
      default: break
      }
    }
  }

  // MARK: Rates

  /// Under which key a client counts in the concurrency of its rule, if that has one.
  func concurrencyKey(_ i: Int) -> UInt64? {
    guard let rule = rateRule(i), rule.concurrency > 0 else { return nil }
    let key = rule.key(for: connections[i].address)
    return hash(key.tag | 1 << 32, key.high, key.low)
  }

  /// Under which key a source's tarpit sessions are counted.
  func badKey(_ address: Address) -> UInt64 {
    let source = address.isIPv4 ? address : address.network(64)
    return hash(2 << 32, source.high, source.low)
  }

  /// What a limit asks for now.
  enum Excess {
    case within
    /// Over, and the rule says to slow down: wait this long, in microseconds.
    case slow(Int64)
    case tempfail, refuse, drop
  }

  /// Takes one unit of a rule's limit.
  mutating func take(
    _ limited: LimitKind, _ subject: Subject, _ i: Int, units: UInt64 = 1, now: Instant
  ) -> Excess {
    guard !connections[i].flags.contains(.trusted), let rule = rateRule(i),
      let rate = rule.rate(limited)
    else { return .within }
    let key = rule.key(for: connections[i].address, limited)
    var wait: Int64 = 0
    if rule.over == .slow {
      wait = (buckets.earliest(key, units, rate, now: now) - now).microseconds
      // What no allowed delay can make up for is put off, or the limit would end where the delays do.
      let spent = Int64(connections[i].delayed) * 10_000
      let left = min(policy.delays[.mail].ceiling, policy.delays.sumMost - spent)
      if wait > left && policy.mode == .enforce {
        return exceeded(subject, rule, i, wait: wait, asking: .tempfail, now: now)
      }
      // Slowed, not refused: the attempt happens, so it counts.
      _ = buckets.charge(key, units, rate, now: now)
      if wait <= 0 { return .within }
      if wait > left {
        return exceeded(subject, rule, i, wait: wait, asking: .tempfail, now: now)
      }
    } else {
      guard case .over(let retryAfter) = buckets.take(key, units, rate, now: now) else {
        return .within
      }
      wait = retryAfter.microseconds
    }
    return exceeded(subject, rule, i, wait: wait, now: now)
  }

  /// A rule of the rate table is exceeded: notes it, and says what the rule wants done.
  ///
  /// - Parameter action: what is done about it, where that is not what the rule says.
  mutating func exceeded(
    _ subject: Subject, _ rule: RateRule, _ i: Int, wait: Int64, asking action: OverAction? = nil,
    now: Instant
  ) -> Excess {
    let action = action ?? rule.over
    let isArrival = subject == .connections || subject == .concurrency
    if policy.mode == .observe && action != .slow {
      let s = Int(connections[i].session)
      if isArrival { wouldTurnAway(i) } else if s >= 0 { sessions[s].ending = .wouldRefuse }
    }
    counters.rateLimited += 1
    note(.rateExcess, i, now: now)
    var entry = entry(.rateLimit, i, now: now)
    entry.subject = subject
    entry.micros = wait
    entry.over = rule.over
    entry.reply =
      switch action {
      case .slow: 0
      // Errors over their rate end the session.
      case _ where subject == .errors: 421
      case .drop: 0
      case .tempfail: isArrival ? 421 : 450
      case .refuse: 554
      }
    journal.append(entry)
    if policy.mode == .observe { return .within }
    switch action {
    case .slow: return .slow(wait)
    case .tempfail: return .tempfail
    case .refuse: return .refuse
    case .drop: return .drop
    }
  }

  // MARK: Words for the log

  /// An entry about a client, with what is known of it.
  func entry(_ event: Event, _ i: Int, now: Instant) -> JournalEntry {
    let connection = connections[i]
    var entry = JournalEntry(event, at: now)
    entry.session = sessionID(i)
    entry.address = connection.address
    entry.port = connection.port
    entry.listener = connection.listener
    entry.tier = connection.tier
    entry.signals = connection.signals
    entry.score = policy.score(connection.signals)
    entry.accessRule = policy.access.lookup(connection.address).map { UInt32($0.rule) + 1 } ?? 0
    entry.rateRule = policy.rates.lookup(connection.address).map { $0.rule + 1 } ?? 0
    entry.held = age(i, now: now)
    entry.delayed = Int64(connection.delayed) * 10_000
    entry.observed = policy.mode == .observe
    entry.text.encrypted = connection.flags.contains(.encrypted)
    let s = Int(connection.session)
    if s >= 0 {
      let session = sessions[s]
      entry.bytesIn = session.bytesIn
      entry.bytesOut = session.bytesOut
      entry.messages = session.messages
      entry.reply = session.lastReply
      entry.tallies = session.tallies
      entry.verb = session.verb
      entry.text.extended = session.flags.contains(.extended)
      entry.text.authenticated = session.flags.contains(.authenticated)
      entry.text.hasSender = session.flags.contains(.mail)
      entry.text.heloCount = copy(heloRegion(s), session.heloCount, into: &entry.text.helo)
      entry.text.senderCount = copy(senderRegion(s), session.senderCount, into: &entry.text.sender)
      entry.text.recipientCount = copy(
        recipientRegion(s), session.recipientCount, into: &entry.text.recipient)
      return entry
    }
    switch connection.state {
    case .idle:
      entry.bytesOut = UInt64(text(.banner).count)
      entry.reply = PitText.banner.code
    case .banner: entry.bytesOut = UInt64(connection.position)
    // It has heard all of it.
    case .pit, .draining: entry.reply = connection.text.code
    default: break
    }
    return entry
  }

  func copy(_ region: Region, _ count: UInt8, into text: inout InlineArray<100, UInt8>)
    -> UInt8
  {
    let bytes = arena.span(region.prefix(min(Int(count), ClientText.each)))
    for k in 0..<bytes.count { text[k] = bytes[k] }
    return UInt8(bytes.count)
  }
}
