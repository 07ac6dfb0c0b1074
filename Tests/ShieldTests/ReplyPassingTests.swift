// SPDX-License-Identifier: Apache-2.0
import Policy
import SMTP
import Shield
import Simulator
import Structures
import Suspicion
import TestServer
import Testing

@Suite("Replies of the downstream on their way to the client")
struct ReplyPassingTests {
  /// A client of an outbound shield, greeted, whose downstream offers log-ins.
  private func submission(
    _ rules: [ServerScript.Rule], offers: [String] = ["AUTH PLAIN LOGIN"]
  ) throws -> (shield: VirtualShieldBox, client: Int) {
    let policy = policy {
      $0.listeners[0].role = .outbound
      $0.authOnClear = true
    }
    let box = VirtualShieldBox(
      VirtualShield(
        driver: VirtualDriver(engine: Engine(policy: policy, limits: limits(), seed: 1))))
    box.shield.downstream.script.offers += offers
    box.shield.downstream.script.rules = rules
    box.shield.advance(by: .seconds(1))
    let arrived = box.shield.arrive("192.0.2.1")
    let client = try #require(arrived)
    _ = box.shield.banner(client)
    return (box, client)
  }

  /// A shield among captured values: it cannot be copied.
  private final class VirtualShieldBox {
    var shield: VirtualShield
    init(_ shield: consuming VirtualShield) { self.shield = shield }
  }

  private static func base64(_ count: Int) -> String {
    String(String(repeating: "QUJDREVG", count: count / 8 + 1).prefix(count))
  }

  @Test(
    "a challenge reaches the client whole, as long as RFC 4954 lets it be, and the exchange goes on",
    arguments: [8, 506, 507, 2_043, 2_044, 4_092, 4_093, 8_188, 12_288], [Int.max, 1_000])
  func challenge(length: Int, receiveMax: Int) throws {
    let text = Self.base64(length)
    let (box, client) = try submission([
      .init(prefix: "AUTH GSSAPI", answer: .reply("334 \(text)")),
      .init(prefix: "dG9rZW4=", answer: .reply("235 2.7.0 Welcome")),
    ])
    box.shield.driver.receiveMax = receiveMax
    _ = box.shield.ask(client, "EHLO x.example.org\r\n")
    #expect(box.shield.ask(client, "AUTH GSSAPI\r\n") == "334 \(text)\r\n", "\(length) octets")
    #expect(box.shield.ask(client, "dG9rZW4=\r\n") == "235 2.7.0 Welcome\r\n")
    #expect(box.shield.ask(client, "MAIL FROM:<a@b.c>\r\n").hasPrefix("250"))
  }

  @Test("a client that takes a challenge slowly gets all of it, and its downstream waits meanwhile")
  func slowly() throws {
    let text = Self.base64(12_288)
    let (box, client) = try submission([
      .init(prefix: "AUTH", answer: .reply("334 \(text)")),
      .init(prefix: "dG9rZW4=", answer: .reply("235 2.7.0 Welcome")),
    ])
    _ = box.shield.ask(client, "EHLO x.example.org\r\n")
    box.shield.driver.setWindow(client, 0)
    box.shield.driver.say(client, "AUTH GSSAPI\r\n")
    var heard = ""
    for _ in 0..<200 where !heard.hasSuffix("\r\n") {
      box.shield.driver.setWindow(client, 100)
      box.shield.advance(by: .milliseconds(100))
      heard += box.shield.heard(client)
    }
    #expect(heard == "334 \(text)\r\n")
    box.shield.driver.setWindow(client, .max)
    #expect(box.shield.ask(client, "dG9rZW4=\r\n") == "235 2.7.0 Welcome\r\n")
  }

  @Test(
    "a challenge of which a part is out is followed by nothing else",
    arguments: ["dies", "too long", "unread"])
  func brokenOff(how: String) throws {
    let text = Self.base64(how == "too long" ? 12_289 : 9_000)
    let (box, client) = try submission([
      .init(prefix: "AUTH", answer: .raw(Array("334 \(text)\(how == "dies" ? "" : "\r\n")".utf8)))
    ])
    _ = box.shield.ask(client, "EHLO x.example.org\r\n")
    if how == "unread" { box.shield.driver.setWindow(client, 10) }
    box.shield.driver.say(client, "AUTH GSSAPI\r\n")
    var heard = box.shield.heard(client)
    if how == "dies" {
      let link = try #require(box.shield.driver.dialled.last)
      box.shield.driver.end(link)
    }
    box.shield.advance(by: .seconds(120))
    heard += box.shield.heard(client)
    #expect("334 \(text)".hasPrefix(heard), "\(heard.suffix(60))")
    #expect(!box.shield.driver.sockets[client].isOpen, "it would wait for the rest for ever")
    let blames = box.shield.events().contains { $0.event == .downstreamFailed }
    #expect(blames == (how != "unread"), "who does not read is the client")
  }

  @Test("what is no challenge is no longer than it was: a line of 512 octets")
  func cut() throws {
    let (box, client) = try submission([
      .init(prefix: "AUTH", answer: .reply("535 " + String(repeating: "x", count: 3_000)))
    ])
    _ = box.shield.ask(client, "EHLO x.example.org\r\n")
    #expect(box.shield.ask(client, "AUTH GSSAPI\r\n").utf8.count == 512)
  }

