// SPDX-License-Identifier: Apache-2.0
import Personas

extension View {
  /// One figure of every run, and how the second differs from the first.
  private struct Row {
    var name: String
    var value: (Int) -> Double
    var text: (Double) -> String
    /// Shares differ by percentage points, all else also by a factor.
    var isShare = false
  }

  /// What differs between the runs, as tables; nothing for one run.
  func differences() -> String {
    guard isComparison else { return "" }
    let sums = reports.indices.map { k in
      (
        all: reports[k].everyone, mail: reports[k].all("sender", named: "honest"),
        bots: reports[k].all("bot", named: "bots"), probes: reports[k].all("probe", named: "probes")
      )
    }
    let count: (Double) -> String = Figures.count
    func delay(_ k: Int, _ q: Double) -> Double {
      sums[k].mail.delay.total > 0 ? sums[k].mail.delay.quantile(q) : .nan
    }
    let rows = [
      Row(name: "connections offered", value: { Double(sums[$0].all.connections) }, text: count),
      Row(name: "connections let through", value: { Double(sums[$0].all.letThrough) }, text: count),
      Row(
        name: "bots' connections let through", value: { Double(sums[$0].bots.letThrough) },
        text: count),
      Row(
        name: "… of the bots' connections", value: { sums[$0].bots.letThroughShare },
        text: Figures.percent, isShare: true),
      Row(
        name: "bots' connections that left", value: { sums[$0].bots.leftShare },
        text: Figures.percent, isShare: true),
      Row(
        name: "bots' series of tries given up", value: { sums[$0].bots.gaveUpShare },
        text: Figures.percent,
        isShare: true),
      Row(
        name: "honest messages", value: { Double(sums[$0].mail.clients) }, text: count),
      Row(name: "honest messages lost", value: { Double(sums[$0].mail.lostCount) }, text: count),
      Row(
        name: "… of those decided", value: { sums[$0].mail.lostShare }, text: Figures.percent,
        isShare: true),
      Row(name: "honest mail's delay, p50", value: { delay($0, 0.5) }, text: Figures.seconds),
      Row(name: "honest mail's delay, p95", value: { delay($0, 0.95) }, text: Figures.seconds),
      Row(name: "honest mail's delay, p99", value: { delay($0, 0.99) }, text: Figures.seconds),
      Row(
        name: "probes without an answer", value: { Double(sums[$0].probes.lostCount) }, text: count),
      Row(
        name: "held, on average", value: { reports[$0].mean { Double($0.held) } },
        text: Figures.short),
      Row(name: "held, at most", value: { reports[$0].most { Double($0.held) } }, text: count),
      Row(
        name: "to the mail server, on average",
        value: { reports[$0].mean { Double($0.downstream) } }, text: Figures.short),
      Row(
        name: "to the mail server, at most", value: { reports[$0].most { Double($0.downstream) } },
        text: count),
      Row(
        name: "Little's law: seen against expected", value: { reports[$0].littleDifference },
        text: { Figures.signed($0, Figures.percent) }, isShare: true),
      Row(name: "breaches of promises", value: { Double(reports[$0].brokenChecks) }, text: count),
      Row(
        name: "memory at most",
        value: { reports[$0].hasMemory ? reports[$0].most { Double($0.memory) } : .nan },
        text: Figures.bytes),
      Row(
        name: "of one core, on average",
        value: { k in
          let cores = reports[k].cores
          return reports[k].hasCPU && !cores.isEmpty
            ? cores.reduce(0) { $0 + $1.share } / Double(cores.count) : .nan
        }, text: Figures.percent, isShare: true),
    ]
    var table: [[String]] = []
    for row in rows {
      let values = reports.indices.map(row.value)
      if !values.contains(where: \.isFinite) { continue }
      table.append(
        [row.name] + values.map(row.text)
          + values.dropFirst().map { Self.change(from: values[0], to: $0, row.text, row.isShare) })
    }
    let later = keys.dropFirst().map { "\($0) against \(keys[0])" }
    return Markup.section(
      "differences", "What differs", "",
      Markup.table("All clients together", ["figure"] + keys + later, table)
        + Markup.details("The same for each persona", personaDifferences()))
  }

  static func change(
    from first: Double, to second: Double, _ text: (Double) -> String, _ isShare: Bool
  ) -> String {
    guard first.isFinite, second.isFinite else { return Figures.none }
    let difference = second - first
    if difference == 0 { return "±0" }
    if isShare {
      let points = Figures.trimmed(abs(difference) * 100, 2)
      return Figures.signed(difference) { _ in (points == "0" ? "< 0.01" : points) + " points" }
    }
    let by =
      first != 0 ? " (" + Figures.signed(difference / abs(first), Figures.percent) + ")" : ""
    return Figures.signed(difference, text) + by
  }

  private func personaDifferences() -> String {
    var head = ["persona"]
    for title in ["let through", "left", "left, median", "lost", "delay p95"] {
      head += keys.map { "\(title) \($0)" }
    }
    let rows = personas.map { persona in
      let all = reports.indices.map { of(persona.id, $0) }
      let isBot = persona.kind == "bot"
      func each(_ text: (PersonaFindings) -> String) -> [String] {
        all.map { $0.map(text) ?? Figures.none }
      }
      return [persona.label]
        + each { Figures.percent($0.letThroughShare) }
        + each { Figures.percent($0.leftShare) }
        + each {
          $0.leftAfter.total > 0 ? Figures.seconds($0.leftAfter.quantile(0.5)) : Figures.none
        }
        + each { isBot ? Figures.none : Figures.percent($0.lostShare) }
        + each { $0.delay.total > 0 ? Figures.seconds($0.delay.quantile(0.95)) : Figures.none }
    }
    return Markup.table("Each persona", head, rows)
  }
}
