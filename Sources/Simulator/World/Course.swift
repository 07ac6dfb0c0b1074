// SPDX-License-Identifier: Apache-2.0
import Shield
import Structures

/// The course of a run: its time, what is still to happen in it, and a hash over what did. Every floor of the world
/// works with it; it decides nothing. Time moves in milliseconds and never back.
struct Course: ~Copyable {
  private var events = EventQueue()
  /// Milliseconds since the start.
  private(set) var now: Int64 = 0
  /// The last moment of the run; what would happen later does not.
  private(set) var horizon = TimeLists.end
  private(set) var eventCount = 0
  /// The same on every machine and in every build.
  private(set) var trace: UInt64 = 0xCBF2_9CE4_8422_2325

  var instant: Instant {
    @inline(__always) get { Instant(microseconds: now * 1_000) }
  }

  /// No event is due before this.
  var next: Int64 {
    @inline(__always) get { events.next }
  }

  // MARK: Time

  /// The run ends at `moment`, 49 days from its start at most.
  mutating func ends(at moment: Int64) { horizon = min(moment, TimeLists.end) }

  /// It is `moment` now, if that is not over.
  @inline(__always)
  mutating func goOn(to moment: Int64) { now = max(moment, now) }

  /// The events of `moment`, which `next` does not precede, are those that are taken next.
  @inline(__always)
  mutating func open(_ moment: Int64) { events.advance(to: moment) }

  /// The next event of the moment that is open.
  @inline(__always)
  mutating func takeFirst() -> SimEvent? { events.takeFirst() }

  // MARK: What will happen

  /// Something will happen, unless the run is over by then.
  mutating func add(
    _ kind: SimEvent.Kind, at moment: Int64, _ index: Int, _ payload: Int = 0,
    generation: UInt16 = 0
  ) {
    if moment > horizon { return }
    events.add(
      SimEvent(
        index: UInt32(truncatingIfNeeded: index), payload: UInt32(truncatingIfNeeded: payload),
        generation: generation, kind: kind), at: moment)
  }

  // MARK: What happened

  /// One thing more.
  @inline(__always)
  mutating func happened() { eventCount += 1 }

  /// Something has happened that makes this run another than a run in which it has not.
  mutating func note(_ kind: UInt64, _ index: Int, _ value: UInt64) {
    var h =
      trace
      ^ (kind << 56 ^ UInt64(truncatingIfNeeded: index) << 24 ^ UInt64(truncatingIfNeeded: now))
    h = (h ^ (h >> 29)) &* 0xBF58_476D_1CE4_E5B9 ^ value
    trace = (h ^ (h >> 32)) &* 0x94D0_49BB_1331_11EB
  }

  /// The run is over, with so many messages accepted.
  mutating func close(messages: Int) { trace = trace ^ UInt64(messages) }

  /// Bytes of memory it has.
  var footprint: Int { events.footprint }
}
