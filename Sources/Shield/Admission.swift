// SPDX-License-Identifier: Apache-2.0
import Flow
import Policy
import Reputation
import SMTP
package import Structures
import Suspicion

/// A peer as the accept sees it.
package struct Peer: BitwiseCopyable, Sendable {
  package var address: Address
  package var port: UInt16
  /// Which of the configured listeners it came to.
  package var listener: UInt8
  /// The load balancer that said by a PROXY header who it is; nil for who came by itself.
  package var via: Address?
  /// A load balancer itself, which speaks for no client.
  var isNobody = false

  package init(address: Address, port: UInt16, listener: UInt8, via: Address? = nil) {
    self.address = address
    self.port = port
    self.listener = listener
    self.via = via
  }
}

/// What becomes of an accepted connection.
package enum Admission: Sendable {
  /// It has this slot; the driver puts its descriptor there.
  case held(Slot)
  /// Send these bytes if they go out at once, and close: there is no slot to wait in.
  case refused(Region)
  /// Close without a word.
  case dropped
}

// Who comes in, and how long it waits for its banner.
extension Engine {
  /// A connection was accepted.
  package mutating func accepted(
    _ peer: Peer, now: Instant, into effects: inout EffectQueue
  ) -> Admission {
    if hasBalancers, peer.via == nil,
      let balancers = policy.balancers(ofListener: Int(peer.listener))
    {
      return acceptedBehind(balancers, peer, now: now, into: &effects)
    }
    counters.accepted += 1
    let standing = standing(of: peer, now: now)
    guard
      isDraining
        || mayEnter(
          peer, isKnown: standing.tier == .known, isTrusted: standing.isTrusted, now: now)
    else {
      counters.shed += 1
      return turnedAway(.crowded, peer)
    }
    // Room. Slots kept for known senders are theirs alone; the rest is refused by name.
    guard !isDraining, clientIndexes.free > (standing.tier == .known ? 0 : reservedSlots),
      let i = clientIndexes.take()
    else {
      counters.shed += 1
      return isDraining ? .dropped : turnedAway(.busy, peer)
    }
    install(peer, in: i, now: now)
    connections[i].flags = flags(standing)
    took(.slots, i)
    begin(i, standing, standing.tier, peer, now: now, into: &effects)
    return .held(slot(client: i))
  }

  /// A client whom a load balancer has named goes on in the slot that its connection has.
  mutating func enter(_ peer: Peer, in i: Int, now: Instant, into effects: inout EffectQueue) {
    counters.accepted += 1
    let standing = standing(of: peer, now: now)
    // It only looks whether we are there, and is listed for that. No mail of it is taken: see `forward`.
    let tier = peer.isNobody && !standing.isRefused ? .known : standing.tier
    install(peer, in: i, now: now)
    connections[i].flags = flags(standing)
    let mayEnter =
      isDraining
      || mayEnter(peer, isKnown: tier == .known, isTrusted: standing.isTrusted, now: now)
    // Also who is refused has its slot until that is said.
    took(.slots, i)
    if !mayEnter {
      refuse(i, .crowded, as: .shed, now: now, into: &effects)
      return
    }
    guard !isDraining, clientIndexes.free >= (tier == .known ? 0 : reservedSlots) else {
      refuse(i, isDraining ? .shed : .busy, now: now, into: &effects)
      return
    }
    begin(i, standing, tier, peer, now: now, into: &effects)
  }

  /// Who comes to a listener of TLS alone does not expect clear text.
  func turnedAway(_ text: PitText, _ peer: Peer) -> Admission {
    policy.tls(ofListener: Int(peer.listener)) == .implicit ? .dropped : .refused(self.text(text))
  }

  private var reservedSlots: Int { Int(Double(limits.connections) * policy.reservedForKnown) }

  /// Makes a slot's record one of a peer that has just come.
  mutating func install(_ peer: Peer, in i: Int, now: Instant) {
    let generation = connections[i].generation
    connections[i] = Connection()
    connections[i].generation = generation
    connections[i].state = .waiting
    connections[i].address = peer.address
    connections[i].port = peer.port
    connections[i].listener = peer.listener
    connections[i].isNobody = peer.isNobody
    connections[i].accepted = UInt32(truncatingIfNeeded: now.microseconds / 10_000)
  }

