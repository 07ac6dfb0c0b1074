// SPDX-License-Identifier: Apache-2.0

// The promises of `ReplyReader` and of our own replies.

import SMTP
import Structures
import Testing

private let good:
  [(reply: String, code: UInt16, enhanced: EnhancedCode?, made: String, reason: String)] = [
    ("250 OK\r\n", 250, nil, "250 OK\r\n", "plain"),
    ("250\r\n", 250, nil, "250 \r\n", "no text: the space is added"),
    ("250 \r\n", 250, nil, "250 \r\n", "empty text"),
    ("220-a\r\n220-b\r\n220 c\r\n", 220, nil, "220-a\r\n220-b\r\n220 c\r\n", "three lines"),
    ("250-\r\n250\r\n", 250, nil, "250-\r\n250 \r\n", "empty lines"),
    ("250 2.1.5 Ok\r\n", 250, .init(2, 1, 5), "250 2.1.5 Ok\r\n", "an enhanced code"),
    (
      "550 5.7.2\r\n", 550, .init(5, 7, 2), "550 5.7.2\r\n", "without text (Postfix CVE-2026-43964)"
    ),
    ("550 5.7.234 x\r\n", 550, .init(5, 7, 234), "550 5.7.234 x\r\n", "three digits"),
    ("550 5.7.2345 x\r\n", 550, nil, "550 5.7.2345 x\r\n", "four digits are none"),
    ("550 5.7. x\r\n", 550, nil, "550 5.7. x\r\n", "a missing digit"),
    ("550 5.7.2x\r\n", 550, nil, "550 5.7.2x\r\n", "no space behind it"),
    ("550 4.7.2 x\r\n", 550, nil, "550 4.7.2 x\r\n", "contradicts the code: text, but no code"),
    ("354 3.0.0 x\r\n", 354, nil, "354 3.0.0 x\r\n", "there is no class 3"),
    (
      "450-4.2.0 a\r\n450 4.7.1 b\r\n", 450, .init(4, 2, 0), "450-4.2.0 a\r\n450 4.7.1 b\r\n",
      "the first counts"
    ),
    ("250 a\tb\u{1B}[2J\0\r\n", 250, nil, "250 a?b?[2J?\r\n", "control octets"),
    ("250 \u{E9}\u{7F}\r\n", 250, nil, "250 ???\r\n", "eight bits (two octets) and DEL"),
    ("559 x\r\n", 559, nil, "559 x\r\n", "the last code of RFC 5321's"),
    ("571 5.7.1 No\r\n", 571, .init(5, 7, 1), "571 5.7.1 No\r\n", "Exchange's 571"),
    ("260 OK\r\n", 260, nil, "260 OK\r\n", "second digit 6"),
    ("590 x\r\n", 590, nil, "590 x\r\n", "second digit 9"),
    ("471-a\r\n471\r\n", 471, nil, "471-a\r\n471 \r\n", "second digit 7"),
    ("250-a\r\n251 b\r\n", 251, nil, "251-a\r\n251 b\r\n", "the last line's code counts"),
    (
      "554-a\r\n571-b\r\n550 c\r\n", 550, nil, "550-a\r\n550-b\r\n550 c\r\n",
      "three codes of one class"
    ),
    ("250 OK\n", 250, nil, "250 OK\r\n", "a bare LF ends a line"),
    ("250\n", 250, nil, "250 \r\n", "and behind the code alone"),
    ("250-a\n250-b\r\n250 c\n", 250, nil, "250-a\r\n250-b\r\n250 c\r\n", "both line ends"),
  ]

private let bad: [(reply: String, fault: ReplyFault, reason: String)] = [
  ("25x OK\r\n", .badCode, "a letter"), ("25 OK\r\n", .badCode, "a missing digit"),
  ("150 OK\r\n", .badCode, "first digit 1"), ("650 OK\r\n", .badCode, "first digit 6"),
  ("\r\n", .badCode, "an empty line"),
  (" 250 OK\r\n", .badCode, "a leading space"), ("\0", .badCode, "NUL"),
  ("250_OK\r\n", .badSeparator, "an underscore"), ("2500 OK\r\n", .badSeparator, "four digits"),
  ("250-a\r\n550 b\r\n", .codeChanged, "another class"),
  ("550-a\r\n250 b\r\n", .codeChanged, "the same the other way round"),
  ("250-OK\nx\r\n", .badCode, "a line behind a bare LF needs a code as any other"),
  ("250 OK\rX", .bareCR, "bare CR"), ("250\rX", .bareCR, "bare CR behind the code"),
  ("250 OK\r\r\n", .bareCR, "CR CR LF"),
  ("250 " + String(repeating: "x", count: 12_289) + "\r\n", .lineTooLong, "12,295 octets"),
  (String(repeating: "250-x\r\n", count: 100) + "250 x\r\n", .tooManyLines, "101 lines"),
]

