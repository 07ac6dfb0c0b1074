// SPDX-License-Identifier: Apache-2.0
//
// The beginning of a page: each run in a sentence or two, and the guarantees that were violated.

import Personas

struct HeadSection {
  let runs: Runs

  var title: String {
    let names = runs.reports.map(\.scenario)
    let name = names.allSatisfy { $0 == names[0] } ? names[0] : names.joined(separator: " and ")
    return runs.isComparison ? "\(name): \(runs.reports.count) runs compared" : name
  }

  func header() -> String {
    var text = "<header><h1>\(Markup.escaped(title))</h1>\n"
    for (k, report) in runs.reports.enumerated() {
      var facts = runs.isComparison ? [runs.difference(k)] : [report.kind, report.configuration]
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
      let key = runs.isComparison ? runs.key(k) : ""
      text += "<p class=\"facts\">\(key)\(Markup.prose(facts.joined(separator: " · ")))"
      if !report.command.isEmpty {
        text += "<br />again: <code>\(Markup.escaped(report.command))</code>"
      }
      text += "</p>\n"
    }
    for k in runs.reports.indices { text += "<p class=\"says\">\(Markup.prose(sentence(k)))</p>\n" }
    return text + "</header>\n"
  }

  /// The run in a sentence or two, each figure with its time.
  private func sentence(_ k: Int) -> String {
    let report = runs.reports[k]
    let (with, mail) = (report.reach, report.all("sender", named: "honest"))
    var text = runs.isComparison ? "\(runs.keys[k]), \(report.short): " : ""
    text += "Within \(Figures.seconds(report.duration)), "
    func what(_ reach: Reach) -> String {
      "\(Figures.count(reach.connections)) connections and \(Figures.count(reach.messages)) messages"
    }
    if let without = report.without {
      text +=
        "\(what(without)) reach the mail server without Sluice, and \(what(with)) with it. Of the bots' "
        + "connections, it is \(Figures.count(without.botConnections)) and "
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

  /// A violated guarantee must not wait for the end of the page.
  func broken() -> String {
    var text = ""
    for (k, report) in runs.reports.enumerated() {
      for check in report.checks where check.broken > 0 {
        text +=
          "<p class=\"broken\"><b>Broken\(runs.isComparison ? " in \(runs.keys[k])" : ""):</b> "
          + Markup.escaped(
            "\(check.name), \(Figures.count(check.broken)) of \(Figures.count(check.looked)) times"
              + (check.first.map { "; first: \($0)" } ?? "")) + "</p>\n"
      }
    }
    return text
  }
}
