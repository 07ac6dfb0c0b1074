// SPDX-License-Identifier: Apache-2.0
import Policy
import Shield
import Structures
import Suspicion

/// Every key there is, in the order of the manual and of `dump`.
///
/// Not the defaults: those are the initial values of `Configuration`, `Policy` and `Limits`. Kept: a key is
/// known to the reader, the manual's test and `dump` by being in this list, and by nothing else.
extension Setting {
  package static let all: [Setting] =
    main + places + tables + tls + lists + own + signals + delays + reputation + tarpit + smtp
    + timeouts
    + limits + log

  private static let second: Int64 = 1_000_000
  private static let minute: Int64 = 60_000_000
  private static let hour: Int64 = 3_600_000_000
  private static let day: Int64 = 86_400_000_000

  private static let main: [Setting] = [
    choice("mode", \.policy.mode, [("observe", .observe), ("enforce", .enforce)]),
    Setting(
      key: "hostname", range: "a full name, or auto",
      read: { (node, reader) throws(BadValue) in
        let name = try text(node, "a name such as mx.example.org")
        reader.draft.hostnameAsked = name == "auto" ? nil : try Form.hostname(name, isFull: true)
      },
      show: { $0.hostnameAsked ?? "auto" }),
    Setting(
      key: "workers", range: "1…1024, or auto",
      read: { (node, reader) throws(BadValue) in
        let word = try text(node, "auto or a number")
        if word == "auto" {
          reader.draft.workersAsked = nil
          return
        }
        let count = try Form.count(word)
        guard (1...1024).contains(count) else {
          throw BadValue(
            reason: "\(count) workers are not possible", hint: "write auto, or 1 to 1024")
        }
        reader.draft.workersAsked = count
      },
      show: { $0.workersAsked.map(String.init) ?? "auto" }),
  ]

  private static let places: [Setting] =
    [
      Setting(
        key: "listeners", range: "a list of {address, role, tls}",
        read: { (node, reader) throws(BadValue) in try reader.readListeners(node) },
        show: { configuration in
          let all = configuration.listeners.map { listener in
            let tls = listener.tlsAsked.map { ", tls: \($0.rawValue)" } ?? ""
            return
              "{address: \(Form.write(text: listener.text)), role: \(listener.role.name)\(listener.balancerText)\(tls)}"
          }
          return "[\(all.joined(separator: ", "))]"
        }),
      Setting(
        key: "downstream.address", range: "HOST:PORT",
        read: { (node, reader) throws(BadValue) in
          let word = try text(node, "an address and port such as 127.0.0.1:10025")
          let (host, _, port) = try Form.endpoint(word, allowsName: true)
          reader.draft.downstream.host = host
          reader.draft.downstream.port = port
          reader.draft.downstream.text = word
        },
        show: { Form.write(text: $0.downstream.text) }),
      choice(
        "downstream.identity", \.downstream.terms.introduction,
        Introduction.allCases.map { ($0.rawValue, $0) }),
      toggle("downstream.allow_open_relay", \.downstream.allowsOpenRelay),
      duration("downstream.probe_every", \.downstream.terms.probeEvery, second...day),
    ] + downstreamTLS

  private static let tables: [Setting] = [
    table("access", \.tables.access),
    table("rates", \.tables.rates),
  ]

  private static func table(_ name: String, _ field: Field<String?>) -> Setting {
    Setting(
      key: "tables.\(name)", range: "a path, or none",
      read: { (node, reader) throws(BadValue) in
        let word = try text(node, "the path of a table such as \(name).cidr")
        reader.draft[keyPath: field] = word == "none" ? nil : try reader.tablePath(word, from: node)
      },
      show: { $0[keyPath: field].map { Form.write(text: $0) } ?? "none" })
  }

