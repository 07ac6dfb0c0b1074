// SPDX-License-Identifier: Apache-2.0
import Policy
import Shield
import Simulator
import Structures
import Suspicion
import TestServer
import Testing

/// What a client is offered, and what holds where the server behind offers unlike things to unlike clients, or is not
/// known yet.
@Suite("Offers of the downstream")
struct OffersTests {
  static let everything = [
    "PIPELINING", "SIZE 1000000", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES",
    "AUTH PLAIN LOGIN",
  ]
  static let mail = "MAIL FROM:<a@b.c>"

  /// A rule for one client's EHLO, which its name tells from a probe's.
  private static func ehlo(_ name: String, _ offers: [String]) -> ServerScript.Rule {
    let words = ["inner.test"] + offers
    let lines = words.enumerated().map { n, word in
      "250\(n == words.count - 1 ? " " : "-")\(word)"
    }
    return .init(prefix: "EHLO \(name)", answer: .reply(lines.joined(separator: "\r\n")))
  }

  /// A shield whose first probe is over, unless `later` says that nothing has happened yet.
  private func world(
    _ rules: [ServerScript.Rule] = [], offers: [String] = everything, role: Role = .inbound,
    later: Bool = false, _ change: (inout Engine) -> Void = { _ in }
  ) -> VirtualShield {
    var engine = Engine(
      policy: policy(access: "127.0.5.0/24 trusted\n") {
        $0.listeners[0].role = role
        $0.authOnClear = true
      }, limits: limits(), seed: 1)
    change(&engine)
    var shield = VirtualShield(driver: VirtualDriver(engine: engine))
    shield.downstream.script.offers = offers
    shield.downstream.script.rules = rules
    if !later { shield.advance(by: .seconds(1)) }
    return shield
  }

  private func arrive(_ shield: inout VirtualShield) throws -> Int {
    let arrived = shield.arrive("127.0.5.1")
    let client = try #require(arrived)
    _ = shield.banner(client)
    return client
  }

  // MARK: Unlike clients

  @Test("what one client's connection is offered changes nothing for another client")
  func apart() throws {
    var shield = world([Self.ehlo("poor", ["PIPELINING"])])
    let before = try arrive(&shield)
    let told = shield.ask(before, "EHLO rich.example.org\r\n")
    #expect(told.contains("DSN") && told.contains("SMTPUTF8"), "\(told)")
    let poor = try arrive(&shield)
    _ = shield.ask(poor, "EHLO poor.example.org\r\n")
    #expect(shield.ask(poor, Self.mail + "\r\n").hasPrefix("250"))
    let after = try arrive(&shield)
    #expect(shield.ask(after, "EHLO rich.example.org\r\n") == told)
    let full = Self.mail + " BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=1 SIZE=900000\r\n"
    #expect(shield.ask(before, full).hasPrefix("250"))
    #expect(shield.ask(before, "RCPT TO:<d@e.f> NOTIFY=NEVER\r\n").hasPrefix("250"))
    #expect(shield.downstream.lines.contains("RCPT TO:<d@e.f> NOTIFY=NEVER"))
  }

  @Test(
    "a client whose own connection is offered less than it was told is put off, not refused",
    arguments: [
      ("BODY=8BITMIME", "455 4.3.3"), ("SMTPUTF8", "455 4.3.3"), ("RET=FULL", "455 4.3.3"),
      ("BODY=7BIT", "250"), ("SIZE=5", "250"), ("AUTH=<>", "250"),
    ])
  func less(parameter: String, answer: String) throws {
    var shield = world([Self.ehlo("poor", ["PIPELINING"])])
    let client = try arrive(&shield)
    _ = shield.ask(client, "EHLO poor.example.org\r\n")
    let heard = shield.ask(client, Self.mail + " \(parameter)\r\n")
    #expect(heard.hasPrefix(answer), "\(heard)")
    let events = shield.events()
    let isLess = answer.hasPrefix("4")
    #expect(events.contains { $0.event == .downstreamUnlike } == isLess)
    #expect(events.contains { $0.event == .reject && $0.reply == 455 } == isLess)
    #expect(shield.ask(client, "RSET\r\n").hasPrefix("250"))
    #expect(shield.ask(client, Self.mail + "\r\n").hasPrefix("250"))
  }

