// SPDX-License-Identifier: Apache-2.0
//
// `sluice demo`: the whole arrangement in one process on loopback, for less than a minute: an accept-and-count
// server, the shield in front of it, the bots and honest senders of a scenario, a live table, and at the end what
// it all came to, as a page. Nothing here is simulated: the sockets, the delays and the mail are real.

import ArgumentParser
import Daemon
import Flow
import Foundation
import Glibc
import Logging
import Personas
import Reports
import Shield
import Structures
import Suspicion

struct DemoCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "demo",
    abstract: "Show the shield at work on loopback: bots in front of it, mail through it.")

  @Option(help: "How long, in seconds; clients come in the first three fifths of it. 5…600.")
  var seconds = 40

  @Option(help: "Rates times so much. 0.1…20.")
  var scale = 1.0

  @Option(help: "All chances of the clients follow from it.")
  var seed: UInt64 = 1

  @Option(help: "Where the page goes. Default: a new folder for temporary files.")
  var html: String?

  @Flag(help: "Print a line each second instead of a live table.")
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
    raiseDescriptorLimit()
    let signals = SignalQueue([SIGINT, SIGTERM])
    let folder = try Self.folder()

    var sinkOptions = SinkOptions()
    sinkOptions.listen = LoopbackEndpoint(port: 0)
    sinkOptions.rejectedRecipients = ["nobody"]
    let sink = Sink(sinkOptions)
    try sink.start()
    guard let sinkPort = sink.port else { throw ExitCode(71) }
    let lists = Population(personas: kinds, scenario: plan, seed: seed, firstOctet: 127).listedLines
    let service = try shield(before: sinkPort, lists: lists, log: "\(folder)/sluice.log")
    // The downstream is asked what it offers before the first client comes.
    usleep(300_000)

    print(
      "The shield listens on 127.0.0.1:\(service.ports[0]); behind it a server that only counts, "
        + "on 127.0.0.1:\(sinkPort).\nIts log: \(folder)/sluice.log\n")
    var targets = FloodTargets()
    targets.v4 = FloodTarget("127.0.0.1:\(service.ports[0])")
    let settings = FloodSettings(
      targets: targets, personas: kinds, scenario: plan, seed: seed, recipient: "user@example.com",
      most: Self.most, seconds: Double(seconds), threads: 1)
    let watch = FloodWatch(settings, daemon: nil, quiet: false, isPlain: plain)
    watch.shield = { Self.look(service, sink, $0) }
    let client = FloodClient(settings)
    while !client.tally.isDone && client.fault == nil {
      if signals.next(milliseconds: 50) != nil { break }
      watch.look(client)
    }
    watch.end(client)
    let took = client.age
    service.refresh()
    let final = service.snapshot
    let (findings, checks) = client.stop()
    if let fault = client.fault {
      StandardError.write(fault)
      throw ExitCode(71)
    }

    var report = RunReport(
      kind: "real", scenario: "demo", configuration: "shipped defaults")
    report.seed = seed
    report.duration = min(plan.duration, took)
    report.took = took
    report.events = client.tally.events
    report.personas = findings
    report.samples = watch.samples
    report.checks = checks.all
    report.command = "sluice demo --seed \(seed)"
    summary(report, final, sink)
    service.stop()
    for _ in 0..<100 where !service.isDone { usleep(20_000) }
    service.closeLog()
    sink.stop()
    let page = html ?? "\(folder)/report.html"
    try HTMLReport.page([report]).write(toFile: page, atomically: true, encoding: .utf8)
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

  /// The shield as it ships, in force.
  private func shield(before port: UInt16, lists: String, log: String) throws -> Service {
    var policy = Policy(
      access: AccessTable.load(content: Array(lists.utf8), file: "lists of the demo").table,
      rates: RateTable.load(content: [], file: "").table)
    policy.mode = .enforce
    policy.hostname = "mx.demo.example"
    var limits = Limits()
    limits.connections = Self.most + 1_000
    limits.sessions = 1_000
    limits.downstreamConnections = 500
    var settings = ServiceSettings(
      policy: policy, limits: limits,
      listeners: [ListenerTerms(address: Address(v4: 0x7F00_0001), port: 0)],
      downstream: (Address(v4: 0x7F00_0001), port), workers: 2,
      seed: UInt64.random(in: .min ... .max))
    settings.probeEvery = 5_000_000
    let lines = try LogSink(path: log, host: "demo")
    let logger = Logger(label: "smtpd") { label in LineLogHandler(component: label, sink: lines) }
    do { return try Service(settings, logger: logger) } catch {
      StandardError.write("\(error)")
      throw ExitCode(error.exitCode)
    }
  }

  /// What the shield and the server behind know of this moment.
  private static func look(
    _ service: Service, _ sink: Sink, _ sample: Sample
  ) -> (sample: Sample, lines: [String]) {
    service.refresh()
    let engine = service.snapshot.engine
    var sample = sample
    sample.waiting = Int(engine.waiting)
    sample.dripping = Int(engine.dripping)
    sample.talking = Int(engine.talking)
    sample.downstream = Int(engine.links)
    return (
      sample,
      [
        "shield: \(engine.waiting) wait for the banner, \(engine.dripping) are in the tarpit, "
          + "\(engine.talking) talk; \(engine.drips) bytes dripped",
        "behind: \(engine.links) connections now, \(engine.linksOpened) in all; "
          + "\(sink.counts.messages) messages taken",
      ]
    )
  }

  private func summary(_ report: RunReport, _ shield: Snapshot, _ sink: Sink) {
    var mail = PersonaFindings(id: "", name: "", kind: "")
    var bots = mail
    for found in report.personas {
      if found.kind == "sender" { mail.add(found) } else { bots.add(found) }
    }
    let left = bots.endings.filter { $0.key.hasPrefix("left") }.reduce(0) { $0 + $1.value }
    func wait(_ q: Double) -> String {
      let tenths = Int((mail.delay.total > 0 ? mail.delay.quantile(q) * 10 : 0).rounded())
      return "\(tenths / 10).\(tenths % 10) s"
    }
    print("")
    print("What it came to")
    print(
      "  honest mail    \(mail.delay.total) of \(mail.clients) messages arrived, half of them within "
        + "\(wait(0.5)), the slowest after \(wait(1))")
    print(
      "  bots           \(bots.connections) connections: \(left) left because of the wait, "
        + "\(bots.letThrough) reached the server")
    print(
      "  the shield     \(shield.engine.tarpitted) tarpitted, \(shield.engine.drips) bytes dripped to "
        + "them, one at a time")
    print(
      "  the server     saw \(sink.counts.connections) connections and \(sink.counts.messages) messages"
    )
    print("")
    print(
      "Next: scripts/run -- --downstream HOST:PORT   (it observes until you say --mode enforce)")
  }
}
