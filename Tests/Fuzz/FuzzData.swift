// SPDX-License-Identifier: Apache-2.0

// Fuzz target: message bodies, strict and normalising, in any pieces, against the twins of
// Tests/SMTPTests/Reference.swift. A finding is any difference, any bare line end that gets out, and
// any crash.

import SMTP

/// libFuzzer calls this with each input it makes.
@c(LLVMFuzzerTestOneInput)
public func fuzzData(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
  var input = FuzzInput(start, count)
  let lineMax = input.number(0..<100)
  let room = input.number(3..<200)
  input.takeCuts()
  let all = input.stream

  let strict = scanned(all, cutAt: input.cuts, lineMax: lineMax)
  let twin = referenceEnd(of: all, lineMax: lineMax)
  demand(strict.event == twin, "strict: \(strict.event), the twin says \(twin)")

  let normal = rewritten(all, cutAt: input.cuts, room: room, lineMax: lineMax)
  let made = referenceNormalized(all, lineMax: lineMax)
  demand(normal.event == made.event, "normalised: \(normal.event), the twin says \(made.event)")
  demand(normal.out == made.out, "normalised differently from the twin")
  let passed = normalized(all, cutAt: input.cuts, room: room, lineMax: lineMax)
  demand(passed.event == made.event, "as it came: \(passed.event), the twin says \(made.event)")
  demand(made.out.starts(with: passed.out), "as it came it went on otherwise")

  let again = referenceEnd(of: normal.out, lineMax: 0)
  if case .end = normal.event {
    demand(again == .end(normal.out.count), "the end did not get through: \(again)")
  } else {
    demand(again == .open, "what was put out is not clean: \(again)")
  }
  return 0
}
