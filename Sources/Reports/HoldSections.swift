// SPDX-License-Identifier: Apache-2.0
//
// How long clients stay: the survival curve of each persona, and the moments at which bots leave.

import Personas

extension View {
  /// Share of all connections that lasted longer, along the axis; points that lie on a line are left out.
  static func survival(_ held: Histogram, _ axis: Axis) -> [(x: Double, y: Double)] {
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

  /// A small plot for each persona, on one axis; first all of a kind together.
  func survival() -> String {
    let most = found.joined().map { $0.held.total > 0 ? $0.held.quantile(1) : 0 }.max() ?? 0
    guard most > 0 else { return "" }
    let axis = Axis.hold(to: most, steps: 5)
    var share = Axis(title: "")
    share.ticks = [(0, "0 %"), (0.5, "50 %"), (1, "100 %")]

    var cells = ""
    func cell(_ id: String, _ label: String, _ kind: String, _ all: [PersonaFindings?]) {
      let known = all.indices.filter { (all[$0]?.held.total ?? 0) > 0 }
      if known.isEmpty { return }
      let texts = known.map { k -> String in
        let held = all[k]?.held ?? Histogram()
        return (isComparison ? "\(keys[k]): " : "") + "half gone by "
          + "\(Figures.seconds(held.quantile(0.5))), 90 % by \(Figures.seconds(held.quantile(0.9)))"
      }
      var plot = Plot(
        id: "sv-\(id)", title: "\(label): share of connections still held",
        about: texts.joined(separator: "; "), x: axis, y: share)
      (plot.width, plot.height, plot.right, plot.bottom, plot.left) = (260, 128, 22, 22, 48)
      plot.x.title = ""
      // The dashed one last, or it would be hidden where both are the same.
      for k in known.reversed() {
        plot.curves.append(
          Plot.Curve(
            points: Self.survival(all[k]?.held ?? Histogram(), axis),
            color: color(k, alone: Self.color(ofKind: kind)), isDashed: isComparison && k == 0,
            isFilled: !isComparison))
      }
      var words = ""
      for (k, text) in zip(known, texts) {
        words +=
          isComparison
          ? "<p style=\"color:var(--s\(k % 6))\">\(Markup.prose(text))</p>"
          : "<p>\(Markup.prose(text))</p>"
      }
      let tone = isComparison ? "" : " class=\"\(Self.color(ofKind: kind))\""
      cells +=
        "<div class=\"cell\"><h4\(tone)>\(Markup.escaped(label))</h4>"
        + "\(words)\(plot.svg())</div>\n"
    }
    for (kind, name) in [
      ("bot", "all bots"), ("sender", "all honest senders"), ("probe", "all probes"),
    ]
    where personas.filter({ $0.kind == kind }).count > 1 {
      cell("all-\(kind)", name, kind, reports.map { $0.all(kind, named: name) })
    }
    for (n, persona) in personas.enumerated() {
      cell("\(n)", persona.label, persona.kind, reports.indices.map { of(persona.id, $0) })
    }

    let marks = [1.0, 3, 5, 10, 21, 25, 30, 60, 100, 180, 300].filter { $0 <= most }
    var rows: [[String]] = []
    for persona in personas {
      for k in reports.indices {
        guard let held = of(persona.id, k)?.held, held.total > 0 else { continue }
        rows.append(
          [named(k, persona.label), Figures.count(held.total)]
            + marks.map { Figures.percent(held.share(above: $0)) }
            + [Figures.seconds(held.quantile(0.5)), Figures.seconds(held.quantile(1))])
      }
    }
    let table = Markup.table(
      "Share of connections held longer than",
      ["persona", "ended"] + marks.map(Figures.seconds)
        + ["median", "longest"], rows)
    let scale =
      axis.form == .logarithmic
      ? "The time axis is logarithmic, to the longest hold of \(Figures.seconds(most))."
      : "The time axis is in seconds."
    return Markup.section(
      "survival", "How long they stay",
      "Share of each persona's connections that are still held after a time. A steep step is a patience that is "
        + "built into a program. \(scale)"
        + (isComparison ? " \(keys[0]) is dashed." : ""),
      "<div class=\"cells\">\n\(cells)</div>\n" + Markup.details("Shares as a table", table))
  }

  // MARK: When bots leave

  /// Seconds shown; bots that leave later are counted in words.
  private static let lastSecond = 310

  func leaving() -> String {
    let bots = reports.map { $0.all("bot", named: "bots").leftAfter }
    let longest = bots.map { $0.total > 0 ? $0.quantile(1) : 0 }.max() ?? 0
    guard longest > 0 else { return "" }
    let end = min(
      [35, 70, 130, 200, Self.lastSecond].first { Double($0) >= longest } ?? Self.lastSecond,
      Self.lastSecond)
    let bins = bots.map { histogram in
      (0..<end).map { histogram.count(from: Double($0), to: Double($0 + 1)) }
    }
    let sums = (0..<end).map { second in bins.reduce(0) { $0 + $1[second] } }
    let peaks = Self.peaks(sums)
    let high = Double(bins.joined().max() ?? 1)
    // A spike that would be lower than a tenth of the plot is seen by its square root.
    let isRoot = peaks.contains { Double(sums[$0]) / Double(reports.count) < high / 10 }

    var x = Axis(high: Double(end), title: "seconds after which they left")
    x.ticks = stride(from: 0, through: end, by: end <= 70 ? 5 : end <= 200 ? 10 : 20).map {
      (Double($0), String($0))
    }
    let y =
      isRoot
      ? Axis.root(to: high, title: "")
      : Axis.linear(to: high, title: "", steps: 4)
    var plot = Plot(
      id: "left", title: "When bots left, by seconds",
      about: peaks.isEmpty
        ? "No spikes."
        : "Spikes at " + peaks.map { "\(Self.middle(bots, $0)) s" }.joined(separator: ", "),
      x: x, y: y)
    (plot.width, plot.height, plot.top, plot.right) = (1_080, 320, 70, 24)
    if isComparison {
      for k in reports.indices {
        var points = bins[k].enumerated().map { (x: Double($0.offset), y: Double($0.element)) }
        points.append((Double(end), 0))
        plot.curves.append(
          Plot.Curve(points: points, color: "s\(k % 6)", isFilled: true, isStepped: true))
      }
    } else {
      plot.bars = bins[0].enumerated().map {
        (Double($0.offset), Double($0.offset + 1), Double($0.element))
      }
    }
    for second in peaks {
      plot.peaks.append(
        Plot.Peak(
          x: Double(second) + 0.5, y: bins.map { Double($0[second]) }.max() ?? 0,
          name: "\(Self.middle(bots, second)) s: \(whoLeft(at: second))"))
    }

    plot.top = 16 + 15 * plot.peakRows
    let shown = (0..<end).filter { sums[$0] > 0 }
    var coarse: [[String]] = []
    for (low, high) in Self.ranges where low < end {
      let inside = bins.map { bins in (low..<min(high, end)).reduce(0) { $0 + bins[$1] } }
      if inside.allSatisfy({ $0 == 0 }) { continue }
      coarse.append(
        [high == low + 1 ? "\(low) s" : "\(low) to \(min(high, end)) s"]
          + inside.map(Figures.count))
    }
    let later = zip(bots, bins).map { $0.total - $1.reduce(0, +) }
    coarse.append(["later"] + later.map(Figures.count))
    coarse.append(["all"] + bots.map { Figures.count($0.total) })
    let table = Markup.table(
      "Bots' connections that left", ["after"] + keys.map { $0.isEmpty ? "connections" : $0 },
      coarse,
      marked: [coarse.count - 1])
    var note = "Connections in each second."
    if isRoot { note += " Heights by the square root, so that small spikes are seen." }
    for k in reports.indices where later[k] > 0 {
      note += " \(named(k, Figures.count(later[k]))) left later than \(end) s."
    }
    if shown.isEmpty { note = "All of them left later than \(end) s." }
    if isComparison {
      note +=
        " " + keys.indices.map { "\(keys[$0]) is \(Self.hue($0))" }.joined(separator: ", ") + "."
    }
    return Markup.section(
      "leaving", "When bots leave", "Of the bots that lost patience: after how many seconds.",
      "<div class=\"figures\">"
        + Markup.figure(
          "Bots that left", plot.svg(), note: note,
          behind: Markup.details("As a table", table), wide: true) + "</div>\n")
  }

  /// What a colour of a run is called.
  static func hue(_ k: Int) -> String {
    ["blue", "red", "green", "violet", "ochre", "pink"][k % 6]
  }

  private static let ranges: [(Int, Int)] =
    (0..<30).map { ($0, $0 + 1) } + [
      (30, 31), (31, 45), (45, 46), (46, 60), (60, 61), (61, 99), (99, 100), (100, 101), (101, 102),
      (102, 120), (120, 121), (121, 180), (180, 181), (181, 300), (300, 301), (301, 310),
    ]

  /// Seconds that stand out: the highest within five, three times as high as those around it; the seven highest.
  static func peaks(_ bins: [Int]) -> [Int] {
    let total = bins.reduce(0, +)
    var found: [Int] = []
    for k in bins.indices where bins[k] > 0 && bins[k] * 500 >= total {
      let near = max(0, k - 5)...min(bins.count - 1, k + 5)
      if near.contains(where: { bins[$0] > bins[k] || bins[$0] == bins[k] && $0 < k }) { continue }
      // A spike half a second wide may lie across two bins.
      let around = near.filter { abs($0 - k) > 1 }
      let mean =
        around.isEmpty ? 0 : Double(around.reduce(0) { $0 + bins[$1] }) / Double(around.count)
      let isHighest = bins[k] == bins.max()
      if isHighest || Double(bins[k]) >= 3 * mean { found.append(k) }
    }
    return Array(found.sorted { (bins[$1], $0) < (bins[$0], $1) }.prefix(7)).sorted()
  }

  /// Where a spike about this second has its middle: half a second wide, it lies across two bins.
  private static func middle(_ histograms: [Histogram], _ second: Int) -> Int {
    func count(_ low: Double, _ width: Double) -> Double {
      histograms.reduce(0) { $0 + Double($1.count(from: low, to: low + width)) }
    }
    // Below a minute times are known to a tenth.
    let (parts, width) = second < 59 ? (10, 0.1) : (1, 1.0)
    let here = count(Double(second), 1)
    var (sum, all) = (0.0, 0.0)
    for near in max(second - 1, 0)...(second + 1) where count(Double(near), 1) * 2 >= here {
      for part in 0..<parts {
        let low = Double(near) + Double(part) * width
        sum += count(low, width) * low
        all += count(low, width)
      }
    }
    // The middle of a bin is half its width further; what lies just between two seconds is the first.
    return all > 0 ? Int((sum / all + width / 2 - 1e-6).rounded()) : second
  }

  /// The personas most of which left in this second: one, or two that make up most of it.
  private func whoLeft(at second: Int) -> String {
    var counts: [String: Int] = [:]
    for personas in found {
      for persona in personas where persona.kind == "bot" {
        counts[persona.label, default: 0] += persona.leftAfter.count(
          from: Double(second), to: Double(second + 1))
      }
    }
    let order = ranked(counts)
    let sum = order.reduce(0) { $0 + $1.count }
    guard let first = order.first else { return "" }
    if order.count > 1, first.count * 10 < sum * 7 { return "\(first.name) and others" }
    return first.name
  }
}
