// SPDX-License-Identifier: Apache-2.0
package import Flow
import Policy
package import SMTP
package import Structures
package import Suspicion

/// What happened, in the words of the log. Postfix's words where it has them.
package enum Event: UInt8, BitwiseCopyable, Sendable, CaseIterable {
  case connect, passNew, passOld, allowlisted, denylisted, signal, tarpit, delay, wouldDelay,
    rateLimit,
    reject, wouldReject, hangup, timeout, limit, shed, disconnect, downstreamDown, downstreamUp,
    downstreamFailed, possibleDuplicate, accepted, secured, notSecured, downstreamClear, spliced,
    proxyRefused, downstreamUnlike, share

  /// The word the line begins with.
  package var word: String {
    switch self {
    case .connect: "CONNECT"
    case .passNew: "PASS NEW"
    case .passOld: "PASS OLD"
    case .allowlisted: "ALLOWLISTED"
    case .denylisted: "DENYLISTED"
    case .signal: "SIGNAL"
    case .tarpit: "TARPIT"
    case .delay: "DELAY"
    case .wouldDelay: "WOULD DELAY"
    case .rateLimit: "RATE"
    case .reject: "NOQUEUE: reject"
    case .wouldReject: "NOQUEUE: reject_warning"
    case .hangup: "HANGUP"
    case .timeout: "COMMAND TIME LIMIT"
    case .limit: "LIMIT"
    case .shed: "SHED"
    case .disconnect: "DISCONNECT"
    case .downstreamDown: "DOWNSTREAM DOWN"
    case .downstreamUp: "DOWNSTREAM UP"
    case .downstreamFailed: "DOWNSTREAM FAILED"
    case .possibleDuplicate: "POSSIBLE DUPLICATE"
    case .accepted: "ACCEPTED"
    case .secured: "TLS"
    case .notSecured: "TLS FAILED"
    case .downstreamClear: "DOWNSTREAM IN CLEAR"
    case .spliced: "TLS PASSED ON"
    case .proxyRefused: "PROXY refused"
    case .downstreamUnlike: "DOWNSTREAM UNLIKE"
    case .share: "SHARE"
    }
  }
}

/// What became of a session, in the closing line's words.
package enum Verdict: UInt8, BitwiseCopyable, Sendable, CaseIterable {
  /// Nothing was held against it.
  case pass
  /// Its mail was accepted.
  case delivered
  /// It was made to wait.
  case slowed
  /// It was held in the tarpit.
  case tarpit
  /// It heard 4yz or 5yz from us, for what it is or did.
  case refused
  /// It was cut off without a word, as a rule says.
  case dropped
  /// Its mail heard 4yz because the server behind was not there, or had no room for it.
  case deferred
  /// There was no room for it.
  case shed
  /// Its handshake came to nothing.
  case tlsFailed
  /// What enforce would have done, where we only look on.
  case wouldSlow, wouldTarpit, wouldRefuse

  /// The word in the log.
  package var word: String {
    switch self {
    case .pass: "pass"
    case .delivered: "delivered"
    case .slowed: "slowed"
    case .tarpit: "tarpit"
    case .refused: "refused"
    case .dropped: "dropped"
    case .deferred: "deferred"
    case .shed: "shed"
    case .tlsFailed: "tls-failed"
    case .wouldSlow: "would-slow"
    case .wouldTarpit: "would-tarpit"
    case .wouldRefuse: "would-refuse"
    }
  }
}

extension Verdict {
  /// The word as metrics write it.
  fileprivate var counterName: String { String(word.map { $0 == "-" ? "_" : $0 }) }
}

/// How many sessions came to each verdict.
package struct VerdictCounts: BitwiseCopyable, Sendable, Equatable {
  private var counts = InlineArray<12, UInt64>(repeating: 0)

  package subscript(verdict: Verdict) -> UInt64 {
    get { counts[Int(verdict.rawValue)] }
    set { counts[Int(verdict.rawValue)] = newValue }
  }

  package static func == (a: VerdictCounts, b: VerdictCounts) -> Bool {
    Verdict.allCases.allSatisfy { a[$0] == b[$0] }
  }
}

