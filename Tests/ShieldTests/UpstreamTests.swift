// SPDX-License-Identifier: Apache-2.0
import Flow
import Policy
import SMTP
import Shield
import Simulator
import Structures
import Suspicion
import TestServer
import Testing

private let balancer = "10.0.0.9"

/// A shield whose only listener stands behind the load balancers of 10.0.0.0/24 and 2001:db8:f::/64.
private func behind(
  _ policy: Policy, _ limits: Limits = limits(), workers: Int = 1
) -> VirtualShield {
  let networks = [("10.0.0.0", 24), ("2001:db8:f::", 64)].compactMap { text, length in
    Address(text).flatMap { Prefix($0, length: length) }
  }
  var policy = policy
  policy.listeners[0].balancers = PrefixTable(networks.map { ($0, 0) })
  var shield = VirtualShield(
    driver: VirtualDriver(
      engine: Engine(
        policy: policy, limits: limits, seed: 1, worker: 0, workers: workers)))
  shield.advance(by: .seconds(1))
  _ = shield.events()
  return shield
}

private func v1(_ client: String) -> [UInt8] {
  let family = client.contains(":") ? "TCP6" : "TCP4"
  let own = client.contains(":") ? "::1" : "127.0.0.1"
  return Array("PROXY \(family) \(client) \(own) 4321 25\r\n".utf8)
}

private func v2(_ client: String, extras: Int = 0) -> [UInt8] {
  let ends = ClientEnds(address: Address(client) ?? Address(v4: 0), port: 4_321)
  var header = [UInt8](capacity: 256) { ProxyHeader.writeV2(ends, into: &$0) }
  let count = header.count - 16 + extras
  header[14] = UInt8(count >> 8)
  header[15] = UInt8(count & 255)
  return header + [UInt8](repeating: 0xEE, count: extras)
}

@Suite("Listeners behind a load balancer")
struct UpstreamTests {
  @Test("the client is who the header names, however it is cut, and is judged only then")
  func everySplit() throws {
    let policy = policy(access: "192.0.2.0/24 trusted\n2001:db8::/64 trusted\n10.0.0.0/24 reject\n")
    var shield = behind(policy)
    let headers = [
      (v1("192.0.2.7"), "192.0.2.7"), (v2("192.0.2.7"), "192.0.2.7"),
      (v2("2001:db8::7", extras: 700), "2001:db8::7"), (v1("::ffff:192.0.2.7"), "192.0.2.7"),
    ]
    for (header, client) in headers {
      for cut in 0...header.count {
        let arrived = shield.arrive(balancer)
        let slot = try #require(arrived)
        #expect(shield.heard(slot).isEmpty)
        shield.driver.say(slot, header[..<cut])
        if cut < header.count { #expect(shield.heard(slot).isEmpty, "cut at \(cut)") }
        shield.driver.say(slot, header[cut...])
        #expect(shield.heard(slot).hasPrefix("220 "), "\(client), cut at \(cut)")
        let connect = shield.events().first { $0.event == .connect }
        #expect(connect?.address == Address(client) && connect?.port == 4_321)
        #expect(connect?.via == Address(balancer))
        shield.driver.reset(slot)
      }
    }
    #expect(shield.driver.engine.heldCount == 0)
  }

  @Test("an octet at a time is a header as well, and a whole mail goes through behind it")
  func octets() throws {
    var shield = behind(policy(access: "192.0.2.0/24 trusted\n"))
    shield.driver.receiveMax = 1
    let arrived = shield.arrive(balancer)
    let slot = try #require(arrived)
    for octet in v2("192.0.2.7", extras: 40) { shield.driver.say(slot, [octet]) }
    #expect(shield.heard(slot).hasPrefix("220 "))
    #expect(shield.deliver(slot).hasPrefix("250"))
  }

  @Test("what comes in the header's segment behind it is the client's, said before its banner")
  func pregreet() throws {
    for header in [v1("198.51.100.7"), v2("198.51.100.7", extras: 30)] {
      var shield = behind(policy())
      let arrived = shield.arrive(balancer)
      let slot = try #require(arrived)
      shield.driver.say(slot, header + Array("EHLO early.example\r\n".utf8))
      shield.settle()
      let events = shield.events()
      #expect(events.contains { $0.event == .signal && $0.signal == .pregreet })
      #expect(
        events.filter { $0.event == .signal }.allSatisfy { $0.address == Address("198.51.100.7") })
    }
  }

