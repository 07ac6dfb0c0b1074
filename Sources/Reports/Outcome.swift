// SPDX-License-Identifier: Apache-2.0
//
// What a reader wants to know first: what reached the mail server without Sluice, and what reached it with Sluice.
// It is computed in one place, so that terminal and page agree. Some figures are counted while clients arrive, as in
// the plots; others are only known after the last retry.

import Personas

/// Before and after, for one run or for several of the same scenario side by side.
struct Outcome {
  /// How a figure is coloured: one that speaks against the configuration is bad.
  enum Tone: String {
    case plain = ""
    case good, bad
  }

  struct Cell {
    var text: String
    /// Compared with the run without Sluice: "−44 %"; empty if there is none.
    var change = ""
    var tone = Tone.plain
    /// The length of its bar, 0…1, where 1 is the row's largest; nil if it is not a count.
    var share: Double?
  }

  struct Row {
    var name: String
    /// "Without Sluice" first, if that is known; then a cell for each run.
    var cells: [Cell]
  }

  /// Over the cells.
  let columns: [String]
  /// "in the scenario's 10 min"
  let within: [Row]
  /// "until the last retry"
  let whole: [Row]
  let withinTitle: String
  let wholeTitle: String

  init(_ reports: [RunReport]) {
    let first = reports.first
    withinTitle = "In the \(Figures.seconds(first?.duration ?? 0)) in which clients arrive"
    let after = reports.map(\.after).max() ?? 0
    wholeTitle =
      after > 0
      ? "With \(first?.kind == "real" ? "the" : "all") retries, up to \(Figures.seconds(after)) later"
      : "Until the end of the run"
    let without = reports.compactMap(\.without).first
    columns =
      (without == nil ? [] : ["without Sluice"])
      + (reports.count == 1 ? ["with Sluice"] : reports.map(\.short))
    within = Self.within(reports, without)
    whole = Self.whole(reports, without)
  }

  // MARK: In the time in which clients come

  private static func within(_ reports: [RunReport], _ without: Reach?) -> [Row] {
    // Without a run without Sluice, connections are measured against those that came.
    func came(isBots: Bool) -> [Int]? {
      if without != nil { return nil }
      return reports.map { report in
        report.personas.reduce(0) { $0 + (isBots && $1.kind != "bot" ? 0 : $1.begunWithin) }
      }
    }
    let reach = reports.map(\.reach)
    func row(
      _ name: String, isBots: Bool = false, of came: [Int]? = nil, _ value: (Reach) -> Int?
    ) -> Row? {
      let counts = reach.map(value)
      if counts.allSatisfy({ $0 == nil }) { return nil }
      let before = without.flatMap(value)
      let most = max((counts + [before]).compactMap { $0 }.max() ?? 0, came?.max() ?? 0, 1)
      return Row(
        name: name,
        cells: (without == nil ? [] : [cell(before, Double(most))])
          + counts.enumerated().map { k, count in
            cell(count, before: before, came: came?[k], Double(most), isBots: isBots)
          })
    }
    let rows = [
      row("connections that reached the mail server", of: came(isBots: false)) { $0.connections },
      row("… bots' connections", isBots: true, of: came(isBots: true)) { $0.botConnections },
      row("messages it accepted") { $0.messages },
      row("… from bots", isBots: true) { $0.botMessages },
      row("most connections to it at once") { $0.atOnce },
    ]
    return rows.compactMap { $0 }
  }

  /// - Parameters:
  ///   - before: the same without Sluice.
  ///   - came: what there was in all, if it is measured against that.
  private static func cell(
    _ count: Int?, before: Int?, came: Int?, _ most: Double, isBots: Bool
  ) -> Cell {
    var cell = cell(count, most)
    if let count, let before, before > 0 {
      cell.change = change(count, before)
      cell.tone = tone(Double(count) / Double(before), isBots: isBots)
    } else if let count, let came, came > 0 {
      cell.text += " of \(Figures.count(came))"
      cell.change = Figures.percent(count, of: came)
      cell.tone = tone(Double(count) / Double(came), isBots: isBots)
    }
    return cell
  }

  // MARK: Until the last retry

