// SPDX-License-Identifier: Apache-2.0
import Policy
import Shield
import Simulator
import Structures
import Suspicion
import TestServer
import Testing

@Suite("EHLO in a session, and what keeps one alive")
struct HelloTests {
  private struct World: ~Copyable {
    var shield: VirtualShield
    let client: Int

    mutating func ask(_ line: String) -> String { shield.ask(client, line + "\r\n") }

    /// Says the lines of a message, none of which may be refused.
    mutating func deliver(_ lines: [String]) {
      for line in lines {
        let answer = ask(line)
        #expect(answer.prefix(1) < "4", "\(line): \(answer)")
      }
    }
  }

  private static let message = ["MAIL FROM:<a@b.c>", "RCPT TO:<d@e.f>", "DATA", "."]

  /// A client that has said EHLO, perhaps logged in, on a shield whose clients may.
  private func greeted(
    _ rules: [ServerScript.Rule] = [], logIn: Bool, limits: Limits = limits(),
    _ change: (inout Policy) -> Void = { _ in }
  ) throws -> World {
    var shield = VirtualShield(
      driver: VirtualDriver(
        engine: Engine(
          policy: policy(access: "10.0.0.0/8 trusted\n") {
            $0.listeners[0].role = .outbound
            $0.authOnClear = true
            change(&$0)
          }, limits: limits, seed: 1)))
    shield.downstream.script.offers += ["AUTH PLAIN"]
    shield.downstream.script.rules =
      rules + [.init(prefix: "AUTH", answer: .reply("235 2.7.0 Welcome"))]
    shield.advance(by: .seconds(1))
    let arrived = shield.arrive("10.0.0.1")
    let client = try #require(arrived)
    _ = shield.banner(client)
    #expect(shield.ask(client, "EHLO client.example.org\r\n").contains("AUTH PLAIN"))
    if logIn { #expect(shield.ask(client, "AUTH PLAIN AHgAeA==\r\n").hasPrefix("235")) }
    return World(shield: shield, client: client)
  }

  @Test(
    "a second EHLO ends the transaction on the same downstream connection, logged in or not",
    arguments: [true, false], ["EHLO again.example.org", "HELO again.example.org"])
  func again(logIn: Bool, hello: String) throws {
    var world = try greeted(logIn: logIn)
    #expect(world.ask("MAIL FROM:<a@b.c>").hasPrefix("250"))
    #expect(world.ask("RCPT TO:<d@e.f>").hasPrefix("250"))
    let dialled = world.shield.driver.dialled.count
    let answer = world.ask(hello)
    #expect(answer.hasPrefix("250") && answer.contains("AUTH") == (hello.hasPrefix("E") && !logIn))
    #expect(world.shield.downstream.lines.last == "EHLO again.example.org")
    #expect(world.ask("RCPT TO:<d@e.f>").hasPrefix("503"))
    if logIn {
      #expect(world.ask("AUTH PLAIN AHgAeA==").hasPrefix("503"))
    }
    world.deliver(Self.message)
    #expect(
      world.shield.driver.dialled.count == dialled && world.shield.downstream.accepted.count == 1)
  }

  @Test("an EHLO that the downstream refuses is answered in its words, and the transaction stands")
  func refused() throws {
    var world = try greeted(
      [.init(prefix: "EHLO bad", answer: .reply("550 5.7.1 Not by that name"))], logIn: true)
    #expect(world.ask("MAIL FROM:<a@b.c>").hasPrefix("250"))
    #expect(world.ask("EHLO bad.example.org") == "550 5.7.1 Not by that name\r\n")
    world.deliver(Array(Self.message.dropFirst()))
    #expect(world.shield.downstream.accepted.count == 1)
  }

  @Test(
    "a downstream that dies at a second EHLO: the greeting holds, a log-in is lost and told so",
    arguments: [true, false])
  func dies(logIn: Bool) throws {
    var world = try greeted(
      [.init(prefix: "EHLO again", answer: .close)], logIn: logIn)
    #expect(world.ask("MAIL FROM:<a@b.c>").hasPrefix("250"))
    var answer = world.ask("EHLO again.example.org")
    answer += world.shield.heard(world.client)
    #expect(answer.hasPrefix("250-") && answer.contains("\r\n421 4.3.0") == logIn, "\(answer)")
    if !logIn {
      world.shield.downstream.script.rules = []
      #expect(world.ask("MAIL FROM:<a@b.c>").hasPrefix("250"))
    }
  }

  @Test("a downstream that was greeted with HELO hears HELO again")
  func plain() throws {
    var world = try greeted(
      [.init(prefix: "EHLO client", answer: .reply("502 5.5.1 What"))], logIn: false)
    #expect(world.ask("MAIL FROM:<a@b.c>").hasPrefix("250"))
    #expect(world.shield.downstream.lines.contains("HELO client.example.org"))
    #expect(world.ask("EHLO again.example.org").hasPrefix("250-"))
    #expect(world.shield.downstream.lines.last == "HELO again.example.org")
  }

  @Test(
    "NOOP and RSET of a client that has logged in reach the downstream, whose words come back",
    arguments: ["NOOP", "RSET"])
  func keepsAlive(verb: String) throws {
    var world = try greeted(
      [.init(prefix: verb, answer: .reply("250 2.0.0 From behind"))], logIn: true)
    for _ in 0..<3 {
      world.shield.advance(by: .seconds(200))
      #expect(world.ask(verb) == "250 2.0.0 From behind\r\n")
    }
    #expect(world.shield.downstream.lines.count { $0 == verb } == 3)
  }

