// SPDX-License-Identifier: Apache-2.0
package import Personas
package import Policy
import Shield
import Structures
import Suspicion

// Published results made again in the simulated world, each with the band in which it counts as the same. The
// set-ups follow what was published; what had to be chosen is in the headline's note. Nothing here changes the
// engine: a set-up is personas, a scenario and a policy.

extension Persona {
  /// Each client has an address of its own, in a network of its own, and comes once: connections are addresses.
  fileprivate mutating func comeOnce(from networks: Int) {
    tries = [1]
    concurrency = .const(1)
    addresses = networks
    perNetwork = 1
    zipf = 0
    ipv6 = 0
  }
}

/// What a headline came to.
package struct Headline: Sendable {
  package enum Outcome: Sendable {
    case inBand, missed
    /// Nothing that a simulation can show: a measurement on real sockets, told here and not counted as passed.
    case measuredElsewhere
  }

  package var id: String
  /// What was published or promised.
  package var claim: String
  /// What counts as the same.
  package var band: String
  package var figure: String
  package var outcome: Outcome
  /// What was chosen for the set-up, and what explains a difference.
  package var note = ""

  package init(
    id: String, claim: String, band: String, figure: String, passed: Bool, note: String = ""
  ) {
    self.id = id
    self.claim = claim
    self.band = band
    self.figure = figure
    outcome = passed ? .inBand : .missed
    self.note = note
  }

  /// As it is printed, over several lines.
  package var text: String {
    let word =
      switch outcome {
      case .inBand: "in the band"
      case .missed: "NOT IN THE BAND"
      case .measuredElsewhere: "measured elsewhere"
      }
    var lines = ["\(id)  \(word)", "    \(claim)", "    band: \(band)", "    seen: \(figure)"]
    if !note.isEmpty { lines.append("    note: \(note)") }
    return lines.joined(separator: "\n")
  }

  /// The last line of many: what is measured elsewhere is not among those that passed.
  package static func summary(_ all: [Headline], seed: UInt64) -> String {
    let simulated = all.count { $0.outcome != .measuredElsewhere }
    let passed = all.count { $0.outcome == .inBand }
    let elsewhere = all.count - simulated
    return "\(passed) of \(simulated) in their bands"
      + (elsewhere > 0 ? ", \(elsewhere) measured elsewhere" : "") + ", seed \(seed)"
  }
}

/// What a run of the benchmarks on real sockets found of H7.
package struct MeasuredVolume: Sendable {
  /// Connections held at once in one process.
  package var held: Double
  /// Connections accepted a second while they were opened.
  package var opened: Double
  /// When and on what: "2026-11-21, 2 × AMD EPYC".
  package var place: String
  /// The command that measures it again.
  package var command: String

  package init(held: Double, opened: Double, place: String, command: String) {
    self.held = held
    self.opened = opened
    self.place = place
    self.command = command
  }
}

