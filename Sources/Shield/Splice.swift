// SPDX-License-Identifier: Apache-2.0
import SMTP
import Structures
import Suspicion

// TLS that is the downstream's (`tls: pass_through`): after its 220 to STARTTLS both directions are passed on as they
// come. Sluice shapes octets and time, and is otherwise blind: no command is seen, no reply, no message, and nobody
// earns trust by what goes through here.
extension Engine {
  /// How long the client may be silent, in microseconds. Which command it waits for is not seen: it may be the end of
  /// a message, and the time is the downstream's then.
  private var spliceTimeout: Int64 { max(policy.timeouts.command, policy.timeouts.endOfData) }

  /// STARTTLS on a listener that leaves TLS to the downstream.
  mutating func passOnSTARTTLS(_ i: ClientIndex, _ m: inout Moment) {
    // A connection that knows of a transaction is not the one to shake hands on.
    resetTransaction(i)
    dropLink(of: i, &m)
    forward(i, &m)
  }

  /// The downstream said 220: from here on octets pass.
  mutating func beginSplice(_ i: ClientIndex, _ l: LinkIndex, _ m: inout Moment) {
    let s = connections[i].session
    links[l].state = .spliced
    links[l].inStart = 0
    links[l].inEnd = 0
    passReply(i, l, now: m.now)
    finish(i)
    sessions[s].phase = .spliced
    sessions[s].inputStart = 0
    sessions[s].inputEnd = 0
    timers.cancel(l)
    counters.spliced += 1
    journal.append(entry(.spliced, i, now: m.now))
    flush(i, &m)
    readSplice(i, &m)
  }

  /// Reads more of the client, as much as its source's byte rate has credit for.
  mutating func readSplice(_ i: ClientIndex, _ m: inout Moment) {
    let s = connections[i].session
    sessions[s].flags.remove(.paused)
    if !sessions[s].flags.isDisjoint(with: .inputBusy) { return }
    if age(i, now: m.now) > policy.timeouts.session {
      limitReached(i, .time, now: m.now)
      close(i, &m)
      return
    }
    var room = input(s)
    if let credit = credit(i, now: m.now), credit < room.count {
      if credit < 1 {
        pauseBody(i, now: m.now)
        return
      }
      room = room.prefix(credit)
    }
    timers.set(i, at: m.now.after(microseconds: spliceTimeout))
    receive(i, into: room, &m)
  }

  /// `count` octets of the client are on their way.
  mutating func spliceHeard(_ i: ClientIndex, _ count: Int, _ m: inout Moment) {
    let s = connections[i].session
    let l = sessions[s].link
    sessions[s].flags.insert(.relaying)
    sessions[s].relayStart = sessions[s].fillStart
    sessions[s].relayEnd = sessions[s].fillStart + Int32(count)
    sendBody(l, s, &m)
  }

  /// Those are with the downstream.
  mutating func spliceForwarded(_ i: ClientIndex, _ m: inout Moment) {
    let s = connections[i].session
    sessions[s].flags.remove(.relaying)
    timers.cancel(sessions[s].link)
    if sessions[s].flags.contains(.ended) {
      finishSplice(i, &m)
    } else {
      readSplice(i, &m)
    }
  }

  /// The client has closed its side and all it said is with the downstream, which hears of the end and may answer:
  /// what it accepted must not be sent again for want of its reply. One deadline for all of that.
  mutating func finishSplice(_ i: ClientIndex, _ m: inout Moment) {
    timers.set(i, at: m.now.after(microseconds: spliceTimeout))
    let l = sessions[connections[i].session].link
    m.append(.finish(slot(link: l)))
  }

  /// Octets of the downstream lie ready, or the client has taken those before: one piece at a time.
  mutating func deliverSplice(_ i: ClientIndex, _ l: LinkIndex, _ m: inout Moment) {
    let s = connections[i].session
    let count = Int(links[l].inEnd)
    guard count > 0, sessions[s].outEnd == 0 else { return }
    arena.move(linkIn(l).prefix(count), to: outbox(s).offset)
    sessions[s].outEnd = Int32(count)
    links[l].inEnd = 0
    // The answer is what the client waits for: its time begins anew.
    if sessions[s].flags.isDisjoint(with: .keepsDeadline) {
      timers.set(i, at: m.now.after(microseconds: spliceTimeout))
    }
    flush(i, &m)
    m.append(.fill(slot(link: l), linkIn(l)))
  }

  /// The downstream is gone: the client gets what it said before, and then the end.
  mutating func spliceLost(_ i: ClientIndex, _ m: inout Moment) {
    let s = connections[i].session
    if sessions[s].outStart < sessions[s].outEnd {
      sessions[s].phase = .leaving
      timers.set(i, at: m.now.after(microseconds: policy.timeouts.send))
      flush(i, &m)
    } else {
      writeClosingLine(i, now: m.now)
      returnSession(i)
      beginDraining(i, &m)
    }
  }
}
