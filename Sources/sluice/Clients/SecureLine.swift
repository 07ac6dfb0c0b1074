// SPDX-License-Identifier: Apache-2.0
// TLS of one client of a flood: octets of the wire in and out as arrays, plain text on the other side. Not a
// connection and not a client: who says what, and when, is an actor's, and sends are the thread's. Keeps: nothing is
// sealed before the handshake is done, and no text is given out after a failure.

import TLS

final class SecureLine {
  enum Found {
    /// The handshake goes on, or has just been done.
    case shaking, done
    /// There may be more text; there will be none, because the server said so; it is no TLS, or no TLS of ours.
    case open, closed, failed
  }

  /// Some 15 KB in OpenSSL; its buffers go back after each read.
  private var channel: TLSChannel
  private(set) var isEstablished = false
  /// What came with the end of the handshake.
  private var held: [UInt8] = []

  private static let roomBytes = 4_096

  init(_ context: TLSClientContext) { channel = TLSChannel(context) }

  /// Goes on with the handshake: without octets it begins.
  func shake(_ bytes: Span<UInt8>) -> Found {
    bytes.withUnsafeBytes { raw in
      var rest = raw
      switch channel.advance(&rest) {
      case .needsMore: return .shaking
      case .established:
        isEstablished = true
        held = Array(rest)
        return .done
      case .failed: return .failed
      }
    }
  }

  /// Appends the text of what came.
  func open(_ bytes: Span<UInt8>, into text: inout [UInt8]) -> Found {
    if held.isEmpty { return bytes.withUnsafeBytes { open($0, &text) } }
    let all = held + bytes.withUnsafeBytes { Array($0) }
    held = []
    return all.withUnsafeBytes { open($0, &text) }
  }

  private func open(_ bytes: UnsafeRawBufferPointer, _ text: inout [UInt8]) -> Found {
    var rest = bytes
    defer { channel.giveBack() }
    return withUnsafeTemporaryAllocation(byteCount: Self.roomBytes, alignment: 1) { room in
      while true {
        switch channel.read(&rest, into: room) {
        case .bytes(let count): text += room[..<count]
        case .needsMore: return .open
        case .closed: return .closed
        // It makes us answer and takes no answer.
        case .mustSend, .failed: return .failed
        }
      }
    }
  }

  /// The octets for the wire that text becomes, behind those that wait; none after a failure, of which the reader
  /// hears.
  func seal(_ text: UnsafeRawBufferPointer) -> [UInt8] {
    var octets = takeOutput()
    var rest = text
    while !rest.isEmpty {
      guard isEstablished, case .accepted(let count) = channel.write(rest) else { return [] }
      rest = UnsafeRawBufferPointer(rebasing: rest[count...])
      octets += takeOutput()
    }
    return octets
  }

  var hasOutput: Bool { channel.pendingOutput > 0 }

  /// What waits to be sent: parts of a handshake, answers to a change of keys.
  func takeOutput() -> [UInt8] {
    let pending = channel.pendingOutput
    if pending == 0 { return [] }
    return [UInt8](unsafeUninitializedCapacity: pending) { room, count in
      count = channel.take(into: UnsafeMutableRawBufferPointer(room))
    }
  }
}
