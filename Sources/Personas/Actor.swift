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
/// Facts go in (`opened`, `heard`, `timer`, `closed`), and each may give a step. Times are microseconds of any
/// monotonic clock. It keeps no text: what it must know of a reply is its code and three keywords.
public struct Actor: Sendable, BitwiseCopyable {
  /// What the client does next.
  public enum Step: Sendable, Equatable, BitwiseCopyable {
    case nothing
    case say(Line)
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
    static let tls = Traits(rawValue: 128)
    static let offersAuth = Traits(rawValue: 256)
    static let offersPipelining = Traits(rawValue: 512)
    static let offersTLS = Traits(rawValue: 1_024)
    static let hasGreeted = Traits(rawValue: 2_048)
    static let isLeaving = Traits(rawValue: 4_096)
    static let isSecured = Traits(rawValue: 8_192)
    static let bannerOnly = Traits(rawValue: 16_384)
    static let isLetThrough = Traits(rawValue: 32_768)
  }

  /// When it was connected.
  public private(set) var openedAt: Int64 = 0
  /// When it began to wait for this reply.
  public private(set) var beganAt: Int64 = 0
  /// When it last heard a byte.
  private var heardAt: Int64 = 0
  private var trickleAt: Int64 = .max
  /// When it had the whole banner; -1: not yet.
  public private(set) var greetedAt: Int64 = -1
  /// Its place among its kind, 0 ..< 1: of each distribution it takes the value at this place.
  private var draw: Float = 0
  private var random: UInt32 = 1
  private var traits = Traits()
  /// The last whole reply's code.
  public private(set) var code: UInt16 = 0
  private var column: UInt8 = 0
  private var isLast = true
  private var keyword: UInt32 = 0
  /// The reply it waits for.
  public private(set) var awaited = Awaited.banner
  /// How the connection ended, or is about to.
  public private(set) var ending = Ending.none
  /// What it waited for when its end was decided: QUIT and its reply may follow.
  public private(set) var endedAt = Awaited.banner
  /// The code that the end was for, 0 if it had heard none.
  public private(set) var lastWord: UInt16 = 0
  /// Commands that are sent already, behind the one whose reply is awaited.
  private var ahead: UInt8 = 0
  private var strikes: UInt8 = 0
  private var messagesLeft: UInt16 = 0
  private var recipientsLeft: UInt16 = 0
  private var loginsLeft: UInt16 = 0
  /// Recipients of the message at hand that were accepted.
  public private(set) var acceptedRecipients: UInt16 = 0
  /// Messages that were accepted on this connection.
  public private(set) var delivered: UInt16 = 0
  private var refusal: UInt16 = 0
  /// Whether the mail server behind has judged a recipient of it: accepted it, or said 550. This is what a client
  /// can know: a tarpit may say 250 to MAIL, and whoever wants to be rid of it 4xx to a recipient, but whether a
  /// mailbox exists only the server behind can say.
  public var isLetThrough: Bool { traits.contains(.isLetThrough) }

  /// Nobody; `opened` makes a client of it.
  public init() {}