/// How many commands of a kind a session sent, and how many were answered 2xx or 3xx.
@frozen
package struct Tally: BitwiseCopyable, Sendable, Equatable {
  package var good: UInt16 = 0
  package var all: UInt16 = 0
}

/// The commands of a session by kind, for its closing line (`ehlo=1 mail=1 rcpt=0/1 …`).
package struct CommandTallies: BitwiseCopyable, Sendable {
  package var helo = Tally()
  package var auth = Tally()
  package var mail = Tally()
  package var rcpt = Tally()
  package var data = Tally()
  package var quit = Tally()
  package var other = Tally()
  package var unknown = Tally()
  package init() {}

  package var listed: [(String, Tally)] {
    [
      ("helo", helo), ("auth", auth), ("mail", mail), ("rcpt", rcpt), ("data", data),
      ("quit", quit),
      ("other", other), ("unknown", unknown),
    ]
  }
}

/// One thing that happened, whole, without a reference to anything that may be gone when it is read.
package struct JournalEntry: BitwiseCopyable, Sendable {
  package var event: Event
  package var at: Instant
  /// The session's id as the client and the log see it.
  package var session: UInt64 = 0
  package var address = Address(high: 0, low: 0)
  package var port: UInt16 = 0
  /// The load balancer that spoke for the client, for `.connect`; the unspecified address for none.
  package var via = Address(high: 0, low: 0)
  package var listener: UInt8 = 0
  /// Which of the downstream's addresses, for `.downstreamFailed`.
  package var server: UInt8 = 0
  package var tier: Tier = .clean
  package var signals = SignalSet()
  /// The signal, for `.signal`.
  package var signal: Signal = .pregreet
  package var stage: Stage = .banner
  /// 0…1.
  package var score = 0.0
  /// Whether we only look on: what enforce would do is said and not done.
  package var observed = false
  /// For `.disconnect`.
  package var verdict = Verdict.pass
  /// Whose downstream it is, for `.downstreamDown` and `.downstreamUp`: each worker finds out for itself.
  package var worker: UInt16 = 0
  /// Microseconds of the matter at hand: a delay, how long it held, how long until it may try again.
  package var micros: Int64 = 0
  /// The session's length, in microseconds.
  package var held: Int64 = 0
  /// Artificial delay in all, in microseconds.
  package var delayed: Int64 = 0
  /// Microseconds in the tarpit, for `.disconnect`; -1 for who was not there, the maximum for who came there after so
  /// long that it is not known. Of who was there nothing is kept to count octets and commands with.
  package var tarpitted: Int64 = -1
  package var bytesIn: UInt64 = 0
  package var bytesOut: UInt64 = 0
  package var messages: UInt32 = 0
  /// The last reply code the client got; 0 for none.
  package var reply: UInt16 = 0
  /// Rule number + 1 in the access and the rate table; 0 for none.
  package var accessRule: UInt32 = 0
  package var rateRule: UInt32 = 0
  package var tallies = CommandTallies()
  /// What a rate rule asks for, for `.rateLimit`; `reply` is what the client hears for it, 0 for nothing.
  package var over = OverAction.slow
  /// The command that was refused, for `.reject`; and in which words, if they were ours: `own`, or `text` to who has
  /// just come. The downstream's are in `quote`.
  package var verb = Verb.unknown
  package var own: OwnReply?
  package var said: PitText?
  /// How many recipients a message has, for `.accepted`.
  package var recipients: UInt32 = 0
  /// How many octets the client or the downstream said, and the first line of it, cut where long and where it is
  /// nobody's business.
  package var quoteCount: UInt32 = 0
  package var quoteKept: UInt8 = 0
  package var quote = InlineArray<200, UInt8>(repeating: 0)
  /// What was exceeded, for `.rateLimit`, `.limit` and `.reject`; or how a downstream failed.
  package var subject: Subject = .none
  package var text = ClientText()
  /// For `.secured`.
  package var tls = TLSFacts()

  package init(_ event: Event, at: Instant) {
    self.event = event
    self.at = at
  }

  /// Quotes what was said: its first line, and of a log-in no more than how. Lines behind may hold a password.
  package mutating func quoteFirstLine(_ words: Span<UInt8>) {
    quoteCount = UInt32(words.count)
    var end = 0
    var spaces = beginsLogin(words) ? 2 : Int.max
    while end < min(words.count, quote.count) {
      if words[end] == UInt8(ascii: " ") { spaces -= 1 }
      if spaces == 0 { break }
      quote[end] = words[end]
      end += 1
      if words[end - 1] == lineFeed { break }
    }
    quoteKept = UInt8(end)
  }
}

