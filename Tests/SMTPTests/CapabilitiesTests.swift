// SPDX-License-Identifier: Apache-2.0

// The promises of `Capabilities`: what is read, what is offered, and what is never offered.

import SMTP
import Testing

private func capabilities(_ lines: [String]) -> Capabilities {
  let all = ["mx.example.org"] + lines
  let reply = all.enumerated().map { i, line in "250\(i == all.count - 1 ? " " : "-")\(line)\r\n" }
  return Capabilities(ehloReply: bytes(reply.joined()).span)
}

/// What a client is offered behind AUTH.
private func mechanisms(_ lines: [String]) -> String {
  let reply = (["mx.example.org"] + lines).enumerated().map { i, line in
    "250\(i == lines.count ? " " : "-")\(line)\r\n"
  }
  var own = Capabilities()
  own.keywords = .auth
  let offer = Capabilities(ehloReply: bytes(reply.joined()).span).offered(by: own, role: .outbound)
  let text = written { offer.writeEHLOReply(hostname: bytes("h").span, into: &$0) }
  let line = text?.split(separator: "\r\n").last ?? ""
  #expect(line.utf8.count <= 510, "a line of a reply is at most 512 octets")
  return line.hasPrefix("250 AUTH ") ? String(line.dropFirst(9)) : ""
}

private func keywords(_ reply: String) -> Capabilities.Keywords {
  Capabilities(ehloReply: bytes(reply).span).keywords
}

private let own: Capabilities = {
  var own = Capabilities()
  own.keywords = [
    .pipelining, .size, .eightBitMIME, .smtputf8, .dsn, .enhancedStatusCodes, .starttls, .auth,
    .limits, .chunking,
  ]
  own.sizeMax = 1_000
  own.recipientsMax = 50
  return own
}()

private func offer(_ lines: [String], _ role: Capabilities.Role) -> String? {
  let made = capabilities(lines).offered(by: own, role: role)
  return written { made.writeEHLOReply(hostname: bytes("sluice.example").span, into: &$0) }
}

@Test("an EHLO reply is read keyword by keyword")
func readKeywords() {
  let found = capabilities([
    "PIPELINING", "size 123", "8BITMIME", "AUTH PLAIN login X!Y",
    "LIMITS RCPTMAX=9 MAILMAX=x FOO=1",
    "XCLIENT ADDR NAME", "UNHEARD-OF", "ENHANCEDSTATUSCODES", "", "SIZEX 9", "CHUNKING",
  ])
  #expect(
    found.keywords == [
      .pipelining, .size, .eightBitMIME, .auth, .limits, .xclient, .enhancedStatusCodes, .chunking,
    ])
  #expect(found.sizeMax == 123 && found.recipientsMax == 9 && found.mailsMax == 0)
  #expect(
    mechanisms(["AUTH PLAIN login X!Y"]) == "PLAIN LOGIN", "upper case, and no malformed names")
}

@Test("the greeting line is a name, even if it reads like a keyword")
func greetingIsNoKeyword() {
  #expect(keywords("250-DSN\r\n250 SIZE\r\n") == [.size])
  #expect(keywords("250 PIPELINING\r\n") == [])
}

@Test("a reply that refuses offers nothing")
func refusedEHLO() {
  #expect(keywords("502-x\r\n502 DSN\r\n") == [])
  #expect(keywords("") == [])
}

/// What Cyrus SASL lists on Debian with libsasl2-modules-gssapi-mit, -otp, -sql and -ldap installed: 131 octets,
/// PLAIN and LOGIN last.
private let cyrus =
  "SCRAM-SHA-512 SCRAM-SHA-384 SCRAM-SHA-256 SCRAM-SHA-224 SCRAM-SHA-1 GS2-IAKERB GS2-KRB5 GSS-SPNEGO GSSAPI "
  + "DIGEST-MD5 OTP CRAM-MD5 NTLM PLAIN LOGIN"

@Test(
  "the AUTH lines of a reply are one list: each mechanism once, the old form too, and nothing is cut that fits",
  arguments: [
    (["AUTH " + cyrus], cyrus, "longer than 120 octets"),
    (["AUTH PLAIN LOGIN", "AUTH CRAM-MD5"], "PLAIN LOGIN CRAM-MD5", "two lines"),
    (
      ["AUTH PLAIN LOGIN", "AUTH=PLAIN LOGIN"], "PLAIN LOGIN", "Postfix's broken_sasl_auth_clients"
    ),
    (["AUTH=LOGIN", "AUTH CRAM-MD5 login"], "LOGIN CRAM-MD5", "the old form first"),
    (["AUTH  PLAIN  PLAIN"], "PLAIN", "two spaces"),
    (["AUTH X!Y PLAIN-BUT-LONGER-THAN-20 PLAIN"], "PLAIN", "what is no name (RFC 4422, 3.1)"),
    (["AUTH"], "", "no mechanism"), (["AUTH="], "", "none in the old form"),
    (["AUTHX PLAIN", "AUTH-PLAIN"], "", "another keyword"),
  ])
