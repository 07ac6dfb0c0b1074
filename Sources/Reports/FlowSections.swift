// SPDX-License-Identifier: Apache-2.0
//
// What changes during the run: connections, slots, connections to the mail server, memory and CPU.

import Personas

struct FlowSections {
  let runs: Runs

  private func curve(
    _ k: Int, _ name: String, _ color: String, dashed: Bool = false, filled: Bool = false,
    _ value: (Sample) -> Double
  ) -> Plot.Curve {
    Plot.Curve(
      points: runs.reports[k].samples.map { (x: $0.at, y: value($0)) }, color: color, name: name,
      isDashed: dashed, isFilled: filled)
  }

  private func plot(
    _ id: String, _ title: String, _ about: String, _ curves: [Plot.Curve],
    levels: [Plot.Level] = [], text: (Double) -> String = Figures.short
  ) -> Plot {
    let most = max(
      curves.flatMap { $0.points.map(\.y) }.max() ?? 0,
      levels.map(\.y).filter(\.isFinite).max() ?? 0)
    return Plot(
      id: id, title: title, about: about, x: .time(to: runs.duration),
      y: .linear(to: most, title: "", text: text), curves: curves, levels: levels)
  }

  /// At most 24 moments of each run, evenly chosen, and how the table says so.
  private func table(
    _ title: String, _ columns: [(name: String, text: (Sample) -> String)]
  ) -> String {
    var content = ""
    for (k, report) in runs.reports.enumerated() {
      let count = report.samples.count
      let shown = min(count, 24)
      let rows = (0..<shown).map { n -> [String] in
        let sample = report.samples[shown == 1 ? 0 : n * (count - 1) / (shown - 1)]
        return [Figures.seconds(sample.at)] + columns.map { $0.text(sample) }
      }
      let part = shown < count ? ", \(shown) of \(Figures.count(count)) moments" : ""
      content += Markup.table(
        runs.named(k, title) + part, ["after"] + columns.map(\.name), rows)
    }
    return Markup.details("As a table", content)
  }

  /// Runs that have samples.
  private var sampled: [Int] { runs.reports.indices.filter { !runs.reports[$0].samples.isEmpty } }

  func flow() -> String {
    guard runs.reports.contains(where: { !$0.samples.isEmpty }) else { return "" }
    return Markup.section(
      "flow", "Over time",
      runs.isComparison
        ? runs.hues + "." : "",
      "<div class=\"figures\">\n\(offered())\(slots())\(downstream())</div>\n")
  }

  private func offered() -> String {
    var curves: [Plot.Curve] = []
    for k in runs.reports.indices {
      curves.append(
        curve(k, runs.named(k, "offered"), runs.color(k, alone: "grey"), dashed: runs.isComparison)
        { $0.offered })
      curves.append(
        curve(
          k, runs.named(k, "let through"), runs.color(k, alone: "sender"),
          filled: !runs.isComparison
        ) { $0.letThrough })
    }
    let about = sampled.map { k in
      runs.said(k, "on average ") + Figures.rate(runs.reports[k].mean { $0.offered }) + " offered, "
        + Figures.rate(runs.reports[k].mean { $0.letThrough }) + " let through"
    }.joined(separator: "; ")
    return Markup.figure(
      "Connections a second, offered and let through",
      plot("offered", "Connections offered and let through", about, curves).svg(),
      note: about + (runs.isComparison ? "; offered is dashed" : ""),
      behind: table(
        "Connections a second",
        [
          ("offered", { Figures.rate($0.offered) }),
          ("let through", { Figures.rate($0.letThrough) }),
        ]))
  }

  private func slots() -> String {
    let behind = table(
      "Slots",
      [
        ("held", { Figures.count($0.held) }), ("waiting", { Figures.count($0.waiting) }),
        ("dripping", { Figures.count($0.dripping) }), ("talking", { Figures.count($0.talking) }),
      ])
    let levels = runs.reports.indices.filter { runs.reports[$0].little.expected > 0 }.map { k in
      Plot.Level(
        y: runs.reports[k].little.expected, color: runs.color(k, alone: "probe"),
        name: runs.named(k, "Little \(Figures.short(runs.reports[k].little.expected))"))
    }
    let about = runs.reports.indices.filter { runs.reports[$0].little.expected > 0 }.map {
      k -> String in
      let little = runs.reports[k].little
      return runs.said(k, "Little's law: ") + Figures.rate(little.rate) + " × "
        + Figures.seconds(little.hold) + " = \(Figures.short(little.expected)) held; seen "
        + Figures.short(little.seen) + " on average"
    }.joined(separator: "; ")
    if !runs.isComparison {
      let curves = [
        curve(0, "held", "grey") { Double($0.held) },
        curve(0, "waiting", "s4") { Double($0.waiting) },
        curve(0, "dripping", "bot") { Double($0.dripping) },
        curve(0, "talking", "sender") { Double($0.talking) },
        // A flood's clients cannot see the tarpit: what was never there is not drawn.
      ].filter { $0.points.contains { $0.y > 0 } }
      return Markup.figure(
        "Slots", plot("slots", "Slots over time", about, curves, levels: levels).svg(), note: about,
        behind: behind)
    }
    let held = runs.reports.indices.map { k in
      curve(k, runs.named(k, "held"), runs.color(k, alone: "")) { Double($0.held) }
    }
    var text = Markup.figure(
      "Slots held", plot("slots", "Slots held over time", about, held, levels: levels).svg(),
      note: about, behind: behind)
    let states: [(String, (Sample) -> Double)] = [
      ("waiting", { Double($0.waiting) }), ("dripping", { Double($0.dripping) }),
      ("talking", { Double($0.talking) }),
    ]
    for (name, value) in states where runs.reports.contains(where: { $0.most(value) > 0 }) {
      let known = sampled.filter { runs.reports[$0].most(value) > 0 }
      let curves = known.map { k in
        curve(k, runs.named(k, name), runs.color(k, alone: ""), value)
      }
      let about = known.map { k in
        runs.said(k, "on average ") + Figures.short(runs.reports[k].mean(value))
      }.joined(separator: "; ")
      text += Markup.figure(
        "Slots \(name)", plot("slots-\(name)", "Slots \(name) over time", about, curves).svg(),
        note: about)
    }
    return text
  }

