// SPDX-License-Identifier: Apache-2.0

/// At most one timer per slot index, in a bounded hierarchical wheel that never allocates after `init`.
///
/// Not a calendar: time is counted in ticks from `Instant.origin`, and a deadline is rounded up to the
/// next tick. Kept at every moment: each timer in the wheel has `position < deadline`; each timer in the
/// due list has `deadline <= position`; `position` never passes the current time.
///
/// Four levels of 256, 64, 64 and 64 slots reach further than a deadline may be, which is 2^23 ticks
/// (23 hours at 10 ms). A bitmap of occupied slots lets the
/// wheel jump over empty time, so that a day asleep costs no more than a tick.
@frozen
public struct TimingWheel: ~Copyable {
  /// Lists are circular and doubly linked; their heads are the entries after the last index, so that
  /// taking a timer out needs to know neither its slot nor whether it was the first.
  ///
  /// 8 bytes: next (20 bits), previous (20), the low 24 bits of the deadline in ticks, which is never
  /// further than 2^23 - 1 from `position`. There may be a million of these.
  @frozen
  public struct Entry: BitwiseCopyable {
    @usableFromInline package var bits: UInt64

    @inlinable
    init(next: Int, previous: Int, deadline: UInt64) {
      bits = UInt64(next) | UInt64(previous) << 20 | deadline << 40
    }

    @inlinable static var linkMask: UInt64 { 0xF_FFFF }
    /// What `next` is while no timer is set.
    @inlinable static var none: Int { 0xF_FFFF }

    @inlinable
    var isSet: Bool { bits & Entry.linkMask != Entry.linkMask }

    @inlinable
    var next: Int {
      get { Int(truncatingIfNeeded: bits & Entry.linkMask) }
      set { bits = bits & ~Entry.linkMask | UInt64(truncatingIfNeeded: newValue) }
    }

    @inlinable
    var previous: Int {
      get { Int(truncatingIfNeeded: bits >> 20 & Entry.linkMask) }
      set { bits = bits & ~(Entry.linkMask << 20) | UInt64(truncatingIfNeeded: newValue) << 20 }
    }

    @inlinable
    var deadline: UInt64 {
      get { bits >> 40 }
      set { bits = bits & 0xFF_FFFF_FFFF | newValue << 40 }
    }
  }

  @usableFromInline package var entries: Slab<Entry>
  /// One bit per slot: words 0…3 are level 0, words 4, 5 and 6 the levels above, word 7 the due list.
  @usableFromInline package var occupied: [8 of UInt64]
  /// The tick up to which everything has been handed to the due list.
  @usableFromInline package var position: Int64
  @usableFromInline package let tickMicroseconds: Int64
  /// How many indexes there are: 0..<capacity.
  public let capacity: Int
  /// How many timers are set.
  @usableFromInline package var armed: Int
  /// The timers at the front of the due list, up to `runLast`, that all go to `runSlot`, set for one tick; none
  /// while the slot is -1.
  @usableFromInline package var runSlot: Int
  @usableFromInline package var runLast: Int
  @usableFromInline package var runTick: Int64
  /// Their deadline, where an entry has it.
  @usableFromInline package var runDeadline: UInt64

  /// How many timers there can be: their numbers and those of the slots have 20 bits, one of which is none.
  @inlinable public static var capacityMax: Int { (1 << 20) - 2 - dueSlot }
  /// How far a deadline may be from `position`, in ticks.
  @inlinable public static var reach: Int64 { (1 << 23) - 1 }

  /// The slot number of the list of timers that are due now.
  @inlinable public static var dueSlot: Int { 448 }

  /// - Parameters:
  ///   - capacity: indexes 0..<capacity may have a timer; at most `capacityMax`.
  ///   - tick: the grain of time, at least 1 µs. Everything that expires within one tick is one wake-up.
  ///   - start: where time begins; what lies before is due at once. Give the present moment when the
  ///     wheel is made long after the origin (deadlines reach 2^23 ticks from the last look at the clock).
  public init(
    capacity: Int, tick: Duration = .milliseconds(10), start: Instant = .origin
  ) {
    let slots = TimingWheel.dueSlot + 1
    invariant(
      capacity >= 0 && capacity <= TimingWheel.capacityMax,
      "a wheel cannot have \(capacity) timers")
    invariant(tick.microseconds >= 1, "a tick of \(tick) is shorter than a microsecond")
    self.capacity = capacity
    tickMicroseconds = tick.microseconds
    // One whole tick back when the start is negative and no multiple: still no timer fires early.
    position = start.microseconds / tick.microseconds - (start.microseconds < 0 ? 1 : 0)
    armed = 0
    runSlot = -1
    runLast = 0
    runTick = .min
    runDeadline = 0
    occupied = InlineArray(repeating: 0)
    entries = Slab(
      capacity: capacity + slots, repeating: Entry(next: Entry.none, previous: 0, deadline: 0))
    for slot in 0..<slots {
      let head = capacity + slot
      entries[head] = Entry(next: head, previous: head, deadline: 0)
    }
  }

