// SPDX-License-Identifier: Apache-2.0
import Policy
import SMTP
import Structures
import Suspicion

// TLS that is the downstream's (`tls: pass_through`): after its 220 to STARTTLS both directions are passed on as they
// come. Sluice shapes octets and time, and is otherwise blind: no command is seen, no reply, no message, and nobody
// earns trust by what goes through here.
extension Engine {
  /// The downstream said 220: from here on octets pass.
  mutating func beginSplice(_ i: ClientIndex, _ l: LinkIndex, _ m: inout Moment) {
    let s = clients.connections[i].session
    passReply(i, l, to: .starttls, now: m.now)
    downstream.splice(l, &core)
    clients.sessions[s].finish(to: .spliced)
    clients.sessions[s].inbox.emptied()
    core.counters.spliced += 1
    core.journal.append(clients.entry(.spliced, i, core, now: m.now))
    flush(i, &m)
    readSplice(i, &m)
  }

  /// Reads more of the client, as much as its source's byte rate has credit for.
  mutating func readSplice(_ i: ClientIndex, _ m: inout Moment) {
    let s = clients.connections[i].session
    clients.sessions[s].passage.resume()
    if clients.sessions[s].inbox.isFilling || clients.sessions[s].isRelaying { return }
    if clients.age(i, now: m.now) > core.policy.timeouts.session {
      core.limitReached(i, .time, clients, now: m.now)
      close(i, &m)
      return
    }
    var room = core.layout.input(s)
    if let credit = judge.credit(i, clients, core, now: m.now), credit < room.count {
      if credit < 1 {
        pauseReading(i, now: m.now)
        return
      }
      room = room.prefix(credit)
    }
    core.timers.set(i, at: m.now.after(microseconds: core.spliceTimeout))
    receive(i, into: room, &m)
  }

  /// `count` octets of the client are on their way.
  mutating func spliceHeard(_ i: ClientIndex, _ count: Int, _ m: inout Moment) {
    let s = clients.connections[i].session
    clients.sessions[s].beginRelaying()
    let piece = core.layout.input(s).from(Int(clients.sessions[s].inbox.fillStart)).prefix(count)
    downstream.forward(piece, clients.sessions[s].link, &core, &m)
  }

  /// Those are with the downstream.
  mutating func spliceForwarded(_ i: ClientIndex, _ m: inout Moment) {
    let s = clients.connections[i].session
    clients.sessions[s].endRelaying()
    core.timers.cancel(clients.sessions[s].link)
    if clients.sessions[s].inbox.hasEnded {
      finishSplice(i, &m)
    } else {
      readSplice(i, &m)
    }
  }

  /// The client has closed its side, and the downstream has all it sent, and sees the end too. It may still answer: mail
  /// that it accepted must not be sent again because its reply was lost. There is one deadline for all of that.
  mutating func finishSplice(_ i: ClientIndex, _ m: inout Moment) {
    core.timers.set(i, at: m.now.after(microseconds: core.spliceTimeout))
    m.append(.finish(downstream.slot(clients.sessions[clients.connections[i].session].link)))
  }

  /// Octets of the downstream lie ready, or the client has taken those before: one piece at a time.
  mutating func deliverSplice(_ i: ClientIndex, _ l: LinkIndex, _ m: inout Moment) {
    let s = clients.connections[i].session
    let count = downstream.links[l].input.passing
    guard count > 0, clients.sessions[s].outbox.isReset else { return }
    core.arena.move(core.layout.linkIn(l).prefix(count), to: core.layout.outbox(s).offset)
    clients.sessions[s].outbox.append(count)
    downstream.links[l].input.passed()
    // The answer is what the client waits for: its time begins anew.
    if !clients.sessions[s].passage.isPaused && !clients.sessions[s].inbox.hasEnded {
      core.timers.set(i, at: m.now.after(microseconds: core.spliceTimeout))
    }
    flush(i, &m)
    m.append(.fill(downstream.slot(l), core.layout.linkIn(l)))
  }

  /// The downstream is gone: the client gets what it said before, and then the end.
  mutating func spliceLost(_ i: ClientIndex, _ m: inout Moment) {
    if clients.sessions[clients.connections[i].session].outbox.isEmpty {
      endSession(i, &m)
    } else {
      beginLeaving(i, &m)
    }
  }
}

extension Core {
  /// How long a client may be silent, in microseconds. Which command it waits for is not seen: it may be the end of
  /// a message, and the time is the downstream's then.
  fileprivate var spliceTimeout: Int64 {
    max(policy.timeouts.command, policy.timeouts.endOfData)
  }
}
