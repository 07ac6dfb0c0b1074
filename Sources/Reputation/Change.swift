// SPDX-License-Identifier: Apache-2.0
//
// What is learnt of a source, as a value: which source, what, when. The tables change by it alone, so a list of changes, from
// a record on disk or from another machine, makes a fresh table answer as the one did that learnt them. Kept: nothing
// in it depends on a process. A source is what it is anywhere, or a hash under a key that outlives the process; times
// are those of a clock on the wall.

public import Structures

/// What kind of source something is remembered of. Part of its key, so that an address, the network around it and a
/// HELO domain never share a record.
@frozen
public enum SourceKind: UInt8, BitwiseCopyable, Sendable, CaseIterable {
  case address = 1
  /// /24 of IPv4, /64 of IPv6. A network's record may slow its members down or speed them up, never
  /// block them (Wilcox et al. 2010: blocking whole /24s hits a large share of honest servers).
  case network = 2
  /// The domain that a client says in HELO, hashed.
  case heloDomain = 3
  /// The user name of a log-in, hashed.
  case user = 4
}

/// A source of which something may be learnt.
@frozen
public struct Source: BitwiseCopyable, Hashable, Sendable {
  /// What it is.
  public let kind: SourceKind
  /// The network's prefix length, 0…128; of an address and of a hash 128.
  public let length: UInt8
  /// The address, or a hash in the upper half.
  public let high: UInt64
  /// The lower half of the address; 0 of a hash.
  public let low: UInt64

  /// A source that is one address. Of IPv6 that is its /64, which one host can fill.
  public init(host address: Address) {
    let host = address.isIPv4 ? address : address.network(64)
    self.init(.address, 128, host.high, host.low)
  }

  /// A network.
  ///
  /// - Parameters:
  ///   - address: any of its addresses.
  ///   - length: 0…32 for IPv4, 0…128 for IPv6.
  public init(networkOf address: Address, length: Int) {
    let network = address.network(length)
    self.init(.network, UInt8(length), network.high, network.low)
  }

  /// A HELO domain or a user name, by its hash under a key that does not change (`SourceNames`).
  public init(_ kind: SourceKind, hash: UInt64) { self.init(kind, 128, hash, 0) }

  private init(_ kind: SourceKind, _ length: UInt8, _ high: UInt64, _ low: UInt64) {
    self.kind = kind
    self.length = length
    self.high = high
    self.low = low
  }

  /// The address, or the network's first one. Of a hash it means nothing.
  public var address: Address { Address(high: high, low: low) }
}

/// Turns names into sources: by hashes whose secret key all workers have in common. With a key that the configuration
/// gives, the same name is the same source after a restart and on another machine.
package struct SourceNames: Sendable {
  private let domains: SipHash
  private let users: SipHash

  /// - Parameter secret: 128 bits; whoever knows them can tell whether a name is among those that are remembered.
  package init(secret: (UInt64, UInt64)) {
    // Two hashes of one secret: a domain is never taken for a user of the same letters.
    let root = SipHash(k0: secret.0, k1: secret.1)
    domains = SipHash(k0: root(1, 1, 0), k1: root(1, 2, 0))
    users = SipHash(k0: root(2, 1, 0), k1: root(2, 2, 0))
  }

  /// A HELO domain, compared without regard to case.
  package func source(heloDomain: Span<UInt8>) -> Source {
    var low: UInt64 = 0
    var state: UInt64 = 3
    // Fold case by absorbing lower-cased octets eight at a time through the keyed hash.
    for i in 0..<heloDomain.count {
      let byte = heloDomain[i]
      let folded = byte >= 65 && byte <= 90 ? byte | 0x20 : byte
      low = low << 8 | UInt64(folded)
      if i & 7 == 7 {
        state = domains(state, low, UInt64(i))
        low = 0
      }
    }
    return Source(.heloDomain, hash: domains(state, low, UInt64(heloDomain.count)))
  }

  /// A user name, as it is to be compared.
  package func source(user: Span<UInt8>) -> Source { Source(.user, hash: users(user)) }
}

/// One thing that was learnt of a source.
@frozen
public struct Change: BitwiseCopyable, Hashable, Sendable {
  /// What it was.
  @frozen
  public enum What: UInt8, BitwiseCopyable, Sendable, CaseIterable {
    /// Its message was accepted: it is known good until `until`.
    case accepted = 1
    /// It was proven bad: it loses its good standing, and the proof is remembered until `until`.
    case proven = 2
    /// It left while its session was delayed, at `stages`.
    case left = 3
    /// Its log-in, or one under its name, was rejected.
    case loginFailed = 4
  }

  /// The source that it is learnt of.
  public var source: Source
  /// What.
  public var what: What
  /// Of `left`: the stages, the first eight of them, a bit each.
  public var stages: UInt8
  /// When, in microseconds since 1970.
  public var at: Int64
  /// Until when it counts, in microseconds since 1970; of `left` and `loginFailed` the same as `at`.
  public var until: Int64

  /// A change at the time `at`, in microseconds since 1970, that counts for `period` microseconds.
  public init(
    _ what: What, of source: Source, at: Int64, for period: Int64 = 0, stages: UInt8 = 0
  ) {
    self.source = source
    self.what = what
    self.stages = stages
    self.at = at
    until = at &+ period
  }

  /// Whether all workers of a process must hear of it, because the source belongs to none of them: a user name, and
  /// an IPv6 network that is wider than the /64 by which clients are steered.
  public var concernsAllWorkers: Bool {
    source.kind == .user
      || source.kind == .network && !source.address.isIPv4 && source.length < 64
  }
}

/// Changes on their way out of an engine, in the order in which they were learnt. Bounded: what does not fit is lost
/// and counted, and the source is judged a little more mildly elsewhere.
package struct ChangeQueue: ~Copyable {
  private var changes: Slab<Change>
  private var head = 0
  private var filled = 0
  /// How many had no room.
  package private(set) var lost: UInt64 = 0

  /// - Parameter capacity: how many may wait; at least 1.
  package init(capacity: Int) {
    let nobody = Source(.user, hash: 0)
    changes = Slab(capacity: max(capacity, 1), repeating: Change(.left, of: nobody, at: 0))
  }

  package var footprint: Int { changes.footprint }

  package mutating func append(_ change: Change) {
    if filled == changes.capacity {
      lost &+= 1
      return
    }
    var place = head + filled
    if place >= changes.capacity { place -= changes.capacity }
    changes[place] = change
    filled += 1
  }

  /// Takes the oldest.
  package mutating func next() -> Change? {
    if filled == 0 { return nil }
    let first = changes[head]
    head = head + 1 == changes.capacity ? 0 : head + 1
    filled -= 1
    return first
  }
}
