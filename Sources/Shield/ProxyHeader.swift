// SPDX-License-Identifier: Apache-2.0
package import Structures

/// The PROXY protocol's header, by which the downstream learns the client's address before SMTP begins.
///
/// Only what a sender needs (proxy-protocol.txt, versions 1 and 2). The destination is given as the
/// unspecified address, because what the client dialled is ours to know and decides nothing downstream.
package enum ProxyHeader {
  /// For whom a connection is made.
  package enum Source {
    case client(Address, UInt16)
    /// A health check or probe of our own.
    case ourselves
  }

  /// Version 1: one line of at most 107 octets. A probe of our own says that it is a loopback client,
  /// because Postfix refuses `PROXY UNKNOWN` (conventions: verified with 3.7.11).
  package static func writeV1(_ source: Source, into out: inout OutputSpan<UInt8>) {
    let (address, port) =
      switch source {
      case .client(let address, let port): (address, port)
      case .ourselves: (Address(v4: 0xC000_0201), UInt16(0))  // TEST-NET-1: trusted by nobody
      }
    append("PROXY TCP", to: &out)
    append(address.isIPv4 ? "4 " : "6 ", to: &out)
    appendText(address, to: &out)
    append(address.isIPv4 ? " 0.0.0.0 " : " :: ", to: &out)
    append(number: UInt32(port), to: &out)
    append(" 25\r\n", to: &out)
  }

  /// Version 2: 28 octets for IPv4, 52 for IPv6. A probe of our own is a PROXY of TEST-NET-1 and not
  /// LOCAL, which Postfix takes for 127.0.0.1 and lets relay.
  package static func writeV2(_ source: Source, into out: inout OutputSpan<UInt8>) {
    let signature: [12 of UInt8] = [
      0x0D, 0x0A, 0x0D, 0x0A, 0x00, 0x0D, 0x0A, 0x51, 0x55, 0x49, 0x54, 0x0A,
    ]
    for k in 0..<12 { out.append(signature[k]) }
    let (address, port) =
      switch source {
      case .client(let address, let port): (address, port)
      case .ourselves: (Address(v4: 0xC000_0201), UInt16(0))
      }
    out.append(0x21)
    out.append(address.isIPv4 ? 0x11 : 0x21)
    append(big: address.isIPv4 ? 12 : 36, bytes: 2, to: &out)
    if address.isIPv4 {
      append(big: UInt64(address.v4), bytes: 4, to: &out)
      append(big: 0, bytes: 4, to: &out)
    } else {
      append(big: address.high, bytes: 8, to: &out)
      append(big: address.low, bytes: 8, to: &out)
      append(big: 0, bytes: 8, to: &out)
      append(big: 0, bytes: 8, to: &out)
    }
    append(big: UInt64(port), bytes: 2, to: &out)
    append(big: 25, bytes: 2, to: &out)
  }

  private static func append(_ text: StaticString, to out: inout OutputSpan<UInt8>) {
    text.withUTF8Buffer { for byte in $0 { out.append(byte) } }
  }

  private static func append(big value: UInt64, bytes: Int, to out: inout OutputSpan<UInt8>) {
    for k in (0..<bytes).reversed() {
      out.append(UInt8(truncatingIfNeeded: value >> UInt64(8 * k)))
    }
  }

  private static func append(number: UInt32, to out: inout OutputSpan<UInt8>) {
    var divisor: UInt32 = 1
    while number / divisor >= 10 { divisor *= 10 }
    while divisor > 0 {
      out.append(UInt8(truncatingIfNeeded: 48 + number / divisor % 10))
      divisor /= 10
    }
  }

  /// The address in text, without making a String: dotted quad, or eight groups in full.
  private static func appendText(_ address: Address, to out: inout OutputSpan<UInt8>) {
    if address.isIPv4 {
      for k in (0..<4).reversed() {
        append(number: address.v4 >> UInt32(8 * k) & 255, to: &out)
        if k > 0 { out.append(UInt8(ascii: ".")) }
      }
      return
    }
    for group in 0..<8 {
      let word = (group < 4 ? address.high : address.low) >> UInt64(48 - 16 * (group & 3)) & 0xFFFF
      var started = false
      for digit in (0..<4).reversed() {
        let value = UInt8(truncatingIfNeeded: word >> UInt64(4 * digit) & 15)
        if value != 0 || started || digit == 0 {
          started = true
          out.append(value < 10 ? 48 + value : 87 + value)
        }
      }
      if group < 7 { out.append(UInt8(ascii: ":")) }
    }
  }
}
