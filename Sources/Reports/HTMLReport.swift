// SPDX-License-Identifier: Apache-2.0
//
// The report of a run, or of several side by side, as one HTML file: nothing is loaded, nothing runs, plots are
// inline SVG with their figures in a table behind. The same reports give the same bytes.

public import Personas

/// One HTML page out of the reports of runs.
public enum HTMLReport {
  /// The page; of two reports and more a comparison, with the first as what the others are compared with.
  ///
  /// - Parameters:
  ///   - reports: in the order they shall be shown; of none the page says so.
  ///   - agreement: of a forecast and a real run, how far they differ.
  public static func page(_ reports: [RunReport], agreement: Agreement? = nil) -> String {
    guard !reports.isEmpty else {
      return Markup.page(
        "Sluice: no report", "<h1>Sluice</h1>\n<p>There is no run to report.</p>\n")
    }
    let view = View(reports)
    return Markup.page(
      view.title,
      view.header() + Outcome(reports).section() + view.tiles() + (agreement?.section ?? "")
        + view.differences()
        + view.checksBroken() + view.survival()
        + view.leaving() + view.flow() + view.honest() + view.endings() + view.machine()
        + view.checks())
  }
}

/// What the sections share: the reports, their names, and who is in which of them.
struct View {
  let reports: [RunReport]
  /// "A", "B"; empty if there is only one.
  let keys: [String]
  /// Personas of each report, each once.
  let found: [[PersonaFindings]]
  /// All personas, in the order of their first appearance.
  let personas: [(id: String, label: String, kind: String)]
  /// The same in a comparison and alone.
  let duration: Double

  init(_ reports: [RunReport]) {
    self.reports = reports
    keys =
      reports.count < 2
      ? [""]
      : reports.indices.map { k in
        k < 26 ? String(UnicodeScalar(UInt8(65 + k))) : String(k + 1)
      }
    found = reports.map(\.merged)
    var seen: Set<String> = []
    var all: [(id: String, label: String, kind: String)] = []
    for personas in found {
      for persona in personas where seen.insert(persona.id).inserted {
        all.append((persona.id, persona.label, persona.kind))
      }
    }
    personas = all
    duration = reports.map { max($0.duration, $0.samples.last?.at ?? 0) }.max() ?? 0
  }

  var isComparison: Bool { reports.count > 1 }

  func of(_ id: String, _ k: Int) -> PersonaFindings? { found[k].first { $0.id == id } }

  func color(_ k: Int, alone: String) -> String { isComparison ? "s\(k % 6)" : alone }

  /// "A held" in a comparison, "held" alone.
  func named(_ k: Int, _ name: String) -> String { isComparison ? "\(keys[k]) \(name)" : name }

  /// "A: on average" in a comparison.
  func said(_ k: Int, _ text: String) -> String { isComparison ? "\(keys[k]): \(text)" : text }

  static func color(ofKind kind: String) -> String {
    kind == "sender" || kind == "probe" ? kind : "bot"
  }

  // MARK: Head

  var title: String {
    let names = reports.map(\.scenario)
    let name = names.allSatisfy { $0 == names[0] } ? names[0] : names.joined(separator: " and ")
    return isComparison ? "\(name): \(reports.count) runs compared" : name
  }

  /// What tells the runs apart.
  private func difference(_ k: Int) -> String {
    let report = reports[k]
    return "\(report.scenario), \(report.configuration)"
      + (report.lists.isEmpty ? "" : ", with lists") + ", \(report.kind)"
  }

  func header() -> String {
    var text = "<header><h1>\(Markup.escaped(title))</h1>\n"
    for (k, report) in reports.enumerated() {
      var facts = isComparison ? [difference(k)] : [report.kind, report.configuration]
      if !report.trace.isEmpty || report.seed != 0 { facts.append("seed \(report.seed)") }
      if !report.listsNote.isEmpty { facts.append(report.listsNote) }
      facts.append(report.time)
      if report.took > 0 && report.kind != "real" {
        facts.append("took \(Figures.seconds(report.took))")
      }
      if report.events > 0 {
        facts.append(
          "\(Figures.count(report.events)) events"
            + (report.speed.isFinite ? " (\(Figures.rate(report.speed)))" : ""))
      }
      if report.bytesEach > 0 {
        facts.append("\(Figures.bytes(report.bytesEach)) a client")
      }
      if !report.trace.isEmpty { facts.append("trace \(report.trace)") }
      let key =
        isComparison
        ? "<span class=\"key\" style=\"background:var(--s\(k % 6))\">\(keys[k])</span> " : ""
      text += "<p class=\"facts\">\(key)\(Markup.prose(facts.joined(separator: " · ")))"
      if !report.command.isEmpty {
        text += "<br />again: <code>\(Markup.escaped(report.command))</code>"
      }
      text += "</p>\n"
    }
    for k in reports.indices { text += "<p class=\"says\">\(Markup.prose(sentence(k)))</p>\n" }
    return text + "</header>\n"
  }

