// SPDX-License-Identifier: Apache-2.0
package import Configuration
import Flow
import Glibc
package import Personas
import Structures

/// A scenario's file: who comes how often, over what network, to what mail server.
///
/// Kept: a scenario is returned exactly when no problem is an error, and every persona it names is there.
package enum ScenarioFile {
  /// - Parameter given: the name of one that ships, as `flood-10k`, or the path of a file: with a slash, or ending in
  ///   `.yaml`. A name that does not ship may be that of a file, too.
  package static func load(
    _ given: String, personas: [Persona]
  ) -> (scenario: Scenario?, problems: [Problem]) {
    let shipped = ShippedFiles.all(in: "scenarios")
    if !given.contains("/") && !given.hasSuffix(".yaml") {
      if let file = shipped.first(where: { $0.name == given }) {
        return read(file.source, personas: personas)
      }
      if access(given, F_OK) != 0 {
        let known = shipped.map(\.name)
        return (
          nil,
          [
            Problem(
              .error, kind: .missing, at: SourcePosition(file: given, line: 0, column: 0),
              reason: "there is no scenario '\(given)'",
              hint: nearest(to: given, among: known).map { "did you mean '\($0)'?" }
                ?? "those that ship are \(known.joined(separator: ", ")); or give the path of a file"
            )
          ]
        )
      }
    }
    return load(path: given, personas: personas)
  }

  private static func load(
    path: String, personas: [Persona]
  ) -> (scenario: Scenario?, problems: [Problem]) {
    var problems = ProblemList()
    var draft = ScenarioDraft()
    var sheet = Sheet(ScenarioKeys.all, "a scenario")
    if sheet.read(path: path, into: &draft, &problems) {
      finish(&draft, sheet, personas, &problems)
    }
    let found = problems.sorted
    return (found.hasErrors ? nil : draft.scenario, found)
  }

  /// The same of one text in memory.
  static func read(
    _ source: SourceText, personas: [Persona]
  ) -> (scenario: Scenario?, problems: [Problem]) {
    var problems = ProblemList()
    var draft = ScenarioDraft()
    var sheet = Sheet(ScenarioKeys.all, "a scenario")
    if sheet.read(source, into: &draft, &problems) {
      finish(&draft, sheet, personas, &problems)
    }
    let found = problems.sorted
    return (found.hasErrors ? nil : draft.scenario, found)
  }

  /// The names of those that ship, in their order.
  package static var shipped: [String] { ShippedFiles.all(in: "scenarios").map(\.name) }

  private static func finish(
    _ draft: inout ScenarioDraft, _ sheet: Sheet<ScenarioDraft>, _ personas: [Persona],
    _ problems: inout ProblemList
  ) {
    func place(_ key: String) -> SourcePosition { sheet.places[key] ?? sheet.start }
    if draft.scenario.name.isEmpty {
      problems.add(.error, at: place("name"), "a scenario without a name", "write name: mix-2010")
    }
    let groups: [(key: String, list: [ScenarioDraft.Part], kinds: [Persona.Kind])] = [
      ("bots", draft.bots, [.bot]), ("senders", draft.senders, [.sender]),
      ("clients", draft.clients, Persona.Kind.allCases),
      ("at_once", draft.atOnce, Persona.Kind.allCases),
    ]
    var isWhole = true
    for group in groups {
      for part in group.list {
        guard let persona = personas.first(where: { $0.id == part.persona }) else {
          let known = personas.map(\.id)
          problems.add(
            .error, at: part.place, "\(group.key): there is no persona '\(part.persona)'",
            nearest(to: part.persona, among: known).map { "did you mean '\($0)'?" }
              ?? "the personas are \(known.joined(separator: ", "))")
          isWhole = false
          continue
        }
        if !group.kinds.contains(persona.kind) {
          problems.add(
            .error, at: part.place,
            "\(group.key): \(persona.id) is a \(persona.kind.rawValue)",
            "write it under \(persona.kind == .bot ? "bots" : persona.kind == .sender ? "senders" : "clients")"
          )
          isWhole = false
        }
      }
    }
    if !draft.bots.isEmpty || !draft.senders.isEmpty, draft.connections <= 0 {
      problems.add(
        .error, at: place(draft.bots.isEmpty ? "senders" : "bots"),
        "shares without connections", "write connections: the number a second in all")
    }
    if draft.honest > 0 && draft.senders.isEmpty {
      problems.add(
        .error, at: place("honest"), "nobody is honest here", "write senders: and their shares")
    }
    if groups.allSatisfy({ $0.list.isEmpty }) {
      problems.add(
        .error, at: sheet.start, "nobody comes", "write bots: {value: {B1: 100%}, source: …}")
    }
    if isWhole { draft.fillEntries(personas) }
  }
}

/// A scenario as its file says it, before shares are made into rates.
struct ScenarioDraft: Sendable {
  struct Part: Sendable {
    var persona: String
    var amount: Double
    var place: SourcePosition
  }

  var scenario = Scenario(name: "")
  var about = ""
  /// Connections a second that all would open together if nobody was slowed, bursts left out.
  var connections = 0.0
  /// Which share of those are honest.
  var honest = 0.0
  /// Shares of the others, and of the honest ones; taken as parts of their sums.
  var bots: [Part] = []
  var senders: [Part] = []
  /// New clients a second, besides; and at the start.
  var clients: [Part] = []
  var atOnce: [Part] = []