  private func standing(of peer: Peer, now: Instant) -> Standing {
    // Not by its network alone: one bot whose message was accepted would open the door to all its
    // neighbours. A pool's other addresses become known by network and HELO domain together.
    let source = Source(host: peer.address)
    let history = Standing.History(
      isKnown: memory.isGood(source, now: now), isBad: memory.isBad(source, now: now))
    return Standing(peer.address, history: history, policy)
  }

  private func flags(_ standing: Standing) -> ConnectionFlags {
    var flags = ConnectionFlags()
    if standing.isTrusted { flags.insert(.trusted) }
    if standing.isKnown { flags.insert(.known) }
    return flags
  }

  /// What becomes of a peer that has a slot: refused, held in the tarpit, or greeted after its delay.
  private mutating func begin(
    _ i: Int, _ standing: Standing, _ tier: Tier, _ peer: Peer, now: Instant,
    into effects: inout EffectQueue
  ) {
    connections[i].signals = standing.signals
    connections[i].tier = tier
    var connect = entry(.connect, i, now: now)
    if let balancer = peer.via { connect.via = balancer }
    journal.append(connect)

    if standing.isRefused {
      journal.append(entry(.denylisted, i, now: now))
      if policy.mode == .enforce {
        reject(i, .rejected, now: now, into: &effects)
        return
      }
      wouldTurnAway(i)
    }
    if standing.isTrusted { journal.append(entry(.allowlisted, i, now: now)) }

    var least: Int64 = 0
    // Who only would have been refused has not used up anything.
    switch standing.isRefused ? .within : connectionExcess(i, now: now) {
    case .within: break
    case .slow(let wait): least = wait
    case .tempfail:
      reject(i, .crowded, now: now, into: &effects)
      return
    case .refuse:
      reject(i, .rejected, now: now, into: &effects)
      return
    case .drop:
      counters.refused += 1
      close(i, as: .dropped, now: now, into: &effects)
      return
    }
    if policy.mode == .observe && tier == .bad { wouldTarpit(i, now: now) }

    if tlsMode(i) == .implicit {
      // What the banner's delay is about can be seen only behind the handshake.
      connections[i].state = .securing
      if takeTLSPlace(i, now: now) {
        beginHandshake(i, now: now, into: &effects)
      } else {
        counters.shed += 1
        close(i, as: .shed, now: now, into: &effects)
      }
    } else {
      welcome(i, least: least, now: now, into: &effects)
    }
  }

  /// Begins the dialogue with a client that may stay.
  ///
  /// - Parameter least: a wait a rate rule asks for, in microseconds.
  mutating func welcome(
    _ i: Int, least: Int64 = 0, now: Instant, into effects: inout EffectQueue
  ) {
    connections[i].state = .waiting
    if effectiveTier(i) == .bad {
      enterTarpit(i, .banner, now: now, into: &effects)
      return
    }
    let wait = delay(.banner, i, least: least, now: now)
    if wait == 0 {
      sendBanner(i, now: now, into: &effects)
    } else {
      wheel.set(i, at: now.after(microseconds: wait))
      effects.append(.narrow(slot(client: i)))
      effects.append(.listen(slot(client: i)))
    }
  }

  /// The connection rate and the concurrency of the peer's rate rule.
  private mutating func connectionExcess(_ i: Int, now: Instant) -> Excess {
    guard let rule = rateRule(i), !connections[i].flags.contains(.trusted) else { return .within }
    let rate = take(.connections, .connections, i, now: now)
    if let key = concurrencyKey(i) {
      let count = open.increment(key)
      if count != nil { connections[i].flags.insert(.counted) }
      // Not counted: the table is full, which is no fault of this key, or the key is at what can be counted.
      if count ?? open.count(key) > rule.concurrency {
        // A fifth of a minute is long enough to thin out a crowd, and below every ceiling.
        let more = exceeded(.concurrency, rule, i, wait: 12_000_000, now: now)
        if case .within = rate { return more }
      }
    }
    return rate
  }

  // MARK: The banner

