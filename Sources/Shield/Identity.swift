// SPDX-License-Identifier: Apache-2.0
import SMTP
import Policy
import Structures
import Suspicion

// What is said of the client on a downstream connection. Each belongs to one client from its opening to its
// end, so a header or an XCLIENT is said once; XFORWARD and the trace header go with each transaction.
extension Engine {
  /// What is known of the client a link serves; of a probe, that it is a stranger.
  func details(ofLink l: Int) -> ClientDetails {
    let s = Int(links[l].session)
    let i = s >= 0 ? Int(sessions[s].owner) : -1
    guard i >= 0 else { return ClientDetails(.stranger) }
    var ends = ClientEnds(address: connections[i].address, port: connections[i].port)
    let listener = Int(connections[i].listener)
    if listener < policy.listeners.count {
      let terms = policy.listeners[listener]
      ends = ClientEnds(
        address: ends.address, port: ends.port, server: terms.isWildcard ? nil : terms.address,
        serverPort: terms.port)
    }
    var details = ClientDetails(ends)
    details.isExtended = sessions[s].flags.contains(.extended)
    details.isTLS = connections[i].flags.contains(.encrypted)
    details.isAuthenticated = sessions[s].flags.contains(.authenticated)
    details.isUTF8 = sessions[s].flags.contains(.utf8)
    details.session = sessionID(i)
    return details
  }

  /// The name a link's client gave itself; empty for a probe.
  private func helo(ofLink l: Int) -> Region {
    let s = Int(links[l].session)
    return s >= 0 ? heloName(s) : Region(offset: 0, count: 0)
  }

