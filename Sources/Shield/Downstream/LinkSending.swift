// SPDX-License-Identifier: Apache-2.0
import Policy
import SMTP
import Structures
import Suspicion

// What goes over a link: octets of its own buffer, or of a session's input as they lie there. All callers write what they
// have checked.
extension Downstream {
  mutating func flush(_ l: LinkIndex, _ core: borrowing Core, _ m: inout Moment) {
    guard links[l].output.mayGo else { return }
    let region = links[l].output.send(from: core.layout.linkOut(l))
    m.append(.send(slot(l), region))
  }

  /// Where the next octets for a link go.
  func room(_ l: LinkIndex, _ core: borrowing Core) -> Region {
    links[l].output.free(in: core.layout.linkOut(l))
  }

  /// Puts octets into a link's own buffer, and sends them.
  mutating func write(
    _ l: LinkIndex, _ core: inout Core, _ m: inout Moment,
    _ body: (inout OutputSpan<UInt8>) -> Void
  ) {
    links[l].output.append(core.arena.append(into: room(l, core), body))
    flush(l, core, &m)
  }

  /// Says a command of ours to the downstream, whose state says what the reply is to.
  mutating func say(
    _ l: LinkIndex, _ command: StaticString, _ core: inout Core, _ m: inout Moment
  ) {
    links[l].input.expect()
    core.setTimer(l, core.policy.timeouts.reply, now: m.now)
    write(l, &core, &m) { out in _ = writeCommand(command, Span(), into: &out) }
  }

  /// Ends a link politely.
  mutating func quit(_ l: LinkIndex, _ core: inout Core, _ m: inout Moment) {
    links[l].enter(.quitting)
    core.setTimer(l, 5_000_000, now: m.now)
    write(l, &core, &m) { out in _ = writeCommand("QUIT", Span(), into: &out) }
  }

  /// Lets go of a session's link: politely between commands, without a final dot in a message, and not at all while the
  /// outcome of a whole message is still open.
  ///
  /// - Parameters:
  ///   - isInChallenge: the downstream waits for an answer to one, and would take QUIT for it.
  ///   - id: of the session, for the log.
  mutating func drop(
    _ l: LinkIndex, isInChallenge: Bool, of id: UInt64, _ core: inout Core, _ m: inout Moment
  ) {
    switch links[l].state {
    case .ready where isInChallenge: close(l, &core, &m)
    case .final: links[l].orphan(id)
    case .ready: quit(l, &core, &m)
    case .free, .closing, .quitting: break
    case .connecting, .greeting, .ehlo, .helo, .introducing, .starttls, .securing, .busy, .body,
      .spliced:
      close(l, &core, &m)
    }
    links[l].release()
  }

  // MARK: Messages

  /// Forwards message bytes straight from a session's input region, once what is in the buffer is out.
  mutating func forward(
    _ piece: Region, _ l: LinkIndex, _ core: inout Core, _ m: inout Moment
  ) {
    links[l].output.forward(piece)
    sendPiece(l, &core, &m)
  }

  mutating func sendPiece(_ l: LinkIndex, _ core: inout Core, _ m: inout Moment) {
    guard let piece = links[l].output.sendPiece() else { return }
    core.setTimer(l, core.policy.timeouts.block, now: m.now)
    m.append(.send(slot(l), piece))
  }

  /// Message bytes are in the buffer, `count` of them; or, if there are none, what is there is on its way and the message
  /// goes on when it is out.
  mutating func forwardBuffer(
    _ l: LinkIndex, _ count: Int, _ core: inout Core, _ m: inout Moment
  ) {
    links[l].output.forwardBuffer()
    if count == 0 { return }
    links[l].output.append(count)
    core.setTimer(l, core.policy.timeouts.block, now: m.now)
    flush(l, core, &m)
  }