  private static func whole(_ reports: [RunReport], _ without: Reach?) -> [Row] {
    let mail = reports.map { $0.all("sender", named: "honest") }
    guard mail.contains(where: { $0.clients > 0 }) else { return [] }
    // A run without Sluice keeps only `Reach`: what it lost is its scenario's doing.
    let unknown = without == nil ? [] : [Cell(text: "")]
    let lost = mail.map { found in
      Cell(
        text: "\(Figures.count(found.lostCount)) of \(Figures.count(found.decided))",
        tone: found.lostCount > found.lostByFault ? .bad : found.decided > 0 ? .good : .plain)
    }
    let delays = mail.map { found in
      let delay = found.delay.total > 0 ? found.delay.quantile(0.95) : .nan
      // By then a person waiting for a code or an answer has given up.
      return Cell(text: Figures.seconds(delay), tone: delay >= 300 ? .bad : .plain)
    }
    return [
      Row(name: "honest messages lost", cells: unknown + lost),
      Row(name: "honest mail's delay, 95 % within", cells: unknown + delays),
    ]
  }

  private static func cell(_ count: Int?, _ most: Double) -> Cell {
    Cell(
      text: count.map { Figures.count($0) } ?? Figures.none, share: count.map { Double($0) / most })
  }

  /// It is good to keep away nine in ten of the bots', and bad to let in half of them. More than without Sluice is
  /// always bad.
  private static func tone(_ part: Double, isBots: Bool) -> Tone {
    if !isBots { return part > 1.05 ? .bad : .plain }
    return part >= 0.5 ? .bad : part <= 0.1 ? .good : .plain
  }

  private static func change(_ count: Int, _ before: Int) -> String {
    count == before
      ? "±0" : Figures.signed(Double(count - before) / Double(before), Figures.percent)
  }
}

extension RunReport {
  /// In three words or less, for the head of a column.
  var short: String {
    let isShipped = configuration.hasPrefix("shipped defaults")
    if kind == "real" && !isShipped && configuration.isEmpty { return kind }
    if isShipped { return lists.isEmpty ? "as shipped" : "with lists" }
    let file = configuration.split(separator: "/").last.map(String.init) ?? configuration
    let name = TerminalReport.cut(file, lists.isEmpty ? 16 : 8)
    return lists.isEmpty ? name : "\(name) + lists"
  }

  /// What else is loaded than the configuration has; empty if nothing.
  var listsNote: String {
    lists.isEmpty
      ? "" : "with the scenario's block lists (listed addresses are \(lists)), which do not ship"
  }
}

// MARK: On a terminal

extension Outcome {
  func lines(_ ink: Ink) -> [String] {
    var lines: [String] = []
    for (title, rows) in [(withinTitle, within), (wholeTitle, whole)] where !rows.isEmpty {
      lines.append("")
      let cells = rows.map { row in
        [row.name] + row.cells.map { $0.change.isEmpty ? $0.text : "\($0.text) (\($0.change))" }
      }
      lines += TerminalReport.columns(
        [title] + columns, cells, ink, tones: rows.map { $0.cells.map(\.tone) })
    }
    return lines
  }
}

// MARK: On a page

extension Outcome {
  func section() -> String {
    var text = ""
    for (title, rows) in [(withinTitle, within), (wholeTitle, whole)] where !rows.isEmpty {
      text +=
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"\(Markup.escaped(title))\">"
        + "<table class=\"outcome\"><caption>\(Markup.prose(title))</caption><thead><tr>"
        + "<th scope=\"col\" class=\"w\"></th>"
      for column in columns {
        text += "<th scope=\"col\" class=\"w\">\(Markup.escaped(column))</th>"
      }
      text += "</tr></thead><tbody>\n"
      for row in rows {
        text += "<tr><th scope=\"row\">\(Markup.escaped(row.name))</th>"
        for cell in row.cells { text += Self.markup(cell) }
        text += "</tr>\n"
      }
      text += "</tbody></table></div>\n"
    }
    return Markup.section("outcome", "What reached the mail server", "", text)
  }

  private static func markup(_ cell: Cell) -> String {
    let tone = cell.tone == .plain ? "" : " \(cell.tone.rawValue)"
    var text = "<td class=\"w\(tone)\"><b>\(Markup.prose(cell.text))</b>"
    if !cell.change.isEmpty { text += " <span>\(Markup.prose(cell.change))</span>" }
    if let share = cell.share {
      text += "<i style=\"width:\(Figures.trimmed(share * 100, 1))%\"></i>"
    }
    return text + "</td>"
  }
}
