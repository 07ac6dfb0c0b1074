// SPDX-License-Identifier: Apache-2.0
import Flow
import Policy
import SMTP
import Shield
import Simulator
import Structures
import Suspicion
import TestServer
import Testing

/// What the journal says of a session is what happened to it.
@Suite("The journal's truth")
struct JournalTests {
  private static func closing(_ events: [JournalEntry]) -> JournalEntry? {
    events.last { $0.event == .disconnect }
  }

  @Test("who is refused by a table has a reject line, and a closing line that says so")
  func denied() throws {
    var shield = shield(policy(access: "10.0.0.0/8 reject\n"))
    let clientFound = shield.arrive("10.1.2.3")
    let client = try #require(clientFound)
    #expect(shield.heard(client).hasPrefix("554 5.7.1"))
    let events = shield.events()
    let reject = try #require(events.first { $0.event == .reject })
    #expect(reject.said == .rejected && reject.reply == 554 && reject.accessRule > 0)
    let closing = try #require(Self.closing(events))
    #expect(closing.verdict == .refused && closing.reply == 554)
    #expect(closing.bytesOut > 50)
    #expect(shield.driver.engine.core.counters.refused == 1)
  }

  @Test(
    "over the connection rate: the line says what follows, and it is what follows",
    arguments: [
      ("slow", 0, Verdict.slowed, 0, 0), ("tempfail", 421, .refused, 421, 1),
      ("refuse", 554, .refused, 554, 1), ("drop", 0, .dropped, 0, 1),
    ] as [(String, UInt16, Verdict, UInt16, UInt64)])
  func connectionRate(
    over: String, said: UInt16, verdict: Verdict, reply: UInt16, refused: UInt64
  ) throws {
    var shield = shield(policy(rates: "10.0.0.0/8 conn=12/min burst=1 over=\(over)\n"))
    let firstFound = shield.arrive("10.1.2.3")
    let first = try #require(firstFound)
    #expect(shield.banner(first) != nil)
    _ = shield.events()
    let secondFound = shield.arrive("10.1.2.3", port: 40_001)
    let second = try #require(secondFound)
    _ = shield.heard(second)
    shield.advance(by: .seconds(5))
    shield.driver.end(second)
    shield.settle()
    let events = shield.events()
    let excess = try #require(events.first { $0.event == .rateLimit })
    #expect(excess.over.name == over && excess.reply == said)
    let closing = try #require(Self.closing(events))
    #expect(closing.verdict == verdict && closing.reply == reply, "\(closing.verdict)")
    #expect(shield.driver.engine.core.counters.refused == refused)
    #expect(shield.driver.engine.core.counters.verdicts[verdict] == 1)
    // Who is told a code has the line that tools count, and nobody else.
    #expect(events.filter { $0.event == .reject }.map(\.reply) == (reply > 0 ? [reply] : []))
  }

  @Test("over the concurrency: a reject line with the words that the client hears")
  func concurrency() throws {
    var shield = shield(policy(rates: "10.0.0.0/8 concurrency=1 over=tempfail\n"))
    _ = shield.arrive("10.1.2.3")
    _ = shield.events()
    let secondFound = shield.arrive("10.1.2.3", port: 40_001)
    let second = try #require(secondFound)
    #expect(shield.heard(second).hasPrefix("421 4.7.0"))
    let rejectFound = shield.events().first { $0.event == .reject }
    let reject = try #require(rejectFound)
    #expect(reject.said == .crowded && reject.reply == 421 && reject.rateRule > 0)
  }

  @Test(
    "mail put off because the server behind is not there has a reject line with its 451, and the verdict says so",
    arguments: [Mode.enforce, .observe])
  func deferred(mode: Mode) throws {
    var shield = shield(policy { $0.mode = mode })
    shield.downstream.script.rules = [.init(prefix: "MAIL", answer: .close)]
    let clientFound = shield.arrive("10.1.2.3")
    let client = try #require(clientFound)
    _ = shield.banner(client)
    #expect(shield.ask(client, "EHLO a.example.org\r\n").hasPrefix("250"))
    #expect(shield.ask(client, "MAIL FROM:<a@b.c>\r\n").hasPrefix("451 4.3.0"))
    _ = shield.ask(client, "QUIT\r\n")
    let events = shield.events()
    let reject = try #require(events.first { $0.event == .reject })
    #expect(reject.verb == .mail && reject.own == .downstreamLost && reject.reply == 451)
    #expect(words(reject.text.sender, reject.text.senderCount) == "<a@b.c>")
    let closing = try #require(Self.closing(events))
    #expect(closing.verdict == .deferred)
    #expect(shield.driver.engine.core.counters.verdicts[.deferred] == 1)
  }

