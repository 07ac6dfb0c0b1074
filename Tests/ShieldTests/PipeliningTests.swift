// SPDX-License-Identifier: Apache-2.0
import Policy
import Shield
import Simulator
import Structures
import Suspicion
import TestServer
import Testing

/// Commands that go downstream ahead of replies (RFC 2920), and those that must not.
@Suite("Pipelining towards the downstream")
struct PipeliningTests {
  static let trusted = "127.0.5.0/24 trusted\n127.0.2.0/24 suspicious\n"
  static let group = "MAIL FROM:<a@b.c>\r\nRCPT TO:<d@e.f>\r\nRCPT TO:<g@h.i>\r\nDATA\r\n"

  private struct World: ~Copyable {
    var shield: VirtualShield
    let client: Int
  }

  /// A client that has said EHLO; its downstream answers as the rules say.
  private func greeted(
    _ address: String = "127.0.5.1", rates: String = "",
    _ rules: [ServerScript.Rule] = [], offers: [String]? = nil
  ) throws -> World {
    var shield = VirtualShield(
      driver: VirtualDriver(
        engine: Engine(
          policy: policy(access: Self.trusted, rates: rates), limits: limits(), seed: 1)))
    if let offers { shield.downstream.script.offers = offers }
    shield.advance(by: .seconds(1))
    shield.downstream.script.rules = rules
    let arrived = shield.arrive(address)
    let client = try #require(arrived)
    _ = shield.banner(client)
    let hello = shield.ask(client, "EHLO client.example.org\r\n")
    #expect(hello.hasPrefix("250"))
    return World(shield: shield, client: client)
  }

  private static func rule(_ prefix: String, _ reply: String) -> ServerScript.Rule {
    .init(prefix: prefix, answer: .reply(reply))
  }

  /// The codes of the replies in a text, one for each.
  private func codes(_ text: String) -> [String] {
    text.split(separator: "\r\n").filter { $0.dropFirst(3).first != "-" }.map {
      String($0.prefix(3))
    }
  }

