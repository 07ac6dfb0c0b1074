// SPDX-License-Identifier: Apache-2.0
import Policy
import Flow
import Reputation
import SMTP
import Structures
import Suspicion

// What each command comes to: an answer of ours, or its way to the downstream.
//
// Nothing is answered 2xx here that the downstream has not answered 2xx, but what concerns the dialogue alone.
extension Engine {
  /// Carries out the current command; its delay is over.
  mutating func execute(_ i: ClientIndex, _ m: inout Moment) {
    let s = clients.connections[i].session
    clients.sessions[s].enter(.command)
    switch clients.sessions[s].verb {
    case .ehlo, .helo: hello(i, &m)
    case .mail: mail(i, &m)
    case .rcpt: recipient(i, &m)
    case .data: data(i, &m)
    case .rset: reset(i, &m)
    case .noop where holdsLink(s): forward(i, &m)
    case .noop: answer(i, .ok, &m)
    case .vrfy: answer(i, .cannotVerify, &m)
    case .expn: answer(i, .notImplemented, &m)
    case .help:
      let offers = offeredUnasked(i).keywords
      answer(
        i, OwnReply.help(tls: offers.contains(.starttls), auth: offers.contains(.auth)), &m)
    case .quit:
      clients.sessions[s].tally(clients.sessions[s].verb, good: true)
      clients.sessions[s].inbox.dropLine()
      leave(i, .bye, &m)
    case .auth where core.policy.role(of: clients.connections[i]) == .outbound: authenticate(i, &m)
    case .starttls: startTLS(i, &m)
    case .auth, .bdat, .xclient, .xforward, .etrn, .atrn, .turn, .burl, .lhlo, .send,
      .soml, .saml:
      answer(i, .notImplemented, &m)
    case .http, .header, .tlsHello, .socks:
      // Another protocol: nothing that follows can be mail.
      clients.sessions[s].tally(clients.sessions[s].verb, good: false)
      leave(i, .notSMTP, &m)
    case .binary, .unknown:
      clients.sessions[s].use.countUnknown()
      if !endIfUsedUp(i, &m) { answer(i, .unknownCommand, &m) }
    }
  }

  // MARK: Greeting

  /// EHLO and HELO. In a session they are a reset (RFC 5321, 4.1.4), and a log-in outlives them (RFC 4954, 4): a
  /// downstream connection that is open stays, and is sent the new name.
  private mutating func hello(_ i: ClientIndex, _ m: inout Moment) {
    let s = clients.connections[i].session
    let l = clients.sessions[s].link
    let argument = clients.argument(s, core)
    // What is no name has its signal already (`heloSignal`), and is not passed on (`heloName`).
    let isRefused = !core.isName(argument) && isRefused(i, .heloSyntax, now: m.now)
    if argument.count == 0 || isRefused {
      answer(i, .heloSyntax, &m)
    } else if l.exists && downstream.links[l].state == .ready {
      forward(i, &m)
    } else {
      greet(i, &m)
    }
  }

  /// Greets a client whose EHLO or HELO no downstream connection has heard. Nothing is left of what was before.
  mutating func greet(_ i: ClientIndex, _ m: inout Moment) {
    let s = clients.connections[i].session
    dropLink(of: i, &m)
    beginAnew(i)
    guard clients.sessions[s].verb == .ehlo else {
      sayHello(i, offeredUnasked(i), &m)
      return
    }
    // Nothing is known of what the downstream offers, or it is known to offer unlike things to unlike clients: EHLO
    // waits for the client's own connection.
    let mustAsk = downstream.offers.all == nil || downstream.offers.isUnlike(now: m.now)
    if mustAsk && downstream.offers.probe != .failed {
      forward(i, &m)
    } else {
      helloFromOthers(i, &m)
    }
  }

  /// A greeting takes the place of the one before, and ends its transaction.
  mutating func beginAnew(_ i: ClientIndex) {
    let s = clients.connections[i].session
    endTransaction(i)
    clients.sessions[s].greeting.begin(isExtended: clients.sessions[s].verb == .ehlo)
  }