/// What an entry is about, where the event alone does not say.
package enum Subject: UInt8, BitwiseCopyable, Sendable {
  case none, connections, concurrency, messages, recipients, errors, bytes, commands,
    unknownCommands,
    sessions, badSessions, slots, links, authFailures, time, tlsSessions
  case notTLS, noCipher, tlsVersion, certificate, alert, handshake, noTLS
  case connect, greeting, heloRefused, reply, malformedReply, unexpectedReply, wrongClass, closed,
    silence,
    early
  case headerNotTaken, greetingMissing, identityNotOffered, identityRefused, mechanismsCut
  case unlistedBalancer, headerMissing, headerMalformed, headerTooLong, headersWaiting,
    clientUnnamed
  case slotsOfAddress, slotsOfNetwork, sessionsOfAddress, sessionsOfNetwork, linksOfAddress,
    linksOfNetwork, tlsOfAddress, tlsOfNetwork, handshakesOfAddress, handshakesOfNetwork

  package var words: String {
    switch self {
    case .none: ""
    case .connections: "connection rate"
    case .concurrency: "concurrent connections"
    case .messages: "message rate"
    case .recipients: "recipient rate"
    case .errors: "error rate"
    case .bytes: "byte rate"
    case .commands: "command count"
    case .unknownCommands: "unknown commands"
    case .sessions: "no free session (limits.sessions)"
    case .badSessions: "tarpit sessions of this source (tarpit.sessions_per_source)"
    case .slots: "no free slot (limits.connections)"
    case .links: "no free downstream connection (limits.downstream_connections)"
    case .authFailures: "failed log-ins"
    case .time: "time"
    case .tlsSessions: "TLS sessions (limits.tls_sessions)"
    case .notTLS: "clear text in place of a handshake"
    case .noCipher: "no cipher in common"
    case .tlsVersion: "no protocol version in common"
    case .certificate: "certificate not accepted"
    case .alert: "the peer broke off the handshake"
    case .handshake: "handshake failed"
    case .noTLS: "TLS not offered"
    case .connect: "connection not made"
    case .greeting: "greeting refused"
    case .heloRefused: "EHLO and HELO refused"
    case .reply: "reply"
    case .malformedReply: "malformed reply"
    case .unexpectedReply: "reply without a command"
    case .wrongClass: "reply of a wrong class"
    case .closed: "connection closed"
    case .silence: "no answer in time"
    case .early: "spoke before the end of the message"
    case .headerNotTaken:
      "it did not take the PROXY header: let it expect one, or set downstream.identity to what it takes"
    case .greetingMissing:
      "no greeting, or 421: if it waits for a PROXY header, set downstream.identity to proxy_v2 or proxy_v1"
    case .mechanismsCut:
      "its EHLO lists more of AUTH than a reply has room for: clients are offered less"
    case .identityNotOffered:
      "its EHLO does not list XCLIENT or XFORWARD for this address: see downstream.identity"
    case .identityRefused: "it refused XCLIENT or XFORWARD: let it take them from this address"
    case .unlistedBalancer: "not a listed load balancer"
    case .headerMissing: "no PROXY header within 3 s"
    case .headerMalformed: "what came is no PROXY header"
    case .headerTooLong: "PROXY header longer than 2,048 octets behind its addresses"
    case .headersWaiting: "too many connections without their PROXY header"
    case .slotsOfAddress: "connections of this address (overload.share_per_address)"
    case .slotsOfNetwork: "connections of this network (overload.share_per_network)"
    case .sessionsOfAddress: "sessions of this address (overload.share_per_address)"
    case .sessionsOfNetwork: "sessions of this network (overload.share_per_network)"
    case .linksOfAddress: "downstream connections of this address (overload.share_per_address)"
    case .linksOfNetwork: "downstream connections of this network (overload.share_per_network)"
    case .tlsOfAddress: "TLS sessions of this address (overload.share_per_address)"
    case .tlsOfNetwork: "TLS sessions of this network (overload.share_per_network)"
    case .handshakesOfAddress: "TLS handshakes of this address (overload.share_per_address)"
    case .handshakesOfNetwork: "TLS handshakes of this network (overload.share_per_network)"
    case .clientUnnamed: "mail behind a PROXY header that names no client (LOCAL or UNKNOWN)"
    }
  }
}

