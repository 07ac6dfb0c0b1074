// SPDX-License-Identifier: Apache-2.0
import ConfigurationFixtures
import DNSLists
import Foundation
import Policy
import ResolverFixtures
import Shield
import Structures
import Suspicion
import Synchronization
import TLS
import Testing
import Uring

@testable import Driver

/// DNS lists asked by the real driver, of rbldnsd and of servers that behave badly.
///
/// Nothing here hangs on how fast an answer is: clients wait a minute for their banner where it matters, and a test goes
/// on when what it waits for has been counted.
@Suite("DNS lists", .serialized)
struct ListTests {
  static let needsRbldnsd: Comment = "rbldnsd is not installed: apt-get install rbldnsd"
  /// In the zone of `rbldnsd()`.
  static let listed: UInt32 = 0x7F00_0011
  static let other: UInt32 = 0x7F00_0012
  static let another: UInt32 = 0x7F00_0013

  // MARK: What tests are made of

  static func terms(_ items: String...) throws -> ListTerms {
    ListTerms(try ListSites(try items.map { try ListSite($0) }))
  }

  /// A policy that delays each clean client for a minute.
  static func policy(
    _ terms: ListTerms?, _ change: (inout Policy) -> Void = { _ in }
  ) -> Policy {
    promptPolicy { policy in
      policy.lists = terms
      policy.delays[.banner].clean = 60_000_000
      change(&policy)
    }
  }

  static func book(
    _ terms: ListTerms, port: UInt16, origin: Int64, timeout: Int64 = 20_000_000,
    _ change: (inout ListBook.Bounds) -> Void = { _ in }
  ) throws -> ListBook {
    var settings = LookUpSettings()
    settings.servers = [NameServer(Address(v4: 0x7F00_0001), port: port)]
    settings.timeout = timeout
    settings.cacheEntries = 1_024
    var bounds = ListBook.Bounds()
    change(&bounds)
    return try ListBook(
      terms.sites, settings, bounds: bounds, workers: 1, hash: SipHash(k0: 1, k1: 2),
      now: Instant(microseconds: MonotonicClock.now() - origin))
  }

  /// A driver whose lists have passed their test.
  static func loop(
    _ terms: ListTerms, port: UInt16, timeout: Int64 = 20_000_000,
    _ bounds: (inout ListBook.Bounds) -> Void = { _ in },
    policy change: (inout Policy) -> Void = { _ in }
  ) throws -> (Loop, ListBook) {
    let origin = MonotonicClock.now()
    let book = try book(terms, port: port, origin: origin, timeout: timeout, bounds)
    let loop = try Loop(policy(terms, change), lists: book, origin: origin)
    let zones = terms.sites.zones.indices
    #expect(try loop.turn { _ in zones.allSatisfy { book.counts($0) } })
    return (loop, book)
  }

  static func rbldnsd() throws -> Rbldnsd {
    try Rbldnsd([
      .init(
        "ip4set", "bl.example",
        ["$SOA 3000 ns.example admin.example 0 600 300 86400 120", "$TTL 1800"]
          + [":127.0.0.4:listed", "127.0.0.2", "127.0.0.16/28"]),
      .init("ip4set", "wl.example", [":127.0.0.3:good", "127.0.0.2", "127.0.0.16/28"]),
    ])
  }

  /// A server whose lists pass their test, and that does with questions about clients as it is told.
  static func server(
    _ react: @escaping @Sendable (ServerQuery) -> Reaction
  ) throws -> ResolverFixtures.TestServer {
    try ResolverFixtures.TestServer { query in
      if query.name.hasPrefix("2.0.0.127.") { return yes(query) }
      return query.name.hasPrefix("1.0.0.127.") ? no(query) : react(query)
    }
  }

  static func yes(_ query: ServerQuery) -> Reaction {
    .send(Message.reply(to: query.octets, [.a(127, 0, 0, 2)]))
  }

  static func no(_ query: ServerQuery) -> Reaction {
    .send(Message.reply(to: query.octets, code: 3))
  }

