// SPDX-License-Identifier: Apache-2.0
import Flow
import Reputation
import SMTP
package import Structures
package import Suspicion

// TLS as the engine sees it: when it begins, with whom, and what it came to. The octets of it are the driver's: a
// slot that is secured hears and says plain text here, as every other.
//
// Nothing said in clear outlives the handshake (RFC 3207, 4.2): what stands in a buffer is a violation, what was
// learnt is forgotten, and a name must be said anew.
extension Engine {
  /// How this client may come to TLS.
  func tlsMode(_ i: ClientIndex) -> ListenerTLS {
    policy.tls(ofListener: Int(connections[i].listener))
  }

  /// Whether STARTTLS may be said now.
  func offersTLS(_ i: ClientIndex) -> Bool {
    tlsMode(i) == .starttls && !connections[i].flags.contains(.encrypted)
  }

  /// Whether STARTTLS is in the reply to EHLO: ours, or the downstream's.
  func namesTLS(_ i: ClientIndex, _ theirs: Capabilities) -> Bool {
    offersTLS(i) || tlsMode(i) == .passThrough && theirs.keywords.contains(.starttls)
  }

  /// Whether a log-in may be offered: not where others can read it, unless the operator asks for it.
  func offersAuth(_ i: ClientIndex) -> Bool {
    policy.authOnClear || connections[i].flags.contains(.encrypted)
  }

  // MARK: Clients

  /// STARTTLS.
  mutating func startTLS(_ i: ClientIndex, _ m: inout Moment) {
    let s = connections[i].session
    let mode = tlsMode(i)
    guard mode == .starttls || mode == .passThrough else {
      answer(i, .notImplemented, &m)
      return
    }
    if connections[i].flags.contains(.encrypted) {
      answer(i, .badSequence, &m)
      return
    }
    if sessions[s].lineCount > sessions[s].argumentStart {
      answer(i, .noArgument, &m)
      return
    }
    if sessions[s].inputStart + sessions[s].lineConsumed < sessions[s].inputEnd {
      // Said in clear behind STARTTLS: what carries it over the handshake lets others speak for the client
      // (CVE-2011-0411).
      counters.protocolFaults += 1
      note(.pipelining, i, now: m.now)
      leave(i, .clearBehindSTARTTLS, &m)
      return
    }
    if !sessions[s].flags.isDisjoint(with: .cannotSecure) {
      // It has closed its side already.
      hungUp(i, &m)
      return
    }
    if mode == .passThrough {
      passOnSTARTTLS(i, &m)
      return
    }
    guard takeTLSPlace(i, now: m.now) else {
      answer(i, .tlsUnavailable, &m)
      return
    }
    answer(i, .readyForTLS, &m)
    // What it said in clear is forgotten, and the downstream was told it.
    resetTransaction(i)
    dropLink(of: i, &m)
    sessions[s].flags.remove(.greeting)
    sessions[s].heloCount = 0
    sessions[s].inputStart = 0
    sessions[s].inputEnd = 0
    sessions[s].lines.reset()
    sessions[s].phase = .securing
    timers.set(i, at: m.now.after(microseconds: policy.timeouts.send))
    flush(i, &m)
  }

  /// Our 220 is out, or it is a listener of TLS alone: the handshake may begin.
  mutating func beginHandshake(_ i: ClientIndex, _ m: inout Moment) {
    timers.set(i, at: m.now.after(microseconds: handshakeTimeout(i)))
    counters.handshakes += 1
    let isInTurn = secured[i]?.isInTurn ?? false
    if isInTurn { counters.handshakesInTurn += 1 }
    m.append(.secure(slot(client: i), isInTurn ? .acceptInTurn : .accept))
  }

  private func handshakeTimeout(_ i: ClientIndex) -> Int64 {
    isPressed(i)
      ? min(policy.timeouts.commandUnderStress, policy.timeouts.handshake)
      : policy.timeouts.handshake
  }

