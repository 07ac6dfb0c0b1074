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
  "normalising makes bare LF into CR LF, never an end of data, and leaves the dots of a client that stuffs",
  arguments: [
    ("a\nb\n", "a\r\nb\r\n", BodyEvent.open, "lines are lines"),
    ("a\n.\n", "a\r\n..\r\n", .open, "a lone dot after a bare LF is stuffed again"),
    ("a\n.\r\n", "a\r\n..\r\n", .open, "the same, ended by CR LF"),
    ("a\r\n.\n", "a\r\n..\r\n", .open, "a lone dot ended by a bare LF is stuffed again"),
    ("a\n.b\r\n", "a\r\n..b\r\n", .open, "text that begins with a dot"),
    ("a\n.", "a\r\n.", .open, "a dot of which it is not known yet what follows"),
    (
      "a\n..\r\n", "a\r\n..\r\n", .open,
      "a client that stuffs said so with two dots: one of them is text"
    ),
    ("a\n..\n", "a\r\n..\r\n", .open, "the same between bare LFs"),
    ("a\n...b\n", "a\r\n...b\r\n", .open, "and two dots of text"),
    ("a\n..\r\n.\r\n", "a\r\n..\r\n.\r\n", .end(9), "the end after a stuffed line"),
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
      let found = rewritten(all, cutAt: cuts, room: room, lineMax: 0)
      #expect(found.event == event, "\(reason): cut at \(cuts), room \(room)")
      #expect(found.out == bytes(out), "\(reason): cut at \(cuts), room \(room)")
      let passed = normalized(all, cutAt: cuts, room: room, lineMax: 0)
      #expect(passed.event == event, "\(reason): as it came, cut at \(cuts), room \(room)")
      if case .fault = event { continue }
      #expect(passed.out == bytes(out), "\(reason): as it came, cut at \(cuts), room \(room)")
    }
  }
}

@Test(
  "bare LFs change nothing of what a client means, whether it stuffs its lines or has none to stuff"
)
func normalisingKeepsText() {
  for seed in UInt64(0)..<3_000 {
    var random = SeededGenerator(seed: seed)
    // A client that stuffs may begin a line with any number of dots; of one that does not, one dot is kept.
    let stuffs = random.number(0..<2) == 0
    let lines = (0..<random.number(1..<9)).map { _ -> [UInt8] in
      let dots = [UInt8](repeating: 46, count: random.number(0..<(stuffs ? 4 : 2)))
      return dots + [UInt8](repeating: 0x61, count: random.number(0..<3))
    }
    var stream: [UInt8] = bytes("x")
    for line in lines {
      stream += random.number(0..<3) == 0 && stuffs ? [13, 10] : [10]
      stream += (stuffs && line.first == 46 ? [46] : []) + line
    }
    stream += bytes("\r\n.\r\n")
    let made = normalized(stream, cutAt: random.cuts(stream.count), room: 20, lineMax: 0)
    let text = bytes("x\r\n") + lines.flatMap { $0 + [13, 10] }
    #expect(made.event == .end(stream.count), "seed \(seed): \(shown(stream))")
    #expect(unstuffed(made.out) == text, "seed \(seed): \(shown(stream)) became \(shown(made.out))")
    #expect(made.size == text.count, "seed \(seed): \(made.size) of \(text.count)")
  }
}

@Test(
  "the size of a message has its CR LFs, but neither the dots that stuff it nor the one that ends it",
  arguments: [
    (".\r\n", 0, "an empty message"), ("\r\n.\r\n", 2, "an empty line"),
    ("ab\r\n.\r\n", 4, "a line"), ("..\r\n.\r\n", 3, "a line that is a dot"),
    ("..a\r\n...\r\n.\r\n", 8, "two stuffed lines"),
    (".a\r\n.\r\n", 3, "a dot that a receiver takes off all the same"),
  ])
func sizes(stream: String, size: UInt64, reason: String) {
  let all = bytes(stream)
  for cuts in allCuts(all.count) {
    for ends in [LineEnds.strict, .normalize] {
      var scanner = EndOfDataScanner(lineEnds: ends)
      for piece in pieces(all, cutAt: cuts) {
        _ = scanner.scan(piece.span)
        #expect(scanner.size <= size, "\(reason), cut at \(cuts): more than there is in the end")
      }
      #expect(scanner.size == size, "\(reason), cut at \(cuts)")
    }
  }
}

@Test("what is thrown away ends where it would have ended")
func discarded() {
  for seed in UInt64(0)..<4_000 {
    var random = SeededGenerator(seed: seed)
    let all = random.stream(tokens: random.number(0..<24))
    let twin = referenceNormalized(all, lineMax: 0).event
    var scanner = EndOfDataScanner(lineEnds: .normalize)
    var event = BodyEvent.open
    var base = 0
    for piece in pieces(all, cutAt: random.cuts(all.count)) where event == .open {
      switch scanner.scan(piece.span, isDiscarded: true) {
      case .body: break
      case .rewrite: Issue.record("seed \(seed): nothing of it is passed on")
      case .end(let count): event = .end(base + count)
      case .fault(let kind, let at): event = .fault(kind, at: base + at)
      }
      base += piece.count
    }
    #expect(event == twin, "seed \(seed): \(shown(all))")
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
    let normal = rewritten(all, cutAt: cuts, room: room, lineMax: lineMax)
    #expect(
      normal.event == made.event && normal.out == made.out,
      "seed \(seed): \(shown(all)) cut at \(cuts), room \(room), limit \(lineMax)")
    let passed = normalized(all, cutAt: cuts, room: room, lineMax: lineMax)
    // Of a run with a fault in it nothing needs to go on.
    let isWhole = if case .fault = made.event { false } else { true }
    #expect(
      passed.event == made.event
        && (isWhole ? passed.out == made.out : made.out.starts(with: passed.out)),
      "seed \(seed): \(shown(all)) as it came, cut at \(cuts), room \(room), limit \(lineMax)")
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
      // RFC 5321, 4.5.3.1.6: the dot of the stuffing is not counted.
      let stuffed = bytes(".") + all
      let later: BodyEvent = good ? .end(stuffed.count) : .fault(.lineTooLong, at: 999)
      #expect(scanned(stuffed, cutAt: cuts, lineMax: 998).event == later, "\(length), \(cuts)")
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

@Test("rewriting makes no progress without room, and loses nothing by it")
func noRoom() {
  var scanner = EndOfDataScanner(lineEnds: .normalize)
  var step = RewriteStep.body
  let out = [UInt8](capacity: 2) { step = scanner.rewrite(bytes("abc").span, into: &$0) }
  #expect(step == .full(consumed: 0) && out.isEmpty)
}
