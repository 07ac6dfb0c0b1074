// SPDX-License-Identifier: Apache-2.0

/// HTML that is well-formed XML too: every element is closed, every value quoted, every text escaped. It loads
/// nothing and runs nothing.
enum Markup {
  /// Text of others, for a text or a quoted value.
  static func escaped(_ text: String) -> String {
    var result = String.UnicodeScalarView()
    for scalar in text.unicodeScalars {
      switch scalar {
      case "&": result.append(contentsOf: "&amp;".unicodeScalars)
      case "<": result.append(contentsOf: "&lt;".unicodeScalars)
      case ">": result.append(contentsOf: "&gt;".unicodeScalars)
      case "\"": result.append(contentsOf: "&quot;".unicodeScalars)
      case "'": result.append(contentsOf: "&#39;".unicodeScalars)
      default: result.append(Figures.isHarmless(scalar) ? scalar : "\u{FFFD}")
      }
    }
    return String(result)
  }

  /// The same for running text: a number and its unit stay on one line.
  static func prose(_ text: String) -> String {
    let units: Set<String> = [
      "%", "s", "min", "h", "d", "B", "KB", "MB", "GB", "k", "M", "G", "k/s", "M/s",
    ]
    var result = ""
    var before: Substring = ""
    for word in text.split(separator: " ", omittingEmptySubsequences: false) {
      let unit = word.prefix { !",.;:)".contains($0) }
      if !result.isEmpty || !before.isEmpty {
        result += units.contains(String(unit)) && before.last?.isNumber == true ? "\u{A0}" : " "
      }
      result += escaped(String(word))
      before = word
    }
    return result
  }

