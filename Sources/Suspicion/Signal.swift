// SPDX-License-Identifier: Apache-2.0

/// What a peer can do that tells something about it, without asking any third party.
///
/// A signal is a fact with a name; what it weighs and whether it acts is configuration. The raw value
/// is its bit in a `SignalSet` and its place in the policy's table. Names are the keys of `signals:`
/// in the configuration, the words in the log and the labels of the metrics.
package enum Signal: UInt8, BitwiseCopyable, CaseIterable, Sendable {
  /// Bytes arrived before the banner was sent (postscreen's PREGREET).
  case pregreet
  /// Commands were sent ahead of a reply where pipelining is not allowed (RFC 2920, 3.1).
  case pipelining
  /// A verb of another protocol (GET, CONNECT) or a header line stood where a command belongs.
  case nonSMTP
  /// Control, NUL or 8-bit octets in a command.
  case binary
  /// A TLS ClientHello on a port that speaks clear text first.
  case tlsHello
  /// A line ended in LF alone, or held a bare CR.
  case bareNewline
  /// HELO with a single label ("friend"), which RFC 5321 (2.3.5) does not allow.
  case heloBareWord
  /// HELO with a name of ours.
  case heloOwnName
  /// HELO with an address of ours.
  case heloOwnAddress
  /// HELO with an address literal that is not the client's.
  case heloForeignLiteral
  /// HELO with an address without brackets.
  case heloBareAddress
  /// HELO that is no name at all.
  case heloInvalid
  /// Several recipients in this session were refused by the downstream.
  case badRecipients
  /// Several commands in this session were answered 5xx.
  case errors
  /// Log-in failed (the downstream's 535).
  case authFailure
  /// A command no SMTP server knows.
  case unknownCommand
  /// More commands than mail needs.
  case commandFlood
  /// A rule of the rate table was exceeded.
  case rateExcess
  /// The access or rate table says `suspicious`.
  case listedSuspicious
  /// The access or rate table says `bad`.
  case listedBad
  /// This address was proven bad a short while ago.
  case history
  /// A command that departs from the letter of the RFCs, though it is clear what was meant.
  case looseSyntax
  /// The DNS lists together say that it is listed (`lists`, `threshold`).
  case dnsListed
  /// The DNS lists together vouch for it (`lists`, `allow_threshold`): with nothing against it, it is T0.
  case dnsAllowed

  /// The name in configuration, log and metrics.
  package var name: String {
    switch self {
    case .pregreet: "pregreet"
    case .pipelining: "pipelining"
    case .nonSMTP: "non_smtp"
    case .binary: "binary"
    case .tlsHello: "tls_hello"
    case .bareNewline: "bare_newline"
    case .heloBareWord: "helo_bare_word"
    case .heloOwnName: "helo_own_name"
    case .heloOwnAddress: "helo_own_address"
    case .heloForeignLiteral: "helo_foreign_literal"
    case .heloBareAddress: "helo_bare_address"
    case .heloInvalid: "helo_invalid"
    case .badRecipients: "bad_recipients"
    case .errors: "errors"
    case .authFailure: "auth_failure"
    case .unknownCommand: "unknown_command"
    case .commandFlood: "command_flood"
    case .rateExcess: "rate_excess"
    case .listedSuspicious: "listed_suspicious"
    case .listedBad: "listed_bad"
    case .history: "history"
    case .looseSyntax: "loose_syntax"
    case .dnsListed: "dns_listed"
    case .dnsAllowed: "dns_allowed"
    }
  }

  /// Whether this alone may prove a peer bad. Never HELO syntax alone: honest appliances get it wrong
  /// (evidence: 92 % of spam fails some HELO test, and so does a part of honest mail).
  package var mayProve: Bool {
    switch self {
    case .heloBareWord, .heloBareAddress, .heloInvalid, .heloForeignLiteral, .history, .rateExcess,
      .unknownCommand, .bareNewline, .tlsHello, .binary, .errors, .looseSyntax, .dnsAllowed:
      false
    default: true
    }
  }
}

