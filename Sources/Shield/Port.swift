// SPDX-License-Identifier: Apache-2.0
package import Structures

package typealias ClientIndex = RecordIndex<Connection>
typealias SessionIndex = RecordIndex<Session>
typealias LinkIndex = RecordIndex<Link>

/// What is at the other end of a slot. A new kind of peer is one case more here.
enum Port: BitwiseCopyable {
  case client(ClientIndex)
  case link(LinkIndex)
}

/// Which slots are whose: clients have the first ones, downstream connections those behind them.
struct Ports: BitwiseCopyable {
  let clients: Int
  let links: Int

  /// How many slots there are.
  var count: Int { clients + links }

  /// Whether a slot, 0 ..< count, is a client's.
  @inline(__always)
  func isClient(_ slot: Int) -> Bool { slot < clients }

  /// The port of a slot, 0 ..< count.
  @inline(__always)
  subscript(_ slot: Int) -> Port {
    isClient(slot) ? .client(ClientIndex(slot)) : .link(LinkIndex(slot - clients))
  }

  @inline(__always)
  func slot(_ i: ClientIndex) -> Int { i.number }
  @inline(__always)
  func slot(_ l: LinkIndex) -> Int { clients + l.number }
}

/// One timer for each port.
struct Timers: ~Copyable {
  private var wheel: TimingWheel
  private let ports: Ports

  init(_ ports: Ports) {
    self.ports = ports
    wheel = TimingWheel(capacity: ports.count)
  }

  mutating func set(_ i: ClientIndex, at due: Instant) { wheel.set(ports.slot(i), at: due) }
  mutating func set(_ l: LinkIndex, at due: Instant) { wheel.set(ports.slot(l), at: due) }
  /// In ticks of 10 ms since the origin: for drips.
  mutating func set(_ i: ClientIndex, atTick due: Int64) { wheel.set(ports.slot(i), atTick: due) }
  mutating func cancel(_ i: ClientIndex) { wheel.cancel(ports.slot(i)) }
  mutating func cancel(_ l: LinkIndex) { wheel.cancel(ports.slot(l)) }
  func isSet(_ i: ClientIndex) -> Bool { wheel.isSet(ports.slot(i)) }
  func deadline(of i: ClientIndex) -> Instant? { wheel.deadline(of: ports.slot(i)) }

  /// Moves a client's deadline up; one that is earlier stays.
  mutating func moveUp(_ i: ClientIndex, to soon: Instant) {
    if let due = deadline(of: i), due > soon { set(i, at: soon) }
  }

  // MARK: What is due

  /// The number of the slot that is due first, if one is due. Its timer stays.
  @inline(__always)
  mutating func peekExpired(now: Instant) -> Int? { wheel.peekExpired(now: now) }
  /// The same, and its timer is done.
  mutating func popExpired(now: Instant) -> Int? { wheel.popExpired(now: now) }
  /// See `TimingWheel.renew`: the slot whose turn is next.
  @inline(__always)
  mutating func renew(_ slot: Int, atTick tick: Int64) -> Int { wheel.renew(slot, atTick: tick) }
  mutating func settle() { wheel.settle() }
  func nextDeadline(now: Instant) -> Instant? { wheel.nextDeadline(now: now) }
  func tickAtOrBefore(_ time: Instant) -> Int64 { wheel.tickAtOrBefore(time) }
}
