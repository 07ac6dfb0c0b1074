// SPDX-License-Identifier: Apache-2.0
//
// `sluice simulate`: the engine and a scenario in virtual time. Here are its options and what it prints; the
// world is the module Simulator, the kinds of clients are files (tuning/personas).

import ArgumentParser
import Configuration
import Lab
import Dispatch
import Foundation
import Personas
import Policy
import Reports
import Shield
import Simulator
import Structures
import Suspicion
import Synchronization

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
    var base = experiment(kinds, plan, configuration, named: options.config)
    if trace != nil || sweep != nil {
      if lists == .both {
        throw ValidationError("--lists both is for a run, without --sweep or --trace")
      }
      if lists != .on { base.scenario.listedAre = "" }
    }
    if let trace {
      if let sweep {
        let (stage, values) = try Self.parse(sweep: sweep)
        base.fix(stage, seconds: values[0])
      }
      return printTrace(base, of: trace)
    }
    if let sweep { return try runSweep(sweep, base) }
    try runAndReport(base)
  }

  private func experiment(
    _ kinds: [Persona], _ plan: Scenario, _ configuration: Configuration, named file: String?
  ) -> Experiment {
    var policy = configuration.enginePolicy
    // In observe nothing would happen; what is asked is what it would do. Whoever names the mode gets it.
    let isChanged = options.mode == nil && policy.mode != .enforce
    if isChanged { policy.mode = .enforce }
    var run = Experiment(
      personas: kinds, scenario: plan, policy: policy, limits: configuration.limits, seed: seed)
    run.after = after
    run.sampleEvery = max(plan.duration / 600, 1)
    run.configuration =
      (file ?? "shipped defaults") + (isChanged ? " in mode enforce" : "")
    return run
  }

  // MARK: One run, or several

  private func runAndReport(_ base: Experiment) throws {
    var runs = [(file: options.config, run: base)]
    if let compare {
      // What is written over the one file is written over the other.
      let (configuration, exitCode) = options.load(file: compare)
      guard let configuration else { throw ExitCode(exitCode) }
      runs.append(
        (compare, experiment(base.personas, base.scenario, configuration, named: compare)))
    }
    // What the named configuration does, and what it does with lists that it has not.
    if !base.scenario.listedAre.isEmpty {
      runs = runs.flatMap { file, run in
        var without = run
        without.scenario.listedAre = ""
        return switch lists ?? .both {
        case .off: [(file, without)]
        case .on: [(file, run)]
        case .both: [(file, without), (file, run)]
        }
      }
    }
    var reports = Self.all(runs.map(\.run) + (noBaseline ? [] : [base.unshielded]))
    if !noBaseline {
      let bare = reports.removeLast()
      for k in reports.indices {
        reports[k].without = bare.reach
        for (n, sample) in bare.samples.enumerated() where n < reports[k].samples.count {
          reports[k].samples[n].downstreamWithout = sample.downstream
        }
      }
    }
    for k in reports.indices {
      let isOn = !reports[k].lists.isEmpty
      let words = base.scenario.listedAre.isEmpty ? [] : ["--lists \(isOn ? "on" : "off")"]
      reports[k].command = command(file: runs[k].file, words)
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

  /// Runs experiments side by side; each is deterministic by itself.
  private static func all(_ runs: [Experiment]) -> [RunReport] {
    let results = Mutex([RunReport?](repeating: nil, count: runs.count))
    let line = ProgressLine(
      "simulating \(runs.count == 1 ? "a run" : "\(runs.count) runs")", parts: runs.count)
    defer { line.end() }
    DispatchQueue.concurrentPerform(iterations: runs.count) { k in
      let began = DispatchTime.now().uptimeNanoseconds
      var run = runs[k]
      let (duration, after) = (run.scenario.duration, run.after)
      run.progress = { seconds in
        // Nearly all of the work is the scenario; retries of days take a moment.
        line.tell(
          k,
          seconds < duration
            ? 0.9 * seconds / duration : 0.9 + 0.1 * (seconds - duration) / max(after, 1))
      }
      var report = run.run()
      line.tell(k, 1)
      report.took = Double(DispatchTime.now().uptimeNanoseconds - began) / 1e9
      results.withLock { $0[k] = report }
    }
    return results.withLock { $0.compactMap { $0 } }
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
    let runs = values.map { seconds in
      var run = base
      run.fix(stage, seconds: seconds)
      run.configuration = "\(stage.name) \(seconds) s"
      return run
    }
    let reports = Self.all(runs)
    let found = Sweep(
      parameter: "delay of \(stage.name)", unit: "s",
      points: zip(values, reports).map { Sweep.Point(value: $0, report: $1) },
      command: command(
        file: options.config,
        ["--sweep \(Self.quoted(text))"] + (lists == .on ? ["--lists on"] : [])))
    print(SweepReport.text(found))
    if let csv { try SweepReport.csv(found).write(toFile: csv, atomically: true, encoding: .utf8) }
    try write(reports, page: SweepReport.page(found))
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
    let all = Headlines(
      personas: kinds, policy: configuration.enginePolicy, seed: seed,
      measured: MeasuredVolume.newest())
    let results = Mutex([Headline?](repeating: nil, count: Headlines.all.count))
    // The longest first, or the last would run alone.
    let order = Headlines.all.indices.reversed().map { $0 }
    let line = ProgressLine("making \(order.count) published results again", parts: order.count)
    DispatchQueue.concurrentPerform(iterations: order.count) { k in
      let found = all.run(Headlines.all[order[k]])
      line.tell(k, 1)
      results.withLock { $0[order[k]] = found }
    }
    line.end()
    let found = results.withLock { $0.compactMap { $0 } }
    for headline in found { print(headline.text) }
    print(Headline.summary(found, seed: seed))
    if let junit {
      var file = JUnitFile(suite: "Headlines")
      for headline in found {
        switch headline.outcome {
        case .inBand: file.add(headline.id, .passed)
        case .missed: file.add(headline.id, .failed("not in the band: \(headline.figure)"))
        case .measuredElsewhere: file.add(headline.id, .skipped("measured elsewhere"))
        }
      }
      try file.write(to: junit)
    }
    if found.contains(where: { $0.outcome == .missed }) { throw ExitCode(1) }
  }

  // MARK: Random worlds

  /// How many random worlds there are to be.
  private enum Extent: Sendable {
    case number(UInt64)
    case minutes(Double)

    /// Which part of it is done, 1 and more at its end.
    func done(_ worlds: UInt64, since began: UInt64) -> Double {
      switch self {
      case .number(let all): Double(worlds) / Double(max(all, 1))
      case .minutes(let minutes):
        Double(DispatchTime.now().uptimeNanoseconds - began) / (minutes * 60e9)
      }
    }
  }

  private func worlds(
    _ extent: Extent, _ kinds: [Persona], _ configuration: Configuration
  ) throws {
    let began = DispatchTime.now().uptimeNanoseconds
    let line = ProgressLine("random worlds", parts: 1)
    let policy = configuration.enginePolicy
    let first = seed
    let state = Mutex((next: first, failed: 0))
    DispatchQueue.concurrentPerform(iterations: ProcessInfo.processInfo.activeProcessorCount) { _ in
      while true {
        let (seed, done) = state.withLock { state in
          let done = extent.done(state.next - first, since: began)
          if done < 1 { state.next += 1 }
          return (state.next - 1, done)
        }
        line.tell(0, min(done, 1))
        if done >= 1 { break }
        let failures = Swarm.failures(seed: seed, personas: kinds, policy: policy)
        if failures.isEmpty { continue }
        state.withLock { $0.failed += 1 }
        line.end()
        print(Swarm.words(seed: seed, failures: failures, options: world(file: options.config)))
      }
    }
    line.end()
    let (next, failed) = state.withLock { $0 }
    print("\(next - first) random worlds from seed \(first) on, \(failed) broke a promise")
    if let junit {
      var file = JUnitFile(suite: "Random worlds")
      let all = "\(next - first) from seed \(first) on"
      file.add(all, failed == 0 && next > first ? .passed : .failed("\(failed) broke a promise"))
      try file.write(to: junit)
    }
    if failed > 0 { throw ExitCode(1) }
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

/// What `--lists` takes.
enum ListsChoice: String, CaseIterable, ExpressibleByArgument {
  case on, off, both
}

/// Where a report goes besides the terminal, the same for a simulated run and a real one.
struct ReportFiles: ParsableArguments {
  @Option(help: "Write the HTML report to this file.")
  var html: String?

  @Option(help: "Write the results to this file as JSON.")
  var json: String?

  func write(_ reports: [RunReport], page: @autoclosure () -> String) throws {
    if let html { try page().write(toFile: html, atomically: true, encoding: .utf8) }
    if let json {
      let encoder = JSONEncoder()
      encoder.outputFormatting = [.sortedKeys]
      try encoder.encode(reports).write(to: URL(fileURLWithPath: json))
    }
  }
}

extension MeasuredVolume {
  private struct Results: Decodable {
    struct Row: Decodable {
      var section: String
      var what: String
      var judged: Double?
    }
    var command: String
    var machine: [String: String]
    var rows: [Row]
  }

  /// What `scripts/bench` wrote last: the newest of the results that ship which has the million.
  static func newest() -> MeasuredVolume? {
    // Their names are dates.
    for file in ShippedFiles.all(in: "results").reversed() {
      guard let results = try? JSONDecoder().decode(Results.self, from: Data(file.bytes)) else {
        continue
      }
      func figure(_ what: String) -> Double? {
        results.rows.first { $0.section == "million" && $0.what == what }?.judged
      }
      guard let held = figure("held in one process"),
        let opened = figure("accepted a second while opening")
      else { continue }
      let place = ["date", "CPU"].compactMap { results.machine[$0] }.joined(separator: ", ")
      return MeasuredVolume(
        held: held, opened: opened, place: "\(place), \(file.path)", command: results.command)
    }
    return nil
  }
}

/// Reads the personas, or says what is wrong with them and ends.
///
/// - Parameter directory: nil for those that ship.
func loadPersonas(_ directory: String?) throws -> [Persona] {
  let (personas, problems) = PersonaFiles.load(directory: directory)
  for problem in problems { StandardError.write(problem.description) }
  if problems.exitCode != 0 { throw ExitCode(problems.exitCode) }
  return personas
}

/// Reads a scenario by its file or by the name of one that ships.
func loadScenario(_ name: String, _ personas: [Persona]) throws -> Scenario {
  let (scenario, problems) = ScenarioFile.load(name, personas: personas)
  for problem in problems { StandardError.write(problem.description) }
  guard let scenario, problems.exitCode == 0 else { throw ExitCode(max(problems.exitCode, 1)) }
  return scenario
}