  mutating func sendBanner(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    connections[i].state = .banner
    connections[i].position = 0
    wheel.set(i, at: now.after(microseconds: policy.timeouts.send))
    effects.append(.send(slot(client: i), text(.banner)))
  }

  /// Part of a ready text went out.
  mutating func textSent(
    _ i: Int, _ count: Int, _ text: PitText, now: Instant, into effects: inout EffectQueue
  ) {
    connections[i].position += UInt16(clamping: count)
    let region = self.text(text)
    let out = Int(connections[i].position)
    if out < region.count {
      effects.append(.send(slot(client: i), region.from(out)))
    } else if connections[i].state == .refusing {
      beginDraining(i, now: now, into: &effects)
    } else {
      greeted(i, now: now, into: &effects)
    }
  }

  /// The banner is out: the client's turn.
  private mutating func greeted(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    if connections[i].session >= 0 {
      creditBanner(i)
      // It talked before its turn and was let off: what it said is dealt with now.
      beginTalking(i, now: now, into: &effects)
      return
    }
    if isDraining {
      refuse(i, .shed, now: now, into: &effects)
      return
    }
    connections[i].state = .idle
    wheel.set(i, at: now.after(microseconds: commandTimeout(i)))
    effects.append(.listen(slot(client: i)))
  }

  /// The banner counts as said in the session that began before or behind it.
  private mutating func creditBanner(_ i: Int) {
    let s = Int(connections[i].session)
    sessions[s].bytesOut += UInt64(text(.banner).count)
    sessions[s].lastReply = PitText.banner.code
  }

  /// How long a client may take for its next command as things are.
  func commandTimeout(_ i: Int) -> Int64 {
    isPressed(i)
      ? min(policy.timeouts.commandUnderStress, policy.timeouts.command) : policy.timeouts.command
  }

  /// Bytes before the banner: a bot, or a policy that only looks.
  mutating func pregreeted(
    _ i: Int, _ bytes: Span<UInt8>, now: Instant, into effects: inout EffectQueue
  ) {
    var end = 0
    while end < bytes.count && bytes[end] != carriageReturn && bytes[end] != lineFeed { end += 1 }
    let verb = Command(line: bytes.extracting(0..<end)).verb
    var bad = note(.pregreet, i, said: bytes, now: now)
    switch verb {
    case .tlsHello: bad = note(.tlsHello, i, now: now) || bad
    case .http, .header: bad = note(.nonSMTP, i, now: now) || bad
    case .binary, .socks: bad = note(.binary, i, now: now) || bad
    default: break
    }
    if bad {
      // What it said is answered in the tarpit, behind the banner.
      var owed: UInt32 = 0
      _ = owe(i, bytes, &owed)
      enterTarpit(i, .banner, owed: owed, now: now, into: &effects)
      return
    }
    guard lease(i, now: now, into: &effects) else { return }
    let s = Int(connections[i].session)
    arena.write(bytes, at: input(s).offset)
    sessions[s].inputEnd = Int32(bytes.count)
    sessions[s].bytesIn += UInt64(bytes.count)
    // The longer wait its new tier has earned counts from its arrival.
    let passed = age(i, now: now)
    connections[i].delayed = 0
    let more = delay(.banner, i, now: now) - passed
    if let due = wheel.deadline(of: i), more > 0 {
      wheel.set(i, at: max(due, now.after(microseconds: more)))
    }
    effects.append(.watch(slot(client: i)))
  }

  /// Words that crossed with the banner: before their time, and kept until the banner is out.
  mutating func spokeIntoBanner(_ i: Int, _ bytes: Span<UInt8>, now: Instant) {
    note(.pregreet, i, said: bytes, now: now)
    guard connections[i].session >= 0 || lease(i, now: now) else { return }
    let s = Int(connections[i].session)
    let room = input(s).count - Int(sessions[s].inputEnd)
    guard bytes.count <= room else { return }
    arena.write(bytes, at: input(s).offset + Int(sessions[s].inputEnd))
    sessions[s].inputEnd += Int32(bytes.count)
    sessions[s].bytesIn += UInt64(bytes.count)
  }

