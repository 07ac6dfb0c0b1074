// SPDX-License-Identifier: Apache-2.0

import Personas

/// One connection's client: who it is, how far it is, and the network it is in.
struct FloodBot: BitwiseCopyable {
  enum State: UInt8 {
    case free, connecting, open
    /// Its client has left; what it said before is still on its way.
    case leaving
  }

  var actor = Actor()
  var client: Client
  /// Of its actor; used when the connection stands.
  var seed: UInt64
  var line: LineFaults
  /// The moment of the entry in the heap that stands for it.
  var dueAt = Int64.max
  var watch = ReplyWatch()
  var state = State.connecting
}

/// The clients of a thread, each at its connection's place.
struct FloodBots {
  private var tables: [[FloodBot]] = []

  /// Bytes of memory.
  var bytes: Int { tables.reduce(0) { $0 + $1.capacity * MemoryLayout<FloodBot>.stride } }

  subscript(place: FloodPlace) -> FloodBot {
    _read { yield tables[Int(place.ring)][Int(place.slot)] }
    _modify { yield &tables[Int(place.ring)][Int(place.slot)] }
  }

  /// Puts one at its place, which was free or is the next of its ring.
  mutating func set(_ bot: FloodBot, at place: FloodPlace) {
    let ring = Int(place.ring)
    if ring == tables.count { tables.append([]) }
    if Int(place.slot) == tables[ring].count {
      tables[ring].append(bot)
    } else {
      tables[ring][Int(place.slot)] = bot
    }
  }
}