  /// Puts the trace header of the session's client into the buffer: it goes out before the message. Once for each
  /// message.
  mutating func writeTrace(
    _ l: LinkIndex, _ client: Acquaintance, _ core: inout Core, _ m: inout Moment
  ) {
    guard terms.introduction == .received else { return }
    let host = core.policy.hostnameBytes
    let date = (wallClock &+ m.now.microseconds) / 1_000_000
    let written = core.arena.transform(from: client.helo, into: core.layout.linkOut(l)) {
      helo, out in
      _ = writeTraceHeader(client.details, helo: helo, host: host.span, date: date, into: &out)
    }
    invariant(written > 0, "a trace header did not fit into \(Layout.linkOutBytes) octets")
    links[l].output.append(written)
    core.setTimer(l, core.policy.timeouts.block, now: m.now)
    flush(l, core, &m)
  }

  /// The end of the message is out.
  mutating func awaitFinal(_ l: LinkIndex, _ core: inout Core, now: Instant) {
    links[l].enter(.final)
    links[l].input.expectFinal()
    core.setTimer(l, core.policy.timeouts.endOfData, now: now)
  }

  // MARK: A log-in

  /// Says AUTH, an answer, or that there will be none. Its form is checked.
  ///
  /// The line may be longer than a link's buffer: what has no room waits in the client's input, where the line stays
  /// until its reply has come, and follows when the rest is out (`sayMore`).
  ///
  /// - Parameter argument: the mechanism and a first answer, or the answer.
  mutating func sayLogin(
    _ word: LoginWord, _ argument: Region, _ l: LinkIndex, _ core: inout Core, _ m: inout Moment
  ) -> LinkSent {
    links[l].begin(.auth, isCancelling: word == .cancel)
    let room = room(l, core)
    let written = core.arena.append(into: room) { out in
      switch word {
      case .cancel: _ = writeCommand("*", Span(), into: &out)
      case .auth: writeWord("AUTH", into: &out)
      case .answer: break
      }
    }
    links[l].outstanding.append(.auth)
    guard written > 0 || word == .answer else {
      // It answered what it has not been sent: there is no room even for a word.
      return .lost(lose(l, .unexpectedReply, &core, &m))
    }
    links[l].output.append(written)
    core.setTimer(l, core.policy.timeouts.reply, now: m.now)
    if word != .cancel {
      links[l].output.beginLine(argument.count + 2)
      takeMore(argument, l, &core)
    }
    return .sent(room.prefix(written))
  }

  /// The downstream has taken all that was said of a line: there is room for more of it.
  mutating func sayMore(
    _ argument: Region, _ l: LinkIndex, _ core: inout Core, _ m: inout Moment
  ) {
    takeMore(argument, l, &core)
    flush(l, core, &m)
  }

  private mutating func takeMore(_ line: Region, _ l: LinkIndex, _ core: inout Core) {
    let room = room(l, core)
    let rest = line.from(line.count + 2 - max(Int(links[l].output.unsaid), 2))
    let piece = rest.prefix(min(rest.count, room.count))
    core.arena.move(piece, to: room.offset)
    links[l].output.append(piece.count)
    links[l].output.said(piece.count)
    // The line's end is not taken apart.
    if links[l].output.unsaid == 2 {
      let written = core.arena.append(into: room.from(piece.count)) { out in
        _ = out.appendLineEnd()
      }
      links[l].output.append(written)
      links[l].output.said(written)
    }
  }

  // MARK: Recipients

  /// Keeps the path of a recipient until its reply has come: the log names the one that was refused.
  mutating func keepRecipient(_ path: Region, _ l: LinkIndex, _ core: inout Core) {
    let place = core.layout.linkPath(l, links[l].tellRecipient())
    core.arena[place.offset] = UInt8(path.count)
    core.arena.move(path, to: place.offset + 1)
  }

  /// The path of the recipient that is answered now.
  mutating func recallRecipient(_ l: LinkIndex, _ core: borrowing Core) -> Region {
    let place = core.layout.linkPath(l, links[l].answerRecipient())
    return Region(offset: place.offset + 1, count: Int(core.arena[place.offset]))
  }
}
