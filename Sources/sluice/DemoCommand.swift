// SPDX-License-Identifier: Apache-2.0
//
// `sluice demo`: the whole arrangement in one process on loopback, for less than a minute: the bots and honest senders
// of a scenario in front of accept-and-count servers, a live table, and at the end what it all came to, as a page.
// Three arrangements stand side by side and meet the same clients: a server without Sluice, one behind Sluice as it
// ships, and one behind Sluice with the block lists that the scenario assumes and that do not ship. Nothing here is
// simulated: the sockets, the delays and the mail are real, and each figure is that of its own arrangement.

import ArgumentParser
import Configuration
import Lab
import Driver
import Service
import Flow
import Foundation
import Glibc
import Logging
import Personas
import Policy
import Reports
import Shield
import Structures
import Suspicion
import Uring

struct DemoCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "demo",
    abstract: "Show Sluice at work on loopback, with bots and honest mail.",
    discussion: """
      The same clients connect to three servers at once: one without Sluice, one behind Sluice as shipped in \
      enforce mode, and one behind Sluice with the scenario's block lists, which do not ship.
      """)

  @Option(help: "Duration in seconds; clients arrive in the first three fifths. 5…600.")
  var seconds = 40

  @Option(help: "Multiply all arrival rates by this factor. 0.1…20.")
  var scale = 1.0

  @Option(help: "Random seed.")
  var seed: UInt64 = 1

  @Option(help: "Write the HTML report to this file. Default: a new temporary folder.")
  var html: String?

  @Flag(help: "Print a line every second instead of a live table.")
  var plain = false

  /// Connections at a time; the shield holds as many and some more.
  private static let most = 3_000

  func validate() throws {
    guard (5...600).contains(seconds), (0.1...20).contains(scale) else {
      throw ValidationError("--seconds 5…600, --scale 0.1…20")
    }
  }

  func run() throws {
    let kinds = try loadPersonas(nil)
    var plan = try loadScenario("demo", kinds)
    plan.duration = Double(seconds) * 0.6
    for entry in plan.entries.indices { plan.entries[entry].rate *= scale }
    signal(SIGPIPE, SIG_IGN)
    DescriptorLimit.raise()
    let signals = SignalQueue([SIGINT, SIGTERM])
    let folder = try Self.folder()

    let lists = Population(personas: kinds, scenario: plan, seed: seed, firstOctet: 127).listedLines
    var settings = FloodSettings(
      targets: FloodTargets(), personas: kinds, scenario: plan, seed: seed,
      recipient: "user@example.com", most: Self.most, seconds: Double(seconds), threads: 1)
    settings.scenario.listedAre = ""
    let bare = try Arrangement(settings, lists: nil, log: folder)
    let shipped = try Arrangement(settings, lists: "", log: "\(folder)/sluice.log")
    settings.scenario.listedAre = plan.listedAre
    let listed = try Arrangement(settings, lists: lists, log: "\(folder)/sluice-with-lists.log")
    let all = [bare, shipped, listed]
    // The downstream is asked what it offers before the first client comes.
    usleep(300_000)

    print(
      "Sluice as shipped, in enforce mode, listens on 127.0.0.1:\(shipped.port); its log: \(folder)/sluice.log\n"
        + "The same clients connect to a server without Sluice, and to Sluice with block lists, on "
        + "127.0.0.1:\(bare.port) and \(listed.port).\n")
    for one in all { one.begin(quiet: one !== shipped, plain: plain) }
    shipped.beside = { [bare.words("without Sluice"), listed.words("with lists")] }
    while all.contains(where: { !$0.isDone }) {
      if signals.next(milliseconds: 50) != nil { break }
      for one in all { one.look() }
    }
    var reports = try all.map { try $0.report("sluice demo --seed \(seed)") }
    let without = reports.removeFirst()
    for k in reports.indices {
      reports[k].without = without.reach
      for (n, sample) in without.samples.enumerated() where n < reports[k].samples.count {
        reports[k].samples[n].downstreamWithout = sample.downstream
      }
    }
    summary(reports, shipped)
    for one in all { one.stop() }
    let page = html ?? "\(folder)/report.html"
    try HTMLReport.page(reports).write(toFile: page, atomically: true, encoding: .utf8)
    print("report: \(page)")
  }

  /// A folder that nobody else can have prepared.
  private static func folder() throws -> String {
    let place = FileManager.default.temporaryDirectory.path
    var path = Array("\(place)/sluice-demo.XXXXXX".utf8CString)
    guard let made = mkdtemp(&path) else {
      StandardError.write("no folder in \(place): \(String(cString: strerror(errno)))")
      throw ExitCode(73)
    }
    return String(cString: made)
  }

  private func summary(_ reports: [RunReport], _ shipped: Arrangement) {
    var mail = PersonaFindings(id: "", name: "", kind: "sender")
    for found in reports[0].personas where found.kind == "sender" { mail.add(found) }
    func wait(_ q: Double) -> String {
      let tenths = Int((mail.delay.total > 0 ? mail.delay.quantile(q) * 10 : 0).rounded())
      return "\(tenths / 10).\(tenths % 10) s"
    }
    print("")
    print("Result of the demo")
    print(TerminalReport.outcome(reports, color: isatty(STDOUT_FILENO) == 1))
    print("As shipped:")
    print(
      "  honest mail    \(mail.delay.total) of \(mail.clients) messages arrived, half within "
        + "\(wait(0.5)), the slowest after \(wait(1))")
    let engine = shipped.engine
    print(
      "  the shield     \(engine.tarpitted) tarpitted, \(engine.drips) bytes dripped to them, one at a time"
    )
    print("")
    print(
      "The lists are the scenario's: listed bots are `bad` in the access table. No lists ship with Sluice."
    )
    print(
      "Next: scripts/run -- --downstream HOST:PORT   (observes only, without --mode enforce)")
  }
}

