// SPDX-License-Identifier: Apache-2.0
import Flow
import Policy
package import Reputation
import SMTP
package import Structures
import Suspicion

// Log-ins (outbound listeners). The downstream judges them; we count what it refuses, by address, by network and by
// user name at once, because guessing is spread over addresses (3 tries each in 320 days are on record) and over
// names. Names are looked at in memory and kept as a keyed hash; passwords are not looked at.
//
// A user name, and an IPv6 /48, come to every worker: what fails at one the others hear of as a `Change`, and count it in
// their own tables.
//
// An address that has used up its failures is put off without asking. A network is only slowed, it has other
// members, and so is a user: whoever could lock a name out would.
extension Engine {
  mutating func authenticate(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    if !sessions[s].flags.contains(.extended) {
      answer(i, .heloFirst, now: now, into: &effects)
    } else if sessions[s].flags.contains(.authenticated) || sessions[s].flags.contains(.mail) {
      answer(i, .badSequence, now: now, into: &effects)
    } else if !offersAuth(i) && offersTLS(i) {
      reject(i, .encryptionNeeded, now: now, into: &effects)
    } else if !offersAuth(i) || !sessions[s].offered.contains(.auth) {
      answer(i, .notImplemented, now: now, into: &effects)
    } else if mayNotTry(i, now: now) {
      answer(i, .tooManyLogins, now: now, into: &effects)
    } else if !readMechanism(i) {
      answer(i, .loginSyntax, now: now, into: &effects)
    } else {
      forward(i, now: now, into: &effects)
    }
  }

  /// The client's answer to a challenge goes to the downstream as it is. It is never logged.
  ///
  /// What cannot be an answer, a command perhaps, does not go there: a downstream that reads it otherwise than we
  /// would judge a name that we have not seen.
  mutating func answerChallenge(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    sessions[s].argumentStart = 0
    if isLoginAnswer(arena.span(line(s))) {
      readName(s, line(s))
      forward(i, now: now, into: &effects)
    } else {
      endChallenge(i, .loginSyntax, now: now, into: &effects)
    }
  }

  /// Ends the exchange with the downstream (RFC 4954, 4: `*`), whose reply to that gives way to our own.
  mutating func endChallenge(
    _ i: Int, _ reply: OwnReply, now: Instant, into effects: inout EffectQueue
  ) {
    let s = Int(connections[i].session)
    sessions[s].argumentStart = 0
    sessions[s].verdict = reply
    sessions[s].flags.insert(.cancelling)
    sessions[s].mechanism = .other
    forward(i, now: now, into: &effects)
  }

  // MARK: Saying it

  /// Says AUTH at hand, an answer, or that there will be none, to the downstream. Its form is checked.
  ///
  /// The line may be longer than a link's buffer: what has no room waits in the client's input, where the line stays
  /// until its reply has come, and follows when the rest is out (`sayMore`).
  mutating func sayLogin(_ i: Int, _ l: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    let flags = sessions[s].flags
    let room = linkOut(l).from(Int(links[l].outEnd))
    let written = arena.append(into: room) { out in
      if flags.contains(.cancelling) {
        _ = writeCommand("*", Span(), into: &out)
      } else if !flags.contains(.authenticating) {
        writeWord("AUTH", into: &out)
      }
    }
    links[l].outstanding.append(.auth)
    guard written > 0 || flags.contains(.authenticating) && !flags.contains(.cancelling) else {
      // It answered what it has not been sent: there is no room even for a word.
      linkFailed(l, .unexpectedReply, now: now, into: &effects)
      return
    }
    links[l].outEnd += Int32(written)
    setLinkTimer(l, policy.timeouts.reply, now: now)
    effects.append(.watch(slot(client: i)))
    if flags.contains(.cancelling) { return }
    links[l].unsaid = Int32(argument(s).count + 2)
    takeMore(l, s)
    // It goes out with `flush`.
  }

  /// The downstream has taken all that was said of a line: there is room for more of it.
  mutating func sayMore(_ l: Int, into effects: inout EffectQueue) {
    let s = Int(links[l].session)
    guard s >= 0, links[l].state == .busy else { return }
    takeMore(l, s)
    flushLink(l, into: &effects)
  }

  /// The downstream refuses a line before its end, as too long perhaps. The client hears so; that connection is of no
  /// more use, for the rest of the line could be a command there.
  mutating func refusedEarly(
    _ i: Int, _ l: Int, _ code: UInt16, now: Instant, into effects: inout EffectQueue
  ) {
    guard code >= 400 else {
      linkFailed(l, .unexpectedReply, now: now, into: &effects)
      return
    }
    links[l].repliedVerb = nil
    passReply(i, l, now: now)
    dropLink(of: i, now: now, into: &effects)
    finish(i)
    goOn(i, after: code, now: now, into: &effects)
  }

