// SPDX-License-Identifier: Apache-2.0

import Personas

extension SweepReport {
  /// The same as lines of comma-separated values, one for each persona at each value: counts, so that shares and
  /// sums of one's own can be made. Seconds for the value and the delay; empty where there is nothing to say.
  public static func csv(_ sweep: Sweep) -> String {
    let names = [
      "value", "id", "kind", "clients", "connections", "left", "still_there", "let_through",
      "series", "gave_up", "delivered", "lost", "delay_p95",
    ]
    var lines = [names.joined(separator: ",")]
    for point in SweepView(sweep).points {
      for found in point.report.merged {
        let delay = found.delay.total > 0 ? Figures.trimmed(found.delay.quantile(0.95), 2) : ""
        let counts = [
          found.clients, found.connections, found.left, found.stillThere, found.letThrough,
          found.tries, found.gaveUp, found.delivered, found.lostCount,
        ].map { String($0) }
        let fields =
          [Figures.trimmed(point.value, 3), field(found.id), field(found.kind)] + counts + [delay]
        lines.append(fields.joined(separator: ","))
      }
    }
    return lines.joined(separator: "\n") + "\n"
  }

  /// RFC 4180: quoted where it has to be.
  private static func field(_ text: String) -> String {
    let plain = Figures.plain(text)
    if !plain.contains(where: { $0 == "," || $0 == "\"" }) { return plain }
    return "\"" + plain.replacing("\"", with: "\"\"") + "\""
  }
}
