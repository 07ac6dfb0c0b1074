// SPDX-License-Identifier: Apache-2.0
// What a scenario's network does to connections: bytes that are under way for a while, readers that are slow,
// connections that break. It keeps what is late, and says when; the sockets are not its own.

import Personas

/// The network between a thread's clients and the kernel.
struct FloodNetwork {
  /// What is on its way between a client and the kernel, where the scenario has latency.
  enum Late {
    case heard([UInt8])
    case ended(isBroken: Bool)
    case said(Line)
    /// What its TLS has to say by itself.
    case sealed
    case close
  }

  /// What the network does to a connection at some moment.
  struct Happening: BitwiseCopyable {
    enum Kind: UInt8 {
      /// The first of what is late is there.
      case arrives
      /// A slow reader reads on.
      case reads
      case breaks
    }
    var place: FloodPlace
    var kind: Kind
  }

  private var happenings = DeadlineHeap<Happening>()
  /// By ring and slot, the earliest first: latency is the same for all of a connection.
  private var late: [UInt32: [Late]] = [:]

  /// When something happens next.
  var next: Int64 { happenings.next }
  /// Bytes of memory, without what is late.
  var bytes: Int {
    happenings.entries.capacity * MemoryLayout<DeadlineHeap<Happening>.Entry>.stride
  }

  mutating func add(_ kind: Happening.Kind, _ place: FloodPlace, at moment: Int64) {
    happenings.push(Happening(place: place, kind: kind), at: moment)
  }

  /// Puts something on its way, until it arrives at a moment.
  mutating func delay(_ what: Late, _ place: FloodPlace, until moment: Int64) {
    late[Self.key(place), default: []].append(what)
    add(.arrives, place, at: moment)
  }

  /// The next thing that happens, if its time has come.
  mutating func happening(until now: Int64) -> DeadlineHeap<Happening>.Entry? {
    happenings.pop(until: now)
  }

  /// Takes the earliest that was on its way.
  mutating func arrival(_ place: FloodPlace) -> Late? {
    late[Self.key(place)]?.removeFirst()
  }

  /// A connection is over.
  mutating func forget(_ place: FloodPlace) {
    if !late.isEmpty { late[Self.key(place)] = nil }
  }

  private static func key(_ place: FloodPlace) -> UInt32 {
    UInt32(place.ring) << 16 | UInt32(place.slot)
  }
}
