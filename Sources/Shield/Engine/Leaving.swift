// SPDX-License-Identifier: Apache-2.0
import Policy
import SMTP
import Structures
import Suspicion

// Every way out. The lowest floor of the engine's own files: all others end in it, and it calls none of them.
extension Engine {
  /// A session may go on: it is run at the end of this fact.
  mutating func wake(_ i: ClientIndex) {
    let s = clients.connections[i].session
    guard s.exists, clients.connections[i].state == .talking, !clients.sessions[s].isWoken else {
      return
    }
    clients.sessions[s].isWoken = true
    woken.append(s)
  }

  // MARK: Places

  /// Lets go of a client's downstream connection.
  mutating func dropLink(of i: ClientIndex, _ m: inout Moment) {
    let s = clients.connections[i].session
    guard s.exists, clients.sessions[s].link.exists else { return }
    let l = clients.sessions[s].link
    clients.sessions[s].detach()
    let isInChallenge = clients.sessions[s].login.exchange != .none
    clients.sessions[s].login.endExchange()
    downstream.drop(l, isInChallenge: isInChallenge, of: clients.sessionID(i), &core, &m)
  }

  /// Gives a session back, at once or when nothing may be in flight on its memory.
  mutating func returnSession(_ i: ClientIndex) {
    guard let (s, isFree) = clients.unlease(i) else { return }
    judge.gaveBack(.sessions, clients.connections[i])
    if isFree { core.places.sessions.release(s) }
  }

  /// A slot is closed that had something of a session in flight.
  mutating func unpin(_ s: SessionIndex) {
    guard s.exists else { return }
    if clients.sessions[s].unpin() { core.places.sessions.release(s) }
  }

  /// Gives a header's place back; nothing may be in flight into it.
  mutating func releaseHeader(_ i: ClientIndex) {
    guard clients.connections[i].flags.contains(.announced) else { return }
    clients.connections[i].flags.remove(.announced)
    headers.release(clients.connections[i].headerPlace)
    clients.connections[i].headerPlace = 0
  }

  // MARK: The log

  mutating func timedOut(_ i: ClientIndex, now: Instant) {
    core.counters.timeouts += 1
    core.journal.append(clients.entry(.timeout, i, core, now: now))
  }

  mutating func noteShed(_ i: ClientIndex, for want: Subject, now: Instant) {
    var entry = clients.entry(.shed, i, core, now: now)
    entry.subject = want
    core.journal.append(entry)
  }

  private mutating func noteHangup(_ i: ClientIndex, at stage: Stage?, now: Instant) {
    core.counters.hangups += 1
    var entry = clients.entry(.hangup, i, core, now: now)
    if let stage { entry.stage = stage }
    core.journal.append(entry)
  }

  mutating func refuseHeader(_ why: Subject, _ peer: Peer, now: Instant) {
    core.counters.proxyRefused += 1
    var entry = JournalEntry(.proxyRefused, at: now)
    entry.address = peer.address
    entry.port = peer.port
    entry.listener = peer.listener
    entry.subject = why
    core.journal.append(entry)
  }

  /// The one line that says what became of a session.
  ///
  /// - Parameters:
  ///   - ending: what that is, if it is known here.
  ///   - text: what it is told behind this.
  mutating func writeClosingLine(
    _ i: ClientIndex, as ending: Verdict? = nil, saying text: PitText? = nil, now: Instant
  ) {
    if clients.connections[i].flags.contains(.logged) { return }
    clients.connections[i].flags.insert(.logged)
    var entry = clients.entry(.disconnect, i, core, now: now)
    if let text {
      entry.reply = text.code
      entry.bytesOut += UInt64(core.text(text).count)
    }
    if clients.connections[i].isTarpitted {
      let before = clients.connections[i].delayed
      entry.tarpitted = before == .max ? .max : max(entry.held - Int64(before) * 10_000, 0)
      entry.delayed = 0
    } else if core.policy.mode == .enforce {
      // A client that left during a delay did not wait for all of it.
      entry.delayed = min(entry.delayed, entry.held)
    } else if clients.connections[i].wouldBeTurnedAway {
      entry.delayed = 0
    }
    let s = clients.connections[i].session
    entry.verdict = verdict(entry, i, ending ?? (s.exists ? clients.sessions[s].ending : nil))
    core.counters.verdicts[entry.verdict] += 1
    core.journal.append(entry)
  }

  private func verdict(_ entry: JournalEntry, _ i: ClientIndex, _ ending: Verdict?) -> Verdict {
    if core.policy.mode == .observe {
      if clients.wouldBeRefused(i) { return .wouldRefuse }
      if entry.tier == .bad { return .wouldTarpit }
      if entry.messages > 0 { return .delivered }
      return ending ?? (entry.delayed > 0 ? .wouldSlow : .pass)
    }
    if entry.messages > 0 { return .delivered }
    if let ending { return ending }
    return entry.tier == .bad ? .tarpit : entry.delayed > 0 ? .slowed : .pass
  }

  // MARK: The end