  @Test("of a recipient with DSN the same, whether it comes alone or in a group")
  func lessOfRecipient() throws {
    for pipelines in [[], ["PIPELINING"]] {
      var shield = world([Self.ehlo("poor", pipelines)])
      let client = try arrive(&shield)
      _ = shield.ask(client, "EHLO poor.example.org\r\n")
      var heard = shield.ask(
        client, Self.mail + "\r\nRCPT TO:<d@e.f> NOTIFY=SUCCESS\r\nRCPT TO:<g@h.i>\r\n")
      shield.advance(by: .seconds(1))
      heard += shield.heard(client)
      let codes = heard.split(separator: "\r\n").map { $0.prefix(3) }
      #expect(codes == ["250", "455", "250"], "\(heard)")
    }
  }

  @Test("what was never offered to anybody stays refused")
  func never() throws {
    var shield = world(offers: ["PIPELINING", "8BITMIME"])
    let client = try arrive(&shield)
    _ = shield.ask(client, "EHLO client.example.org\r\n")
    #expect(shield.ask(client, Self.mail + " SMTPUTF8\r\n").hasPrefix("555"))
    #expect(shield.ask(client, Self.mail + " REQUIRETLS\r\n").hasPrefix("555"))
  }

  @Test("a log-in that the client was offered and its own connection is not is put off with 454")
  func lessAuth() throws {
    var shield = world([Self.ehlo("poor", ["PIPELINING"])], role: .outbound)
    let client = try arrive(&shield)
    #expect(shield.ask(client, "EHLO poor.example.org\r\n").contains("AUTH PLAIN LOGIN"))
    #expect(shield.ask(client, "AUTH PLAIN AHgAeA==\r\n").hasPrefix("454 4.7.0"))
    #expect(!shield.downstream.lines.contains { $0.hasPrefix("AUTH") })
  }

  @Test("once a difference was seen, EHLO tells each client what its own connection is offered")
  func learnt() throws {
    var shield = world([Self.ehlo("poor", ["PIPELINING", "8BITMIME"])])
    let first = try arrive(&shield)
    _ = shield.ask(first, "EHLO poor.example.org\r\n")
    #expect(shield.ask(first, Self.mail + " SMTPUTF8\r\n").hasPrefix("455"))
    let again = try arrive(&shield)
    let told = shield.ask(again, "EHLO poor.example.org\r\n")
    #expect(told.contains("8BITMIME") && !told.contains("SMTPUTF8") && !told.contains("DSN"))
    #expect(shield.driver.engine.linkCount == 1, "it is not kept while the client is silent")
    #expect(shield.ask(again, Self.mail + " BODY=8BITMIME\r\n").hasPrefix("250"))
    let rich = try arrive(&shield)
    #expect(shield.ask(rich, "EHLO rich.example.org\r\n").contains("SMTPUTF8"))
    // An hour later, others are believed again.
    shield.advance(by: .seconds(3_601))
    let late = try arrive(&shield)
    #expect(shield.ask(late, "EHLO poor.example.org\r\n").contains("SMTPUTF8"))
  }

  @Test("a downstream that knows only HELO for one client takes nothing from the others")
  func fallback() throws {
    var shield = world([
      .init(prefix: "EHLO old", answer: .reply("502 5.5.1 What"))
    ])
    let old = try arrive(&shield)
    _ = shield.ask(old, "EHLO old.example.org\r\n")
    #expect(shield.ask(old, Self.mail + "\r\n").hasPrefix("250"))
    let other = try arrive(&shield)
    #expect(shield.ask(other, "EHLO rich.example.org\r\n").contains("DSN"))
  }