  @Test("a header and nothing behind it is no pregreet: the banner's delay runs from it")
  func banner() throws {
    var shield = behind(policy())
    let arrived = shield.arrive(balancer)
    let slot = try #require(arrived)
    shield.advance(by: .milliseconds(2_900))
    shield.driver.say(slot, v1("198.51.100.7"))
    let waited = shield.banner(slot) ?? -1
    #expect(abs(waited - 4) < 0.02, "\(waited)")
    #expect(!shield.events().contains { $0.event == .signal })
  }

  @Test("who is not listed is refused, whatever it says")
  func unlisted() {
    var shield = behind(policy())
    #expect(shield.arrive("10.0.1.9") == nil)
    #expect(shield.arrive("2001:db8:e::1") == nil)
    let events = shield.events()
    #expect(events.count == 2)
    #expect(events.allSatisfy { $0.event == .proxyRefused && $0.subject == .unlistedBalancer })
    #expect(shield.driver.engine.core.counters.proxyRefused == 2)
    #expect(shield.driver.engine.core.counters.accepted == 0)
  }

  @Test(
    "a header with more behind its addresses than we pass over is refused in those words",
    arguments: ["198.51.100.7", "2001:db8::7"])
  func tooLong(client: String) throws {
    var shield = behind(policy())
    for (extras, subjects) in [(2_048, []), (2_049, [Subject.headerTooLong])] {
      let arrived = shield.arrive(balancer)
      let slot = try #require(arrived)
      shield.driver.say(slot, v2(client, extras: extras))
      shield.advance(by: .seconds(10))
      #expect(shield.heard(slot).prefix(3) == (extras > 2_048 ? "421" : "220"))
      #expect(shield.events().filter { $0.event == .proxyRefused }.map(\.subject) == subjects)
    }
    // LOCAL, whose whole rest is ignored.
    var local = v2(client, extras: 2_049)
    local[12] = 0x20
    let arrived = shield.arrive(balancer)
    let slot = try #require(arrived)
    shield.driver.say(slot, local)
    #expect(shield.heard(slot).hasPrefix("421"))
    #expect(shield.events().map(\.subject).first == .headerTooLong)
  }

  @Test("without a header it is over after three seconds, with one that is wrong at once")
  func refused() throws {
    var shield = behind(policy())
    let arrived = shield.arrive(balancer)
    let slot = try #require(arrived)
    shield.driver.say(slot, v1("198.51.100.7").dropLast(1))
    shield.advance(by: .milliseconds(2_950))
    #expect(shield.heard(slot).isEmpty)
    shield.advance(by: .milliseconds(60))
    #expect(shield.heard(slot).hasPrefix("421 4.3.2 "))
    shield.driver.say(slot, [10])
    #expect(shield.heard(slot).isEmpty, "the rest of a header that came too late is no header")
    shield.advance(by: .seconds(3))
    #expect(!shield.driver.sockets[slot].isOpen)
    let subjects = shield.events().map(\.subject)
    #expect(subjects == [.headerMissing])

    for wrong in [Array("EHLO me.example\r\n".utf8), v1("192.0.2.300"), [0x16, 3, 1, 0, 200]] {
      let next = shield.arrive(balancer)
      let slot = try #require(next)
      shield.driver.say(slot, wrong)
      #expect(shield.heard(slot).hasPrefix("421 4.3.2 "))
      let events = shield.events()
      #expect(events.map(\.event) == [.proxyRefused] && events[0].subject == .headerMalformed)
      #expect(events[0].address == Address(balancer))
      shield.advance(by: .seconds(3))
      #expect(!shield.driver.sockets[slot].isOpen)
    }
    #expect(shield.driver.engine.heldCount == 0)
  }