  // MARK: Envelope

  private mutating func mail(_ i: ClientIndex, _ m: inout Moment) {
    let s = clients.connections[i].session
    if !clients.sessions[s].greeting.isGreeted {
      if lapsed(i, .heloFirst, now: m.now) {
        answer(i, .heloFirst, &m)
        return
      }
      clients.sessions[s].greeting.presume(offeredUnasked(i))
    }
    if clients.sessions[s].envelope.hasMail {
      answer(i, .nestedMail, &m)
      return
    }
    if refusesForm(i, .mailSyntax, &m) { return }
    let arguments: MailArguments
    switch MailArguments.parse(core.arena.span(clients.argument(s, core))) {
    case .fault(let fault):
      answer(i, fault.reply, &m)
      return
    case .parsed(let parsed): arguments = parsed
    }
    if refuses(arguments.lapse, arguments.parameters, i, &m) { return }
    // Held against our own limit alone. What is too much for the downstream it says itself: it may take more of this
    // client than it told others.
    let (size, most) = (arguments.parameters.size, core.policy.session.messageBytes)
    if most > 0 && size > most {
      answer(i, .messageTooLarge, &m)
      return
    }
    let kept = keep(arguments.mailbox, of: s, in: core.layout.sender(s))
    clients.sessions[s].envelope.beginMail(senderCount: kept, isUTF8: arguments.isSMTPUTF8)
    forward(i, &m)
  }

  private mutating func recipient(_ i: ClientIndex, _ m: inout Moment) {
    let s = clients.connections[i].session
    if clients.sessions[s].envelope.isLost {
      answer(i, .transactionLost, &m)
      return
    }
    guard clients.sessions[s].envelope.hasMail || isOutstanding(.mail, s) else {
      answer(i, .mailFirst, &m)
      return
    }
    if refusesForm(i, .rcptSyntax, &m) { return }
    if isListed(i, now: m.now) {
      reject(i, .clientListed, &m)
      return
    }
    let limit = UInt32(clamping: core.policy.session.recipients)
    if limit > 0 && clients.sessions[s].envelope.acceptedRecipients >= limit {
      answer(i, .tooManyRecipients, &m)
      return
    }
    let arguments: RcptArguments
    let isUTF8 = clients.sessions[s].envelope.isUTF8
    switch RcptArguments.parse(core.arena.span(clients.argument(s, core)), smtputf8: isUTF8) {
    case .fault(let fault):
      answer(i, fault.reply, &m)
      return
    case .parsed(let parsed): arguments = parsed
    }
    if refuses(arguments.lapse, arguments.parameters, i, &m) { return }
    let kept = keep(arguments.mailbox, of: s, in: core.layout.recipient(s))
    clients.sessions[s].envelope.keepRecipient(kept)
    forward(i, &m)
  }

  /// Whether the command's form is refused, and was: it is malformed, or has more white space behind the colon than there
  /// may be.
  private mutating func refusesForm(
    _ i: ClientIndex, _ reply: OwnReply, _ m: inout Moment
  ) -> Bool {
    switch clients.sessions[clients.connections[i].session].form {
    case .malformed: answer(i, reply, &m)
    case .tolerated where lapsed(i, .badPathSyntax, now: m.now): answer(i, .badPathSyntax, &m)
    default: return false
    }
    return true
  }

  /// Whether a command's arguments are refused, and were: they depart from the letter, or use what the client was not
  /// offered.
  private mutating func refuses(
    _ lapse: ArgumentFault?, _ parameters: Parameters, _ i: ClientIndex, _ m: inout Moment
  ) -> Bool {
    if let lapse, lapsed(i, lapse.reply, now: m.now) {
      answer(i, lapse.reply, &m)
    } else if parameters.isUnsupported(
      by: clients.sessions[clients.connections[i].session].greeting.offered)
    {
      answer(i, .unknownParameter, &m)
    } else {
      return false
    }
    return true
  }