  static func journal(_ loop: Loop, _ event: Event) -> [JournalEntry] {
    var found: [JournalEntry] = []
    while let entry = loop.driver.engine.core.journal.next() {
      if entry.event == event { found.append(entry) }
    }
    return found
  }

  /// Something that a server waits for.
  private final class Gate: Sendable {
    private let state = Atomic(false)
    var isOpen: Bool { state.load(ordering: .relaxed) }
    func open() { state.store(true, ordering: .relaxed) }
  }

  /// c-ares asks again after a third of this: late answers come then, and in time on a machine that stands still for some
  /// seconds.
  static let patience: Int64 = 9_000_000

  /// Turns for longer than `patience`.
  static func longTurn(_ loop: Loop, until isSo: (Loop) -> Bool) throws -> Bool {
    for _ in 0..<3 where try loop.turn(until: isSo) { return true }
    return false
  }

  // MARK: Clients

  @Test(
    "a client that is listed is held, and the log says by which list; another is not",
    .enabled(if: Rbldnsd.isInstalled, needsRbldnsd))
  func held() throws {
    let server = try Self.rbldnsd()
    let (loop, _) = try Self.loop(try Self.terms("bl.example=127.0.0.4"), port: server.port) {
      _ in
    } policy: {
      $0[.dnsListed].proof = true
      $0.delays[.banner].bad = 1_000_000
    }
    let free = try loop.client()
    #expect(try loop.turn { $0.driver.engine.core.counters.lookUpsAnswered == 1 })
    let bad = try loop.client(from: Self.listed)
    #expect(try loop.turn { _ in bad.look().hasSuffix("\r\n") })
    #expect(loop.driver.engine.core.counters.drips >= 20)
    #expect(loop.driver.engine.core.counters.listed == 1)
    #expect(free.look().isEmpty)
    let matches = Self.journal(loop, .dnsMatch)
    #expect(matches.count == 1 && matches.first?.matched == ItemSet(item: 0))
    #expect(matches.first?.rank == 1 && matches.first?.address == Address(v4: Self.listed))
  }

  @Test(
    "the recipients of a listed client are refused with the name of the list",
    .enabled(if: Rbldnsd.isInstalled, needsRbldnsd))
  func refused() throws {
    let server = try Self.rbldnsd()
    var terms = try Self.terms("bl.example")
    terms.rejectAt = .rcpt
    let (loop, _) = try Self.loop(terms, port: server.port) { _ in
    } policy: {
      $0.delays[.banner].clean = 0
    }
    let client = try loop.client(from: Self.listed)
    #expect(try loop.turn { $0.driver.engine.core.counters.listed == 1 })
    #expect(try loop.turn { _ in client.look().hasPrefix("220") })
    #expect(try loop.ask(client, "EHLO client.example.org\r\n").hasPrefix("250"))
    #expect(try loop.ask(client, "MAIL FROM:<a@b.c>\r\n").hasPrefix("250"))
    let reply = try loop.ask(client, "RCPT TO:<d@e.f>\r\n")
    #expect(reply.hasPrefix("550") && reply.contains("bl.example"), "\(reply)")
  }

  @Test(
    "a client on a list of good ones does not wait", .enabled(if: Rbldnsd.isInstalled, needsRbldnsd)
  )
  func allowed() throws {
    let server = try Self.rbldnsd()
    var terms = try Self.terms("wl.example*-2")
    terms.allowThreshold = -1
    let (loop, _) = try Self.loop(terms, port: server.port)
    let client = try loop.client(from: Self.listed)
    #expect(try loop.turn { _ in client.look().hasPrefix("220") })
  }

  // MARK: Answers that are none

