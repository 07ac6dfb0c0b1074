// SPDX-License-Identifier: Apache-2.0

// The promises of `Command`, `MailArguments`, `RcptArguments` and the lines re-made from them.

import Structures
import Testing

@testable import SMTP

@Test(
  "a line is the command it says it is",
  arguments: [
    ("EHLO mx.example.org", Verb.ehlo, "mx.example.org", Command.Form.strict, "plain"),
    ("ehlo mx.example.org", .ehlo, "mx.example.org", .strict, "case is nothing"),
    ("HELO  x", .helo, "x", .loose, "two spaces"),
    ("EHLO", .ehlo, "", .strict, "no argument: HeloForm will say invalid"),
    ("EHLO m\u{FC}ller.example", .ehlo, "m\u{FC}ller.example", .strict, "for HeloForm to refuse"),
    ("MAIL FROM:<a@b> SIZE=1", .mail, "<a@b> SIZE=1", .strict, "plain"),
    ("mail from:<>", .mail, "<>", .strict, "the null path"),
    ("MAIL FROM: <a@b>", .mail, "<a@b>", .loose, "one space after the colon"),
    ("MAIL FROM:  <a@b>", .mail, "<a@b>", .tolerated, "two are one too many"),
    ("MAIL FROM:\t<a@b>", .mail, "<a@b>", .loose, "TAB is white space"),
    ("MAIL FROM: \t <a@b>\tSIZE=1", .mail, "<a@b>\tSIZE=1", .loose, "wherever it stands"),
    ("MAIL\tFROM:<a@b>", .mail, "<a@b>", .strict, "and behind the verb"),
    ("MAIL <a@b>", .mail, "<a@b>", .malformed, "without FROM:"),
    ("MAIL FROM :<a@b>", .mail, "FROM :<a@b>", .malformed, "space before the colon"),
    ("MAIL", .mail, "", .malformed, "nothing at all"),
    ("RCPT TO:<a@b>", .rcpt, "<a@b>", .strict, "plain"),
    ("RCPT FROM:<a@b>", .rcpt, "FROM:<a@b>", .malformed, "the wrong keyword"),
    ("DATA", .data, "", .strict, "plain"),
    ("DATA \t ", .data, "", .strict, "trailing white space is tolerated"),
    ("RSET", .rset, "", .strict, ""), ("NOOP x y", .noop, "x y", .strict, ""),
    ("QUIT", .quit, "", .strict, ""), ("VRFY root", .vrfy, "root", .strict, ""),
    ("EXPN l", .expn, "l", .strict, ""), ("HELP", .help, "", .strict, ""),
    ("AUTH PLAIN", .auth, "PLAIN", .strict, ""), ("STARTTLS", .starttls, "", .strict, ""),
    ("BDAT 5 LAST", .bdat, "5 LAST", .strict, ""), ("LHLO x", .lhlo, "x", .strict, ""),
    ("XCLIENT ADDR=1", .xclient, "ADDR=1", .strict, ""),
    ("XFORWARD A=1", .xforward, "A=1", .strict, ""), ("ETRN x", .etrn, "x", .strict, ""),
    ("ATRN", .atrn, "", .strict, ""), ("TURN", .turn, "", .strict, ""),
    ("BURL x", .burl, "x", .strict, ""), ("SEND x", .send, "x", .strict, ""),
    ("SOML x", .soml, "x", .strict, ""), ("SAML x", .saml, "x", .strict, ""),
    ("", .unknown, "", .strict, "an empty line"),
    (" QUIT", .quit, "", .strict, "leading space"), ("\tNOOP", .noop, "", .strict, "leading TAB"),
    (" GET /", .unknown, "GET /", .strict, "leading space before what is not SMTP proves nothing"),
    ("Host:\tx", .binary, "Host:\tx", .strict, "and TAB inside neither"),
    (" x:y z", .unknown, "x:y z", .strict, "a folded header"),
    ("QUITX", .unknown, "", .strict, "a longer word"),
    ("QUI", .unknown, "", .strict, "a shorter one"),
    ("GET / HTTP/1.1", .http, "GET / HTTP/1.1", .strict, "HTTP"),
    ("POST /x", .http, "POST /x", .strict, "HTTP"),
    ("PRI * HTTP/2.0", .http, "PRI * HTTP/2.0", .strict, "HTTP/2"),
    ("Connect a:25 HTTP/1.0", .http, "Connect a:25 HTTP/1.0", .strict, "HTTP"),
    ("Host: example.org", .header, "Host: example.org", .strict, "a header of HTTP"),
    ("Received:from x", .header, "Received:from x", .strict, "a header of mail"),
    (": x", .unknown, "x", .strict, "no name, no header"),
    ("QUIT\u{1B}", .binary, "QUIT\u{1B}", .strict, "ESC"),
    ("MA\tIL FROM:<a@b>", .binary, "MA\tIL FROM:<a@b>", .strict, "TAB inside"),
    ("NOOP \u{7F}", .binary, "NOOP \u{7F}", .strict, "DEL"),
    ("QU\u{CF}T", .binary, "QU\u{CF}T", .strict, "eight bits in the verb"),
    ("NOOP \u{CF}", .binary, "NOOP \u{CF}", .strict, "eight bits where no command has them"),
    ("\u{16}\u{3}\u{1}", .tlsHello, "\u{16}\u{3}\u{1}", .strict, "TLS"),
    ("\u{5}\u{1}", .socks, "\u{5}\u{1}", .strict, "SOCKS 5"),
    ("\u{4}\u{1}\u{0}\u{50}", .socks, "\u{4}\u{1}\u{0}\u{50}", .strict, "SOCKS 4"),
    ("\u{5}x", .binary, "\u{5}x", .strict, "an odd octet is not yet SOCKS"),
  ])
