// SPDX-License-Identifier: Apache-2.0
import Policy
import Glibc
import Reputation
import SMTP
import Shield
import Simulator
import Structures
import Suspicion
import TestServer
import Testing

/// `scripts/test --fast` runs fewer seeds of what is random here; the whole run has all of them.
private let isFast = getenv("SLUICE_TESTS_FAST") != nil

@Suite("Failed log-ins count by address, network and user name")
struct LoginTests {
  /// An outbound shield before a downstream that refuses every log-in.
  private func guarded(
    worker: Int = 0, of workers: Int = 1, _ change: (inout Policy) -> Void = { _ in }
  ) -> VirtualShield {
    let policy = policy {
      $0.listeners[0].role = .outbound
      $0.authOnClear = true
      $0.session.errorStreak = 1_000
      $0[.authFailure] = SignalRule(weight: 0)
      change(&$0)
    }
    var shield = VirtualShield(
      driver: VirtualDriver(
        engine: Engine(
          policy: policy, limits: limits(), seed: UInt64(worker + 1), secret: (1, 2),
          worker: worker,
          workers: workers)))
    shield.advance(by: .seconds(1))
    shield.downstream.script.offers.append("AUTH PLAIN LOGIN")
    shield.downstream.script.rules = [.init(prefix: "AUTH", answer: .reply("535 5.7.8 No"))]
    shield.advance(by: .seconds(61))
    return shield
  }

  /// Tries to log in once on a connection of its own.
  ///
  /// - Returns: the answer, and how long it took in seconds.
  private func attempt(
    _ shield: inout VirtualShield, _ line: String, from address: String
  ) throws -> (String, Double) {
    let arrived = shield.arrive(address)
    let client = try #require(arrived)
    _ = shield.banner(client)
    _ = shield.ask(client, "EHLO x.example.org\r\n")
    let began = shield.driver.now
    let answer = shield.ask(client, line)
    let took = (shield.driver.now - began).inSeconds
    shield.driver.reset(client)
    return (answer, took)
  }

  /// `\0NAME\0password` in base64.
  private static let ann = "AUTH PLAIN AGFubgBwYXNzd29yZA==\r\n"
  private static let bob = "AUTH PLAIN AGJvYgBwYXNzd29yZA==\r\n"

  @Test(
    "an address waits longer each time, over its connections, and is then put off without asking")
  func address() throws {
    var shield = guarded { $0.logins.addressFailures = 4 }
    var waits: [Double] = []
    for n in 0..<4 {
      let name = n % 2 == 0 ? Self.ann : Self.bob
      let (answer, took) = try attempt(&shield, name, from: "192.0.2.1")
      #expect(answer.hasPrefix("535"))
      waits.append(took)
    }
    #expect(zip(waits, [1.0, 2, 3, 4]).allSatisfy { abs($0 - $1) < 0.1 }, "\(waits)")
    let asked = shield.downstream.lines.filter { $0.hasPrefix("AUTH") }.count
    let (answer, _) = try attempt(&shield, Self.ann, from: "192.0.2.1")
    #expect(answer.hasPrefix("454 4.7.0"), "\(answer)")
    #expect(shield.downstream.lines.filter { $0.hasPrefix("AUTH") }.count == asked)
    #expect(shield.events().contains { $0.event == .limit && $0.subject == .authFailures })
    // A quarter of an hour forgives one of four.
    shield.advance(by: .seconds(901))
    let (later, _) = try attempt(&shield, Self.ann, from: "192.0.2.1")
    #expect(later.hasPrefix("535"))
  }

