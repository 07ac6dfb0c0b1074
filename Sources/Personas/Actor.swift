// SPDX-License-Identifier: Apache-2.0
import Structures

/// What a client says next. Whoever carries it out makes octets of it (`Words.write`).
public enum Line: Sendable, Equatable, BitwiseCopyable {
  /// With a bare word instead of a name; EHLO instead of HELO.
  case helo(bare: Bool, extended: Bool)
  case startTLS, auth, mail, null, data, rset, quit
  case rcpt(unknown: Bool)
  /// MAIL, so many RCPT and DATA in one write.
  case group(recipients: UInt8)
  /// The same behind an EHLO, before anything was offered.
  case rush(bare: Bool, recipients: UInt8)
  /// A message of about so many octets, with its final dot.
  case body(octets: Int32)
  /// Another protocol's first words.
  case foreign
  /// One octet of a command that never ends.
  case trickle
}

/// How a connection ended, seen from the client.
public enum Ending: UInt8, Sendable, CaseIterable, BitwiseCopyable {
  case none
  /// A message at least was accepted, none refused.
  case delivered
  /// Refused for now, for good.
  case deferred, rejected
  /// The client lost patience.
  case impatient
  /// The server closed the connection before the client was done; it broke; it never came to stand.
  case cutOff, broken, refusedAtConnect
  /// It had what it wanted, or it was not to be had (no AUTH).
  case done, pointless

  /// The word in reports.
  public var name: String {
    switch self {
    case .none: "still there"
    case .delivered: "delivered"
    case .deferred: "deferred (4xx)"
    case .rejected: "rejected (5xx)"
    case .impatient: "left"
    case .cutOff: "cut off"
    case .broken: "broken"
    case .refusedAtConnect: "not let in"
    case .done: "done"
    case .pointless: "found nothing"
    }
  }
}