  @Test("a message lost at its end says END-OF-MESSAGE; the second try is delivered")
  func deferredAtTheDot() throws {
    var shield = shield(policy(access: "10.0.0.0/8 trusted\n"))
    shield.downstream.script.rules = [.init(prefix: "dot", answer: .close)]
    let clientFound = shield.arrive("10.1.2.3")
    let client = try #require(clientFound)
    _ = shield.banner(client)
    #expect(shield.deliver(client).hasPrefix("451"))
    let rejectFound = shield.events().first { $0.event == .reject }
    let reject = try #require(rejectFound)
    #expect(reject.verb == .data && reject.stage == .endOfData && reject.own == .downstreamLost)
    #expect(words(reject.text.recipient, reject.text.recipientCount) == "<d@e.f>")
    shield.downstream.script.rules = []
    #expect(shield.deliver(client).hasPrefix("250"))
    _ = shield.ask(client, "QUIT\r\n")
    #expect(Self.closing(shield.events())?.verdict == .delivered)
  }

  @Test("a recipient over the rate has a reject line that names it")
  func recipientRate() throws {
    var shield = shield(policy(rates: "10.0.0.0/8 rcpt=1/min burst=1 over=tempfail\n"))
    let clientFound = shield.arrive("10.1.2.3")
    let client = try #require(clientFound)
    _ = shield.banner(client)
    for line in ["EHLO a.example.org\r\n", "MAIL FROM:<>\r\n", "RCPT TO:<one@x.test>\r\n"] {
      #expect(shield.ask(client, line).hasPrefix("250"))
    }
    _ = shield.events()
    #expect(shield.ask(client, "RCPT TO:<two@x.test>\r\n").hasPrefix("450 4.7.1"))
    let rejectFound = shield.events().first { $0.event == .reject }
    let reject = try #require(rejectFound)
    #expect(reject.verb == .rcpt && reject.own == .recipientRate && reject.rateRule > 0)
    #expect(words(reject.text.recipient, reject.text.recipientCount) == "<two@x.test>")
    #expect(words(reject.text.sender, reject.text.senderCount) == "<>")
    _ = shield.ask(client, "QUIT\r\n")
    let closingFound = Self.closing(shield.events())
    let closing = try #require(closingFound)
    #expect(closing.verdict == .refused)
  }

  private func words(_ bytes: InlineArray<100, UInt8>, _ count: UInt8) -> String {
    String(decoding: (0..<Int(count)).map { bytes[$0] }, as: UTF8.self)
  }