@Test("good replies are re-made as the table says, for every split")
func goodReplies() {
  for (reply, code, enhanced, made, reason) in good {
    // What follows is another reply and must be left alone.
    let all = bytes(reply) + bytes("250 next\r\n")
    for cuts in allCuts(all.count) {
      let found = read(all, cutAt: cuts)
      #expect(found.step == .complete && found.code == code, "\(reason), cut at \(cuts)")
      #expect(found.enhanced == enhanced, "\(reason), cut at \(cuts)")
      #expect(found.text == bytes(made), "\(reason): \(shown(found.text))")
      #expect(found.consumed == reply.utf8.count, "\(reason), cut at \(cuts)")
    }
  }
}

@Test("malformed replies are faults, for every split")
func badReplies() {
  for (reply, fault, reason) in bad {
    let all = bytes(reply)
    for cuts in all.count < 100 ? allCuts(all.count) : [[], [4], [7_000], [all.count - 1]] {
      #expect(read(all, cutAt: cuts).step == .fault(fault), "\(reason), cut at \(cuts)")
    }
  }
}

@Test("the longest line and the most lines are taken")
func replyLimits() {
  let longest = bytes("250 " + String(repeating: "x", count: 12_288) + "\r\n")
  let found = read(longest, cutAt: [])
  #expect(longest.count == ReplyReader.lineOctetsMax && found.step == .complete)
  #expect(found.text.count == 512, "re-made lines are cut to 512 octets with CR LF")
  let ours = read(longest, cutAt: [], for: .ourselves)
  #expect(ours.text.count == 2_048, "what is for us may be longer")
  let refusal = bytes("550 " + String(repeating: "x", count: 2_000) + "\r\n")
  #expect(read(refusal, cutAt: [], for: .ourselves).text.count == 512, "a client will hear it")
  let most = bytes(String(repeating: "250-x\r\n", count: 99) + "250 x\r\n")
  #expect(read(most, cutAt: []).lines == 100)
}

@Test("a challenge passes in pieces, as long as RFC 4954 lets it be, and nothing else does")
func challenges() {
  for length in [1, 506, 507, 2_042, 2_043, 4_096, 12_288] {
    let text = String(repeating: "QUJD", count: length / 4) + "=="
    let line = bytes("334 " + text.prefix(length) + "\r\n")
    for (cuts, room) in [([], 4_096), ([700, 701, 5_000], 512), ([3, 4, 5], 6), ([], 7)] {
      let found = read(line, cutAt: cuts, room: room, for: .login)
      #expect(
        found.step == .complete && found.code == 334 && found.text == line, "\(length), \(room)")
      let cut = read(line, cutAt: cuts, room: max(room, 600))
      #expect(cut.text.count <= 512, "\(length): nobody asked for a challenge")
    }
  }
  let refusal = bytes("535 " + String(repeating: "x", count: 2_000) + "\r\n")
  #expect(read(refusal, cutAt: [], for: .login).text.count == 512, "a refusal is cut as everywhere")
  let several = bytes("334-" + String(repeating: "x", count: 600) + "\r\n334 y\r\n")
  #expect(
    read(several, cutAt: [], for: .login).lines == 2, "RFC 4954 knows challenges of one line alone")
  let tooLong = bytes("334 " + String(repeating: "x", count: 12_289) + "\r\n")
  #expect(read(tooLong, cutAt: [], room: 64, for: .login).step == .fault(.lineTooLong))
}

@Test(
  "in a transaction with SMTPUTF8 the text of a reply may be UTF-8, and nothing else beyond ASCII (RFC 6531, 3.7.4.1)",
  arguments: [
    (bytes("250 2.1.5 Grüße\r\n"), bytes("250 2.1.5 Grüße\r\n"), "two octets"),
    (
      bytes("251-用户@例え.jp\r\n251 😀\r\n"), bytes("251-用户@例え.jp\r\n251 😀\r\n"),
      "three and four, two lines"
    ),
    (bytes("250 a") + [0xE9] + bytes("b\r\n"), bytes("250 a?b\r\n"), "Latin-1"),
    (bytes("250 ") + [0xC3] + bytes("\r\n"), bytes("250 ?\r\n"), "half a character"),
    (
      bytes("250 ") + [0xC0, 0x8A, 0xED, 0xA0, 0x80] + bytes("\r\n"), bytes("250 ?????\r\n"),
      "overlong, a surrogate"
    ),
    (
      bytes("250 ") + [0xC2, 0x9B, 0xC2, 0xA0] + bytes("\r\n"), bytes("250 ??\u{A0}\r\n"),
      "a control character"
    ),
    (
      bytes("250 ") + [0xF5, 0x80, 0x80, 0x80] + bytes("\r\n"), bytes("250 ????\r\n"),
      "beyond U+10FFFF"
    ),
  ])
