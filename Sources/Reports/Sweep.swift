// SPDX-License-Identifier: Apache-2.0

public import Personas

/// The same scenario with one setting at many values.
public struct Sweep: Sendable, Codable {
  /// One value, and what the run with it showed.
  public struct Point: Sendable, Codable {
    /// In the sweep's unit.
    public var value: Double
    /// The run.
    public var report: RunReport

    /// A value and its run.
    public init(value: Double, report: RunReport) {
      self.value = value
      self.report = report
    }
  }

  /// What was varied, as the configuration calls it: "banner".
  public var parameter: String
  /// Of the values: "s"; empty for a pure number.
  public var unit: String
  /// In any order; reports show them by rising value.
  public var points: [Point]
  /// The command that does it again.
  public var command = ""

  /// A sweep.
  public init(parameter: String, unit: String, points: [Point], command: String = "") {
    self.parameter = parameter
    self.unit = unit
    self.points = points
    self.command = command
  }
}

/// A sweep as text and as a page, from which a curve is chosen.
public enum SweepReport {
  /// Tables for a terminal of 110 columns: what each honest persona loses, what share of each bot leaves.
  public static func text(_ sweep: Sweep) -> String {
    let view = SweepView(sweep)
    let ink = Ink(isOn: false)
    var lines = [Figures.plain(view.title)]
    if !sweep.command.isEmpty { lines.append("  again: \(Figures.plain(sweep.command))") }
    if view.points.isEmpty { return lines[0] + "\n  no values\n" }
    for table in view.tables {
      // As many columns as fit; the value stands in front of each part.
      for from in stride(from: 0, to: table.columns.count, by: 11) {
        let part = table.columns[from..<min(from + 11, table.columns.count)]
        lines.append("")
        lines.append("  \(table.title)")
        let head = [Figures.plain(view.valueTitle)] + part.map { TerminalReport.cut($0.short, 10) }
        let rows = view.points.indices.map { k in
          [view.valueText(k)] + part.map { $0.text($0.values[k]) }
        }
        lines += TerminalReport.columns(head, rows, ink)
      }
    }
    lines.append("")
    lines += view.conclusions.map { "  \(Figures.plain($0))" }
    return lines.joined(separator: "\n") + "\n"
  }

  /// One self-contained HTML page.
  public static func page(_ sweep: Sweep) -> String {
    let view = SweepView(sweep)
    return Markup.page(view.title, view.page())
  }
}

/// A column of a sweep: one persona, or all of a kind.
struct SweepColumn {
  var name: String
  var short: String
  var kind: String
  /// By point; not a number where there is nothing to say.
  var values: [Double]
  var text: (Double) -> String = Figures.percent
}

struct SweepView {
  let sweep: Sweep
  let points: [Sweep.Point]
  let personas: [(id: String, label: String, kind: String)]
  /// Of each point, each persona once.
  private let found: [[PersonaFindings]]

  init(_ sweep: Sweep) {
    self.sweep = sweep
    points = sweep.points.filter(\.value.isFinite).sorted { $0.value < $1.value }
    found = points.map(\.report.merged)
    var seen: Set<String> = []
    var all: [(id: String, label: String, kind: String)] = []
    for personas in found {
      for persona in personas where seen.insert(persona.id).inserted {
        all.append((persona.id, persona.label, persona.kind))
      }
    }
    personas = all
  }

  var title: String {
    let scenario = points.first?.report.scenario ?? ""
    return "\(scenario.isEmpty ? "Sweep" : scenario): \(sweep.parameter) at \(points.count) "
      + (points.count == 1 ? "value" : "values")
  }

  var valueTitle: String {
    sweep.unit.isEmpty ? sweep.parameter : "\(sweep.parameter), \(sweep.unit)"
  }

  func valueText(_ k: Int) -> String { Figures.trimmed(points[k].value, 3) }

  private func value(_ k: Int) -> String {
    valueText(k) + (sweep.unit.isEmpty ? "" : " \(sweep.unit)")
  }

  // MARK: Columns

  private func columns(
    _ kinds: Set<String>, sum: (kind: String, name: String)? = nil,
    text: @escaping (Double) -> String = Figures.percent,
    _ value: (PersonaFindings) -> Double
  ) -> [SweepColumn] {
    var columns = personas.filter { kinds.contains($0.kind) }.map { persona in
      SweepColumn(
        name: persona.label, short: persona.id, kind: persona.kind,
        values: found.map { all in all.first { $0.id == persona.id }.map(value) ?? .nan },
        text: text)
    }
    if let sum, !columns.isEmpty {
      columns.append(
        SweepColumn(
          name: sum.name, short: "all", kind: sum.kind,
          values: points.map { value($0.report.all(sum.kind, named: sum.name)) }, text: text))
    }
    return columns
  }

