// SPDX-License-Identifier: Apache-2.0
import Structures

/// Buffers and records of the driver, in bytes: for whoever makes them, and for the memory statement.
package enum DriverSizes {
  /// A provided receive buffer.
  package static let buffer = 512
  /// The record of a slot.
  package static var slot: Int { MemoryLayout<Place>.stride }
  /// The records of a slot that speaks TLS.
  package static var secureSlot: Int { MemoryLayout<SecureSlot>.stride + PlaceMap.bytesEach }
  /// A receive buffer of TLS. A record is 16 KB and a bit; several receives of half as much would cost more than their
  /// memory saves.
  package static let secureBuffer = 16_384
  /// How many of them a worker has.
  package static let secureBufferCount = 32
  /// SO_RCVBUF of a held client and of one that sends a message. The kernel doubles them. With the first a
  /// client that floods what we do not read pins 5.8 KB, without it 131.8 KB. Not set on the listener: the
  /// window's scale would then be fixed at 0 for the whole connection.
  static let narrow: Int32 = 4_096
  static let wide: Int32 = 65_536
  /// SO_SNDBUF of a client, for replies: at most 8,192 bytes of them are sent at once.
  package static let clientSend: Int32 = 32_768
  /// SO_SNDBUF and SO_RCVBUF of a downstream connection. Without the first one that takes nothing pins 3.9 MB of message
  /// (tcp_wmem); a larger one carries no more over a loopback or a LAN (measured: 32 KiB to 256 KiB are alike).
  package static let linkSend: Int32 = 131_072
  package static let linkReceive: Int32 = 32_768
}
