// SPDX-License-Identifier: Apache-2.0
package import Structures

// The PROXY protocol (proxy-protocol.txt, versions 1 and 2): what we say to the downstream and what a load
// balancer says to us. Not who may say it: that is the engine's. Kept: nothing allocates, no octet of the
// other side gets into a line of ours, and what is read is either wholly understood or malformed.

/// Both ends of a client's connection.
package struct ClientEnds: BitwiseCopyable, Sendable, Equatable {
  package var address: Address
  package var port: UInt16
  /// What the client dialled; nil where that is not known.
  package var server: Address?
  package var serverPort: UInt16

  package init(address: Address, port: UInt16, server: Address? = nil, serverPort: UInt16 = 25) {
    self.address = address
    self.port = port
    // The header has one family for both ends.
    self.server = server.flatMap { $0.isIPv4 == address.isIPv4 ? $0 : nil }
    self.serverPort = serverPort
  }

  /// A client that nobody trusts, for our own probes: TEST-NET-1 (RFC 5737). Not LOCAL, which Postfix takes
  /// for 127.0.0.1 and lets relay, and not UNKNOWN, which it refuses.
  package static let stranger = ClientEnds(address: Address(v4: 0xC000_0201), port: 0)
  /// The same of IPv6 (RFC 3849): 2001:db8::1.
  package static let strangerV6 = ClientEnds(
    address: Address(high: 0x2001_0DB8_0000_0000, low: 1), port: 0)
}

/// What version 2 can say about the client's TLS (PP2_TYPE_SSL).
package struct ClientTLS: BitwiseCopyable, Sendable, Equatable {
  package enum Certificate: UInt8, BitwiseCopyable, Sendable {
    case none, unverified, verified
  }
  package var certificate: Certificate
  package init(certificate: Certificate = .none) { self.certificate = certificate }
}

