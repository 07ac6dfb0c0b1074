// SPDX-License-Identifier: Apache-2.0
import Policy
import Shield
import Simulator
import Structures
import Suspicion
import TestServer
import Testing

/// The downstream does not wait while we let a client wait: its concurrency is what the shield is there to lower.
@Suite("Delays are not spent with a downstream connection open")
struct LetGoTests {
  /// A shield that suspects 127.0.2.0/24, before a downstream that knows nobody called `gone`.
  private func suspicious(_ change: (inout Policy) -> Void = { _ in }) -> VirtualShield {
    var shield = shield(policy(access: "127.0.2.0/24 suspicious\n", change))
    shield.downstream.script.rules = [
      .init(prefix: "RCPT TO:<gone", answer: .reply("550 5.1.1 Unknown"))
    ]
    return shield
  }

  /// A client of T2 that has said EHLO.
  private func suspect(_ shield: inout VirtualShield) throws -> Int {
    let arrived = shield.arrive("127.0.2.1")
    let client = try #require(arrived)
    _ = shield.banner(client)
    _ = shield.ask(client, "EHLO x.example.org\r\n")
    return client
  }

  private func open(_ shield: borrowing VirtualShield) -> Int {
    shield.driver.engine.linkCount
  }

  @Test(
    "MAIL waits for the delays of the first recipient and of DATA too, before the downstream is opened"
  )
  func ahead() throws {
    var shield = suspicious()
    let client = try suspect(&shield)
    let began = shield.driver.now
    shield.driver.say(client, "MAIL FROM:<a@b.c>\r\n")
    shield.advance(by: .seconds(16.9))
    #expect(open(shield) == 0)
    #expect(shield.heard(client).isEmpty)
    #expect(shield.ask(client, "").hasPrefix("250"))
    #expect(abs((shield.driver.now - began).inSeconds - 17) < 0.02, "8 for MAIL, 8 for DATA, 1")
    let open = shield.driver.now
    for line in ["RCPT TO:<d@e.f>\r\n", "DATA\r\n"] { _ = shield.ask(client, line) }
    #expect(shield.driver.now == open, "nothing is left to wait for")
    #expect(shield.ask(client, "hello\r\n.\r\n").hasPrefix("250"))
    let delayed = shield.events().filter { $0.event == .delay }.map(\.stage)
    #expect(delayed == [.banner, .helo, .mail, .data, .recipientAccepted])
  }

