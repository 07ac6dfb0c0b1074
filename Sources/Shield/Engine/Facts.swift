// SPDX-License-Identifier: Apache-2.0
import SMTP
import Structures
import Suspicion

// Facts about clients, by where they stand.
extension Engine {
  // MARK: Hearing

  /// `count` bytes came into the input region of a talking client.
  mutating func sessionHeard(_ i: ClientIndex, _ count: Int, _ m: inout Moment) {
    let s = clients.connections[i].session
    clients.sessions[s].inbox.filled()
    clients.sessions[s].heard(count)
    judge.spend(i, count, clients, core, now: m.now)
    switch clients.sessions[s].phase {
    case .body, .swallow: heardBody(i, count, &m)
    case .command, .challenge:
      clients.sessions[s].inbox.take(count)
      wake(i)
    case .forwarded where clients.sessions[s].verb == .data,
      .holding where clients.sessions[s].verb == .data:
      // Message bytes ahead of 354: what reads them as commands is smuggled mail (RFC 5321, 4.1.1.4).
      judge.note(.pipelining, i, &clients, &core, now: m.now)
      leaveForFault(i, .dataTooEarly, &m)
    case .due, .delaying, .opening, .forwarded, .holding, .final, .securing:
      // Read only to find out whether a client that closed its side had said more before.
      clients.sessions[s].inbox.take(count)
      askForMore(i, &m)
    case .spliced: spliceHeard(i, count, &m)
    case .leaving: break
    }
  }

  // MARK: Sending

  /// Part of a session's outbox is out.
  mutating func sessionSent(_ i: ClientIndex, _ count: Int, _ m: inout Moment) {
    let s = clients.connections[i].session
    clients.sessions[s].outbox.sent(count)
    clients.sessions[s].sent(count)
    if !clients.sessions[s].outbox.isEmpty {
      // What is left may be a reply that waits for its time, and nothing else happens until then.
      flush(i, &m)
      return
    }
    switch clients.sessions[s].phase {
    case .securing: beginHandshake(i, &m)
    case .spliced: deliverSplice(i, clients.sessions[s].link, &m)
    case .leaving(.tarpit): moveToTarpit(i, &m)
    // After QUIT with nothing behind it there is nothing a reset could destroy.
    case .leaving where clients.sessions[s].verb == .quit && clients.sessions[s].inbox.isEmpty:
      close(i, &m)
    case .leaving: endSession(i, &m)
    default: wake(i)
    }
  }

  // MARK: Ending

  /// The client has closed its sending side.
  mutating func clientEnded(_ i: ClientIndex, _ m: inout Moment) {
    clients.connections[i].flags.insert(.ended)
    switch clients.connections[i].state {
    case .talking: sessionEnded(i, &m)
    case .announced: leftWithoutHeader(i, &m)
    case .banner, .refusing: break  // the send decides
    case .free, .closing: break
    case .waiting, .idle, .dripping, .pit, .draining, .securing: hungUp(i, &m)
    }
  }

  /// A talking client has closed its sending side. What it said before is still answered.
  private mutating func sessionEnded(_ i: ClientIndex, _ m: inout Moment) {
    let s = clients.connections[i].session
    let wasReading = clients.sessions[s].inbox.ended()
    switch clients.sessions[s].phase {
    case .command where !wasReading, .challenge where !wasReading: askForMore(i, &m)
    case .command, .challenge: clientLeft(i, &m)
    // They read on by themselves, when there is credit or what came before is out, and meet the end behind the rest.
    case .body where !wasReading, .swallow where !wasReading, .spliced where !wasReading: break
    case .body, .swallow: hungUp(i, &m)
    case .delaying, .holding:
      if !wasReading {
        askForMore(i, &m)
        // No room to look: the buffer is full of commands, so it is not leaving.
      } else if !hasWholeLineAhead(s) {
        hungUp(i, &m)
      }
    case .due, .opening, .forwarded, .final: if !wasReading { askForMore(i, &m) }
    case .securing: hungUp(i, &m)
    case .spliced: finishSplice(i, &m)
    case .leaving: break
    }
  }

  private func hasWholeLineAhead(_ s: SessionIndex) -> Bool {
    let ahead = clients.sessions[s].inbox.waiting(
      in: core.layout.input(s), ahead: Int(clients.sessions[s].inbox.lineConsumed))
    return core.lineEnd(in: ahead) < ahead.count
  }

  /// A slot is closed that had a session's memory in flight.
  mutating func unpinned(_ s: SessionIndex, _ m: inout Moment) {
    clients.sessions[s].endRelaying()
    if clients.sessions[s].owner.exists {
      goOnSwallowing(clients.sessions[s].owner, &m)
    } else {
      unpin(s)
    }
  }

  // MARK: Handshakes

  /// A client's handshake has succeeded.
  mutating func clientSecured(_ i: ClientIndex, _ facts: TLSFacts, _ m: inout Moment) {
    judge.handshakeDone(i, clients)
    clients.secured.set(i, facts)
    var entry = clients.entry(.secured, i, core, now: m.now)
    entry.tls = facts
    core.journal.append(entry)
    core.timers.cancel(i)
    switch clients.connections[i].state {
    case .securing where clients.connections[i].flags.contains(.countedBad): listenInPit(i, &m)
    case .securing: welcome(i, &m)
    case .talking where clients.sessions[clients.connections[i].session].phase == .securing:
      clients.sessions[clients.connections[i].session].enter(.command)
      wake(i)
    default: break
    }
  }

  /// A client's handshake has failed, or it left during it.
  mutating func clientNotSecured(_ i: ClientIndex, _ why: Subject, _ m: inout Moment) {
    core.counters.handshakesFailed += 1
    if why == .notTLS { core.counters.protocolFaults += 1 }
    var entry = clients.entry(.notSecured, i, core, now: m.now)
    entry.subject = why
    core.journal.append(entry)
    close(i, as: .tlsFailed, &m)
  }
}