package enum ProxyHeader {
  /// Octets of a line of version 1 at most, line end included.
  package static let lineMax = 107
  /// Octets of a whole header of version 2 that we write at most. Exim 4.96 refuses more than 232 as an attack.
  package static let writtenMax = 232
  /// Octets behind the addresses that are skipped; a header with more is malformed. A balancer sends some
  /// 100; a certificate's name and what a cloud adds fit many times.
  package static let extrasMax = 2_048

  private static let signature: [12 of UInt8] = [
    0x0D, 0x0A, 0x0D, 0x0A, 0x00, 0x0D, 0x0A, 0x51, 0x55, 0x49, 0x54, 0x0A,
  ]

  // MARK: Writing

  /// Appends version 1: one line.
  package static func writeV1(_ ends: ClientEnds, into out: inout OutputSpan<UInt8>) {
    let start = out.count
    let isIPv4 = ends.address.isIPv4
    let server = ends.server ?? (isIPv4 ? Address(v4: 0) : Address(high: 0, low: 0))
    let written =
      out.appendLiteral(isIPv4 ? "PROXY TCP4 " : "PROXY TCP6 ") && out.appendAddress(ends.address)
      && out.appendLiteral(" ") && out.appendAddress(server) && out.appendLiteral(" ")
      && out.appendDecimal(UInt64(ends.port)) && out.appendLiteral(" ")
      && out.appendDecimal(UInt64(ends.serverPort)) && out.appendLineEnd()
    if !written { out.removeLast(out.count - start) }
  }

  /// Appends version 2: 28 octets for IPv4, 52 for IPv6, and what else is given.
  ///
  /// - Parameters:
  ///   - session: PP2_TYPE_UNIQUE_ID: its 16 hexadecimal digits, as in the log.
  ///   - authority: PP2_TYPE_AUTHORITY: the name the client asked for (SNI); empty for none.
  ///   - tls: PP2_TYPE_SSL; nil where the client's side is not TLS.
  ///   - version: of TLS, such as `TLSv1.3`; left out where empty.
  ///   - cipher: its name; left out where empty.
  package static func writeV2(
    _ ends: ClientEnds, session: UInt64? = nil, authority: Span<UInt8> = Span(),
    tls: ClientTLS? = nil, version: Span<UInt8> = Span(), cipher: Span<UInt8> = Span(),
    into out: inout OutputSpan<UInt8>
  ) {
    let isIPv4 = ends.address.isIPv4
    let addresses = isIPv4 ? 12 : 36
    let id = session == nil ? 0 : 3 + 16
    // What does not fit is left out as a whole, the least useful first.
    var room = min(writtenMax, out.freeCapacity) - 16 - addresses - id
    guard room >= 0 else { return }
    let versionCount = version.count > 0 ? 3 + version.count : 0
    let cipherCount = cipher.count > 0 ? 3 + cipher.count : 0
    var security = tls == nil ? 0 : 3 + 5 + versionCount + cipherCount
    if security > room { security = 0 }
    room -= security
    var name = authority.count > 0 ? 3 + authority.count : 0
    if name > room { name = 0 }

    for k in 0..<12 { out.append(signature[k]) }
    out.append(0x21)
    out.append(isIPv4 ? 0x11 : 0x21)
    append(UInt64(addresses + id + security + name), bytes: 2, to: &out)
    let server = ends.server ?? (isIPv4 ? Address(v4: 0) : Address(high: 0, low: 0))
    for address in CollectionOfTwo(ends.address, server) {
      if !isIPv4 { append(address.high, bytes: 8, to: &out) }
      append(address.low, bytes: isIPv4 ? 4 : 8, to: &out)
    }
    append(UInt64(ends.port), bytes: 2, to: &out)
    append(UInt64(ends.serverPort), bytes: 2, to: &out)
    if let session {
      out.append(0x05)
      append(16, bytes: 2, to: &out)
      _ = out.appendHexadecimal(session)
    }
    if let tls, security > 0 {
      out.append(0x20)
      append(UInt64(security - 3), bytes: 2, to: &out)
      // PP2_CLIENT_SSL, and PP2_CLIENT_CERT_CONN with a certificate in this connection.
      out.append(tls.certificate == .none ? 0x01 : 0x03)
      // "verify" is 0 when a certificate was presented and verified, and not 0 otherwise.
      append(tls.certificate == .verified ? 0 : 1, bytes: 4, to: &out)
      append(0x21, version, to: &out)
      append(0x23, cipher, to: &out)
    }
    if name > 0 { append(0x02, authority, to: &out) }
  }

  /// The two addresses, without an array.
  private struct CollectionOfTwo: Sequence, IteratorProtocol {
    private var first: Address?
    private var second: Address?
    init(_ first: Address, _ second: Address) {
      self.first = first
      self.second = second
    }
    mutating func next() -> Address? {
      let address = first
      first = second
      second = nil
      return address
    }
  }

  private static func append(_ kind: UInt8, _ value: Span<UInt8>, to out: inout OutputSpan<UInt8>) {
    if value.count == 0 { return }
    out.append(kind)
    append(UInt64(value.count), bytes: 2, to: &out)
    out.appendRun(value, in: 0..<value.count)
  }

  private static func append(_ value: UInt64, bytes: Int, to out: inout OutputSpan<UInt8>) {
    // Not `reversed()`: in a debug build its accessors allocate.
    for k in 1...bytes { out.append(UInt8(truncatingIfNeeded: value >> UInt64(8 * (bytes - k)))) }
  }

  // MARK: Reading

  /// Octets of the shortest header there is: `PROXY UNKNOWN` and its line end.
  package static let shortest = 15

  /// For whom a balancer has connected.
  package enum Source: BitwiseCopyable, Sendable, Equatable {
    case client(Address, UInt16)
    /// Itself: LOCAL, or a connection it knows nothing about (`UNKNOWN`, AF_UNSPEC).
    case itself
  }

  /// How far a header has been read.
  package enum Step: BitwiseCopyable, Sendable, Equatable {
    /// It is not whole. So many octets more belong to it for certain, 1 or more.
    case needMore(Int)
    /// The source is known; so many octets more, 0…`extrasMax`, belong to the header and mean nothing to us.
    case complete(Source, skip: Int)
    /// It is no header. Nothing is guessed from it.
    case malformed
  }

  /// Reads the beginning of a connection.
  ///
  /// - Parameter bytes: all that came so far. Never more than `needMore` asked for, so that what follows the
  ///   header is left where it is: in the kernel.
  package static func read(_ bytes: Span<UInt8>) -> Step {
    if bytes.count == 0 { return .needMore(shortest) }
    return bytes[0] == signature[0] ? readV2(bytes) : readV1(bytes)
  }

  private static func readV2(_ bytes: Span<UInt8>) -> Step {
    for k in 0..<min(bytes.count, 12) where bytes[k] != signature[k] { return .malformed }
    if bytes.count < 16 { return .needMore(16 - bytes.count) }
    let length = Int(bytes[14]) << 8 | Int(bytes[15])
    let addresses: Int
    switch (bytes[12], bytes[13]) {
    // LOCAL: whatever the rest says is to be ignored.
    case (0x20, _): return skipping(.itself, length)
    case (0x21, 0x00): return skipping(.itself, length)
    case (0x21, 0x11): addresses = 12
    case (0x21, 0x21): addresses = 36
    // UDP and Unix sockets carry no SMTP of anybody we could name.
    default: return .malformed
    }
    guard length >= addresses, length - addresses <= extrasMax else { return .malformed }
    if bytes.count < 16 + addresses { return .needMore(16 + addresses - bytes.count) }
    guard bytes.count == 16 + addresses else { return .malformed }
    let source: Address
    if addresses == 12 {
      source = Address(v4: UInt32(truncatingIfNeeded: number(bytes, 16..<20)))
    } else {
      source = Address(high: number(bytes, 16..<24), low: number(bytes, 24..<32))
    }
    let port = UInt16(truncatingIfNeeded: number(bytes, (12 + addresses)..<(14 + addresses)))
    return named(source, port, skip: length - addresses)
  }

  private static func skipping(_ source: Source, _ length: Int) -> Step {
    length <= extrasMax ? .complete(source, skip: length) : .malformed
  }

  /// Nobody connects from no address.
  private static func named(_ address: Address, _ port: UInt16, skip: Int) -> Step {
    let isNobody = address == Address(v4: 0) || address == Address(high: 0, low: 0)
    return isNobody ? .malformed : .complete(.client(address, port), skip: skip)
  }

  private static func number(_ bytes: Span<UInt8>, _ range: Range<Int>) -> UInt64 {
    var value: UInt64 = 0
    for k in range { value = value << 8 | UInt64(bytes[k]) }
    return value
  }

  private static func readV1(_ bytes: Span<UInt8>) -> Step {
    let word: StaticString = "PROXY "
    for k in 0..<min(bytes.count, 6) where bytes[k] != word.octet(k) { return .malformed }
    guard bytes.count <= lineMax else { return .malformed }
    let end = bytes.count
    let isWhole = end >= 2 && bytes[end - 2] == carriageReturn && bytes[end - 1] == lineFeed
    // A CR at the end may be half of the line end; anywhere else neither has a place.
    let text = isWhole ? end - 2 : bytes[end - 1] == carriageReturn ? end - 1 : end
    for k in 0..<text where !(0x20..<0x7F).contains(bytes[k]) { return .malformed }
    if end < shortest { return isWhole ? .malformed : .needMore(shortest - end) }
    let ending = text < end ? 1 : 2
    if bytes.matchesExactly("UNKNOWN", in: 6..<13) && (text == 13 || bytes[13] == 0x20) {
      return isWhole ? .complete(.itself, skip: 0) : more(ending, end)
    }
    let isIPv4 = bytes.matchesExactly("TCP4 ", in: 6..<11)
    guard isIPv4 || bytes.matchesExactly("TCP6 ", in: 6..<11) else { return .malformed }
    if isWhole { return readFields(bytes, isIPv4: isIPv4, to: text) }
    if text < end { return more(1, end) }
    return more(least(bytes, isIPv4: isIPv4) + ending, end)
  }

  private static func more(_ count: Int, _ have: Int) -> Step {
    have + count <= lineMax ? .needMore(count) : .malformed
  }

  /// How many octets the fields that are still to come have at least. One that has begun may be over.
  private static func least(_ bytes: Span<UInt8>, isIPv4: Bool) -> Int {
    var field = 0
    var isEmpty = true
    for k in 11..<bytes.count {
      isEmpty = bytes[k] == 0x20
      if isEmpty { field += 1 }
    }
    if field > 3 { return 0 }
    // 1.1.1.1 or ::, and a digit for each port, with a space before each but the first.
    let address = isIPv4 ? 7 : 2
    var count = isEmpty ? (field < 2 ? address : 1) : 0
    for later in (field + 1)..<4 where later < 4 { count += 1 + (later < 2 ? address : 1) }
    return count
  }

  private static func readFields(_ bytes: Span<UInt8>, isIPv4: Bool, to end: Int) -> Step {
    var start = 11
    var addresses: (Address?, Address?) = (nil, nil)
    var ports: (UInt16?, UInt16?) = (nil, nil)
    for field in 0..<4 {
      let stop = bytes.first(0x20, in: start..<end) ?? end
      guard (stop == end) == (field == 3), stop > start else { return .malformed }
      switch field {
      case 0: addresses.0 = address(bytes, start..<stop, isIPv4: isIPv4)
      case 1: addresses.1 = address(bytes, start..<stop, isIPv4: isIPv4)
      case 2: ports.0 = port(bytes, start..<stop)
      default: ports.1 = port(bytes, start..<stop)
      }
      start = min(stop + 1, end)
    }
    guard let source = addresses.0, addresses.1 != nil, let port = ports.0, ports.1 != nil else {
      return .malformed
    }
    return named(source, port, skip: 0)
  }

  /// An address of the family that was announced; IPv4 in IPv6's clothes is IPv4 from here on.
  private static func address(
    _ bytes: Span<UInt8>, _ range: Range<Int>, isIPv4: Bool
  ) -> Address? {
    let isColoned = bytes.first(UInt8(ascii: ":"), in: range) != nil
    return isColoned == isIPv4 ? nil : Address(bytes: bytes, in: range)
  }

  /// 0…65535 without leading zeros.
  private static func port(_ bytes: Span<UInt8>, _ range: Range<Int>) -> UInt16? {
    guard range.count <= 5, range.count == 1 || bytes[range.lowerBound] != UInt8(ascii: "0"),
      let value = bytes.decimal(in: range)
    else { return nil }
    return UInt16(exactly: value)
  }
}