  @Test(
    "a log-in that is lost with its downstream is told, whatever was sent ahead",
    arguments: ["dot", "RSET", "MAIL FROM:<second"])
  func lost(moment: String) throws {
    var shield = guarded()
    shield.downstream.script.rules = [
      .init(prefix: "AUTH", answer: .reply("235 2.7.0 Welcome")),
      .init(prefix: moment, answer: .close),
    ]
    let arrived = shield.arrive("192.0.2.1")
    let client = try #require(arrived)
    _ = shield.banner(client)
    _ = shield.ask(client, "EHLO x.example.org\r\n")
    #expect(shield.ask(client, Self.ann).hasPrefix("235"))
    _ = shield.ask(client, "MAIL FROM:<first@b.c>\r\n")
    _ = shield.ask(client, "RCPT TO:<d@e.f>\r\n")
    let dialled = shield.driver.dialled.count
    let ahead = "MAIL FROM:<second@b.c>\r\nRCPT TO:<d@e.f>\r\n"
    var heard = ""
    if moment == "RSET" {
      heard = shield.ask(client, "RSET\r\n" + ahead)
    } else {
      _ = shield.ask(client, "DATA\r\n")
      heard = shield.ask(client, "hello\r\n.\r\n" + ahead)
    }
    shield.advance(by: .seconds(10))
    heard += shield.heard(client)
    #expect(heard.contains("421 4.3.0"), "\(heard)")
    // Nothing of it went out as a stranger's.
    #expect(shield.driver.dialled.count == dialled)
  }

  @Test(
    "what says nothing of the password is no failure",
    arguments: ["454 4.7.0 Try later", "538 5.7.11 TLS first"])
  func noFailure(reply: String) throws {
    var shield = guarded { $0.logins.addressFailures = 2 }
    shield.downstream.script.rules = [.init(prefix: "AUTH", answer: .reply(reply))]
    for _ in 0..<4 {
      let (answer, took) = try attempt(&shield, Self.ann, from: "192.0.2.1")
      #expect(answer.hasPrefix(reply) && took < 0.1, "\(answer) after \(took) s")
    }
    #expect(shield.driver.engine.core.counters.loginsFailed == 0)
    #expect(!shield.events().contains { $0.event == .signal && $0.signal == .authFailure })
    shield.downstream.script.rules = [.init(prefix: "AUTH", answer: .reply("535 5.7.8 No"))]
    let (answer, _) = try attempt(&shield, Self.ann, from: "192.0.2.1")
    #expect(answer.hasPrefix("535"))
    #expect(shield.driver.engine.core.counters.loginsFailed == 1)
  }

  @Test("a user name waits longer each time, wherever it is tried, and is never refused")
  func user() throws {
    var shield = guarded { $0.logins.userFailures = 3 }
    var waits: [Double] = []
    for n in 0..<5 {
      let (answer, took) = try attempt(&shield, Self.ann, from: "198.51.\(n).7")
      #expect(answer.hasPrefix("535"))
      waits.append(took)
    }
    #expect(waits[0] < 1.1 && waits[1] > 1.9 && waits[2] > 2.9 && waits[4] > 2.9, "\(waits)")
    let (_, other) = try attempt(&shield, Self.bob, from: "198.51.100.7")
    #expect(other < 1.1, "another name is not slowed: \(other)")
  }

  @Test("a network counts in proportion, and is never refused")
  func network() throws {
    var shield = guarded {
      $0.logins.addressFailures = 2
      $0.logins.networkFailures = 4
      $0.logins.userFailures = 1_000
    }
    var waits: [Double] = []
    for n in 0..<8 {
      let (answer, took) = try attempt(
        &shield, "AUTH PLAIN " + ["AGEAYg==", "AGIAYg==", "AGMAYg==", "AGQAYg=="][n % 4] + "\r\n",
        from: "203.0.113.\(n + 1)")
      #expect(answer.hasPrefix("535"))
      waits.append(took)
    }
    #expect(waits[0] < 1.1 && waits[7] > 1.9, "\(waits)")
  }