  @Test("all mechanisms of all AUTH lines are offered, and a list that must be cut is logged")
  func mechanisms() throws {
    let long = (0..<60).map { "MECHANISM-\($0)" }.joined(separator: " ")
    let (plain, one) = try submission([], offers: ["AUTH CRAM-MD5 PLAIN", "AUTH=LOGIN PLAIN"])
    let offer = plain.shield.ask(one, "EHLO x.example.org\r\n")
    #expect(offer.contains("250-AUTH CRAM-MD5 PLAIN LOGIN\r\n"), "\(offer)")
    #expect(!plain.shield.events().contains { $0.subject == .mechanismsCut })
    let (cut, other) = try submission([], offers: ["AUTH \(long)", "AUTH PLAIN LOGIN"])
    let rest = cut.shield.ask(other, "EHLO x.example.org\r\n")
    #expect(rest.contains(" PLAIN LOGIN\r\n"), "\(rest)")
    #expect(cut.shield.events().contains { $0.subject == .mechanismsCut })
  }
}

@Suite("Bare line feeds in a message")
struct BareLineFeedTests {
  /// Lines of a message as an old appliance ends them, and what the downstream is to get.
  private static func letter(_ lines: Int) -> (sent: String, meant: String) {
    let text = (0..<lines).map { n in
      n % 7 == 3 ? ".." + String(n) : n % 7 == 5 ? "" : String(repeating: "text ", count: n % 17)
    }
    return (
      text.joined(separator: "\n") + "\r\n.\r\n", text.joined(separator: "\r\n") + "\r\n.\r\n"
    )
  }

  private func data(
    _ shield: inout VirtualShield, from address: String = "192.0.2.7", size: String = ""
  ) throws -> Int {
    let arrived = shield.arrive(address)
    let client = try #require(arrived)
    _ = shield.banner(client)
    for line in ["EHLO x.example.org", "MAIL FROM:<a@b.c>", "RCPT TO:<d@e.f>"] {
      _ = shield.ask(client, line + "\r\n")
    }
    #expect(shield.ask(client, "DATA\r\n").hasPrefix("354"))
    return client
  }

  @Test(
    "they become CRLF on the way, whatever the buffers and the pieces, and what follows the message is a command",
    arguments: [Int.max, 1, 700], [20, 3_000])
  func rewritten(receiveMax: Int, lines: Int) throws {
    var shield = shield(policy(access: "192.0.2.0/24 trusted\n"), limits { $0.inputBytes = 4_096 })
    let client = try data(&shield)
    shield.driver.receiveMax = receiveMax
    let (sent, meant) = Self.letter(lines)
    let reply = shield.ask(client, sent + "NOOP\r\n")
    #expect(
      reply.hasPrefix("250 2.0.0 Taken\r\n") && reply.hasSuffix("250 2.0.0 Ok\r\n"), "\(reply)")
    #expect(shield.downstream.accepted == [Array(meant.utf8)])
    #expect(shield.downstream.breaches == 0)
  }

  @Test("a downstream that reads slowly gets all of it")
  func slowly() throws {
    var shield = shield(policy(access: "192.0.2.0/24 trusted\n"))
    let client = try data(&shield)
    let link = try #require(shield.driver.dialled.last)
    shield.driver.setWindow(link, 0)
    let (sent, meant) = Self.letter(900)
    shield.driver.say(client, sent)
    var heard = ""
    for _ in 0..<1_000 where heard.isEmpty {
      shield.driver.setWindow(link, 333)
      shield.settle()
      heard += shield.heard(client)
    }
    #expect(heard.hasPrefix("250"))
    #expect(shield.downstream.accepted == [Array(meant.utf8)])
  }

  @Test(
    "a message over the limit is read to its end all the same, and so is one whose downstream is gone"
  )
  func thrownAway() throws {
    let (sent, _) = Self.letter(900)
    var shield = shield(policy(access: "192.0.2.0/24 trusted\n"))
    shield.downstream.script.offers = ["SIZE 5000"]
    shield.advance(by: .seconds(61))
    let large = try data(&shield)
    #expect(shield.ask(large, sent).hasPrefix("552"))
    #expect(shield.ask(large, "NOOP\r\n").hasPrefix("250"))
    shield.downstream.script.offers = []
    shield.advance(by: .seconds(61))
    let lost = try data(&shield)
    let link = try #require(shield.driver.dialled.last)
    shield.driver.setWindow(link, 0)
    shield.driver.say(lost, sent)
    shield.settle()
    shield.driver.reset(link)
    #expect(shield.ask(lost, "").hasPrefix("451"))
    #expect(shield.ask(lost, "NOOP\r\n").hasPrefix("250"))
    #expect(shield.downstream.accepted.isEmpty)
  }

  @Test("they are a signal, in a message and in a command, and no refusal")
  func signal() throws {
    for inCommand in [false, true] {
      var shield = shield(policy())
      let client = try data(&shield)
      _ = shield.events()
      #expect(shield.ask(client, inCommand ? "a\r\n.\r\n" : "a\nb\r\n.\r\n").hasPrefix("250"))
      if inCommand { #expect(shield.ask(client, "NOOP\n").hasPrefix("250")) }
      #expect(shield.events().contains { $0.event == .signal && $0.signal == .bareNewline })
    }
  }
}
