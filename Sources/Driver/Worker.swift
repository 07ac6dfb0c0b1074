// SPDX-License-Identifier: Apache-2.0
//
// A worker: one thread that owns one ring, one engine and one listening socket of each listener. Other
// threads reach it by its mailbox alone; it reaches them by a snapshot once a second and by the queue of
// journal entries. Invariant: nothing here blocks but the ring's own wait.

import Glibc
package import Policy
package import Reputation
package import Shield
import Structures
import Suspicion
import Synchronization
package import TLS
package import Uring

/// What a worker tells about itself, as of about a second ago.
package struct Snapshot: Sendable {
  package var engine = Counters()
  package var ring = RingCounters()
  package var driver = DriverCounters()
  package var journalDropped: UInt64 = 0
  package var downstreamUp: Bool?
  package var connections = 0
  package var links = 0
  /// What was learnt of sources and had no room on its way to the other workers.
  package var changesLost: UInt64 = 0
  /// Until the first of the certificates ends; nil without any. Of the process, so not a worker's to tell.
  package var tlsCertificateDays: Int64?
  package init() {}
}

/// The journal entries of all workers on their way to the log. Bounded; what does not fit is counted.
package final class JournalQueue: Sendable {
  private struct State {
    /// A ring, begun anew whenever it is empty: with little to log, little of its memory is touched.
    var entries: [JournalEntry] = []
    var head = 0
    var count = 0
    var dropped: UInt64 = 0
  }

  private let state: Mutex<State>
  private let capacity: Int
  /// How many entries are handed over at a time, at most.
  package static let portion = 128

  package init(capacity: Int) {
    self.capacity = capacity
    var first = State()
    first.entries.reserveCapacity(capacity)
    state = Mutex(first)
  }

  package func append(_ entry: JournalEntry) {
    state.withLock { state in
      guard state.count < capacity else {
        state.dropped += 1
        return
      }
      let place = (state.head + state.count) % capacity
      if place == state.entries.count {
        state.entries.append(entry)
      } else {
        state.entries[place] = entry
      }
      state.count += 1
    }
  }

  /// Puts the oldest entries into `portion`, which is emptied first.
  ///
  /// - Returns: how many entries were dropped since the last call.
  package func take(_ portion: inout [JournalEntry]) -> UInt64 {
    portion.removeAll(keepingCapacity: true)
    return state.withLock { state in
      let taken = min(state.count, Self.portion)
      for k in 0..<taken { portion.append(state.entries[(state.head + k) % capacity]) }
      state.count -= taken
      state.head = state.count == 0 ? 0 : (state.head + taken) % capacity
      let dropped = state.dropped
      state.dropped = 0
      return dropped
    }
  }
}

package final class Worker: Sendable {
  /// How a worker's start ended.
  package enum Start: Sendable {
    case pending
    case running
    case failed(RingError)
  }

  private struct State {
    var orders: [WorkerOrder] = []
    /// What other workers have learnt. Room is kept, and nothing is allocated for it later.
    var changes: [Change] = []
    var changesLost: UInt64 = 0
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
    if settings.workers > 1 {
      state.withLock { $0.changes.reserveCapacity(Worker.changesMost) }
    }
  }

  /// How many changes wait for this worker at most. It takes them once a turn, and each has cost another worker an
  /// exchange with the downstream: more are lost, which is counted, and slows somebody less than it might.
  static let changesMost = 512
  /// What a worker has of changes, in bytes: those of others on their way in, and its own on their way out.
  package static var mailboxBytes: Int { 2 * changesMost * MemoryLayout<Change>.stride }

  /// Another worker has learnt something. From any thread.
  package func hear(_ change: Change) {
    let isFirst = state.withLock { state in
      guard state.changes.count < Worker.changesMost else {
        state.changesLost += 1
        return false
      }
      state.changes.append(change)
      return state.changes.count == 1
    }
    if isFirst { wakeUp.signal() }
  }

  package func order(_ order: WorkerOrder) {
    state.withLock { $0.orders.append(order) }
    wakeUp.signal()
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
    var isDraining = false
    var changes: [Change] = []
    changes.reserveCapacity(settings.workers > 1 ? Worker.changesMost : 0)
    while true {
      if try driver.turn(longest: 500_000) {
        wakeUp.drain()
        driver.arm(wakeUp)
        for order in takeOrders() {
          switch order {
          case .adopt(let policy, let tls): driver.adopt(policy, tls)
          case .drain:
            driver.drain()
            isDraining = true
          case .publish:
            // Walks every connection, so only when somebody asks.
            driver.engine.measure()
            nextSnapshot = 0
          case .connectTo(let servers): driver.adopt(servers)
          case .take(let peer, let descriptor): driver.take(peer, descriptor: descriptor)
          case .stop: return
          }
        }
        state.withLock { swap(&$0.changes, &changes) }
        if !changes.isEmpty {
          driver.learn(changes)
          changes.removeAll(keepingCapacity: true)
        }
      }
      while let entry = driver.engine.journal.next() { journal.append(entry) }
      while let change = driver.engine.memory.learnt.next() {
        if change.concernsAllWorkers { settings.tell?(change) }
      }
      let time = MonotonicClock.now()
      if time >= nextSnapshot {
        nextSnapshot = time + 1_000_000
        // Once a second, because somebody may set it.
        driver.engine.wallClock = wallClock()
        publish(&driver)
      }
      if isDraining && driver.engine.heldCount == 0 && driver.engine.linkCount == 0 {
        publish(&driver)
        return
      }
    }
  }

  private func takeOrders() -> [WorkerOrder] {
    state.withLock { state in
      let orders = state.orders
      state.orders = []
      return orders
    }
  }

  private func publish(_ driver: inout Driver) {
    var snapshot = Snapshot()
    snapshot.engine = driver.engine.counters
    snapshot.ring = driver.ring.counters
    snapshot.driver = driver.counters
    snapshot.journalDropped = driver.engine.journal.dropped
    snapshot.downstreamUp = driver.engine.isDownstreamUp
    snapshot.connections = driver.engine.heldCount
    snapshot.links = driver.engine.linkCount
    state.withLock { state in
      snapshot.changesLost = state.changesLost + driver.engine.memory.learnt.lost
      state.snapshot = snapshot
    }
  }
}
