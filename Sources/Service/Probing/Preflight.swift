// SPDX-License-Identifier: Apache-2.0
package import Configuration
import Glibc
import Policy
import SMTP
package import Structures
import Suspicion
import Synchronization
import TLS

/// What the probing of a downstream came to, in words for the operator.
///
/// Kept: `isOpenRelay` is true only when the server said 2xx to a stranger's foreign recipient.
package struct Preflight: Sendable {
  /// One family of clients, and what came of asking as one of them.
  struct Answer: Sendable {
    let client: ClientEnds
    /// Such clients connect here themselves; else they may come through a load balancer, or not.
    let isSure: Bool
    let outcome: RelayProbe.Outcome

    var family: String { client.address.isIPv4 ? "IPv4" : "IPv6" }

    /// Mail of such a client can be delivered.
    var isWorking: Bool {
      switch outcome.finding {
      case .refuses, .unclear, .putsOff, .relays: true
      case .silent, .mismatch, .insecure: false
      }
    }

    /// There is nothing to be learnt by asking again.
    var isFinal: Bool {
      if case .putsOff = outcome.finding { false } else { isWorking }
    }
  }

  package struct Sentence: Sendable, Equatable {
    package enum Level: Sendable { case good, warning, error }
    package let level: Level
    package let text: String
  }

  package private(set) var isOpenRelay = false
  /// Something is still to be learnt by asking again.
  package let isOpen: Bool
  /// It is there, and takes no mail of anybody as it is told about clients.
  package let isMiswired: Bool
  /// It is there for everybody, and only said "later".
  package let isPutOff: Bool
  /// sysexits(3): 78 if it relays or no mail at all could be delivered as it is told about clients, 69 if it does
  /// not answer, or not for some of those that come, 0 else.
  package let exitCode: Int32
  package private(set) var sentences: [Sentence] = []

  /// Asks the downstream of a configuration, as a stranger of each family that comes here and at each of its addresses,
  /// all at the same time. Takes some ten seconds at most, and as many again to explain what does not fit together.
  package init(_ configuration: Configuration, at addresses: [Address]) {
    let downstream = configuration.downstream
    let hostname = configuration.policy.hostname
    var security: RelayProbe.Security?
    do throws(TLSContextError) {
      if let settings = downstream.clientSettings {
        security = .init(try TLSClientContext(settings), isImplicit: downstream.terms.isImplicitTLS)
      }
    } catch {
      self.init(unable: "\(downstream.text) could not be probed over TLS: \(error)")
      return
    }
    let askers = Preflight.askers(configuration)
    let probes = askers.flatMap { asker in
      addresses.map { address in
        RelayProbe(
          address: address, port: downstream.port, identity: downstream.terms.introduction,
          client: asker.client, hostname: hostname, security: security)
      }
    }
    let all = inParallel(probes.map { probe in { probe.run() } })
    // Of several addresses the worst answer counts, and none at all only where no address gives one.
    let outcomes = askers.indices.map { asker in
      Preflight.worst(Array(all[(asker * addresses.count)..<((asker + 1) * addresses.count)]))
    }
    let answers = zip(askers, outcomes).map {
      Answer(client: $0.client, isSure: $0.isSure, outcome: $1)
    }
    self.init(downstream, answers)
    if !answers.contains(where: \.isWorking),
      outcomes.contains(where: { if case .mismatch = $0.finding { true } else { false } }),
      downstream.terms.introduction != .none
    {
      let plain = RelayProbe(
        address: addresses[0], port: downstream.port, identity: .none, client: .stranger,
        hostname: hostname, security: security)
      explainMismatch(plain.run().finding, downstream)
    }
  }

  /// What several addresses come to: mail goes to each of them.
  static func worst(_ outcomes: [RelayProbe.Outcome]) -> RelayProbe.Outcome {
    func rank(_ outcome: RelayProbe.Outcome) -> Int {
      switch outcome.finding {
      case .relays: 0
      case .mismatch: 1
      case .insecure: 2
      case .putsOff: 3
      case .unclear: 4
      case .refuses: 5
      case .silent: 6
      }
    }
    return outcomes.min { rank($0) < rank($1) } ?? outcomes[0]
  }

  /// Those that clients come as: a listener of IPv6 takes IPv6 only, and behind a load balancer both may come.
  static func askers(_ configuration: Configuration) -> [(client: ClientEnds, isSure: Bool)] {
    // Where the server sees us and not the client, one family is as good as the other.
    guard configuration.downstream.terms.introduction.namesClient else {
      return [(.stranger, true)]
    }
    let direct = configuration.listeners.filter { $0.balancers == nil }
    let isBalanced = direct.count < configuration.listeners.count
    return [ClientEnds.stranger, .strangerV6].compactMap { client in
      let isSure = direct.contains { $0.address.isIPv4 == client.address.isIPv4 }
      return isSure || isBalanced ? (client, isSure) : nil
    }
  }

  /// No question can be put at all.
  private init(unable text: String) {
    isOpen = false
    isPutOff = false
    isMiswired = true
    exitCode = 78
    say(.error, text)
  }

  /// What the answers mean together.
  init(_ downstream: Downstream, _ answers: [Answer]) {
    let isWorking = answers.contains(where: \.isWorking)
    // Who only may come is no reason to ask for ever.
    let counted = isWorking ? answers.filter(\.isSure) : answers
    isOpen = !answers.contains(where: \.isFinal) || !counted.allSatisfy(\.isFinal)
    isPutOff = counted.allSatisfy(\.isWorking)
    let isRelay = answers.contains {
      if case .relays = $0.outcome.finding { true } else { false }
    }
    let isSilent = answers.allSatisfy {
      if case .silent = $0.outcome.finding { true } else { false }
    }
    isMiswired = !isWorking && !isSilent
    exitCode =
      isRelay || isMiswired ? 78 : counted.allSatisfy(\.isWorking) ? 0 : 69
    // One sentence is enough about what has nothing to do with the client.
    let worst =
      answers.first { if case .silent = $0.outcome.finding { false } else { true } }
      ?? answers.first
    for answer in isWorking ? answers : worst.map({ [$0] }) ?? [] {
      if isWorking && !answer.isWorking {
        addPart(answer, downstream)
      } else {
        add(answer, downstream)
      }
    }
    tellSecurity(answers.map(\.outcome))
  }

  private mutating func say(_ level: Sentence.Level, _ text: String) {
    sentences.append(Sentence(level: level, text: text))
  }

  private mutating func tellSecurity(_ outcomes: [RelayProbe.Outcome]) {
    if let why = outcomes.lazy.compactMap(\.insecurity).first {
      say(.warning, "The probe was sent in clear text, as mail will be: over TLS \(why)")
    } else if let agreed = outcomes.lazy.compactMap(\.agreed).first {
      let trust = agreed.peerCertificate == .verified ? "verified" : "not verified"
      say(.good, "The probe used \(agreed), its certificate \(trust)")
    }
  }

  private mutating func add(_ answer: Answer, _ downstream: Downstream) {
    let asker =
      downstream.terms.introduction.namesClient
      ? "a client at \(answer.client.address)"
      : "this machine's address, which it sees for every client"
    switch answer.outcome.finding {
    case .refuses(let reply):
      say(.good, "\(downstream.text) does not relay for \(asker): it answered '\(reply)'")
    case .unclear(let reply):
      say(
        .warning,
        "\(downstream.text) rejected the probe from \(asker) with '\(reply)', which does not prove that it "
          + "refuses to relay: check its relay rules yourself")
    case .putsOff(let reply):
      say(
        .warning,
        "\(downstream.text) deferred the probe from \(asker) with '\(reply)', which does not show whether it "
          + "relays: try again later, or check its relay rules yourself")
    case .relays(let reply):
      isOpenRelay = true
      say(
        .error,
        "OPEN RELAY: \(downstream.text) accepts mail for probe@example.invalid from \(asker): it answered "
          + "'\(reply)'. \(remedy(downstream)) To start anyway: downstream.allow_open_relay: yes"
      )
    case .silent(let why, let hint):
      say(
        .warning,
        "\(downstream.text) could not be asked whether it relays for strangers: \(why)\(hint). Until it "
          + "answers, mail is deferred with 451")
    case .mismatch(let why):
      say(
        .error,
        "\(downstream.text) does not accept identity \(downstream.terms.introduction.rawValue): \(why). All mail would be "
          + "deferred with 451")
    case .insecure(let why):
      say(.error, "\(insecurity(downstream)): \(why). All mail would be deferred with 451")
    }
  }

  /// What fails for one family while the other gets through.
  private mutating func addPart(_ answer: Answer, _ downstream: Downstream) {
    let (what, why) =
      switch answer.outcome.finding {
      case .silent(let why, _):
        (
          "\(downstream.text) could not be asked whether it relays for \(answer.family) clients",
          why
        )
      case .mismatch(let why):
        (
          "\(downstream.text) does not accept identity \(downstream.terms.introduction.rawValue) for \(answer.family) "
            + "clients", why
        )
      case .insecure(let why):
        ("for \(answer.family) clients \(insecurity(downstream))", why)
      case .refuses, .unclear, .putsOff, .relays: ("", "")
      }
    let remedy =
      answer.isSure
      ? "enable \(answer.family) there (Postfix: inet_protocols), or remove the \(answer.family) listeners"
      : "if the load balancers have no such clients, nothing needs to be done"
    say(
      .warning,
      "\(what): \(why). Mail from other clients is delivered; mail from \(answer.family) clients is deferred "
        + "with 451: \(remedy)")
  }

  private func insecurity(_ downstream: Downstream) -> String {
    "\(downstream.text) cannot be reached with downstream.tls: \(downstream.terms.tls.rawValue)"
      + (downstream.terms.isImplicitTLS ? " and tls_implicit" : "")
  }

  private func remedy(_ downstream: Downstream) -> String {
    downstream.terms.introduction.namesClient
      ? "Its relay rules let strangers through (Postfix: mynetworks, smtpd_relay_restrictions)."
      : "It trusts this machine's address, and with identity \(downstream.terms.introduction.rawValue) every client appears to come "
        + "from there. Configure it to expect the client's address (docs/recipes.md) and set downstream.identity: "
        + "proxy_v2, or remove this address from those it trusts (Postfix: mynetworks)."
  }

  private mutating func explainMismatch(_ plain: RelayProbe.Finding, _ downstream: Downstream) {
    switch plain {
    case .silent, .insecure: say(.error, "It does not answer without it either.")
    case .refuses, .unclear, .putsOff, .relays, .mismatch:
      let edit =
        switch downstream.terms.introduction {
        case .proxyV1, .proxyV2:
          "configure it to expect the header (Postfix: -o smtpd_upstream_proxy_protocol=haproxy; others: "
            + "docs/recipes.md)"
        case .xclient:
          "allow XCLIENT from this address (Postfix: smtpd_authorized_xclient_hosts)"
        case .xforward, .received, .none: "see docs/recipes.md"
        }
      var text =
        "It speaks plain SMTP: \(edit), or set downstream.identity: none (--identity none), which hides "
        + "the clients from it"
      if case .relays = plain {
        text += "; but then it would be an OPEN RELAY, because it trusts this machine's address"
      }
      say(.error, text)
    }
  }
}

/// Runs all at once in threads of their own; gives what they return, in order.
private func inParallel<Value: Sendable>(_ jobs: [@Sendable () -> Value]) -> [Value] {
  let results = Results<Value>(jobs.count)
  for (index, job) in jobs.enumerated() {
    do throws(ThreadError) { try startThread { results.set(index, job()) } } catch {
      // One after the other is only slower.
      results.set(index, job())
    }
  }
  return results.wait()
}

private final class Results<Value: Sendable>: Sendable {
  private let values: Mutex<[Value?]>

  init(_ count: Int) { values = Mutex(Array(repeating: nil, count: count)) }

  func set(_ index: Int, _ value: Value) { values.withLock { $0[index] = value } }

  /// Every job ends by its own deadline.
  func wait() -> [Value] {
    while true {
      let all = values.withLock { $0 }
      let done = all.compactMap { $0 }
      if done.count == all.count { return done }
      usleep(5_000)
    }
  }
}