func commands(line: String, verb: Verb, argument: String, form: Command.Form, reason: String) {
  let all = bytes(line)
  let command = Command(line: all.span)
  #expect(command.verb == verb, "\(reason)")
  #expect(Array(all[command.argument]) == bytes(argument), "\(reason)")
  #expect(command.form == form, "\(reason)")
  let isToTheLetter =
    all.first != 0x20 && !all[all.span.withoutTrailingSpace(0..<all.count)].contains(9)
  #expect(
    isToTheLetter == (command.strictVerb == command.verb) || verb.isForeign || verb == .unknown)
}

@Test(
  "who takes nothing but the letter sees no command where there is white space that does not belong",
  arguments: [
    (" QUIT", Verb.unknown), ("\tQUIT", .binary), ("QUIT\tx", .binary),
    ("MAIL FROM:\t<a@b>", .binary),
    ("MAIL FROM:  <a@b>", .mail), ("QUIT \t", .quit), ("NOOP  x", .noop),
  ])
func strictVerbs(line: String, verb: Verb) {
  #expect(Command(line: bytes(line).span).strictVerb == verb)
}

@Test("no line, however random, breaks the promise about its argument")
func commandArguments() {
  for seed in UInt64(0)..<20_000 {
    var random = SeededGenerator(seed: seed)
    let starts = ["MAIL FROM:", "RCPT TO:", "EHLO ", "NOOP", "X", ""]
    let all =
      bytes(starts[random.number(0..<starts.count)])
      + (0..<random.number(0..<12)).map { _ in
        random.number(0..<3) == 0
          ? UInt8(random.number(0..<256)) : 0x20 + UInt8(random.number(0..<95))
      }
    let command = Command(line: all.span)
    #expect(command.argument.upperBound <= all.count, "seed \(seed)")
    if command.verb.isForeign || command.argument.isEmpty { continue }
    let argument = all[command.argument]
    #expect(
      argument.allSatisfy { $0 >= 0x20 && $0 != 0x7F || $0 == 9 }, "seed \(seed): \(shown(all))")
    let (first, last) = (argument.first ?? 0, argument.last ?? 0)
    #expect(
      ![0x20, 9].contains(first) && ![0x20, 9].contains(last), "seed \(seed): \(shown(all))")
  }
}

private let long = String(repeating: "a", count: 1_100)