/// A server that takes mail, Sluice in front of it or not, and its clients.
private final class Arrangement {
  private let settings: FloodSettings
  private let sink: Sink
  private let service: Service?
  let port: UInt16
  private var client: FloodClient?
  private var watch: FloodWatch?
  /// What else the live table says.
  var beside: () -> [String] = { [] }

  /// - Parameter lists: an access table; nil for no Sluice.
  init(_ settings: FloodSettings, lists: String?, log: String) throws {
    var settings = settings
    var options = SinkOptions()
    options.listen = LoopbackEndpoint(port: 0)
    options.rejectedRecipients = ["nobody"]
    sink = Sink(options)
    try sink.start()
    guard let sinkPort = sink.port else { throw ExitCode(71) }
    service = try lists.map {
      try Self.shield(before: sinkPort, lists: $0, log: log, settings.most)
    }
    port = service.map { UInt16($0.ports[0]) } ?? sinkPort
    settings.targets.v4 = FloodTarget("127.0.0.1:\(port)")
    self.settings = settings
  }

  /// The shield as it ships, in force.
  private static func shield(
    before port: UInt16, lists: String, log: String, _ most: Int
  ) throws -> Service {
    var policy = Policy(
      access: AccessTable.load(content: Array(lists.utf8), file: "lists of the demo").table,
      rates: RateTable.load(content: [], file: "").table)
    policy.mode = .enforce
    policy.hostname = "mx.demo.example"
    var limits = Limits()
    limits.connections = most + 1_000
    limits.sessions = 1_000
    limits.downstreamConnections = 500
    let home = Address(v4: 0x7F00_0001)
    policy.listeners = [ListenerTerms(address: home, port: 0)]
    let server = Server(DownstreamTerms(probeEvery: 5_000_000), at: [home], port: port)
    let settings = ServiceSettings(
      policy: policy, limits: limits, servers: [server], workers: 2,
      seed: UInt64.random(in: .min ... .max))
    let lines = try LogSink(path: log, host: "demo")
    let logger = Logger(label: "smtpd") { label in LineLogHandler(component: label, sink: lines) }
    do { return try Service(settings, logger: logger) } catch {
      StandardError.write("\(error)")
      throw ExitCode(error.exitCode)
    }
  }

  /// The clients come.
  func begin(quiet: Bool, plain: Bool) {
    let watch = FloodWatch(settings, daemon: nil, quiet: quiet, isPlain: plain)
    watch.shield = { [unowned self] in look($0) }
    self.watch = watch
    client = FloodClient(settings)
  }

  var isDone: Bool { client.map { $0.tally.isDone || $0.fault != nil } ?? false }

  func look() {
    if let client, !isDone { watch?.look(client) }
  }

  /// What the shield and the server behind know of this moment.
  private func look(_ sample: Sample) -> (sample: Sample, lines: [String]) {
    var sample = sample
    // Without Sluice each client is the server's.
    guard service != nil else {
      sample.downstream = sample.held
      return (sample, [])
    }
    let engine = engine
    sample.waiting = Int(engine.waiting)
    sample.dripping = Int(engine.dripping)
    sample.talking = Int(engine.talking)
    sample.downstream = Int(engine.links)
    return (
      sample,
      [
        "shield: \(engine.waiting) waiting for the banner, \(engine.dripping) are in the tarpit, "
          + "\(engine.talking) talk; \(engine.drips) bytes dripped",
        words("behind"),
      ] + beside()
    )
  }

  /// What its server has had so far.
  func words(_ name: String) -> String {
    "\(name): \(client?.tally.letThrough ?? 0) connections reached the server; "
      + "\(sink.counts.messages) messages taken"
  }

  var engine: Counters {
    service?.figures().engine ?? Counters()
  }

  /// What was found; the clients are gone.
  func report(_ command: String) throws -> RunReport {
    guard let client, let watch else { throw ExitCode(71) }
    let report = RunReport(
      of: client, watch, settings,
      configuration: service == nil ? "no shield" : "shipped defaults in mode enforce",
      lists: settings.scenario.listedAre, command: command)
    if let fault = client.fault {
      StandardError.write(fault)
      throw ExitCode(71)
    }
    return report
  }

  func stop() {
    service?.stop()
    for _ in 0..<100 where !(service?.isDone ?? true) { usleep(20_000) }
    service?.closeLog()
    sink.stop()
  }
}
