// SPDX-License-Identifier: Apache-2.0

/// When a client does something by itself: how long it waits for a reply, and when it sends its next octet if it trickles.
///
/// Only the connection's beginning is kept in full. Other times are milliseconds since then, because there may be many
/// clients.
struct ClientClock: Sendable, BitwiseCopyable {
  /// When the client connected.
  private(set) var openedAt: Int64 = 0
  /// When it began to wait for this reply; when it last heard an octet.
  private var began: UInt32 = 0
  private var lastHeard: UInt32 = 0
  /// When it sends its next octet, if it is one that trickles.
  private var trickles = ClientClock.never
  /// When it had the whole banner.
  private var greeted = ClientClock.never
  /// How long it waits for the reply that `patientFor` names.
  private var patience = ClientClock.never
  /// Its place among its kind, 0 ..< 1: of each patience it takes the value at this place.
  private var place: Float = 0
  private var patientFor = Awaited.banner
  /// Replies that took too long.
  private var strikes: UInt8 = 0

  private static let never = UInt32.max

  init() {}

  /// - Parameter place: its place among its kind, 0 ..< 1.
  init(_ persona: SharedPersona, place: Float, openedAt: Int64) {
    self.openedAt = openedAt
    self.place = place
    patience = patience(persona)
  }

  /// Milliseconds since the client connected.
  func since(_ now: Int64) -> UInt32 {
    UInt32(truncatingIfNeeded: min(max((now - openedAt) / 1_000, 0), Int64(Self.never) - 1))
  }

  /// Rounded up; what is too long is never.
  private static func milliseconds(_ seconds: Double) -> UInt32 {
    UInt32(min((seconds * 1_000).rounded(.up), Double(never)))
  }

  // MARK: What happened

  mutating func begins(at now: Int64) { openedAt = now }

  @inline(__always)
  mutating func heard(at now: UInt32) { lastHeard = now }

  /// It waits from now on.
  @inline(__always)
  mutating func waits(from now: UInt32) { began = now }

  mutating func hadBanner(at now: UInt32) { greeted = now }

  /// When it had the whole banner; -1: not yet.
  var greetedAt: Int64 { greeted == Self.never ? -1 : openedAt + Int64(greeted) * 1_000 }

  // MARK: Patience

  private func patience(_ persona: SharedPersona) -> UInt32 {
    let patience = persona.value.patience[patientFor] ?? persona.value.patienceOtherwise
    return Self.milliseconds(patience.value(at: Double(place)))
  }

  /// Another reply may be worth another wait.
  @inline(__always)
  mutating func isPatient(for awaited: Awaited, _ persona: SharedPersona) {
    if patientFor == awaited { return }
    patientFor = awaited
    if !persona.value.patience.isEmpty { patience = patience(persona) }
  }

  /// A reply is complete.
  ///
  /// - Returns: whether the client has now had as many slow ones as it bears.
  mutating func strikesOut(at now: UInt32, _ persona: SharedPersona) -> Bool {
    guard persona.value.slowStrikes > 0,
      Double(now) - Double(began) > persona.value.slowReply * 1_000
    else { return false }
    strikes += 1
    return Int(strikes) >= persona.value.slowStrikes
  }

  // MARK: Trickling

  mutating func trickles(in seconds: Double, from now: UInt32) {
    let gap = Self.milliseconds(max(seconds, 0.01))
    trickles = gap < Self.never - now ? now + gap : Self.never
  }

  func trickles(at now: UInt32) -> Bool { now >= trickles }

  /// When it does something by itself, if it hears nothing until then.
  func deadline(_ persona: SharedPersona) -> Int64 {
    let from: UInt32 =
      switch persona.value.clock {
      case .read: max(lastHeard, began)
      case .reply: began
      case .session: 0
      }
    var due = UInt64(trickles)
    if patience != Self.never { due = min(due, UInt64(from) + UInt64(patience)) }
    if persona.value.sessionMost < .infinity {
      due = min(due, UInt64(Self.milliseconds(persona.value.sessionMost)))
    }
    return due >= UInt64(Self.never) ? .max : openedAt + Int64(due) * 1_000
  }
}
