// SPDX-License-Identifier: Apache-2.0
// What `sluice simulate` runs: a scenario with a configuration, with and without the scenario's block lists. Not the
// running itself, which is `SideBySide`'s.

package import Configuration
package import Personas
import Policy
package import Simulator

/// Whether the scenario's block lists are loaded as the access table.
package enum ListsChoice: String, CaseIterable, Sendable {
  case on, off, both
}

/// One run, and the configuration file that it is of.
package struct SimulationRun: Sendable {
  /// nil for what ships.
  package var file: String?
  package var experiment: Experiment

  /// - Parameter keepsMode: the mode was named on the command line. Otherwise the run is in enforce mode, because
  ///   observe mode would show nothing of what Sluice does.
  package init(
    file: String?, _ configuration: Configuration, keepsMode: Bool, personas: [Persona],
    scenario: Scenario, seed: UInt64, after: Double
  ) {
    var policy = configuration.enginePolicy
    let isChanged = !keepsMode && policy.mode != .enforce
    if isChanged { policy.mode = .enforce }
    self.file = file
    experiment = Experiment(
      personas: personas, scenario: scenario, policy: policy, limits: configuration.limits,
      seed: seed)
    experiment.after = after
    experiment.sampleEvery = max(scenario.duration / 600, 1)
    experiment.configuration =
      (file ?? "shipped defaults") + (isChanged ? " in mode enforce" : "")
  }

  /// Whether the scenario has lists and they are loaded.
  package var hasLists: Bool { !experiment.scenario.listedAre.isEmpty }

  /// The same without the scenario's lists.
  package var withoutLists: SimulationRun {
    var other = self
    other.experiment.scenario.listedAre = ""
    return other
  }

  /// What the configuration does by itself, and what it does with lists that it does not have.
  package func runs(_ lists: ListsChoice) -> [SimulationRun] {
    if !hasLists { return [self] }
    return switch lists {
    case .off: [withoutLists]
    case .on: [self]
    case .both: [withoutLists, self]
    }
  }
}
