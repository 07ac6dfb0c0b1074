// SPDX-License-Identifier: Apache-2.0
import Flow
package import Personas
package import Policy
import Shield
import Structures
package import Suspicion

/// One simulated run, made of values: it can be made again, or on another thread, with the same outcome.
package struct Experiment: Sendable {
  package var personas: [Persona]
  package var scenario: Scenario
  package var policy: Policy
  package var limits: Limits
  package var seed: UInt64
  /// Access rules besides the policy's own table, which they replace if there are any: what lists know.
  package var access = ""
  /// How long to go on after the scenario's end, in seconds: until the last retry.
  package var after = 0.0
  package var sampleEvery = 1.0
  /// In a few words, for the report.
  package var configuration = "shipped defaults"
  /// Hears now and then how far the run is, in seconds of its own time: for whoever waits. It changes nothing.
  package var progress: (@Sendable (Double) -> Void)?

  package init(
    personas: [Persona], scenario: Scenario, policy: Policy, limits: Limits = Limits(),
    seed: UInt64 = 1
  ) {
    self.personas = personas
    self.scenario = scenario
    self.policy = policy
    self.limits = limits
    self.seed = seed
  }

  /// The world, ready to run.
  package func world() -> World {
    let population = Population(personas: personas, scenario: scenario, seed: seed)
    var policy = policy
    let lines = access + population.listedLines
    if !lines.isEmpty {
      policy.access = AccessTable.load(content: Array(lines.utf8), file: "simulated lists").table
    }
    return World(
      policy: policy, limits: limits, population: population, seed: seed, sampleEvery: sampleEvery)
  }

  /// Runs it to the end.
  package func run() -> RunReport {
    var world = world()
    world.run(after: after, progress: progress)
    return world.report(configuration: configuration, took: 0)
  }

  /// The same clients without a shield: everybody is passed on at once.
  package var unshielded: Experiment {
    var other = self
    other.policy.mode = .observe
    other.scenario.listedAre = ""
    other.configuration = "no shield"
    return other
  }

  /// Gives a stage one fixed delay, whatever the ceilings: for experiments, not for operators. Rejected recipients
  /// wait longer one after the other all the same, up to the stage's ceiling or this delay, whichever is more.
  package mutating func fix(_ stage: Stage, seconds: Double) {
    let micros = Int64(seconds * 1_000_000)
    policy.delays[stage].clean = micros
    policy.delays[stage].suspicious = micros
    policy.delays[stage].ceiling = max(micros, policy.delays[stage].ceiling)
    let sum = max(2 * micros, Delays.sumCeiling)
    policy.delays.cleanSum = sum
    policy.delays.suspiciousSum = sum
    policy.delays.sumMost = sum
    if stage == .recipientAccepted { policy.delays.recipientSum = sum }
  }
}
