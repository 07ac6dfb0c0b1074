// SPDX-License-Identifier: Apache-2.0
package import Configuration
import Flow
package import Personas
import Structures

/// The files of personas: one a file, each parameter with its source.
///
/// Not a list of who takes part in a run: that is a scenario. Kept: no two personas have the same id.
package enum PersonaFiles {
  /// Reads every `*.yaml` of a folder, in name order; without a folder those that ship.
  ///
  /// - Returns: the personas whose files are without an error, and everything that is wrong.
  package static func load(directory: String? = nil) -> (personas: [Persona], problems: [Problem]) {
    var problems = ProblemList()
    var personas: [Persona] = []
    guard let directory else {
      for file in ShippedFiles.all(in: "personas") {
        add(&personas, &problems) { $0.read(file.source, into: &$1, &$2) }
      }
      return (personas, problems.sorted)
    }
    var found: [String] = []
    do throws(FileFailure) {
      found = try names(in: directory, endingIn: ".yaml")
    } catch {
      let place = SourcePosition(file: directory, line: 0, column: 0)
      problems.add(error.problem(at: place, lineText: ""))
      return ([], problems.sorted)
    }
    if found.isEmpty {
      problems.add(
        Problem(
          .error, kind: .missing, at: SourcePosition(file: directory, line: 0, column: 0),
          reason: "there is no persona (*.yaml) in \(directory)",
          hint: "without --personas the built-in ones are used"))
    }
    for name in found {
      add(&personas, &problems) { $0.read(path: "\(directory)/\(name)", into: &$1, &$2) }
    }
    return (personas, problems.sorted)
  }

  /// Reads one more, and keeps it if nothing is wrong with it.
  private static func add(
    _ personas: inout [Persona], _ problems: inout ProblemList,
    reading read: (inout Sheet<Persona>, inout Persona, inout ProblemList) -> Bool
  ) {
    let before = problems.all.count
    var persona = Persona(id: "")
    var sheet = Sheet(PersonaKeys.all, "a persona")
    if read(&sheet, &persona, &problems) { finish(persona, sheet, among: personas, &problems) }
    if !problems.all[before...].contains(where: { $0.severity == .error }) {
      personas.append(persona)
    }
  }

  /// The same of one text in memory.
  static func read(_ source: SourceText) -> (persona: Persona, problems: [Problem]) {
    var problems = ProblemList()
    var persona = Persona(id: "")
    var sheet = Sheet(PersonaKeys.all, "a persona")
    if sheet.read(source, into: &persona, &problems) {
      finish(persona, sheet, among: [], &problems)
    }
    return (persona, problems.sorted)
  }

  private static func finish(
    _ persona: Persona, _ sheet: Sheet<Persona>, among others: [Persona],
    _ problems: inout ProblemList
  ) {
    func complain(_ key: String, _ reason: String, _ hint: String) {
      problems.add(.error, at: sheet.places[key] ?? sheet.start, reason, hint)
    }
    if sheet.places["id"] == nil {
      complain("id", "a persona without an id", "write id: B1, a word that scenarios use")
    }
    if others.contains(where: { $0.id == persona.id }) {
      complain("id", "there is a persona \(persona.id) already", "give this one an id of its own")
    }
    for key in ["kind", "patience"] where sheet.places[key] == nil {
      let what = key == "kind" ? "bot, sender or probe" : "{value: 30s, source: …}"
      complain(key, "\(key) is missing", "write \(key): \(what)")
    }
    if persona.aim == .hold && persona.trickle == .const(0) {
      complain(
        "aim", "it holds the connection and says nothing", "write trickle: the time between bytes")
    }
    if persona.aim == .auth && persona.logins == .const(0) {
      complain("aim", "it logs in never", "write logins: how often on a connection")
    }
    if !persona.tries.isEmpty && persona.kind != .bot {
      complain("tries", "only bots have tries", "write retries: from one try to the next")
    }
    if !persona.retries.isEmpty && persona.kind == .bot {
      complain("retries", "a bot has no schedule", "write tries: how often, again: after how long")
    }
  }
}
