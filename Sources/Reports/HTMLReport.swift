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
    let runs = Runs(reports)
    let head = HeadSection(runs: runs)
    let flow = FlowSections(runs: runs)
    let mail = MailSections(runs: runs)
    let content = [
      head.header(), Outcome(reports).section(), TileSection(runs: runs).tiles(),
      agreement?.section ?? "", DifferenceSection(runs: runs).differences(), head.broken(),
      SurvivalSection(runs).survival(), LeavingSection(runs).leaving(), flow.flow(), mail.honest(),
      mail.endings(), flow.machine(), mail.checks(),
    ]
    return Markup.page(head.title, content.joined())
  }
}
