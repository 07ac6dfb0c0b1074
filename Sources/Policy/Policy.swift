// SPDX-License-Identifier: Apache-2.0
//
// What decides about peers, as one value: the operator's settings, the tables, and what each listener does. Nothing here
// acts; `Standing` judges an arrival by it, the engine all the rest.

package import Flow
package import Structures
package import Suspicion

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
  /// Each listener's, by its number: the order of the configuration.
  package var listeners = [ListenerTerms()]
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
  /// The DNS lists that are asked about clients of inbound listeners; nil for none.
  package var lists: ListTerms?
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
    listener < listeners.count ? listeners[listener].role : .inbound
  }

  /// How a listener's clients come to TLS; not at all by a number beyond the configured ones.
  package func tls(ofListener listener: Int) -> ListenerTLS {
    listener < listeners.count ? listeners[listener].tls : .off
  }

  /// The load balancers that alone may connect to a listener; nil where clients come by themselves.
  package func balancers(ofListener listener: Int) -> PrefixTable? {
    listener < listeners.count ? listeners[listener].balancers : nil
  }

  /// Whether a command that is understood but not to the letter is refused.
  package var refusesLapses: Bool { syntax == .strict && mode == .enforce }

  /// Whether clients that the DNS lists list are refused, now or later.
  package var refusesListed: Bool {
    lists.map { $0.rejectAt != .never } == true && self[.dnsListed].action == .enforce
  }

  /// Whether any listener offers STARTTLS of ours.
  package var offersTLS: Bool { listeners.contains { $0.tls == .starttls } }

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
    let isAllowed = seen.contains(SignalSet(.dnsAllowed)) && self[.dnsAllowed].action == .enforce
    return known || isAllowed ? .known : .clean
  }
}
