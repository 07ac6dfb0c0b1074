// SPDX-License-Identifier: Apache-2.0
//
// A worker: one thread that owns one ring, one engine and one listening socket of each listener. Other
// threads reach it by its mailboxes alone, each of which has a bound; it reaches them by answers, by a snapshot
// once a second and by the queue of journal entries. Invariant: nothing here blocks but the ring's own wait.

import Glibc
package import Policy
package import Reputation
package import Shield
import Structures
import Synchronization
package import TLS
package import Uring

/// What another thread may tell a worker to do.
package enum WorkerOrder: Sendable {
  case adopt(Policy, TLSContexts, ListBook?)
  /// The downstreams are there from now on.
  case connectTo([Server])
  /// Nobody new; idle clients are told to go, and the worker ends when all have.
  case drain
  /// End now.
  case stop
}

/// What another thread may ask a worker.
package enum WorkerQuery: Sendable {
  /// How many clients and downstream connections it has.
  case held
  /// All its figures as of now. Walks every connection.
  case figures
}

package enum WorkerAnswer: Sendable {
  case held(connections: Int, links: Int)
  case figures(Snapshot)
}

/// What comes to a worker from the threads that run the service.
private enum Letter: Sendable {
  case order(WorkerOrder)
  case question(Question<WorkerQuery, WorkerAnswer>)
}

/// A client that came to another worker, and its socket.
private struct HandedClient: Sendable {
  let peer: Peer
  let descriptor: Int32
}

