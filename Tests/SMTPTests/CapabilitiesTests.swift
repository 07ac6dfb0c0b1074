// SPDX-License-Identifier: Apache-2.0

// The promises of `Capabilities`: what is read, what is offered, and what is never offered.

import SMTP
import Testing

private func capabilities(_ lines: [String]) -> Capabilities {
  let all = ["mx.example.org"] + lines
  let reply = all.enumerated().map { i, line in "250\(i == all.count - 1 ? " " : "-")\(line)\r\n" }
  return Capabilities(ehloReply: bytes(reply.joined()).span)
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
  let mechanisms = (0..<found.authMechanismOctets).map { found.authMechanismOctet($0) }
  #expect(mechanisms == bytes("PLAIN LOGIN"), "upper case, and no malformed names")
}

@Test("the greeting line is a name, even if it reads like a keyword")
func greetingIsNoKeyword() {
  #expect(keywords("250-DSN\r\n250 SIZE\r\n") == [.size])
  #expect(keywords("250 PIPELINING\r\n") == [])
}

@Test("a reply that is not 250 offers nothing")
func refusedEHLO() {
  #expect(keywords("502-x\r\n502 DSN\r\n") == [])
  #expect(keywords("") == [])
}

@Test("mechanisms that do not fit are left out whole")
func manyMechanisms() {
  let names = (0..<30).map { "MECHANISM-\($0)" }.joined(separator: " ")
  let found = capabilities(["AUTH " + names])
  let all = (0..<found.authMechanismOctets).map { found.authMechanismOctet($0) }
  #expect(all.count <= Capabilities.authOctetsMax)
  #expect(
    all.split(separator: 0x20).allSatisfy { bytes(names).split(separator: 0x20).contains($0) })
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
