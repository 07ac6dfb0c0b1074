// SPDX-License-Identifier: Apache-2.0
//
// `sluice serve`, `sluice check` and `sluice explain`: the three commands that read the configuration.
// What is wrong in it they all print the same way, and all exit with the same codes (sysexits).

import ArgumentParser
import Daemon
import Flow
import Foundation
import Glibc
import Logging
import Shield
import Structures
import Suspicion
import TLS
import Uring

extension ConfigurationOptions {
  /// Reads the configuration and prints what is wrong with it.
  ///
  /// - Parameters:
  ///   - file: another one than was given.
  ///   - detail: what the tables keep.
  /// - Returns: nil if there is an error; then `exitCode` says which.
  func load(
    file: String? = nil, printing: Bool = true, keeping detail: TableDetail = .lines
  ) -> (configuration: Daemon.Configuration?, exitCode: Int32) {
    let (configuration, problems) = Daemon.Configuration.load(
      file: file ?? config, overrides: overrides, keeping: detail)
    if printing { for problem in problems { StandardError.write(problem.description) } }
    return (configuration, problems.exitCode)
  }
}

struct CheckCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "check",
    abstract: "Report every error in a configuration and its tables.")

  @OptionGroup var options: ConfigurationOptions

  @Flag(help: "Print every setting in force, as YAML.")
  var dump = false

  @Flag(
    help: """
      Test, as a stranger, whether the mail server relays; no message is sent. Exits with status 78 if it \
      does, or if it does not accept the client's address; with 69 if it does not answer, or accepts no \
      clients of an address family that has a listener.
      """)
  var probeDownstream = false

  @Flag(
    help: """
      Check only the files, not this machine: no ports, log, io_uring or name lookup of the mail server.
      """)
  var filesOnly = false

  @Flag(
    help: """
      Check as a reload would: ports, log and rings are not tested, and an expired certificate is a warning. For \
      ExecReload= of systemd.
      """)
  var reload = false

  func run() throws {
    // The verdict is the exit code, also for a reader that has gone.
    signal(SIGPIPE, SIG_IGN)
    let (configuration, exitCode) = options.load()
    guard let configuration else { throw ExitCode(exitCode) }
    if dump { try StandardOutput.write(configuration.dump()) }
    for caution in configuration.cautions { StandardError.write("warning: \(caution)") }
    // A certificate that peers refuse fails the check; a service with one still starts.
    for problem in configuration.tls.findings { StandardError.write(problem.description) }
    if configuration.tls.findings.hasErrors && !reload {
      throw ExitCode(configuration.tls.findings.exitCode)
    }
    if !filesOnly {
      let downstream = try downstreamAddresses(configuration)
      if !reload { try checkMachine(configuration) }
      if probeDownstream { try probe(configuration, at: downstream) }
    }
    StandardError.write("\(options.config ?? "the shipped configuration"): good")
  }

  /// Whether `serve` could start here and now.
  private func checkMachine(_ configuration: Daemon.Configuration) throws {
    raiseDescriptorLimit()
    let readiness = Readiness(configuration)
    for note in readiness.notes { StandardError.write(note) }
    for obstacle in readiness.obstacles { StandardError.write("error: \(obstacle.text)") }
    if let first = readiness.obstacles.first { throw ExitCode(first.exitCode) }
  }

  private func probe(_ configuration: Daemon.Configuration, at found: [Address]) throws {
    let preflight = Preflight(configuration, at: found)
    for sentence in preflight.sentences {
      let word =
        switch sentence.level {
        case .good: ""
        case .warning: "warning: "
        case .error: "error: "
        }
      StandardError.write(word + sentence.text)
    }
    if preflight.exitCode != 0 { throw ExitCode(preflight.exitCode) }
  }
}

/// Where the downstream is; ends the command if its name has no address, or if it is one of our own listeners.
private func downstreamAddresses(_ configuration: Daemon.Configuration) throws -> [Address] {
  let found = addresses(of: configuration.downstream.host)
  if found.isEmpty {
    StandardError.write(
      "downstream.address: error: '\(configuration.downstream.host)' has no address: write a name that "
        + "resolves, or write its address")
    throw ExitCode(68)
  }
  try refuseCircle(configuration, at: found)
  return found
}

/// Ends a command whose downstream is one of our own listeners.
private func refuseCircle(_ configuration: Daemon.Configuration, at addresses: [Address]) throws {
  guard let reason = addresses.lazy.compactMap(configuration.circle).first else { return }
  StandardError.write(
    "downstream.address: error: \(reason)\n  hint: \(Daemon.Configuration.circleHint)")
  throw ExitCode(78)
}

