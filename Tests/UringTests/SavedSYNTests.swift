// SPDX-License-Identifier: Apache-2.0
//
// The SYN parser on hand-made packets, honest and hostile. No socket here. Keeps: no input of any
// length or content traps, and a fingerprint does not depend on address, port, distance or path.

import Structures
import Testing
import Uring

/// The test macros cannot take a span.
private func parse(_ bytes: [UInt8]) -> SavedSYN? { SavedSYN(parsing: bytes.span) }

@Suite struct SavedSYNTests {
  /// Linux 6: MSS 1460, SACK permitted, timestamps, padding, window scale 7.
  static let linux: [UInt8] = [
    2, 4, 0x05, 0xB4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7,
  ]
  /// Windows: MSS, padding, window scale 8, two paddings, SACK permitted.
  static let windows: [UInt8] = [2, 4, 0x05, 0xB4, 1, 3, 3, 8, 1, 1, 4, 2]

  static func tcp(
    _ options: [UInt8], port: UInt16 = 40_000, window: UInt16 = 64_240
  ) -> [UInt8] {
    let words = UInt8((20 + options.count) / 4)
    return [
      UInt8(port >> 8), UInt8(port & 255), 0, 25, 9, 9, 9, 9, 0, 0, 0, 0, words << 4, 2,
      UInt8(window >> 8), UInt8(window & 255), 0xAA, 0xBB, 0, 0,
    ] + options
  }

  static func v4(
    _ tcp: [UInt8], ttl: UInt8 = 64, source: [UInt8] = [192, 0, 2, 1], ipOptions: [UInt8] = []
  ) -> [UInt8] {
    let total = 20 + ipOptions.count + tcp.count
    return [
      0x40 | UInt8(5 + ipOptions.count / 4), 0, 0, UInt8(total), 0x12, 0x34, 0x40, 0, ttl, 6, 0, 0,
    ] + source + [198, 51, 100, 25] + ipOptions + tcp
  }

  static func v6(_ rest: [UInt8], next: UInt8 = 6, hops: UInt8 = 60) -> [UInt8] {
    let source: [UInt8] = [0x20, 1, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]
    let destination: [UInt8] = [0x20, 1, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x25]
    return [0x60, 1, 2, 3, 0, UInt8(rest.count), next, hops] + source + destination + rest
  }

  @Test("an IPv4 SYN gives addresses, ports, TTL, window, MSS and scale")
  func ipv4() throws {
    let syn = try #require(parse(Self.v4(Self.tcp(Self.linux), ttl: 51)))
    #expect(syn.source == Address("192.0.2.1") && syn.sourcePort == 40_000)
    #expect(syn.destination == Address("198.51.100.25") && syn.destinationPort == 25)
    #expect(syn.timeToLive == 51 && syn.window == 64_240)
    #expect(syn.maximumSegment == 1460 && syn.windowScale == 7)
  }

  @Test("an IPv6 SYN is read, over extension headers too")
  func ipv6() throws {
    let tcp = Self.tcp(Self.linux)
    let plain = try #require(parse(Self.v6(tcp)))
    #expect(plain.source == Address("2001:db8::7") && plain.destination == Address("2001:db8::25"))
    #expect(plain.sourcePort == 40_000 && plain.timeToLive == 60 && plain.windowScale == 7)
    // Hop-by-hop (8 bytes), then destination options (16 bytes), then TCP.
    let extended =
      [60, 0, 1, 4, 0, 0, 0, 0] + [6, 1, 1, 12] + [UInt8](repeating: 0, count: 12) + tcp
    let long = try #require(parse(Self.v6(extended, next: 0)))
    #expect(long.sourcePort == 40_000 && long.maximumSegment == 1460)
    #expect(long.fingerprint != plain.fingerprint)
  }

  struct Row: CustomTestStringConvertible {
    let bytes: [UInt8]
    let reason: String
    var testDescription: String { reason }
  }

