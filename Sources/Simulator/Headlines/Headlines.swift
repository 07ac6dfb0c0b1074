// SPDX-License-Identifier: Apache-2.0
package import Personas
package import Policy
import Shield

// Published results made again in the simulated world, each with the band in which it counts as the same. The
// set-ups follow what was published; what had to be chosen is in the headline's note. Nothing here changes the
// engine: a set-up is personas, a scenario and a policy.

/// Published results, and a promise of our own, made again with the personas: H1 to H12.
package struct Headlines: Sendable {
  private let setup: HeadlineSetup
  private let measured: MeasuredVolume?

  /// - Parameters:
  ///   - personas: all that ship.
  ///   - policy: the shipped one, in force (`mode` is set to enforce).
  ///   - measured: what the benchmarks found of H7; without it H7 is missed.
  package init(
    personas: [Persona], policy: Policy, seed: UInt64, measured: MeasuredVolume? = nil
  ) {
    setup = HeadlineSetup(personas: personas, policy: policy, seed: seed)
    self.measured = measured
  }

  package static let all = [
    "H1", "H2", "H3", "H4", "H5", "H6", "H7", "H8", "H9", "H10", "H11", "H12",
  ]

  /// Runs one of `all`.
  package func run(_ id: String) -> Headline {
    switch id {
    case "H1": Impatience(setup: setup).slowLane()
    case "H2": Impatience(setup: setup).spikes()
    case "H3": Funnel(setup: setup).funnel()
    case "H4": Funnel(setup: setup).behindLists()
    case "H5": Impatience(setup: setup).stutter()
    case "H6": Load(setup: setup, measured: measured).little()
    case "H7": Load(setup: setup, measured: measured).volume()
    case "H8": Load(setup: setup, measured: measured).overload()
    case "H9": Habits(setup: setup).earlyTalkers()
    case "H10": Habits(setup: setup).harvest()
    case "H11": Habits(setup: setup).attempts()
    default: DelaySteps(setup: setup).steps()
    }
  }
}
