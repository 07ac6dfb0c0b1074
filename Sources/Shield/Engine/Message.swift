// SPDX-License-Identifier: Apache-2.0
import Policy
import SMTP
import Structures
import Suspicion

// The message, which goes through the session's input buffer and no further: read, scan, forward, read again.
extension Engine {
  // MARK: Reading

  /// Orders what the client says next into a part of its input region.
  mutating func receive(_ i: ClientIndex, into room: Region, _ m: inout Moment) {
    let s = clients.connections[i].session
    clients.sessions[s].inbox.receive(into: room, of: core.layout.input(s))
    m.append(.fill(clients.slot(i), room))
  }

  /// Listens while DATA is with the downstream: a client that speaks before 354 must be found out, also where the bytes
  /// are still in the kernel, and after it they are the first of the message.
  mutating func listenForBody(_ i: ClientIndex, _ m: inout Moment) {
    let s = clients.connections[i].session
    if clients.sessions[s].inbox.isFilling { return }
    let room = Passage.room(in: core.layout.input(s))
    // A source without credit for so little is charged for it and waits longer before the next piece.
    let most = max(judge.credit(i, clients, core, now: m.now) ?? room.count, 512)
    receive(i, into: room.prefix(min(most, room.count)), &m)
  }

  /// The downstream asks for the client's message. The line of DATA has left the input.
  mutating func beginBody(_ i: ClientIndex, _ l: LinkIndex, _ m: inout Moment) {
    let s = clients.connections[i].session
    clients.sessions[s].inbox.clear()
    // For the whole message, whatever policy comes meanwhile.
    clients.sessions[s].passage.begin(
      lineOctetsMax: core.policy.session.textLineBytes,
      lineEnds: core.policy.bareNewline == .normalize ? .normalize : .strict,
      limit: smallerLimit(core.policy.session.messageBytes, downstream.links[l].offer.sizeMax))
    flush(i, &m)
    readBody(i, &m)
  }

  /// Reads more of a message, as much as its source's byte rate has credit for.
  mutating func readBody(_ i: ClientIndex, _ m: inout Moment) {
    let s = clients.connections[i].session
    if clients.sessions[s].isRelaying { return }
    clients.sessions[s].passage.resume()
    if endIfUsedUp(i, &m) { return }
    if judge.isOverdue(i, clients, core, now: m.now) {
      timedOut(i, now: m.now)
      leave(i, .timeout, &m)
      return
    }
    if clients.sessions[s].inbox.isFilling {
      // Since DATA went downstream.
      setBodyDeadline(i, now: m.now)
      return
    }
    var room = Passage.room(in: core.layout.input(s))
    if let credit = judge.credit(i, clients, core, now: m.now), credit < room.count {
      if credit < 1 {
        pauseReading(i, now: m.now)
        return
      }
      room = room.prefix(credit)
    }
    if clients.sessions[s].passage.movesDeadline || !core.timers.isSet(i) {
      setBodyDeadline(i, now: m.now)
    }
    receive(i, into: room, &m)
  }

  private mutating func setBodyDeadline(_ i: ClientIndex, now: Instant) {
    clients.sessions[clients.connections[i].session].passage.deadlineSet()
    core.timers.set(i, at: now.after(microseconds: core.policy.timeouts.body))
  }

  /// Waits until the source has credit again.
  mutating func pauseReading(_ i: ClientIndex, now: Instant) {
    guard let due = judge.creditDue(i, clients, core, now: now) else { return }
    clients.sessions[clients.connections[i].session].passage.pause()
    core.timers.set(i, at: due)
  }

  // MARK: Passing on

