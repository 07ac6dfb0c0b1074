// SPDX-License-Identifier: Apache-2.0
import Flow
import Policy
import Reputation
import SMTP
package import Structures
import Suspicion

// TLS as the engine sees it: when it begins, with whom, and what it came to. The octets of it are the driver's: a
// slot that is secured hears and says plain text here, as every other.
//
// Nothing said in clear outlives the handshake (RFC 3207, 4.2): what stands in a buffer is a violation, what was
// learnt is forgotten, and a name must be said anew.
extension Engine {
  /// How this client may come to TLS.
  func tlsMode(_ i: Int) -> ListenerTLS { policy.tls(ofListener: Int(connections[i].listener)) }

  /// Whether STARTTLS may be said now.
  func offersTLS(_ i: Int) -> Bool {
    tlsMode(i) == .starttls && !connections[i].flags.contains(.encrypted)
  }

  /// Whether STARTTLS is in the reply to EHLO: ours, or the downstream's.
  func namesTLS(_ i: Int, _ theirs: Capabilities) -> Bool {
    offersTLS(i) || tlsMode(i) == .passThrough && theirs.keywords.contains(.starttls)
  }

  /// Whether a log-in may be offered: not where others can read it, unless the operator asks for it.
  func offersAuth(_ i: Int) -> Bool {
    policy.authOnClear || connections[i].flags.contains(.encrypted)
  }

  // MARK: Clients

  /// STARTTLS.
  mutating func startTLS(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    let mode = tlsMode(i)
    guard mode == .starttls || mode == .passThrough else {
      answer(i, .notImplemented, now: now, into: &effects)
      return
    }
    if connections[i].flags.contains(.encrypted) {
      answer(i, .badSequence, now: now, into: &effects)
      return
    }
    if sessions[s].lineCount > sessions[s].argumentStart {
      answer(i, .noArgument, now: now, into: &effects)
      return
    }
    if sessions[s].inputStart + sessions[s].lineConsumed < sessions[s].inputEnd {
      // Said in clear behind STARTTLS: what carries it over the handshake lets others speak for the client
      // (CVE-2011-0411).
      counters.protocolFaults += 1
      note(.pipelining, i, now: now)
      leave(i, .clearBehindSTARTTLS, now: now, into: &effects)
      return
    }
    if !sessions[s].flags.isDisjoint(with: .cannotSecure) {
      // It has closed its side already.
      hungUp(i, now: now, into: &effects)
      return
    }
    if mode == .passThrough {
      passOnSTARTTLS(i, now: now, into: &effects)
      return
    }
    guard takeTLSPlace(i, now: now) else {
      answer(i, .tlsUnavailable, now: now, into: &effects)
      return
    }
    answer(i, .readyForTLS, now: now, into: &effects)
    // What it said in clear is forgotten, and the downstream was told it.
    resetTransaction(i)
    dropLink(of: i, now: now, into: &effects)
    sessions[s].flags.remove(.greeting)
    sessions[s].heloCount = 0
    sessions[s].inputStart = 0
    sessions[s].inputEnd = 0
    sessions[s].lines.reset()
    sessions[s].phase = .securing
    wheel.set(i, at: now.after(microseconds: policy.timeouts.send))
    flush(i, now: now, into: &effects)
  }

  /// Our 220 is out, or it is a listener of TLS alone: the handshake may begin.
  mutating func beginHandshake(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    wheel.set(i, at: now.after(microseconds: handshakeTimeout(i)))
    counters.handshakes += 1
    let isInTurn = secured[i]?.isInTurn ?? false
    if isInTurn { counters.handshakesInTurn += 1 }
    effects.append(.secure(slot(client: i), isInTurn ? .acceptInTurn : .accept))
  }

  private func handshakeTimeout(_ i: Int) -> Int64 {
    isPressed(i)
      ? min(policy.timeouts.commandUnderStress, policy.timeouts.handshake)
      : policy.timeouts.handshake
  }

  /// Whether a source may have a handshake now, or waits behind those that may: a handshake costs as much as some
  /// hundred commands.
  private mutating func hasCredit(_ i: Int, now: Instant) -> Bool {
    if connections[i].tier == .known { return true }
    if connections[i].tier == .bad { return false }
    let host = Source(host: connections[i].address)
    let key = BucketKey(host.address, length: Int(host.length), limit: LimitKind.handshakes)
    if case .allowed = buckets.take(key, 1, policy.handshakes, now: now) { return true }
    return false
  }

  /// Takes one of the places for TLS. The worst find none first: T3 has half of them, and so have handshakes without
  /// credit, of which one source could begin any number; some are kept for known senders. Handshakes that are under way
  /// have places of their own, which are given back when they are done.
  ///
  /// - Returns: false if there is none for it.
  mutating func takeTLSPlace(_ i: Int, now: Instant) -> Bool {
    let most: Double =
      switch connections[i].tier {
      case .known: 1
      case .bad: 0.5
      case .clean, .suspicious: 1 - policy.reservedForKnown
      }
    guard mayTake(.tlsPlaces, i, now: now), mayTake(.handshakes, i, now: now) else { return false }
    func hasRoom(_ most: Double) -> Bool {
      Double(secured.count) < Double(secured.capacity) * most
        && Double(secured.handshakes) < Double(limits.handshakes) * most
    }
    let isInTurn = hasRoom(most) && !hasCredit(i, now: now)
    guard hasRoom(isInTurn ? min(most, 0.5) : most), secured.add(i, isInTurn: isInTurn) else {
      limitReached(i, .tlsSessions, now: now)
      return false
    }
    connections[i].flags.insert(.encrypted)
    took(.tlsPlaces, i)
    took(.handshakes, i)
    return true
  }

