// SPDX-License-Identifier: Apache-2.0
import Policy
import Flow
import SMTP
import Structures
import Suspicion

// A session's turn: the one loop that runs it. One command at a time, in the order of arrival: a command is finished
// before the next is looked at, so replies cannot pair with the wrong command.
extension Engine {
  /// Runs the sessions that were woken, until none is left.
  @inline(__always)
  mutating func runWoken(_ m: inout Moment) {
    if !woken.isEmpty { runAll(&m) }
  }

  private mutating func runAll(_ m: inout Moment) {
    while !woken.isEmpty {
      let s = woken.next()
      clients.sessions[s].isWoken = false
      let i = clients.sessions[s].owner
      if i.exists { run(i, &m) }
    }
  }

  /// Deals with the command that is due and those in the input buffer, until one must wait or none is whole.
  private mutating func run(_ i: ClientIndex, _ m: inout Moment) {
    while clients.connections[i].state == .talking, step(i, &m) {}
    guard clients.connections[i].state == .talking else { return }
    flush(i, &m)
    let s = clients.connections[i].session
    let l = clients.sessions[s].link
    if l.exists, downstream.links[l].input.isPaused, clients.sessions[s].outbox.isEmpty {
      core.timers.cancel(i)
      readOn(l, &m)
    }
  }

  /// - Returns: whether there may be more to do at once.
  private mutating func step(_ i: ClientIndex, _ m: inout Moment) -> Bool {
    let s = clients.connections[i].session
    switch clients.sessions[s].phase {
    case .due(let due):
      clients.sessions[s].enter(.command)
      switch due {
      case .execute: execute(i, &m)
      case .forward: forward(i, &m)
      case .greet:
        greet(i, &m)
        loginLost(i, &m)
      }
      return true
    case .forwarded: return mayPipeline(s) && hasOutboxRoom(i, s, &m) && nextAhead(i, s, &m)
    case .command, .challenge: return hasOutboxRoom(i, s, &m) && nextLine(i, s, &m)
    case .delaying, .opening, .holding, .body, .swallow, .final, .leaving, .securing, .spliced:
      return false
    }
  }

  /// Each command may be answered by a whole reply of the downstream: it must fit.
  private mutating func hasOutboxRoom(
    _ i: ClientIndex, _ s: SessionIndex, _ m: inout Moment
  ) -> Bool {
    if clients.sessions[s].outbox.room >= Layout.replyBytes { return true }
    if !core.timers.isSet(i) {
      core.timers.set(i, at: m.now.after(microseconds: core.policy.timeouts.send))
    }
    return false
  }

  // MARK: Lines

  /// Takes up the next command while those before it are with the downstream, if it may join them.
  private mutating func nextAhead(
    _ i: ClientIndex, _ s: SessionIndex, _ m: inout Moment
  ) -> Bool {
    // A command that others follow downstream is done with here: only its reply is still to come.
    let ahead = Int(clients.sessions[s].inbox.lineConsumed)
    let region = clients.sessions[s].inbox.waiting(in: core.layout.input(s), ahead: ahead)
    let (step, lines) = clients.sessions[s].inbox.nextLine(
      in: core.arena.span(region), limit: core.commandLineMost)
    guard case .line(let length, let consumed) = step,
      mayJoin(i, region.prefix(length), isAll: consumed == region.count, now: m.now)
    else { return false }
    clients.sessions[s].inbox.skip(ahead)
    clients.sessions[s].inbox.keep(lines)
    begin(i, length, consumed: consumed, &m)
    return true
  }

  /// Takes up the next line, if it is whole.
  private mutating func nextLine(
    _ i: ClientIndex, _ s: SessionIndex, _ m: inout Moment
  ) -> Bool {
    let region = clients.sessions[s].inbox.waiting(in: core.layout.input(s))
    if clients.sessions[s].inbox.isSkipping && !skipLine(s, region) { return true }
    let isAnswer = clients.sessions[s].phase == .challenge
    var (step, lines) = clients.sessions[s].inbox.nextLine(
      in: core.arena.span(region), limit: isAnswer ? core.loginLineMost : core.commandLineMost)
    if step == .tooLong && !isAnswer && isLogin(i, region) {
      (step, lines) = clients.sessions[s].inbox.nextLine(
        in: core.arena.span(region), limit: core.loginLineMost)
    }
    clients.sessions[s].inbox.keep(lines)
    switch step {
    case .line(let length, let consumed):
      begin(i, length, consumed: consumed, &m)
    case .needMore:
      awaitMore(i, s, &m)
      return false
    case .tooLong: lineTooLong(i, isAnswer: isAnswer, region, &m)
    case .bareLF, .bareCR:
      judge.note(.bareNewline, i, &clients, &core, now: m.now)
      leaveForFault(i, .bareNewline, &m)
    case .nul:
      // The hello of TLS or SOCKS holds a NUL before anything that could be a line's end.
      let isTLS = Command.foreignProtocol(at: core.arena.span(region)) == .tlsHello
      judge.note(isTLS ? .tlsHello : .binary, i, &clients, &core, now: m.now)
      leaveForFault(i, .badSyntaxClosing, &m)
    }
    return true
  }

