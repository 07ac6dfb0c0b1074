// SPDX-License-Identifier: Apache-2.0
import Shield
import Structures

/// The shield's sockets in a simulated world: what the engine has ordered of each slot, what it is still to be told, and
/// which slots have something to tell. A slot has at most one fact at a time: the orders it causes may change the
/// others.
struct Sockets: ~Copyable {
  /// What the engine wants of a slot.
  struct Socket: BitwiseCopyable {
    /// What it has ordered and was not told yet.
    var orders = SlotOrders()
    /// No reply before this moment, for the delay that was promised.
    var notBefore: Int64 = 0
    /// The client at its other end, or -1.
    var bot: Int32 = -1
    /// What `sent` is still to be told; what a slow reader takes in before that.
    var sent: Int32 = 0
    var sending: Int32 = 0
    var isReady = false
    var hasFailed = false
    /// A connection to the mail server stands; the engine knows that, or that a client's has failed.
    var isUp = false
    var upTold = false
  }

  /// What is to be told of a slot; the order that it answers is done with.
  enum Fact {
    case nothing, connected
    case sent(Int)
    /// Octets may go into a region; into a buffer of the driver.
    case filled(Region)
    case received
    case ended, failed
  }

  /// How far a slot is on the way to its end.
  enum Stage { case open, securing, closing }

  private var sockets: Slab<Socket>
  private var ready: [Int32] = []
  /// Slots below this are clients.
  let clientSlots: Int

  init(count: Int, clients: Int) {
    sockets = Slab(capacity: count, repeating: Socket())
    clientSlots = clients
  }

  // MARK: Looking

  @inline(__always)
  func bot(_ k: Int) -> Int { Int(sockets[k].bot) }

  @inline(__always)
  func stage(_ k: Int) -> Stage {
    sockets[k].orders.isClosing ? .closing : sockets[k].orders.isSecuring ? .securing : .open
  }

  func hasFailed(_ k: Int) -> Bool { sockets[k].hasFailed }

  /// Whether a client, of which so much is here, has another fact for the engine.
  @inline(__always)
  func hasMore(_ k: Int, _ seen: Seen) -> Bool {
    if sockets[k].orders.isClosing || sockets[k].hasFailed { return true }
    if seen.isReset { return !sockets[k].upTold }
    if sockets[k].sent > 0 { return true }
    let orders = sockets[k].orders
    return seen.hasSaid ? orders.reads(.listen) : seen.hasEnded && orders.reads(.watch)
  }

  /// Whether a connection to the mail server has.
  @inline(__always)
  func hasMore(_ k: Int, hasArrived: Bool) -> Bool {
    sockets[k].orders.isClosing || sockets[k].sent > 0 || sockets[k].isUp && !sockets[k].upTold
      || hasArrived && sockets[k].orders.fill != nil || sockets[k].hasFailed && !hasArrived
  }

  // MARK: The queue of those with something to tell

  @inline(__always)
  mutating func makeReady(_ slot: Int) {
    guard slot >= 0, !sockets[slot].isReady else { return }
    sockets[slot].isReady = true
    ready.append(Int32(truncatingIfNeeded: slot))
  }

  @inline(__always)
  mutating func nextReady() -> Int? {
    if ready.isEmpty { return nil }
    let slot = Int(ready.removeLast())
    sockets[slot].isReady = false
    return slot
  }

  // MARK: Orders

  /// A client has this slot.
  mutating func open(_ k: Int, bot: Int) {
    sockets[k] = Socket()
    sockets[k].bot = Int32(bot)
  }

  @inline(__always)
  mutating func take(_ effect: Effect) {
    let k = Int(effect.slot.index)
    if case .connect = effect {
      let orders = sockets[k].orders
      sockets[k] = Socket()
      sockets[k].orders = orders
    }
    sockets[k].orders.take(effect)
  }

  /// - Returns: the client that the octet goes to, or -1.
  @inline(__always)
  mutating func drip(_ slot: Slot) -> Int {
    sockets[Int(slot.index)].orders.drip(slot)
    return Int(sockets[Int(slot.index)].bot)
  }

