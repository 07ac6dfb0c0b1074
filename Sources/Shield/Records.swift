// SPDX-License-Identifier: Apache-2.0
import SMTP
package import Structures
package import Suspicion

/// What a client connection is doing. A held connection is this record and nothing else.
@frozen
package enum ConnectionState: UInt8, BitwiseCopyable, Sendable {
  /// No tenant. Goes to: announced, waiting, banner, dripping, refusing.
  case free
  /// From a load balancer, whose PROXY header has not come yet; its own address stands for the client's.
  /// Goes to: waiting, banner, dripping, refusing, closing.
  case announced
  /// Waits for its banner; we listen, because who talks now is no mail server. Goes to: banner, dripping.
  case waiting
  /// The banner is being sent. Goes to: idle, talking.
  case banner
  /// Greeted; has not said anything yet and owns no session. Goes to: talking, dripping.
  case idle
  /// Owns a session. Goes to: dripping, closing, draining.
  case talking
  /// In the tarpit, a reply is being dripped to it. Goes to: pit, closing.
  case dripping
  /// In the tarpit, its turn to speak. Goes to: dripping, closing.
  case pit
  /// A last reply is being sent. Goes to: draining.
  case refusing
  /// Our side is closed; what it still sends is thrown away, so that no reset kills the last reply.
  case draining
  /// The driver was told to close it. Goes to: free.
  case closing
  /// A handshake is under way and there is no session: on a listener of TLS alone, or in the tarpit. Goes to:
  /// banner, waiting, dripping, pit, closing.
  case securing
}

/// Facts about a connection that are either so or not.
@frozen
package struct ConnectionFlags: OptionSet, BitwiseCopyable, Sendable {
  package let rawValue: UInt16
  package init(rawValue: UInt16) { self.rawValue = rawValue }
  /// Mail of this source was accepted before.
  static let known = ConnectionFlags(rawValue: 1)
  /// The operator vouches for it.
  static let trusted = ConnectionFlags(rawValue: 2)
  /// Counted in the concurrency of its rate rule.
  static let counted = ConnectionFlags(rawValue: 4)
  /// Counted as a tarpit session of its source.
  static let countedBad = ConnectionFlags(rawValue: 8)
  /// The first word of the line that is coming in is complete (tarpit only).
  static let pastWord = ConnectionFlags(rawValue: 16)
  /// Holds a place for a PROXY header.
  static let announced = ConnectionFlags(rawValue: 32)
  /// The tarpit's reply being dripped is the last one.
  static let last = ConnectionFlags(rawValue: 64)
  /// The peer has closed its sending side.
  static let ended = ConnectionFlags(rawValue: 128)
  /// The closing line is written already.
  static let logged = ConnectionFlags(rawValue: 256)
  /// Was let through to the downstream.
  static let passed = ConnectionFlags(rawValue: 512)
  /// A session is attached to it.
  static let leased = ConnectionFlags(rawValue: 1_024)
  /// Speaks TLS, or is about to.
  static let encrypted = ConnectionFlags(rawValue: 2_048)
  // 12 bits at most: see `Connection`.
  static let counts: ConnectionFlags = [.counted, .countedBad]
  /// Not new to us.
  static let vouched: ConnectionFlags = [.known, .trusted]
}

