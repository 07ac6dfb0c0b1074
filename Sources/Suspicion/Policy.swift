// SPDX-License-Identifier: Apache-2.0
package import Flow
package import Structures

/// Whether decisions are carried out.
package enum Mode: UInt8, Sendable {
  /// Everything is decided and recorded; no client is delayed, limited or rejected by judgement.
  case observe
  /// Decisions are carried out.
  case enforce

  package var name: String { self == .observe ? "observe" : "enforce" }
}

/// What a bare LF or CR in a line does.
package enum BareNewline: UInt8, Sendable {
  /// 521 and the session ends, as Postfix's `smtpd_forbid_bare_newline = reject`.
  case reject
  /// A bare LF ends a line as CRLF does, and leaves as CRLF, as with Postfix's `smtpd_forbid_bare_newline = normalize`;
  /// no end of data can come from it (`EndOfDataScanner`). A bare CR is still rejected.
  case normalize
}

/// What becomes of commands that depart from the letter of the RFCs while there is no doubt what was meant.
package enum Syntax: UInt8, Sendable {
  /// They go on in their canonical form, and count as the signal `loose_syntax`.
  case tolerant
  /// They are refused.
  case strict
}

/// Which way a listener's mail goes.
package enum Role: UInt8, Sendable {
  /// From strangers to our users: no AUTH.
  case inbound
  /// From our users to strangers: AUTH is passed to the downstream.
  case outbound
}

/// How a listener's clients come to TLS.
package enum ListenerTLS: String, Sendable, CaseIterable {
  /// Not at all.
  case off
  /// By STARTTLS (RFC 3207).
  case starttls
  /// From the first octet on (RFC 8314, 3.3).
  case implicit
  /// STARTTLS is the downstream's: Sluice passes octets on and reads none.
  case passThrough = "pass_through"
}

/// Whether there is TLS on the way to a downstream. Postfix's words are `may`, `encrypt` and `secure`.
package enum DownstreamTLS: String, Sendable, CaseIterable {
  case off
  /// Where the downstream offers it and it works; whoever it is.
  case opportunistic
  /// Always; whoever it is.
  case required
  /// Always, and only with a certificate for its name from an authority that is trusted.
  case verify
}

/// Log-ins that may fail within an hour, all at once or one by one.
package struct LoginLimits: Sendable, Equatable {
  /// Of an address (/32, /64); beyond them it is answered 454 4.7.0 and the downstream is not asked.
  package var addressFailures = 20 { didSet { address = Self.rate(addressFailures) } }
  /// Of a network (/24, /48); beyond them each waits as long as may be.
  package var networkFailures = 200 { didSet { network = Self.rate(networkFailures) } }
  /// Of a user name, wherever it is tried; the same.
  package var userFailures = 20 { didSet { user = Self.rate(userFailures) } }
  package private(set) var address = Self.rate(20)
  package private(set) var network = Self.rate(200)
  package private(set) var user = Self.rate(20)

  package init() {}

  private static func rate(_ count: Int) -> Rate {
    Rate(UInt64(max(count, 1)), per: .seconds(3_600)) ?? .unlimited
  }
}

/// Limits of one SMTP session, each with the reply a peer gets at it.
package struct SessionLimits: Sendable, Equatable {
  /// Octets in a command line, CRLF included: 512 (RFC 5321, 4.5.3.1.4) and room for ESMTP parameters.
  /// Over it: 500 5.5.2.
  package var commandBytes = 2_048
  /// Octets in a line of AUTH, or in an answer to a challenge, CRLF not counted: as many as mechanisms that are in use
  /// need (RFC 4954, 4). They lie in the session's input buffer, which is larger. Over it: 500 5.5.6.
  package static let loginBytes = 12_288
  /// Octets in a line of a message without its CRLF; 0 for no limit. RFC 5321 says 998, but honest
  /// software exceeds it, and cutting lines is how dots get smuggled: so refuse far above it, with 554 5.6.0.
  package var textLineBytes = 1_048_576
  /// Octets of a message; 0 for what the downstream says. Over it: 552 5.3.4.
  package var messageBytes: UInt64 = 0
  /// Recipients of a message. Over it: 452 4.5.3.
  package var recipients = 1_000
  /// Commands in a session. Over it: 421 4.7.0 and the end.
  package var commands = 5_000
  /// Commands without mail (NOOP, RSET, VRFY, HELO …) in a row. Over it: signal `command_flood`.
  package var idleCommands = 50
  /// Replies of 4xx and 5xx to commands in a session. Over it: 421 4.7.0 and the end.
  package var errors = 50
  /// Unknown commands in a session. Over it: 421 4.7.0 and the end.
  package var unknownCommands = 5
  /// Refused recipients in a session from which on the signal `bad_recipients` is seen.
  package var badRecipients = 3
  /// Errors in a session from which on the signal `errors` is seen.
  package var errorStreak = 5
  /// Failed log-ins in a session. At it: 421 4.7.0 and the end.
  package var authFailures = 5

  package init() {}
}

/// How long we wait for what, in microseconds. Client side: RFC 5321, 4.5.3.2 asks a server for 5 min.
package struct Timeouts: Sendable, Equatable {
  /// For the next command, whole, from a client.
  package var command: Int64 = 300_000_000
  /// The same once slots run out (postscreen and smtpd use 10 s under stress).
  package var commandUnderStress: Int64 = 10_000_000
  /// For a whole message once sessions or downstream connections run out, and a second more for each KiB of it; half
  /// as long for a source that holds more than it would get now. Counted from the reply to the last one.
  package var messageUnderStress: Int64 = 60_000_000
  /// For more of a message from a client.
  package var body: Int64 = 180_000_000
  /// For a client to take a reply.
  package var send: Int64 = 60_000_000
  /// For a whole session.
  package var session: Int64 = 7_200_000_000
  package var connect: Int64 = 30_000_000
  package var greeting: Int64 = 300_000_000
  package var reply: Int64 = 300_000_000
  package var data: Int64 = 120_000_000
  package var block: Int64 = 180_000_000
  package var endOfData: Int64 = 600_000_000
  /// For a TLS handshake, until its end.
  package var handshake: Int64 = 60_000_000
  /// How long a closed session may still be read from, so that its last reply is not lost to a reset.
  package var drain: Int64 = 2_000_000
  package init() {}
}