  @Test(
    "names are found in PLAIN and LOGIN, whatever their case, and nowhere else",
    arguments: [
      ("PLAIN", "AGFubgBwYXNzd29yZA==", "ann"), ("plain", "eABBTk4AcHc=", "ann"),
      ("LOGIN", "QW5u", "ann"), ("PLAIN", "YW5u", nil), ("PLAIN", "AAA=", nil), ("LOGIN", "", nil),
      ("PLAIN", String(repeating: "eHh4", count: 2_000) + "AGFubgBwdw==", "ann"),
      ("LOGIN", String(repeating: "QUFB", count: 100), String(repeating: "a", count: 255)),
      ("LOGIN", "QW5u!", nil), ("XOAUTH2", "QW5u", nil), ("LOGIN", "QQ", "a"),
    ] as [(String, String, String?)])
  func names(mechanism: String, answer: String, expected: String?) {
    let word = Array(mechanism.utf8)
    let text = Array(answer.utf8)
    let name = withLoginName(LoginMechanism(word.span), text.span) { name in
      String(decoding: (0..<name.count).map { name[$0] }, as: UTF8.self)
    }
    #expect(name == expected)
  }

  @Test("of LOGIN the first answer is the name and the second is not looked at")
  func login() throws {
    var shield = guarded { $0.logins.userFailures = 3 }
    shield.downstream.script.rules = [
      .init(prefix: "AUTH", answer: .reply("334 VXNlcm5hbWU6")),
      .init(prefix: "YW5u", answer: .reply("334 UGFzc3dvcmQ6")),
      .init(prefix: "cGFzcw==", answer: .reply("535 5.7.8 No")),
    ]
    var waits: [Double] = []
    for n in 0..<3 {
      let arrived = shield.arrive("198.51.\(n).7")
      let client = try #require(arrived)
      _ = shield.banner(client)
      _ = shield.ask(client, "EHLO x.example.org\r\n")
      #expect(shield.ask(client, "AUTH LOGIN\r\n").hasPrefix("334"))
      #expect(shield.ask(client, "YW5u\r\n").hasPrefix("334"))
      let began = shield.driver.now
      #expect(shield.ask(client, "cGFzcw==\r\n").hasPrefix("535"))
      waits.append((shield.driver.now - began).inSeconds)
      shield.driver.reset(client)
    }
    #expect(waits[0] < 1.1 && waits[2] > 2.9, "\(waits)")
  }

  @Test(
    "what is not of AUTH's form is answered here: nothing that hides a name reaches the downstream",
    arguments: [
      "AUTH", "AUTH PLAIN  AGFubgBw", "AUTH PLAIN AGFubgBw AGFubgBw", "AUTH PLAIN AGFubgBw\tx",
      "AUTH PLAIN AGFu!bgBw", "AUTH PLAIN AGFu=bgBw", "AUTH PLAIN ==", "AUTH PLAIN AGFubgBw===",
      "AUTH PLAIN *", "AUTH PL/AIN AGFubgBw", "AUTH AAAAAAAAAAAAAAAAAAAAA",
    ])
  func form(line: String) throws {
    var shield = guarded()
    let arrived = shield.arrive("192.0.2.1")
    let client = try #require(arrived)
    _ = shield.banner(client)
    _ = shield.ask(client, "EHLO x.example.org\r\n")
    let answer = shield.ask(client, line + "\r\n")
    #expect(answer.hasPrefix("501 5.5.2") || answer.hasPrefix("500 5.5."), "\(answer)")
    #expect(!shield.downstream.lines.contains { $0.hasPrefix("AUTH") })
    #expect(shield.ask(client, Self.ann).hasPrefix("535"))
  }

  @Test("space at the end of AUTH is not passed on, and the name behind it is counted")
  func trailingSpace() throws {
    var shield = guarded { $0.logins.userFailures = 3 }
    let line = "AUTH PLAIN AGFubgBwYXNzd29yZA== \r\n"
    var last = 0.0
    for n in 0..<3 { (_, last) = try attempt(&shield, line, from: "198.51.\(n).7") }
    #expect(last > 2.9)
    #expect(shield.downstream.lines.last == "AUTH PLAIN AGFubgBwYXNzd29yZA==")
  }

