// SPDX-License-Identifier: Apache-2.0
import Policy
import SMTP
import Structures
import Suspicion

// What a command gives away about its client.
extension Engine {
  /// Looks for signals in the current command.
  ///
  /// - Returns: whether the peer belongs into the tarpit now.
  mutating func inspect(_ i: ClientIndex, now: Instant) -> Bool {
    let s = clients.connections[i].session
    let hasMore = clients.sessions[s].inbox.hasMore
    switch clients.sessions[s].verb {
    case .ehlo, .helo:
      takeName(s)
      judge.recognizePool(i, &clients, core, now: now)
      // RFC 2920, 3.1: EHLO must be the last command of a group, its answer says what may follow.
      var bad = hasMore && note(.pipelining, i, now: now)
      if clients.sessions[s].greeting.isGreeted { bad = countIdle(i, now: now) || bad }
      if let signal = heloSignal(i) { bad = note(signal, i, now: now) || bad }
      return bad
    case .http, .header: return note(.nonSMTP, i, now: now)
    case .tlsHello: return note(.tlsHello, i, now: now)
    case .binary, .socks: return note(.binary, i, now: now)
    case .unknown, .lhlo, .turn, .atrn, .send, .soml, .saml:
      return note(.unknownCommand, i, now: now)
    case .data where hasMore: return note(.pipelining, i, now: now)
    case .mail, .rcpt, .data, .auth, .bdat: break
    case .rset, .noop, .vrfy, .expn, .help, .starttls, .xclient, .xforward, .etrn, .burl:
      if countIdle(i, now: now) { return true }
    case .quit: return false
    }
    // Without EHLO there is no pipelining (RFC 2920, 3).
    return hasMore && !clients.sessions[s].greeting.isExtended && note(.pipelining, i, now: now)
  }

  private mutating func note(_ signal: Signal, _ i: ClientIndex, now: Instant) -> Bool {
    judge.note(signal, i, &clients, &core, now: now)
  }

  /// Counts a command without mail.
  ///
  /// - Returns: whether the peer belongs into the tarpit for it.
  private mutating func countIdle(_ i: ClientIndex, now: Instant) -> Bool {
    let s = clients.connections[i].session
    return clients.sessions[s].use.countIdle(core.policy.session, now: now)
      && note(.commandFlood, i, now: now)
  }

  /// Keeps what a client greets with: for its reputation, the log, and the downstream.
  private mutating func takeName(_ s: SessionIndex) {
    let name = clients.argument(s, core)
    guard core.isName(name) || !core.policy.refusesLapses && name.count > 0 else { return }
    // A name that is too long is not kept, nor is its beginning.
    let kept = name.count <= HeloForm.octetsMax ? name : name.prefix(0)
    core.arena.move(kept, to: core.layout.helo(s).offset)
    clients.sessions[s].greeting.keepName(kept.count)
  }

  private func heloSignal(_ i: ClientIndex) -> Signal? {
    // What users' machines call themselves tells nothing: they are where their network puts them.
    if core.policy.role(of: clients.connections[i]) == .outbound { return nil }
    let name = core.arena.span(clients.argument(clients.connections[i].session, core))
    let address = clients.connections[i].address
    // Our own names and addresses are the truth where we say them ourselves.
    let own = core.policy.ownAddresses
    let isOurs = address.isLoopback || own.contains(address)
    switch HeloForm(name) {
    case .fullyQualified:
      return core.policy.isOwnName(name) && !isOurs ? .heloOwnName : nil
    case .localhost: return isOurs ? nil : .heloOwnName
    case .bareWord:
      if core.policy.isOwnName(name) { return isOurs ? nil : .heloOwnName }
      return .heloBareWord
    case .addressLiteral(let literal):
      guard let literal else { return .heloInvalid }
      if literal == address { return nil }
      if own.contains(literal) { return isOurs ? nil : .heloOwnAddress }
      return .heloForeignLiteral
    case .bareAddress(let literal):
      return own.contains(literal) && !isOurs ? .heloOwnAddress : .heloBareAddress
    case .invalid: return .heloInvalid
    }
  }
}

extension Policy {
  fileprivate func isOwnName(_ name: Span<UInt8>) -> Bool {
    var k = 0
    while k < ownNameBytes.count {
      let own = ownNameBytes[k]
      if equalsIgnoringCase(name, own.span) { return true }
      k += 1
    }
    return false
  }
}
