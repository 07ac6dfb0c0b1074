// SPDX-License-Identifier: Apache-2.0
import DNSLists
package import Flow
import Yams

/// A value of a configuration file and where it stands; what YAML made of its type is not kept.
///
/// Not a schema: `Settings` knows what belongs where. Kept: a map never holds one name twice.
package struct ConfigNode: Sendable {
  package struct Member: Sendable {
    package var name: String
    package var place: SourcePosition
    package var value: ConfigNode

    package init(name: String, place: SourcePosition, value: ConfigNode) {
      self.name = name
      self.place = place
      self.value = value
    }
  }

  package indirect enum Content: Sendable {
    /// Text as written, without quotes. `10`, `yes` and `4s` are all text until a setting reads them.
    case scalar(String)
    /// Nothing behind the colon.
    case null
    case list([ConfigNode])
    case map([Member])
  }

  package var content: Content
  package var place: SourcePosition

  package init(content: Content, place: SourcePosition) {
    self.content = content
    self.place = place
  }

  /// What it is, for "… not a list".
  package var kind: String {
    switch content {
    case .scalar(let text): "'\(ConfigNode.cut(text))'"
    case .null: "nothing"
    case .list: "a list"
    case .map: "a section with its own keys"
    }
  }

  package static func cut(_ text: String) -> String {
    // A value may run over lines or be a mile long; a message needs neither.
    // Keys of DNS lists are secret. No name is longer.
    let shown = ListZone.hidingKeys(in: String(text.unicodeScalars.prefix(1_000)))
    let oneLine = String(
      shown.unicodeScalars.prefix(60).map { $0.value < 32 ? " " : Character($0) })
    return text.unicodeScalars.count > 60 ? oneLine + "..." : oneLine
  }

  /// This with everything that `later` says put over it: keys one by one, lists and values as a whole.
  package func merged(with later: ConfigNode) -> ConfigNode {
    // Nothing behind the colon of a value is a mistake, which the reader tells.
    guard case .map(var members) = content else { return later }
    switch later.content {
    // A section without keys says nothing.
    case .null: return self
    case .map(let changes):
      for change in changes {
        if let index = members.firstIndex(where: { $0.name == change.name }) {
          members[index].value = members[index].value.merged(with: change.value)
          members[index].place = change.place
        } else {
          members.append(change)
        }
      }
      return ConfigNode(content: .map(members), place: place)
    case .scalar, .list: return later
    }
  }
}

