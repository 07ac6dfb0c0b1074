// SPDX-License-Identifier: Apache-2.0

// PROXY headers read and written, XCLIENT and XFORWARD lines, the trace header.

import Structures
import Testing

@testable import SMTP

private let signature: [UInt8] = [13, 10, 13, 10, 0, 13, 10, 0x51, 0x55, 0x49, 0x54, 10]

private func v2(_ command: UInt8, _ family: UInt8, _ body: [UInt8], length: Int? = nil) -> [UInt8] {
  let count = length ?? body.count
  return signature + [command, family, UInt8(count >> 8), UInt8(count & 255)] + body
}

private let quads: [UInt8] = [192, 0, 2, 7, 192, 0, 2, 25, 0x9C, 0xBB, 0, 25]
private let mapped: [UInt8] = [UInt8](repeating: 0, count: 10) + [255, 255, 192, 0, 2, 7]

/// Reads a stream as the engine does: as many octets as asked for, at most `piece` at a time.
///
/// - Returns: the source, or nil if it is malformed, and how many octets were taken.
private func feed(_ stream: [UInt8], piece: Int) -> (source: ProxyHeader.Source?, taken: Int)? {
  var have = 0
  while true {
    switch ProxyHeader.read(Array(stream[..<have]).span) {
    case .malformed: return (nil, have)
    case .complete(let source, let skip): return (source, have + skip)
    case .needMore(let more):
      precondition(more > 0, "it asks for nothing")
      if have == stream.count { return nil }
      have += min(more, piece, stream.count - have)
    }
  }
}

private struct Sample: Sendable {
  var bytes: [UInt8]
  var source: ProxyHeader.Source?
  var why: String
}

private let client = ProxyHeader.Source.client(Address(v4: 0xC000_0207), 40_123)
private let client6 = ProxyHeader.Source.client(
  Address(high: 0x2001_0DB8_0000_0000, low: 7), 40_123)

private let good: [Sample] = [
  Sample(
    bytes: bytes("PROXY TCP4 192.0.2.7 192.0.2.25 40123 25\r\n"), source: client, why: "v1, IPv4"),
  Sample(
    bytes: bytes("PROXY TCP6 2001:db8::7 2001:db8::25 40123 25\r\n"), source: client6,
    why: "v1, IPv6"),
  Sample(
    bytes: bytes("PROXY TCP6 ::ffff:192.0.2.7 ::1 40123 25\r\n"), source: client,
    why: "IPv4 in IPv6's clothes is IPv4"),
  Sample(bytes: bytes("PROXY UNKNOWN\r\n"), source: .itself, why: "the shortest"),
  Sample(
    bytes: bytes(
      "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "
        + "65535 65535\r\n"), source: .itself, why: "the longest: 107 octets"),
  Sample(
    bytes: bytes("PROXY TCP4 1.1.1.1 2.2.2.2 0 0\r\n"),
    source: .client(Address(v4: 0x0101_0101), 0), why: "port 0 is a number"),
  Sample(bytes: v2(0x21, 0x11, quads), source: client, why: "v2, IPv4"),
  Sample(
    bytes: v2(0x21, 0x11, quads + [UInt8](repeating: 7, count: 300)), source: client,
    why: "what follows the addresses is passed over"),
  Sample(
    bytes: v2(0x21, 0x21, mapped + [UInt8](repeating: 1, count: 16) + [0x9C, 0xBB, 0, 25]),
    source: client, why: "v2, mapped IPv4"),
  Sample(bytes: v2(0x20, 0x00, []), source: .itself, why: "LOCAL"),
  Sample(bytes: v2(0x20, 0x11, quads), source: .itself, why: "LOCAL with addresses: ignored"),
  Sample(bytes: v2(0x21, 0x00, [1, 2, 3]), source: .itself, why: "AF_UNSPEC"),
  Sample(bytes: v2(0x21, 0x12, quads), source: .itself, why: "UDP, as AF_UNSPEC"),
  Sample(
    bytes: v2(0x21, 0x31, [UInt8](repeating: 1, count: 216)), source: .itself,
    why: "a Unix socket, as AF_UNSPEC"),
  Sample(
    bytes: bytes("PROXY TCP4 192.0.2.7 2001:db8::25 40123 25\r\n"), source: client,
    why: "nginx: its own socket is of the other family"),
  Sample(
    bytes: bytes("PROXY TCP6 2001:db8::7 192.0.2.25 40123 25\r\n"), source: client6,
    why: "the same the other way round"),
  Sample(
    bytes: bytes("PROXY TCP4 192.0.2.7 unix:/run/mail.sock 40123 0\r\n"), source: client,
    why: "nginx: its own socket is a Unix one"),
]