@Test(
  "a reverse-path is taken whole, with what is wrong about it, or refused with the reply it deserves",
  arguments: [
    ("<a@b.example>", "<a@b.example>", nil, "plain"),
    ("<>", "<>", nil, "the null path"),
    ("<\"a>b\"@x>", "<\"a>b\"@x>", nil, "a bracket inside quotes"),
    ("<\"a\\\"b> c\"@x> SIZE=1", "<\"a\\\"b> c\"@x>", nil, "an escaped quote does not end them"),
    ("<\"\"@x>", "<\"\"@x>", nil, "empty quotes (Dovecot CVE-2020-10967)"),
    ("<a.\"b c\".d@x>", "<a.\"b c\".d@x>", nil, "obsolete mix of words"),
    ("<@one,@two:a@b>", "<@one,@two:a@b>", nil, "a source route is kept verbatim"),
    ("<.a..b.@x>", "<.a..b.@x>", nil, "dots anywhere: the downstream decides"),
    ("<a@[192.0.2.1]>", "<a@[192.0.2.1]>", nil, "an address literal"),
    ("<a@[IPv6:2001:db8::1]>", "<a@[IPv6:2001:db8::1]>", nil, "an IPv6 literal"),
    ("<a+b=c@x_y.example.>", "<a+b=c@x_y.example.>", nil, "underscore and trailing dot"),
    ("a@b", "<a@b>", ArgumentFault.syntax, "no brackets"),
    ("\"a b\"@c SIZE=1", "<\"a b\"@c>", .syntax, "nor around quotes"),
    ("@one:a@b", "<@one:a@b>", .syntax, "nor around a route"),
    ("root", "<root>", .syntax, "nor a name"),
    ("\"a b\"", "<\"a b\">", .syntax, "nor one in quotes"),
    ("\"a\"x", "", .syntax, "with more behind"),
    ("<\"a\" x>", "", .badSender, "with more behind it in brackets"),
    ("SIZE=1", "", .syntax, "a parameter is no name"), ("a@b>", "", .syntax, "one bracket"),
    ("a@b,c@d", "", .syntax, "two of them"), ("Name <a@b>", "", .syntax, "a name before it"),
    ("Name<a@b>", "", .syntax, "hard before it"), ("\"Name\" <a@b>", "", .syntax, "in quotes"),
    ("< a@b>", "<a@b>", .badSender, "white space inside"), ("<a@b\t>", "<a@b>", .badSender, "TAB"),
    ("< >", "<>", .badSender, "and nothing else"), ("<a @b>", "", .badSender, "inside the address"),
    ("<<a@b>", "", .badSender, "one more than closes"), ("<<<a@b>>>", "", .badSender, "three"),
    ("<a@b>>", "", .badSender, "one more than opens"), ("<mailto:a@b>", "", .badSender, "a URL"),
    ("<a@b", "", .syntax, "no closing bracket"),
    ("", "", .syntax, "nothing"), ("<", "", .syntax, "hardly more"),
    ("<\"a@b>", "", .syntax, "quotes that do not end"),
    ("<\"a\\", "", .syntax, "an escape that does not end"),
    ("<a@b>x", "", .syntax, "something right behind the path"),
    ("<a@b>SIZE=1", "", .syntax, "a parameter right behind the path"),
    ("<<a@b>>", "<a@b>", .badSender, "brackets in brackets"),
    ("<a>", "<a>", .badSender, "no domain"),
    ("<postmaster>", "<postmaster>", .badSender, "not for senders"),
    ("<@b>", "", .badSender, "a route to nowhere"), ("<@b:>", "", .badSender, "a route to nowhere"),
    ("<@x@y:a@b>", "", .badSender, "a route without its comma"),
    ("<a@>", "", .badSender, "an empty domain"), ("<a@.b>", "", .badSender, "an empty label"),
    ("<a@b..c>", "", .badSender, "an empty label"), ("<a@[]>", "", .badSender, "an empty literal"),
    ("<a@b@c>", "", .badSender, "two domains"), ("<a b@c>", "", .badSender, "an unquoted space"),
    ("<a\\ b@c>", "", .badSender, "an escape outside quotes"),
    ("<\"a\"b@c>", "", .badSender, "no dot behind quotes"),
    ("<a\"b\"@c>", "", .badSender, "quotes inside a word"),
    ("<a(c)@b>", "", .badSender, "a comment"), ("<a@b\u{1}>", "", .badSender, "a control octet"),
    ("<\(long)@b>", "", .badSender, "beyond the limit"),
    ("<é@b>", "<é@b>", .needsSMTPUTF8, "eight bits without SMTPUTF8"),
    ("<é@b> SMTPUTF8", "<é@b>", nil, "and with it"),
    ("<a@é> SIZE=3 SMTPUTF8", "<a@é>", nil, "in the domain"),
  ] as [(String, String, ArgumentFault?, String)])
