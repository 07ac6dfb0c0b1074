// SPDX-License-Identifier: Apache-2.0
package import Flow
import Policy
import Shield
import Structures
import Suspicion

/// From files and the command line to a configuration that has been checked as a whole.
///
/// Not a watcher: reload is a second call. Kept: a configuration is returned exactly when no problem is an
/// error.
extension Configuration {
  /// Reads the file, the `conf.d/*.yaml` beside it in name order, the options, and the tables they name.
  ///
  /// - Parameters:
  ///   - file: nil for none: what ships, and the options over it.
  ///   - detail: what the tables keep; an `Explanation` shows their text.
  /// - Returns: the configuration, or nil if there is an error among the problems.
  package static func load(
    file: String?, overrides: Overrides = Overrides(), environment: Environment = .current,
    keeping detail: TableDetail = .text
  ) -> (configuration: Configuration?, problems: [Problem]) {
    var problems = ProblemList()
    guard let file else {
      return read([], folder: "", overrides, environment, problems, keeping: detail)
    }
    var sources: [SourceText] = []
    var marks = FileMarks()
    let folder = parent(of: file)
    let extra = (folder.isEmpty ? "" : folder + "/") + "conf.d"
    do throws(FileFailure) {
      let content = try readFile(file, bytesMax: SourceText.bytesMax)
      sources.append(SourceText(file: file, bytes: content))
      marks.note(file, content)
      for name in try names(in: extra, endingIn: "") where passesOver(name) {
        problems.add(
          .warning, at: SourcePosition(file: "\(extra)/\(name)", line: 0, column: 0),
          "this file is not read: only *.yaml is", "rename it to \(stem(of: name)).yaml")
      }
      for name in try names(in: extra, endingIn: ".yaml") {
        let path = "\(extra)/\(name)"
        let content = try readFile(path, bytesMax: SourceText.bytesMax)
        sources.append(SourceText(file: path, bytes: content))
        marks.note(path, content)
      }
    } catch {
      let place = SourcePosition(file: error.path, line: 0, column: 0)
      problems.add(error.problem(at: place, lineText: ""))
      return (nil, problems.sorted)
    }
    if sources.allSatisfy(\.isBlank) {
      problems.add(
        .error, at: SourcePosition(file: file, line: 0, column: 0),
        "there is no setting in this file",
        "check that the file is complete; write mode: observe for the defaults")
    }
    return read(sources, folder: folder, overrides, environment, problems, marks, keeping: detail)
  }

  /// Whether a file of `conf.d` was probably meant to be read. Those that an editor or a package manager leaves were not.
  private static func passesOver(_ name: String) -> Bool {
    let lower = name.lowercased()
    return !name.hasSuffix(".yaml")
      && [".yml", ".yaml", ".json", ".conf"].contains { lower.hasSuffix($0) }
  }

  private static func stem(of name: String) -> Substring {
    name.lastIndex(of: ".").map { name[..<$0] } ?? name[...]
  }

  private static func parent(of file: String) -> String {
    guard let slash = file.lastIndex(of: "/") else { return "" }
    return slash == file.startIndex ? "/." : String(file[..<slash])
  }

  /// The same from texts in memory; only tables are still read from files.
  package static func read(
    _ sources: [SourceText], folder: String, _ overrides: Overrides, _ environment: Environment,
    _ problems: ProblemList = ProblemList(), _ marks: FileMarks = FileMarks(),
    keeping detail: TableDetail = .text
  ) -> (configuration: Configuration?, problems: [Problem]) {
    var problems = problems
    let start = SourcePosition(file: sources.first?.file ?? "command line", line: 0, column: 0)
    var root = ConfigNode(content: .map([]), place: start)
    for source in sources {
      problems.know(source)
      guard let node = YAMLFile.read(source, &problems) else { continue }
      switch node.content {
      case .map, .null: root = root.merged(with: node)
      case .scalar, .list:
        problems.add(
          .error, at: node.place,
          "a configuration consists of keys and values, not of \(node.kind)",
          "write mode: observe, to begin with")
      }
    }
    root = root.merged(with: overrides.node)
    var draft = Configuration(environment: environment)
    draft.files = sources.map(\.file)
    draft.marks = marks
    var reader = ConfigurationReader(draft: draft, problems: problems)
    reader.folder = folder
    reader.tableDetail = detail
    reader.read(root)
    reader.finish(whole: start)
    let found = reader.problems.sorted
    return (found.hasErrors ? nil : reader.draft, found)
  }
}