/// A client connection: everything that must be kept while it is merely held, in 40 bytes.
///
/// What is small shares words, because there may be a million of these; nothing outside sees how.
package struct Connection: BitwiseCopyable, Sendable {
  // The address in four parts: as two 64-bit words it would round the record up to 48 bytes.
  private var parts: (UInt32, UInt32, UInt32, UInt32) = (0, 0, 0, 0)
  /// Generation (24 bits) and listener (8).
  private var life: UInt32 = 0
  /// Signals (25 bits), whether it is a load balancer that speaks for nobody (1), state (4), tier (2).
  private var standing: UInt32 = 0
  /// The session it leases, or in the tarpit the replies owed: nobody has both.
  private var lease: UInt32 = 0
  /// When it came, in ticks of 10 ms since the origin (497 days).
  package var accepted: UInt32 = 0
  package var port: UInt16 = 0
  /// Artificial delay so far, in ticks, held at the maximum of 655 s. Of who is in the tarpit: how old it was when it
  /// came there.
  package var delayed: UInt16 = 0
  /// Bytes of the text that are out (10 bits), the word that is coming in (6).
  private var progress: UInt16 = 0
  /// Flags (12 bits), the text that is being said (4).
  private var marks: UInt16 = 0

  package init() { tier = .clean }

  package var address: Address {
    get {
      Address(
        high: UInt64(parts.0) << 32 | UInt64(parts.1), low: UInt64(parts.2) << 32 | UInt64(parts.3))
    }
    set {
      parts = (
        UInt32(truncatingIfNeeded: newValue.high >> 32), UInt32(truncatingIfNeeded: newValue.high),
        UInt32(truncatingIfNeeded: newValue.low >> 32), UInt32(truncatingIfNeeded: newValue.low)
      )
    }
  }

  /// Its session, or -1.
  package var session: Int32 {
    get { flags.contains(.leased) ? Int32(truncatingIfNeeded: lease) : -1 }
    set {
      if newValue < 0 { flags.remove(.leased) } else { flags.insert(.leased) }
      lease = UInt32(max(newValue, 0))
    }
  }

  /// Tarpit: replies still owed, one class of command per 4 bits, the next one lowest. Only for who has no
  /// session: with one it is and stays 0.
  package var owed: UInt32 {
    get { flags.contains(.leased) ? 0 : lease }
    set { if !flags.contains(.leased) { lease = newValue } }
  }

  /// Waiting for a PROXY header: its place. As `owed`, only for who has no session.
  var headerPlace: Int {
    get { Int(owed) }
    set { owed = UInt32(newValue) }
  }

  /// 24 bits.
  package var generation: UInt32 {
    get { life & 0xFF_FFFF }
    set { life = life & ~0xFF_FFFF | newValue & 0xFF_FFFF }
  }

  package var listener: UInt8 {
    get { UInt8(truncatingIfNeeded: life >> 24) }
    set { life = life & 0xFF_FFFF | UInt32(newValue) << 24 }
  }

  package var signals: SignalSet {
    get { SignalSet(rawValue: standing & 0x1FF_FFFF) }
    set { standing = standing & ~0x1FF_FFFF | newValue.rawValue & 0x1FF_FFFF }
  }

  /// A load balancer whose header named no client.
  var isNobody: Bool {
    get { standing >> 25 & 1 == 1 }
    set { standing = standing & ~(1 << 25) | (newValue ? 1 << 25 : 0) }
  }

  package var state: ConnectionState {
    get { ConnectionState(rawValue: UInt8(standing >> 26 & 15)) ?? .free }
    set { standing = standing & ~(15 << 26) | UInt32(newValue.rawValue) << 26 }
  }

  /// Whether it is in the tarpit and a reply is being dripped to it: `state`, for the hot path.
  package var isDripping: Bool {
    standing >> 26 & 15 == UInt32(ConnectionState.dripping.rawValue)
  }

  package var tier: Tier {
    get { Tier(rawValue: UInt8(standing >> 30)) ?? .clean }
    set { standing = standing & 0x3FFF_FFFF | UInt32(newValue.rawValue) << 30 }
  }

  /// Tarpit and last words: how many bytes of the text are out; up to 1,023.
  package var position: UInt16 {
    get { progress & 1_023 }
    set { progress = progress & ~1_023 | min(newValue, 1_023) }
  }

  /// In place of `position`: of the text that is being said there is no rest, because it is another one now. More
  /// than any text has, and it stays so when more is out.
  static let noRest: UInt16 = 1_023

  /// `position`, for the hot path.
  var nextStep: UInt32 { UInt32(progress) & 1_023 }
  /// One byte more is out. No text has more bytes than `position` counts.
  mutating func takeStep() { progress &+= 1 }

  /// Tarpit: what is known of the first word of the line that is coming in.
  var word: PitWord {
    get { PitWord(code: UInt8(progress >> 10)) }
    set { progress = progress & 1_023 | UInt16(newValue.code) << 10 }
  }

  package var flags: ConnectionFlags {
    get { ConnectionFlags(rawValue: marks & 0xFFF) }
    set { marks = marks & 0xF000 | newValue.rawValue & 0xFFF }
  }

  /// Tarpit and last words: which text is being said.
  package var text: PitText {
    get { PitText(rawValue: UInt8(marks >> 12)) ?? .banner }
    set { marks = marks & 0xFFF | UInt16(newValue.rawValue) << 12 }
  }

  /// The number of that text.
  package var textNumber: Int { Int(marks >> 12) }
}