private let bad: [Sample] = [
  Sample(bytes: bytes("EHLO client.example.org\r\n"), why: "SMTP"),
  Sample(bytes: [0x16, 3, 1, 2, 0], why: "TLS"),
  Sample(bytes: bytes("proxy TCP4 1.1.1.1 2.2.2.2 1 2\r\n"), why: "lower case"),
  Sample(bytes: bytes("PROXY TCP4 192.0.2.007 2.2.2.2 1 2\r\n"), why: "leading zeros"),
  Sample(bytes: bytes("PROXY TCP4 192.0.2.256 2.2.2.2 1 2\r\n"), why: "no address"),
  Sample(bytes: bytes("PROXY TCP4 1.1.1.1  2.2.2.2 1 2\r\n"), why: "two spaces"),
  Sample(bytes: bytes("PROXY TCP4 1.1.1.1 2.2.2.2 1 2 \r\n"), why: "a space at the end"),
  Sample(bytes: bytes("PROXY TCP4 1.1.1.1 2.2.2.2 1 65536\r\n"), why: "no port"),
  Sample(bytes: bytes("PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n"), why: "a port with a leading zero"),
  Sample(bytes: bytes("PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n2345"), why: "a field too few"),
  Sample(bytes: bytes("PROXY TCP4 2001:db8::1 ::1 1 2\r\n"), why: "the other family"),
  Sample(bytes: bytes("PROXY TCP6 1.1.1.1 2.2.2.2 1 2\r\n"), why: "the other family"),
  Sample(bytes: bytes("PROXY TCP4 0.0.0.0 2.2.2.2 1 2\r\n"), why: "nobody is at no address"),
  Sample(bytes: bytes("PROXY TCP4 1.1.1.1 2.2.2.2 1 2\nEHLO"), why: "a bare LF"),
  Sample(bytes: bytes("PROXY TCP4 1.1.1.1 2.2\r.2.2 1 2\r\n"), why: "a bare CR"),
  Sample(bytes: bytes("PROXY UDP4 1.1.1.1 2.2.2.2 1 2\r\n"), why: "not TCP"),
  Sample(bytes: bytes("PROXY UNKNOWNS\r\n..."), why: "not UNKNOWN"),
  Sample(
    bytes: bytes("PROXY UNKNOWN " + String(repeating: "x", count: 200) + "\r\n"), why: "too long"),
  Sample(bytes: v2(0x11, 0x11, quads), why: "version 1 in version 2"),
  Sample(bytes: v2(0x22, 0x11, quads), why: "no such command"),
  Sample(bytes: v2(0x21, 0x13, quads), why: "no such protocol"),
  Sample(bytes: v2(0x21, 0x41, quads), why: "no such family"),
  Sample(bytes: bytes("PROXY TCP4 1.1.1.1 nowhere 1 2\r\n"), why: "a destination that is none"),
  Sample(bytes: v2(0x21, 0x11, [1, 2, 3]), why: "too short for its addresses"),
  Sample(bytes: v2(0x21, 0x11, quads, length: 65_535), why: "more than is skipped"),
  Sample(bytes: v2(0x20, 0x00, [], length: 3_000), why: "more than is skipped, LOCAL"),
  Sample(
    bytes: v2(0x21, 0x11, [0, 0, 0, 0] + quads.dropFirst(4)), why: "nobody is at no address"),
]

