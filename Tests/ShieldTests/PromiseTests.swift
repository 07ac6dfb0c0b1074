// SPDX-License-Identifier: Apache-2.0
import Policy
import Shield
import Simulator
import Structures
import Suspicion
import TestServer
import Testing

@Suite("Delays, limits and memory of the engine")
struct PromiseTests {
  @Test(
    "the banner comes when the peer's standing says",
    arguments: [
      ("127.0.5.1", 0.0, "T0: the operator vouches for it"),
      ("127.0.1.1", 4.0, "T1: unknown and clean"), ("127.0.2.1", 22.0, "T2: suspicious"),
    ])
  func banners(address: String, seconds: Double, reason: String) throws {
    var shield = shield(
      policy(access: "127.0.5.0/24 trusted\n127.0.2.0/24 suspicious\n"))
    let arrived = shield.arrive(address)
    let client = try #require(arrived)
    let banner = shield.banner(client)
    let waited = try #require(banner, "\(reason): no banner")
    #expect(abs(waited - seconds) < 0.02, "\(reason): \(waited) s")
  }

  @Test("who left while delayed waits half on the next try and not at all on the third")
  func secondChance() throws {
    var shield = shield(policy())
    for (n, expected) in [4.0, 2.0, 0.0].enumerated() {
      // A pool comes back from another address of its network.
      let arrived = shield.arrive("192.0.2.\(n + 1)")
      let client = try #require(arrived)
      if n < 2 {
        shield.advance(by: .milliseconds(500))
        shield.driver.reset(client)
        shield.advance(by: .seconds(61))
      }
      let again = shield.arrive("192.0.2.\(n + 10)")
      let other = try #require(again)
      let waited = shield.banner(other) ?? -1
      // The first of the two has left once: half. After the second departure: nothing.
      let due = [2.0, 0.0, 0.0][n]
      #expect(abs(waited - due) < 0.02, "try \(n): \(waited) s, \(expected)")
      shield.driver.reset(other)
      shield.advance(by: .seconds(61))
    }
  }