  private func downstream() -> String {
    var curves: [Plot.Curve] = []
    for k in runs.reports.indices {
      if runs.reports[k].knowsWithout {
        curves.append(
          curve(
            k, runs.named(k, "unshielded"), runs.color(k, alone: "grey"), dashed: runs.isComparison
          ) { Double($0.downstreamWithout) })
      }
      curves.append(
        curve(
          k, runs.named(k, "shielded"), runs.color(k, alone: "sender"), filled: !runs.isComparison
        ) { Double($0.downstream) })
    }
    let about = sampled.map { k -> String in
      let report = runs.reports[k]
      return runs.said(k, "with Sluice ") + Figures.short(report.mean { Double($0.downstream) })
        + " on average, \(Figures.count(report.most { Double($0.downstream) })) at most"
        + (report.knowsWithout
          ? "; without it " + Figures.short(report.mean { Double($0.downstreamWithout) })
            + " on average, \(Figures.count(report.most { Double($0.downstreamWithout) })) at most"
          : "; without it unknown")
    }.joined(separator: "; ")
    return Markup.figure(
      "Connections to the mail server",
      plot("downstream", "Connections to the mail server over time", about, curves).svg(),
      note: about,
      behind: table(
        "Connections to the mail server",
        [("with Sluice", { Figures.count($0.downstream) })]
          + (runs.reports.contains(where: \.knowsWithout)
            ? [("without it", { Figures.count($0.downstreamWithout) })] : [])))
  }

  // MARK: The machine

  /// Memory and CPU of real runs.
  func machine() -> String {
    var text = ""
    let withMemory = runs.reports.indices.filter { runs.reports[$0].hasMemory }
    if !withMemory.isEmpty {
      let curves = withMemory.map { k in
        curve(
          k, runs.named(k, "memory"), runs.color(k, alone: "sender"), filled: !runs.isComparison
        ) {
          Double($0.memory)
        }
      }
      let about = withMemory.map { k in
        runs.said(k, "at most ") + Figures.bytes(runs.reports[k].most { Double($0.memory) })
      }.joined(separator: "; ")
      text += Markup.figure(
        "Memory", plot("memory", "Memory over time", about, curves, text: Figures.bytes).svg(),
        note: about, behind: table("Memory", [("memory", { Figures.bytes(Double($0.memory)) })]))
    }
    let withCPU = runs.reports.indices.filter { runs.reports[$0].hasCPU }
    if !withCPU.isEmpty {
      let curves = withCPU.map { k in
        Plot.Curve(
          points: runs.reports[k].cores.map { (x: $0.at, y: $0.share) },
          color: runs.color(k, alone: "sender"), name: runs.named(k, "CPU"),
          isFilled: !runs.isComparison)
      }
      var rows = ""
      let about = withCPU.map { k -> String in
        let cores = runs.reports[k].cores
        let mean = cores.reduce(0) { $0 + $1.share } / Double(max(cores.count, 1))
        let shown = min(cores.count, 24)
        rows += Markup.table(
          runs.named(k, "CPU, \(shown) of \(Figures.count(cores.count)) moments"),
          ["after", "of one core"],
          (0..<shown).map { n in
            let one = cores[shown == 1 ? 0 : n * (cores.count - 1) / (shown - 1)]
            return [Figures.seconds(one.at), Figures.percent(one.share)]
          })
        return runs.said(k, "on average ") + Figures.percent(mean) + " of one core"
      }.joined(separator: "; ")
      text += Markup.figure(
        "CPU",
        plot("cpu", "CPU over time, of one core", about, curves) { Figures.percent($0) }.svg(),
        note: about, behind: Markup.details("As a table", rows))
    }
    return text.isEmpty
      ? ""
      : Markup.section(
        "machine", "Resources used", "", "<div class=\"figures\">\n\(text)</div>\n")
  }
}
