// SPDX-License-Identifier: Apache-2.0
import Flow
import Policy
import SMTP
import Shield
import Structures
import Suspicion
import Testing

@testable import Configuration
@testable import Driver
@testable import Service

/// Lines as an administrator and the filters of fail2ban and pflogsumm read them.
struct JournalTextTests {
  private func entry(_ event: Event, _ change: (inout JournalEntry) -> Void = { _ in })
    -> JournalEntry
  {
    var entry = JournalEntry(event, at: .origin)
    entry.session = 0xA1
    entry.address = Address(v4: 0xC000_0207)
    entry.port = 4_321
    change(&entry)
    return entry
  }

  private let policy = {
    var policy = Policy(
      access: AccessTable.load(content: Array("192.0.2.0/24 reject\n".utf8), file: "access.cidr")
        .table,
      rates: RateTable.load(content: Array("192.0.2.0/24 conn=1/min\n".utf8), file: "rates.cidr")
        .table)
    policy.hostname = "mx.example.test"
    return policy
  }()
  private var accessRule: UInt32 {
    policy.access.lookup(Address(v4: 0xC000_0207)).map { UInt32($0.rule) + 1 } ?? 0
  }
  private var rateRule: UInt32 {
    policy.rates.lookup(Address(v4: 0xC000_0207)).map { $0.rule + 1 } ?? 0
  }

  private func line(_ entry: JournalEntry) -> String {
    JournalText(policy: policy, downstream: ["[127.0.0.1]:10025"]).line(entry)
  }

  private func fill<let n: Int>(_ place: inout InlineArray<n, UInt8>, _ text: String) -> Int {
    let bytes = Array(text.utf8)
    for (k, byte) in bytes.enumerated() where k < n { place[k] = byte }
    return bytes.count
  }

  private let id = "id=00000000000000a1"