func reversePaths(argument: String, path: String, fault: ArgumentFault?, reason: String) {
  let all = bytes(argument)
  switch MailArguments.parse(all.span) {
  case .parsed(let found):
    #expect(found.lapse == fault, "\(reason)")
    #expect(bytes("<") + all[found.mailbox] + bytes(">") == bytes(path), "\(reason)")
    #expect(found.isNullPath == (path == "<>"))
  case .fault(let found): #expect(found == fault && path == "", "\(reason)")
  }
}

@Test("octets that are not UTF-8 are refused even with SMTPUTF8")
func badUTF8() {
  for bad: [UInt8] in [
    [0xFF], [0xC3], [0xC0, 0xAF], [0xE0, 0x80, 0x80], [0xED, 0xA0, 0x80], [0xF4, 0x90, 0x80, 0x80],
    [0x80], [0xF0, 0x9F, 0x98],
  ] {
    let all = bytes("<a") + bad + bytes("@b> SMTPUTF8")
    guard case .fault(.badSender) = MailArguments.parse(all.span) else {
      Issue.record("\(bad) was taken for UTF-8")
      continue
    }
    guard case .fault(.needsSMTPUTF8) = MailArguments.parse((bytes("<a") + bad + bytes("@b>")).span)
    else {
      Issue.record("\(bad) was taken without SMTPUTF8")
      continue
    }
  }
}

@Test("the UTF-8 check agrees with the standard library's")
func utf8Twin() {
  for seed in UInt64(0)..<20_000 {
    var random = SeededGenerator(seed: seed)
    let leads: [UInt8] = [0xC2, 0xE0, 0xED, 0xEF, 0xF0, 0xF4, 0xF5, 0x80, 0x9F, 0xA0, 0xBF, 0x41]
    let all = (0..<random.number(0..<6)).map { _ in leads[random.number(0..<leads.count)] }
    let good = all.span.isUTF8(in: 0..<all.count)
    #expect(good == (String(validating: all, as: UTF8.self) != nil), "seed \(seed): \(all)")
  }
}

@Test(
  "a forward-path is taken whole, with what is wrong about it, or refused with the reply it deserves",
  arguments: [
    ("<a@b>", false, nil, "plain"), ("<Postmaster>", false, nil, "needs no domain"),
    ("<>", false, ArgumentFault.badRecipient, "nobody"),
    ("<root>", false, .badRecipient, "only postmaster needs none"),
    ("<\"postmaster\">", false, .badRecipient, "and not in quotes"),
    ("<é@b>", false, .needsSMTPUTF8, "MAIL had no SMTPUTF8"), ("<é@b>", true, nil, "MAIL had it"),
    ("<a@b> NOTIFY=NEVER ORCPT=rfc822;a@b", false, nil, "RFC 3461"),
    ("<a@b> NOTIFY=SUCCESS,delay", false, nil, "a list, in any case"),
    ("<a@b> NOTIFY=NEVER,DELAY", false, .badParameter, "NEVER is alone"),
    ("<a@b> NOTIFY=SUCCESS,", false, .badParameter, "a list that does not end"),
    ("<a@b> SIZE=5", false, .unknownParameter, "a parameter of MAIL"),
    ("a@b", false, .syntax, "no brackets"),
  ] as [(String, Bool, ArgumentFault?, String)])
func forwardPaths(argument: String, smtputf8: Bool, fault: ArgumentFault?, reason: String) {
  switch RcptArguments.parse(bytes(argument).span, smtputf8: smtputf8) {
  case .parsed(let found): #expect(found.lapse == fault, "\(reason)")
  case .fault(let found): #expect(found == fault, "\(reason)")
  }
}