  @Test(
    "silence, SERVFAIL and error codes list nobody",
    arguments: ["silence", "servfail", "code", "stranger", "garbage"])
  func noAnswer(kind: String) throws {
    let server = try Self.server { query in
      switch kind {
      case "silence": .silence
      case "servfail": .send(Message.reply(to: query.octets, code: 2))
      case "code": .send(Message.reply(to: query.octets, [.a(127, 255, 255, 254)]))
      case "stranger": .send(Message.reply(to: query.octets, [.a(192, 0, 2, 1), .a(127, 0, 0, 2)]))
      // It announces a record that is not there.
      default: .send(Message.reply(to: query.octets).enumerated().map { $0 == 7 ? 1 : $1 })
      }
    }
    let (loop, book) = try Self.loop(
      try Self.terms("bl.example"), port: server.port, timeout: 300_000)
    let isHealthError = kind == "code" || kind == "stranger"
    var clients: [TestSocket] = []
    for turn in 1...2 {
      clients.append(try loop.client(from: Self.listed))
      #expect(
        try loop.turn { $0.driver.engine.core.counters.lookUpsAnswered == UInt64(turn) }, "\(kind)")
    }
    #expect(loop.driver.engine.core.counters.listed == 0)
    #expect(loop.driver.counters.lookUps.failed == 1, "the second one is not asked about again")
    #expect(book.counts(0) == !isHealthError)
    let alarms = Self.journal(loop, .zoneFailed)
    #expect(alarms.count == (isHealthError ? 1 : 0))
    if kind == "code" { #expect(alarms.first?.outcome == .refuses(.publicResolver)) }
  }