/// One connection of a persona: a client that hears bytes and says lines, without I/O and without a clock.
///
/// Facts go in (`opened`, `heard`, `secured`, `timer`, `closed`), and each may give a step. Times are microseconds of
/// any monotonic clock. It keeps no text: what it must know of a reply is its code and three keywords. Of TLS it knows
/// when it begins and that it is done; the octets of it are its driver's.
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

  struct Traits: OptionSet, Sendable, BitwiseCopyable {
    let rawValue: UInt16
    static let pregreets = Traits(rawValue: 1)
    static let bareHelo = Traits(rawValue: 2)
    static let quits = Traits(rawValue: 4)
    static let quitsImpatient = Traits(rawValue: 8)
    static let rushes = Traits(rawValue: 16)
    static let pipelines = Traits(rawValue: 32)
    static let isForeign = Traits(rawValue: 64)
    /// Wants STARTTLS, and has not said it yet.
    static let wantsTLS = Traits(rawValue: 128)
    static let offersAuth = Traits(rawValue: 256)
    static let offersPipelining = Traits(rawValue: 512)
    static let offersTLS = Traits(rawValue: 1_024)
    static let hasGreeted = Traits(rawValue: 2_048)
    static let isLeaving = Traits(rawValue: 4_096)
    /// HELO was said, because the server does not know EHLO.
    static let hasFallenBack = Traits(rawValue: 8_192)
    static let bannerOnly = Traits(rawValue: 16_384)
    static let isLetThrough = Traits(rawValue: 32_768)
    /// What a reply to EHLO offers.
    static let offers: Traits = [.offersAuth, .offersPipelining, .offersTLS]
    /// Who is like this has no time for TLS.
    static let neverSecure: Traits = [.rushes, .isForeign, .bannerOnly]
  }

  /// When it was connected. All other times are kept as milliseconds since then, for there may be many actors.
  public private(set) var openedAt: Int64 = 0
  /// When it began to wait for this reply; when it last heard a byte.
  private var began: UInt32 = 0
  private var lastHeard: UInt32 = 0
  /// When it says its next octet, if it is one that trickles.
  private var trickles = Actor.never
  /// When it had the whole banner.
  private var greeted = Actor.never
  /// How long it waits for the reply that `patientFor` says.
  private var patience = Actor.never
  /// Its place among its kind, 0 ..< 1: of each distribution it takes the value at this place.
  private var draw: Float = 0
  private var random: UInt32 = 1
  private var keyword: UInt32 = 0
  private var traits = Traits()
  /// The last whole reply's code.
  public private(set) var code: UInt16 = 0
  /// The code that the end was for, 0 if it had heard none.
  public private(set) var lastWord: UInt16 = 0
  private var refusal: UInt16 = 0
  private var messagesLeft: UInt16 = 0
  private var recipientsLeft: UInt16 = 0
  private var loginsLeft: UInt16 = 0
  /// Recipients of the message at hand that were accepted.
  public private(set) var acceptedRecipients: UInt16 = 0
  /// Messages that were accepted on this connection.
  public private(set) var delivered: UInt16 = 0
  private var column: UInt8 = 0
  private var isLast = true
  /// The reply it waits for.
  public private(set) var awaited = Awaited.banner
  private var patientFor = Awaited.banner
  /// How the connection ended, or is about to.
  public private(set) var ending = Ending.none
  /// What it waited for when its end was decided: QUIT and its reply may follow.
  public private(set) var endedAt = Awaited.banner
  /// Commands that are sent already, behind the one whose reply is awaited.
  private var ahead: UInt8 = 0
  private var strikes: UInt8 = 0

  private static let never = UInt32.max

  /// When it had the whole banner; -1: not yet.
  public var greetedAt: Int64 {
    greeted == Self.never ? -1 : openedAt + Int64(greeted) * 1_000
  }

  /// Whether the mail server behind has judged a recipient of it: accepted it, or said 550. This is what a client
  /// can know: a tarpit may say 250 to MAIL, and whoever wants to be rid of it 4xx to a recipient, but whether a
  /// mailbox exists only the server behind can say.
  public var isLetThrough: Bool { traits.contains(.isLetThrough) }

  /// Whether it is in the middle of a TLS handshake, or its connection ended there. Of a 220 that comes byte by byte it
  /// is so at its end.
  public var isShakingHands: Bool { awaited == .startTLS && code == 220 && column == 0 }

  /// Nobody; `opened` makes a client of it.
  public init() {}

  /// A client has connected.
  ///
  /// - Parameter seed: all its chances follow from it.
  public mutating func opened(_ persona: SharedPersona, seed: UInt64, now: Int64) -> Step {
    self = Actor()
    var generator = SeededGenerator(seed: seed)
    func chance(_ share: Double) -> Bool {
      share > 0 && Double(generator.next() >> 11) * 0x1p-53 < share
    }
    openedAt = now
    draw = Float(generator.next() >> 40) * 0x1p-24
    random = UInt32(truncatingIfNeeded: generator.next()) | 1
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
    messagesLeft = count(persona.value.messages, &generator)
    loginsLeft = persona.value.aim == .auth ? max(1, count(persona.value.logins, &generator)) : 0
    recipientsLeft = count(persona.value.recipients, &generator)
    patience = patience(persona)
    if persona.value.aim == .hold { trickles = gap(persona) }
    if traits.contains(.isForeign) { return .say(.foreign) }
    if traits.contains(.pregreets) {
      traits.insert(.hasGreeted)
      return .say(hello())
    }
    return .nothing
  }

  private func count(_ distribution: Distribution, _ generator: inout SeededGenerator) -> UInt16 {
    let value = distribution.value(at: Double(generator.next() >> 11) * 0x1p-53)
    return UInt16(min(max(value.rounded(), 0), 65_535))
  }

  private func hello() -> Line {
    .helo(bare: traits.contains(.bareHelo), extended: true)
  }

  /// Bytes came.
  ///
  /// - Returns: what it says to the last whole reply among them; replies to what was sent ahead are only noted.
  public mutating func heard(_ bytes: Span<UInt8>, _ persona: SharedPersona, now: Int64) -> Step {
    let now = since(now)
    var step = Step.nothing
    lastHeard = now
    for k in 0..<bytes.count {
      let byte = bytes[k]
      // Behind the code and the keyword nothing but the end of the line is of interest.
      if column > 7 && byte != UInt8(ascii: "\n") { continue }
      if hear(byte) {
        step = replied(persona, now: now)
        if step == .leave || step == .secure { return step }
      }
    }
    bePatient(persona)
    return step
  }

  /// One byte came: as above.
  public mutating func heard(_ byte: UInt8, _ persona: SharedPersona, now: Int64) -> Step {
    let now = since(now)
    lastHeard = now
    guard hear(byte) else { return .nothing }
    let step = replied(persona, now: now)
    bePatient(persona)
    return step
  }

  /// The handshake that `.secure` asked for is done; who came for nothing else need hear no more than the server's
  /// part of it.
  ///
  /// What was said in clear is forgotten on both sides, and EHLO said anew (RFC 3207, 4.2).
  public mutating func secured(_ persona: SharedPersona, now: Int64) -> Step {
    let now = since(now)
    lastHeard = now
    if persona.value.aim == .tls { return leave(.done) }
    traits.subtract(.offers)
    column = 0
    keyword = 0
    isLast = true
    let step = ask(.helo, hello(), now: now)
    bePatient(persona)
    return step
  }

  /// The handshake that `.secure` asked for has failed: the connection is of no more use.
  public mutating func notSecured() { closed(broken: true) }

  /// - Returns: whether a reply is whole by this byte.
  @inline(__always)
  private mutating func hear(_ byte: UInt8) -> Bool {
    if byte == UInt8(ascii: "\n") {
      if awaited == .helo { noteKeyword() }
      defer { isLast = true }
      column = 0
      keyword = 0
      return isLast
    }
    if column < 3 {
      code = (column == 0 ? 0 : code &* 10) &+ UInt16(byte &- 48)
    } else if column == 3 {
      isLast = byte != UInt8(ascii: "-")
    } else if column < 8 {
      keyword = keyword << 8 | UInt32(byte)
    }
    if column < 8 { column += 1 }
    return false
  }

  /// Milliseconds since it was connected.
  private func since(_ now: Int64) -> UInt32 {
    UInt32(truncatingIfNeeded: min(max((now - openedAt) / 1_000, 0), Int64(Self.never) - 1))
  }

  private mutating func noteKeyword() {
    switch keyword {
    case 0x4155_5448: traits.insert(.offersAuth)
    case 0x5049_5045: traits.insert(.offersPipelining)
    case 0x5354_4152: traits.insert(.offersTLS)
    default: break
    }
  }

  private mutating func ask(_ next: Awaited, _ line: Line, now: UInt32) -> Step {
    awaited = next
    began = now
    return .say(line)
  }

  /// A whole reply to what was awaited.
  private mutating func replied(_ persona: SharedPersona, now: UInt32) -> Step {
    if persona.value.slowStrikes > 0
      && Double(now) - Double(began) > persona.value.slowReply * 1_000
    {
      strikes += 1
      if Int(strikes) >= persona.value.slowStrikes { return leave(.impatient) }
    }
    if traits.contains(.isLeaving) || awaited == .quit { return leave(ending) }
    // 421 is the end, whatever was asked.
    if code == 421 { return leave(delivered > 0 ? .delivered : .deferred) }
    switch awaited {
    case .banner:
      if code >= 400 { return end(code < 500 ? .deferred : .rejected, now: now) }
      greeted = now
      if persona.value.aim == .banner || traits.contains(.bannerOnly) {
        return end(.done, now: now)
      }
      if persona.value.aim == .hold || traits.contains(.isForeign) {
        began = now
        return .nothing
      }
      if traits.contains(.hasGreeted) {
        awaited = .helo
        began = now
        return .nothing
      }
      if traits.contains(.rushes) {
        let recipients = UInt8(min(max(recipientsLeft, 1), 20))
        ahead = recipients + (persona.value.aim == .harvest ? 1 : 2)
        return ask(
          .helo, .rush(bare: traits.contains(.bareHelo), recipients: recipients), now: now)
      }
      return ask(.helo, hello(), now: now)
    case .helo:
      if code >= 500 && ahead == 0 && !traits.contains(.hasFallenBack)
        && persona.value.kind != .bot
      {
        // RFC 5321, 3.2: who does not know EHLO is told HELO, once.
        traits.insert(.hasFallenBack)
        return ask(
          .helo, .helo(bare: traits.contains(.bareHelo), extended: false), now: now)
      }
      if code >= 400 && ahead == 0 {
        return end(code < 500 ? .deferred : .rejected, now: now)
      }
      if persona.value.aim == .helo { return end(.done, now: now) }
      if persona.value.aim == .tls {
        if traits.contains(.offersTLS) { return ask(.startTLS, .startTLS, now: now) }
        return end(.pointless, now: now)
      }
      if traits.isSuperset(of: [.wantsTLS, .offersTLS]) {
        traits.remove(.wantsTLS)
        return ask(.startTLS, .startTLS, now: now)
      }
      return proceed(persona, now: now)
    case .startTLS:
      if code == 220 {
        began = now
        return .secure
      }
      if persona.value.aim == .tls { return end(.done, now: now) }
      // RFC 3207, 4: to go on without TLS is the client's own choice, and who sends mail by MX makes it.
      return proceed(persona, now: now)
    case .auth:
      loginsLeft -= 1
      return logIn(now: now)
    case .mail:
      if ahead > 0 {
        ahead -= 1
        if code >= 400 { refusal = code }
        awaited = .rcpt
        began = now
        return .nothing
      }
      if code >= 400 { return refused(persona, now: now) }
      return ask(.rcpt, recipient(persona), now: now)
    case .rcpt:
      if code < 400 { acceptedRecipients += 1 } else if refusal == 0 { refusal = code }
      if code < 400 || code == 550 { traits.insert(.isLetThrough) }
      recipientsLeft -= recipientsLeft > 0 ? 1 : 0
      if ahead > 0 {
        ahead -= 1
        if ahead == 0 && persona.value.aim != .harvest { awaited = .data }
        began = now
        return .nothing
      }
      if recipientsLeft > 0 { return ask(.rcpt, recipient(persona), now: now) }
      if persona.value.aim == .harvest || persona.value.aim == .callout {
        return end(.done, now: now)
      }
      if acceptedRecipients == 0 { return refused(persona, now: now) }
      return ask(.data, .data, now: now)
    case .data:
      if code == 354 {
        let octets = acceptedRecipients > 0 ? Int32(persona.value.bytes.value(at: chance())) : 0
        return ask(.dot, .body(octets: max(octets, 0)), now: now)
      }
      if refusal == 0 { refusal = code }
      return refused(persona, now: now)
    case .dot:
      if code >= 400 {
        refusal = code
        return refused(persona, now: now)
      }
      delivered += 1
      return next(persona, now: now)
    case .rset: return begin(persona, now: now)
    case .quit: return leave(ending)
    }
  }

  /// Greetings are over: goes on to what it came for.
  private mutating func proceed(_ persona: SharedPersona, now: UInt32) -> Step {
    persona.value.aim == .auth ? logIn(now: now) : begin(persona, now: now)
  }

  /// Begins a message, or what else it came for.
  private mutating func begin(_ persona: SharedPersona, now: UInt32) -> Step {
    acceptedRecipients = 0
    refusal = 0
    if ahead > 0 {
      // MAIL is among what was sent ahead.
      ahead -= 1
      awaited = .mail
      began = now
      return .nothing
    }
    if persona.value.aim == .callout { return ask(.mail, .null, now: now) }
    if persona.value.aim == .mail && traits.contains(.pipelines)
      && traits.contains(.offersPipelining)
    {
      let recipients = UInt8(min(max(recipientsLeft, 1), 20))
      ahead = recipients + 1
      return ask(.mail, .group(recipients: recipients), now: now)
    }
    return ask(.mail, .mail, now: now)
  }

  private mutating func recipient(_ persona: SharedPersona) -> Line {
    .rcpt(unknown: persona.value.unknown > 0 && chance() < persona.value.unknown)
  }

  private mutating func logIn(now: UInt32) -> Step {
    if !traits.contains(.offersAuth) { return end(.pointless, now: now) }
    if loginsLeft == 0 || code == 235 { return end(.done, now: now) }
    return ask(.auth, .auth, now: now)
  }

  /// The message at hand was not taken.
  private mutating func refused(_ persona: SharedPersona, now: UInt32) -> Step {
    let word = refusal == 0 ? code : refusal
    return end(word < 500 ? .deferred : .rejected, word, now: now)
  }

  private mutating func next(_ persona: SharedPersona, now: UInt32) -> Step {
    messagesLeft -= messagesLeft > 0 ? 1 : 0
    if messagesLeft == 0 { return end(.delivered, now: now) }
    recipientsLeft = UInt16(min(max(persona.value.recipients.value(at: chance()), 1), 1_000))
    return begin(persona, now: now)
  }

  /// It is done: says QUIT if it is of that kind.
  private mutating func end(_ how: Ending, _ word: UInt16? = nil, now: UInt32) -> Step {
    decide(how, word)
    if traits.contains(.quits) && traits.isDisjoint(with: [.isForeign]) {
      return ask(.quit, .quit, now: now)
    }
    return .leave
  }

  private mutating func leave(_ how: Ending) -> Step {
    if ending == .none { decide(how) }
    return .leave
  }

  private mutating func decide(_ how: Ending, _ word: UInt16? = nil) {
    ending = how
    endedAt = awaited
    lastWord = word ?? code
  }

  /// Milliseconds until it says its next byte.
  private mutating func gap(_ persona: SharedPersona) -> UInt32 {
    Self.milliseconds(max(persona.value.trickle.value(at: chance()), 0.01))
  }

  /// Rounded up; what is too long is never.
  private static func milliseconds(_ seconds: Double) -> UInt32 {
    UInt32(min((seconds * 1_000).rounded(.up), Double(never)))
  }

  private func patience(_ persona: SharedPersona) -> UInt32 {
    let patience = persona.value.patience[awaited] ?? persona.value.patienceOtherwise
    return Self.milliseconds(patience.value(at: Double(draw)))
  }

  /// Another reply may be worth another wait.
  @inline(__always)
  private mutating func bePatient(_ persona: SharedPersona) {
    if patientFor == awaited { return }
    patientFor = awaited
    if !persona.value.patience.isEmpty { patience = patience(persona) }
  }

  /// When it will do something by itself, if it hears nothing until then; it may come to it later, by bytes.
  public func deadline(_ persona: SharedPersona) -> Int64 {
    if ending != .none && awaited != .quit { return .max }
    let from: UInt32 =
      switch persona.value.clock {
      case .read: max(lastHeard, began)
      case .reply: began
      case .session: 0
      }
    var due = UInt64(trickles)
    if patience != Self.never { due = min(due, UInt64(from) + UInt64(patience)) }
    if persona.value.sessionMost < .infinity {
      due = min(due, UInt64(Self.milliseconds(persona.value.sessionMost)))
    }
    return due >= UInt64(Self.never) ? .max : openedAt + Int64(due) * 1_000
  }

  /// The time has come that `deadline` said, or an earlier one.
  public mutating func timer(_ persona: SharedPersona, now: Int64) -> Step {
    guard now >= deadline(persona) else { return .nothing }
    let now = since(now)
    if now >= trickles {
      let gap = gap(persona)
      trickles = gap < Self.never - now ? now + gap : Self.never
      return .say(.trickle)
    }
    if awaited == .quit { return leave(ending) }
    decide(delivered > 0 && awaited != .dot ? .delivered : .impatient)
    // In a handshake there is no way to say it.
    if traits.contains(.quitsImpatient) && awaited != .banner && !isShakingHands {
      traits.insert(.isLeaving)
      awaited = .quit
      began = now
      bePatient(persona)
      return .say(.quit)
    }
    return .leave
  }

  /// The server closed the connection, or it broke.
  public mutating func closed(broken: Bool = false) {
    if ending == .none {
      decide(delivered > 0 && awaited != .dot ? .delivered : broken ? .broken : .cutOff)
    }
  }

  /// The connection never came to stand.
  public mutating func notLetIn(now: Int64) {
    openedAt = now
    decide(.refusedAtConnect)
  }

  /// A chance of its own, 0 ..< 1 (xorshift32, Marsaglia 2003).
  private mutating func chance() -> Double {
    random ^= random << 13
    random ^= random >> 17
    random ^= random << 5
    return Double(random) * 0x1p-32
  }
}

