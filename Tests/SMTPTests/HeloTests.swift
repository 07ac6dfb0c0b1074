// SPDX-License-Identifier: Apache-2.0

// The promises of `HeloForm`, the domain behind a name, and addresses read from bytes.

import SMTP
import Structures
import Testing

private let longName = String(repeating: "a.", count: 127) + "b"

@Test(
  "a HELO name has the form that the table says",
  arguments: [
    ("mx.example.org", HeloForm.fullyQualified, "plain"),
    ("mx.example.org.", .fullyQualified, "one trailing dot"),
    ("a_b.example.org", .fullyQualified, "Windows hosts have underscores"),
    ("x-1.1e", .fullyQualified, "a last label with a letter"),
    (longName, .fullyQualified, "255 octets"), ("friend", .bareWord, "one label"),
    ("WIN-4F2K", .bareWord, "one label"), ("friend.", .bareWord, "one label and its dot"),
    ("[192.0.2.1]", .addressLiteral(Address(v4: 0xC000_0201)), "an address literal"),
    ("[IPv6:2001:db8::1]", .addressLiteral(Address("2001:db8::1")), "an IPv6 literal"),
    ("[ipv6:::1]", .addressLiteral(Address("::1")), "the tag's case is nothing"),
    ("[2001:db8::1]", .addressLiteral(Address("2001:db8::1")), "without its tag"),
    ("[IPv6:192.0.2.1]", .addressLiteral(nil), "the wrong family"),
    ("[x]", .addressLiteral(nil), "brackets around something else"),
    ("[192.0.2.256]", .addressLiteral(nil), "no address"), ("[]", .invalid, "empty brackets"),
    ("[192.0.2.1", .invalid, "an open bracket"), ("[a]b]", .invalid, "a bracket inside"),
    ("192.0.2.1", .bareAddress(Address(v4: 0xC000_0201)), "no brackets"),
    ("::1", .bareAddress(Address(high: 0, low: 1)), "no brackets, IPv6"),
    ("localhost", .localhost, "true of every host"), ("LOCALHOST.", .localhost, "the same"),
    ("localhost.localdomain", .localhost, "the same"), ("a.localhost", .localhost, "RFC 6761"),
    ("", .invalid, "empty"), (longName + "c.d", .invalid, "257 octets"),
    (".example.org", .invalid, "a leading dot"), ("-a.example.org", .invalid, "a leading hyphen"),
    ("a-.example.org", .invalid, "a trailing hyphen"), ("a..b", .invalid, "an empty label"),
    (".", .invalid, "only a dot"), ("a.b..", .invalid, "two trailing dots"),
    ("a b.example", .invalid, "a space"), ("m\u{FC}ller.example", .invalid, "eight bits"),
    ("a;b.example", .invalid, "a character no host has"),
    ("1.2.3", .invalid, "no address, no name"),
    ("192.0.2.256", .invalid, "no address, no name"), ("12345", .invalid, "only digits"),
    (String(repeating: "a", count: 64) + ".example", .invalid, "a label of 64"),
  ] as [(String, HeloForm, String)])
func heloForms(name: String, form: HeloForm, reason: String) {
  let found = HeloForm(bytes(name).span)
  #expect(found == form, "\(reason)")
}

@Test(
  "the domain behind a name is its last two or three labels",
  arguments: [
    ("mx1.mail.example.org", "example.org"), ("example.org", "example.org"),
    ("mx.example.co.uk", "example.co.uk"), ("a.b.com.br", "b.com.br"), ("co.uk", "co.uk"),
    ("mx.example.org.", "example.org"), ("mx.mail.de", "mail.de"), ("mx.ab.de", "mx.ab.de"),
    ("friend", nil), ("[192.0.2.1]", nil), ("a..b", nil),
  ] as [(String, String?)])
func heloDomains(name: String, domain: String?) {
  let all = bytes(name)
  let range = heloDomain(all.span)
  #expect(range.map { Array(all[$0]) } == domain.map(bytes))
}

@Test("equality without case folds ASCII letters and nothing else")
func caseFolding() {
  for (a, b, equal) in [
    ("Example.ORG", "eXAMPLE.org", true), ("a", "ab", false), ("@", "`", false), ("[", "{", false),
    ("-", "\r", false), ("É", "é", false), ("", "", true),
  ] {
    let found = equalsIgnoringCase(bytes(a).span, bytes(b).span)
    #expect(found == equal, "\(a) and \(b)")
  }
}

@Test("addresses read from bytes are those read from text")
func addressTwin() {
  let parts = [
    "::", ":", "1", "ffff", "192.0.2.1", ".", "0", "12345", "255", "256", "g", "::1", "1:2:3",
  ]
  for seed in UInt64(0)..<40_000 {
    var random = SeededGenerator(seed: seed)
    let text: String
    if random.number(0..<2) == 0 {
      let address = Address(
        high: random.next() & random.next() & random.next(), low: random.next() & random.next())
      text =
        (random.number(0..<2) == 0 ? address : Address(v4: UInt32(truncatingIfNeeded: address.low)))
        .description
    } else {
      text = (0..<random.number(1..<9)).map { _ in parts[random.number(0..<parts.count)] }.joined()
    }
    let all = bytes(text)
    let found = Address(bytes: all.span, in: 0..<all.count)
    #expect(found == Address(text), "seed \(seed): \(text)")
  }
}
