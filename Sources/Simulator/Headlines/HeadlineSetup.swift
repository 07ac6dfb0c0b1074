// SPDX-License-Identifier: Apache-2.0
import Personas
import Policy
import Shield

/// What all headlines start from: the personas that ship and the shipped policy, in force.
struct HeadlineSetup: Sendable {
  let personas: [Persona]
  let policy: Policy
  let seed: UInt64

  init(personas: [Persona], policy: Policy, seed: UInt64) {
    self.personas = personas
    var policy = policy
    policy.mode = .enforce
    self.policy = policy
    self.seed = seed
  }

  var senders: [Persona] { personas.filter { $0.kind == .sender } }

  /// A world of these entries (persona, rate), with room for everybody.
  func experiment(
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
      personas: changed, scenario: scenario, policy: policy, seed: seed)
    experiment.limits.connections = 100_000
    experiment.limits.sessions = 20_000
    experiment.limits.downstreamConnections = 20_000
    experiment.scenario.downstream.connections = 100_000
    return experiment
  }
}

extension Persona {
  /// Each client has an address of its own, in a network of its own, and comes once: connections are addresses.
  mutating func comeOnce(from networks: Int) {
    tries = [1]
    concurrency = .const(1)
    addresses = networks
    perNetwork = 1
    zipf = 0
    ipv6 = 0
  }
}

extension RunReport {
  /// Messages of senders that were lost.
  var honestLost: Int {
    personas.filter { $0.kind == Persona.Kind.sender.rawValue }
      .reduce(0) { $0 + $1.lost.values.reduce(0, +) }
  }
}