struct ExplainCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "explain",
    abstract: "Show how a client at an address would be treated, and by which rule.",
    discussion:
      "Exits with status 0 if it would pass, 1 if it would be delayed, 2 if it would be rejected.")

  @Argument(help: "An IPv4 or IPv6 address.")
  var address: String

  @OptionGroup var options: ConfigurationOptions

  @Flag(help: "Print JSON.")
  var json = false

  func run() throws {
    signal(SIGPIPE, SIG_IGN)
    let (configuration, exitCode) = options.load(keeping: .text)
    guard let configuration else { throw ExitCode(exitCode) }
    guard let explanation = Explanation(of: address, in: configuration) else {
      StandardError.write(
        "'\(address)' is not an address: write one such as 192.0.2.7 or 2001:db8::7")
      throw ExitCode(64)
    }
    try StandardOutput.write((json ? explanation.json : explanation.description) + "\n")
    throw ExitCode(explanation.exitCode)
  }
}

struct ServeCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "serve",
    abstract: "Run the proxy in front of a mail server.",
    discussion: """
      HUP reloads the configuration and its tables; a single error leaves the running configuration \
      unchanged. TERM accepts no new clients and waits for open transactions; a second TERM, or INT, stops \
      immediately. USR1 reopens the log file. USR2 writes the counters to the log. At startup it probes the mail \
      server as a stranger, and exits with status 78 if the server does not accept the client's address. In \
      enforce mode it also exits with status 78 if the mail server is an open relay, or becomes one.
      """)

  @OptionGroup var options: ConfigurationOptions

  /// Nothing here needs root but a port below 1024, and a capability is enough for that.
  private static let rootWarning =
    "running as root, which is not needed: a fault in a public service could give strangers control of this machine. "
    + "Start it by its systemd unit, or as another user with one capability: setpriv --reuid=USER --regid=GROUP "
    + "--init-groups --inh-caps=+net_bind_service --ambient-caps=+net_bind_service sluice serve ..."

  @Option(help: "How long to wait for open transactions on TERM, in seconds.")
  var drainSeconds = 30

  @Flag(
    name: .customLong("no-preflight"),
    help: """
      Start even if the mail server does not accept the client's address: all mail is \
      deferred with 451 until it does.
      """)
  var startsMiswired = false

  func run() throws {
    signal(SIGPIPE, SIG_IGN)
    let (loaded, exitCode) = options.load()
    guard let configuration = loaded else { throw ExitCode(exitCode) }
    let sink: LogSink
    do {
      sink =
        switch configuration.log.destination {
        case .stderr: LogSink.standardError()
        case .file(let path): try LogSink(path: path, host: configuration.policy.hostname)
        }
    } catch {
      StandardError.write("\(error)")
      throw ExitCode(LogFailure.exitCode)
    }
    let level = Logger.Level(rawValue: configuration.log.level) ?? .info
    let logger = Logger(label: "smtpd") { label in
      LineLogHandler(component: label, sink: sink, level: level)
    }
    let found = try downstreamAddresses(configuration)
    let downstream = HostAddresses(configuration.downstream.host, found: found)
    // The wake-ups for signals must be in place before any thread starts: threads inherit the mask.
    let signals = SignalQueue([SIGHUP, SIGTERM, SIGINT, SIGUSR1, SIGUSR2])
    raiseDescriptorLimit()

    var settings = ServiceSettings(
      policy: configuration.enginePolicy, limits: configuration.limits,
      listeners: configuration.listeners.map {
        ListenerTerms(
          address: $0.address, port: $0.port, balancers: $0.balancerTable)
      },
      downstream: (found, configuration.downstream.port), workers: configuration.workers,
      seed: UInt64.random(in: .min ... .max))
    settings.identity =
      switch configuration.downstream.identity {
      case .none: .none
      case .proxyV1: .proxyV1
      case .proxyV2: .proxyV2
      case .xclient: .xclient
      case .xforward: .xforward
      case .received: .received
      }
    settings.secret = configuration.nameKey.map { ($0.high, $0.low) }
    settings.probeEvery = configuration.downstream.probeEvery
    settings.downstreamTLS = configuration.downstream.tls
    settings.isImplicitTLS = configuration.downstream.tlsImplicit
    do {
      settings.tls = try TLSContexts(
        configuration, listeners: configuration.listeners,
        modes: configuration.listeners.map(\.tls), downstream: configuration.downstream)
    } catch {
      fail("TLS: \(error.reason)", configuration, logger)
      throw ExitCode(78)
    }
    settings.floodLines = configuration.log.floodLinesPerSecond

    var units = MemoryStatement.Units()
    if !canWidenSockets() { units.connectionKernel = 4_100 + 131_800 }
    let statement = MemoryStatement(configuration, units: units).description
    for line in statement.split(separator: "\n") { logger.info("\(line)") }
    for caution in configuration.cautions { logger.warning("\(caution)") }
    if geteuid() == 0 { logger.warning("\(ServeCommand.rootWarning)") }
    tell(configuration.tls.findings, logger)
    let watch = RelayWatch { Preflight(configuration, at: downstream.current) }
    if configuration.downstream.allowsOpenRelay {
      logger.warning(
        "downstream.allow_open_relay is yes: the downstream is not tested for open relaying")
    } else {
      // Ten seconds at most, twenty if it does not fit together; no client is taken before.
      let preflight = ask(
        configuration, found, isGuarded: configuration.isGuarded, watch, logger)
      if preflight.isOpenRelay && configuration.isGuarded { throw ExitCode(78) }
      if preflight.isMiswired && !startsMiswired {
        fail(
          "Not started, because no mail could be delivered. To start anyway: --no-preflight",
          configuration, logger)
        throw ExitCode(78)
      }
    }
    let service: Service
    do {
      service = try Service(settings, logger: logger)
    } catch {
      fail("\(error)", configuration, logger)
      throw ExitCode(error.exitCode)
    }
    for (listener, port) in zip(configuration.listeners, service.ports) {
      let host = listener.address.isIPv4 ? "\(listener.address)" : "[\(listener.address)]"
      StandardError.write(
        "sluice listens on \(host):\(port) (\(listener.role.name), tls \(listener.tls.rawValue)), downstream "
          + "\(configuration.downstream.text), mode \(configuration.policy.mode.name), "
          + "\(configuration.workers) worker\(configuration.workers == 1 ? "" : "s")")
    }
    StandardError.write("sluice ready")
    try attend(
      service, configuration, downstream, tls: settings.tls, watch: watch, signals: signals,
      sink: sink,
      logger: logger)
  }

  /// Asks the downstream whether it takes what it is told about clients, and whether it relays for strangers, and says
  /// what came of it. One that gives no answer is asked again later.
  private func ask(
    _ configuration: Daemon.Configuration, _ addresses: [Address], isGuarded: Bool,
    _ watch: RelayWatch, _ logger: Logger
  ) -> Preflight {
    heed(
      Preflight(configuration, at: addresses), configuration, isGuarded: isGuarded, watch, logger)
  }

  private func heed(
    _ preflight: Preflight, _ configuration: Daemon.Configuration, isGuarded: Bool,
    _ watch: RelayWatch, _ logger: Logger
  ) -> Preflight {
    tell(preflight, configuration, logger)
    if preflight.isOpenRelay && isGuarded { return preflight }
    watch.stop()
    if preflight.isOpen {
      let end = isGuarded ? "; if it relays for strangers, sluice will stop" : ""
      logger.notice("the downstream is probed again until it answers\(end)")
      watch.begin(after: preflight)
    }
    return preflight
  }

  private func tell(
    _ preflight: Preflight, _ configuration: Daemon.Configuration, _ logger: Logger
  ) {
    for sentence in preflight.sentences {
      switch sentence.level {
      case .good: logger.info("\(sentence.text)")
      case .warning: logger.warning("\(sentence.text)")
      case .error: fail(sentence.text, configuration, logger)
      }
    }
  }

  /// Says what is wrong in the log and, once, on standard error, where whoever starts it looks first.
  private func fail(_ text: String, _ configuration: Daemon.Configuration, _ logger: Logger) {
    logger.error("\(text)")
    if configuration.log.destination != .stderr { StandardError.write("error: \(text)") }
  }

  /// Waits for signals and for the workers' end.
  private func attend(
    _ service: Service, _ configuration: Daemon.Configuration, _ downstream: HostAddresses,
    tls: TLSContexts,
    watch: RelayWatch, signals: SignalQueue, sink: LogSink, logger: Logger
  ) throws {
    var tls = tls
    var certificates = CertificateWatch(configuration.tls, now: clock())
    var drainUntil: Date?
    var inForce = configuration
    let rereading = Rereading<Reread>()
    // An open relay was found behind us.
    var isRefused = false
    defer { watch.stop() }
    while true {
      let number = signals.next(milliseconds: rereading.isReading ? 10 : 200)
      switch number {
      case SIGHUP:
        downstream.lookUp()
        reread(
          rereading, started: configuration, inForce: inForce, at: downstream.current, logger)
      case SIGTERM where drainUntil == nil:
        logger.notice("draining: no new clients, \(drainSeconds) s for open transactions")
        drainUntil = Date(timeIntervalSinceNow: Double(drainSeconds))
        service.drain()
      case SIGTERM, SIGINT: service.stop()
      case SIGUSR1:
        do { try sink.reopen() } catch { logger.error("\(error)") }
      case SIGUSR2:
        service.refresh()
        for line in Statistics.lines(figures(service, certificates)) { logger.notice("\(line)") }
      default: break
      }
      if let (found, isWantedAgain) = rereading.take() {
        if let now = reload(
          found, service, started: configuration, tls: &tls, watch: watch, logger: logger)
        {
          inForce = now
          certificates = CertificateWatch(now.tls, now: clock())
        }
        if isWantedAgain {
          reread(
            rereading, started: configuration, inForce: inForce, at: downstream.current, logger)
        }
      }
      if rereading.isOverdue() {
        logger.error(
          """
          RELOAD has read for 30 seconds and is not done: a file may be on a server that does not answer. \
          The configuration in force stays until it is read
          """)
      }
      downstream.attend(isFailing: service.isDownstreamFailing, now: MonotonicClock.now())
      if let found = downstream.take(where: { isUsable($0, configuration, logger) }) {
        service.connect(to: found)
        let list = found.map { "[\($0)]" }.joined(separator: ", ")
        logger.notice("downstream.address: \(configuration.downstream.text) is at \(list) now")
        // Whether it relays there nobody knows yet.
        if !configuration.downstream.allowsOpenRelay { watch.begin(after: nil) }
      }
      if let found = watch.take(), drainUntil == nil {
        tell(found, configuration, logger)
        if found.isOpenRelay && inForce.isGuarded {
          isRefused = true
          let why = "mode enforce is refused in front of an open relay: sluice exits with status 78"
          fail("draining: \(why)", configuration, logger)
          drainUntil = Date(timeIntervalSinceNow: Double(drainSeconds))
          service.drain()
        }
      }
      if let drainUntil, Date() > drainUntil { service.stop() }
      if let warning = certificates.warning(now: clock()) { logger.warning("\(warning)") }
      if service.isDone { break }
      if let fault = service.fault {
        logger.critical("a worker stopped: \(fault)")
        service.stop()
        service.closeLog()
        throw ExitCode(71)
      }
    }
    for line in Statistics.lines(figures(service, certificates)) { logger.info("\(line)") }
    logger.notice("stopped")
    service.closeLog()
    if let fault = service.fault {
      logger.critical("a worker stopped: \(fault)")
      throw ExitCode(71)
    }
    if isRefused { throw ExitCode(78) }
  }

  /// Whether mail may go to an address that the downstream's name has now.
  private func isUsable(
    _ address: Address, _ configuration: Daemon.Configuration, _ logger: Logger
  ) -> Bool {
    guard let reason = configuration.circle(at: address) else { return true }
    logger.error("downstream.address: \(reason)")
    return false
  }

  /// Seconds since 1970: certificates end by the calendar.
  private func clock() -> Int64 { Int64(Date().timeIntervalSince1970) }

  private func figures(_ service: Service, _ certificates: CertificateWatch) -> Snapshot {
    var snapshot = service.snapshot
    snapshot.tlsCertificateDays = certificates.daysLeft(now: clock())
    return snapshot
  }

  /// Problems in the log, each at its own severity, which the log names. What speaks against certificates is nothing
  /// to stop for, whatever `check` makes of it.
  private func tell(_ problems: [Problem], _ logger: Logger) {
    for problem in problems {
      let level: Logger.Level = problem.severity == .error ? .error : .warning
      for line in problem.text(namingSeverity: false).split(separator: "\n") {
        logger.log(level: level, "\(line)")
      }
    }
  }

  /// What a reload has read, and asked of the downstream where that is to be known first.
  private struct Reread: Sendable {
    let configuration: Daemon.Configuration?
    let problems: [Problem]
    let preflight: Preflight?
  }

  private func reread(
    _ rereading: Rereading<Reread>, started: Daemon.Configuration,
    inForce: Daemon.Configuration, at addresses: [Address], _ logger: Logger
  ) {
    let (file, overrides) = (options.config, options.overrides)
    do throws(ThreadError) {
      _ = try rereading.begin {
        let (found, problems) = Daemon.Configuration.load(
          file: file, overrides: overrides, keeping: .lines)
        let losses = found?.losses(of: inForce) ?? []
        guard let found, losses.isEmpty else {
          return Reread(configuration: nil, problems: problems + losses, preflight: nil)
        }
        // From looking on to acting, or no longer told to look away: what is asked before a start with that.
        let isAsked = found.isGuarded && !inForce.isGuarded
        return Reread(
          configuration: found, problems: problems,
          preflight: isAsked ? Preflight(started, at: addresses) : nil)
      }
    } catch {
      logger.error("RELOAD failed: \(error)")
    }
  }

  /// - Returns: the configuration now in force, or nil if nothing has changed.
  private func reload(
    _ read: Reread, _ service: Service, started: Daemon.Configuration,
    tls: inout TLSContexts, watch: RelayWatch, logger: Logger
  ) -> Daemon.Configuration? {
    tell(read.problems, logger)
    guard let configuration = read.configuration else {
      logger.error("RELOAD failed: the running configuration is unchanged")
      return nil
    }
    tell(configuration.tls.findings, logger)
    if let preflight = read.preflight,
      heed(preflight, started, isGuarded: true, watch, logger).isOpenRelay
    {
      logger.error("RELOAD failed: the running configuration is unchanged")
      return nil
    }
    // The sockets are those of the start, and so are their roles: by their number in the new file an
    // inbound port could become an outbound one.
    var policy = configuration.enginePolicy
    policy.roles = started.listeners.map(\.role)
    policy.tls = started.listeners.map { listener in
      let asked = configuration.listeners.first { $0.text == listener.text }?.tls ?? listener.tls
      // One that is not in the file any more. Of TLS alone, it closes at once.
      return asked == .starttls && configuration.tls.certificates.isEmpty ? .off : asked
    }
    do {
      tls = try TLSContexts(
        configuration, listeners: started.listeners, modes: policy.tls,
        downstream: started.downstream, before: tls)
    } catch {
      logger.error("TLS: \(error.reason)")
      logger.error("RELOAD failed: the running configuration is unchanged")
      return nil
    }
    service.adopt(policy, tls)
    logger.notice(
      """
      RELOAD done: \(policy.access.rules.count) access rules, \
      \(policy.rates.rules.count) rate rules, \(configuration.tls.certificates.count) \
      certificate\(configuration.tls.certificates.count == 1 ? "" : "s"), mode \(policy.mode.name)
      """)
    let changed = [
      ("limits", configuration.limits != started.limits),
      ("workers", configuration.workers != started.workers),
      (
        "listeners",
        !configuration.listeners.elementsEqual(started.listeners) { $0.isOpenLike($1) }
      ),
      ("downstream", configuration.downstream != started.downstream),
      ("reputation.key_file", configuration.nameKey != started.nameKey),
      ("log", configuration.log != started.log),
    ].filter(\.1).map(\.0)
    if !changed.isEmpty {
      logger.warning(
        "changed, but in force only at the next start: \(changed.joined(separator: ", "))")
    }
    return configuration
  }
}

