// SPDX-License-Identifier: Apache-2.0
import Personas
import Policy
import Suspicion

/// The promise of our own, H12: which delay costs which sender its mail.
struct DelaySteps {
  let setup: HeadlineSetup

  /// The banner delays of H12, in seconds: before and after each step.
  private static let stepsAt = [0.0, 25, 29, 31, 44, 46, 59, 61, 119, 121, 179, 181, 299, 301, 310]

  /// Whether a message of this kind is tried again at all before it is worth nothing.
  private func comesBack(_ sender: Persona) -> Bool {
    // Each gap is hit with 10 % of jitter.
    sender.retries.first.map { $0 * 0.9 <= sender.life } ?? false
  }

  /// - Parameter delays: seconds at the banner, each tried with the second chance and without it.
  func steps(at delays: [Double] = stepsAt) -> Headline {
    let callout = setup.personas.filter { $0.kind == .probe && $0.aim == .callout }
    let all = setup.senders + callout
    var surprises: [String] = []
    var lines: [String] = []
    for seconds in delays {
      for secondChance in [false, true] {
        var run = setup.experiment(
          "H12", all.map { ($0.id, 0.2) }, duration: 60, change: { $0.ipv6 = 0 })
        run.fix(.banner, seconds: seconds)
        run.policy.secondChance = secondChance
        // Nobody is known yet: each message meets the delay.
        if !secondChance { run.policy.goodFor = 0 }
        run.scenario.latency = .const(0.02)
        run.after = 7 * 86_400
        run.sampleEvery = 60
        let report = run.run()
        for (client, found) in zip(all, report.personas) {
          let patience = (client.patience[.banner] ?? client.patienceOtherwise).value(at: 0.5)
          let cap = min(patience, client.sessionMost)
          let lost = found.lost.values.reduce(0, +)
          // A second chance is for whoever comes a second time.
          let isHelped = secondChance && client.kind == .sender && comesBack(client)
          let mustLose = !isHelped && cap < seconds
          if found.clients == 0 || (mustLose ? lost < found.clients : lost > 0) {
            surprises.append(
              "\(Int(seconds)) s, \(client.id): \(lost) of \(found.clients) lost"
                + (secondChance ? " with the second chance" : "")
                + " (\(found.lost.keys.sorted().joined(separator: ", ")))")
          }
          if !secondChance && lost > 0 && !lines.contains(where: { $0.hasSuffix(" " + client.id) })
          {
            lines.append("\(Int(seconds)) \(client.id)")
          }
        }
      }
    }
    let once = setup.senders.filter { !comesBack($0) }.map(\.id).joined(separator: ", ")
    return Headline(
      id: "H12",
      claim:
        "own promise: at 25 s no sender loses mail; above, each class at its own time; with the "
        + "second chance no sender that tries more than once, at any setting",
      band:
        "lost at 31, 46, 61, 121, 181 and 301 s exactly who waits less; with the second chance only who has a "
        + "single try\(once.isEmpty ? "" : " (\(once))")",
      figure: lines.isEmpty ? "none lost" : "first lost at: " + lines.joined(separator: ", "),
      passed: surprises.isEmpty,
      note: surprises.isEmpty
        ? "strangers, each message; a probe that asks once loses its answer in the same way"
          + (once.isEmpty
            ? "" : ". \(once) tries once: above its patience no second chance helps it")
        : surprises.prefix(6).joined(separator: "; "))
  }
}
