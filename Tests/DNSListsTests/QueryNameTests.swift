// SPDX-License-Identifier: Apache-2.0
import DNSLists
import Structures
import Testing

@Suite("Names of questions")
struct QueryNameTests {
  static func name(_ text: String) throws -> QueryName { try #require(HostName(text)).name }

  static func address(_ text: String) throws -> Address { try #require(Address(text)) }

  static func text(_ name: QueryName) throws -> String { try #require(HostName(name)).description }

  @Test(
    "an address stands in a zone with its last octet or nibble first",
    arguments: [
      ("192.0.2.1", "1.2.0.192.bl.example"),
      ("0.10.200.255", "255.200.10.0.bl.example"),
      (
        "2001:db8::1",
        "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.bl.example"
      ),
    ])
  func zones(address: String, expected: String) throws {
    let name = try QueryName(Self.address(address), in: Self.name("bl.example"))
    #expect(try Self.text(#require(name)) == expected)
  }

  @Test(
    "a host's name is found under in-addr.arpa and ip6.arpa",
    arguments: [
      ("192.0.2.1", "1.2.0.192.in-addr.arpa"),
      ("::ffff:192.0.2.1", "1.2.0.192.in-addr.arpa"),
      (
        "4321:0:1:2:3:4:567:89ab",
        "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.0.0.0.0.1.2.3.4.ip6.arpa"
      ),
    ])
  func pointers(address: String, expected: String) throws {
    #expect(try Self.text(QueryName(pointerOf: Self.address(address))) == expected)
  }

  @Test("the test address of IPv6 lists is written in nibbles (RFC 5782, 5)")
  func mapped() throws {
    let name = QueryName(ZoneHealth.two, in: try Self.name("bl.example"), asIPv6: true)
    #expect(
      try Self.text(#require(name))
        == "2.0.0.0.0.0.f.7.f.f.f.f.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.bl.example")
  }

  @Test("a label has 63 octets at most, a name 255")
  func limits() throws {
    let label = Array(repeating: UInt8(ascii: "a"), count: 63)
    let (tooLong, shorter, one, none) = (label + [97], Array(label[..<61]), [UInt8(97)], [UInt8]())
    var name = QueryName()
    #expect(name.count == 1)
    var fits = name.append(tooLong.span)
    #expect(!fits && name.count == 1)
    fits = name.append(none.span)
    #expect(!fits && name.count == 1)
    for _ in 0..<3 {
      fits = name.append(label.span)
      #expect(fits)
    }
    fits = name.append(label.span)
    #expect(!fits && name.count == 193)
    fits = name.append(shorter.span)
    #expect(fits && name.count == 255)
    fits = name.append(one.span)
    #expect(!fits && name.count == 255)
    #expect(QueryName(ZoneHealth.two, in: name) == nil)
    let last = name.wire[254]
    #expect(last == 0)
  }

  @Test("letters are the same in both cases")
  func cases() throws {
    #expect(try Self.name("BL.Example") == Self.name("bl.example."))
    #expect(try Self.name("bl.example") != Self.name("bl.examplf"))
  }

  @Test("a query name shows nothing of itself")
  func secrets() throws {
    let name = try Self.name("secretsecret.example")
    var dumped = ""
    dump(name, to: &dumped)
    for text in ["\(name)", String(reflecting: name), "\([name])", dumped] {
      #expect(!text.contains("secret") && !text.contains("115"))
    }
  }

  @Test(
    "a host's name has letters, digits, hyphens and underscores only",
    arguments: [
      "", ".", "a..b", ".a", "-a.example", "a-.example", "a b.example", "a\r\nb.example",
      "ä.example",
      "a;b", "a\"b",
    ])
  func hosts(text: String) { #expect(HostName(text) == nil) }
}