/// Published results, and a promise of our own, made again with the personas: H1 to H12.
package struct Headlines: Sendable {
  private let personas: [Persona]
  private let base: Policy
  private let seed: UInt64
  private let measured: MeasuredVolume?

  /// - Parameters:
  ///   - personas: all that ship.
  ///   - policy: the shipped one, in force (`mode` is set to enforce).
  ///   - measured: what the benchmarks found of H7; without it H7 is missed.
  package init(
    personas: [Persona], policy: Policy, seed: UInt64, measured: MeasuredVolume? = nil
  ) {
    self.personas = personas
    self.measured = measured
    var policy = policy
    policy.mode = .enforce
    base = policy
    self.seed = seed
  }

  package static let all = [
    "H1", "H2", "H3", "H4", "H5", "H6", "H7", "H8", "H9", "H10", "H11", "H12",
  ]

  /// Runs one of `all`.
  package func run(_ id: String) -> Headline {
    switch id {
    case "H1": slowLane()
    case "H2": spikes()
    case "H3": funnel()
    case "H4": behindLists()
    case "H5": stutter()
    case "H6": little()
    case "H7": volume()
    case "H8": overload()
    case "H9": earlyTalkers()
    case "H10": harvest()
    case "H11": attempts()
    default: steps()
    }
  }

  private var senders: [Persona] { personas.filter { $0.kind == .sender } }

  private func experiment(
    _ id: String, _ entries: [(String, Double)], duration: Double,
    change: (inout Persona) -> Void = { _ in }
  ) -> Experiment {
    var scenario = Scenario(name: id)
    scenario.duration = duration
    scenario.entries = entries.map { Scenario.Entry(persona: $0.0, rate: $0.1) }
    let changed = personas.map { persona in
      var persona = persona
      change(&persona)
      return persona
    }
    var experiment = Experiment(
      personas: changed, scenario: scenario, policy: base, seed: seed)
    experiment.limits.connections = 100_000
    experiment.limits.sessions = 20_000
    experiment.limits.downstreamConnections = 20_000
    experiment.scenario.downstream.connections = 100_000
    return experiment
  }

  private func percent(_ share: Double) -> String {
    "\((share * 1_000).rounded() / 10) %"
  }

  private func honestLost(_ report: RunReport) -> Int {
    report.personas.filter { $0.kind == Persona.Kind.sender.rawValue }
      .reduce(0) { $0 + $1.lost.values.reduce(0, +) }
  }

  // MARK: One by one

  private func slowLane() -> Headline {
    var run = experiment(
      "H1", [("B1", 30)] + senders.map { ($0.id, 0.2) }, duration: 200,
      change: {
        guard $0.id == "B1" else { return }
        // One connection each, so that nobody has earned a second chance.
        $0.pregreet = 0
        $0.comeOnce(from: 20_000)
      })
    run.fix(.banner, seconds: 50)
    run.after = 6 * 86_400
    run.sampleEvery = 10
    let report = run.run()
    let share = report.personas.first { $0.id == "B1" }?.held.share(above: 10) ?? 1
    let lost = honestLost(report)
    return Headline(
      id: "H1",
      claim: "90 % of spam connections gone within 10 s in the slow lane, legitimate senders stay",
      band: "10 % ± 2 left at 10 s, 0 honest lost", figure: "\(percent(share)) left, \(lost) lost",
      passed: abs(share - 0.10) <= 0.02 && lost == 0,
      note: "50 s at the banner for everybody, which is not what ships")
  }

  private func spikes() -> Headline {
    var run = experiment("H2", [("B1", 10), ("B2", 10), ("B3", 5)], duration: 400)
    run.fix(.banner, seconds: 280)
    run.after = 300
    let report = run.run()
    var counts: [Int: Int] = [:]
    for second in 1..<200 {
      counts[second] = report.personas.reduce(0) {
        $0 + $1.leftAfter.count(from: Double(second), to: Double(second + 1))
      }
    }
    let all = counts.values.reduce(0, +)
    // A spike stands out from the ten seconds around it, and is no handful.
    func isSpike(_ at: Int) -> Bool {
      let peak = (at - 1...at + 1).map { counts[$0] ?? 0 }.max() ?? 0
      if peak * 200 < all { return false }
      let around = [at - 6, at - 5, at - 4, at + 4, at + 5, at + 6].map { counts[$0] ?? 0 }
      return peak > 5 * max(around.reduce(0, +) / around.count, 1)
    }
    let others = counts.keys.filter {
      $0 > 12 && ![20, 21, 22, 99, 100, 101].contains($0) && isSpike($0)
    }
    .filter { abs($0 - 21) > 2 && abs($0 - 100) > 2 }
    let ok = isSpike(21) && isSpike(100) && others.isEmpty
    return Headline(
      id: "H2", claim: "give-up times are a constant of the bot: spikes at 21 s and 100 s",
      band: "spikes at 21 ± 1 s and 100 ± 1 s, no other beyond 12 s",
      figure: "\(counts[20, default: 0] + counts[21, default: 0]) left at 20–22 s, "
        + "\(counts[99, default: 0] + counts[100, default: 0]) at 99–101 s, "
        + "\(counts[60, default: 0]) at 60–61 s",
      passed: ok, note: "280 s at the banner for everybody, which is not what ships")
  }

  /// The mix of 2010 by shares of connections that are no honest ones.
  private static let mix2010 = [
    ("B1", 0.40), ("B2", 0.35), ("B3", 0.05), ("B4", 0.05), ("B5", 0.03), ("B7", 0.05),
    ("B8", 0.04),
    ("B9", 0.01), ("B11", 0.01), ("B10", 0.01),
  ]

  /// Bots once each and alone, so that connections are addresses; lists know `listed` of them.
  private func mix(_ id: String, listed: Double, honest: Double, rate: Double) -> RunReport {
    var run = experiment(
      id, Self.mix2010.map { ($0.0, $0.1 * (1 - honest) * rate) } + [("L3", honest * rate)],
      duration: 300,
      change: {
        guard $0.kind == .bot else { return }
        $0.listed = listed
        $0.comeOnce(from: 5_000)
      })
    run.scenario.listedAre = "reject"
    run.fix(.banner, seconds: 22)
    // An address counts once, as in what was published: nobody comes back to a shorter delay.
    run.policy.secondChance = false
    run.after = 1_000
    run.sampleEvery = 10
    return run.run()
  }

  private func shares(_ report: RunReport) -> (listed: Double, left: Double, stayed: Double) {
    var (listed, left, all) = (0, 0, 0)
    for persona in report.personas {
      let connections =
        persona.kind == Persona.Kind.sender.rawValue ? persona.clients : persona.connections
      all += connections
      guard persona.kind == Persona.Kind.bot.rawValue else { continue }
      listed += persona.endings[Ending.rejected.name, default: 0]
      left += persona.endings.filter { $0.key.hasPrefix(Ending.impatient.name) }.values.reduce(0, +)
    }
    let sum = Double(max(all, 1))
    return (Double(listed) / sum, Double(left) / sum, 1 - Double(listed + left) / sum)
  }

  private func funnel() -> Headline {
    // 1.7 % of the published addresses were listed at times: an address that comes once cannot be. The run has
    // the others, of which 88.0 in 98.3 were listed; the 2 % honest ones never are.
    let pure = 0.983
    let found = shares(mix("H3", listed: 0.880 / pure / 0.98, honest: 0.02, rate: 60))
    let rest = found.left / max(found.left + found.stayed, 1e-9)
    let (listed, left) = (found.listed * pure, found.left * pure)
    return Headline(
      id: "H3",
      claim:
        "of 28 M addresses 88.0 % were listed, 6.9 % driven off by throttling, 3.4 % never; of those "
        + "not listed 67 % left",
      band: "88 ± 1, 6.9 ± 1, 67 ± 5 %",
      figure: "\(percent(listed)), \(percent(left)), \(percent(rest))",
      passed: abs(listed - 0.88) <= 0.01 && abs(left - 0.069) <= 0.01 && abs(rest - 0.67) <= 0.05,
      note:
        "lists that reject and 22 s at the banner for everybody, neither of which ships; "
        + "what the lists know is set to what was published, so only the second and third figure are found; "
        + "2 % of addresses honest (assumption); the published 1.7 % that were listed at times are left out, "
        + "shares are of all")
  }

  private func behindLists() -> Headline {
    // 28.7 / 0.67: what the lists must have left, if two thirds of that went.
    let honest = 0.07
    let found = shares(mix("H4", listed: 0.572 / (1 - honest), honest: honest, rate: 40))
    return Headline(
      id: "H4",
      claim: "behind two block lists, slowing removed a further 28.7 % of all transactions",
      band: "25 to 32 %", figure: percent(found.left),
      passed: found.left >= 0.25 && found.left <= 0.32,
      note:
        "lists that reject and 22 s at the banner for everybody, neither of which ships; "
        + "how much the lists left was not published: set to 43 %, which is 28.7 in 67; here "
        + "\(percent(1 - found.listed)), of which 7 % are honest")
  }

  private func stutter() -> Headline {
    // 91 % of B1 is of the impatient kind, so 88 % of B1 makes 80 % of all impatient; the others stay.
    func found(alone: Bool) -> (less: Double, lost: Int) {
      var run = experiment(
        "H5", [("B1", 17.6), ("B2", 1.2), ("B8", 1.2)] + senders.map { ($0.id, 0.1) },
        duration: 300,
        change: {
          guard $0.kind == .bot else { return }
          $0.pregreet = 0
          $0.bareHelo = 0
          if alone {
            $0.comeOnce(from: $0.id == "B1" ? 40_000 : 5_000)
          } else {
            $0.tries = [1]
            $0.concurrency = .const(1)
          }
        })
      // The proxy slowed the start and nothing else.
      run.fix(.banner, seconds: 10)
      for stage in Stage.allCases where stage != .banner { run.fix(stage, seconds: 0) }
      run.policy.secondChance = false
      run.after = 6 * 86_400
      run.sampleEvery = 10
      let report = run.run()
      let bots = report.personas.filter { $0.kind == Persona.Kind.bot.rawValue }
      let offered = bots.reduce(0) { $0 + $1.connections }
      let through = bots.reduce(0) { $0 + $1.letThrough }
      return (1 - Double(through) / Double(max(offered, 1)), honestLost(report))
    }
    // It remembered nobody, so each connection met the stutter: here each bot has an address of its own.
    let (less, lost) = found(alone: true)
    let remembered = found(alone: false).less
    return Headline(
      id: "H5",
      claim: "a proxy that stutters at the start only: spam down by 80 %, honest mail unaffected",
      band: "80 ± 5 %, 0 honest lost", figure: "\(percent(less)), \(lost) lost",
      passed: abs(less - 0.80) <= 0.05 && lost == 0,
      note:
        "the mix is chosen so that 80 % are impatient (B1 88, B2 6, B8 6 %): the spam of 2007 is not known. "
        + "10 s at the banner, nothing later; that proxy remembered nobody, so each bot comes once from an address "
        + "of its own. From the personas' own addresses, of which few send most, \(percent(remembered)): "
        + "Sluice knows the address of whom it let in, and lets in who comes from there later")
  }

  private func little() -> Headline {
    var patient = Persona(id: "T")
    patient.patienceOtherwise = .const(100_000)
    patient.tries = [1]
    patient.addresses = 30_000
    patient.bytes = .const(1_000)
    var slowed = patient
    slowed.id = "S"
    slowed.listed = 1
    var scenario = Scenario(name: "H6")
    scenario.duration = 1_200
    scenario.entries = [
      Scenario.Entry(persona: "T", rate: 200.0 / 3), Scenario.Entry(persona: "S", rate: 100.0 / 3),
    ]
    scenario.listedAre = "bad"
    var run = Experiment(
      personas: [patient, slowed], scenario: scenario, policy: base, seed: seed)
    run.limits.connections = 50_000
    run.limits.sessions = 5_000
    run.limits.downstreamConnections = 5_000
    run.policy.badSession = 180_000_000
    run.policy.badSessionsPerSource = 1_000
    run.policy.secondChance = false
    // The others take a second each in all, as published.
    run.fix(.banner, seconds: 0.4)
    run.fix(.helo, seconds: 0)
    // So quick a drip that its next byte is never far: the tarpit ends with a byte.
    run.policy.delays[.banner].bad = 182_000_000
    let report = run.run()
    let bare = run.unshielded.run()
    let steady = report.samples.filter { $0.at > 300 }
    let seen = steady.reduce(0.0) { $0 + Double($1.held) } / Double(max(steady.count, 1))
    let hold = report.personas.first { $0.id == "T" }?.held.mean ?? 0
    let slowedHold = report.personas.first { $0.id == "S" }?.held.mean ?? 0
    let expected = 200.0 / 3 * hold + 100.0 / 3 * slowedHold
    func mostBehind(_ report: RunReport) -> Int {
      report.samples.filter { $0.at > 300 }.map(\.downstream).max() ?? 0
    }
    let (behind, without) = (mostBehind(report), mostBehind(bare))
    let published = 6_067.0
    return Headline(
      id: "H6",
      claim:
        "100 connections a second, a third slowed to 180 s: 6,067 at once in front, no more behind",
      band: "6,067 ± 3 %; behind not above the unshielded level",
      figure: "\(Int(seen)) held; behind \(behind) at most, without a shield \(without)",
      passed: abs(seen - published) <= 0.03 * published && behind <= without,
      note:
        "delays and a tarpit as published, not as they ship, and a third of the addresses listed as bad; "
        + "held \((slowedHold * 10).rounded() / 10) s and \((hold * 100).rounded() / 100) s, which at these rates "
        + "is \(Int(expected))")
  }

  private func volume() -> Headline {
    var headline = Headline(
      id: "H7", claim: "25 M transactions a day on one machine of 2009, filter included",
      band: "50,000 held and 3,000 new/s on 2 processors",
      figure: "nothing: there is no result of scripts/bench million among those that ship",
      passed: false, note: "scripts/bench --results FILE million measures it")
    guard let measured else { return headline }
    headline.figure =
      "\(Int(measured.held)) held, \(Int(measured.opened)) accepted a second (\(measured.place))"
    headline.note = "measured by: \(measured.command)"
    if measured.held >= 50_000 && measured.opened >= 3_000 { headline.outcome = .measuredElsewhere }
    return headline
  }

  private func overload() -> Headline {
    func run(priority: Bool) -> Int {
      var run = experiment(
        "H8", [("L3", 5), ("F", 4)], duration: 1_800,
        change: {
          if $0.id == "L3" {
            // Few tries: what does not get through in the flood is lost to it.
            $0.retries = []
            $0.addresses = 40
            $0.patienceOtherwise = .const(60)
            $0.patience = [:]
          }
        })
      var flood = Persona(id: "F")
      flood.patienceOtherwise = .const(300)
      flood.tries = [1]
      flood.addresses = 60_000
      run.personas.append(flood)
      run.scenario.bursts = [Scenario.Burst(at: 600, lasting: 1_200, times: 30)]
      run.scenario.downstream.capacity = 12
      run.scenario.downstream.connections = 100
      run.limits.connections = 2_000
      run.limits.sessions = 100
      run.limits.downstreamConnections = 100
      if !priority {
        run.policy.goodFor = 0
        run.policy.reservedForKnown = 0
      }
      run.sampleEvery = 10
      return run.run().personas.first { $0.id == "L3" }?.delivered ?? 0
    }
    let (with, without) = (run(priority: true), run(priority: false))
    // The ten minutes before the flood are the same in both.
    let before = 5 * 600
    let ratio = Double(with - before) / Double(max(without - before, 1))
    return Headline(
      id: "H8",
      claim: "an overloaded server accepts 3 times the honest mail if history sets the order",
      band: "≥ 3.0 ×",
      figure: "\((ratio * 10).rounded() / 10) × (\(with) against \(without) in all)",
      passed: ratio >= 3)
  }

  private func earlyTalkers() -> Headline {
    var early = Persona(id: "E")
    early.pregreet = 1
    early.patienceOtherwise = .const(300)
    early.tries = [1]
    early.addresses = 20_000
    var run = experiment("H9", [("E", 10)] + senders.map { ($0.id, 0.5) }, duration: 300)
    run.personas.append(early)
    run.after = 6 * 86_400
    run.sampleEvery = 10
    let report = run.run()
    let found = report.personas.first { $0.id == "E" }
    let caught =
      1 - Double(found?.letThrough ?? 1) / Double(max(found?.connections ?? 1, 1))
    let lost = honestLost(report)
    return Headline(
      id: "H9",
      claim: "a wait of 2 to 6 s before the banner catches who talks first, and nobody else",
      band: "≥ 99 % caught, 0 honest lost", figure: "\(percent(caught)) caught, \(lost) lost",
      passed: caught >= 0.99 && lost == 0,
      note:
        "the shipped wait of 4 s. An Exim that would talk first (PIPECONNECT) does so only where it was offered, "
        + "and Sluice never offers it")
  }

  private func harvest() -> Headline {
    // Recipients that reach the mail server, in the busiest minute.
    func peak(_ shielded: Bool) -> (peak: Double, mean: Double) {
      var run = experiment("H10", [("B7", 0.5), ("L4", 1.6)], duration: 600)
      run.sampleEvery = 10
      // As published: a delay for each bad recipient, and nothing else.
      run.fix(.banner, seconds: 0)
      run.policy.delays[.recipientRejected].clean = 5_000_000
      run.policy.delays[.recipientRejected].suspicious = 5_000_000
      run.policy.session.badRecipients = 10_000
      if !shielded { run = run.unshielded }
      let report = run.run()
      let through = report.samples.map(\.recipients)
      return (through.max() ?? 0, through.reduce(0, +) / Double(max(through.count, 1)))
    }
    let (with, without) = (peak(true), peak(false))
    let less = 1 - with.peak / max(without.peak, 1e-9)
    return Headline(
      id: "H10",
      claim: "slowing rejected recipients: message rate down by 60 % at the peak, 40 % on average",
      band: "peak down by 60 ± 10 %",
      figure:
        "peak down by \(percent(less)), mean by \(percent(1 - with.mean / max(without.mean, 1e-9)))",
      passed: abs(less - 0.60) <= 0.10,
      note:
        "one server of about 2003, whose traffic is not published; its mean of 40 % is not met by this mix, and "
        + "is not in the band")
  }

  private func attempts() -> Headline {
    let run = experiment("H11", [("B1", 100)], duration: 200)
    var population = Population(personas: run.personas, scenario: run.scenario, seed: seed)
    let published = [0.619, 0.168, 0.093, 0.035, 0.064, 0.013, 0.007]
    var counts = [Int](repeating: 0, count: published.count)
    let clients = 20_000
    for _ in 0..<clients {
      let attempts = Int(population.begin(0, now: 0).attemptsMost)
      switch attempts {
      case 0...4: counts[max(attempts, 1) - 1] += 1
      case 5...10: counts[4] += 1
      case 11...20: counts[5] += 1
      default: counts[6] += 1
      }
    }
    let sum = published.reduce(0, +)
    var square = 0.0
    for k in published.indices {
      let expected = published[k] / sum * Double(clients)
      square += (Double(counts[k]) - expected) * (Double(counts[k]) - expected) / expected
    }
    return Headline(
      id: "H11",
      claim: "attempts of a refused address: 61.9 / 16.8 / 9.3 / 3.5 / 6.4 / 1.3 / 0.7 %",
      band: "chi-square below 16.8 (6 degrees of freedom, 1 %)",
      figure: "chi-square \((square * 10).rounded() / 10) for \(clients)", passed: square < 16.8)
  }

  /// The banner delays of H12, in seconds: before and after each step.
  package static let stepsAt = [0.0, 25, 29, 31, 44, 46, 59, 61, 119, 121, 179, 181, 299, 301, 310]

  /// Whether a message of this kind is tried again at all before it is worth nothing.
  private func comesBack(_ sender: Persona) -> Bool {
    // Each gap is hit with 10 % of jitter.
    sender.retries.first.map { $0 * 0.9 <= sender.life } ?? false
  }

  /// - Parameter delays: seconds at the banner, each tried with the second chance and without it.
  func steps(at delays: [Double] = stepsAt) -> Headline {
    let callout = personas.filter { $0.kind == .probe && $0.aim == .callout }
    let all = senders + callout
    var surprises: [String] = []
    var lines: [String] = []
    for seconds in delays {
      for secondChance in [false, true] {
        var run = experiment(
          "H12", all.map { ($0.id, 0.2) }, duration: 60, change: { $0.ipv6 = 0 })
        run.fix(.banner, seconds: seconds)
        run.policy.secondChance = secondChance
        // Nobody is known yet: each message meets the delay.
        if !secondChance { run.policy.goodFor = 0 }
        run.scenario.latency = .const(0.02)
        run.after = 7 * 86_400
        run.sampleEvery = 60
        let report = run.run()
        for (client, found) in zip(all, report.personas) {
          let patience = (client.patience[.banner] ?? client.patienceOtherwise).value(at: 0.5)
          let cap = min(patience, client.sessionMost)
          let lost = found.lost.values.reduce(0, +)
          // A second chance is for whoever comes a second time.
          let isHelped = secondChance && client.kind == .sender && comesBack(client)
          let mustLose = !isHelped && cap < seconds
          if found.clients == 0 || (mustLose ? lost < found.clients : lost > 0) {
            surprises.append(
              "\(Int(seconds)) s, \(client.id): \(lost) of \(found.clients) lost"
                + (secondChance ? " with the second chance" : "")
                + " (\(found.lost.keys.sorted().joined(separator: ", ")))")
          }
          if !secondChance && lost > 0 && !lines.contains(where: { $0.hasSuffix(" " + client.id) })
          {
            lines.append("\(Int(seconds)) \(client.id)")
          }
        }
      }
    }
    let once = senders.filter { !comesBack($0) }.map(\.id).joined(separator: ", ")
    return Headline(
      id: "H12",
      claim:
        "own promise: at 25 s no sender loses mail; above, each class at its own time; with the "
        + "second chance no sender that tries more than once, at any setting",
      band:
        "lost at 31, 46, 61, 121, 181 and 301 s exactly who waits less; with the second chance only who has a "
        + "single try\(once.isEmpty ? "" : " (\(once))")",
      figure: lines.isEmpty ? "none lost" : "first lost at: " + lines.joined(separator: ", "),
      passed: surprises.isEmpty,
      note: surprises.isEmpty
        ? "strangers, each message; a probe that asks once loses its answer in the same way"
          + (once.isEmpty
            ? "" : ". \(once) tries once: above its patience no second chance helps it")
        : surprises.prefix(6).joined(separator: "; "))
  }
}
