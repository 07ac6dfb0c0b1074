// SPDX-License-Identifier: Apache-2.0
import Policy
import Suspicion
import Testing

@testable import Shield

/// What shares a word in `Connection` fits into its part of it: the next signal, flag, text or state that does not is
/// found here, and not as a signal that nobody ever sees.
@Suite("A connection's words")
struct PackingTests {
  /// A record of which every bit is set that can be.
  private func full() -> Connection {
    var connection = Connection()
    connection.signals = SignalSet(rawValue: .max)
    connection.isNobody = true
    connection.state = .securing
    connection.tier = .bad
    connection.flags = ConnectionFlags(rawValue: .max)
    connection.text = .crowded
    return connection
  }

  @Test("every signal has a bit of its own", arguments: Signal.allCases)
  func signals(signal: Signal) {
    var connection = full()
    connection.signals = SignalSet(signal)
    #expect(connection.signals.members == [signal])
    #expect(connection.isNobody && connection.state == .securing && connection.tier == .bad)
  }

  @Test("every text has a number of its own", arguments: PitText.allCases)
  func texts(text: PitText) {
    var connection = full()
    connection.text = text
    #expect(connection.text == text && connection.textNumber == Int(text.rawValue))
  }

  @Test("every flag has a bit of its own, and leaves the text alone")
  func flags() {
    let all: [ConnectionFlags] = [
      .known, .trusted, .counted, .countedBad, .pastWord, .announced, .last, .ended, .logged,
      .passed, .leased, .encrypted,
    ]
    var seen = ConnectionFlags()
    for flag in all {
      #expect(seen.isDisjoint(with: flag))
      seen.insert(flag)
      var connection = full()
      connection.flags = flag
      #expect(connection.flags == flag && connection.text == .crowded)
    }
  }

  @Test("every state and every tier comes back")
  func states() {
    for number in UInt8(0)...15 {
      guard let state = ConnectionState(rawValue: number) else { continue }
      var connection = full()
      connection.state = state
      #expect(connection.state == state && connection.tier == .bad)
    }
    #expect(ConnectionState(rawValue: 16) == nil, "a seventeenth state does not fit into 4 bits")
    for number in UInt8(0)...3 {
      guard let tier = Tier(rawValue: number) else { continue }
      var connection = full()
      connection.tier = tier
      #expect(connection.tier == tier && connection.state == .securing)
    }
    #expect(Tier(rawValue: 4) == nil, "a fifth tier does not fit into 2 bits")
  }
}
