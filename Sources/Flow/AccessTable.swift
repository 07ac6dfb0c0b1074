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

  var outcome: UInt32 {
    switch self {
    case .dunno: 0
    case .reject: 1
    case .classify(let peer): 2 + UInt32(peer.rawValue)
    }
  }

  @inline(__always)
  init(outcome: UInt32) {
    switch outcome {
    case 0: self = .dunno
    case 1: self = .reject
    default:
      guard let peer = PeerClass(rawValue: UInt8(outcome - 2)) else {
        invariantFailed("\(outcome) is no access action", file: #fileID, line: #line)
      }
      self = .classify(peer)
    }
  }
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

  private init(rules: CIDRTable) { self.rules = rules }

  /// Reads a whole file, whatever is wrong in it.
  ///
  /// - Parameter detail: `explain` needs the text.
  /// - Returns: the table, and everything wrong in the order of the file. A table with an error among its
  ///   problems must not replace a working one: its bad rules answer `dunno`.
  package static func load(content: [UInt8], file: String, keeping detail: TableDetail = .text) -> (
    table: AccessTable, problems: [TableProblem]
  ) {
    // A million rules repeat a few results, which need not be read a million times.
    var known: [(result: Range<Int>, outcome: UInt32)] = []
    let rules = CIDRTable(content: content, file: file, keeping: detail) { rule, problems in
      let result = rule.resultRange
      let bytes = rule.text.bytes.span
      for before in known where isEqual(bytes, before.result, result) { return before.outcome }
      do throws(CIDRLineError) {
        let outcome = try action(bytes, result.lowerBound, result.upperBound).outcome
        if known.count < 8 { known.append((result, outcome)) }
        return outcome
      } catch {
        problems.add(
          rule.text.problem(.error, error.offset, line: rule.line, error.reason, error.hint), .error
        )
        return AccessAction.dunno.outcome
      }
    }
    return (AccessTable(rules: rules), rules.problems)
  }

  /// What the first matching rule says, or nil when none matches; and a number for `position(_:)`, which
  /// is not the rule's place in the file.
  @inline(__always)
  package func lookup(_ address: Address) -> (action: AccessAction, rule: Int)? {
    rules.find(address).map { (AccessAction(outcome: $0.outcome), Int($0.place)) }
  }

  /// Where the rule stands that `lookup` has named so, or nil when this table has none of that name.
  package func position(_ rule: Int) -> SourcePosition? {
    UInt32(exactly: rule).flatMap { rules.position(at: $0) }
  }

  /// What the first matching rule says with its position and its reply text, for people; nil when there is
  /// none or the text was not kept.
  package func explain(_ address: Address) -> (rule: Match, position: SourcePosition)? {
    guard let found = rules.find(address), let index = rules.rule(at: found.place),
      index < rules.rules.count
    else { return nil }
    let action = AccessAction(outcome: found.outcome)
    let rule = rules.rules[index]
    return (Match(action: action, reply: Self.reply(action, rule), rule: rule), rule.position)
  }

  /// The text after `reject`; nil when there is none or the rule is of another kind.
  private static func reply(_ action: AccessAction, _ rule: CIDRRule) -> String? {
    guard action == .reject else { return nil }
    let bytes = rule.text.bytes[rule.resultRange].drop { !isSpace($0) }.drop { isSpace($0) }
    return bytes.isEmpty ? nil : String(decoding: bytes, as: UTF8.self)
  }

  /// Bytes this table takes.
  package var footprint: Int { rules.footprint }

  private static func isEqual(_ bytes: Span<UInt8>, _ a: Range<Int>, _ b: Range<Int>) -> Bool {
    guard a.count == b.count else { return false }
    for i in 0..<a.count where bytes[a.lowerBound + i] != bytes[b.lowerBound + i] { return false }
    return true
  }

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
      MeantWord.action(name, among: known).map { "did you mean \(prefixed ? "class=" : "")\($0)?" }
      ?? (!prefixed && text.contains("=")
        ? "settings such as rates belong in the rate table"
        : "write one of: \(known.joined(separator: ", "))")
    throw CIDRLineError(
      offset: start,
      reason: "\(quoted(bytes, start, end)) is not \(prefixed ? "a class" : "an access action")",
      hint: hint)
  }
}
