// SPDX-License-Identifier: Apache-2.0
package import Personas

extension RunReport {
  /// What a flood has shown. Ends the client.
  ///
  /// - Parameters:
  ///   - configuration: what the server is called in the report.
  ///   - lists: what those that the scenario lists are listed as; empty without lists.
  ///   - command: the one that does the same again.
  package init(
    of client: FloodClient, _ watch: FloodWatch, _ settings: FloodSettings, configuration: String,
    lists: String, command: String
  ) {
    let took = client.age
    watch.end(client)
    let (findings, checks) = client.stop()
    self.init(kind: "real", scenario: settings.scenario.name, configuration: configuration)
    self.lists = lists
    seed = settings.seed
    duration = min(settings.scenario.duration, took)
    after = max(took - duration, 0)
    self.took = took
    events = client.tally.events
    personas = findings
    samples = watch.samples
    self.checks = checks.all
    self.command = command
  }
}
