// SPDX-License-Identifier: Apache-2.0
//
// A client's channel with arrays for octets, for callers that have few of them: a probe, a client of a flood.
// Not a connection: sends and receives are the caller's. Keeps: nothing is sealed before the handshake is done, and
// no text is given out after a failure.

/// TLS of one connection, by arrays. For one thread at a time.
public final class TLSLine {
  /// What became of an attempt to read plain text.
  public enum Found: Sendable, Equatable {
    /// There may be more.
    case open
    /// There will be none: the server has said so.
    case closed
    /// There will be none: it is no TLS, or it makes us answer and takes no answer.
    case failed
  }

  /// Some 15 KB in OpenSSL; its buffers go back after each read.
  private var channel: TLSChannel
  /// Whether the handshake is done.
  public private(set) var isEstablished = false
  /// What came behind the end of the handshake.
  private var held: [UInt8] = []

  private static let roomBytes = 4_096

  /// A client's side before its first octet; nil without memory.
  public init?(_ context: TLSClientContext) {
    guard let made = TLSChannel(context) else { return nil }
    channel = made
  }

  /// Goes on with the handshake; without octets it begins. What came behind its end is for `open`.
  public func advance(_ bytes: Span<UInt8>) -> TLSHandshake {
    bytes.withUnsafeBytes { raw in
      var rest = raw
      let found = channel.advance(&rest)
      if case .established = found {
        isEstablished = true
        held = Array(rest)
      }
      return found
    }
  }

  /// Appends the text of what came. The handshake must be done.
  public func open(_ bytes: Span<UInt8>, into text: inout [UInt8]) -> Found {
    if held.isEmpty { return bytes.withUnsafeBytes { open($0, &text) } }
    let all = held + bytes.withUnsafeBytes { Array($0) }
    held = []
    return all.withUnsafeBytes { open($0, &text) }
  }

  private func open(_ bytes: UnsafeRawBufferPointer, _ text: inout [UInt8]) -> Found {
    var rest = bytes
    defer { channel.giveBack() }
    return withUnsafeTemporaryAllocation(byteCount: TLSLine.roomBytes, alignment: 1) { room in
      while true {
        switch channel.read(&rest, into: room) {
        case .bytes(let count): text += room[..<count]
        case .needsMore: return .open
        case .closed: return .closed
        case .mustSend, .failed: return .failed
        }
      }
    }
  }

  /// The octets for the wire that text becomes, behind those that wait.
  ///
  /// - Returns: none after a failure; `open` reports it.
  public func seal(_ text: UnsafeRawBufferPointer) -> [UInt8] {
    var octets = takeOutput()
    var rest = text
    while !rest.isEmpty {
      guard isEstablished, case .accepted(let count) = channel.write(rest) else { return [] }
      rest = UnsafeRawBufferPointer(rebasing: rest[count...])
      octets += takeOutput()
    }
    return octets
  }

  /// Whether something waits to be sent.
  public var hasOutput: Bool { channel.pendingOutput > 0 }

  /// What waits to be sent: parts of a handshake, answers to a change of keys.
  public func takeOutput() -> [UInt8] {
    let pending = channel.pendingOutput
    if pending == 0 { return [] }
    return [UInt8](unsafeUninitializedCapacity: pending) { room, count in
      count = channel.take(into: UnsafeMutableRawBufferPointer(room))
    }
  }
}
