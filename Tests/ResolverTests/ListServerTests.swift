// SPDX-License-Identifier: Apache-2.0
import DNSLists
import Resolver
import ResolverFixtures
import Structures
import Testing

@Suite("Lists that a server has", .serialized)
struct ListServerTests {
  static let needsRbldnsd: Comment = "rbldnsd is not installed: apt-get install rbldnsd"

  /// A look-up as the daemon will do it.
  static func verdict(
    _ loop: Loop, _ sites: ListSites, _ address: Address, zone: Int = 0, asIPv6: Bool = false
  ) -> ZoneVerdict? {
    let ticket = UInt64(1) << 50 + UInt64(loop.answerCount)
    loop.ask(Question(.a, sites.queryName(address, inZone: zone, asIPv6: asIPv6)), ticket: ticket)
    loop.run { loop.answers[ticket] != nil }
    switch loop.answers[ticket]?.first {
    case .addresses(let answers, _): return sites.verdict(ofZone: zone, answers)
    case .noSuchName: return .notListed
    default: return nil
    }
  }

  static func test(_ loop: Loop, _ sites: ListSites, zone: Int = 0, asIPv6: Bool = false)
    -> HealthOutcome
  {
    func ask(_ address: Address) -> TestAnswer {
      let ticket = UInt64(1) << 50 + UInt64(loop.answerCount)
      loop.ask(Question(.a, sites.queryName(address, inZone: zone, asIPv6: asIPv6)), ticket: ticket)
      loop.run { loop.answers[ticket] != nil }
      switch loop.answers[ticket]?.first {
      case .addresses(let list, _): return .addresses((0..<list.count).map { list[$0] })
      case .noSuchName: return .noSuchName
      default: return .failure
      }
    }
    return HealthOutcome(two: ask(ZoneHealth.two), one: ask(ZoneHealth.one))
  }

  @Test(
    "rbldnsd: listed, not listed, text, IPv6 and health",
    .enabled(if: Rbldnsd.isInstalled, needsRbldnsd))
  func rbldnsd() throws {
    let server = try Rbldnsd([
      .init(
        "ip4set", "bl.example",
        [
          "$SOA 3000 ns.example admin.example 0 600 300 86400 120", "$TTL 1800",
          ":127.0.0.4:Listed, see http://bl.example/?$", "127.0.0.2", "192.0.2.0/24",
        ]),
      .init(
        "ip6trie", "six.example",
        [":127.0.0.2:six", "2001:db8::/32", "::ffff:7f00:2"]),
      .init("ip4set", "dead.example", [":127.0.0.2:dead", "192.0.2.1"]),
    ])
    let loop = try Loop(ports: [server.port])
    let sites = try ListSites(
      ["bl.example=127.0.0.4*3", "six.example", "dead.example", "bl.example=127.0.0.5"].map {
        try ListSite($0)
      })
    let listed = try #require(Address("192.0.2.77"))
    let free = try #require(Address("198.51.100.1"))
    #expect(Self.verdict(loop, sites, listed) == .listed(ItemSet(item: 0)))
    #expect(Self.verdict(loop, sites, free) == .notListed)
    #expect(loop.answer(Question(.a, sites.queryName(free, inZone: 0))) == "none for 120")
    #expect(loop.answer(Question(.a, sites.queryName(listed, inZone: 0))) == "127.0.0.4 for 1800")
    #expect(
      loop.answer(Question(.text, sites.queryName(listed, inZone: 0)))
        == "'Listed, see http://bl.example/?192.0.2.77' for 1800")
    let six = try #require(Address("2001:db8::1"))
    #expect(Self.verdict(loop, sites, six, zone: 1) == .listed(ItemSet(item: 1)))
    #expect(Self.test(loop, sites) == .healthy)
    #expect(Self.test(loop, sites, zone: 1, asIPv6: true) == .healthy)
    #expect(Self.test(loop, sites, zone: 2) == .listsNothing)
  }

  @Test(
    "rbldnsd: a thousand questions at once lose nothing in the window",
    .enabled(if: Rbldnsd.isInstalled, needsRbldnsd))
  func burst() throws {
    let server = try Rbldnsd([.init("ip4set", "bl.example", [":127.0.0.2:x", "192.0.2.0/25"])])
    let loop = try Loop(ports: [server.port])
    let sites = try ListSites([try ListSite("bl.example")])
    for i in 0..<1_000 {
      // Half of them are listed.
      let address = Address(
        v4: i % 2 == 0 ? 0xC000_0200 + UInt32(i / 2 % 128) : 0xC633_6400 + UInt32(i))
      loop.ask(Question(.a, sites.queryName(address, inZone: 0)), ticket: UInt64(i))
    }
    loop.run { loop.answerCount == 1_000 }
    for i in 0..<1_000 {
      let words = loop.answers[UInt64(i)]?.map(ReplyTests.words)
      #expect(words?.count == 1)
      #expect(words?.first?.hasPrefix("127.0.0.2 ") == (i % 2 == 0), "\(i)")
    }
    #expect(loop.mostInFlight <= 150)
    #expect(loop.resolver.counters.timedOut == 0)
  }

  @Test(
    "a list that is out of order is seen through",
    arguments: [
      ("wildcard", HealthOutcome.listsEverything, ZoneVerdict?.some(.listed(.init(item: 0)))),
      ("stranger", .refuses(.outsideLoopback), .some(.healthError(.outsideLoopback))),
      ("resolver", .refuses(.publicResolver), .some(.healthError(.publicResolver))),
      ("loopback", .listsEverything, .some(.notListed)),
      ("empty", .listsNothing, .some(.notListed)),
      ("broken", .silent, nil),
      ("mute", .silent, nil),
    ])
  func health(kind: String, outcome: HealthOutcome, verdict: ZoneVerdict?) throws {
    let server = try TestServer { query in
      let records: [Record] =
        switch kind {
        case "wildcard": [.a(127, 0, 0, 2)]
        case "stranger": [.a(10, 0, 0, 1)]
        case "resolver": [.a(127, 255, 255, 254)]
        case "loopback": [.a(127, 0, 0, 1)]
        default: []
        }
      if kind == "mute" { return .silence }
      let code: UInt8 = kind == "empty" ? 3 : kind == "broken" ? 2 : 0
      return .send(Message.reply(to: query.octets, code: code, records))
    }
    let loop = try Loop(ports: [server.port]) {
      if kind == "mute" { $0.timeout = .milliseconds(60) }
    }
    let sites = try ListSites([try ListSite("key0123456789.zen.dq.spamhaus.net")])
    #expect(Self.test(loop, sites) == outcome)
    #expect(Self.verdict(loop, sites, Address(v4: 0xC000_0201)) == verdict)
  }
}
