// SPDX-License-Identifier: Apache-2.0
//
// Honest mail, how connections ended, and the guarantees that were checked.

import Personas

struct MailSections {
  let runs: Runs

  func honest() -> String {
    let honest = runs.personas.filter { $0.kind == "sender" || $0.kind == "probe" }
    guard !honest.isEmpty else { return "" }
    let rows = honest.flatMap { persona in
      runs.reports.indices.compactMap { k in runs.of(persona.id, k).map { (k, $0) } }
    }
    var cells: [[String]] = []
    for (k, persona) in rows {
      let delay = persona.delay
      func at(_ q: Double) -> String {
        delay.total > 0 ? Figures.seconds(delay.quantile(q)) : Figures.none
      }
      var reasons = ranked(persona.lost).map { "\(Figures.count($0.count)) × \($0.name)" }
      if persona.lostByFault > 0 {
        reasons.append("\(Figures.count(persona.lostByFault)) because of faults in the scenario")
      }
      cells.append([
        runs.named(k, persona.label), Figures.count(persona.clients),
        persona.kind == "sender" ? Figures.count(delay.total) : Figures.none, at(0.5), at(0.95),
        at(0.99), Figures.count(persona.lostCount), Figures.percent(persona.lostShare),
        reasons.isEmpty ? "" : reasons.joined(separator: "; "),
      ])
    }
    for k in runs.reports.indices {
      let all = runs.reports[k].all("sender", named: "all honest mail")
      if all.clients == 0 { continue }
      func at(_ q: Double) -> String {
        all.delay.total > 0 ? Figures.seconds(all.delay.quantile(q)) : Figures.none
      }
      cells.append([
        runs.named(k, "all honest mail"), Figures.count(all.clients),
        Figures.count(all.delay.total),
        at(0.5), at(0.95), at(0.99), Figures.count(all.lostCount), Figures.percent(all.lostShare),
        "",
      ])
    }
    let sums = runs.reports.indices.filter {
      runs.reports[$0].personas.contains { $0.kind == "sender" && $0.clients > 0 }
    }
    .count
    let table = Markup.table(
      "Honest mail and probes. Lost: given up for good. The share is of messages delivered or lost",
      ["persona", "messages", "arrived", "p50", "p95", "p99", "lost", "share", "reasons"], cells,
      words: [8], marked: Set((cells.count - sums)..<cells.count))
    let plot = delays(rows.filter { $0.1.delay.total > 0 })
    return Markup.section(
      "honest", "Honest mail",
      "The delay is from a message's first attempt until it was accepted. A probe sends no mail; it is lost if it left "
        + "without an answer.", plot + table)
  }

