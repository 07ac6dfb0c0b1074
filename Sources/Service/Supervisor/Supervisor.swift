// SPDX-License-Identifier: Apache-2.0
//
// The one who runs a service from its start to its end: takes every order, wherever it comes from, and sees to what is
// due by itself, on one thread. Not the start (`Launch`), and nothing of mail. Kept: a reload takes effect whole or not
// at all, and a service that ends says why.

package import Configuration
import Driver
import Flow
import Glibc
import Logging
import Policy
import Resolver
import Structures
package import TLS
package import Uring

package struct Supervisor: ~Copyable {
  /// How a service ended.
  package enum Outcome: Sendable {
    case stopped
    /// It enforced, and the downstream turned out to be an open relay.
    case openRelay
    case workerFailed(RingError)

    /// sysexits(3).
    package var exitCode: Int32 {
      switch self {
      case .stopped: 0
      case .openRelay: 78
      case .workerFailed: 71
      }
    }
  }

  private let service: Service
  /// As of the start: sockets, limits and downstream are of it.
  private let started: Configuration
  private var inForce: Configuration
  private var tls: TLSContexts
  private var certificates: CertificateWatch
  private let downstream: HostAddresses
  private let relayGuard: RelayGuard
  private let reloader: Reloader
  private let sink: LogSink
  private let announcer: Announcer
  private let drainSeconds: Int
  /// By the monotonic clock, in microseconds; nil as long as clients are taken.
  private var drainUntil: Int64?
  /// An open relay was found behind us.
  private var isRefused = false

  /// - Parameters:
  ///   - started: what the service runs with.
  ///   - tls: its contexts.
  ///   - drainSeconds: the most that a drain may take.
  package init(
    _ service: Service, _ started: Configuration, tls: TLSContexts, downstream: HostAddresses,
    relayGuard: RelayGuard, reloader: Reloader, sink: LogSink, announcer: Announcer,
    drainSeconds: Int
  ) {
    self.service = service
    self.started = started
    inForce = started
    self.tls = tls
    certificates = CertificateWatch(started.tls, now: Supervisor.seconds)
    self.downstream = downstream
    self.relayGuard = relayGuard
    self.reloader = reloader
    self.sink = sink
    self.announcer = announcer
    self.drainSeconds = drainSeconds
  }

  /// Carries out orders until the service has ended.
  ///
  /// - Parameter next: the next order, waited for that many milliseconds at most.
  package mutating func run(_ next: (_ milliseconds: Int) -> Order?) -> Outcome {
    while true {
      if let order = next(reloader.isReading ? 10 : 200) { _ = take(order) }
      if let outcome = attend() { return outcome }
    }
  }

  /// Carries out an order.
  package mutating func take(_ order: Order) -> Order.Answer {
    switch order {
    case .reload: return reload()
    case .drain:
      if drainUntil != nil { return take(.stop) }
      return drain("no new clients, \(drainSeconds) s for open transactions", as: .notice)
    case .stop: service.stop()
    case .reopenLog:
      do throws(LogFailure) { try sink.reopen() } catch {
        announcer.logger.error("\(error)")
        return .refused("\(error)")
      }
    case .report:
      let figures = figures(service.figures())
      for line in Statistics.lines(figures) { announcer.logger.notice("\(line)") }
      return .figures(figures)
    case .connect(let addresses):
      service.connect(to: addresses)
      let list = addresses.map { "[\($0)]" }.joined(separator: ", ")
      announcer.logger.notice("downstream.address: \(started.downstream.text) is at \(list) now")
      if !started.downstream.allowsOpenRelay { relayGuard.askAnew() }
    case .heed(let found): return heed(found)
    }
    return .done
  }

  /// Sees to what is due by itself. To be called several times a second.
  ///
  /// - Returns: how the service ended, if it has.
  package mutating func attend() -> Outcome? {
    finishReload()
    downstream.attend(isFailing: service.isDownstreamFailing, now: MonotonicClock.now())
    if let found = downstream.take(where: { isUsable($0) }) { _ = take(.connect(found)) }
    if let found = relayGuard.take(), drainUntil == nil { _ = take(.heed(found)) }
    if let drainUntil, MonotonicClock.now() > drainUntil { service.stop() }
    if let warning = certificates.warning(now: Supervisor.seconds) {
      announcer.logger.warning("\(warning)")
    }
    if service.isDone { return end() }
    guard let fault = service.fault else { return nil }
    announcer.logger.critical("a worker stopped: \(fault)")
    service.stop()
    service.closeLog()
    relayGuard.stop()
    return .workerFailed(fault)
  }

  /// All workers are done: the last words.
  private func end() -> Outcome {
    for line in Statistics.lines(figures(service.snapshot)) { announcer.logger.info("\(line)") }
    announcer.logger.notice("stopped")
    service.closeLog()
    relayGuard.stop()
    if let fault = service.fault {
      announcer.logger.critical("a worker stopped: \(fault)")
      return .workerFailed(fault)
    }
    return isRefused ? .openRelay : .stopped
  }

  private mutating func drain(_ why: String, as level: Logger.Level) -> Order.Answer {
    if level == .error {
      announcer.fail("draining: \(why)")
    } else {
      announcer.logger.log(level: level, "draining: \(why)")
    }
    drainUntil = MonotonicClock.now() + Int64(drainSeconds) * 1_000_000
    service.drain()
    return .draining(seconds: drainSeconds)
  }

  /// Nobody is protected by a shield in front of an open relay: it would lend it its good name.
  private mutating func heed(_ found: Preflight) -> Order.Answer {
    announcer.tell(found)
    guard found.isOpenRelay && inForce.isGuarded else { return .done }
    isRefused = true
    return drain(
      "mode enforce is refused in front of an open relay: sluice exits with status 78", as: .error)
  }

  /// Whether mail may go to an address that the downstream's name has now.
  private func isUsable(_ address: Address) -> Bool {
    guard let reason = started.circle(at: address) else { return true }
    announcer.logger.error("downstream.address: \(reason)")
    return false
  }

  /// Seconds since 1970: certificates end by the calendar.
  private static var seconds: Int64 { Int64(time(nil)) }

  private func figures(_ snapshot: Snapshot) -> Snapshot {
    var snapshot = snapshot
    snapshot.tlsCertificateDays = certificates.daysLeft(now: Supervisor.seconds)
    return snapshot
  }

  // MARK: Reload

  private func reload() -> Order.Answer {
    downstream.lookUp()
    return reread()
  }

  private func reread() -> Order.Answer {
    do throws(ThreadError) {
      try reloader.begin(inForce: inForce, at: downstream.current)
      return .begun
    } catch {
      announcer.logger.error("RELOAD failed: \(error)")
      return .refused("\(error)")
    }
  }

  /// Puts what was read in force, if that is done.
  private mutating func finishReload() {
    if let (found, isWantedAgain) = reloader.take() {
      if !adopt(found) {
        announcer.logger.error("RELOAD failed: the running configuration is unchanged")
      }
      if isWantedAgain { _ = reread() }
    }
    if reloader.isOverdue() {
      announcer.logger.error(
        """
        RELOAD has read for 30 seconds and is not done: a file may be on a server that does not answer. \
        The configuration in force stays until it is read
        """)
    }
  }

  /// - Returns: false if nothing has changed; why is said.
  private mutating func adopt(_ read: Reloader.Reread) -> Bool {
    announcer.tell(read.problems)
    guard let found = read.configuration else { return false }
    announcer.tell(found.tls.findings)
    if let preflight = read.preflight, !relayGuard.heed(preflight, isGuarded: true) { return false }
    let policy = reloader.policy(of: found)
    let contexts: TLSContexts
    do throws(TLSContextError) {
      contexts = try TLSContexts(
        found, listeners: started.listeners, modes: policy.listeners.map(\.tls),
        downstream: started.downstream, before: tls)
    } catch {
      announcer.logger.error("TLS: \(error.reason)")
      return false
    }
    do throws(ResolverError) {
      guard try service.adopt(policy, contexts, lookUps: found.lists.lookUps) else {
        announcer.logger.error("a worker takes no orders: it has stood still for a while")
        return false
      }
    } catch {
      announcer.logger.error("\(error)")
      return false
    }
    tls = contexts
    inForce = found
    certificates = CertificateWatch(found.tls, now: Supervisor.seconds)
    let certificateCount = found.tls.certificates.count
    announcer.logger.notice(
      """
      RELOAD done: \(policy.access.rules.count) access rules, \
      \(policy.rates.rules.count) rate rules, \(certificateCount) \
      certificate\(certificateCount == 1 ? "" : "s"), mode \(policy.mode.name)
      """)
    let waiting = reloader.notInForce(of: found)
    if !waiting.isEmpty {
      announcer.logger.warning(
        "changed, but in force only at the next start: \(waiting.joined(separator: ", "))")
    }
    return true
  }
}