  @Test("a refusal by a table reads like Postfix's, and names the rule")
  func denied() {
    let reject = entry(.reject) {
      $0.said = .rejected
      $0.reply = 554
      $0.accessRule = accessRule
    }
    #expect(
      line(reject)
        == "NOQUEUE: reject: CONNECT from unknown[192.0.2.7]:4321: 554 5.7.1 mx.example.test Service "
        + "unavailable; Client host rejected: access denied; \(id) access=access.cidr:1")
    let looked = entry(.denylisted) {
      $0.accessRule = accessRule
      $0.observed = true
    }
    #expect(
      line(looked)
        == "DENYLISTED [192.0.2.7]:4321 \(id) access=access.cidr:1: would be refused with 554")
  }

  @Test("a refusal of ours and one of the downstream's give the words that the client hears")
  func rejects() {
    var ours = entry(.reject) {
      $0.verb = .rcpt
      $0.own = .recipientRate
      $0.reply = 450
      $0.rateRule = rateRule
    }
    ours.text.hasSender = true
    ours.text.senderCount = UInt8(fill(&ours.text.sender, "<>"))
    ours.text.recipientCount = UInt8(fill(&ours.text.recipient, "<a@b.test>"))
    ours.text.heloCount = UInt8(fill(&ours.text.helo, "c.test"))
    ours.text.extended = true
    #expect(
      line(ours)
        == "NOQUEUE: reject: RCPT from unknown[192.0.2.7]:4321: 450 4.7.1 Client host rejected: "
        + "recipient rate limit exceeded, try again later; from=<> to=<a@b.test> proto=ESMTP "
        + "helo=<c.test> \(id) rate=rates.cidr:1")
    var theirs = ours
    theirs.own = nil
    theirs.quoteFirstLine(Array("550-5.1.1 <a@b.test>: unknown\r\n550 5.1.1 really\r\n".utf8).span)
    theirs.text.encrypted = true
    #expect(
      line(theirs)
        == "NOQUEUE: reject: RCPT from unknown[192.0.2.7]:4321: 550 5.1.1 <a@b.test>: unknown; "
        + "from=<> to=<a@b.test> proto=ESMTPS helo=<c.test> \(id)")
    theirs.verb = .data
    theirs.stage = .endOfData
    #expect(line(theirs).hasPrefix("NOQUEUE: reject: END-OF-MESSAGE from "))
  }

  @Test("what strict syntax would refuse is a warning, in Postfix's word for one")
  func rejectWarning() {
    var entry = entry(.wouldReject) {
      $0.verb = .mail
      $0.own = .badSenderAddress
      $0.observed = true
    }
    entry.text.hasSender = true
    entry.text.senderCount = UInt8(fill(&entry.text.sender, "<root>"))
    entry.text.heloCount = UInt8(fill(&entry.text.helo, "x> id=1"))
    #expect(
      line(entry)
        == "NOQUEUE: reject_warning: MAIL from unknown[192.0.2.7]:4321: would be 501 5.1.7 Bad sender address "
        + "syntax; from=<root> proto=SMTP helo=<x\\x3e\\x20id=1> \(id)")
  }

  @Test("a rate that is exceeded names its consequence")
  func rates() {
    func rate(_ over: OverAction, _ reply: UInt16, observed: Bool = false) -> String {
      line(
        entry(.rateLimit) {
          $0.subject = .connections
          $0.over = over
          $0.reply = reply
          $0.micros = 2_500_000
          $0.rateRule = rateRule
          $0.observed = observed
        })
    }
    let start = "RATE connection rate exceeded by [192.0.2.7]:4321 \(id) over="
    let end = " wait=2.5s rate=rates.cidr:1"
    #expect(rate(.slow, 0) == "\(start)slow: slowed\(end)")
    #expect(rate(.tempfail, 421) == "\(start)tempfail: 421\(end)")
    #expect(rate(.refuse, 554) == "\(start)refuse: 554\(end)")
    #expect(rate(.drop, 0) == "\(start)drop: closed\(end)")
    #expect(rate(.tempfail, 421, observed: true) == "\(start)tempfail: would be 421\(end)")
    #expect(rate(.drop, 0, observed: true) == "\(start)drop: would be closed\(end)")
    // More than any delay can make up for.
    #expect(rate(.slow, 450) == "\(start)slow: 450\(end)")
  }

  @Test("a signal names the action that is configured, and that we only look on")
  func signals() {
    let signal = entry(.signal) {
      $0.signal = .heloBareWord
      $0.observed = true
    }
    #expect(line(signal).contains("action=enforce mode=observe "))
    var pregreet = entry(.signal) {
      $0.signal = .pregreet
      $0.held = 80_000
    }
    pregreet.quoteFirstLine(Array("EHLO bot.example\r\n".utf8).span)
    let text = line(pregreet)
    #expect(text.hasPrefix("PREGREET 18 after 0.08 from [192.0.2.7]:4321 \(id) weight=1.00 "))
    #expect(text.hasSuffix(": EHLO bot.example\\r\\n"))
    #expect(!text.contains("mode="))
  }

  @Test("the closing line: what was, what would have been, and nothing that is not known")
  func closing() {
    let slowed = entry(.disconnect) {
      $0.verdict = .slowed
      $0.held = 5_000_000
      $0.delayed = 4_500_000
      $0.reply = 221
    }
    let rest = "in=0 out=0 messages=0 reply=221 commands=0"
    #expect(
      line(slowed)
        == "DISCONNECT from [192.0.2.7]:4321 \(id) verdict=slowed tier=T1 score=0.00 held=5.0s "
        + "delayed=4.5s \(rest)")
    var looked = slowed
    looked.observed = true
    looked.verdict = .wouldSlow
    #expect(
      line(looked)
        == "DISCONNECT from [192.0.2.7]:4321 \(id) verdict=would-slow tier=T1 score=0.00 held=5.0s "
        + "would_delay=4.5s \(rest)")
    var tarpitted = slowed
    tarpitted.verdict = .tarpit
    tarpitted.tier = .bad
    tarpitted.tarpitted = 3_000_000
    tarpitted.reply = 0
    #expect(
      line(tarpitted)
        == "DISCONNECT from [192.0.2.7]:4321 \(id) verdict=tarpit tier=T3 score=0.00 held=5.0s "
        + "tarpitted=3.0s")
  }

  @Test("a message for several, and one of whose recipients the last was refused")
  func accepted() {
    var message = entry(.accepted) { $0.recipients = 2 }
    message.text.recipientCount = UInt8(fill(&message.text.recipient, "<a@b.test>"))
    message.text.extended = true
    message.text.encrypted = true
    message.text.authenticated = true
    #expect(
      line(message)
        == "ACCEPTED from [192.0.2.7]:4321 \(id) to=<a@b.test> nrcpt=2 proto=ESMTPSA helo=<>")
    message.recipients = 1
    #expect(!line(message).contains("nrcpt"))
    message.text.recipientCount = 0
    #expect(line(message).contains("nrcpt=1"))
  }

  @Test("a downstream that fails has an address, a limit that is full has a key")
  func places() {
    var failed = JournalEntry(.downstreamFailed, at: .origin)
    failed.subject = .connect
    #expect(
      line(failed) == "DOWNSTREAM FAILED in a probe: [127.0.0.1]:10025: cannot connect")
    #expect(
      line(entry(.shed) { $0.subject = .badSessions }).hasSuffix("(tarpit.sessions_per_source)"))
  }

  @Test("a problem names its severity where nothing else does")
  func severity() {
    let problem = Problem(
      .warning, at: SourcePosition(file: "a.yaml", line: 3, column: 5), reason: "odd")
    #expect("\(problem)" == "a.yaml:3:5: warning: odd")
    #expect(problem.text(namingSeverity: false) == "a.yaml:3:5: odd")
  }

  @Test(
    "the server's own number of a message is found in what it answers",
    arguments: [
      ("250 2.0.0 Ok: queued as 4fLx0Z1BQzz5P\r\n", "4fLx0Z1BQzz5P", "Postfix"),
      ("250 2.0.0 Ok: queued as 12345ABCDE.\r\n", "12345ABCDE", "a full stop behind it"),
      ("250 OK id=1rVxyz-0000AB-1C\r\n", "1rVxyz-0000AB-1C", "Exim"),
      ("250 OK id=1tHnZb-00000000abc-0dEf\r\n", "1tHnZb-00000000abc-0dEf", "Exim 4.97"),
      (
        "250 2.0.0 4AUFnXxA001234 Message accepted for delivery\r\n", "4AUFnXxA001234",
        "Sendmail"
      ),
      ("250 2.0.0 5e4f3a2b Message accepted for delivery\r\n", "5e4f3a2b", "OpenSMTPD"),
      (
        "250 2.6.0 <a@b> [InternalId=4711, Hostname=ex.example] 12 bytes in 0.1, Queued mail for delivery",
        "4711", "Exchange"
      ),
      ("250 Message Queued (5C4E-1.1)\r\n", "5C4E-1.1", "Haraka"),
      ("250 ok 1700000000 qp 12345\r\n", "12345", "qmail"),
      ("250 2.0.0 Message queued with id 1f2e3d.\r\n", "1f2e3d", "Stalwart"),
      ("250 2.0.0 Ok\r\n", nil, "none"),
      ("250 2.0.0 Message accepted for delivery\r\n", nil, "the enhanced code is none"),
      ("250 Ok: queued as \r\n", nil, "nothing behind it"),
      ("250 Ok: queued as a\u{1B}[2Jb reason=x\r\n", "a", "no control characters"),
      ("250 Ok: queued as \(String(repeating: "x", count: 65))\r\n", nil, "too long"),
    ] as [(String, String?, String)])
  func queueIDs(reply: String, id: String?, reason: String) {
    #expect(QueueID.find(in: Array(reply.utf8)) == id, "\(reason)")
    var message = entry(.accepted) { $0.quoteFirstLine(Array(reply.utf8).span) }
    message.text.heloCount = UInt8(fill(&message.text.helo, "c.test"))
    let number = id.map { " queue_id=\($0)" } ?? ""
    #expect(line(message).hasPrefix("ACCEPTED from [192.0.2.7]:4321 \(self.id)\(number) proto="))
  }
}
