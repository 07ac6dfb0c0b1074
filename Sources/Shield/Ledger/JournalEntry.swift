// SPDX-License-Identifier: Apache-2.0
package import DNSLists
package import Flow
package import SMTP
package import Structures
package import Suspicion

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
  /// The worker that noticed, for `.downstreamDown` and `.downstreamUp`: each finds out for itself.
  package var worker: UInt16 = 0
  /// Microseconds of what the entry is about: a delay, how long it held, how long until it may try again.
  package var micros: Int64 = 0
  /// The session's length, in microseconds.
  package var held: Int64 = 0
  /// Artificial delay in all, in microseconds.
  package var delayed: Int64 = 0
  /// Microseconds in the tarpit, for `.disconnect`; -1 for a client that was not there, the maximum if it came there so
  /// late that the time is unknown. For tarpitted clients octets and commands are not counted.
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
  /// What a rate rule asks for, for `.rateLimit`; `reply` is the code that the client gets, 0 for none.
  package var over = OverAction.slow
  /// The command that was refused, for `.reject`; and our words, if they were ours: `own`, or `said` for a client that
  /// has just connected. The downstream's words are in `quote`.
  package var verb = Verb.unknown
  package var own: OwnReply?
  package var said: PitText?
  /// How many recipients a message has, for `.accepted`.
  package var recipients: UInt32 = 0
  /// How many octets the client or the downstream said, and the first line, cut where it is long or confidential.
  package var quoteCount: UInt32 = 0
  package var quoteKept: UInt8 = 0
  package var quote = InlineArray<200, UInt8>(repeating: 0)
  /// What was exceeded, for `.rateLimit`, `.limit` and `.reject`; or how a downstream failed.
  package var subject: Subject = .none
  package var text = ClientText()
  /// The items of the lists that it is on and the sum of their weights, for `.dnsMatch`.
  package var matched = ItemSet()
  package var rank: Int32 = 0
  /// Which zone of the lists, and what its test came to, for `.zoneFailed` and `.zoneRecovered`.
  package var zone: UInt8 = 0
  package var outcome = HealthOutcome.healthy
  /// For `.secured`.
  package var tls = TLSFacts()

  package init(_ event: Event, at: Instant) {
    self.event = event
    self.at = at
  }

  /// Quotes what was said: its first line, and of a log-in only the mechanism. Further lines may hold a password.
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