extension Span where Element == UInt8 {
  /// Whether `range` reads as `text`, case included.
  fileprivate func matchesExactly(_ text: StaticString, in range: Range<Int>) -> Bool {
    guard range.upperBound <= count, range.count == text.utf8CodeUnitCount else { return false }
    for i in 0..<range.count where self[range.lowerBound + i] != text.octet(i) { return false }
    return true
  }
}

extension OutputSpan where Element == UInt8 {
  /// Appends an address as RFC 5952 has it, IPv4 as a dotted quad, if it fits.
  package mutating func appendAddress(_ address: Address) -> Bool {
    let start = count
    let written = address.isIPv4 ? appendQuad(address.v4) : appendGroups(address)
    if !written { removeLast(count - start) }
    return written
  }

  private mutating func appendQuad(_ bits: UInt32) -> Bool {
    for k in 0..<4 {
      guard k == 0 || appendLiteral("."),
        appendDecimal(UInt64(bits >> UInt32(24 - 8 * k) & 255))
      else { return false }
    }
    return true
  }

  private mutating func appendGroups(_ address: Address) -> Bool {
    func group(_ k: Int) -> UInt64 {
      (k < 4 ? address.high : address.low) >> UInt64(48 - 16 * (k & 3)) & 0xFFFF
    }
    // RFC 5952, 4.2: the first of the longest runs of two zero groups or more.
    var gap = 0..<0
    var k = 0
    while k < 8 {
      var end = k
      while end < 8 && group(end) == 0 { end += 1 }
      if end - k >= 2 && end - k > gap.count { gap = k..<end }
      k = Swift.max(end, k + 1)
    }
    k = 0
    while k < 8 {
      if k == gap.lowerBound && !gap.isEmpty {
        guard appendLiteral("::") else { return false }
        k = gap.upperBound
        continue
      }
      if k > 0 && k != gap.upperBound || k > 0 && gap.isEmpty {
        guard appendLiteral(":") else { return false }
      }
      guard appendHexadecimal(group(k), digits: 1) else { return false }
      k += 1
    }
    return true
  }

  /// Appends a number in lower-case hexadecimal with at least so many digits, if it fits.
  package mutating func appendHexadecimal(_ value: UInt64, digits: Int = 16) -> Bool {
    let needed = Swift.max((64 - value.leadingZeroBitCount + 3) / 4, digits)
    guard needed <= freeCapacity else { return false }
    for place in 1...needed {
      let digit = UInt8(truncatingIfNeeded: value >> UInt64(4 * (needed - place)) & 15)
      append(digit < 10 ? 48 + digit : 87 + digit)
    }
    return true
  }
}