  /// Whether a source may have a handshake now, or waits behind those that may: a handshake costs as much as some
  /// hundred commands.
  private mutating func hasCredit(_ i: ClientIndex, now: Instant) -> Bool {
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
  mutating func takeTLSPlace(_ i: ClientIndex, now: Instant) -> Bool {
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
  mutating func giveBackTLSPlace(_ i: ClientIndex) {
    guard connections[i].flags.contains(.encrypted) else { return }
    if secured[i]?.isInHandshake == true { gaveBack(.handshakes, i) }
    gaveBack(.tlsPlaces, i)
    secured.remove(i)
  }

  /// A client's handshake has succeeded.
  mutating func clientSecured(_ i: ClientIndex, _ facts: TLSFacts, _ m: inout Moment) {
    if secured[i]?.isInHandshake == true { gaveBack(.handshakes, i) }
    secured.set(i, facts)
    var entry = entry(.secured, i, now: m.now)
    entry.tls = facts
    journal.append(entry)
    timers.cancel(i)
    switch connections[i].state {
    case .securing where connections[i].flags.contains(.countedBad):
      listenInPit(i, &m)
    case .securing: welcome(i, &m)
    case .talking where sessions[connections[i].session].phase == .securing:
      sessions[connections[i].session].phase = .command
      work(i, &m)
    default: break
    }
  }

  /// A client's handshake has failed, or it left during it.
  mutating func clientNotSecured(_ i: ClientIndex, _ why: Subject, _ m: inout Moment) {
    counters.handshakesFailed += 1
    if why == .notTLS { counters.protocolFaults += 1 }
    var entry = entry(.notSecured, i, now: m.now)
    entry.subject = why
    journal.append(entry)
    close(i, as: .tlsFailed, &m)
  }

  // MARK: The downstream

  /// How the downstream is spoken to.
  package mutating func setDownstreamTLS(_ mode: DownstreamTLS, implicit: Bool) {
    downstream.tls = mode
    downstream.isImplicitTLS = implicit && mode != .off
  }

  /// Whether a link is to be secured before mail goes over it.
  func wantsTLS(_ l: LinkIndex, now: Instant) -> Bool {
    if links[l].isSecured || links[l].staysClear || downstream.tls == .off { return false }
    let s = links[l].session
    // There the handshake is the client's.
    if s.exists && sessions[s].verb == .starttls { return false }
    return downstream.tls != .opportunistic || now >= downstream.clearUntil
  }

  mutating func secureLink(_ l: LinkIndex, _ m: inout Moment) {
    links[l].state = .securing
    timers.set(l, at: m.now.after(microseconds: policy.timeouts.handshake))
    m.append(.secure(slot(link: l), .connect))
  }

  /// The downstream's EHLO reply is there. STARTTLS comes before anything else, if there is to be TLS.
  ///
  /// - Returns: false if the link may be used as it is.
  mutating func securesFirst(
    _ l: LinkIndex, _ offers: Capabilities, _ m: inout Moment
  ) -> Bool {
    guard wantsTLS(l, now: m.now) else { return false }
    if offers.keywords.contains(.starttls) {
      links[l].state = .starttls
      sayOnLink(l, "STARTTLS", &m)
      return true
    }
    if downstream.tls == .opportunistic { return false }
    linkFailed(l, .noTLS, &m)
    return true
  }

  mutating func linkSecured(
    _ l: LinkIndex, _ facts: TLSFacts, _ m: inout Moment
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
    if downstream.isImplicitTLS {
      awaitGreeting(l, &m)
    } else {
      greetDownstream(l, extended: true, &m)
      m.append(.fill(slot(link: l), linkIn(l)))
    }
  }

  /// Whether clear text does where a handshake fails.
  var mayStayClear: Bool { downstream.tls == .opportunistic && !downstream.isImplicitTLS }

  mutating func linkNotSecured(
    _ l: LinkIndex, _ why: Subject, _ m: inout Moment
  ) {
    guard links[l].state == .securing else { return }
    guard mayStayClear else {
      linkFailed(l, why, &m)
      return
    }
    // In clear, then, for a while: on a new connection, because this one is in the middle of a handshake.
    downstream.clearUntil = m.now.after(microseconds: Downstream.clearFor)
    var entry = JournalEntry(.downstreamClear, at: m.now)
    entry.subject = why
    journal.append(entry)
    let s = links[l].session
    abandonLink(l, &m)
    guard s.exists, sessions[s].phase == .opening else { return }
    let i = sessions[s].owner
    sessions[s].link = .none
    forward(i, &m)
    // Where no other is to be had, that was an answer.
    if connections[i].state == .talking { work(i, &m) }
  }
}