  /// Whether such a command is with the downstream, its reply still to come.
  private func isOutstanding(_ verb: Verb, _ s: SessionIndex) -> Bool {
    let l = clients.sessions[s].link
    return l.exists && downstream.links[l].state == .busy
      && downstream.links[l].outstanding.contains(verb)
  }

  /// Keeps an address for the log, in its brackets, whether it came in them or not.
  private mutating func keep(
    _ mailbox: Range<Int>, of s: SessionIndex, in place: Region
  ) -> UInt8 {
    let argument = clients.argument(s, core)
    let kept = min(mailbox.count, ClientText.each - 1)
    core.arena[place.offset] = UInt8(ascii: "<")
    core.arena.move(argument.from(mailbox.lowerBound).prefix(kept), to: place.offset + 1)
    if kept + 2 > ClientText.each { return UInt8(kept + 1) }
    core.arena[place.offset + 1 + kept] = UInt8(ascii: ">")
    return UInt8(kept + 2)
  }

  private mutating func data(_ i: ClientIndex, _ m: inout Moment) {
    let s = clients.connections[i].session
    let envelope = clients.sessions[s].envelope
    if clients.sessions[s].inbox.hasMore {
      // Message bytes ahead of 354: what reads them as commands is smuggled mail (RFC 5321, 4.1.1.4).
      leaveForFault(i, .dataTooEarly, &m)
    } else if envelope.isLost {
      answer(i, .transactionLost, &m)
    } else if !envelope.hasMail && !isOutstanding(.mail, s) {
      answer(i, .mailFirst, &m)
    } else if envelope.acceptedRecipients == 0 && !isOutstanding(.rcpt, s) {
      answer(i, .noValidRecipients, &m)
    } else if clients.sessions[s].inbox.hasArgument {
      answer(i, .noArgument, &m)
    } else {
      forward(i, &m)
    }
  }

  private mutating func reset(_ i: ClientIndex, _ m: inout Moment) {
    if holdsLink(clients.connections[i].session) {
      forward(i, &m)
    } else {
      endTransaction(i)
      answer(i, .ok, &m)
    }
  }

  /// Whether a session would lose a transaction or a log-in with its downstream connection: there is one to keep
  /// alive then, so these commands are sent to the downstream.
  private func holdsLink(_ s: SessionIndex) -> Bool {
    let l = clients.sessions[s].link
    return l.exists && downstream.links[l].state == .ready
      && (clients.sessions[s].envelope.hasMail || clients.sessions[s].login.isAuthenticated)
  }

  // MARK: Log-ins

  private mutating func authenticate(_ i: ClientIndex, _ m: inout Moment) {
    let s = clients.connections[i].session
    let offersAuth = core.policy.offersAuth(clients.connections[i])
    if !clients.sessions[s].greeting.isExtended {
      answer(i, .heloFirst, &m)
    } else if clients.sessions[s].login.isAuthenticated || clients.sessions[s].envelope.hasMail {
      answer(i, .badSequence, &m)
    } else if !offersAuth && core.policy.offersTLS(clients.connections[i]) {
      reject(i, .encryptionNeeded, &m)
    } else if !offersAuth || !clients.sessions[s].greeting.offered.contains(.auth) {
      answer(i, .notImplemented, &m)
    } else if judge.mayNotTry(clients.connections[i], core, now: m.now) {
      answer(i, .tooManyLogins, &m)
    } else if !readMechanism(s) {
      answer(i, .loginSyntax, &m)
    } else {
      forward(i, &m)
    }
  }

  /// The client's answer to a challenge goes to the downstream as it is. It is never logged.
  ///
  /// What cannot be an answer, a command perhaps, does not go there: a downstream that reads it otherwise than we
  /// would judge a name that we have not seen.
  mutating func answerChallenge(_ i: ClientIndex, _ m: inout Moment) {
    let s = clients.connections[i].session
    clients.sessions[s].inbox.takeWhole()
    let line = clients.line(s, core)
    if isLoginAnswer(core.arena.span(line)) {
      readName(s, line)
      forward(i, &m)
    } else {
      endChallenge(i, .loginSyntax, &m)
    }
  }