  /// How many timers are set.
  @inlinable public var count: Int { armed }

  /// Bytes this wheel takes: 8 per index and 4 KB for the slots.
  public var footprint: Int { entries.footprint }

  /// Sets the timer of `index`, replacing the one it has.
  ///
  /// - Parameters:
  ///   - index: 0..<capacity.
  ///   - deadline: rounded up to the tick. What has passed already expires at the next `popExpired`.
  ///     `.distantFuture` means never and is the same as `cancel`. Anything else further than 2^23 ticks
  ///     ahead (23 hours at 10 ms) is taken as that far.
  @inlinable
  public mutating func set(_ index: Int, at deadline: Instant) {
    if deadline == .distantFuture {
      cancel(index)
    } else {
      set(index, atTick: tickAtOrAfter(deadline))
    }
  }

  /// The same, for a caller that counts in ticks.
  ///
  /// - Parameter tick: since `Instant.origin`; further than 2^23 ticks ahead is taken as that far.
  @inlinable
  public mutating func set(_ index: Int, atTick tick: Int64) {
    checkIndex(index)
    settle()
    if entries[index].isSet { unlink(index) } else { armed &+= 1 }
    let ahead = max(min(tick &- position, TimingWheel.reach), -TimingWheel.reach)
    let tick = position &+ ahead
    link(index, slot(for: tick), UInt64(truncatingIfNeeded: tick) & 0xFF_FFFF)
  }

  /// Takes the timer of `index` away, if there is one.
  @inlinable
  public mutating func cancel(_ index: Int) {
    checkIndex(index)
    settle()
    guard entries[index].isSet else { return }
    unlink(index)
    armed &-= 1
  }

  /// Whether `index`, 0 ..< capacity, has a timer.
  @inlinable
  public func isSet(_ index: Int) -> Bool {
    checkIndex(index)
    return entries[index].isSet
  }

  /// When the timer of `index` expires (a whole number of ticks), or nil when none is set.
  @inlinable
  public func deadline(of index: Int) -> Instant? {
    isSet(index) ? Instant(microseconds: fullDeadline(index) &* tickMicroseconds) : nil
  }

  /// The next index whose time has come, its timer now being unset; nil when there is none left.
  ///
  /// Call it until it says nil. Timers come in the order of their ticks; one set meanwhile for a time
  /// that has come is handed out in the same pass, one for later is not.
  ///
  /// - Parameter now: must not go backwards; an earlier time than before is taken as the same time.
  @inlinable
  public mutating func popExpired(now: Instant) -> Int? {
    guard let first = peekExpired(now: now) else { return nil }
    settle()
    unlink(first)
    armed &-= 1
    return first
  }

  /// The same, but its timer stays set: to be followed by `renew`, or by `popExpired` for the same one.
  @inlinable @inline(__always)
  public mutating func peekExpired(now: Instant) -> Int? {
    let due = capacity &+ TimingWheel.dueSlot
    let first = entries[runSlot < 0 ? due : runLast].next
    return first != due ? first : nextTurn(now: now)
  }

  /// Goes on until something is due, or `now` is reached.
  @usableFromInline
  mutating func nextTurn(now: Instant) -> Int? {
    settle()
    let due = capacity + TimingWheel.dueSlot
    while occupied[7] == 0 {
      let target = tickAtOrBefore(now)
      if target <= position { return nil }
      let event = nextEvent()
      if event > target {
        position = target
        return nil
      }
      advance(to: event)
    }
    return entries[due].next
  }