@Suite("PROXY headers")
struct ProxyHeaderTests {
  @Test("a header is read whole, and not an octet further, however it is cut")
  func good() throws {
    for sample in SMTPTests.good {
      for piece in [1, 2, 3, 7, 1_000] {
        let read = feed(sample.bytes + bytes("EHLO after.example\r\n"), piece: piece)
        let (source, taken) = try #require(read, "\(sample.why): not whole")
        #expect(source == sample.source, "\(sample.why), \(piece) at a time")
        #expect(taken == sample.bytes.count, "\(sample.why): \(taken) of \(sample.bytes.count)")
      }
      for end in 0..<sample.bytes.count {
        let read = feed(Array(sample.bytes[..<end]), piece: 1_000)
        // What is only skipped need not be there for the source to be known.
        #expect(read == nil || read?.taken ?? 0 > end, "\(sample.why), cut at \(end)")
      }
    }
  }

  @Test("what is no header is malformed, however it is cut")
  func bad() {
    for sample in SMTPTests.bad {
      for piece in [1, 5, 1_000] {
        let read = feed(sample.bytes, piece: piece)
        #expect(read != nil && read?.source == nil, "\(sample.why), \(piece) at a time")
      }
    }
  }

  @Test("what a header comes to does not depend on how its octets are split")
  func splits() throws {
    // It was malformed octet by octet, and at once it needed more.
    let found =
      "PROXY TCP4 1" + String(repeating: "z", count: 34) + "h" + String(repeating: "z", count: 25)
      + "92.0.ROX2.27 ~4 19.O a\r"
    var streams = SMTPTests.good.map(\.bytes) + SMTPTests.bad.map(\.bytes)
    streams += [bytes(found), bytes(found + "'")]
    var random = SeededGenerator(seed: 17)
    for _ in 0..<3_000 {
      var stream = streams[random.number(0..<SMTPTests.good.count)]
      for _ in 0..<random.number(1..<5) {
        let place = random.number(0..<stream.count)
        switch random.number(0..<4) {
        case 0: stream[place] = UInt8(random.number(0..<256))
        case 1: stream[place] = bytes(" :.\r\n01f")[random.number(0..<8)]
        case 2: stream.insert(bytes("1: .")[random.number(0..<4)], at: place)
        default: stream += [UInt8](repeating: stream[place], count: random.number(0..<90))
        }
      }
      streams.append(stream)
    }
    for stream in streams {
      let once = outcome(stream, piece: 10_000)
      for piece in [1, 2, 3, 7, 20] {
        let cut = outcome(stream, piece: piece)
        #expect(cut == once, "\(shown(stream)): \(piece) at a time \(cut), at once \(once)")
      }
    }
  }

  /// What a stream comes to, and how many of its octets belong to that; of what is malformed that depends on the pieces.
  private func outcome(_ stream: [UInt8], piece: Int) -> String {
    guard let read = feed(stream, piece: piece) else { return "not whole" }
    return read.source.map { "\($0) after \(read.taken)" } ?? "malformed"
  }

  @Test("any octets at all are read without a trap, and never ask for more than there can be")
  func noise() {
    var random = SeededGenerator(seed: 11)
    for round in 0..<20_000 {
      var stream = SMTPTests.good[random.number(0..<SMTPTests.good.count)].bytes
      for _ in 0..<random.number(0..<4) {
        stream[random.number(0..<stream.count)] = UInt8(random.number(0..<256))
      }
      if round % 3 == 0 { stream.removeLast(random.number(0..<stream.count)) }
      let count = min(stream.count, random.number(0..<120))
      if case .needMore(let more) = ProxyHeader.read(Array(stream[..<count]).span) {
        #expect(more > 0 && count + more <= ProxyHeader.lineMax, "round \(round)")
      }
    }
  }