/// How far a line has come to be one of the commands that have a reply of their own in the tarpit, by its
/// first four letters, which tell all of them apart. 6 bits: nothing is kept of a line but this.
struct PitWord: BitwiseCopyable, Equatable, Sendable {
  /// 0: nothing yet. 1 + 4 · command + letters - 1: so many letters of a command. 63: none of them.
  private(set) var code: UInt8

  static let none = PitWord(code: 0)
  private static let other: UInt8 = 63

  init(code: UInt8) { self.code = code }

  /// The commands. Two that begin alike stand one behind the other.
  static let commands: InlineArray<9, Verb> = [
    .helo, .ehlo, .mail, .rcpt, .rset, .data, .quit, .noop, .starttls,
  ]

  private static func letter(_ command: UInt8, _ place: UInt8) -> UInt8 {
    let letters = commands[Int(command)].fourLetters ?? 0
    return UInt8(truncatingIfNeeded: letters >> UInt32(24 - 8 * place))
  }

  /// Takes the next letter, in upper case. Those after the fourth make no difference.
  mutating func take(_ letter: UInt8) {
    if code == Self.other { return }
    var command: UInt8 = 0
    var count: UInt8 = 0
    if code > 0 {
      command = (code - 1) / 4
      count = (code - 1) % 4 + 1
      if count == 4 { return }
    }
    // A command with the same letters so far may be meant, and stands behind.
    while command < Self.commands.count && Self.letter(command, count) != letter {
      let next = command + 1
      if code > 0
        && (next == Self.commands.count || count > 1
          || Self.letter(next, 0) != Self.letter(command, 0))
      {
        code = Self.other
        return
      }
      command = next
    }
    code = command == Self.commands.count ? Self.other : 1 + 4 * command + count
  }

  /// The command it turned out to be, or nil.
  var command: Verb? {
    code > 0 && code != Self.other && (code - 1) % 4 == 3
      ? Self.commands[Int(code - 1) / 4] : nil
  }
}

/// Where a session stands in its dialogue.
enum Phase: UInt8, BitwiseCopyable, Sendable {
  /// The client's turn.
  case command
  /// A command is held back until its delay is over, before anything is done about it.
  case delaying
  /// A command waits for a downstream connection.
  case opening
  /// A command is with the downstream.
  case forwarded
  /// A finished reply is held back.
  case holding
  /// The client's turn to answer an AUTH challenge.
  case challenge
  /// Message bytes.
  case body
  /// Message bytes that nobody wants any more; the reply waits for their end.
  case swallow
  /// The end of the message is with the downstream.
  case final
  /// The last reply is going out; then the end.
  case leaving
  /// 220 to STARTTLS is going out, or the handshake is under way.
  case securing
  /// Octets pass both ways.
  case spliced
}

/// What of the conversation lies behind us.
struct SessionFlags: OptionSet, BitwiseCopyable, Sendable {
  let rawValue: UInt32
  /// HELO or EHLO was accepted.
  static let greeted = SessionFlags(rawValue: 1)
  /// It was EHLO.
  static let extended = SessionFlags(rawValue: 2)
  /// MAIL was accepted.
  static let mail = SessionFlags(rawValue: 4)
  /// The downstream of this transaction is gone; its commands get 451.
  static let lost = SessionFlags(rawValue: 8)
  /// The client authenticated.
  static let authenticated = SessionFlags(rawValue: 16)
  /// A send is outstanding.
  static let sending = SessionFlags(rawValue: 32)
  /// A receive is outstanding.
  static let filling = SessionFlags(rawValue: 64)
  /// The client has closed its sending side.
  static let ended = SessionFlags(rawValue: 128)
  /// Shaping: reading waits for credit.
  static let paused = SessionFlags(rawValue: 256)
  /// A forward of message bytes is outstanding.
  static let relaying = SessionFlags(rawValue: 512)
  /// The end of the message has been seen and is among the bytes being forwarded.
  static let dotSeen = SessionFlags(rawValue: 1_024)
  /// Goes to the tarpit as soon as its outbox is empty.
  static let toPit = SessionFlags(rawValue: 2_048)
  /// The message may use SMTPUTF8.
  static let utf8 = SessionFlags(rawValue: 4_096)
  /// MAIL was refused: what was said behind it in a group is refused for that alone.
  static let refusedMail = SessionFlags(rawValue: 8_192)
  /// An AUTH exchange is going on.
  static let authenticating = SessionFlags(rawValue: 16_384)
  /// The rest of a line that was too long is being thrown away.
  static let skipping = SessionFlags(rawValue: 65_536)
  /// MAIL was accepted, and the downstream connection it was said on let go: on the next it is said again.
  static let parked = SessionFlags(rawValue: 131_072)
  /// The delay of the first recipient, and that of DATA, was spent before MAIL.
  static let paidRecipient = SessionFlags(rawValue: 262_144)
  static let paidData = SessionFlags(rawValue: 524_288)
  /// The AUTH exchange is being ended with the downstream; then the client hears `verdict`.
  static let cancelling = SessionFlags(rawValue: 1_048_576)
  /// The recipient answered last was refused: its path is not one of the message's.
  static let refusedRecipient = SessionFlags(rawValue: 2_097_152)