/// The octets of lines.
public enum Words {
  /// The most octets of any line but a body.
  public static let most = 2_048

  /// Appends the octets of a line.
  ///
  /// - Parameters:
  ///   - number: of the client: it is in its HELO name and in the addresses it gives.
  ///   - known: an address that exists behind the server; unknown ones are at the same domain.
  public static func write(
    _ line: Line, _ persona: SharedPersona, number: Int, known: String, into bytes: inout [UInt8]
  ) {
    func helo(_ bare: Bool, _ extended: Bool) {
      bytes.append(contentsOf: (extended ? "EHLO " : "HELO ").utf8)
      if !persona.value.heloName.isEmpty {
        bytes.append(contentsOf: persona.value.heloName.utf8)
      } else {
        bytes.append(contentsOf: (bare ? "pc" : "h").utf8)
        decimal(number, into: &bytes)
        if !bare {
          bytes.append(UInt8(ascii: "."))
          domain(persona, into: &bytes)
        }
      }
      end(&bytes)
    }
    func mail() {
      bytes.append(contentsOf: "MAIL FROM:<s".utf8)
      decimal(number, into: &bytes)
      bytes.append(UInt8(ascii: "@"))
      domain(persona, into: &bytes)
      bytes.append(UInt8(ascii: ">"))
      end(&bytes)
    }
    func recipient(_ unknown: Bool) {
      bytes.append(contentsOf: "RCPT TO:<".utf8)
      if unknown {
        bytes.append(contentsOf: "nobody".utf8)
        decimal(number, into: &bytes)
        bytes.append(UInt8(ascii: "@"))
        bytes.append(contentsOf: known.utf8.drop { $0 != UInt8(ascii: "@") }.dropFirst())
      } else {
        bytes.append(contentsOf: known.utf8)
      }
      bytes.append(UInt8(ascii: ">"))
      end(&bytes)
    }
    // Of a group too the share is unknown that the persona says: places of the golden ratio's multiples.
    func isUnknown(_ k: Int) -> Bool {
      let place = Double(number % 10_000 + k + 1) * 0.6180339887498949
      return place - place.rounded(.down) < persona.value.unknown
    }
    func group(_ recipients: UInt8) {
      mail()
      for k in 0..<recipients { recipient(isUnknown(Int(k))) }
      if persona.value.aim != .harvest { say("DATA", into: &bytes) }
    }
    switch line {
    case .helo(let bare, let extended): helo(bare, extended)
    case .startTLS: say("STARTTLS", into: &bytes)
    case .auth: say("AUTH PLAIN AHVzZXIAcGFzcw==", into: &bytes)
    case .mail: mail()
    case .null: say("MAIL FROM:<>", into: &bytes)
    case .rcpt(let unknown): recipient(unknown)
    case .data: say("DATA", into: &bytes)
    case .group(let recipients): group(recipients)
    case .rush(let bare, let recipients):
      helo(bare, true)
      group(recipients)
    case .body(let octets):
      header(persona, number: number, into: &bytes)
      text(Int(octets), from: 0, atMost: Int(octets) + 2, into: &bytes)
      say(".", into: &bytes)
    case .rset: say("RSET", into: &bytes)
    case .quit: say("QUIT", into: &bytes)
    case .foreign: say("GET / HTTP/1.1\r\nHost: example\r\n", into: &bytes)
    case .trickle: bytes.append(UInt8(ascii: "E"))
    }
  }

