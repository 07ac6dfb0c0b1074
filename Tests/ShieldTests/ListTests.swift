// SPDX-License-Identifier: Apache-2.0
import DNSLists
import Policy
import SMTP
import Shield
import Simulator
import Structures
import Suspicion
import TestServer
import Testing

/// What DNS lists say, as the engine hears it.
@Suite("DNS lists in the engine")
struct ListTests {
  /// A shield that asks two lists, one of which vouches.
  private func asking(
    _ mode: Mode = .enforce, access: String = "", _ change: (inout ListTerms) -> Void = { _ in },
    policy more: (inout Policy) -> Void = { _ in }
  ) throws -> VirtualShield {
    let items = try [
      "bl.example*3", "slow.example=127.0.0.[2;4..11]*1", "dnswl.example=127.0.[0..255].3*-5",
    ].map { try ListSite($0) }
    var terms = ListTerms(try ListSites(items))
    terms.threshold = 3
    terms.allowThreshold = -4
    change(&terms)
    return shield(
      policy(access: access) {
        $0.mode = mode
        $0.lists = terms
        more(&$0)
      })
  }

  private let listed = ItemSet(item: 0)
  private let allowed = ItemSet(item: 2)

  @Test(
    "a client is asked about once, when it connects, and one that the operator vouches for is not")
  func asked() throws {
    var shield = try asking(access: "10.0.0.0/8 trusted\n192.0.2.0/24 reject\n")
    let arrived = shield.arrive("198.51.100.1")
    let client = try #require(arrived)
    #expect(shield.driver.lookUps == [client])
    _ = shield.deliver(client)
    _ = shield.arrive("10.0.0.1")
    _ = shield.arrive("192.0.2.1")
    #expect(shield.driver.lookUps == [client])
    #expect(shield.driver.engine.core.counters.lookUps == 1)
    var outbound = try asking { _ in
    } policy: {
      $0.listeners[0].role = .outbound
    }
    _ = outbound.arrive("198.51.100.1")
    #expect(
      outbound.driver.lookUps.isEmpty, "users' own addresses are on lists of dial-up networks")
  }

  @Test("nobody waits for an answer that does not come")
  func silence() throws {
    var with = try asking()
    var without = shield(policy())
    let arrived = (with.arrive("198.51.100.1"), without.arrive("198.51.100.1"))
    let (a, b) = (try #require(arrived.0), try #require(arrived.1))
    #expect(with.banner(a) == without.banner(b))
    #expect(with.deliver(a).hasPrefix("250"))
  }

  @Test(
    "a listed client waits for its banner as its new tier does, counted from its arrival",
    arguments: [0.1, 1, 3.9])
  func slowed(after: Double) throws {
    var shield = try asking()
    let arrived = shield.arrive("198.51.100.1")
    let client = try #require(arrived)
    let start = shield.driver.now
    shield.advance(by: .milliseconds(Int64(after * 1_000)))
    shield.driver.lookedUp(client, listed)
    #expect(shield.banner(client) != nil)
    let waited = (shield.driver.now - start).inSeconds
    #expect(abs(waited - 22) < 0.1, "\(waited) s")
    let events = shield.events()
    let match = try #require(events.first { $0.event == .dnsMatch })
    #expect(match.rank == 3 && match.matched == listed)
    #expect(events.contains { $0.event == .signal && $0.signal == .dnsListed })
    #expect(shield.deliver(client).hasPrefix("250"), "slowed, not refused")
  }

  @Test("an answer behind the banner counts from the next command on")
  func late() throws {
    var shield = try asking()
    let arrived = shield.arrive("198.51.100.1")
    let client = try #require(arrived)
    #expect(shield.banner(client) == 4)
    shield.driver.lookedUp(client, listed)
    let start = shield.driver.now
    #expect(shield.ask(client, "HELO client.example.org\r\n").hasPrefix("250"))
    #expect((shield.driver.now - start).inSeconds >= 5)
  }

  @Test("where the signal proves, a listed client comes into the tarpit, whenever the answer comes")
  func proven() throws {
    for late in [false, true] {
      var shield = try asking { _ in
      } policy: {
        $0[.dnsListed].proof = true
      }
      let arrived = shield.arrive("198.51.100.1")
      let client = try #require(arrived)
      if late { _ = shield.banner(client) }
      shield.driver.lookedUp(client, listed)
      shield.driver.say(client, "HELO client.example.org\r\n")
      shield.advance(by: .seconds(60))
      #expect(shield.events().contains { $0.event == .tarpit }, "late: \(late)")
      #expect(shield.driver.engine.linkCount == 0)
    }
  }

  @Test("weights add up, and a list that vouches outweighs")
  func weights() throws {
    for (items, isListed) in [
      ([0], true), ([1], false), ([0, 1], true), ([0, 1, 2], false), ([], false),
    ] {
      var shield = try asking()
      let arrived = shield.arrive("198.51.100.1")
      let client = try #require(arrived)
      shield.driver.lookedUp(client, ItemSet(items.map { ItemSet(item: $0) }))
      #expect(shield.driver.engine.core.counters.listed == (isListed ? 1 : 0), "\(items)")
    }
  }

  @Test("a client that is vouched for is greeted at once, unless something else speaks against it")
  func vouched() throws {
    var shield = try asking()
    let arrived = shield.arrive("198.51.100.1")
    let client = try #require(arrived)
    shield.advance(by: .milliseconds(50))
    shield.driver.lookedUp(client, allowed)
    #expect(shield.banner(client) == 0)
    let start = shield.driver.now
    #expect(shield.deliver(client).hasPrefix("250"))
    #expect((shield.driver.now - start).inSeconds < 0.1)
    // It spoke first: that is a proof.
    let early = shield.arrive("198.51.100.2")
    let second = try #require(early)
    shield.driver.say(second, "HELO x\r\n")
    shield.driver.lookedUp(second, allowed)
    shield.advance(by: .seconds(30))
    #expect(shield.events().contains { $0.event == .tarpit })
  }

  @Test(
    "listed clients are refused when they connect, or at each recipient, with the list's name and not its key"
  )
  func refused() throws {
    for stage in [ListRejection.connect, .rcpt] {
      for late in [false, true] {
        let items = try ["sesamekeysesamekeysesamek.zen.dq.spamhaus.net*3"].map { try ListSite($0) }
        var terms = ListTerms(try ListSites(items))
        terms.threshold = 3
        terms.rejectAt = stage
        var shield = shield(policy { $0.lists = terms })
        let arrived = shield.arrive("198.51.100.1")
        let client = try #require(arrived)
        if late { #expect(shield.banner(client) == 4) }
        shield.driver.lookedUp(client, listed)
        if stage == .connect && !late {
          #expect(shield.ask(client, "").hasPrefix("554 5.7.1"))
          continue
        }
        if !late { _ = shield.banner(client) }
        _ = shield.ask(client, "EHLO client.example.org\r\n")
        #expect(shield.ask(client, "MAIL FROM:<a@b.c>\r\n").hasPrefix("250"))
        let reply = shield.ask(client, "RCPT TO:<d@e.f>\r\n")
        #expect(reply.hasPrefix("550 5.7.1 Service unavailable; client host blocked using "))
        #expect(reply.contains("zen.dq.spamhaus.net") && !reply.contains("sesame"), "\(reply)")
        let events = shield.events()
        #expect(
          events.contains {
            $0.event == .reject && $0.verb == .rcpt && $0.own == .clientListed
              && $0.matched == listed
          })
        #expect(!shield.downstream.lines.contains { $0.hasPrefix("RCPT") })
      }
    }
  }

  @Test("in observe mode nothing is done, and the log says what would be")
  func observed() throws {
    var shield = try asking(.observe) { $0.rejectAt = .rcpt }
    let arrived = shield.arrive("198.51.100.1")
    let client = try #require(arrived)
    shield.driver.lookedUp(client, listed)
    #expect(shield.banner(client) == 0)
    #expect(shield.deliver(client).hasPrefix("250"))
    let events = shield.events()
    #expect(events.contains { $0.event == .wouldReject && $0.own == .clientListed })
    #expect(events.contains { $0.event == .dnsMatch })
  }

  @Test(
    "an answer about a client that has gone is nobody's, and that of the one before is not the next one's"
  )
  func gone() throws {
    var shield = try asking {
      $0.rejectAt = .rcpt
    } policy: {
      $0.reservedForKnown = 0; $0.shedAt = 1
    }
    let arrived = shield.arrive("198.51.100.1")
    let client = try #require(arrived)
    shield.driver.lookedUp(client, listed)
    shield.driver.reset(client)
    shield.advance(by: .seconds(1))
    shield.driver.lookedUp(client, listed)
    #expect(shield.driver.engine.core.counters.lookUpsAnswered == 1)
    var others = 0
    while others < 64, shield.arrive("198.51.100.2") != client { others += 1 }
    #expect(others < 64)
    #expect(shield.banner(client) == 4)
    #expect(shield.deliver(client).hasPrefix("250"))
  }

  @Test(
    "a reload that takes the lists away, or gives them other items, leaves nothing of them behind")
  func reload() throws {
    var shield = try asking { $0.rejectAt = .rcpt }
    let arrived = shield.arrive("198.51.100.1")
    let client = try #require(arrived)
    shield.driver.lookedUp(client, listed)
    var policy = shield.driver.engine.policy
    policy.lists = nil
    shield.driver.engine.adopt(policy)
    shield.driver.lookedUp(client, listed)
    #expect(shield.banner(client) != nil)
    #expect(shield.deliver(client).hasPrefix("250"))
    let second = shield.arrive("198.51.100.2")
    #expect(second != nil && shield.driver.lookUps.count == 1)
  }

  @Test("a reload that leaves the lists as they are does not let a listed client through")
  func reloadOfTheSame() throws {
    var shield = try asking { $0.rejectAt = .rcpt }
    let arrived = shield.arrive("198.51.100.1")
    let client = try #require(arrived)
    shield.driver.lookedUp(client, listed)
    shield.driver.engine.adopt(shield.driver.engine.policy)
    #expect(shield.banner(client) != nil)
    #expect(shield.deliver(client).hasPrefix("550 5.7.1"))
  }

  @Test("an opinion stands as soon as no zone can change it")
  func decided() throws {
    let terms = try #require(try asking().driver.engine.policy.lists)
    let (a, b, c) = (ItemSet(item: 0), ItemSet(item: 1), ItemSet(item: 2))
    #expect(terms.isDecided([], pending: []))
    #expect(!terms.isDecided([], pending: a))
    #expect(!terms.isDecided(a, pending: c), "it may be vouched for still")
    #expect(terms.isDecided(a, pending: b))
    #expect(!terms.isDecided(b, pending: c), "it may be allowed still")
    #expect(!terms.isDecided(c, pending: a))
    #expect(terms.isDecided([a, c], pending: []))
  }

  @Test("without lists nothing is asked, and nothing is kept")
  func none() throws {
    var shield = shield(policy())
    _ = shield.arrive("198.51.100.1")
    #expect(shield.driver.lookUps.isEmpty)
  }
}