  @Test("a group goes downstream as a whole, before any reply, and each command gets its own")
  func group() throws {
    var world = try greeted("127.0.5.1", [.init(prefix: "MAIL", answer: .silence)])
    world.shield.driver.say(world.client, Self.group)
    world.shield.advance(by: .seconds(1))
    #expect(
      world.shield.downstream.lines.suffix(4).map { $0.prefix(4) } == [
        "MAIL", "RCPT", "RCPT", "DATA",
      ])
    // The scripted server was silent about MAIL and answered the rest: its 354 comes where a recipient's reply
    // is due, which ends the connection, and each command has its answer at once.
    let heard = world.shield.heard(world.client)
    #expect(codes(heard) == ["250", "250", "451", "451"], "\(heard)")
  }

  @Test("replies come back in order, good ones and bad ones, and the message follows")
  func order() throws {
    var world = try greeted("127.0.5.1", [Self.rule("RCPT TO:<g@", "550 5.1.1 Who is that")])
    let heard = world.shield.ask(world.client, Self.group)
    #expect(codes(heard) == ["250", "250", "550", "354"], "\(heard)")
    let then = codes(world.shield.ask(world.client, "hello\r\n.\r\n"))
    #expect(then == ["250"])
    #expect(world.shield.downstream.accepted.count == 1)
    let refused = world.shield.events().last { $0.event == .reject }
    let text = try #require(refused).text
    let named = (0..<Int(text.recipientCount)).map { text.recipient[$0] }
    #expect(String(decoding: named, as: UTF8.self) == "<g@h.i>")
  }

  @Test(
    "what must wait or be counted is not sent ahead",
    arguments: [
      ("127.0.2.1", "", true, "a suspicious peer's recipients are delayed"),
      ("127.0.1.1", "127.0.1.0/24 rcpt=100/m\n", true, "recipients are counted"),
      ("127.0.5.1", "", false, "the downstream does not offer it"),
    ])
  func alone(address: String, rates: String, offers: Bool, reason: String) throws {
    var world = try greeted(
      address, rates: rates, [.init(prefix: "MAIL", answer: .silence)],
      offers: offers ? nil : ["SIZE 1000000"])
    world.shield.driver.say(world.client, Self.group)
    world.shield.advance(by: .seconds(40))
    let lines = world.shield.downstream.lines
    #expect(
      lines.contains { $0.hasPrefix("MAIL") } && !lines.contains { $0.hasPrefix("RCPT") },
      "\(reason): \(lines)")
  }

  @Test("a refused recipient is held, and what stands behind it waits in its order")
  func held() throws {
    var world = try greeted("127.0.1.1", [Self.rule("RCPT TO:<d@", "550 5.1.1 Who is that")])
    world.shield.driver.say(world.client, Self.group)
    world.shield.advance(by: .milliseconds(500))
    let then = codes(world.shield.heard(world.client))
    #expect(then == ["250"])
    world.shield.advance(by: .seconds(1))
    let last = codes(world.shield.heard(world.client))
    #expect(last == ["550", "250", "354"])
  }

  @Test("a downstream that dies within a group leaves an answer for each command, and no other")
  func death() throws {
    var world = try greeted("127.0.5.1", [.init(prefix: "RCPT TO:<d@", answer: .close)])
    let heard = world.shield.ask(world.client, Self.group)
    #expect(codes(heard) == ["250", "451", "451", "451"], "\(heard)")
    let then = codes(world.shield.ask(world.client, "RSET\r\n"))
    #expect(then == ["250"])
  }

  @Test("a reply more than there are commands ends the connection, and nothing is paired with it")
  func surplus() throws {
    let three = Array("250 one\r\n250 two\r\n250 three\r\n".utf8)
    var world = try greeted(
      "127.0.5.1",
      [.init(prefix: "MAIL", answer: .raw(three)), .init(prefix: "RCPT", answer: .silence)])
    let heard = world.shield.ask(world.client, "MAIL FROM:<a@b.c>\r\nRCPT TO:<d@e.f>\r\n")
    #expect(codes(heard) == ["250", "451"], "\(heard)")
  }

  @Test("message bytes ahead of 354 end the session, pipelined or not")
  func early() throws {
    var world = try greeted()
    let heard = world.shield.ask(world.client, Self.group + "Subject: early\r\n\r\n.\r\n")
    #expect(
      codes(heard).prefix(3) == ["250", "250", "250"] && !codes(heard).contains("354"), "\(heard)")
    #expect(world.shield.downstream.accepted.isEmpty)
  }

  @Test("more recipients than may be out at once all get their reply")
  func many() throws {
    var world = try greeted()
    let lines = (0..<60).map { "RCPT TO:<user\($0)@e.f>\r\n" }.joined()
    let heard = world.shield.ask(world.client, "MAIL FROM:<a@b.c>\r\n" + lines + "DATA\r\n")
    #expect(codes(heard).count == 62 && codes(heard).last == "354")
    #expect(world.shield.downstream.lines.filter { $0.hasPrefix("RCPT") }.count == 60)
  }

  @Test("behind a MAIL that was refused, our own refusals wait for those of the downstream")
  func refusedMail() throws {
    var world = try greeted(
      "127.0.5.1",
      [.init(prefix: "MAIL", answer: .silence), .init(prefix: "RCPT", answer: .silence)])
    let recipients = (0..<20).map { "RCPT TO:<user\($0)@e.f>\r\n" }.joined()
    world.shield.driver.say(
      world.client, "MAIL FROM:<a@b.c>\r\n" + recipients + "NOOP\r\nDATA\r\n")
    world.shield.settle()
    let link = try #require(world.shield.driver.dialled.last)
    world.shield.driver.say(link, "550 5.7.1 theirs\r\n")
    var heard = world.shield.heard(world.client)
    #expect(codes(heard) == ["550"], "\(heard)")
    for _ in 0..<14 {
      world.shield.driver.say(link, "503 5.5.1 theirs\r\n")
      heard += world.shield.heard(world.client)
    }
    let lines = heard.split(separator: "\r\n")
    #expect(lines.prefix(15).allSatisfy { $0.hasSuffix("theirs") }, "\(heard)")
    #expect(
      codes(heard) == ["550"] + Array(repeating: "503", count: 20) + ["250", "503"], "\(heard)")
  }

  @Test(
    "message bytes ahead of 354 end the session also while a refused recipient is held",
    arguments: ["354 Go on", "554 5.5.1 No"])
  func earlyWhileHeld(answer: String) throws {
    for early in ["x", "RSET\r\nMAIL FROM:<smuggled@b.c>\r\n"] {
      var world = try greeted(
        "127.0.1.1",
        [Self.rule("RCPT TO:<d@", "550 5.1.1 Who is that"), Self.rule("DATA", answer)])
      world.shield.driver.say(world.client, Self.group)
      world.shield.advance(by: .milliseconds(500))
      world.shield.driver.say(world.client, early)
      world.shield.advance(by: .seconds(10))
      let heard = world.shield.heard(world.client)
      #expect(codes(heard).last == "554" && heard.contains("554 5.5.0"), "\(heard)")
      #expect(!codes(heard).contains("354"), "\(heard)")
      #expect(!world.shield.downstream.lines.contains { $0.contains("smuggled") })
    }
  }

  @Test("a 354 ahead of our own DATA ends the downstream connection: no message goes into it")
  func early354() throws {
    var world = try greeted("127.0.5.1", [.init(prefix: "RCPT", answer: .silence)])
    #expect(world.shield.ask(world.client, "MAIL FROM:<a@b.c>\r\n").hasPrefix("250"))
    let link = try #require(world.shield.driver.dialled.last)
    world.shield.driver.setWindow(link, 0)
    world.shield.driver.say(world.client, "RCPT TO:<d@e.f>\r\nDATA\r\n")
    world.shield.driver.say(link, "250 2.1.5 Fine\r\n354 Go on\r\n")
    let heard = world.shield.heard(world.client)
    #expect(codes(heard) == ["250", "451"], "\(heard)")
    world.shield.driver.say(world.client, "RSET\r\n")
    #expect(world.shield.heard(world.client).hasPrefix("250"))
  }

  @Test("a reply of a wrong class within a group leaves an answer for each command, and no other")
  func wrongClass() throws {
    for (prefix, expected) in [
      ("MAIL", ["451", "451", "451", "451"]), ("RCPT TO:<d@", ["250", "451", "451", "451"]),
      ("RCPT TO:<g@", ["250", "250", "451", "451"]), ("DATA", ["250", "250", "250", "451"]),
    ] {
      var world = try greeted("127.0.5.1", [Self.rule(prefix, "220 2.0.0 What")])
      let heard = world.shield.ask(world.client, Self.group)
      #expect(codes(heard) == expected, "\(prefix): \(heard)")
    }
  }

  @Test("holding a refusal is our own doing: the downstream's clock stands meanwhile")
  func clockWhileHeld() throws {
    var world = try greeted("127.0.1.1", [Self.rule("RCPT TO:<d@", "550 5.1.1 Who is that")])
    var hasty = world.shield.driver.engine.policy
    hasty.timeouts.reply = 500_000
    world.shield.driver.engine.adopt(hasty)
    world.shield.driver.say(world.client, Self.group)
    world.shield.advance(by: .seconds(10))
    let heard = world.shield.heard(world.client)
    #expect(codes(heard) == ["250", "550", "250", "354"], "\(heard)")
  }

  @Test("a client that takes none of its replies loses its downstream connection in bounded time")
  func nobodyTakes() throws {
    let long = (0..<40).map { "250-\($0)" + String(repeating: "x", count: 120) + "\r\n" }.joined()
    var world = try greeted(
      "127.0.5.1", [.init(prefix: "RCPT", answer: .raw(Array((long + "250 end\r\n").utf8)))])
    world.shield.driver.setWindow(world.client, 0)
    world.shield.driver.say(world.client, Self.group)
    world.shield.advance(by: .seconds(50))
    #expect(world.shield.driver.engine.linkCount == 1)
    // It is the client's own deadline (`timeouts.send`), and nobody else's fault.
    world.shield.advance(by: .seconds(15))
    #expect(!world.shield.driver.sockets[world.client].isOpen)
    #expect(!world.shield.events().contains { $0.event == .downstreamFailed })
    world.shield.advance(by: .seconds(800))
    #expect(world.shield.driver.engine.heldCount == 0 && world.shield.driver.engine.linkCount == 0)
    #expect(world.shield.driver.engine.leasedSessions == 0)
  }

  @Test("in a group or one by one, whole or byte by byte: the same replies", arguments: 0..<60)
  func twin(seed: UInt64) throws {
    var random = SeededGenerator(seed: seed)
    var rules: [ServerScript.Rule] = []
    for n in 0..<8 where Int.random(in: 0..<3, using: &random) == 0 {
      let reply =
        ["550 5.1.1 no", "450 4.2.0 later", "251 2.1.5 elsewhere"].randomElement(using: &random)
        ?? ""
      rules.append(Self.rule("RCPT TO:<user\(n)@", reply))
    }
    if Int.random(in: 0..<6, using: &random) == 0 {
      rules = [
        Self.rule("MAIL", "550 5.7.1 not you"), Self.rule("RCPT", "503 5.5.1 MAIL first"),
        Self.rule("DATA", "503 5.5.1 MAIL first"),
      ]
    }
    if Int.random(in: 0..<6, using: &random) == 0 {
      rules.append(Self.rule("DATA", "451 4.3.0 not now"))
    }
    var commands = ["MAIL FROM:<a@b.c>"]
    for _ in 0..<Int.random(in: 0..<(seed % 4 == 0 ? 40 : 12), using: &random) {
      commands.append(
        [
          "RCPT TO:<user\(Int.random(in: 0..<8, using: &random))@e.f>", "NOOP", "RCPT TO:<broken",
          "VRFY someone", "RCPT TO:<user1@e.f> NOTIFY=NEVER",
        ].randomElement(using: &random) ?? "NOOP")
    }
    commands.append(["DATA", "RSET", "DATA"].randomElement(using: &random) ?? "DATA")
    var transcripts: [[String]] = []
    for way in 0..<3 {
      var world = try greeted("127.0.5.1", rules)
      if way == 2 { world.shield.driver.receiveMax = 1 }
      var heard = ""
      if way == 0 {
        for command in commands { heard += world.shield.ask(world.client, command + "\r\n") }
      } else {
        heard = world.shield.ask(world.client, commands.map { $0 + "\r\n" }.joined())
        world.shield.advance(by: .seconds(1))
        heard += world.shield.heard(world.client)
      }
      transcripts.append(codes(heard))
    }
    #expect(transcripts[0].count == commands.count, "seed \(seed): \(commands) \(transcripts[0])")
    #expect(transcripts[1] == transcripts[0], "seed \(seed): \(commands)")
    #expect(transcripts[2] == transcripts[0], "seed \(seed): \(commands)")
  }
}