  /// The first words after the banner: from here on it is a session.
  mutating func firstWords(
    _ i: Int, _ bytes: Span<UInt8>, now: Instant, into effects: inout EffectQueue
  ) {
    guard lease(i, now: now, into: &effects) else { return }
    creditBanner(i)
    let s = Int(connections[i].session)
    arena.write(bytes, at: input(s).offset)
    sessions[s].inputEnd = Int32(bytes.count)
    sessions[s].bytesIn += UInt64(bytes.count)
    beginTalking(i, now: now, into: &effects)
  }

  /// Opens the window of a held socket now, so that it is open when a message comes: the client learns of it
  /// with the replies until then.
  private mutating func beginTalking(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    connections[i].state = .talking
    effects.append(.widen(slot(client: i)))
    work(i, now: now, into: &effects)
  }

  /// Gives a connection a session; who gets none hears so.
  private mutating func lease(_ i: Int, now: Instant, into effects: inout EffectQueue) -> Bool {
    if !mayTake(.sessions, i, now: now) {
      refuse(i, .crowded, as: .shed, now: now, into: &effects)
      return false
    }
    if lease(i, now: now) { return true }
    shed(i, for: .sessions, now: now, into: &effects)
    return false
  }

  /// Gives a connection a session. Some are kept for known senders.
  ///
  /// - Returns: false when there is none left for it.
  private mutating func lease(_ i: Int, now: Instant) -> Bool {
    let reserved = Int(Double(limits.sessions) * policy.reservedForKnown)
    guard sessionIndexes.free > (connections[i].tier == .known ? 0 : reserved),
      let s = sessionIndexes.take()
    else { return false }
    sessions[s] = Session()
    sessions[s].owner = Int32(i)
    sessions[s].progress = now
    took(.sessions, i)
    sessions[s].lines = LineScanner(
      lineEnds: policy.bareNewline == .normalize ? .normalize : .strict)
    connections[i].session = Int32(s)
    return true
  }

  // MARK: Leaving

  /// There is no room for a client.
  private mutating func shed(
    _ i: Int, for want: Subject, now: Instant, into effects: inout EffectQueue
  ) {
    noteShed(i, for: want, now: now)
    refuse(i, .busy, now: now, into: &effects)
  }

  mutating func noteShed(_ i: Int, for want: Subject, now: Instant) {
    var entry = entry(.shed, i, now: now)
    entry.subject = want
    journal.append(entry)
  }

  /// Turns away a client that has just come, for what it is, and has the log say so in Postfix's words.
  private mutating func reject(
    _ i: Int, _ text: PitText, now: Instant, into effects: inout EffectQueue
  ) {
    var reject = entry(.reject, i, now: now)
    reject.said = text
    reject.reply = text.code
    journal.append(reject)
    refuse(i, text, now: now, into: &effects)
  }

  /// Says one last ready text and ends the connection.
  ///
  /// - Parameter ending: what became of it; nil for what the text says.
  mutating func refuse(
    _ i: Int, _ text: PitText, as ending: Verdict? = nil, now: Instant,
    into effects: inout EffectQueue
  ) {
    dropLink(of: i, now: now, into: &effects)
    var ending = ending
    switch text {
    case .busy, .shed: ending = ending ?? .shed
    case .rejected, .crowded: ending = ending ?? .refused
    default: break
    }
    if ending == .shed { counters.shed += 1 }
    if ending == .refused { counters.refused += 1 }
    let isUnsecured =
      connections[i].state == .waiting || connections[i].state == .announced
    if tlsMode(i) == .implicit && isUnsecured && !connections[i].flags.contains(.encrypted) {
      // It does not expect clear text.
      close(i, as: ending, now: now, into: &effects)
      return
    }
    writeClosingLine(i, as: ending, saying: text, now: now)
    returnSession(i)
    connections[i].state = .refusing
    connections[i].text = text
    connections[i].position = 0
    wheel.set(i, at: now.after(microseconds: policy.timeouts.send))
    effects.append(.send(slot(client: i), self.text(text)))
  }

  /// Our last reply is out. Closing now could reset the connection under it if the client is still
  /// sending, so our side is shut and what comes is thrown away for a moment.
  mutating func beginDraining(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    if connections[i].flags.contains(.ended) {
      close(i, now: now, into: &effects)
      return
    }
    connections[i].state = .draining
    wheel.set(i, at: now.after(microseconds: policy.timeouts.drain))
    effects.append(.finish(slot(client: i)))
    effects.append(.listen(slot(client: i)))
  }

