// SPDX-License-Identifier: Apache-2.0
//
// The one program: daemon, tools and things to try out, by subcommand. Each command is a file of its own;
// here is only their list.

import ArgumentParser
import Daemon

@main
struct Sluice: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "sluice",
    abstract: "A tarpitting and flow-control shield for SMTP.",
    version: "0.1.0",
    subcommands: [
      ServeCommand.self, CheckCommand.self, ExplainCommand.self, DemoCommand.self,
      SinkCommand.self, FloodCommand.self, SimulateCommand.self,
    ])
}

/// Where the configuration comes from, the same for every command that reads one.
struct ConfigurationOptions: ParsableArguments {
  @Option(name: [.short, .customLong("config")], help: "The configuration file (YAML).")
  var config: String?

  @Option(
    name: .customLong("listen"),
    help: "Listen here instead, as ADDRESS:PORT; may be given several times.")
  var listen: [String] = []

  @Option(help: "The mail server behind, as HOST:PORT.")
  var downstream: String?

  @Option(
    help: """
      How that server learns who the client is: proxy_v2, proxy_v1, xclient, xforward, received or none.
      """)
  var identity: String?

  @Option(help: "observe or enforce.")
  var mode: String?

  @Option(help: "The access table, instead of the configured one.")
  var access: String?

  @Option(help: "Our name in banner and EHLO reply.")
  var hostname: String?

  /// What of it stands over the file.
  var overrides: Overrides {
    Overrides(
      listen: listen, downstream: downstream, identity: identity, mode: mode, hostname: hostname,
      access: access)
  }
}