  @Test("what is written is read again, in both versions")
  func roundTrip() {
    var random = SeededGenerator(seed: 5)
    for _ in 0..<500 {
      let v4 = Address(v4: UInt32.random(in: 1 ... .max, using: &random))
      let mask = [UInt64.max, 0xFFFF_0000_0000_FFFF, 0xFFFF][random.number(0..<3)]
      let v6 = Address(
        high: UInt64.random(in: 1 ... .max, using: &random) & mask | 0x2000,
        low: UInt64.random(in: 0 ... .max, using: &random) & mask)
      for address in [v4, v6] {
        let ends = ClientEnds(address: address, port: 40_123, server: v4, serverPort: 25)
        let one = [UInt8](capacity: 256) { ProxyHeader.writeV1(ends, into: &$0) }
        #expect(one.count <= ProxyHeader.lineMax)
        #expect(feed(one, piece: 9)?.source == .client(address, 40_123), "\(shown(one))")
        let two = [UInt8](capacity: 256) { out in
          ProxyHeader.writeV2(ends, session: 0xABC, into: &out)
        }
        let read = feed(two, piece: 9)
        #expect(read?.source == .client(address, 40_123) && read?.taken == two.count)
      }
    }
  }

  @Test("the destination is what the client dialled, where it is of the client's family")
  func destination() {
    let dialled = Address(v4: 0xC633_6401)
    let ends = ClientEnds(address: Address(v4: 0xC000_0207), port: 1, server: dialled)
    let line = [UInt8](capacity: 256) { ProxyHeader.writeV1(ends, into: &$0) }
    #expect(shown(line) == "PROXY TCP4 192.0.2.7 198.51.100.1 1 25\\xd\\xa")
    let other = ClientEnds(address: Address(high: 1 << 61, low: 7), port: 1, server: dialled)
    let v6 = [UInt8](capacity: 256) { ProxyHeader.writeV1(other, into: &$0) }
    #expect(shown(v6) == "PROXY TCP6 2000::7 :: 1 25\\xd\\xa")
  }

  @Test("version 2 is the signature, the command, the family, and the addresses in network order")
  func version2() {
    let ends = ClientEnds(address: Address(v4: 0xC000_0207), port: 0x1234)
    let v4 = [UInt8](capacity: 256) { ProxyHeader.writeV2(ends, into: &$0) }
    #expect(v4 == v2(0x21, 0x11, [192, 0, 2, 7, 0, 0, 0, 0, 0x12, 0x34, 0, 25]))
    let v6 = [UInt8](capacity: 256) { ProxyHeader.writeV2(.strangerV6, into: &$0) }
    #expect(v6.count == 52 && v6[13] == 0x21 && v6[15] == 36 && v6[31] == 1)
  }

  @Test("a probe of our own is nobody's loopback client: it could relay")
  func probe() {
    let one = [UInt8](capacity: 256) { ProxyHeader.writeV1(.stranger, into: &$0) }
    #expect(shown(one).hasPrefix("PROXY TCP4 192.0.2.1 "))
    let two = [UInt8](capacity: 256) { ProxyHeader.writeV2(.stranger, into: &$0) }
    #expect(two[12] == 0x21, "PROXY, not LOCAL")
  }

  @Test("version 2 carries session, TLS and name, each a whole one or none")
  func extras() {
    let ends = ClientEnds(address: Address(v4: 0xC000_0207), port: 40_123)
    func written(_ nameCount: Int, _ tls: ClientTLS?) -> [UInt8] {
      let name = [UInt8](repeating: 0x61, count: nameCount)
      let version = bytes("TLSv1.3")
      let cipher = bytes("TLS_AES_256_GCM_SHA384")
      return [UInt8](capacity: 512) { out in
        ProxyHeader.writeV2(
          ends, session: 0x1234, authority: name.span, tls: tls, version: version.span,
          cipher: cipher.span, into: &out)
      }
    }
    func kinds(_ header: [UInt8]) -> [UInt8: [UInt8]] {
      var found: [UInt8: [UInt8]] = [:]
      var rest = header[28...]
      while rest.count >= 3 {
        let at = rest.startIndex
        let count = Int(rest[at + 1]) << 8 | Int(rest[at + 2])
        found[rest[at]] = Array(rest[(at + 3)..<(at + 3 + count)])
        rest = rest[(at + 3 + count)...]
      }
      #expect(rest.isEmpty)
      #expect(Int(header[14]) << 8 | Int(header[15]) == header.count - 16)
      return found
    }
    let full = kinds(written(20, ClientTLS(certificate: .verified)))
    #expect(full[0x05] == bytes("0000000000001234"))
    #expect(full[0x02]?.count == 20)
    #expect(full[0x20]?.prefix(5) == [0x03, 0, 0, 0, 0])
    #expect(
      full[0x20].map { Array($0.dropFirst(5).prefix(10)) } == [0x21, 0, 7] + bytes("TLSv1.3"))
    #expect(kinds(written(0, ClientTLS()))[0x20]?.prefix(5) == [0x01, 0, 0, 0, 1])
    #expect(kinds(written(20, nil))[0x20] == nil)
    // A name that does not fit is left out: a header too long is an attack to Exim.
    for count in 0...255 {
      let header = written(count, ClientTLS())
      #expect(header.count <= ProxyHeader.writtenMax)
      let found = kinds(header)
      #expect(found[0x05] != nil && found[0x20] != nil)
      #expect(found[0x02] == nil || found[0x02]?.count == count)
    }
  }
}

