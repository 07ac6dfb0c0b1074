// SPDX-License-Identifier: Apache-2.0
import Structures
import Testing

@Suite struct NearestTests {
  static let known = ["conn", "concurrency", "burst", "delay", "class", "per", "over", "bytes"]

  @Test(
    "a slip of the finger finds the word that was meant, a wild word finds none",
    arguments: [
      (word: "con", meant: "conn", reason: "a letter left out"),
      ("concurency", "concurrency", "a letter left out of a long word"),
      ("brust", "burst", "two letters swapped"),
      ("Delya", "delay", "swapped, and another case"),
      ("clas", "class", "a letter left out"),
      ("bites", "bytes", "a letter replaced"),
      ("conccurrnecy", "concurrency", "two slips in a long word"),
      ("xyz", nil, "nothing near"),
      ("p", nil, "two of three letters would be guessed"),
      ("", nil, "nothing written"),
    ] as [(String, String?, String)])
  func suggestions(word: String, meant: String?, reason: String) {
    #expect(nearest(to: word, among: Self.known) == meant, "\(reason)")
  }

  @Test("a word of any length is answered at once")
  func long() {
    #expect(nearest(to: String(repeating: "a", count: 100_000), among: Self.known) == nil)
  }
}