  @Test("what does not fit under MAIL's ceiling waits at its own stage")
  func noRoom() throws {
    var shield = suspicious { $0.delays[.mail].ceiling = 10_000_000 }
    let client = try suspect(&shield)
    let began = shield.driver.now
    _ = shield.ask(client, "MAIL FROM:<a@b.c>\r\n")
    #expect(
      abs((shield.driver.now - began).inSeconds - 9) < 0.02, "the recipient's fits, DATA's does not"
    )
    _ = shield.ask(client, "RCPT TO:<d@e.f>\r\n")
    _ = shield.ask(client, "DATA\r\n")
    #expect(abs((shield.driver.now - began).inSeconds - 17) < 0.02)
  }

  @Test("who leaves during that waits less for all of it the next time")
  func chance() throws {
    var shield = suspicious()
    let client = try suspect(&shield)
    shield.driver.reset(client)
    var waits: [Double] = []
    for _ in 0..<2 {
      let hasty = try suspect(&shield)
      shield.driver.say(hasty, "MAIL FROM:<a@b.c>\r\n")
      shield.advance(by: .seconds(0.5))
      shield.driver.reset(hasty)
      shield.advance(by: .seconds(61))
      let patient = try suspect(&shield)
      let began = shield.driver.now
      _ = shield.ask(patient, "MAIL FROM:<a@b.c>\r\n")
      waits.append((shield.driver.now - began).inSeconds)
      shield.driver.reset(patient)
    }
    #expect(abs(waits[0] - 8.5) < 0.05, "half of 17 s: \(waits)")
    #expect(waits[1] < 0.05, "nothing: \(waits)")
  }

  @Test(
    "a refused recipient waits without the downstream; the next one is asked on a new connection")
  func refused() throws {
    var shield = suspicious()
    let client = try suspect(&shield)
    _ = shield.ask(client, "MAIL FROM:<a@b.c> SIZE=100\r\n")
    let before = shield.driver.dialled.count
    shield.driver.say(client, "RCPT TO:<gone@e.f>\r\n")
    shield.advance(by: .seconds(1))
    #expect(shield.heard(client).isEmpty, "its refusal is held")
    #expect(open(shield) == 0)
    #expect(shield.downstream.lines.last == "QUIT", "politely")
    #expect(shield.ask(client, "") == "550 5.1.1 Unknown\r\n")
    #expect(shield.ask(client, "RCPT TO:<d@e.f>\r\n").hasPrefix("250"))
    #expect(shield.driver.dialled.count == before + 1)
    #expect(
      shield.downstream.lines.suffix(3)
        == ["EHLO x.example.org", "MAIL FROM:<a@b.c> SIZE=100", "RCPT TO:<d@e.f>"])
    _ = shield.ask(client, "DATA\r\n")
    #expect(shield.ask(client, "hello\r\n.\r\n").hasPrefix("250"))
    #expect(shield.downstream.accepted.count == 1)
    #expect(shield.downstream.breaches == 0)
  }

  @Test(
    "with a recipient that was taken the connection stays: the downstream has something of the client's"
  )
  func stays() throws {
    var shield = suspicious()
    let client = try suspect(&shield)
    _ = shield.ask(client, "MAIL FROM:<a@b.c>\r\n")
    _ = shield.ask(client, "RCPT TO:<d@e.f>\r\n")
    shield.driver.say(client, "RCPT TO:<gone@e.f>\r\n")
    shield.advance(by: .seconds(2))
    #expect(open(shield) == 1)
    #expect(shield.ask(client, "") == "550 5.1.1 Unknown\r\n")
    _ = shield.ask(client, "DATA\r\n")
    #expect(shield.ask(client, "hello\r\n.\r\n").hasPrefix("250"))
  }

  @Test(
    "a transaction whose connection was let go goes on as any other",
    arguments: [
      ("RSET\r\n", "250", "MAIL FROM:<x@y.z>\r\n", "250"),
      ("DATA\r\n", "554", "RCPT TO:<d@e.f>\r\n", "250"),
      ("MAIL FROM:<x@y.z>\r\n", "503", "RCPT TO:<d@e.f>\r\n", "250"),
      ("EHLO x.example.org\r\n", "250", "RCPT TO:<d@e.f>\r\n", "503"),
      ("NOOP\r\n", "250", "RCPT TO:<gone@e.f>\r\n", "550"),
      ("RCPT TO:<gone@e.f>\r\n", "550", "RCPT TO:<d@e.f>\r\n", "250"),
    ])
  func goesOn(first: String, firstCode: String, second: String, secondCode: String) throws {
    var shield = suspicious()
    let client = try suspect(&shield)
    _ = shield.ask(client, "MAIL FROM:<a@b.c>\r\n")
    _ = shield.ask(client, "RCPT TO:<gone@e.f>\r\n")
    #expect(shield.ask(client, first).hasPrefix(firstCode))
    #expect(shield.ask(client, second).hasPrefix(secondCode))
    #expect(shield.ask(client, "QUIT\r\n").hasPrefix("221"))
    #expect(shield.downstream.breaches == 0)
  }

  @Test("what the downstream says to the repeated MAIL, no, is the answer to the recipient")
  func changesItsMind() throws {
    var shield = suspicious()
    let client = try suspect(&shield)
    _ = shield.ask(client, "MAIL FROM:<a@b.c>\r\n")
    _ = shield.ask(client, "RCPT TO:<gone@e.f>\r\n")
    shield.downstream.script.rules = [.init(prefix: "MAIL", answer: .reply("451 4.7.1 Not now"))]
    #expect(shield.ask(client, "RCPT TO:<d@e.f>\r\n") == "451 4.7.1 Not now\r\n")
    #expect(shield.ask(client, "RCPT TO:<d@e.f>\r\n").hasPrefix("451"), "the transaction is lost")
    #expect(shield.ask(client, "RSET\r\n").hasPrefix("250"))
    shield.downstream.script.rules = []
    #expect(shield.deliver(client).hasPrefix("250"))
  }

  @Test("a downstream that is away then makes 451, and the client may try again")
  func away() throws {
    var shield = suspicious()
    let client = try suspect(&shield)
    _ = shield.ask(client, "MAIL FROM:<a@b.c>\r\n")
    _ = shield.ask(client, "RCPT TO:<gone@e.f>\r\n")
    shield.driver.downstreamListens = false
    #expect(shield.ask(client, "RCPT TO:<d@e.f>\r\n").hasPrefix("451"))
    shield.driver.downstreamListens = true
    #expect(shield.ask(client, "RCPT TO:<d@e.f>\r\n").hasPrefix("250"))
    shield.downstream.script.rules = [.init(prefix: "DATA", answer: .close)]
    #expect(shield.ask(client, "DATA\r\n").hasPrefix("451"))
  }

  @Test("a client that takes its replies slowly gets them whole and in order")
  func slowReader() throws {
    var shield = suspicious()
    let client = try suspect(&shield)
    _ = shield.ask(client, "MAIL FROM:<a@b.c>\r\n")
    shield.driver.setWindow(client, 0)
    shield.driver.say(client, "NOOP\r\nRCPT TO:<gone@e.f>\r\n")
    shield.advance(by: .seconds(3))
    #expect(open(shield) == 0)
    shield.driver.setWindow(client, 5)
    shield.advance(by: .milliseconds(10))
    #expect(shield.heard(client) == "250 2")
    shield.driver.setWindow(client, .max)
    shield.advance(by: .milliseconds(10))
    #expect(shield.heard(client) == ".0.0 Fine\r\n", "and not the refusal before its time")
    shield.advance(by: .seconds(3))
    #expect(shield.heard(client) == "550 5.1.1 Unknown\r\n")
  }
}
