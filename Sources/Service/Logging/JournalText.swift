// SPDX-License-Identifier: Apache-2.0
//
// Journal entries as the lines an administrator reads and fail2ban and pflogsumm parse: Postfix's event
// words, `from [address]:port`, and one closing line per session that answers "what happened to this
// client". Everything a client said is escaped. Not the writing itself: that is LineLogHandler's.

import DNSLists
import Flow
package import Policy
import SMTP
package import Shield
import Structures
import Suspicion
import TLS

package struct JournalText {
  /// The policy in force when the line is written, for rule positions and signal weights.
  package var policy: Policy
  /// Where the downstream is, as a line names it, by the number of the address.
  package var downstream: [String]

  package init(policy: Policy, downstream: [String] = []) {
    self.policy = policy
    self.downstream = downstream
  }

  /// A session's id as client, log and `explain` write it.
  package static func id(_ session: UInt64) -> String {
    let hex = String(session, radix: 16)
    return String(repeating: "0", count: max(16 - hex.count, 0)) + hex
  }

  private static func seconds(_ micros: Int64) -> String {
    let tenths = (micros + 50_000) / 100_000
    return "\(tenths / 10).\(tenths % 10)"
  }

  private static func hundredths(_ micros: Int64) -> String {
    let hundredths = (micros + 5_000) / 10_000
    let rest = hundredths % 100
    return "\(hundredths / 100).\(rest < 10 ? "0" : "")\(rest)"
  }

  private func client(_ entry: JournalEntry) -> String { "[\(entry.address)]:\(entry.port)" }

  private func score(_ value: Double) -> String {
    let hundredths = Int((value * 100).rounded())
    return "\(hundredths / 100).\(hundredths % 100 < 10 ? "0" : "")\(hundredths % 100)"
  }

  /// The line of an entry, without time and tag.
  package func line(_ entry: JournalEntry) -> String {
    let from = client(entry)
    let id = "id=\(Self.id(entry.session))"
    let would = entry.observed ? "would " : ""
    switch entry.event {
    case .connect:
      let via = entry.via == Address(high: 0, low: 0) ? "" : " via [\(entry.via)]"
      return "CONNECT from \(from)\(via) \(id) tier=\(entry.tier.name)\(rules(entry))"
    case .passNew: return "PASS NEW \(from) \(id)\(reasons(entry))"
    case .passOld: return "PASS OLD \(from) \(id)\(reasons(entry))"
    case .allowlisted: return "ALLOWLISTED \(from) \(id)\(rules(entry))"
    case .denylisted:
      return
        "DENYLISTED \(from) \(id)\(rules(entry))"
        + (entry.observed ? ": would be refused with \(PitText.rejected.code)" : "")
    case .signal: return signal(entry)
    case .tarpit:
      return
        "TARPIT \(would)\(Self.seconds(entry.micros))s at \(entry.stage.name) for \(from) \(id)"
        + reasons(entry) + said(entry)
    case .delay, .wouldDelay:
      return
        "DELAY \(would)\(Self.seconds(entry.micros))s at \(entry.stage.name) for \(from) \(id) "
        + "tier=\(entry.tier.name) score=\(score(entry.score))\(reasons(entry))"
    case .rateLimit:
      return
        "RATE \(entry.subject.words) exceeded by \(from) \(id) over=\(entry.over.name): "
        + "\(consequence(entry)) wait=\(Self.seconds(entry.micros))s\(rules(entry))"
    case .reject: return rejection(entry)
    case .wouldReject: return warning(entry)
    case .hangup:
      return
        "HANGUP after \(Self.seconds(entry.held)) from \(from) \(id) in tests \(entry.stage.name)"
    case .timeout: return "COMMAND TIME LIMIT from \(from) \(id) after \(Self.seconds(entry.held))"
    case .limit: return "LIMIT \(entry.subject.words) reached by \(from) \(id)"
    case .shed: return "SHED \(from) \(id): \(entry.subject.words)\(reasons(entry))"
    case .disconnect: return closing(entry)
    case .downstreamDown: return "DOWNSTREAM DOWN: new mail is deferred with 451 until it answers"
    case .downstreamUp: return "DOWNSTREAM UP"
    case .downstreamFailed:
      let whom = entry.session == 0 ? "in a probe" : "for \(from) \(id)"
      return "DOWNSTREAM FAILED \(whom): \(place(entry)): \(entry.subject.words)"
    case .downstreamUnlike:
      return
        "DOWNSTREAM UNLIKE for \(from) \(id): it offers this client less than it offered the "
        + "probe: for an hour EHLO waits for each client's own downstream connection"
    case .possibleDuplicate:
      return
        "POSSIBLE DUPLICATE \(id): the client disconnected before the reply to a message that was accepted"
    case .share:
      // A client that was refused when it connected has no session.
      let whom = entry.session == 0 ? from : "\(from) \(id)"
      return "SHARE \(whom): \(entry.reply) for \(entry.subject.words)"
    case .dnsMatch, .zoneFailed, .zoneRecovered: return list(entry)
    case .proxyRefused: return "PROXY refused from \(from): \(entry.subject.words)"
    case .accepted:
      let number = QueueID.find(in: quoted(entry)).map { " queue_id=\($0)" } ?? ""
      return "ACCEPTED from \(from) \(id)\(number) \(envelope(entry))"
    case .secured: return "TLS from \(from) \(id) \(tls(entry.tls))"
    case .notSecured: return "TLS FAILED \(from) \(id): \(entry.subject.words)"
    case .spliced:
      return
        "TLS PASSED ON from \(from) \(id): the rest of the session is between client and downstream"
    case .downstreamClear:
      return
        "DOWNSTREAM IN CLEAR for five minutes: its TLS does not work: \(entry.subject.words)"
    }
  }

  /// What a DNS list said, or what became of it.
  private func list(_ entry: JournalEntry) -> String {
    switch entry.event {
    case .dnsMatch:
      return "DNSBL rank \(entry.rank) for \(client(entry)) id=\(Self.id(entry.session)): "
        + zones(entry.matched)
    case .zoneFailed:
      return "DNSBL FAILED \(zone(entry.zone)): \(entry.outcome.words): "
        + "it does not count until its test succeeds"
    default: return "DNSBL RECOVERED \(zone(entry.zone)): it counts again"
    }
  }

  /// The items that a client is on, by the names of their zones: never the key that a name may have.
  private func zones(_ matched: ItemSet) -> String {
    guard let sites = policy.lists?.sites else { return "" }
    return sites.items.indices.filter { matched.contains(ItemSet(item: $0)) }
      .map { "\(sites.items[$0].zone.publicName)*\(sites.items[$0].weight)" }
      .joined(separator: " ")
  }

  private func zone(_ number: UInt8) -> String {
    guard let zones = policy.lists?.sites.zones, Int(number) < zones.count else {
      return "zone \(number)"
    }
    return zones[Int(number)].publicName
  }

  private func signal(_ entry: JournalEntry) -> String {
    let rule = policy[entry.signal]
    let facts =
      "from \(client(entry)) id=\(Self.id(entry.session)) weight=\(score(rule.weight)) "
      + "action=\(rule.action.name)" + (entry.observed ? " mode=observe" : "")
      + " score=\(score(entry.score)) tier=\(entry.tier.name)"
    if entry.signal == .pregreet {
      // What it said stands last: no word of it can pass for one of ours.
      return
        "PREGREET \(entry.quoteCount) after \(Self.hundredths(entry.held)) \(facts): \(quote(entry))"
    }
    return "SIGNAL \(entry.signal.name) after \(Self.seconds(entry.held)) \(facts)" + said(entry)
  }

  private func rejection(_ entry: JournalEntry) -> String {
    let isOurs = entry.own != nil || entry.said != nil
    return "NOQUEUE: reject: \(command(entry)) from unknown\(client(entry)): \(reply(entry)); "
      + (entry.said == nil ? envelope(entry) + " " : "") + "id=\(Self.id(entry.session))"
      + (isOurs ? rules(entry) : "")
  }

  /// Postfix's word for what `warn_if_reject` lets through.
  private func warning(_ entry: JournalEntry) -> String {
    "NOQUEUE: reject_warning: \(command(entry)) from unknown\(client(entry)): would be "
      + "\(reply(entry)); \(envelope(entry)) id=\(Self.id(entry.session))"
  }

  /// The address that a connection to the downstream went to.
  private func place(_ entry: JournalEntry) -> String {
    let number = Int(entry.server)
    return number < downstream.count ? downstream[number] : "the downstream"
  }

  /// In Postfix's words.
  private func tls(_ facts: TLSFacts) -> String {
    let name = (0..<Int(facts.nameCount)).map { facts.name[$0] }
    let version = facts.version == 0x0304 ? "TLSv1.3" : facts.version == 0x0303 ? "TLSv1.2" : "TLS"
    return "\(version) with cipher \(TLSCipher.name(facts.cipher)) (\(facts.bits) bits)"
      + (facts.isResumed ? ", resumed" : "")
      + (facts.hasCertificate
        ? ", client certificate \(facts.isVerified ? "verified" : "not verified")\(certificate(facts))"
        : "")
      + (name.isEmpty ? "" : " sni=<\(escape(name))>")
  }

  /// Whose certificate it says it is, and the fingerprint that tells it from others.
  private func certificate(_ facts: TLSFacts) -> String {
    let digits = Array("0123456789abcdef")
    var fingerprint = ""
    for k in 0..<facts.fingerprint.count {
      fingerprint.append(digits[Int(facts.fingerprint[k] >> 4)])
      fingerprint.append(digits[Int(facts.fingerprint[k] & 15)])
    }
    let subject = (0..<Int(facts.subjectCount)).map { facts.subject[$0] }
    return " subject=<\(escape(subject))> sha256=\(fingerprint)"
  }

  private func command(_ entry: JournalEntry) -> String {
    if entry.said != nil { return "CONNECT" }
    return switch entry.verb {
    case .data where entry.stage == .endOfData: "END-OF-MESSAGE"
    case .ehlo, .helo, .mail, .rcpt, .data, .auth, .starttls, .rset:
      entry.verb.name.map { "\($0)" } ?? "UNKNOWN"
    default: "UNKNOWN"
    }
  }

  /// What the client gets: our words, or the first line of the downstream's.
  private func reply(_ entry: JournalEntry) -> String {
    if let own = entry.own {
      let name = own == .clientListed ? policy.lists?.name(of: entry.matched) ?? [] : []
      return "\(own.code) \(own.text)"
        + (name.isEmpty ? "" : " \(String(decoding: name, as: UTF8.self))")
    }
    if let text = entry.said {
      return String(
        text.words(host: policy.hostname, offersTLS: policy.offersTLS).prefix { !$0.isNewline })
    }
    var line = quoted(entry).prefix { $0 != 13 && $0 != 10 }
    // As the last line of its reply would begin.
    if line.count > 3 { line[3] = 32 }
    return line.isEmpty ? "\(entry.reply)" : escape(line, limit: entry.quote.count)
  }

  /// What is done about a limit that is exceeded.
  private func consequence(_ entry: JournalEntry) -> String {
    let would = entry.observed ? "would be " : ""
    if entry.reply > 0 { return "\(would)\(entry.reply)" }
    return would + (entry.over == .drop ? "closed" : "slowed")
  }

  private func quoted(_ entry: JournalEntry) -> [UInt8] {
    (0..<min(Int(entry.quoteKept), entry.quote.count)).map { entry.quote[$0] }
  }

  private func quote(_ entry: JournalEntry) -> String { escape(quoted(entry)) }

  private func envelope(_ entry: JournalEntry) -> String {
    var parts: [String] = []
    if entry.text.hasSender || entry.text.senderCount > 0 {
      parts.append("from=\(text(entry.text.sender, entry.text.senderCount))")
    }
    if entry.text.recipientCount > 0 {
      parts.append("to=\(text(entry.text.recipient, entry.text.recipientCount))")
    }
    if entry.recipients > 1 || entry.recipients == 1 && entry.text.recipientCount == 0 {
      parts.append("nrcpt=\(entry.recipients)")
    }
    parts.append("proto=\(proto(entry.text))")
    parts.append("helo=<\(helo(entry))>")
    return parts.joined(separator: " ")
  }

  /// RFC 3848.
  private func proto(_ text: ClientText) -> String {
    if !text.extended { return "SMTP" }
    return "ESMTP" + (text.encrypted ? "S" : "") + (text.authenticated ? "A" : "")
  }

  private func said(_ entry: JournalEntry) -> String {
    entry.text.heloCount == 0 ? "" : " helo=<\(helo(entry))>"
  }

  /// What the client greeted with. It may hold blanks and brackets: no word of it can pass for one of ours.
  private func helo(_ entry: JournalEntry) -> String {
    text(entry.text.helo, entry.text.heloCount).replacing(" ", with: "\\x20")
      .replacing(">", with: "\\x3e")
  }

  private func text(_ bytes: InlineArray<100, UInt8>, _ count: UInt8) -> String {
    escape((0..<Int(count)).map { bytes[$0] })
  }

  /// The signals that speak against a client, each with its weight.
  private func reasons(_ entry: JournalEntry) -> String {
    let names = entry.signals.members.map { "\($0.name)=\(score(policy[$0].weight))" }
    return (names.isEmpty ? "" : " reasons=" + names.joined(separator: ",")) + rules(entry)
  }

  /// Where the rules that matched stand.
  private func rules(_ entry: JournalEntry) -> String {
    var parts = ""
    if entry.accessRule > 0, let position = policy.access.position(Int(entry.accessRule) - 1) {
      parts += " access=\(position.file):\(position.line)"
    }
    if entry.rateRule > 0, let position = policy.rates.position(Int(entry.rateRule) - 1) {
      parts += " rate=\(position.file):\(position.line)"
    }
    return parts
  }

  /// The one line that says what became of a session.
  private func closing(_ entry: JournalEntry) -> String {
    var tallies: [String] = []
    var good = 0
    var all = 0
    for (name, tally) in entry.tallies.listed where tally.all > 0 {
      tallies.append(
        tally.good == tally.all ? "\(name)=\(tally.all)" : "\(name)=\(tally.good)/\(tally.all)")
      good += Int(tally.good)
      all += Int(tally.all)
    }
    tallies.append(good == all ? "commands=\(all)" : "commands=\(good)/\(all)")
    let line =
      "DISCONNECT from \(client(entry)) id=\(Self.id(entry.session)) verdict=\(entry.verdict.word) "
      + "tier=\(entry.tier.name) score=\(score(entry.score))\(reasons(entry)) "
      + "held=\(Self.seconds(entry.held))s "
    if entry.tarpitted >= 0 {
      // Nothing is kept to count the rest with: no figure is better than an untrue one.
      return line + (entry.tarpitted == .max ? "" : "tarpitted=\(Self.seconds(entry.tarpitted))s")
        + (entry.reply > 0 ? " reply=\(entry.reply)" : "")
    }
    return line
      + "\(entry.observed ? "would_delay" : "delayed")=\(Self.seconds(entry.delayed))s "
      + "in=\(entry.bytesIn) out=\(entry.bytesOut) messages=\(entry.messages) "
      + "reply=\(entry.reply) " + tallies.joined(separator: " ")
      + said(entry)
  }
}

extension HealthOutcome {
  /// Why a zone does not count.
  fileprivate var words: String {
    switch self {
    case .healthy: "it is healthy"
    case .listsEverything: "it lists 127.0.0.1, so it lists everything (RFC 5782, 5)"
    case .listsNothing: "it does not list 127.0.0.2, so it lists nothing (RFC 5782, 5)"
    case .silent: "it does not answer"
    case .refuses(.typo): "it answers 127.255.255.252: its name is misspelt"
    case .refuses(.publicResolver):
      "it answers 127.255.255.254: it takes no queries by this resolver; use one of your own"
    case .refuses(.tooManyQueries): "it answers 127.255.255.255: too many queries"
    case .refuses(.reserved(let octet)): "it answers 127.255.255.\(octet), an error"
    case .refuses(.outsideLoopback):
      "it answers outside 127.0.0.0/8, as a domain that was given up does"
    }
  }
}
