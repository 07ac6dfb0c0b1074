// SPDX-License-Identifier: Apache-2.0
//
// The start of a service, step by step, each with the words and the exit code it fails with: the log, the downstream's
// address, TLS, the questions to the downstream, sockets and workers. What runs then is the supervisor's.

package import Configuration
import Glibc
import Logging
import Policy
package import Structures
import TLS

package struct Launch: Sendable {
  /// What the command line decides beside the configuration.
  package struct Options: Sendable {
    /// How long to wait for open transactions on TERM, in seconds.
    package var drainSeconds: Int
    /// Start although the downstream does not take what it is told about clients.
    package var startsMiswired: Bool

    package init(drainSeconds: Int, startsMiswired: Bool) {
      self.drainSeconds = drainSeconds
      self.startsMiswired = startsMiswired
    }
  }

  private let configuration: Configuration
  private let options: Options
  private let sink: LogSink
  private let announcer: Announcer
  private let downstream: HostAddresses

  /// Nothing here needs root but a port below 1024, and a capability is enough for that.
  private static let rootWarning =
    "running as root, which is not needed: a fault in a public service could give strangers control of this machine. "
    + "Start it by its systemd unit, or as another user with one capability: setpriv --reuid=USER --regid=GROUP "
    + "--init-groups --inh-caps=+net_bind_service --ambient-caps=+net_bind_service sluice serve ..."

  /// Opens the log and looks the downstream up. Starts no thread, so that signals may still be blocked for all.
  ///
  /// - Parameter console: writes a line to standard error.
  package init(
    _ configuration: Configuration, _ options: Options,
    console: @escaping @Sendable (String) -> Void
  ) throws(Readiness.Obstacle) {
    self.configuration = configuration
    self.options = options
    do throws(LogFailure) {
      sink =
        switch configuration.log.destination {
        case .stderr: LogSink.standardError()
        case .file(let path): try LogSink(path: path, host: configuration.policy.hostname)
        }
    } catch {
      throw Readiness.Obstacle(text: "\(error)", exitCode: LogFailure.exitCode)
    }
    let level = Logger.Level(rawValue: configuration.log.level) ?? .info
    let logger = Logger(label: "smtpd") { [sink] label in
      LineLogHandler(component: label, sink: sink, level: level)
    }
    announcer = Announcer(
      logger, echoesErrors: configuration.log.destination != .stderr, console: console)
    downstream = HostAddresses(
      configuration.downstream.host, found: try configuration.downstreamAddresses())
  }

  /// Starts the service and runs it to its end.
  ///
  /// - Parameters:
  ///   - read: reads the configuration again.
  ///   - next: the next order, waited for that many milliseconds at most.
  /// - Returns: the process's exit status, by sysexits(3).
  package func run(
    rereading read: @escaping Reloader.Reading, _ next: (_ milliseconds: Int) -> Order?
  ) -> Int32 {
    let tls: TLSContexts
    do throws(TLSContextError) {
      tls = try TLSContexts(
        configuration, listeners: configuration.listeners,
        modes: configuration.listeners.map(\.tls), downstream: configuration.downstream)
    } catch {
      announcer.fail("TLS: \(error.reason)")
      return 78
    }
    sayWhatIsToBeKnown()
    let watch = RelayWatch { [configuration, downstream] in
      Preflight(configuration, at: downstream.current)
    }
    let relayGuard = RelayGuard(watch, announcer)
    defer { relayGuard.stop() }
    guard mayStart(relayGuard) else { return 78 }
    let service: Service
    do throws(ServiceError) {
      service = try Service(settings(tls), logger: announcer.logger)
    } catch {
      announcer.fail("\(error)")
      return error.exitCode
    }
    sayWhereItListens(service)
    var supervisor = Supervisor(
      service, configuration, tls: tls, downstream: downstream, relayGuard: relayGuard,
      reloader: Reloader(configuration, read), sink: sink, announcer: announcer,
      drainSeconds: options.drainSeconds)
    return supervisor.run(next).exitCode
  }

  private func settings(_ tls: TLSContexts) -> ServiceSettings {
    var settings = ServiceSettings(
      policy: configuration.enginePolicy, limits: configuration.limits,
      servers: [configuration.downstream.server(at: downstream.current)],
      workers: configuration.workers, seed: UInt64.random(in: .min ... .max))
    settings.secret = configuration.nameKey.map { ($0.high, $0.low) }
    settings.tls = tls
    settings.lookUps = configuration.lists.lookUps
    settings.floodLines = configuration.log.floodLinesPerSecond
    return settings
  }

  private func sayWhatIsToBeKnown() {
    let logger = announcer.logger
    var units = MemoryStatement.Units(.measured)
    if !canWidenSockets() { units.connectionKernel = 4_100 + 131_800 }
    let statement = MemoryStatement(configuration, units: units).description
    for line in statement.split(separator: "\n") { logger.info("\(line)") }
    for caution in configuration.cautions { logger.warning("\(caution)") }
    if geteuid() == 0 { logger.warning("\(Launch.rootWarning)") }
    announcer.tell(configuration.tls.findings)
  }

  /// Asks the downstream whether it takes what it is told about clients, and whether it relays for strangers. Ten
  /// seconds at most, twenty if it does not fit together; no client is taken before.
  private func mayStart(_ relayGuard: RelayGuard) -> Bool {
    if configuration.downstream.allowsOpenRelay {
      announcer.logger.warning(
        "downstream.allow_open_relay is yes: the downstream is not tested for open relaying")
      return true
    }
    let preflight = Preflight(configuration, at: downstream.current)
    guard relayGuard.heed(preflight, isGuarded: configuration.isGuarded) else { return false }
    if preflight.isMiswired && !options.startsMiswired {
      announcer.fail(
        "Not started, because no mail could be delivered. To start anyway: --no-preflight")
      return false
    }
    return true
  }

  private func sayWhereItListens(_ service: Service) {
    for (listener, port) in zip(configuration.listeners, service.ports) {
      let host = listener.address.isIPv4 ? "\(listener.address)" : "[\(listener.address)]"
      announcer.say(
        "sluice listens on \(host):\(port) (\(listener.role.name), tls \(listener.tls.rawValue)), downstream "
          + "\(configuration.downstream.text), mode \(configuration.policy.mode.name), "
          + "\(configuration.workers) worker\(configuration.workers == 1 ? "" : "s")")
    }
    announcer.say("sluice ready")
  }
}

extension Configuration {
  /// Where the downstream is. Waits for the resolver.
  ///
  /// - Throws: if its name has no address, or if it is one of our own listeners.
  package func downstreamAddresses() throws(Readiness.Obstacle) -> [Address] {
    let found = addresses(of: downstream.host)
    if found.isEmpty {
      throw Readiness.Obstacle(
        text: "downstream.address: error: '\(downstream.host)' has no address: write a name that "
          + "resolves, or write its address", exitCode: 68)
    }
    if let reason = found.lazy.compactMap(circle).first {
      throw Readiness.Obstacle(
        text: "downstream.address: error: \(reason)\n  hint: \(Configuration.circleHint)",
        exitCode: 78)
    }
    return found
  }
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
