// SPDX-License-Identifier: Apache-2.0
package import Structures
package import Suspicion

/// What a client connection is doing. A held connection is this record and nothing else.
@frozen
package enum ConnectionState: UInt8, BitwiseCopyable, Sendable {
  /// No tenant. Goes to: announced, waiting, banner, dripping, refusing.
  case free
  /// From a load balancer that has not sent its PROXY header yet; its own address stands for the client's.
  /// Goes to: waiting, banner, dripping, refusing, closing.
  case announced
  /// Waits for its banner; we listen, because a client that talks now is no mail server. Goes to: banner, dripping.
  case waiting
  /// The banner is being sent. Goes to: idle, talking.
  case banner
  /// Greeted; has not said anything yet and owns no session. Goes to: talking, dripping.
  case idle
  /// Owns a session. Goes to: dripping, closing, draining.
  case talking
  /// In the tarpit, a reply is being dripped to it. Goes to: pit, closing.
  case dripping
  /// In the tarpit, its turn to speak. Goes to: dripping, closing.
  case pit
  /// A last reply is being sent. Goes to: draining.
  case refusing
  /// Our side is closed; what it still sends is thrown away, so that no reset kills the last reply.
  case draining
  /// The driver was told to close it. Goes to: free.
  case closing
  /// A handshake is under way and there is no session: on a listener of TLS alone, or in the tarpit. Goes to:
  /// banner, waiting, dripping, pit, closing.
  case securing
}

/// Facts about a connection that are either so or not.
@frozen
package struct ConnectionFlags: OptionSet, BitwiseCopyable, Sendable {
  package let rawValue: UInt16
  package init(rawValue: UInt16) { self.rawValue = rawValue }
  /// Mail from this source was accepted before.
  static let known = ConnectionFlags(rawValue: 1)
  /// The operator vouches for it.
  static let trusted = ConnectionFlags(rawValue: 2)
  /// Counted in the concurrency of its rate rule.
  static let counted = ConnectionFlags(rawValue: 4)
  /// Counted as a tarpit session of its source.
  static let countedBad = ConnectionFlags(rawValue: 8)
  /// The first word of the line that is coming in is complete (tarpit only).
  static let pastWord = ConnectionFlags(rawValue: 16)
  /// Holds a place for a PROXY header.
  static let announced = ConnectionFlags(rawValue: 32)
  /// The tarpit's reply being dripped is the last one.
  static let last = ConnectionFlags(rawValue: 64)
  /// The peer has closed its sending side.
  static let ended = ConnectionFlags(rawValue: 128)
  /// The closing line is written already.
  static let logged = ConnectionFlags(rawValue: 256)
  /// Was let through to the downstream.
  static let passed = ConnectionFlags(rawValue: 512)
  /// A session is attached to it.
  static let leased = ConnectionFlags(rawValue: 1_024)
  /// Speaks TLS, or is about to.
  static let encrypted = ConnectionFlags(rawValue: 2_048)
  // 12 bits at most: see `Connection`.
  static let counts: ConnectionFlags = [.counted, .countedBad]
  /// Not new to us.
  static let vouched: ConnectionFlags = [.known, .trusted]
}

