// SPDX-License-Identifier: Apache-2.0
import Testing
import Uring

/// What shares the 64 bits of a token fits into its part of them.
@Suite("A token's bits")
struct TokenTests {
  @Test("every operation comes back, whatever stands beside it")
  func operations() {
    let all = (UInt8.min...UInt8.max).compactMap(Operation.init(rawValue:))
    #expect(all.count == 19, "an operation more or less: its completion must be handled")
    for operation in all {
      for number in [UInt32(0), .max] {
        let token = Token(operation, generation: number, index: number)
        #expect(token.operation == operation && token.index == number)
        #expect(token.generation == number & Token.generationMask)
        #expect(Token(bits: token.bits) == token)
      }
    }
  }

  @Test("generations have 24 bits")
  func generations() {
    #expect(Token.generationMask == 0xFF_FFFF)
    let last = Token(.send, generation: Token.generationMask, index: 1)
    let around = Token(.send, generation: Token.generationMask + 1, index: 1)
    #expect(last != around && around.generation == 0)
  }
}