extension ConfigurationReader {
  /// What can only be told from several keys together, then the tables.
  fileprivate mutating func finish(whole: SourcePosition) {
    draft.origins = places
    if let name = draft.hostnameAsked {
      draft.policy.hostname = name
    } else {
      checkMachineName(at: places["hostname"] ?? whole)
    }
    draft.policy.ownNames = []
    for name in [draft.policy.hostname.lowercased()] + draft.ownNamesAsked
    where !draft.policy.ownNames.contains(name) {
      draft.policy.ownNames.append(name)
    }
    for finding in SettingPairs(draft, places, whole).findings {
      problems.add(finding.severity, at: finding.place, finding.reason, finding.hint)
    }
    checkDownstream(whole)
    finishTLS(whole)
    finishLists(whole)
    readNameKey()
    let detail = tableDetail
    draft.policy.access = loadTable("tables.access", draft.tables.access) { content, file in
      AccessTable.load(content: content, file: file, keeping: detail)
    }
    draft.policy.rates = loadTable("tables.rates", draft.tables.rates) { content, file in
      RateTable.load(content: content, file: file, keeping: detail)
    }
  }

  private mutating func readNameKey() {
    guard let path = draft.nameKeyFile else { return }
    draft.files.append(path)
    let place = places["reputation.key_file"] ?? SourcePosition(file: path, line: 0, column: 0)
    let content: [UInt8]
    do {
      content = try readFile(path, bytesMax: 4_096)
    } catch {
      problems.add(error.problem(at: place, lineText: problems.line(at: place)))
      return
    }
    do {
      draft.nameKey = try NameKey(content)
    } catch {
      let file = SourcePosition(file: path, line: 1, column: 1)
      problems.add(.error, at: file, error.reason, error.hint)
    }
  }

  private mutating func checkMachineName(at place: SourcePosition) {
    do {
      draft.policy.hostname = try Form.hostname(draft.policy.hostname, isFull: true)
    } catch {
      // Others must take us for a mail server by this name; until it acts, nobody is hurt by a short one.
      if draft.policy.mode == .enforce {
        problems.add(
          .warning, at: place, "the name of this machine, \(error.reason)",
          "write hostname: with the name in your MX record")
      }
      if (try? Form.hostname(draft.policy.hostname, isFull: false)) == nil {
        draft.policy.hostname = "localhost"
      }
    }
  }

  private mutating func checkDownstream(_ whole: SourcePosition) {
    let downstream = draft.downstream
    let place = places["downstream.address"] ?? places["downstream.identity"] ?? whole
    if let address = Address(downstream.host), let reason = draft.circle(at: address) {
      problems.add(.error, at: place, reason, Configuration.circleHint)
    }
    if draft.policy.mode == .enforce && !downstream.terms.introduction.namesClient {
      problems.add(
        .warning, at: places["downstream.identity"] ?? places["mode"] ?? whole,
        "with identity \(downstream.terms.introduction.rawValue) the downstream sees only Sluice's own address; if it trusts that "
          + "address it is an open relay",
        "write identity: proxy_v2 (or proxy_v1, xclient) and configure the downstream to expect it; or make sure "
          + "that it does not trust this address (Postfix: mynetworks)")
    }
  }

  private mutating func loadTable<Table>(
    _ key: String, _ path: String?,
    _ load: ([UInt8], String) -> (table: Table, problems: [TableProblem])
  ) -> Table {
    guard let path else { return load([], "").table }
    draft.files.append(path)
    var content: [UInt8] = []
    do {
      content = try readFile(path, bytesMax: 1 << 30)
      draft.marks.note(path, content)
    } catch {
      let place = places[key] ?? SourcePosition(file: path, line: 0, column: 0)
      problems.add(error.problem(at: place, lineText: problems.line(at: place)))
    }
    let (table, found) = load(content, path)
    for problem in found { problems.add(Problem(problem)) }
    return table
  }
}