/// The whole of what decides about peers: one immutable value, swapped as one on reload.
package struct Policy: Sendable {
  package var mode: Mode = .observe
  /// Our name in the banner and the EHLO reply.
  package var hostname = "localhost" { didSet { foldNames() } }
  /// Names that are ours besides the hostname: a stranger's HELO with one of them is a lie.
  package var ownNames: [String] = [] { didSet { foldNames() } }
  /// The hostname's octets, ready for the wire.
  package private(set) var hostnameBytes = Array("localhost".utf8)
  /// The octets of the hostname and of every own name.
  package private(set) var ownNameBytes: [[UInt8]] = [Array("localhost".utf8)]
  /// The role of each listener, in the order of the configuration.
  package var roles: [Role] = [.inbound]
  /// How clients of each listener come to TLS, in the same order.
  package var tls: [ListenerTLS] = [.off]
  /// Offer AUTH to clients that do not speak TLS.
  package var authOnClear = false
  /// Handshakes of a source (/32 or /64) that are done at once; those beyond wait their turn.
  package var handshakes = Rate(1, per: .seconds(1), burst: 20) ?? .unlimited
  package var ownAddresses: [Address] = []
  package var signals: [SignalRule] = Signal.allCases.map(SignalRule.shipped)
  package var delays = Delays()
  /// Score from which on a peer is T2.
  package var suspiciousScore = 0.3
  package var session = SessionLimits()
  package var logins = LoginLimits()
  package var timeouts = Timeouts()
  package var syntax: Syntax = .tolerant
  package var bareNewline: BareNewline = .normalize
  package var access: AccessTable
  package var rates: RateTable
  /// How long an accepted message makes a source known good, in microseconds.
  package var goodFor: Int64 = 30 * 86_400 * 1_000_000
  /// How long a proof is remembered, in microseconds.
  package var badFor: Int64 = 3_600 * 1_000_000
  /// The soonest return that earns a second chance, in microseconds.
  package var secondChanceAfter: Int64 = 60_000_000
  package var secondChance = true
  /// T3 sessions a source (/32 or /64) may have held at once; more get 421 at once. 1…100.
  package var badSessionsPerSource = 3
  /// The longest a T3 session is held in all, in microseconds; then 421.
  package var badSession: Int64 = 600_000_000
  /// Share of slots from which on T3 is held 30 s at most.
  package var shrinkAt = 0.7
  /// Share of slots from which on T3 gets 421 at once and T2 waits less.
  package var shedAt = 0.9
  /// Share of slots kept for T0.
  package var reservedForKnown = 0.05
  /// The share of slots, sessions, downstream connections and places for TLS that one address may hold (/32, /64); 1 for
  /// any number. A client that has delivered mail may have four times as much, a trusted one as much as there is.
  package var sharePerAddress = 0.05
  /// The same for a network (/24, /48).
  package var sharePerNetwork = 0.2

  package init(access: AccessTable, rates: RateTable) {
    self.access = access
    self.rates = rates
  }

  private mutating func foldNames() {
    hostnameBytes = Array(hostname.utf8)
    ownNameBytes = ([hostname] + ownNames).map { Array($0.utf8) }
  }

  /// What a listener's mail is; a number beyond the configured ones counts as inbound, the stricter.
  package func role(ofListener listener: Int) -> Role {
    listener < roles.count ? roles[listener] : .inbound
  }

  /// How a listener's clients come to TLS; not at all by a number beyond the configured ones.
  package func tls(ofListener listener: Int) -> ListenerTLS {
    listener < tls.count ? tls[listener] : .off
  }

  /// Whether a command that is understood but not to the letter is refused.
  package var refusesLapses: Bool { syntax == .strict && mode == .enforce }

  /// Whether any listener offers STARTTLS of ours.
  package var offersTLS: Bool { tls.contains(.starttls) }

  package subscript(_ signal: Signal) -> SignalRule {
    get { signals[Int(signal.rawValue)] }
    set { signals[Int(signal.rawValue)] = newValue }
  }

  /// The score of a set of signals: the enforced weights added up, at most 1.
  package func score(_ seen: SignalSet) -> Double {
    var sum = 0.0
    var bits = seen.rawValue
    while bits != 0 {
      let rule = signals[bits.trailingZeroBitCount]
      if rule.action == .enforce { sum += rule.weight }
      bits &= bits - 1
    }
    return min(sum, 1)
  }

  /// The tier a peer has earned.
  ///
  /// - Parameters:
  ///   - known: its mail was accepted within `goodFor`.
  ///   - trusted: the operator vouches for it in a table; then no signal counts.
  package func tier(_ seen: SignalSet, known: Bool, trusted: Bool) -> Tier {
    if trusted { return .known }
    var bits = seen.rawValue
    while bits != 0 {
      let rule = signals[bits.trailingZeroBitCount]
      if rule.action == .enforce && rule.proof { return .bad }
      bits &= bits - 1
    }
    if score(seen) >= suspiciousScore { return .suspicious }
    return known ? .known : .clean
  }
}
