// SPDX-License-Identifier: Apache-2.0

import Structures

@testable import TLS

/// The TLS sessions of one worker, at most `capacity`, each known by a number that fits into a record.
///
/// Why it is safe: a place holds a channel exactly while `taken` says so, and each access asks it. An empty
/// place is 8 bytes; what a session takes is OpenSSL's.
struct TLSTable: ~Copyable {
  private let base: UnsafeMutablePointer<TLSChannel>
  private var taken: IndexAllocator

  /// How many sessions there can be.
  var capacity: Int { taken.capacity }
  /// How many more there can be.
  var free: Int { taken.free }

  /// - Parameter capacity: may be 0.
  init(capacity: Int) {
    base = .allocate(capacity: max(capacity, 1))
    taken = IndexAllocator(capacity: capacity)
  }

  deinit {
    for index in 0..<taken.capacity where taken.isTaken(index) {
      (base + index).deinitialize(count: 1)
    }
    base.deallocate()
  }

  /// - Returns: its number, or nil when the table is full; the channel is gone then.
  mutating func insert(_ channel: consuming TLSChannel) -> UInt32? {
    guard let index = taken.take() else { return nil }
    (base + index).initialize(to: channel)
    return UInt32(index)
  }

  /// Ends the session with this number.
  mutating func remove(_ number: UInt32) {
    taken.release(Int(number))
    (base + Int(number)).deinitialize(count: 1)
  }

  /// The session with this number; one that is not there ends the process.
  subscript(_ number: UInt32) -> TLSChannel {
    _read {
      invariant(contains(number), "there is no TLS session \(number)")
      yield base[Int(number)]
    }
    _modify {
      invariant(contains(number), "there is no TLS session \(number)")
      yield &base[Int(number)]
    }
  }

  /// Whether there is a session with this number.
  func contains(_ number: UInt32) -> Bool {
    Int(number) < taken.capacity && taken.isTaken(Int(number))
  }
}