  /// Makes rates of new clients out of shares of connections: a bot that comes back ten times is ten of them.
  mutating func fillEntries(_ personas: [Persona]) {
    var entries: [Scenario.Entry] = []
    func add(_ id: String, rate: Double, atOnce: Int = 0) {
      let k = entries.firstIndex { $0.persona == id } ?? entries.count
      if k == entries.count { entries.append(Scenario.Entry(persona: id, rate: 0)) }
      entries[k].rate += rate
      entries[k].atOnce += atOnce
    }
    func spread(_ parts: [Part], _ all: Double) {
      let sum = parts.reduce(0) { $0 + $1.amount }
      for part in parts where sum > 0 {
        guard let persona = personas.first(where: { $0.id == part.persona }) else { continue }
        let each = persona.connectionsEach(within: scenario.duration)
        add(part.persona, rate: all * part.amount / sum / each)
      }
    }
    spread(bots, connections * (1 - honest))
    spread(senders, connections * honest)
    for part in clients { add(part.persona, rate: part.amount) }
    for part in atOnce { add(part.persona, rate: 0, atOnce: Int(part.amount)) }
    scenario.entries = entries.filter { $0.rate > 0 || $0.atOnce > 0 }
  }
}

/// The keys of a scenario's file, in the order of the manual.
enum ScenarioKeys {
  private typealias Key = SheetKey<ScenarioDraft>

  static let all: [SheetKey<ScenarioDraft>] = [
    .text("name", \.scenario.name, "a word", isClaim: false),
    .text("about", \.about, "some words", isClaim: false),
    .time("duration", \.scenario.duration, 1...31_536_000),
    .number("connections", \.connections, 0...100_000),
    .share("honest", \.honest),
    parts("bots", \.bots, "{persona: share, …}") { (node) throws(BadNode) in try share(node) },
    parts("senders", \.senders, "{persona: share, …}") { (node) throws(BadNode) in
      try share(node)
    },
    parts("clients", \.clients, "{persona: new clients a second, …}") { (node) throws(BadNode) in
      try amount(node, 100_000)
    },
    parts("at_once", \.atOnce, "{persona: clients at the start, …}") { (node) throws(BadNode) in
      try amount(node, 10_000_000).rounded()
    },
    SheetKey("bursts", "a list of {at, lasting, times}") { (node, draft) throws(BadNode) in
      draft.scenario.bursts = try rows(node, ["at", "lasting", "times"]).map {
        Scenario.Burst(at: $0[0], lasting: $0[1], times: $0[2])
      }
    } show: { _ in
      "[]"
    },
    .varying("latency", \.scenario.latency, .time),
    .share("resets", \.scenario.resets),
    .share("slow_readers", \.scenario.slowReaders),
    .choice(
      "listed_are", \.scenario.listedAre,
      [("nothing", ""), ("suspicious", "suspicious"), ("bad", "bad"), ("reject", "reject")]),
    .varying("downstream.reply", \.scenario.downstream.reply, .time),
    .varying("downstream.dot", \.scenario.downstream.dot, .time),
    .count("downstream.connections", \.scenario.downstream.connections, 1...100_000),
    .number("downstream.capacity", \.scenario.downstream.capacity, 0...100_000),
    .share("downstream.breaks", \.scenario.downstream.breaks),
    SheetKey("downstream.outages", "a list of {at, lasting}") { (node, draft) throws(BadNode) in
      draft.scenario.downstream.outages = try rows(node, ["at", "lasting"]).map {
        (at: $0[0], lasting: $0[1])
      }
    } show: { _ in
      "[]"
    },
  ]

  private static func amount(_ node: ConfigNode, _ most: Double) throws(BadNode) -> Double {
    let value = try Measure.number.read(node)
    if value > most {
      throw BadNode(node, "\(Measure.number.write(value)) is more than \(Int(most))", "write less")
    }
    return value
  }

  private static func parts(
    _ key: String,
    _ field: any WritableKeyPath<ScenarioDraft, [ScenarioDraft.Part]> & Sendable, _ range: String,
    _ read: @escaping @Sendable (ConfigNode) throws(BadNode) -> Double
  ) -> SheetKey<ScenarioDraft> {
    SheetKey(key, range) { (node, draft) throws(BadNode) in
      guard case .map(let members) = node.content else {
        throw BadNode(node, "found \(node.kind) instead of personas", "write \(range)")
      }
      var list: [ScenarioDraft.Part] = []
      for member in members {
        list.append(
          ScenarioDraft.Part(
            persona: member.name, amount: try read(member.value), place: member.place))
      }
      draft[keyPath: field] = list
    } show: { _ in
      "{}"
    }
  }

  /// A list of maps that have exactly these keys: durations, and numbers where the name is `times`.
  private static func rows(_ node: ConfigNode, _ names: [String]) throws(BadNode) -> [[Double]] {
    let form = "write - {\(names.map { "\($0): …" }.joined(separator: ", "))}"
    guard case .list(let items) = node.content else {
      throw BadNode(node, "found \(node.kind) instead of a list", form)
    }
    var rows: [[Double]] = []
    for item in items {
      guard case .map(let members) = item.content, members.count == names.count else {
        throw BadNode(item, "it has \(names.joined(separator: ", ")) and nothing else", form)
      }
      var row: [Double] = []
      for name in names {
        guard let member = members.first(where: { $0.name == name }) else {
          throw BadNode(item, "'\(name)' is missing", form)
        }
        row.append(try (name == "times" ? Measure.number : .time).read(member.value))
      }
      rows.append(row)
    }
    return rows
  }
}