  @Test("a NOOP whose downstream is gone does not pretend that the transaction stands")
  func lost() throws {
    var world = try greeted([.init(prefix: "NOOP", answer: .close)], logIn: false)
    #expect(world.ask("MAIL FROM:<a@b.c>").hasPrefix("250"))
    #expect(world.ask("NOOP").hasPrefix("451"))
    #expect(world.ask("RCPT TO:<d@e.f>").hasPrefix("451"))
    #expect(world.ask("NOOP") == "250 2.0.0 Ok\r\n")
  }

  @Test("a 421 to NOOP ends the session, as everywhere")
  func goodbye() throws {
    var world = try greeted(
      [.init(prefix: "NOOP", answer: .reply("421 4.3.2 Going down"))], logIn: true)
    #expect(world.ask("NOOP") == "421 4.3.2 Going down\r\n")
    world.shield.advance(by: .seconds(10))
    #expect(!world.shield.driver.sockets[world.client].isOpen)
  }

  @Test("NOOP is answered here while there is nothing to keep alive")
  func nothing() throws {
    var world = try greeted(logIn: false)
    #expect(world.ask("NOOP") == "250 2.0.0 Ok\r\n")
    world.deliver(Self.message)
    #expect(world.ask("NOOP") == "250 2.0.0 Ok\r\n")
    #expect(!world.shield.downstream.lines.contains("NOOP"))
  }
}

@Suite("What a greeting tells")
struct GreetingTests {
  static let names = [
    "[192.168.1.70]", "DESKTOP-4F2K", "localhost", "mx.example.test", "192.0.2.99", "a..b", "[x]",
    "[192.0.2.1]",
  ]

  private func signals(
    _ role: Role, from address: String, _ names: [String]
  ) throws -> SignalSet {
    var shield = shield(
      policy {
        $0.listeners[0].role = role
        $0.ownAddresses = [Address("192.0.2.1"), Address("198.51.100.1")].compactMap { $0 }
        $0.ownNames = ["mx"]
      })
    let arrived = shield.arrive(address)
    let client = try #require(arrived)
    _ = shield.banner(client)
    for name in names {
      #expect(shield.ask(client, "HELO \(name)\r\n").hasPrefix("250"), "\(name)")
    }
    return shield.events().last?.signals ?? SignalSet()
  }

  @Test("on an outbound listener no name tells anything", arguments: names)
  func outbound(name: String) throws {
    let seen = try signals(.outbound, from: "203.0.113.7", [name])
    #expect(seen.isEmpty, "\(name): \(seen.members)")
    #expect(try signals(.inbound, from: "203.0.113.7", [name]).members.count == 1)
  }

  @Test(
    "our own name and address are no lie from this machine, or from an address of ours",
    arguments: ["127.0.0.1", "::1", "192.0.2.1"])
  func own(address: String) throws {
    let names = ["mx.example.test", "MX", "localhost", "[192.0.2.1]", "[198.51.100.1]"]
    let seen = try signals(.inbound, from: address, names)
    #expect(seen.isEmpty, "\(seen.members)")
    #expect(try signals(.inbound, from: address, ["192.0.2.1"]) == SignalSet(.heloBareAddress))
    let lies = try signals(.inbound, from: "203.0.113.7", names)
    #expect(lies.contains(SignalSet(.heloOwnName)) && lies.contains(SignalSet(.heloOwnAddress)))
  }

  @Test("a log-in that succeeds ends what the form of words before it counted, and nothing else")
  func loggedIn() throws {
    var shield = VirtualShield(
      driver: VirtualDriver(
        engine: Engine(
          policy: policy {
            $0.listeners[0].role = .outbound
            $0.authOnClear = true
            $0.session.errorStreak = 2
          }, limits: limits(), seed: 1)))
    shield.downstream.script.offers += ["AUTH PLAIN"]
    shield.downstream.script.rules = [
      .init(prefix: "AUTH PLAIN AAAA", answer: .reply("535 5.7.8 No")),
      .init(prefix: "AUTH", answer: .reply("235 2.7.0 Welcome")),
    ]
    shield.advance(by: .seconds(1))
    let arrived = shield.arrive("203.0.113.7")
    let client = try #require(arrived)
    _ = shield.banner(client)
    _ = shield.ask(client, "EHLO DESKTOP-4F2K\r\n")
    #expect(shield.ask(client, "WIBBLE\r\n").hasPrefix("500"))
    #expect(shield.ask(client, "AUTH PLAIN AAAA\r\n").hasPrefix("535"))
    #expect(shield.ask(client, "RCPT TO:<early@b.c>\r\n").hasPrefix("503"))
    #expect(shield.events().last?.tier == .suspicious)
    #expect(shield.ask(client, "AUTH PLAIN AHgAeA==\r\n").hasPrefix("235"))
    let before = shield.driver.now
    // One error more is the first that counts.
    #expect(shield.ask(client, "AUTH PLAIN AHgAeA==\r\n").hasPrefix("503"))
    for line in ["MAIL FROM:<a@b.c>\r\n", "RCPT TO:<d@e.f>\r\n", "DATA\r\n"] {
      #expect(shield.ask(client, line).prefix(1) < "4")
    }
    #expect((shield.driver.now - before).inSeconds < 0.1)
    #expect(shield.ask(client, ".\r\n").hasPrefix("250"))
    _ = shield.ask(client, "QUIT\r\n")
    let last = try #require(shield.events().last { $0.event == .disconnect })
    #expect(last.tier == .known && last.signals.isEmpty, "\(last.signals.members)")
    for signal in [Signal.badRecipients, .rateExcess, .listedSuspicious, .listedBad, .history] {
      #expect(!SignalSet.ofForm.contains(SignalSet(signal)), "\(signal.name)")
    }
  }
}
