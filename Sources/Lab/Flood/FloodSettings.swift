// SPDX-License-Identifier: Apache-2.0

package import Personas

/// What `sluice flood run` was told, checked already.
package struct FloodSettings: Sendable {
  package var targets: FloodTargets
  package var personas: [Persona]
  /// Its duration is how long new clients come.
  package var scenario: Scenario
  package var seed: UInt64
  package var recipient: String
  /// Connections at a time.
  package var most: Int
  /// How long it goes on.
  package var seconds: Double
  package var threads: Int

  package init(
    targets: FloodTargets, personas: [Persona], scenario: Scenario, seed: UInt64,
    recipient: String, most: Int, seconds: Double, threads: Int
  ) {
    self.targets = targets
    self.personas = personas
    self.scenario = scenario
    self.seed = seed
    self.recipient = recipient
    self.most = most
    self.seconds = seconds
    self.threads = threads
  }

  /// The share of one thread: clients come from each at a part of the rate.
  package func part(_ number: Int) -> Population {
    var part = scenario
    for entry in part.entries.indices {
      let all = part.entries[entry].atOnce
      part.entries[entry].rate /= Double(threads)
      part.entries[entry].atOnce = (all - number + threads - 1) / threads
    }
    return Population(
      personas: personas, scenario: part, seed: seed &+ UInt64(number) &* 0x9E37_79B9,
      firstOctet: targets.firstOctet)
  }
}