  @Test("a size is held against our own limit and the connection's own, not what others were told")
  func size() throws {
    var shield = world([Self.ehlo("rich", ["SIZE 5000"])], offers: ["SIZE 40"])
    let client = try arrive(&shield)
    #expect(shield.ask(client, "EHLO rich.example.org\r\n").contains("SIZE 40"))
    #expect(shield.ask(client, Self.mail + " SIZE=4000\r\n").hasPrefix("250"))
    #expect(shield.downstream.lines.contains(Self.mail + " SIZE=4000"))
    #expect(shield.ask(client, "RCPT TO:<d@e.f>\r\n").hasPrefix("250"))
    #expect(shield.ask(client, "DATA\r\n").hasPrefix("354"))
    let text = String(repeating: "0123456789\r\n", count: 10)
    #expect(shield.ask(client, text + ".\r\n").hasPrefix("250"))
  }

  @Test("what XCLIENT is said in is ours: its EHLO tells clients nothing")
  func introduction() throws {
    // To Sluice itself it offers less than to a client.
    var shield = world(
      [.init(prefix: "XCLIENT", answer: .reply("220 inner.test ESMTP"))],
      offers: Self.everything + ["XCLIENT NAME ADDR PROTO HELO"]
    ) {
      $0 = Engine(
        policy: $0.policy, limits: $0.limits, seed: 1,
        servers: [Server(DownstreamTerms(.xclient))])
    }
    let client = try arrive(&shield)
    _ = shield.ask(client, "EHLO client.example.org\r\n")
    shield.downstream.script.rules.append(Self.ehlo("mx.example.test", ["XCLIENT ADDR"]))
    #expect(shield.ask(client, Self.mail + " SMTPUTF8\r\n").hasPrefix("250"))
    let other = try arrive(&shield)
    #expect(shield.ask(other, "EHLO other.example.org\r\n").contains("SMTPUTF8"))
  }

  // MARK: Not yet known

  @Test("before the server behind was ever reached EHLO is 421; what is known outlives an outage")
  func unknown() throws {
    var shield = world(later: true)
    shield.driver.downstreamListens = false
    shield.advance(by: .seconds(1))
    let early = try arrive(&shield)
    #expect(shield.ask(early, "EHLO client.example.org\r\n").hasPrefix("421 4.3.2"))
    #expect(!shield.driver.sockets[early].isOpen || shield.driver.sockets[early].isFinished)
    // HELO asks for nothing.
    let plain = try arrive(&shield)
    #expect(shield.ask(plain, "HELO client.example.org\r\n").hasPrefix("250"))
    #expect(shield.ask(plain, Self.mail + "\r\n").hasPrefix("451"))
    shield.driver.downstreamListens = true
    shield.advance(by: .seconds(6))
    let late = try arrive(&shield)
    let told = shield.ask(late, "EHLO client.example.org\r\n")
    #expect(told.contains("SMTPUTF8"), "\(told)")
    shield.driver.downstreamListens = false
    shield.advance(by: .seconds(120))
    #expect(shield.driver.engine.isDownstreamUp == false)
    let during = try arrive(&shield)
    #expect(shield.ask(during, "EHLO client.example.org\r\n") == told)
    #expect(shield.ask(during, Self.mail + " SMTPUTF8\r\n").hasPrefix("451"))
  }

  @Test("a client that comes before the first probe has its answer is told what its own link is")
  func early() throws {
    var shield = world([.init(prefix: "EHLO mx.example.test", answer: .silence)], later: true)
    shield.settle()
    let client = try arrive(&shield)
    #expect(shield.ask(client, "EHLO client.example.org\r\n").contains("SMTPUTF8"))
    #expect(shield.ask(client, Self.mail + " SMTPUTF8\r\n").hasPrefix("250"))
  }

