// SPDX-License-Identifier: Apache-2.0
//
// How `sluice simulate` and `sluice flood run` come by personas and scenarios: from files, and what is wrong in
// them is printed and ends the command.

import ArgumentParser
import Daemon
import Foundation
import Personas

/// Reads the personas, or says what is wrong with them and ends.
func loadPersonas(_ directory: String?) throws -> [Persona] {
  guard let place = directory ?? PersonaFiles.defaultDirectory() else {
    throw ValidationError("no personas found: give --personas DIRECTORY")
  }
  let (personas, problems) = PersonaFiles.load(directory: place)
  for problem in problems { StandardError.write(problem.description) }
  if problems.exitCode != 0 { throw ExitCode(problems.exitCode) }
  return personas
}

/// Reads a scenario by its file or by the name of one that ships.
func loadScenario(_ name: String, _ personas: [Persona]) throws -> Scenario {
  var path = name
  if !FileManager.default.fileExists(atPath: path), let place = PersonaFiles.defaultDirectory() {
    path =
      URL(fileURLWithPath: place).deletingLastPathComponent()
      .appendingPathComponent("scenarios/\(name).yaml").path
  }
  let (scenario, problems) = ScenarioFile.load(path: path, personas: personas)
  for problem in problems { StandardError.write(problem.description) }
  guard let scenario, problems.exitCode == 0 else { throw ExitCode(max(problems.exitCode, 1)) }
  return scenario
}