  // MARK: What is to be told

  /// So many octets went out.
  @inline(__always)
  mutating func sent(_ k: Int, _ count: Int) {
    sockets[k].sent = Int32(count)
    makeReady(k)
  }

  /// So many go out slowly: `taken` comes later.
  mutating func isSending(_ k: Int, _ count: Int) { sockets[k].sending = Int32(count) }

  mutating func taken(_ k: Int) {
    sockets[k].sent = sockets[k].sending
    sockets[k].sending = 0
    makeReady(k)
  }

  /// A connection to the mail server stands.
  mutating func isUp(_ k: Int) {
    sockets[k].isUp = true
    makeReady(k)
  }

  /// A connection is broken, or did not come to stand.
  mutating func fail(_ k: Int) {
    sockets[k].hasFailed = true
    makeReady(k)
  }

  // MARK: Promises

  /// No reply to this client before a moment in microseconds.
  mutating func promise(_ k: Int, until moment: Int64) {
    // While a slow reader takes in what was sent before, replies that came due earlier still wait behind that,
    // and cannot be told from the delayed one.
    if sockets[k].sending == 0 { sockets[k].notBefore = moment }
  }

  mutating func releasePromise(_ k: Int) { sockets[k].notBefore = 0 }

  /// When a reply may come at the earliest, in microseconds; 0: at once.
  @inline(__always)
  func promised(_ k: Int) -> Int64 { sockets[k].notBefore }

  // MARK: Facts

  /// A handshake is done, or has come to nothing.
  mutating func answer(_ k: Int, _ fact: SlotOrders.Fact, _ slot: Slot) {
    sockets[k].orders.answer(fact, slot)
  }

  /// What was ordered of a broken connection will not be answered.
  mutating func drop(_ k: Int) { sockets[k].orders.fail() }

  mutating func close(_ k: Int, _ slot: Slot) {
    sockets[k].orders.answer(.closed, slot)
    sockets[k] = Socket()
  }

  /// The next fact of a client's slot, of which so much is here.
  @inline(__always)
  mutating func next(_ k: Int, _ slot: Slot, _ seen: Seen) -> Fact {
    if seen.isReset || sockets[k].hasFailed {
      sockets[k].hasFailed = false
      if sockets[k].upTold { return .nothing }
      sockets[k].upTold = true
      sockets[k].sent = 0
      sockets[k].orders.fail()
      return .failed
    }
    if sockets[k].sent > 0 { return tellSent(k, slot) }
    if seen.hasSaid {
      if let region = sockets[k].orders.fill {
        sockets[k].orders.answer(.filled, slot)
        return .filled(region)
      }
      if sockets[k].orders.want == .listen {
        sockets[k].orders.answer(.received, slot)
        return .received
      }
    } else if seen.hasEnded && sockets[k].orders.reads(.watch) {
      sockets[k].orders.answer(.ended, slot)
      return .ended
    }
    return .nothing
  }

  /// The next fact of a connection to the mail server.
  @inline(__always)
  mutating func next(_ k: Int, _ slot: Slot, hasArrived: Bool) -> Fact {
    if sockets[k].isUp && !sockets[k].upTold {
      sockets[k].upTold = true
      sockets[k].orders.answer(.connected, slot)
      return .connected
    }
    if sockets[k].sent > 0 { return tellSent(k, slot) }
    if hasArrived {
      guard let region = sockets[k].orders.fill else { return .nothing }
      sockets[k].orders.answer(.filled, slot)
      return .filled(region)
    }
    if !sockets[k].hasFailed { return .nothing }
    sockets[k].hasFailed = false
    sockets[k].orders.fail()
    return sockets[k].isUp ? .ended : .failed
  }

  @inline(__always)
  private mutating func tellSent(_ k: Int, _ slot: Slot) -> Fact {
    let count = Int(sockets[k].sent)
    sockets[k].sent = 0
    sockets[k].orders.answer(.sent, slot)
    return .sent(count)
  }
}
