// SPDX-License-Identifier: Apache-2.0
import DNSLists
import Foundation
import Resolver
import ResolverFixtures
import Structures
import Testing

/// One at a time: each has servers of its own, and other tests of this process take what is left of two cores.
@Suite("The resolver", .serialized)
struct ResolverTests {
  static let listed: @Sendable (ServerQuery) -> Reaction = {
    .send(Message.reply(to: $0.octets, [.a(127, 0, 0, 2)]))
  }

  @Test("asks for addresses, text and names")
  func kinds() throws {
    let server = try TestServer { query in
      let record: Record =
        switch query.octets[query.octets.count - 3] {
        case 1: .a(127, 0, 0, 2)
        case 12: .pointer("mail.example")
        case 16: .text([Array("why".utf8)])
        default: Record(type: 28, data: Array(repeating: 1, count: 16))
        }
      return .send(Message.reply(to: query.octets, [record]))
    }
    let loop = try Loop(ports: [server.port])
    let client = Address(v4: 0xC000_0201)
    #expect(try loop.answer(.a, "x.bl.example") == "127.0.0.2 for 300")
    #expect(try loop.answer(.text, "x.bl.example") == "'why' for 300")
    #expect(loop.answer(.names(of: client)) == "mail.example for 300")
    let host = try #require(HostName("mail.example"))
    #expect(loop.answer(.addresses(of: host, inFamilyOf: client)) == "127.0.0.2 for 300")
    let other = Address(high: 1, low: 1)
    #expect(
      loop.answer(.addresses(of: host, inFamilyOf: other))
        == "101:101:101:101:101:101:101:101 for 300")
    #expect(
      server.queries.map(\.name) == [
        "x.bl.example", "x.bl.example", "1.2.0.192.in-addr.arpa", "mail.example", "mail.example",
      ])
    #expect(loop.isIdle)
  }

  @Test("a name that is not there, and one that has nothing of the kind")
  func negative() throws {
    let server = try TestServer { query in
      let soa = Record.soa(seconds: 900, minimum: 77)
      return .send(
        Message.reply(
          to: query.octets, code: query.name.hasPrefix("no.") ? 3 : 0,
          authority: query.name.hasSuffix("soa") ? [soa] : []))
    }
    let loop = try Loop(ports: [server.port])
    #expect(try loop.answer(.a, "no.soa") == "none for 77")
    #expect(try loop.answer(.a, "no.example") == "none for ?")
    #expect(try loop.answer(.a, "empty.soa") == "none for 77")
  }

  @Test("a truncated reply is asked for again by TCP")
  func truncation() throws {
    let server = try TestServer { query in
      query.isTCP
        ? .send(
          Message.reply(
            to: query.octets,
            [
              .text(
                [Array(repeating: 97, count: 255)]
                  + Array(repeating: Array(repeating: 98, count: 255), count: 8))
            ]))
        : .send(Message.reply(to: query.octets, isTruncated: true))
    }
    let loop = try Loop(ports: [server.port])
    let expected = "'\(String(repeating: "a", count: 255))' for 300"
    for i in 0..<20 { try loop.ask(.text, "n\(i).example", ticket: UInt64(i)) }
    loop.run { loop.answerCount == 20 }
    for i in 0..<20 { #expect(loop.answers[UInt64(i)]?.map(ReplyTests.words) == [expected]) }
    #expect(server.queries.count { $0.isTCP } == 20)
    #expect(loop.isIdle)
  }

  @Test(
    "replies with another identifier, to another question, from another port, or without sense are not believed"
  )
  func forgeries() throws {
    let server = try TestServer { query in
      var other = query.octets
      other[0] ^= 0x55
      let forged = Message.reply(to: other, [.a(127, 0, 0, 66)])
      let strange = Message.reply(
        to: Message.query(
          "other.example", type: 1, identifier: Int(query.octets[0]) << 8 | Int(query.octets[1])),
        [.a(127, 0, 0, 66)])
      let right = Message.reply(to: query.octets, [.a(127, 0, 0, 2)])
      return .send([forged, strange, [], [1, 2, 3], Array(query.octets[0..<2]), right])
    }
    let loop = try Loop(ports: [server.port])
    for i in 0..<10 { #expect(try loop.answer(.a, "n\(i).example") == "127.0.0.2 for 300") }
  }

  @Test("a reply whose records are garbage is a failure")
  func garbage() throws {
    let server = try TestServer { query in
      var message = Message.reply(to: query.octets, [.a(127, 0, 0, 2)])
      message[message.count - 5] = 200
      return .send(message)
    }
    #expect(try Loop(ports: [server.port]).answer(.a, "x.example") == "malformed")
  }

  @Test(
    "a server that fails is left for the next one",
    arguments: [UInt8(2), 4, 5])
  func nextServer(code: UInt8) throws {
    let bad = try TestServer { .send(Message.reply(to: $0.octets, code: code)) }
    let good = try TestServer(Self.listed)
    let loop = try Loop(ports: [bad.port, good.port])
    #expect(try loop.answer(.a, "x.example") == "127.0.0.2 for 300")
    #expect(bad.queries.count == 1 && good.queries.count == 1)
  }

  @Test("a server where nothing listens is left for the next one")
  func refusedPort() throws {
    let free = try #require(LoopbackPort.bind(Int32(SOCK_DGRAM.rawValue)))
    defer { close(free.descriptor) }
    // Connected to someone else, it keeps the port from others and refuses what comes to it.
    let isHeld = LoopbackPort.connect(free.descriptor, to: 9)
    #expect(isHeld)
    let good = try TestServer(Self.listed)
    #expect(
      try Loop(ports: [free.port, good.port]).answer(.a, "x.example") == "127.0.0.2 for 300")
    #expect(try Loop(ports: [free.port]).answer(.a, "x.example") == "unavailable")
  }

  @Test("SERVFAIL of the only server is a failure at once")
  func errorOfTheOnlyServer() throws {
    let bad = try TestServer { .send(Message.reply(to: $0.octets, code: 2)) }
    let loop = try Loop(ports: [bad.port])
    let began = Loop.now()
    #expect(try loop.answer(.a, "x.example") == "unavailable")
    #expect(Loop.now() - began < .seconds(10))
    #expect(loop.resolver.counters.failures == 1)
  }

  @Test("silence ends when the time is over, for each who waits, and the window is free again")
  func silence() throws {
    let server = try TestServer { _ in .silence }
    let loop = try Loop(ports: [server.port]) { $0.timeout = .milliseconds(300) }
    let began = Loop.now()
    for i in 0..<30 { try loop.ask(.a, "n\(i % 10).example", ticket: UInt64(i)) }
    loop.run { loop.answerCount == 30 }
    let took = Loop.now() - began
    #expect(took >= .milliseconds(290))
    for i in 0..<30 { #expect(loop.answers[UInt64(i)]?.map(ReplyTests.words) == ["timedOut"]) }
    loop.run { loop.isIdle }
    #expect(loop.resolver.nextDeadline == .distantFuture)
    #expect(loop.resolver.counters.timedOut == 10)
    // Two tries each.
    #expect(server.queries.count <= 20)
  }

  @Test("a lost query is asked again within the time")
  func retry() throws {
    let server = try TestServer { $0.number == 0 ? .silence : Self.listed($0) }
    let loop = try Loop(ports: [server.port]) { $0.timeout = .milliseconds(900) }
    #expect(try loop.answer(.a, "x.example") == "127.0.0.2 for 300")
    #expect(server.queries.count == 2)
  }

  @Test("who has been answered is not answered again when a late reply lands")
  func late() throws {
    let server = try TestServer { .later(50, Message.reply(to: $0.octets, [.a(127, 0, 0, 2)])) }
    let loop = try Loop(ports: [server.port])
    try loop.ask(.a, "x.example", ticket: 1)
    // The caller's clock says that the time is over long before c-ares' does.
    loop.resolver.timeReached(Loop.now() + .seconds(21))
    loop.drain()
    #expect(loop.answers[1]?.map(ReplyTests.words) == ["timedOut"])
    #expect(loop.resolver.inFlight == 1 && !loop.isIdle)
    loop.run { loop.isIdle }
    #expect(loop.answerCount == 1)
  }

  @Test("the same question asked by many is one query, and each of them is answered")
  func singleFlight() throws {
    let server = try TestServer { .later(20, Message.reply(to: $0.octets, [.a(127, 0, 0, 2)])) }
    let loop = try Loop(ports: [server.port])
    for i in 0..<100 { try loop.ask(.a, i % 2 == 0 ? "x.example" : "X.EXAMPLE", ticket: UInt64(i)) }
    try loop.ask(.text, "x.example", ticket: 100)
    loop.run { loop.answerCount == 101 }
    #expect(server.queries.count == 2)
    #expect(loop.answers.count == 101)
    #expect(loop.resolver.counters.joined == 99)
    // The next one asks anew.
    _ = try loop.answer(.a, "x.example")
    #expect(server.queries.count == 3)
  }

  @Test("never more than the window are in flight, and the queue behind it is served in its order")
  func window() throws {
    let server = try TestServer { .later(1, Message.reply(to: $0.octets, [.a(127, 0, 0, 2)])) }
    let loop = try Loop(ports: [server.port]) {
      $0.inFlightMax = 5
      $0.channels = 1
    }
    for i in 0..<200 { try loop.ask(.a, "n\(i).example", ticket: UInt64(i)) }
    #expect(loop.resolver.inFlight == 5 && loop.resolver.queued == 195)
    loop.run { loop.answerCount == 200 }
    #expect(loop.mostInFlight == 5)
    #expect(server.queries.map(\.name) == (0..<200).map { "n\($0).example" })
    #expect(loop.isIdle)
  }

  @Test(
    "what is too much for queue or waiters is turned away at once, and there is room again later")
  func overload() throws {
    let server = try TestServer { .later(20, Message.reply(to: $0.octets, [.a(127, 0, 0, 2)])) }
    let loop = try Loop(ports: [server.port]) {
      $0.inFlightMax = 2
      $0.queueMax = 3
      $0.waitersMax = 7
    }
    let asked = try (0..<6).map { try loop.ask(.a, "n\($0).example", ticket: UInt64($0)) }
    #expect(asked == [.waiting, .waiting, .waiting, .waiting, .waiting, .overloaded])
    // Joining needs no place in the queue, but one among those who wait.
    let joined = try (6..<9).map { try loop.ask(.a, "n0.example", ticket: UInt64($0)) }
    #expect(joined == [.waiting, .waiting, .overloaded])
    #expect(loop.resolver.counters.overloaded == 2)
    loop.run { loop.answerCount == 7 }
    #expect(loop.answers[5] == nil && loop.answers[8] == nil)
    #expect(try loop.answer(.a, "n5.example") == "127.0.0.2 for 300")
  }

  @Test("questions that wait in the queue run out of time as well")
  func queueTime() throws {
    let server = try TestServer { _ in .silence }
    let loop = try Loop(ports: [server.port]) {
      $0.inFlightMax = 1
      $0.timeout = .milliseconds(200)
      $0.queueMax = 10
    }
    for i in 0..<5 { try loop.ask(.a, "n\(i).example", ticket: UInt64(i)) }
    loop.run { loop.answerCount == 5 }
    for i in 0..<5 { #expect(loop.answers[UInt64(i)]?.map(ReplyTests.words) == ["timedOut"]) }
    loop.run { loop.isIdle }
  }

  @Test("channels are renewed, so that source ports change, and nothing is lost over it")
  func renewal() throws {
    let server = try TestServer(Self.listed)
    let loop = try Loop(ports: [server.port]) { $0.renewAfterQueries = 10 }
    for i in 0..<200 { try loop.ask(.a, "n\(i).example", ticket: UInt64(i)) }
    loop.run { loop.answerCount == 200 }
    for i in 200..<400 { #expect(try loop.answer(.a, "n\(i).example") == "127.0.0.2 for 300") }
    let ports = Set(server.queries.map(\.port))
    #expect(ports.count >= 15, "\(ports.count) ports for 400 queries")
    #expect(loop.resolver.counters.renewals >= 15)
    #expect(loop.watchedSockets.count <= 4)
    #expect(loop.forgotten.count >= 10)
  }

  @Test("time wears a channel out as well")
  func age() throws {
    let server = try TestServer(Self.listed)
    let loop = try Loop(ports: [server.port]) {
      $0.channels = 1
      $0.renewAfter = .milliseconds(1)
    }
    for i in 0..<3 {
      _ = try loop.answer(.a, "n\(i).example")
      usleep(1_500)
    }
    #expect(loop.resolver.counters.renewals == 2)
  }

  @Test("an event of a socket that is gone does nothing, even if its descriptor is another's")
  func stale() throws {
    let server = try TestServer(Self.listed)
    let loop = try Loop(ports: [server.port]) {
      $0.channels = 1
      $0.renewAfterQueries = 1
    }
    _ = try loop.answer(.a, "a.example")
    let old = try #require(loop.watchedSockets.first)
    _ = try loop.answer(.a, "b.example")
    #expect(loop.forgotten == [old])
    let new = try #require(loop.watchedSockets.first)
    #expect(new != old)
    loop.resolver.process(old, readable: true, writable: true, now: Loop.now())
    loop.drain()
    #expect(loop.resolver.counters.staleEvents == 1)
    #expect(try loop.answer(.a, "c.example") == "127.0.0.2 for 300")
  }

  @Test("a resolver that goes away with queries in flight leaves nothing behind")
  func end() throws {
    let server = try TestServer { _ in .silence }
    for _ in 0..<3 {
      let loop = try Loop(ports: [server.port]) { $0.inFlightMax = 10 }
      for i in 0..<20 { try loop.ask(.a, "n\(i).example", ticket: UInt64(i)) }
      #expect(loop.resolver.inFlight == 10)
    }
  }

  @Test("the servers of /etc/resolv.conf are those of a resolver that is given none")
  func system() throws {
    _ = try Resolver(hash: SipHash(k0: 1, k1: 2), now: Loop.now())
  }

  @Test(
    "a server is an address, with or without a port",
    arguments: [
      ("127.0.0.1", "127.0.0.1:53"), ("127.0.0.1:5353", "127.0.0.1:5353"), ("::1", "[::1]:53"),
      ("[::1]:5353", "[::1]:5353"), ("[::1]", "[::1]:53"), ("127.0.0.1:0", nil),
      ("127.0.0.1:", nil), ("127.0.0.1:65536", nil), ("127.0.0.1:+53", nil), ("[127.0.0.1]", nil),
      ("[::1]5353", nil), ("localhost", nil), ("", nil),
    ])
  func servers(text: String, expected: String?) {
    #expect(ServerAddress(text).map(\.description) == expected)
  }

  @Test("settings out of bounds are refused in words")
  func settings() {
    var settings = ResolverSettings()
    settings.timeout = .zero
    do throws(ResolverError) {
      _ = try Resolver(settings, hash: SipHash(k0: 1, k1: 2), now: .origin)
      Issue.record("it was not refused")
    } catch {
      #expect(error.description == "the DNS resolver needs a DNS time-out between 10 ms and 300 s")
    }
  }

  @Test("a question shows nothing of its name")
  func secrets() throws {
    let question = try Loop.question(.a, "secretsecret.example")
    var dumped = ""
    dump(question, to: &dumped)
    for text in ["\(question)", String(reflecting: question), dumped] {
      #expect(!text.contains("secret"))
    }
  }
}
