// SPDX-License-Identifier: Apache-2.0
// Who looks at a flood while it runs: once a second, a sample for the report and a line or a table for whoever
// waits. Not a judge: what was found of each persona comes from the clients at the end.

import Foundation
import Glibc
package import Personas
import Structures

/// The attendant of `sluice flood run`.
package final class FloodWatch {
  private let daemon: ProcessSample?
  private let behind: ProcessSample?
  /// Sockets of the mail server behind that are no connections: those it had before anybody came.
  private let ownSockets: Int
  private let quiet: Bool
  private let isLive: Bool
  private let names: [String]
  private let seconds: Double
  package private(set) var samples: [Sample] = []
  private var before = (age: 0.0, connections: 0, letThrough: 0)
  private var first: ProcessSample.Look?
  private var last: ProcessSample.Look?
  /// Of the daemon, at the moment when most were there.
  private var fullest = (there: 0, memory: 0)
  /// Of ours, in bytes.
  private var bytesMost = 0
  private var drawn = 0
  /// What only the shield knows of a moment, and what it has to say in the live table: of one in this process.
  package var shield: (Sample) -> (sample: Sample, lines: [String]) = { ($0, []) }
  private var isInterrupted = false

  /// Samples beyond this are not kept: an hour has 3,600.
  private static let samplesMost = 4_000

  /// - Parameter isPlain: a line each second, on a terminal too.
  package init(
    _ settings: FloodSettings, daemon: Int32?, behind: Int32? = nil, quiet: Bool,
    isPlain: Bool = false
  ) {
    self.daemon = daemon.map { ProcessSample(process: $0) }
    self.behind = behind.map { ProcessSample(process: $0) }
    ownSockets = self.behind?.sockets ?? 0
    self.quiet = quiet
    isLive = !quiet && !isPlain && isatty(STDOUT_FILENO) == 1
    names = settings.scenario.entries.map { entry in
      let name = settings.personas.first { $0.id == entry.persona }?.name ?? ""
      return "\(entry.persona) \(name)"
    }
    seconds = settings.seconds
    first = self.daemon?.look()
    last = first
  }

  /// Takes a sample and draws, if a second has passed.
  package func look(_ client: FloodClient) {
    let age = client.age
    if age - before.age >= 1 { sample(client, age) }
  }

  /// The last look, before everybody is sent home; the table stays.
  package func end(_ client: FloodClient) {
    if samples.isEmpty || (client.age - before.age > 0.2 && !client.tally.isDone) {
      sample(client, client.age)
    }
  }

  package func interrupted() { isInterrupted = true }

  private func sample(_ client: FloodClient, _ age: Double) {
    let tally = client.tally
    let total = tally.total
    let passed = max(age - before.age, 0.001)
    var sample = Sample()
    sample.at = age
    sample.offered = Double(total.connections - before.connections) / passed
    sample.letThrough = Double(tally.letThrough - before.letThrough) / passed
    sample.held = total.there
    sample.waiting = tally.waiting
    sample.talking = total.there - tally.waiting
    before = (age, total.connections, tally.letThrough)
    bytesMost = max(bytesMost, tally.bytes)
    if let now = daemon?.look() {
      sample.memory = now.memory
      sample.cpu = now.cpu - (last?.cpu ?? now.cpu)
      last = now
      if total.there > fullest.there { fullest = (total.there, now.memory) }
    }
    if let sockets = behind?.sockets { sample.downstream = max(sockets - ownSockets, 0) }
    let more = shield(sample)
    if samples.count < Self.samplesMost { samples.append(more.sample) }
    if !quiet { draw(tally, more.sample, passed, more.lines) }
  }

  private func draw(
    _ tally: FloodTally, _ sample: Sample, _ passed: Double, _ more: [String]
  ) {
    var state =
      "\(Int(sample.at)) of \(Int(seconds)) s: \(sample.held) there, \(sample.waiting) without a banner; "
      + "\(Int(sample.offered.rounded())) connections/s, \(Int(sample.letThrough.rounded())) let through/s"
    if tally.missed > 0 { state += "; \(tally.missed) not sent (--most-connections)" }
    if daemon != nil {
      let share = Double(sample.cpu) / passed / 10_000
      state += "; server \(sample.memory >> 20) MB, \(Int(share.rounded())) % CPU"
    }
    if !isLive {
      let total = tally.total
      print(
        state + "; in all \(total.connections) came, \(total.left) left, \(total.refused) refused, "
          + "\(total.cutOff) cut off, \(total.delivered) delivered")
      for line in more { print(line) }
      fflush(nil)
      return
    }
    var lines = [
      FloodSummary.row("", ["there", "came", "left", "refused", "cut off", "mails"])
    ]
    for (name, row) in zip(names, tally.rows) {
      let figures = [row.there, row.connections, row.left, row.refused, row.cutOff, row.delivered]
      lines.append(FloodSummary.row(name, figures.map(String.init)))
    }
    lines += state.components(separatedBy: "; ") + more
    if drawn > 0 { print("\u{1B}[\(drawn)A", terminator: "") }
    // A line that wraps would be two, and the table would creep down.
    var size = winsize()
    let columns = ioctl(STDOUT_FILENO, UInt(TIOCGWINSZ), &size) == 0 ? Int(size.ws_col) : 0
    for line in lines { print("\u{1B}[2K\(line.prefix(columns > 0 ? columns : 500))") }
    // From the last line down: there may have been more to say before.
    print("\u{1B}[0J", terminator: "")
    drawn = lines.count
    fflush(nil)
  }

  /// What a reader must know of the measurement itself.
  package func remarks(_ client: FloodClient) -> [String] {
    let tally = client.tally
    var lines: [String] = []
    if isInterrupted { lines.append("interrupted: these are the results so far") }
    lines.append(
      "the flood itself: at most \(tally.thereMost) connections at once, "
        + "\(bytesMost / max(tally.thereMost, 1)) bytes of its own memory for each; "
        + "at worst \(tally.lagMost / 1_000) ms behind its schedule")
    if tally.handshakes > 0 {
      lines.append(
        "OpenSSL's memory, 30 to 35 KB for each client in TLS, is not among these bytes")
    }
    if tally.away > 0 { lines.append("\(tally.away) clients would have returned later") }
    if tally.missed > 0 {
      lines.append("\(tally.missed) connections were not sent: --most-connections was reached")
    }
    if tally.byIPv4 > 0 {
      lines.append(
        "\(tally.byIPv4) connections of IPv6 clients used IPv4, with addresses derived from theirs: "
          + "there is no IPv6 target")
    }
    if tally.fromOne > 0 {
      lines.append(
        "\(tally.fromOne) connections of IPv6 clients came from ::1, the only IPv6 address of loopback: "
          + "a single source and network for all of them")
    }
    if tally.errors > 0 { lines.append("\(tally.errors) sockets could not be opened") }
    if daemon != nil && fullest.there > 0 {
      lines.append(
        "the server's own pages: \(fullest.memory >> 20) MB with \(fullest.there) there, held and talking, "
          + "\((first?.memory ?? 0) >> 20) MB at the start; "
          + "\(Double(((last?.cpu ?? 0) - (first?.cpu ?? 0)) / 10_000) / 100) s of CPU")
    }
    return lines
  }
}

/// Rows of the live table.
package enum FloodSummary {
  package static func row(_ name: String, _ figures: [String]) -> String {
    // 79 columns in all.
    let name = String(name.prefix(24))
    let head = name + String(repeating: " ", count: 25 - name.count)
    return head
      + figures.map { String(repeating: " ", count: max(9 - $0.count, 1)) + $0 }.joined()
  }
}
