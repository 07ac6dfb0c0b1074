// SPDX-License-Identifier: Apache-2.0
import Structures

/// What a client wants on a connection, how far it has come, and what follows from each reply. It knows no time.
struct Conversation: Sendable, BitwiseCopyable {
  /// What follows from a reply.
  enum Move {
    /// Nothing: it waits for the next reply.
    case wait
    case say(Line)
    case secure
    /// It is done, because of the code.
    case end(Ending, code: UInt16)
  }

  private struct Traits: OptionSet, Sendable, BitwiseCopyable {
    let rawValue: UInt16
    static let pregreets = Traits(rawValue: 1)
    static let bareHelo = Traits(rawValue: 2)
    static let quits = Traits(rawValue: 4)
    static let quitsImpatient = Traits(rawValue: 8)
    static let rushes = Traits(rawValue: 16)
    static let pipelines = Traits(rawValue: 32)
    static let isForeign = Traits(rawValue: 64)
    static let bannerOnly = Traits(rawValue: 128)
    /// Wants STARTTLS, and has not said it yet.
    static let wantsTLS = Traits(rawValue: 256)
    /// HELO was said, because the server does not know EHLO.
    static let hasFallenBack = Traits(rawValue: 512)
    static let isLetThrough = Traits(rawValue: 1_024)
    /// A client like this has no time for TLS.
    static let neverSecure: Traits = [.rushes, .isForeign, .bannerOnly]
  }

  private var traits = Traits()
  private var refusal: UInt16 = 0
  private var messagesLeft: UInt16 = 0
  private var recipientsLeft: UInt16 = 0
  private var loginsLeft: UInt16 = 0
  /// Recipients of the current message that were accepted.
  private(set) var acceptedRecipients: UInt16 = 0
  /// Messages that were accepted on this connection.
  private(set) var delivered: UInt16 = 0
  /// The reply that is waited for.
  private(set) var awaited = Awaited.banner
  /// Commands that are sent already, behind the one whose reply is awaited.
  private var ahead: UInt8 = 0

  /// The most recipients that are sent ahead.
  private static let aheadMost: UInt16 = 20

  init() {}

  init(_ persona: SharedPersona, _ generator: inout SeededGenerator) {
    func chance(_ share: Double) -> Bool {
      share > 0 && Double(generator.next() >> 11) * 0x1p-53 < share
    }
    func count(_ distribution: Distribution) -> UInt16 {
      let value = distribution.value(at: Double(generator.next() >> 11) * 0x1p-53)
      return UInt16(min(max(value.rounded(), 0), 65_535))
    }
    // The order of these lines is part of what a seed means.
    if chance(persona.value.pregreet) { traits.insert(.pregreets) }
    if chance(persona.value.bareHelo) { traits.insert(.bareHelo) }
    if chance(persona.value.quits) { traits.insert(.quits) }
    if chance(persona.value.quitsImpatient) { traits.insert(.quitsImpatient) }
    if chance(persona.value.pipelinesEarly) { traits.insert(.rushes) }
    if chance(persona.value.pipelines) { traits.insert(.pipelines) }
    if chance(persona.value.nonSMTP) { traits.insert(.isForeign) }
    if chance(persona.value.tls) { traits.insert(.wantsTLS) }
    if chance(persona.value.bannerOnly) { traits.insert(.bannerOnly) }
    if !traits.isDisjoint(with: .neverSecure) { traits.remove(.wantsTLS) }
    messagesLeft = count(persona.value.messages)
    loginsLeft = persona.value.aim == .auth ? max(1, count(persona.value.logins)) : 0
    recipientsLeft = count(persona.value.recipients)
  }

  /// Whether the mail server has judged a recipient: accepted it, or said 550.
  var isLetThrough: Bool { traits.contains(.isLetThrough) }
  /// Whether it says QUIT when it is done, and when it has lost patience.
  var quits: Bool { traits.contains(.quits) && !traits.contains(.isForeign) }
  var quitsImpatient: Bool { traits.contains(.quitsImpatient) }
  /// How it ends if the connection is lost now.
  func ending(otherwise: Ending) -> Ending {
    delivered > 0 && awaited != .dot ? .delivered : otherwise
  }

