// SPDX-License-Identifier: Apache-2.0
//
// What a reload would take away without a word for it: files that were cut off while they were written, or that a
// script filled with nothing, are good YAML and good tables. Not for a start: that takes what there is. Keeps: whatever
// is refused here is said with the way to mean it.

import Flow
import Policy

/// What of a configuration's files speaks for a loss that nobody meant.
package struct FileMarks: Sendable {
  /// Files whose last line has no end.
  private(set) var unfinished: Set<String> = []
  /// Tables that say that they may lose rules.
  private(set) var shrinking: Set<String> = []

  package init() {}

  /// The line by which a table says so.
  static let word = "# sluice: may lose rules"

  mutating func note(_ file: String, _ content: [UInt8]) {
    if let last = content.last, last != 10 { unfinished.insert(file) }
    let word = FileMarks.word.utf8
    // Near the front: a table has a million lines, and this is for people.
    let front = content.prefix(4_096)
    if front.split(separator: 10).contains(where: { $0.elementsEqual(word) }) {
      shrinking.insert(file)
    }
  }
}

extension Configuration {
  /// A table with at least this many rules is expected to keep a tenth of them.
  private static let rulesThatCount = 20
  /// If at least this many settings are lost, half of those that were written are expected to stay.
  private static let settingsThatCount = 4

  /// What is in force and would be gone, and why that may not be meant.
  package func losses(of old: Configuration) -> [Problem] {
    var found: [Problem] = []
    let whole = SourcePosition(file: files.first ?? "command line", line: 0, column: 0)
    func refuse(_ key: String, _ reason: String, _ hint: String) {
      found.append(Problem(.error, at: origins[key] ?? whole, reason: reason, hint: hint))
    }
    if old.policy.mode == .enforce && policy.mode == .observe && origins["mode"] == nil {
      refuse(
        "mode", "'mode: enforce' is in force, and mode is no longer set",
        "write mode: observe if this is intended")
    }
    for (key, path, before, after) in [
      ("tables.access", tables.access, old.policy.access.rules.count, policy.access.rules.count),
      ("tables.rates", tables.rates, old.policy.rates.rules.count, policy.rates.rules.count),
    ] {
      let isLoss =
        after == 0 ? before > 0 : before >= Configuration.rulesThatCount && after < before / 10
      if !isLoss || path.map(marks.shrinking.contains) == true { continue }
      refuse(
        key,
        path.map { "\($0) has \(after) rules, and \(before) are in force" }
          ?? "\(key) is no longer set, and \(before) rules are in force",
        path == nil
          ? "restart if this is intended"
          : "if this is intended, write this line at its top: \(FileMarks.word)")
    }
    if !old.tls.certificates.isEmpty && tls.certificates.isEmpty
      && origins["tls.certificates"] == nil
    {
      refuse(
        "tls.certificates",
        "certificates are in force, and tls.certificates is no longer set",
        "write certificates: [] under tls: if this is intended")
    }
    let lost = old.origins.keys.filter { origins[$0] == nil }
    if lost.count >= Configuration.settingsThatCount && lost.count * 2 > old.origins.count {
      refuse(
        "",
        "\(lost.count) of \(old.origins.count) settings that are in force are no longer set",
        "check that the file is complete; restart if this is intended")
    }
    for file in files where marks.unfinished.contains(file) {
      if old.files.contains(file) && !old.marks.unfinished.contains(file) {
        found.append(
          Problem(
            .error, at: SourcePosition(file: file, line: 0, column: 0),
            reason: "the last line has lost its line break: the file may be truncated",
            hint: "end it with a line break"))
      }
    }
    return found
  }
}
