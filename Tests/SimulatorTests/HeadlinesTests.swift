// SPDX-License-Identifier: Apache-2.0
import Personas
import Policy
import Shield
import Suspicion
import Testing

@testable import Simulator

@Suite("Headlines")
struct HeadlinesTests {
  private func volume(_ measured: MeasuredVolume?) -> Headline {
    Headlines(personas: [honest()], policy: policy(), seed: 1, measured: measured).run("H7")
  }

  @Test("what was measured elsewhere is told with its date and command, and not counted as passed")
  func elsewhere() {
    let found = volume(
      MeasuredVolume(
        held: 1_000_000, opened: 20_000, place: "2026-11-21, 2 × CPU", command: "scripts/bench x"))
    #expect(found.outcome == .measuredElsewhere)
    #expect(found.text.contains("measured elsewhere") && !found.text.contains("in the band"))
    #expect(found.text.contains("1000000 held") && found.text.contains("2026-11-21"))
    #expect(found.text.contains("scripts/bench x"))
    let passed = Headline(id: "H1", claim: "c", band: "b", figure: "f", passed: true)
    #expect(
      Headline.summary([passed, found], seed: 3)
        == "1 of 1 in their bands, 1 measured elsewhere, seed 3")
  }

  @Test("without a measurement, or with one below the band, H7 is missed")
  func notMeasured() {
    #expect(volume(nil).outcome == .missed)
    #expect(volume(nil).text.contains("NOT IN THE BAND"))
    for (held, opened) in [(49_999.0, 20_000.0), (1_000_000, 2_999)] {
      let found = volume(MeasuredVolume(held: held, opened: opened, place: "", command: ""))
      #expect(found.outcome == .missed)
    }
  }

  @Test("a headline that is missed is told and counted as missed")
  func missed() {
    let missed = Headline(id: "H2", claim: "c", band: "b", figure: "f", passed: false, note: "n")
    #expect(missed.text == "H2  NOT IN THE BAND\n    c\n    band: b\n    seen: f\n    note: n")
    #expect(Headline.summary([missed], seed: 1) == "0 of 1 in their bands, seed 1")
  }

  /// Who waits 30 s and never comes back, beside the usual.
  private var twice: [Persona] {
    var callout = honest("P-callout", patience: 30)
    callout.kind = .probe
    callout.aim = .callout
    callout.retries = []
    return [honest("L5", patience: 30), callout]
  }

  private func steps(of personas: [Persona], at delays: [Double]) -> Headline {
    DelaySteps(setup: HeadlineSetup(personas: personas, policy: policy(), seed: 1))
      .steps(at: delays)
  }

  @Test("H12 fails for a sender that loses mail where none may be lost")
  func steps() {
    let good = steps(of: twice, at: [25, 31])
    #expect(good.outcome == .inBand, "\(good.text)")
    #expect(good.figure.contains("31 L5") && good.figure.contains("31 P-callout"))
    // It has 25.3 s, which is more than the banner's delay, but for the whole session: lost at 25 s, too early.
    var hasty = honest("L0", patience: 25.3)
    hasty.clock = .session
    let bad = steps(of: [hasty], at: [25, 31])
    #expect(bad.outcome == .missed && bad.note.contains("L0"), "\(bad.text)")
  }

  @Test("a sender with a single try is named, and not promised what no second try can give")
  func single() {
    var once = honest("L9", patience: 60)
    once.retries = [1_200]
    once.life = 300
    let found = steps(of: [once], at: [25, 61])
    #expect(found.outcome == .inBand, "\(found.text)")
    #expect(found.band.contains("(L9)") && found.note.contains("L9 tries once"))
  }

  @Test("H11 fails for a bot whose tries are not the published ones")
  func attempts() {
    var b1 = bot("B1", patience: .const(4))
    b1.tries = [0.619, 0.168, 0.093, 0.035, 0.064, 0.013, 0.007]
    #expect(Headlines(personas: [b1], policy: policy(), seed: 1).run("H11").outcome == .inBand)
    b1.tries = [0.6, 0.187, 0.093, 0.035, 0.064, 0.013, 0.007]
    #expect(Headlines(personas: [b1], policy: policy(), seed: 1).run("H11").outcome == .missed)
  }
}

@Suite("What is printed of a random world")
struct SwarmWordsTests {
  @Test("each broken promise with its seed, and the command that plays the world again")
  func words() {
    let text = Swarm.words(
      seed: 42, failures: ["no delay beyond its ceiling: 1 of 3, first: banner", "b: 2 of 2"],
      options: ["--personas here", "--config a.yaml"])
    #expect(
      text == """
        seed 42: no delay beyond its ceiling: 1 of 3, first: banner
        seed 42: b: 2 of 2
            again: sluice simulate --swarm-seed 42 --personas here --config a.yaml
        """)
  }

  @Test("a seed is a whole world: it runs the same twice, and what fails in it is among its means")
  func worlds() {
    var seen: [String: Int] = [:]
    for seed in UInt64(1)...200 {
      let run = Swarm.experiment(seed: seed, personas: SwarmTests.kinds, policy: policy())
      let scenario = run.scenario
      if scenario.resets > 0 { seen["resets", default: 0] += 1 }
      if scenario.slowReaders > 0 { seen["slow readers", default: 0] += 1 }
      if scenario.downstream.breaks > 0 { seen["downstream breaks", default: 0] += 1 }
      if !scenario.downstream.outages.isEmpty { seen["downstream away", default: 0] += 1 }
      if scenario.downstream.connections < 1_000 { seen["downstream full", default: 0] += 1 }
      if scenario.downstream.capacity > 0 { seen["downstream slow", default: 0] += 1 }
      if run.limits.connections < 1_000 { seen["small tables", default: 0] += 1 }
      if !scenario.listedAre.isEmpty { seen["lists", default: 0] += 1 }
    }
    #expect(seen.count == 8)
    for (name, count) in seen { #expect(count > 30 && count < 170, "\(name): \(count)") }
    let first = Swarm.experiment(seed: 9, personas: SwarmTests.kinds, policy: policy()).run()
    let again = Swarm.experiment(seed: 9, personas: SwarmTests.kinds, policy: policy()).run()
    #expect(first.trace == again.trace && first.events == again.events)
  }
}