  var honestLoss: [SweepColumn] {
    columns(["sender", "probe"], sum: ("sender", "all honest mail")) { $0.lostShare }
  }
  var botsLeft: [SweepColumn] { columns(["bot"], sum: ("bot", "all bots")) { $0.leftShare } }
  var botsGaveUp: [SweepColumn] { columns(["bot"], sum: ("bot", "all bots")) { $0.gaveUpShare } }
  var botsThrough: [SweepColumn] {
    columns(["bot"], sum: ("bot", "all bots")) { $0.letThroughShare }
  }
  var honestDelay: [SweepColumn] {
    columns(["sender"], sum: ("sender", "all honest mail"), text: Figures.seconds) {
      $0.delay.total > 0 ? $0.delay.quantile(0.95) : .nan
    }
  }

  /// What it costs and brings, in one table to choose from.
  private var chosen: [SweepColumn] {
    guard !points.isEmpty else { return [] }
    func all(_ name: String, _ columns: [SweepColumn]) -> [SweepColumn] {
      guard var last = columns.last else { return [] }
      last.short = name
      return [last]
    }
    let held = SweepColumn(
      name: "held on average", short: "held", kind: "",
      values: points.map { $0.report.mean { Double($0.held) } },
      text: Figures.short)
    let server = SweepColumn(
      name: "to the mail server, on average", short: "server", kind: "",
      values: points.map { $0.report.mean { Double($0.downstream) } }, text: Figures.short)
    return all("mail lost", honestLoss) + all("mail p95", honestDelay) + all("bots left", botsLeft)
      + all("gave up", botsGaveUp) + all("through", botsThrough) + [held, server]
  }

  var tables: [(title: String, columns: [SweepColumn])] {
    [
      ("cost and gain", chosen), ("honest messages lost, probes without an answer", honestLoss),
      ("bots' connections that left", botsLeft), ("bots' series of attempts given up", botsGaveUp),
      ("bots' connections let through", botsThrough), ("honest mail's delay, p95", honestDelay),
    ].filter { !$0.1.isEmpty }
  }

  // MARK: What follows

  /// Up to which value nobody honest is lost, and what most of the bots are worth there.
  var conclusions: [String] {
    guard !points.isEmpty else { return [] }
    var texts: [String] = []
    let mail = honestLoss.filter { $0.kind == "sender" }
    let isSafe = points.indices.map { k in mail.allSatisfy { !($0.values[k] > 0) } }
    if mail.isEmpty {
      texts.append("There is no honest mail in this scenario.")
    } else if let first = isSafe.firstIndex(of: false) {
      texts.append(
        first == 0
          ? "Honest mail is already lost at the lowest value."
          : "No honest message is lost up to \(value(first - 1)); from \(value(first)) on there are losses."
      )
    } else {
      texts.append("No honest message is lost at any value.")
    }
    let safe = isSafe.firstIndex(of: false) ?? points.count
    if let left = botsLeft.last?.values,
      let gain = (0..<safe).filter({ left[$0].isFinite }).max(by: { left[$0] < left[$1] })
    {
      texts.append(
        "Among those values most bots leave at \(value(gain)): \(Figures.percent(left[gain])) of their connections."
      )
    }
    for column in honestLoss where column.name != "all honest mail" {
      if let first = column.values.firstIndex(where: { $0 > 0 }) {
        texts.append(
          "\(column.name): first loss at \(value(first)), \(Figures.percent(column.values[first]))."
        )
      }
    }
    return texts
  }

  // MARK: The page

