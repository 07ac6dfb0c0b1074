// SPDX-License-Identifier: Apache-2.0
import DNSLists
package import Flow
package import Policy
package import Structures
package import Suspicion

/// What would happen to a client with an address, and which rule of which file says so.
///
/// Not a look into a running Sluice: no history, no buckets, and it says so. Kept: it asks the one judge that the
/// engine asks (`Standing`), so it cannot say anything else.
package struct Explanation: Sendable {
  package enum Outcome: Int32, Sendable {
    /// No delay anywhere as long as it behaves.
    case pass = 0
    /// Let through, after delays.
    case slowed = 1
    /// Refused at once, or held in the tarpit and never let through.
    case refused = 2

    package var name: String {
      switch self {
      case .pass: "pass"
      case .slowed: "slowed"
      case .refused: "refused"
      }
    }
  }

  /// A rule of a table as it is written.
  package struct Rule: Sendable, Equatable {
    package let position: SourcePosition
    package let text: String
  }

  package struct StageDelay: Sendable, Equatable {
    package let stage: Stage
    /// In microseconds, at the tier the client starts with.
    package let now: Int64
    /// The most it gets at the next tier; nil when nothing is worse than this one.
    package let next: Int64?
    /// What the tarpit makes of it, T3; nil when nothing makes it T3.
    package let worst: Int64?
  }

  /// What DNS lists would be asked, and what their answers would lead to. No answers: nobody is asked here.
  package struct Lists: Sendable, Equatable {
    package struct Item: Sendable, Equatable {
      /// As written, without a key.
      package let text: String
      /// As the log and replies name it.
      package let zone: String
      package let weight: Int
    }

    package let items: [Item]
    package let threshold: Int
    package let allowThreshold: Int?
    package let rejectAt: ListRejection
    /// Whether they are asked about this client, where it comes to an inbound listener.
    package let areAsked: Bool
  }

  /// What the daemon's memory would make of it.
  package struct Remembered: Sendable, Equatable {
    package let tier: Tier
    /// Until its banner, in microseconds.
    package let banner: Int64
  }

  package let address: Address
  package let access: Rule?
  package let rate: Rule?
  /// Whose bucket it counts in; nil without a rate rule.
  package let bucket: String?
  package let standing: Standing
  package let score: Double
  package let nextTier: Tier?
  /// The signals that are a proof: one of them alone makes a client T3.
  package let proofs: [Signal]
  /// After mail of it was accepted, and after it was proven bad; nil where neither changes anything.
  package let ifKnown: Remembered?
  package let ifBad: Remembered?
  package let stages: [StageDelay]
  /// In words.
  package let limits: [String]
  /// nil where there are none.
  package let lists: Lists?
  package let mode: Mode
  package let outcome: Outcome

  /// What the program ends with: 0 pass, 1 would be slowed, 2 would be refused.
  package var exitCode: Int32 { outcome.rawValue }

  /// - Parameter text: an address as people write it, also in brackets or as an SMTP literal.
  /// - Returns: nil when it is no address.
  package init?(of text: String, in configuration: Configuration) {
    var plain = text[...]
    if plain.hasPrefix("[") && plain.hasSuffix("]") { plain = plain.dropFirst().dropLast() }
    if plain.lowercased().hasPrefix("ipv6:") { plain = plain.dropFirst(5) }
    guard let address = Address(plain) else { return nil }
    self.init(of: address, in: configuration)
  }

  package init(of address: Address, in configuration: Configuration) {
    let policy = configuration.policy
    let standing = Standing(address, policy)
    self.address = address
    self.standing = standing
    score = policy.score(standing.signals)
    mode = policy.mode
    lists = Explanation.lists(configuration, standing)
    access = policy.access.explain(address).map {
      Rule(position: $0.position, text: "\($0.rule.rule.pattern) \($0.rule.rule.result)")
    }
    let rule = policy.rates.explain(address)
    rate = rule.map {
      Rule(position: $0.position, text: "\($0.written.pattern) \($0.written.result)")
    }
    // No limit of a rule holds for what the operator vouches for.
    if let (rule, written, _) = rule, !standing.isTrusted {
      bucket = Explanation.bucket(rule, address, pattern: written.pattern)
      limits = Explanation.limits(rule, written.result, address)
    } else {
      bucket = nil
      limits = []
    }
    proofs = Signal.allCases.filter {
      policy[$0].action == .enforce && policy[$0].proof && !$0.isSeenAtConnect
    }
    // What an operator vouches for is not judged, and nothing is worse than proven bad.
    switch standing.tier {
    case .known, .bad: nextTier = nil
    case .clean: nextTier = .suspicious
    case .suspicious: nextTier = proofs.isEmpty ? nil : .bad
    }
    func remembered(_ history: Standing.History) -> Remembered? {
      func met(_ standing: Standing) -> Remembered {
        Remembered(
          tier: standing.tier, banner: Explanation.delay(.banner, of: standing, policy))
      }
      let other = met(Standing(address, history: history, policy))
      return other == met(standing) || standing.isRefused ? nil : other
    }
    ifKnown = remembered(Standing.History(isKnown: true))
    ifBad = remembered(Standing.History(isBad: true))
    let next = nextTier
    let canBeBad = next != nil && !proofs.isEmpty
    stages = Stage.allCases.map { stage in
      // The worst of T2 is that of score 1 and of the tenth refusal, which no growth outlasts.
      StageDelay(
        stage: stage, now: Explanation.delay(stage, of: standing, policy),
        next: next.map {
          min(
            policy.delay(stage, tier: $0, score: 1, count: 10, greeting: standing.greetingDelay),
            policy.delaySum($0))
        },
        worst: canBeBad ? policy.delays[stage].bad : nil)
    }
    if standing.isRefused || standing.tier == .bad {
      outcome = .refused
    } else {
      // Replies to refused recipients, failed log-ins and the like come to nobody who behaves.
      let behaving: Set<Stage> = [
        .banner, .helo, .startTLS, .mail, .recipientAccepted, .data, .body, .endOfData,
      ]
      let waits = stages.contains { behaving.contains($0.stage) && $0.now > 0 }
      outcome = waits ? .slowed : .pass
    }
  }

  private static func delay(_ stage: Stage, of standing: Standing, _ policy: Policy) -> Int64 {
    min(
      policy.delay(
        stage, tier: standing.tier, score: policy.score(standing.signals),
        greeting: standing.greetingDelay),
      policy.delaySum(standing.tier))
  }

  private static func lists(_ configuration: Configuration, _ standing: Standing) -> Lists? {
    let section = configuration.lists
    if section.items.isEmpty { return nil }
    let items = section.items.map {
      Lists.Item(
        text: $0.description, zone: $0.site.zone.publicName, weight: Int($0.site.weight))
    }
    return Lists(
      items: items, threshold: section.threshold, allowThreshold: section.allowThreshold,
      rejectAt: section.rejectAt,
      areAsked: !standing.isTrusted
        && !(standing.isRefused && configuration.policy.mode == .enforce))
  }

  // Words

  private static func bucket(_ rule: RateRule, _ address: Address, pattern: String) -> String {
    switch rule.sharing {
    case .wholeNetwork: return "\(pattern), shared by all of it"
    case .prefix(let length):
      if Int(length) >= address.width { return "\(address), its own" }
      let network = Prefix(address.network(Int(length)), length: Int(length))
      return "\(network?.description ?? "\(address)"), shared by all of it"
    }
  }

  /// Each limit of a rule, as `60 connections per minute per /24, burst 20; over it: slow`.
  private static func limits(_ rule: RateRule, _ written: String, _ address: Address) -> [String] {
    let settings = written.lowercased().split { $0 == " " || $0 == "\t" }
    func value(_ name: String) -> Substring? {
      settings.first { $0.hasPrefix(name + "=") }?.dropFirst(name.count + 1)
    }
    let sharing: String
    switch rule.sharing {
    case .wholeNetwork: sharing = "for the whole network together"
    case .prefix(let length):
      sharing = Int(length) >= address.width ? "per address" : "per /\(length)"
    }
    var words: [String] = []
    for kind in LimitKind.allCases {
      guard let rate = rule.rate(kind) else { continue }
      if rate.isUnlimited {
        words.append("\(noun(kind)): no limit")
        continue
      }
      // As written: the rate itself is kept in lowest terms, where 60 a minute is 1 a second.
      let parts = (value(kind.name) ?? "").split(separator: "/", maxSplits: 1)
      guard parts.count == 2 else { continue }
      words.append(
        "\(parts[0]) \(noun(kind)) per \(period(parts[1])) \(sharing), burst \(grouped(rate.burst)); "
          + "over it: \(answer(kind, rule.over))")
    }
    if rule.concurrency == .max {
      words.append("sessions at once: no limit")
    } else if rule.concurrency > 0 {
      words.append(
        "\(grouped(rule.concurrency)) sessions at once \(sharing); "
          + "over it: \(answer(nil, rule.over))")
    }
    return words
  }

  private static func noun(_ kind: LimitKind) -> String {
    switch kind {
    case .connections: "connections"
    case .messages: "messages"
    case .recipients: "recipients"
    case .errors: "errors"
    case .bytes: "bytes"
    }
  }

  private static func period(_ text: Substring) -> String {
    switch text {
    case "s", "sec", "1s": "second"
    case "m", "min", "1m", "1min", "60s": "minute"
    case "h", "hour", "1h": "hour"
    case "d", "day", "1d", "24h": "day"
    default: String(text)
    }
  }

  /// What happens over a limit, as the table in docs/tables.md has it.
  ///
  /// - Parameter kind: of what the limit is; nil of sessions at once.
  private static func answer(_ kind: LimitKind?, _ action: OverAction) -> String {
    switch (kind, action) {
    // `over=` has no part in it.
    case (.bytes, _): "messages are read more slowly"
    case (.errors, .slow): "the signal rate_excess"
    case (.errors, _): "421, and the session ends"
    case (.messages, .slow), (.recipients, .slow): "delay, then 450 if that is not enough"
    case (.messages, .tempfail), (.recipients, .tempfail): "tempfail (450)"
    case (.connections, .slow): "delay, then 421 if that is not enough"
    case (nil, .slow): "delay"
    case (_, .tempfail): "tempfail (421)"
    case (_, .refuse): "reject (554)"
    case (_, .drop): "drop"
    }
  }

  /// What the mode makes of all this.
  package var modeNote: String {
    mode == .observe
      ? "observe: decisions are logged; no client is delayed or rejected"
      : "enforce: decisions are carried out"
  }
}
