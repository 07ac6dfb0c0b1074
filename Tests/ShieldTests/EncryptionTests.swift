// SPDX-License-Identifier: Apache-2.0
import Flow
import Policy
import Shield
import Simulator
import Structures
import Suspicion
import TestServer
import Testing

@Suite("TLS as the engine sees it")
struct EncryptionTests {
  /// A shield whose first listener offers STARTTLS.
  private func offering(
    access: String = "", _ change: (inout Policy) -> Void = { _ in },
    limits change2: (inout Limits) -> Void = { _ in }
  ) -> VirtualShield {
    shield(
      policy(access: access) {
        $0.listeners[0].tls = .starttls
        change(&$0)
      }, limits(change2))
  }

  private func greeted(_ shield: inout VirtualShield, from address: String = "127.0.5.1") throws
    -> Int
  {
    let arrived = shield.arrive(address)
    let client = try #require(arrived)
    _ = shield.banner(client)
    return client
  }

  @Test("STARTTLS is offered, answered with 220, and not offered again")
  func upgrade() throws {
    var shield = offering()
    let client = try greeted(&shield)
    #expect(shield.ask(client, "EHLO a.example.org\r\n").contains("STARTTLS\r\n"))
    #expect(shield.ask(client, "STARTTLS\r\n") == "220 2.0.0 Ready to start TLS\r\n")
    #expect(shield.driver.sockets[client].isSecured)
    #expect(!shield.ask(client, "EHLO a.example.org\r\n").contains("STARTTLS"))
    #expect(shield.ask(client, "STARTTLS\r\n").hasPrefix("503"))
    #expect(shield.deliver(client).hasPrefix("250"))
    #expect(shield.events().contains { $0.event == .secured })
  }

  @Test("what was said in clear is forgotten, the name too")
  func forgotten() throws {
    var shield = offering()
    let client = try greeted(&shield)
    _ = shield.ask(client, "EHLO a.example.org\r\n")
    _ = shield.ask(client, "MAIL FROM:<a@b.c>\r\n")
    _ = shield.ask(client, "STARTTLS\r\n")
    #expect(shield.ask(client, "RCPT TO:<a@b.c>\r\n").hasPrefix("503"))
    #expect(shield.ask(client, "MAIL FROM:<a@b.c>\r\n").hasPrefix("250"))
    #expect(shield.downstream.lines.last { $0.hasPrefix("EHLO") }?.hasPrefix("EHLO [") == true)
    #expect(shield.deliver(client, helo: "b.example.org").hasPrefix("250"))
    #expect(shield.downstream.lines.contains("EHLO b.example.org"))
    #expect(shield.driver.engine.linkCount == 1, "the first connection is gone")
  }

  @Test(
    "octets in clear behind STARTTLS end the session and reach nobody",
    arguments: ["MAIL FROM:<a@b.c>\r\n", "RSET\r\n", "\u{16}\u{3}\u{1}", "x"])
  func injection(behind: String) throws {
    var shield = offering()
    let client = try greeted(&shield)
    _ = shield.ask(client, "EHLO a.example.org\r\n")
    let answer = shield.ask(client, "STARTTLS\r\n" + behind)
    #expect(answer.hasPrefix("554 5.5.0"), "\(answer)")
    #expect(!shield.driver.sockets[client].isSecured)
    shield.advance(by: .seconds(5))
    #expect(!shield.driver.sockets[client].isOpen)
    #expect(!shield.downstream.lines.contains { $0.hasPrefix("MAIL") })
    #expect(shield.driver.engine.core.counters.protocolFaults == 1)
  }

  @Test("octets in clear that cross with 220 are no handshake")
  func crossing() throws {
    var shield = offering()
    let client = try greeted(&shield)
    _ = shield.ask(client, "EHLO a.example.org\r\n")
    shield.driver.setWindow(client, 0)
    shield.driver.say(client, "STARTTLS\r\n")
    shield.driver.say(client, "MAIL FROM:<a@b.c>\r\n")
    shield.driver.setWindow(client, .max)
    shield.advance(by: .seconds(1))
    #expect(shield.heard(client).hasPrefix("220"))
    #expect(!shield.driver.sockets[client].isOpen)
    #expect(shield.events().contains { $0.event == .notSecured && $0.subject == .notTLS })
    #expect(shield.driver.engine.heldCount == 0)
  }