func mechanismLists(lines: [String], expected: String, reason: String) {
  #expect(mechanisms(lines) == expected, "\(reason)")
  let offers = capabilities(lines).keywords.contains(.auth)
  #expect(offers == !expected.isEmpty, "\(reason): the keyword")
}

@Test(
  "of more mechanisms than a line has room for whole ones are left out, and never PLAIN and LOGIN")
func manyMechanisms() {
  let names = (0..<60).map { "MECHANISM-\($0)" }
  for last in [["PLAIN", "LOGIN"], ["LOGIN", "PLAIN"], ["PLAIN"], []] {
    let found = mechanisms([
      "AUTH " + names.joined(separator: " "), "AUTH " + last.joined(separator: " "),
    ])
    let list = found.split(separator: " ").map(String.init)
    #expect(list.count > 30 && list.suffix(last.count) == last[...], "\(found)")
    #expect(Array(list.dropLast(last.count)) == Array(names.prefix(list.count - last.count)))
    let reply = bytes("250-h\r\n250 AUTH \(names.joined(separator: " "))\r\n")
    let isCut = Capabilities(ehloReply: reply.span).mechanisms.isCut
    #expect(isCut)
  }
  let isCut = Capabilities(ehloReply: bytes("250-h\r\n250 AUTH \(cyrus)\r\n").span).mechanisms.isCut
  #expect(!isCut)
}

@Test(
  "what is offered is what both can do, and nothing that gives powers over the downstream",
  arguments: [
    (
      [
        "PIPELINING", "SIZE 500", "8BITMIME", "SMTPUTF8", "DSN", "STARTTLS", "CHUNKING",
        "BINARYMIME",
        "XCLIENT ADDR", "XFORWARD NAME", "ETRN", "BURL", "PIPECONNECT", "VRFY", "DELIVERBY",
        "FUTURERELEASE", "MT-PRIORITY", "REQUIRETLS", "AUTH PLAIN", "LIMITS RCPTMAX=9 MAILMAX=4",
      ], Capabilities.Role.inbound,
      [
        "PIPELINING", "SIZE 500", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES", "STARTTLS",
        "LIMITS MAILMAX=4 RCPTMAX=9",
      ], "everything, inbound: no AUTH, REQUIRETLS only if ours has it"
    ),
    (
      ["AUTH PLAIN LOGIN", "8BITMIME"], .outbound,
      [
        "PIPELINING", "SIZE 1000", "8BITMIME", "ENHANCEDSTATUSCODES", "STARTTLS",
        "AUTH PLAIN LOGIN",
        "LIMITS RCPTMAX=50",
      ], "AUTH is for our own users"
    ),
    (
      ["SIZE"], .outbound,
      ["PIPELINING", "SIZE 1000", "ENHANCEDSTATUSCODES", "STARTTLS", "LIMITS RCPTMAX=50"],
      "no limit downstream: ours"
    ),
    (
      ["SMTPUTF8"], .inbound,
      ["PIPELINING", "SIZE 1000", "ENHANCEDSTATUSCODES", "STARTTLS", "LIMITS RCPTMAX=50"],
      "SMTPUTF8 needs 8BITMIME (RFC 6531, 3.1)"
    ),
    (
      ["AUTH"], .outbound,
      ["PIPELINING", "SIZE 1000", "ENHANCEDSTATUSCODES", "STARTTLS", "LIMITS RCPTMAX=50"],
      "AUTH without a mechanism is no offer"
    ),
  ] as [([String], Capabilities.Role, [String], String)])
func offers(lines: [String], role: Capabilities.Role, expected: [String], reason: String) {
  let all = ["sluice.example"] + expected
  let reply = all.enumerated().map { i, line in "250\(i == all.count - 1 ? " " : "-")\(line)\r\n" }
  #expect(offer(lines, role) == reply.joined(), "\(reason)")
}

@Test("a reply that offers nothing is one line, and one that does not fit is not written")
func smallReplies() {
  let none = Capabilities()
  #expect(written { none.writeEHLOReply(hostname: bytes("h").span, into: &$0) } == "250 h\r\n")
  #expect(written { none.writeEHLOReply(hostname: bytes("h\r\nx").span, into: &$0) } == nil)
  let whole = written { own.writeEHLOReply(hostname: bytes("h").span, into: &$0) } ?? ""
  #expect(!whole.contains("CHUNKING"), "not even if it is in the set")
  for room in 1...whole.utf8.count {
    #expect(written(room: room) { own.writeEHLOReply(hostname: bytes("h").span, into: &$0) } == nil)
  }
}

@Test("the parameters sent down are those the downstream said it knows")
func passableParameters() {
  #expect(
    capabilities(["SIZE", "DSN"]).keywords.parameters(role: .inbound) == [
      .size, .ret, .envid, .notify, .orcpt,
    ])
  #expect(capabilities(["AUTH PLAIN"]).keywords.parameters(role: .inbound) == [])
  #expect(capabilities(["AUTH PLAIN"]).keywords.parameters(role: .outbound) == [.auth])
}