  // Sets that are asked for on every command, made once: a set literal is an array in a debug build.
  /// What HELO came to.
  static let hello: SessionFlags = [.greeted, .extended]
  /// What HELO and log-in came to.
  static let greeting: SessionFlags = [
    .greeted, .extended, .authenticated, .authenticating, .cancelling,
  ]
  /// Where an AUTH exchange stands.
  static let exchange: SessionFlags = [.authenticating, .cancelling]
  /// No handshake can come of this: its side is closed, or is being looked at for that.
  static let cannotSecure: SessionFlags = [.ended, .filling]
  /// The kernel may touch the session's buffers on the client's behalf.
  static let inFlight: SessionFlags = [.filling, .sending]
  /// The input region is not free to be received into.
  static let inputBusy: SessionFlags = [.filling, .relaying]
  /// What passes unread does not move the client's deadline: it is for more credit, or for the end.
  static let keepsDeadline: SessionFlags = [.paused, .ended]
  /// What a downstream connection knows of the client, and would be lost with it.
  static let held: SessionFlags = [.mail, .authenticated]
  /// What belongs to one transaction.
  static let transaction: SessionFlags = [
    .mail, .lost, .utf8, .paused, .dotSeen, .parked, .paidRecipient, .paidData,
    .refusedRecipient, .refusedMail,
  ]
}

/// A talking client: what is leased from its first command on.
struct Session: BitwiseCopyable, Sendable {
  /// The connection that owns it, or -1.
  var owner: Int32 = -1
  /// How many closing slots may still have an operation in flight on its memory.
  var pins: Int8 = 0
  /// Its downstream connection, or -1.
  var link: Int32 = -1
  var phase = Phase.command
  var flags = SessionFlags()
  /// What it was told in the reply to EHLO. After HELO, which tells nothing, what it would have been.
  var offered = Capabilities.Keywords()
  /// The command being dealt with, and how many input bytes it takes with its line end.
  var verb = Verb.unknown
  var form = Command.Form.strict
  var argumentStart: Int32 = 0
  var lineCount: Int32 = 0
  var lineConsumed: Int32 = 0
  /// Where in the input region the receive that is outstanding puts its bytes.
  var fillStart: Int32 = 0
  /// Input: bytes at `inputStart..<inputEnd` of the input region are not dealt with yet.
  var inputStart: Int32 = 0
  var inputEnd: Int32 = 0
  /// Outbox: bytes at `outStart..<outEnd` of the outbox region are not sent yet.
  var outStart: Int32 = 0
  var outEnd: Int32 = 0
  /// How many of them, the last, wait for a delay: the reply to a recipient whose downstream was let go.
  var outHeld: Int32 = 0
  /// How long MAIL was as the downstream heard it; 0 if it cannot be said again.
  var mailCount: Int32 = 0
  /// The stage whose delay is running in `delaying` or `holding`.
  var stage = Stage.helo
  var heloCount: UInt8 = 0
  var senderCount: UInt8 = 0
  var recipientCount: UInt8 = 0
  var lines = LineScanner()
  var data = EndOfDataScanner()
  /// Which bytes of the input region are being forwarded (body only).
  var relayStart: Int32 = 0
  var relayEnd: Int32 = 0
  /// Which bytes of the input region wait to be rewritten, because they hold bare LFs (body only).
  var rewriteStart: Int32 = 0
  var rewriteEnd: Int32 = 0
  /// The most octets this message may have; 0 for any number.
  var sizeLimit: UInt64 = 0
  /// When it came to something last: got its session, its downstream connection, the reply to a message.
  var progress = Instant.origin
  /// Octets of the message at which the deadline for more of it was last set.
  var deadlineMark: UInt64 = 0
  /// The reply owed after `swallow`, or at the end of an AUTH exchange that we end.
  var verdict = OwnReply.downstreamLost
  /// Whether the downstream's own verdict lies in the outbox already, to be sent after `swallow`.
  var hasVerdict = false
  /// Whether a CR that ended the last piece of the message is held back until its LF has come.
  var holdsCR = false
  var bytesIn: UInt64 = 0
  var bytesOut: UInt64 = 0
  var use = SessionUse()
  var authFailures: UInt32 = 0
  /// Of the AUTH at hand: where its name is to come, and the name's keyed hash once it has; 0 for none.
  var mechanism = LoginMechanism.other
  var user: UInt64 = 0
  var acceptedRecipients: UInt32 = 0
  var badRecipients: UInt32 = 0
  var messages: UInt32 = 0
  /// Delay given to accepted recipients of this message, in microseconds.
  var recipientDelay: Int64 = 0
  var lastReply: UInt16 = 0
  /// What became of it, where that is decided before its end.
  var ending: Verdict?
  var tallies = CommandTallies()
}

