// SPDX-License-Identifier: Apache-2.0
package import Structures

/// The forms of values in a configuration file, read and written.
///
/// Not a check of ranges: a setting knows its own. Kept: what `write` gives, `read` takes for the same value.
package enum Form {}

/// Why a text is no value of a form, and what to write instead.
package struct BadValue: Error {
  package var reason: String
  package var hint: String

  package init(reason: String, hint: String) {
    self.reason = reason
    self.hint = hint
  }
}

extension Form {
  // Numbers

  /// A whole number without sign, separators or leading zeros' meaning: decimal always.
  package static func count(_ text: String) throws(BadValue) -> Int {
    if let value = digits(text[...]) { return value }
    let plain = text.filter { $0.isASCII && $0.isNumber }
    let isGrouped = !plain.isEmpty && text.allSatisfy { "0123456789_,.' ".contains($0) }
    throw BadValue(
      reason: "'\(ConfigNode.cut(text))' is not a whole number",
      hint: isGrouped ? "write \(plain), without separators" : "write digits only, such as 1000")
  }

  private static func digits(_ text: Substring) -> Int? {
    guard (1...15).contains(text.utf8.count), text.utf8.allSatisfy({ (48...57).contains($0) })
    else {
      return nil
    }
    return Int(text)
  }

  /// A decimal number without sign or exponent, with at most six digits on either side of the point.
  package static func number(_ text: String) throws(BadValue) -> Double {
    if let value = decimal(text[...]) { return value }
    throw BadValue(
      reason: "'\(ConfigNode.cut(text))' is not a number", hint: "write a number such as 0.4")
  }

  private static func decimal(_ text: Substring) -> Double? {
    let parts = text.split(separator: ".", maxSplits: 1, omittingEmptySubsequences: false)
    for part in parts where digits(part) == nil || part.utf8.count > 6 { return nil }
    return Double(text)
  }

  package static func write(number: Double) -> String {
    let whole = number.rounded()
    return number == whole ? "\(Int(whole)).0" : "\(number)"
  }

  // Percentages

  /// `70%`, as a share of 1.
  package static func percentage(_ text: String) throws(BadValue) -> Double {
    if text.hasSuffix("%"), let value = decimal(text.dropLast()) { return value / 100 }
    let bare = decimal(text[...])
    throw BadValue(
      reason: "'\(ConfigNode.cut(text))' is not a percentage",
      hint: bare.map { "write \(write(percentage: $0 <= 1 ? $0 : $0 / 100))" }
        ?? "write a number and a percent sign, such as 70%")
  }

  package static func write(percentage: Double) -> String {
    // Ten-thousandths of a percent: enough for every digit a person writes.
    let value = (percentage * 1_000_000).rounded() / 10_000
    return value == value.rounded() ? "\(Int(value))%" : "\(value)%"
  }

  // Booleans

  package static func toggle(_ text: String) throws(BadValue) -> Bool {
    switch text.lowercased() {
    case "yes", "true", "on": return true
    case "no", "false", "off": return false
    default:
      throw BadValue(
        reason: "'\(ConfigNode.cut(text))' is neither yes nor no", hint: "write yes or no")
    }
  }

  // Durations