  @Test("observe mode says what would have been, once for each client, and that nothing was")
  func observed() throws {
    var shield = shield(
      policy(access: "10.1.0.0/16 reject\n10.2.0.0/16 bad\n10.3.0.0/16 suspicious\n") {
        $0.mode = .observe
      })
    func session(_ address: String) throws -> [JournalEntry] {
      let clientFound = shield.arrive(address)
      let client = try #require(clientFound)
      #expect(shield.banner(client) == 0)
      #expect(shield.deliver(client).hasPrefix("250"))
      _ = shield.ask(client, "QUIT\r\n")
      return shield.events()
    }
    let denied = try session("10.1.2.3")
    let would: [Event] = [.denylisted, .tarpit, .wouldDelay, .rateLimit]
    #expect(denied.filter { would.contains($0.event) }.map(\.event) == [.denylisted])
    #expect(Self.closing(denied)?.verdict == .wouldRefuse)
    let bad = try session("10.2.2.3")
    #expect(bad.filter { would.contains($0.event) }.map(\.event) == [.tarpit])
    #expect(Self.closing(bad)?.verdict == .wouldTarpit)
    let clean = try session("10.4.2.3")
    #expect(Self.closing(clean)?.verdict == .delivered)
    for event in denied + bad + clean { #expect(event.observed) }
    let suspiciousFound = shield.arrive("10.3.2.3")
    let suspicious = try #require(suspiciousFound)
    #expect(shield.banner(suspicious) == 0)
    shield.driver.end(suspicious)
    shield.settle()
    let slowedFound = Self.closing(shield.events())
    let slowed = try #require(slowedFound)
    #expect(slowed.verdict == .wouldSlow && slowed.delayed > 4_000_000 && slowed.held < 1_000_000)
    // It has heard the banner.
    #expect(slowed.bytesOut > 10 && slowed.reply == 220)
  }

  @Test("observe mode: who becomes T3 on the way has one line too")
  func observedOnTheWay() throws {
    var shield = shield(policy { $0.mode = .observe })
    let clientFound = shield.arrive("10.1.2.3")
    let client = try #require(clientFound)
    _ = shield.banner(client)
    #expect(shield.ask(client, "GET / HTTP/1.1\r\n").hasPrefix("521"))
    let events = shield.events()
    #expect(events.filter { $0.event == .tarpit }.count == 1)
    let signal = try #require(events.first { $0.event == .signal })
    #expect(signal.observed && signal.signal == .nonSMTP)
  }

  @Test(
    "who is in the tarpit: where it left, how long it was there, and no figures that are not known")
  func tarpitted() throws {
    var shield = shield(policy())
    let clientFound = shield.arrive("10.1.2.3")
    let client = try #require(clientFound)
    _ = shield.banner(client)
    #expect(shield.ask(client, "EHLO bot.example.org\r\n").hasPrefix("250"))
    shield.driver.say(client, "POST / HTTP/1.1\r\n")
    shield.advance(by: .seconds(3))
    let tarpitFound = shield.events().first { $0.event == .tarpit }
    let tarpit = try #require(tarpitFound)
    #expect(words(tarpit.text.helo, tarpit.text.heloCount) == "bot.example.org")
    let spent = tarpit.held
    shield.advance(by: .seconds(20))
    shield.driver.end(client)
    shield.settle()
    let events = shield.events()
    #expect(events.first { $0.event == .hangup }?.stage == .other)
    let closing = try #require(Self.closing(events))
    #expect(closing.verdict == .tarpit && closing.tarpitted == closing.held - spent)
    #expect(closing.tarpitted > 20_000_000)
  }

  @Test("tarpit sessions too many are shed, counted so, and close so")
  func shedding() throws {
    var shield = shield(policy(access: "10.0.0.0/8 bad\n") { $0.badSessionsPerSource = 1 })
    _ = shield.arrive("10.1.2.3")
    _ = shield.events()
    let secondFound = shield.arrive("10.1.2.3", port: 40_001)
    let second = try #require(secondFound)
    #expect(shield.heard(second).hasPrefix("421"))
    let events = shield.events()
    #expect(events.first { $0.event == .shed }?.subject == .badSessions)
    let closing = try #require(Self.closing(events))
    #expect(closing.verdict == .shed && closing.reply == 421 && closing.tarpitted == -1)
    #expect(shield.driver.engine.core.counters.shed == 1)
  }

  @Test("an accepted message's line counts its recipients and names none that was refused")
  func accepted() throws {
    var shield = shield(policy(access: "10.0.0.0/8 trusted\n"))
    shield.downstream.script.rules = [
      .init(prefix: "RCPT TO:<no@", answer: .reply("550 5.1.1 No such"))
    ]
    let clientFound = shield.arrive("10.1.2.3")
    let client = try #require(clientFound)
    _ = shield.banner(client)
    for line in [
      "EHLO a.example.org\r\n", "MAIL FROM:<a@b.c>\r\n", "RCPT TO:<d@e.f>\r\n",
      "RCPT TO:<g@e.f>\r\n", "RCPT TO:<no@e.f>\r\n", "DATA\r\n",
    ] {
      _ = shield.ask(client, line)
    }
    #expect(shield.ask(client, "hello\r\n.\r\n").hasPrefix("250"))
    let events = shield.events()
    let accepted = try #require(events.first { $0.event == .accepted })
    #expect(accepted.recipients == 2 && accepted.text.recipientCount == 0)
    let answer = (0..<Int(accepted.quoteKept)).map { accepted.quote[$0] }
    #expect(String(decoding: answer, as: UTF8.self) == "250 2.0.0 Taken\r\n")
    #expect(events.contains { $0.event == .passOld } && !events.contains { $0.event == .passNew })
    let reject = try #require(events.first { $0.event == .reject })
    let quote = (0..<Int(reject.quoteKept)).map { reject.quote[$0] }
    #expect(String(decoding: quote, as: UTF8.self) == "550 5.1.1 No such\r\n")
  }

  @Test("what a client says before its turn is in the line, and how much it was")
  func pregreet() throws {
    for (words, kept) in [
      ("EHLO bot.example\r\n", "EHLO bot.example\r\n"),
      ("EHLO ylmf-pc\r\nAUTH LOGIN\r\nYW5u\r\nc2VjcmV0\r\n", "EHLO ylmf-pc\r\n"),
      ("auth PLAIN AGFubgBzZWNyZXQ=\r\n", "auth PLAIN"),
      ("AUTH LOGIN\r\nYW5u\r\n", "AUTH LOGIN\r\n"),
      (String(repeating: "x", count: 300), String(repeating: "x", count: 200)),
    ] {
      var shield = shield(policy())
      let clientFound = shield.arrive("10.1.2.3")
      let client = try #require(clientFound)
      shield.driver.say(client, words)
      shield.settle()
      let signalFound = shield.events().first { $0.event == .signal && $0.signal == .pregreet }
      let signal = try #require(signalFound)
      #expect(Int(signal.quoteCount) == words.utf8.count)
      let quote = (0..<Int(signal.quoteKept)).map { signal.quote[$0] }
      #expect(String(decoding: quote, as: UTF8.self) == kept)
    }
  }

  @Test("a log-in in clear where TLS is offered hears that it needs TLS (RFC 4954, 6)")
  func loginInClear() throws {
    var shield = shield(
      policy {
        $0.listeners[0].role = .outbound
        $0.listeners[0].tls = .starttls
      })
    shield.downstream.script.offers += ["AUTH PLAIN LOGIN"]
    let clientFound = shield.arrive("10.1.2.3")
    let client = try #require(clientFound)
    _ = shield.banner(client)
    _ = shield.ask(client, "EHLO a.example.org\r\n")
    #expect(shield.ask(client, "AUTH LOGIN\r\n").hasPrefix("538 5.7.11"))
    let rejectFound = shield.events().first { $0.event == .reject }
    let reject = try #require(rejectFound)
    #expect(reject.verb == .auth && reject.own == .encryptionNeeded)
  }

  @Test("a handshake that comes to nothing, and a hello where none belongs")
  func handshakes() throws {
    var shield = shield(policy { $0.listeners[0].tls = .starttls })
    let clear = shield.arrive("10.1.2.3")
    let client = try #require(clear)
    _ = shield.banner(client)
    _ = shield.ask(client, "EHLO a.example.org\r\n")
    // In clear, crossing with 220.
    shield.driver.setWindow(client, 0)
    shield.driver.say(client, "STARTTLS\r\n")
    shield.driver.say(client, "MAIL FROM:<a@b.c>\r\n")
    shield.driver.setWindow(client, .max)
    shield.advance(by: .seconds(1))
    let failed = try #require(Self.closing(shield.events()))
    #expect(failed.verdict == .tlsFailed)
    let arrived = shield.arrive("10.1.9.3")
    let other = try #require(arrived)
    _ = shield.banner(other)
    #expect(shield.ask(other, "\u{16}\u{3}\u{1}\u{0}\u{5}hello").hasPrefix("500"))
    shield.advance(by: .seconds(10))
    let hello = try #require(Self.closing(shield.events()))
    #expect(hello.verdict == .refused && hello.reply == 500)
  }

  @Test(
    "observe mode: over a rate that refuses, the line and the verdict say so; nobody is refused")
  func observedRate() throws {
    var shield = shield(
      policy(rates: "10.0.0.0/8 conn=1/min burst=1 over=refuse\n") { $0.mode = .observe })
    for n in 0..<2 {
      let arrived = shield.arrive("10.1.2.3", port: UInt16(40_000 + n))
      let client = try #require(arrived)
      #expect(shield.banner(client) == 0)
      #expect(shield.deliver(client).hasPrefix("250"))
      _ = shield.ask(client, "QUIT\r\n")
      let events = shield.events()
      let excess = events.filter { $0.event == .rateLimit }
      #expect(excess.map(\.reply) == (n == 0 ? [] : [554]))
      // Enforce would not come to delays.
      #expect(events.contains { $0.event == .wouldDelay } == (n == 0))
      #expect(Self.closing(events)?.verdict == (n == 0 ? .delivered : .wouldRefuse))
    }
    #expect(shield.driver.engine.core.counters.refused == 0)
  }
}