/// Reads one YAML file into nodes, all duplicate keys reported.
///
/// Yams stops at the first mapping with a key twice and tells only where the first of the two is. So the
/// first is given a name out of the private-use area, as long as it was, and the file is read again:
/// columns stay what they are, and everything else wrong in the file is found in the same run.
package struct YAMLFile {
  private let source: SourceText
  /// What the keys that were renamed are called.
  private var renamed: [String: String] = [:]
  /// Aliases may make a small file stand for a huge one; a configuration needs a few hundred values.
  private var valuesLeft = 100_000

  /// - Returns: nil when the file cannot be read as YAML; the reason is among the problems.
  package static func read(_ source: SourceText, _ problems: inout ProblemList) -> ConfigNode? {
    guard source.checkFitness(&problems) else { return nil }
    var file = YAMLFile(source: source)
    return file.read(&problems)
  }

  private init(source: SourceText) { self.source = source }

  /// Each duplicate costs a run over the file.
  private static let duplicatesMax = 200
  /// Start of the private-use area.
  private static let privateUse: UInt32 = 0xE000

  private mutating func read(_ problems: inout ProblemList) -> ConfigNode? {
    var text = source
    for attempt in 0...YAMLFile.duplicatesMax {
      do {
        guard let root = try Yams.compose(yaml: text.content, .basic, .default, .utf8) else {
          return ConfigNode(content: .null, place: position(1, 1))
        }
        return convert(root, &problems)
      } catch let error as YamlError {
        if case .duplicatedKeysInMapping(let names, let context) = error, let name = names.first,
          attempt < YAMLFile.duplicatesMax,
          let next = rename(name, context.mark, in: text, number: UInt32(attempt))
        {
          text = next
          continue
        }
        report(error, &problems)
        return nil
      } catch {
        problems.add(.error, at: position(1, 1), "this is not YAML: \(error)")
        return nil
      }
    }
    return nil
  }

  private func position(_ line: Int, _ column: Int) -> SourcePosition {
    SourcePosition(file: source.file, line: line, column: column)
  }

  private mutating func rename(
    _ name: String, _ mark: Mark, in text: SourceText, number: UInt32
  ) -> SourceText? {
    let tail = text.tail(line: mark.line, column: mark.column)
    let quoted = tail.first == "\"" || tail.first == "'" ? 1 : 0
    let written = name.unicodeScalars
    guard !written.isEmpty, tail.dropFirst(quoted).starts(with: written),
      let marker = Unicode.Scalar(YAMLFile.privateUse + number)
    else { return nil }
    let scalars = [Unicode.Scalar](repeating: marker, count: written.count)
    renamed[String(String.UnicodeScalarView(scalars))] = name
    return text.replacing(line: mark.line, column: mark.column + quoted, with: scalars)
  }

  private mutating func convert(_ node: Node, _ problems: inout ProblemList) -> ConfigNode {
    let place = node.mark.map { position($0.line, $0.column) } ?? position(1, 1)
    valuesLeft -= 1
    if valuesLeft == 0 {
      problems.add(
        .error, at: place, "with its aliases the file holds too many values", "use no aliases")
    }
    guard valuesLeft > 0 else { return ConfigNode(content: .null, place: place) }
    switch node {
    case .scalar(let scalar):
      let isNull = scalar.style == .plain && ["", "~", "null"].contains(scalar.string)
      return ConfigNode(content: isNull ? .null : .scalar(scalar.string), place: place)
    case .sequence(let sequence):
      var list: [ConfigNode] = []
      for item in sequence { list.append(convert(item, &problems)) }
      return ConfigNode(content: .list(list), place: place)
    case .mapping(let mapping):
      return ConfigNode(content: .map(members(mapping, &problems)), place: place)
    case .alias:
      return ConfigNode(content: .null, place: place)
    }
  }

  private mutating func members(_ mapping: Node.Mapping, _ problems: inout ProblemList)
    -> [ConfigNode.Member]
  {
    var found: [ConfigNode.Member] = []
    for (key, value) in mapping {
      let place = key.mark.map { position($0.line, $0.column) } ?? position(1, 1)
      guard case .scalar(let scalar) = key, !scalar.string.isEmpty else {
        problems.add(
          .error, at: place, "a key is missing before the colon, or is not a word",
          "write key: value")
        continue
      }
      let name = renamed[scalar.string] ?? scalar.string
      let member = ConfigNode.Member(name: name, place: place, value: convert(value, &problems))
      guard let index = found.firstIndex(where: { $0.name == name }) else {
        found.append(member)
        continue
      }
      problems.add(
        .error, at: place,
        "'\(ConfigNode.cut(name))' is given twice here; the first is in line \(found[index].place.line)",
        "keep one of the two")
      found[index].value = member.value
    }
    return found
  }

  private func report(_ error: YamlError, _ problems: inout ProblemList) {
    let hint = "check the indentation, colons and quotes of this line and the one above it"
    switch error {
    case .scanner(let context, let problem, let mark, _),
      .parser(let context, let problem, let mark, _):
      // The end of the file is past its last line.
      let line = min(max(mark.line, 1), max(source.lineCount, 1))
      let column =
        mark.line > source.lineCount ? source.line(line).unicodeScalars.count + 1 : mark.column
      var reason = "this is not YAML: \(problem)"
      if let context {
        reason += " (\(context.text)"
        reason += context.mark.line > 0 ? ", begun in line \(context.mark.line))" : ")"
      }
      let before = source.tail(line: line, column: 1).prefix { $0 == " " || $0 == "\t" }
      let hasFilter = source.line(line).contains(/=127\.[0-9.]*\[/)
      problems.add(
        .error, at: position(line, column), reason,
        before.contains("\t")
          ? "indent with spaces; YAML does not allow tabs there"
          : hasFilter ? "write each item with brackets in quotes" : hint)
    case .composer(_, let problem, let mark, _):
      problems.add(
        .error, at: position(mark.line, mark.column), "this YAML is not supported: \(problem)",
        problem.contains("document") ? "keep one document: delete the line '---'" : hint)
    case .duplicatedKeysInMapping(let names, let context):
      let name = names.first.map { ConfigNode.cut($0) } ?? ""
      problems.add(
        .error, at: position(max(context.mark.line, 1), max(context.mark.column, 1)),
        "'\(name)' is given twice in the same section", "keep one of the two")
    default:
      problems.add(.error, at: position(1, 1), "this is not YAML: \(error)", hint)
    }
  }
}