@Test(
  "what departs from the letter goes on in its canonical form",
  arguments: [
    ("MAIL FROM:a@b", "MAIL FROM:<a@b>"), ("mail from:  <a@b>", "MAIL FROM:<a@b>"),
    ("MAIL FROM:\t<a@b>\tSIZE=1", "MAIL FROM:<a@b> SIZE=1"),
    ("MAIL FROM: a@b SIZE=1", "MAIL FROM:<a@b> SIZE=1"),
    ("MAIL FROM:<root>", "MAIL FROM:<root>"), ("MAIL FROM:< >", "MAIL FROM:<>"),
    ("MAIL FROM:<<a@b>>", "MAIL FROM:<a@b>"),
    ("MAIL FROM:<a@b> ENVID=id=17", "MAIL FROM:<a@b> ENVID=id+3D17"),
    ("MAIL FROM:<a@b> ENVID==", "MAIL FROM:<a@b> ENVID=+3D"),
    ("MAIL FROM:<a@b> SIZE=1 size=1", "MAIL FROM:<a@b> SIZE=1"),
    ("MAIL FROM:<é@b>", "MAIL FROM:<é@b>"),
    ("MAIL FROM:<a@b> ENVID=a ENVID=a", nil), ("MAIL FROM:<a@b> BODY=7BIT BODY=8BITMIME", nil),
    ("MAIL FROM:<a@b> SIZE=1=2", nil), ("MAIL FROM:<a@b> X=1=2", nil), ("MAIL FROM:<a b@c>", nil),
    ("RCPT TO:a@b", "RCPT TO:<a@b>"), ("RCPT TO:< a@b >", "RCPT TO:<a@b>"),
    ("RCPT TO:<root>", "RCPT TO:<root>"),
    (
      "RCPT TO:<a@b> ORCPT=rfc822;SRS0=x=y=z@b NOTIFY=SUCCESS,",
      "RCPT TO:<a@b> ORCPT=rfc822;SRS0+3Dx+3Dy+3Dz@b NOTIFY=SUCCESS"
    ),
    ("RCPT TO:<a@b> NOTIFY=,", nil), ("RCPT TO:<a@b> NOTIFY=SUCCESS,,DELAY", nil),
    ("RCPT TO:<>", nil), ("RCPT TO:< >", nil), ("RCPT TO:a@b c@d", nil),
  ] as [(String, String?)])
func canonical(line: String, expected: String?) {
  let all = bytes(line)
  let command = Command(line: all.span)
  let argument = Array(all[command.argument])
  let made = written { out in
    if case .parsed(let mail) = MailArguments.parse(argument.span), command.verb == .mail {
      return writeMail(mail, from: argument.span, passing: .ofMail, into: &out)
    }
    if case .parsed(let rcpt) = RcptArguments.parse(argument.span, smtputf8: false),
      command.verb == .rcpt
    {
      return writeRcpt(rcpt, from: argument.span, passing: .ofRcpt, into: &out)
    }
    return false
  }
  #expect(made == expected.map { $0 + "\r\n" })
}

@Test(
  "the parameters of MAIL are read to the letter",
  arguments: [
    ("SIZE=18446744073709551614", nil, "as big as it gets"),
    ("SIZE=18446744073709551616", ArgumentFault.size, "too big to say is too big"),
    ("SIZE=99999999999999999999", .size, "twenty digits"),
    ("SIZE=123456789012345678901", .badParameter, "RFC 1870: at most twenty digits"),
    ("SIZE=", .badParameter, "no value"), ("SIZE", .badParameter, "no value at all"),
    ("SIZE=-1", .badParameter, "not a number"), ("SIZE=1 SIZE=1", .duplicateParameter, "twice"),
    ("SIZE=1 size=2", .duplicateParameter, "twice, in another case"),
    ("BODY=7bit", nil, ""), ("BODY=8BITMIME", nil, ""), ("BODY=BINARYMIME", nil, ""),
    ("BODY=9BIT", .badParameter, ""), ("RET=HDRS ENVID=x", nil, ""), ("RET=ALL", .badParameter, ""),
    ("SMTPUTF8=1", .badParameter, "takes no value"), ("REQUIRETLS", nil, ""),
    ("AUTH=<>", nil, "RFC 4954, 5"), ("BY=120;R", nil, ""), ("HOLDFOR=5", nil, ""),
    ("HOLDUNTIL=2026-01-01T00:00:00Z", nil, ""), ("MT-PRIORITY=3", nil, ""),
    ("X=1", .unknownParameter, ""), ("X-Y", .unknownParameter, ""),
    ("ENVID=a=b", .badParameter, "a second equals sign"),
    ("=1", .syntax, "no keyword"), ("-X=1", .syntax, "a hyphen first"), ("A_B=1", .syntax, ""),
    ("NOTIFY=NEVER", .unknownParameter, "a parameter of RCPT"),
    ("ENVID=é", .needsSMTPUTF8, "eight bits in a value"),
    ("SIZE=1  BODY=7BIT", nil, "two spaces"),
    ("SIZE=1 SIZE=2", .duplicateParameter, "which of them?"),
  ] as [(String, ArgumentFault?, String)])
