// SPDX-License-Identifier: Apache-2.0
import Glibc
import SMTP
package import Structures
import Suspicion
import Synchronization
import TLS

/// What the probing of a downstream came to, in words for the operator.
///
/// Kept: `isOpenRelay` is true only when the server said 2xx to a stranger's foreign recipient.
package struct Preflight: Sendable {
  package private(set) var isOpenRelay = false
  /// It was asked and answered as it should.
  package private(set) var isGood = false
  /// It answered at all.
  package private(set) var isReached = true
  /// It does not take what it is told about the client, or not the TLS that is asked for: no mail can be delivered.
  package private(set) var isUseless = false
  package private(set) var sentences: [String] = []

  /// Asks the downstream of a configuration, as a stranger of each family at the same time. Takes some ten
  /// seconds at most.
  package init(_ configuration: Configuration, at address: Address) {
    let downstream = configuration.downstream
    let hostname = configuration.policy.hostname
    var security: RelayProbe.Security?
    do throws(TLSContextError) {
      if let settings = downstream.clientSettings {
        security = .init(try TLSClientContext(settings), isImplicit: downstream.tlsImplicit)
      }
    } catch {
      isUseless = true
      sentences = ["\(downstream.text) could not be asked under TLS: \(error)"]
      return
    }
    // Where the server sees us and not the client, one family is as good as the other.
    let clients: [ClientEnds] =
      downstream.identity.namesClient ? [.stranger, .strangerV6] : [.stranger]
    let probes = clients.map { client in
      RelayProbe(
        address: address, port: downstream.port, identity: downstream.identity, client: client,
        hostname: hostname, security: security)
    }
    let outcomes = inParallel(probes.map { probe in { probe.run() } })
    isGood = outcomes.allSatisfy { if case .refuses = $0.finding { true } else { false } }
    for (client, outcome) in zip(clients, outcomes) {
      add(outcome.finding, client, downstream)
      // One sentence is enough about what has nothing to do with the client.
      if isUseless { break }
      if case .silent = outcome.finding { break }
    }
    tellSecurity(outcomes)
    if outcomes.contains(where: { if case .mismatch = $0.finding { true } else { false } }),
      downstream.identity != .none
    {
      let plain = RelayProbe(
        address: address, port: downstream.port, identity: .none, client: .stranger,
        hostname: hostname, security: security)
      explainMismatch(plain.run().finding, downstream)
    }
  }

  private mutating func tellSecurity(_ outcomes: [RelayProbe.Outcome]) {
    if let why = outcomes.lazy.compactMap(\.insecurity).first {
      isGood = false
      sentences.append("It was asked in clear, as mail will go to it, because under TLS \(why)")
    } else if let agreed = outcomes.lazy.compactMap(\.agreed).first {
      let trust = agreed.peerCertificate == .verified ? "verified" : "not verified"
      sentences.append("It was asked under \(agreed), its certificate \(trust)")
    }
  }

  private mutating func add(
    _ finding: RelayProbe.Finding, _ client: ClientEnds, _ downstream: Downstream
  ) {
    let asker =
      downstream.identity.namesClient
      ? "a client at \(client.address)" : "this machine, which stands for every client"
    switch finding {
    case .refuses(let reply):
      sentences.append(
        "\(downstream.text) does not relay for \(asker): it answered '\(reply)'")
    case .unclear(let reply):
      sentences.append(
        "\(downstream.text) refused the probe of \(asker) with '\(reply)', which does not say that it "
          + "would not relay: look at its relay rules yourself")
    case .putsOff(let reply):
      sentences.append(
        "\(downstream.text) put off the probe of \(asker) with '\(reply)', which does not say whether it "
          + "would relay later: ask again, or look at its relay rules yourself")
    case .relays(let reply):
      isOpenRelay = true
      sentences.append(
        "OPEN RELAY: \(downstream.text) takes mail for probe@example.invalid from \(asker): it answered "
          + "'\(reply)'. \(remedy(downstream)) To serve all the same: downstream.allow_open_relay: yes"
      )
    case .silent(let why):
      isReached = false
      sentences.append(
        "\(downstream.text) could not be asked whether it relays for strangers: \(why). Until it answers, "
          + "mail is deferred with 451")
    case .mismatch(let why):
      isUseless = true
      sentences.append(
        "\(downstream.text) does not take identity \(downstream.identity.rawValue): \(why). All mail would be "
          + "deferred with 451")
    case .insecure(let why):
      isUseless = true
      sentences.append(
        "\(downstream.text) cannot be reached with downstream.tls: \(downstream.tls.rawValue)"
          + "\(downstream.tlsImplicit ? " and tls_implicit" : ""): \(why). All mail would be deferred "
          + "with 451")
    }
  }

  private func remedy(_ downstream: Downstream) -> String {
    downstream.identity.namesClient
      ? "Its relay rules let strangers through (Postfix: mynetworks, smtpd_relay_restrictions)."
      : "It trusts this machine's address, and with identity \(downstream.identity.rawValue) everybody comes "
        + "from there. Let it expect the client's address (docs/recipes.md) and set downstream.identity: "
        + "proxy_v2, or take this address out of what it trusts (Postfix: mynetworks)."
  }

  private mutating func explainMismatch(_ plain: RelayProbe.Finding, _ downstream: Downstream) {
    switch plain {
    case .silent, .insecure:
      sentences.append("Without it, it does not answer either.")
    case .refuses, .unclear, .putsOff, .relays, .mismatch:
      let edit =
        switch downstream.identity {
        case .proxyV1, .proxyV2:
          "let it expect the header (Postfix: -o smtpd_upstream_proxy_protocol=haproxy; others: "
            + "docs/recipes.md)"
        case .xclient:
          "let it take XCLIENT from this address (Postfix: smtpd_authorized_xclient_hosts)"
        case .xforward, .received, .none: "see docs/recipes.md"
        }
      var text =
        "It speaks plain SMTP: \(edit), or write downstream.identity: none (--identity none), which hides "
        + "the clients from it"
      if case .relays = plain {
        text += "; but then it would be an OPEN RELAY, because it trusts this machine's address"
      }
      sentences.append(text)
    }
  }
}

/// Runs all at once in threads of their own; gives what they return, in order.
private func inParallel<Value: Sendable>(_ jobs: [@Sendable () -> Value]) -> [Value] {
  let results = Results<Value>(jobs.count)
  for (index, job) in jobs.enumerated() { startThread { results.set(index, job()) } }
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