  @Test("an empty answer ahead does not hide the name that follows")
  func emptyFirst() throws {
    var shield = guarded { $0.logins.userFailures = 3 }
    shield.downstream.script.rules = [
      .init(prefix: "AUTH", answer: .reply("334 VXNlcm5hbWU6")),
      .init(prefix: "YW5u", answer: .reply("334 UGFzc3dvcmQ6")),
      .init(prefix: "cGFzcw==", answer: .reply("535 5.7.8 No")),
    ]
    var took = 0.0
    for n in 0..<3 {
      let arrived = shield.arrive("198.51.\(n).7")
      let client = try #require(arrived)
      _ = shield.banner(client)
      _ = shield.ask(client, "EHLO x.example.org\r\n")
      #expect(shield.ask(client, "AUTH LOGIN =\r\n").hasPrefix("334"))
      #expect(shield.ask(client, "YW5u\r\n").hasPrefix("334"))
      let began = shield.driver.now
      #expect(shield.ask(client, "cGFzcw==\r\n").hasPrefix("535"))
      took = (shield.driver.now - began).inSeconds
      shield.driver.reset(client)
    }
    #expect(took > 2.9)
  }

  @Test(
    "an answer that is none ends the exchange on both sides, with one reply",
    arguments: ["AGFubgBw ", "MAIL FROM:<a@b.example>", "=", "**", "A B", "AGFubgBw="])
  func badAnswer(line: String) throws {
    var shield = guarded()
    shield.downstream.script.rules = [
      .init(prefix: "AUTH PLAIN A", answer: .reply("535 5.7.8 No")),
      .init(prefix: "AUTH", answer: .reply("334 ")),
      .init(prefix: "*", answer: .reply("501 5.7.0 Given up")),
    ]
    let arrived = shield.arrive("192.0.2.1")
    let client = try #require(arrived)
    _ = shield.banner(client)
    _ = shield.ask(client, "EHLO x.example.org\r\n")
    #expect(shield.ask(client, "AUTH PLAIN\r\n").hasPrefix("334"))
    let answer = shield.ask(client, line + "\r\n")
    if line == "AGFubgBw=" {
      // How many octets base64 must have is for the decoder to say.
      #expect(shield.downstream.lines.last == line)
      return
    }
    #expect(answer == "501 5.5.2 Syntax: AUTH mechanism, answers in base64\r\n")
    #expect(shield.downstream.lines.suffix(2) == ["AUTH PLAIN", "*"])
    #expect(shield.ask(client, Self.ann) == "535 5.7.8 No\r\n")
    #expect(shield.ask(client, "MAIL FROM:<a@b.example>\r\n").hasPrefix("250"))
    #expect(shield.driver.engine.core.counters.linkFailures == 0)
    #expect(shield.driver.engine.core.counters.loginsFailed == 1)
  }

  @Test(
    "a downstream that does not let go of its challenge is let go of",
    arguments: ["334 Go on", "235 2.7.0 Welcome", "250 Ok"])
  func stubborn(reply: String) throws {
    var shield = guarded()
    shield.downstream.script.rules = [
      .init(prefix: "AUTH PLAIN A", answer: .reply("535 5.7.8 No")),
      .init(prefix: "AUTH", answer: .reply("334 ")), .init(prefix: "*", answer: .reply(reply)),
    ]
    let arrived = shield.arrive("192.0.2.1")
    let client = try #require(arrived)
    _ = shield.banner(client)
    _ = shield.ask(client, "EHLO x.example.org\r\n")
    #expect(shield.ask(client, "AUTH PLAIN\r\n").hasPrefix("334"))
    #expect(shield.ask(client, "no base64\r\n").hasPrefix("451"))
    #expect(shield.driver.engine.core.counters.linkFailures == 1)
    // On another connection, as a command.
    #expect(shield.ask(client, Self.ann) == "535 5.7.8 No\r\n")
    #expect(shield.ask(client, "MAIL FROM:<a@b.example>\r\n").hasPrefix("250"))
  }