  private static let own: [Setting] = [
    Setting(
      key: "own.names", range: "a list of names",
      read: { (node, reader) throws(BadValue) in
        reader.draft.ownNamesAsked = try reader.readList(node, "names") { (word) throws(BadValue) in
          try Form.hostname(word, isFull: false)
        }
      },
      show: { "[\($0.ownNamesAsked.map { Form.write(text: $0) }.joined(separator: ", "))]" }),
    Setting(
      key: "own.addresses", range: "a list of addresses",
      read: { (node, reader) throws(BadValue) in
        reader.draft.policy.ownAddresses = try reader.readList(node, "addresses") {
          (word) throws(BadValue) in
          if let address = Address(word) { return address }
          throw BadValue(
            reason: "'\(ConfigNode.cut(word))' is not an IP address",
            hint: word.contains("/") ? "write single addresses, not a network" : "write 192.0.2.1")
        }
      },
      show: { configuration in
        "[\(configuration.policy.ownAddresses.map { "\"\($0)\"" }.joined(separator: ", "))]"
      }),
  ]

  private static let signals: [Setting] =
    Signal.allCases.flatMap { signal in
      let key = "signals.\(signal.name)"
      return [
        number("\(key).weight", \.policy[signal].weight, 0...1),
        choice(
          "\(key).action", \.policy[signal].action, SignalAction.allCases.map { ($0.name, $0) }),
        signal.mayProve
          ? toggle("\(key).proof", \.policy[signal].proof)
          : Setting(
            key: "\(key).proof", range: "no",
            read: { (node, _) throws(BadValue) in
              guard try Form.toggle(try text(node, "yes or no")) else { return }
              throw BadValue(
                reason: "'\(signal.name)' cannot be a proof: honest senders do it too",
                hint:
                  "delete this and raise the weight; two signals together make a client suspicious")
            },
            show: { _ in "no" }),
      ]
    } + [number("suspicious_score", \.policy.suspiciousScore, 0.01...1)]

  private static let delays: [Setting] =
    Stage.allCases.flatMap { stage in
      let key = "delays.\(stage.name)"
      let shipped = Delays()[stage]
      let honest = honestReason(stage)
      let held =
        stage == .endOfData || stage == .other || stage == .startTLS || stage == .authFailure
        ? "holding a client here for longer gains nothing"
        : "clients leave before that, and a held connection costs memory"
      return [
        delay("\(key).clean", \.policy.delays[stage].clean, most: shipped.ceiling, honest),
        delay(
          "\(key).suspicious", \.policy.delays[stage].suspicious, most: shipped.ceiling, honest),
        delay("\(key).bad", \.policy.delays[stage].bad, most: shipped.badCeiling, held),
      ]
    } + [
      delay("delays.sum.clean", \.policy.delays.cleanSum, most: Delays.sumCeiling, sumReason),
      delay(
        "delays.sum.suspicious", \.policy.delays.suspiciousSum, most: Delays.sumCeiling, sumReason),
      delay(
        "delays.sum.recipients", \.policy.delays.recipientSum, most: Delays.sumCeiling, sumReason),
    ]

  /// Why a sender that may be honest waits no longer at a stage.
  private static func honestReason(_ stage: Stage) -> String {
    switch stage {
    case .endOfData: "a sender that gives up there sends the message again, and it arrives twice"
    case .startTLS: "senders that lose patience with a handshake fall back to clear text"
    case .authFailure: "people who mistype their password wait as well"
    case .other: "it only makes the sessions of honest senders longer"
    default: "senders that wait 30 s for a reply would give up, and their mail would be lost"
    }
  }

  private static let sumReason =
    "a sender that may be honest is never delayed longer than that in one session"

  private static let reputation: [Setting] = [
    duration("reputation.good_for", \.policy.goodFor, minute...(365 * day)),
    // Longer would be a ban, and bans are made by rules.
    duration("reputation.bad_for", \.policy.badFor, 4 * minute...(90 * day)),
    toggle("reputation.second_chance", \.policy.secondChance),
    duration("reputation.second_chance_after", \.policy.secondChanceAfter, second...day),
    Setting(
      key: "reputation.key_file", range: "a path, or none",
      read: { (node, reader) throws(BadValue) in
        let word = try text(node, "the path of a file with a key")
        reader.draft.nameKeyFile = word == "none" ? nil : try reader.path(word)
      },
      show: { $0.nameKeyFile.map { "\"\($0)\"" } ?? "none" }),
  ]

  private static let tarpit: [Setting] = [
    count("tarpit.sessions_per_source", \.policy.badSessionsPerSource, 1...100),
    duration("tarpit.session", \.policy.badSession, 10 * second...day),
    percentage("overload.shrink_at", \.policy.shrinkAt, 0.01...1),
    percentage("overload.shed_at", \.policy.shedAt, 0.01...1),
    percentage("overload.reserved_for_known", \.policy.reservedForKnown, 0...0.5),
    percentage("overload.share_per_address", \.policy.sharePerAddress, 0.001...1),
    percentage("overload.share_per_network", \.policy.sharePerNetwork, 0.001...1),
  ]

  private static let smtp: [Setting] = [
    choice("smtp.syntax", \.policy.syntax, [("tolerant", .tolerant), ("strict", .strict)]),
    choice(
      "smtp.bare_newline", \.policy.bareNewline, [("reject", .reject), ("normalize", .normalize)]),
    size("smtp.command_bytes", \.policy.session.commandBytes, 512...65_536),
    size(
      "smtp.text_line_bytes", \.policy.session.textLineBytes, 1_000...(1 << 30), zero: "no limit"),
    size(
      "smtp.message_bytes", \.messageBytes, 65_536...(1 << 40), zero: "what the downstream says"),
    count("smtp.recipients", \.policy.session.recipients, 1...100_000),
    count("smtp.commands", \.policy.session.commands, 10...1_000_000),
    count("smtp.idle_commands", \.policy.session.idleCommands, 1...100_000),
    count("smtp.errors", \.policy.session.errors, 1...100_000),
    count("smtp.unknown_commands", \.policy.session.unknownCommands, 1...1_000),
    count("smtp.bad_recipients", \.policy.session.badRecipients, 1...100_000),
    count("smtp.error_streak", \.policy.session.errorStreak, 1...100_000),
    count("smtp.auth_failures", \.policy.session.authFailures, 1...1_000),
    count("smtp.auth_failures_per_address", \.policy.logins.addressFailures, 1...1_000_000),
    count("smtp.auth_failures_per_network", \.policy.logins.networkFailures, 1...1_000_000),
    count("smtp.auth_failures_per_user", \.policy.logins.userFailures, 1...1_000_000),
  ]

  private static let timeouts: [Setting] = [
    duration("timeouts.command", \.policy.timeouts.command, second...hour),
    duration("timeouts.command_under_stress", \.policy.timeouts.commandUnderStress, second...hour),
    duration("timeouts.message_under_stress", \.policy.timeouts.messageUnderStress, second...hour),
    duration("timeouts.body", \.policy.timeouts.body, second...hour),
    duration("timeouts.send", \.policy.timeouts.send, second...hour),
    duration("timeouts.session", \.policy.timeouts.session, second...(7 * day)),
    duration("timeouts.connect", \.policy.timeouts.connect, second...(10 * minute)),
    duration("timeouts.greeting", \.policy.timeouts.greeting, second...hour),
    duration("timeouts.reply", \.policy.timeouts.reply, second...hour),
    duration("timeouts.data", \.policy.timeouts.data, second...hour),
    duration("timeouts.block", \.policy.timeouts.block, second...hour),
    duration("timeouts.end_of_data", \.policy.timeouts.endOfData, second...hour),
    duration("timeouts.drain", \.policy.timeouts.drain, 0...minute),
  ]

  private static let limits: [Setting] = [
    count("limits.connections", \.limits.connections, 8...10_000_000),
    count("limits.sessions", \.limits.sessions, 4...1_000_000),
    count("limits.downstream_connections", \.limits.downstreamConnections, 4...100_000),
    count("limits.proxy_headers", \.limits.proxyHeaders, 16...100_000),
    count("limits.tls_sessions", \.limits.tlsSessions, 4...1_000_000),
    size("limits.input_bytes", \.limits.inputBytes, 4_096...(1 << 20)),
    count("limits.buckets", \.limits.buckets, 64...1_000_000_000),
    count("limits.sources", \.limits.sources, 64...1_000_000_000),
    count("limits.journal", \.limits.journal, 64...1_000_000),
    count("limits.receive_buffers", \.limits.receiveBuffers, 16...32_768),
  ]

  private static let log: [Setting] = [
    choice("log.level", \.log.level, LogSettings.levels.map { ($0, $0) }),
    Setting(
      key: "log.destination", range: "stderr, or a path",
      read: { (node, reader) throws(BadValue) in
        let word = try text(node, "stderr or a path")
        if word == "stderr" {
          reader.draft.log.destination = .stderr
        } else if word.hasPrefix("/") && !word.hasSuffix("/") {
          reader.draft.log.destination = .file(word)
        } else {
          throw BadValue(
            reason: "'\(ConfigNode.cut(word))' is neither stderr nor the absolute path of a file",
            hint: "write stderr, or a path such as /var/log/sluice/sluice.log")
        }
      },
      show: { configuration in
        switch configuration.log.destination {
        case .stderr: "stderr"
        case .file(let path): Form.write(text: path)
        }
      }),
    count("log.flood_lines", \.log.floodLinesPerSecond, 1...100_000),
  ]
}

