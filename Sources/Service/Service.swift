// SPDX-License-Identifier: Apache-2.0
//
// The running shield: listeners, workers, signals, the log, and the orders that come from outside
// (reload, drain, stop). Everything slow happens here, on the main thread; the workers never wait for
// it. Invariant: a reload either takes effect whole in every worker or not at all.

package import Driver
import Glibc
package import Logging
package import Policy
import Reputation
package import Resolver
import Shield
package import Structures
package import TLS
import Suspicion
import Synchronization
package import Uring

/// What a shield is started with.
package struct ServiceSettings: Sendable {
  /// Its listeners are those that are opened.
  package var policy: Policy
  package var limits: Limits
  /// The mail servers behind; one, as yet.
  package var servers: [Server]
  package var tls = TLSContexts()
  /// How the policy's DNS lists are asked.
  package var lookUps = LookUpSettings()
  package var workers: Int
  /// Lines of one kind a second before they are counted instead of written.
  package var floodLines = 50
  /// Of the hash keys; different at each start unless a run is to be repeated.
  package var seed: UInt64
  /// Under which names are remembered: the same at each start where what is learnt is to outlive it. Without it,
  /// one of the seed.
  package var secret: (UInt64, UInt64)?

  package init(
    policy: Policy, limits: Limits, servers: [Server], workers: Int, seed: UInt64
  ) {
    self.policy = policy
    self.limits = limits
    self.servers = servers
    self.workers = workers
    self.seed = seed
  }
}

/// Why a shield could not start.
package enum ServiceError: Error, CustomStringConvertible {
  case listen(ListenError)
  case ring(RingError)
  case thread(ThreadError)
  case resolver(ResolverError)

  package var description: String {
    switch self {
    case .listen(let error): "\(error)"
    case .ring(let error): "\(error)"
    case .thread(let error): "\(error)"
    case .resolver(let error): "\(error)"
    }
  }

  /// sysexits(3): 69 where io_uring is not to be had, 71 for the rest of the system.
  package var exitCode: Int32 {
    switch self {
    // What will not mend itself: not allowed, or no such family. A port or an address may become free, or come.
    case .listen(let error):
      switch error.errno {
      case EACCES, EPERM: 77
      case EAFNOSUPPORT: 78
      default: 71
      }
    case .ring(let error): error.isForbidden || error.step == .setUp ? 69 : 71
    case .thread, .resolver: 71
    }
  }
}