  /// Sets anew the timer that `peekExpired` has just named.
  ///
  /// A run of timers with one deadline moves as a whole, without being taken apart: what ticks regularly
  /// costs a few instructions a time.
  ///
  /// - Parameter tick: since `Instant.origin`; further than 2^23 ticks ahead is taken as that far.
  /// - Returns: the next index whose time has come, as `peekExpired` would name it; one that is no index says
  ///   nothing.
  @inlinable @inline(__always)
  public mutating func renew(_ index: Int, atTick tick: Int64) -> Int {
    assert(
      index == entries[runSlot < 0 ? capacity + TimingWheel.dueSlot : runLast].next,
      "timer \(index) was not peeked")
    if tick != runTick { beginRun(tick) }
    let rest = entries[index].bits & 0xFF_FFFF_FFFF
    entries[index].bits = rest | runDeadline
    runLast = index
    return Int(truncatingIfNeeded: rest & Entry.linkMask)
  }

  @usableFromInline
  mutating func beginRun(_ tick: Int64) {
    settle()
    let ahead = max(min(tick &- position, TimingWheel.reach), -TimingWheel.reach)
    runTick = tick
    runSlot = slot(for: position &+ ahead)
    runDeadline = UInt64(truncatingIfNeeded: position &+ ahead) << 40
  }

  /// Moves the run to the end of its slot's list.
  @inlinable @inline(__always)
  public mutating func settle() {
    if runSlot >= 0 { moveRun() }
  }

  @usableFromInline
  mutating func moveRun() {
    let head = capacity &+ runSlot
    let due = capacity &+ TimingWheel.dueSlot
    let first = entries[due].next
    let after = entries[runLast].next
    entries[due].next = after
    entries[after].previous = due
    if after == due { occupied[7] = 0 }
    let last = entries[head].previous
    entries[last].next = first
    entries[first].previous = last
    entries[runLast].next = head
    entries[head].previous = runLast
    occupied[runSlot >> 6] |= 1 << UInt64(runSlot & 63)
    runSlot = -1
    runTick = .min
  }

  /// How long one may sleep: no timer expires before this moment. Nil when none is set.
  ///
  /// Exact when the next timer is less than 256 ticks away, otherwise perhaps early (never late): the
  /// moment at which a group of timers comes down a level. `now` is returned when something is due. Not to be
  /// asked between `renew` and what follows it.
  @inlinable
  public func nextDeadline(now: Instant) -> Instant? {
    invariant(runSlot < 0, "the wheel is asked in the middle of a run")
    if armed == 0 { return nil }
    if occupied[7] != 0 { return now }
    return Instant(microseconds: nextEvent() &* tickMicroseconds)
  }

  // Ticks

  /// The tick of `time`, counted from the origin and rounded up.
  @inlinable
  public func tickAtOrAfter(_ time: Instant) -> Int64 {
    let (quotient, rest) = time.microseconds.quotientAndRemainder(dividingBy: tickMicroseconds)
    return rest > 0 ? quotient + 1 : quotient
  }

  /// The tick of `time`, counted from the origin and rounded down.
  @inlinable
  public func tickAtOrBefore(_ time: Instant) -> Int64 {
    let (quotient, rest) = time.microseconds.quotientAndRemainder(dividingBy: tickMicroseconds)
    return rest < 0 ? quotient - 1 : quotient
  }

  /// The whole deadline from its low 24 bits: it is never further than 2^23 - 1 ticks from `position`.
  @inlinable
  func fullDeadline(_ index: Int) -> Int64 {
    let distance = entries[index].deadline &- UInt64(truncatingIfNeeded: position)
    // 24 bits with their sign.
    return position &+ Int64(bitPattern: distance << 40) >> 40
  }

  /// Where a timer belongs, seen from `position`.
  ///
  /// A slot of level L is emptied when `position` reaches the start of its stretch of time. Choosing
  /// the level by distance keeps that start between `position` and the deadline: a timer at level 1
  /// or above is at least one and at most 64 slots ahead, so a slot never holds two turns at once.
  @inlinable @inline(__always)
  func slot(for tick: Int64) -> Int {
    let distance = tick &- position
    if distance <= 0 { return TimingWheel.dueSlot }
    if distance < 1 << 8 { return Int(tick & 255) }
    if distance < 1 << 14 { return 256 + Int(tick >> 8 & 63) }
    if distance < 1 << 20 { return 320 + Int(tick >> 14 & 63) }
    return 384 + Int(tick >> 20 & 63)
  }