  @Test("a handshake that fails or stands still ends the connection, and its place is free again")
  func failures() throws {
    var shield = offering(limits: { $0.tlsSessions = 4 })
    for n in 0..<12 {
      let client = try greeted(&shield, from: "127.0.5.\(n + 1)")
      _ = shield.ask(client, "EHLO a.example.org\r\n")
      shield.driver.handshakeFault = n % 2 == 0 ? .noCipher : nil
      shield.driver.handshakeStands = n % 2 == 1
      _ = shield.ask(client, "STARTTLS\r\n")
      shield.advance(by: .seconds(61))
      #expect(!shield.driver.sockets[client].isOpen)
    }
    shield.driver.engine.measure()
    #expect(shield.driver.engine.core.counters.tlsSessions == 0)
    #expect(shield.driver.engine.core.counters.handshakes == 12)
    #expect(shield.driver.engine.core.counters.handshakesFailed == 6)
  }

  @Test(
    "where places for TLS run out the client hears 454 and may go on in clear; known senders have some left"
  )
  func full() throws {
    var shield = offering(
      access: "127.0.6.0/24 trusted\n", { $0.reservedForKnown = 0.25 },
      limits: { $0.tlsSessions = 4 })
    for n in 0..<3 {
      let client = try greeted(&shield, from: "127.0.5.\(n + 1)")
      #expect(shield.ask(client, "STARTTLS\r\n").hasPrefix("220"))
    }
    let late = try greeted(&shield, from: "127.0.5.9")
    #expect(shield.ask(late, "EHLO a.example.org\r\n").contains("STARTTLS"), "always offered")
    #expect(shield.ask(late, "STARTTLS\r\n").hasPrefix("454 4.7.0"))
    #expect(shield.deliver(late).hasPrefix("250"))
    let known = try greeted(&shield, from: "127.0.6.1")
    #expect(shield.ask(known, "STARTTLS\r\n").hasPrefix("220"))
  }

  @Test("a source with many handshakes waits its turn, a known one does not")
  func turns() throws {
    var shield = offering(access: "127.0.6.0/24 trusted\n", limits: { $0.tlsSessions = 60 })
    for _ in 0..<24 {
      let client = try greeted(&shield)
      _ = shield.ask(client, "STARTTLS\r\n")
      shield.driver.reset(client)
      let known = try greeted(&shield, from: "127.0.6.1")
      _ = shield.ask(known, "STARTTLS\r\n")
      shield.driver.reset(known)
    }
    // One a second comes back: every client here waits 4 s for its banner at most.
    #expect(shield.driver.handshakes.filter { $0 == .accept }.count >= 24 + 20)
    let inTurn = shield.driver.engine.core.counters.handshakesInTurn
    #expect(shield.driver.handshakes.filter { $0 == .acceptInTurn }.count == Int(inTurn))
  }

  @Test(
    "a source without credit for handshakes gets half of the places, and leaves the rest to others")
  func half() throws {
    var shield = offering(
      { $0.handshakes = Rate(1, per: .seconds(3_600), burst: 2) ?? .unlimited },
      limits: { $0.tlsSessions = 12 })
    var taken = 0
    for _ in 0..<10 {
      let client = try greeted(&shield)
      if shield.ask(client, "STARTTLS\r\n").hasPrefix("220") { taken += 1 }
    }
    #expect(taken == 6)
    #expect(shield.driver.engine.core.counters.handshakesInTurn == 4)
    let other = try greeted(&shield, from: "127.0.8.1")
    #expect(shield.ask(other, "STARTTLS\r\n").hasPrefix("220"))
  }

