// SPDX-License-Identifier: Apache-2.0
import Flow
import Glibc
package import Personas
import Structures

/// The files of personas: one a file, each parameter with its source.
///
/// Not a list of who takes part in a run: that is a scenario. Kept: no two personas have the same id.
package enum PersonaFiles {
  /// Reads every `*.yaml` of a folder, in name order.
  ///
  /// - Returns: the personas whose files are without an error, and everything that is wrong.
  package static func load(directory: String) -> (personas: [Persona], problems: [Problem]) {
    var problems = ProblemList()
    var personas: [Persona] = []
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
          hint: "the ones that ship are in tuning/personas"))
    }
    for name in found {
      let before = problems.all.count
      var persona = Persona(id: "")
      var sheet = Sheet(PersonaKeys.all, "a persona")
      if sheet.read(path: "\(directory)/\(name)", into: &persona, &problems) {
        finish(persona, sheet, among: personas, &problems)
      }
      if !problems.all[before...].contains(where: { $0.severity == .error }) {
        personas.append(persona)
      }
    }
    return (personas, problems.sorted)
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

  /// Where personas are looked for: `tuning/personas` below the folder we are in, then beside or above the binary
  /// (the repository it was built in), then `/usr/share/sluice/personas`.
  package static func defaultDirectory() -> String? { shippedFolder("personas") }

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

/// The folder `tuning/KIND` that ships, where it is to be found.
func shippedFolder(_ kind: String) -> String? {
  func isFolder(_ path: String) -> Bool {
    var status = stat()
    return stat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR
  }
  let here = "tuning/\(kind)"
  if isFolder(here) { return here }
  var path = [CChar](repeating: 0, count: Int(PATH_MAX))
  let length = readlink("/proc/self/exe", &path, path.count)
  if length > 0 {
    var folder = String(decoding: path[..<length].map { UInt8(bitPattern: $0) }, as: UTF8.self)
    while let slash = folder.lastIndex(of: "/") {
      folder = String(folder[..<slash])
      if isFolder("\(folder)/\(here)") { return "\(folder)/\(here)" }
    }
  }
  let installed = "/usr/share/sluice/\(kind)"
  return isFolder(installed) ? installed : nil
}
