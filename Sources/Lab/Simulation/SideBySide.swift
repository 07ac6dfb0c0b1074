// SPDX-License-Identifier: Apache-2.0
// Several simulated runs at a time, on as many threads as the machine has. Each run is deterministic by itself, so the
// order in which they end changes nothing.

import Dispatch
package import Personas
package import Reports
package import Simulator
package import Suspicion
import Synchronization

/// Runs of one command.
package enum SideBySide {
  /// Runs experiments, and says on the terminal how far they are.
  package static func run(_ runs: [Experiment]) -> [RunReport] {
    let results = Mutex([RunReport?](repeating: nil, count: runs.count))
    let line = ProgressLine(
      "simulating \(runs.count == 1 ? "a run" : "\(runs.count) runs")", parts: runs.count)
    defer { line.end() }
    DispatchQueue.concurrentPerform(iterations: runs.count) { k in
      let began = DispatchTime.now().uptimeNanoseconds
      var run = runs[k]
      let (duration, after) = (run.scenario.duration, run.after)
      run.progress = { seconds in
        // Nearly all of the work is the scenario; retries of days take a moment.
        line.tell(
          k,
          seconds < duration
            ? 0.9 * seconds / duration : 0.9 + 0.1 * (seconds - duration) / max(after, 1))
      }
      var report = run.run()
      line.tell(k, 1)
      report.took = Double(DispatchTime.now().uptimeNanoseconds - began) / 1e9
      results.withLock { $0[k] = report }
    }
    return results.withLock { $0.compactMap { $0 } }
  }

  /// Runs experiments, and the first one's clients without Sluice, which every report is compared with.
  package static func runWithBaseline(_ runs: [Experiment]) -> [RunReport] {
    guard let first = runs.first else { return [] }
    var reports = run(runs + [first.unshielded])
    let bare = reports.removeLast()
    for k in reports.indices { reports[k].compare(with: bare) }
    return reports
  }

  /// Runs an experiment with one delay at several values.
  ///
  /// - Parameters:
  ///   - values: seconds.
  ///   - command: the one that does the same again.
  package static func sweep(
    _ base: Experiment, _ stage: Stage, _ values: [Double], command: String
  ) -> Sweep {
    let runs = values.map { seconds in
      var run = base
      run.fix(stage, seconds: seconds)
      run.configuration = "\(stage.name) \(seconds) s"
      return run
    }
    return Sweep(
      parameter: "delay of \(stage.name)", unit: "s",
      points: zip(values, run(runs)).map { Sweep.Point(value: $0, report: $1) },
      command: command)
  }
}

extension RunReport {
  /// Takes in what the same clients reached without Sluice.
  package mutating func compare(with bare: RunReport) {
    without = bare.reach
    for (n, sample) in bare.samples.enumerated() where n < samples.count {
      samples[n].downstreamWithout = sample.downstream
    }
  }
}
