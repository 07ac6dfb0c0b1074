// SPDX-License-Identifier: Apache-2.0

public import Personas

/// The report of a run for a terminal of 100 columns.
public enum TerminalReport {
  /// Lines of text, the last with its end of line.
  ///
  /// - Parameter color: with ANSI escapes for what stands out; text of others never has any.
  public static func text(_ report: RunReport, color: Bool) -> String {
    text([report], color: color)
  }

  /// The same of several runs of one scenario: first side by side what reached the mail server, then one by one.
  public static func text(_ reports: [RunReport], color: Bool) -> String {
    let ink = Ink(isOn: color)
    guard let first = reports.first else { return "" }
    var lines: [String] = []
    if reports.count > 1 {
      lines += [ink.bold("\(Figures.plain(first.scenario)), \(reports.count) runs side by side")]
      lines += Outcome(reports).lines(ink) + [""]
    }
    for (k, report) in reports.enumerated() {
      lines += k == 0 ? [] : [""]
      lines += one(report, ink, isAlone: reports.count == 1)
    }
    return lines.map { line in
      var line = Substring(line)
      while line.last == " " { line.removeLast() }
      return line + "\n"
    }.joined()
  }

  /// Of several runs of one scenario, what reached the mail server, and nothing else.
  public static func outcome(_ reports: [RunReport], color: Bool) -> String {
    Outcome(reports).lines(Ink(isOn: color)).joined(separator: "\n") + "\n"
  }

  private static func one(_ report: RunReport, _ ink: Ink, isAlone: Bool) -> [String] {
    var lines = head(report, ink)
    if isAlone { lines += Outcome([report]).lines(ink) }
    lines += personas(report, ink)
    lines += honest(report, ink)
    lines += sums(report, ink)
    lines += checks(report, ink)
    return lines
  }

  private static func head(_ report: RunReport, _ ink: Ink) -> [String] {
    var facts: [String] = []
    if report.kind != "real" || report.seed != 0 { facts.append("seed \(report.seed)") }
    facts.append(report.time)
    if report.took > 0 && report.kind != "real" {
      facts.append("took \(Figures.seconds(report.took))")
    }
    if report.events > 0 {
      facts.append(
        "\(Figures.count(report.events)) events"
          + (report.speed.isFinite ? ", \(Figures.rate(report.speed))" : ""))
    }
    if !report.trace.isEmpty { facts.append("trace \(Figures.plain(report.trace))") }
    var lines = [
      ink.bold("\(Figures.plain(report.scenario)), \(Figures.plain(report.configuration))")
        + ", \(Figures.plain(report.kind))",
      "  " + facts.joined(separator: " · "),
    ]
    if !report.listsNote.isEmpty { lines.append("  \(Figures.plain(report.listsNote))") }
    if !report.command.isEmpty { lines.append("  again: \(Figures.plain(report.command))") }
    return lines
  }

  // MARK: Tables

  /// Columns as wide as their widest cell; the first is text, the others numbers.
  ///
  /// - Parameter tones: of the cells behind the first, row by row.
  static func columns(
    _ head: [String], _ rows: [[String]], _ ink: Ink, tones: [[Outcome.Tone]] = []
  ) -> [String] {
    let widths = head.indices.map { k in
      ([head] + rows).map { k < $0.count ? $0[k].count : 0 }.max() ?? 0
    }
    func line(_ cells: [String], _ tones: [Outcome.Tone]) -> String {
      var text = "  "
      for (k, cell) in cells.enumerated() {
        let gap = String(repeating: " ", count: max(0, widths[k] - cell.count))
        let tone = k > 0 && k <= tones.count ? tones[k - 1] : .plain
        let shown = tone == .bad ? ink.bad(cell) : tone == .good ? ink.good(cell) : cell
        text += k == 0 ? shown + gap : "  " + gap + shown
      }
      return text
    }
    return [ink.dim(line(head, []))]
      + rows.enumerated().map { line($1, $0 < tones.count ? tones[$0] : []) }
  }

  /// A count that fits into six places.
  private static func count(_ value: Int) -> String {
    value.magnitude < 1_000_000 ? Figures.count(value) : Figures.short(Double(value))
  }

  static func cut(_ text: String, _ most: Int) -> String {
    let text = Figures.plain(text)
    return text.count <= most ? text : text.prefix(most - 1) + "…"
  }

  private static func personas(_ report: RunReport, _ ink: Ink) -> [String] {
    guard !report.personas.isEmpty else { return ["", "  no personas"] }
    let head = [
      "persona", "clients", "conns", "through", "mails", "left", "median", "gave up", "there",
    ]
    func row(_ found: PersonaFindings) -> [String] {
      [
        cut(found.label, 27), count(found.clients), count(found.connections),
        count(found.letThrough), count(found.delivered), count(found.left),
        found.leftAfter.total > 0 ? Figures.seconds(found.leftAfter.quantile(0.5)) : "",
        found.kind == "bot" ? count(found.gaveUp) : "", count(found.stillThere),
      ]
    }
    var rows = report.merged.map(row)
    for (kind, name) in [("bot", "all bots"), ("sender", "all honest senders")]
    where report.personas.contains(where: { $0.kind == kind }) {
      var sum = report.all(kind, named: name)
      sum.name = ""
      rows.append(row(sum))
    }
    return ["", "  \(report.wholeTime)"] + columns(head, rows, ink)
  }

