// SPDX-License-Identifier: Apache-2.0

// The promises of `EndOfDataScanner`: only CR LF . CR LF ends a message, normalising never makes an end,
// and no split matters.

import SMTP
import Structures
import Testing

/// Streams from the smuggling research of 2023 and its relatives, with what strict reading makes of them.
private let vectors: [(stream: String, strict: BodyEvent, reason: String)] = [
  (".\r\n", .end(3), "an empty message: the scanner begins just after CR LF"),
  ("a\r\n.\r\n", .end(6), "the plain case"),
  ("a\r\n.\r\nQUIT\r\n", .end(6), "what follows the end are commands"),
  ("a\r\n..\r\n.\r\n", .end(10), "a stuffed dot is text"),
  ("a.\r\n", .open, "a dot must be first in its line"),
  ("a\r\n.b\r\n", .open, "a dot must be alone in its line"),
  ("\r\n.\r\n", .end(5), "an empty line, then the end"),
  ("\n.\r\n", .fault(.bareLF, at: 0), "bare LF before the dot (Postfix CVE-2023-51764)"),
  ("a\n.\r\nMAIL", .fault(.bareLF, at: 1), "the same, inside"),
  ("a\r\n.\n", .fault(.bareLF, at: 4), "bare LF behind the dot"),
  ("a\n.\n", .fault(.bareLF, at: 1), "bare LF on both sides (Sendmail CVE-2023-51765)"),
  ("a\r.\r", .fault(.bareCR, at: 1), "bare CR on both sides"),
  ("a\r\n.\rb", .fault(.bareCR, at: 4), "bare CR behind the dot"),
  ("a\r\n.\r", .open, "a CR that may yet get its LF"),
  ("a\r\n\0.\r\n", .fault(.nul, at: 3), "NUL before the dot (SMTP-Smuggling-Tools)"),
  ("a\r\n.\0\r\n", .fault(.nul, at: 4), "NUL behind the dot"),
  ("a\r\r\n.\r\n", .fault(.bareCR, at: 1), "CR CR LF is no line end (Postfix 20240106)"),
  ("a\r\n.\r\r\n", .fault(.bareCR, at: 4), "CR CR LF behind the dot"),
  ("a\r\n\r.\r\n", .fault(.bareCR, at: 3), "CR before the dot"),
  ("a\n\r.\r\n", .fault(.bareLF, at: 1), "LF CR"),
  ("a\r\n.\t\r\n", .open, "a TAB after the dot is text"),
  ("\t\t\u{B}\u{C}\r\n.\r\n", .end(9), "other control octets are not our business here"),
]

@Test("strict reading of the smuggling vectors is what the table says, for every split")
func strictVectors() {
  for (stream, expected, reason) in vectors {
    let all = bytes(stream)
    #expect(referenceEnd(of: all, lineMax: 0) == expected, "the twin: \(reason)")
    for cuts in allCuts(all.count) {
      let found = scanned(all, cutAt: cuts, lineMax: 0)
      #expect(found.event == expected, "\(reason): \(shown(all)) cut at \(cuts)")
    }
  }
}

@Test(
  "normalising makes bare LF into CR LF and never makes an end of data",
  arguments: [
    ("a\nb\n", "a\r\nb\r\n", BodyEvent.open, "lines are lines"),
    ("a\n.\n", "a\r\n..\r\n", .open, "a lone dot after a bare LF is stuffed again"),
    ("a\n.\r\n", "a\r\n..\r\n", .open, "the same, ended by CR LF"),
    ("a\r\n.\n", "a\r\n..\r\n", .open, "a lone dot ended by a bare LF is stuffed again"),
    ("a\n.b\r\n", "a\r\n..b\r\n", .open, "text that begins with a dot"),
    ("a\n..\r\n", "a\r\n...\r\n", .open, "and with two"),
    ("a\n\r\n.\r\n", "a\r\n\r\n.\r\n", .end(7), "a true end after a bare LF and an empty line"),
    (".\n.\r\n", "..\r\n..\r\n", .open, "at the very beginning"),
    ("a\r\n..b\r\n.\r\n", "a\r\n..b\r\n.\r\n", .end(11), "a clean stream passes unchanged"),
    ("a\rb", "a", .fault(.bareCR, at: 1), "bare CR stays a fault, and does not get out"),
    ("a\n.\rb", "a\r\n..", .fault(.bareCR, at: 3), "the same, behind a dot"),
    ("a\n.\0", "a\r\n..", .fault(.nul, at: 3), "NUL stays a fault"),
  ])
