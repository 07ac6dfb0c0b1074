// SPDX-License-Identifier: Apache-2.0
//
// The figures that are read first, large and with their names: those of the whole run, then those of the time that
// the plots show.

import Personas

struct TileSection {
  let runs: Runs

  private struct Tile {
    var value: String
    var name: String
    /// "good", "bad", or empty.
    var tone = ""

    var markup: String {
      "<div class=\"tile\(tone.isEmpty ? "" : " " + tone)\"><b>\(Markup.escaped(value))</b>"
        + "<span>\(Markup.prose(name))</span></div>\n"
    }
  }

  func tiles() -> String {
    var text = ""
    for (k, report) in runs.reports.enumerated() {
      let whole = Self.honest(report) + Self.bots(report) + Self.promises(report)
      let shown = Self.slots(report) + Self.machine(report)
      if whole.isEmpty && shown.isEmpty { continue }
      if runs.isComparison {
        text += "<h3>\(runs.key(k))\(Markup.escaped(runs.difference(k)))</h3>\n"
      }
      text += Self.group(report.wholeTime, whole)
      text += Self.group(
        "Over time, as in the plots below: \(Figures.seconds(runs.duration))", shown)
    }
    return text
  }

  private static func group(_ title: String, _ tiles: [Tile]) -> String {
    if tiles.isEmpty { return "" }
    return "<p class=\"lead\">\(Markup.prose(title))</p>\n<div class=\"tiles\">\n"
      + tiles.map(\.markup).joined() + "</div>\n"
  }

  // MARK: Of the whole run

  private static func honest(_ report: RunReport) -> [Tile] {
    let mail = report.all("sender", named: "honest")
    let probes = report.all("probe", named: "probes")
    var tiles: [Tile] = []
    if mail.clients > 0 {
      func delay(_ q: Double) -> String {
        mail.delay.total > 0 ? Figures.seconds(mail.delay.quantile(q)) : Figures.none
      }
      tiles.append(
        Tile(
          value: Figures.count(mail.lostCount),
          name: "honest messages lost of \(Figures.count(mail.decided)) decided",
          tone: mail.lostCount > 0 ? "bad" : mail.decided > 0 ? "good" : ""))
      tiles.append(Tile(value: delay(0.95), name: "honest mail's delay, p95; p50 " + delay(0.5)))
    }
    if probes.lostCount > 0 {
      tiles.append(
        Tile(
          value: Figures.count(probes.lostCount),
          name: "probes without an answer, of \(Figures.count(probes.decided))", tone: "bad"))
    }
    return tiles
  }

  private static func bots(_ report: RunReport) -> [Tile] {
    let bots = report.all("bot", named: "bots")
    if bots.connections == 0 { return [] }
    let through = bots.letThroughShare
    return [
      Tile(
        value: Figures.percent(through),
        name: "of the bots' connections reached the mail server: \(Figures.count(bots.letThrough))",
        tone: through >= 0.5 ? "bad" : through <= 0.1 ? "good" : ""),
      Tile(
        value: Figures.percent(bots.leftShare),
        name: "of the bots' connections left: \(Figures.count(bots.left))"),
      Tile(
        value: Figures.percent(bots.gaveUpShare),
        name: "of the bots' series of attempts given up: \(Figures.count(bots.gaveUp)) of "
          + Figures.count(bots.tries)),
    ]
  }

  private static func promises(_ report: RunReport) -> [Tile] {
    if report.checks.isEmpty { return [] }
    return [
      Tile(
        value: Figures.count(report.brokenChecks),
        name: "violations of \(report.checks.count) guarantees, checked "
          + "\(Figures.count(report.checks.reduce(0) { $0 + $1.looked })) times",
        tone: report.brokenChecks > 0 ? "bad" : "good")
    ]
  }

  // MARK: Over time

  private static func slots(_ report: RunReport) -> [Tile] {
    var tiles: [Tile] = []
    if !report.samples.isEmpty {
      tiles.append(
        Tile(
          value: Figures.count(report.most { Double($0.held) }),
          name:
            "most clients held at once; \(Figures.short(report.mean { Double($0.held) })) on average"
        ))
      tiles.append(
        Tile(
          value: Figures.count(report.most { Double($0.downstream) }),
          name: "most connections to the mail server at once"
            + (report.knowsWithout
              ? "; without Sluice \(Figures.count(report.most { Double($0.downstreamWithout) }))"
              : "")))
    }
    if report.littleDifference.isFinite {
      tiles.append(
        Tile(
          value: Figures.signed(report.littleDifference, Figures.percent),
          name: "held against Little's law: \(Figures.short(report.little.seen)) seen, "
            + "\(Figures.short(report.little.expected)) expected"))
    }
    return tiles
  }

  private static func machine(_ report: RunReport) -> [Tile] {
    var tiles: [Tile] = []
    if report.hasMemory {
      tiles.append(
        Tile(
          value: Figures.bytes(report.most { Double($0.memory) }),
          name: "peak memory of the daemon"))
    }
    if report.hasCPU, let most = report.cores.map(\.share).max() {
      tiles.append(Tile(value: Figures.percent(most), name: "of one core at the peak"))
    }
    return tiles
  }
}
