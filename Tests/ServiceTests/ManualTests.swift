// SPDX-License-Identifier: Apache-2.0
import ConfigurationFixtures
import Foundation
import Personas
import Policy
import Shield
import Structures
import Suspicion
import Testing

@testable import Configuration
@testable import Driver
@testable import Service

/// The manual and the profiles say what the code does.
struct ManualTests {
  private static let shipped = Configuration(environment: machine)
  private static let values = Dictionary(
    uniqueKeysWithValues: shipped.values.map { ($0.key, $0.value) })

  /// The cells of the row that begins with a key, without their backquotes.
  private static func row(_ key: String, in page: String) -> [String]? {
    page.split(separator: "\n").first { $0.hasPrefix("| `\(key)` |") }?
      .split(separator: "|").map {
        $0.replacing("`", with: "").trimmingCharacters(in: .whitespaces)
      }
  }

  @Test("the manual has every key with its range, default and reason")
  func manual() throws {
    let page = try contents("docs/configuration.md")
    for setting in Setting.all {
      let parts = setting.key.split(separator: ".").map(String.init)
      if parts[0] == "signals" || parts[0] == "delays" && parts[1] != "sum" { continue }
      let row = try #require(Self.row(setting.key, in: page), "no row for \(setting.key)")
      #expect(row.count == 4)
      #expect(row[1] == setting.range, "\(setting.key)")
      #expect(row[2] == setting.show(Self.shipped), "\(setting.key)")
      #expect(row[3].count > 15, "\(setting.key) needs a reason")
    }
  }

  @Test("the manual has every signal as it ships", arguments: Signal.allCases)
  func signals(signal: Signal) throws {
    let key = "signals.\(signal.name)"
    let row = try #require(Self.row(key, in: try contents("docs/configuration.md")))
    #expect(Array(row[1...3]) == ["weight", "action", "proof"].map { Self.values["\(key).\($0)"] })
    #expect(row[4] == (signal.mayProve ? "yes" : "never"))
    #expect(row[5].count > 15)
  }

  @Test("the manual has every delay as it ships, with its ceilings", arguments: Stage.allCases)
  func delays(stage: Stage) throws {
    let key = "delays.\(stage.name)"
    let row = try #require(Self.row(key, in: try contents("docs/configuration.md")))
    let delays = Delays()[stage]
    let all = [delays.clean, delays.suspicious, delays.ceiling, delays.bad, delays.badCeiling]
    #expect(Array(row[1...5]) == all.map { Form.write(duration: $0) })
    #expect(row[6].count > 15)
  }

  @Test(
    "a profile loads without a problem, and its page has each setting with value, reason and undo",
    arguments: [("small", 1), ("mid", 4), ("million", 4)])
  func profiles(name: String, processors: Int) throws {
    let (configuration, problems) = read(
      try contents("tuning/profiles/\(name).yaml"),
      environment: Environment(machineName: "mx.example.org", processors: processors))
    #expect(problems == [])
    let loaded = try #require(configuration)
    let page = try contents("tuning/README.md")
    let section = try #require(page.split(separator: "\n## ").first { $0.hasPrefix("`\(name)") })
    #expect(!loaded.origins.isEmpty)
    for key in loaded.origins.keys.sorted() {
      let row = try #require(Self.row(key, in: String(section)), "no row for \(key)")
      let setting = try #require(Setting.all.first { $0.key == key })
      #expect(row[1] == setting.show(loaded), "\(key)")
      #expect(row[2] == setting.show(Self.shipped), "\(key): what undoing it gives")
      #expect(row[3].count > 15)
    }
    let most =
      MemoryStatement(loaded, units: .init(.measured)).description.split(separator: "\n").last ?? ""
    #expect(section.contains(most), "\(most)")
  }

  @Test("the page on the log explains every counter, every verdict and every event")
  func counters() throws {
    let page = try contents("docs/logs.md")
    let rows = page.split(separator: "\n").filter { $0.hasPrefix("| `") }
    /// The names in the first cell, each in backquotes.
    let explained = Set(
      rows.flatMap { row in
        row.split(separator: "|")[0].matches(of: /`([^`]+)`/).map { String($0.output.1) }
      })
    var snapshot = Snapshot()
    snapshot.tlsCertificateDays = 1
    for figure in Statistics.engine(snapshot) + Statistics.ring(snapshot) {
      #expect(explained.contains(figure.name), "\(figure.name)")
    }
    for verdict in Verdict.allCases { #expect(explained.contains(verdict.word), "\(verdict)") }
    for event in Event.allCases where event != .wouldDelay {
      #expect(explained.contains(event.word), "\(event)")
    }
  }

  @Test("the manual cites only sections of RFC 5321 that were looked up")
  func sections() throws {
    // The sections cited anywhere in the manual and the shipped file.
    let known: Set = [
      "2.3.5", "4.5.3.1.4", "4.5.3.1.8", "4.5.3.2", "4.5.3.2.1", "4.5.3.2.4", "4.5.3.2.5",
      "4.5.3.2.6", "4.5.3.2.7",
    ]
    for file in ["docs/configuration.md", "docs/sluice.yaml"] {
      for match in try contents(file).matches(of: /RFC 5321 \(([0-9.]+)\)/) {
        #expect(known.contains(String(match.output.1)), "\(file): \(match.output.1)")
      }
    }
  }
}
