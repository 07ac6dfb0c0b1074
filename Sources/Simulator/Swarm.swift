// SPDX-License-Identifier: Apache-2.0
package import Personas
package import Policy
import Shield
import Structures

/// Random worlds: everything that can go wrong, by seed, to see whether a promise breaks.
package enum Swarm {
  /// Connections that a client which never gives up opens one after the other here.
  private static let attemptsMost = 20

  /// The world of a seed: some personas, small tables or large ones, a network and a mail server that fail.
  package static func experiment(
    seed: UInt64, personas: [Persona], policy: Policy
  ) -> Experiment {
    var random = SeededGenerator(seed: seed)
    func chance(_ share: Double) -> Bool { Double(random.next() >> 11) * 0x1p-53 < share }
    func pick(_ low: Int, _ high: Int) -> Int { Int.random(in: low...high, using: &random) }

    var scenario = Scenario(name: "swarm \(seed)")
    scenario.duration = Double(pick(20, 120))
    // Rates are of connections, and nobody comes back for ever: a world must end, and one slowloris has hundreds of
    // connections that it opens again at once.
    let clients = personas.map { persona in
      var persona = persona
      if persona.attempts.mean > Double(attemptsMost) {
        persona.attempts = .const(Double(attemptsMost))
      }
      return persona
    }
    for persona in clients.shuffled(using: &random).prefix(pick(1, 6)) {
      let rate = Double(pick(1, 30)) / 10 / max(1, persona.concurrency.mean)
      scenario.entries.append(Scenario.Entry(persona: persona.id, rate: rate))
    }
    if chance(0.5) {
      scenario.bursts = [
        Scenario.Burst(
          at: Double(pick(0, 60)), lasting: Double(pick(2, 20)), times: Double(pick(2, 10)))
      ]
    }
    scenario.latency = .uniform(0.001, Double(pick(1, 400)) / 1_000)
    if chance(0.5) { scenario.resets = Double(pick(1, 30)) / 100 }
    if chance(0.3) { scenario.slowReaders = Double(pick(1, 50)) / 100 }
    if chance(0.5) { scenario.downstream.breaks = Double(pick(1, 30)) / 100 }
    if chance(0.3) {
      scenario.downstream.outages = [(at: Double(pick(0, 60)), lasting: Double(pick(1, 60)))]
    }
    if chance(0.3) { scenario.downstream.connections = pick(1, 50) }
    if chance(0.3) { scenario.downstream.capacity = Double(pick(1, 50)) }
    if chance(0.5) { scenario.listedAre = ["bad", "suspicious", "reject"][pick(0, 2)] }

    var policy = policy
    policy.mode = chance(0.9) ? .enforce : .observe
    policy.secondChance = chance(0.8)
    policy.badSessionsPerSource = pick(1, 10)
    var run = Experiment(
      personas: clients, scenario: scenario, policy: policy, seed: seed)
    if chance(0.5) {
      run.limits.connections = pick(8, 400)
      run.limits.sessions = pick(4, 100)
      run.limits.downstreamConnections = pick(4, 100)
      run.limits.sources = pick(64, 1_024)
      run.limits.buckets = pick(64, 1_024)
    }
    // For the policy alone: no octet is sealed in virtual time, so no certificate is needed.
    if chance(0.3) {
      run.policy.listeners[0].tls = .starttls
      if chance(0.5) { run.limits.tlsSessions = pick(4, 50) }
    }
    run.after = 3_600
    run.sampleEvery = 5
    return run
  }

  /// What broke in the world of a seed; empty if nothing did. Honest mail may be lost here: tables are too small
  /// on purpose, and mail servers away for longer than some senders try.
  package static func failures(
    seed: UInt64, personas: [Persona], policy: Policy
  ) -> [String] {
    failures(of: experiment(seed: seed, personas: personas, policy: policy).run().checks)
  }

  /// The same of checks that were looked at already.
  package static func failures(of checks: [Check]) -> [String] {
    checks.filter { $0.broken > 0 && $0.name != Checks().honest.name }
      .map { "\($0.name): \($0.broken) of \($0.looked), first: \($0.first ?? "")" }
  }
  /// What is printed of a world that broke a promise: each promise, and the command that plays it again. A world
  /// follows from its seed, the personas and the configuration, so the command names all three.
  ///
  /// - Parameter options: those of the run that the world depends on, as they were given.
  package static func words(seed: UInt64, failures: [String], options: [String]) -> String {
    let command = (["sluice simulate --swarm-seed \(seed)"] + options).joined(separator: " ")
    return (failures.map { "seed \(seed): \($0)" } + ["    again: \(command)"])
      .joined(separator: "\n")
  }
}
