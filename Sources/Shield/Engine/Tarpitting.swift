// SPDX-License-Identifier: Apache-2.0
import Policy
import SMTP
import Structures
import Suspicion

// Into the tarpit, through it, and out. What is said there and how is in Front/Tarpit.swift.
extension Engine {
  /// Puts a connection into the tarpit and begins to drip `text`, spread over the delay of its stage.
  ///
  /// - Parameter owed: the replies that come after it. None where the kernel may still write into the session's
  ///   input: the peer is cut off when it speaks (`Engine.filled`).
  mutating func enterTarpit(
    _ i: ClientIndex, _ text: PitText, owed: UInt32 = 0, _ m: inout Moment
  ) {
    if !clients.connections[i].flags.contains(.countedBad) {
      // A bot with many sessions gets a few of them held and the rest told to go: slots are for many
      // sources, and one source must not fill them.
      let held = judge.countBad(i, &clients) ?? .max
      if held > UInt32(core.policy.badSessionsPerSource) {
        noteShed(i, for: .badSessions, now: m.now)
        refuse(i, .crowded, as: .shed, &m)
        return
      }
      core.counters.tarpitted += 1
      m.append(.narrow(clients.slot(i)))
      var entry = clients.entry(.tarpit, i, core, now: m.now)
      entry.stage = text.stage
      entry.micros = core.policy.delays[entry.stage].bad
      core.journal.append(entry)
      clients.connections[i].delayed = UInt16(clamping: clients.age(i, now: m.now) / 10_000)
    }
    dropLink(of: i, &m)
    returnSession(i)
    clients.connections[i].owed = owed
    clients.drip(text, i, &core, &m)
  }

  /// Tells a peer in the tarpit to go. Within a reply there is no room for another one: then it is cut off.
  ///
  /// - Parameter ending: `.shed`, or `.tarpit` if its time is up.
  mutating func shed(_ i: ClientIndex, as ending: Verdict, _ m: inout Moment) {
    if clients.connections[i].state == .dripping && clients.connections[i].position > 0 {
      if ending == .shed { core.counters.shed += 1 }
      close(i, as: ending, &m)
    } else {
      refuse(i, .shed, as: ending, &m)
    }
  }

  mutating func tarpitTimer(_ i: ClientIndex, _ m: inout Moment) {
    let held = clients.age(i, now: m.now)
    if held >= core.tarpitTime {
      let isShort = held < core.policy.badSession
      if isShort { noteShed(i, for: .slots, now: m.now) }
      shed(i, as: isShort ? .shed : .tarpit, &m)
      return
    }
    guard clients.connections[i].state == .dripping else {
      timedOut(i, now: m.now)
      refuse(i, .timeout, &m)
      return
    }
    switch clients.dripOne(i, &core, &m) {
    case .goesOn: break
    case .cutOff: shed(i, as: .tarpit, &m)
    case .said where clients.connections[i].flags.contains(.last): beginDraining(i, &m)
    case .said where clients.connections[i].text == .starttls: secureInPit(i, &m)
    case .said: answerNext(i, &m)
    }
  }

  /// Bytes from a peer in the tarpit, in its turn.
  mutating func heardInPit(_ i: ClientIndex, _ bytes: Span<UInt8>, _ m: inout Moment) {
    var owed = clients.connections[i].owed
    guard clients.owe(i, bytes, &owed) else {
      clients.connections[i].flags.insert(.last)
      clients.connections[i].owed = 0
      clients.drip(.tooMany, i, &core, &m)
      return
    }
    clients.connections[i].owed = owed
    answerNext(i, &m)
  }

  /// Drips the reply to the next line it is owed one for, or listens.
  private mutating func answerNext(_ i: ClientIndex, _ m: inout Moment) {
    guard let next = clients.nextOwed(i) else {
      listenInPit(i, &m)
      return
    }
    if next == .quit { clients.connections[i].flags.insert(.last) }
    clients.drip(pitText(i, to: next, now: m.now), i, &core, &m)
  }

  /// It is the peer's turn.
  mutating func listenInPit(_ i: ClientIndex, _ m: inout Moment) {
    clients.connections[i].state = .pit
    // The deadline is for the whole line: letters that trickle in do not move it.
    if !core.timers.isSet(i) {
      core.timers.set(i, at: m.now.after(microseconds: core.commandTimeout(i, clients)))
    }
    m.append(.listen(clients.slot(i)))
  }

  /// 220 to STARTTLS is out: the stutter goes on in TLS.
  private mutating func secureInPit(_ i: ClientIndex, _ m: inout Moment) {
    if clients.connections[i].owed != 0 || clients.connections[i].word != .none {
      // Said in clear behind STARTTLS.
      core.counters.protocolFaults += 1
      close(i, &m)
      return
    }
    clients.connections[i].state = .securing
    beginHandshake(i, &m)
  }

  /// What is said to a command. STARTTLS takes one of the places for TLS.
  private mutating func pitText(
    _ i: ClientIndex, to heard: PitCommand, now: Instant
  ) -> PitText {
    switch heard {
    case .helo: return .helo
    // One text for all: a client that may not be offered STARTTLS (RFC 3207, 4.2) gets the short form.
    case .ehlo:
      return core.policy.offersTLS(clients.connections[i]) == core.policy.offersTLS ? .ehlo : .helo
    case .mail: return .mail
    case .recipient: return .recipient
    case .data: return .data
    case .quit: return .quit
    case .harmless: return .done
    case .starttls:
      let mayBegin =
        core.policy.offersTLS(clients.connections[i])
        && judge.takeTLSPlace(i, &clients, &core, now: now)
      return mayBegin ? .starttls : .unknown
    case .unknown: return .unknown
    }
  }

  /// Moves a talking client into the tarpit: the current command and those behind it are answered there.
  mutating func moveToTarpit(_ i: ClientIndex, _ m: inout Moment) {
    let s = clients.connections[i].session
    if clients.sessions[s].outbox.isSending || !clients.sessions[s].outbox.isEmpty {
      // Replies already given go out first, or the dialogue would lose one.
      beginLeaving(i, to: .tarpit, &m)
      return
    }
    // A copy of at most what `owed` can keep: the session's buffer is given back below.
    let waiting = clients.sessions[s].inbox.waiting(in: core.layout.input(s))
    let count = min(waiting.count, 512)
    clients.connections[i].word = .none
    clients.connections[i].flags.remove(.pastWord)
    var kept = InlineArray<512, UInt8>(repeating: 0)
    for k in 0..<count { kept[k] = core.arena[waiting.offset + k] }
    var owed: UInt32 = 0
    let fits = clients.owe(i, kept.span.extracting(0..<count), &owed)
    guard fits else {
      clients.connections[i].flags.insert(.last)
      enterTarpit(i, .tooMany, &m)
      return
    }
    let first = PitCommand(rawValue: owed & 15) ?? .unknown
    if first == .quit { clients.connections[i].flags.insert(.last) }
    let text = pitText(i, to: first, now: m.now)
    enterTarpit(i, text, owed: owed >> 4, &m)
  }

  // MARK: Handshakes

  /// Our 220 is out, or it is a listener of TLS alone: the handshake may begin.
  mutating func beginHandshake(_ i: ClientIndex, _ m: inout Moment) {
    core.timers.set(i, at: m.now.after(microseconds: core.handshakeTimeout(i, clients)))
    core.counters.handshakes += 1
    let isInTurn = clients.secured[i]?.isInTurn ?? false
    if isInTurn { core.counters.handshakesInTurn += 1 }
    m.append(.secure(clients.slot(i), isInTurn ? .acceptInTurn : .accept))
  }
}