/// A client connection: everything that must be kept while it is merely held, in 40 bytes.
///
/// What is small shares words, because there may be a million of these; nothing outside sees how.
package struct Connection: BitwiseCopyable, Sendable {
  // The address in four parts: as two 64-bit words it would round the record up to 48 bytes.
  private var parts: (UInt32, UInt32, UInt32, UInt32) = (0, 0, 0, 0)
  /// Generation (24 bits) and listener (8).
  private var life: UInt32 = 0
  /// Signals (25 bits), whether it is a load balancer without a client (1), state (4), tier (2).
  private var standing: UInt32 = 0
  /// The session it leases, or in the tarpit the replies owed: no connection has both.
  private var lease: UInt32 = 0
  /// When it came, in ticks of 10 ms since the origin (497 days).
  package var accepted: UInt32 = 0
  package var port: UInt16 = 0
  /// Artificial delay so far, in ticks, held at the maximum of 655 s. In the tarpit: how old the
  /// connection was when it came there.
  package var delayed: UInt16 = 0
  /// Bytes of the text that are out (10 bits), the word that is coming in (6).
  private var progress: UInt16 = 0
  /// Flags (12 bits), the text that is being said (4).
  private var marks: UInt16 = 0

  package init() { tier = .clean }

  package var address: Address {
    get {
      Address(
        high: UInt64(parts.0) << 32 | UInt64(parts.1), low: UInt64(parts.2) << 32 | UInt64(parts.3))
    }
    set {
      parts = (
        UInt32(truncatingIfNeeded: newValue.high >> 32), UInt32(truncatingIfNeeded: newValue.high),
        UInt32(truncatingIfNeeded: newValue.low >> 32), UInt32(truncatingIfNeeded: newValue.low)
      )
    }
  }

  /// Its session, or none.
  var session: SessionIndex {
    get { flags.contains(.leased) ? SessionIndex(Int(lease)) : .none }
    set {
      if newValue.exists { flags.insert(.leased) } else { flags.remove(.leased) }
      lease = UInt32(max(newValue.number, 0))
    }
  }

  /// Tarpit: replies still owed, one class of command per 4 bits, the next one lowest. Only for clients
  /// without a session: with one it is and stays 0.
  package var owed: UInt32 {
    get { flags.contains(.leased) ? 0 : lease }
    set { if !flags.contains(.leased) { lease = newValue } }
  }

  /// Waiting for a PROXY header: its place. As `owed`, only for clients without a session.
  var headerPlace: Int {
    get { Int(owed) }
    set { owed = UInt32(newValue) }
  }

  /// 24 bits.
  package var generation: UInt32 {
    get { life & 0xFF_FFFF }
    set { life = life & ~0xFF_FFFF | newValue & 0xFF_FFFF }
  }

  package var listener: UInt8 {
    get { UInt8(truncatingIfNeeded: life >> 24) }
    set { life = life & 0xFF_FFFF | UInt32(newValue) << 24 }
  }

  package var signals: SignalSet {
    get { SignalSet(rawValue: standing & 0x1FF_FFFF) }
    set { standing = standing & ~0x1FF_FFFF | newValue.rawValue & 0x1FF_FFFF }
  }

  /// A load balancer whose header named no client.
  var isNobody: Bool {
    get { standing >> 25 & 1 == 1 }
    set { standing = standing & ~(1 << 25) | (newValue ? 1 << 25 : 0) }
  }

  package var state: ConnectionState {
    get { ConnectionState(rawValue: UInt8(standing >> 26 & 15)) ?? .free }
    set { standing = standing & ~(15 << 26) | UInt32(newValue.rawValue) << 26 }
  }

  /// Whether it is in the tarpit and a reply is being dripped to it: `state`, for the hot path.
  package var isDripping: Bool {
    standing >> 26 & 15 == UInt32(ConnectionState.dripping.rawValue)
  }

  package var tier: Tier {
    get { Tier(rawValue: UInt8(standing >> 30)) ?? .clean }
    set { standing = standing & 0x3FFF_FFFF | UInt32(newValue.rawValue) << 30 }
  }

  /// Tarpit and last words: how many bytes of the text are out; up to 1,023.
  package var position: UInt16 {
    get { progress & 1_023 }
    set { progress = progress & ~1_023 | min(newValue, 1_023) }
  }

  /// In place of `position`: of the text that is being said there is no rest, because it is another one now. More
  /// than any text has, and it stays so when more is out.
  static let noRest: UInt16 = 1_023

  /// `position`, for the hot path.
  var nextStep: UInt32 { UInt32(progress) & 1_023 }
  /// One byte more is out. No text has more bytes than `position` counts.
  mutating func takeStep() { progress &+= 1 }

  /// Tarpit: what is known of the first word of the line that is coming in.
  var word: PitWord {
    get { PitWord(code: UInt8(progress >> 10)) }
    set { progress = progress & 1_023 | UInt16(newValue.code) << 10 }
  }

  package var flags: ConnectionFlags {
    get { ConnectionFlags(rawValue: marks & 0xFFF) }
    set { marks = marks & 0xF000 | newValue.rawValue & 0xFFF }
  }

  /// Tarpit and last words: which text is being said.
  package var text: PitText {
    get { PitText(rawValue: UInt8(marks >> 12)) ?? .banner }
    set { marks = marks & 0xFFF | UInt16(newValue.rawValue) << 12 }
  }

  /// The number of that text.
  package var textNumber: Int { Int(marks >> 12) }
}
