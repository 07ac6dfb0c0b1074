// SPDX-License-Identifier: Apache-2.0
// The published results, run again side by side. What each of them is and where its band lies says `Headlines`.

import Dispatch
import Foundation
package import Personas
package import Policy
package import Simulator
import Synchronization

/// All headlines of one seed.
package struct HeadlineRuns {
  /// In the order of their numbers.
  package let found: [Headline]

  /// Runs them.
  package init(personas: [Persona], policy: Policy, seed: UInt64) {
    let all = Headlines(
      personas: personas, policy: policy, seed: seed, measured: MeasuredVolume.newest())
    let results = Mutex([Headline?](repeating: nil, count: Headlines.all.count))
    // The longest first, or the last would run alone.
    let order = Headlines.all.indices.reversed().map { $0 }
    let line = ProgressLine("making \(order.count) published results again", parts: order.count)
    DispatchQueue.concurrentPerform(iterations: order.count) { k in
      let found = all.run(Headlines.all[order[k]])
      line.tell(k, 1)
      results.withLock { $0[order[k]] = found }
    }
    line.end()
    found = results.withLock { $0.compactMap { $0 } }
  }

  package var hasMissed: Bool { found.contains { $0.outcome == .missed } }

  package var junit: JUnitFile {
    var file = JUnitFile(suite: "Headlines")
    for headline in found {
      switch headline.outcome {
      case .inBand: file.add(headline.id, .passed)
      case .missed: file.add(headline.id, .failed("not in the band: \(headline.figure)"))
      case .measuredElsewhere: file.add(headline.id, .skipped("measured elsewhere"))
      }
    }
    return file
  }
}

extension MeasuredVolume {
  private struct Results: Decodable {
    struct Row: Decodable {
      var section: String
      var what: String
      var judged: Double?
    }
    var command: String
    var machine: [String: String]
    var rows: [Row]
  }

  /// What `scripts/bench` wrote last: the newest of the results that ship which has the million.
  fileprivate static func newest() -> MeasuredVolume? {
    // Their names are dates.
    for file in ShippedFiles.all(in: "results").reversed() {
      guard let results = try? JSONDecoder().decode(Results.self, from: Data(file.bytes)) else {
        continue
      }
      func figure(_ what: String) -> Double? {
        results.rows.first { $0.section == "million" && $0.what == what }?.judged
      }
      guard let held = figure("held in one process"),
        let opened = figure("accepted a second while opening")
      else { continue }
      let place = ["date", "CPU"].compactMap { results.machine[$0] }.joined(separator: ", ")
      return MeasuredVolume(
        held: held, opened: opened, place: "\(place), \(file.path)", command: results.command)
    }
    return nil
  }
}
