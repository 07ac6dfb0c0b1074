// SPDX-License-Identifier: Apache-2.0
import Flow
import Policy
import Shield
import Structures
import Suspicion

/// Checks of settings against each other: pairs in which one value may not be below the other, and limits that depend on
/// several settings.
struct SettingPairs {
  struct Finding {
    var severity: Problem.Severity
    var place: SourcePosition
    var reason: String
    var hint: String
  }

  /// In the order in which they are reported.
  private(set) var findings: [Finding] = []
  private let configuration: Configuration
  private let places: [String: SourcePosition]
  private let whole: SourcePosition

  private var limits: Limits { configuration.limits }
  private var policy: Policy { configuration.policy }

  /// - Parameters:
  ///   - places: where each key was set.
  ///   - whole: where the configuration begins, for what was not set anywhere.
  init(
    _ configuration: Configuration, _ places: [String: SourcePosition], _ whole: SourcePosition
  ) {
    self.configuration = configuration
    self.places = places
    self.whole = whole
    checkBuffers()
    checkConnections()
    checkReceiveBuffers()
    checkStress()
    checkRecipients()
    checkDelays()
  }

  private func place(_ keys: String...) -> SourcePosition {
    keys.compactMap { places[$0] }.first ?? whole
  }

  private mutating func add(
    _ severity: Problem.Severity, _ place: SourcePosition, _ reason: String, _ hint: String
  ) {
    findings.append(Finding(severity: severity, place: place, reason: reason, hint: hint))
  }

  private mutating func checkBuffers() {
    if policy.session.commandBytes > limits.inputBytes {
      add(
        .error, place("smtp.command_bytes", "limits.input_bytes"),
        "smtp.command_bytes (\(Form.write(size: policy.session.commandBytes))) does not fit into "
          + "limits.input_bytes (\(Form.write(size: limits.inputBytes)))",
        "a command must fit into the buffer as a whole: lower the first or raise the second")
    }
    if configuration.listeners.contains(where: { $0.role == .outbound })
      && limits.inputBytes < SessionLimits.loginBytes + 2
    {
      add(
        .warning, place("limits.input_bytes"),
        "limits.input_bytes (\(Form.write(size: limits.inputBytes))) is less than the length of an AUTH line "
          + "(\(SessionLimits.loginBytes) octets)",
        "log-ins with long tokens or tickets will be rejected with 500: 16k is enough")
    }
  }

  private mutating func checkConnections() {
    let share = limits.share(of: configuration.workers)
    let slots = share.connections + share.downstreamConnections
    if slots > Limits.slotsOfWorkerMax {
      let needed =
        (limits.connections + limits.downstreamConnections) / (Limits.slotsOfWorkerMax - 1) + 1
      add(
        .error, place("limits.connections", "workers"),
        "a worker cannot have \(slots) connections, \(Limits.slotsOfWorkerMax) at most",
        "write workers: \(needed) or more")
    }
    if limits.sessions > limits.connections {
      add(
        .error, place("limits.sessions", "limits.connections"),
        "limits.sessions (\(limits.sessions)) is more than limits.connections (\(limits.connections))",
        "each session needs a connection: lower the first or raise the second")
    }
    if limits.downstreamConnections > limits.sessions {
      add(
        .warning, place("limits.downstream_connections", "limits.sessions"),
        "limits.downstream_connections (\(limits.downstreamConnections)) is more than limits.sessions "
          + "(\(limits.sessions)): the rest can never be used",
        "write limits.downstream_connections: \(limits.sessions) or less")
    }
  }

  private mutating func checkReceiveBuffers() {
    if limits.receiveBuffers & (limits.receiveBuffers - 1) != 0 {
      let power = 1 << (Int.bitWidth - limits.receiveBuffers.leadingZeroBitCount)
      add(
        .error, place("limits.receive_buffers"),
        "limits.receive_buffers (\(limits.receiveBuffers)) is not a power of two, as the kernel requires",
        "write \(power / 2) or \(min(power, 32_768))")
    }
  }

  private mutating func checkStress() {
    if policy.shrinkAt > policy.shedAt {
      add(
        .error, place("overload.shrink_at", "overload.shed_at"),
        "overload.shrink_at (\(Form.write(percentage: policy.shrinkAt))) is above overload.shed_at "
          + "(\(Form.write(percentage: policy.shedAt)))",
        "shorter holding starts before rejection: lower the first or raise the second")
    }
    // Only where it was written: the shipped one gives way to a shorter `command` by itself.
    if policy.timeouts.commandUnderStress > policy.timeouts.command,
      places["timeouts.command_under_stress"] != nil
    {
      add(
        .error, place("timeouts.command_under_stress", "timeouts.command"),
        "timeouts.command_under_stress (\(Form.write(duration: policy.timeouts.commandUnderStress))) is "
          + "longer than timeouts.command (\(Form.write(duration: policy.timeouts.command)))",
        "under stress the timeout must be shorter: lower the first or raise the second")
    }
  }

  private mutating func checkRecipients() {
    if policy.session.recipients < 100 {
      add(
        .warning, place("smtp.recipients"),
        "RFC 5321 (4.5.3.1.8) promises senders at least 100 recipients a message",
        "write smtp.recipients: 100 or more, unless all senders are your own")
    }
  }

  /// Where a suspicious client would wait less than a clean one.
  private mutating func checkDelays() {
    let delays = policy.delays
    var pairs = Stage.allCases.map { ($0.name, delays[$0].clean, delays[$0].suspicious) }
    pairs.append(("sum", delays.cleanSum, delays.suspiciousSum))
    for (name, clean, suspicious) in pairs where clean > suspicious {
      add(
        .warning, place("delays.\(name).clean", "delays.\(name).suspicious"),
        "at 'delays.\(name)' a clean client waits \(Form.write(duration: clean)), longer than a suspicious "
          + "one with \(Form.write(duration: suspicious))",
        "write the shorter delay at 'clean'")
    }
  }
}