  static let refused = [
    Row(bytes: [], reason: "nothing"),
    Row(bytes: [UInt8](repeating: 0, count: 60), reason: "version 0"),
    Row(bytes: [UInt8](repeating: 0xFF, count: 200), reason: "version 15"),
    Row(bytes: [0x44] + v4(tcp(linux)).dropFirst(), reason: "IPv4 header of 16 bytes"),
    Row(bytes: [0x4F] + v4(tcp(windows)).dropFirst(), reason: "IPv4 header past the TCP header"),
    Row(bytes: v4(tcp(linux)).dropLast(), reason: "the last option byte is missing"),
    Row(bytes: Array(v4(tcp([])).prefix(39)), reason: "half a TCP header"),
    Row(
      bytes: v4(tcp([])).enumerated().map { $0.offset == 9 ? 17 : $0.element }, reason: "UDP"),
    Row(
      bytes: v4(tcp([])).enumerated().map { $0.offset == 32 ? 0x40 : $0.element },
      reason: "TCP header of 16 bytes"),
    Row(
      bytes: v4(tcp([])).enumerated().map { $0.offset == 32 ? 0xF0 : $0.element },
      reason: "TCP header longer than the packet"),
    Row(bytes: v6(tcp(linux), next: 58), reason: "ICMPv6"),
    Row(bytes: v6([6, 255, 0, 0, 0, 0, 0, 0], next: 0), reason: "extension past the end"),
    Row(
      bytes: v6((0..<9).flatMap { _ -> [UInt8] in [0, 0, 0, 0, 0, 0, 0, 0] } + tcp([]), next: 0),
      reason: "nine extension headers"),
  ]

  @Test("what is no whole SYN gives nothing", arguments: refused)
  func nothing(row: Row) {
    let syn = parse(row.bytes)
    #expect(syn == nil, "\(row.reason)")
  }

  @Test(
    "an option that lies about its length ends the options, not the packet",
    arguments: [
      Row(bytes: [2, 4, 5, 0xB4, 3, 0, 7, 0], reason: "length 0 would never advance"),
      Row(bytes: [2, 4, 5, 0xB4, 3, 1, 7, 0], reason: "length 1"),
      Row(bytes: [2, 4, 5, 0xB4, 3, 200, 7, 0], reason: "past the header"),
      Row(bytes: [2, 4, 5, 0xB4, 1, 1, 1, 3], reason: "no length byte"),
      Row(bytes: [2, 4, 5, 0xB4, 0, 3, 3, 7], reason: "after the end of options"),
    ])
  func liar(row: Row) throws {
    let syn = try #require(parse(Self.v4(Self.tcp(row.bytes))))
    #expect(syn.maximumSegment == 1460 && syn.windowScale == nil, "\(row.reason)")
  }

  @Test("options of the wrong size are not believed")
  func wrongSize() throws {
    let syn = try #require(
      parse(Self.v4(Self.tcp([2, 3, 5, 3, 4, 7, 7, 0]))))
    #expect(syn.maximumSegment == nil && syn.windowScale == nil)
  }

  @Test("the fingerprint knows the stack, not the place it calls from")
  func fingerprint() throws {
    func print(_ bytes: [UInt8]) throws -> UInt64 {
      try #require(parse(bytes)).fingerprint
    }
    let base = try print(Self.v4(Self.tcp(Self.linux)))
    #expect(
      try print(Self.v4(Self.tcp(Self.linux, port: 1), ttl: 40, source: [10, 1, 1, 1])) == base)
    // The same stack behind a smaller path: MSS 1400, and a window that is the same 44 segments.
    let tunnel: [UInt8] = [2, 4, 0x05, 0x78] + Self.linux.dropFirst(4)
    #expect(try print(Self.v4(Self.tcp(tunnel, window: 61_600))) == base)
    #expect(try print(Self.v4(Self.tcp(Self.windows), ttl: 128)) != base)
    #expect(try print(Self.v4(Self.tcp(Self.linux), ttl: 120)) != base)
    #expect(try print(Self.v4(Self.tcp(Self.linux, window: 1024))) != base)
    // A number that may stand in somebody's rules: it must not change between versions.
    #expect(base == 14_461_677_450_367_101_494)
  }

  @Test("no bytes whatever trap the parser, at any length")
  func garbage() {
    var random = SeededGenerator(seed: 25)
    let honest = [Self.v4(Self.tcp(Self.linux)), Self.v6(Self.tcp(Self.windows))]
    for round in 0..<20_000 {
      var bytes = honest[round & 1]
      for _ in 0..<Int.random(in: 0...4, using: &random) {
        bytes[Int.random(in: 0..<bytes.count, using: &random)] = .random(
          in: 0...255, using: &random)
      }
      bytes = Array(bytes.prefix(Int.random(in: 0...bytes.count, using: &random)))
      _ = parse(bytes)
    }
  }
}