func mailParameters(text: String, fault: ArgumentFault?, reason: String) {
  switch MailArguments.parse(bytes("<a@b> " + text).span) {
  case .parsed(let found):
    #expect(found.lapse == fault, "\(reason)")
  case .fault(let found): #expect(found == fault, "\(reason)")
  }
}

@Test("eleven parameters are one too many")
func tooManyParameters() {
  let ten =
    "SIZE=1 BODY=7BIT SMTPUTF8 RET=FULL ENVID=x AUTH=<> REQUIRETLS BY=1;N HOLDFOR=1 HOLDUNTIL=x"
  guard case .parsed(let found) = MailArguments.parse(bytes("<a@b> " + ten).span) else {
    Issue.record("ten were refused")
    return
  }
  #expect(found.parameters.count == 10 && found.parameters.size == 1)
  guard
    case .fault(.tooManyParameters) = MailArguments.parse(bytes("<a@b> \(ten) MT-PRIORITY=1").span)
  else {
    Issue.record("eleven were taken")
    return
  }
}

@Test("the line for the downstream has the allowed parameters, verbatim, and no others")
func mailRemade() {
  let argument = bytes("<a@b>  size=7 BODY=8BITMIME  AUTH=<> SMTPUTF8")
  guard case .parsed(let mail) = MailArguments.parse(argument.span) else {
    Issue.record("not parsed")
    return
  }
  let line = written {
    writeMail(mail, from: argument.span, passing: [.size, .smtputf8], into: &$0)
  }
  #expect(line == "MAIL FROM:<a@b> size=7 SMTPUTF8\r\n")
  let length = line?.utf8.count ?? 0
  for room in 1...length {
    let cut = written(room: room) {
      writeMail(mail, from: argument.span, passing: [.size, .smtputf8], into: &$0)
    }
    #expect(cut == nil, "room for \(room - 1) of \(length)")
  }
}

@Test("no control octet gets into a line, even if the bytes changed under the parsed ranges")
func noControlOctets() {
  let argument = bytes("<abc@d> NOTIFY=NEVER")
  guard case .parsed(let rcpt) = RcptArguments.parse(argument.span, smtputf8: false) else {
    Issue.record("not parsed")
    return
  }
  for bad: UInt8 in [0x0D, 0x0A, 0x00, 0x1B, 0x7F] {
    for place in [2, 18] {
      var evil = argument
      evil[place] = bad
      let line = written { writeRcpt(rcpt, from: evil.span, passing: [.notify], into: &$0) }
      #expect(line == nil)
    }
  }
  let good = written { writeRcpt(rcpt, from: argument.span, passing: [.notify], into: &$0) }
  #expect(good == "RCPT TO:<abc@d> NOTIFY=NEVER\r\n")
  #expect(written { writeCommand("EHLO", bytes("a\r\nb").span, into: &$0) } == nil)
  #expect(written { writeCommand("EHLO", bytes("mx.a").span, into: &$0) } == "EHLO mx.a\r\n")
  #expect(written { writeCommand("DATA", bytes("").span, into: &$0) } == "DATA\r\n")
}

@Test("a line that was accepted and re-made is accepted again and means the same")
func remadeParsesAgain() {
  for seed in UInt64(0)..<20_000 {
    var random = SeededGenerator(seed: seed)
    let parts = [
      "<", ">", "@", "a", "b.c", "\"", "\\", " ", ".", "[", "]", ":", ",", "SIZE=1", "RET=FULL",
      "é",
      "SMTPUTF8", "<a@b>", "<>",
    ]
    let all = bytes(
      (0..<random.number(1..<12)).map { _ in parts[random.number(0..<parts.count)] }.joined())
    guard case .parsed(let mail) = MailArguments.parse(all.span) else { continue }
    let line = written { writeMail(mail, from: all.span, passing: .ofMail, into: &$0) }
    let again = bytes(line ?? "")
    let remade = Array(again.dropLast(2))
    let command = Command(line: remade.span)
    let argument = Array(again[command.argument])
    guard case .parsed(let second) = MailArguments.parse(argument.span) else {
      Issue.record("seed \(seed): \(shown(all)) became \(shown(again))")
      continue
    }
    #expect(all[mail.mailbox] == argument[second.mailbox], "seed \(seed)")
    #expect(mail.parameters.present == second.parameters.present, "seed \(seed)")
  }
}
