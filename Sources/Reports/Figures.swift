// SPDX-License-Identifier: Apache-2.0

/// Numbers as people read them: thousands apart, units behind, and never `nan`. Without Foundation.
///
/// What cannot be said (a share of nothing, an infinite value) is a dash.
enum Figures {
  static let none = "–"

  /// With so many digits behind the point, rounded half away from zero.
  static func fixed(_ value: Double, _ digits: Int) -> String {
    guard value.isFinite else { return none }
    var factor = 1.0
    for _ in 0..<digits { factor *= 10 }
    let scaled = (value * factor).rounded()
    guard abs(scaled) < 9e15 else { return none }
    let whole = Int(abs(scaled))
    let sign = scaled < 0 ? "-" : ""
    if digits == 0 { return sign + String(whole) }
    var text = String(whole)
    while text.count <= digits { text = "0" + text }
    let point = text.index(text.endIndex, offsetBy: -digits)
    return sign + text[..<point] + "." + text[point...]
  }

  /// The same without zeros at the end.
  static func trimmed(_ value: Double, _ digits: Int) -> String {
    var text = fixed(value, digits)
    if !text.contains(".") { return text }
    while text.hasSuffix("0") { text.removeLast() }
    if text.hasSuffix(".") { text.removeLast() }
    return text == "-0" ? "0" : text
  }

  /// 1,234,567.
  static func count(_ value: Int) -> String {
    let digits = String(value.magnitude)
    var text = ""
    for (k, digit) in digits.enumerated() {
      if k > 0 && (digits.count - k) % 3 == 0 { text += "," }
      text.append(digit)
    }
    return value < 0 ? "-" + text : text
  }

  /// The same of a value that may not be one.
  static func count(_ value: Double) -> String {
    abs(value) < 9e15 ? count(Int(value)) : none
  }

  /// Four digits at most and a letter: 950, 12.3 k, 4.51 M.
  static func short(_ value: Double) -> String {
    guard value.isFinite else { return none }
    let size = abs(value)
    // Where rounding would say 1000, the next letter says 1.
    for (from, letter) in [(1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")]
    where size >= from * 0.9995 {
      let part = value / from
      return trimmed(part, abs(part) < 10 ? 2 : abs(part) < 100 ? 1 : 0) + letter
    }
    return trimmed(value, size < 10 ? 2 : size < 100 ? 1 : 0)
  }

  /// A share of 0…1 in per cent. What is not all or nothing does not read as all or nothing.
  static func percent(_ share: Double) -> String {
    guard share.isFinite else { return none }
    let value = share * 100
    if value == 0 { return "0 %" }
    if value > 0 && value < 0.01 { return "< 0.01 %" }
    if value < 100 && value >= 99.95 { return "> 99.9 %" }
    return trimmed(value, abs(value) < 1 ? 2 : 1) + " %"
  }

  static func percent(_ part: Int, of whole: Int) -> String {
    whole > 0 ? percent(Double(part) / Double(whole)) : none
  }

  /// A time in seconds: 0.31 s, 21.4 s, 310 s, 12.5 min, 5.2 h, 3.1 d.
  static func seconds(_ value: Double) -> String {
    guard value.isFinite else { return none }
    let size = abs(value)
    if size >= 2 * 86_400 { return trimmed(value / 86_400, 1) + " d" }
    if size >= 2 * 3_600 { return trimmed(value / 3_600, 1) + " h" }
    if size >= 600 { return trimmed(value / 60, 1) + " min" }
    if size >= 100 { return trimmed(value, 0) + " s" }
    return trimmed(value, size < 1 ? 2 : 1) + " s"
  }

  /// Decimal: 131.8 KB is 131,800 bytes.
  static func bytes(_ value: Double) -> String {
    guard value.isFinite else { return none }
    for (from, letter) in [(1e9, "GB"), (1e6, "MB"), (1e3, "KB")] where abs(value) >= from * 0.9995
    {
      let part = value / from
      return trimmed(part, abs(part) < 10 ? 2 : 1) + " " + letter
    }
    return trimmed(value, 0) + " B"
  }

  static func rate(_ value: Double) -> String {
    value.isFinite ? short(value) + "/s" : none
  }

  /// With its sign, for differences.
  static func signed(_ value: Double, _ text: (Double) -> String) -> String {
    guard value.isFinite else { return none }
    if value == 0 { return "±0" }
    return (value > 0 ? "+" : "−") + text(abs(value))
  }

  /// How a figure differs from another: "+12 (+8 %)"; for a share "−3.1 points".
  static func change(
    from first: Double, to second: Double, _ text: (Double) -> String, isShare: Bool
  ) -> String {
    guard first.isFinite, second.isFinite else { return none }
    let difference = second - first
    if difference == 0 { return "±0" }
    if isShare {
      let points = trimmed(abs(difference) * 100, 2)
      return signed(difference) { _ in (points == "0" ? "< 0.01" : points) + " points" }
    }
    let by =
      first != 0 ? " (" + signed(difference / abs(first), percent) + ")" : ""
    return signed(difference, text) + by
  }

  /// Text of others on a terminal: no control and no change of direction gets through.
  static func plain(_ text: String) -> String {
    var result = String.UnicodeScalarView()
    for scalar in text.unicodeScalars { result.append(isHarmless(scalar) ? scalar : "?") }
    return String(result)
  }

  /// Not a control character, and none that turns the direction of the text around.
  static func isHarmless(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.value {
    case 0..<0x20, 0x7F..<0xA0, 0x200E, 0x200F, 0x2028...0x202E, 0x2066...0x2069, 0xFFFE, 0xFFFF:
      false
    default: true
    }
  }
}
