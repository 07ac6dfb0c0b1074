// SPDX-License-Identifier: Apache-2.0
import Policy
import SMTP
import Structures
import Suspicion

// Deadlines of clients, and which of them are hurried when room runs out.
extension Engine {
  mutating func clientTimer(_ i: ClientIndex, _ m: inout Moment) {
    if core.isDraining && drained(i, &m) { return }
    switch clients.connections[i].state {
    case .announced: noHeader(i, .headerMissing, &m)
    case .waiting: sendBanner(i, &m)
    case .idle:
      timedOut(i, now: m.now)
      refuse(i, .timeout, &m)
    case .talking: sessionTimer(i, &m)
    case .dripping, .pit: tarpitTimer(i, &m)
    case .securing:
      timedOut(i, now: m.now)
      close(i, as: .tlsFailed, &m)
    case .banner, .refusing:
      timedOut(i, now: m.now)
      close(i, &m)
    case .draining: close(i, &m)
    case .free, .closing: break
    }
  }

  /// Tells a client to go, if that hurts nothing.
  ///
  /// - Returns: whether it was told.
  private mutating func drained(_ i: ClientIndex, _ m: inout Moment) -> Bool {
    switch clients.connections[i].state {
    case .dripping, .pit: shed(i, as: .shed, &m)
    case .waiting, .idle: refuse(i, .shed, &m)
    case .talking where clients.sessions[clients.connections[i].session].isBetweenMessages:
      refuse(i, .shed, &m)
    case .announced:
      clients.connections[i].flags.insert(.logged)
      close(i, &m)
    case .free, .banner, .talking, .refusing, .draining, .closing, .securing: return false
    }
    return true
  }

  private mutating func sessionTimer(_ i: ClientIndex, _ m: inout Moment) {
    let s = clients.connections[i].session
    switch clients.sessions[s].phase {
    case .delaying:
      clients.sessions[s].enter(.due(.execute))
      wake(i)
    case .holding: heldReplyDue(i, &m)
    case .command, .challenge:
      timedOut(i, now: m.now)
      if clients.sessions[s].outbox.isEmpty {
        leave(i, .timeout, &m)
      } else {
        close(i, &m)  // it does not even take its replies
      }
    case .body, .swallow:
      if clients.sessions[s].passage.isPaused {
        readBody(i, &m)
      } else if clients.sessions[s].isRelaying {
        // Not the client dawdles but the downstream, and that has a clock of its own.
        core.timers.set(i, at: m.now.after(microseconds: core.policy.timeouts.body))
      } else {
        timedOut(i, now: m.now)
        leave(i, .timeout, &m)
      }
    case .leaving: close(i, &m)
    case .spliced where clients.sessions[s].passage.isPaused: readSplice(i, &m)
    case .securing:
      timedOut(i, now: m.now)
      close(i, as: .tlsFailed, &m)
    case .spliced:
      timedOut(i, now: m.now)
      close(i, &m)
    case .opening where isPaused(s), .forwarded where isPaused(s):
      // It does not take its replies.
      timedOut(i, now: m.now)
      close(i, &m)
    case .due, .opening, .forwarded, .final: break  // the downstream's clock is running
    }
  }

  /// The delay of a reply is over. Those behind it are read before the client's next command.
  private mutating func heldReplyDue(_ i: ClientIndex, _ m: inout Moment) {
    let s = clients.connections[i].session
    releaseReply(i, &m)
    guard clients.connections[i].state == .talking else { return }
    let l = clients.sessions[s].link
    if l.exists && downstream.links[l].state == .busy && clients.sessions[s].phase == .forwarded {
      readOn(l, &m)
    } else {
      wake(i)
    }
  }

  /// Whether the downstream's replies wait for the client to take its own.
  private func isPaused(_ s: SessionIndex) -> Bool {
    let l = clients.sessions[s].link
    return l.exists && downstream.links[l].input.isPaused
  }

  // MARK: Room

  /// Makes room, once a second at most: tarpitted peers that have been held long enough for the present,
  /// and clients that hold scarce places, get their timers moved up. This walks all connections. Whether it is needed is
  /// checked ten times a second, which costs next to nothing.
  mutating func relieve(now: Instant) {
    nextRelief = now.after(microseconds: 100_000)
    let isStressed = judge.noteStress(clients, core, now: now)
    guard isStressed || core.occupancy >= core.policy.shrinkAt else { return }
    nextRelief = now.after(microseconds: 1_000_000)
    let most = core.tarpitTime
    for n in 0..<clients.capacity {
      let i = ClientIndex(n)
      switch clients.connections[i].state {
      case .pit where clients.age(i, now: now) >= most: core.timers.set(i, at: now)
      case .idle where isStressed, .securing where isStressed:
        let soon = now.after(microseconds: core.commandTimeout(i, clients))
        core.timers.moveUp(i, to: soon)
      case .talking where isStressed: hurry(i, now: now)
      default: break
      }
    }
  }

  /// A talking client, once a second: if a pool runs out in which it holds a place, it must get on.
  private mutating func hurry(_ i: ClientIndex, now: Instant) {
    guard core.isPressed(i, clients) else { return }
    let soon = now.after(microseconds: core.commandTimeout(i, clients))
    let isOverdue = judge.isOverdue(i, clients, core, now: now)
    switch clients.sessions[clients.connections[i].session].phase {
    case .command, .challenge: core.timers.moveUp(i, to: isOverdue ? now : soon)
    case .securing: core.timers.moveUp(i, to: soon)
    case .body where isOverdue, .swallow where isOverdue, .spliced where isOverdue:
      core.timers.moveUp(i, to: now)
    // Ours to wait, or the downstream's clock is running.
    case .body, .swallow, .spliced, .due, .delaying, .opening, .forwarded, .holding, .final,
      .leaving:
      break
    }
  }
}