  @Test("on a listener of TLS alone the handshake comes first, then the wait for the banner")
  func implicit() throws {
    var shield = offering(access: "127.0.3.0/24 bad\n127.0.9.0/24 reject\n") {
      $0.listeners[0].tls = .implicit
    }
    let arrived = shield.arrive("127.0.5.1")
    let client = try #require(arrived)
    #expect(shield.driver.sockets[client].isSecured)
    let waited = shield.banner(client)
    #expect(abs((waited ?? 0) - 4) < 0.05)
    #expect(!shield.ask(client, "EHLO a.example.org\r\n").contains("STARTTLS"))
    #expect(shield.deliver(client).hasPrefix("250"))
    // Who is refused hears nothing in clear.
    let denied = shield.arrive("127.0.9.1")
    if let denied { #expect(shield.heard(denied).isEmpty && !shield.driver.sockets[denied].isOpen) }
    // T3 is held inside.
    let other = shield.arrive("127.0.3.1")
    let bad = try #require(other)
    shield.advance(by: .seconds(130))
    #expect(shield.heard(bad).hasPrefix("220"))
  }

  @Test("who finds no slot on a listener of TLS alone hears nothing in clear")
  func implicitFull() throws {
    for mode in [ListenerTLS.implicit, .starttls] {
      var shield = shield(policy { $0.listeners[0].tls = mode }, limits { $0.connections = 8 })
      shield.driver.handshakeStands = true
      for n in 0..<8 { #expect(shield.arrive("127.0.5.\(n + 1)") != nil) }
      let peer = Peer(address: try #require(Address("127.0.6.1")), port: 40_000, listener: 0)
      let now = shield.driver.now
      var effects = Moment()
      switch (mode, shield.driver.engine.accepted(peer, now: now, into: &effects)) {
      case (.implicit, .dropped), (.starttls, .refused): break
      case (_, let admission): Issue.record("\(mode): \(admission)")
      }
      #expect(shield.driver.engine.core.counters.shed == 1)
    }
  }

  @Test("a held peer may have TLS, and its replies drip on inside")
  func pit() throws {
    var shield = offering(access: "127.0.3.0/24 bad\n") { $0.badSession = 3_600_000_000 }
    let arrived = shield.arrive("127.0.3.1")
    let client = try #require(arrived)
    shield.advance(by: .seconds(130))
    #expect(shield.heard(client).hasPrefix("220"))
    func ask(_ text: String) -> String {
      shield.driver.say(client, text)
      shield.advance(by: .seconds(130))
      return shield.heard(client)
    }
    #expect(ask("EHLO x.example.org\r\n").contains("250-STARTTLS\r\n"))
    #expect(ask("STARTTLS\r\n") == "220 2.0.0 Ready to start TLS\r\n")
    #expect(shield.driver.sockets[client].isSecured)
    #expect(shield.driver.handshakes == [.acceptInTurn], "no credit for the worst")
    #expect(!ask("EHLO x.example.org\r\n").contains("STARTTLS"))
    #expect(ask("STARTTLS\r\n").hasPrefix("500"))
    #expect(ask("MAIL FROM:<a@b.c>\r\n").hasPrefix("250"))
    #expect(ask("RCPT TO:<a@b.c>\r\n").hasPrefix("450"))
    #expect(ask("QUIT\r\n").hasPrefix("221"))
  }

  /// A policy in which 127.0.3.0/24 is held, and what it says to EHLO.
  private func holding(_ name: String, _ tls: ListenerTLS) -> (
    policy: Policy, banner: String, ehlo: String
  ) {
    let policy = policy(access: "127.0.3.0/24 bad\n") {
      $0.hostname = name
      $0.listeners[0].tls = tls
      $0.badSession = 3_600_000_000
    }
    let offer = tls == .starttls ? "250-STARTTLS\r\n" : ""
    return (
      policy, "220 \(name) ESMTP ready\r\n", "250-\(name)\r\n\(offer)250 ENHANCEDSTATUSCODES\r\n"
    )
  }

  @Test(
    "a reload that changes what the tarpit says never makes one reply of two texts",
    arguments: 0..<5)
  func pitTexts(how: Int) throws {
    let (before, after) =
      [
        (holding("mx.example.test", .starttls), holding("mx.example.test", .off)),
        (holding("mx.example.test", .off), holding("mx.example.test", .starttls)),
        (holding("mx.example.test", .off), holding("mx.example.test.longer.example", .off)),
        (holding("mx.example.test", .off), holding("a.example", .off)),
        (holding("mx.example.test", .implicit), holding("mx.example.test", .starttls)),
      ][how]
    var whole = 0
    for isGreeting in [true, false] {
      let old = isGreeting ? before.banner : before.ehlo
      let new = isGreeting ? after.banner : after.ehlo
      for count in 0..<old.utf8.count {
        var shield = shield(before.policy)
        let arrived = shield.arrive("127.0.3.1")
        let client = try #require(arrived)
        if !isGreeting {
          #expect(listen(client, &shield, until: before.banner.utf8.count) == before.banner)
          shield.driver.say(client, "EHLO x.example.org\r\n")
        }
        var text = listen(client, &shield, until: count)
        #expect(text.utf8.count == count)
        shield.driver.engine.adopt(after.policy)
        text += listen(client, &shield, until: .max)
        let isCut = !shield.driver.sockets[client].isOpen && old.utf8.starts(with: text.utf8)
        #expect(text == old || text == new || isCut, "after \(count): \(text.debugDescription)")
        if !isCut { whole += 1 }
      }
    }
    #expect(whole > 0)
  }

  /// What a client hears until it is so many octets, is cut off, or has heard nothing more for a while.
  private func listen(_ client: Int, _ shield: inout VirtualShield, until count: Int) -> String {
    var text = ""
    let end = shield.driver.now + .seconds(200)
    while text.utf8.count < count && shield.driver.now < end && shield.driver.sockets[client].isOpen
    {
      let due = shield.driver.engine.nextDeadline(now: shield.driver.now)
      shield.advance(to: min(max(due, shield.driver.now + .milliseconds(1)), end))
      text += shield.heard(client)
    }
    return text
  }

  @Test("a last word that is going out during such a reload goes out as it began")
  func lastWordDuringReload() throws {
    for name in ["mx.example.test.longer.example", "a.example"] {
      var shield = offering()
      let client = try greeted(&shield)
      shield.driver.setWindow(client, 0)
      shield.advance(by: .seconds(301))
      shield.driver.engine.adopt(holding(name, .off).policy)
      shield.driver.setWindow(client, .max)
      shield.advance(by: .seconds(5))
      #expect(shield.heard(client) == "421 4.4.2 mx.example.test Timeout, closing connection\r\n")
      #expect(!shield.driver.sockets[client].isOpen)
    }
  }

  @Test("in the tarpit, too, octets in clear behind STARTTLS end it")
  func pitInjection() throws {
    var shield = offering(access: "127.0.3.0/24 bad\n")
    let arrived = shield.arrive("127.0.3.1")
    let client = try #require(arrived)
    _ = shield.banner(client)
    shield.driver.say(client, "STARTTLS\r\nMAIL FROM:<a@b.c>\r\n")
    shield.advance(by: .seconds(130))
    #expect(!shield.driver.sockets[client].isSecured)
    #expect(!shield.driver.sockets[client].isOpen)
  }

  @Test("AUTH is not offered where others can read it, unless the operator asks for it")
  func auth() throws {
    for onClear in [false, true] {
      var shield = offering { policy in
        policy.listeners[0].role = .outbound
        policy.authOnClear = onClear
      }
      shield.downstream.script.offers.append("AUTH PLAIN LOGIN")
      shield.advance(by: .seconds(61))
      let client = try greeted(&shield)
      let clear = shield.ask(client, "EHLO a.example.org\r\n")
      #expect(clear.contains("AUTH PLAIN") == onClear)
      if !onClear { #expect(shield.ask(client, "AUTH PLAIN AGEAYg==\r\n").hasPrefix("5")) }
      _ = shield.ask(client, "STARTTLS\r\n")
      #expect(shield.ask(client, "EHLO a.example.org\r\n").contains("AUTH PLAIN"))
    }
  }

  @Test("the downstream learns of the client's TLS by the PROXY header")
  func header() throws {
    var driver = VirtualDriver(
      engine: Engine(
        policy: policy { $0.listeners[0].tls = .starttls }, limits: limits(), seed: 1,
        servers: [Server(DownstreamTerms(.proxyV2))]))
    driver.handshakeFacts.version = 0x0304
    for (k, octet) in "mx.example.test".utf8.enumerated() { driver.handshakeFacts.name[k] = octet }
    driver.handshakeFacts.nameCount = 15
    let arrived = driver.connect(
      Peer(address: try #require(Address("127.0.5.1")), port: 1_234, listener: 0))
    let client = try #require(arrived)
    driver.advance(by: .seconds(4.1))
    for line in [
      "HELO a.example.org\r\n", "STARTTLS\r\n", "HELO a.example.org\r\n", "MAIL FROM:<a@b.c>\r\n",
    ] {
      driver.say(client, line)
      driver.advance(by: .seconds(1))
    }
    let link = try #require(driver.dialled.last)
    let sent = driver.heard(link).bytes
    let words = String(decoding: sent.filter { $0 >= 32 && $0 < 127 }, as: UTF8.self)
    #expect(words.contains("mx.example.test") && words.contains("TLSv1.3"), "\(words)")
    // PP2_TYPE_SSL, and that the client spoke TLS.
    #expect(sent.contains(0x20))
  }

  // MARK: Pass-through

  private func passing(
    _ starttls: String = "220 2.0.0 Go", mode: DownstreamTLS = .opportunistic, rates: String = ""
  ) -> VirtualShield {
    var driver = VirtualDriver(
      engine: Engine(
        policy: policy(access: "127.0.3.0/24 bad\n", rates: rates) {
          $0.listeners[0].tls = .passThrough
        },
        limits: limits(),
        seed: 1))
    // Sluice's own TLS to the downstream is not for these.
    driver.speak(tls: mode, implicit: false)
    var shield = VirtualShield(driver: driver)
    shield.downstream.script.offers.append("STARTTLS")
    shield.downstream.script.rules = [.init(prefix: "STARTTLS", answer: .reply(starttls))]
    shield.advance(by: .seconds(1))
    return shield
  }

  @Test("TLS that is the downstream's passes both ways, unread, and ends with either side")
  func passThrough() throws {
    var shield = passing()
    let client = try greeted(&shield)
    #expect(shield.ask(client, "EHLO a.example.org\r\n").contains("STARTTLS"))
    #expect(shield.ask(client, "STARTTLS\r\n") == "220 2.0.0 Go\r\n")
    #expect(!shield.driver.sockets[client].isSecured, "the handshake is not ours")
    let link = try #require(shield.driver.dialled.last)
    #expect(!shield.driver.sockets[link].isSecured)
    #expect(shield.downstream.lines.suffix(2) == ["EHLO a.example.org", "STARTTLS"])
    // What a session in the middle would never let pass.
    let odd = String(repeating: "XYZZY ", count: 3_000) + "\r\n"
    #expect(shield.ask(client, odd).hasPrefix("250"))
    #expect(shield.downstream.lines.last?.count == odd.utf8.count - 2)
    #expect(shield.ask(client, "QUIT\r\n").hasPrefix("221"))
    shield.driver.end(link)
    shield.advance(by: .seconds(5))
    #expect(!shield.driver.sockets[client].isOpen)
    #expect(shield.driver.engine.linkCount == 0)
    #expect(shield.driver.engine.core.counters.linkFailures == 0)
    #expect(shield.events().contains { $0.event == .spliced })
  }

  @Test("the downstream's refusal of STARTTLS is the client's, and mail goes on in clear")
  func passThroughRefused() throws {
    var shield = passing("454 4.7.0 Not now")
    let client = try greeted(&shield)
    _ = shield.ask(client, "EHLO a.example.org\r\n")
    #expect(shield.ask(client, "STARTTLS\r\n") == "454 4.7.0 Not now\r\n")
    #expect(shield.deliver(client).hasPrefix("250"))
  }

  @Test(
    "the connection on which STARTTLS was refused carries no mail where mail is to have TLS",
    arguments: [DownstreamTLS.opportunistic, .required, .verify], [true, false])
  func passThroughRefusedBeforeTLS(mode: DownstreamTLS, worksLater: Bool) throws {
    var shield = passing(mode: mode)
    shield.downstream.script.rules = [
      .init(prefix: "STARTTLS", answer: .reply("454 4.7.0 Not now"))
    ]
    let client = try greeted(&shield)
    _ = shield.ask(client, "EHLO a.example.org\r\n")
    #expect(shield.ask(client, "STARTTLS\r\n") == "454 4.7.0 Not now\r\n")
    let refused = try #require(shield.driver.dialled.last)
    #expect(!shield.driver.sockets[refused].isOpen)
    if worksLater {
      shield.downstream.script.rules = [.init(prefix: "STARTTLS", answer: .reply("220 2.0.0 Go"))]
    }
    let answer = shield.ask(client, "MAIL FROM:<a@b.c>\r\n")
    let isTaken = worksLater || mode == .opportunistic
    #expect(answer.hasPrefix(isTaken ? "250" : "451"), "\(answer)")
    #expect(shield.downstream.lines.contains("MAIL FROM:<a@b.c>") == isTaken)
    let link = try #require(shield.driver.dialled.last)
    if isTaken { #expect(shield.driver.sockets[link].isSecured == worksLater) }
  }

  @Test("octets behind STARTTLS do not pass, nor does anything of a held peer")
  func passThroughInjection() throws {
    var shield = passing()
    let client = try greeted(&shield)
    _ = shield.ask(client, "EHLO a.example.org\r\n")
    #expect(shield.ask(client, "STARTTLS\r\nRSET\r\n").hasPrefix("554"))
    #expect(!shield.downstream.lines.contains("RSET"))
    let arrived = shield.arrive("127.0.3.1")
    let bad = try #require(arrived)
    shield.advance(by: .seconds(130))
    shield.driver.say(bad, "EHLO x.example.org\r\n")
    shield.advance(by: .seconds(130))
    #expect(!shield.heard(bad).contains("STARTTLS"))
  }

  @Test("who has closed its side still gets the answers to what it said")
  func passThroughHalfClosed() throws {
    var shield = passing()
    let client = try greeted(&shield)
    _ = shield.ask(client, "EHLO a.example.org\r\n")
    _ = shield.ask(client, "STARTTLS\r\n")
    let link = try #require(shield.driver.dialled.last)
    shield.downstream.script.rules.append(.init(prefix: "END", answer: .silence))
    // The downstream takes nothing for the moment: the end comes behind what was said.
    shield.driver.setWindow(link, 0)
    shield.driver.say(client, "END\r\n")
    shield.driver.end(client)
    shield.advance(by: .seconds(1))
    #expect(!shield.driver.sockets[link].isFinished)
    shield.driver.setWindow(link, .max)
    shield.advance(by: .seconds(60))
    #expect(shield.downstream.lines.contains("END"))
    #expect(shield.driver.sockets[link].isFinished && shield.driver.sockets[link].isOpen)
    shield.driver.say(link, "250 2.0.0 queued\r\n")
    shield.advance(by: .seconds(1))
    shield.driver.say(link, "221 2.0.0 bye\r\n")
    shield.driver.end(link)
    shield.advance(by: .seconds(1))
    #expect(shield.heard(client) == "250 2.0.0 queued\r\n221 2.0.0 bye\r\n")
    #expect(!shield.driver.sockets[client].isOpen)
    #expect(shield.driver.engine.heldCount == 0 && shield.driver.engine.linkCount == 0)
    #expect(shield.driver.engine.leasedSessions == 0)
  }

  @Test("octets that wait for the byte rate pass before the end of one who has closed its side")
  func passThroughPacedAndHalfClosed() throws {
    var shield = passing(rates: "127.0.0.0/8 bytes=1k/s\n")
    let client = try greeted(&shield)
    _ = shield.ask(client, "EHLO a.example.org\r\n")
    _ = shield.ask(client, "STARTTLS\r\n")
    let link = try #require(shield.driver.dialled.last)
    for number in 0..<100 {
      shield.driver.say(
        client, "line \(number) of some hundred octets" + String(repeating: ".", count: 80) + "\r\n"
      )
    }
    shield.driver.say(client, "LAST\r\n")
    shield.driver.end(client)
    shield.advance(by: .seconds(2))
    #expect(!shield.driver.sockets[link].isFinished)
    shield.advance(by: .seconds(60))
    #expect(shield.downstream.lines.contains("LAST"))
    #expect(shield.driver.sockets[link].isFinished)
  }

  @Test(
    "the downstream may think about the end of a message for as long as on every other listener")
  func passThroughSlowDot() throws {
    var shield = passing()
    let client = try greeted(&shield)
    _ = shield.ask(client, "EHLO a.example.org\r\n")
    _ = shield.ask(client, "STARTTLS\r\n")
    let link = try #require(shield.driver.dialled.last)
    shield.downstream.script.rules.append(.init(prefix: "END", answer: .silence))
    shield.driver.say(client, "END\r\n")
    shield.advance(by: .seconds(599))
    shield.driver.say(link, "250 2.0.0 queued\r\n")
    #expect(shield.heard(client) == "250 2.0.0 queued\r\n")
    // And the client has its time again.
    shield.advance(by: .seconds(599))
    #expect(shield.ask(client, "NOOP\r\n").hasPrefix("250"))
  }

  @Test("a downstream that talks on to a client that has closed its side has one deadline for it")
  func passThroughTalksOn() throws {
    var shield = passing()
    let client = try greeted(&shield)
    _ = shield.ask(client, "EHLO a.example.org\r\n")
    _ = shield.ask(client, "STARTTLS\r\n")
    let link = try #require(shield.driver.dialled.last)
    shield.driver.end(client)
    for _ in 0..<5 {
      shield.advance(by: .seconds(110))
      shield.driver.say(link, "250-more\r\n")
    }
    #expect(shield.driver.sockets[client].isOpen)
    shield.advance(by: .seconds(51))
    #expect(!shield.driver.sockets[client].isOpen)
    #expect(shield.driver.engine.core.counters.timeouts == 1)
    #expect(shield.driver.engine.linkCount == 0 && shield.driver.engine.leasedSessions == 0)
  }

  @Test("either side's death ends what passes")
  func passThroughDeaths() throws {
    for side in 0..<4 {
      var shield = passing()
      let client = try greeted(&shield)
      _ = shield.ask(client, "EHLO a.example.org\r\n")
      _ = shield.ask(client, "STARTTLS\r\n")
      let link = try #require(shield.driver.dialled.last)
      switch side {
      case 0: shield.driver.end(link)
      case 1: shield.driver.reset(client)
      case 2:
        shield.driver.end(client)
        shield.driver.end(link)
      default: shield.advance(by: .seconds(601))
      }
      shield.advance(by: .seconds(5))
      #expect(!shield.driver.sockets[client].isOpen, "\(side)")
      #expect(!shield.driver.sockets[link].isOpen, "\(side)")
      #expect(shield.driver.engine.heldCount == 0 && shield.driver.engine.linkCount == 0)
    }
  }

  // MARK: The downstream

  private func before(
    _ mode: DownstreamTLS, implicit: Bool = false, offers: Bool = true,
    starttls: ServerScript.Answer = .reply("220 2.0.0 Go")
  ) -> VirtualShield {
    var driver = VirtualDriver(engine: Engine(policy: policy(), limits: limits(), seed: 1))
    driver.speak(tls: mode, implicit: implicit)
    var shield = VirtualShield(driver: driver)
    if offers { shield.downstream.script.offers.append("STARTTLS") }
    shield.downstream.script.rules = [.init(prefix: "STARTTLS", answer: starttls)]
    return shield
  }

  @Test("the downstream hears EHLO again behind the handshake, and mail only then")
  func downstream() throws {
    for mode in [DownstreamTLS.opportunistic, .required, .verify] {
      var shield = before(mode)
      let client = try greeted(&shield)
      #expect(shield.deliver(client).hasPrefix("250"))
      let link = try #require(shield.driver.dialled.last)
      #expect(shield.driver.sockets[link].isSecured)
      let said = shield.downstream.lines.suffix(6).map { String($0.prefix(8)) }
      #expect(said == ["EHLO cli", "STARTTLS", "EHLO cli", "MAIL FRO", "RCPT TO:", "DATA"])
    }
  }

  @Test(
    "a downstream without TLS, or whose TLS does not work, gets mail in clear only where that is allowed",
    arguments: [DownstreamTLS.opportunistic, .required, .verify], [0, 1, 2])
  func withoutTLS(mode: DownstreamTLS, how: Int) throws {
    var shield = before(
      mode, offers: how != 0, starttls: .reply(how == 1 ? "454 4.7.0 Not now" : "220 Go"))
    shield.driver.handshakeFault = how == 2 ? .certificate : nil
    let client = try greeted(&shield)
    let answer = shield.deliver(client)
    let isAllowed = mode == .opportunistic
    #expect(answer.hasPrefix(isAllowed ? "250" : "451"), "\(mode) \(how): \(answer)")
    #expect(shield.downstream.accepted.count == (isAllowed ? 1 : 0))
    if how == 2 && isAllowed {
      #expect(shield.events().contains { $0.event == .downstreamClear })
      // Not tried again for each message.
      let before = shield.driver.handshakes.count
      let next = try greeted(&shield, from: "127.0.5.2")
      #expect(shield.deliver(next).hasPrefix("250"))
      #expect(shield.driver.handshakes.count == before)
    }
  }

  @Test("what is said in clear on the way to a downstream under TLS is offered to nobody")
  func clearOffers() throws {
    for mode in [DownstreamTLS.required, .verify] {
      var shield = before(mode)
      shield.advance(by: .seconds(1))
      let early = try greeted(&shield)
      let offer = shield.ask(early, "EHLO a.example.org\r\n")
      #expect(offer.contains("SIZE 1000000") && offer.contains("8BITMIME"))
      // Somebody on the path answers in its place, and cannot go on behind the 220.
      shield.downstream.script.offers = ["STARTTLS", "SIZE 10"]
      shield.driver.handshakeFault = .certificate
      let other = try greeted(&shield, from: "127.0.5.2")
      #expect(shield.deliver(other).hasPrefix("451"))
      let late = try greeted(&shield, from: "127.0.5.3")
      #expect(shield.ask(late, "EHLO a.example.org\r\n").contains("SIZE 1000000"))
      let mail = "MAIL FROM:<a@b.c> SIZE=1000 BODY=8BITMIME\r\n"
      #expect(shield.ask(early, mail).hasPrefix("451"))
      #expect(shield.ask(late, mail).hasPrefix("451"))
    }
  }

  @Test(
    "a handshake that fails where no other connection can be had is answered, and the client goes on"
  )
  func noRoomForClear() throws {
    var driver = VirtualDriver(
      engine: Engine(policy: policy(), limits: limits { $0.downstreamConnections = 1 }, seed: 1))
    driver.speak(tls: .opportunistic, implicit: false)
    var shield = VirtualShield(driver: driver)
    shield.downstream.script.offers.append("STARTTLS")
    shield.downstream.script.rules = [.init(prefix: "STARTTLS", answer: .reply("220 Go"))]
    shield.advance(by: .seconds(1))
    shield.driver.handshakeFault = .certificate
    let client = try greeted(&shield)
    _ = shield.ask(client, "EHLO a.example.org\r\n")
    #expect(shield.ask(client, "MAIL FROM:<a@b.c>\r\n").hasPrefix("451"))
    #expect(shield.ask(client, "NOOP\r\n").hasPrefix("250"))
    #expect(shield.deliver(client).hasPrefix("250"))
  }

  @Test("a handshake that comes to no end is one that failed: in clear, where that is allowed")
  func standingHandshake() throws {
    for mode in [DownstreamTLS.opportunistic, .required] {
      var shield = before(mode)
      shield.driver.handshakeStands = true
      let client = try greeted(&shield)
      _ = shield.ask(client, "HELO a.example.org\r\n")
      shield.driver.say(client, "MAIL FROM:<a@b.c>\r\n")
      shield.advance(by: .seconds(61))
      #expect(shield.heard(client).hasPrefix(mode == .opportunistic ? "250" : "451"))
      #expect(shield.events().contains { $0.event == .downstreamClear } == (mode == .opportunistic))
    }
  }

  @Test("octets of the downstream behind its 220 are an attack: the link ends")
  func responseInjection() throws {
    var shield = before(.required, starttls: .reply("220 Go\r\n250 2.0.0 injected"))
    let client = try greeted(&shield)
    #expect(shield.deliver(client).hasPrefix("451"))
    #expect(shield.driver.handshakes.isEmpty)
    #expect(shield.downstream.accepted.isEmpty)
  }

  @Test("a downstream of TLS alone is greeted behind the handshake; if that fails, never in clear")
  func implicitDownstream() throws {
    var shield = before(.opportunistic, implicit: true)
    let client = try greeted(&shield)
    #expect(shield.deliver(client).hasPrefix("250"))
    #expect(!shield.downstream.lines.contains("STARTTLS"))
    var failing = before(.opportunistic, implicit: true)
    failing.driver.handshakeFault = .certificate
    let other = try greeted(&failing)
    #expect(failing.deliver(other).hasPrefix("451"))
    #expect(failing.downstream.accepted.isEmpty)
  }

  @Test("REQUIRETLS is offered only where the promise holds on every hop")
  func requireTLS() throws {
    for (mode, isEncrypted, isOffered) in [
      (DownstreamTLS.verify, true, true), (.verify, false, false), (.required, true, false),
      (.off, true, false),
    ] {
      var driver = VirtualDriver(
        engine: Engine(
          policy: policy { $0.listeners[0].tls = .starttls }, limits: limits(), seed: 1))
      driver.speak(tls: mode, implicit: false)
      var shield = VirtualShield(driver: driver)
      shield.downstream.script.offers += ["STARTTLS", "REQUIRETLS"]
      shield.downstream.script.rules = [.init(prefix: "STARTTLS", answer: .reply("220 Go"))]
      shield.advance(by: .seconds(1))
      let client = try greeted(&shield)
      _ = shield.ask(client, "EHLO a.example.org\r\n")
      if isEncrypted { _ = shield.ask(client, "STARTTLS\r\n") }
      let offer = shield.ask(client, "EHLO a.example.org\r\n")
      #expect(offer.contains("REQUIRETLS") == isOffered, "\(mode) \(isEncrypted): \(offer)")
      guard isOffered else { continue }
      #expect(shield.ask(client, "MAIL FROM:<a@b.c> REQUIRETLS\r\n").hasPrefix("250"))
      #expect(shield.downstream.lines.last == "MAIL FROM:<a@b.c> REQUIRETLS")
    }
  }
}
