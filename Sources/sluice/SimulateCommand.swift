// SPDX-License-Identifier: Apache-2.0
//
// `sluice simulate`: the engine and a scenario in virtual time. Here are its options and what it prints; the
// runs are arranged in Lab, the kinds of clients are files (tuning/personas).

import ArgumentParser
import Configuration
import Foundation
import Lab
import Personas
import Reports
import Simulator
import Structures
import Suspicion

struct SimulateCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "simulate",
    abstract: "Simulate a scenario with your configuration, in virtual time.",
    discussion: """
      Runs the real engine with a real configuration and a scenario's clients. The same seed gives the same \
      run, to the last byte, on any machine. Exits with status 1 if a guarantee was violated or a headline missed \
      its range. In a sweep honest mail may be lost, because that is what the sweep measures.
      """)

  @Option(help: "The scenario: a file, or the name of a built-in one, such as mix-2025.")
  var scenario = "mix-2025"

  @Option(help: "A folder of personas, instead of the built-in ones.")
  var personas: String?

  @OptionGroup var options: ConfigurationOptions

  @Option(help: "Random seed.")
  var seed: UInt64 = 1

  @Option(help: "Duration in seconds, instead of the scenario's.")
  var duration: Double?

  @Option(help: "Multiply all arrival rates by this factor.")
  var scale = 1.0

  @Option(
    help:
      """
      Seconds to continue after the scenario's end, for retries of honest mail. Default: 6 days. Bots that retry \
      forever stop when the scenario ends. A run has 49 days at most.
      """
  )
  var after: Double = 6 * 86_400

  @Option(
    help:
      "Print everything about one client's connections: its number, from 1. With --sweep, for the first value."
  )
  var trace: UInt32?

  @Option(
    help: """
      Try a range of delays for a stage: banner=0..310, or banner=0..60/5 in steps of 5 s. Stages: banner, helo, mail, \
      rcpt, rcpt_rejected, data.
      """)
  var sweep: String?

  @Option(
    help: "With --sweep: write the results of each persona at each value to this file as CSV.")
  var csv: String?

  @Option(help: "Compare with this second configuration file.")
  var compare: String?

  @Flag(help: "Reproduce the published results H1 to H12.")
  var headlines = false

  @Option(help: "Run random worlds for this many minutes.")
  var swarm: Double?

  @Option(help: "Run this many random worlds, starting with --seed: the same ones each time.")
  var swarmWorlds: UInt64?

  @Option(help: "With --headlines and --swarm…: write the results to this file as JUnit XML.")
  var junit: String?

  @Option(help: "Run the random world with this seed.")
  var swarmSeed: UInt64?

  @Option(
    help: """
      Whether the scenario's block lists are loaded as the access table: on, off, or both side by side. No \
      lists ship. Default: both if the scenario has lists; off with --sweep and --trace.
      """)
  var lists: ListsChoice?

  @OptionGroup var files: ReportFiles

  @Flag(help: "Do not also run the scenario without Sluice for comparison.")
  var noBaseline = false

  func run() throws {
    let kinds = try loadPersonas(personas)
    let (configuration, exitCode) = options.load()
    guard let configuration else { throw ExitCode(exitCode) }
    if let swarmSeed { return try oneWorld(swarmSeed, kinds, configuration) }
    if let swarmWorlds { return try worlds(.number(swarmWorlds), kinds, configuration) }
    if let swarm { return try worlds(.minutes(swarm), kinds, configuration) }
    if headlines { return try printHeadlines(kinds, configuration) }
    var plan = try loadScenario(scenario, kinds)
    if let duration { plan.duration = duration }
    for entry in plan.entries.indices { plan.entries[entry].rate *= scale }
    var base = simulation(kinds, plan, configuration, of: options.config)
    if trace != nil || sweep != nil {
      if lists == .both {
        throw ValidationError("--lists both is for a run, without --sweep or --trace")
      }
      if lists != .on { base = base.withoutLists }
    }
    if let trace {
      if let sweep {
        let (stage, values) = try Self.parse(sweep: sweep)
        base.experiment.fix(stage, seconds: values[0])
      }
      return printTrace(base.experiment, of: trace)
    }
    if let sweep { return try runSweep(sweep, base.experiment) }
    try runAndReport(base)
  }

  private func simulation(
    _ kinds: [Persona], _ plan: Scenario, _ configuration: Configuration, of file: String?
  ) -> SimulationRun {
    // Whoever names the mode gets it.
    SimulationRun(
      file: file, configuration, keepsMode: options.mode != nil, personas: kinds, scenario: plan,
      seed: seed, after: after)
  }

  // MARK: One run, or several

  private func runAndReport(_ base: SimulationRun) throws {
    var runs = base.runs(lists ?? .both)
    if let compare {
      // What is written over the one file is written over the other.
      let (configuration, exitCode) = options.load(file: compare)
      guard let configuration else { throw ExitCode(exitCode) }
      let other = simulation(
        base.experiment.personas, base.experiment.scenario, configuration, of: compare)
      runs += other.runs(lists ?? .both)
    }
    let experiments = runs.map(\.experiment)
    var reports =
      noBaseline ? SideBySide.run(experiments) : SideBySide.runWithBaseline(experiments)
    for (k, run) in runs.enumerated() {
      let words = base.hasLists ? ["--lists \(run.hasLists ? "on" : "off")"] : []
      reports[k].command = command(file: run.file, words)
    }
    print(TerminalReport.text(reports, color: isatty(STDOUT_FILENO) == 1))
    try write(reports, page: HTMLReport.page(reports))
    let broken = reports.contains { $0.checks.contains { $0.broken > 0 } }
    if broken { throw ExitCode(1) }
  }

  /// What does the same run again.
  private func command(file: String?, _ more: [String] = []) -> String {
    var words = ["sluice simulate --scenario \(Self.quoted(scenario))"] + more
    words.append("--seed \(seed)")
    words += world(file: file)
    if let duration { words.append("--duration \(duration)") }
    if scale != 1 { words.append("--scale \(scale)") }
    if after != 6 * 86_400 { words.append("--after \(after)") }
    return words.joined(separator: " ")
  }

  /// The options that every run depends on.
  private func world(file: String?) -> [String] {
    var words: [String] = []
    if let personas { words.append("--personas \(Self.quoted(personas))") }
    if let file { words.append("--config \(Self.quoted(file))") }
    if let mode = options.mode { words.append("--mode \(mode)") }
    if let table = options.access { words.append("--access \(Self.quoted(table))") }
    // It stands in the banner, so it decides how many bytes a drip has.
    if let name = options.hostname { words.append("--hostname \(Self.quoted(name))") }
    return words
  }

  /// As a shell takes it for one word.
  static func quoted(_ word: String) -> String {
    let plain = word.utf8.allSatisfy {
      switch $0 {
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
        UInt8(ascii: "0")...UInt8(ascii: "9"):
        true
      default: "-_./=,:+@%".utf8.contains($0)
      }
    }
    if plain && !word.isEmpty { return word }
    return "'" + word.replacingOccurrences(of: "'", with: "'\\''") + "'"
  }

  private func write(_ reports: [RunReport], page: @autoclosure () -> String) throws {
    try files.write(reports, page: page())
    if let html = files.html { print("report: \(html)") }
  }

  private func printTrace(_ base: Experiment, of client: UInt32) {
    var world = base.world()
    world.traced = client
    world.run(after: base.after)
    for line in world.lines { print(line) }
    if world.lines.isEmpty { print("there is no client \(client) in this run") }
  }

  // MARK: Sweep

  private func runSweep(_ text: String, _ base: Experiment) throws {
    let (stage, values) = try Self.parse(sweep: text)
    let found = SideBySide.sweep(
      base, stage, values,
      command: command(
        file: options.config,
        ["--sweep \(Self.quoted(text))"] + (lists == .on ? ["--lists on"] : [])))
    print(SweepReport.text(found))
    if let csv { try SweepReport.csv(found).write(toFile: csv, atomically: true, encoding: .utf8) }
    try write(found.points.map(\.report), page: SweepReport.page(found))
  }

  /// `banner=0..310/10`: the stage, and the values from the first to the last.
  static func parse(sweep text: String) throws -> (Stage, [Double]) {
    let parts = text.split(separator: "=", maxSplits: 1).map(String.init)
    guard parts.count == 2, let stage = Stage.allCases.first(where: { $0.name == parts[0] }) else {
      let names = Stage.allCases.map(\.name)
      let hint =
        parts.count == 2
        ? nearest(to: parts[0], among: names).map { "did you mean '\($0)'?" } : nil
      throw ValidationError(
        "'\(text)': "
          + (hint
            ?? "write STAGE=FROM..TO or STAGE=FROM..TO/STEP; stages: \(names.joined(separator: ", "))")
      )
    }
    let range = parts[1].split(separator: "/", maxSplits: 1).map(String.init)
    let ends = range[0].components(separatedBy: "..").compactMap(Double.init)
    guard ends.count == 2, ends[0] >= 0, ends[1] >= ends[0], ends[1] <= 600 else {
      throw ValidationError("'\(parts[1])': write FROM..TO in seconds, at most 600")
    }
    let step = range.count == 2 ? Double(range[1]) ?? 0 : max((ends[1] - ends[0]) / 30, 0.1)
    guard step > 0, (ends[1] - ends[0]) / step <= 1_000 else {
      throw ValidationError("the step must be above 0, and there may be 1,000 values at most")
    }
    var values = Array(stride(from: ends[0], through: ends[1], by: step))
    if let last = values.last, last < ends[1] - 1e-9 { values.append(ends[1]) }
    return (stage, values)
  }

  // MARK: Headlines

  private func printHeadlines(_ kinds: [Persona], _ configuration: Configuration) throws {
    let runs = HeadlineRuns(personas: kinds, policy: configuration.enginePolicy, seed: seed)
    for headline in runs.found { print(headline.text) }
    print(Headline.summary(runs.found, seed: seed))
    if let junit { try runs.junit.write(to: junit) }
    if runs.hasMissed { throw ExitCode(1) }
  }

  // MARK: Random worlds

  private func worlds(
    _ extent: RandomWorlds.Extent, _ kinds: [Persona], _ configuration: Configuration
  ) throws {
    let worlds = RandomWorlds(
      extent, from: seed, personas: kinds, policy: configuration.enginePolicy,
      options: world(file: options.config), print: { print($0) })
    print(worlds.text)
    if let junit { try worlds.junit.write(to: junit) }
    if worlds.failed > 0 { throw ExitCode(1) }
  }

  private func oneWorld(
    _ seed: UInt64, _ kinds: [Persona], _ configuration: Configuration
  ) throws {
    let run = Swarm.experiment(seed: seed, personas: kinds, policy: configuration.enginePolicy)
    var report = run.run()
    report.command = (["sluice simulate --swarm-seed \(seed)"] + world(file: options.config))
      .joined(separator: " ")
    print(TerminalReport.text(report, color: isatty(STDOUT_FILENO) == 1))
    try write([report], page: HTMLReport.page([report]))
    let names = Set(report.checks.filter { $0.broken > 0 }.map(\.name))
    if !names.subtracting([Checks().honest.name]).isEmpty { throw ExitCode(1) }
  }
}