  func page() -> String {
    var text = "<header><h1>\(Markup.escaped(title))</h1>\n"
    if let report = points.first?.report {
      var facts = [
        report.kind, "\(Figures.seconds(report.duration)) simulated for each value",
      ]
      if report.seed != 0 { facts.append("seed \(report.seed)") }
      text += "<p class=\"facts\">\(Markup.escaped(facts.joined(separator: " · ")))</p>\n"
    }
    if !sweep.command.isEmpty {
      text += "<p class=\"facts\">again: <code>\(Markup.escaped(sweep.command))</code></p>\n"
    }
    if points.isEmpty { return text + "<p>There are no values to show.</p></header>\n" }
    for (k, sentence) in conclusions.enumerated() {
      text += "<p class=\"\(k < 2 ? "says" : "lead")\">\(Markup.prose(sentence))</p>\n"
    }
    text += "</header>\n"

    var choice: [SweepColumn] = []
    if var lost = honestLoss.last {
      (lost.short, lost.kind) = ("mail lost", "sender")
      choice.append(lost)
    }
    if var left = botsLeft.last {
      (left.short, left.kind) = ("bots left", "bot")
      choice.append(left)
    }
    if var through = botsThrough.last {
      (through.short, through.kind) = ("bots through", "grey")
      choice.append(through)
    }
    text += Markup.section(
      "choice", "Cost and gain", "How much honest mail is lost, and what the bots do.",
      "<div class=\"figures\">"
        + figure(
          "choice", "All together", choice, share: true, wide: true, hues: choice.map(\.kind))
        + "</div>\n" + table("cost and gain", chosen, names: \.short))
    let mail = honestLoss.filter { $0.name != "all honest mail" }
    let losers = mail.filter { $0.values.contains { $0 > 0 } }
    let others = mail.filter { !$0.values.contains { $0 > 0 } }.map(\.short)
    text += Markup.section(
      "loss", "What honest senders and probes lose",
      others.isEmpty ? "" : "Nothing at any value: \(others.joined(separator: ", ")).",
      (losers.isEmpty
        ? ""
        : "<div class=\"figures\">"
          + figure(
            "loss", "Share of the messages delivered or lost", losers, share: true, wide: true)
          + "</div>\n")
        + table("honest messages lost, probes without an answer", honestLoss, names: \.name))
    let captions = [
      "left": "Share of each bot's connections", "gave": "Share of each bot's series",
      "through": "Share of each bot's connections", "delay": "By sender",
    ]
    for (id, title, columns, isShare) in [
      ("left", "Bots that leave", botsLeft, true),
      ("gave", "Bots' series of attempts given up", botsGaveUp, true),
      ("through", "Bots let through", botsThrough, true),
      ("delay", "Honest mail's delay, p95", honestDelay, false),
    ] where !columns.isEmpty {
      let single = columns.filter { $0.short != "all" }
      text += Markup.section(
        id, title, "",
        "<div class=\"figures\">"
          + figure(id, captions[id] ?? title, single, share: isShare, wide: true)
          + "</div>\n"
          + Markup.details("As a table", table(title, columns, names: \.name)))
    }
    return text
  }

  private func table(
    _ title: String, _ columns: [SweepColumn], names: (SweepColumn) -> String
  ) -> String {
    if columns.isEmpty { return "" }
    return Markup.table(
      title, [valueTitle] + columns.map(names),
      points.indices.map { k in [valueText(k)] + columns.map { $0.text($0.values[k]) } })
  }

  private func figure(
    _ id: String, _ title: String, _ columns: [SweepColumn], share: Bool, wide: Bool,
    hues: [String]? = nil
  ) -> String {
    if columns.isEmpty { return "" }
    let values = columns.flatMap(\.values).filter(\.isFinite)
    let most = values.max() ?? 0
    var y =
      share
      ? Axis.linear(to: max(most, 0.01), title: "", text: Figures.percent)
      : Axis.linear(to: most, title: "", text: Figures.seconds)
    // Delays of seconds and of hours in one plot.
    if !share, most > 600 { y = Axis.duration(from: 0.1, to: most, title: "") }
    if share, y.high > 1 { y = Axis.linear(to: 1, title: "", text: Figures.percent) }
    let low = points.first?.value ?? 0
    var x = Axis(low: low, high: max(points.last?.value ?? 1, low + 1e-9), title: valueTitle)
    let step = Axis.step(x.high - x.low, 10)
    var tick = (low / step).rounded(.up) * step
    while tick <= x.high + step * 1e-6, x.ticks.count < 20 {
      x.ticks.append((tick, Figures.trimmed(tick, 3)))
      tick += step
    }
    if points.count == 1 { x.high = low + 1 }
    let about = columns.map { column -> String in
      let last = column.values.last { $0.isFinite } ?? .nan
      return "\(column.name) \(column.text(last))"
    }.joined(separator: ", ")
    var plot = Plot(
      id: "sw-\(id)", title: title,
      about: "At \(value(points.count - 1)): \(about)", x: x, y: y)
    (plot.width, plot.right, plot.left) = (1_080, 190, 60)
    plot.height = max(300, 70 + Double(columns.count) * 15)
    for (k, column) in columns.enumerated() {
      let name = hues == nil ? column.name : column.short
      plot.curves.append(
        Plot.Curve(
          points: zip(points, column.values).filter { $0.1.isFinite }.map { ($0.value, $1) },
          color: hues?[k] ?? "s\(k % 6)", name: name, isDashed: hues == nil && k >= 6))
    }
    return Markup.figure(title, plot.svg(), wide: wide)
  }
}