  /// Message bytes have come.
  mutating func heardBody(_ i: ClientIndex, _ count: Int, _ m: inout Moment) {
    let s = clients.connections[i].session
    let input = core.layout.input(s)
    let room = Passage.room(in: input)
    if input.offset + Int(clients.sessions[s].inbox.fillStart) != room.offset {
      // Asked for before DATA: it was said before 354.
      leaveForFault(i, .dataTooEarly, &m)
      return
    }
    // A message that goes on with the trace header before it could change that, and an access filter goes by it: it must
    // be ours alone.
    if downstream.terms.introduction == .received
      && clients.sessions[s].passage.continuesHeader(core.arena.span(room.prefix(count)))
    {
      leave(i, .foldedStart, &m)
      return
    }
    let isDiscarded = clients.sessions[s].phase == .swallow
    switch clients.sessions[s].takeBody(count, of: input, isDiscarded: isDiscarded, &core.arena) {
    case .forward(let piece, let ends): forward(i, piece, ends: ends, &m)
    case .rewrite(let before):
      judge.note(.bareNewline, i, &clients, &core, now: m.now)
      forward(i, before, ends: false, &m)
    case .fault(let fault): leaveForBody(i, fault, &m)
    }
  }

  /// A piece of message, ready to go on as it is.
  ///
  /// - Parameters:
  ///   - piece: where in the input region it is.
  ///   - ends: whether the message ends with it.
  private mutating func forward(
    _ i: ClientIndex, _ piece: Range<Int>, ends: Bool, _ m: inout Moment
  ) {
    guard mayGoOn(i, ends: ends, &m) else { return }
    if piece.isEmpty {
      goOnWithBody(i, &m)
      return
    }
    let s = clients.connections[i].session
    clients.sessions[s].beginRelaying()
    let region = core.layout.input(s).prefix(piece.upperBound).from(piece.lowerBound)
    downstream.forward(region, clients.sessions[s].link, &core, &m)
  }

  /// Whether the part of the message that was looked at goes downstream. If not, it and the rest are thrown away.
  ///
  /// - Parameter ends: whether the message ends with it.
  private mutating func mayGoOn(_ i: ClientIndex, ends: Bool, _ m: inout Moment) -> Bool {
    let s = clients.connections[i].session
    if ends {
      clients.sessions[s].passage.end()
      core.timers.cancel(i)
    }
    if clients.sessions[s].phase == .body && clients.sessions[s].passage.isTooLarge {
      // The downstream gets no final dot, the client's bytes are read and thrown away.
      swallow(i, .messageTooLarge, &m)
    }
    let l = clients.sessions[s].link
    if clients.sessions[s].phase == .body && (!l.exists || downstream.links[l].state != .body) {
      swallow(i, .downstreamLost, &m)
    }
    if clients.sessions[s].phase == .swallow {
      goOnSwallowing(i, &m)
      return false
    }
    return true
  }

  /// The bytes of a message that were being forwarded are out.
  mutating func bodyForwarded(_ i: ClientIndex, _ m: inout Moment) {
    let s = clients.connections[i].session
    clients.sessions[s].endRelaying()
    if clients.sessions[s].passage.hasEnded {
      clients.sessions[s].enter(.final)
      m.append(.watch(clients.slot(i)))
      downstream.awaitFinal(clients.sessions[s].link, &core, now: m.now)
    } else {
      goOnWithBody(i, &m)
    }
  }

  /// Goes on: with what came with bare LFs, which is rewritten into the link's own buffer, as much as that takes; else
  /// with what comes next.
  private mutating func goOnWithBody(_ i: ClientIndex, _ m: inout Moment) {
    let s = clients.connections[i].session
    let l = clients.sessions[s].link
    while clients.sessions[s].passage.hasRest {
      if !downstream.links[l].output.isEmpty {
        // The trace header is still on its way: `bodyForwarded` comes when it is out.
        clients.sessions[s].beginRelaying()
        downstream.forwardBuffer(l, 0, &core, &m)
        return
      }
      let (written, ends, fault) = clients.sessions[s].rewriteBody(
        of: core.layout.input(s), into: core.layout.linkOut(l), &core.arena)
      if let fault {
        leaveForBody(i, fault, &m)
        return
      }
      guard mayGoOn(i, ends: ends, &m) else { return }
      if written > 0 {
        clients.sessions[s].beginRelaying()
        downstream.forwardBuffer(l, written, &core, &m)
        return
      }
    }
    readBody(i, &m)
  }

  private mutating func leaveForBody(_ i: ClientIndex, _ fault: BodyFault, _ m: inout Moment) {
    switch fault {
    case .bareLF, .bareCR:
      judge.note(.bareNewline, i, &clients, &core, now: m.now)
      leaveForFault(i, .bareNewline, &m)
    case .nul:
      judge.note(.binary, i, &clients, &core, now: m.now)
      leaveForFault(i, .nulInMessage, &m)
    case .lineTooLong: leaveForFault(i, .textLineTooLong, &m)
    }
  }

