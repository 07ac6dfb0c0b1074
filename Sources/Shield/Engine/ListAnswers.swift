// SPDX-License-Identifier: Apache-2.0
import DNSLists
import Policy
import Structures
import Suspicion

// What DNS lists say of a client. They are asked when it connects, and answer while it waits for its banner; an answer
// that comes later counts from the next command on, and nobody waits for one.
extension Engine {
  /// The lists have answered: the client is on these items.
  mutating func listsAnswered(_ i: ClientIndex, _ matched: ItemSet, _ m: inout Moment) {
    guard let lists = core.policy.lists else { return }
    core.counters.lookUpsAnswered += 1
    let opinion = lists.opinion(matched)
    if !matched.isEmpty { noteMatch(i, matched, lists.sites.score(matched), now: m.now) }
    switch opinion {
    case .none: break
    case .allowed:
      judge.note(.dnsAllowed, i, &clients, &core, now: m.now)
      if clients.connections[i].state == .waiting { waitAnew(i, &m) }
    case .listed:
      core.counters.listed += 1
      clients.matches.keep(matched, of: i)
      let isBad = judge.note(.dnsListed, i, &clients, &core, now: m.now)
      // Any other state meets its tier, or its refusal, with the next command.
      if clients.connections[i].state == .waiting && !clients.connections[i].session.exists {
        if lists.rejectAt == .connect && core.policy.refusesListed && core.policy.mode == .enforce {
          turnAway(i, .rejected, &m)
        } else if isBad {
          enterTarpit(i, .banner, &m)
        } else {
          waitAnew(i, &m)
        }
      }
    }
  }

  private mutating func noteMatch(
    _ i: ClientIndex, _ matched: ItemSet, _ score: Int32, now: Instant
  ) {
    var entry = clients.entry(.dnsMatch, i, core, now: now)
    entry.matched = matched
    entry.rank = score
    core.journal.append(entry)
  }
}
