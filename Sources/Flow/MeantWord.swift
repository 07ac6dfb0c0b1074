// SPDX-License-Identifier: Apache-2.0
import Structures

/// Words that other programs have for ours, and slips of the finger: for hints that name the one word that was meant.
///
/// Not other spellings: none of them is read as the word it stands for.
enum MeantWord {
  /// What Postfix's access(5), firewalls and our own log call the actions of the access table.
  private static let actions = [
    "deny": "reject", "denied": "reject", "block": "reject", "blocked": "reject", "drop": "reject",
    "discard": "reject", "refuse": "reject", "blacklist": "reject", "blocklist": "reject",
    "defer": "suspicious", "defer_if_permit": "suspicious", "greylist": "suspicious",
    "t2": "suspicious", "slow": "suspicious", "warn": "suspicious",
    "allow": "trusted", "accept": "trusted", "pass": "trusted", "whitelist": "trusted",
    "allowlist": "trusted", "white": "trusted", "good": "trusted", "known": "trusted",
    "relay": "trusted", "t0": "trusted", "t1": "unknown", "clean": "unknown", "neutral": "unknown",
    "none": "unknown", "t3": "bad", "tarpit": "bad", "spam": "bad", "black": "bad",
  ]

  /// What they call the answers to a rate that is exceeded.
  private static let answers = [
    "reject": "refuse", "deny": "refuse", "block": "refuse", "554": "refuse", "5xx": "refuse",
    "defer": "tempfail", "421": "tempfail", "450": "tempfail", "451": "tempfail",
    "4xx": "tempfail", "greylist": "tempfail", "temporary": "tempfail",
    "close": "drop", "discard": "drop", "disconnect": "drop", "delay": "slow", "wait": "slow",
    "throttle": "slow", "limit": "slow",
  ]

  /// The action that was meant, or nil. A reply code of 5yz is what access(5) writes to reject.
  static func action(_ word: String, among known: [String]) -> String? {
    let isCode = word.utf8.count == 3 && word.utf8.allSatisfy(isDigit)
    let meant = actions[word] ?? (isCode ? (word.first == "4" ? "suspicious" : "reject") : nil)
    if let meant, known.contains(meant) { return meant }
    return nearest(to: word, among: known)
  }

  /// The answer that was meant, or nil.
  static func answer(_ word: String) -> String? {
    answers[word] ?? nearest(to: word, among: OverAction.names)
  }
}
