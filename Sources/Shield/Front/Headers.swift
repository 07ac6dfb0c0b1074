// SPDX-License-Identifier: Apache-2.0
import Policy
import SMTP
import Structures

/// A connection without a complete PROXY header yet.
struct PendingHeader: BitwiseCopyable, Sendable {
  /// The load balancer: the peer of the connection, until the header names another.
  var balancer = Address(high: 0, low: 0)
  /// Octets of the header that are in its region.
  fileprivate(set) var count: UInt8 = 0
  /// The client is known, and what is left of the header means nothing to us.
  fileprivate var isSkipping = false
  /// Octets of that rest.
  fileprivate var skip: UInt16 = 0
}

/// PROXY headers that listeners behind a load balancer wait for. A peer that connects there must be listed, and must name
/// its client before anything is judged. Nothing is guessed: a peer without a valid header in time is refused.
///
/// A header is read to its last octet and not one further, so that what follows (SMTP said too early, a TLS
/// hello) stays in the kernel for the worker that is to read it, which may be another one.
struct Headers: ~Copyable {
  private var pending: Slab<PendingHeader>
  private var places: IndexAllocator
  private var counts: OpenCounts
  private let hash: SipHash
  private let staysPut = StaysPut()

  /// The longest that a header may take, in microseconds. The specification wants room for a lost segment: 3 s.
  static let timeout: Int64 = 3_000_000

  /// - Parameter capacity: how many may be waited for; a balancer may have a quarter of them.
  init(capacity: Int, hash: SipHash) {
    pending = Slab(capacity: capacity, repeating: PendingHeader())
    places = IndexAllocator(capacity: capacity)
    counts = OpenCounts(capacity: capacity)
    self.hash = hash
  }

  private func key(_ balancer: Address) -> UInt64 {
    hash(3 << 32, balancer.high, balancer.low)
  }

  /// Takes a place for the header of a connection that a balancer has made; nil if there is none for it.
  mutating func take(_ balancer: Address) -> Int? {
    guard counts.count(key(balancer)) < max(pending.capacity / 4, 1), let place = places.take()
    else { return nil }
    let counted = counts.increment(key(balancer))
    invariant(counted != nil, "more balancers wait than headers do")
    pending[place] = PendingHeader(balancer: balancer)
    return place
  }

  /// Gives a place back; nothing may be in flight into it.
  mutating func release(_ place: Int) {
    counts.decrement(key(pending[place].balancer))
    places.release(place)
  }

  /// The header at a place.
  subscript(_ place: Int) -> PendingHeader { pending[place] }

  /// What came of reading on.
  enum Step {
    /// Receive into this region next.
    case wants(Region)
    case refused(Subject)
    case complete(ProxyHeader.Source)
  }

  /// Part of a header has come.
  ///
  /// - Parameter region: where it is read.
  mutating func heard(
    _ place: Int, _ count: Int, in region: Region, _ arena: borrowing Arena
  ) -> Step {
    if pending[place].isSkipping {
      pending[place].skip -= UInt16(count)
    } else {
      pending[place].count += UInt8(count)
    }
    let have = Int(pending[place].count)
    switch ProxyHeader.read(arena.span(region.prefix(have))) {
    case .malformed:
      let isTooLong = ProxyHeader.isTooLong(arena.span(region.prefix(have)))
      return .refused(isTooLong ? .headerTooLong : .headerMalformed)
    case .needMore(let more): return .wants(region.from(have).prefix(more))
    case .complete(let source, let skip):
      if !pending[place].isSkipping {
        pending[place].isSkipping = true
        pending[place].skip = UInt16(skip)
      }
      let left = Int(pending[place].skip)
      if left == 0 { return .complete(source) }
      let room = region.from(Layout.headerKept)
      return .wants(room.prefix(min(left, room.count)))
    }
  }
}
