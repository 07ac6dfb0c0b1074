// SPDX-License-Identifier: Apache-2.0

/// The colours of a page, by the names that its style uses (`var(--ink)`), for one way of looking at it.
///
/// Each is readable where it is used: a test computes the contrast of every pair in use (WCAG 2.1: 4.5 for text,
/// 3 for what is drawn).
struct Palette {
  /// Six hexadecimal digits each.
  var colors: [(name: String, hex: String)]

  subscript(name: String) -> String? { colors.first { $0.name == name }?.hex }

  var declarations: String {
    colors.map { "--\($0.name): #\($0.hex);" }.joined(separator: " ")
  }

  static let light = Palette(colors: [
    ("bg", "ffffff"), ("card", "f5f6f8"), ("ink", "1a1d21"), ("soft", "555d68"),
    ("line", "d5d9df"), ("grid", "e6e9ed"), ("grey", "6b7480"), ("good", "17723f"),
    ("bad", "b3261e"), ("bot", "b93815"), ("sender", "1f5fbf"), ("probe", "7a3fb0"),
    ("s0", "1f5fbf"), ("s1", "b93815"), ("s2", "0f766e"), ("s3", "7a3fb0"), ("s4", "8a6100"),
    ("s5", "a8336b"),
  ])

  static let dark = Palette(colors: [
    ("bg", "14171b"), ("card", "1d2127"), ("ink", "e8eaed"), ("soft", "a9b1bc"),
    ("line", "3a414b"), ("grid", "2a3038"), ("grey", "98a2ae"), ("good", "6fd39a"),
    ("bad", "ff8a80"), ("bot", "ff9068"), ("sender", "7db4ff"), ("probe", "cda2f7"),
    ("s0", "7db4ff"), ("s1", "ff9068"), ("s2", "4fd1c0"), ("s3", "cda2f7"), ("s4", "e3bc4d"),
    ("s5", "f59ac0"),
  ])

  /// The light one, on paper.
  static let print: Palette = {
    let paper = [
      "bg": "ffffff", "card": "ffffff", "ink": "000000", "soft": "444444", "line": "bbbbbb",
      "grid": "dddddd",
    ]
    return Palette(colors: light.colors.map { ($0.name, paper[$0.name] ?? $0.hex) })
  }()
}