  /// Appends what follows the first `start` octets of a line, at most `most`.
  ///
  /// - Returns: whether that is all the rest of it.
  public static func write(
    _ line: Line, _ persona: SharedPersona, number: Int, known: String, from start: Int,
    atMost most: Int, into bytes: inout [UInt8]
  ) -> Bool {
    let before = bytes.count
    var isAll = true
    if case .body(let octets) = line {
      // A message may be long: only as much of its text is made as is wanted.
      header(persona, number: number, into: &bytes)
      let head = bytes.count - before
      let rest = textOctets(Int(octets)) - max(start - head, 0)
      bytes.removeSubrange(before..<before + min(start, head))
      text(Int(octets), from: max(start - head, 0), atMost: most, into: &bytes)
      isAll = rest <= most
      if isAll {
        let dot = bytes.count
        say(".", into: &bytes)
        if rest < 0 { bytes.removeSubrange(dot..<dot - rest) }
      }
    } else {
      write(line, persona, number: number, known: known, into: &bytes)
      if start > 0 { bytes.removeSubrange(before..<before + start) }
    }
    if bytes.count - before > most {
      bytes.removeLast(bytes.count - before - most)
      isAll = false
    }
    return isAll
  }

  private static func end(_ bytes: inout [UInt8]) {
    bytes.append(13)
    bytes.append(10)
  }

