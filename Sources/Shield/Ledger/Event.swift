// SPDX-License-Identifier: Apache-2.0
import SMTP

/// What happened, in the words of the log. Postfix's words where it has them.
package enum Event: UInt8, BitwiseCopyable, Sendable, CaseIterable {
  case connect, passNew, passOld, allowlisted, denylisted, signal, tarpit, delay, wouldDelay,
    rateLimit,
    reject, wouldReject, hangup, timeout, limit, shed, disconnect, downstreamDown, downstreamUp,
    downstreamFailed, possibleDuplicate, accepted, secured, notSecured, downstreamClear, spliced,
    proxyRefused, downstreamUnlike, share, dnsMatch, zoneFailed, zoneRecovered

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
    case .dnsMatch: "DNSBL"
    case .zoneFailed: "DNSBL FAILED"
    case .zoneRecovered: "DNSBL RECOVERED"
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
  /// Its handshake failed.
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
  var counterName: String { String(word.map { $0 == "-" ? "_" : $0 }) }
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

  fileprivate mutating func count(_ isGood: Bool) {
    all &+= 1
    if isGood { good &+= 1 }
  }
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

  /// Counts a command that was answered.
  mutating func count(_ verb: Verb, isGood: Bool) {
    switch verb {
    case .ehlo, .helo: helo.count(isGood)
    case .auth: auth.count(isGood)
    case .mail: mail.count(isGood)
    case .rcpt: rcpt.count(isGood)
    case .data: data.count(isGood)
    case .quit: quit.count(isGood)
    case .unknown, .binary, .http, .header, .tlsHello, .socks: unknown.count(isGood)
    default: other.count(isGood)
    }
  }

  package var listed: [(String, Tally)] {
    [
      ("helo", helo), ("auth", auth), ("mail", mail), ("rcpt", rcpt), ("data", data),
      ("quit", quit),
      ("other", other), ("unknown", unknown),
    ]
  }
}