  /// Ends a client connection at once, whatever it is doing.
  ///
  /// - Parameter ending: what became of it, if this is for a reason of ours.
  mutating func close(_ i: ClientIndex, as ending: Verdict? = nil, _ m: inout Moment) {
    if clients.connections[i].state == .closing || clients.connections[i].state == .free { return }
    dropLink(of: i, &m)
    writeClosingLine(i, as: ending, now: m.now)
    returnSession(i)
    judge.uncount(i, &clients, core)
    clients.connections[i].state = .closing
    core.timers.cancel(i)
    m.append(.close(clients.slot(i)))
  }

  /// Says one last ready text and ends the connection.
  ///
  /// - Parameter ending: what became of it; nil for what the text says.
  mutating func refuse(
    _ i: ClientIndex, _ text: PitText, as ending: Verdict? = nil, _ m: inout Moment
  ) {
    dropLink(of: i, &m)
    var ending = ending
    switch text {
    case .busy, .shed: ending = ending ?? .shed
    case .rejected, .crowded: ending = ending ?? .refused
    default: break
    }
    if ending == .shed { core.counters.shed += 1 }
    if ending == .refused { core.counters.refused += 1 }
    let isUnsecured =
      clients.connections[i].state == .waiting || clients.connections[i].state == .announced
    if core.policy.tls(of: clients.connections[i]) == .implicit && isUnsecured
      && !clients.connections[i].flags.contains(.encrypted)
    {
      // It does not expect clear text.
      close(i, as: ending, &m)
      return
    }
    writeClosingLine(i, as: ending, saying: text, now: m.now)
    returnSession(i)
    clients.connections[i].state = .refusing
    clients.connections[i].text = text
    clients.connections[i].position = 0
    core.timers.set(i, at: m.now.after(microseconds: core.policy.timeouts.send))
    m.append(.send(clients.slot(i), core.text(text)))
  }

  /// Our last reply is out. Closing now could reset the connection under it if the client is still
  /// sending, so our side is shut and what comes is thrown away for a moment.
  mutating func beginDraining(_ i: ClientIndex, _ m: inout Moment) {
    if clients.connections[i].flags.contains(.ended) {
      close(i, &m)
      return
    }
    clients.connections[i].state = .draining
    core.timers.set(i, at: m.now.after(microseconds: core.policy.timeouts.drain))
    m.append(.finish(clients.slot(i)))
    m.append(.listen(clients.slot(i)))
  }

  /// A session's last reply is out, or there is none: the end.
  mutating func endSession(_ i: ClientIndex, _ m: inout Moment) {
    writeClosingLine(i, now: m.now)
    returnSession(i)
    beginDraining(i, &m)
  }

  // MARK: Clients that go

  /// The client is gone.
  mutating func hungUp(_ i: ClientIndex, _ m: inout Moment) {
    switch clients.connections[i].state {
    case .free, .closing: return
    case .announced:
      leftWithoutHeader(i, &m)
      return
    case .waiting:
      judge.leftWhileDelayed(.banner, i, clients, core, now: m.now)
      noteHangup(i, at: .banner, now: m.now)
    case .dripping, .pit: noteHangup(i, at: clients.connections[i].text.stage, now: m.now)
    case .banner, .idle:
      // It left without a word, perhaps while our delayed banner was on its way: the delay was just too long.
      if clients.connections[i].delayed > 0 {
        judge.leftWhileDelayed(.banner, i, clients, core, now: m.now)
      }
      if clients.connections[i].state == .banner { noteHangup(i, at: nil, now: m.now) }
    case .talking: leftInSession(i, now: m.now)
    case .securing:
      noteHangup(i, at: .startTLS, now: m.now)
      close(i, as: .tlsFailed, &m)
      return
    case .refusing, .draining: break
    }
    close(i, &m)
  }

  private mutating func leftInSession(_ i: ClientIndex, now: Instant) {
    let s = clients.connections[i].session
    switch clients.sessions[s].phase {
    case .delaying(let stage), .holding(let stage):
      judge.leftWhileDelayed(stage, i, clients, core, now: now)
    case .securing: clients.sessions[s].ending = .tlsFailed
    case .leaving: return
    default: break
    }
    noteHangup(i, at: clients.sessions[s].stage, now: now)
  }

  /// The balancer closed before its header was whole. Without a word it has only looked whether we are there.
  mutating func leftWithoutHeader(_ i: ClientIndex, _ m: inout Moment) {
    if headers[clients.connections[i].headerPlace].count > 0 {
      refuseHeader(.headerMalformed, clients.peer(i), now: m.now)
    }
    clients.connections[i].flags.insert(.logged)
    close(i, &m)
  }
}

extension Session {
  /// How far it has come: the stage it waits at, or that of the last command.
  fileprivate var stage: Stage {
    switch phase {
    case .delaying(let stage), .holding(let stage): stage
    case .body, .swallow: .body
    case .final: .endOfData
    case .securing: .startTLS
    default: use.commands == 0 ? .banner : verb.stage
    }
  }
}

extension Connection {
  /// Whether it is in the tarpit, or has just heard its last word there.
  fileprivate var isTarpitted: Bool {
    guard flags.contains(.countedBad) else { return false }
    switch state {
    case .dripping, .pit, .securing, .draining: return true
    default: return false
    }
  }
}