  /// The run in a sentence or two, each figure with its time.
  private func sentence(_ k: Int) -> String {
    let report = reports[k]
    let (with, mail) = (report.reach, report.all("sender", named: "honest"))
    var text = isComparison ? "\(keys[k]), \(report.short): " : ""
    text += "Within \(Figures.seconds(report.duration)), "
    func what(_ reach: Reach) -> String {
      "\(Figures.count(reach.connections)) connections and \(Figures.count(reach.messages)) messages"
    }
    if let without = report.without {
      text +=
        "\(what(without)) reach the mail server without Sluice, and \(what(with)) with it. Of the bots' "
        + "connections that is \(Figures.count(without.botConnections)) and "
        + "\(Figures.count(with.botConnections))"
    } else {
      let bots = report.all("bot", named: "bots")
      text += "\(what(with)) reached the mail server"
      if bots.begunWithin > 0 {
        text +=
          "; of the bots' \(Figures.count(bots.begunWithin)) connections "
          + "\(Figures.count(with.botConnections)) "
          + "(\(Figures.percent(with.botConnections, of: bots.begunWithin)))"
      }
    }
    text += "."
    if mail.clients > 0 {
      text +=
        " Of \(Figures.count(mail.clients)) honest messages, \(Figures.count(mail.lostCount)) "
        + "\(mail.lostCount == 1 ? "was" : "were") lost"
        + (report.after > 0
          ? " by the \(report.kind == "real" ? "end of the run" : "last retry"), up to \(Figures.seconds(report.after)) later."
          : ".")
    }
    return text
  }

  func tiles() -> String {
    var text = ""
    for k in reports.indices {
      let report = reports[k]
      let mail = report.all("sender", named: "honest")
      let bots = report.all("bot", named: "bots")
      let probes = report.all("probe", named: "probes")
      var tiles: [(value: String, name: String, tone: String)] = []
      // Those of the whole run first, then those of the time that the plots show.
      var shown: [(value: String, name: String, tone: String)] = []
      if mail.clients > 0 {
        tiles.append(
          (
            Figures.count(mail.lostCount),
            "honest messages lost of \(Figures.count(mail.decided)) decided",
            mail.lostCount > 0 ? "bad" : mail.decided > 0 ? "good" : ""
          ))
        tiles.append(
          (
            mail.delay.total > 0 ? Figures.seconds(mail.delay.quantile(0.95)) : Figures.none,
            "honest mail's delay, p95; p50 "
              + (mail.delay.total > 0 ? Figures.seconds(mail.delay.quantile(0.5)) : Figures.none),
            ""
          ))
      }
      if probes.lostCount > 0 {
        tiles.append(
          (
            Figures.count(probes.lostCount),
            "probes without an answer, of \(Figures.count(probes.decided))", "bad"
          ))
      }
      if bots.connections > 0 {
        let through = bots.letThroughShare
        tiles.append(
          (
            Figures.percent(through),
            "of the bots' connections reached the mail server: \(Figures.count(bots.letThrough))",
            through >= 0.5 ? "bad" : through <= 0.1 ? "good" : ""
          ))
        tiles.append(
          (
            Figures.percent(bots.leftShare),
            "of the bots' connections left: \(Figures.count(bots.left))", ""
          ))
        tiles.append(
          (
            Figures.percent(bots.gaveUpShare),
            "of the bots' series of tries given up: \(Figures.count(bots.gaveUp)) of "
              + Figures.count(bots.tries), ""
          ))
      }
      if !report.samples.isEmpty {
        shown.append(
          (
            Figures.count(report.most { Double($0.held) }),
            "held at most; \(Figures.short(report.mean { Double($0.held) })) on average", ""
          ))
        shown.append(
          (
            Figures.count(report.most { Double($0.downstream) }),
            "connections to the mail server at most"
              + (report.knowsWithout
                ? "; without the shield \(Figures.count(report.most { Double($0.downstreamWithout) }))"
                : ""),
            ""
          ))
      }
      if report.littleDifference.isFinite {
        shown.append(
          (
            Figures.signed(report.littleDifference, Figures.percent),
            "held against Little's law: \(Figures.short(report.little.seen)) seen, "
              + "\(Figures.short(report.little.expected)) expected", ""
          ))
      }
      if report.hasMemory {
        shown.append(
          (Figures.bytes(report.most { Double($0.memory) }), "the daemon's own memory at most", ""))
      }
      if report.hasCPU, let most = report.cores.map(\.share).max() {
        shown.append((Figures.percent(most), "of one core at most", ""))
      }
      if !report.checks.isEmpty {
        tiles.append(
          (
            Figures.count(report.brokenChecks),
            "breaches of \(report.checks.count) promises, looked at "
              + "\(Figures.count(report.checks.reduce(0) { $0 + $1.looked })) times",
            report.brokenChecks > 0 ? "bad" : "good"
          ))
      }
      if tiles.isEmpty && shown.isEmpty { continue }
      if isComparison {
        text +=
          "<h3><span class=\"key\" style=\"background:var(--s\(k % 6))\">\(keys[k])</span> "
          + "\(Markup.escaped(difference(k)))</h3>\n"
      }
      for (title, list) in [
        (report.wholeTime, tiles),
        ("Over time, as in the plots below: \(Figures.seconds(duration))", shown),
      ] where !list.isEmpty {
        text += "<p class=\"lead\">\(Markup.prose(title))</p>\n<div class=\"tiles\">\n"
        for tile in list {
          text +=
            "<div class=\"tile\(tile.tone.isEmpty ? "" : " " + tile.tone)\"><b>\(Markup.escaped(tile.value))</b>"
            + "<span>\(Markup.prose(tile.name))</span></div>\n"
        }
        text += "</div>\n"
      }
    }
    return text
  }

  /// A broken promise must not wait for the end of the page.
  func checksBroken() -> String {
    var text = ""
    for (k, report) in reports.enumerated() {
      for check in report.checks where check.broken > 0 {
        text +=
          "<p class=\"broken\"><b>Broken\(isComparison ? " in \(keys[k])" : ""):</b> "
          + Markup.escaped(
            "\(check.name), \(Figures.count(check.broken)) of \(Figures.count(check.looked)) times"
              + (check.first.map { "; first: \($0)" } ?? "")) + "</p>\n"
      }
    }
    return text
  }
}