/// What a downstream connection is doing.
enum LinkState: UInt8, BitwiseCopyable, Sendable {
  case free
  case connecting
  /// Waits for 220.
  case greeting
  case ehlo
  case helo
  /// STARTTLS is outstanding.
  case starttls
  /// A handshake is under way.
  case securing
  /// A line about the client is outstanding (XCLIENT, XFORWARD).
  case introducing
  /// Nothing outstanding.
  case ready
  /// A command of the session is outstanding.
  case busy
  /// Message bytes are going through.
  case body
  /// The end of data is sent; its reply is outstanding.
  case final
  /// Octets pass both ways.
  case spliced
  case quitting
  case closing
}

/// The commands that are with a downstream, in the order in which its replies will come (RFC 2920, 3.1): 4 bits
/// each, 15 at most.
struct OutstandingCommands: BitwiseCopyable, Sendable {
  private var bits: UInt64 = 0
  private(set) var count: UInt8 = 0
  static let most: UInt8 = 15

  /// Those that may be one of several. What stands alone is the session's command at hand.
  private static func code(_ verb: Verb) -> UInt64 {
    switch verb {
    case .mail: 1
    case .rcpt: 2
    case .data: 3
    default: 0
    }
  }

  private func verb(at place: UInt8) -> Verb? {
    switch bits >> (4 * UInt64(place)) & 15 {
    case 1: .mail
    case 2: .rcpt
    case 3: .data
    default: nil
    }
  }

  var isEmpty: Bool { count == 0 }

  mutating func append(_ verb: Verb) {
    invariant(count < Self.most, "more than \(Self.most) commands with a downstream")
    bits |= Self.code(verb) << (4 * UInt64(count))
    count += 1
  }

  /// Takes the oldest; nil where it is the command at hand.
  mutating func removeFirst() -> Verb? {
    let first = verb(at: 0)
    bits >>= 4
    count -= 1
    return first
  }

  /// The oldest; nil where it is the command at hand.
  var first: Verb? { verb(at: 0) }

  /// The newest, if it is one that others may follow.
  var last: Verb? { count == 0 ? nil : verb(at: count - 1) }

  func contains(_ wanted: Verb) -> Bool { number(of: wanted) > 0 }

  func number(of wanted: Verb) -> UInt32 {
    var found: UInt32 = 0
    for place in 0..<count where verb(at: place) == wanted { found += 1 }
    return found
  }
}

