// SPDX-License-Identifier: Apache-2.0
//
// A forecast beside what happened: the same scenario simulated and on real sockets, figure by figure, with the forecasts
// of other seeds, because two random runs differ too. It does not judge: it marks differences that need an explanation.

public import Personas

/// How far a real run is from its forecast.
public struct Agreement {
  /// One figure of both runs.
  struct Row {
    /// Whose it is: a persona, or empty for all together.
    var of: String
    var name: String
    var forecast: Double
    var real: Double
    /// The same of all forecasts.
    var all: [Double]
    var text: (Double) -> String
    /// Smaller differences do not matter: seconds within a step of a histogram, single clients.
    var least: Double

    /// Beyond every forecast, by more than a twentieth and by more than `least`.
    var isFar: Bool {
      guard forecast.isFinite, real.isFinite else { return forecast.isFinite != real.isFinite }
      let known = all.filter(\.isFinite)
      let by = max(real - (known.max() ?? forecast), (known.min() ?? forecast) - real)
      return by > max(least, abs(forecast) / 20)
    }

    var cells: [String] {
      let known = all.filter(\.isFinite)
      let others =
        known.count < 2
        ? Figures.none : "\(text(known.min() ?? .nan)) to \(text(known.max() ?? .nan))"
      return [
        text(forecast), text(real), Figures.change(from: forecast, to: real, text, isShare: false),
        others,
        isFar ? "*" : "",
      ]
    }
  }

  let forecast: RunReport
  let real: RunReport
  /// Of how many seeds.
  let seeds: Int
  let overall: [Row]
  /// A table for each figure, a row for each persona.
  let tables: [(title: String, rows: [Row])]

  /// - Parameters:
  ///   - forecast: with the seed of the real run.
  ///   - others: of other seeds, everything else being equal.
  public init(forecast: RunReport, real: RunReport, others: [RunReport] = []) {
    self.forecast = forecast
    self.real = real
    let all = [forecast] + others
    seeds = all.count
    overall = Self.together(forecast, real, all)
    tables = Self.each(forecast, real, all)
  }

  private static func together(
    _ forecast: RunReport, _ real: RunReport, _ all: [RunReport]
  ) -> [Row] {
    func row(
      _ name: String, _ text: @escaping (Double) -> String = Figures.count, least: Double = 0,
      _ value: (RunReport) -> Double
    ) -> Row {
      Row(
        of: "", name: name, forecast: value(forecast), real: value(real), all: all.map(value),
        text: text, least: least)
    }
    return [
      row("clients") { Double($0.everyone.clients) },
      row("connections") { Double($0.everyone.connections) },
      row("connections a second", Figures.rate) {
        Double($0.everyone.connections) / max($0.duration, 1)
      },
      row("held, on average", Figures.short) { $0.mean { Double($0.held) } },
      row("held, at most") { $0.most { Double($0.held) } },
      row("held by Little's law", Figures.short) { $0.little.expected },
      row("mean time held", Figures.seconds) { $0.little.hold },
      row("let through") { Double($0.everyone.letThrough) },
      row("messages delivered") { Double($0.everyone.delivered) },
      row("connections that left") { Double($0.everyone.left) },
      row("honest messages lost") { Double($0.all("sender", named: "honest").lostCount) },
      row("honest mail's delay, p95", Figures.seconds, least: 0.5) {
        let delay = $0.all("sender", named: "honest").delay
        return delay.total > 0 ? delay.quantile(0.95) : .nan
      },
      row("to the mail server, on average", Figures.short) {
        // A run in which nobody measured the mail server has no connections to it at any moment.
        $0.most { Double($0.downstream) } > 0 ? $0.mean { Double($0.downstream) } : .nan
      },
    ]
  }

  private static func each(
    _ forecast: RunReport, _ real: RunReport, _ all: [RunReport]
  ) -> [(title: String, rows: [Row])] {
    let personas = forecast.merged
    func table(
      _ title: String, _ text: @escaping (Double) -> String = Figures.count, least: Double,
      _ value: (PersonaFindings) -> Double
    ) -> (title: String, rows: [Row]) {
      let rows = personas.compactMap { persona -> Row? in
        func of(_ report: RunReport) -> Double {
          report.merged.first { $0.id == persona.id }.map(value) ?? .nan
        }
        let (first, second) = (of(forecast), of(real))
        if !first.isFinite && !second.isFinite || first == 0 && second == 0 { return nil }
        return Row(
          of: persona.label, name: "", forecast: first, real: second, all: all.map(of), text: text,
          least: least)
      }
      return (title, rows)
    }
    return [
      table("Connections", least: 10) { Double($0.connections) },
      table("Connections let through", least: 10) { Double($0.letThrough) },
      table("Connections that left", least: 10) { Double($0.left) },
      table("Seconds until they left, median", Figures.seconds, least: 0.5) {
        $0.leftAfter.total > 0 ? $0.leftAfter.quantile(0.5) : .nan
      },
      table("Seconds to the whole banner, p95", Figures.seconds, least: 0.5) {
        $0.banner.total > 0 ? $0.banner.quantile(0.95) : .nan
      },
    ].filter { !$0.rows.isEmpty }
  }

  private var head: [String] {
    ["forecast", "real", "difference", seeds > 1 ? "range of \(seeds) seeds" : "range", ""]
  }

  private var far: Int {
    (overall + tables.flatMap(\.rows)).reduce(0) { $0 + ($1.isFar ? 1 : 0) }
  }

  private let measures =
    "The forecast counts the shield's slots, the real run what its clients have; its “waiting” are all "
    + "clients that have not received a whole banner, including those in the tarpit."

  private var sentence: String {
    let rows = overall.count + tables.reduce(0) { $0 + $1.rows.count }
    let mark =
      "outside \(seeds > 1 ? "all \(seeds) forecasts" : "the forecast") by more than 5 %"
    return far == 0
      ? "None of \(rows) figures is \(mark)."
      : "\(far) of \(rows) figures \(far == 1 ? "is" : "are") \(mark); each is marked with *."
  }

  /// Tables for a terminal.
  public func text(color: Bool) -> String {
    let ink = Ink(isOn: color)
    var lines = [
      ink.bold("How far the real run is from its forecast"), "  \(sentence)",
      "  Held: the forecast counts the shield's slots, the real run what its clients have.", "",
    ]
    lines += TerminalReport.columns(
      ["all together"] + head, overall.map { [$0.name] + $0.cells }, ink)
    for (title, rows) in tables {
      lines.append("")
      lines += TerminalReport.columns(
        [title] + head, rows.map { [TerminalReport.cut($0.of, 27)] + $0.cells }, ink)
    }
    return lines.map { line in
      var line = Substring(line)
      while line.last == " " { line.removeLast() }
      return line + "\n"
    }.joined()
  }

  var section: String {
    var text = Markup.table(
      "All together", ["figure"] + head, overall.map { [$0.name] + $0.cells })
    for (title, rows) in tables {
      text += Markup.details(
        "\(title): \(rows.count { $0.isFar }) of \(rows.count) far off",
        Markup.table(title, ["persona"] + head, rows.map { [$0.of] + $0.cells }))
    }
    return Markup.section(
      "agreement", "How far the real run is from its forecast", "\(sentence) \(measures)", text)
  }
}