  /// A client has connected.
  ///
  /// - Parameter seed: all its chances follow from it.
  public mutating func opened(_ persona: Persona, seed: UInt64, now: Int64) -> Step {
    self = Actor()
    var generator = SeededGenerator(seed: seed)
    func chance(_ share: Double) -> Bool {
      share > 0 && Double(generator.next() >> 11) * 0x1p-53 < share
    }
    openedAt = now
    beganAt = now
    heardAt = now
    draw = Float(generator.next() >> 40) * 0x1p-24
    random = UInt32(truncatingIfNeeded: generator.next()) | 1
    if chance(persona.pregreet) { traits.insert(.pregreets) }
    if chance(persona.bareHelo) { traits.insert(.bareHelo) }
    if chance(persona.quits) { traits.insert(.quits) }
    if chance(persona.quitsImpatient) { traits.insert(.quitsImpatient) }
    if chance(persona.pipelinesEarly) { traits.insert(.rushes) }
    if chance(persona.pipelines) { traits.insert(.pipelines) }
    if chance(persona.nonSMTP) { traits.insert(.isForeign) }
    if chance(persona.tls) { traits.insert(.tls) }
    if chance(persona.bannerOnly) { traits.insert(.bannerOnly) }
    messagesLeft = count(persona.messages, &generator)
    loginsLeft = persona.aim == .auth ? max(1, count(persona.logins, &generator)) : 0
    recipientsLeft = count(persona.recipients, &generator)
    if persona.aim == .hold { trickleAt = now + gap(persona) }
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
  public mutating func heard(_ bytes: Span<UInt8>, _ persona: Persona, now: Int64) -> Step {
    var step = Step.nothing
    heardAt = now
    for k in 0..<bytes.count {
      let byte = bytes[k]
      if byte == UInt8(ascii: "\n") {
        if awaited == .helo { noteKeyword() }
        let isWhole = isLast
        column = 0
        isLast = true
        keyword = 0
        if isWhole {
          step = replied(persona, now: now)
          if step == .leave { return .leave }
        }
      } else {
        if column < 3 {
          let digit = UInt16(byte &- 48)
          code = (column == 0 ? 0 : code &* 10) &+ digit
        } else if column == 3 {
          isLast = byte != UInt8(ascii: "-")
        } else if column < 8 {
          keyword = keyword << 8 | UInt32(byte)
        }
        if column < 255 { column += 1 }
      }
    }
    return step
  }

  private mutating func noteKeyword() {
    switch keyword {
    case 0x4155_5448: traits.insert(.offersAuth)
    case 0x5049_5045: traits.insert(.offersPipelining)
    case 0x5354_4152: traits.insert(.offersTLS)
    default: break
    }
  }

  private mutating func ask(_ next: Awaited, _ line: Line, now: Int64) -> Step {
    awaited = next
    beganAt = now
    return .say(line)
  }

  /// A whole reply to what was awaited.
  private mutating func replied(_ persona: Persona, now: Int64) -> Step {
    let took = now - beganAt
    if persona.slowStrikes > 0 && Double(took) > persona.slowReply * 1_000_000 {
      strikes += 1
      if Int(strikes) >= persona.slowStrikes { return leave(.impatient) }
    }
    if traits.contains(.isLeaving) || awaited == .quit { return leave(ending) }
    // 421 is the end, whatever was asked.
    if code == 421 { return leave(delivered > 0 ? .delivered : .deferred) }
    switch awaited {
    case .banner:
      if code >= 400 { return end(code < 500 ? .deferred : .rejected, now: now) }
      greetedAt = now
      if persona.aim == .banner || traits.contains(.bannerOnly) { return end(.done, now: now) }
      if persona.aim == .hold || traits.contains(.isForeign) {
        beganAt = now
        return .nothing
      }
      if traits.contains(.hasGreeted) {
        awaited = .helo
        beganAt = now
        return .nothing
      }
      if traits.contains(.rushes) {
        let recipients = UInt8(min(max(recipientsLeft, 1), 20))
        ahead = recipients + (persona.aim == .harvest ? 1 : 2)
        return ask(
          .helo, .rush(bare: traits.contains(.bareHelo), recipients: recipients), now: now)
      }
      return ask(.helo, hello(), now: now)
    case .helo:
      if code >= 500 && ahead == 0 && !traits.contains(.isSecured) && persona.kind != .bot {
        // RFC 5321, 3.2: who does not know EHLO is told HELO, once.
        traits.insert(.isSecured)
        return ask(
          .helo, .helo(bare: traits.contains(.bareHelo), extended: false), now: now)
      }
      if code >= 400 && ahead == 0 {
        return end(code < 500 ? .deferred : .rejected, now: now)
      }
      if persona.aim == .helo { return end(.done, now: now) }
      if persona.aim == .auth { return logIn(now: now) }
      if persona.aim == .tls {
        if traits.contains(.offersTLS) { return ask(.startTLS, .startTLS, now: now) }
        return end(.pointless, now: now)
      }
      return begin(persona, now: now)
    case .startTLS:
      if persona.aim == .tls { return end(.done, now: now) }
      return begin(persona, now: now)
    case .auth:
      loginsLeft -= 1
      return logIn(now: now)
    case .mail:
      if ahead > 0 {
        ahead -= 1
        if code >= 400 { refusal = code }
        awaited = .rcpt
        beganAt = now
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
        if ahead == 0 && persona.aim != .harvest { awaited = .data }
        beganAt = now
        return .nothing
      }
      if recipientsLeft > 0 { return ask(.rcpt, recipient(persona), now: now) }
      if persona.aim == .harvest || persona.aim == .callout { return end(.done, now: now) }
      if acceptedRecipients == 0 { return refused(persona, now: now) }
      return ask(.data, .data, now: now)
    case .data:
      if code == 354 {
        let octets = acceptedRecipients > 0 ? Int32(persona.bytes.value(at: chance())) : 0
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

  /// Begins a message, or what else it came for.
  private mutating func begin(_ persona: Persona, now: Int64) -> Step {
    acceptedRecipients = 0
    refusal = 0
    if ahead > 0 {
      // MAIL is among what was sent ahead.
      ahead -= 1
      awaited = .mail
      beganAt = now
      return .nothing
    }
    if persona.aim == .callout { return ask(.mail, .null, now: now) }
    if persona.aim == .mail && traits.contains(.pipelines) && traits.contains(.offersPipelining) {
      let recipients = UInt8(min(max(recipientsLeft, 1), 20))
      ahead = recipients + 1
      return ask(.mail, .group(recipients: recipients), now: now)
    }
    return ask(.mail, .mail, now: now)
  }

  private mutating func recipient(_ persona: Persona) -> Line {
    .rcpt(unknown: persona.unknown > 0 && chance() < persona.unknown)
  }

  private mutating func logIn(now: Int64) -> Step {
    if !traits.contains(.offersAuth) { return end(.pointless, now: now) }
    if loginsLeft == 0 || code == 235 { return end(.done, now: now) }
    return ask(.auth, .auth, now: now)
  }

  /// The message at hand was not taken.
  private mutating func refused(_ persona: Persona, now: Int64) -> Step {
    let word = refusal == 0 ? code : refusal
    return end(word < 500 ? .deferred : .rejected, word, now: now)
  }

  private mutating func next(_ persona: Persona, now: Int64) -> Step {
    messagesLeft -= messagesLeft > 0 ? 1 : 0
    if messagesLeft == 0 { return end(.delivered, now: now) }
    recipientsLeft = UInt16(min(max(persona.recipients.value(at: chance()), 1), 1_000))
    return begin(persona, now: now)
  }

  /// It is done: says QUIT if it is of that kind.
  private mutating func end(_ how: Ending, _ word: UInt16? = nil, now: Int64) -> Step {
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

  /// Until it says its next byte, in microseconds.
  private mutating func gap(_ persona: Persona) -> Int64 {
    Int64(max(persona.trickle.value(at: chance()), 0.01) * 1_000_000)
  }

  /// When it will do something by itself, if it hears nothing until then; it may come to it later, by bytes.
  public func deadline(_ persona: Persona) -> Int64 {
    if ending != .none && awaited != .quit { return .max }
    let patience = persona.patience[awaited] ?? persona.patienceOtherwise
    let seconds = min(patience.value(at: Double(draw)), 10_000_000)
    let from =
      switch persona.clock {
      case .read: max(heardAt, beganAt)
      case .reply: beganAt
      case .session: openedAt
      }
    var due = from + Int64(seconds * 1_000_000)
    if persona.sessionMost < 10_000_000 {
      due = min(due, openedAt + Int64(persona.sessionMost * 1_000_000))
    }
    return min(due, trickleAt)
  }

  /// The time has come that `deadline` said, or an earlier one.
  public mutating func timer(_ persona: Persona, now: Int64) -> Step {
    guard now >= deadline(persona) else { return .nothing }
    if now >= trickleAt {
      trickleAt = now + gap(persona)
      return .say(.trickle)
    }
    if awaited == .quit { return leave(ending) }
    decide(delivered > 0 && awaited != .dot ? .delivered : .impatient)
    if traits.contains(.quitsImpatient) && awaited != .banner {
      traits.insert(.isLeaving)
      awaited = .quit
      beganAt = now
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
    _ line: Line, _ persona: Persona, number: Int, known: String, into bytes: inout [UInt8]
  ) {
    func say(_ text: String) {
      bytes.append(contentsOf: text.utf8)
      bytes.append(13)
      bytes.append(10)
    }
    let sender = "<s\(number)@\(persona.id.lowercased()).example>"
    func helo(_ bare: Bool, _ extended: Bool) {
      let name =
        !persona.heloName.isEmpty
        ? persona.heloName : bare ? "pc\(number)" : "h\(number).\(persona.id.lowercased()).example"
      say((extended ? "EHLO " : "HELO ") + name)
    }
    func recipient(_ unknown: Bool) {
      let domain = known.split(separator: "@").last ?? "example"
      say("RCPT TO:<" + (unknown ? "nobody\(number)@\(domain)" : known) + ">")
    }
    // Of a group too the share is unknown that the persona says: places of the golden ratio's multiples.
    func isUnknown(_ k: Int) -> Bool {
      let place = Double(number % 10_000 + k + 1) * 0.6180339887498949
      return place - place.rounded(.down) < persona.unknown
    }
    func group(_ recipients: UInt8) {
      say("MAIL FROM:" + sender)
      for k in 0..<recipients { recipient(isUnknown(Int(k))) }
      if persona.aim != .harvest { say("DATA") }
    }
    switch line {
    case .helo(let bare, let extended): helo(bare, extended)
    case .startTLS: say("STARTTLS")
    case .auth: say("AUTH PLAIN AHVzZXIAcGFzcw==")
    case .mail: say("MAIL FROM:" + sender)
    case .null: say("MAIL FROM:<>")
    case .rcpt(let unknown): recipient(unknown)
    case .data: say("DATA")
    case .group(let recipients): group(recipients)
    case .rush(let bare, let recipients):
      helo(bare, true)
      group(recipients)
    case .body(let octets):
      say("Subject: \(persona.id) \(number)")
      say("")
      var left = Int(octets)
      while left > 0 {
        let length = min(left, 72)
        for _ in 0..<length { bytes.append(UInt8(ascii: "x")) }
        bytes.append(13)
        bytes.append(10)
        left -= length + 2
      }
      say(".")
    case .rset: say("RSET")
    case .quit: say("QUIT")
    case .foreign: say("GET / HTTP/1.1\r\nHost: example\r\n")
    case .trickle: bytes.append(UInt8(ascii: "E"))
    }
  }
}
