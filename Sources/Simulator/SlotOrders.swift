// SPDX-License-Identifier: Apache-2.0
package import Shield
package import Structures

/// What of the engine's orders is outstanding on one slot, and the contract between engine and driver: which order may
/// follow which, and which fact answers what (ARCHITECTURE.md, "Rules that keep it true", 1 and 2).
///
/// Both drivers of this module carry orders out through it, so a breach by the engine or by a driver ends a test, a
/// dialogue or a simulation where it happens.
package struct SlotOrders: BitwiseCopyable, Sendable {
  package enum Want: UInt8, BitwiseCopyable, Sendable { case nothing, listen, watch }

  /// What a driver tells the engine about a slot.
  package enum Fact: Sendable, Equatable, CaseIterable {
    case received, filled, sent, ended, secured, notSecured, closed
  }

  /// An order or a fact that may not be.
  package enum Breach: Sendable, Equatable {
    case twoFills, twoSends, twoHandshakes
    /// A handshake while something is outstanding, or something else than the end while one is.
    case handshakeInFlight
    /// An order behind `close`.
    case afterClose
    /// A fact that answers nothing.
    case notAsked(Fact)
  }

  // 16 bytes, because a simulation has one of these for each slot: the largest first, and the region in parts.
  private var fillOffset = 0
  private var fillCount: Int32 = -1
  /// Of `listen` and `watch` the newer; good for one fact.
  package private(set) var want = Want.nothing
  /// A send is outstanding.
  package private(set) var isSending = false
  package private(set) var isSecuring = false
  package private(set) var isClosing = false

  package init() {}

  /// Where the next bytes go; stands until it is answered.
  package var fill: Region? {
    fillCount < 0 ? nil : Region(offset: fillOffset, count: Int(fillCount))
  }

  /// Whether the engine reads: into a region, or by a wish that is `least` or more. To `watch` only an end is told.
  package func reads(_ least: Want) -> Bool {
    fillCount >= 0 || want == .listen || want == least
  }

  // MARK: Orders

  /// Why an order may not be given now; nil if it may.
  package func breach(of effect: Effect) -> Breach? {
    if isClosing { return .afterClose }
    switch effect {
    case .fill where isSecuring, .send where isSecuring, .listen where isSecuring:
      return .handshakeInFlight
    case .fill: return fill == nil ? nil : .twoFills
    case .send: return isSending ? .twoSends : nil
    case .secure where isSecuring: return .twoHandshakes
    case .secure: return fill == nil && !isSending ? nil : .handshakeInFlight
    case .listen, .watch, .connect, .narrow, .widen, .finish, .hand, .close: return nil
    }
  }

  /// Takes an order. One that may not be ends the process.
  package mutating func take(_ effect: Effect) {
    if let breach = breach(of: effect) { invariantFailed("\(breach) on slot \(effect.slot)") }
    switch effect {
    case .listen: want = .listen
    case .watch: want = .watch
    case .fill(_, let region):
      fillOffset = region.offset
      fillCount = Int32(region.count)
    case .send: isSending = true
    case .secure:
      want = .nothing
      isSecuring = true
    case .close: isClosing = true
    case .connect, .narrow, .widen, .finish, .hand: break
    }
  }

  // MARK: Facts

  /// Why a fact may not be told now; nil if it may.
  package func breach(of fact: Fact) -> Breach? {
    let isAsked =
      switch fact {
      case .received: want == .listen && !isClosing
      case .filled: fill != nil && !isClosing
      case .sent: isSending && !isClosing
      case .ended: (fill != nil || want != .nothing) && !isClosing
      case .secured, .notSecured: isSecuring && !isClosing
      case .closed: isClosing
      }
    return isAsked ? nil : .notAsked(fact)
  }

  /// A fact is about to be told: what it answers is done with. One that answers nothing ends the process.
  package mutating func answer(_ fact: Fact) {
    if let breach = breach(of: fact) { invariantFailed("\(breach)") }
    switch fact {
    case .received: want = .nothing
    case .filled: fillCount = -1
    case .sent: isSending = false
    case .ended:
      fillCount = -1
      want = .nothing
    case .secured, .notSecured: isSecuring = false
    // What was outstanding is not any more.
    case .closed: self = SlotOrders()
    }
  }

  /// The connection is broken: what was outstanding will not be answered.
  package mutating func fail() {
    fillCount = -1
    isSending = false
    isSecuring = false
  }
}
