// SPDX-License-Identifier: Apache-2.0

// The promises of `LineScanner`: CR LF ends a line, everything else is said to be what it is, each octet
// is looked at once, and no split matters.

import SMTP
import Structures
import Testing

@Test(
  "line ends and faults are what they are, for every split",
  arguments: [
    ("QUIT\r\n", LineEnds.strict, [LineEvent.line(at: 0, length: 4)], "a line"),
    ("\r\n\r\n", .strict, [.line(at: 0, length: 0), .line(at: 2, length: 0)], "empty lines"),
    (
      "A\r\nB\r\nC", .strict, [.line(at: 0, length: 1), .line(at: 3, length: 1)],
      "an unfinished third"
    ),
    ("A\r", .strict, [], "a CR at the end of the buffer may yet get its LF"),
    ("A\nB", .strict, [.bareLF(at: 1)], "bare LF, strict"),
    (
      "A\nB\r\n", .normalize, [.line(at: 0, length: 1), .line(at: 2, length: 1)],
      "bare LF, normalised"
    ),
    ("A\rB", .strict, [.bareCR(at: 1)], "bare CR"),
    ("A\rB", .normalize, [.bareCR(at: 1)], "bare CR is a fault in both modes"),
    ("A\r\r\n", .normalize, [.bareCR(at: 1)], "CR CR LF"),
    ("A\0B\r\n", .strict, [.nul(at: 1)], "NUL"),
    (
      "A\tB\u{B}\r\n", .strict, [.line(at: 0, length: 4)], "other control octets are for the parser"
    ),
    ("0123456789\r\n", .strict, [.line(at: 0, length: 10)], "exactly the limit"),
    ("0123456789a\r\n", .strict, [.tooLong(at: 0)], "one more than the limit"),
    ("0123456789a", .strict, [.tooLong(at: 0)], "too long before it ends"),
    (
      "A\r\n0123456789a\0", .strict, [.line(at: 0, length: 1), .tooLong(at: 3)],
      "length comes first"
    ),
  ])
func lineTable(stream: String, ends: LineEnds, expected: [LineEvent], reason: String) {
  let all = bytes(stream)
  #expect(referenceLines(all, limit: 10, ends: ends) == expected, "the twin: \(reason)")
  for cuts in allCuts(all.count) {
    #expect(lines(all, cutAt: cuts, limit: 10, ends: ends) == expected, "\(reason), cut at \(cuts)")
  }
}

@Test("any split gives the same lines and faults as the twin")
func lineSplits() {
  for seed in UInt64(0)..<6_000 {
    var random = SeededGenerator(seed: seed)
    let all = random.stream(tokens: random.number(0..<24))
    let cuts = random.cuts(all.count)
    let limit = random.number(1..<100)
    for ends in [LineEnds.strict, .normalize] {
      #expect(
        lines(all, cutAt: cuts, limit: limit, ends: ends)
          == referenceLines(all, limit: limit, ends: ends),
        "seed \(seed): \(shown(all)) cut at \(cuts), limit \(limit), \(ends)")
    }
  }
}

@Test("after reset the scanner begins anew")
func lineReset() {
  var scanner = LineScanner()
  let first = scanner.next(in: bytes("STARTTLS").span, limit: 100)
  scanner.reset()
  let second = scanner.next(in: bytes("A\r\n").span, limit: 100)
  #expect(first == .needMore && second == .line(length: 1, consumed: 3))
}
