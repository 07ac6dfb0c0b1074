// SPDX-License-Identifier: Apache-2.0
//
// What the driver will do with a resolver, with poll(2).

import DNSLists
import Foundation
import Resolver
import Structures
import Testing

final class Loop {
  var resolver: Resolver
  private var watched: [WatchedSocket: Int16] = [:]
  /// By ticket, in the order in which they came.
  private(set) var answers: [UInt64: [Answer]] = [:]
  private(set) var answerCount = 0
  private(set) var forgotten: [WatchedSocket] = []
  private(set) var mostInFlight = 0

  init(_ settings: ResolverSettings) throws {
    resolver = try Resolver(settings, hash: SipHash(k0: 1, k1: 2), now: Self.now())
  }

  convenience init(ports: [UInt16], _ change: (inout ResolverSettings) -> Void = { _ in }) throws {
    var settings = ResolverSettings()
    settings.servers = ports.map { ServerAddress(Address(v4: 0x7F00_0001), port: $0) }
    settings.timeout = .seconds(20)
    change(&settings)
    try self.init(settings)
  }

  static func now() -> Instant {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Instant(microseconds: Int64(time.tv_sec) * 1_000_000 + Int64(time.tv_nsec) / 1_000)
  }

  static func question(_ type: RecordType, _ name: String) throws -> Question {
    Question(type, try #require(HostName(name)).name)
  }

  var isIdle: Bool { resolver.isIdle }
  var watchedSockets: Set<WatchedSocket> { Set(watched.keys) }

  @discardableResult
  func ask(_ type: RecordType, _ name: String, ticket: UInt64 = 0) throws -> Asked {
    ask(try Self.question(type, name), ticket: ticket)
  }

  @discardableResult
  func ask(_ question: Question, ticket: UInt64 = 0) -> Asked {
    let asked = resolver.ask(question, ticket: ticket, now: Self.now())
    drain()
    return asked
  }

  func drain() {
    mostInFlight = max(mostInFlight, resolver.inFlight)
    while let event = resolver.next() {
      switch event {
      case .forget(let socket):
        #expect(watched.removeValue(forKey: socket) != nil, "it was watched")
        forgotten.append(socket)
      case .watch(let socket, let readable, let writable):
        #expect(readable || writable)
        watched[socket] = (readable ? Int16(POLLIN) : 0) | (writable ? Int16(POLLOUT) : 0)
      case .answered(let ticket, let answer):
        answers[ticket, default: []].append(answer)
        answerCount += 1
      }
      mostInFlight = max(mostInFlight, resolver.inFlight)
    }
    #expect(
      Set(watched.keys.map(\.descriptor)).count == watched.count, "no descriptor is watched twice")
  }

  /// Turns until the condition holds; half a minute at most, which no test comes near to.
  func run(until condition: () -> Bool) {
    let end = Self.now() + .seconds(30)
    while !condition() {
      let now = Self.now()
      guard now < end else {
        Issue.record("the loop did not come to an end")
        return
      }
      let due = min(resolver.nextDeadline, end).microseconds - now.microseconds
      let sockets = watched.map { ($0.key, $0.value) }
      var polled = sockets.map { pollfd(fd: $0.0.descriptor, events: $0.1, revents: 0) }
      _ = poll(&polled, nfds_t(polled.count), Int32(max(due, 0) + 999) / 1_000)
      for (place, socket) in zip(polled, sockets) where place.revents != 0 {
        let isBroken = place.revents & Int16(POLLERR | POLLHUP) != 0
        resolver.process(
          socket.0, readable: isBroken || place.revents & Int16(POLLIN) != 0,
          writable: place.revents & Int16(POLLOUT) != 0, now: Self.now())
        drain()
      }
      resolver.timeReached(Self.now())
      drain()
    }
  }

  /// Asks, and waits for the answer.
  func answer(_ type: RecordType, _ name: String) throws -> String {
    answer(try Self.question(type, name))
  }

  func answer(_ question: Question) -> String {
    let ticket = UInt64(1) << 40 + UInt64(answerCount)
    guard ask(question, ticket: ticket) == .waiting else { return "overloaded" }
    run { answers[ticket] != nil }
    return answers[ticket].map { $0.map(ReplyTests.words).joined(separator: ", ") } ?? "nothing"
  }
}
