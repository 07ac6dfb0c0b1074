// SPDX-License-Identifier: Apache-2.0
//
// `sluice flood run`: the personas of a scenario on real sockets. Here are its options, its attendant, who draws
// the table and takes a sample each second, and its report; the clients are Clients/FloodClient.swift. It loads
// what it may load (Clients/FloodTarget.swift), for so long and with so many as it was told, and stops by itself.

import ArgumentParser
import Configuration
import Foundation
import Glibc
import Lab
import Personas
import Reports
import Structures
import Uring

struct FloodRunCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "run",
    abstract: "Run a scenario's clients against a server, and report the result.",
    discussion: """
      The server may be Sluice or any other. Each client has its own source address: 127.x.y.z for \
      an IPv4 loopback target; ::1, the only one, for [::1]; in a network namespace made by \
      scripts/flood also fd00::/8 and 10.0.0.0/8. Ends when no client is connected and none will come, after \
      --seconds, on SIGTERM or SIGINT, always with a report. Exits with status 1 if a guarantee was violated or honest mail \
      was lost.
      """)

  @Argument(
    help: ArgumentHelp(
      "127.x.y.z:PORT or [::1]:PORT; or one of each family.", valueName: "target"))
  var targets: [String]

  @Option(help: "The scenario: a file, or the name of a built-in one, such as flood-10k.")
  var scenario = "flood-10k"

  @Option(help: "A folder of personas, instead of the built-in ones.")
  var personas: String?

  @Option(help: "Random seed.")
  var seed: UInt64 = 1

  @Option(help: "Multiply all arrival rates by this factor. 0.001…1000.")
  var scale = 1.0

  @Option(help: "Time limit in seconds. Default: the scenario's duration. 1…3600.")
  var seconds: Double?

  @Option(help: "Simultaneous connections at most. 1…200000.")
  var mostConnections = 20_000

  @Option(help: "Threads, each with an equal part of the clients. 1…4.")
  var threads = 1

  @Option(help: "A recipient address that the server accepts.")
  var recipient = "user@example.com"

  @Option(
    help: "Process ID of the server: the report includes its memory and CPU, sampled every second.")
  var daemon: Int32?

  @Option(
    help: "Process ID of the mail server behind Sluice: its connections are counted every second.")
  var behind: Int32?

  @Option(help: "Name of the server's configuration in the report.")
  var label: String?

  @Flag(
    help: """
      The server uses the output of --print-lists as its access table: the report then mentions the lists.
      """)
  var withLists = false

  @Option(
    help: "JSON file (--json) of an earlier run of the scenario, to show beside this one.")
  var beside: String?

  @OptionGroup var files: ReportFiles

  @Flag(help: "Print only the report.")
  var quiet = false

  @Flag(
    help: "Print the scenario's block lists as an access table, and exit.")
  var printLists = false

  @Flag(
    help: "This is a dedicated network namespace, where fd00::/8 and 10.0.0.0/8 are free to use."
  )
  var namespace = false

  @Flag(
    name: .customLong("i-own-this-server-and-may-load-it"),
    help: """
      Use a server on another machine. All connections then come from this machine's own address. Loading a server \
      without its owner's permission does harm, and may be a crime.
      """)
  var ownsServer = false

  func validate() throws {
    func need(_ holds: Bool, _ sentence: String) throws {
      if !holds { throw ValidationError(sentence) }
    }
    try need((1...2).contains(targets.count), "give one target, or one IPv4 and one IPv6 target")
    for text in targets {
      guard let target = FloodTarget(text) else {
        throw ValidationError("'\(text)': write 127.0.0.1:PORT or [::1]:PORT, port 1…65535")
      }
      if let objection = target.objection(isInNamespace: namespace), !ownsServer {
        throw ValidationError(objection)
      }
    }
    try need(parsed != nil, "two targets must be one of IPv4 and one of IPv6")
    try need((0.001...1_000).contains(scale), "--scale takes 0.001…1000")
    try need((1...3_600).contains(seconds ?? 1), "--seconds takes 1…3600")
    try need((1...200_000).contains(mostConnections), "--most-connections takes 1…200000")
    try need((1...4).contains(threads), "--threads takes 1…4")
    // It becomes part of a command line of SMTP.
    let isPlain = recipient.utf8.allSatisfy { $0 > 32 && $0 < 127 && $0 != 60 && $0 != 62 }
    try need(
      isPlain && recipient.utf8.count <= 200 && recipient.contains("@"),
      "--recipient takes an address like user@example.com")
    for (option, process) in [("--daemon", daemon), ("--behind", behind)] {
      guard let process else { continue }
      try need(
        ProcessSample(process: process).look() != nil, "\(option): there is no process \(process)")
    }
  }

  private var parsed: FloodTargets? {
    let list = targets.compactMap { FloodTarget($0) }
    var found = FloodTargets()
    found.v4 = list.first { $0.address.isIPv4 }
    found.v6 = list.first { !$0.address.isIPv4 }
    if list.count == 2 && (found.v4 == nil || found.v6 == nil) { return nil }
    // Our made-up addresses are no one's where packets leave the machine.
    found.bindsSources = list.allSatisfy { $0.objection(isInNamespace: namespace) == nil }
    return found
  }

  func run() throws {
    guard let targets = parsed else { throw ExitCode(64) }
    let kinds = try loadPersonas(personas)
    var plan = try loadScenario(scenario, kinds)
    let length = min(seconds ?? plan.duration, 3_600)
    plan.duration = min(plan.duration, length)
    for entry in plan.entries.indices {
      plan.entries[entry].rate *= scale
      plan.entries[entry].atOnce = Int((Double(plan.entries[entry].atOnce) * scale).rounded())
    }
    if printLists {
      let population = Population(
        personas: kinds, scenario: plan, seed: seed, firstOctet: targets.firstOctet)
      return print(population.listedLines, terminator: "")
    }
    let signals = SignalQueue([SIGTERM, SIGINT])
    signal(SIGPIPE, SIG_IGN)
    DescriptorLimit.raise()
    let settings = FloodSettings(
      targets: targets, personas: kinds, scenario: plan, seed: seed, recipient: recipient,
      most: mostConnections, seconds: length, threads: threads)
    let watch = FloodWatch(settings, daemon: daemon, behind: behind, quiet: quiet)
    let client = FloodClient(settings)
    while !client.tally.isDone && client.fault == nil {
      if signals.next(milliseconds: 50) != nil {
        watch.interrupted()
        break
      }
      watch.look(client)
    }
    let report = RunReport(
      of: client, watch, settings, configuration: label ?? "what runs there",
      lists: withLists ? plan.listedAre : "", command: command)
    try write(report, watch.remarks(client))
    if let fault = client.fault {
      StandardError.write(fault)
      throw ExitCode(71)
    }
    if report.checks.contains(where: { $0.broken > 0 }) { throw ExitCode(1) }
  }

  private var command: String {
    var words = ["sluice flood run"] + targets + ["--scenario \(scenario)", "--seed \(seed)"]
    if scale != 1 { words.append("--scale \(scale)") }
    if let seconds { words.append("--seconds \(seconds)") }
    return words.joined(separator: " ")
  }

  private func write(_ report: RunReport, _ remarks: [String]) throws {
    let color = isatty(STDOUT_FILENO) == 1
    print(TerminalReport.text(report, color: color))
    for line in remarks { print(line) }
    let all = try beside.map { [try FloodCompareCommand.read($0), report] } ?? [report]
    if all.count > 1 {
      print("")
      print("Both runs side by side")
      print(TerminalReport.outcome(all, color: color))
    }
    try files.write([report], page: HTMLReport.page(all))
    fflush(nil)
  }
}
