// SPDX-License-Identifier: Apache-2.0
//
// The running shield: listeners, workers, signals, the log, and the orders that come from outside
// (reload, drain, stop). Everything slow happens here, on the main thread; the workers never wait for
// it. Invariant: a reload either takes effect whole in every worker or not at all.

import Glibc
package import Logging
import Reputation
package import Shield
package import Structures
package import Suspicion
import Synchronization
package import Uring

/// What a shield is started with.
package struct ServiceSettings: Sendable {
  package var policy: Policy
  package var limits: Limits
  /// Port 0 is any that is free.
  package var listeners: [ListenerTerms]
  /// All addresses of it, in the order in which they are tried, and its port.
  package var downstream: ([Address], UInt16)
  package var identity = Identity.none
  package var downstreamTLS = DownstreamTLS.off
  /// TLS begins with the connection to the downstream, not by STARTTLS.
  package var isImplicitTLS = false
  package var tls = TLSContexts()
  /// In microseconds.
  package var probeEvery: Int64 = 60_000_000
  package var workers: Int
  /// Lines of one kind a second before they are counted instead of written.
  package var floodLines = 50
  /// Of the hash keys; different at each start unless a run is to be repeated.
  package var seed: UInt64
  /// Under which names are remembered: the same at each start where what is learnt is to outlive it. Without it,
  /// one of the seed.
  package var secret: (UInt64, UInt64)?

  package init(
    policy: Policy, limits: Limits, listeners: [ListenerTerms], downstream: ([Address], UInt16),
    workers: Int, seed: UInt64
  ) {
    self.policy = policy
    self.limits = limits
    self.listeners = listeners
    self.downstream = downstream
    self.workers = workers
    self.seed = seed
  }
}

/// Why a shield could not start.
package enum ServiceError: Error, CustomStringConvertible {
  case listen(ListenError)
  case ring(RingError)
  case thread(ThreadError)

  package var description: String {
    switch self {
    case .listen(let error): "\(error)"
    case .ring(let error): "\(error)"
    case .thread(let error): "\(error)"
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
    case .thread: 71
    }
  }
}