  // MARK: Throwing away

  /// From here on the message is read to its end and thrown away; then the client gets `verdict`.
  mutating func swallow(_ i: ClientIndex, _ verdict: OwnReply, _ m: inout Moment) {
    let s = clients.connections[i].session
    clients.sessions[s].enter(.swallow)
    clients.sessions[s].owe(verdict)
    dropLink(of: i, &m)
  }

  /// Throws away more of a message, or, after its end, gives the verdict on it. Waits while a dying
  /// downstream connection may still be sending from the buffer: new bytes there could reach it.
  mutating func goOnSwallowing(_ i: ClientIndex, _ m: inout Moment) {
    let s = clients.connections[i].session
    guard clients.connections[i].state == .talking, clients.sessions[s].phase == .swallow,
      !clients.sessions[s].isRelaying
    else { return }
    if clients.sessions[s].passage.hasRest {
      let (ends, fault) = clients.sessions[s].discardRest(of: core.layout.input(s), core.arena)
      if let fault {
        leaveForBody(i, fault, &m)
        return
      }
      if ends {
        clients.sessions[s].passage.end()
        core.timers.cancel(i)
      }
    }
    if clients.sessions[s].passage.hasEnded {
      endSwallow(i, &m)
    } else {
      readBody(i, &m)
    }
  }

  private mutating func endSwallow(_ i: ClientIndex, _ m: inout Moment) {
    let s = clients.connections[i].session
    clients.sessions[s].resume(.data)
    if !clients.sessions[s].takeVerdict() {
      say(i, clients.sessions[s].owed, now: m.now)
      clients.sessions[s].tally(.data, good: false)
    }
    endTransaction(i)
    clients.sessions[s].inbox.forgetLine()
    clients.sessions[s].enter(.command)
    // 421 is the downstream's, in the middle of the message.
    goOn(i, after: clients.sessions[s].lastReply, &m)
    loginLost(i, &m)
  }

  // MARK: After a reply

  /// The one place where a transaction's state ends, on whichever way it ended.
  mutating func endTransaction(_ i: ClientIndex) {
    let s = clients.connections[i].session
    clients.sessions[s].envelope.reset()
    clients.sessions[s].passage.finish()
  }

  /// The client has a reply of the downstream, and goes on, unless that was the last one.
  mutating func goOn(_ i: ClientIndex, after code: UInt16, _ m: inout Moment) {
    if code == 421 {
      dropLink(of: i, &m)
      beginLeaving(i, &m)
      return
    }
    endIfUsedUp(i, &m)
    wake(i)
  }

  /// A log-in was with the downstream connection that is gone. On a new one its mail would be a stranger's
  /// and be refused for good: the client is told to come again and log in.
  mutating func loginLost(_ i: ClientIndex, _ m: inout Moment) {
    guard clients.connections[i].state == .talking else { return }
    let s = clients.connections[i].session
    guard clients.sessions[s].login.isAuthenticated, !clients.sessions[s].link.exists else {
      return
    }
    switch clients.sessions[s].phase {
    case .command, .delaying: leave(i, .authenticationLost, &m)
    case .due, .opening, .forwarded, .holding, .challenge, .body, .swallow, .final, .leaving,
      .securing, .spliced:
      break
    }
  }
}

extension Session {
  fileprivate mutating func takeBody(
    _ count: Int, of input: Region, isDiscarded: Bool, _ arena: inout Arena
  ) -> Passage.Step {
    passage.take(count, of: input, isDiscarded: isDiscarded, &inbox, &arena)
  }

  fileprivate mutating func rewriteBody(
    of input: Region, into target: Region, _ arena: inout Arena
  ) -> (written: Int, ends: Bool, fault: BodyFault?) {
    passage.rewrite(of: input, into: target, &inbox, &arena)
  }

  fileprivate mutating func discardRest(
    of input: Region, _ arena: borrowing Arena
  ) -> (ends: Bool, fault: BodyFault?) {
    passage.discardRest(of: input, &inbox, arena)
  }
}