  /// A session of its own behind a greeting.
  private func greeted(_ shield: inout VirtualShield) throws -> Int {
    let arrived = shield.arrive("192.0.2.1")
    let client = try #require(arrived)
    _ = shield.banner(client)
    _ = shield.ask(client, "EHLO x.example.org\r\n")
    return client
  }

  @Test(
    "a line longer than the link's buffer reaches the downstream whole",
    arguments: [
      4_080, 4_089, 4_090, 4_091, 4_092, 4_093, 4_094, 4_095, 4_096, 4_097, 8_192, 12_000,
    ])
  func long(count: Int) throws {
    var shield = guarded()
    shield.downstream.script.rules = [
      .init(prefix: "AUTH PLAIN A", answer: .reply("535 5.7.8 No")),
      .init(prefix: "AUTH", answer: .reply("334 ")),
      .init(prefix: "A", answer: .reply("535 5.7.8 No")),
    ]
    let response = String(repeating: "A", count: count)
    let client = try greeted(&shield)
    #expect(shield.ask(client, "AUTH PLAIN \(response)\r\n") == "535 5.7.8 No\r\n")
    #expect(shield.downstream.lines.last == "AUTH PLAIN \(response)")
    #expect(shield.ask(client, "AUTH PLAIN\r\n").hasPrefix("334"))
    #expect(shield.ask(client, "\(response)\r\n") == "535 5.7.8 No\r\n")
    #expect(shield.downstream.lines.last == response)
    #expect(shield.ask(client, "MAIL FROM:<a@b.example>\r\n").hasPrefix("250"))
    #expect(shield.driver.engine.core.counters.linkFailures == 0)
  }

  @Test(
    "a line of AUTH longer than RFC 4954 asks for ends the exchange on both sides, with one reply")
  func tooLong() throws {
    var shield = guarded()
    shield.downstream.script.rules = [
      .init(prefix: "AUTH PLAIN A", answer: .reply("535 5.7.8 No")),
      .init(prefix: "AUTH", answer: .reply("334 ")),
      .init(prefix: "*", answer: .reply("501 5.7.0 Given up")),
    ]
    let client = try greeted(&shield)
    let reply = "500 5.5.6 Authentication exchange line is too long\r\n"
    for count in [12_278, 13_000, 50_000] {
      let line = "AUTH PLAIN " + String(repeating: "A", count: count) + "\r\n"
      #expect(shield.ask(client, line) == reply, "\(count)")
    }
    #expect(!shield.downstream.lines.contains { $0.hasPrefix("AUTH") })
    for count in [12_289, 50_000] {
      #expect(shield.ask(client, "AUTH PLAIN\r\n").hasPrefix("334"))
      #expect(shield.ask(client, String(repeating: "A", count: count) + "\r\n") == reply)
      #expect(shield.downstream.lines.last == "*", "\(count)")
    }
    #expect(shield.ask(client, Self.ann) == "535 5.7.8 No\r\n")
    #expect(shield.ask(client, "MAIL FROM:<a@b.example>\r\n").hasPrefix("250"))
    #expect(shield.driver.engine.core.counters.linkFailures == 0)
  }

  @Test(
    "another command that is too long for the link's buffer is refused, and the next one is carried"
  )
  func longCommand() throws {
    var shield = guarded { $0.session.commandBytes = 16_384 }
    let client = try greeted(&shield)
    let envelope = String(repeating: "x", count: 6_000)
    let answer = shield.ask(client, "MAIL FROM:<a@b.example> ENVID=\(envelope)\r\n")
    #expect(answer.hasPrefix("50"), "\(answer)")
    #expect(shield.ask(client, "MAIL FROM:<a@b.example>\r\n").hasPrefix("250"))
    let recipient = "RCPT TO:<c@d.example> ORCPT=rfc822;\(envelope)\r\n"
    #expect(shield.ask(client, recipient).hasPrefix("50"))
    #expect(shield.ask(client, "RCPT TO:<c@d.example>\r\n").hasPrefix("250"))
    #expect(shield.driver.engine.core.counters.linkFailures == 0)
  }

