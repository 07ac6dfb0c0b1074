// SPDX-License-Identifier: Apache-2.0
import Structures

/// One connection of a persona: a client that hears bytes and says lines, without I/O and without a clock.
///
/// Facts go in (`opened`, `heard`, `secured`, `timer`, `closed`), and each may give a step. Times are microseconds of
/// any monotonic clock. Of TLS it knows when it begins and that it is done; the octets of it are its driver's.
public struct Actor: Sendable, BitwiseCopyable {
  /// What the client does next.
  public enum Step: Sendable, Equatable, BitwiseCopyable {
    case nothing
    case say(Line)
    /// Shake hands: `secured`, or `notSecured`. Nothing is said and nothing heard until then, and what came in clear
    /// behind the server's 220 is thrown away.
    case secure
    /// Close the connection; what it was is in `ending`.
    case leave
  }

  // In this order they take 66 bytes: there may be many actors.
  private var clock = ClientClock()
  private var conversation = Conversation()
  /// The code that the end was for, 0 if it had heard none.
  public private(set) var lastWord: UInt16 = 0
  private var chance = Chance()
  private var reader = ReplyReader()
  /// How the connection ended, or is about to.
  public private(set) var ending = Ending.none
  /// What it waited for when its end was decided: QUIT and its reply may follow.
  public private(set) var endedAt = Awaited.banner

  /// When it was connected.
  public var openedAt: Int64 { clock.openedAt }
  /// When it had the whole banner; -1: not yet.
  public var greetedAt: Int64 { clock.greetedAt }
  /// The last whole reply's code.
  public var code: UInt16 { reader.code }
  /// The reply it waits for.
  public var awaited: Awaited { conversation.awaited }
  /// Recipients of the message at hand that were accepted.
  public var acceptedRecipients: UInt16 { conversation.acceptedRecipients }
  /// Messages that were accepted on this connection.
  public var delivered: UInt16 { conversation.delivered }

  /// Whether the mail server behind has judged a recipient of it: accepted it, or said 550. This is what a client
  /// can know: a tarpit may say 250 to MAIL, and 4xx to a recipient in order to get rid of the client, but only the
  /// server behind can say whether a mailbox exists.
  public var isLetThrough: Bool { conversation.isLetThrough }

  /// Whether it is in the middle of a TLS handshake, or its connection ended there. If a 220 comes byte by byte, this
  /// is so at its end.
  public var isShakingHands: Bool { awaited == .startTLS && code == 220 && reader.isBetweenLines }

  /// Nobody; `opened` makes a client of it.
  public init() {}

  /// A client has connected.
  ///
  /// - Parameter seed: all its chances follow from it.
  public mutating func opened(_ persona: SharedPersona, seed: UInt64, now: Int64) -> Step {
    self = Actor()
    var generator = SeededGenerator(seed: seed)
    // The order of these lines is part of what a seed means.
    let place = Float(generator.next() >> 40) * 0x1p-24
    clock = ClientClock(persona, place: place, openedAt: now)
    chance = Chance(&generator)
    conversation = Conversation(persona, &generator)
    if persona.value.aim == .hold { trickle(persona, now: 0) }
    return conversation.opening.map { .say($0) } ?? .nothing
  }

  /// Bytes came.
  ///
  /// - Returns: what it says to the last whole reply among them; replies to what was sent ahead are only noted.
  public mutating func heard(_ bytes: Span<UInt8>, _ persona: SharedPersona, now: Int64) -> Step {
    let now = clock.since(now)
    var step = Step.nothing
    clock.heard(at: now)
    for k in 0..<bytes.count {
      let byte = bytes[k]
      if reader.ignores(byte) { continue }
      if reader.take(byte, isHello: awaited == .helo) {
        step = replied(persona, now: now)
        if step == .leave || step == .secure { return step }
      }
    }
    clock.isPatient(for: awaited, persona)
    return step
  }

