// SPDX-License-Identifier: Apache-2.0
//
// `sluice serve`, `sluice check` and `sluice explain`: the three commands that read the configuration.
// What is wrong in it they all print the same way, and all exit with the same codes (sysexits).

import ArgumentParser
import Configuration
import Driver
import Service
import Flow
import Foundation
import Glibc
import Logging
import Policy
import Shield
import Structures
import Suspicion
import TLS
import Uring

extension ConfigurationOptions {
  /// Reads the configuration and prints what is wrong with it.
  ///
  /// - Parameters:
  ///   - file: another one than was given.
  ///   - detail: what the tables keep.
  /// - Returns: nil if there is an error; then `exitCode` says which.
  func load(
    file: String? = nil, printing: Bool = true, keeping detail: TableDetail = .lines
  ) -> (configuration: Configuration?, exitCode: Int32) {
    let (configuration, problems) = Configuration.load(
      file: file ?? config, overrides: overrides, keeping: detail)
    if printing { for problem in problems { StandardError.write(problem.description) } }
    return (configuration, problems.exitCode)
  }
}

struct CheckCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "check",
    abstract: "Report every error in a configuration and its tables.")

  @OptionGroup var options: ConfigurationOptions

  @Flag(help: "Print every setting in force, as YAML.")
  var dump = false

  @Flag(
    help: """
      Test, as a stranger, whether the mail server relays; no message is sent. Exits with status 78 if it \
      does, or if it does not accept the client's address; with 69 if it does not answer, or accepts no \
      clients of an address family that has a listener.
      """)
  var probeDownstream = false

  @Flag(
    help: """
      Check only the files, not this machine: no ports, log, io_uring or name lookup of the mail server.
      """)
  var filesOnly = false

  @Flag(
    help: """
      Check as a reload would: ports, log and rings are not tested, and an expired certificate is a warning. For \
      ExecReload= of systemd.
      """)
  var reload = false

  func run() throws {
    // The verdict is the exit code, also for a reader that has gone.
    signal(SIGPIPE, SIG_IGN)
    let (configuration, exitCode) = options.load()
    guard let configuration else { throw ExitCode(exitCode) }
    if dump { try StandardOutput.write(configuration.dump()) }
    for caution in configuration.cautions { StandardError.write("warning: \(caution)") }
    if let summary = configuration.lists.summary { StandardError.write(summary) }
    // A certificate that peers refuse fails the check; a service with one still starts.
    for problem in configuration.tls.findings { StandardError.write(problem.description) }
    if configuration.tls.findings.hasErrors && !reload {
      throw ExitCode(configuration.tls.findings.exitCode)
    }
    if !filesOnly {
      let downstream = try downstreamAddresses(configuration)
      if !reload { try checkMachine(configuration) }
      if probeDownstream { try probe(configuration, at: downstream) }
    }
    StandardError.write("\(options.config ?? "the shipped configuration"): good")
  }

  /// Whether `serve` could start here and now.
  private func checkMachine(_ configuration: Configuration) throws {
    DescriptorLimit.raise()
    let readiness = Readiness(configuration)
    for note in readiness.notes { StandardError.write(note) }
    for obstacle in readiness.obstacles { StandardError.write("error: \(obstacle.text)") }
    if let first = readiness.obstacles.first { throw ExitCode(first.exitCode) }
  }

  private func probe(_ configuration: Configuration, at found: [Address]) throws {
    let preflight = Preflight(configuration, at: found)
    for sentence in preflight.sentences {
      let word =
        switch sentence.level {
        case .good: ""
        case .warning: "warning: "
        case .error: "error: "
        }
      StandardError.write(word + sentence.text)
    }
    if preflight.exitCode != 0 { throw ExitCode(preflight.exitCode) }
  }
}

/// Where the downstream is; ends the command if its name has no address, or if it is one of our own listeners.
private func downstreamAddresses(_ configuration: Configuration) throws -> [Address] {
  do throws(Readiness.Obstacle) { return try configuration.downstreamAddresses() } catch {
    StandardError.write(error.text)
    throw ExitCode(error.exitCode)
  }
}

struct ExplainCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "explain",
    abstract: "Show how a client at an address would be treated, and by which rule.",
    discussion:
      "Exits with status 0 if it would pass, 1 if it would be delayed, 2 if it would be rejected.")

  @Argument(help: "An IPv4 or IPv6 address.")
  var address: String

  @OptionGroup var options: ConfigurationOptions

  @Flag(help: "Print JSON.")
  var json = false

  func run() throws {
    signal(SIGPIPE, SIG_IGN)
    let (configuration, exitCode) = options.load(keeping: .text)
    guard let configuration else { throw ExitCode(exitCode) }
    guard let explanation = Explanation(of: address, in: configuration) else {
      StandardError.write(
        "'\(address)' is not an address: write one such as 192.0.2.7 or 2001:db8::7")
      throw ExitCode(64)
    }
    try StandardOutput.write((json ? explanation.json : explanation.description) + "\n")
    throw ExitCode(explanation.exitCode)
  }
}

struct ServeCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "serve",
    abstract: "Run the proxy in front of a mail server.",
    discussion: """
      HUP reloads the configuration and its tables; a single error leaves the running configuration \
      unchanged. TERM accepts no new clients and waits for open transactions; a second TERM, or INT, stops \
      immediately. USR1 reopens the log file. USR2 writes the counters to the log. At startup it probes the mail \
      server as a stranger, and exits with status 78 if the server does not accept the client's address. In \
      enforce mode it also exits with status 78 if the mail server is an open relay, or becomes one.
      """)

  @OptionGroup var options: ConfigurationOptions

  @Option(help: "How long to wait for open transactions on TERM, in seconds.")
  var drainSeconds = 30

  @Flag(
    name: .customLong("no-preflight"),
    help: """
      Start even if the mail server does not accept the client's address: all mail is \
      deferred with 451 until it does.
      """)
  var startsMiswired = false

  func run() throws {
    signal(SIGPIPE, SIG_IGN)
    let (loaded, exitCode) = options.load()
    guard let configuration = loaded else { throw ExitCode(exitCode) }
    let launch: Launch
    do throws(Readiness.Obstacle) {
      launch = try Launch(
        configuration, .init(drainSeconds: drainSeconds, startsMiswired: startsMiswired),
        console: { StandardError.write($0) })
    } catch {
      StandardError.write(error.text)
      throw ExitCode(error.exitCode)
    }
    // The wake-ups for signals must be in place before any thread starts: threads inherit the mask.
    let signals = SignalQueue([SIGHUP, SIGTERM, SIGINT, SIGUSR1, SIGUSR2])
    DescriptorLimit.raise()
    let (file, overrides) = (options.config, options.overrides)
    let status = launch.run(
      rereading: { Configuration.load(file: file, overrides: overrides, keeping: .lines) },
      { signals.next(milliseconds: $0).flatMap(ServeCommand.order(of:)) })
    if status != 0 { throw ExitCode(status) }
  }

  /// What a signal tells the service to do.
  private static func order(of signal: Int32) -> Order? {
    switch signal {
    case SIGHUP: .reload
    case SIGTERM: .drain
    case SIGINT: .stop
    case SIGUSR1: .reopenLog
    case SIGUSR2: .report
    default: nil
    }
  }
}
