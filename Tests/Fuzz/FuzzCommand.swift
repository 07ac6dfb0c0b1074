// SPDX-License-Identifier: Apache-2.0

// Fuzz target: command lines in any pieces, then all that reads a line: the verb, the arguments of MAIL
// and RCPT, HELO names. A finding is a line that depends on the split, a re-made line that holds a
// control octet or parses to something else, and any crash.

import SMTP
import Structures

/// libFuzzer calls this with each input it makes.
@c(LLVMFuzzerTestOneInput)
public func fuzzCommand(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
  var input = FuzzInput(start, count)
  let ends: LineEnds = input.number(0..<2) == 0 ? .strict : .normalize
  let limit = input.number(0..<256) * 8
  let smtputf8 = input.number(0..<2) == 1
  input.takeCuts()
  let all = input.stream

  let found = lines(all, cutAt: input.cuts, limit: limit, ends: ends)
  let twin = referenceLines(all, limit: limit, ends: ends)
  demand(found == twin, "lines: \(found), the twin says \(twin)")
  for case .line(let at, let length) in found {
    check(line: Array(all[at..<at + length]), smtputf8)
  }
  // What is no line, too: with NUL and line ends in it.
  check(line: all, smtputf8)
  return 0
}

private func check(line: [UInt8], _ smtputf8: Bool) {
  let command = Command(line: line.span)
  demand(command.argument.upperBound <= line.count, "an argument beyond the line")
  let argument = Array(line[command.argument])
  if !command.verb.isForeign {
    demand(
      argument.allSatisfy { $0 >= 0x20 && $0 != 0x7F || $0 == 9 }, "a control octet in an argument")
  }
  checkHelo(argument)
  checkMail(argument)
  checkRcpt(argument, smtputf8)
}

private func checkHelo(_ argument: [UInt8]) {
  let form = HeloForm(argument.span)
  if form != .invalid {
    demand(argument.allSatisfy { (0x21..<0x7F).contains($0) }, "a name that is not safe: \(form)")
    demand(argument.count <= HeloForm.octetsMax, "a name too long")
  }
  if case .bareAddress(let address) = form {
    demand(Address(String(decoding: argument, as: UTF8.self)) == address, "another address")
  }
  if let domain = heloDomain(argument.span) {
    demand(!domain.isEmpty && domain.upperBound <= argument.count, "a domain beyond the name")
  }
}

private func checkMail(_ argument: [UInt8]) {
  guard case .parsed(let mail) = MailArguments.parse(argument.span) else { return }
  var written = false
  let line = [UInt8](capacity: 3 * argument.count + 20) {
    written = writeMail(mail, from: argument.span, passing: mail.parameters.present, into: &$0)
  }
  demand(written && isClean(line), "a MAIL line that is not clean")
  let remade = Array(line.dropLast(2))
  let command = Command(line: remade.span)
  demand(command.strictVerb == .mail && command.form == .strict, "MAIL became something else")
  let second = Array(remade[command.argument])
  guard case .parsed(let again) = MailArguments.parse(second.span) else {
    fatalError("a MAIL line that is refused the second time")
  }
  demand(second[again.mailbox] == argument[mail.mailbox], "another path")
  demand(again.parameters.size == mail.parameters.size, "another size")
  demand(again.parameters.present == mail.parameters.present, "other parameters")
}

private func checkRcpt(_ argument: [UInt8], _ smtputf8: Bool) {
  guard case .parsed(let rcpt) = RcptArguments.parse(argument.span, smtputf8: smtputf8) else {
    return
  }
  var written = false
  let line = [UInt8](capacity: 3 * argument.count + 20) {
    written = writeRcpt(rcpt, from: argument.span, passing: rcpt.parameters.present, into: &$0)
  }
  demand(written && isClean(line), "an RCPT line that is not clean")
  let remade = Array(line.dropLast(2))
  let command = Command(line: remade.span)
  demand(command.strictVerb == .rcpt && command.form == .strict, "RCPT became something else")
  let second = Array(remade[command.argument])
  guard case .parsed(let again) = RcptArguments.parse(second.span, smtputf8: smtputf8) else {
    fatalError("an RCPT line that is refused the second time")
  }
  demand(second[again.mailbox] == argument[rcpt.mailbox], "another path")
}

/// One line end, at the end, and no other control octet.
private func isClean(_ line: [UInt8]) -> Bool {
  line.suffix(2) == [13, 10] && line.dropLast(2).allSatisfy { $0 >= 0x20 && $0 != 0x7F }
}