  private static let timeUnits: [(name: String, microseconds: Int64)] = [
    ("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000),
  ]

  /// `250ms`, `6s`, `5m`, `2h`, `30d`, with at most three digits behind a point; in microseconds.
  package static func duration(_ text: String) throws(BadValue) -> Int64 {
    if text == "0" { return 0 }
    let number = text.prefix { "0123456789.".contains($0) }
    let unit = text.dropFirst(number.count)
    if !number.isEmpty && unit.isEmpty, decimal(number) != nil {
      throw BadValue(
        reason: "'\(ConfigNode.cut(text))' has no unit of time",
        hint: "write \(text)s for seconds; the units are ms, s, m, h and d")
    }
    let example = "write a number and a unit (ms, s, m, h, d), such as 250ms, 6s or 30d"
    guard let value = decimal(number),
      number.split(separator: ".").dropFirst().allSatisfy({ $0.utf8.count <= 3 })
    else {
      throw BadValue(reason: "'\(ConfigNode.cut(text))' is not a duration", hint: example)
    }
    guard let scale = timeUnits.first(where: { $0.name == unit })?.microseconds else {
      let meant: [String: String] = [
        "sec": "s", "secs": "s", "second": "s", "seconds": "s", "min": "m", "mins": "m",
        "minute": "m", "minutes": "m", "hour": "h", "hours": "h", "day": "d", "days": "d", "S": "s",
        "s": "s", "m": "m", "h": "h", "d": "d", "ms": "ms", "M": "m", "H": "h", "D": "d",
        "MS": "ms",
      ]
      let word = meant[unit.trimmingPrefix { $0 == " " }.description]
      throw BadValue(
        reason: "'\(ConfigNode.cut(String(unit)))' is not a unit of time",
        hint: unit == "w"
          ? "write \(write(duration: Int64(value * 7 * 86_400_000_000)))"
          : word.map { "write \(number)\($0)" } ?? example)
    }
    return Int64((value * Double(scale)).rounded())
  }

  /// In the largest unit that needs no fraction.
  package static func write(duration: Int64) -> String {
    if duration == 0 { return "0s" }
    for (name, scale) in timeUnits where duration % scale == 0 {
      return "\(duration / scale)\(name)"
    }
    return "\(Double(duration) / 1_000_000)s"
  }

  // Sizes

  private static let sizeUnits: [(name: String, bytes: Int)] = [
    ("G", 1 << 30), ("M", 1 << 20), ("k", 1 << 10),
  ]

  /// Octets: `2048`, `64k`, `10M`, `1G`, in steps of 1,024.
  package static func size(_ text: String) throws(BadValue) -> Int {
    if let value = digits(text[...]) { return value }
    let number = text.prefix { "0123456789".contains($0) }
    let unit = text.dropFirst(number.count).lowercased()
    if let value = digits(number), number.utf8.count <= 9,
      let scale = sizeUnits.first(where: { $0.name.lowercased() == unit })?.bytes
    {
      return value * scale
    }
    let stem = unit.trimmingPrefix { $0 == " " }.first
    let known = sizeUnits.first { $0.name.lowercased() == stem.map(String.init) }
    let isNear = ["b", "ib"].contains { unit.hasSuffix($0) } && !number.isEmpty
    throw BadValue(
      reason: "'\(ConfigNode.cut(text))' is not a size",
      hint: isNear && (known != nil || unit == "b")
        ? "write \(number)\(known?.name ?? "")"
        : "write a number of bytes, or a number with k, M or G, such as 64k")
  }

  package static func write(size: Int) -> String {
    for (name, scale) in sizeUnits where size > 0 && size % scale == 0 {
      return "\(size / scale)\(name)"
    }
    return "\(size)"
  }

  // Names and addresses

  /// A host name by RFC 1123, 2.1, in lower case.
  ///
  /// - Parameters:
  ///   - isFull: whether it must have a dot.
  ///   - isToLookUp: whether it is for the resolver alone. Then underscores are taken, which names in container
  ///     networks have, and a dot at the end, by which no search domain is put behind it.
  package static func hostname(
    _ text: String, isFull: Bool, isToLookUp: Bool = false
  ) throws(BadValue) -> String {
    let example = "write a name such as mx.example.org"
    func bad(_ reason: String, _ hint: String) -> BadValue {
      BadValue(reason: "'\(ConfigNode.cut(text))' \(reason)", hint: hint)
    }
    if text.hasSuffix(".") && text.utf8.count > 1 {
      if isToLookUp {
        return try hostname(String(text.dropLast()), isFull: isFull, isToLookUp: true) + "."
      }
      throw bad("ends in a dot", "write \(ConfigNode.cut(String(text.dropLast())))")
    }
    let labels = text.lowercased().split(separator: ".", omittingEmptySubsequences: false)
    if text.utf8.count > 253 { throw bad("is longer than 253 characters", example) }
    for label in labels {
      let allowed = label.utf8.allSatisfy {
        (97...122).contains($0) || (48...57).contains($0) || $0 == 45 || isToLookUp && $0 == 95
      }
      guard (1...63).contains(label.utf8.count), allowed, label.first != "-", label.last != "-"
      else {
        let isAddress = Address(text) != nil
        throw bad(
          "is not a host name",
          isAddress ? "write the name, not the address" : example)
      }
    }
    if labels.last?.allSatisfy({ $0.isNumber }) == true {
      throw bad("is not a host name", "write the name, not the address")
    }
    if isFull && labels.count < 2 {
      throw bad(
        "is not a fully qualified name (RFC 5321, 2.3.5)",
        "write it with its domain: \(text).example.org")
    }
    return text.lowercased()
  }

  /// `192.0.2.1:25`, `[2001:db8::1]:25` or, if `allowsName`, `mx.example.org:25`.
  package static func endpoint(
    _ text: String, allowsName: Bool
  ) throws(BadValue) -> (host: String, address: Address?, port: UInt16) {
    let example = allowsName ? "127.0.0.1:10025" : "0.0.0.0:25 or [::]:25"
    func bad(_ reason: String, _ hint: String? = nil) -> BadValue {
      BadValue(
        reason: "'\(ConfigNode.cut(text))' \(reason)",
        hint: hint ?? "write an address and a port, such as \(example)")
    }
    if text.hasPrefix("/") || text.hasPrefix("unix:") {
      throw bad("is a path; a TCP address is needed")
    }
    if let address = Address(text) {
      throw bad("has no port", withPort(text, isIPv4: address.isIPv4))
    }
    guard let colon = text.lastIndex(of: ":") else {
      let isPort = digits(text[...]) != nil
      throw bad("has no \(isPort ? "address" : "port")")
    }
    let digitsOfPort = text[text.index(after: colon)...]
    guard let number = digits(digitsOfPort), let port = UInt16(exactly: number), port > 0 else {
      throw bad("has no port from 1 to 65535 after its last colon")
    }
    var host = String(text[..<colon])
    let isBracketed = host.hasPrefix("[") && host.hasSuffix("]")
    if isBracketed { host = String(host.dropFirst().dropLast()) }
    if host.contains("%") {
      throw bad(
        "names an interface, which is not supported", "use an address that is not link-local")
    }
    if let address = Address(host) {
      if !isBracketed && !address.isIPv4 || host.contains(":") && !isBracketed {
        throw bad("is an IPv6 address without brackets", "write [\(host)]:\(port)")
      }
      if isBracketed && !host.contains(":") {
        throw bad("has brackets around an IPv4 address", "write \(host):\(port)")
      }
      return (host, address, port)
    }
    if host.isEmpty || host == "*" {
      throw bad(
        "has no address", allowsName ? nil : "write 0.0.0.0:\(port), and [::]:\(port) for IPv6")
    }
    guard allowsName, !isBracketed else {
      throw bad("does not begin with an IP address", "write the address, such as \(example)")
    }
    return (try hostname(host, isFull: false, isToLookUp: true), nil, port)
  }

  /// What to write for an address whose port is missing, or not told apart from it: `::1:25` may be both.
  private static func withPort(_ text: String, isIPv4: Bool) -> String {
    guard !isIPv4 else { return "write \(text):25" }
    let whole = "[\(text)]:25"
    guard let colon = text.lastIndex(of: ":"), Address(String(text[..<colon])) != nil,
      let port = digits(text[text.index(after: colon)...]), (1...65_535).contains(port)
    else { return "write \(whole)" }
    return "write [\(text[..<colon])]:\(port), or \(whole) if \(port) is part of the address"
  }

  /// Text in YAML's double quotes, so that it reads back as what it is (YAML 1.1, 5.6: escapes).
  package static func write(text: String) -> String {
    var quoted = "\""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"", "\\": quoted += "\\" + String(scalar)
      case "\n": quoted += "\\n"
      case "\r": quoted += "\\r"
      case "\t": quoted += "\\t"
      // Control characters, NEL, and what YAML 1.1 takes for the end of a line or a byte-order mark.
      case "\u{0}"..."\u{1F}", "\u{7F}"..."\u{9F}", "\u{2028}", "\u{2029}", "\u{FEFF}":
        let hex = String(scalar.value, radix: 16, uppercase: true)
        quoted += "\\u" + String(repeating: "0", count: 4 - hex.count) + hex
      default: quoted.unicodeScalars.append(scalar)
      }
    }
    return quoted + "\""
  }

  /// One word out of several.
  package static func choice(_ text: String, _ words: [String]) throws(BadValue) -> Int {
    if let index = words.firstIndex(of: text.lowercased()) { return index }
    throw BadValue(
      reason: "'\(ConfigNode.cut(text))' is not one of \(words.joined(separator: ", "))",
      hint: (nearest(to: text, among: words) ?? begun(by: text, among: words)).map {
        "did you mean '\($0)'?"
      } ?? "write \(words.joined(separator: " or "))")
  }

  /// The first word that begins with the text, such as proxy_v2 for `proxy`.
  private static func begun(by text: String, among words: [String]) -> String? {
    text.count < 3 ? nil : words.first { $0.hasPrefix(text.lowercased()) }
  }
}
