// SPDX-License-Identifier: Apache-2.0
import Structures

/// What the driver knows of a slot, in 2 bytes: what is in flight (4 bits), what is wanted (2), flags (10).
struct Place: BitwiseCopyable {
  enum Want: UInt16 {
    case nothing, listen, fill, watch
  }

  struct Flags: OptionSet {
    let rawValue: UInt16
    /// A poll for input is armed.
    static let pollingInput = Flags(rawValue: 1)
    /// A poll for the peer's going away is armed.
    static let pollingHangup = Flags(rawValue: 2)
    /// A receive is in flight.
    static let receiving = Flags(rawValue: 4)
    /// That receive writes into a region of the engine's: it is armed and must be cancelled to end.
    static let filling = Flags(rawValue: 8)
    /// Waits for a provided buffer.
    static let starved = Flags(rawValue: 16)
    /// The engine ordered it closed.
    static let closing = Flags(rawValue: 32)
    /// The close itself is in flight.
    static let closeSubmitted = Flags(rawValue: 64)
    /// A send with a completion is in flight.
    static let sending = Flags(rawValue: 128)
    /// A connect is in flight.
    static let connecting = Flags(rawValue: 256)
    /// Its octets are TLS.
    static let secure = Flags(rawValue: 512)
  }

  private var bits: UInt16 = 0

  /// Completions still to come. Far below 16: of a client two polls, a receive, a send, three options, a shutdown
  /// and a cancelling of each of the first four, and the close once these are there: 12. Only a downstream's
  /// slot has a connect.
  var inFlight: UInt16 {
    get { bits & 15 }
    set {
      invariant(newValue < 16, "\(newValue) operations in flight on one slot")
      bits = bits & ~15 | newValue
    }
  }

  var want: Want {
    get { Want(rawValue: bits >> 4 & 3) ?? .nothing }
    set { bits = bits & ~(3 << 4) | newValue.rawValue << 4 }
  }

  var flags: Flags {
    get { Flags(rawValue: bits >> 6) }
    set { bits = bits & 63 | newValue.rawValue << 6 }
  }
}
