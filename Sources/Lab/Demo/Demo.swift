// SPDX-License-Identifier: Apache-2.0
//
// The whole arrangement in one process on loopback, for less than a minute: the bots and honest senders of a scenario
// in front of accept-and-count servers, a live table, and at the end what it all came to, as a page. Three
// arrangements stand side by side and meet the same clients: a server without Sluice, one behind Sluice as it ships,
// and one behind Sluice with the block lists that the scenario assumes and that do not ship. Nothing here is
// simulated: the sockets, the delays and the mail are real, and each figure is that of its own arrangement.

import Foundation
import Glibc
package import Personas
import Reports
import Shield
import Structures

/// Why there is no demo, or no end of it.
package struct DemoFailure: Error {
  package let text: String
  /// As sysexits has it.
  package let exitCode: Int32

  init(_ text: String, exitCode: Int32) {
    self.text = text
    self.exitCode = exitCode
  }
}

/// Three arrangements and what is printed of them.
package struct Demo {
  private let folder: String
  private let page: String
  private let seed: UInt64
  private let plain: Bool
  private let bare: DemoArrangement
  private let shipped: DemoArrangement
  private let listed: DemoArrangement

  /// Connections at a time; the shield holds as many and some more.
  private static let most = 3_000

  /// Starts the servers.
  ///
  /// - Parameters:
  ///   - seconds: how long it goes on; clients begin in the first three fifths.
  ///   - scale: what all rates are multiplied by.
  ///   - html: where the page goes; nil for a temporary folder.
  ///   - plain: a line each second instead of a live table.
  package init(
    personas: [Persona], scenario: Scenario, seconds: Int, scale: Double, seed: UInt64,
    html: String?, plain: Bool
  ) throws {
    var plan = scenario
    plan.duration = Double(seconds) * 0.6
    for entry in plan.entries.indices { plan.entries[entry].rate *= scale }
    folder = try Self.folder()
    page = html ?? "\(folder)/report.html"
    self.seed = seed
    self.plain = plain
    let lists = Population(personas: personas, scenario: plan, seed: seed, firstOctet: 127)
      .listedLines
    var settings = FloodSettings(
      targets: FloodTargets(), personas: personas, scenario: plan, seed: seed,
      recipient: "user@example.com", most: Self.most, seconds: Double(seconds), threads: 1)
    settings.scenario.listedAre = ""
    bare = try DemoArrangement(settings, lists: nil, log: folder)
    shipped = try DemoArrangement(settings, lists: "", log: "\(folder)/sluice.log")
    settings.scenario.listedAre = plan.listedAre
    listed = try DemoArrangement(settings, lists: lists, log: "\(folder)/sluice-with-lists.log")
  }

  /// Lets the clients come, and prints what becomes of them.
  ///
  /// - Parameter isInterrupted: waits for a moment, and whether the demo is to end.
  package func run(isInterrupted: () -> Bool) throws {
    let all = [bare, shipped, listed]
    // The downstream is asked what it offers before the first client comes.
    usleep(300_000)

    print(
      "Sluice as shipped, in enforce mode, listens on 127.0.0.1:\(shipped.port); its log: \(folder)/sluice.log\n"
        + "The same clients connect to a server without Sluice, and to Sluice with block lists, on "
        + "127.0.0.1:\(bare.port) and \(listed.port).\n")
    for one in all { one.begin(quiet: one !== shipped, plain: plain) }
    shipped.beside = { [bare, listed] in
      [bare.words("without Sluice"), listed.words("with lists")]
    }
    while all.contains(where: { !$0.isDone }) {
      if isInterrupted() { break }
      for one in all { one.look() }
    }
    let command = "sluice demo --seed \(seed)"
    let without = try bare.report(command)
    var reports = [try shipped.report(command), try listed.report(command)]
    for k in reports.indices { reports[k].compare(with: without) }
    summary(reports)
    for one in all { one.stop() }
    try HTMLReport.page(reports).write(toFile: page, atomically: true, encoding: .utf8)
    print("report: \(page)")
  }

  /// A folder that nobody else can have prepared.
  private static func folder() throws(DemoFailure) -> String {
    let place = FileManager.default.temporaryDirectory.path
    var path = Array("\(place)/sluice-demo.XXXXXX".utf8CString)
    guard let made = mkdtemp(&path) else {
      throw DemoFailure("no folder in \(place): \(String(cString: strerror(errno)))", exitCode: 73)
    }
    return String(cString: made)
  }

  private func summary(_ reports: [RunReport]) {
    var mail = PersonaFindings(id: "", name: "", kind: "sender")
    for found in reports[0].personas where found.kind == "sender" { mail.add(found) }
    func arrived(_ q: Double) -> String {
      let tenths = Int((mail.delay.total > 0 ? mail.delay.quantile(q) * 10 : 0).rounded())
      return "\(tenths / 10).\(tenths % 10) s"
    }
    print("")
    print("Result of the demo")
    print(TerminalReport.outcome(reports, color: isatty(STDOUT_FILENO) == 1))
    print("As shipped:")
    print(
      "  honest mail    \(mail.delay.total) of \(mail.clients) messages arrived, half within "
        + "\(arrived(0.5)), the slowest after \(arrived(1))")
    let engine = shipped.engine
    print(
      "  the shield     \(engine.tarpitted) tarpitted, \(engine.drips) bytes dripped to them, one at a time"
    )
    print("")
    print(
      "The lists are the scenario's: listed bots are `bad` in the access table. No lists ship with Sluice."
    )
    print(
      "Next: scripts/run -- --downstream HOST:PORT   (observes only, without --mode enforce)")
  }
}
