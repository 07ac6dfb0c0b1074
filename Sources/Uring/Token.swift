// SPDX-License-Identifier: Apache-2.0
//
// What a submission carries through the kernel and its completion brings back: which operation, on
// which slot, in which of the slot's lives. Not a pointer and not a key into any table of ours.
// Keeps: a completion for an earlier life of a slot can be told from one for the present life.

/// What was asked of the kernel. Zero is kept free, so that a forgotten token is visible.
@frozen
public enum Operation: UInt8, Sendable {
  case none = 0
  case accept, poll, receive, send, connect, close, cancel, shutdown, timeout, wake
  case openSocket, setOption, nothing
  /// A poll for the peer's going away alone.
  case hangup
  /// A receive into a provided buffer.
  case receiveProvided
  /// A send of one byte whose success nobody hears of.
  case drip
  /// A receive into one of the large buffers, of a slot that speaks TLS.
  case receiveSecure
  /// A poll of a socket of the DNS resolver's: not a slot's, its index is the poll's number.
  case lookUp
}

/// 64 bits: operation (8), generation (24), index (32).
///
/// A generation comes round after 16,777,216 lives of one slot. The closing ladder frees a slot only
/// when nothing of it is in flight, so this is the second lock on that door.
@frozen
public struct Token: Hashable, Sendable {
  /// What the kernel carries as user_data.
  public let bits: UInt64

  /// A token as it came back.
  @inlinable
  public init(bits: UInt64) { self.bits = bits }

  /// - Parameter generation: only the low 24 bits are kept (`Token.generationMask`).
  @inlinable
  public init(_ operation: Operation, generation: UInt32 = 0, index: UInt32 = 0) {
    bits =
      UInt64(operation.rawValue) << 56
      | UInt64(generation & Token.generationMask) << 32 | UInt64(index)
  }

  /// The 24 bits that a generation has.
  @inlinable public static var generationMask: UInt32 { 0xFF_FFFF }

  /// `.none` for anything we did not write ourselves.
  @inlinable public var operation: Operation {
    Operation(rawValue: UInt8(truncatingIfNeeded: bits >> 56)) ?? .none
  }
  /// Which life of the slot: 0 ... `generationMask`.
  @inlinable public var generation: UInt32 {
    UInt32(truncatingIfNeeded: bits >> 32) & Token.generationMask
  }
  /// Which slot, or what else the operation was for.
  @inlinable public var index: UInt32 { UInt32(truncatingIfNeeded: bits) }
}

/// One entry of the completion queue, copied out.
@frozen
public struct Completion: Sendable {
  /// What was given to the submission.
  public let token: Token
  /// A count or a descriptor, or a negated errno.
  public let result: Int32
  /// As the kernel wrote them (IORING_CQE_F_...), with the buffer in the upper 16 bits.
  public let flags: UInt32

  /// A completion from its three fields.
  @inlinable
  public init(token: Token, result: Int32, flags: UInt32) {
    self.token = token
    self.result = result
    self.flags = flags
  }

  /// False on the last completion of a multishot operation: arm again or close, nothing more comes.
  @inlinable public var hasMore: Bool { flags & 2 != 0 }

  /// The socket had more bytes than the buffer took (receive only; a hint, false proves nothing).
  @inlinable public var socketHasMore: Bool { flags & 4 != 0 }

  /// The provided buffer this completion hands us: ours until recycled, whatever `result` says.
  @inlinable public var buffer: UInt16? {
    flags & 1 != 0 ? UInt16(truncatingIfNeeded: flags >> 16) : nil
  }
}

/// What the ring counts. Everything here is normal; the rates are what an operator watches.
@frozen
public struct RingCounters: Sendable, Equatable {
  /// The submission queue was full and was handed to the kernel in the middle of a loop.
  public var sqFull: UInt64 = 0
  /// Times the kernel was seen to hold completions the queue had no room for. None is lost by it.
  public var cqOverflow: UInt64 = 0
  /// Receives that found no provided buffer. Moved by the driver, which re-arms in turn.
  public var noBuffers: UInt64 = 0
  /// io_uring_enter calls, as far as user space can tell them.
  public var enters: UInt64 = 0
  /// Times the kernel asked us to come back (EAGAIN: no memory for a request; EBUSY: drain first).
  public var retries: UInt64 = 0
  /// Entries of the submission queue that were filled.
  public var submissions: UInt64 = 0
  /// Completions that were taken.
  public var completions: UInt64 = 0

  /// All zero.
  @inlinable public init() {}
}
