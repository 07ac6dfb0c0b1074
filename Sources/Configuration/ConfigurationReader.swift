// SPDX-License-Identifier: Apache-2.0
import Flow
import Policy
import Shield
import Structures
import Suspicion

/// Walks the merged nodes of the files along the list of settings into a draft of a configuration.
///
/// Not a reader of files or YAML. Kept: whatever is wrong is reported where it stands, and the walk goes on,
/// so that one look shows all of it; the draft is nobody's configuration until there is no error.
struct ConfigurationReader {
  var draft: Configuration
  var problems: ProblemList
  /// Where each key was set.
  private(set) var places: [String: SourcePosition] = [:]
  /// Where the `tls` of each listener stands, in the order of the draft's.
  var tlsPlaces: [SourcePosition?] = []
  /// Where each of `lists.servers` stands.
  var serverPlaces: [SourcePosition] = []

  /// The key being read: a prefix of its dotted name, for messages.
  private static let byKey = Dictionary(uniqueKeysWithValues: Setting.all.map { ($0.key, $0) })

  /// The names that may stand in each section, in the order of the manual; "" is the whole file.
  private static let sections: [String: [String]] = {
    var found: [String: [String]] = [:]
    for setting in Setting.all {
      var section = ""
      for name in setting.key.split(separator: ".").map(String.init) {
        if found[section]?.contains(name) != true { found[section, default: []].append(name) }
        section = section.isEmpty ? name : "\(section).\(name)"
      }
    }
    return found
  }()

  init(draft: Configuration, problems: ProblemList) {
    self.draft = draft
    self.problems = problems
  }

  mutating func read(_ root: ConfigNode) { readSection(root, "") }

  private mutating func readSection(_ node: ConfigNode, _ section: String) {
    let known = ConfigurationReader.sections[section] ?? []
    let title = section.isEmpty ? "the configuration" : "'\(section)'"
    switch node.content {
    case .null: return
    case .scalar, .list:
      problems.add(
        .error, at: node.place, "\(title) is a section with its own keys, not \(node.kind)",
        keyMeant(by: node, in: section)
          ?? "write its keys below it, indented: \(known.prefix(6).joined(separator: ", "))")
    case .map(let members):
      for member in members {
        let key = section.isEmpty ? member.name : "\(section).\(member.name)"
        if let setting = ConfigurationReader.byKey[key] {
          readSetting(setting, member)
        } else if ConfigurationReader.sections[key] != nil {
          readSection(member.value, key)
        } else {
          problems.add(
            .error, at: member.place, "unknown key '\(ConfigNode.cut(member.name))' in \(title)",
            hint(for: member.name, among: known))
        }
      }
    }
  }

  /// The hint for a value in place of a section: the key of that section that takes such values.
  private func keyMeant(by node: ConfigNode, in section: String) -> String? {
    guard case .scalar(let text) = node.content else { return nil }
    let name = section.split(separator: ".").last ?? ""
    func write(_ key: String, _ value: String) -> String { "write \(name): {\(key): \(value)}" }
    switch section {
    case "downstream": return write("address", Form.write(text: text))
    case "tables": return write("access", Form.write(text: text))
    case "lists": return write("sites", "[\(Form.write(text: ConfigNode.cut(text)))]")
    case "own":
      return Address(text) == nil
        ? write("names", "[\(Form.write(text: text))]")
        : write("addresses", "[\(Form.write(text: text))]")
    case "log":
      return text == "stderr" || text.hasPrefix("/")
        ? write("destination", text == "stderr" ? text : Form.write(text: text))
        : write("level", nearest(to: text, among: ConfigurationReader.levels) ?? "info")
    default: break
    }
    if section.hasPrefix("signals.") {
      if let action = nearest(to: text, among: ["ignore", "observe", "enforce"]) {
        return write("action", action)
      }
      return Double(text) == nil ? nil : write("weight", text)
    }
    // A single delay is probably meant for clean clients.
    guard section.hasPrefix("delays."), (try? Form.duration(text)) != nil else { return nil }
    return write("clean", text)
  }

  private static let levels = [
    "trace", "debug", "info", "notice", "warning", "error", "critical",
  ]

  private mutating func readSetting(_ setting: Setting, _ member: ConfigNode.Member) {
    places[setting.key] = member.value.place
    if case .null = member.value.content {
      problems.add(
        .error, at: member.place, "'\(member.name)' has no value",
        "write \(setting.range), or delete the line for the default, "
          + setting.show(Configuration(environment: Environment(machineName: "", processors: 1))))
      return
    }
    do {
      try setting.read(member.value, &self)
    } catch {
      problems.add(.error, at: member.value.place, error.reason, error.hint)
    }
  }

  /// The key that was meant: a near one here, or the same one in another section.
  func hint(for name: String, among known: [String]) -> String {
    if let near = nearest(to: name, among: known) { return "did you mean '\(near)'?" }
    let elsewhere = ConfigurationReader.sections.filter { $0.value.contains(name) }.keys.sorted()
    if let section = elsewhere.first {
      return section.isEmpty
        ? "'\(name)' belongs at the top level: do not indent it"
        : "'\(name)' belongs below '\(section)'"
    }
    return "the keys here are: \(known.joined(separator: ", "))"
  }

  // Values that are more than one word

  /// Reads a list of words; a single word stands for a list of one.
  mutating func readList<Value>(
    _ node: ConfigNode, _ what: String, _ read: (String) throws(BadValue) -> Value
  ) throws(BadValue) -> [Value] {
    let nodes: [ConfigNode]
    switch node.content {
    case .list(let list): nodes = list
    case .scalar: nodes = [node]
    case .null: nodes = []
    case .map: throw BadValue(reason: "a list of \(what) belongs here", hint: "write [one, two]")
    }
    var values: [Value] = []
    for item in nodes {
      do {
        values.append(try read(try Setting.text(item, "one of the \(what)")))
      } catch {
        problems.add(.error, at: item.place, error.reason, error.hint)
      }
    }
    return values
  }

  /// The path of a table as the process can open it: relative ones count from the folder of the file
  /// that names them; files in `conf.d` from the folder above it, which is that of the main file.
  func tablePath(_ text: String, from node: ConfigNode) throws(BadValue) -> String {
    var path = text[...]
    if let colon = text.firstIndex(of: ":"), !text[..<colon].contains("/") {
      let type = text[..<colon]
      guard type.lowercased() == "cidr" else {
        throw BadValue(
          reason: "'\(ConfigNode.cut(String(type)))' tables are not supported",
          hint:
            "write cidr:\(text[text.index(after: colon)...]); the file is read as it is, without postmap"
        )
      }
      path = text[text.index(after: colon)...]
    }
    if path.isEmpty {
      throw BadValue(reason: "the path of the table is empty", hint: "write a path, or none")
    }
    return path.hasPrefix("/") || folder.isEmpty ? String(path) : "\(folder)/\(path)"
  }

  /// Where the main file lies, without the slash at its end; empty for where the process was started.
  var folder = ""
  /// What the tables keep.
  var tableDetail = TableDetail.text
}