  @Test(
    "a server that refuses our probes alone hides nothing from clients, and is not asked by each",
    arguments: [Role.inbound, .outbound])
  func probesRefused(role: Role) throws {
    var shield = world(
      [.init(prefix: "EHLO mx.example.test", answer: .reply("521 5.7.1 Not you"))], role: role)
    #expect(shield.driver.engine.isDownstreamUp == false)
    let first = try arrive(&shield)
    let told = shield.ask(first, "EHLO client.example.org\r\n")
    #expect(told.contains("SMTPUTF8") && told.contains("AUTH PLAIN") == (role == .outbound))
    let dialled = shield.driver.dialled.count
    let second = try arrive(&shield)
    #expect(shield.ask(second, "EHLO client.example.org\r\n") == told)
    #expect(shield.driver.dialled.count == dialled)
  }

  @Test("where probes are refused, clients are told what others were offered alike")
  func alike() throws {
    var shield = world(
      [
        .init(prefix: "EHLO mx.example.test", answer: .reply("521 5.7.1 Not you")),
        Self.ehlo("left", ["8BITMIME", "DSN", "SIZE 500", "AUTH PLAIN LOGIN"]),
        Self.ehlo("right", ["8BITMIME", "SMTPUTF8", "SIZE 900", "AUTH CRAM-MD5 LOGIN"]),
      ], role: .outbound)
    for name in ["left", "right"] {
      let client = try arrive(&shield)
      _ = shield.ask(client, "EHLO \(name).example.org\r\n")
      _ = shield.ask(client, Self.mail + "\r\n")
    }
    let client = try arrive(&shield)
    let told = shield.ask(client, "EHLO third.example.org\r\n")
    #expect(told.contains("250-8BITMIME") && told.contains("250-SIZE 500"), "\(told)")
    #expect(told.contains("AUTH LOGIN\r\n") && !told.contains("DSN"), "\(told)")
    #expect(!told.contains("SMTPUTF8"), "\(told)")
  }

  @Test("EHLO that waits for the downstream is 421 when that does not answer, and not before")
  func silence() throws {
    var shield = world([.init(prefix: "connect", answer: .silence)], later: true)
    shield.settle()
    let client = try arrive(&shield)
    let timeout = shield.driver.engine.policy.timeouts.greeting
    shield.driver.say(client, "EHLO client.example.org\r\nQUIT\r\n")
    shield.advance(by: .microseconds(timeout - 1_000_000))
    #expect(shield.heard(client) == "")
    shield.advance(by: .seconds(2))
    let heard = shield.heard(client)
    #expect(heard.hasPrefix("421 4.3.2") && heard.split(separator: "\r\n").count == 1, "\(heard)")
  }

  // MARK: Refusals of one client

  @Test(
    "while probes pass, a refusal of one client at greeting or EHLO goes on in the server's words",
    arguments: [
      ("PROXY TCP4 127.0.5.1", "554 5.7.1 You are listed"), ("EHLO banned", "550 5.7.1 Go away"),
      ("PROXY TCP4 127.0.5.1", "450 4.7.1 Not today"), ("EHLO banned", "421 4.7.0 Too many"),
    ])
  func refusal(prefix: String, words: String) throws {
    // It greets when it knows to whom.
    var shield = world([
      .init(prefix: "connect", answer: .silence), .init(prefix: prefix, answer: .reply(words)),
      .init(prefix: "PROXY", answer: .reply("220 inner.test ESMTP")),
    ]) {
      $0 = Engine(
        policy: $0.policy, limits: $0.limits, seed: 1, servers: [Server(DownstreamTerms(.proxyV1))])
    }
    #expect(shield.driver.engine.isDownstreamUp == true)
    _ = shield.events()
    let client = try arrive(&shield)
    #expect(shield.ask(client, "EHLO banned.example.org\r\n").contains("DSN"))
    let heard = shield.ask(client, Self.mail + "\r\n")
    #expect(heard == words + "\r\n")
    shield.advance(by: .seconds(1))
    #expect(shield.driver.sockets[client].isFinished == words.hasPrefix("421"))
    let events = shield.events()
    #expect(events.contains { $0.event == .reject && $0.reply == UInt16(words.prefix(3)) })
    #expect(!events.contains { $0.event == .downstreamFailed || $0.event == .downstreamDown })
  }

