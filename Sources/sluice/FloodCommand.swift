// SPDX-License-Identifier: Apache-2.0
//
// `sluice flood`: load for a shield on this machine, to find out what holding costs (`hold`) and what becomes
// of kinds of clients (`run`, FloodRunCommand.swift). It is a measuring tool and no weapon: it goes to loopback.
// Here are the options of `hold` and its attendant, who prints what the client threads count; the clients are
// Lab/Flood/HoldClient.swift.

import ArgumentParser
import Configuration
import Foundation
import Glibc
import Lab
import Structures
import Uring

struct FloodCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "flood",
    abstract: "Load a server on loopback, to measure it.",
    subcommands: [FloodHoldCommand.self, FloodRunCommand.self, FloodCompareCommand.self])
}

struct FloodHoldCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "hold",
    abstract: "Open many connections, hold them, read from them, and count.",
    discussion: """
      Connections are in the tables of rings, so a million of them work with any limit on open files. Prints \
      READY when all are open, STAT on SIGUSR1, LATENESS if requested, and DONE at the end, each with \
      key=value. Resets all connections after --seconds, on SIGTERM or SIGINT. Memory: about 2 bytes for each \
      connection in this process, some 40 more with --say, 4 KB in the kernel.
      """)

  @Argument(help: "127.x.y.z:PORT or [::1]:PORT; nothing else.")
  var target: String

  @Option(help: "Connections to open. 1…2000000.")
  var connections = 1_000

  @Option(help: "Seconds to hold them after all are open. 0…86400.")
  var seconds = 30.0

  @Option(help: "Time limit for opening them, in seconds. 1…3600.")
  var rampSeconds = 300.0

  @Option(help: "Connects a second at most. 1…1000000; 0: as fast as the server accepts.")
  var rate = 0

  @Option(help: "Connections at most that the server has not accepted yet. 1…4096.")
  var burst = 256

  @Option(help: "Connections from each source address. 1…10000.")
  var connectionsPerSource = 100

  @Option(help: "The network of the source addresses, within 127.0.0.0/8, /8…/24.")
  var sources = "127.64.0.0/10"

  @Option(
    help: """
      Choose the sources so that each of this many Sluice workers gets the same number. 1…1024. \
      (Sluice assigns sources by a hash of the network, which alone is uneven by a few percent.)
      """)
  var spreadOver = 1

  @Option(help: "Send this line after each complete reply. Repeatable, at most 16.")
  var say: [String] = []

  @Flag(help: "Send the first line immediately, before the banner.")
  var early = false

  @Flag(help: "Read every byte as it arrives. The default with --say.")
  var watch = false

  @Option(
    help: """
      Read from all connections at this interval in seconds, so that waking this process costs the server nothing. \
      0.05…600. The default, with 5, unless --say is given.
      """)
  var sweep: Double?

  @Option(help: "Threads, each with an equal part of the connections. 1…4.")
  var threads = 1

  @Option(
    help: """
      The server's intended interval between two bytes, in seconds, 0.01…600. For a sample of the \
      connections, print how late bytes were, from the kernel's receive timestamps.
      """)
  var lateness: Double?

  @Option(help: "Connections in that sample. 1…5000.")
  var sample = 500

  func validate() throws {
    func need(_ holds: Bool, _ sentence: String) throws {
      if !holds { throw ValidationError(sentence) }
    }
    try need(
      endpoint != nil,
      "flood goes to loopback only, and '\(target)' is not: write 127.0.0.1:PORT or [::1]:PORT")
    try need((endpoint?.port ?? 0) > 0, "'\(target)': the port must be 1…65535")
    try need((1...2_000_000).contains(connections), "--connections takes 1…2000000")
    try need((0...86_400).contains(seconds), "--seconds takes 0…86400")
    try need((1...3_600).contains(rampSeconds), "--ramp-seconds takes 1…3600")
    try need((0...1_000_000).contains(rate), "--rate takes 0…1000000")
    try need((1...4_096).contains(burst), "--burst takes 1…4096")
    try need((1...10_000).contains(connectionsPerSource), "--connections-per-source takes 1…10000")
    try need((1...1_024).contains(spreadOver), "--spread-over takes 1…1024")
    try need(say.count <= 16, "--say can be given 16 times")
    try need(say.allSatisfy { $0.utf8.count <= 500 }, "--say takes up to 500 octets")
    try need(!early || !say.isEmpty, "--early needs a --say: the line that is said early")
    try need(!watch || sweep == nil, "--watch and --sweep exclude each other")
    try need((0.05...600).contains(sweep ?? 5), "--sweep takes 0.05…600")
    try need((1...4).contains(threads), "--threads takes 1…4")
    try need((0.01...600).contains(lateness ?? 1), "--lateness takes 0.01…600")
    try need((1...5_000).contains(sample), "--sample takes 1…5000")
    if endpoint?.isIPv6 == true {
      // ::1 is the only IPv6 loopback, so there is one source and its ports.
      try need(connections <= 20_000, "[::1] has one source address: --connections takes 1…20000")
    } else {
      try need(sourceRange != nil, "--sources takes a network in 127.0.0.0/8, as 127.64.0.0/10")
      try need(
        sourceAddresses != nil,
        "--sources \(sources) is too small for \(connections) connections, "
          + "\(connectionsPerSource) from each address, spread over \(spreadOver)")
    }
  }

  private var endpoint: LoopbackEndpoint? { LoopbackEndpoint(argument: target) }

  private var sourceRange: SourceRange? { SourceRange(sources) }

  private var sourceAddresses: [Address]? {
    let count = (connections + connectionsPerSource - 1) / connectionsPerSource
    return sourceRange?.addresses(count, spreadOver: UInt32(spreadOver))
  }

  func run() throws {
    guard let endpoint else { throw ExitCode(64) }
    let signals = SignalQueue([SIGUSR1, SIGTERM, SIGINT])
    signal(SIGPIPE, SIG_IGN)
    DescriptorLimit.raise()
    let loopback6 = Address(high: 0, low: 1)
    let isIPv6 = endpoint.isIPv6
    let four = endpoint.octets.reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
    let settings = HoldSettings(
      target: SocketAddress(isIPv6 ? loopback6 : Address(v4: four), port: endpoint.port),
      sources: isIPv6 ? [loopback6] : sourceAddresses ?? [],
      connections: connections, rampSeconds: rampSeconds, rate: rate,
      burst: min(burst, HoldSettings.burstMax), lines: say.map { Array(($0 + "\r\n").utf8) },
      early: early, sweepSeconds: sweep ?? (watch || !say.isEmpty ? nil : 5), threads: threads,
      interval: lateness, sample: min(sample, connections))
    let client = HoldClient(settings)

    var readyAt: Double?
    var last = SIGALRM
    while true {
      if let number = signals.next(milliseconds: 20) {
        if number != SIGUSR1 {
          last = number
          break
        }
        line("STAT", client)
      }
      if let fault = client.fault {
        StandardError.write(fault)
        line("DONE", client)
        client.stop()
        throw ExitCode(71)
      }
      if readyAt == nil && client.isReady {
        readyAt = client.age
        line("READY", client)
      }
      if let readyAt, client.age >= readyAt + seconds { break }
    }
    if last != SIGALRM && readyAt == nil { StandardError.write("interrupted while opening") }
    line("DONE", client)
    if let late = client.stop() { print(late) }
    fflush(nil)
  }

  private func line(_ word: String, _ client: HoldClient) {
    let age = (client.age * 1_000).rounded() / 1_000
    print("\(word) t=\(age) asked=\(connections) \(client.counts)")
    fflush(nil)
  }
}