func normalisingVectors(stream: String, out: String, event: BodyEvent, reason: String) {
  let all = bytes(stream)
  let twin = referenceNormalized(all, lineMax: 0)
  #expect(twin.event == event && twin.out == bytes(out), "the twin: \(reason)")
  for cuts in allCuts(all.count) {
    for room in [3, 4, 100] {
      let found = normalized(all, cutAt: cuts, room: room, lineMax: 0)
      #expect(found.event == event, "\(reason): cut at \(cuts), room \(room)")
      #expect(found.out == bytes(out), "\(reason): cut at \(cuts), room \(room)")
    }
  }
}

@Test("any split gives the same events as the twin, strict and normalising")
func splitsDoNotMatter() {
  for seed in UInt64(0)..<8_000 {
    var random = SeededGenerator(seed: seed)
    let all = random.stream(tokens: random.number(0..<24))
    let lineMax = random.number(0..<2) * random.number(1..<90)
    let cuts = random.cuts(all.count)

    let twin = referenceEnd(of: all, lineMax: lineMax)
    let found = scanned(all, cutAt: cuts, lineMax: lineMax)
    #expect(found.event == twin, "seed \(seed): \(shown(all)) cut at \(cuts), limit \(lineMax)")
    switch twin {
    case .open: #expect(found.octets == all.count, "seed \(seed)")
    case .end(let count): #expect(found.octets == count, "seed \(seed)")
    case .fault(_, let at): #expect(found.octets == at, "seed \(seed)")
    }

    let made = referenceNormalized(all, lineMax: lineMax)
    let room = random.number(3..<120)
    let normal = normalized(all, cutAt: cuts, room: room, lineMax: lineMax)
    #expect(
      normal.event == made.event && normal.out == made.out,
      "seed \(seed): \(shown(all)) cut at \(cuts), room \(room), limit \(lineMax)")
  }
}

@Test("what normalising puts out is clean, and ends exactly when the input did")
func normalisedIsClean() {
  for seed in UInt64(0)..<4_000 {
    var random = SeededGenerator(seed: seed)
    let all = random.stream(tokens: random.number(0..<24))
    let normal = normalized(all, cutAt: random.cuts(all.count), room: 50, lineMax: 0)
    let event = referenceEnd(of: normal.out, lineMax: 0)
    if case .end = normal.event {
      #expect(event == .end(normal.out.count), "seed \(seed): \(shown(all))")
    } else {
      #expect(event == .open, "seed \(seed): \(shown(all)) became \(shown(normal.out))")
    }
  }
}

@Test("a line may have exactly as many octets as the limit says")
func lineLimit() {
  for (length, good) in [(997, true), (998, true), (999, false), (5_000, false)] {
    let all = [UInt8](repeating: 0x61, count: length) + bytes("\r\n.\r\n")
    for cuts in [[], [32], [998], [999], [1_000], [length + 1]] {
      let expected: BodyEvent = good ? .end(all.count) : .fault(.lineTooLong, at: 998)
      #expect(scanned(all, cutAt: cuts, lineMax: 998).event == expected, "\(length), \(cuts)")
      #expect(
        normalized(all, cutAt: cuts, room: 64, lineMax: 998).event == expected, "\(length), \(cuts)"
      )
    }
  }
}

@Test("NUL passes when the scanner was told so, in blocks and at their edges")
func nulAllowed() {
  for length in 0..<70 {
    let all = [UInt8](repeating: 0, count: length) + bytes("\r\n.\r\n")
    var scanner = EndOfDataScanner(nulIsFault: false)
    let step = scanner.scan(all.span)
    #expect(step == .end(all.count))
  }
}

@Test("a CR at the end of a run is known to be undecided")
func undecidedCR() {
  var scanner = EndOfDataScanner()
  let first = scanner.scan(bytes("ab\r").span)
  #expect(first == .body && scanner.endsInCR)
  let second = scanner.scan(bytes("\nab").span)
  #expect(second == .body && !scanner.endsInCR)
}

@Test("the normaliser makes no progress without room, and loses nothing by it")
func noRoom() {
  var scanner = EndOfDataScanner()
  var step = NormalizeStep.body
  let out = [UInt8](capacity: 2) { step = scanner.normalize(bytes("abc").span, into: &$0) }
  #expect(step == .full(consumed: 0) && out.isEmpty)
}
