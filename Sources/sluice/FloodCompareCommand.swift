// SPDX-License-Identifier: Apache-2.0
//
// `sluice flood compare`: the report of a real flood beside the simulator's forecast of it. It runs nothing; both
// have been run, and their findings are JSON files (`--json` of `sluice simulate` and `sluice flood run`).

import ArgumentParser
import Foundation
import Glibc
import Lab
import Personas
import Reports

struct FloodCompareCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "compare",
    abstract: "Compare a real flood with its forecast.",
    discussion: "scripts/flood --compare runs both and compares them.")

  @Option(help: "The output of `sluice flood run --json`.")
  var real: String

  @Argument(
    help: ArgumentHelp(
      """
      The output of `sluice simulate --json` for the same scenario: first with the same seed, then with other \
      seeds, to show how far two runs differ by chance.
      """, valueName: "forecast"))
  var forecasts: [String]

  @Option(help: "Write both reports side by side to this HTML file.")
  var html: String?

  func validate() throws {
    if !(1...100).contains(forecasts.count) {
      throw ValidationError("give 1 to 100 forecasts")
    }
  }

  /// The first report of what `--json` wrote.
  static func read(_ path: String) throws -> RunReport {
    guard let content = FileManager.default.contents(atPath: path) else {
      throw ValidationError("'\(path)' cannot be read")
    }
    let reports = try? JSONDecoder().decode([RunReport].self, from: content)
    guard let first = reports?.first else {
      throw ValidationError("'\(path)' is no report: write one with --json")
    }
    return first
  }

  func run() throws {
    let found = try Self.read(real)
    let expected = try forecasts.map(Self.read)
    let agreement = Agreement(
      forecast: expected[0], real: found, others: Array(expected.dropFirst()))
    let color = isatty(STDOUT_FILENO) == 1
    print(TerminalReport.text(expected[0], color: color))
    print(TerminalReport.text(found, color: color))
    print(agreement.text(color: color), terminator: "")
    if let html {
      let page = HTMLReport.page([expected[0], found], agreement: agreement)
      try page.write(toFile: html, atomically: true, encoding: .utf8)
    }
  }
}
