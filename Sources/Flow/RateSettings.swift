// SPDX-License-Identifier: Apache-2.0
import Structures

/// Reads the settings of one rate rule: `conn=60/min burst=10 concurrency=20 per=/24 over=tempfail`.
///
/// Not aware of the file: it knows the rule's family and pattern only to word its advice. Kept: after a
/// mistake it goes on with the next setting, so that one look shows all mistakes of a line.
package struct RateSettings {
  /// The longest an honest sender bears before the banner: the ceiling of that stage, above which a delay would be cut.
  package static let delaySecondsMax = 25

  private static let names = [
    "conn", "msgs", "rcpt", "errors", "bytes", "concurrency", "burst", "delay", "class", "per",
    "over",
  ]

  private(set) var rule = RateRule()
  private(set) var mistakes: [CIDRLineError] = []
  private let isIPv4: Bool
  private let pattern: String
  private var seen: Set<String> = []
  /// The rate that a `burst=` now would belong to.
  private var last: (kind: LimitKind, units: UInt64, period: Duration)?
  /// The setting before this one was wrong: a `burst=` after it needs no word of its own.
  private var followsMistake = false

  /// - Parameters:
  ///   - start, end: the result of the rule within `bytes`, without white space around it.
  ///   - pattern: of the rule, as written; only for advice.
  init(_ bytes: Span<UInt8>, _ start: Int, _ end: Int, isIPv4: Bool, pattern: String) {
    self.isIPv4 = isIPv4
    self.pattern = pattern
    rule.sharing = .prefix(isIPv4 ? 32 : 64)
    var cursor = start
    while cursor < end {
      let first = cursor
      var token: [UInt8] = []
      while cursor < end && !isSpace(bytes[cursor]) {
        token.append(bytes[cursor])
        cursor += 1
      }
      do throws(Mistake) {
        try read(token)
        followsMistake = false
      } catch {
        followsMistake = true
        mistakes.append(
          CIDRLineError(offset: first + error.at, reason: error.reason, hint: error.hint))
        // What follows an address are the settings of another rule.
        if error.endsRule { break }
      }
      cursor = CIDRLine.skipSpace(bytes, cursor, end)
    }
  }

  private struct Mistake: Error {
    /// Bytes from the start of the setting.
    var at = 0
    var reason: String
    var hint: String
    var endsRule = false
  }

  private mutating func read(_ token: [UInt8]) throws(Mistake) {
    let text = String(decoding: token, as: UTF8.self)
    guard let equals = token.firstIndex(of: UInt8(ascii: "=")) else {
      last = nil
      throw withoutValue(text)
    }
    let name = String(decoding: token[..<equals], as: UTF8.self).lowercased()
    let value = String(decoding: token[(equals + 1)...], as: UTF8.self).lowercased()
    let at = equals + 1
    let previous = last
    last = nil
    guard RateSettings.names.contains(name) else {
      throw Mistake(
        reason: "there is no setting \"\(name)\"",
        hint: nearest(to: name, among: RateSettings.names).map { "did you mean \($0)=\(value)?" }
          ?? "the settings are: \(RateSettings.names.joined(separator: ", "))")
    }
    if value.isEmpty {
      throw Mistake(
        at: at, reason: "\(name)= without a value",
        hint: "write \(RateSettings.example(name)), with no space around the =")
    }
    if name != "burst" && !seen.insert(name).inserted {
      throw Mistake(reason: "\(name)= occurs twice in this rule", hint: "leave one of them out")
    }
    switch name {
    case "burst": try burst(value, at, previous)
    case "concurrency": try concurrency(value, at)
    case "delay": try delay(value, at)
    case "class":
      guard let peer = PeerClass(named: value.utf8) else {
        throw RateSettings.notOneOf(
          PeerClass.names, "a class", name, value, at,
          meant: MeantWord.action(value, among: PeerClass.names))
      }
      rule.peerClass = peer
    case "over":
      switch value {
      case "slow": rule.over = .slow
      case "tempfail": rule.over = .tempfail
      case "refuse": rule.over = .refuse
      case "drop": rule.over = .drop
      default:
        throw RateSettings.notOneOf(
          OverAction.names, "an answer", name, value, at, meant: MeantWord.answer(value))
      }
    case "per": try per(value, at)
    default:
      for kind in LimitKind.allCases where kind.name == name { try rate(kind, value, at) }
    }
  }

  private func withoutValue(_ text: String) -> Mistake {
    let word = text.lowercased()
    let hint: String
    var endsRule = false
    if text.hasPrefix("#") {
      hint = "write a space after the # to start a comment"
    } else if PeerClass(named: word.utf8) != nil {
      hint = "write class=\(word)"
    } else if OverAction.names.contains(word) {
      hint = "write over=\(word)"
    } else if ["permit", "reject", "dunno", "ok"].contains(word) {
      hint = "write this line in the access table"
    } else if RateSettings.names.contains(word) {
      hint = "write \(RateSettings.example(word)), with no space around the ="
    } else if word.utf8.contains(where: { $0 == 46 || $0 == 58 }) {
      hint = "an indented line continues the line above it: start a new rule in the first column"
      endsRule = true
    } else if let name = nearest(to: word, among: RateSettings.names) {
      hint = "did you mean \(RateSettings.example(name))?"
    } else {
      hint =
        "settings look like \(RateSettings.example("conn")), with no space around the = or the /"
    }
    return Mistake(reason: "\"\(text)\" is not a setting", hint: hint, endsRule: endsRule)
  }

  private static func example(_ name: String) -> String {
    switch name {
    case "conn", "errors": "\(name)=10/min"
    case "msgs": "msgs=100/h"
    case "rcpt": "rcpt=2000/h"
    case "bytes": "bytes=64k/s"
    case "concurrency": "concurrency=20"
    case "burst": "burst=20"
    case "delay": "delay=4s"
    case "class": "class=suspicious"
    case "per": "per=/24"
    default: "over=slow"
    }
  }

  private static func notOneOf(
    _ known: [String], _ kind: String, _ name: String, _ value: String, _ at: Int, meant: String?
  ) -> Mistake {
    Mistake(
      at: at, reason: "\"\(value)\" is not \(kind) for \(name)=",
      hint: meant.map { "did you mean \(name)=\($0)?" }
        ?? "write one of: \(known.joined(separator: ", "))")
  }

  // Rates

  private mutating func rate(_ kind: LimitKind, _ value: String, _ at: Int) throws(Mistake) {
    if value == "unlimited" || value == "off" {
      set(kind, .unlimited)
      return
    }
    let parts = value.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
    let example = RateSettings.example(kind.name)
    guard let units = RateSettings.count(parts[0], kilo: kind == .bytes ? 1024 : 1000) else {
      throw Mistake(
        at: at, reason: "\"\(parts[0])\" is not a count for \(kind.name)=",
        hint: "write \(example), or \(kind.name)=unlimited; counts may end in k, M or G")
    }
    if units == 0 { throw zero("\(kind.name)=\(value)") }
    guard parts.count == 2 else {
      throw Mistake(
        at: at, reason: "\(kind.name)=\(value) has no time",
        hint: "write \(kind.name)=\(value)/min or another unit: s, min, h, d")
    }
    guard let microseconds = RateSettings.time(parts[1]) else {
      throw Mistake(
        at: at + parts[0].utf8.count + 1, reason: "\"\(parts[1])\" is not a time",
        hint: "write \(kind.name)=\(parts[0])/min or another unit: s, min, h, d, 10s, 15min")
    }
    let period = Duration.microseconds(microseconds)
    // A quarter of a second's bytes keeps a transfer smooth; 2 KB let any command pass whole.
    var burst = units
    if kind == .bytes {
      let quarter = UInt128(units) * 250_000 / UInt128(max(microseconds, 1))
      burst = UInt64(clamping: max(2048, quarter))
    }
    guard let rate = Rate(units, per: period, burst: burst) else {
      throw Mistake(
        at: at, reason: "\(kind.name)=\(value) is out of range",
        hint: "write a count of at most 256T in a time of at most 31d")
    }
    set(kind, rate)
    last = (kind, units, period)
  }

  private mutating func burst(
    _ value: String, _ at: Int, _ previous: (kind: LimitKind, units: UInt64, period: Duration)?
  ) throws(Mistake) {
    guard let previous else {
      if followsMistake { return }
      throw Mistake(
        reason: "burst= does not follow a rate",
        hint: "write it directly after its rate, such as conn=60/min burst=\(value)")
    }
    let kilo: UInt64 = previous.kind == .bytes ? 1024 : 1000
    guard let burst = RateSettings.count(value[...], kilo: kilo), burst > 0,
      let rate = Rate(previous.units, per: previous.period, burst: burst)
    else {
      throw Mistake(
        at: at, reason: "\"\(value)\" is not a burst",
        hint: "write a count of at least 1, such as burst=20; it may end in k, M or G")
    }
    set(previous.kind, rate)
  }

  private mutating func set(_ kind: LimitKind, _ rate: Rate) {
    switch kind {
    case .connections: rule.connections = rate
    case .messages: rule.messages = rate
    case .recipients: rule.recipients = rate
    case .errors: rule.errors = rate
    case .bytes: rule.bytes = rate
    }
  }

  private func zero(_ setting: String) -> Mistake {
    Mistake(
      reason: "\(setting) would reject all of these senders",
      hint: "if that is intended, write \"\(pattern) reject\" into the access table; "
        + "to lift a limit, write unlimited")
  }

  private mutating func concurrency(_ value: String, _ at: Int) throws(Mistake) {
    if value == "unlimited" || value == "off" {
      rule.concurrency = .max
      return
    }
    guard let count = RateSettings.count(value[...], kilo: 1000), count < UInt64(UInt32.max) else {
      throw Mistake(
        at: at, reason: "\"\(value)\" is not a number of sessions",
        hint: "write concurrency=20, or concurrency=unlimited")
    }
    if count == 0 { throw zero("concurrency=0") }
    rule.concurrency = UInt32(count)
  }

  private mutating func delay(_ value: String, _ at: Int) throws(Mistake) {
    let limit = RateSettings.delaySecondsMax
    if value == "0" {
      rule.delayMicroseconds = 0
      return
    }
    guard value.utf8.first.map(isDigit) == true, let microseconds = RateSettings.time(value[...])
    else {
      let hint =
        value.utf8.allSatisfy(isDigit)
        ? "write delay=\(value)s" : "write delay=4s, or another time up to \(limit)s"
      throw Mistake(at: at, reason: "\"\(value)\" is not a time for delay=", hint: hint)
    }
    if microseconds > Int64(limit) * 1_000_000 {
      throw Mistake(
        at: at,
        reason: "a delay of \(value) is above the ceiling of \(limit)s: senders leave before that",
        hint: "write delay=\(limit)s at most")
    }
    rule.delayMicroseconds = microseconds
  }

  private mutating func per(_ value: String, _ at: Int) throws(Mistake) {
    if value == "net" {
      rule.sharing = .wholeNetwork
      return
    }
    let width = isIPv4 ? 32 : 128
    if value.hasPrefix("/"), let length = RateSettings.count(value.dropFirst(), kilo: nil),
      length <= UInt64(width)
    {
      rule.sharing = .prefix(UInt8(length))
      return
    }
    throw Mistake(
      at: at,
      reason:
        "per=\(value) does not say which \(isIPv4 ? "IPv4" : "IPv6") sources share one bucket",
      hint: "write per=/0 to per=/\(width), or per=net for all of the rule's network together")
  }

  // Numbers

  /// A whole number with k, M or G behind it if `kilo` says how much k is; at most 2^48.
  private static func count(_ text: Substring, kilo: UInt64?) -> UInt64? {
    var digits = text
    var factor: UInt64 = 1
    if let kilo, let last = text.last, let power = ["k", "m", "g"].firstIndex(of: last) {
      for _ in 0...power { factor *= kilo }
      digits = text.dropLast()
    }
    guard (1...15).contains(digits.utf8.count), digits.utf8.allSatisfy(isDigit),
      let number = UInt64(digits)
    else { return nil }
    let (product, overflow) = number.multipliedReportingOverflow(by: factor)
    return overflow || product > 1 << 48 ? nil : product
  }

  /// Microseconds of `4s`, `1.5s`, `500ms`, `min`, `10min`, `2h`, `1d`; the number may be left out.
  private static func time(_ text: Substring) -> Int64? {
    let number = text.prefix { $0.isASCII && ($0.isNumber || $0 == ".") }
    let unit: Int64
    switch text.dropFirst(number.count) {
    case "ms": unit = 1_000
    case "s", "sec", "second", "seconds": unit = 1_000_000
    case "m", "min", "minute", "minutes": unit = 60_000_000
    case "h", "hour", "hours": unit = 3_600_000_000
    case "d", "day", "days": unit = 86_400_000_000
    default: return nil
    }
    if number.isEmpty { return unit }
    let parts = number.split(separator: ".", omittingEmptySubsequences: false)
    guard parts.count <= 2, parts[0].utf8.count <= 6, let whole = Int64(parts[0]) else {
      return nil
    }
    var microseconds = whole * unit
    if parts.count == 2 {
      // Three digits behind the point are whole microseconds in every unit.
      guard (1...3).contains(parts[1].utf8.count), let fraction = Int64(parts[1]) else {
        return nil
      }
      let scale: Int64 = [10, 100, 1_000][parts[1].utf8.count - 1]
      microseconds += fraction * unit / scale
    }
    return microseconds > 0 ? microseconds : nil
  }
}
