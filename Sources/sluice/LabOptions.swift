// SPDX-License-Identifier: Apache-2.0
//
// What the commands of the laboratory have in common: where reports go, and how personas and scenarios are read.

import ArgumentParser
import Configuration
import Foundation
import Lab
import Personas

extension ListsChoice: ExpressibleByArgument {}

/// Where a report goes besides the terminal, the same for a simulated run and a real one.
struct ReportFiles: ParsableArguments {
  @Option(help: "Write the HTML report to this file.")
  var html: String?

  @Option(help: "Write the results to this file as JSON.")
  var json: String?

  func write(_ reports: [RunReport], page: @autoclosure () -> String) throws {
    if let html { try page().write(toFile: html, atomically: true, encoding: .utf8) }
    if let json {
      let encoder = JSONEncoder()
      encoder.outputFormatting = [.sortedKeys]
      try encoder.encode(reports).write(to: URL(fileURLWithPath: json))
    }
  }
}

/// Reads the personas, or says what is wrong with them and ends.
///
/// - Parameter directory: nil for those that ship.
func loadPersonas(_ directory: String?) throws -> [Persona] {
  let (personas, problems) = PersonaFiles.load(directory: directory)
  for problem in problems { StandardError.write(problem.description) }
  if problems.exitCode != 0 { throw ExitCode(problems.exitCode) }
  return personas
}

/// Reads a scenario by its file or by the name of one that ships.
func loadScenario(_ name: String, _ personas: [Persona]) throws -> Scenario {
  let (scenario, problems) = ScenarioFile.load(name, personas: personas)
  for problem in problems { StandardError.write(problem.description) }
  guard let scenario, problems.exitCode == 0 else { throw ExitCode(max(problems.exitCode, 1)) }
  return scenario
}
