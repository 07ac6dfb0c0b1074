// SPDX-License-Identifier: Apache-2.0
import Personas

/// One direction of a plot: from which value to which, on what scale, and where the ticks are.
struct Axis {
  enum Form { case linear, logarithmic, root }

  var form = Form.linear
  var low = 0.0
  var high = 1.0
  var ticks: [(value: Double, text: String)] = []
  var title = ""

  /// Where a value lies, 0…1; values outside lie on the edge, and what is no number at the beginning.
  func place(_ value: Double) -> Double {
    guard value.isFinite else { return value == .infinity ? 1 : 0 }
    let share: Double
    switch form {
    case .linear: share = (value - low) / (high - low)
    case .root: share = (max(value, 0) / high).squareRoot()
    case .logarithmic:
      let from = Distribution.log(low)
      share = (Distribution.log(max(value, low)) - from) / (Distribution.log(high) - from)
    }
    return min(max(share, 0), 1)
  }

  /// The value at a place, 0…1.
  func value(at place: Double) -> Double {
    switch form {
    case .linear: low + (high - low) * place
    case .root: high * place * place
    case .logarithmic:
      low * Distribution.exp(place * (Distribution.log(high) - Distribution.log(low)))
    }
  }

  /// The power of ten at or below a value above 0.
  private static func power(below value: Double) -> Double {
    var power = 1.0
    while power > value { power /= 10 }
    while power * 10 <= value { power *= 10 }
    return power
  }

  /// 1, 2 or 5 times a power of ten, for about so many steps.
  static func step(_ range: Double, _ steps: Int) -> Double {
    let least = max(range / Double(steps), 1e-9)
    let power = power(below: least)
    for factor in [1.0, 2, 5, 10] where factor * power >= least * 0.999 { return factor * power }
    return 10 * power
  }

  /// From 0 to at least `most`.
  static func linear(
    to most: Double, title: String, steps: Int = 5, text: (Double) -> String = Figures.short
  ) -> Axis {
    let most = most.isFinite && most > 0 ? most : 1
    let step = step(most, steps)
    var axis = Axis(title: title)
    var value = 0.0
    while value < most * 0.999 {
      axis.ticks.append((value, text(value)))
      value += step
    }
    axis.ticks.append((value, text(value)))
    axis.high = value
    return axis
  }

  /// Counts that are far apart: by the square root.
  static func root(to most: Double, title: String) -> Axis {
    var axis = Axis(form: .root, high: most.isFinite ? max(most, 1) : 1, title: title)
    axis.ticks = [(0, "0")]
    var power = power(below: axis.high)
    var values: [Double] = []
    for _ in 0..<4 {
      for factor in [5.0, 2, 1] where factor * power <= axis.high { values.append(factor * power) }
      power /= 10
    }
    // From the top, no nearer than a seventh of the height.
    var last = 2.0
    for value in values where value >= 1 {
      let place = axis.place(value)
      if place > last - 0.14 || place < 0.1 { continue }
      last = place
      axis.ticks.append((value, Figures.short(value)))
    }
    return axis
  }

  /// Of the run's own time, which ends at `most`, in a unit that fits.
  static func time(to most: Double, steps: Int = 6) -> Axis {
    let most = most.isFinite && most > 0 ? most : 1
    let (unit, name): (Double, String) =
      most <= 600
      ? (1, "seconds")
      : most <= 4 * 3_600
        ? (60, "minutes") : most <= 4 * 86_400 ? (3_600, "hours") : (86_400, "days")
    let range = most / unit
    var step = step(range, steps)
    // A day has 24 hours.
    if unit == 3_600, range > 12 { step = range <= 24 ? 4 : range <= 48 ? 8 : 24 }
    var axis = Axis(high: most, title: "time since the start, in \(name)")
    var value = 0.0
    while value <= range * 1.0001 {
      axis.ticks.append((value * unit, Figures.trimmed(value, 2)))
      value += step
    }
    return axis
  }

  /// Seconds that a connection lasted: up to 330 s linear, beyond that logarithmic from a tenth of a second.
  static func hold(to most: Double, steps: Int) -> Axis {
    let most = most.isFinite ? most : 0
    if most <= 330 {
      let high: Double =
        most <= 10 ? 10 : most <= 35 ? 35 : most <= 70 ? 70 : most <= 130 ? 130 : 310
      let top = max(high, most)
      var axis = Axis(high: top, title: "seconds since the connection")
      let step = step(top, steps)
      var value = 0.0
      while value <= top {
        axis.ticks.append((value, Figures.trimmed(value, 1)))
        value += step
      }
      return axis
    }
    return duration(from: 0.1, to: most, title: "time since the connection", steps: steps)
  }

  /// Times from tenths of a second to days, logarithmic.
  static func duration(from low: Double, to most: Double, title: String, steps: Int = 8) -> Axis {
    let most = most.isFinite ? most : 0
    var axis = Axis(form: .logarithmic, low: low, title: title)
    let known: [(Double, String)] = [
      (0.1, "0.1 s"), (1, "1 s"), (10, "10 s"), (60, "1 min"), (600, "10 min"), (3_600, "1 h"),
      (6 * 3_600, "6 h"), (86_400, "1 d"), (5 * 86_400, "5 d"), (30 * 86_400, "30 d"),
    ]
    axis.high = known.first { $0.0 >= most * 0.999 && $0.0 > low }?.0 ?? max(most, low * 10)
    var last = -1.0
    for (value, text) in known where value >= low && value <= axis.high {
      let place = axis.place(value)
      if place - last < 0.85 / Double(steps) { continue }
      last = place
      axis.ticks.append((value, text))
    }
    return axis
  }
}