func replyUTF8(reply: [UInt8], made: [UInt8], reason: String) {
  for cuts in allCuts(reply.count) {
    let found = read(reply, cutAt: cuts, for: .clientUTF8)
    #expect(
      found.step == .complete && found.text == made,
      "\(reason): \(shown(found.text)), cut at \(cuts)")
    let plain = read(reply, cutAt: cuts)
    #expect(plain.text.allSatisfy { $0 < 0x80 }, "\(reason): without SMTPUTF8")
  }
  // A line is cut at 510 octets, never inside a character.
  let long = bytes("250 " + String(repeating: "ü", count: 400) + "\r\n")
  let found = read(long, cutAt: [], for: .clientUTF8)
  #expect(found.text == bytes("250 " + String(repeating: "ü", count: 253) + "\r\n"))
}

@Test("any prefix of a good reply needs more")
func replyPrefixes() {
  for (reply, _, _, _, reason) in good {
    let all = bytes(reply)
    for length in 0..<all.count {
      #expect(read(Array(all[..<length]), cutAt: []).step == .needMore, "\(reason), \(length)")
    }
  }
}

@Test("a reply bigger than its text loses lines, not its form, whatever the size and the split")
func replyInLittleRoom() {
  for seed in UInt64(0)..<5_000 {
    var random = SeededGenerator(seed: seed)
    let code = ["250", "550", "451"][random.number(0..<3)]
    var all: [UInt8] = []
    let count = random.number(1..<8)
    for line in 1...count {
      let text = String(repeating: "t", count: random.number(0..<9) * random.number(0..<90))
      all += bytes("\(code)\(line == count ? " " : "-")\(text)\r\n")
    }
    if random.number(0..<4) == 0 {
      all[random.number(0..<all.count)] = UInt8(random.number(0..<256))
    }
    let room = random.number(6..<800)
    let cuts = random.cuts(all.count)
    let found = read(all, cutAt: cuts, room: room)
    #expect(found == read(all, cutAt: [], room: room), "seed \(seed), cut at \(cuts), room \(room)")
    guard found.step == .complete else { continue }
    #expect(found.text.count <= room)
    let again = read(found.text, cutAt: [])
    #expect(
      again.step == .complete && again.text == found.text,
      "seed \(seed), room \(room): what was made is not a reply: \(shown(found.text))")
  }
}

@Test("after reset the reader takes the next reply, and a fault stays one until then")
func replyReset() {
  var reader = ReplyReader()
  var text = [UInt8](repeating: 0, count: 100)
  var used = 0
  var span = text.mutableSpan
  let first = reader.read(bytes("abc").span, consumed: &used, into: &span)
  let second = reader.read(bytes("250 x\r\n").span, consumed: &used, into: &span)
  #expect(first == .fault(.badCode) && second == first && used == 0)
  reader.reset()
  let third = reader.read(bytes("250 x\r\n").span, consumed: &used, into: &span)
  #expect(third == .complete && reader.code == 250 && reader.length == 7)
}

@Test("every reply of ours is well-formed by our own reader, and short")
func ownReplies() {
  for reply in OwnReply.allCases {
    let line = written { reply.write(into: &$0) } ?? ""
    let found = read(bytes(line), cutAt: [])
    #expect(found.step == .complete && found.code == reply.code, "\(line)")
    #expect(found.enhanced?.class == UInt8(reply.code / 100), "\(line)")
    #expect(found.text == bytes(line) && found.text.count <= 128, "\(line)")
    #expect(written(room: line.utf8.count) { reply.write(into: &$0) } == nil, "one octet short")
  }
}

@Test("the fault replies carry the codes that reliability.md promises")
func faultReplies() {
  let expected: [ArgumentFault: String] = [
    .syntax: "501 5.5.4", .badSender: "501 5.1.7", .badRecipient: "501 5.1.3",
    .badParameter: "501 5.5.4", .duplicateParameter: "501 5.5.4", .tooManyParameters: "501 5.5.4",
    .unknownParameter: "555 5.5.4", .size: "552 5.3.4", .needsSMTPUTF8: "553 5.6.7",
  ]
  for fault in ArgumentFault.allCases {
    let line = written { fault.reply.write(into: &$0) } ?? ""
    #expect(line.hasPrefix(expected[fault] ?? "nothing") == true, "\(fault): \(line)")
  }
}
