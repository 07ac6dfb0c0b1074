// SPDX-License-Identifier: Apache-2.0
//
// `sluice demo`: the whole arrangement in one process on loopback, for half a minute: an accept-and-count
// server, the shield in front of it, some bots and some honest senders, a live table, and at the end what
// it all came to. Nothing here is simulated: the sockets, the delays and the mail are real.

import ArgumentParser
import Daemon
import Flow
import Foundation
import Glibc
import Logging
import Shield
import Structures
import Suspicion

struct DemoCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "demo",
    abstract: "Show the shield at work on loopback: bots in front of it, mail through it.")

  @Option(help: "How long, in seconds. 5…600.")
  var seconds = 40

  @Option(help: "How many bots come in that time. 0…800.")
  var bots = 160

  @Option(help: "How many honest senders come, each with three messages. 0…100.")
  var senders = 12

  @Flag(help: "Print a line now and then instead of a live table.")
  var plain = false

  func validate() throws {
    guard (5...600).contains(seconds), (0...800).contains(bots), (0...100).contains(senders) else {
      throw ValidationError("--seconds 5…600, --bots 0…800, --senders 0…100")
    }
  }

  func run() throws {
    signal(SIGPIPE, SIG_IGN)
    raiseDescriptorLimit()
    let interrupts = SignalQueue([SIGINT, SIGTERM])
    var sinkOptions = SinkOptions()
    sinkOptions.listen = LoopbackEndpoint(port: 0)
    sinkOptions.rejectedRecipients = ["nobody"]
    let sink = Sink(sinkOptions)
    try sink.start()
    guard let sinkPort = sink.port else { throw ExitCode(71) }

    var policy = Policy(
      access: AccessTable.load(content: [], file: "").table,
      rates: RateTable.load(content: [], file: "").table)
    policy.mode = .enforce
    policy.hostname = "mx.demo.example"
    var limits = Limits()
    limits.connections = 4_000
    limits.sessions = 1_000
    limits.downstreamConnections = 500
    var settings = ServiceSettings(
      policy: policy, limits: limits,
      listeners: [ServiceSettings.Listener(address: Address(v4: 0x7F00_0001), port: 0)],
      downstream: (Address(v4: 0x7F00_0001), sinkPort), workers: 2,
      seed: UInt64.random(in: .min ... .max))
    settings.probeEvery = 5_000_000
    let log = FileManager.default.temporaryDirectory.appendingPathComponent("sluice-demo.log").path
    let lines = try LogSink(path: log, host: "demo")
    let logger = Logger(label: "smtpd") { label in LineLogHandler(component: label, sink: lines) }
    let service: Service
    do { service = try Service(settings, logger: logger) } catch {
      StandardError.write("\(error)")
      throw ExitCode(error.exitCode)
    }
    // The downstream is asked what it offers before the first client comes.
    usleep(300_000)
    let crowd = Crowd(target: LoopbackEndpoint(port: service.ports[0]))
    let kinds: [(ClientKind, Int)] = [
      (.impatient, 40), (.pregreeter, 20), (.nonSMTP, 10), (.harvester, 15), (.silent, 15),
    ]
    let arriving = Double(seconds) * 0.6
    for (kind, share) in kinds { crowd.launch(kind, count: bots * share / 100, over: arriving) }
    crowd.launch(.honest, count: senders, over: arriving / 2, messages: 3)

    let isLive = !plain && isatty(STDOUT_FILENO) == 1
    print(
      "The shield listens on 127.0.0.1:\(service.ports[0]); behind it a server that only counts, "
        + "on 127.0.0.1:\(sinkPort).\nIts log: \(log)\n")
    let start = Date()
    var drawn = 0
    var second = 0
    while Date().timeIntervalSince(start) < Double(seconds) {
      if interrupts.next(milliseconds: 250) != nil { break }
      let age = Date().timeIntervalSince(start)
      if isLive {
        let table = table(crowd, service, sink, age: age)
        if drawn > 0 { print("\u{1B}[\(drawn)A", terminator: "") }
        for line in table { print("\u{1B}[2K\(line)") }
        drawn = table.count
        fflush(nil)
      } else if Int(age) / 5 > second {
        second = Int(age) / 5
        for line in table(crowd, service, sink, age: age) { print(line) }
        print("")
        fflush(nil)
      }
    }
    let final = service.snapshot
    crowd.sendHome()
    summary(crowd, final, sink)
    service.stop()
    for _ in 0..<100 where !service.isDone { usleep(20_000) }
    service.closeLog()
    sink.stop()
  }

  private func table(_ crowd: Crowd, _ service: Service, _ sink: Sink, age: Double) -> [String] {
    let shield = service.snapshot.engine
    var lines = [
      "\(pad("", 18))\(pad("came", -7))\(pad("inside", -8))\(pad("banner", -8))\(pad("wait s", -8))"
        + "\(pad("sent", -7))\(pad("gave up", -9))\(pad("refused", -9))"
    ]
    for (kind, row) in crowd.board.snapshot {
      lines.append(
        pad(kind.name, 18) + pad("\(row.started)", -7) + pad("\(row.inside)", -8)
          + pad("\(row.banners)", -8) + pad(tenths(row.bannerSecondsMean), -8)
          + pad("\(row.delivered)", -7) + pad("\(row.left)", -9) + pad("\(row.refused)", -9))
    }
    lines.append("")
    lines.append(
      "shield  \(tenths(age)) s: \(shield.waiting) waiting for the banner, \(shield.dripping) in the "
        + "tarpit, \(shield.talking) talking; \(shield.drips) bytes dripped")
    lines.append(
      "behind  \(shield.links) connections now, \(shield.linksOpened) in all; "
        + "\(sink.counts.messages) messages taken")
    return lines
  }

  private func summary(_ crowd: Crowd, _ shield: Snapshot, _ sink: Sink) {
    let rows = crowd.board.snapshot
    let honest = rows.first { $0.kind == .honest }?.row ?? Scoreboard.Row()
    let bad = rows.filter { $0.kind != .honest }.map(\.row)
    let came = bad.reduce(0) { $0 + $1.started }
    let delivered = bad.reduce(0) { $0 + $1.delivered }
    let held = bad.reduce(0.0) { $0 + $1.secondsHeld }
    print("")
    print("What it came to")
    print(
      "  honest mail    \(honest.delivered) of \(senders * 3) messages delivered; the first of a "
        + "sender waited \(tenths(honest.bannerSecondsMax)) s for its banner at most")
    print(
      "  bots           \(came) came, \(delivered) got a message through; held for "
        + "\(tenths(held)) s in all, \(tenths(held / Double(max(came, 1)))) s each")
    print(
      "  the shield     \(shield.engine.accepted) connections, \(shield.engine.passed) let through, "
        + "\(shield.engine.tarpitted) tarpitted, \(shield.engine.drips) bytes dripped")
    print(
      "  the server     saw \(sink.counts.connections) connections and \(sink.counts.messages) "
        + "messages; bare line ends: \(sink.counts.bareLF + sink.counts.bareCR)")
    print("")
    print(
      "Next: scripts/run -- --downstream HOST:PORT   (it observes until you say --mode enforce)")
  }

  private func tenths(_ value: Double) -> String {
    let rounded = Int((value * 10).rounded())
    return "\(rounded / 10).\(rounded % 10)"
  }

  /// To the left for a positive width, to the right for a negative one.
  private func pad(_ text: String, _ width: Int) -> String {
    let space = String(repeating: " ", count: max(abs(width) - text.count, 0))
    return width > 0 ? text + space : space + text
  }
}
