// SPDX-License-Identifier: Apache-2.0
import Policy
import Shield
import Simulator
import Structures
import Suspicion
import TestServer
import Testing

/// No number ends a session in the middle of a message, and none is held for ever for that.
@Suite("Limits of a session")
struct LimitTests {
  private struct World: ~Copyable {
    var shield: VirtualShield
    let client: Int

    mutating func ask(_ line: String) -> String { shield.ask(client, line + "\r\n") }

    /// The code of the reply to a line.
    mutating func code(_ line: String) -> String { String(ask(line).prefix(3)) }

    mutating func says(_ line: String, _ code: String) {
      let answer = ask(line)
      #expect(answer.hasPrefix(code), "\(line): \(answer)")
    }
  }

  /// A client that has said EHLO and MAIL, before a downstream that knows no `dead` recipient and puts off `later`.
  private func mailing(
    _ address: String = "203.0.113.7", rates: String = "", rules: [ServerScript.Rule] = [],
    _ change: (inout Policy) -> Void = { _ in }
  ) throws -> World {
    var shield = shield(
      policy(access: "10.0.0.0/8 trusted\n", rates: rates) {
        $0.delays[.banner].clean = 0
        $0.delays[.helo].clean = 0
        change(&$0)
      })
    shield.downstream.script.rules =
      rules + [
        .init(prefix: "RCPT TO:<dead", answer: .reply("550 5.1.1 Who is that")),
        .init(prefix: "RCPT TO:<later", answer: .reply("452 4.2.2 Mailbox full")),
      ]
    let arrived = shield.arrive(address)
    let client = try #require(arrived)
    _ = shield.banner(client)
    var world = World(shield: shield, client: client)
    world.says("EHLO client.example.org", "250")
    world.says("MAIL FROM:<a@b.c>", "250")
    return world
  }

