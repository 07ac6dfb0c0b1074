// SPDX-License-Identifier: Apache-2.0
//
// The one program: daemon, tools and things to try out, by subcommand. Each command is a file of its own;
// here is only their list.

import ArgumentParser
import CBuild
import Configuration
import Lab
import Service
import Structures

@main
struct Sluice: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "sluice",
    abstract: "An SMTP proxy that slows spambots down until they give up.",
    version: "sluice 0.1.0 (commit \(String(cString: cbuild_commit())))",
    subcommands: [
      ServeCommand.self, CheckCommand.self, ExplainCommand.self, DemoCommand.self,
      SinkCommand.self, FloodCommand.self, SimulateCommand.self,
    ])

  static func main() {
    StandardStreams.open()
    do {
      if let slip = unknownCommand(in: Array(CommandLine.arguments.dropFirst())) { throw slip }
      var command = try parseAsRoot()
      try command.run()
    } catch {
      exit(withError: error)
    }
  }

  /// What is wrong with the first words if they name no command. The parser would call such a word an unexpected
  /// argument, and `sluice help` would show the wrong page.
  static func unknownCommand(in arguments: [String]) -> ValidationError? {
    var command: any ParsableCommand.Type = Self.self
    var path = "sluice"
    for (place, word) in arguments.enumerated() {
      // A command that has others below it has no arguments and no options with values of its own.
      let known = command.configuration.subcommands
      if known.isEmpty || word.hasPrefix("-") { return nil }
      if place == 0 && word == "help" { continue }
      guard let next = known.first(where: { $0.configuration.commandName == word }) else {
        let names = known.compactMap { $0.configuration.commandName }
        let hint =
          nearest(to: word, among: names).map { "did you mean '\(path) \($0)'?" }
          ?? "the commands are \(names.joined(separator: ", "))"
        return ValidationError("there is no command '\(path) \(word)': \(hint)")
      }
      command = next
      path += " " + word
    }
    return nil
  }
}

/// Where the configuration comes from, the same for every command that reads one.
struct ConfigurationOptions: ParsableArguments {
  @Option(name: [.short, .customLong("config")], help: "The configuration file (YAML).")
  var config: String?

  @Option(
    name: .customLong("listen"),
    help: "Listen on ADDRESS:PORT instead of the configured addresses. Repeatable.")
  var listen: [String] = []

  @Option(help: "The mail server, as HOST:PORT.")
  var downstream: String?

  @Option(
    help: """
      How the mail server learns the client's address: proxy_v2, proxy_v1, xclient, xforward, received or none.
      """)
  var identity: String?

  @Option(help: "observe (log only) or enforce (delay and reject).")
  var mode: String?

  @Option(help: "The access table, instead of the configured one.")
  var access: String?

  @Option(help: "Sluice's name in the banner and the EHLO reply.")
  var hostname: String?

  /// What of it stands over the file.
  var overrides: Overrides {
    Overrides(
      listen: listen, downstream: downstream, identity: identity, mode: mode, hostname: hostname,
      access: access)
  }
}
