// SPDX-License-Identifier: Apache-2.0
import ConfigurationFixtures
import Glibc
import Policy
import Reputation
import Shield
import Structures
import Testing
import Uring

@testable import Driver

/// A worker in a thread of its own, as others reach it.
@Suite(.serialized)
struct WorkerTests {
  private final class Room: Sendable {
    let worker: Worker
    let port: UInt16
    private let descriptor: Int32

    init(workers: Int = 1) throws {
      let home = Address(v4: 0x7F00_0001)
      let listener = try ListeningSocket(home, port: 0)
      port = listener.localPort
      descriptor = fcntl(listener.descriptor, F_DUPFD_CLOEXEC, 0)
      let settings = Worker.Settings(
        policy: promptPolicy(), limits: fewLimits(),
        servers: [Server(DownstreamTerms(), at: [home], port: 1)], seed: 1,
        listeners: [descriptor], workers: workers, handOver: { _, _, _ in },
        origin: MonotonicClock.now(), ringEntries: 256)
      worker = try Worker(number: 0, settings: settings, journal: JournalQueue(capacity: 64))
    }

    deinit { PlainSocket.close(descriptor) }

    func run() throws {
      let worker = worker
      try thread { worker.run() }
      #expect(eventually { if case .running = worker.start { true } else { false } })
    }

    func end() {
      worker.order(.stop)
      #expect(eventually { worker.isDone })
      #expect(worker.fault == nil)
    }
  }

  private func held(_ worker: Worker, within limit: Int64 = 2_000_000) -> Int? {
    guard case .held(let connections, _)? = worker.ask(.held, within: limit) else { return nil }
    return connections
  }

  @Test("it answers with figures of now, not of its last second")
  func answers() throws {
    let room = try Room()
    try room.run()
    #expect(held(room.worker) == 0)
    let client = try #require(TestSocket.connect(to: room.port))
    #expect(eventually { client.look().hasPrefix("220") })
    #expect(held(room.worker) == 1)
    guard case .figures(let figures)? = room.worker.ask(.figures, within: 2_000_000) else {
      Issue.record("no figures")
      return
    }
    #expect(figures.engine.accepted == 1 && figures.connections == 1 && figures.engine.held == 1)
    room.end()
  }

  @Test(
    "without an answer the asker goes on in its time, and a worker that has ended is not waited for"
  )
  func noAnswer() throws {
    let room = try Room()
    let start = MonotonicClock.now()
    #expect(held(room.worker, within: 20_000) == nil)
    #expect(MonotonicClock.now() - start >= 20_000)
    try room.run()
    room.end()
    #expect(room.worker.begin(.held) == nil)
  }

  @Test("orders and questions beyond their room are refused, those before are kept in order")
  func fullOrders() throws {
    let room = try Room()
    var waiting: [Question<WorkerQuery, WorkerAnswer>] = []
    while let question = room.worker.begin(.held) { waiting.append(question) }
    #expect(waiting.count == Worker.ordersMost && !room.worker.takesOrders)
    #expect(!room.worker.order(.stop))
    try room.run()
    // Posted before it ran: it looks at its first wake-up.
    for question in waiting {
      #expect(question.wait(until: MonotonicClock.now() + 2_000_000) != nil)
    }
    #expect(room.worker.takesOrders)
    room.end()
  }

  @Test("changes and clients of others beyond their room are lost, counted and refused")
  func fullLanes() throws {
    let room = try Room(workers: 2)
    let change = Change(.loginFailed, of: Source(host: Address(v4: 0x0A00_0001)), at: 0)
    for _ in 0..<(Worker.changesMost + 5) { room.worker.hear(change) }
    let peer = Peer(address: Address(v4: 0x0A00_0001), port: 1, listener: 0)
    for _ in 0..<Worker.clientsMost { #expect(room.worker.take(peer, descriptor: -1)) }
    #expect(!room.worker.take(peer, descriptor: -1))
  }

  @Test("a client of another worker is served")
  func handedOver() throws {
    let room = try Room(workers: 2)
    try room.run()
    let (door, port) = try #require(TestSocket.listening())
    let client = try #require(TestSocket.connect(to: port))
    var other: TestSocket?
    #expect(
      eventually {
        other = door.accepted()
        return other != nil
      })
    let peer = Peer(address: Address(v4: 0x7F00_0001), port: 1, listener: 0)
    #expect(room.worker.take(peer, descriptor: try #require(other).handedOver()))
    #expect(eventually { client.look().hasPrefix("220") })
    room.end()
  }

  @Test("a drained worker ends by itself when its last client has gone")
  func drained() throws {
    let room = try Room()
    try room.run()
    let client = try #require(TestSocket.connect(to: room.port))
    #expect(eventually { client.look().hasPrefix("220") })
    room.worker.order(.drain)
    #expect(eventually { client.look().contains("421") })
    client.finish()
    #expect(eventually { room.worker.isDone })
    #expect(room.worker.fault == nil && room.worker.snapshot.connections == 0)
  }
}