  /// A table; the first column names the row, the others are numbers unless `words` has them.
  ///
  /// - Parameters:
  ///   - head: texts, not yet escaped, as all cells.
  ///   - words: columns of text, aligned left.
  ///   - marked: rows that stand out: sums.
  static func table(
    _ caption: String, _ head: [String], _ rows: [[String]], words: Set<Int> = [],
    marked: Set<Int> = []
  ) -> String {
    func kind(_ column: Int) -> String { words.contains(column) ? " class=\"w\"" : "" }
    var text =
      "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"\(escaped(caption))\"><table>"
      + "<caption>\(escaped(caption))</caption><thead><tr>"
    for (k, title) in head.enumerated() {
      text += "<th scope=\"col\"\(k == 0 ? " class=\"w\"" : kind(k))>\(escaped(title))</th>"
    }
    text += "</tr></thead><tbody>\n"
    for (k, row) in rows.enumerated() {
      text += marked.contains(k) ? "<tr class=\"sum\">" : "<tr>"
      for (column, cell) in row.enumerated() {
        text +=
          column == 0
          ? "<th scope=\"row\">\(escaped(cell))</th>" : "<td\(kind(column))>\(escaped(cell))</td>"
      }
      text += "</tr>\n"
    }
    return text + "</tbody></table></div>\n"
  }

  /// What lies behind a plot, folded away.
  static func details(_ title: String, _ content: String) -> String {
    "<details><summary>\(escaped(title))</summary>\(content)</details>\n"
  }

  /// A plot with its caption and its table.
  static func figure(
    _ title: String, _ svg: String, note: String = "", behind: String = "", wide: Bool = false
  )
    -> String
  {
    "<figure\(wide ? " class=\"wide\"" : "")><figcaption><b>\(escaped(title))</b>"
      + (note.isEmpty ? "" : " <span>\(prose(note))</span>")
      + "</figcaption><div class=\"plot\">\(svg)</div>\n\(behind)</figure>\n"
  }

  static func section(_ id: String, _ title: String, _ lead: String, _ content: String) -> String {
    if content.isEmpty { return "" }
    return "<section id=\"\(id)\"><h2>\(escaped(title))</h2>\n"
      + (lead.isEmpty ? "" : "<p class=\"lead\">\(prose(lead))</p>\n") + content + "</section>\n"
  }

  static func page(_ title: String, _ content: String) -> String {
    """
    <!DOCTYPE html>
    <html lang="en">
    <head>
    <meta charset="utf-8" />
    <meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'" />
    <meta name="viewport" content="width=device-width, initial-scale=1" />
    <meta name="color-scheme" content="light dark" />
    <title>\(escaped(title))</title>
    <style>
    \(style)
    </style>
    </head>
    <body>
    <main>
    \(content)</main>
    </body>
    </html>

    """
  }

  private static let style = """
    :root { color-scheme: light dark; \(Palette.light.declarations) }
    @media (prefers-color-scheme: dark) {
      :root { \(Palette.dark.declarations) }
    }
    @media print {
      :root { color-scheme: light; \(Palette.print.declarations) }
      figure, .cell, .tile, tr { break-inside: avoid; }
      h2, h3 { break-after: avoid; }
      .scroll, .plot { overflow: visible; }
      details:not([open]) { display: none; }
    }
    * { box-sizing: border-box; }
    body { margin: 0; background: var(--bg); color: var(--ink);
      font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif; }
    main { max-width: 1120px; margin: 0 auto; padding: 24px 20px 60px; }
    h1 { font-size: 26px; line-height: 1.25; margin: 0 0 6px; overflow-wrap: anywhere; }
    h2 { font-size: 20px; margin: 44px 0 6px; padding-top: 10px; border-top: 1px solid var(--line); }
    h3 { font-size: 16px; margin: 26px 0 6px; }
    p { margin: 6px 0; max-width: 80ch; }
    .lead, .facts, figcaption span { color: var(--soft); }
    .facts { font-size: 14px; max-width: none; overflow-wrap: anywhere; }
    .says { font-size: 17px; margin: 12px 0; }
    code { font: 13px/1.5 ui-monospace, Menlo, Consolas, "Liberation Mono", monospace; background: var(--card);
      padding: 2px 6px; border-radius: 4px; overflow-wrap: anywhere; }
    .tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(172px, 1fr)); gap: 12px;
      margin: 18px 0; }
    .tile { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px; }
    .tile b { display: block; font-size: 24px; line-height: 1.3; font-weight: 650;
      font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
    .tile span { display: block; color: var(--soft); font-size: 13px; line-height: 1.4; }
    .good b, td.good, .kept { color: var(--good); }
    .bad b, td.bad, .broken { color: var(--bad); }
    .figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 500px), 1fr)); gap: 24px 28px;
      margin-top: 14px; }
    figure { margin: 0; min-width: 0; }
    figure.wide { grid-column: 1 / -1; }
    figcaption { margin-bottom: 4px; line-height: 1.4; }
    figcaption span { font-size: 14px; }
    .plot, .scroll { overflow-x: auto; }
    .plot svg { display: block; width: 100%; min-width: 460px; height: auto; }
    .wide .plot svg { min-width: 760px; }
    .cells { display: grid; grid-template-columns: repeat(auto-fill, minmax(238px, 1fr)); gap: 16px 18px;
      margin-top: 14px; }
    .cell { min-width: 0; }
    .cell h4 { margin: 0; font-size: 14px; line-height: 1.35; overflow-wrap: anywhere; }
    .cell p { margin: 0 0 2px; font-size: 13px; line-height: 1.4; color: var(--soft); }
    .cell svg { display: block; width: 100%; height: auto; }
    svg text { font-size: 12px; fill: var(--soft); font-family: inherit; }
    svg .name { font-weight: 600; }
    svg .axis { stroke: var(--grey); fill: none; }
    svg .grid { stroke: var(--grid); fill: none; }
    svg .curve { fill: none; stroke-width: 2; stroke-linejoin: round; }
    svg .thin { stroke-width: 1.5; }
    svg .dash { stroke-dasharray: 6 4; }
    svg .leader { stroke: var(--grey); stroke-width: 1; fill: none; }
    table { border-collapse: collapse; font-size: 14px; margin: 8px 0; font-variant-numeric: tabular-nums; }
    caption { text-align: left; color: var(--soft); font-size: 13px; padding-bottom: 4px; }
    th, td { padding: 4px 10px; text-align: right; border-bottom: 1px solid var(--grid); white-space: nowrap;
      vertical-align: top; }
    thead th { white-space: normal; min-width: 4.5em; border-bottom: 1px solid var(--line); font-weight: 600; vertical-align: bottom; }
    tbody th { text-align: left; font-weight: 500; }
    th.w, td.w { text-align: left; white-space: normal; min-width: 9em; }
    tr.sum th, tr.sum td { font-weight: 650; border-top: 1px solid var(--line); }
    table.outcome { width: 100%; font-size: 15px; table-layout: fixed; }
    table.outcome caption { font-size: 15px; color: var(--ink); font-weight: 650; padding-top: 10px; }
    table.outcome thead th:first-child { width: 18em; }
    table.outcome tbody th { white-space: normal; }
    table.outcome td { padding-bottom: 7px; }
    table.outcome td b { font-size: 20px; font-weight: 650; }
    table.outcome td span { color: var(--soft); white-space: nowrap; }
    table.outcome td.bad span { color: var(--bad); }
    table.outcome td.good span { color: var(--good); }
    table.outcome i { display: block; height: 6px; border-radius: 3px; background: var(--grey); min-width: 2px; }
    table.outcome td.bad i { background: var(--bad); }
    table.outcome td.good i { background: var(--good); }
    details { margin: 4px 0; }
    summary { cursor: pointer; color: var(--soft); font-size: 13px; }
    .key { display: inline-block; min-width: 1.6em; padding: 0 6px; border-radius: 4px; font-weight: 650;
      text-align: center; color: var(--bg); }
    .bot { color: var(--bot); } .sender { color: var(--sender); } .probe { color: var(--probe); }
    @media (max-width: 560px) {
      main { padding: 16px 14px 40px; } h1 { font-size: 22px; }
      .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); }
      .cells { grid-template-columns: minmax(0, 1fr); }
      .cell svg { max-width: 320px; }
      .tile b { font-size: 20px; }
    }
    """
}
