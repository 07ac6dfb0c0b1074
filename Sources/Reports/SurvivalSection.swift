// SPDX-License-Identifier: Apache-2.0
//
// How long clients stay: the share of each persona's connections that are still held after a time.

import Personas

struct SurvivalSection {
  private let runs: Runs
  /// The longest hold of any run.
  private let most: Double
  private let axis: Axis

  init(_ runs: Runs) {
    self.runs = runs
    most = runs.found.joined().map { $0.held.total > 0 ? $0.held.quantile(1) : 0 }.max() ?? 0
    axis = Axis.hold(to: most, steps: 5)
  }

  /// A small plot for each persona, on one axis; first all of a kind together.
  func survival() -> String {
    guard most > 0 else { return "" }
    var cells = ""
    for (kind, name) in [
      ("bot", "all bots"), ("sender", "all honest senders"), ("probe", "all probes"),
    ]
    where runs.personas.filter({ $0.kind == kind }).count > 1 {
      cells += cell("all-\(kind)", name, kind, runs.reports.map { $0.all(kind, named: name) })
    }
    for (n, persona) in runs.personas.enumerated() {
      cells += cell(
        "\(n)", persona.label, persona.kind, runs.reports.indices.map { runs.of(persona.id, $0) })
    }
    let scale =
      axis.form == .logarithmic
      ? "The time axis is logarithmic, to the longest hold of \(Figures.seconds(most))."
      : "The time axis is in seconds."
    return Markup.section(
      "survival", "How long they stay",
      "Share of each persona's connections that are still held after a time. A steep step is a timeout that is "
        + "built into a program. \(scale)"
        + (runs.isComparison ? " \(runs.keys[0]) is dashed." : ""),
      "<div class=\"cells\">\n\(cells)</div>\n" + Markup.details("Shares as a table", shares()))
  }

  /// One plot with its words; nothing for personas without a connection that ended.
  private func cell(
    _ id: String, _ label: String, _ kind: String, _ all: [PersonaFindings?]
  ) -> String {
    let known = all.indices.filter { (all[$0]?.held.total ?? 0) > 0 }
    if known.isEmpty { return "" }
    let texts = known.map { k -> String in
      let held = all[k]?.held ?? Histogram()
      return runs.said(k, "half gone by ")
        + "\(Figures.seconds(held.quantile(0.5))), 90 % by \(Figures.seconds(held.quantile(0.9)))"
    }
    var share = Axis(title: "")
    share.ticks = [(0, "0 %"), (0.5, "50 %"), (1, "100 %")]
    var plot = Plot(
      id: "sv-\(id)", title: "\(label): share of connections still held",
      about: texts.joined(separator: "; "), x: axis, y: share)
    (plot.width, plot.height, plot.right, plot.bottom, plot.left) = (260, 128, 22, 22, 48)
    plot.x.title = ""
    // The dashed one last, or it would be hidden where both are the same.
    for k in known.reversed() {
      plot.curves.append(
        Plot.Curve(
          points: Self.curve(all[k]?.held ?? Histogram(), axis),
          color: runs.color(k, alone: Runs.color(ofKind: kind)),
          isDashed: runs.isComparison && k == 0, isFilled: !runs.isComparison))
    }
    var words = ""
    for (k, text) in zip(known, texts) {
      let tone = runs.isComparison ? " style=\"color:var(--s\(k % 6))\"" : ""
      words += "<p\(tone)>\(Markup.prose(text))</p>"
    }
    let tone = runs.isComparison ? "" : " class=\"\(Runs.color(ofKind: kind))\""
    return "<div class=\"cell\"><h4\(tone)>\(Markup.escaped(label))</h4>"
      + "\(words)\(plot.svg())</div>\n"
  }

  private func shares() -> String {
    let marks = [1.0, 3, 5, 10, 21, 25, 30, 60, 100, 180, 300].filter { $0 <= most }
    var rows: [[String]] = []
    for persona in runs.personas {
      for k in runs.reports.indices {
        guard let held = runs.of(persona.id, k)?.held, held.total > 0 else { continue }
        rows.append(
          [runs.named(k, persona.label), Figures.count(held.total)]
            + marks.map { Figures.percent(held.share(above: $0)) }
            + [Figures.seconds(held.quantile(0.5)), Figures.seconds(held.quantile(1))])
      }
    }
    return Markup.table(
      "Share of connections held longer than",
      ["persona", "ended"] + marks.map(Figures.seconds) + ["median", "longest"], rows)
  }

  /// Share of all connections that lasted longer, along the axis; points that lie on a line are left out.
  private static func curve(_ held: Histogram, _ axis: Axis) -> [(x: Double, y: Double)] {
    let steps = 310
    var points: [(x: Double, y: Double)] = []
    for k in 0...steps {
      let x = axis.value(at: Double(k) / Double(steps))
      let y = held.total == 0 ? 0 : k == 0 && axis.form == .linear ? 1 : held.share(above: x)
      let n = points.count
      if n >= 2, abs(points[n - 1].y - y) < 1e-4, abs(points[n - 2].y - y) < 1e-4 {
        points[n - 1] = (x, y)
      } else {
        points.append((x, y))
      }
    }
    return points
  }
}
