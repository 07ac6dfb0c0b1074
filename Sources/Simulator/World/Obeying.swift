// SPDX-License-Identifier: Apache-2.0
import Shield
import Structures

// The engine's orders are carried out: octets go to clients and to the mail server, and what comes of it is noted at
// the slot, to be told later. No fact is told here.
extension World {
  /// Carries out all orders there are.
  mutating func carryOut() {
    for k in 0..<effects.dripCount { drip(effects.drip(at: k)) }
    for n in 0..<effects.count {
      let effect = effects[n]
      let k = Int(effect.slot.index)
      sockets.take(effect)
      switch effect {
      case .listen, .watch, .fill, .secure, .close: sockets.makeReady(k)
      case .send(_, let region):
        if k < sockets.clientSlots { sendToClient(k, region) } else { sendBehind(k, region) }
      case .connect(let slot, _):
        let isAway = server.isAway(course.now * 1_000)
        course.add(
          isAway ? .linkDown : .linkUp, at: course.now + 1, k, Int(slot.generation & 0xFFFF))
      case .narrow, .widen, .lookUp: break
      case .hand: invariantFailed("there is no other worker here")
      case .finish:
        let i = sockets.bot(k)
        if i >= 0 && k < sockets.clientSlots { send(.seeEnd, i) }
      }
    }
    effects.removeAll()
  }

  @inline(__always)
  private mutating func drip(_ drip: Drip) {
    let i = sockets.drip(drip.slot)
    guard i >= 0 else { return }
    course.happened()
    let seen = crowd.seen(i)
    if seen.isReset || seen.hasEnded {
      sockets.fail(Int(drip.slot.index))
    } else {
      course.note(4, i, UInt64(drip.byte))
      send(.hearByte, i, Int(drip.byte))
    }
  }

  private mutating func sendToClient(_ k: Int, _ region: Region) {
    let i = sockets.bot(k)
    guard i >= 0 else { return }
    course.happened()
    if crowd.seen(i).isReset { return sockets.fail(k) }
    checkRelease(k, region)
    course.note(5, i, UInt64(region.count))
    if crowd.hasEnded(i) {
      // Nobody is there to hear it: a closed socket answers with a reset.
      let back = course.now + 2 * crowd.latency(i)
      course.add(.arriveReset, at: back, i, generation: crowd.generation(i))
    }
    if isTraced(i) { tell("hears \(text(region))") }
    hand(i, region)
    if crowd.isSlow(i) {
      sockets.isSending(k, region.count)
      course.add(
        .taken, at: course.now + Int64(region.count), k, Int(engine.generation(of: k) & 0xFFFF))
    } else {
      sockets.sent(k, region.count)
    }
  }

  /// A text goes to the client in slot `k`: not before the delay that was promised for it is over. Refusals of
  /// the moment (42x, 451) may come at any time.
  private mutating func checkRelease(_ k: Int, _ region: Region) {
    let promised = sockets.promised(k)
    guard promised > 0, region.count > 2 else { return }
    let first = engine.core.arena[region.offset]
    let second = engine.core.arena[region.offset + 1]
    if first == UInt8(ascii: "4") && second != UInt8(ascii: "5")
      || first == UInt8(ascii: "4") && engine.core.arena[region.offset + 2] == UInt8(ascii: "1")
    {
      return
    }
    observer.replied(slot: k, promised: promised, now: course.now)
    sockets.releasePromise(k)
  }

  /// As it is told of the client that is traced.
  private func text(_ region: Region) -> String {
    let bytes = engine.core.arena.span(region)
    var text = ""
    for k in 0..<bytes.count where bytes[k] != 13 {
      text += bytes[k] == 10 ? " | " : String(UnicodeScalar(bytes[k]))
    }
    return text
  }

  private mutating func sendBehind(_ k: Int, _ region: Region) {
    let l = k - sockets.clientSlots
    course.happened()
    guard server.heard(l, engine.core.arena, region, now: course.now * 1_000) else {
      fault(behind: l)
      return sockets.fail(k)
    }
    takeAnswers()
    sockets.sent(k, region.count)
  }

  /// A fault of the scenario, not of the shield: whose downstream connection it is, is noted.
  mutating func fault(behind l: Int) {
    guard let client = engine.client(ofLink: l) else { return }
    let i = sockets.bot(client)
    if i >= 0 { crowd.metFault(i) }
  }

  /// What the server says and does is on its way.
  mutating func takeAnswers() {
    while let (l, count, moment, ends) = server.next() {
      let k = sockets.clientSlots + l
      let generation = UInt16(truncatingIfNeeded: engine.generation(of: k))
      let at = max((moment + 999) / 1_000, course.now)
      course.add(.linkReply, at: at, k, count, generation: generation)
      if ends { course.add(.linkEnd, at: at, k, generation: generation) }
    }
  }
}
