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

  /// The client that a balancer has connected for.
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

  /// Whether what was refused is a header of version 2 with more behind its addresses than we pass over.
  package static func isTooLong(_ bytes: Span<UInt8>) -> Bool {
    guard bytes.count >= 16 else { return false }
    for k in 0..<12 where bytes[k] != signature[k] { return false }
    let addresses = bytes[12] == 0x20 || bytes[13] == 0 ? 0 : bytes[13] == 0x11 ? 12 : 36
    return Int(bytes[14]) << 8 | Int(bytes[15]) > addresses + extrasMax
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
    // UDP and Unix sockets: the specification (2.2) has receivers that do not implement them treat them as AF_UNSPEC.
    case (0x21, 0x12), (0x21, 0x22), (0x21, 0x31), (0x21, 0x32): return skipping(.itself, length)
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
    if isNobody(source) { return .malformed }
    return .complete(.client(source, port), skip: length - addresses)
  }

  private static func skipping(_ source: Source, _ length: Int) -> Step {
    length <= extrasMax ? .complete(source, skip: length) : .malformed
  }

  /// Nobody connects from no address.
  private static func isNobody(_ address: Address) -> Bool {
    address == Address(v4: 0) || address == Address(high: 0, low: 0)
  }

  private static func number(_ bytes: Span<UInt8>, _ range: Range<Int>) -> UInt64 {
    var value: UInt64 = 0
    for k in range { value = value << 8 | UInt64(bytes[k]) }
    return value
  }

  /// Reads version 1 octet by octet. A fault is found at the octet that makes it one, and a header is only as long
  /// as its octets so far allow; both depend on those octets alone, so it makes no difference how they were split.
  private static func readV1(_ bytes: Span<UInt8>) -> Step {
    var line = LineV1()
    for k in 0..<bytes.count where !line.take(bytes, k) { return .malformed }
    if let source = line.source { return .complete(source, skip: 0) }
    let least = line.least(bytes.count)
    return least <= lineMax ? .needMore(least - bytes.count) : .malformed
  }

  /// How far a line of version 1 has been read.
  private struct LineV1 {
    private enum Part {
      /// `PROXY ` and the protocol's name. Goes to: fields, unknown.
      case words
      /// Behind `UNKNOWN`: goes to lineEnd, or to anything at all up to it.
      case unknown
      /// The source, the destination and their ports. Goes to: lineEnd.
      case fields
      /// CR seen. Goes to: done.
      case lineEnd
      case done
    }

    private var part = Part.words
    private var isIPv4 = false
    private var field = 0
    private var fieldStart = 0
    private var named: Source?

    /// The client that the balancer has connected for, once the line is whole.
    var source: Source? { part == .done ? named : nil }

    /// Octets of the shortest line that may come of what was read; never less than for a shorter beginning.
    func least(_ count: Int) -> Int {
      switch part {
      case .words: return max(ProxyHeader.shortest, count)
      case .unknown: return max(ProxyHeader.shortest, count + 2)
      case .lineEnd: return count + 1
      case .done: return count
      case .fields:
        var end = fieldStart + max(shortest(field), count - fieldStart)
        var later = field + 1
        while later < 4 {
          end += 1 + shortest(later)
          later += 1
        }
        return end + 2
      }
    }

    /// 1.1.1.1 or ::, and a digit of each port.
    private func shortest(_ field: Int) -> Int {
      switch field {
      case 0: isIPv4 ? 7 : 2
      case 1: 2
      default: 1
      }
    }

    /// - Returns: whether the octet at `k`, behind those before it, may belong to a header.
    mutating func take(_ bytes: Span<UInt8>, _ k: Int) -> Bool {
      let byte = bytes[k]
      switch part {
      case .words: return takeWord(bytes, k)
      case .unknown:
        if byte == carriageReturn { part = .lineEnd }
        return byte == carriageReturn || k > 13 && isPrintable(byte) || byte == 0x20
      case .fields:
        guard byte == 0x20 || byte == carriageReturn else { return isPrintable(byte) }
        let isLast = byte == carriageReturn
        guard isLast == (field == 3), takeField(bytes, fieldStart..<k) else { return false }
        field += 1
        fieldStart = k + 1
        if isLast { part = .lineEnd }
        return true
      case .lineEnd:
        part = .done
        return byte == lineFeed
      case .done: return false
      }
    }

    private mutating func takeWord(_ bytes: Span<UInt8>, _ k: Int) -> Bool {
      let isKnown = follows("PROXY TCP4 ", bytes, k) || follows("PROXY TCP6 ", bytes, k)
      if isKnown && k == 10 {
        isIPv4 = bytes[9] == UInt8(ascii: "4")
        part = .fields
        fieldStart = 11
      }
      let isUnknown = follows("PROXY UNKNOWN", bytes, k)
      if isUnknown && k == 12 {
        part = .unknown
        named = .itself
      }
      return isKnown || isUnknown
    }

    /// Whether the octet at `k` goes on with these words, which differ in their seventh.
    private func follows(_ words: StaticString, _ bytes: Span<UInt8>, _ k: Int) -> Bool {
      k < words.utf8CodeUnitCount && bytes[k] == words.octet(k)
        && (k < 7 || bytes[6] == words.octet(6))
    }

    private mutating func takeField(_ bytes: Span<UInt8>, _ range: Range<Int>) -> Bool {
      switch field {
      case 0:
        // Of the family that was announced; IPv4 in IPv6's clothes is IPv4 from here on.
        let isColoned = bytes.first(UInt8(ascii: ":"), in: range) != nil
        guard isColoned != isIPv4, let address = Address(bytes: bytes, in: range) else {
          return false
        }
        named = .client(address, 0)
        return !isNobody(address)
      // Where the client connected to means nothing to us, so any form will do: a balancer that has the client's
      // address from a header names its own socket's here, of whatever family that is (nginx, ticket 1609), and
      // a path for a Unix socket.
      case 1:
        return Address(bytes: bytes, in: range) != nil
          || range.count >= 5 && bytes.matchesExactly("unix:", in: range.prefix(5))
      default:
        guard let port = port(bytes, range) else { return false }
        if field == 2, case .client(let address, _)? = named { named = .client(address, port) }
        return true
      }
    }

    private func isPrintable(_ byte: UInt8) -> Bool { (0x20..<0x7F).contains(byte) }
  }

  /// 0…65535 without leading zeros.
  private static func port(_ bytes: Span<UInt8>, _ range: Range<Int>) -> UInt16? {
    guard range.count <= 5,
      range.count == 1 || bytes.first(UInt8(ascii: "0"), in: range.prefix(1)) == nil,
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