  private mutating func takeMore(_ l: Int, _ s: Int) {
    let line = argument(s)
    let room = linkOut(l).from(Int(links[l].outEnd))
    let rest = line.from(line.count + 2 - max(Int(links[l].unsaid), 2))
    let piece = rest.prefix(min(rest.count, room.count))
    arena.move(piece, to: room.offset)
    links[l].outEnd += Int32(piece.count)
    links[l].unsaid -= Int32(piece.count)
    // The line's end is not taken apart.
    if links[l].unsaid == 2 {
      let written = arena.append(into: room.from(piece.count)) { out in
        _ = out.appendLineEnd()
      }
      links[l].outEnd += Int32(written)
      links[l].unsaid -= Int32(written)
    }
  }

  // MARK: The name

  /// - Returns: whether it is one at all.
  private mutating func readMechanism(_ i: Int) -> Bool {
    let s = Int(connections[i].session)
    let argument = argument(s)
    guard let login = LoginArgument(arena.span(argument)) else { return false }
    sessions[s].mechanism = LoginMechanism(arena.span(argument.prefix(login.mechanism.upperBound)))
    sessions[s].user = 0
    if let response = login.response {
      let response = argument.from(response.lowerBound)
      // An empty one is as none to some servers: they ask for the name all the same.
      if response.count > 1 || arena[response.offset] != UInt8(ascii: "=") {
        readName(s, response)
      }
    }
    return true
  }

  /// The first answer that holds a name is the one that counts: of LOGIN the second is the password.
  private mutating func readName(_ s: Int, _ answer: Region) {
    guard sessions[s].user == 0 else { return }
    sessions[s].user = user(sessions[s].mechanism, answer)
    // Whatever comes now is no name.
    sessions[s].mechanism = .other
  }

  private func user(_ mechanism: LoginMechanism, _ answer: Region) -> UInt64 {
    withLoginName(mechanism, arena.span(answer)) { name in memory.source(user: name).high } ?? 0
  }

  // MARK: Failures

  /// Beyond the limits that rules have.
  private func loginKey(_ source: Source) -> BucketKey {
    BucketKey(source.address, length: Int(source.length), limit: 32 + source.kind.rawValue)
  }

  private func mayNotTry(_ i: Int, now: Instant) -> Bool {
    guard policy.mode == .enforce, !connections[i].flags.contains(.trusted) else { return false }
    return buckets.peek(
      loginKey(Source(host: connections[i].address)), policy.logins.address, now: now) == 0
  }

  /// The downstream has refused a log-in: counts it under all that is known of it.
  ///
  /// - Returns: which failure this is, 1 and more: the highest of what the session, the address, the network and the
  ///   user name say.
  mutating func loginFailed(_ i: Int, now: Instant) -> Int {
    let s = Int(connections[i].session)
    counters.loginsFailed += 1
    sessions[s].authFailures += 1
    note(.authFailure, i, now: now)
    var count = Int(sessions[s].authFailures)
    if connections[i].flags.contains(.trusted) { return count }
    count = max(count, learnFailure(of: Source(host: connections[i].address), now: now))
    let address = connections[i].address
    let network = Source(networkOf: address, length: address.isIPv4 ? 24 : 48)
    count = max(count, learnFailure(of: network, now: now))
    if sessions[s].user != 0 {
      let user = Source(.user, hash: sessions[s].user)
      count = max(count, learnFailure(of: user, now: now))
    }
    sessions[s].user = 0
    if mayNotTry(i, now: now) { limitReached(i, .authFailures, now: now) }
    return count
  }

  /// A log-in failed here: counts it, and has others hear of it.
  private mutating func learnFailure(of source: Source, now: Instant) -> Int {
    memory.learn(.loginFailed, of: source, now: now)
    return fail(source, now: now)
  }

  /// Something was learnt elsewhere, or before this process began.
  package mutating func learn(_ change: Change, now: Instant) {
    counters.changesHeardOf += 1
    guard let at = memory.time(of: change, now: now) else { return }
    if change.what == .loginFailed {
      _ = fail(change.source, now: at)
    } else {
      memory.remember(change, chanceAfter: policy.secondChanceAfter)
    }
  }

  /// Counts one failure under a source.
  ///
  /// - Returns: how many are not forgiven yet, of a network in proportion to what an address may have.
  private mutating func fail(_ source: Source, now: Instant) -> Int {
    let limits = policy.logins
    switch source.kind {
    case .address: return fail(loginKey(source), limits.address, now: now)
    case .user: return fail(loginKey(source), limits.user, now: now)
    case .network:
      // A network is allowed so many more; what it has used counts in proportion.
      let share = max(Int(limits.network.burst / max(limits.address.burst, 1)), 1)
      return fail(loginKey(source), limits.network, now: now) / share
    case .heloDomain: return 0
    }
  }

  /// Counts one failure.
  ///
  /// - Returns: how many are not forgiven yet.
  private mutating func fail(_ key: BucketKey, _ rate: Rate, now: Instant) -> Int {
    if rate.isUnlimited { return 0 }
    _ = buckets.take(key, 1, rate, now: now)
    return Int(rate.burst - min(buckets.peek(key, rate, now: now), rate.burst))
  }
}