  /// A row for each sender: p50, p95 and p99 on one logarithmic axis.
  private func delays(_ rows: [(Int, PersonaFindings)]) -> String {
    guard !rows.isEmpty else { return "" }
    let (left, right, top, bottom, step) = (260.0, 80.0, 14.0, 44.0, 22.0)
    let width = 1_080.0
    let height = top + bottom + Double(rows.count) * step
    let most = rows.map { $0.1.delay.quantile(0.99) }.max() ?? 1
    let axis = Axis.duration(from: 0.1, to: max(most, 10), title: "delay", steps: 10)
    func n(_ value: Double) -> String { Figures.trimmed(value, 1) }
    func across(_ value: Double) -> Double { left + (width - left - right) * axis.place(value) }
    let about = rows.map { k, persona in
      "\(runs.named(k, persona.label)) \(Figures.seconds(persona.delay.quantile(0.95)))"
    }.joined(separator: ", ")
    var text =
      "<svg viewBox=\"0 0 \(n(width)) \(n(height))\" role=\"img\" aria-labelledby=\"dl-t dl-d\">"
      + "<title id=\"dl-t\">Honest mail's delay of each sender</title>"
      + "<desc id=\"dl-d\">\(Markup.escaped("95 % arrived within: " + about))</desc>\n"
    let floor = height - bottom
    for tick in axis.ticks {
      let at = n(across(tick.value))
      text +=
        "<path class=\"grid\" d=\"M\(at) \(n(top - 6))V\(n(floor))\"/>"
        + "<text x=\"\(at)\" y=\"\(n(floor + 17))\" text-anchor=\"middle\">\(tick.text)</text>\n"
    }
    text +=
      "<text x=\"\(n(left))\" y=\"\(n(height - 6))\">"
      + "delay from the first attempt, logarithmic: dot p50, ring p95, bar p99</text>\n"
    for (row, (k, persona)) in rows.enumerated() {
      let y = top + (Double(row) + 0.5) * step
      let places = [0.5, 0.95, 0.99].map { across(persona.delay.quantile($0)) }
      let hue = "var(--\(runs.color(k, alone: "sender")))"
      text +=
        "<text class=\"name\" x=\"\(n(left - 12))\" y=\"\(n(y + 4))\" text-anchor=\"end\" style=\"fill:\(hue)\">"
        + "\(Markup.escaped(Plot.cut(runs.named(k, persona.label), to: left - 14)))</text>"
        + "<path class=\"curve thin\" style=\"stroke:\(hue)\" d=\"M\(n(places[0])) \(n(y))H\(n(places[2]))"
        + "M\(n(places[2])) \(n(y - 6))v12\"/>"
        + "<circle cx=\"\(n(places[1]))\" cy=\"\(n(y))\" r=\"5\" style=\"fill:var(--bg);stroke:\(hue);stroke-width:2\"/>"
        + "<circle cx=\"\(n(places[0]))\" cy=\"\(n(y))\" r=\"5\" style=\"fill:\(hue)\"/>"
        + "<text x=\"\(n(places[2] + 10))\" y=\"\(n(y + 4))\">"
        + "\(Markup.escaped(Figures.seconds(persona.delay.quantile(0.99))))</text>\n"
    }
    return "<div class=\"figures\">"
      + Markup.figure("Delay of each sender", text + "</svg>", wide: true) + "</div>\n"
  }

  // MARK: Endings

  /// A row for each persona, a column for each way to end; the commonest on the left.
  func endings() -> String {
    var totals: [String: Int] = [:]
    for persona in runs.found.joined() { totals.merge(persona.endings, uniquingKeysWith: +) }
    let columns = ranked(totals).map(\.name)
    guard !columns.isEmpty else { return "" }
    let isTLS = runs.found.joined().contains { $0.handshakes > 0 }
    func head(_ name: String, _ persona: PersonaFindings) -> [String] {
      [name, Figures.count(persona.clients), Figures.count(persona.connections)]
        + (isTLS
          ? [Figures.count(persona.handshakes), Figures.count(persona.handshakesFailed)] : [])
    }
    var text = ""
    for k in runs.reports.indices {
      let rows = runs.found[k].map { persona in
        head(persona.label, persona)
          + columns.map { name in
            let count = persona.endings[name] ?? 0
            return count == 0 ? "·" : Figures.count(count)
          } + [Figures.count(persona.stillThere), Figures.count(persona.gaveUp)]
      }
      let all = runs.reports[k].everyone
      let sum =
        head("all", all)
        + columns.map { Figures.count(all.endings[$0] ?? 0) }
        + [Figures.count(all.stillThere), Figures.count(all.gaveUp)]
      text += Markup.table(
        runs.named(k, "connections by how they ended"),
        ["persona", "clients", "connections"] + (isTLS ? ["TLS handshakes", "failed"] : [])
          + columns + ["open at the end", "series given up"],
        rows + [sum], marked: [rows.count])
    }
    return Markup.section(
      "endings", "How connections ended",
      "“left” means that the client lost patience, followed by what it waited for. A series of attempts is given up if "
        + "nothing got through and the client does not return; a client with several connections at once has several "
        + "series.", text)
  }

  // MARK: Guarantees

  func checks() -> String {
    var text = ""
    for (k, report) in runs.reports.enumerated() where !report.checks.isEmpty {
      text += Markup.table(
        runs.named(k, "guarantees"), ["guarantee", "checks", "violations", "first case"],
        report.checks.map {
          [$0.name, Figures.count($0.looked), Figures.count($0.broken), $0.first ?? ""]
        }, words: [3])
    }
    return Markup.section("checks", "What was checked", "", text)
  }
}
