// SPDX-License-Identifier: Apache-2.0
import DNSLists
import Structures
import Testing

@Suite("Items of postscreen_dnsbl_sites")
struct ListSiteTests {
  static func list(_ addresses: [String]) throws -> AddressList {
    AddressList(try addresses.map { try #require(Address($0)) })
  }

  @Test(
    "are read as Postfix writes them",
    arguments: [
      ("zen.spamhaus.org=127.0.0.[2..11]*3", "127.0.0.11", 3, true),
      ("zen.spamhaus.org=127.0.0.[2..11]*3", "127.0.0.12", 3, false),
      ("list.dnswl.org=127.0.[0..255].1*-2", "127.0.5.1", -2, true),
      ("list.dnswl.org=127.0.[0..255].1*-2", "127.0.5.2", -2, false),
      ("list.dnswl.org=127.0.[0..255].[1..3]*-2", "127.0.0.255", -2, false),
      ("bl.example=127.0.0.[2;4;6..8]", "127.0.0.7", 1, true),
      ("bl.example=127.0.0.[2;4;6..8]", "127.0.0.5", 1, false),
      ("bl.example=[127].[0;1].0.[2]*+5", "127.1.0.2", 5, true),
      ("bl.example", "127.0.0.2", 1, true),
      ("bl.example", "127.0.0.254", 1, true),
      ("bl.example", "127.0.0.255", 1, false),
      ("bl.example", "127.0.1.2", 1, false),
      ("bl.example*0", "127.0.0.2", 0, true),
      ("bl.example*-10000", "127.0.0.2", -10_000, true),
      ("bl.example.", "127.0.0.2", 1, true),
    ])
  func reading(text: String, answer: String, weight: Int32, matches: Bool) throws {
    let site = try ListSite(text)
    #expect(site.weight == weight)
    #expect(try site.matches(#require(Address(answer))) == matches)
  }

  @Test(
    "tell what is wrong with them and where",
    arguments: [
      ("", ListSiteError.Kind.zoneMissing, 1),
      ("=127.0.0.2", .zoneMissing, 1),
      ("bl..example", .labelEmpty, 4),
      (".bl.example", .labelEmpty, 1),
      (".", .labelEmpty, 1),
      ("bl example", .zoneCharacter, 3),
      ("bl.example=", .fieldMissing, 12),
      ("bl.example=127.0.0", .fieldMissing, 19),
      ("bl.example=127.0.0.", .fieldMissing, 20),
      ("bl.example=127.0.0.256", .numberTooLarge, 20),
      ("bl.example=127.0.0.[9..2]", .rangeReversed, 21),
      ("bl.example=127.0.0.[2..4", .bracketOpen, 25),
      ("bl.example=127.0.0.[2.4]", .filterCharacter, 23),
      ("bl.example=127.0.0.[]", .filterCharacter, 21),
      ("bl.example=127.0.0.2x", .filterCharacter, 21),
      ("bl.example=127,0.0.2", .filterCharacter, 15),
      ("bl.example=10.0.0.2", .filterNeverMatches, 12),
      ("bl.example=127.255.255.254", .filterNeverMatches, 12),
      ("bl.example*", .weightMissing, 12),
      ("bl.example*-", .weightMissing, 13),
      ("bl.example*10001", .weightTooLarge, 16),
      ("bl.example*99999999999", .weightTooLarge, 16),
      ("bl.example*1.5", .weightCharacter, 13),
      ("bl.example*2*3", .weightCharacter, 13),
    ])
  func mistakes(text: String, kind: ListSiteError.Kind, character: Int) throws {
    let error = #expect(throws: ListSiteError.self) { try ListSite(text) }
    #expect(
      error?.kind == kind && error?.character == character, "\(text): \(String(describing: error))")
    #expect(error?.description.hasPrefix("character \(character): ") == true)
  }

  @Test("a label of 64 and a zone that leaves no room for an IPv6 address are refused")
  func length() throws {
    let label = String(repeating: "a", count: 63)
    #expect(throws: ListSiteError.self) { try ListSite("a\(label).example") }
    let longest = "\(label).\(label).\(String(repeating: "b", count: 61))"
    #expect(longest.utf8.count == ListZone.octetsMax)
    let sites = try ListSites([ListSite(longest)])
    let name = sites.queryName(try #require(Address("2001:db8::1")), inZone: 0)
    #expect(name.count == QueryName.octetsMax)
    let error = #expect(throws: ListSiteError.self) { try ListSite(longest + "c") }
    #expect(error?.kind == .zoneTooLong && error?.character == 190)
  }

  @Test(
    "an answer that is no listing says what is the matter",
    arguments: [
      (["127.0.0.2"], ListVerdict.listed),
      (["127.0.0.2", "127.0.0.10"], .listed),
      ([], .notListed),
      (["127.0.0.1"], .notListed),
      (["127.0.1.2"], .notListed),
      (["127.255.255.252"], .healthError(.typo)),
      (["127.255.255.254"], .healthError(.publicResolver)),
      (["127.255.255.255"], .healthError(.tooManyQueries)),
      (["127.255.255.7"], .healthError(.reserved(7))),
      (["10.0.0.1"], .healthError(.outsideLoopback)),
      (["2001:db8::1"], .healthError(.outsideLoopback)),
      (["127.0.0.2", "10.0.0.1"], .healthError(.outsideLoopback)),
    ])
  func verdicts(answers: [String], verdict: ListVerdict) throws {
    #expect(try ListSite("bl.example").verdict(of: Self.list(answers)) == verdict)
  }

  @Test(
    "127.0.0.1 is a listing only where it is written so",
    arguments: [
      ("bl.example=127.0.0.1", true), ("bl.example=127.0.0.[1;2]", true),
      ("bl.example=127.0.0.[1..3]", false), ("bl.example=127.0.[0..255].1", false),
      ("bl.example=[0..255].[0..255].[0..255].[0..255]", false),
    ])
  func loopback(text: String, matches: Bool) throws {
    let answer = try #require(Address("127.0.0.1"))
    #expect(try ListSite(text).matches(answer) == matches)
  }

  @Test("items of one zone share one question, and each counts once")
  func sharing() throws {
    let sites = try ListSites(
      [
        "list.dnswl.org=127.0.[2..15].0*-1", "bl.example*2", "LIST.dnswl.org=127.0.[2..15].1*-2",
        "list.dnswl.org=127.0.[2..15].2*-3", "list.dnswl.org.=127.0.[2..15].[1..3]*-4",
      ].map { try ListSite($0) })
    #expect(sites.zones.map(\.publicName) == ["list.dnswl.org", "bl.example"])
    #expect(sites.items(of: 0) == ItemSet(rawValue: 0b11101))
    let answers = try Self.list(["127.0.5.1", "127.0.6.1"])
    #expect(sites.verdict(ofZone: 0, answers) == .listed(ItemSet(rawValue: 0b10100)))
    #expect(sites.score(ItemSet(rawValue: 0b10100)) == -6)
    #expect(sites.score([.init(item: 1), .init(item: 2)]) == 0)
    #expect(sites.verdict(ofZone: 1, answers) == .notListed)
    #expect(try sites.verdict(ofZone: 1, Self.list(["10.0.0.1"])) == .healthError(.outsideLoopback))
  }

  @Test("there are 32 items at most")
  func number() throws {
    let items = try (0..<33).map { try ListSite("bl\($0).example*10000") }
    #expect(throws: ListSites.Failure.tooMany(33)) { try ListSites(items) }
    #expect(try ListSites(Array(items.prefix(32))).score(.all) == 320_000)
  }

  @Test(
    "the key in a zone's name is never shown",
    arguments: [
      ("abcdefghijklmnopqrstuvwxyz.zen.dq.spamhaus.net", "zen.dq.spamhaus.net"),
      ("AbcDEF0123.authbl.DQ.spamhaus.net", "authbl.dq.spamhaus.net"),
      ("abcdef0123.combined.mail.abusix.zone", "combined.mail.abusix.zone"),
      ("abcdefghijklmnopqrstuvwxyz.dq.spamhaus.net", "*.dq.spamhaus.net"),
      ("0123456789abcdef0123456789abcdef.bl.example", "*.bl.example"),
      ("zen.spamhaus.org", "zen.spamhaus.org"),
      ("dnsbl-1.uceprotect.net", "dnsbl-1.uceprotect.net"),
    ])
  func keys(zone: String, expected: String) throws {
    let site = try ListSite("\(zone)=127.0.0.[2..11]*3")
    #expect(site.zone.publicName == expected)
    let sites = try ListSites([site])
    let name = sites.queryName(ZoneHealth.two, inZone: 0)
    var dumped = ""
    dump(sites, to: &dumped)
    dump(name, to: &dumped)
    let all = ["\(site)", "\(site.zone)", "\(sites)", "\(name)", String(reflecting: site), dumped]
    guard zone.lowercased() != expected, let key = zone.lowercased().split(separator: ".").first
    else {
      return
    }
    for text in all { #expect(!text.lowercased().contains(key)) }
    let error = #expect(throws: ListSiteError.self) { try ListSite("\(zone)=127.0.0.300") }
    #expect(error?.description.contains(key) == false)
  }
}
