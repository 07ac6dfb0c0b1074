// SPDX-License-Identifier: Apache-2.0
//
// Who is at the other end of a freshly accepted socket, read from the SYN the kernel kept: one system
// call instead of getpeername and getsockname, and it shows the sender's TCP stack as well. Not a
// judgement: `fingerprint` is a number to compare. Keeps: any bytes at all give a value or nil, never
// a trap, because they come from the network.

import Glibc
package import Structures

/// What a saved SYN (IP header, TCP header with options) says.
package struct SavedSYN: Equatable, Sendable {
  package var source = Address(v4: 0)
  package var sourcePort: UInt16 = 0
  package var destination = Address(v4: 0)
  package var destinationPort: UInt16 = 0
  /// As it arrived: less one for each router passed.
  package var timeToLive: UInt8 = 0
  package var window: UInt16 = 0
  /// nil if the option was absent.
  package var maximumSegment: UInt16?
  package var windowScale: UInt8?
  /// What this stack looks like from here; 0 if unknown. See `SavedSYN.mix`.
  package var fingerprint: UInt64 = 0

  package init() {}

  /// nil unless the bytes are a whole IPv4 or IPv6 header and a whole TCP header with its options.
  package init?(parsing bytes: Span<UInt8>) {
    guard bytes.count >= 40 else { return nil }
    func byte(_ i: Int) -> UInt8 { bytes[i] }
    func half(_ i: Int) -> UInt16 { UInt16(bytes[i]) << 8 | UInt16(bytes[i + 1]) }
    func word(_ i: Int) -> UInt32 { UInt32(half(i)) << 16 | UInt32(half(i + 2)) }
    func long(_ i: Int) -> UInt64 { UInt64(word(i)) << 32 | UInt64(word(i + 4)) }

    let version = byte(0) >> 4
    let tcp: Int
    var quirks: UInt8 = 0
    switch version {
    case 4:
      tcp = Int(byte(0) & 15) * 4
      guard tcp >= 20, byte(9) == 6 else { return nil }
      timeToLive = byte(8)
      source = Address(v4: word(12))
      destination = Address(v4: word(16))
      // RFC 791: "don't fragment"; with it, some stacks write no identification and some do.
      let dontFragment = byte(6) & 0x40 != 0
      quirks = (dontFragment ? 1 : 0) | (half(4) != 0 ? 2 : 0) | (tcp > 20 ? 4 : 0)
    case 6:
      guard let end = SavedSYN.endOfIPv6Headers(bytes) else { return nil }
      tcp = end
      timeToLive = byte(7)
      source = Address(high: long(8), low: long(16))
      destination = Address(high: long(24), low: long(32))
      // RFC 6437: whether the stack labels its flows.
      quirks = (word(0) & 0xF_FFFF != 0 ? 1 : 0) | (tcp > 40 ? 4 : 0)
    default:
      return nil
    }

    guard bytes.count >= tcp + 20 else { return nil }
    let end = tcp + Int(byte(tcp + 12) >> 4) * 4
    guard end >= tcp + 20, end <= bytes.count else { return nil }
    sourcePort = half(tcp)
    destinationPort = half(tcp + 2)
    window = half(tcp + 14)

    var hash = SavedSYN.mix(0xCBF2_9CE4_8422_2325, version)
    hash = SavedSYN.mix(hash, quirks)
    hash = SavedSYN.mix(hash, byte(tcp + 13))  // flags: ECN-capable stacks set ECE and CWR
    var i = tcp + 20
    while i < end {
      let kind = byte(i)
      hash = SavedSYN.mix(hash, kind)
      if kind == 0 { break }  // end of options
      if kind == 1 {  // padding
        i += 1
        continue
      }
      // RFC 9293, 3.1: the length counts kind and length too. A liar's options end here; what was
      // read so far stands, since the kernel accepted the segment.
      guard i + 1 < end else { break }
      let length = Int(byte(i + 1))
      guard length >= 2, i + length <= end else { break }
      if kind == 2 && length == 4 { maximumSegment = half(i + 2) }
      if kind == 3 && length == 3 { windowScale = byte(i + 2) }
      i += length
    }
    hash = SavedSYN.mix(hash, windowScale ?? 0xFF)
    hash = SavedSYN.mix(hash, SavedSYN.initialTimeToLive(timeToLive))
    // Many stacks open with a multiple of their segment size, which depends on the path; the multiple
    // does not.
    let segment = maximumSegment ?? 0
    let (kindOfWindow, size): (UInt8, UInt16) =
      segment > 0 && window % segment == 0 ? (1, window / segment) : (0, window)
    hash = SavedSYN.mix(hash, kindOfWindow)
    hash = SavedSYN.mix(hash, UInt8(size >> 8))
    hash = SavedSYN.mix(hash, UInt8(size & 255))
    fingerprint = hash == 0 ? 1 : hash
  }

  /// Where TCP begins: over at most eight extension headers (RFC 8200, 4.1), or nil.
  private static func endOfIPv6Headers(_ bytes: Span<UInt8>) -> Int? {
    var next = bytes[6]
    var at = 40
    for _ in 0..<8 {
      switch next {
      case 6: return at
      case 0, 43, 60:  // hop-by-hop, routing, destination: length in units of 8 bytes, less one
        guard at + 2 <= bytes.count else { return nil }
        next = bytes[at]
        at += (Int(bytes[at + 1]) + 1) * 8
      default: return nil
      }
    }
    return next == 6 ? at : nil
  }

  /// FNV-1a, one byte. Unkeyed on purpose: the same stack has the same number on every host and day,
  /// so that numbers can be written into rules. A sender can forge it; it is a hint, not an identity.
  private static func mix(_ hash: UInt64, _ byte: UInt8) -> UInt64 {
    (hash ^ UInt64(byte)) &* 0x100_0000_01B3
  }

  /// 64, 128 and 255 are what stacks start with; nobody is 64 routers away.
  private static func initialTimeToLive(_ seen: UInt8) -> UInt8 {
    seen <= 32 ? 32 : seen <= 64 ? 64 : seen <= 128 ? 128 : 255
  }
}

/// A peer as `accept` left it.
package struct AcceptedPeer: Sendable {
  package var syn: SavedSYN
  /// False if the kernel answered with SYN cookies and kept nothing: addresses and ports are right,
  /// everything else of `syn` is empty.
  package var hasSYN: Bool

  /// Reads it from a plain accepted descriptor, once: the kernel drops the SYN when it was read.
  /// nil if the connection is gone already.
  package init?(descriptor: Int32) {
    // IPv6 with extension headers and a full set of TCP options stays below this.
    let seen: SavedSYN? = withUnsafeTemporaryAllocation(byteCount: 512, alignment: 8) { raw in
      var length = socklen_t(raw.count)
      let status = getsockopt(
        descriptor, Int32(IPPROTO_TCP), TCP_SAVED_SYN, raw.baseAddress, &length)
      guard status == 0, length > 0 else { return nil }
      let bytes = UnsafeRawBufferPointer(rebasing: raw[..<Int(length)])
      return bytes.withMemoryRebound(to: UInt8.self) { SavedSYN(parsing: $0.span) }
    }
    if let seen {
      syn = seen
      hasSYN = true
      return
    }
    guard let peer = SocketAddress(descriptor: descriptor, getpeername),
      let local = SocketAddress(descriptor: descriptor, getsockname)
    else { return nil }
    syn = SavedSYN()
    syn.source = peer.address
    syn.sourcePort = peer.port
    syn.destination = local.address
    syn.destinationPort = local.port
    hasSYN = false
  }
}
