// SPDX-License-Identifier: Apache-2.0
// Random worlds, one after the other on each core, until there are enough of them. What a world is and what it must
// keep says `Swarm`.

import Dispatch
import Foundation
package import Personas
package import Policy
import Simulator
import Synchronization

/// Worlds of successive seeds.
package struct RandomWorlds: Sendable {
  /// How many there are to be.
  package enum Extent: Sendable {
    case number(UInt64)
    case minutes(Double)

    /// Which part of it is done, 1 and more at its end.
    fileprivate func done(_ worlds: UInt64, since began: UInt64) -> Double {
      switch self {
      case .number(let all): Double(worlds) / Double(max(all, 1))
      case .minutes(let minutes):
        Double(DispatchTime.now().uptimeNanoseconds - began) / (minutes * 60e9)
      }
    }
  }

  /// Worlds that were run, and those among them that broke a promise.
  package let count: UInt64
  package let failed: Int
  private let first: UInt64

  /// Runs them.
  ///
  /// - Parameters:
  ///   - first: the first world's seed.
  ///   - options: what the command that runs a failed one again needs.
  ///   - print: prints what is said of a failed one; called on any thread.
  package init(
    _ extent: Extent, from first: UInt64, personas: [Persona], policy: Policy, options: [String],
    print: @Sendable (String) -> Void
  ) {
    let began = DispatchTime.now().uptimeNanoseconds
    let line = ProgressLine("random worlds", parts: 1)
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
        let failures = Swarm.failures(seed: seed, personas: personas, policy: policy)
        if failures.isEmpty { continue }
        state.withLock { $0.failed += 1 }
        line.end()
        print(Swarm.words(seed: seed, failures: failures, options: options))
      }
    }
    line.end()
    let (next, failed) = state.withLock { $0 }
    count = next - first
    self.failed = failed
    self.first = first
  }

  package var text: String {
    "\(count) random worlds from seed \(first) on, \(failed) broke a promise"
  }

  package var junit: JUnitFile {
    var file = JUnitFile(suite: "Random worlds")
    file.add(
      "\(count) from seed \(first) on",
      failed == 0 && count > 0 ? .passed : .failed("\(failed) broke a promise"))
    return file
  }
}
