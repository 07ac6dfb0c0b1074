// SPDX-License-Identifier: Apache-2.0

/// A plot as inline SVG: axes, curves with their names at their ends, bars. Colours are those of the page
/// (`var(--…)`), so that it is readable on dark and on light.
struct Plot {
  struct Curve {
    var points: [(x: Double, y: Double)]
    /// A colour of the page: "bot", "s0".
    var color: String
    var name = ""
    var isDashed = false
    var isFilled = false
    /// Each value holds until the next point.
    var isStepped = false
  }

  /// An expected level.
  struct Level {
    var y: Double
    var color: String
    var name: String
  }

  /// Something at a place of the x axis worth its name.
  struct Peak {
    var x: Double
    var y: Double
    var name: String
  }

  /// Unique on the page.
  var id: String
  var title: String
  /// What the plot shows, for readers who cannot see it.
  var about: String
  var width = 540.0
  var height = 270.0
  var top = 12.0
  var right = 126.0
  var bottom = 42.0
  var left = 52.0
  var x: Axis
  var y: Axis
  var curves: [Curve] = []
  var levels: [Level] = []
  /// Bars from 0, each from one x to another.
  var bars: [(from: Double, to: Double, y: Double)] = []
  var barColor = "bot"
  var peaks: [Peak] = []

  private var innerWidth: Double { width - left - right }
  private var innerHeight: Double { height - top - bottom }
  private func across(_ value: Double) -> Double { left + innerWidth * x.place(value) }
  private func down(_ value: Double) -> Double { top + innerHeight * (1 - y.place(value)) }
  private func n(_ value: Double) -> String { Figures.trimmed(value, 1) }

  /// About how wide a text of 12 pixels in bold is; rather too wide.
  static func textWidth(_ text: String) -> Double { Double(text.count) * 7.7 }

  static func cut(_ text: String, to width: Double) -> String {
    let most = max(Int(width / 7.7), 1)
    return text.count <= most ? text : String(text.prefix(most - 1)) + "…"
  }

  func svg() -> String {
    var text =
      "<svg viewBox=\"0 0 \(n(width)) \(n(height))\" role=\"img\" aria-labelledby=\"\(id)-t \(id)-d\">"
      + "<title id=\"\(id)-t\">\(Markup.escaped(title))</title>"
      + "<desc id=\"\(id)-d\">\(Markup.escaped(about))</desc>\n"
    text += axes()
    for bar in bars where bar.y > 0 {
      let (from, to) = (across(bar.from), across(bar.to))
      text +=
        "<rect x=\"\(Figures.trimmed(from, 2))\" y=\"\(n(down(bar.y)))\" width=\""
        + "\(Figures.trimmed(max(to - from - 0.4, 0.8), 2))\" height=\""
        + "\(n(max(top + innerHeight - down(bar.y), 0.8)))\" style=\"fill:var(--\(barColor))\"/>\n"
    }
    for level in levels where level.y.isFinite {
      text +=
        "<path class=\"curve thin dash\" style=\"stroke:var(--\(level.color))\" d=\"M\(n(left)) \(n(down(level.y)))"
        + "H\(n(width - right))\"/>\n"
    }
    for curve in curves where !curve.points.isEmpty { text += draw(curve) }
    return text + names() + peakNames() + "</svg>"
  }

  private func axes() -> String {
    let (floor, end) = (top + innerHeight, width - right)
    var text = ""
    for tick in y.ticks {
      let at = down(tick.value)
      text +=
        "<path class=\"grid\" d=\"M\(n(left)) \(n(at))H\(n(end))\"/>"
        + "<text x=\"\(n(left - 7))\" y=\"\(n(at + 4))\" text-anchor=\"end\">\(Markup.escaped(tick.text))</text>\n"
    }
    for tick in x.ticks {
      let at = across(tick.value)
      text +=
        "<path class=\"axis\" d=\"M\(n(at)) \(n(floor))v4\"/>"
        + "<text x=\"\(n(at))\" y=\"\(n(floor + 17))\" text-anchor=\"middle\">\(Markup.escaped(tick.text))</text>\n"
    }
    text += "<path class=\"axis\" d=\"M\(n(left)) \(n(floor))H\(n(end))\"/>\n"
    if !x.title.isEmpty {
      text +=
        "<text x=\"\(n((left + end) / 2))\" y=\"\(n(height - 6))\" text-anchor=\"middle\">"
        + "\(Markup.escaped(x.title))</text>\n"
    }
    return text
  }

