// SPDX-License-Identifier: Apache-2.0
//
// What differs between runs, as tables: all clients together, and persona by persona.

import Personas

struct DifferenceSection {
  /// One figure of every run, and how the second differs from the first.
  private struct Row {
    var name: String
    var values: [Double]
    var text: (Double) -> String
    /// Shares differ by percentage points, all else also by a factor.
    var isShare = false
  }

  let runs: Runs

  /// Nothing for one run.
  func differences() -> String {
    guard runs.isComparison else { return "" }
    let rows = connections() + honest() + slots() + machine()
    let table = rows.filter { $0.values.contains(where: \.isFinite) }.map { row in
      [row.name] + row.values.map(row.text)
        + row.values.dropFirst().map {
          Figures.change(from: row.values[0], to: $0, row.text, isShare: row.isShare)
        }
    }
    let later = runs.keys.dropFirst().map { "\($0) against \(runs.keys[0])" }
    return Markup.section(
      "differences", "What differs", "",
      Markup.table("All clients together", ["figure"] + runs.keys + later, table)
        + Markup.details("The same for each persona", personaDifferences()))
  }

  private func count(_ name: String, _ values: [Double]) -> Row {
    Row(name: name, values: values, text: Figures.count)
  }

  private func share(_ name: String, _ values: [Double]) -> Row {
    Row(name: name, values: values, text: Figures.percent, isShare: true)
  }

  private func connections() -> [Row] {
    let all = runs.reports.map(\.everyone)
    let bots = runs.reports.map { $0.all("bot", named: "bots") }
    return [
      count("connections offered", all.map { Double($0.connections) }),
      count("connections let through", all.map { Double($0.letThrough) }),
      count("bots' connections let through", bots.map { Double($0.letThrough) }),
      share("… of the bots' connections", bots.map(\.letThroughShare)),
      share("bots' connections that left", bots.map(\.leftShare)),
      share("bots' series of attempts given up", bots.map(\.gaveUpShare)),
    ]
  }

  private func honest() -> [Row] {
    let mail = runs.reports.map { $0.all("sender", named: "honest") }
    let probes = runs.reports.map { $0.all("probe", named: "probes") }
    func delay(_ name: String, _ q: Double) -> Row {
      Row(
        name: "honest mail's delay, \(name)",
        values: mail.map { $0.delay.total > 0 ? $0.delay.quantile(q) : .nan }, text: Figures.seconds
      )
    }
    return [
      count("honest messages", mail.map { Double($0.clients) }),
      count("honest messages lost", mail.map { Double($0.lostCount) }),
      share("… of those decided", mail.map(\.lostShare)),
      delay("p50", 0.5), delay("p95", 0.95), delay("p99", 0.99),
      count("probes without an answer", probes.map { Double($0.lostCount) }),
    ]
  }

  private func slots() -> [Row] {
    func values(_ of: (RunReport) -> Double) -> [Double] { runs.reports.map(of) }
    return [
      Row(
        name: "held, on average", values: values { $0.mean { Double($0.held) } },
        text: Figures.short
      ),
      count("held, at most", values { $0.most { Double($0.held) } }),
      Row(
        name: "to the mail server, on average",
        values: values { $0.mean { Double($0.downstream) } },
        text: Figures.short),
      count("to the mail server, at most", values { $0.most { Double($0.downstream) } }),
      Row(
        name: "Little's law: seen against expected", values: values(\.littleDifference),
        text: { Figures.signed($0, Figures.percent) }, isShare: true),
      count("violations of guarantees", values { Double($0.brokenChecks) }),
    ]
  }

  private func machine() -> [Row] {
    [
      Row(
        name: "peak memory",
        values: runs.reports.map { $0.hasMemory ? $0.most { Double($0.memory) } : .nan },
        text: Figures.bytes),
      share(
        "of one core, on average",
        runs.reports.map { report in
          let cores = report.cores
          return report.hasCPU && !cores.isEmpty
            ? cores.reduce(0) { $0 + $1.share } / Double(cores.count) : .nan
        }),
    ]
  }

  private func personaDifferences() -> String {
    var head = ["persona"]
    for title in ["let through", "left", "left, median", "lost", "delay p95"] {
      head += runs.keys.map { "\(title) \($0)" }
    }
    let rows = runs.personas.map { persona in
      let all = runs.reports.indices.map { runs.of(persona.id, $0) }
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