  @Test("only where AUTH is offered may its line be longer than a command")
  func longElsewhere() throws {
    let line = "AUTH PLAIN " + String(repeating: "A", count: 3_000) + "\r\n"
    for change in [{ $0.listeners[0].role = .inbound }, { $0.authOnClear = false }]
      as [(inout Policy) -> Void]
    {
      var shield = guarded(change)
      let client = try greeted(&shield)
      #expect(shield.ask(client, line) == "500 5.5.2 Line too long\r\n")
    }
    var shield = guarded()
    let client = try greeted(&shield)
    #expect(shield.ask(client, line).hasPrefix("535"))
    let other = "VRFY " + String(repeating: "A", count: 3_000) + "\r\n"
    #expect(shield.ask(client, other) == "500 5.5.2 Line too long\r\n")
  }

  @Test(
    "a downstream that refuses a long line before its end is let go of, and the client hears why")
  func refusedEarly() throws {
    var shield = guarded()
    let client = try greeted(&shield)
    #expect(shield.ask(client, "MAIL FROM:<a@b.example>\r\n").hasPrefix("250"))
    #expect(shield.ask(client, "RSET\r\n").hasPrefix("250"))
    let link = try #require(
      shield.driver.sockets.indices.first {
        shield.driver.sockets[$0].isDownstream && shield.driver.sockets[$0].isOpen
      })
    shield.driver.setWindow(link, 100)
    shield.driver.say(client, "AUTH PLAIN " + String(repeating: "A", count: 9_000) + "\r\n")
    shield.settle()
    #expect(shield.heard(client).isEmpty)
    shield.driver.say(link, "500 5.5.2 Too long\r\n")
    shield.settle()
    #expect(shield.heard(client) == "500 5.5.2 Too long\r\n")
    #expect(!shield.driver.sockets[link].isOpen)
    #expect(shield.ask(client, Self.ann) == "535 5.7.8 No\r\n")
  }

  @Test("what fails at one worker counts at the others: user names, and networks that they share")
  func workers() throws {
    for address in ["2001:db8:1:%::1", "198.51.%.7"] {
      var here = guarded(worker: 0, of: 2) { $0.logins.networkFailures = 20 }
      var there = guarded(worker: 1, of: 2) { $0.logins.networkFailures = 20 }
      func from(_ n: Int) -> String { address.replacing("%", with: "\(n)") }
      for n in 0..<3 { _ = try attempt(&here, Self.ann, from: from(n)) }
      let told = here.driver.learnt().filter(\.concernsAllWorkers)
      // A /24 has but one worker.
      #expect(told.count == (address.contains(":") ? 6 : 3))
      for change in told { there.driver.learn(change) }
      let (_, ann) = try attempt(&there, Self.ann, from: from(9))
      #expect(abs(ann - 4) < 0.1, "\(ann)")
      let (_, bob) = try attempt(&there, Self.bob, from: from(10))
      #expect(abs(bob - (address.contains(":") ? 5 : 1)) < 0.1, "\(bob)")
      #expect(there.driver.engine.core.counters.loginsFailed == 2)
      #expect(there.driver.engine.core.counters.changesHeardOf == UInt64(told.count))
      // What was heard of is not told again.
      let back = there.driver.learnt().filter(\.concernsAllWorkers)
      #expect(back.count == (address.contains(":") ? 4 : 2))
    }
  }

  /// What the downstream of the next test says: base64 that begins with Q is a name, all else a wrong password.
  private static let challenging: [ServerScript.Rule] = [
    .init(prefix: "AUTH PLAIN A", answer: .reply("535 5.7.8 No")),
    .init(prefix: "AUTH", answer: .reply("334 UGFzc3dvcmQ6")),
    .init(prefix: "*", answer: .reply("501 5.7.0 Given up")),
    .init(prefix: "QQ", answer: .reply("334 UGFzc3dvcmQ6")),
    .init(
      prefix: "EHLO", answer: .reply("250-inner.test\r\n250-PIPELINING\r\n250 AUTH PLAIN LOGIN")),
    .init(prefix: "MAIL", answer: .reply("250 2.1.0 Ok")),
    .init(prefix: "connect", answer: .reply("220 inner.test ESMTP")),
    .init(prefix: "QUIT", answer: .reply("221 2.0.0 Bye")),
  ]

  @Test(
    "however words, answers and pieces of them come, none pairs with another's challenge",
    arguments: 0..<(isFast ? 3 : 12))
  func chaos(seed: Int) throws {
    var random = SeededGenerator(seed: UInt64(seed))
    var shield = shield(
      policy(access: "10.0.0.0/8 trusted\n") {
        $0.listeners[0].role = .outbound
        $0.authOnClear = true
        $0.session.errors = 100_000
        $0.session.unknownCommands = 100_000
        $0.session.authFailures = 100_000
        $0.logins.addressFailures = 100_000
      }, seed: UInt64(seed))
    shield.downstream.script.rules =
      Self.challenging + [.init(prefix: "", answer: .reply("535 5.7.8 No"))]
    shield.advance(by: .seconds(61))
    let arrived = shield.arrive("10.0.0.1")
    let client = try #require(arrived)
    _ = shield.banner(client)
    _ = shield.ask(client, "EHLO x.example.org\r\n")
    let told = shield.downstream.lines.count
    for _ in 0..<60 {
      shield.driver.receiveMax = [1, 7, 100, 5_000, .max][Int(random.next() % 5)]
      let count = 1 + Int(random.next() % 4)
      var text = ""
      for _ in 0..<count {
        let length = [10, 4_000, 4_093, 12_000, 12_288, 12_289, 20_000][Int(random.next() % 7)]
        let long = String(repeating: "A", count: length)
        let words = [
          "AUTH LOGIN", "AUTH LOGIN QQ==", "AUTH PLAIN AGFubgBw", "AUTH PLAIN =",
          "AUTH  LOGIN  QQ==",
          "QQ==", "AGFubgBw", "*", "", "=", "MAIL FROM:<a@b.example>", "EHLO x.example.org", "NOOP",
          "two words",
          long,
          "AUTH PLAIN " + long, "QQ" + long,
        ]
        text += words[Int(random.next() % UInt64(words.count))] + "\r\n"
      }
      shield.driver.say(client, text)
      // All rounds before the downstream is asked again what it offers.
      shield.advance(by: .milliseconds(200))
      let answers = shield.heard(client).split(separator: "\r\n").filter {
        $0.dropFirst(3).first == " "
      }
      #expect(answers.count == count, "seed \(seed): \(text.prefix(200)) → \(answers)")
    }
    var isChallenged = false
    for line in shield.downstream.lines[told...] {
      if isChallenged {
        let isAnswer = line.utf8.allSatisfy {
          $0 == 61 || $0 == 43 || (47...57).contains($0) || (65...90).contains($0)
            || (97...122).contains($0)
        }
        #expect(isAnswer && line != "=" || line == "*", "seed \(seed): \(line.prefix(80))")
        isChallenged = line.hasPrefix("QQ")
      } else {
        let isCommand = ["AUTH ", "MAIL ", "EHLO ", "NOOP", "QUIT"].contains {
          line.hasPrefix($0)
        }
        #expect(isCommand, "seed \(seed): \(line.prefix(80))")
        isChallenged = line.hasPrefix("AUTH ") && !line.hasPrefix("AUTH PLAIN A")
      }
    }
    #expect(shield.driver.engine.core.counters.linkFailures == 0, "seed \(seed)")
    #expect(shield.driver.engine.core.counters.loginsFailed > 0)
    #expect(shield.downstream.breaches == 0)
  }
}