extension Daemon.Configuration {
  /// Whether it must not be in force in front of an open relay.
  fileprivate var isGuarded: Bool { policy.mode == .enforce && !downstream.allowsOpenRelay }
}

/// Whether held sockets are kept narrow here: the ring can set a direct descriptor's options since Linux
/// 6.7. Before that a client that floods a socket we do not read pins 131.8 KB.
func canWidenSockets() -> Bool {
  var name = utsname()
  guard uname(&name) == 0 else { return false }
  let release = withUnsafeBytes(of: name.release) {
    String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
  }
  let parts = release.split { !$0.isNumber }.prefix(2).compactMap { Int($0) }
  guard parts.count == 2 else { return false }
  return (parts[0], parts[1]) >= (6, 7)
}

/// Raises the soft limit on open files to the hard one.
func raiseDescriptorLimit() {
  var limit = rlimit()
  guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return }
  limit.rlim_cur = limit.rlim_max
  _ = setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
}

/// Signals as a queue: blocked in every thread, read where there is time for them.
struct SignalQueue {
  private let set: sigset_t

  init(_ numbers: [Int32]) {
    var set = sigset_t()
    sigemptyset(&set)
    for number in numbers { sigaddset(&set, number) }
    pthread_sigmask(SIG_BLOCK, &set, nil)
    self.set = set
  }

  /// The next signal, or nil after the time given.
  func next(milliseconds: Int) -> Int32? {
    var set = set
    var wait = timespec(tv_sec: milliseconds / 1_000, tv_nsec: milliseconds % 1_000 * 1_000_000)
    let number = sigtimedwait(&set, nil, &wait)
    return number > 0 ? number : nil
  }
}