  private func draw(_ curve: Curve) -> String {
    var path = ""
    var before = ""
    for point in curve.points {
      let (px, py) = (n(across(point.x)), n(down(point.y)))
      if path.isEmpty {
        path = "M\(px) \(py)"
      } else if curve.isStepped {
        path += "H\(px)" + (py == before ? "" : "V\(py)")
      } else {
        path += py == before ? "H\(px)" : "L\(px) \(py)"
      }
      before = py
    }
    var text = ""
    if curve.isFilled, let first = curve.points.first, let last = curve.points.last {
      text +=
        "<path style=\"fill:var(--\(curve.color));fill-opacity:.14\" d=\"\(path)L\(n(across(last.x))) "
        + "\(n(top + innerHeight))H\(n(across(first.x)))Z\"/>"
    }
    return text
      + "<path class=\"curve\(curve.isDashed ? " dash thin" : curve.points.count > 200 ? " thin" : "")\" style=\"stroke:var(--\(curve.color))\" d=\"\(path)\"/>\n"
  }

  /// Names at the right end of what they name, pushed apart.
  private func names() -> String {
    var labels: [(at: Double, color: String, name: String)] = []
    for curve in curves where !curve.name.isEmpty {
      if let last = curve.points.last { labels.append((down(last.y), curve.color, curve.name)) }
    }
    for level in levels where !level.name.isEmpty && level.y.isFinite {
      labels.append((down(level.y), level.color, level.name))
    }
    let places = Self.apart(labels.map(\.at), gap: 14, from: top + 2, to: top + innerHeight - 3)
    let end = width - right
    var text = ""
    for (label, place) in zip(labels, places) {
      text +=
        "<path class=\"leader\" style=\"stroke:var(--\(label.color))\" d=\"M\(n(end + 1)) \(n(label.at))"
        + "L\(n(end + 9)) \(n(place))\"/>"
        + "<text class=\"name\" x=\"\(n(end + 12))\" y=\"\(n(place + 4))\" style=\"fill:var(--\(label.color))\">"
        + "\(Markup.escaped(Self.cut(label.name, to: right - 12)))</text>\n"
    }
    return text
  }

  /// Places near the wanted ones, at least `gap` apart, in the same order, between the ends if there is room.
  static func apart(_ wanted: [Double], gap: Double, from low: Double, to high: Double) -> [Double]
  {
    let order = wanted.indices.sorted { (wanted[$0], $0) < (wanted[$1], $1) }
    var places = wanted
    var least = low
    for k in order {
      places[k] = max(wanted[k], least)
      least = places[k] + gap
    }
    var most = high
    for k in order.reversed() {
      places[k] = min(places[k], most)
      most = places[k] - gap
    }
    return places
  }

  /// Where the names of peaks stand, in rows above the bars. Who stands above whom follows from the right: a
  /// name that reaches over other peaks is above theirs, so that no line to a peak crosses a name.
  private var peakPlaces: [(peak: Peak, name: String, row: Int)] {
    var placed: [(peak: Peak, name: String, row: Int)] = []
    for peak in peaks.sorted(by: { $0.x > $1.x }) {
      let at = across(peak.x)
      let name = Self.cut(peak.name, to: width - at - 6)
      let end = at + 14 + Self.textWidth(name)
      let row = (placed.filter { across($0.peak.x) < end }.map(\.row).max() ?? -1) + 1
      placed.append((peak, name, row))
    }
    return placed
  }

  /// How many rows of names there are.
  var peakRows: Double { Double((peakPlaces.map(\.row).max() ?? -1) + 1) }

  private func peakNames() -> String {
    var text = ""
    for (peak, name, row) in peakPlaces {
      let at = across(peak.x)
      let height = top - 8 - Double(row) * 15
      text +=
        "<path class=\"leader\" d=\"M\(n(at)) \(n(height - 9))V\(n(max(down(peak.y) - 2, height)))\"/>"
        + "<text class=\"name\" x=\"\(n(at + 4))\" y=\"\(n(height))\">\(Markup.escaped(name))</text>\n"
    }
    return text
  }
}