  // MARK: What it says without a reply

  /// What it says before the banner, if anything.
  var opening: Line? {
    if traits.contains(.isForeign) { return .foreign }
    return traits.contains(.pregreets) ? hello(extended: true) : nil
  }

  /// Says EHLO again under TLS.
  mutating func secured() -> Line {
    awaited = .helo
    return hello(extended: true)
  }

  mutating func quit() -> Line {
    awaited = .quit
    return .quit
  }

  private func hello(extended: Bool) -> Line {
    .helo(bare: traits.contains(.bareHelo), extended: extended)
  }

  // MARK: Replies

  /// A complete reply to what was awaited.
  mutating func replied(
    _ reply: ReplyReader, _ persona: SharedPersona, _ chance: inout Chance
  ) -> Move {
    switch awaited {
    case .banner: greeted(reply.code, persona)
    case .helo: knows(reply, persona, &chance)
    case .startTLS: mayStart(reply, persona, &chance)
    case .auth: loggedIn(reply)
    case .mail: hasSender(reply.code, persona, &chance)
    case .rcpt: hasRecipient(reply.code, persona, &chance)
    case .data: mayWrite(reply.code, persona, &chance)
    case .dot: hasMessage(reply, persona, &chance)
    case .rset: begin(reply, persona, &chance)
    // Its reply ends a conversation before this is asked.
    case .quit: .wait
    }
  }

  private mutating func ask(_ next: Awaited, _ line: Line) -> Move {
    awaited = next
    return .say(line)
  }

  private func rejected(_ code: UInt16) -> Move {
    .end(code < 500 ? .deferred : .rejected, code: code)
  }

  private mutating func greeted(_ code: UInt16, _ persona: SharedPersona) -> Move {
    if code >= 400 { return rejected(code) }
    if persona.value.aim == .banner || traits.contains(.bannerOnly) {
      return .end(.done, code: code)
    }
    if persona.value.aim == .hold || traits.contains(.isForeign) { return .wait }
    if traits.contains(.pregreets) {
      awaited = .helo
      return .wait
    }
    if traits.contains(.rushes) {
      let recipients = recipientsAhead
      ahead = recipients + (persona.value.aim == .harvest ? 1 : 2)
      return ask(.helo, .rush(bare: traits.contains(.bareHelo), recipients: recipients))
    }
    return ask(.helo, hello(extended: true))
  }

  private var recipientsAhead: UInt8 { UInt8(min(max(recipientsLeft, 1), Self.aheadMost)) }

  private mutating func knows(
    _ reply: ReplyReader, _ persona: SharedPersona, _ chance: inout Chance
  ) -> Move {
    let code = reply.code
    if code >= 500 && ahead == 0 && !traits.contains(.hasFallenBack)
      && persona.value.kind != .bot
    {
      // RFC 5321, 3.2: a server that does not know EHLO is sent HELO, once.
      traits.insert(.hasFallenBack)
      return ask(.helo, hello(extended: false))
    }
    if code >= 400 && ahead == 0 { return rejected(code) }
    if persona.value.aim == .helo { return .end(.done, code: code) }
    if persona.value.aim == .tls {
      if reply.offers.contains(.startTLS) { return ask(.startTLS, .startTLS) }
      return .end(.pointless, code: code)
    }
    if traits.contains(.wantsTLS) && reply.offers.contains(.startTLS) {
      traits.remove(.wantsTLS)
      return ask(.startTLS, .startTLS)
    }
    return proceed(reply, persona, &chance)
  }

  private mutating func mayStart(
    _ reply: ReplyReader, _ persona: SharedPersona, _ chance: inout Chance
  ) -> Move {
    if reply.code == 220 { return .secure }
    if persona.value.aim == .tls { return .end(.done, code: reply.code) }
    // RFC 3207, 4: going on without TLS is the client's choice, and clients that send mail by MX make it.
    return proceed(reply, persona, &chance)
  }