package final class Service: Sendable {
  package let settings: ServiceSettings
  private let workers: [Worker]
  private let journal: JournalQueue
  private let logThread: LogThread
  private let listeners: Listeners
  /// What the workers know of the DNS lists; nil where none are asked.
  private let book: Mutex<ListBook?>
  private let origin: Int64
  /// The ports the listeners got, in their order.
  package let ports: [UInt16]

  /// Keeps the listening sockets open as long as the service lives.
  private final class Listeners: Sendable {
    let descriptors: [[Int32]]
    let ports: [UInt16]

    init(_ wanted: [ListenerTerms], workers: Int) throws(ListenError) {
      var all: [[Int32]] = []
      var ports: [UInt16] = []
      do throws(ListenError) {
        for listener in wanted {
          all.append([])
          var port = listener.port
          if workers > 1 && port > 0 {
            try ListeningSocket.refuseTaken(listener.address, port: port)
          }
          for number in 0..<workers {
            var options = ListeningSocket.Options()
            options.reusePort = workers > 1
            options.sendBufferBytes = DriverSizes.clientSend
            let socket = try ListeningSocket(listener.address, port: port, options: options)
            if number == 0 { port = socket.localPort }
            // Behind a load balancer the kernel spreads the connections as it likes: which worker a client
            // belongs to is known when its header is.
            if workers > 1 && number == workers - 1 && listener.balancers == nil {
              try socket.attachSteering(workers: workers)
            }
            let kept = fcntl(socket.descriptor, F_DUPFD_CLOEXEC, 0)
            if kept < 0 {
              throw ListenError(.socket, errno: errno, address: listener.address, port: port)
            }
            all[all.count - 1].append(kept)
          }
          ports.append(port)
        }
      } catch {
        for group in all { for descriptor in group { Glibc.close(descriptor) } }
        throw error
      }
      descriptors = all
      self.ports = ports
    }

    /// From now on nobody can connect; without this the kernel would go on taking connections for us.
    func refuse() {
      for group in descriptors { for descriptor in group { shutdown(descriptor, Int32(SHUT_RD)) } }
    }

    deinit { for group in descriptors { for descriptor in group { Glibc.close(descriptor) } } }
  }

  /// Opens the listeners and starts the workers; all of them run when this returns.
  package init(_ settings: ServiceSettings, logger: Logger) throws(ServiceError) {
    self.settings = settings
    // A listener accepts nothing before its worker's ring does: what connects meanwhile waits.
    let origin = MonotonicClock.now()
    self.origin = origin
    let book: ListBook?
    do throws(ResolverError) {
      book = try Service.book(settings.policy.lists, settings.lookUps, settings, origin: origin)
    } catch { throw .resolver(error) }
    self.book = Mutex(book)
    let listeners: Listeners
    do throws(ListenError) {
      listeners = try Listeners(settings.policy.listeners, workers: settings.workers)
    } catch { throw .listen(error) }
    self.listeners = listeners
    ports = listeners.ports
    journal = JournalQueue(capacity: settings.limits.journal)
    let policy = Service.policy(settings.policy, at: listeners.ports)
    logThread = LogThread(
      queue: journal, policy: policy, logger: logger, floodLines: settings.floodLines,
      downstream: Service.names(settings.servers), origin: origin)
    let share = settings.limits.share(of: settings.workers)
    var workers: [Worker] = []
    let siblings = Siblings()
    do throws(RingError) {
      for number in 0..<settings.workers {
        var mine = Worker.Settings(
          policy: policy, limits: share, servers: settings.servers,
          seed: settings.seed &+ UInt64(number),
          listeners: listeners.descriptors.map { $0[number] }, workers: settings.workers,
          handOver: { siblings.hand(to: $0, $1, descriptor: $2) },
          origin: origin, ringEntries: Limits.ringEntries(workers: settings.workers))
        if settings.workers > 1 { mine.tell = { siblings.tell($0, of: number) } }
        mine.secret = settings.secret ?? (settings.seed, ~settings.seed)
        mine.tls = settings.tls
        mine.lists = book
        workers.append(try Worker(number: number, settings: mine, journal: journal))
      }
    } catch { throw .ring(error) }
    self.workers = workers
    siblings.set(workers)
    do throws(ThreadError) {
      for worker in workers { try startThread { worker.run() } }
    } catch {
      for worker in workers { worker.order(.stop) }
      throw .thread(error)
    }
    for worker in workers {
      while case .pending = worker.start { usleep(1_000) }
      if case .failed(let error) = worker.start {
        for other in workers { other.order(.stop) }
        throw .ring(error)
      }
    }
    let logThread = logThread
    do throws(ThreadError) { try startThread { logThread.run() } } catch {
      for worker in workers { worker.order(.stop) }
      throw .thread(error)
    }
  }

  /// Puts a new policy in force in every worker, and new certificates for handshakes to come. What is known of the DNS
  /// lists is kept if they are asked as before.
  ///
  /// - Parameters:
  ///   - policy: with the listeners of the start, in their order.
  ///   - lookUps: how its DNS lists are asked; as at the start if it is nil.
  /// - Returns: false if a worker takes no orders; then nothing has changed in any.
  /// - Throws: if the lists cannot be asked; then nothing has changed either.
  package func adopt(
    _ policy: Policy, _ tls: TLSContexts, lookUps: LookUpSettings? = nil
  ) throws(ResolverError) -> Bool {
    // Orders come from one thread alone, so the room that is there stays there.
    guard workers.allSatisfy({ $0.isDone || $0.takesOrders }) else { return false }
    let lookUps = lookUps ?? settings.lookUps
    var book = self.book.withLock { $0 }
    if policy.lists.map({ book?.fits($0.sites, lookUps) == true }) != true {
      book = try Service.book(policy.lists, lookUps, settings, origin: origin)
      self.book.withLock { $0 = book }
    }
    let policy = Service.policy(policy, at: ports)
    logThread.adopt(policy)
    for worker in workers { worker.order(.adopt(policy, tls, book)) }
    return true
  }

  private static func book(
    _ terms: ListTerms?, _ lookUps: LookUpSettings, _ settings: ServiceSettings, origin: Int64
  ) throws(ResolverError) -> ListBook? {
    guard let terms else { return nil }
    var random = SeededGenerator(seed: settings.seed ^ 0x6C69_7374_73)
    return try ListBook(
      terms.sites, lookUps, workers: settings.workers,
      hash: SipHash(k0: random.next(), k1: random.next()),
      now: Instant(microseconds: MonotonicClock.now() - origin))
  }

  /// The downstream has other addresses from now on.
  package func connect(to addresses: [Address]) {
    let servers = settings.servers.map { $0.moved(to: addresses) }
    logThread.adopt(downstream: Service.names(servers))
    for worker in workers { worker.order(.connectTo(servers)) }
  }

  /// Whether a worker does not reach the downstream, as of about a second ago.
  package var isDownstreamFailing: Bool { workers.contains { $0.snapshot.downstreamUp == false } }

  /// As the log names it, by the number of the address.
  private static func names(_ servers: [Server]) -> [String] {
    servers.flatMap { server in server.addresses.map { "[\($0)]:\(server.port)" } }
  }

  /// A policy whose listeners have the ports that their sockets got.
  private static func policy(_ policy: Policy, at ports: [UInt16]) -> Policy {
    var policy = policy
    for (number, port) in zip(policy.listeners.indices, ports) {
      policy.listeners[number].port = port
    }
    return policy
  }

  /// No new clients; sessions may end their transaction.
  package func drain() {
    for worker in workers { worker.order(.drain) }
    listeners.refuse()
  }

  package func stop() { for worker in workers { worker.order(.stop) } }

  /// The figures of all workers together, as of now; of one that does not answer, as of its last second.
  package func figures() -> Snapshot {
    let deadline = MonotonicClock.now() + Service.patience
    let asked = workers.map { ($0, $0.begin(.figures)) }
    return Service.sum(
      asked.map { worker, question in
        if case .figures(let found)? = question?.wait(until: deadline) {
          found
        } else {
          worker.snapshot
        }
      })
  }

  /// How many clients and downstream connections there are now; nil if a worker that runs does not answer.
  package func held() -> (connections: Int, links: Int)? {
    let deadline = MonotonicClock.now() + Service.patience
    var sum = (connections: 0, links: 0)
    for (worker, question) in workers.map({ ($0, $0.begin(.held)) }) {
      if case .held(let connections, let links)? = question?.wait(until: deadline) {
        sum = (sum.connections + connections, sum.links + links)
      } else if !worker.isDone {
        return nil
      }
    }
    return sum
  }

  /// How long a worker may take to answer, in microseconds: some turns of its loop.
  private static let patience: Int64 = 250_000

  package var isDone: Bool { workers.allSatisfy(\.isDone) }

  /// Why a worker ended by itself, if one did.
  package var fault: RingError? { workers.lazy.compactMap(\.fault).first }

  /// The log's last lines go out. To be called when the workers are done.
  package func closeLog() { logThread.finish() }

  /// The figures of all workers together, as of about a second ago.
  package var snapshot: Snapshot { Service.sum(workers.map(\.snapshot)) }

  private static func sum(_ all: [Snapshot]) -> Snapshot {
    all.reduce(into: Snapshot()) { $0.add($1) }
  }
}

/// The workers of a service, as each sees the others. Weakly held: they hold this.
private final class Siblings: Sendable {
  private struct Sibling {
    weak var worker: Worker?
  }
  private let all = Mutex<[Sibling]>([])

  func set(_ workers: [Worker]) { all.withLock { $0 = workers.map { Sibling(worker: $0) } } }

  /// All workers but `number` hear what was learnt there.
  func tell(_ change: Change, of number: Int) {
    all.withLock { all in
      for (other, sibling) in all.enumerated() where other != number {
        sibling.worker?.hear(change)
      }
    }
  }

  func hand(to number: Int, _ peer: Peer, descriptor: Int32) {
    let worker = all.withLock { $0[number].worker }
    let isTaken = worker.map { !$0.isDone && $0.take(peer, descriptor: descriptor) } ?? false
    if !isTaken { Glibc.close(descriptor) }
  }
}
