// SPDX-License-Identifier: Apache-2.0
import Configuration
import Flow
import Personas
import Structures

/// The keys of a persona's file, in the order of the manual.
enum PersonaKeys {
  private typealias Key = SheetKey<Persona>

  static let all: [SheetKey<Persona>] = whoItIs + waiting + speaking + mail + comingBack + places

  private static let whoItIs: [Key] = [
    SheetKey("id", "a word of letters, digits and -", isClaim: false) {
      (node, persona) throws(BadNode) in
      let text = try word(node, "a word such as B1")
      let isFit = text.utf8.allSatisfy {
        (48...57).contains($0) || (65...90).contains($0) || (97...122).contains($0) || $0 == 45
      }
      if !isFit || !(1...30).contains(text.utf8.count) || text.hasPrefix("-") {
        throw BadNode(
          node, "'\(ConfigNode.cut(text))' is not an id",
          "write a word of letters, digits and - such as B1; it becomes part of a host name")
      }
      persona.id = text
    } show: {
      $0.id.isEmpty ? "none" : $0.id
    },
    .text("name", \.name, "some words", isClaim: false),
    .text("about", \.about, "some words", isClaim: false),
    .choice("kind", \.kind, Persona.Kind.allCases.map { ($0.rawValue, $0) }, isClaim: false),
    .choice("aim", \.aim, Persona.Aim.allCases.map { ($0.rawValue, $0) }),
  ]

  private static let waiting: [Key] = [
    SheetKey("patience", "\(Distribution.range(.time)); or one for each stage") {
      (node, persona) throws(BadNode) in
      try readPatience(node, &persona)
    } show: {
      $0.patienceOtherwise.written(.time)
    },
    .choice("clock", \.clock, PatienceClock.allCases.map { ($0.rawValue, $0) }),
    .time("session_most", \.sessionMost, 0.001...Measure.forever),
    SheetKey("slow_strikes", "0…100") { (node, persona) throws(BadNode) in
      try strikes.read(node, &persona)
    } show: {
      "\($0.slowStrikes)"
    },
    .time("slow_reply", \.slowReply, 0...86_400),
  ]

  private static let strikes = Key.count("slow_strikes", \.slowStrikes, 0...100)

  private static let speaking: [Key] = [
    .share("pregreet", \.pregreet),
    .share("banner_only", \.bannerOnly),
    .share("bare_helo", \.bareHelo),
    .text("helo_name", \.heloName, "a word"),
    .share("pipelines_early", \.pipelinesEarly),
    .share("pipelines", \.pipelines),
    .share("non_smtp", \.nonSMTP),
    .share("tls", \.tls),
    .share("quits", \.quits),
    .share("quits_impatient", \.quitsImpatient),
    .varying("logins", \.logins, .number),
    .varying("trickle", \.trickle, .time),
  ]

  private static let mail: [Key] = [
    .varying("messages", \.messages, .number),
    .varying("recipients", \.recipients, .number),
    .share("unknown", \.unknown),
    .varying("bytes", \.bytes, .octets),
  ]

  private static let comingBack: [Key] = [
    .varying("concurrency", \.concurrency, .number),
    .varying("again", \.again, .time),
    SheetKey("tries", "a number, a distribution, forever, or seven shares") {
      (node, persona) throws(BadNode) in
      try readTries(node, &persona)
    } show: { persona in
      persona.tries.isEmpty
        ? persona.attempts == .const(0) ? "1" : persona.attempts.written(.number)
        : "[\(persona.tries.map { Form.write(percentage: $0) }.joined(separator: ", "))]"
    },
    SheetKey("retries", "a list of durations, or {at: a list}") { (node, persona) throws(BadNode) in
      persona.retries = try readRetries(node)
    } show: {
      "[\($0.retries.map { Measure.time.write($0) }.joined(separator: ", "))]"
    },
    .time("life", \.life, 1...Measure.forever),
    .time("remembers_slow", \.remembersSlow, 0...Measure.forever),
    .toggle("rotates", \.rotates),
  ]

  private static let places: [Key] = [
    .count("addresses", \.addresses, 1...10_000_000),
    .count("per_network", \.perNetwork, 1...254),
    .number("zipf", \.zipf, 0...3),
    .share("ipv6", \.ipv6),
    .share("listed", \.listed),
  ]

  /// One distribution for all stages, or one for each with `otherwise` for the rest.
  private static func readPatience(
    _ node: ConfigNode, _ persona: inout Persona
  ) throws(BadNode) {
    if Distribution.isOne(node) {
      persona.patienceOtherwise = try Distribution.read(node, .time)
      return
    }
    guard case .map(let members) = node.content else { return }
    for member in members {
      if member.name == "otherwise" {
        persona.patienceOtherwise = try Distribution.read(member.value, .time)
      } else if let stage = Awaited.allCases.first(where: { $0.name == member.name }) {
        persona.patience[stage] = try Distribution.read(member.value, .time)
      } else {
        let stages = ["otherwise"] + Awaited.allCases.map(\.name)
        var place = node
        place.place = member.place
        throw BadNode(
          place, "unknown key '\(ConfigNode.cut(member.name))'",
          nearest(to: member.name, among: stages + ["uniform", "normal", "lognormal"])
            .map { "did you mean '\($0)'?" } ?? "the keys are \(stages.joined(separator: ", "))")
      }
    }
  }

  private static func readTries(_ node: ConfigNode, _ persona: inout Persona) throws(BadNode) {
    guard case .list(let items) = node.content else {
      persona.attempts = try Distribution.read(node, .number)
      return
    }
    guard items.count == 7 else {
      throw BadNode(
        node, "there are \(items.count) shares",
        "write seven: of those that try once, twice, 3, 4, 5 to 10, 11 to 20 and 21 times")
    }
    var shares: [Double] = []
    for item in items { shares.append(try share(item)) }
    if shares.reduce(0, +) <= 0 { throw BadNode(node, "all shares are 0%", "give one a share") }
    persona.tries = shares
  }

  /// `[5m, 10m, 67m x 3]` counts from try to try, `{at: [6m, 29m]}` from the first.
  private static func readRetries(_ node: ConfigNode) throws(BadNode) -> [Double] {
    switch node.content {
    case .scalar("none"): return []
    case .list(let items):
      var waits: [Double] = []
      for item in items {
        let text = try word(item, "a duration such as 5m")
        let parts = text.split(separator: " ").map(String.init)
        let isRow = parts.count == 3 && parts[1] == "x"
        let one = ConfigNode(content: .scalar(isRow ? parts[0] : text), place: item.place)
        let wait = try Measure.time.read(one)
        var count = 1
        if isRow {
          guard let number = Int(parts[2]), (1...10_000).contains(number) else {
            throw BadNode(
              item, "'\(ConfigNode.cut(parts[2]))' is no number of times", "write 5m x 6")
          }
          count = number
        }
        waits += [Double](repeating: wait, count: count)
      }
      if waits.count > 10_000 { throw BadNode(node, "more than 10,000 tries", "write fewer") }
      return waits
    case .map(let members):
      guard members.count == 1, members[0].name == "at" else {
        throw BadNode(
          node, "a schedule is a list, or 'at' and a list", "write {at: [6m, 29m, 57m]}")
      }
      var last = 0.0
      var waits: [Double] = []
      for time in try readRetries(members[0].value) {
        if time < last {
          throw BadNode(members[0].value, "the times do not rise", "write them in their order")
        }
        waits.append(time - last)
        last = time
      }
      return waits
    case .null, .scalar:
      throw BadNode(
        node, "found \(node.kind) instead of a schedule", "write [5m, 10m x 3], or none")
    }
  }
}
