// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import SMTP

/// The table of verbs, and what others pack out of it.
@Suite("The table of verbs")
struct VerbTests {
  private func octets(_ verb: Verb) -> [UInt8] {
    guard let name = verb.name else { return [] }
    return (0..<name.utf8CodeUnitCount).map { name.octet($0) }
  }

  @Test("every command has its row, and what is none has no row", arguments: Verb.allCases)
  func rows(verb: Verb) {
    #expect(Verb.commands.contains(verb) == (verb != .unknown && !verb.isForeign))
    #expect((verb.name != nil) == Verb.commands.contains(verb))
    #expect((verb.fourLetters != nil) == (verb.name != nil))
  }

  @Test("a command is read by the name that is written", arguments: Verb.commands)
  func roundTrip(verb: Verb) {
    let name = octets(verb)
    let read = Command(line: name.span).verb
    #expect(read == verb)
    let lower = name.map { $0 | 0x20 }
    let readLower = Command(line: lower.span).verb
    #expect(readLower == verb)
    // One letter more or less is another word.
    for other in [name + [88], Array(name.dropLast()), [88] + name] {
      let found = Command(line: other.span).verb
      #expect(found != verb)
    }
  }

  @Test("the rows stand where the raw values say")
  func order() {
    #expect(Verb.commands.map(\.rawValue) == Array(1...24))
  }

  @Test(
    "names fit into a word of 64 bits, and have four letters at least", arguments: Verb.commands)
  func lengths(verb: Verb) {
    let name = octets(verb)
    #expect((4...8).contains(name.count))
    #expect(name.allSatisfy { (65...90).contains($0) })
    let first = name.prefix(4).reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
    #expect(verb.fourLetters == first)
  }

  @Test("four letters tell all commands apart")
  func fourLetters() {
    #expect(Set(Verb.commands.map(\.fourLetters)).count == Verb.commands.count)
  }
}