  private static func say(_ text: String, into bytes: inout [UInt8]) {
    bytes.append(contentsOf: text.utf8)
    end(&bytes)
  }

  private static func decimal(_ number: Int, into bytes: inout [UInt8]) {
    var divisor = 1
    while number / divisor >= 10 { divisor *= 10 }
    while divisor > 0 {
      bytes.append(UInt8(ascii: "0") + UInt8(number / divisor % 10))
      divisor /= 10
    }
  }

  /// A name of the persona's own: its id in small letters.
  private static func domain(_ persona: SharedPersona, into bytes: inout [UInt8]) {
    for byte in persona.value.id.utf8 { bytes.append(byte &- 65 < 26 ? byte | 32 : byte) }
    bytes.append(contentsOf: ".example".utf8)
  }

  private static func header(_ persona: SharedPersona, number: Int, into bytes: inout [UInt8]) {
    bytes.append(contentsOf: "Subject: ".utf8)
    bytes.append(contentsOf: persona.value.id.utf8)
    bytes.append(UInt8(ascii: " "))
    decimal(number, into: &bytes)
    end(&bytes)
    end(&bytes)
  }

  /// Whole lines of text, each of `lineOctets` with its end.
  private static let page = Array(
    repeatElement(Array(repeatElement(UInt8(ascii: "x"), count: 72)) + [13, 10], count: 512)
      .joined())
  private static let lineOctets = 74

  /// How long a text is of at least so many octets, its lines' ends included.
  private static func textOctets(_ octets: Int) -> Int {
    let last = min(octets % lineOctets, lineOctets - 2)
    return octets - octets % lineOctets + (last > 0 ? last + 2 : 0)
  }

  /// Appends some of a message's text: whole lines, and a shorter one at last.
  private static func text(
    _ octets: Int, from start: Int, atMost most: Int, into bytes: inout [UInt8]
  ) {
    let whole = octets - octets % lineOctets
    let all = textOctets(octets)
    let end = all - start > most ? start + most : all
    var position = start
    while position < min(whole, end) {
      let place = position % lineOctets
      let count = min(min(whole, end) - position, page.count - place)
      bytes.append(contentsOf: page[place..<place + count])
      position += count
    }
    // The last line is the end of a whole one.
    if position < end {
      bytes.append(contentsOf: page[position + lineOctets - all..<end + lineOctets - all])
    }
  }
}