/// Three short texts of the client (HELO name, sender, recipient) copied for the log, cut where long.
package struct ClientText: BitwiseCopyable, Sendable {
  package static let each = 100
  package var helo = InlineArray<100, UInt8>(repeating: 0)
  package var sender = InlineArray<100, UInt8>(repeating: 0)
  package var recipient = InlineArray<100, UInt8>(repeating: 0)
  package var heloCount: UInt8 = 0
  package var senderCount: UInt8 = 0
  package var recipientCount: UInt8 = 0
  /// Whether a sender was given at all: `<>` is one.
  package var hasSender = false
  package var extended = false
  package var encrypted = false
  package var authenticated = false
  package init() {}
}

/// The bounded queue of entries between the engine and whoever writes them down.
///
/// Full means that entries are dropped and counted: logging never slows a session.
package struct Journal: ~Copyable {
  private var entries: Slab<JournalEntry>
  private var head = 0
  package private(set) var count = 0
  package private(set) var dropped: UInt64 = 0

  package init(capacity: Int) {
    entries = Slab(capacity: max(capacity, 16), repeating: JournalEntry(.connect, at: .origin))
  }

  package mutating func append(_ entry: borrowing JournalEntry) {
    if count == entries.capacity {
      dropped += 1
      return
    }
    entries[(head + count) % entries.capacity] = copy entry
    count += 1
  }

  package mutating func next() -> JournalEntry? {
    if count == 0 { return nil }
    let entry = entries[head]
    head = (head + 1) % entries.capacity
    count -= 1
    return entry
  }
}

