// SPDX-License-Identifier: Apache-2.0
import Policy
import Shield
import Simulator
import Structures
import Suspicion
import TestServer
import Testing

/// A shield that tells its downstream about clients in one of the ways.
private func telling(
  _ introduction: Introduction, offering: [String] = [], rules: [ServerScript.Rule] = []
) -> VirtualShield {
  let terms = ListenerTerms(address: Address(v4: 0xC633_6401), port: 2_525)
  var shield = VirtualShield(
    driver: VirtualDriver(
      engine: Engine(
        policy: policy(access: "192.0.2.0/24 trusted\n2001:db8::/32 trusted\n") {
          $0.listeners = [terms]
        }, limits: limits(),
        seed: 1, servers: [Server(DownstreamTerms(introduction))])))
  shield.downstream.script.offers += offering
  shield.downstream.script.rules = rules
  shield.driver.engine.wallClock = 1_795_255_200_000_000
  shield.advance(by: .seconds(1))
  return shield
}

private let xclientRule = ServerScript.Rule(
  prefix: "XCLIENT", answer: .reply("220 inner.test ESMTP"))
private let everything = "XCLIENT NAME ADDR PROTO HELO PORT LOGIN DESTADDR DESTPORT"

@Suite("What the downstream is told about the client")
struct IdentityTests {
  @Test("PROXY version 1 comes before everything else, for a client and for our own probe")
  func proxy() throws {
    var shield = telling(.proxyV1, rules: [.init(prefix: "PROXY", answer: .silence)])
    #expect(shield.downstream.lines.first == "PROXY TCP4 192.0.2.1 0.0.0.0 0 25")
    let arrived = shield.arrive("192.0.2.7")
    let client = try #require(arrived)
    #expect(shield.banner(client) == 0)
    #expect(shield.deliver(client).hasPrefix("250"))
    let lines = shield.downstream.lines
    #expect(
      lines.filter { $0.hasPrefix("PROXY") }.last == "PROXY TCP4 192.0.2.7 198.51.100.1 40000 2525")
    #expect(lines.filter { $0.hasPrefix("PROXY") }.count == 2)
    #expect(shield.downstream.breaches == 0)
  }

  @Test(
    "a downstream that does not take the header is named as the cause, and the client hears 451")
  func headerNotTaken() throws {
    var shield = telling(
      .proxyV1, rules: [.init(prefix: "PROXY", answer: .reply("500 5.5.2 What?"))])
    let events = shield.events().filter { $0.event == .downstreamFailed }
    #expect(!events.isEmpty && events.allSatisfy { $0.subject == .headerNotTaken })
    let arrived = shield.arrive("192.0.2.7")
    let client = try #require(arrived)
    _ = shield.banner(client)
    #expect(shield.deliver(client).hasPrefix("451"))
  }

  @Test("a greeting that cannot be read is no sign of a header that was not taken")
  func unreadableGreeting() {
    var shield = telling(
      .proxyV2, rules: [.init(prefix: "connect", answer: .raw(Array("hello there\r\n".utf8)))])
    let events = shield.events().filter { $0.event == .downstreamFailed }
    #expect(!events.isEmpty && events.allSatisfy { $0.subject == .malformedReply })
  }

  @Test("a downstream that waits for a header is named as the cause as well")
  func greetingMissing() {
    var shield = telling(.none, rules: [.init(prefix: "connect", answer: .close)])
    let events = shield.events().filter { $0.event == .downstreamFailed }
    #expect(!events.isEmpty && events.allSatisfy { $0.subject == .greetingMissing })
  }

  @Test("XCLIENT is said before the client's own EHLO, once for a link, in our own name")
  func xclient() throws {
    var shield = telling(.xclient, offering: [everything], rules: [xclientRule])
    let before = shield.downstream.lines.count
    let arrived = shield.arrive("192.0.2.7")
    let client = try #require(arrived)
    _ = shield.banner(client)
    _ = shield.ask(client, "EHLO client.example.org\r\n")
    for _ in 0..<2 {
      #expect(shield.ask(client, "MAIL FROM:<a@b.c>\r\n").hasPrefix("250"))
      #expect(shield.ask(client, "RCPT TO:<d@e.f>\r\n").hasPrefix("250"))
      #expect(shield.ask(client, "DATA\r\n").hasPrefix("354"))
      #expect(shield.ask(client, "hello\r\n.\r\n").hasPrefix("250"))
    }
    let lines = Array(shield.downstream.lines[before...].prefix(4))
    #expect(
      lines == [
        "EHLO mx.example.test",
        "XCLIENT HELO=client.example.org PROTO=ESMTP LOGIN=[UNAVAILABLE] DESTADDR=198.51.100.1 "
          + "DESTPORT=2525 PORT=40000 NAME=[UNAVAILABLE] ADDR=192.0.2.7",
        "EHLO client.example.org", "MAIL FROM:<a@b.c>",
      ])
    let said = shield.downstream.lines[before...].filter { $0.hasPrefix("XCLIENT") }
    #expect(said.count == 1)
    #expect(shield.downstream.accepted.count == 2)
  }

  @Test("XCLIENT is said as well where opportunistic STARTTLS is refused")
  func xclientWithoutTLS() throws {
    var shield = telling(
      .xclient, offering: ["STARTTLS", everything],
      rules: [
        xclientRule, .init(prefix: "STARTTLS", answer: .reply("454 4.7.0 TLS not available")),
      ])
    shield.driver.speak(tls: .opportunistic)
    let before = shield.downstream.lines.count
    let arrived = shield.arrive("192.0.2.7")
    let client = try #require(arrived)
    _ = shield.banner(client)
    #expect(shield.deliver(client).hasPrefix("250"))
    let words = shield.downstream.lines[before...].prefix(6).map { line in
      String(line.prefix { $0 != " " })
    }
    #expect(words == ["EHLO", "STARTTLS", "EHLO", "XCLIENT", "EHLO", "MAIL"])
  }

  @Test("one client whose name the downstream refuses does not take the downstream down")
  func refusedForOne() throws {
    var shield = telling(
      .proxyV1,
      rules: [
        .init(prefix: "PROXY", answer: .silence),
        .init(prefix: "EHLO banned", answer: .reply("550 5.7.1 go away")),
      ])
    #expect(shield.driver.engine.isDownstreamUp == true)
    _ = shield.events()
    let arrived = shield.arrive("192.0.2.7")
    let client = try #require(arrived)
    _ = shield.banner(client)
    _ = shield.ask(client, "EHLO banned.example.org\r\n")
    #expect(shield.ask(client, "MAIL FROM:<a@b.c>\r\n") == "550 5.7.1 go away\r\n")
    let events = shield.events()
    #expect(events.filter { $0.event == .reject }.map(\.reply) == [550])
    #expect(!events.contains { $0.event == .downstreamFailed })
    #expect(!events.contains { $0.event == .downstreamDown })
    #expect(shield.driver.engine.isDownstreamUp == true)
    let other = shield.arrive("192.0.2.8")
    let honest = try #require(other)
    _ = shield.banner(honest)
    #expect(shield.deliver(honest).hasPrefix("250"))
  }

  @Test("XCLIENT names an IPv6 client, and only what was listed")
  func xclientV6() throws {
    var shield = telling(.xclient, offering: ["XCLIENT ADDR FROB"], rules: [xclientRule])
    let arrived = shield.arrive("2001:db8::7")
    let client = try #require(arrived)
    _ = shield.banner(client)
    #expect(shield.deliver(client).hasPrefix("250"))
    #expect(shield.downstream.lines.contains("XCLIENT ADDR=IPV6:2001:db8::7"))
  }

  @Test("a downstream that does not take XCLIENT gets no mail as if it were ours")
  func xclientRefused() throws {
    let cases: [([String], [ServerScript.Rule], Subject)] = [
      ([], [], .identityNotOffered), (["XCLIENT NAME HELO"], [xclientRule], .identityNotOffered),
      (
        [everything],
        [.init(prefix: "XCLIENT", answer: .reply("550 5.7.0 insufficient authorization"))],
        .identityRefused
      ), ([], [.init(prefix: "EHLO", answer: .reply("502 5.5.2 What?"))], .heloRefused),
    ]
    for (offers, rules, subject) in cases {
      var shield = telling(.xclient, offering: offers, rules: rules)
      let arrived = shield.arrive("192.0.2.7")
      let client = try #require(arrived)
      _ = shield.banner(client)
      #expect(shield.deliver(client).hasPrefix("451"))
      let failures = shield.events().filter { $0.event == .downstreamFailed }
      #expect(!failures.isEmpty && failures.allSatisfy { $0.subject == subject })
      #expect(!shield.downstream.lines.contains { $0.hasPrefix("MAIL") })
    }
  }

  @Test("XFORWARD goes before each MAIL, and mail goes on where it is not offered")
  func xforward() throws {
    for offers in [["XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE"], []] {
      var shield = telling(.xforward, offering: offers)
      let arrived = shield.arrive("192.0.2.7")
      let client = try #require(arrived)
      _ = shield.banner(client)
      _ = shield.ask(client, "EHLO client.example.org\r\n")
      for _ in 0..<3 {
        let group = "MAIL FROM:<a@b.c>\r\nRCPT TO:<d@e.f>\r\nRCPT TO:<g@e.f>\r\nDATA\r\n"
        #expect(shield.ask(client, group).hasSuffix("354 Go on\r\n"))
        #expect(shield.ask(client, "hello\r\n.\r\n").hasPrefix("250"))
      }
      let lines = shield.downstream.lines
      let told = lines.indices.filter { lines[$0].hasPrefix("XFORWARD") }
      #expect(told.count == (offers.isEmpty ? 0 : 3))
      for place in told {
        #expect(
          lines[place].hasSuffix(" SOURCE=REMOTE PORT=40000 NAME=[UNAVAILABLE] ADDR=192.0.2.7"))
        #expect(lines[place + 1] == "MAIL FROM:<a@b.c>")
      }
      #expect(shield.downstream.accepted.count == 3 && shield.downstream.breaches == 0)
      let complaints = shield.events().filter { $0.subject == .identityNotOffered }
      #expect(complaints.isEmpty == !offers.isEmpty)
    }
  }

  @Test("an XFORWARD that is refused costs a 451 and the link, not the client's session")
  func xforwardRefused() throws {
    var shield = telling(
      .xforward, offering: ["XFORWARD ADDR"],
      rules: [.init(prefix: "XFORWARD", answer: .reply("550 5.7.0 insufficient authorization"))])
    let arrived = shield.arrive("192.0.2.7")
    let client = try #require(arrived)
    _ = shield.banner(client)
    #expect(shield.deliver(client).hasPrefix("451"))
    #expect(shield.ask(client, "NOOP\r\n").hasPrefix("250"))
    #expect(shield.ask(client, "QUIT\r\n").hasPrefix("221"))
  }

  @Test("each message has one trace header on top, and is otherwise what the client sent")
  func received() throws {
    var shield = telling(.received)
    let arrived = shield.arrive("2001:db8::7")
    let client = try #require(arrived)
    _ = shield.banner(client)
    _ = shield.ask(client, "EHLO client.example.org\r\n")
    // The header goes out in pieces, the message comes meanwhile.
    let bodies = [
      "Subject: x\r\n\r\nhello\r\n..\r\nReceived: not mine\r\n.\r\n", ".\r\n", "\r\n.\r\n",
    ]
    for body in bodies {
      for line in ["MAIL FROM:<a@b.c>\r\n", "RCPT TO:<d@e.f>\r\n"] {
        #expect(shield.ask(client, line).hasPrefix("250"))
      }
      #expect(shield.ask(client, "DATA\r\n").hasPrefix("354"))
      #expect(shield.ask(client, body).hasPrefix("250"))
    }
    #expect(shield.downstream.accepted.count == 3 && shield.downstream.breaches == 0)
    for (message, body) in zip(shield.downstream.accepted, bodies) {
      let text = String(decoding: message, as: UTF8.self)
      let head =
        "Received: from client.example.org (unknown [IPv6:2001:db8::7])\r\n"
        + "\tby mx.example.test (Sluice) with ESMTP id "
      #expect(text.hasPrefix(head))
      let lines = text.components(separatedBy: "\r\n")
      #expect(lines[2] == "\tSat, 21 Nov 2026 10:00:01 +0000")
      #expect(lines.dropFirst(3).joined(separator: "\r\n") == body)
    }
  }

  @Test(
    "a message cannot go on with the trace header that stands before it",
    arguments: [BareNewline.reject, .normalize])
  func folded(mode: BareNewline) throws {
    let cases: [(pieces: [String], isTaken: Bool)] = [
      ([" by trusted.example\r\n\r\n.\r\n"], false), (["\tx\r\n.\r\n"], false),
      ([". x\r\n.\r\n"], false), ([".", " x\r\n.\r\n"], false), ([".", "\t\r\n.\r\n"], false),
      (["S", " x\r\n.\r\n"], true), ([".", ". x\r\n.\r\n"], true), ([".x\r\n.\r\n"], true),
      (["Subject: x\r\n y\r\n\r\n .\r\n.\r\n"], true), (["\r\n x\r\n.\r\n"], true),
    ]
    for (pieces, isTaken) in cases {
      for identity in [Introduction.received, .none] {
        var shield = telling(identity)
        var policy = shield.driver.engine.policy
        policy.bareNewline = mode
        shield.driver.engine.adopt(policy)
        let arrived = shield.arrive("192.0.2.7")
        let client = try #require(arrived)
        _ = shield.banner(client)
        _ = shield.ask(client, "EHLO client.example.org\r\n")
        _ = shield.ask(client, "MAIL FROM:<a@b.c>\r\n")
        _ = shield.ask(client, "RCPT TO:<d@e.f>\r\n")
        _ = shield.ask(client, "DATA\r\n")
        var reply = ""
        for piece in pieces { reply += shield.ask(client, piece) }
        let wants = isTaken || identity == .none
        #expect(reply.hasPrefix(wants ? "250" : "554 5.6.0"), "\(pieces) \(identity) \(reply)")
        #expect(shield.downstream.accepted.count == (wants ? 1 : 0))
      }
    }
  }

  @Test("a trace header that goes out octet by octet holds the message back, and nothing is lost")
  func receivedSlowly() throws {
    var shield = telling(.received)
    let arrived = shield.arrive("192.0.2.7")
    let client = try #require(arrived)
    _ = shield.banner(client)
    _ = shield.ask(client, "EHLO client.example.org\r\n")
    _ = shield.ask(client, "MAIL FROM:<a@b.c>\r\n")
    _ = shield.ask(client, "RCPT TO:<d@e.f>\r\n")
    let link = try #require(shield.driver.dialled.last)
    shield.driver.say(client, "DATA\r\n")
    shield.settle()
    shield.driver.setWindow(link, 0)
    let body = "Subject: slow\r\n\r\nhello\r\n.\r\n"
    shield.driver.say(client, body)
    var heard = shield.heard(client)
    for _ in 0..<400 where !heard.contains("250 2.0.0 Taken") {
      shield.driver.setWindow(link, 1)
      shield.settle()
      heard += shield.heard(client)
    }
    #expect(heard.contains("354") && heard.contains("250 2.0.0 Taken"))
    let text = String(decoding: shield.downstream.accepted.first ?? [], as: UTF8.self)
    #expect(text.hasPrefix("Received: from client.example.org (unknown [192.0.2.7])\r\n"))
    #expect(text.hasSuffix("+0000\r\n" + body))
  }
}

extension String {
  /// Foundation is not for this module.
  fileprivate func components(separatedBy separator: String) -> [String] {
    var parts = [""]
    var rest = self[...]
    while let first = rest.unicodeScalars.first {
      if rest.hasPrefix(separator) {
        parts.append("")
        rest = rest.dropFirst(separator.count)
      } else {
        parts[parts.count - 1].unicodeScalars.append(first)
        rest = Substring(rest.unicodeScalars.dropFirst())
      }
    }
    return parts
  }
}
