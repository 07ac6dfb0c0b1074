// SPDX-License-Identifier: Apache-2.0
//
// How clients come in: the listeners, descriptors on their way into the ring's table, and those that may have to go on to
// another worker. Who may come in is the engine's to say.

import Glibc
import Shield
import Uring

struct Doors: ~Copyable {
  private let listeners: [Int32]
  /// When each listener is opened again, in microseconds; 0 while it is open.
  private var openAgainAt: [Int64]
  /// Whether any listener rests: looked at in each turn.
  private(set) var hasRested = false
  /// Descriptors accepted in this batch, on their way into the ring's table.
  private var arrivals: [(slot: Slot, descriptor: Int32)] = []
  private var run: [Int32] = []
  /// Where several workers share listeners behind a load balancer: the plain descriptors of slots whose PROXY
  /// header is still to come, because a socket that is in a ring's table cannot be given to another ring.
  private var kept: [UInt32: Int32] = [:]
  private let handOver: (@Sendable (Int, Peer, Int32) -> Void)?

  /// How long a listener rests after the process ran out of descriptors, in microseconds.
  private static let rest: Int64 = 100_000
  /// How many descriptors are put into the table at once.
  private static let batch = 64

  init(_ listeners: [Int32], handOver: (@Sendable (Int, Peer, Int32) -> Void)?) {
    self.listeners = listeners
    self.handOver = handOver
    openAgainAt = Array(repeating: 0, count: listeners.count)
    arrivals.reserveCapacity(Doors.batch)
    run.reserveCapacity(Doors.batch)
  }

  deinit { for descriptor in kept.values { PlainSocket.close(descriptor) } }

  /// Opens all.
  mutating func open(_ ring: inout Ring) {
    for number in listeners.indices { open(number, &ring) }
  }

  private func open(_ number: Int, _ ring: inout Ring) {
    ring.acceptMultishot(
      listener: listeners[number], token: Token(.accept, index: UInt32(number)))
  }

  /// Opens those again that have rested.
  mutating func openRested(_ ring: inout Ring, now: Int64) {
    hasRested = false
    for number in listeners.indices where openAgainAt[number] > 0 && now >= openAgainAt[number] {
      openAgainAt[number] = 0
      open(number, &ring)
    }
    hasRested = openAgainAt.contains { $0 > 0 && $0 < .max }
  }

  /// Takes nobody new, for good.
  mutating func shut(_ ring: inout Ring) {
    for number in listeners.indices {
      openAgainAt[number] = .max
      ring.cancel(Token(.accept, index: UInt32(number)), token: Token(.cancel, index: .max))
    }
  }

  /// An accept has completed.
  ///
  /// - Returns: who has come, and its descriptor, which is the caller's from here on.
  mutating func accepted(
    _ completion: Completion, _ ring: inout Ring, _ counters: inout DriverCounters, now: Int64
  ) -> (peer: Peer, descriptor: Int32)? {
    let number = Int(completion.token.index)
    if !completion.hasMore && openAgainAt[number] == 0 {
      if completion.result == -EMFILE || completion.result == -ENFILE {
        counters.descriptorsExhausted += 1
      }
      // Out of descriptors, or shut: what waits in the backlog can wait a little longer.
      if completion.result < 0 {
        openAgainAt[number] = now + Doors.rest
        hasRested = true
      } else {
        open(number, &ring)
      }
    }
    guard completion.result >= 0 else {
      counters.acceptErrors += 1
      return nil
    }
    guard let seen = AcceptedPeer(descriptor: completion.result) else {
      counters.vanishedBeforeAccept += 1
      PlainSocket.close(completion.result)
      return nil
    }
    let peer = Peer(
      address: seen.syn.source, port: seen.syn.sourcePort, listener: UInt8(clamping: number))
    return (peer, completion.result)
  }

  // MARK: Into the table

  var hasArrivals: Bool { !arrivals.isEmpty }

  /// A descriptor is to go into the table.
  ///
  /// - Returns: whether the batch is full.
  mutating func add(_ slot: Slot, _ descriptor: Int32) -> Bool {
    arrivals.append((slot, descriptor))
    return arrivals.count == Doors.batch
  }

  /// Moves the accepted descriptors into the ring's table, one call for each run of neighbouring slots.
  ///
  /// - Parameter awaitsHeader: whether the slot still waits for its PROXY header.
  mutating func install(
    _ wire: inout Wire, _ counters: inout DriverCounters, _ troubles: inout Troubles,
    awaitsHeader: (Slot) -> Bool
  ) {
    arrivals.sort { $0.slot.index < $1.slot.index }
    var first = 0
    while first < arrivals.count {
      var last = first
      while last + 1 < arrivals.count
        && arrivals[last + 1].slot.index == arrivals[last].slot.index + 1
      { last += 1 }
      run.removeAll(keepingCapacity: true)
      for k in first...last { run.append(arrivals[k].descriptor) }
      counters.installs += 1
      let done = wire.install(run, at: Int32(arrivals[first].slot.index))
      for k in (first + done)..<(last + 1) { troubles.note(arrivals[k].slot) }
      first = last + 1
    }
    for arrival in arrivals {
      if handOver != nil && awaitsHeader(arrival.slot) {
        kept[arrival.slot.index] = arrival.descriptor
      } else {
        PlainSocket.close(arrival.descriptor)
      }
    }
    arrivals.removeAll(keepingCapacity: true)
  }

  // MARK: On to another worker

  /// Whether any slot's plain descriptor is kept.
  var keepsAny: Bool { !kept.isEmpty }

  /// Gives a client to its worker.
  mutating func hand(_ slot: Slot, _ peer: Peer, to worker: Int) {
    guard let descriptor = kept.removeValue(forKey: slot.index) else { return }
    if let handOver { handOver(worker, peer, descriptor) } else { PlainSocket.close(descriptor) }
  }

  /// A slot whose header has come, or that is done with, needs its plain descriptor no more.
  mutating func letGo(_ slot: Slot) {
    if let descriptor = kept.removeValue(forKey: slot.index) { PlainSocket.close(descriptor) }
  }
}