  @Test("a message to 400 of whom 350 are dead arrives, slowly, and the session ends behind it")
  func manyDead() throws {
    var world = try mailing()
    let start = world.shield.driver.now
    for n in 0..<400 {
      world.says("RCPT TO:<\(n % 8 == 0 ? "user" : "dead")\(n)@e.f>", n % 8 == 0 ? "250" : "550")
    }
    let took = (world.shield.driver.now - start).inSeconds
    #expect(took > 100 && took < 125, "\(took) s")
    world.says("DATA", "354")
    let answer = world.ask("hello\r\n.")
    #expect(
      answer.hasPrefix("250") && answer.contains("\r\n421 4.7.0 Too many errors"), "\(answer)")
    #expect(world.shield.downstream.accepted.count == 1)
    #expect(world.shield.events().contains { $0.event == .limit && $0.subject == .errors })
  }

  @Test("who asks for one address after the other and finds none is sent away after 50")
  func harvest() throws {
    var world = try mailing()
    for n in 0..<50 { world.says("RCPT TO:<dead\(n)@e.f>", "550") }
    #expect(world.ask("RCPT TO:<dead@e.f>").contains("421 4.7.0 Too many errors"))
  }

  @Test("a known sender may have its dead recipients first")
  func deadFirst() throws {
    var world = try mailing()
    for line in ["RCPT TO:<d@e.f>", "DATA", "."] { #expect(world.code(line) < "4") }
    world.says("MAIL FROM:<a@b.c>", "250")
    for n in 0..<120 { world.says("RCPT TO:<dead\(n)@e.f>", "550") }
    world.says("RCPT TO:<d@e.f>", "250")
    world.says("DATA", "354")
    #expect(world.ask(".").hasPrefix("250"))
    #expect(world.shield.downstream.accepted.count == 2)
  }

  @Test("far above its limits a session ends even within a message")
  func far() throws {
    var world = try mailing { $0.session.recipients = 20 }
    world.says("RCPT TO:<d@e.f>", "250")
    for n in 0..<70 { world.says("RCPT TO:<dead\(n)@e.f>", "550") }
    #expect(world.ask("RCPT TO:<dead@e.f>").contains("421 4.7.0 Too many errors"))
    var other = try mailing { $0.session.commands = 20 }
    other.says("RCPT TO:<d@e.f>", "250")
    for n in 0..<37 { other.says("RCPT TO:<d\(n)@e.f>", "250") }
    #expect(other.ask("RCPT TO:<d@e.f>").hasPrefix("421 4.7.0 Too many commands"))
  }

  @Test("4yz is no error of the client, whoever says it")
  func transient() throws {
    var world = try mailing { $0.session.recipients = 3 }
    for n in 0..<120 { world.says("RCPT TO:<later\(n)@e.f>", "452 4.2.2") }
    for n in 0..<3 { world.says("RCPT TO:<user\(n)@e.f>", "250") }
    for n in 0..<120 { world.says("RCPT TO:<more\(n)@e.f>", "452 4.5.3") }
    world.says("DATA", "354")
    #expect(world.ask(".") == "250 2.0.0 Taken\r\n")
    #expect(!world.shield.events().contains { $0.event == .signal })
    world.says("MAIL FROM:<a@b.c>", "250")
  }

  @Test(
    "what is refused behind a refused MAIL, or without any recipient left, is no error of its own",
    arguments: ["451 4.7.1 Greylisted", "550 5.7.1 Not you"])
  func echo(reply: String) throws {
    var world = try mailing()
    for line in ["RCPT TO:<d@e.f>", "DATA", "."] { #expect(world.code(line) < "4") }
    let before = world.shield.downstream.script.rules
    world.shield.downstream.script.rules = [
      .init(prefix: "MAIL FROM:<bad", answer: .reply(reply)),
      .init(prefix: "RCPT", answer: .reply("503 5.5.1 Need MAIL command")),
      .init(prefix: "DATA", answer: .reply("503 5.5.1 Need RCPT command")),
    ]
    let recipients = (0..<12).map { "RCPT TO:<d\($0)@e.f>\r\n" }.joined()
    for _ in 0..<4 {
      let answer = world.ask("MAIL FROM:<bad@b.c>\r\n\(recipients)DATA")
      #expect(answer.hasPrefix(String(reply.prefix(3))) && answer.contains("\r\n503"), "\(answer)")
      world.shield.advance(by: .seconds(1))
      _ = world.shield.heard(world.client)
    }
    world.shield.downstream.script.rules =
      before + [.init(prefix: "DATA", answer: .reply("554 5.5.1 No valid recipients"))]
    for _ in 0..<10 {
      #expect(world.ask("MAIL FROM:<a@b.c>\r\nRCPT TO:<later@e.f>\r\nDATA").contains("\r\n452"))
      world.shield.advance(by: .seconds(1))
      _ = world.shield.heard(world.client)
      world.says("RSET", "250")
    }
    #expect(!world.shield.events().contains { $0.event == .signal })
    // A recipient without any MAIL is one.
    for _ in 0..<5 { world.says("RCPT TO:<d@e.f>", "503") }
    #expect(world.shield.events().contains { $0.event == .signal && $0.signal == .errors })
  }

  @Test("commands, time, unknown commands and a rate of errors wait for the end of the message")
  func waits() throws {
    var commands = try mailing { $0.session.commands = 20 }
    for n in 0..<30 { commands.says("RCPT TO:<d\(n)@e.f>", "250") }
    commands.says("DATA", "354")
    #expect(commands.ask(".").contains("250 2.0.0 Taken\r\n421 4.7.0 Too many commands"))

    var unknown = try mailing()
    unknown.says("RCPT TO:<d@e.f>", "250")
    for _ in 0..<12 { unknown.says("WIBBLE", "500") }
    unknown.says("DATA", "354")
    #expect(unknown.ask(".").contains("250 2.0.0 Taken\r\n421 4.7.0 Too many errors"))

    for over in ["tempfail", "refuse", "drop"] {
      var rated = try mailing(rates: "0.0.0.0/0 errors=3/h over=\(over)\n")
      rated.says("RCPT TO:<d@e.f>", "250")
      for n in 0..<8 { rated.says("RCPT TO:<dead\(n)@e.f>", "550") }
      rated.says("DATA", "354")
      #expect(rated.ask(".").contains("250 2.0.0 Taken\r\n421 4.7.0 Too many errors"), "\(over)")
    }

    var time = try mailing { $0.timeouts.session = 20_000_000 }
    time.says("RCPT TO:<d@e.f>", "250")
    time.says("DATA", "354")
    for _ in 0..<12 {
      time.shield.driver.say(time.client, String(repeating: "a line\r\n", count: 4))
      time.shield.advance(by: .seconds(2))
    }
    #expect(time.ask(".").contains("250 2.0.0 Taken\r\n421 4.4.2 Session too long"))
  }

  @Test("a source over a rate that drops hears 450 for the recipient, and its message goes on")
  func dropped() throws {
    var world = try mailing(rates: "0.0.0.0/0 rcpt=3/h over=drop\n")
    for n in 0..<3 { world.says("RCPT TO:<d\(n)@e.f>", "250") }
    for n in 0..<3 { world.says("RCPT TO:<e\(n)@e.f>", "450 4.7.1") }
    world.says("DATA", "354")
    world.says(".", "250")
    var other = try mailing(rates: "0.0.0.0/0 rcpt=1/h over=drop\n")
    other.says("RCPT TO:<d@e.f>", "250")
    other.says("RSET", "250")
    other.says("MAIL FROM:<a@b.c>", "250")
    #expect(other.ask("RCPT TO:<d@e.f>").isEmpty)
    #expect(!other.shield.driver.sockets[other.client].isOpen)
  }

  @Test("a pool that keeps itself alive stays what it is; a flood of commands does not")
  func idle() throws {
    var world = try mailing { $0.timeouts.session = 36_000_000_000 }
    for line in ["RCPT TO:<d@e.f>", "DATA", "."] { #expect(world.code(line) < "4") }
    for verb in ["NOOP", "RSET", "VRFY x"] {
      for _ in 0..<120 {
        world.shield.advance(by: .seconds(7))
        world.says(verb, "25")
      }
    }
    #expect(!world.shield.events().contains { $0.event == .signal })
    for line in ["MAIL FROM:<a@b.c>", "RCPT TO:<d@e.f>", "DATA", "."] {
      #expect(world.code(line) < "4")
    }
    for _ in 0..<50 { world.says("NOOP", "250") }
    #expect(!world.shield.events().contains { $0.event == .signal })
    world.says("NOOP", "250")
    #expect(world.shield.events().contains { $0.event == .signal && $0.signal == .commandFlood })
    // EHLO is a command without mail too, but for the first.
    var other = try mailing("203.0.113.8")
    other.says("RSET", "250")
    for _ in 0..<50 { other.says("HELO a.example.org", "250") }
    #expect(other.shield.events().contains { $0.event == .signal && $0.signal == .commandFlood })
  }
}
