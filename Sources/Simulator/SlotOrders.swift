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
    case connected, received, filled, sent, ended, secured, notSecured, closed
  }

  /// An order or a fact that may not be.
  package enum Breach: Sendable, Equatable {
    case twoFills, twoSends, twoHandshakes
    /// A handshake while something is outstanding, or something else than the end while one is.
    case handshakeInFlight
    /// A connection on a slot of which something is outstanding still.
    case slotInUse
    /// An order, other than the end, for a connection that does not stand yet.
    case notConnected
    /// Octets behind `finish`.
    case afterFinish
    /// An order behind `close`.
    case afterClose
    /// A fact that answers nothing.
    case notAsked(Fact)
  }

  private struct Flags: OptionSet, BitwiseCopyable {
    let rawValue: UInt8
    static let sending = Flags(rawValue: 1)
    static let securing = Flags(rawValue: 2)
    static let closing = Flags(rawValue: 4)
    static let connecting = Flags(rawValue: 8)
    static let finished = Flags(rawValue: 16)
  }

  // 16 bytes, because a simulation has one of these for each slot: the largest first, and the region in parts.
  private var fillOffset = 0
  private var fillCount: Int32 = -1
  /// Of `listen` and `watch` the newer; good for one fact.
  package private(set) var want = Want.nothing
  private var flags: Flags = []

  package init() {}

  /// A send is outstanding.
  package var isSending: Bool { flags.contains(.sending) }
  package var isSecuring: Bool { flags.contains(.securing) }
  package var isClosing: Bool { flags.contains(.closing) }

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
    if flags.contains(.connecting) {
      if case .close = effect { return nil }
      return .notConnected
    }
    switch effect {
    case .connect: return flags.isEmpty && fill == nil && want == .nothing ? nil : .slotInUse
    case .fill where isSecuring, .send where isSecuring, .listen where isSecuring,
      .watch where isSecuring, .finish where isSecuring:
      return .handshakeInFlight
    case .fill: return fill == nil ? nil : .twoFills
    case .send where flags.contains(.finished): return .afterFinish
    case .send: return isSending ? .twoSends : nil
    case .secure where isSecuring: return .twoHandshakes
    case .secure: return fill == nil && !isSending ? nil : .handshakeInFlight
    case .listen, .watch, .narrow, .widen, .lookUp, .finish, .hand, .close: return nil
    }
  }

  /// Why an octet may not be dripped now; nil if it may.
  package var breachOfDrip: Breach? {
    if isClosing { return .afterClose }
    if isSending { return .twoSends }
    return isSecuring ? .handshakeInFlight : flags.contains(.finished) ? .afterFinish : nil
  }

  /// Takes an order. One that may not be ends the process.
  package mutating func take(_ effect: Effect) {
    if let breach = breach(of: effect) { invariantFailed("\(breach) on slot \(effect.slot)") }
    switch effect {
    case .connect: flags = .connecting
    case .listen: want = .listen
    case .watch: want = .watch
    case .fill(_, let region):
      fillOffset = region.offset
      fillCount = Int32(region.count)
    case .send: flags.insert(.sending)
    case .secure:
      want = .nothing
      flags.insert(.securing)
    case .finish: flags.insert(.finished)
    case .close: flags.insert(.closing)
    case .narrow, .widen, .lookUp, .hand: break
    }
  }

  /// An octet is dripped. One that may not be ends the process.
  package func drip(_ slot: Slot) {
    if let breach = breachOfDrip { invariantFailed("\(breach): a drip on slot \(slot)") }
  }

  // MARK: Facts

  /// Why a fact may not be told now; nil if it may.
  package func breach(of fact: Fact) -> Breach? {
    let isAsked =
      switch fact {
      case .connected: flags.contains(.connecting)
      case .received: want == .listen
      case .filled: fill != nil
      case .sent: isSending
      case .ended: fill != nil || want != .nothing
      case .secured, .notSecured: isSecuring
      case .closed: isClosing
      }
    return isAsked && isClosing == (fact == .closed) ? nil : .notAsked(fact)
  }

  /// A fact about a slot is about to be told: what it answers is done with. One that answers nothing ends the process.
  package mutating func answer(_ fact: Fact, _ slot: Slot) {
    if let breach = breach(of: fact) { invariantFailed("\(breach) on slot \(slot)") }
    switch fact {
    case .connected: flags.remove(.connecting)
    case .received: want = .nothing
    case .filled: fillCount = -1
    case .sent: flags.remove(.sending)
    case .ended:
      fillCount = -1
      want = .nothing
    case .secured, .notSecured: flags.remove(.securing)
    // What was outstanding is not any more.
    case .closed: self = SlotOrders()
    }
  }

  /// The connection is broken, or did not come to stand: what was outstanding will not be answered.
  package mutating func fail() {
    fillCount = -1
    flags.subtract([.sending, .securing, .connecting])
  }
}