  /// Ends the exchange with the downstream (RFC 4954, 4: `*`), whose reply to that gives way to our own.
  mutating func endChallenge(_ i: ClientIndex, _ reply: OwnReply, _ m: inout Moment) {
    let s = clients.connections[i].session
    clients.sessions[s].inbox.takeWhole()
    clients.sessions[s].owe(reply)
    clients.sessions[s].login.cancel()
    forward(i, &m)
  }

  /// - Returns: whether it is one at all.
  private mutating func readMechanism(_ s: SessionIndex) -> Bool {
    let argument = clients.argument(s, core)
    guard let login = LoginArgument(core.arena.span(argument)) else { return false }
    let name = argument.prefix(login.mechanism.upperBound)
    let mechanism = LoginMechanism(core.arena.span(name))
    clients.sessions[s].login.begin(mechanism)
    guard let response = login.response.map({ argument.from($0.lowerBound) }) else { return true }
    // Some servers treat an empty response as none, and ask for the name.
    if response.count > 1 || core.arena[response.offset] != UInt8(ascii: "=") {
      readName(s, response)
    }
    return true
  }

  /// Takes the user's name from an answer, where it is due. Names are looked at in memory and kept as a keyed hash;
  /// passwords are not looked at.
  private mutating func readName(_ s: SessionIndex, _ answer: Region) {
    guard let mechanism = clients.sessions[s].login.nameDue() else { return }
    let user = withLoginName(mechanism, core.arena.span(answer)) { name in
      judge.memory.source(user: name).high
    }
    clients.sessions[s].login.take(user: user ?? 0)
  }

  // MARK: TLS

  /// Nothing said in clear outlives the handshake (RFC 3207, 4.2): what stands in a buffer is a violation, what was
  /// learnt is forgotten, and a name must be said anew.
  private mutating func startTLS(_ i: ClientIndex, _ m: inout Moment) {
    let s = clients.connections[i].session
    let mode = core.policy.tls(of: clients.connections[i])
    guard mode == .starttls || mode == .passThrough else {
      answer(i, .notImplemented, &m)
      return
    }
    if clients.connections[i].flags.contains(.encrypted) {
      answer(i, .badSequence, &m)
      return
    }
    if clients.sessions[s].inbox.hasArgument {
      answer(i, .noArgument, &m)
      return
    }
    if clients.sessions[s].inbox.hasMore {
      // Said in clear behind STARTTLS: what carries it over the handshake lets others speak for the client
      // (CVE-2011-0411).
      judge.note(.pipelining, i, &clients, &core, now: m.now)
      leaveForFault(i, .clearBehindSTARTTLS, &m)
      return
    }
    if clients.sessions[s].inbox.hasEnded || clients.sessions[s].inbox.isFilling {
      // It has closed its side already.
      hungUp(i, &m)
      return
    }
    if mode == .passThrough {
      // A connection that knows of a transaction is not the one to shake hands on.
      endTransaction(i)
      dropLink(of: i, &m)
      forward(i, &m)
      return
    }
    guard judge.takeTLSPlace(i, &clients, &core, now: m.now) else {
      answer(i, .tlsUnavailable, &m)
      return
    }
    answer(i, .readyForTLS, &m)
    // What it said in clear is forgotten, and the downstream was told it.
    endTransaction(i)
    dropLink(of: i, &m)
    clients.sessions[s].greeting.forget()
    clients.sessions[s].login.forget()
    clients.sessions[s].inbox.clear()
    clients.sessions[s].enter(.securing)
    core.timers.set(i, at: m.now.after(microseconds: core.policy.timeouts.send))
    flush(i, &m)
  }
}
