// SPDX-License-Identifier: Apache-2.0
public import Structures

/// One of the engine's connections at one moment of its life: which place it has, and which of the
/// place's tenants it is. A late completion for an earlier tenant carries the old generation.
@frozen
public struct Slot: BitwiseCopyable, Hashable, Sendable, CustomStringConvertible {
  /// Which place: 0 ..< the engine's connections and downstream connections.
  public var index: UInt32
  /// Counted up each time the place is given away. 24 bits.
  public var generation: UInt32

  /// Tenant number `generation` (24 bits) of place `index`.
  @inlinable
  public init(index: UInt32, generation: UInt32) {
    self.index = index
    self.generation = generation
  }

  /// `index.generation`, for the log.
  public var description: String { "\(index).\(generation)" }
}

/// What the engine orders. The driver carries it out and answers with facts.
///
/// `listen`, `fill` and `watch` say what is wanted of a slot's input, and each is good for one fact. Of
/// `listen` and `watch` the newer one holds; a `fill` stands until it is answered, because the kernel has
/// the region. At most one `fill` and one `send` are outstanding on a slot.
@frozen
public enum Effect: BitwiseCopyable, Sendable {
  /// When the peer has sent something, hand over what fits a provided buffer: `received`, or `ended`.
  /// For clients that are held or have just connected: until there are bytes, only a poll is armed.
  case listen(Slot)
  /// When the peer has sent something, put it into this region: `filled`, or `ended`. For clients that talk: a
  /// receive is armed, which saves the poll and costs some 600 bytes more in the kernel.
  case fill(Slot, Region)
  /// Leave the peer's bytes where they are; tell when it is gone: `ended` or `failed`.
  case watch(Slot)
  /// Send this region: `sent` with how much went out, or `failed`.
  case send(Slot, Region)
  /// Open a connection to downstream number `server`: `connected`, or `failed`.
  case connect(Slot, server: Int)
  /// It is held: its socket takes as little as possible of what it sends without being asked. Nothing comes back.
  case narrow(Slot)
  /// It talks now: its socket may take as much as a message needs. Nothing comes back.
  case widen(Slot)
  /// From here on the slot's octets are TLS: `secured`, or `notSecured`. Nothing else of the slot is outstanding.
  case secure(Slot, Handshake)
  /// Ask the DNS lists about its client: `lookedUp`, once, if the slot has the same tenant by then.
  case lookUp(Slot)
  /// Close our sending side; the peer sees the end of our replies.
  case finish(Slot)
  /// It is another worker's: its client is `announcedPeer` of the slot, which is closed next.
  case hand(Slot, worker: Int)
  /// End it. Once nothing of the slot is in flight any more: `closed`.
  case close(Slot)

  /// Which slot it is about.
  @inlinable public var slot: Slot {
    switch self {
    case .listen(let slot), .fill(let slot, _), .watch(let slot), .send(let slot, _),
      .connect(let slot, _), .narrow(let slot), .widen(let slot), .secure(let slot, _),
      .lookUp(let slot), .finish(let slot), .hand(let slot, _), .close(let slot):
      slot
    }
  }
}

/// Which side begins a handshake, and whether at once.
@frozen
public enum Handshake: UInt8, BitwiseCopyable, Sendable {
  /// The peer begins.
  case accept
  /// The peer begins, and its source has had many: it comes after peers whose sources have not.
  case acceptInTurn
  /// We do.
  case connect
}

/// An order to send one byte. Nothing comes back unless it fails: `failed`.
@frozen
public struct Drip: BitwiseCopyable, Sendable, Equatable {
  /// To whom.
  public var slot: Slot
  /// What.
  public var byte: UInt8

  /// An order to send `byte` to `slot`.
  @inlinable
  public init(_ slot: Slot, _ byte: UInt8) {
    self.slot = slot
    self.byte = byte
  }
}

/// A fact's moment: when it came, and the orders that follow from it, in order. Fixed room; the driver empties it
/// after each fact.
///
/// Drips are by far the most frequent. They have a lane of their own and are carried out before the others. That changes
/// nothing: any other order for the same slot in the same fact is to watch it, or belongs after the drip.
@frozen
public struct Moment: ~Copyable {
  /// When the fact came that these orders follow from.
  public var now = Instant.origin
  @usableFromInline var effects: Slab<Effect>
  @usableFromInline var filled = 0
  @usableFromInline var drips: Slab<Drip>
  /// How many bytes are to be sent.
  @inlinable public var dripCount: Int { dripped }
  @usableFromInline var dripped = 0
  /// How many drips there may be before the driver must carry them out; at most 256, as at first. Mail that is
  /// under way at the same time waits for so many sends, some 4 µs each.
  public var dripLimit = 256 { didSet { dripLimit = min(max(dripLimit, 1), drips.capacity) } }
  /// How many orders wait.
  @inlinable public var count: Int { filled }
  /// How many orders a single fact may cause at most. Every fact stays far below it; expiring timers
  /// stop early and are called again (see `Engine.timeReached`).
  @inlinable public static var reserve: Int { 32 }

  /// - Parameter capacity: at least twice `reserve` is taken.
  public init(capacity: Int = 1_024) {
    effects = Slab(
      capacity: max(capacity, 2 * Self.reserve),
      repeating: .close(Slot(index: 0, generation: 0)))
    drips = Slab(capacity: 256, repeating: Drip(Slot(index: 0, generation: 0), 0))
  }

  /// Whether a single fact may no longer fit.
  @inlinable public var isNearlyFull: Bool {
    filled &+ Self.reserve > effects.capacity || isFullOfDrips
  }

  /// Whether `dripLimit` is reached: the driver must carry the drips out first.
  @inlinable public var isFullOfDrips: Bool {
    UInt(bitPattern: dripped) >= UInt(bitPattern: dripLimit)
  }

  /// More than `capacity` is a fault of ours and ends the process.
  @inlinable @inline(__always)
  public mutating func append(_ effect: Effect) {
    if filled >= effects.capacity { Self.tooMany(filled, dripped) }
    effects[filled] = effect
    filled &+= 1
  }

  /// More than 256 drips is a fault of ours and ends the process.
  @inlinable @inline(__always)
  public mutating func append(_ drip: Drip) {
    if UInt(bitPattern: dripped) >= UInt(bitPattern: drips.capacity) {
      Self.tooMany(filled, dripped)
    }
    drips[dripped] = drip
    dripped &+= 1
  }

  @inline(never)
  @usableFromInline
  static func tooMany(_ filled: Int, _ dripped: Int) -> Never {
    invariantFailed("one fact caused more than \(filled) orders or \(dripped) drips")
  }

  /// The order at `index`, from 0.
  @inlinable public subscript(_ index: Int) -> Effect { effects[index] }

  /// The byte to send at `index`, from 0.
  @inlinable public func drip(at index: Int) -> Drip { drips[index] }

  /// To be called when all are carried out.
  @inlinable public mutating func removeAll() {
    filled = 0
    dripped = 0
  }
}
