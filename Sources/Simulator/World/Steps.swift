// SPDX-License-Identifier: Apache-2.0
import Personas
import Shield
import Structures

// The lowest floor of the world: clients hear, decide and leave, and what they do goes on its way to the shield.
extension World {
  /// Something reaches client `i`, or reaches the shield from it.
  mutating func happen(_ event: SimEvent, toClient i: Int) {
    switch event.kind {
    case .hearByte:
      if crowd.hasEnded(i) { return }
      goOn(i, crowd.hear(i, UInt8(truncatingIfNeeded: event.payload), now: course.now))
    case .hear:
      if crowd.hasEnded(i) { return }
      goOn(i, crowd.hear(i, letter: event.payload, now: course.now))
    case .seeEnd:
      if crowd.hasEnded(i) { return }
      crowd.seeEnd(i)
      leave(i)
    case .arrive:
      crowd.lineArrived(i)
      makeReady(i)
    case .arriveEnd:
      crowd.endArrived(i)
      makeReady(i)
      crowd.forget(i)
    case .arriveReset:
      crowd.resetArrived(i)
      makeReady(i)
      crowd.forget(i)
    case .hello:
      crowd.helloArrived(i)
      makeReady(i)
    case .helloAnswer:
      if crowd.hasEnded(i) { return }
      let step = crowd.secured(i, now: course.now)
      // Ahead of what it says next.
      if step != .leave { send(.finished, i) }
      goOn(i, step)
    case .finished:
      crowd.finishedArrived(i)
      makeReady(i)
    default: break
    }
  }

  @inline(__always)
  private mutating func makeReady(_ i: Int) { sockets.makeReady(Int(crowd.slot(i))) }

  /// The moment has come at which a client's deadline may be.
  mutating func reach(_ i: Int) {
    course.happened()
    goOn(i, crowd.wake(i, now: course.now), notBefore: course.now + 1)
  }

  /// A client does what it decided, and then waits until its deadline at most, not before `earliest`.
  mutating func goOn(_ i: Int, _ step: Actor.Step, notBefore earliest: Int64 = 0) {
    switch step {
    case .nothing: break
    case .leave: leave(i)
    case .say(let line): say(i, line)
    case .secure: secure(i)
    }
    crowd.wait(i, notBefore: earliest, horizon: course.horizon)
  }

  private mutating func say(_ i: Int, _ line: Line) {
    guard crowd.isHeard(i) else { return }
    crowd.say(i, line)
    course.note(2, i, UInt64(crowd.awaited(i).rawValue))
    if isTraced(i) { tell("says \(line)") }
    send(.arrive, i)
  }

  private mutating func secure(_ i: Int) {
    crowd.secure(i)
    guard crowd.isHeard(i) else { return }
    course.note(9, i, 0)
    if isTraced(i) { tell("begins a handshake") }
    send(.hello, i)
  }

  /// A client closes its end: what it sent before still arrives.
  private mutating func leave(_ i: Int) {
    guard crowd.leave(i) else { return }
    course.note(3, i, UInt64(crowd.ending(i).rawValue))
    if isTraced(i) {
      tell("leaves: \(crowd.ending(i).name), awaiting \(crowd.awaited(i).name)")
    }
    observer.left(
      client: crowd.number(i), acknowledged: crowd.delivered(i), accepted: server.messages)
    let again = crowd.end(
      i, isAway: server.isAway(course.now * 1_000), now: course.now, horizon: course.horizon)
    if let again { course.add(.comeBack, at: again.at, again.place) }
    if crowd.slot(i) < 0 {
      crowd.free(i)
    } else {
      send(.arriveEnd, i)
    }
  }

  /// Something sets out to client `i` or from it: it is there after as long as a byte is under way.
  @inline(__always)
  mutating func send(_ kind: SimEvent.Kind, _ i: Int, _ payload: Int = 0) {
    course.add(
      kind, at: course.now + crowd.latency(i), i, payload, generation: crowd.generation(i))
  }

  /// Bytes of the shield go to a client.
  mutating func hand(_ i: Int, _ region: Region) {
    // What would come after the run's end is not kept until then.
    guard !crowd.hasEnded(i), course.now + crowd.latency(i) <= course.horizon else { return }
    send(.hear, i, Int(crowd.post(engine.core.arena, region)))
  }

  @inline(__always)
  func isTraced(_ i: Int) -> Bool { observer.isTraced(crowd.number(i)) }

  /// Writes down a fact or an order of the client that is traced.
  mutating func tell(_ text: String) { observer.tell(text, now: course.now) }
}