extension Signal {
  /// Whether it is seen when a client connects, if ever (`Standing`): it tells of what is known, not of what is done.
  package var isSeenAtConnect: Bool {
    switch self {
    case .listedSuspicious, .listedBad, .history: true
    default: false
    }
  }

  /// Whether it tells how a stranger speaks, and not what is known of it or what it does to others. Of a client that
  /// has logged in that tells nothing: users' programs speak as they were written, and people mistype.
  package var isForm: Bool {
    switch self {
    case .badRecipients, .rateExcess, .listedSuspicious, .listedBad, .history, .dnsListed,
      .dnsAllowed:
      false
    case .pregreet, .pipelining, .nonSMTP, .binary, .tlsHello, .bareNewline, .heloBareWord,
      .heloOwnName, .heloOwnAddress, .heloForeignLiteral, .heloBareAddress, .heloInvalid, .errors,
      .authFailure, .unknownCommand, .commandFlood, .looseSyntax:
      true
    }
  }
}

/// The signals seen in one session, one bit each.
@frozen
package struct SignalSet: OptionSet, BitwiseCopyable, Hashable, Sendable {
  package let rawValue: UInt32
  @inlinable package init(rawValue: UInt32) { self.rawValue = rawValue }
  @inlinable package init(_ signal: Signal) { rawValue = 1 << UInt32(signal.rawValue) }

  /// Those that tell of form alone (`Signal.isForm`).
  package static let ofForm = SignalSet(Signal.allCases.filter(\.isForm).map { SignalSet($0) })

  /// The signals in this set, in the order of their declaration.
  package var members: [Signal] { Signal.allCases.filter { contains(SignalSet($0)) } }
}

/// What a signal does once it is seen.
package enum SignalAction: UInt8, Sendable, CaseIterable {
  /// Not even recorded.
  case ignore
  /// Recorded and logged; the verdict does not change.
  case observe
  /// Counts.
  case enforce

  package var name: String {
    switch self {
    case .ignore: "ignore"
    case .observe: "observe"
    case .enforce: "enforce"
    }
  }
}

/// One row of the `signals:` table.
package struct SignalRule: Sendable, Equatable {
  /// Added to the score, 0…1.
  package var weight: Double
  package var action: SignalAction
  /// Whether the signal alone makes a peer T3.
  package var proof: Bool

  package init(weight: Double, action: SignalAction = .enforce, proof: Bool = false) {
    self.weight = weight
    self.action = action
    self.proof = proof
  }

  /// What ships. Weights are a judgement from the evidence (share of bots that do it, share of honest
  /// senders that do): two weak signs make a suspect, one strong sign is enough.
  package static func shipped(_ signal: Signal) -> SignalRule {
    switch signal {
    case .pregreet, .nonSMTP, .listedBad: SignalRule(weight: 1, proof: true)
    case .pipelining: SignalRule(weight: 0.6)
    case .binary: SignalRule(weight: 0.6)
    case .tlsHello: SignalRule(weight: 0.4)
    case .bareNewline: SignalRule(weight: 0.4)
    case .heloBareWord: SignalRule(weight: 0.3)
    case .heloOwnName: SignalRule(weight: 0.9)
    case .heloOwnAddress: SignalRule(weight: 0.9)
    case .heloForeignLiteral: SignalRule(weight: 0.4)
    case .heloBareAddress: SignalRule(weight: 0.4)
    case .heloInvalid: SignalRule(weight: 0.5)
    case .badRecipients: SignalRule(weight: 0.5)
    case .errors: SignalRule(weight: 0.3)
    case .authFailure: SignalRule(weight: 0.4)
    case .unknownCommand: SignalRule(weight: 0.2)
    case .commandFlood: SignalRule(weight: 0.5)
    case .rateExcess: SignalRule(weight: 0.4)
    case .listedSuspicious: SignalRule(weight: 1)
    case .history: SignalRule(weight: 1)
    case .looseSyntax: SignalRule(weight: 0.2)
    case .dnsListed: SignalRule(weight: 1)
    case .dnsAllowed: SignalRule(weight: 0)
    }
  }
}
