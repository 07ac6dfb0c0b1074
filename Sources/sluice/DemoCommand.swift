// SPDX-License-Identifier: Apache-2.0
import ArgumentParser

struct DemoCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "demo", abstract: "Show the shield at work on loopback: bots in front, mail through it.")

  func run() throws {}
}