/// A downstream connection.
struct Link: BitwiseCopyable, Sendable {
  var generation: UInt32 = 0
  var state = LinkState.free
  /// The session it serves, or -1: a probe, or an orphan that waits for its last reply.
  var session: Int32 = -1
  /// The session from whose memory it is still sending while it closes, or -1.
  var pinned: Int32 = -1
  /// The source for which it counts, until it is closed.
  var holder: Address?
  /// Made to ask what the downstream offers; it serves no session.
  var isProbe = false
  var sending = false
  var outStart: Int32 = 0
  var outEnd: Int32 = 0
  /// Octets of the AUTH line at hand, CRLF included, for which there was no room yet: the last of it.
  var unsaid: Int32 = 0
  /// Input: bytes at `inStart..<inEnd` of the input region are not read yet.
  var inStart: Int32 = 0
  var inEnd: Int32 = 0
  var reader = ReplyReader()
  /// Bytes of the kept reply in the reply region.
  var replyCount: Int32 = 0
  /// What the kept reply answers, where that is not the command at hand.
  var repliedVerb: Verb?
  var outstanding = OutstandingCommands()
  /// How many recipients it was told, and how many of those it has answered: places in the ring of their paths.
  var recipientsTold: UInt8 = 0
  var recipientsAnswered: UInt8 = 0
  /// Which of the downstream's addresses it goes to, and how many were tried in vain before.
  var server: UInt8 = 0
  var addressesTried: UInt8 = 0
  /// Whether it was greeted with EHLO.
  var isExtended = false
  /// What it was offered, in the name of its client.
  var offer = LinkOffer()
  /// Whether TLS is spoken on it, and whether the downstream is surely the right one.
  var isSecured = false
  var isVerified = false
  /// It was asked for TLS and refused; it is used as it is.
  var staysClear = false
  /// What of a client it wants to be told, by XCLIENT or XFORWARD, and how many lines it was told.
  var listed = ClientAttributes()
  var linesSaid: UInt8 = 0
  /// It was told.
  var isIntroduced = false
  /// The client has the beginning of a challenge whose end has not come.
  var hasPassedPiece = false
  /// Replies wait in the input region until the client has taken earlier ones.
  var isPaused = false
  /// The session whose client left after its final dot; only the outcome is of interest now.
  var orphanOf: UInt64 = 0
}

/// What the tarpit says, and what is said to who is sent away: 16 at most. Each is a ready text in the arena.
package enum PitText: UInt8, BitwiseCopyable, Sendable, CaseIterable {
  case banner, helo, ehlo, mail, recipient, data, done, unknown, starttls, quit, tooMany, timeout,
    shed,
    rejected, busy, crowded
}

/// A ready text in the arena, and at what pace the tarpit says it.
struct PitLine: BitwiseCopyable, Sendable {
  /// Where in the arena it begins.
  var offset: UInt32 = 0
  /// How many bytes it has.
  var count: UInt16 = 0
  /// A place on the grid of drips is 2^grid ticks.
  var grid: UInt8 = 0
  /// Places from a byte to the next one, with 16 bits of fraction.
  private var pace: UInt32 = 0

  init() {}

  /// - Parameter span: from the order to say it to its last byte, in microseconds.
  init(_ region: Region, span: Int64) {
    offset = UInt32(region.offset)
    count = UInt16(region.count)
    let ticks = UInt64(max(span, 0)) / 10_000
    let length = UInt64(max(region.count, 1))
    // On a grid of 40 ms, so that many drips are one submission: at 100,000 a second over six rings every tick
    // for itself took 0.0055 ring enters a byte. Texts that are said faster keep to the ticks.
    grid = ticks >= 8 * length ? 2 : 0
    // Rounded up, by less than a place in the whole text.
    pace = UInt32(clamping: ((ticks >> UInt64(grid)) << 16 + length - 1) / length)
  }

  var region: Region { Region(offset: Int(offset), count: Int(count)) }

  /// The tick at which the byte at `position` is due, seen from the tick that was due before it.
  ///
  /// Byte n of `count` is due (n + 1)/count of the span after the first: the differences are taken between
  /// whole places, so nothing adds up. From a place, not from the moment when we came to it, or every byte
  /// would be late by a tick.
  @inline(__always)
  func due(_ position: UInt32, after tick: Int64) -> Int64 {
    let pace = UInt64(pace)
    let before = UInt64(position) &* pace
    let places = Int64(truncatingIfNeeded: (before &+ pace) >> 16 &- before >> 16)
    let grid = Int64(grid)
    return (tick &>> grid &+ places) &<< grid
  }
}
