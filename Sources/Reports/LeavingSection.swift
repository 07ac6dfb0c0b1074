// SPDX-License-Identifier: Apache-2.0
//
// When bots leave: how many in each second, and the seconds that stand out.

import Personas

struct LeavingSection {
  private let runs: Runs
  /// Of each run's bots, after how many seconds they left.
  private let bots: [Histogram]
  /// Seconds shown; bots that leave later are counted in words. 0 if none left.
  private let end: Int
  /// How many left in each second, of each run and of all.
  private let bins: [[Int]]
  private let sums: [Int]
  private let peaks: [Int]
  /// How many of each run left later than what is shown.
  private let later: [Int]

  private static let lastSecond = 310

  init(_ runs: Runs) {
    self.runs = runs
    let bots = runs.reports.map { $0.all("bot", named: "bots").leftAfter }
    self.bots = bots
    let longest = bots.map { $0.total > 0 ? $0.quantile(1) : 0 }.max() ?? 0
    let end =
      longest > 0
      ? [35, 70, 130, 200].first { Double($0) >= longest } ?? Self.lastSecond : 0
    self.end = end
    let bins = bots.map { histogram in
      (0..<end).map { histogram.count(from: Double($0), to: Double($0 + 1)) }
    }
    self.bins = bins
    sums = (0..<end).map { second in bins.reduce(0) { $0 + $1[second] } }
    peaks = Self.peaks(sums)
    later = zip(bots, bins).map { $0.total - $1.reduce(0, +) }
  }

  func leaving() -> String {
    guard end > 0 else { return "" }
    let high = Double(bins.joined().max() ?? 1)
    // If a spike would be lower than a tenth of the plot, heights show the square root.
    let isRoot = peaks.contains { Double(sums[$0]) / Double(runs.reports.count) < high / 10 }
    return Markup.section(
      "leaving", "When bots leave", "How many seconds bots waited before they left.",
      "<div class=\"figures\">"
        + Markup.figure(
          "Bots that left", plot(to: high, isRoot: isRoot).svg(), note: note(isRoot: isRoot),
          behind: Markup.details("As a table", table()), wide: true) + "</div>\n")
  }

  private func plot(to high: Double, isRoot: Bool) -> Plot {
    var x = Axis(high: Double(end), title: "seconds after which they left")
    x.ticks = stride(from: 0, through: end, by: end <= 70 ? 5 : end <= 200 ? 10 : 20).map {
      (Double($0), String($0))
    }
    let y =
      isRoot ? Axis.root(to: high, title: "") : Axis.linear(to: high, title: "", steps: 4)
    var plot = Plot(
      id: "left", title: "When bots left, by seconds",
      about: peaks.isEmpty
        ? "No spikes." : "Spikes at " + peaks.map { "\(middle($0)) s" }.joined(separator: ", "),
      x: x, y: y)
    (plot.width, plot.height, plot.right) = (1_080, 320, 24)
    if runs.isComparison {
      for k in runs.reports.indices {
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
    plot.peaks = peaks.map { second in
      Plot.Peak(
        x: Double(second) + 0.5, y: bins.map { Double($0[second]) }.max() ?? 0,
        name: "\(middle(second)) s: \(whoLeft(at: second))")
    }
    plot.top = 16 + 15 * plot.peakRows
    return plot
  }

  private func table() -> String {
    var rows: [[String]] = []
    for (low, high) in Self.ranges where low < end {
      let inside = bins.map { bins in (low..<min(high, end)).reduce(0) { $0 + bins[$1] } }
      if inside.allSatisfy({ $0 == 0 }) { continue }
      rows.append(
        [high == low + 1 ? "\(low) s" : "\(low) to \(min(high, end)) s"]
          + inside.map(Figures.count))
    }
    rows.append(["later"] + later.map(Figures.count))
    rows.append(["all"] + bots.map { Figures.count($0.total) })
    return Markup.table(
      "Bots' connections that left",
      ["after"] + runs.keys.map { $0.isEmpty ? "connections" : $0 }, rows, marked: [rows.count - 1])
  }

  private func note(isRoot: Bool) -> String {
    var note = "Connections in each second."
    if isRoot { note += " Heights show the square root, so that small spikes stay visible." }
    for k in runs.reports.indices where later[k] > 0 {
      note += " \(runs.named(k, Figures.count(later[k]))) left later than \(end) s."
    }
    if sums.allSatisfy({ $0 == 0 }) { note = "All of them left later than \(end) s." }
    return runs.isComparison ? "\(note) \(runs.hues)." : note
  }

  private static let ranges: [(Int, Int)] =
    (0..<30).map { ($0, $0 + 1) } + [
      (30, 31), (31, 45), (45, 46), (46, 60), (60, 61), (61, 99), (99, 100), (100, 101), (101, 102),
      (102, 120), (120, 121), (121, 180), (180, 181), (181, 300), (300, 301), (301, 310),
    ]

  /// Seconds that stand out: the highest within five, three times as high as those around it; the seven highest.
  private static func peaks(_ bins: [Int]) -> [Int] {
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
  private func middle(_ second: Int) -> Int {
    func count(_ low: Double, _ width: Double) -> Double {
      bots.reduce(0) { $0 + Double($1.count(from: low, to: low + width)) }
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

  /// The persona whose clients left in this second; with "and others" if it is less than seven in ten of them.
  private func whoLeft(at second: Int) -> String {
    var counts: [String: Int] = [:]
    for personas in runs.found {
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