  private static func honest(_ report: RunReport, _ ink: Ink) -> [String] {
    let personas = report.merged.filter { $0.kind == "sender" || $0.kind == "probe" }
    if personas.isEmpty { return [] }
    let head = ["honest", "messages", "arrived", "p50", "p95", "p99", "lost", "share"]
    func row(_ found: PersonaFindings) -> [String] {
      func at(_ q: Double) -> String {
        found.delay.total > 0 ? Figures.seconds(found.delay.quantile(q)) : ""
      }
      return [
        cut(found.label, 27), count(found.clients),
        found.kind == "sender" ? count(found.delay.total) : "", at(0.5), at(0.95), at(0.99),
        count(found.lostCount), Figures.percent(found.lostShare),
      ]
    }
    var all = report.all("sender", named: "all honest mail")
    all.name = ""
    var lines = [""] + columns(head, (personas + [all]).map(row), ink)
    for found in personas {
      for (name, count) in ranked(found.lost) {
        lines.append(
          ink.bad("  lost: \(cut(found.label, 27)): \(Figures.count(count)) × \(cut(name, 50))"))
      }
      if found.lostByFault > 0 {
        lines.append(
          "  \(Figures.count(found.lostByFault)) of them because of faults in the scenario, with or without Sluice"
        )
      }
    }
    return lines
  }

  private static func sums(_ report: RunReport, _ ink: Ink) -> [String] {
    var lines = [""]
    let little = report.little
    if little.expected > 0 {
      lines.append(
        "  Little's law: \(Figures.rate(little.rate)) × \(Figures.seconds(little.hold)) = "
          + "\(Figures.short(little.expected)) held expected, \(Figures.short(little.seen)) seen ("
          + "\(Figures.signed(report.littleDifference, Figures.percent)))")
    }
    if !report.samples.isEmpty {
      lines.append(
        "  mail server, in \(Figures.seconds(report.duration)): "
          + "\(Figures.short(report.mean { Double($0.downstream) })) connections on average, "
          + "\(Figures.count(report.most { Double($0.downstream) })) at most"
          + (report.knowsWithout
            ? "; without Sluice \(Figures.short(report.mean { Double($0.downstreamWithout) })) and "
              + Figures.count(report.most { Double($0.downstreamWithout) }) : ""))
    }
    let all = report.everyone
    if all.handshakes > 0 {
      lines.append(
        "  TLS: \(Figures.count(all.handshakes)) handshakes, "
          + "\(Figures.count(all.handshakesFailed)) failed")
    }
    if report.hasMemory || report.hasCPU {
      let cores = report.cores.map(\.share)
      let mean = cores.isEmpty ? 0 : cores.reduce(0, +) / Double(cores.count)
      var parts: [String] = []
      if report.hasMemory {
        parts.append("its own memory \(Figures.bytes(report.most { Double($0.memory) })) at most")
      }
      if report.hasCPU {
        parts.append(
          "CPU \(Figures.percent(mean)) of one core on average, \(Figures.percent(cores.max() ?? 0)) at most"
        )
      }
      lines.append("  " + parts.joined(separator: ", "))
    }
    if report.bytesEach > 0 {
      lines.append("  \(Figures.bytes(report.bytesEach)) a client")
    }
    return lines.count > 1 ? lines : []
  }

  private static func checks(_ report: RunReport, _ ink: Ink) -> [String] {
    if report.checks.isEmpty { return [] }
    var lines = [""]
    for check in report.checks {
      let name = cut(check.name, 70)
      if check.broken == 0 {
        lines.append("  \(ink.good("kept  ")) \(name) (\(Figures.count(check.looked)) checks)")
      } else {
        lines.append(
          "  \(ink.bad("BROKEN")) \(name) (\(Figures.count(check.broken)) of \(Figures.count(check.looked)))"
        )
        if let first = check.first { lines.append("         first: \(cut(first, 88))") }
      }
    }
    return lines
  }
}

/// ANSI escapes, or none.
struct Ink {
  var isOn: Bool

  private func with(_ code: String, _ text: String) -> String {
    isOn ? "\u{1B}[\(code)m\(text)\u{1B}[0m" : text
  }
  func bold(_ text: String) -> String { with("1", text) }
  func dim(_ text: String) -> String { with("2", text) }
  func bad(_ text: String) -> String { with("31", text) }
  func good(_ text: String) -> String { with("32", text) }
}