  @Test("a refusal at the greeting of a server that does not know who the client is stays ours")
  func refusalOfAll() throws {
    var shield = world()
    shield.downstream.script.rules = [.init(prefix: "connect", answer: .reply("554 5.7.1 No"))]
    let client = try arrive(&shield)
    _ = shield.ask(client, "EHLO client.example.org\r\n")
    #expect(shield.ask(client, Self.mail + "\r\n").hasPrefix("451 4.4.1"))
  }

  @Test("a 421 in the middle of a message is the end of the session, after the message")
  func goodbyeInMessage() throws {
    var shield = world()
    let client = try arrive(&shield)
    for line in ["EHLO c.example.org", Self.mail, "RCPT TO:<d@e.f>", "DATA"] {
      _ = shield.ask(client, line + "\r\n")
    }
    let link = try #require(shield.driver.dialled.last)
    shield.driver.say(link, "421 4.3.2 inner.test shutting down\r\n")
    shield.driver.say(client, "Subject: x\r\n\r\nhello\r\n.\r\nNOOP\r\n")
    shield.advance(by: .seconds(1))
    #expect(shield.heard(client) == "421 4.3.2 inner.test shutting down\r\n")
    #expect(shield.driver.sockets[client].isFinished)
  }

  // MARK: Several addresses

  @Test("each address of the server behind is tried before the client hears of it")
  func addresses() throws {
    var shield = world()
    shield.driver.refusingServers = [0]
    shield.driver.silentServers = [1]
    shield.driver.move(toAddresses: 3)
    let start = shield.driver.now
    let client = try arrive(&shield)
    _ = shield.ask(client, "EHLO client.example.org\r\n")
    #expect(shield.ask(client, Self.mail + "\r\n").hasPrefix("250"))
    #expect((shield.driver.now - start).inSeconds < 30, "within the time for one address")
    #expect(Set(shield.driver.dialledServers.dropFirst()) == [0, 1, 2])
    let failed = shield.events().filter { $0.event == .downstreamFailed && $0.subject == .connect }
    #expect(Set(failed.map(\.server)) == [0, 1])
    // The next one begins where it went well.
    let before = shield.driver.dialledServers.count
    let other = try arrive(&shield)
    _ = shield.ask(other, "EHLO client.example.org\r\n")
    #expect(shield.ask(other, Self.mail + "\r\n").hasPrefix("250"))
    #expect(shield.driver.dialledServers.dropFirst(before).allSatisfy { $0 == 2 })
  }

  @Test("where none of them answers the client hears 451, once, and nothing is left over")
  func noAddress() throws {
    var shield = world()
    shield.driver.move(toAddresses: 3)
    shield.advance(by: .seconds(1))
    shield.driver.refusingServers = [0, 1, 2]
    let client = try arrive(&shield)
    _ = shield.ask(client, "EHLO client.example.org\r\n")
    let before = shield.driver.dialledServers.count
    let heard = shield.ask(client, Self.mail + "\r\n")
    #expect(heard.hasPrefix("451 4.4.1") && heard.split(separator: "\r\n").count == 1)
    #expect(shield.driver.dialledServers.dropFirst(before).sorted() == [0, 1, 2])
    shield.advance(by: .seconds(1))
    #expect(shield.driver.engine.linkCount == 0)
    #expect(shield.driver.engine.isDownstreamUp == false)
    // A probe tries all of them, too.
    shield.driver.refusingServers = [0, 1]
    shield.advance(by: .seconds(10))
    #expect(shield.driver.engine.isDownstreamUp == true)
  }
}