  /// Ends a client connection at once, whatever it is doing.
  ///
  /// - Parameter ending: what became of it, if this is for a reason of ours.
  mutating func close(
    _ i: Int, as ending: Verdict? = nil, now: Instant, into effects: inout EffectQueue
  ) {
    if connections[i].state == .closing || connections[i].state == .free { return }
    dropLink(of: i, now: now, into: &effects)
    writeClosingLine(i, as: ending, now: now)
    returnSession(i)
    uncount(i)
    connections[i].state = .closing
    wheel.cancel(i)
    effects.append(.close(slot(client: i)))
  }

  private mutating func uncount(_ i: Int) {
    if connections[i].flags.contains(.counted), let key = concurrencyKey(i) { open.decrement(key) }
    if connections[i].flags.contains(.countedBad) { open.decrement(badKey(connections[i].address)) }
    connections[i].flags.remove(.counts)
  }

  /// Gives a session back, or, while an operation may be in flight on its memory, sees to it that it is
  /// given back when the slots concerned are closed. A late receive must never land in the next
  /// tenant's buffer, and a late send must never carry the next tenant's bytes.
  mutating func returnSession(_ i: Int) {
    let s = Int(connections[i].session)
    guard s >= 0, sessions[s].owner >= 0 else { return }
    sessions[s].owner = -1
    gaveBack(.sessions, i)
    if !sessions[s].flags.isDisjoint(with: .inFlight) {
      sessions[s].pins += 1
    } else {
      connections[i].session = -1
    }
    if sessions[s].flags.contains(.relaying) { sessions[s].pins += 1 }
    if sessions[s].pins == 0 { sessionIndexes.release(s) }
  }

  mutating func unpin(_ s: Int) {
    guard s >= 0 else { return }
    invariant(sessions[s].pins > 0, "session \(s) was unpinned more often than pinned")
    sessions[s].pins -= 1
    if sessions[s].pins == 0 { sessionIndexes.release(s) }
  }

  /// The one line that says what became of a session.
  ///
  /// - Parameters:
  ///   - ending: what that is, if it is known here.
  ///   - text: what it is told behind this.
  mutating func writeClosingLine(
    _ i: Int, as ending: Verdict? = nil, saying text: PitText? = nil, now: Instant
  ) {
    if connections[i].flags.contains(.logged) { return }
    connections[i].flags.insert(.logged)
    var entry = entry(.disconnect, i, now: now)
    if let text {
      entry.reply = text.code
      entry.bytesOut += UInt64(self.text(text).count)
    }
    if isTarpitted(i) {
      let before = connections[i].delayed
      entry.tarpitted = before == .max ? .max : max(entry.held - Int64(before) * 10_000, 0)
      entry.delayed = 0
    } else if policy.mode == .enforce {
      // Who left while it waited did not wait for all of it.
      entry.delayed = min(entry.delayed, entry.held)
    } else if wouldBeTurnedAway(i) {
      entry.delayed = 0
    }
    let s = Int(connections[i].session)
    entry.verdict = verdict(entry, i, ending ?? (s >= 0 ? sessions[s].ending : nil))
    counters.verdicts[entry.verdict] += 1
    journal.append(entry)
  }

  /// Whether a client is in the tarpit, or has just heard its last word there.
  private func isTarpitted(_ i: Int) -> Bool {
    guard connections[i].flags.contains(.countedBad) else { return false }
    switch connections[i].state {
    case .dripping, .pit, .securing, .draining: return true
    default: return false
    }
  }

  private func verdict(_ entry: JournalEntry, _ i: Int, _ ending: Verdict?) -> Verdict {
    if policy.mode == .observe {
      if wouldBeRefused(i) { return .wouldRefuse }
      if entry.tier == .bad { return .wouldTarpit }
      if entry.messages > 0 { return .delivered }
      return ending ?? (entry.delayed > 0 ? .wouldSlow : .pass)
    }
    if entry.messages > 0 { return .delivered }
    if let ending { return ending }
    return entry.tier == .bad ? .tarpit : entry.delayed > 0 ? .slowed : .pass
  }