  @Test(
    "on a listener of TLS alone nothing of that is said, because the client would see it in clear")
  func refusedSilently() throws {
    var shield = behind(policy { $0.listeners[0].tls = .implicit })
    let peer = Peer(address: try #require(Address("10.0.1.9")), port: 40_000, listener: 0)
    let now = shield.driver.now
    var effects = Moment()
    if case .dropped = shield.driver.engine.accepted(peer, now: now, into: &effects) {
    } else {
      Issue.record("who is not listed was told so")
    }
    for words in [v1("192.0.2.300"), v1("198.51.100.7").dropLast(1)] {
      let arrived = shield.arrive(balancer)
      let slot = try #require(arrived)
      shield.driver.say(slot, words)
      shield.advance(by: .milliseconds(3_010))
      #expect(shield.heard(slot).isEmpty)
      #expect(!shield.driver.sockets[slot].isOpen)
    }
    #expect(shield.driver.engine.core.counters.proxyRefused == 3)
    #expect(shield.driver.engine.heldCount == 0)
  }

  @Test("a health check is the balancer itself; one that only connects is no event")
  func healthCheck() throws {
    var shield = behind(policy())
    let local = Array(v2("0.0.0.0").prefix(12)) + [0x20, 0, 0, 0]
    for header in [local, Array("PROXY UNKNOWN\r\n".utf8)] {
      let arrived = shield.arrive(balancer)
      let slot = try #require(arrived)
      shield.driver.say(slot, header)
      #expect(shield.heard(slot).hasPrefix("220 "))
      let connect = shield.events().first { $0.event == .connect }
      #expect(connect?.address == Address(balancer))
      #expect(connect?.via == Address(high: 0, low: 0))
      shield.driver.reset(slot)
    }
    _ = shield.events()
    let arrived = shield.arrive(balancer)
    shield.driver.end(try #require(arrived))
    #expect(shield.events().isEmpty)
    let half = shield.arrive(balancer)
    let slot = try #require(half)
    shield.driver.say(slot, "PROXY TC")
    shield.driver.end(slot)
    #expect(shield.events().map(\.subject) == [.headerMalformed])
    #expect(shield.driver.engine.heldCount == 0)
  }

  @Test("who it is that a header does not say sends no mail, whomever the balancer is taken for")
  func nobody() throws {
    let local = Array(v2("0.0.0.0").prefix(12))
    let headers = [
      local + [0x20, 0, 0, 0], local + [0x21, 0, 0, 0], Array("PROXY UNKNOWN\r\n".utf8),
    ]
    for (access, mode) in [("10.0.0.0/24 trusted\n", Mode.enforce), ("", .enforce), ("", .observe)]
    {
      var shield = behind(
        policy(access: access) {
          $0.mode = mode
          $0.listeners[0].role = .outbound
          $0.authOnClear = true
        })
      shield.downstream.script.offers.append("AUTH PLAIN LOGIN")
      shield.advance(by: .seconds(61))
      let dialled = shield.driver.dialled.count
      for header in headers {
        let arrived = shield.arrive(balancer)
        let slot = try #require(arrived)
        shield.driver.say(slot, header)
        #expect(shield.heard(slot).hasPrefix("220 "))
        #expect(shield.ask(slot, "EHLO check.example.org\r\n").contains("250"))
        _ = shield.events()
        #expect(shield.ask(slot, "MAIL FROM:<a@b.c>\r\n").hasPrefix("451 4.3.0"))
        #expect(shield.ask(slot, "RCPT TO:<d@e.f>\r\n").hasPrefix("503"))
        #expect(shield.ask(slot, "AUTH PLAIN AGFubgBwYXNzd29yZA==\r\n").hasPrefix("451"))
        let refusals = shield.events().filter { $0.event == .proxyRefused }
        #expect(refusals.map(\.subject) == [.clientUnnamed, .clientUnnamed])
        #expect(shield.ask(slot, "QUIT\r\n").hasPrefix("221"))
        shield.driver.reset(slot)
      }
      #expect(shield.driver.dialled.count == dialled)
    }
  }

  @Test("tables, rates and counts are the client's and not the balancer's")
  func judged() throws {
    var shield = behind(
      policy(
        access: "203.0.113.66 reject\n192.0.2.0/24 trusted\n10.0.0.0/24 bad\n",
        rates: "198.51.100.0/24 concurrency=1 over=refuse per=/32\n"))
    func come(_ client: String) throws -> (Int, String) {
      let arrived = shield.arrive(balancer)
      let slot = try #require(arrived)
      shield.driver.say(slot, v2(client))
      return (slot, shield.heard(slot))
    }
    #expect(try come("203.0.113.66").1.hasPrefix("554 5.7.1 "))
    #expect(try come("192.0.2.7").1.hasPrefix("220 "))
    let first = try come("198.51.100.7")
    #expect(first.1.isEmpty)
    #expect(try come("198.51.100.7").1.hasPrefix("554 "))
    #expect(try come("198.51.100.8").1.isEmpty)
    shield.driver.reset(first.0)
    shield.advance(by: .seconds(3))
    #expect(try come("198.51.100.7").1.isEmpty, "its only connection is gone")
  }

  @Test("one balancer may have a quarter of the places, and another still gets in")
  func places() throws {
    var shield = behind(policy(), limits { $0.proxyHeaders = 16 })
    var waiting: [Int] = []
    for _ in 0..<4 {
      let arrived = shield.arrive(balancer)
      waiting.append(try #require(arrived))
    }
    #expect(shield.arrive(balancer) == nil)
    #expect(shield.events().map(\.subject) == [.headersWaiting])
    let other = shield.arrive("10.0.0.10")
    #expect(other != nil)
    shield.driver.say(waiting[0], v1("198.51.100.7"))
    let again = shield.arrive(balancer)
    #expect(again != nil, "a header that is whole takes no place")
    // However they end, the places come back: 16 in all.
    for round in 0..<50 {
      for slot in waiting { shield.driver.reset(slot) }
      waiting = []
      shield.advance(by: .seconds(4))
      for n in 0..<4 {
        let arrived = shield.arrive(balancer)
        let slot = try #require(arrived, "round \(round), \(n)")
        waiting.append(slot)
        switch (round + n) % 4 {
        case 0: shield.driver.say(slot, v2("198.51.100.7"))
        case 1: shield.driver.say(slot, "nonsense")
        case 2: shield.driver.say(slot, "PROXY TCP4 1")
        default: break
        }
      }
    }
  }

  @Test("with all slots taken a client who is not known hears 421 behind its header")
  func full() throws {
    var shield = behind(
      policy(access: "192.0.2.0/24 trusted\n") { $0.reservedForKnown = 0.5 },
      limits { $0.connections = 8 })
    var heard: [String] = []
    for n in 0..<8 {
      let arrived = shield.arrive(balancer)
      let slot = try #require(arrived)
      shield.driver.say(slot, v1(n < 6 ? "198.51.100.\(n)" : "192.0.2.\(n)"))
      heard.append(String(shield.heard(slot).prefix(3)))
      if heard.last == "421" { shield.driver.reset(slot) }
    }
    #expect(heard == ["", "", "", "", "421", "421", "220", "220"])
  }

  @Test("a drain ends those whose header has not come")
  func drain() throws {
    var shield = behind(policy())
    let arrived = shield.arrive(balancer)
    let slot = try #require(arrived)
    shield.driver.drain()
    shield.settle()
    #expect(!shield.driver.sockets[slot].isOpen)
    #expect(shield.driver.engine.heldCount == 0)
  }

  @Test("a client of another worker is handed over with its name, and its slot and place come back")
  func handedOver() throws {
    let prefix = try #require(Prefix(Address(v4: 0x0A00_0000), length: 24))
    let terms = ListenerTerms(
      address: Address(v4: 0), port: 25, balancers: PrefixTable([(prefix, 0)]))
    let small = limits { $0.proxyHeaders = 16 }
    var engine = Engine(
      policy: policy { $0.listeners = [terms] }, limits: small, seed: 1, worker: 0, workers: 4)
    var effects = Moment(capacity: 256)
    let from = Peer(address: Address(v4: 0x0A00_0009), port: 7, listener: 0)
    var handed = [0, 0, 0, 0]
    for n in 0..<400 {
      let client = Address(v4: 0xC000_0007 &+ UInt32(n) << 8)
      let header = v2("\(client)")
      guard case .held(let slot) = engine.accepted(from, now: .origin, into: &effects) else {
        Issue.record("no place for client \(n)")
        return
      }
      var sent = 0
      var hand: Int?
      var closed = false
      while true {
        var fill: Region?
        for k in 0..<effects.count {
          switch effects[k] {
          case .fill(_, let region): fill = region
          case .hand(let which, let worker):
            #expect(which == slot)
            let peer = engine.announcedPeer(slot)
            #expect(peer.address == client && peer.port == 4_321 && peer.via == from.address)
            hand = worker
          case .close: closed = true
          default: break
          }
        }
        effects.removeAll()
        guard let region = fill else { break }
        let waits = engine.awaitsHeader(slot)
        #expect(waits)
        let piece = Array(header[sent..<min(sent + region.count, header.count)])
        engine.core.arena.write(piece.span, at: region.offset)
        sent += piece.count
        engine.filled(slot, piece.count, now: .origin, into: &effects)
      }
      let home = Steering.worker(for: client, of: 4)
      #expect(hand == (home == 0 ? nil : home) && closed == (home != 0))
      let stillWaits = engine.awaitsHeader(slot)
      #expect(!stillWaits)
      handed[home] += 1
      if home == 0 { engine.failed(slot, now: .origin, into: &effects) }
      effects.removeAll()
      engine.closed(slot, now: .origin, into: &effects)
    }
    #expect(engine.heldCount == 0 && handed.allSatisfy { $0 > 40 })
    // There it is an arrival like any other.
    let announced = Peer(
      address: Address(v4: 0xC000_0007), port: 1, listener: 0, via: from.address)
    guard case .held = engine.accepted(announced, now: .origin, into: &effects) else {
      Issue.record("not taken")
      return
    }
    let said = engine.core.journal.next()
    #expect(said != nil)
  }

  @Test("a held connection is 40 bytes, and a listener by itself has no places for headers")
  func sizes() {
    #expect(MemoryLayout<Connection>.stride == 40)
    let limits = limits()
    let alone = Engine(policy: policy(), limits: limits, seed: 1)
    let more = behind(policy(), limits)
    let each = more.driver.engine.core.arena.count - alone.core.arena.count
    #expect(each == 256 * limits.proxyHeaders)
  }

  @Test("any octets, cuts and endings at all leave nothing behind", arguments: 0..<20)
  func chaos(seed: UInt64) throws {
    var random = SeededGenerator(seed: seed)
    var shield = behind(
      policy(access: "192.0.2.0/24 trusted\n"), limits { $0.proxyHeaders = 64 })
    var open: [Int] = []
    for _ in 0..<400 {
      switch UInt8.random(in: 0..<6, using: &random) {
      case 0, 1:
        if let slot = shield.arrive("10.0.0.\(UInt8.random(in: 0..<4, using: &random))") {
          open.removeAll { $0 == slot }
          open.append(slot)
        }
      case 2, 3:
        guard let slot = open.randomElement(using: &random) else { continue }
        var bytes = Bool.random(using: &random) ? v1("192.0.2.7") : v2("198.51.100.7", extras: 20)
        if Bool.random(using: &random) { bytes += Array("EHLO a.example\r\nMAIL FROM:<>\r\n".utf8) }
        if Bool.random(using: &random) {
          bytes[Int.random(in: 0..<bytes.count, using: &random)] = .random(
            in: 0 ... .max, using: &random)
        }
        let count = Int.random(in: 0...bytes.count, using: &random)
        if shield.driver.sockets[slot].isOpen { shield.driver.say(slot, bytes[..<count]) }
      case 4:
        guard let slot = open.randomElement(using: &random) else { continue }
        if Bool.random(using: &random) {
          shield.driver.reset(slot)
        } else if shield.driver.sockets[slot].isOpen {
          shield.driver.end(slot)
        }
      default: shield.advance(by: .milliseconds(Int.random(in: 0..<2_000, using: &random)))
      }
      shield.settle()
      _ = shield.events()
    }
    for slot in open { shield.driver.reset(slot) }
    shield.advance(by: .seconds(300))
    #expect(shield.driver.engine.heldCount == 0, "seed \(seed)")
    for n in 0..<16 {
      let arrived = shield.arrive("10.0.0.99")
      #expect(arrived != nil, "seed \(seed): place \(n) did not come back")
    }
  }
}
