// SPDX-License-Identifier: Apache-2.0
import Policy
import SMTP
import Structures
import Suspicion

// The session's commands, made anew from their checked parts.
extension Downstream {
  /// Re-makes a command and puts it into the buffer; it goes out with `flush`, together with the commands that join it.
  ///
  /// - Parameters:
  ///   - words: its argument; of EHLO and HELO the client's name.
  ///   - client: as it is now, where the downstream is told of it and it may be another than at the last command.
  ///   - isUTF8: the transaction may use SMTPUTF8.
  mutating func send(
    _ verb: Verb, _ words: Region, of client: Acquaintance?, isUTF8: Bool, _ l: LinkIndex,
    _ core: inout Core, _ m: inout Moment
  ) -> LinkSent {
    if let client { links[l].client.renew(client) }
    links[l].client.details.isUTF8 = isUTF8
    if verb == .mail && forwardDetails(l, &core, &m) { return .introducing }
    if verb == .starttls && !links[l].offer.keywords.contains(.starttls) {
      return .offersLess(.tlsUnavailable)
    }
    links[l].begin(verb)
    let room = room(l, core)
    let (written, isUnsupported) = write(verb, words, room, l, &core)
    if written == 0 {
      guard links[l].outstanding.isEmpty else { return .lost(lose(l, .closed, &core, &m)) }
      links[l].enter(.ready)
      return isUnsupported ? .offersLess(.parameterNotNow) : .tooLong
    }
    links[l].output.append(written)
    links[l].outstanding.append(verb)
    let timeouts = core.policy.timeouts
    core.setTimer(l, verb == .data ? timeouts.data : timeouts.reply, now: m.now)
    return .sent(room.prefix(written))
  }

  /// - Returns: how many octets it has, 0 where it cannot be said, and whether that is because a parameter is missing.
  private func write(
    _ verb: Verb, _ words: Region, _ room: Region, _ l: LinkIndex, _ core: inout Core
  ) -> (written: Int, isUnsupported: Bool) {
    let utf8 = links[l].client.details.isUTF8
    let isExtended = links[l].isExtended
    // AUTH= is a claim about the sender that only a trusted peer may make (RFC 4954, 5): taken off.
    let passing = links[l].offer.keywords.parameters(role: .inbound)
    let address = links[l].client.details.ends.address
    var isUnsupported = false
    let written = core.arena.transform(from: words, into: room) { bytes, out in
      switch verb {
      // In the words that this downstream knows, whichever the client's are.
      case .ehlo, .helo:
        _ = writeHello(isExtended ? "EHLO" : "HELO", bytes, from: address, into: &out)
      case .mail:
        if case .parsed(let arguments) = MailArguments.parse(bytes) {
          // The client was told more than its own connection was offered. BODY=7BIT says nothing.
          var needed = arguments.parameters.present.subtracting(.oursToCheck)
          if arguments.parameters.body == .sevenBit { needed.remove(.body) }
          isUnsupported = !needed.isSubset(of: passing)
          if !isUnsupported {
            _ = writeMail(arguments, from: bytes, passing: passing, into: &out)
          }
        }
      case .rcpt:
        if case .parsed(let arguments) = RcptArguments.parse(bytes, smtputf8: utf8) {
          isUnsupported = !arguments.parameters.present.isSubset(of: passing)
          if !isUnsupported {
            _ = writeRcpt(arguments, from: bytes, passing: passing, into: &out)
          }
        }
      case .data: _ = writeCommand("DATA", Span(), into: &out)
      case .rset: _ = writeCommand("RSET", Span(), into: &out)
      case .noop: _ = writeCommand("NOOP", Span(), into: &out)
      case .starttls: _ = writeCommand("STARTTLS", Span(), into: &out)
      default: break
      }
    }
    return (written, isUnsupported)
  }

  /// Says MAIL again, on a new connection, as it was said on the one before.
  ///
  /// - Returns: false if the downstream is told of the client first.
  mutating func repeatMail(
    _ line: Region, of client: Acquaintance, _ l: LinkIndex, _ core: inout Core, _ m: inout Moment
  ) -> Bool {
    links[l].client.renew(client)
    if forwardDetails(l, &core, &m) { return false }
    links[l].begin(.mail)
    links[l].outstanding.append(.mail)
    core.setTimer(l, core.policy.timeouts.reply, now: m.now)
    core.arena.move(line, to: room(l, core).offset)
    links[l].output.append(line.count)
    flush(l, core, &m)
    return true
  }

  /// The command, of those that were with a link when it was lost, whose answer is next; nil for the last one.
  mutating func nextUnanswered(_ l: LinkIndex) -> Verb? {
    guard links[l].outstanding.count > 1 else { return nil }
    return links[l].outstanding.removeFirst() ?? links[l].atHand
  }
}
