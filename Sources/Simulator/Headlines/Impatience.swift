// SPDX-License-Identifier: Apache-2.0
import Personas
import Policy
import Suspicion

/// Published results about clients that leave when they have to wait: H1, H2 and H5.
struct Impatience {
  let setup: HeadlineSetup

  func slowLane() -> Headline {
    var run = setup.experiment(
      "H1", [("B1", 30)] + setup.senders.map { ($0.id, 0.2) }, duration: 200,
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
    let lost = report.honestLost
    return Headline(
      id: "H1",
      claim:
        "90 % of spam connections gone within 10 s in the slow lane, legitimate senders stay",
      band: "10 % ± 2 left at 10 s, 0 honest lost",
      figure: "\(Headline.percent(share)) left, \(lost) lost",
      passed: abs(share - 0.10) <= 0.02 && lost == 0,
      note: "50 s at the banner for everybody, which is not what ships")
  }

  func spikes() -> Headline {
    var run = setup.experiment("H2", [("B1", 10), ("B2", 10), ("B3", 5)], duration: 400)
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

  func stutter() -> Headline {
    // 91 % of B1 is of the impatient kind, so 88 % of B1 makes 80 % of all impatient; the others stay.
    func found(alone: Bool) -> (less: Double, lost: Int) {
      var run = setup.experiment(
        "H5", [("B1", 17.6), ("B2", 1.2), ("B8", 1.2)] + setup.senders.map { ($0.id, 0.1) },
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
      return (1 - Double(through) / Double(max(offered, 1)), report.honestLost)
    }
    // It remembered nobody, so each connection met the stutter: here each bot has an address of its own.
    let (less, lost) = found(alone: true)
    let remembered = found(alone: false).less
    return Headline(
      id: "H5",
      claim: "a proxy that stutters at the start only: spam down by 80 %, honest mail unaffected",
      band: "80 ± 5 %, 0 honest lost", figure: "\(Headline.percent(less)), \(lost) lost",
      passed: abs(less - 0.80) <= 0.05 && lost == 0,
      note:
        "the mix is chosen so that 80 % are impatient (B1 88, B2 6, B8 6 %): the spam of 2007 is not known. "
        + "10 s at the banner, nothing later; that proxy remembered nobody, so each bot comes once from an address "
        + "of its own. From the personas' own addresses, of which few send most, \(Headline.percent(remembered)): "
        + "Sluice knows the address of whom it let in, and lets in who comes from there later")
  }
}
