// SPDX-License-Identifier: Apache-2.0
import Personas

/// What all reports say of a persona, in one place, so that text, page and sweep cannot differ.
extension PersonaFindings {
  /// Connections whose client lost patience.
  var left: Int {
    endings.reduce(0) { $0 + ($1.key.hasPrefix(Ending.impatient.name) ? $1.value : 0) }
  }

  /// Connections that had not ended with the run.
  var stillThere: Int {
    let ended = endings.reduce(0) { $0 + ($1.key == Ending.none.name ? 0 : $1.value) }
    return max(0, connections - ended)
  }

  /// Connections that ended.
  var ended: Int { max(held.total, endings.values.reduce(0, +)) }

  /// Share of the connections that ended because the client lost patience; not a number if none ended.
  var leftShare: Double { ended > 0 ? Double(left) / Double(ended) : .nan }

  /// What `gaveUp` is a part of: a run that does not count series has one for each client.
  var tries: Int { max(series, clients) }

  /// Share of all series of tries that were given up for good.
  var gaveUpShare: Double { tries > 0 ? Double(gaveUp) / Double(tries) : .nan }

  var letThroughShare: Double {
    connections > 0 ? Double(letThrough) / Double(connections) : .nan
  }

  /// Messages given up for good; of a probe, connections without their answer.
  var lostCount: Int { lost.values.reduce(0, +) }

  /// Messages known to be delivered or lost: one still under way is neither.
  var decided: Int { kind == "probe" ? max(ended, lostCount) : delay.total + lostCount }

  var lostShare: Double { decided > 0 ? Double(lostCount) / Double(decided) : .nan }

  /// "id name".
  var label: String { name.isEmpty || name == id ? id : "\(id) \(name)" }
}

/// Highest first, and by name where two are equal: dictionaries have no order of their own.
func ranked(_ counts: [String: Int]) -> [(name: String, count: Int)] {
  counts.filter { $0.value > 0 }.sorted { ($1.value, $0.key) < ($0.value, $1.key) }
    .map { ($0.key, $0.value) }
}

extension RunReport {
  /// The personas, each once, though a scenario may have it in several entries.
  var merged: [PersonaFindings] {
    var found: [PersonaFindings] = []
    var place: [String: Int] = [:]
    for persona in personas {
      if let k = place[persona.id] {
        found[k].add(persona)
      } else {
        place[persona.id] = found.count
        found.append(persona)
      }
    }
    return found
  }

  /// All personas of a kind as if they were one.
  func all(_ kind: String, named name: String) -> PersonaFindings {
    var sum = PersonaFindings(id: name, name: name, kind: kind)
    for persona in personas where persona.kind == kind { sum.add(persona) }
    return sum
  }

  var everyone: PersonaFindings {
    var sum = PersonaFindings(id: "all", name: "all", kind: "")
    for persona in personas { sum.add(persona) }
    return sum
  }

  /// How long clients came, and how much longer the run went on.
  var time: String {
    let came = Figures.seconds(duration)
    if kind == "real" { return came }
    return after > 0
      ? "\(came) simulated, plus \(Figures.seconds(after)) for retries" : "\(came) simulated"
  }

  /// The time of what is counted over the whole run.
  var wholeTime: String {
    after > 0
      ? "The whole run: \(Figures.seconds(duration)), and retries for up to \(Figures.seconds(after)) afterwards"
      : "The whole run: \(Figures.seconds(duration))"
  }

  var brokenChecks: Int { checks.reduce(0) { $0 + $1.broken } }

  /// How far what was seen is from what Little's law expects, as a share of that.
  var littleDifference: Double {
    let little = little
    return little.expected > 0 ? (little.seen - little.expected) / little.expected : .nan
  }

  var speed: Double { took > 0 ? Double(events) / took : .nan }

  func mean(_ of: (Sample) -> Double) -> Double {
    samples.isEmpty ? .nan : samples.reduce(0) { $0 + of($1) } / Double(samples.count)
  }

  func most(_ of: (Sample) -> Double) -> Double {
    samples.map(of).max() ?? .nan
  }

  var hasMemory: Bool { samples.contains { $0.memory > 0 } }
  var hasCPU: Bool { samples.contains { $0.cpu > 0 } }
  var knowsWithout: Bool { samples.contains { $0.downstreamWithout > 0 } }

  /// Cores in use between each sample and the one before.
  var cores: [(at: Double, share: Double)] {
    var before = 0.0
    return samples.map { sample in
      let span = sample.at - before
      before = sample.at
      return (sample.at, span > 0 ? Double(sample.cpu) / 1_000_000 / span : 0)
    }
  }
}