  /// A whole line is at hand.
  private mutating func begin(
    _ i: ClientIndex, _ length: Int, consumed: Int, _ m: inout Moment
  ) {
    let s = clients.connections[i].session
    if consumed == length + 1 {
      judge.note(.bareNewline, i, &clients, &core, now: m.now)
    }
    core.timers.cancel(i)
    clients.sessions[s].inbox.begin(length, consumed: consumed)
    if clients.sessions[s].phase == .challenge {
      answerChallenge(i, &m)
    } else {
      command(i, &m)
    }
  }

  /// No whole line is there: the client's turn, or its end.
  private mutating func awaitMore(_ i: ClientIndex, _ s: SessionIndex, _ m: inout Moment) {
    if clients.sessions[s].inbox.hasEnded {
      clientLeft(i, &m)
    } else if core.isDraining && clients.sessions[s].isBetweenMessages {
      leave(i, .shuttingDown, &m)
    } else {
      // The deadline is for the whole command: bytes that trickle in do not move it.
      if !core.timers.isSet(i) {
        core.timers.set(i, at: m.now.after(microseconds: core.commandTimeout(i, clients)))
      }
      askForMore(i, &m)
    }
  }

  /// Asks for more input, where there is room for it.
  mutating func askForMore(_ i: ClientIndex, _ m: inout Moment) {
    let s = clients.connections[i].session
    if clients.sessions[s].inbox.isFilling || clients.sessions[s].isRelaying { return }
    let room = clients.sessions[s].inbox.room(in: core.layout.input(s), &core.arena)
    if room.count > 0 { receive(i, into: room, &m) }
  }

  /// All a client said is answered and nothing more will come: the end, after what is still to be sent.
  mutating func clientLeft(_ i: ClientIndex, _ m: inout Moment) {
    if clients.sessions[clients.connections[i].session].outbox.isEmpty {
      hungUp(i, &m)
    } else {
      dropLink(of: i, &m)
      beginLeaving(i, &m)
    }
  }

  private mutating func lineTooLong(
    _ i: ClientIndex, isAnswer: Bool, _ region: Region, _ m: inout Moment
  ) {
    let s = clients.connections[i].session
    core.counters.protocolFaults += 1
    core.timers.cancel(i)
    clients.sessions[s].inbox.skipRest(keepingCount: !isAnswer)
    if isAnswer {
      endChallenge(i, .loginTooLong, &m)
    } else {
      clients.sessions[s].resume(.unknown)
      answer(i, isLogin(i, region) ? .loginTooLong : .commandTooLong, &m)
    }
  }

  /// Throws away the rest of a line that was too long.
  ///
  /// - Returns: whether there was nothing to throw away; if there was, what stands behind it must be read.
  private mutating func skipLine(_ s: SessionIndex, _ region: Region) -> Bool {
    if region.count == 0 { return true }
    let end = core.lineEnd(in: region)
    let isWhole = end < region.count
    clients.sessions[s].inbox.skipped(isWhole ? end + 1 : end, isWhole: isWhole)
    return false
  }

  /// Whether a line that is not whole yet begins as AUTH, where that may come.
  private func isLogin(_ i: ClientIndex, _ region: Region) -> Bool {
    let s = clients.connections[i].session
    return beginsLogin(core.arena.span(region))
      && core.policy.role(of: clients.connections[i]) == .outbound
      && clients.sessions[s].greeting.isExtended && !clients.sessions[s].login.isAuthenticated
      && clients.sessions[s].greeting.offered.contains(.auth)
  }

  // MARK: A command

  private mutating func command(_ i: ClientIndex, _ m: inout Moment) {
    let s = clients.connections[i].session
    let command = Command(line: core.arena.span(clients.line(s, core)))
    let verb = core.policy.refusesLapses ? command.strictVerb : command.verb
    clients.sessions[s].begin(verb, command.form)
    clients.sessions[s].inbox.setArgument(command.argument)
    clients.sessions[s].use.countCommand()
    if endIfUsedUp(i, &m) { return }
    if verb != command.strictVerb { _ = lapsed(i, .unknownCommand, now: m.now) }
    // The tier may have changed since the last command: by words that crossed with the banner, by a reload.
    if inspect(i, now: m.now) || core.policy.effectiveTier(clients.connections[i]) == .bad {
      moveToTarpit(i, &m)
      return
    }
    var least: Int64 = 0
    switch excess(i, now: m.now) {
    case .within: break
    case .slow(let wait): least = wait
    // A message that has a recipient is not lost for that.
    case .tempfail,
      .drop where clients.sessions[s].envelope.acceptedRecipients > 0:
      rateRefused(i, verb == .rcpt ? .recipientRate : .messageRate, &m)
      return
    case .refuse:
      rateRefused(i, .rateRefused, &m)
      return
    case .drop:
      core.counters.refused += 1
      close(i, as: .dropped, &m)
      return
    }
    if clients.sessions[s].use.isOver(core.policy.session)
      && !clients.connections[i].flags.contains(.trusted)
    {
      least = max(least, SessionUse.pause)
    }
    delay(i, verb.stage, least: least, &m)
  }