package final class Worker: Sendable {
  /// How a worker's start ended.
  package enum Start: Sendable {
    case pending
    case running
    case failed(RingError)
  }

  private struct State {
    var snapshot = Snapshot()
    var start = Start.pending
    var isDone = false
    var fault: RingError?
  }

  package let number: Int
  private let state = Mutex(State())
  private let wakeUp: WakeUp
  private let journal: JournalQueue
  private let settings: Settings
  private let orders: Mailbox<Letter>
  private let clients: Mailbox<HandedClient>
  private let changes: Mailbox<Change>

  /// What a worker is made of.
  package struct Settings: Sendable {
    package var policy: Policy
    package var limits: Limits
    package var servers: [Server]
    package var seed: UInt64
    package var listeners: [Int32]
    package var workers: Int
    /// Gives a client to another worker.
    package var handOver: @Sendable (Int, Peer, Int32) -> Void
    /// Tells all other workers what was learnt here.
    package var tell: (@Sendable (Change) -> Void)?
    /// Under which names are remembered; all workers have it in common.
    package var secret: (UInt64, UInt64)?
    package var origin: Int64
    package var ringEntries: Int
    package var tls = TLSContexts()
    /// What all workers know of the DNS lists; nil where none are asked.
    package var lists: ListBook?

    package init(
      policy: Policy, limits: Limits, servers: [Server], seed: UInt64, listeners: [Int32],
      workers: Int, handOver: @escaping @Sendable (Int, Peer, Int32) -> Void, origin: Int64,
      ringEntries: Int
    ) {
      self.policy = policy
      self.limits = limits
      self.servers = servers
      self.seed = seed
      self.listeners = listeners
      self.workers = workers
      self.handOver = handOver
      self.origin = origin
      self.ringEntries = ringEntries
    }
  }

  package init(number: Int, settings: Settings, journal: JournalQueue) throws(RingError) {
    self.number = number
    self.settings = settings
    self.journal = journal
    wakeUp = try WakeUp()
    orders = Mailbox(capacity: Worker.ordersMost)
    let hasSiblings = settings.workers > 1
    clients = Mailbox(capacity: hasSiblings ? Worker.clientsMost : 0)
    changes = Mailbox(capacity: hasSiblings ? Worker.changesMost : 0)
  }

  /// How many orders and questions wait at most. There are a few a day, and they are taken once a turn.
  static let ordersMost = 64
  /// How many clients of a load balancer wait at most that came to another worker. They are taken once a turn; one more
  /// is closed and comes again, as one that finds a full listener.
  static let clientsMost = 256

  /// How many changes wait for this worker at most. It takes them once a turn, and each has cost another worker an
  /// exchange with the downstream: more are lost, which is counted, and slows somebody less than it might.
  static let changesMost = 512
  /// What a worker has of mailboxes, in bytes: what waits in them, what it has taken out of them, and what it has learnt
  /// on its way to the others.
  package static var mailboxBytes: Int {
    2 * changesMost * MemoryLayout<Change>.stride
      + 2 * clientsMost * MemoryLayout<HandedClient>.stride
      + 2 * ordersMost * MemoryLayout<Letter>.stride
  }

  /// Another worker has learnt something. From any thread.
  package func hear(_ change: Change) {
    if case .first = changes.post(change) { wakeUp.signal() }
  }

  /// A client that a load balancer has named to another worker. From any thread.
  ///
  /// - Returns: false if there is no room for it: its descriptor is still the caller's.
  package func take(_ peer: Peer, descriptor: Int32) -> Bool {
    switch clients.post(HandedClient(peer: peer, descriptor: descriptor)) {
    case .first: wakeUp.signal()
    case .behind: break
    case .refused: return false
    }
    return true
  }

  /// Gives an order, to be carried out within a turn of the loop. From any thread.
  ///
  /// - Returns: false if too many wait, for a worker that stands still.
  @discardableResult
  package func order(_ order: WorkerOrder) -> Bool { post(.order(order)) }

  /// Whether another order would be taken.
  package var takesOrders: Bool { orders.hasRoom }

  /// Asks, and waits for the answer. From any thread but the worker's own.
  ///
  /// - Parameter limit: how long to wait, in microseconds.
  /// - Returns: nil if there is none within that time, or too much waits already.
  package func ask(_ query: WorkerQuery, within limit: Int64) -> WorkerAnswer? {
    begin(query)?.wait(until: MonotonicClock.now() + limit)
  }

  /// Asks without waiting, to ask several workers at once.
  package func begin(_ query: WorkerQuery) -> Question<WorkerQuery, WorkerAnswer>? {
    let question = Question<WorkerQuery, WorkerAnswer>(query)
    return !isDone && post(.question(question)) ? question : nil
  }

  private func post(_ letter: Letter) -> Bool {
    switch orders.post(letter) {
    case .first: wakeUp.signal()
    case .behind: break
    case .refused: return false
    }
    return true
  }

  package var snapshot: Snapshot { state.withLock { $0.snapshot } }
  package var start: Start { state.withLock { $0.start } }
  package var isDone: Bool { state.withLock { $0.isDone } }
  /// Why the worker ended without being told to, if it did.
  package var fault: RingError? { state.withLock { $0.fault } }

  /// The whole life of the worker, on the thread that calls.
  package func run() {
    defer { state.withLock { $0.isDone = true } }
    do throws(RingError) {
      var engine = Engine(
        policy: settings.policy, limits: settings.limits, seed: settings.seed,
        secret: settings.secret, epoch: wallClock(), servers: settings.servers, worker: number,
        workers: settings.workers)
      engine.wallClock = wallClock()
      var driver = try Driver(
        engine: engine, listeners: settings.listeners,
        origin: settings.origin, ringEntries: settings.ringEntries, tls: settings.tls,
        lists: settings.lists, testsLists: number == 0,
        handOver: settings.workers > 1 ? settings.handOver : nil)
      driver.arm(wakeUp)
      state.withLock { $0.start = .running }
      try serve(&driver)
    } catch {
      state.withLock { state in
        if case .pending = state.start { state.start = .failed(error) } else { state.fault = error }
      }
    }
  }

  /// What the clock on the wall said at the engine's instant 0, in microseconds since 1970.
  private func wallClock() -> Int64 {
    var time = timespec()
    clock_gettime(CLOCK_REALTIME, &time)
    let wall = Int64(time.tv_sec) * 1_000_000 + Int64(time.tv_nsec) / 1_000
    return wall - (MonotonicClock.now() - settings.origin)
  }

  private func serve(_ driver: inout Driver) throws(RingError) {
    var nextSnapshot: Int64 = 0
    var post = Post(self)
    while !post.isStopped {
      if try driver.turn(longest: 500_000) {
        wakeUp.drain()
        driver.arm(wakeUp)
        post.take(from: self, &driver)
        if post.isStopped { return }
      }
      while let entry = driver.engine.core.journal.next() { journal.append(entry) }
      while let change = driver.engine.judge.memory.learnt.next() {
        if change.concernsAllWorkers { settings.tell?(change) }
      }
      let time = MonotonicClock.now()
      if time >= nextSnapshot {
        nextSnapshot = time + 1_000_000
        // Once a second, because somebody may set it.
        driver.engine.wallClock = wallClock()
        publish(driver)
      }
      if post.isDraining && driver.engine.heldCount == 0 && driver.engine.linkCount == 0 {
        publish(driver)
        return
      }
    }
  }

  /// What has come by mail, and the room it is taken into.
  private struct Post {
    private var letters: [Letter] = []
    private var clients: [HandedClient] = []
    private var changes: [Change] = []
    private(set) var isDraining = false
    private(set) var isStopped = false

    init(_ worker: Worker) {
      letters.reserveCapacity(worker.orders.capacity)
      clients.reserveCapacity(worker.clients.capacity)
      changes.reserveCapacity(worker.changes.capacity)
    }

    /// Takes all that waits and carries it out.
    mutating func take(from worker: Worker, _ driver: inout Driver) {
      worker.orders.take(into: &letters)
      for letter in letters where !isStopped {
        switch letter {
        case .order(let order): carryOut(order, &driver)
        case .question(let question): question.answer(worker.answer(question.query, &driver))
        }
      }
      letters.removeAll(keepingCapacity: true)
      worker.clients.take(into: &clients)
      for client in clients { driver.take(client.peer, descriptor: client.descriptor) }
      clients.removeAll(keepingCapacity: true)
      worker.changes.take(into: &changes)
      if !changes.isEmpty { driver.learn(changes) }
      changes.removeAll(keepingCapacity: true)
    }

    private mutating func carryOut(_ order: WorkerOrder, _ driver: inout Driver) {
      switch order {
      case .adopt(let policy, let tls, let lists): driver.adopt(policy, tls, lists: lists)
      case .connectTo(let servers): driver.adopt(servers)
      case .drain:
        driver.drain()
        isDraining = true
      case .stop: isStopped = true
      }
    }
  }

  private func answer(_ query: WorkerQuery, _ driver: inout Driver) -> WorkerAnswer {
    switch query {
    case .held:
      return .held(connections: driver.engine.heldCount, links: driver.engine.linkCount)
    case .figures:
      // Walks every connection, so only when somebody asks.
      driver.engine.measure()
      publish(driver)
      return .figures(snapshot)
    }
  }

  private func publish(_ driver: borrowing Driver) {
    var snapshot = Snapshot()
    snapshot.engine = driver.engine.core.counters
    snapshot.ring = driver.ringCounters
    snapshot.driver = driver.counters
    snapshot.journalDropped = driver.engine.core.journal.dropped
    snapshot.downstreamUp = driver.engine.isDownstreamUp
    snapshot.connections = driver.engine.heldCount
    snapshot.links = driver.engine.linkCount
    snapshot.changesLost = changes.refused + driver.engine.judge.memory.learnt.lost
    state.withLock { $0.snapshot = snapshot }
  }
}