  /// The next tick at which a slot must be emptied; `.max` when the wheel is empty.
  @inlinable
  func nextEvent() -> Int64 {
    var best = Int64.max
    let start = Int(truncatingIfNeeded: position &+ 1) & 255
    let below = ~UInt64(0) << UInt64(start & 63)
    // The first word is looked at twice: for what follows `start`, and at the end for what is before.
    for step in 0...4 {
      let word = (start >> 6 &+ step) & 3
      var bits = occupied[word]
      if step == 0 { bits &= below }
      if step == 4 { bits &= ~below }
      if bits != 0 {
        let slot = word &* 64 &+ bits.trailingZeroBitCount
        best = position &+ Int64((slot &- start) & 255) &+ 1
        break
      }
    }
    // The levels above only have something to do when a multiple of 256 ticks is reached.
    if best >> 8 == position >> 8 { return best }
    for level in 1...3 {
      let bits = occupied[3 &+ level]
      if bits == 0 { continue }
      let shift = Int64(2 &+ 6 &* level)
      let turn = UInt64(truncatingIfNeeded: (position >> shift &+ 1) & 63)
      let rotated = bits >> turn | bits << (64 &- turn)
      let ahead = Int64(rotated.trailingZeroBitCount) &+ 1
      best = min(best, (position >> shift &+ ahead) << shift)
    }
    return best
  }

  /// Moves to `tick`, which no event precedes: brings timers down from the levels above, the highest
  /// first, then hands over what expires at this very tick.
  @inlinable
  mutating func advance(to tick: Int64) {
    position = tick
    if tick & 255 == 0 {
      bringDown(level: 3)
      bringDown(level: 2)
      bringDown(level: 1)
    }
    let slot = Int(tick & 255)
    if occupied[slot >> 6] >> UInt64(slot & 63) & 1 == 1 { spliceIntoDue(slot) }
  }

  @inlinable
  mutating func bringDown(level: Int) {
    let shift = Int64(2 &+ 6 &* level)
    if position & (1 << shift &- 1) != 0 { return }
    let place = 192 &+ 64 &* level &+ Int(position >> shift & 63)
    if occupied[place >> 6] >> UInt64(place & 63) & 1 == 0 { return }
    let head = capacity &+ place
    // No timer comes back to this slot: from an aligned position the furthest place is 63 slots ahead.
    while true {
      let first = entries[head].next
      if first == head { return }
      let tick = fullDeadline(first)
      unlink(first)
      link(first, slot(for: tick), UInt64(truncatingIfNeeded: tick) & 0xFF_FFFF)
    }
  }

  // Lists

  @inlinable
  mutating func link(_ index: Int, _ slot: Int, _ deadline: UInt64) {
    let head = capacity &+ slot
    let last = entries[head].previous
    entries[index] = Entry(next: head, previous: last, deadline: deadline)
    entries[last].next = index
    entries[head].previous = index
    if last == head { occupied[slot >> 6] |= 1 << UInt64(slot & 63) }
  }

  @inlinable
  mutating func unlink(_ index: Int) {
    let next = entries[index].next
    let previous = entries[index].previous
    entries[previous].next = next
    entries[next].previous = previous
    entries[index].next = Entry.none
    // Both neighbours are the head: the list is empty now.
    if next == previous && next >= capacity {
      let slot = next &- capacity
      occupied[slot >> 6] &= ~(1 << UInt64(slot & 63))
    }
  }

  /// Hangs a whole list of level 0 on the end of the due list.
  @inlinable
  mutating func spliceIntoDue(_ slot: Int) {
    let head = capacity &+ slot
    let due = capacity &+ TimingWheel.dueSlot
    let first = entries[head].next
    let last = entries[head].previous
    let tail = entries[due].previous
    entries[tail].next = first
    entries[first].previous = tail
    entries[last].next = due
    entries[due].previous = last
    entries[head] = Entry(next: head, previous: head, deadline: 0)
    occupied[slot >> 6] &= ~(1 << UInt64(slot & 63))
    occupied[7] |= 1
  }

  @inlinable
  @inline(__always)
  func checkIndex(_ index: Int) {
    if UInt(bitPattern: index) >= UInt(bitPattern: capacity) { Self.noTimer(index, capacity) }
  }

  // A method would copy the wheel to the stack for its sake.
  @inline(never)
  @usableFromInline
  static func noTimer(_ index: Int, _ capacity: Int) -> Never {
    invariantFailed("timer \(index) of a wheel of \(capacity)")
  }
}