  @Test("a zone that lists everything is told of once, counts for nothing, and counts again later")
  func wildcard() throws {
    let isWell = Gate()
    let server = try ResolverFixtures.TestServer { query in
      isWell.isOpen && query.name.hasPrefix("1.0.0.127.") ? Self.no(query) : Self.yes(query)
    }
    let terms = try Self.terms("bl.example")
    let origin = MonotonicClock.now()
    let book = try Self.book(terms, port: server.port, origin: origin) {
      $0.tests.ill = .milliseconds(20)
      $0.tests.healthy = .milliseconds(20)
    }
    let loop = try Loop(Self.policy(terms), lists: book, origin: origin)
    #expect(try loop.turn { _ in server.queries.count >= 6 })
    let client = try loop.client(from: Self.listed)
    #expect(try loop.turn { $0.driver.engine.core.counters.lookUpsAnswered == 1 })
    #expect(!book.counts(0) && loop.driver.engine.core.counters.listed == 0)
    #expect(!server.queries.contains { $0.name.hasPrefix("17.") })
    isWell.open()
    #expect(try loop.turn { _ in book.counts(0) })
    var events: [Event] = []
    #expect(
      try loop.turn { loop in
        while let entry = loop.driver.engine.core.journal.next() {
          if entry.event == .zoneFailed || entry.event == .zoneRecovered {
            events.append(entry.event)
          }
        }
        return events.count >= 2
      })
    #expect(events == [.zoneFailed, .zoneRecovered])
    withExtendedLifetime(client) {}
  }

  @Test("a list that has IPv6 addresses alone is tested by those")
  func sixOnly() throws {
    let server = try ResolverFixtures.TestServer { query in
      query.name.hasPrefix("2.0.0.0.") ? Self.yes(query) : Self.no(query)
    }
    _ = try Self.loop(try Self.terms("six.example"), port: server.port)
    #expect(server.queries.count == 4)
  }

  @Test("what an ill zone said earlier is not believed when it has recovered")
  func editions() throws {
    let server = try Self.server(Self.no)
    let origin = MonotonicClock.now()
    let book = try Self.book(try Self.terms("bl.example"), port: server.port, origin: origin)
    let (now, client) = (Instant(microseconds: 10), Address(v4: Self.listed))
    #expect(book.find(client, now: now).unknown == 0)
    #expect(book.tested(0, .healthy, now: now) == nil)
    book.keep(.matched(ItemSet(item: 0)), of: 0, client, seconds: 600, now: now)
    #expect(book.find(client, now: now).matched == ItemSet(item: 0))
    #expect(book.failed(0, .typo, now: now) == .alarm(.refuses(.typo)))
    book.keep(.matched(ItemSet(item: 0)), of: 0, client, seconds: 600, now: now)
    #expect(book.find(client, now: now).known == 0)
    #expect(book.tested(0, .healthy, now: now) == .recovered)
    #expect(book.find(client, now: now).unknown == 1)
  }

  // MARK: Queries

  @Test("a second client of an address costs no query, whichever worker it comes to")
  func cache() throws {
    let server = try Self.server(Self.yes)
    let origin = MonotonicClock.now()
    let terms = try Self.terms("bl.example")
    let book = try Self.book(terms, port: server.port, origin: origin)
    let first = try Loop(Self.policy(terms), lists: book, origin: origin)
    let second = try Loop(Self.policy(terms), lists: book, testsLists: false, origin: origin)
    #expect(try first.turn { _ in book.counts(0) })
    var clients: [TestSocket] = []
    for turn in 1...2 {
      clients.append(try first.client(from: Self.listed))
      #expect(try first.turn { $0.driver.engine.core.counters.listed == UInt64(turn) })
    }
    clients.append(try second.client(from: Self.listed))
    #expect(try second.turn { $0.driver.engine.core.counters.listed == 1 })
    #expect(server.queries.count { $0.name == "17.0.0.127.bl.example" } == 1)
    #expect(first.driver.counters.lookUps.cached == 1)
    #expect(second.driver.counters.lookUps.cached == 1)
    #expect(second.driver.counters.lookUps.queries == 0)
  }

  @Test("many clients of one address at once are one query, and each is told")
  func singleFlight() throws {
    let server = try Self.server { .later(100, Message.reply(to: $0.octets, [.a(127, 0, 0, 2)])) }
    let (loop, _) = try Self.loop(try Self.terms("bl.example"), port: server.port)
    let clients = try (0..<8).map { _ in try loop.client(from: Self.listed) }
    #expect(try loop.turn { $0.driver.engine.core.counters.listed == 8 })
    let counters = loop.driver.counters.lookUps
    #expect(counters.joined + counters.cached == 7)
    withExtendedLifetime(clients) {}
  }

  @Test("what lists have said is told when the rest cannot change it, and the rest is still kept")
  func early() throws {
    let isOpen = Gate()
    let server = try Self.server { query in
      if query.name.hasSuffix("slow.example") && !isOpen.isOpen { return .silence }
      return Self.yes(query)
    }
    let (loop, book) = try Self.loop(
      try Self.terms("bl.example*2", "slow.example"), port: server.port, timeout: Self.patience)
    let client = try loop.client(from: Self.listed)
    #expect(try loop.turn { $0.driver.engine.core.counters.listed == 1 })
    #expect(Self.journal(loop, .dnsMatch).first?.matched == ItemSet(item: 0))
    isOpen.open()
    let (address, early) = (Address(v4: Self.listed), Instant(microseconds: 1))
    #expect(
      try Self.longTurn(loop) { _ in
        book.find(address, now: early).matched == [ItemSet(item: 0), ItemSet(item: 1)]
      })
    #expect(loop.driver.engine.core.counters.lookUpsAnswered == 1)
    withExtendedLifetime(client) {}
  }

  @Test("a truncated reply comes by TCP, through the ring as well")
  func truncated() throws {
    let server = try Self.server { query in
      query.isTCP
        ? Self.yes(query) : .send(Message.reply(to: query.octets, isTruncated: true))
    }
    let (loop, _) = try Self.loop(try Self.terms("bl.example"), port: server.port)
    var clients: [TestSocket] = []
    for source in [Self.listed, Self.other, Self.another] {
      clients.append(try loop.client(from: source))
    }
    #expect(try loop.turn { $0.driver.engine.core.counters.listed == 3 })
    #expect(server.queries.contains { $0.isTCP })
    #expect(loop.driver.counters.lookUps.pollsFailed == 0)
  }

  @Test("where too many are looked up another client is not, and there is room again later")
  func full() throws {
    let server = try Self.server { _ in .silence }
    let (loop, _) = try Self.loop(
      try Self.terms("bl.example"), port: server.port, timeout: 1_000_000
    ) { $0.lookUps = 2 }
    var clients: [TestSocket] = []
    for source in [Self.listed, Self.other, Self.another] {
      clients.append(try loop.client(from: source))
    }
    #expect(try loop.turn { $0.driver.engine.core.counters.lookUps == 3 })
    #expect(loop.driver.counters.lookUps.turnedAway == 1)
    #expect(try loop.turn { $0.driver.engine.core.counters.lookUpsAnswered == 2 })
    // Known by now, and from the cache.
    clients.append(try loop.client(from: Self.listed))
    #expect(try loop.turn { $0.driver.engine.core.counters.lookUpsAnswered == 3 })
    #expect(loop.driver.counters.lookUps.turnedAway == 1)
  }

  @Test("a client that leaves before the answer is not told of, but what was answered is kept")
  func left() throws {
    let gate = Gate()
    let server = try Self.server { query in gate.isOpen ? Self.yes(query) : .silence }
    let (loop, book) = try Self.loop(
      try Self.terms("bl.example"), port: server.port, timeout: Self.patience)
    do {
      let client = try loop.client(from: Self.listed)
      #expect(try loop.turn { _ in server.queries.contains { $0.name.hasPrefix("17.") } })
      _ = client
    }
    #expect(try loop.turn { $0.driver.engine.heldCount == 0 })
    gate.open()
    let (address, early) = (Address(v4: Self.listed), Instant(microseconds: 1))
    #expect(
      try Self.longTurn(loop) { _ in
        book.find(address, now: early).matched == ItemSet(item: 0)
      })
    #expect(loop.driver.engine.core.counters.lookUpsAnswered == 0)
    let client = try loop.client(from: Self.listed)
    #expect(try loop.turn { $0.driver.engine.core.counters.listed == 1 })
    withExtendedLifetime(client) {}
  }

  // MARK: Reloads

  @Test("lists that are taken away, or others, drop what is in flight; the new ones are asked")
  func reload() throws {
    let silent = try Self.server { _ in .silence }
    let terms = try Self.terms("bl.example")
    let (loop, book) = try Self.loop(terms, port: silent.port)
    var clients = [
      try loop.client(from: Self.listed), try loop.client(from: Self.other),
    ]
    #expect(try loop.turn { $0.driver.engine.core.counters.lookUps == 2 })
    loop.driver.adopt(Self.policy(nil), TLSContexts())
    clients.append(try loop.client(from: Self.listed))
    #expect(try loop.turn { $0.driver.engine.heldCount == 3 })
    #expect(loop.driver.engine.core.counters.lookUps == 2)
    #expect(loop.driver.counters.lookUps.queries >= 4, "counters do not go back")

    let server = try Self.server(Self.yes)
    let origin = MonotonicClock.now()
    let others = try Self.terms("other.example")
    let next = try Self.book(others, port: server.port, origin: origin)
    #expect(
      book.fits(terms.sites, book.settings)
        && !book.fits(others.sites, book.settings))
    loop.driver.adopt(Self.policy(others), TLSContexts(), lists: next)
    #expect(try loop.turn { _ in next.counts(0) })
    clients.append(try loop.client(from: Self.listed))
    #expect(try loop.turn { $0.driver.engine.core.counters.listed == 1 })
    #expect(loop.driver.engine.core.counters.lookUpsAnswered == 1)
  }

  @Test("a reload of what a listing leads to keeps the questions in flight")
  func sameLists() throws {
    let gate = Gate()
    let server = try Self.server { query in gate.isOpen ? Self.yes(query) : .silence }
    var terms = try Self.terms("bl.example")
    let (loop, book) = try Self.loop(terms, port: server.port, timeout: Self.patience)
    let client = try loop.client(from: Self.listed)
    #expect(try loop.turn { _ in server.queries.contains { $0.name.hasPrefix("17.") } })
    terms.threshold = 2
    loop.driver.adopt(Self.policy(terms), TLSContexts(), lists: book)
    gate.open()
    #expect(try Self.longTurn(loop) { $0.driver.engine.core.counters.lookUpsAnswered == 1 })
    #expect(Self.journal(loop, .dnsMatch).first?.matched == ItemSet(item: 0))
    #expect(loop.driver.engine.core.counters.listed == 0)
    withExtendedLifetime(client) {}
  }
}
