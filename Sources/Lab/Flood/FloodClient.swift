// SPDX-License-Identifier: Apache-2.0
// The personas of a scenario on real sockets: tens of thousands of clients in one or two threads. Here are the threads
// as their owner sees them; what one of them does is in `FloodThread`.

import Foundation
package import Personas
import Structures
import Synchronization
import Uring

/// The threads of a flood, seen from outside.
package final class FloodClient: Sendable {
  package let settings: FloodSettings
  private let tallies: Mutex<[FloodTally]>
  private let results = Mutex<(findings: [[PersonaFindings]], checks: FloodChecks)>(
    ([], FloodChecks()))
  private let stopping = Atomic(false)
  private let faults = Mutex<String?>(nil)
  private let done = DispatchSemaphore(value: 0)
  private let started = MonotonicClock.now()

  package init(_ settings: FloodSettings) {
    self.settings = settings
    let empty = FloodTally(entries: settings.scenario.entries.count)
    tallies = Mutex(Array(repeating: empty, count: settings.threads))
    for number in 0..<settings.threads {
      let thread = Thread { [self] in
        var part = FloodThread(
          number, settings, started: started,
          isStopping: { [self] in stopping.load(ordering: .relaxed) },
          publish: { [self] tally in tallies.withLock { $0[number] = tally } })
        do { try part.run() } catch { faults.withLock { $0 = $0 ?? "\(error)" } }
        let (findings, checks) = part.result
        results.withLock { result in
          result.findings.append(findings)
          result.checks += checks
        }
        done.signal()
      }
      thread.name = "flood-\(number)"
      thread.start()
    }
  }

  /// Seconds since the start.
  package var age: Double { Double(MonotonicClock.now() - started) / 1e6 }
  /// Why a thread had to end.
  package var fault: String? { faults.withLock { $0 } }

  /// All threads together, a moment ago.
  package var tally: FloodTally {
    tallies.withLock { list in
      var sum = list[0]
      for tally in list.dropFirst() { sum += tally }
      return sum
    }
  }

  /// Closes every connection and waits for that; what was found.
  package func stop() -> (findings: [PersonaFindings], checks: FloodChecks) {
    stopping.store(true, ordering: .relaxed)
    for _ in 0..<settings.threads { done.wait() }
    return results.withLock { result in
      guard var sum = result.findings.first else { return ([], result.checks) }
      for more in result.findings.dropFirst() {
        for k in sum.indices { sum[k].add(more[k]) }
      }
      return (sum, result.checks)
    }
  }
}
