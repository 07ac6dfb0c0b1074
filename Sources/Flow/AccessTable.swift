// SPDX-License-Identifier: Apache-2.0
package import Structures

/// What we think of a peer before it has said anything.
package enum PeerClass: UInt8, Sendable, BitwiseCopyable, CaseIterable {
  case unknown, trusted, suspicious, bad

  /// Reads a class by its name in any letter case.
  init?(named bytes: some Sequence<UInt8>) {
    switch String(decoding: bytes.map { $0 | 0x20 }, as: UTF8.self) {
    case "unknown": self = .unknown
    case "trusted": self = .trusted
    case "suspicious": self = .suspicious
    case "bad": self = .bad
    default: return nil
    }
  }

  static let names = ["trusted", "unknown", "suspicious", "bad"]
}

/// What the access table says about a peer.
package enum AccessAction: Hashable, Sendable, BitwiseCopyable {
  /// No opinion: look further. The same as no rule, but it ends the search in this table.
  case dunno
  /// Refuse at once.
  case reject
  /// Take the peer for one of this class; `permit` and `OK` are `trusted`.
  case classify(PeerClass)
}

/// Who may come in and as what: a `cidr_table(5)` file whose results are access actions.
///
/// Not a rate table: it decides once, when a peer connects. Kept: one action per rule of the file, so
/// that the answer for an address is always that of the first rule matching it.
package final class AccessTable: Sendable {
  /// A rule as `explain` shows it.
  package struct Match: Sendable {
    package let action: AccessAction
    /// The text after `reject`, or nil when there is none.
    package let reply: String?
    package let rule: CIDRRule
  }

  package let rules: CIDRTable
  private let actions: [AccessAction]

  private init(rules: CIDRTable, actions: [AccessAction]) {
    self.rules = rules
    self.actions = actions
  }

  /// Reads a whole file, whatever is wrong in it.
  ///
  /// - Returns: the table, and everything wrong in the order of the file. A table with an error among its
  ///   problems must not replace a working one: its bad rules answer `dunno`.
  package static func load(content: [UInt8], file: String) -> (
    table: AccessTable, problems: [TableProblem]
  ) {
    let rules = CIDRTable(content: content, file: file)
    let text = rules.text
    var problems = rules.found
    var actions: [AccessAction] = []
    actions.reserveCapacity(rules.records.count)
    for record in rules.records {
      let start = Int(record.result)
      let result = text.bytes.span
      do throws(CIDRLineError) {
        actions.append(try action(result, start, start + Int(record.resultCount)))
      } catch {
        actions.append(.dunno)
        problems.add(
          text.problem(.error, error.offset, line: Int(record.line), error.reason, error.hint),
          .error)
      }
    }
    return (AccessTable(rules: rules, actions: actions), problems.sorted(file: file))
  }

  /// What the first matching rule says, or nil when none matches.
  package func lookup(_ address: Address) -> AccessAction? {
    rules.lookup(address).map { actions[$0] }
  }

  /// The same with the rule, its position and its reply text, for people.
  package func explain(_ address: Address) -> (rule: Match, position: SourcePosition)? {
    guard let index = rules.lookup(address) else { return nil }
    let rule = rules.rules[index]
    let match = Match(action: actions[index], reply: reply(ofRule: index), rule: rule)
    return (match, rule.position)
  }

  /// The text after `reject` of a rule; nil when it has none or is of another kind.
  package func reply(ofRule index: Int) -> String? {
    guard actions[index] == .reject else { return nil }
    let range = rules.rules[index].resultRange
    let bytes = rules.text.bytes[range].drop { !isSpace($0) }.drop { isSpace($0) }
    return bytes.isEmpty ? nil : String(decoding: bytes, as: UTF8.self)
  }

  /// Bytes this table takes.
  package var footprint: Int { rules.footprint + actions.count * MemoryLayout<AccessAction>.stride }

  private static let words = [
    "permit", "ok", "reject", "dunno", "trusted", "unknown", "suspicious", "bad",
  ]

  private static func action(
    _ bytes: Span<UInt8>, _ start: Int, _ end: Int
  ) throws(CIDRLineError) -> AccessAction {
    var cursor = start
    while cursor < end && !isSpace(bytes[cursor]) { cursor += 1 }
    let action = try word(bytes, start, cursor)
    let rest = CIDRLine.skipSpace(bytes, cursor, end)
    if action != .reject && rest < end {
      throw CIDRLineError(
        offset: rest,
        reason: "\(quoted(bytes, rest, end)) has no meaning after \(quoted(bytes, start, cursor))",
        hint: "start a comment with \" # \"; a rule starts in the first column of its own line, "
          + "because an indented line continues the one above it")
    }
    return action
  }

  private static func word(
    _ bytes: Span<UInt8>, _ start: Int, _ end: Int
  ) throws(CIDRLineError) -> AccessAction {
    var letters: [UInt8] = []
    // Longer than any word we know, prefix and all.
    for i in start..<min(end, start + 40) { letters.append(bytes[i]) }
    let text = String(decoding: letters, as: UTF8.self).lowercased()
    switch text {
    case "permit", "ok": return .classify(.trusted)
    case "reject": return .reject
    case "dunno": return .dunno
    default: break
    }
    let prefixed = text.hasPrefix("class=")
    let name = prefixed ? String(text.dropFirst(6)) : text
    if let peer = PeerClass(named: name.utf8) { return .classify(peer) }
    let known = prefixed ? PeerClass.names : words
    let hint =
      nearest(to: name, among: known).map { "did you mean \(prefixed ? "class=" : "")\($0)?" }
      ?? (!prefixed && text.contains("=")
        ? "settings such as rates belong into the rate table"
        : "write one of: \(known.joined(separator: ", "))")
    throw CIDRLineError(
      offset: start,
      reason: "\(quoted(bytes, start, end)) is not \(prefixed ? "a class" : "an access action")",
      hint: hint)
  }
}