  /// Gives a client's place for TLS back, if it has one; nothing of it may be in flight.
  mutating func giveBackTLSPlace(_ i: Int) {
    guard connections[i].flags.contains(.encrypted) else { return }
    if secured[i]?.isInHandshake == true { gaveBack(.handshakes, i) }
    gaveBack(.tlsPlaces, i)
    secured.remove(i)
  }

  /// The handshake that `secure` asked for has succeeded.
  package mutating func secured(
    _ slot: Slot, _ facts: TLSFacts, now: Instant, into effects: inout EffectQueue
  ) {
    guard isCurrent(slot) else { return }
    let i = Int(slot.index)
    guard isClient(i) else {
      linkSecured(i - limits.connections, facts, now: now, into: &effects)
      return
    }
    if secured[i]?.isInHandshake == true { gaveBack(.handshakes, i) }
    secured.set(i, facts)
    var entry = entry(.secured, i, now: now)
    entry.tls = facts
    journal.append(entry)
    wheel.cancel(i)
    switch connections[i].state {
    case .securing where connections[i].flags.contains(.countedBad):
      listenInPit(i, now: now, into: &effects)
    case .securing: welcome(i, now: now, into: &effects)
    case .talking where sessions[Int(connections[i].session)].phase == .securing:
      sessions[Int(connections[i].session)].phase = .command
      work(i, now: now, into: &effects)
    default: break
    }
  }

  /// The handshake that `secure` asked for has failed, or the peer left during it.
  package mutating func notSecured(
    _ slot: Slot, _ why: Subject, now: Instant, into effects: inout EffectQueue
  ) {
    guard isCurrent(slot) else { return }
    let i = Int(slot.index)
    guard isClient(i) else {
      linkNotSecured(i - limits.connections, why, now: now, into: &effects)
      return
    }
    counters.handshakesFailed += 1
    if why == .notTLS { counters.protocolFaults += 1 }
    var entry = entry(.notSecured, i, now: now)
    entry.subject = why
    journal.append(entry)
    close(i, as: .tlsFailed, now: now, into: &effects)
  }

  // MARK: The downstream

  /// Whether a link is to be secured before mail goes over it.
  func wantsTLS(_ l: Int, now: Instant) -> Bool {
    if links[l].isSecured || links[l].staysClear || downstream.terms.tls == .off { return false }
    let s = Int(links[l].session)
    // There the handshake is the client's.
    if s >= 0 && sessions[s].verb == .starttls { return false }
    return downstream.terms.tls != .opportunistic || now >= downstream.clearUntil
  }

  mutating func secureLink(_ l: Int, now: Instant, into effects: inout EffectQueue) {
    links[l].state = .securing
    wheel.set(limits.connections + l, at: now.after(microseconds: policy.timeouts.handshake))
    effects.append(.secure(slot(link: l), .connect))
  }

  /// The downstream's EHLO reply is there. STARTTLS comes before anything else, if there is to be TLS.
  ///
  /// - Returns: false if the link may be used as it is.
  mutating func securesFirst(
    _ l: Int, _ offers: Capabilities, now: Instant, into effects: inout EffectQueue
  ) -> Bool {
    guard wantsTLS(l, now: now) else { return false }
    if offers.keywords.contains(.starttls) {
      links[l].state = .starttls
      sayOnLink(l, "STARTTLS", now: now, into: &effects)
      return true
    }
    if downstream.terms.tls == .opportunistic { return false }
    linkFailed(l, .noTLS, now: now, into: &effects)
    return true
  }

  private mutating func linkSecured(
    _ l: Int, _ facts: TLSFacts, now: Instant, into effects: inout EffectQueue
  ) {
    guard links[l].state == .securing else { return }
    links[l].isSecured = true
    links[l].isVerified = facts.isVerified
    counters.linksSecured += 1
    // What it said before is forgotten (RFC 3207, 4.2); what it offered there was never kept.
    links[l].inStart = 0
    links[l].inEnd = 0
    links[l].reader.reset()
    links[l].replyCount = 0
    if downstream.terms.beginsWithTLS {
      awaitGreeting(l, now: now, into: &effects)
    } else {
      greetDownstream(l, extended: true, now: now, into: &effects)
      effects.append(.fill(slot(link: l), linkIn(l)))
    }
  }

  /// Whether clear text does where a handshake fails.
  var mayStayClear: Bool {
    downstream.terms.tls == .opportunistic && !downstream.terms.beginsWithTLS
  }

  mutating func linkNotSecured(
    _ l: Int, _ why: Subject, now: Instant, into effects: inout EffectQueue
  ) {
    guard links[l].state == .securing else { return }
    guard mayStayClear else {
      linkFailed(l, why, now: now, into: &effects)
      return
    }
    // In clear, then, for a while: on a new connection, because this one is in the middle of a handshake.
    downstream.clearUntil = now.after(microseconds: Downstream.clearFor)
    var entry = JournalEntry(.downstreamClear, at: now)
    entry.subject = why
    journal.append(entry)
    let s = Int(links[l].session)
    abandonLink(l, into: &effects)
    guard s >= 0, sessions[s].phase == .opening else { return }
    let i = Int(sessions[s].owner)
    sessions[s].link = -1
    forward(i, now: now, into: &effects)
    // Where no other is to be had, that was an answer.
    if connections[i].state == .talking { work(i, now: now, into: &effects) }
  }
}
