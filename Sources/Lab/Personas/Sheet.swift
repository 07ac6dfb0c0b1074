// SPDX-License-Identifier: Apache-2.0
import Configuration
import Flow
import Structures

/// A value that is wrong, and where it stands.
struct BadNode: Error {
  var place: SourcePosition
  var reason: String
  var hint: String

  init(_ node: ConfigNode, _ reason: String, _ hint: String) {
    place = node.place
    self.reason = reason
    self.hint = hint
  }

  init(_ node: ConfigNode, _ bad: BadValue) { self.init(node, bad.reason, bad.hint) }
}

/// One key of a persona's or a scenario's file.
///
/// Kept: what `show` gives for a value, `read` takes and sets to the same; the manual's tables are made of
/// `range` and of what `show` gives for a target that nobody has changed.
struct SheetKey<Target>: Sendable {
  /// As written in the file; `downstream.reply` stands in a section of its own.
  let key: String
  /// What may be written, for the manual: `0%…100%`, `a duration`.
  let range: String
  /// Whether it is a claim about the world and so has `value` and `source`; names and descriptions are not.
  let isClaim: Bool
  let read: @Sendable (ConfigNode, inout Target) throws(BadNode) -> Void
  let show: @Sendable (Target) -> String

  init(
    _ key: String, _ range: String, isClaim: Bool = true,
    read: @escaping @Sendable (ConfigNode, inout Target) throws(BadNode) -> Void,
    show: @escaping @Sendable (Target) -> String
  ) {
    self.key = key
    self.range = range
    self.isClaim = isClaim
    self.read = read
    self.show = show
  }
}

/// Reads one file of keys into a target: a persona, a scenario.
///
/// Not a check of what the keys say together. Kept: whatever is wrong is reported where it stands and the rest is
/// read on, so that one look shows all of it.
struct Sheet<Target> {
  let keys: [SheetKey<Target>]
  /// "a persona", for messages.
  let what: String
  /// Where each key was set.
  private(set) var places: [String: SourcePosition] = [:]
  private(set) var start = SourcePosition(file: "", line: 0, column: 0)

  init(_ keys: [SheetKey<Target>], _ what: String) {
    self.keys = keys
    self.what = what
  }

  /// - Returns: whether the file is there and made of keys.
  mutating func read(path: String, into target: inout Target, _ problems: inout ProblemList) -> Bool
  {
    start = SourcePosition(file: path, line: 0, column: 0)
    let bytes: [UInt8]
    do throws(FileFailure) {
      bytes = try readFile(path, bytesMax: SourceText.bytesMax)
    } catch {
      problems.add(
        Problem(
          .error, kind: error.kind, at: start, reason: error.reason,
          hint: "check the path; a relative path starts at the current folder"))
      return false
    }
    return read(SourceText(file: path, bytes: bytes), into: &target, &problems)
  }

  mutating func read(
    _ source: SourceText, into target: inout Target, _ problems: inout ProblemList
  ) -> Bool {
    problems.know(source)
    start = SourcePosition(file: source.file, line: 1, column: 1)
    guard let root = YAMLFile.read(source, &problems) else { return false }
    guard case .map(let members) = root.content else {
      problems.add(
        .error, at: root.place, "\(what) is made of keys and values, not of \(root.kind)",
        "write id: B1, to begin with")
      return false
    }
    walk(members, section: "", into: &target, &problems)
    return true
  }

  /// The names that may stand in a section; "" is the whole file.
  private func names(in section: String) -> [String] {
    var found: [String] = []
    for key in keys where section.isEmpty || key.key.hasPrefix(section + ".") {
      let rest = section.isEmpty ? key.key : String(key.key.dropFirst(section.count + 1))
      let name = String(rest.prefix { $0 != "." })
      if !found.contains(name) { found.append(name) }
    }
    return found
  }

  private mutating func walk(
    _ members: [ConfigNode.Member], section: String, into target: inout Target,
    _ problems: inout ProblemList
  ) {
    for member in members {
      let name = section.isEmpty ? member.name : "\(section).\(member.name)"
      if let key = keys.first(where: { $0.key == name }) {
        places[name] = member.place
        do throws(BadNode) {
          let value = key.isClaim ? try claim(member, &problems) : member.value
          if let value { try key.read(value, &target) }
        } catch {
          problems.add(.error, at: error.place, "\(name): \(error.reason)", error.hint)
        }
      } else if keys.contains(where: { $0.key.hasPrefix(name + ".") }) {
        guard case .map(let inner) = member.value.content else {
          problems.add(
            .error, at: member.value.place, "\(name) has keys of its own, not \(member.value.kind)",
            "write one of \(self.names(in: name).joined(separator: ", ")) below it")
          continue
        }
        walk(inner, section: name, into: &target, &problems)
      } else {
        let known = names(in: section)
        problems.add(
          .error, at: member.place,
          "unknown key '\(ConfigNode.cut(member.name))' in \(section.isEmpty ? what : section)",
          nearest(to: member.name, among: known).map { "did you mean '\($0)'?" }
            ?? "the keys are \(known.joined(separator: ", "))")
      }
    }
  }

  /// The value of `{value: …, source: …}`; nil if something was wrong and has been reported.
  private func claim(
    _ member: ConfigNode.Member, _ problems: inout ProblemList
  ) throws(BadNode) -> ConfigNode? {
    let form = "write {value: …, source: \"where it is from\"}, or source: assumption"
    guard case .map(let inner) = member.value.content else {
      throw BadNode(
        member.value, "\(member.value.kind) stands there without saying where it is from", form)
    }
    var value: ConfigNode?
    var isSourced = false
    var isFit = true
    for part in inner {
      switch part.name {
      case "value": value = part.value
      case "source":
        isSourced = true
        guard case .scalar(let text) = part.value.content, text.contains(where: \.isLetter) else {
          problems.add(
            .error, at: part.value.place,
            "\(member.name): a source is words, not \(part.value.kind)", form)
          isFit = false
          continue
        }
      default:
        problems.add(
          .error, at: part.place,
          "unknown key '\(ConfigNode.cut(part.name))' in \(member.name): it has value and source",
          nearest(to: part.name, among: ["value", "source"]).map { "did you mean '\($0)'?" }
            ?? form)
        isFit = false
      }
    }
    // A misspelt source has been told already.
    if !isSourced && isFit {
      problems.add(.error, at: member.place, "\(member.name) has no source", form)
      isFit = false
    }
    guard let value else {
      if isFit || inner.isEmpty {
        problems.add(.error, at: member.place, "\(member.name) has no value", form)
      }
      return nil
    }
    return isFit ? value : nil
  }
}