  /// The client has closed its sending side.
  mutating func clientEnded(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    connections[i].flags.insert(.ended)
    switch connections[i].state {
    case .talking: sessionEnded(i, now: now, into: &effects)
    case .announced: leftWithoutHeader(i, now: now, into: &effects)
    case .banner, .refusing: break  // the send decides
    case .free, .closing: break
    case .waiting, .idle, .dripping, .pit, .draining, .securing:
      hungUp(i, now: now, into: &effects)
    }
  }

  /// The client is gone.
  mutating func hungUp(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    switch connections[i].state {
    case .free, .closing: return
    case .announced:
      leftWithoutHeader(i, now: now, into: &effects)
      return
    case .waiting:
      leftWhileDelayed(.banner, i, now: now)
      counters.hangups += 1
      var entry = entry(.hangup, i, now: now)
      entry.stage = .banner
      journal.append(entry)
    case .dripping, .pit:
      counters.hangups += 1
      var entry = entry(.hangup, i, now: now)
      entry.stage = stage(of: connections[i].text)
      journal.append(entry)
    case .banner, .idle:
      // It left without a word, perhaps while our delayed banner was on its way: the delay was just too long.
      if connections[i].delayed > 0 { leftWhileDelayed(.banner, i, now: now) }
      if connections[i].state == .banner {
        counters.hangups += 1
        journal.append(entry(.hangup, i, now: now))
      }
    case .talking:
      let s = Int(connections[i].session)
      if sessions[s].phase == .delaying || sessions[s].phase == .holding {
        leftWhileDelayed(sessions[s].stage, i, now: now)
      }
      if sessions[s].phase == .securing { sessions[s].ending = .tlsFailed }
      if sessions[s].phase != .leaving {
        counters.hangups += 1
        var entry = entry(.hangup, i, now: now)
        entry.stage = stage(ofSession: s)
        journal.append(entry)
      }
    case .securing:
      counters.hangups += 1
      var entry = entry(.hangup, i, now: now)
      entry.stage = .startTLS
      journal.append(entry)
      close(i, as: .tlsFailed, now: now, into: &effects)
      return
    case .refusing, .draining: break
    }
    close(i, now: now, into: &effects)
  }

  /// How far a session has come: the stage it waits at, or that of the last command.
  private func stage(ofSession s: Int) -> Stage {
    switch sessions[s].phase {
    case .delaying, .holding: sessions[s].stage
    case .body, .swallow: .body
    case .final: .endOfData
    case .securing: .startTLS
    default: sessions[s].use.commands == 0 ? .banner : stage(of: sessions[s].verb)
    }
  }

  // MARK: Time

  mutating func clientTimer(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    if isDraining {
      switch connections[i].state {
      case .dripping, .pit:
        shed(i, as: .shed, now: now, into: &effects)
        return
      case .waiting, .idle:
        refuse(i, .shed, now: now, into: &effects)
        return
      case .talking where isBetweenMessages(i):
        refuse(i, .shed, now: now, into: &effects)
        return
      case .announced:
        connections[i].flags.insert(.logged)
        close(i, now: now, into: &effects)
        return
      case .free, .banner, .talking, .refusing, .draining, .closing, .securing: break
      }
    }
    switch connections[i].state {
    case .announced: noHeader(i, .headerMissing, now: now, into: &effects)
    case .waiting: sendBanner(i, now: now, into: &effects)
    case .idle:
      timedOut(i, now: now)
      refuse(i, .timeout, now: now, into: &effects)
    case .talking: sessionTimer(i, now: now, into: &effects)
    case .dripping, .pit: tarpitTimer(i, now: now, into: &effects)
    case .securing:
      timedOut(i, now: now)
      close(i, as: .tlsFailed, now: now, into: &effects)
    case .banner, .refusing:
      timedOut(i, now: now)
      close(i, now: now, into: &effects)
    case .draining: close(i, now: now, into: &effects)
    case .free, .closing: break
    }
  }

  mutating func timedOut(_ i: Int, now: Instant) {
    counters.timeouts += 1
    journal.append(entry(.timeout, i, now: now))
  }
}