  /// One byte came: as above.
  public mutating func heard(_ byte: UInt8, _ persona: SharedPersona, now: Int64) -> Step {
    let now = clock.since(now)
    clock.heard(at: now)
    guard reader.take(byte, isHello: awaited == .helo) else { return .nothing }
    let step = replied(persona, now: now)
    clock.isPatient(for: awaited, persona)
    return step
  }

  /// The handshake that `.secure` asked for is done. A client that came for nothing else need hear no more than the
  /// server's part of it.
  ///
  /// What was said in clear is forgotten on both sides, and EHLO said anew (RFC 3207, 4.2).
  public mutating func secured(_ persona: SharedPersona, now: Int64) -> Step {
    let now = clock.since(now)
    clock.heard(at: now)
    if persona.value.aim == .tls { return leave(.done) }
    reader.startOver()
    let line = conversation.secured()
    return speak(line, persona, now: now)
  }

  /// The handshake that `.secure` asked for has failed: the connection is of no more use.
  public mutating func notSecured() { closed(broken: true) }

  /// A whole reply to what was awaited.
  private mutating func replied(_ persona: SharedPersona, now: UInt32) -> Step {
    if clock.strikesOut(at: now, persona) { return leave(.impatient) }
    if awaited == .quit { return leave(ending) }
    // 421 is the end, whatever was asked.
    if code == 421 { return leave(delivered > 0 ? .delivered : .deferred) }
    if awaited == .banner && code < 400 { clock.hadBanner(at: now) }
    switch conversation.replied(reader, persona, &chance) {
    case .wait:
      clock.waits(from: now)
      return .nothing
    case .say(let line):
      clock.waits(from: now)
      return .say(line)
    case .secure:
      clock.waits(from: now)
      return .secure
    case .end(let how, let code):
      decide(how, code)
      guard conversation.quits else { return .leave }
      clock.waits(from: now)
      return .say(conversation.quit())
    }
  }

  /// Says something that no reply asked for.
  private mutating func speak(_ line: Line, _ persona: SharedPersona, now: UInt32) -> Step {
    clock.waits(from: now)
    clock.isPatient(for: awaited, persona)
    return .say(line)
  }

  private mutating func leave(_ how: Ending) -> Step {
    if ending == .none { decide(how, code) }
    return .leave
  }

  private mutating func decide(_ how: Ending, _ word: UInt16) {
    ending = how
    endedAt = awaited
    lastWord = word
  }

  /// When it will do something by itself, if it hears nothing until then. Bytes may move it to a later time.
  public func deadline(_ persona: SharedPersona) -> Int64 {
    if ending != .none && awaited != .quit { return .max }
    return clock.deadline(persona)
  }

  /// The time has come that `deadline` said, or an earlier one.
  public mutating func timer(_ persona: SharedPersona, now: Int64) -> Step {
    guard now >= deadline(persona) else { return .nothing }
    let now = clock.since(now)
    if clock.trickles(at: now) {
      trickle(persona, now: now)
      return .say(.trickle)
    }
    if awaited == .quit { return leave(ending) }
    decide(conversation.ending(otherwise: .impatient), code)
    // In a handshake there is no way to say it.
    guard conversation.quitsImpatient, awaited != .banner, !isShakingHands else { return .leave }
    let line = conversation.quit()
    return speak(line, persona, now: now)
  }

  private mutating func trickle(_ persona: SharedPersona, now: UInt32) {
    clock.trickles(in: persona.value.trickle.value(at: chance.next()), from: now)
  }

  /// The server closed the connection, or it broke.
  public mutating func closed(broken: Bool = false) {
    if ending == .none { decide(conversation.ending(otherwise: broken ? .broken : .cutOff), code) }
  }

  /// The connection never came to stand.
  public mutating func notLetIn(now: Int64) {
    clock.begins(at: now)
    decide(.refusedAtConnect, code)
  }
}