  @Test("one accepted message makes its source known; a neighbour is known by its name as well")
  func known() throws {
    var shield = shield(policy())
    let arrived = shield.arrive("198.51.100.7")
    let first = try #require(arrived)
    #expect(shield.banner(first) ?? -1 > 3.9)
    let reply = shield.deliver(first, helo: "out1.mail.example.org")
    #expect(reply.hasPrefix("250"))
    shield.driver.reset(first)
    let again = shield.arrive("198.51.100.7")
    let same = try #require(again)
    #expect(shield.banner(same) == 0)
    // Another address of the network: unknown until it says the same domain.
    let next = shield.arrive("198.51.100.8")
    let neighbour = try #require(next)
    #expect(shield.banner(neighbour) ?? -1 > 3.9)
    let before = shield.driver.now
    let hello = shield.ask(neighbour, "HELO out2.mail.example.org\r\n")
    #expect(hello.hasPrefix("250") && shield.driver.now == before)
    let stranger = shield.arrive("198.51.100.9")
    let third = try #require(stranger)
    _ = shield.banner(third)
    let start = shield.driver.now
    _ = shield.ask(third, "HELO other.example.net\r\n")
    #expect(
      (shield.driver.now - start).inSeconds > 0.4, "a neighbour of another name is a stranger")
  }

  @Test("a T3 source has a few sessions held and the others told to go")
  func sessionsPerSource() throws {
    var shield = shield(policy(access: "127.0.3.0/24 bad\n"))
    var clients: [Int] = []
    for n in 0..<6 {
      let arrived = shield.arrive("127.0.3.1", port: UInt16(40_000 + n))
      clients.append(try #require(arrived))
    }
    shield.advance(by: .milliseconds(100))
    let refused = clients.map { shield.heard($0) }.filter { $0.hasPrefix("421 4.7.0") }
    #expect(refused.count == 3)
    // Room for others again once they are gone.
    for client in clients { shield.driver.reset(client) }
    shield.advance(by: .seconds(5))
    let arrived = shield.arrive("127.0.3.1")
    let later = try #require(arrived)
    shield.advance(by: .milliseconds(100))
    #expect(shield.heard(later).hasPrefix("421") == false)
  }

  @Test("when slots run out the tarpit gives way: after 30 s first, then at once")
  func shrink() throws {
    var shield = shield(
      policy(access: "127.0.3.0/24 bad\n10.0.0.0/8 trusted\n") { $0.badSessionsPerSource = 64 },
      limits {
        $0.connections = 40; $0.sessions = 40
      })
    var bad: [Int] = []
    for n in 0..<20 {
      let arrived = shield.arrive("127.0.3.\(n + 1)")
      bad.append(try #require(arrived))
    }
    shield.advance(by: .seconds(40))
    #expect(bad.allSatisfy { shield.driver.sockets[$0].isFinished == false }, "there is room")
    var good: [Int] = []
    for n in 0..<10 {
      let arrived = shield.arrive("10.0.0.\(n + 1)")
      good.append(try #require(arrived))
    }
    // 30 of 40: above 70 %, and every bad one has had its 30 s.
    shield.advance(by: .seconds(10))
    #expect(bad.allSatisfy { shield.driver.sockets[$0].isFinished })
    // In the middle of a reply there is no room for another: those are cut off, nobody hears nonsense.
    #expect(bad.allSatisfy { !shield.heard($0).contains("421") })
    #expect(good.allSatisfy { shield.driver.sockets[$0].isOpen })
  }

  @Test("the last slots are for known senders, and a full house says so")
  func reserved() throws {
    var shield = shield(
      policy(access: "10.0.0.0/8 trusted\n") { $0.reservedForKnown = 0.25 },
      limits {
        $0.connections = 8; $0.sessions = 8
      })
    var strangers = 0
    for n in 0..<10 where shield.arrive("192.0.2.\(n)") != nil { strangers += 1 }
    #expect(strangers == 6)
    var known = 0
    for n in 0..<10 where shield.arrive("10.0.0.\(n)") != nil { known += 1 }
    #expect(known == 2)
    #expect(shield.driver.engine.core.counters.shed == 12)
  }

  @Test("a session more than there are is told to come again, and nothing breaks")
  func sessionsFull() throws {
    var shield = shield(
      policy(access: "10.0.0.0/8 trusted\n") { $0.reservedForKnown = 0 }, limits { $0.sessions = 4 }
    )
    var answers: [String] = []
    for n in 0..<6 {
      let arrived = shield.arrive("10.0.0.\(n)")
      let client = try #require(arrived)
      _ = shield.banner(client)
      answers.append(shield.ask(client, "HELO x.example.org\r\n"))
    }
    #expect(answers.filter { $0.hasPrefix("250") }.count == 4)
    #expect(answers.filter { $0.hasPrefix("421 4.3.2") }.count == 2)
  }

  @Test("a downstream connection more than there are is 451, not a hang")
  func linksFull() throws {
    var shield = shield(
      policy(access: "10.0.0.0/8 trusted\n"), limits { $0.downstreamConnections = 2 })
    shield.advance(by: .seconds(6))
    var answers: [String] = []
    for n in 0..<4 {
      let arrived = shield.arrive("10.0.0.\(n)")
      let client = try #require(arrived)
      _ = shield.banner(client)
      _ = shield.ask(client, "HELO x.example.org\r\n")
      answers.append(shield.ask(client, "MAIL FROM:<>\r\n"))
    }
    #expect(answers.filter { $0.hasPrefix("250") }.count == 2)
    #expect(answers.filter { $0.hasPrefix("451 4.3.2") }.count == 2)
  }

  /// Connects a client and has it say all that comes before its message.
  private func beginMessage(_ shield: inout VirtualShield, from address: String) throws -> Int {
    let arrived = shield.arrive(address)
    let client = try #require(arrived)
    _ = shield.banner(client)
    for line in ["HELO x.example.org\r\n", "MAIL FROM:<>\r\n", "RCPT TO:<a@b.c>\r\n", "DATA\r\n"] {
      _ = shield.ask(client, line)
    }
    return client
  }

  @Test("a shaped sender gets its rate within 5 % over 20 s and keeps its session")
  func shaping() throws {
    var shield = shield(policy(rates: "127.0.4.0/24 bytes=32k/s\n"))
    let client = try beginMessage(&shield, from: "127.0.4.1")
    let start = shield.driver.now
    let line = String(repeating: "x", count: 62) + "\r\n"
    let size = 32 * 1_024 * 20
    let reply = shield.ask(
      client, String(repeating: line, count: size / 64) + ".\r\n", within: .seconds(100))
    #expect(reply.hasPrefix("250"))
    let seconds = (shield.driver.now - start).inSeconds
    let rate = Double(size) / seconds
    #expect(abs(rate - 32_768) < 32_768 * 0.05, "\(rate) bytes/s")
  }

  @Test("a shaped sender that closes its side behind its message still gets the reply to it")
  func shapedAndHalfClosed() throws {
    var shield = shield(policy(rates: "127.0.4.0/24 bytes=32k/s\n"))
    let client = try beginMessage(&shield, from: "127.0.4.1")
    let line = String(repeating: "x", count: 62) + "\r\n"
    shield.driver.say(client, String(repeating: line, count: 5_000) + ".\r\nQUIT\r\n")
    shield.driver.end(client)
    shield.advance(by: .seconds(60))
    #expect(shield.downstream.accepted.count == 1)
    #expect(shield.heard(client).hasPrefix("250 2.0.0 Taken\r\n221"))
  }

  @Test(
    "a group of commands larger than the buffer is answered whole, also if the side behind it is closed"
  )
  func longGroupHalfClosed() throws {
    var shield = shield(policy(access: "10.0.0.0/8 trusted\n"))
    let arrived = shield.arrive("10.0.0.1")
    let client = try #require(arrived)
    _ = shield.banner(client)
    let count = 600
    let recipients = (0..<count).map { "RCPT TO:<user\($0)@example.org>\r\n" }.joined()
    shield.driver.say(client, "EHLO x.example.org\r\nMAIL FROM:<>\r\n" + recipients + "QUIT\r\n")
    shield.driver.end(client)
    shield.advance(by: .seconds(60))
    let answers = shield.heard(client).split(separator: "\r\n")
    #expect(answers.filter { $0 == "250 2.0.0 Fine" }.count == count + 1)
    #expect(answers.last?.hasPrefix("221") == true)
  }

  @Test(
    "what is over a limit gets what its rule says",
    arguments: [
      ("2/h over=tempfail", "450 4.7.1", "put off"), ("2/h over=refuse", "554 5.7.1", "refused"),
      ("2/h over=slow", "450 4.7.1", "no delay makes up for half an hour"),
      ("4/min burst=1 over=slow", "250", "15 s are waited, and answered"),
    ])
  func overMessages(rate: String, code: String, reason: String) throws {
    var shield = shield(policy(rates: "0.0.0.0/0 msgs=\(rate)\n"))
    let arrived = shield.arrive("192.0.2.1")
    let client = try #require(arrived)
    _ = shield.banner(client)
    var last = ""
    for _ in 0..<3 {
      _ = shield.ask(client, "HELO x.example.org\r\n")
      last = shield.ask(client, "MAIL FROM:<>\r\n", within: .seconds(60))
      _ = shield.ask(client, "RSET\r\n")
    }
    #expect(last.hasPrefix(code), "\(reason): \(last)")
  }

  @Test("connections over a rate are refused at connect, dropped, or slowed below the ceiling")
  func overConnections() throws {
    for (over, expected) in [("tempfail", "421"), ("refuse", "554"), ("drop", ""), ("slow", "220")]
    {
      var shield = shield(policy(rates: "0.0.0.0/0 conn=10/min burst=1 over=\(over)\n"))
      _ = shield.arrive("192.0.2.1")
      let arrived = shield.arrive("192.0.2.1", port: 2)
      let second = try #require(arrived)
      let start = shield.driver.now
      let text = shield.ask(second, "", within: .seconds(30))
      #expect(text.hasPrefix(expected), "\(over): '\(text)'")
      #expect(shield.driver.sockets[second].isFinished == (over != "slow"), "\(over)")
      if over == "slow" { #expect((shield.driver.now - start).inSeconds <= 25.1) }
    }
  }

  @Test("concurrency is exact, per network where the rule says so, and survives a reload")
  func concurrency() throws {
    let table = "0.0.0.0/0 concurrency=2 per=/24 over=tempfail\n"
    var shield = shield(policy(rates: table))
    let first = shield.arrive("192.0.2.1")
    _ = shield.arrive("192.0.2.2")
    shield.driver.engine.adopt(policy(rates: table))
    let third = shield.arrive("192.0.2.3")
    let refused = try #require(third)
    #expect(shield.ask(refused, "", within: .seconds(1)).hasPrefix("421"))
    shield.driver.reset(try #require(first))
    shield.advance(by: .seconds(5))
    let fourth = shield.arrive("192.0.2.4")
    let welcome = try #require(fourth)
    #expect(shield.banner(welcome) ?? -1 > 3.9)
  }

  @Test("a client that leaves after its dot may have made a duplicate, and that is written down")
  func duplicate() throws {
    var shield = shield(policy(access: "10.0.0.0/8 trusted\n"))
    shield.downstream.script.rules = [.init(prefix: "dot", answer: .silence)]
    let arrived = shield.arrive("10.0.0.1")
    let client = try #require(arrived)
    _ = shield.banner(client)
    for line in ["HELO x.example.org\r\n", "MAIL FROM:<>\r\n", "RCPT TO:<a@b.c>\r\n", "DATA\r\n"] {
      _ = shield.ask(client, line)
    }
    shield.driver.say(client, "hello\r\n.\r\n")
    shield.settle()
    shield.driver.reset(client)
    shield.settle()
    let link = try #require(shield.driver.dialled.last)
    #expect(shield.driver.sockets[link].isOpen, "the downstream may finish")
    shield.driver.say(link, "250 2.0.0 Taken\r\n")
    shield.settle()
    #expect(shield.driver.engine.core.counters.possibleDuplicates == 1)
    #expect(shield.events().contains { $0.event == .possibleDuplicate })
  }

  @Test("draining tells the waiting to go and lets a transaction end")
  func drain() throws {
    var shield = shield(policy(access: "10.0.0.0/8 trusted\n"))
    let one = shield.arrive("192.0.2.1")
    let waiting = try #require(one)
    let two = shield.arrive("10.0.0.1")
    let busy = try #require(two)
    _ = shield.banner(busy)
    for line in ["HELO x.example.org\r\n", "MAIL FROM:<>\r\n", "RCPT TO:<a@b.c>\r\n", "DATA\r\n"] {
      _ = shield.ask(busy, line)
    }
    shield.driver.drain()
    shield.settle()
    #expect(shield.heard(waiting).hasPrefix("421 4.3.2"))
    #expect(shield.arrive("10.0.0.2") == nil, "nobody new")
    let reply = shield.ask(busy, "hello\r\n.\r\n")
    #expect(reply.hasPrefix("250"))
    #expect(reply.contains("421 4.3.2"), "and then told to go: \(reply)")
    shield.advance(by: .seconds(10))
    #expect(shield.driver.engine.heldCount == 0)
  }

  @Test("a slow reader holds its own session up and nobody's memory")
  func slowReader() throws {
    var shield = shield(policy(access: "10.0.0.0/8 trusted\n") { $0.session.errors = 100_000 })
    let arrived = shield.arrive("10.0.0.1")
    let client = try #require(arrived)
    _ = shield.banner(client)
    _ = shield.ask(client, "EHLO x.example.org\r\n")
    shield.driver.setWindow(client, 0)
    shield.driver.say(client, String(repeating: "NOOP\r\n", count: 20_000))
    shield.settle()
    shield.driver.setWindow(client, 100)
    shield.settle()
    #expect(shield.heard(client).utf8.count <= 100)
    shield.driver.setWindow(client, .max)
    var count = 0
    for _ in 0..<2_000 {
      shield.settle()
      count += shield.heard(client).utf8.count
      shield.advance(by: .milliseconds(10))
      if !shield.driver.sockets[client].isOpen { break }
    }
    // 5,000 commands are the limit of a session; each was answered in its turn.
    #expect(count > 4_900 * 14, "\(count) bytes")
  }

  // MARK: What a review found

  /// A client of a trusted network that has said EHLO.
  private func greetedClient(_ shield: inout VirtualShield) throws -> Int {
    let arrived = shield.arrive("10.0.0.1")
    let client = try #require(arrived)
    _ = shield.banner(client)
    _ = shield.ask(client, "EHLO x.example.org\r\n")
    return client
  }

  @Test(
    "a client that takes no replies and a wordy downstream cost neither the process nor the outcome"
  )
  func wordyDownstream() throws {
    var shield = shield(policy(access: "10.0.0.0/8 trusted\n"))
    let long = (1...12).map { "250-2.0.0 \($0) " + String(repeating: "x", count: 480) }
    shield.downstream.script.rules = [
      .init(
        prefix: "DATA",
        answer: .reply(
          (1...12).map { "354-\($0) " + String(repeating: "y", count: 480) }
            .joined(separator: "\r\n") + "\r\n354 go")),
      .init(prefix: "dot", answer: .reply(long.joined(separator: "\r\n") + "\r\n250 2.0.0 end")),
    ]
    let client = try greetedClient(&shield)
    shield.driver.setWindow(client, 0)
    for line in ["MAIL FROM:<>\r\n", "RCPT TO:<a@b.c>\r\n", "DATA\r\n", "hello\r\n.\r\n"] {
      shield.driver.say(client, line)
      shield.settle()
    }
    #expect(shield.downstream.accepted.count == 1)
    shield.driver.setWindow(client, .max)
    let heard = shield.heard(client)
    #expect(heard.contains("354") && heard.hasSuffix("250 2.0.0 (text left out)\r\n"), "\(heard)")
  }

  @Test("message bytes before 354 end the session, whatever DATA is answered")
  func earlyMessage() throws {
    for answer in ["354 Go on", "451 4.3.0 Not now"] {
      var shield = shield(policy(access: "10.0.0.0/8 trusted\n"))
      shield.downstream.script.rules = [.init(prefix: "DATA", answer: .silence)]
      let client = try greetedClient(&shield)
      for line in ["MAIL FROM:<>\r\n", "RCPT TO:<a@b.c>\r\n", "DATA\r\n"] {
        shield.driver.say(client, line)
        shield.settle()
      }
      _ = shield.heard(client)
      shield.driver.say(client, "RSET\r\nMAIL FROM:<smuggled@b.c>\r\n")
      shield.settle()
      let link = try #require(shield.driver.dialled.last)
      shield.driver.say(link, answer + "\r\n")
      #expect(shield.heard(client).hasPrefix("554 5.5.0"), "\(answer)")
      #expect(!shield.downstream.lines.contains { $0.contains("smuggled") })
    }
  }

  @Test("a log-in is gone with its downstream connection, and the client is told so")
  func loginLost() throws {
    var shield = shield(
      policy(access: "10.0.0.0/8 trusted\n") {
        $0.listeners[0].role = .outbound
        $0.authOnClear = true
      })
    shield.downstream.script.offers += ["AUTH PLAIN LOGIN"]
    shield.downstream.script.rules = [.init(prefix: "AUTH", answer: .reply("235 2.7.0 Welcome"))]
    shield.advance(by: .seconds(61))
    let client = try greetedClient(&shield)
    #expect(shield.ask(client, "AUTH PLAIN AHgAeA==\r\n").hasPrefix("235"))
    let link = try #require(shield.driver.dialled.last)
    shield.driver.end(link)
    #expect(shield.heard(client).hasPrefix("421 4.3.0"))
  }

  @Test("a line that is too long in an AUTH exchange ends it: nothing may pair with the challenge")
  func longChallenge() throws {
    var shield = shield(
      policy(access: "10.0.0.0/8 trusted\n") {
        $0.listeners[0].role = .outbound
        $0.authOnClear = true
      })
    shield.downstream.script.offers += ["AUTH PLAIN LOGIN"]
    shield.downstream.script.rules = [
      .init(prefix: "AUTH", answer: .reply("334 ")),
      .init(prefix: "*", answer: .reply("501 5.7.0 Given up")),
    ]
    shield.advance(by: .seconds(61))
    let client = try greetedClient(&shield)
    #expect(shield.ask(client, "AUTH LOGIN\r\n").hasPrefix("334"))
    let told = shield.downstream.lines.count
    let answer = shield.ask(client, String(repeating: "A", count: 14_000) + "\r\nNOOP\r\n")
    #expect(
      answer == "500 5.5.6 Authentication exchange line is too long\r\n250 2.0.0 Ok\r\n")
    #expect(shield.downstream.lines[told...] == ["*"])
  }

  @Test("a listener's role may change under its sessions: what they may do next is the new one's")
  func changedRole() throws {
    var shield = shield(
      policy(access: "10.0.0.0/8 trusted\n") {
        $0.listeners[0].role = .outbound
        $0.authOnClear = true
      })
    shield.downstream.script.offers += ["AUTH PLAIN LOGIN"]
    shield.downstream.script.rules = [.init(prefix: "AUTH", answer: .reply("334 "))]
    shield.advance(by: .seconds(61))
    let client = try greetedClient(&shield)
    #expect(shield.ask(client, "AUTH LOGIN\r\n").hasPrefix("334"))
    shield.driver.engine.adopt(policy(access: "10.0.0.0/8 trusted\n") { $0.listeners = [] })
    // The exchange that is under way ends as it began.
    shield.downstream.script.rules = [.init(prefix: "AAAA", answer: .reply("535 5.7.8 No"))]
    #expect(shield.ask(client, "AAAA\r\n").hasPrefix("535"))
    #expect(shield.ask(client, "AUTH LOGIN\r\n").hasPrefix("502"))
    #expect(!shield.ask(client, "EHLO client.example.org\r\n").contains("AUTH"))
  }

  @Test("a session's time may end within a message, at twice as much: 421, and nothing is accepted")
  func timeWithinMessage() throws {
    var shield = shield(
      policy(access: "10.0.0.0/8 trusted\n") { $0.timeouts.session = 20_000_000 })
    let client = try greetedClient(&shield)
    for line in ["MAIL FROM:<>\r\n", "RCPT TO:<a@b.c>\r\n", "DATA\r\n"] {
      #expect(shield.ask(client, line).prefix(1) < "4")
    }
    var heard = ""
    let start = shield.driver.now
    for _ in 0..<60 where heard.isEmpty {
      shield.driver.say(client, String(repeating: "a line\r\n", count: 4))
      shield.advance(by: .seconds(1))
      heard = shield.heard(client)
    }
    #expect(heard.hasPrefix("421"), "\(heard)")
    #expect((shield.driver.now - start).inSeconds > 35)
    shield.driver.say(client, ".\r\n")
    shield.advance(by: .seconds(60))
    #expect(shield.downstream.accepted.isEmpty)
    #expect(shield.driver.engine.heldCount == 0 && shield.driver.engine.linkCount == 0)
  }

  @Test(
    "what this downstream connection does not offer is 455, never dropped",
    arguments: [
      ("MAIL FROM:<> RET=FULL\r\n", "RCPT TO:<a@b.c>\r\n", ["455", "503"]),
      ("MAIL FROM:<>\r\n", "RCPT TO:<a@b.c> NOTIFY=NEVER\r\n", ["250", "455"]),
    ])
  func lesserLink(mail: String, recipient: String, expected: [String]) throws {
    var shield = shield(policy(access: "10.0.0.0/8 trusted\n"))
    let client = try greetedClient(&shield)
    // It offered more to the probe; this client was told so.
    shield.downstream.script.offers = ["PIPELINING", "SIZE 1000000"]
    let first = shield.ask(client, mail)
    let second = shield.ask(client, recipient)
    #expect([first, second].map { String($0.prefix(3)) } == expected, "\(first) \(second)")
    #expect(!shield.downstream.lines.contains { $0.contains("RET=") || $0.contains("NOTIFY=") })
    let reset = shield.ask(client, "RSET\r\n")
    #expect(reset.hasPrefix("250"))
  }

  @Test("a refusal that is being held is still given when the downstream goes away")
  func heldRefusal() throws {
    var shield = shield(policy(access: "127.0.2.0/24 suspicious\n"))
    shield.downstream.script.rules = [
      .init(prefix: "RCPT TO:<a@", answer: .reply("550 5.1.1 Unknown"))
    ]
    let arrived = shield.arrive("127.0.2.1")
    let client = try #require(arrived)
    _ = shield.banner(client)
    _ = shield.ask(client, "HELO x.example.org\r\n")
    _ = shield.ask(client, "MAIL FROM:<>\r\n")
    // With one it has taken, the downstream is kept.
    _ = shield.ask(client, "RCPT TO:<known@b.c>\r\n")
    shield.driver.say(client, "RCPT TO:<a@b.c>\r\n")
    shield.advance(by: .seconds(2))
    #expect(shield.heard(client).isEmpty, "it is held")
    let link = try #require(shield.driver.dialled.last)
    shield.driver.end(link)
    #expect(shield.heard(client) == "550 5.1.1 Unknown\r\n")
    shield.advance(by: .seconds(20))
    #expect(shield.heard(client).isEmpty, "and no timer is left behind")
  }

  @Test("many recipients do not use up the delays of what follows")
  func recipientAccount() throws {
    var shield = shield(
      policy(access: "127.0.2.0/24 suspicious\n") {
        $0.delays.recipientSum = 2_000_000
        // No room at MAIL for what comes behind it.
        $0.delays[.mail].ceiling = 8_000_000
      })
    let arrived = shield.arrive("127.0.2.1")
    let client = try #require(arrived)
    _ = shield.banner(client)
    _ = shield.ask(client, "HELO x.example.org\r\n")
    _ = shield.ask(client, "MAIL FROM:<>\r\n")
    for n in 0..<30 { _ = shield.ask(client, "RCPT TO:<a\(n)@b.c>\r\n") }
    let start = shield.driver.now
    #expect(shield.ask(client, "DATA\r\n").hasPrefix("354"))
    #expect(abs((shield.driver.now - start).inSeconds - 8) < 0.02)
  }

  @Test("silent sessions give way when sessions run out")
  func silentSessions() throws {
    var shield = shield(
      policy(access: "10.0.0.0/8 trusted\n") { $0.timeouts.commandUnderStress = 2_000_000 },
      limits { $0.sessions = 20 })
    for n in 0..<20 {
      let arrived = shield.arrive("10.0.1.\(n)")
      let client = try #require(arrived)
      _ = shield.banner(client)
      _ = shield.ask(client, "HELO x.example.org\r\n")
    }
    _ = shield.arrive("10.0.2.1")
    shield.advance(by: .seconds(5))
    let arrived = shield.arrive("10.0.2.2")
    let late = try #require(arrived)
    _ = shield.banner(late)
    #expect(shield.ask(late, "HELO x.example.org\r\n").hasPrefix("250"))
  }

  @Test("words that cross with the banner are early words, and are not lost")
  func crossing() throws {
    var shield = shield(policy { $0[.pregreet].action = .observe })
    let arrived = shield.arrive("192.0.2.1")
    let client = try #require(arrived)
    shield.driver.setWindow(client, 3)  // the banner goes out in pieces
    shield.advance(by: .milliseconds(4_005))
    #expect(shield.heard(client) == "220")
    shield.driver.say(client, "HELO x.example.org\r\n")
    shield.driver.setWindow(client, .max)
    shield.advance(by: .seconds(1))
    let heard = shield.heard(client)
    #expect(heard.hasSuffix("250 mx.example.test\r\n"), "\(heard)")
  }

  @Test("a tarpitted peer whose turn it is gives way too when slots run out")
  func pitGivesWay() throws {
    var shield = shield(
      policy(access: "127.0.3.0/24 bad\n10.0.0.0/8 trusted\n") {
        $0.badSessionsPerSource = 64
        $0.delays[.banner].bad = 100_000
      },
      limits {
        $0.connections = 20; $0.sessions = 20
      })
    var bad: [Int] = []
    for n in 0..<10 {
      let arrived = shield.arrive("127.0.3.\(n + 1)")
      bad.append(try #require(arrived))
    }
    shield.advance(by: .seconds(2))
    #expect(bad.allSatisfy { shield.heard($0).hasPrefix("220") }, "all wait for a command")
    for n in 0..<9 { _ = shield.arrive("10.0.0.\(n + 1)") }
    shield.advance(by: .seconds(300))
    #expect(bad.allSatisfy { shield.heard($0).hasPrefix("421 4.3.2") })
  }
}