  /// Carries out the current command, at once or after the delay of its stage.
  private mutating func delay(
    _ i: ClientIndex, _ stage: Stage, least: Int64, _ m: inout Moment
  ) {
    let s = clients.connections[i].session
    let most = clients.sessions[s].envelope.delayMost(stage, sum: core.policy.delays.recipientSum)
    var wait = judge.delay(
      stage, i, least: least, most: most, &clients, &core, now: m.now)
    if stage == .mail { wait += delayAhead(i, after: wait, now: m.now) }
    if stage == .recipientAccepted { clients.sessions[s].envelope.payRecipient(wait) }
    if wait == 0 {
      execute(i, &m)
      return
    }
    if wait >= Downstream.parkAfter { letGo(i, &m) }
    clients.sessions[s].enter(.delaying(stage))
    core.timers.set(i, at: m.now.after(microseconds: wait))
    flush(i, &m)
    m.append(.watch(clients.slot(i)))
  }

  /// The delays of the first recipient and of DATA, where they fit under MAIL's ceiling: they are spent before the
  /// downstream is opened, so that it is not kept waiting by us.
  private mutating func delayAhead(_ i: ClientIndex, after wait: Int64, now: Instant) -> Int64 {
    let s = clients.connections[i].session
    let isGreeted = clients.sessions[s].greeting.isGreeted
    guard isGreeted || !core.policy.refusesLapses, !clients.sessions[s].envelope.hasMail else {
      return 0
    }
    // What an earlier transaction left behind, if its downstream died, ends here.
    endTransaction(i)
    var room = core.policy.delays[.mail].ceiling - wait
    var sum: Int64 = 0
    // Leaving HELO out saves no time.
    if !isGreeted && fits(.helo, i, room) {
      sum += judge.delay(.helo, i, &clients, &core, now: now)
      room -= sum
    }
    if fits(.data, i, room) {
      clients.sessions[s].envelope.payDataAhead()
      let data = judge.delay(.data, i, &clients, &core, now: now)
      sum += data
      room -= data
    }
    if fits(.recipientAccepted, i, room) {
      clients.sessions[s].envelope.payRecipientAhead()
      let first = judge.delay(
        .recipientAccepted, i, most: core.policy.delays.recipientSum, &clients, &core, now: now)
      clients.sessions[s].envelope.payRecipient(first)
      sum += first
    }
    return sum
  }

  /// Whether the curve asks for a delay at this stage that fits into the room.
  private func fits(_ stage: Stage, _ i: ClientIndex, _ room: Int64) -> Bool {
    let score = core.policy.score(clients.connections[i].signals)
    let due = core.policy.delays.delay(
      stage, tier: clients.connections[i].tier, score: score, count: 1)
    return due > 0 && due <= room
  }

  /// The message and recipient rates of the peer's rule.
  private mutating func excess(_ i: ClientIndex, now: Instant) -> Judge.Excess {
    // Enforce would have refused it or held it before it could use up anything.
    if core.policy.mode == .observe
      && (clients.connections[i].tier == .bad || clients.connections[i].wouldBeTurnedAway)
    {
      return .within
    }
    return switch clients.sessions[clients.connections[i].session].verb {
    case .mail: judge.take(.messages, .messages, i, &clients, &core, now: now)
    case .rcpt: judge.take(.recipients, .recipients, i, &clients, &core, now: now)
    default: .within
    }
  }

  /// Refuses a command that is over a rate.
  private mutating func rateRefused(_ i: ClientIndex, _ reply: OwnReply, _ m: inout Moment) {
    clients.sessions[clients.connections[i].session].ending = .refused
    reject(i, reply, &m)
  }
}

extension Core {
  /// The most octets of a command, its line end not counted.
  fileprivate var commandLineMost: Int {
    min(policy.session.commandBytes, limits.inputBytes) - 2
  }

  /// The same for AUTH and for answers to its challenges, which a token or a ticket can make long.
  fileprivate var loginLineMost: Int {
    max(min(SessionLimits.loginBytes, limits.inputBytes - 2), commandLineMost)
  }

  /// The place of the first LF in a region, or its length.
  func lineEnd(in region: Region) -> Int {
    let bytes = arena.span(region)
    var end = 0
    while end < bytes.count && bytes[end] != lineFeed { end += 1 }
    return end
  }
}
