// SPDX-License-Identifier: Apache-2.0
import ConfigurationFixtures
import Foundation
import Logging
import Policy
import SMTP
import Shield
import SMTP
import Shield
import Structures
import Suspicion
import Synchronization
import TLS
import Testing
import Uring

@testable import Configuration
@testable import Driver
@testable import Service

/// Every order, and what becomes of it. The service under it is a real one, on loopback.
@Suite(.serialized)
struct SupervisorTests {
  /// The lines of a log.
  private final class Lines: Sendable {
    private let all = Mutex<[String]>([])

    func add(_ line: String) { all.withLock { $0.append(line) } }
    func has(_ text: String) -> Bool { all.withLock { $0.contains { $0.contains(text) } } }

    struct Handler: LogHandler {
      let lines: Lines
      var metadata: Logger.Metadata = [:]
      var logLevel = Logger.Level.info
      subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
      }
      func log(event: LogEvent) { lines.add("\(event.level): \(event.message)") }
    }
  }

  /// What the next reload reads.
  private final class Page: Sendable {
    let text: Mutex<String>
    init(_ text: String) { self.text = Mutex(text) }
  }

  private final class Stage {
    var supervisor: Supervisor
    let service: Service
    let lines: Lines
    let console: Lines
    let page: Page

    init(
      _ supervisor: consuming Supervisor, _ service: Service, lines: Lines, console: Lines,
      page: Page
    ) {
      self.supervisor = supervisor
      self.service = service
      self.lines = lines
      self.console = console
      self.page = page
    }

    /// Attends until a line is there.
    func attends(until text: String) -> Bool {
      for _ in 0..<2_000 {
        if supervisor.attend() != nil { return lines.has(text) }
        if lines.has(text) { return true }
        usleep(1_000)
      }
      return false
    }

    /// Attends until the service has ended.
    func end() -> Supervisor.Outcome? {
      for _ in 0..<5_000 {
        if let outcome = supervisor.attend() { return outcome }
        usleep(1_000)
      }
      return nil
    }
  }

  private static let shipped = """
    mode: observe
    hostname: mx.example.org
    listeners: [{address: "127.0.0.1:0"}]
    downstream: {address: "127.0.0.1:1", allow_open_relay: yes}
    limits: {connections: 64, sessions: 16, downstream_connections: 8}

    """

  private func stage(
    _ text: String = Self.shipped, drainSeconds: Int = 30, sink: LogSink = .standardError()
  ) throws -> Stage {
    var started = try #require(
      read(text.replacing("127.0.0.1:0", with: "127.0.0.1:25")).configuration)
    started.listeners = [
      Listener(address: Address(v4: 0x7F00_0001), port: 0, role: .inbound, text: "127.0.0.1:25")
    ]
    let (lines, console, page) = (Lines(), Lines(), Page(text))
    let logger = Logger(label: "test") { _ in Lines.Handler(lines: lines) }
    let announcer = Announcer(logger, echoesErrors: true, console: { console.add($0) })
    let home = Address(v4: 0x7F00_0001)
    var settings = ServiceSettings(
      policy: started.enginePolicy, limits: started.limits,
      servers: [started.downstream.server(at: [home])], workers: 1, seed: 1)
    settings.floodLines = 10
    let service = try Service(settings, logger: logger)
    let watch = RelayWatch { Preflight(Downstream(), []) }
    let supervisor = Supervisor(
      service, started, tls: TLSContexts(), downstream: HostAddresses("127.0.0.1", found: [home]),
      relayGuard: RelayGuard(watch, announcer),
      reloader: Reloader(started) {
        read(page.text.withLock { $0 }.replacing("127.0.0.1:0", with: "127.0.0.1:25"))
      }, sink: sink, announcer: announcer, drainSeconds: drainSeconds)
    return Stage(
      supervisor, service, lines: lines, console: console, page: page)
  }

  @Test("a report is answered with figures of now, and logged")
  func report() throws {
    let stage = try stage()
    let client = try #require(TestSocket.connect(to: stage.service.ports[0]))
    #expect(eventually { client.look().hasPrefix("220") })
    guard case .figures(let figures) = stage.supervisor.take(.report) else {
      Issue.record("no figures")
      return
    }
    #expect(figures.engine.accepted == 1 && figures.connections == 1)
    #expect(stage.lines.has("notice: STATS accepted=1"))
    #expect(stage.lines.has("STATS ring"))
    _ = stage.supervisor.take(.stop)
    #expect(stage.end()?.exitCode == 0)
    #expect(stage.lines.has("notice: stopped"))
  }

  @Test("a reload puts the new policy in force whole")
  func reload() throws {
    let stage = try stage()
    stage.page.text.withLock { $0 = $0.replacing("mx.example.org", with: "new.example.org") }
    guard case .begun = stage.supervisor.take(.reload) else {
      Issue.record("not begun")
      return
    }
    #expect(stage.attends(until: "RELOAD done: 0 access rules"))
    _ = stage.service.figures()
    let client = try #require(TestSocket.connect(to: stage.service.ports[0]))
    #expect(eventually { client.look().hasPrefix("220 new.example.org") })
    _ = stage.supervisor.take(.stop)
    #expect(stage.end()?.exitCode == 0)
  }

  @Test("a reload with an error changes nothing and says so")
  func badReload() throws {
    let stage = try stage()
    stage.page.text.withLock {
      $0 = $0.replacing("mx.example.org", with: "new.example.org") + "mod: 7\n"
    }
    _ = stage.supervisor.take(.reload)
    #expect(stage.attends(until: "error: RELOAD failed: the running configuration is unchanged"))
    let client = try #require(TestSocket.connect(to: stage.service.ports[0]))
    #expect(eventually { client.look().hasPrefix("220 mx.example.org") })
    #expect(!stage.lines.has("RELOAD done"))
    _ = stage.supervisor.take(.stop)
    #expect(stage.end()?.exitCode == 0)
  }

  @Test("what takes another start is named, and the rest is in force")
  func changedInVain() throws {
    let stage = try stage()
    stage.page.text.withLock { $0 = $0.replacing("sessions: 16", with: "sessions: 32") }
    _ = stage.supervisor.take(.reload)
    #expect(stage.attends(until: "changed, but in force only at the next start: limits"))
    _ = stage.supervisor.take(.stop)
    #expect(stage.end()?.exitCode == 0)
  }

  @Test("a drain has its time, and a second one stops at once")
  func drain() throws {
    let stage = try stage(drainSeconds: 600)
    let client = try #require(TestSocket.connect(to: stage.service.ports[0]))
    #expect(eventually { client.look().hasPrefix("220") })
    guard case .draining(seconds: 600) = stage.supervisor.take(.drain) else {
      Issue.record("does not drain")
      return
    }
    #expect(stage.lines.has("notice: draining: no new clients, 600 s for open transactions"))
    #expect(eventually { client.look().contains("421") })
    guard case .done = stage.supervisor.take(.drain) else {
      Issue.record("does not stop")
      return
    }
    #expect(stage.end()?.exitCode == 0)
  }

  @Test("a drain ends with its time, whoever is still there")
  func drainOver() throws {
    let stage = try stage(drainSeconds: 0)
    let client = try #require(TestSocket.connect(to: stage.service.ports[0]))
    #expect(eventually { client.look().hasPrefix("220") })
    _ = stage.supervisor.take(.drain)
    #expect(stage.end()?.exitCode == 0)
  }

  @Test(
    "an open relay that is found ends a service that enforces, with 78; one that looks on goes on",
    arguments: [("enforce", true), ("observe", false)])
  func openRelay(mode: String, ends: Bool) throws {
    let stage = try stage(
      Self.shipped.replacing("observe", with: mode).replacing(", allow_open_relay: yes", with: ""),
      drainSeconds: 0)
    let found = Preflight(
      Downstream(), [.init(client: .stranger, isSure: true, outcome: .init(.relays("250 ok")))])
    let answer = stage.supervisor.take(.heed(found))
    #expect(stage.lines.has("error: OPEN RELAY"))
    if ends {
      guard case .draining = answer else {
        Issue.record("goes on")
        return
      }
      #expect(stage.console.has("error: draining: mode enforce is refused"))
    } else {
      _ = stage.supervisor.take(.stop)
    }
    #expect(stage.end()?.exitCode == (ends ? 78 : 0))
  }

  @Test("a downstream that moved is told, and mail goes there")
  func moved() throws {
    let stage = try stage()
    guard case .done = stage.supervisor.take(.connect([Address(v4: 0x7F00_0002)])) else {
      Issue.record("refused")
      return
    }
    #expect(stage.lines.has("notice: downstream.address: 127.0.0.1:1 is at [127.0.0.2] now"))
    _ = stage.supervisor.take(.stop)
    #expect(stage.end()?.exitCode == 0)
  }

  @Test("a log that cannot be opened anew is an answer and a line, and the old one goes on")
  func reopen() throws {
    let folder = try Folder()
    let path = "\(folder.path)/log/sluice.log"
    try folder.write("log/keep", "")
    let stage = try stage(sink: try LogSink(path: path, host: "mx"))
    guard case .done = stage.supervisor.take(.reopenLog) else {
      Issue.record("refused")
      return
    }
    try FileManager.default.removeItem(atPath: "\(folder.path)/log")
    guard case .refused = stage.supervisor.take(.reopenLog) else {
      Issue.record("not refused")
      return
    }
    _ = stage.supervisor.take(.stop)
    #expect(stage.end()?.exitCode == 0)
  }

  @Test("orders are taken as they come, until the service has ended")
  func run() throws {
    let stage = try stage()
    var orders: [Order] = [.report, .stop]
    let outcome = stage.supervisor.run { milliseconds in
      #expect((1...200).contains(milliseconds))
      usleep(1_000)
      return orders.isEmpty ? nil : orders.removeFirst()
    }
    #expect(outcome.exitCode == 0 && stage.lines.has("STATS") && stage.lines.has("stopped"))
  }
}