  /// Greetings are over: it goes on to what it came for.
  private mutating func proceed(
    _ reply: ReplyReader, _ persona: SharedPersona, _ chance: inout Chance
  ) -> Move {
    persona.value.aim == .auth ? logIn(reply) : begin(reply, persona, &chance)
  }

  private mutating func logIn(_ reply: ReplyReader) -> Move {
    if !reply.offers.contains(.auth) { return .end(.pointless, code: reply.code) }
    if loginsLeft == 0 || reply.code == 235 { return .end(.done, code: reply.code) }
    return ask(.auth, .auth)
  }

  private mutating func loggedIn(_ reply: ReplyReader) -> Move {
    loginsLeft -= 1
    return logIn(reply)
  }

  // MARK: A message

  /// Begins a message, or what else it came for.
  private mutating func begin(
    _ reply: ReplyReader, _ persona: SharedPersona, _ chance: inout Chance
  ) -> Move {
    acceptedRecipients = 0
    refusal = 0
    if ahead > 0 {
      // MAIL is among what was sent ahead.
      ahead -= 1
      awaited = .mail
      return .wait
    }
    if persona.value.aim == .callout { return ask(.mail, .null) }
    if persona.value.aim == .mail && traits.contains(.pipelines)
      && reply.offers.contains(.pipelining)
    {
      let recipients = recipientsAhead
      ahead = recipients + 1
      return ask(.mail, .group(recipients: recipients))
    }
    return ask(.mail, .mail)
  }

  private func recipient(_ persona: SharedPersona, _ chance: inout Chance) -> Line {
    .rcpt(unknown: persona.value.unknown > 0 && chance.next() < persona.value.unknown)
  }

  private mutating func hasSender(
    _ code: UInt16, _ persona: SharedPersona, _ chance: inout Chance
  ) -> Move {
    if ahead > 0 {
      ahead -= 1
      if code >= 400 { refusal = code }
      awaited = .rcpt
      return .wait
    }
    if code >= 400 { return refused(code) }
    return ask(.rcpt, recipient(persona, &chance))
  }

  private mutating func hasRecipient(
    _ code: UInt16, _ persona: SharedPersona, _ chance: inout Chance
  ) -> Move {
    if code < 400 { acceptedRecipients += 1 } else if refusal == 0 { refusal = code }
    if code < 400 || code == 550 { traits.insert(.isLetThrough) }
    recipientsLeft -= recipientsLeft > 0 ? 1 : 0
    if ahead > 0 {
      ahead -= 1
      if ahead == 0 && persona.value.aim != .harvest { awaited = .data }
      return .wait
    }
    if recipientsLeft > 0 { return ask(.rcpt, recipient(persona, &chance)) }
    if persona.value.aim == .harvest || persona.value.aim == .callout {
      return .end(.done, code: code)
    }
    if acceptedRecipients == 0 { return refused(code) }
    return ask(.data, .data)
  }

  private mutating func mayWrite(
    _ code: UInt16, _ persona: SharedPersona, _ chance: inout Chance
  ) -> Move {
    if code == 354 {
      let octets = acceptedRecipients > 0 ? Int32(persona.value.bytes.value(at: chance.next())) : 0
      return ask(.dot, .body(octets: max(octets, 0)))
    }
    if refusal == 0 { refusal = code }
    return refused(code)
  }

  private mutating func hasMessage(
    _ reply: ReplyReader, _ persona: SharedPersona, _ chance: inout Chance
  ) -> Move {
    if reply.code >= 400 { return rejected(reply.code) }
    delivered += 1
    messagesLeft -= messagesLeft > 0 ? 1 : 0
    if messagesLeft == 0 { return .end(.delivered, code: reply.code) }
    recipientsLeft = UInt16(min(max(persona.value.recipients.value(at: chance.next()), 1), 1_000))
    return begin(reply, persona, &chance)
  }

  /// The current message was not accepted: the first refusal counts.
  private func refused(_ code: UInt16) -> Move { rejected(refusal == 0 ? code : refusal) }
}