extension Configuration {
  /// `SessionLimits.messageBytes` as the number that sizes are read into.
  var messageBytes: Int {
    get { Int(clamping: policy.session.messageBytes) }
    set { policy.session.messageBytes = UInt64(newValue) }
  }

  /// Every key with its value.
  package var values: [(key: String, value: String)] { Setting.all.map { ($0.key, $0.show(self)) } }

  /// A configuration file that says the same as this value.
  ///
  /// - Parameter changed: leave out what is as it ships.
  package func dump(changed: Bool = false) -> String {
    let shipped = Configuration(
      environment: Environment(machineName: policy.hostname, processors: 1))
    var text = ""
    var open: [Substring] = []
    for setting in Setting.all {
      let value = setting.show(self)
      if changed && value == setting.show(shipped) { continue }
      let path = setting.key.split(separator: ".")
      let section = path.dropLast()
      for (depth, name) in section.enumerated()
      where open.count <= depth || open[..<(depth + 1)] != section[..<(depth + 1)] {
        open = Array(section[...depth])
        text += String(repeating: "  ", count: depth) + "\(name):\n"
      }
      if section.isEmpty { open = [] }
      text += String(repeating: "  ", count: section.count) + "\(path.last ?? ""): \(value)\n"
    }
    return text
  }
}
