// SPDX-License-Identifier: Apache-2.0
import ConfigurationFixtures
import Foundation
import Personas
import Testing

@testable import Lab

struct PersonasPageTests {
  /// The cells of the row that begins with a key, without their backquotes.
  private static func row(_ key: String, in page: String) -> [String]? {
    page.split(separator: "\n").first { $0.hasPrefix("| `\(key)` |") }?
      .split(separator: "|").map {
        $0.replacing("`", with: "").trimmingCharacters(in: .whitespaces)
      }
  }

  @Test(
    "the page on personas has every key with what may be written and what it is without being written"
  )
  func personas() throws {
    let page = try contents("docs/personas.md")
    let parts = page.split(separator: "\n## Scenarios")
    try #require(parts.count == 2)
    for key in PersonaKeys.all {
      let row = try #require(Self.row(key.key, in: String(parts[0])), "no row for \(key.key)")
      #expect(row.count == 4)
      #expect(row[1] == key.range, "\(key.key)")
      #expect(row[2] == key.show(Persona(id: "")), "\(key.key)")
      #expect(row[3].count > 10, "\(key.key) needs a sentence")
    }
    for key in ScenarioKeys.all {
      let row = try #require(Self.row(key.key, in: String(parts[1])), "no row for \(key.key)")
      #expect(row.count == 4)
      #expect(row[1] == key.range, "\(key.key)")
      #expect(row[2] == key.show(ScenarioDraft()), "\(key.key)")
      #expect(row[3].count > 10, "\(key.key) needs a sentence")
    }
    for stage in Awaited.allCases { #expect(parts[0].contains("`\(stage.name)`")) }
  }
}