@Suite("XCLIENT, XFORWARD and the trace header")
struct ClientAttributesTests {
  private static let all: [UInt8] = bytes(
    "250-mx.example\r\n250-PIPELINING\r\n"
      + "250-XCLIENT NAME ADDR PROTO HELO REVERSE_NAME PORT LOGIN DESTADDR DESTPORT\r\n"
      + "250 XFORWARD NAME ADDR PROTO HELO SOURCE PORT IDENT\r\n")

  private func lines(
    _ word: StaticString, _ listed: ClientAttributes, _ details: ClientDetails, helo: String
  ) -> [String] {
    let name = bytes(helo)
    var found: [String] = []
    for number in 0..<20 {
      let line = written {
        writeClientLine(word, number, of: listed, details, helo: name.span, into: &$0)
      }
      guard let line else { break }
      #expect(line.utf8.count <= 512 && line.hasSuffix("\r\n"))
      found.append(String(line.dropLast()))
    }
    return found
  }

  private var details: ClientDetails {
    var details = ClientDetails(
      ClientEnds(
        address: Address(v4: 0xC000_0207), port: 40_123, server: Address(v4: 0xC633_6401)))
    details.isExtended = true
    details.session = 0xF00D
    return details
  }

  @Test("what the server lists is read, and what it does not list is not")
  func listed() throws {
    let xclient = ClientAttributes("XCLIENT", inEHLO: Self.all.span)
    #expect(
      xclient == [
        .name, .address, .proto, .helo, .port, .login, .destinationAddress, .destinationPort,
      ])
    let xforward = ClientAttributes("XFORWARD", inEHLO: Self.all.span)
    #expect(xforward == [.name, .address, .proto, .helo, .source, .port, .ident])
    let none = bytes("250-XCLIENT.example\r\n250 PIPELINING\r\n")
    #expect(ClientAttributes("XCLIENT", inEHLO: none.span) == nil)
    #expect(ClientAttributes("XCLIENT", inEHLO: bytes("250 XCLIENT\r\n").span) == [])
  }

  @Test("one line says all that was listed, the address last")
  func oneLine() {
    let listed = ClientAttributes("XCLIENT", inEHLO: Self.all.span) ?? []
    #expect(
      lines("XCLIENT", listed, details, helo: "a+b=c.example") == [
        "XCLIENT HELO=a+2Bb+3Dc.example PROTO=ESMTP LOGIN=[UNAVAILABLE] DESTADDR=198.51.100.1 "
          + "DESTPORT=25 PORT=40123 NAME=[UNAVAILABLE] ADDR=192.0.2.7"
      ])
    var other = ClientDetails(
      ClientEnds(address: Address(high: 0x2001_0DB8 << 32, low: 7), port: 0))
    other.session = 0
    #expect(
      lines("XCLIENT", [.address, .port, .helo, .destinationAddress], other, helo: "") == [
        "XCLIENT HELO=[UNAVAILABLE] DESTADDR=[UNAVAILABLE] PORT=[UNAVAILABLE] ADDR=IPV6:2001:db8::7"
      ])
    #expect(
      lines("XFORWARD", [.ident, .source, .address], details, helo: "x") == [
        "XFORWARD IDENT=000000000000f00d SOURCE=REMOTE ADDR=192.0.2.7"
      ])
    #expect(lines("XCLIENT", [], details, helo: "x") == [])
  }

  @Test("a long name makes a line of its own, one too long for any line is not available")
  func split() {
    let listed = ClientAttributes("XCLIENT", inEHLO: Self.all.span) ?? []
    for count in 1...255 {
      let name = String(repeating: count % 2 == 0 ? "+" : "n", count: count)
      let all = lines("XCLIENT", listed, details, helo: name)
      let words = all.flatMap { $0.split(separator: " ").dropFirst() }
      #expect(words.count == 8, "\(count)")
      #expect(words.last == "ADDR=192.0.2.7", "\(count)")
      let length = count % 2 == 0 ? 3 * count : count
      #expect(all.first?.contains("HELO=[UNAVAILABLE]") == (length > 497), "\(count)")
      #expect(all.count == (length > 497 || length < 370 ? 1 : all.count), "\(count)")
    }
  }

  @Test("the trace header has one form, and nothing a client says can add to it")
  func trace() {
    var details = details
    let host = bytes("mx.example.org")
    func header(_ helo: String) -> String? {
      let name = bytes(helo)
      return written {
        writeTraceHeader(
          details, helo: name.span, host: host.span, date: 1_795_255_200, into: &$0)
      }
    }
    #expect(
      header("client.example")
        == "Received: from client.example (unknown [192.0.2.7])\r\n"
        + "\tby mx.example.org (Sluice) with ESMTP id 000000000000f00d;\r\n"
        + "\tSat, 21 Nov 2026 10:00:00 +0000\r\n")
    #expect(header("a(b);c<d>\\\"e")?.hasPrefix("Received: from a?b??c?d???e (unknown") == true)
    #expect(header("")?.hasPrefix("Received: from unknown (unknown") == true)
    details.ends.address = Address(high: 0x2001_0DB8 << 32, low: 7)
    details.isTLS = true
    details.isAuthenticated = true
    #expect(header("[IPv6:2001:db8::7]")?.contains("(unknown [IPv6:2001:db8::7])") == true)
    #expect(header("x")?.contains(" with ESMTPSA id ") == true)
    let long = header(String(repeating: "x", count: 255)) ?? ""
    #expect(long.split(separator: "\r\n").allSatisfy { $0.utf8.count < 998 } && !long.isEmpty)
  }

  @Test(
    "dates of RFC 5322",
    arguments: [
      (Int64(0), "Thu, 01 Jan 1970 00:00:00 +0000"),
      (951_782_399, "Mon, 28 Feb 2000 23:59:59 +0000"),
      (951_782_400, "Tue, 29 Feb 2000 00:00:00 +0000"),
      (951_868_800, "Wed, 01 Mar 2000 00:00:00 +0000"),
      (1_735_689_599, "Tue, 31 Dec 2024 23:59:59 +0000"),
      (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 +0000"),
      (253_402_300_799, "Fri, 31 Dec 9999 23:59:59 +0000"),
      (.max, "Fri, 31 Dec 9999 23:59:59 +0000"),
      (-5, "Thu, 01 Jan 1970 00:00:00 +0000"),
    ])
  func dates(seconds: Int64, text: String) {
    #expect(written { $0.appendDate(seconds) } == text)
  }

  @Test("an address is written as everywhere else")
  func addresses() {
    var random = SeededGenerator(seed: 3)
    for _ in 0..<3_000 {
      var address = Address(
        high: UInt64.random(in: 0 ... .max, using: &random),
        low: UInt64.random(in: 0 ... .max, using: &random))
      // Groups of zeros in all places.
      let holes = UInt8.random(in: 0 ... .max, using: &random)
      for k in 0..<8 where holes >> UInt8(k) & 1 == 1 {
        let mask = ~(UInt64(0xFFFF) << UInt64(16 * (k & 3)))
        if k < 4 { address.high &= mask } else { address.low &= mask }
      }
      let quad = Address(v4: UInt32.random(in: 0 ... .max, using: &random))
      for one in [address, quad] { #expect(written { $0.appendAddress(one) } == "\(one)") }
    }
    #expect(written(room: 4) { $0.appendAddress(Address(high: 1, low: 1)) } == nil)
  }
}
