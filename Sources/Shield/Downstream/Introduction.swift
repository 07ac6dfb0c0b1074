// SPDX-License-Identifier: Apache-2.0
import Policy
import SMTP
import Structures
import Suspicion

// What is said of the client on a link. Each belongs to one client from its opening to its end, so a header or an
// XCLIENT is said once; XFORWARD and the trace header go with each transaction.
extension Downstream {
  /// Puts the PROXY header of a link's client into its buffer, where it is to begin with one.
  ///
  /// - Parameter facts: of the client's TLS, if it speaks TLS.
  mutating func writeProxyHeader(_ l: LinkIndex, _ facts: TLSFacts?, _ core: inout Core) {
    let identity = terms.introduction
    guard identity.isHeader else { return }
    let details = links[l].client.details
    let written = core.arena.append(into: room(l, core)) { out in
      if identity == .proxyV1 {
        ProxyHeader.writeV1(details.ends, into: &out)
        return
      }
      let session = details.session == 0 ? nil : details.session
      guard details.isTLS, let facts else {
        ProxyHeader.writeV2(details.ends, session: session, into: &out)
        return
      }
      let certificate: ClientTLS.Certificate =
        !facts.hasCertificate ? .none : facts.isVerified ? .verified : .unverified
      let version = facts.versionName
      ProxyHeader.writeV2(
        details.ends, session: session,
        authority: facts.name.span.extracting(0..<Int(facts.nameCount)),
        tls: ClientTLS(certificate: certificate), version: version.span, into: &out)
    }
    links[l].output.append(written)
  }

  /// Whether a link's greeting is still in Sluice's own name: the client has not been named by XCLIENT yet.
  func isUnintroduced(_ l: LinkIndex) -> Bool {
    terms.introduction == .xclient && !links[l].client.isIntroduced
  }

  /// Whether HELO may be tried where EHLO was refused. What takes a header has EHLO: the refusal was meant for
  /// the header, and the answers to come would pair with the wrong commands.
  var mayFallBack: Bool { !terms.introduction.isHeader && terms.introduction != .xclient }

  /// Whether what is answered on a link that is not ready yet may be about its client.
  func knowsClient(_ l: LinkIndex) -> Bool {
    switch links[l].state {
    case .greeting: terms.introduction.isHeader
    case .ehlo, .helo: !isUnintroduced(l)
    case .introducing: terms.introduction == .xclient
    default: false
    }
  }

  /// Before MAIL: tells the downstream about the client by XFORWARD, which it forgets with the transaction.
  ///
  /// - Returns: false if there is nothing to be told, or it was told.
  mutating func forwardDetails(_ l: LinkIndex, _ core: inout Core, _ m: inout Moment) -> Bool {
    guard terms.introduction == .xforward, !links[l].client.listed.isEmpty else { return false }
    if links[l].client.isIntroduced {
      links[l].client.forget()
      return false
    }
    links[l].client.beginLines()
    return sayClientLine(l, "XFORWARD", &core, &m)
  }

  /// Says the next line about the client, if there is one left.
  mutating func sayClientLine(
    _ l: LinkIndex, _ word: StaticString, _ core: inout Core, _ m: inout Moment
  ) -> Bool {
    let client = links[l].client
    let written = core.arena.transform(from: client.helo, into: room(l, core)) { helo, out in
      _ = writeClientLine(
        word, Int(client.linesSaid), of: client.listed, client.details, helo: helo, into: &out)
    }
    if written == 0 { return false }
    links[l].output.append(written)
    links[l].client.saidLine()
    links[l].enter(.introducing)
    links[l].input.expect()
    core.setTimer(l, core.policy.timeouts.reply, now: m.now)
    flush(l, core, &m)
    return true
  }
}
