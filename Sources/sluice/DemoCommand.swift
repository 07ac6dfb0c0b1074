// SPDX-License-Identifier: Apache-2.0
//
// `sluice demo`: its options; what it shows is `Demo`'s, in Lab.

import ArgumentParser
import Configuration
import Glibc
import Lab
import Uring

struct DemoCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "demo",
    abstract: "Show Sluice at work on loopback, with bots and honest mail.",
    discussion: """
      The same clients connect to three servers at once: one without Sluice, one behind Sluice as shipped in \
      enforce mode, and one behind Sluice with the scenario's block lists, which do not ship.
      """)

  @Option(help: "Duration in seconds; clients arrive in the first three fifths. 5…600.")
  var seconds = 40

  @Option(help: "Multiply all arrival rates by this factor. 0.1…20.")
  var scale = 1.0

  @Option(help: "Random seed.")
  var seed: UInt64 = 1

  @Option(help: "Write the HTML report to this file. Default: a new temporary folder.")
  var html: String?

  @Flag(help: "Print a line every second instead of a live table.")
  var plain = false

  func validate() throws {
    guard (5...600).contains(seconds), (0.1...20).contains(scale) else {
      throw ValidationError("--seconds 5…600, --scale 0.1…20")
    }
  }

  func run() throws {
    let kinds = try loadPersonas(nil)
    let plan = try loadScenario("demo", kinds)
    signal(SIGPIPE, SIG_IGN)
    DescriptorLimit.raise()
    let signals = SignalQueue([SIGINT, SIGTERM])
    do {
      let demo = try Demo(
        personas: kinds, scenario: plan, seconds: seconds, scale: scale, seed: seed, html: html,
        plain: plain)
      try demo.run(isInterrupted: { signals.next(milliseconds: 50) != nil })
    } catch let failure as DemoFailure {
      StandardError.write(failure.text)
      throw ExitCode(failure.exitCode)
    }
  }
}