/// What a worker counted since it started. Each is only ever added to, gauges excepted.
package struct Counters: BitwiseCopyable, Sendable, Equatable {
  package var accepted: UInt64 = 0
  package var refused: UInt64 = 0
  package var shed: UInt64 = 0
  package var hangups: UInt64 = 0
  package var timeouts: UInt64 = 0
  package var passed: UInt64 = 0
  package var tarpitted: UInt64 = 0
  package var drips: UInt64 = 0
  package var delays: UInt64 = 0
  package var wouldDelay: UInt64 = 0
  package var delayedMicros: UInt64 = 0
  package var rateLimited: UInt64 = 0
  package var messages: UInt64 = 0
  package var messageBytes: UInt64 = 0
  package var recipients: UInt64 = 0
  package var rejectedDownstream: UInt64 = 0
  package var tempfailedByUs: UInt64 = 0
  package var linksOpened: UInt64 = 0
  package var linkFailures: UInt64 = 0
  package var possibleDuplicates: UInt64 = 0
  package var secondChances: UInt64 = 0
  package var protocolFaults: UInt64 = 0
  /// Connections to listeners behind a load balancer that did not come from one, or without its header.
  package var proxyRefused: UInt64 = 0
  /// Refused because their source holds its share of: slots (421), sessions (421), downstream connections (451), places
  /// for TLS and for handshakes (454).
  package var overShareSlots: UInt64 = 0
  package var overShareSessions: UInt64 = 0
  package var overShareLinks: UInt64 = 0
  package var overShareTLS: UInt64 = 0
  package var bytesIn: UInt64 = 0
  package var bytesOut: UInt64 = 0
  package var handshakes: UInt64 = 0
  package var handshakesInTurn: UInt64 = 0
  package var handshakesFailed: UInt64 = 0
  package var linksSecured: UInt64 = 0
  package var loginsFailed: UInt64 = 0
  /// What other workers have learnt of sources and was taken in here.
  package var changesHeardOf: UInt64 = 0
  package var spliced: UInt64 = 0
  /// Closing lines by what became of the session, whether they were written or left out.
  package var verdicts = VerdictCounts()
  // Gauges: as things are now.
  package var held: UInt64 = 0
  package var waiting: UInt64 = 0
  package var dripping: UInt64 = 0
  package var talking: UInt64 = 0
  package var links: UInt64 = 0
  package var tlsSessions: UInt64 = 0

  package init() {}

  /// Every figure with the name it has in the log and in metrics. Gauges are marked.
  package static var fields:
    [(name: String, isGauge: Bool, path: WritableKeyPath<Counters, UInt64>)]
  {
    [
      ("accepted", false, \.accepted), ("refused", false, \.refused), ("shed", false, \.shed),
      ("hangups", false, \.hangups), ("timeouts", false, \.timeouts), ("passed", false, \.passed),
      ("tarpitted", false, \.tarpitted), ("drips", false, \.drips), ("delays", false, \.delays),
      ("would_delay", false, \.wouldDelay), ("delayed_micros", false, \.delayedMicros),
      ("rate_limited", false, \.rateLimited), ("messages", false, \.messages),
      ("message_bytes", false, \.messageBytes), ("recipients", false, \.recipients),
      ("rejected_downstream", false, \.rejectedDownstream),
      ("tempfailed_by_us", false, \.tempfailedByUs), ("links_opened", false, \.linksOpened),
      ("link_failures", false, \.linkFailures),
      ("possible_duplicates", false, \.possibleDuplicates),
      ("second_chances", false, \.secondChances), ("protocol_faults", false, \.protocolFaults),
      ("proxy_refused", false, \.proxyRefused),
      ("over_share_connections", false, \.overShareSlots),
      ("over_share_sessions", false, \.overShareSessions),
      ("over_share_links", false, \.overShareLinks), ("over_share_tls", false, \.overShareTLS),
      ("bytes_in", false, \.bytesIn),
      ("bytes_out", false, \.bytesOut), ("tls_handshakes", false, \.handshakes),
      ("tls_handshakes_in_turn", false, \.handshakesInTurn),
      ("tls_handshakes_failed", false, \.handshakesFailed),
      ("tls_links", false, \.linksSecured), ("logins_failed", false, \.loginsFailed),
      ("changes_heard_of", false, \.changesHeardOf),
      ("tls_passed_on", false, \.spliced),
    ]
      + Verdict.allCases.map { ("verdict_" + $0.counterName, false, \.verdicts[$0]) }
      + [
        ("held", true, \.held),
        ("waiting", true, \.waiting), ("dripping", true, \.dripping), ("talking", true, \.talking),
        ("links", true, \.links), ("tls_sessions", true, \.tlsSessions),
      ]
  }

  /// Adds another worker's figures.
  package mutating func add(_ other: Counters) {
    for field in Self.fields { self[keyPath: field.path] &+= other[keyPath: field.path] }
  }
}
