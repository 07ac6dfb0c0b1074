// SPDX-License-Identifier: Apache-2.0
import Policy
import Flow
import SMTP
import Structures
import Suspicion
import Testing

@testable import Reputation
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

/// The same for what lies packed elsewhere in the engine, and in what it keeps of sources.
@Suite("What else is packed in the engine")
struct EnginePackingTests {
  @Test("of a generation 24 bits are kept, and the listener beside it is left alone")
  func generations() {
    var connection = Connection()
    connection.listener = .max
    connection.generation = .max
    #expect(connection.generation == 0xFF_FFFF && connection.listener == .max)
    connection.generation = 0
    #expect(connection.listener == .max)
  }

  @Test("the longest text fits beside the word that comes in")
  func positions() {
    #expect(Layout.textBytes < Int(Connection.noRest))
    var connection = Connection()
    for code in [UInt8(0), 63] {
      connection.word = PitWord(code: code)
      connection.position = .max
      #expect(connection.position == Connection.noRest && connection.word.code == code)
    }
  }

  @Test("every command that the tarpit knows is told by four letters in 6 bits")
  func pitWords() {
    for index in PitWord.commands.indices {
      let verb = PitWord.commands[index]
      let letters = verb.fourLetters ?? 0
      var connection = Connection()
      for shift in [UInt32(24), 16, 8, 0] {
        connection.word.take(UInt8(truncatingIfNeeded: letters >> shift))
        #expect(connection.word.code < 63, "\(verb)")
      }
      #expect(connection.word.command == verb)
    }
  }

  @Test("what a line in the tarpit was fits into 4 bits, eight of them into the word")
  func owed() {
    #expect(PitCommand.allCases.allSatisfy { (1...15).contains($0.rawValue) })
  }

  @Test("every group of commands with a downstream comes back in its order")
  func outstanding() {
    var commands = OutstandingCommands()
    let several: [Verb] = [.mail, .rcpt, .data]
    for number in 0..<Int(OutstandingCommands.most) { commands.append(several[number % 3]) }
    #expect(commands.number(of: .rcpt) == UInt32(OutstandingCommands.most) / 3)
    for number in 0..<Int(OutstandingCommands.most) {
      let first = commands.removeFirst()
      #expect(first == several[number % 3])
    }
    #expect(commands.isEmpty && OutstandingCommands.most * 4 <= 64)
  }

  @Test("every verdict has a count of its own", arguments: Verdict.allCases)
  func verdicts(verdict: Verdict) {
    var counts = VerdictCounts()
    counts[verdict] = 1
    #expect(Verdict.allCases.allSatisfy { counts[$0] == ($0 == verdict ? 1 : 0) })
  }

  @Test("second chances are for the eight stages before the message, and each has its own bits")
  func secondChances() {
    let stages: [Stage] = [
      .banner, .helo, .startTLS, .authFailure, .mail, .recipientAccepted, .recipientRejected, .data,
    ]
    #expect(stages.map(\.rawValue) == Array(0..<8))
    #expect(Set(Stage.allCases).subtracting(stages) == [.body, .endOfData, .other])
    let host = Source(host: Address(v4: 0xC000_0201))
    let later = Instant(seconds: 3_600)
    for stage in stages {
      var table = ReputationTable(capacity: 8, hash: SipHash(k0: 1, k1: 2))
      let change = Change(.left, of: host, at: 0, stages: 1 << stage.rawValue)
      table.learn(change, epoch: 0, chanceAfter: 60_000_000)
      for other in Stage.allCases {
        let divisor = table.divisor(
          table.key(host), stage: other.rawValue, after: 60_000_000, now: later)
        #expect(divisor == (other == stage ? 2 : 1), "\(stage) \(other)")
      }
    }
  }

  @Test("the three times of a source leave each other alone")
  func times() {
    var set = SourceSet()
    for way in 0..<8 {
      set.setGood(way, .max)
      set.setLeft(way, SourceSet.leftMask)
      set.setBad(way, .max)
      #expect(set.good(way) == SourceSet.goodMax && set.bad(way) == SourceSet.badMax)
      set.setLeft(way, 0)
      #expect(set.good(way) == SourceSet.goodMax && set.bad(way) == SourceSet.badMax)
      set.setGood(way, 0)
      set.setLeft(way, SourceSet.leftMask)
      #expect(set.left(way) == SourceSet.leftMask && set.bad(way) == SourceSet.badMax)
      set.setBad(way, 0)
      #expect(set.left(way) == SourceSet.leftMask && set.good(way) == 0)
    }
  }

  @Test("texts of clients in the journal are counted in a byte")
  func texts() {
    #expect(ClientText.each <= UInt8.max && ClientText().helo.count == ClientText.each)
  }

  @Test("no two limits of a source have one bucket")
  func buckets() {
    let limits = LimitKind.allCases.map(\.rawValue)
    #expect(Set(limits).count == limits.count)
    #expect(limits.allSatisfy { $0 < LimitKind.handshakes }, "log-ins begin at the same number")
  }
}