package final class Service: Sendable {
  package let settings: ServiceSettings
  private let workers: [Worker]
  private let journal: JournalQueue
  private let logThread: LogThread
  private let listeners: Listeners
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
            options.sendBufferBytes = Driver.clientSendBuffer
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
    let listeners: Listeners
    do throws(ListenError) {
      listeners = try Listeners(settings.listeners, workers: settings.workers)
    } catch { throw .listen(error) }
    self.listeners = listeners
    ports = listeners.ports
    journal = JournalQueue(capacity: settings.limits.journal)
    let origin = MonotonicClock.now()
    let (addresses, port) = settings.downstream
    logThread = LogThread(
      queue: journal, policy: settings.policy, logger: logger, floodLines: settings.floodLines,
      downstream: Service.names(addresses, port), origin: origin)
    let share = settings.limits.share(of: settings.workers)
    var workers: [Worker] = []
    var terms = settings.listeners
    for (number, port) in listeners.ports.enumerated() { terms[number].port = port }
    let siblings = Siblings()
    do throws(RingError) {
      for number in 0..<settings.workers {
        var mine = Worker.Settings(
          policy: settings.policy, limits: share, identity: settings.identity,
          probeEvery: settings.probeEvery, seed: settings.seed &+ UInt64(number),
          listeners: listeners.descriptors.map { $0[number] }, terms: terms,
          workers: settings.workers,
          handOver: { siblings.hand(to: $0, $1, descriptor: $2) },
          servers: addresses.map { ($0, port) },
          origin: origin, ringEntries: Limits.ringEntries(workers: settings.workers))
        if settings.workers > 1 { mine.tell = { siblings.tell($0, of: number) } }
        mine.secret = settings.secret ?? (settings.seed, ~settings.seed)
        mine.tls = settings.tls
        mine.downstreamTLS = settings.downstreamTLS
        mine.isImplicitTLS = settings.isImplicitTLS
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

  /// Puts a new policy in force in every worker, and new certificates for handshakes to come.
  package func adopt(_ policy: Policy, _ tls: TLSContexts) {
    logThread.adopt(policy)
    for worker in workers { worker.order(.adopt(policy, tls)) }
  }

  /// The downstream has other addresses from now on.
  package func connect(to addresses: [Address]) {
    let port = settings.downstream.1
    logThread.adopt(downstream: Service.names(addresses, port))
    for worker in workers { worker.order(.connectTo(addresses.map { ($0, port) })) }
  }

  /// Whether a worker does not reach the downstream, as of about a second ago.
  package var isDownstreamFailing: Bool { workers.contains { $0.snapshot.downstreamUp == false } }

  /// As the log names it, by the number of the address.
  private static func names(_ addresses: [Address], _ port: UInt16) -> [String] {
    addresses.map { "[\($0)]:\(port)" }
  }

  /// No new clients; sessions may end their transaction.
  package func drain() {
    for worker in workers { worker.order(.drain) }
    listeners.refuse()
  }

  package func stop() { for worker in workers { worker.order(.stop) } }

  /// Has every worker bring its figures up to date, and gives it a moment for that.
  package func refresh() {
    for worker in workers { worker.order(.publish) }
    usleep(50_000)
  }

  package var isDone: Bool { workers.allSatisfy(\.isDone) }

  /// Why a worker ended by itself, if one did.
  package var fault: RingError? { workers.lazy.compactMap(\.fault).first }

  /// The log's last lines go out. To be called when the workers are done.
  package func closeLog() { logThread.finish() }

  /// The figures of all workers together.
  package var snapshot: Snapshot {
    var sum = Snapshot()
    var ups: [Bool?] = []
    for worker in workers {
      let one = worker.snapshot
      sum.engine.add(one.engine)
      sum.ring.sqFull += one.ring.sqFull
      sum.ring.cqOverflow += one.ring.cqOverflow
      sum.ring.noBuffers += one.ring.noBuffers
      sum.ring.enters += one.ring.enters
      sum.ring.retries += one.ring.retries
      sum.ring.submissions += one.ring.submissions
      sum.ring.completions += one.ring.completions
      sum.driver.acceptErrors += one.driver.acceptErrors
      sum.driver.descriptorsExhausted += one.driver.descriptorsExhausted
      sum.driver.vanishedBeforeAccept += one.driver.vanishedBeforeAccept
      sum.driver.canceled += one.driver.canceled
      sum.driver.stale += one.driver.stale
      sum.driver.installs += one.driver.installs
      sum.driver.outOfMemory += one.driver.outOfMemory
      sum.driver.pauses += one.driver.pauses
      sum.journalDropped += one.journalDropped
      sum.connections += one.connections
      sum.links += one.links
      sum.changesLost += one.changesLost
      ups.append(one.downstreamUp)
    }
    sum.downstreamUp = ups.contains(true) ? true : ups.contains(false) ? false : nil
    return sum
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
    if let worker, !worker.isDone {
      worker.order(.take(peer, descriptor: descriptor))
    } else {
      Glibc.close(descriptor)
    }
  }
}

/// A thread could not be started.
package struct ThreadError: Error, Equatable, CustomStringConvertible {
  package let errno: Int32

  package var description: String {
    "cannot start a thread: \(String(cString: strerror(errno))). Raise RLIMIT_NPROC (systemd: LimitNPROC=, TasksMax=) "
      + "or the container's process limit, or add memory."
  }
}

/// Starts a detached thread.
package func startThread(_ body: @escaping @Sendable () -> Void) throws(ThreadError) {
  final class Box {
    let body: @Sendable () -> Void
    init(_ body: @escaping @Sendable () -> Void) { self.body = body }
  }
  var thread = pthread_t()
  let box = Unmanaged.passRetained(Box(body))
  let status = pthread_create(
    &thread, nil,
    { raw in
      if let raw { Unmanaged<Box>.fromOpaque(raw).takeRetainedValue().body() }
      return nil
    }, box.toOpaque())
  guard status == 0 else {
    box.release()
    throw ThreadError(errno: status)
  }
  pthread_detach(thread)
}