  /// Puts the PROXY header of a link's client into its buffer, where it is to begin with one.
  mutating func writeProxyHeader(_ l: Int) {
    let identity = downstream.terms.introduction
    guard identity.isHeader else { return }
    let details = details(ofLink: l)
    let s = Int(links[l].session)
    let facts = details.isTLS ? secured[Int(sessions[s].owner)] : nil
    links[l].outEnd += Int32(
      arena.append(into: linkOut(l).from(Int(links[l].outEnd))) { out in
        if identity == .proxyV1 {
          ProxyHeader.writeV1(details.ends, into: &out)
          return
        }
        let session = details.session == 0 ? nil : details.session
        guard let facts else {
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
      })
  }

  /// Whether a link's greeting is still in Sluice's own name: who may say XCLIENT is not its client.
  func isUnintroduced(_ l: Int) -> Bool {
    downstream.terms.introduction == .xclient && !links[l].isIntroduced
  }

  /// Whether HELO may be tried where EHLO was refused. What takes a header has EHLO: the refusal was meant for
  /// the header, and the answers to come would pair with the wrong commands.
  func mayFallBack(_ l: Int) -> Bool {
    !downstream.terms.introduction.isHeader && downstream.terms.introduction != .xclient
  }

  /// Before the client's own EHLO: tells the downstream about it by XCLIENT.
  ///
  /// - Returns: false if there is nothing to be told, or it was told.
  mutating func introduce(_ l: Int, now: Instant, into effects: inout EffectQueue) -> Bool {
    guard isUnintroduced(l) else { return false }
    guard links[l].listed.contains(.address) else {
      // Without it the downstream would take the client for Sluice, whom it may trust.
      linkFailed(l, .identityNotOffered, now: now, into: &effects)
      return true
    }
    links[l].linesSaid = 0
    _ = sayClientLine(l, "XCLIENT", now: now, into: &effects)
    return true
  }

  /// Before MAIL: tells the downstream about the client by XFORWARD, which it forgets with the transaction.
  ///
  /// - Returns: false if there is nothing to be told, or it was told.
  mutating func forwardDetails(_ l: Int, now: Instant, into effects: inout EffectQueue) -> Bool {
    guard downstream.terms.introduction == .xforward, !links[l].listed.isEmpty else { return false }
    if links[l].isIntroduced {
      links[l].isIntroduced = false
      return false
    }
    links[l].linesSaid = 0
    return sayClientLine(l, "XFORWARD", now: now, into: &effects)
  }

  /// Says the next line about the client, if there is one left.
  private mutating func sayClientLine(
    _ l: Int, _ word: StaticString, now: Instant, into effects: inout EffectQueue
  ) -> Bool {
    let details = details(ofLink: l)
    let (listed, number) = (links[l].listed, Int(links[l].linesSaid))
    let room = linkOut(l).from(Int(links[l].outEnd))
    let written = arena.transform(from: helo(ofLink: l), into: room) { helo, out in
      _ = writeClientLine(word, number, of: listed, details, helo: helo, into: &out)
    }
    if written == 0 { return false }
    links[l].outEnd += Int32(written)
    links[l].linesSaid += 1
    links[l].state = .introducing
    links[l].reader.reset()
    setLinkTimer(l, policy.timeouts.reply, now: now)
    flushLink(l, into: &effects)
    return true
  }

  /// The downstream's answer to a line about the client.
  mutating func introduced(
    _ l: Int, _ code: UInt16, now: Instant, into effects: inout EffectQueue
  ) {
    let isXCLIENT = downstream.terms.introduction == .xclient
    // 220 to XCLIENT, 250 to XFORWARD; by its first digit (RFC 5321, 4.3.2), save a goodbye.
    guard code / 100 == 2, code != 221 else {
      linkRefused(l, .identityRefused, code, now: now, into: &effects)
      return
    }
    if sayClientLine(l, isXCLIENT ? "XCLIENT" : "XFORWARD", now: now, into: &effects) { return }
    links[l].isIntroduced = true
    if isXCLIENT {
      // XCLIENT_README: the session begins anew, with EHLO, this time in the client's name.
      greetDownstream(l, extended: true, now: now, into: &effects)
    } else {
      linkReady(l, now: now, into: &effects)
    }
  }

  /// Puts the trace header into a link's buffer: it goes out before the message. Once for each message.
  mutating func writeTrace(_ l: Int, now: Instant, into effects: inout EffectQueue) {
    guard downstream.terms.introduction == .received else { return }
    let details = details(ofLink: l)
    let host = policy.hostnameBytes
    let date = (wallClock &+ now.microseconds) / 1_000_000
    let written = arena.transform(from: helo(ofLink: l), into: linkOut(l)) { helo, out in
      _ = writeTraceHeader(details, helo: helo, host: host.span, date: date, into: &out)
    }
    invariant(written > 0, "a trace header did not fit into \(Layout.linkOutBytes) octets")
    links[l].outEnd = Int32(written)
    setLinkTimer(l, policy.timeouts.block, now: now)
    flushLink(l, into: &effects)
  }

  /// Why a downstream connection failed before its greeting was over, in words that name the likely cause: what
  /// it answers to a header that it does not expect, or how it waits for one that does not come.
  func cause(_ why: Subject, _ l: Int) -> Subject {
    switch (links[l].state, why) {
    case (.greeting, .silence) where !downstream.terms.introduction.isHeader,
      (.greeting, .closed) where !downstream.terms.introduction.isHeader:
      .greetingMissing
    // Postfix, after 5 s.
    case (.greeting, .greeting)
    where !downstream.terms.introduction.isHeader && links[l].reader.code == 421:
      .greetingMissing
    // A greeting that cannot be read says nothing of a header.
    case (.greeting, .closed), (.greeting, .unexpectedReply), (.ehlo, .closed),
      (.ehlo, .unexpectedReply), (.ehlo, .heloRefused), (.helo, .closed),
      (.helo, .unexpectedReply), (.helo, .heloRefused):
      // Once it has taken one, it is this client that it does not take.
      downstream.terms.introduction.isHeader && (links[l].session < 0 || downstream.isUp != true)
        ? .headerNotTaken : why
    default: why
    }
  }
}
