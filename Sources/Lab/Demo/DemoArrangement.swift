// SPDX-License-Identifier: Apache-2.0
// One of the demo's arrangements: a server that takes mail, Sluice in front of it or not, and clients of its own. It
// knows nothing of the others.

import Configuration
import Driver
import Flow
import Foundation
import Glibc
import Logging
import Personas
import Policy
import Service
import Shield
import Structures
import Suspicion
import TestServer

/// A server that takes mail, Sluice in front of it or not, and its clients.
final class DemoArrangement {
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
    options.script = ServerScript.of(settings.scenario.downstream)
    sink = Sink(options)
    try sink.start()
    guard let sinkPort = sink.port else {
      throw DemoFailure("the test server has no port", exitCode: 71)
    }
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
      throw DemoFailure("\(error)", exitCode: error.exitCode)
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
    guard let client, let watch else { invariantFailed("a report before the clients came") }
    let report = RunReport(
      of: client, watch, settings,
      configuration: service == nil ? "no shield" : "shipped defaults in mode enforce",
      lists: settings.scenario.listedAre, command: command)
    if let fault = client.fault { throw DemoFailure(fault, exitCode: 71) }
    return report
  }

  func stop() {
    service?.stop()
    for _ in 0..<100 where !(service?.isDone ?? true) { usleep(20_000) }
    service?.closeLog()
    sink.stop()
  }
}
