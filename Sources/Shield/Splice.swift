// SPDX-License-Identifier: Apache-2.0
import Policy
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
  mutating func passOnSTARTTLS(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    // A connection that knows of a transaction is not the one to shake hands on.
    resetTransaction(i)
    dropLink(of: i, now: now, into: &effects)
    forward(i, now: now, into: &effects)
  }

  /// The downstream said 220: from here on octets pass.
  mutating func beginSplice(_ i: Int, _ l: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    links[l].state = .spliced
    links[l].inStart = 0
    links[l].inEnd = 0
    passReply(i, l, now: now)
    finish(i)
    sessions[s].phase = .spliced
    sessions[s].inputStart = 0
    sessions[s].inputEnd = 0
    wheel.cancel(limits.connections + l)
    counters.spliced += 1
    journal.append(entry(.spliced, i, now: now))
    flush(i, now: now, into: &effects)
    readSplice(i, now: now, into: &effects)
  }

  /// Reads more of the client, as much as its source's byte rate has credit for.
  mutating func readSplice(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    sessions[s].flags.remove(.paused)
    if !sessions[s].flags.isDisjoint(with: .inputBusy) { return }
    if age(i, now: now) > policy.timeouts.session {
      limitReached(i, .time, now: now)
      close(i, now: now, into: &effects)
      return
    }
    var room = input(s)
    if let credit = credit(i, now: now), credit < room.count {
      if credit < 1 {
        pauseBody(i, now: now)
        return
      }
      room = room.prefix(credit)
    }
    wheel.set(i, at: now.after(microseconds: spliceTimeout))
    receive(i, into: room, into: &effects)
  }

  /// `count` octets of the client are on their way.
  mutating func spliceHeard(_ i: Int, _ count: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    let l = Int(sessions[s].link)
    sessions[s].flags.insert(.relaying)
    sessions[s].relayStart = sessions[s].fillStart
    sessions[s].relayEnd = sessions[s].fillStart + Int32(count)
    sendBody(l, s, now: now, into: &effects)
  }

  /// Those are with the downstream.
  mutating func spliceForwarded(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    sessions[s].flags.remove(.relaying)
    wheel.cancel(limits.connections + Int(sessions[s].link))
    if sessions[s].flags.contains(.ended) {
      finishSplice(i, now: now, into: &effects)
    } else {
      readSplice(i, now: now, into: &effects)
    }
  }

  /// The client has closed its side and all it said is with the downstream, which hears of the end and may answer:
  /// what it accepted must not be sent again for want of its reply. One deadline for all of that.
  mutating func finishSplice(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    wheel.set(i, at: now.after(microseconds: spliceTimeout))
    let l = Int(sessions[Int(connections[i].session)].link)
    effects.append(.finish(slot(link: l)))
  }

  /// Octets of the downstream lie ready, or the client has taken those before: one piece at a time.
  mutating func deliverSplice(_ i: Int, _ l: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    let count = Int(links[l].inEnd)
    guard count > 0, sessions[s].outEnd == 0 else { return }
    arena.move(linkIn(l).prefix(count), to: outbox(s).offset)
    sessions[s].outEnd = Int32(count)
    links[l].inEnd = 0
    // The answer is what the client waits for: its time begins anew.
    if sessions[s].flags.isDisjoint(with: .keepsDeadline) {
      wheel.set(i, at: now.after(microseconds: spliceTimeout))
    }
    flush(i, now: now, into: &effects)
    effects.append(.fill(slot(link: l), linkIn(l)))
  }

  /// The downstream is gone: the client gets what it said before, and then the end.
  mutating func spliceLost(_ i: Int, now: Instant, into effects: inout EffectQueue) {
    let s = Int(connections[i].session)
    if sessions[s].outStart < sessions[s].outEnd {
      sessions[s].phase = .leaving
      wheel.set(i, at: now.after(microseconds: policy.timeouts.send))
      flush(i, now: now, into: &effects)
    } else {
      writeClosingLine(i, now: now)
      returnSession(i)
      beginDraining(i, now: now, into: &effects)
    }
  }
}
