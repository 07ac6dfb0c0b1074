// SPDX-License-Identifier: Apache-2.0
import Shield
package import Structures

/// A mail server for virtual connections: accepts everything, unless a rule says otherwise, and remembers
/// what it was told and what it accepted.
///
/// It is deliberately simple-minded and strict: lines end in CRLF, a message ends in CRLF.CRLF, and any
/// other CR or LF is written down as a breach. Good enough to hold the shield to its promises.
package struct ScriptedDownstream: Sendable {
  package enum Answer: Sendable, Equatable {
    case reply(String)
    case close
    case silence
    /// Octets as they are, whatever they are.
    case raw([UInt8])
  }

  /// What to do at a line that begins like this. `connect` and `dot` are moments, not lines.
  package struct Rule: Sendable {
    package let prefix: String
    package let answer: Answer
    package init(prefix: String, answer: Answer) {
      self.prefix = prefix
      self.answer = answer
    }
  }

  package var offers = [
    "PIPELINING", "SIZE 1000000", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES",
  ]
  package var rules: [Rule] = []
  /// Every line it was told outside of messages, of all connections, in order.
  package private(set) var lines: [String] = []
  /// Every message it answered with 250, without the final dot, as it came.
  package private(set) var accepted: [[UInt8]] = []
  /// Octets that no client may send: bare CR or LF, NUL.
  package private(set) var breaches = 0

  private struct Connection: Sendable {
    var buffer = ByteQueue()
    var inBody = false
    var isGone = false
    var greeted = false
  }

  private var connections: [Int: Connection] = [:]

  package init() {}

  /// What it does when connection `id` has come to stand.
  package mutating func connected(_ id: Int) -> [Answer] {
    connections[id] = Connection()
    return [answer("connect", otherwise: .reply("220 inner.test ESMTP"), id)]
  }

  /// The connection is gone; what it left unfinished is looked at too.
  package mutating func forget(_ id: Int) {
    if let connection = connections[id], connection.inBody {
      countBreaches(connection.buffer.bytes)
    }
    connections[id] = nil
  }

  package func knows(_ id: Int) -> Bool { connections[id] != nil }

  /// What it does about bytes on connection `id`.
  package mutating func received(_ id: Int, _ bytes: [UInt8]) -> [Answer] {
    guard connections[id] != nil, connections[id]?.isGone == false else { return [] }
    connections[id]?.buffer.append(bytes)
    var answers: [Answer] = []
    while var connection = connections[id], !connection.isGone {
      if connection.inBody {
        guard let end = Self.endOfData(connection.buffer.bytes) else { break }
        let message = connection.buffer.take(end)
        connection.inBody = false
        connections[id] = connection
        countBreaches(message.span)
        let answer = answer("dot", otherwise: .reply("250 2.0.0 Taken"), id)
        if case .reply(let text) = answer, text.hasPrefix("2") { accepted.append(message) }
        answers.append(answer)
      } else {
        guard let lineFeed = connection.buffer.firstIndex(of: 10) else { break }
        var line = connection.buffer.take(lineFeed + 1)
        connections[id] = connection
        line.removeLast()
        if line.last == 13 { line.removeLast() } else { breaches += 1 }
        if line.contains(13) || line.contains(0) { breaches += 1 }
        answers.append(command(id, String(decoding: line, as: UTF8.self)))
      }
    }
    return answers
  }

  private mutating func command(_ id: Int, _ line: String) -> Answer {
    lines.append(line)
    let upper = line.uppercased()
    if upper.hasPrefix("EHLO") {
      let all = ["inner.test"] + offers
      let text = all.enumerated().map { n, word in
        "250\(n == all.count - 1 ? " " : "-")\(word)"
      }
      return answer(line, otherwise: .reply(text.joined(separator: "\r\n")), id)
    }
    if upper == "DATA" {
      let answer = answer(line, otherwise: .reply("354 Go on"), id)
      if case .reply(let text) = answer, text.hasPrefix("354") { connections[id]?.inBody = true }
      return answer
    }
    if upper == "QUIT" {
      let answer = answer(line, otherwise: .reply("221 2.0.0 Bye"), id)
      connections[id]?.isGone = true
      return answer
    }
    return answer(line, otherwise: .reply("250 2.0.0 Fine"), id)
  }

  private mutating func answer(_ moment: String, otherwise: Answer, _ id: Int) -> Answer {
    let answer =
      rules.first { moment.uppercased().hasPrefix($0.prefix.uppercased()) }?.answer ?? otherwise
    if answer == .close { connections[id]?.isGone = true }
    return answer
  }

  /// The place behind the first CRLF.CRLF, counting the beginning as a line's beginning.
  private static func endOfData(_ bytes: Span<UInt8>) -> Int? {
    if bytes.count >= 3 && bytes[0] == 46 && bytes[1] == 13 && bytes[2] == 10 { return 3 }
    guard bytes.count >= 5 else { return nil }
    for k in 0...(bytes.count - 5)
    where bytes[k] == 13 && bytes[k + 1] == 10 && bytes[k + 2] == 46 && bytes[k + 3] == 13
      && bytes[k + 4] == 10
    { return k + 5 }
    return nil
  }

  private mutating func countBreaches(_ message: Span<UInt8>) {
    for k in 0..<message.count {
      if message[k] == 0 { breaches += 1 }
      if message[k] == 13 && (k + 1 == message.count || message[k + 1] != 10) { breaches += 1 }
      if message[k] == 10 && (k == 0 || message[k - 1] != 13) { breaches += 1 }
    }
  }
}

/// A shield on a virtual network with a scripted downstream behind it.
package struct VirtualShield: ~Copyable {
  package var driver: VirtualDriver
  package var downstream = ScriptedDownstream()
  /// In ascending order.
  private var served: [Int] = []
  private var dialledBefore = 0

  package init(driver: consuming VirtualDriver) { self.driver = driver }

  /// Lets the downstream hear and answer until nothing more happens now.
  package mutating func settle() {
    var again = true
    while again {
      again = false
      while dialledBefore < driver.dialled.count {
        let id = driver.dialled[dialledBefore]
        dialledBefore += 1
        guard driver.takesConnection(id) else { continue }
        if !served.contains(id) {
          served.insert(id, at: served.firstIndex { $0 > id } ?? served.count)
        }
        obey(id, downstream.connected(id))
        again = true
      }
      for id in served
      where !driver.sockets[id].outbound.isEmpty || !driver.sockets[id].isOpen {
        let (bytes, _) = driver.heard(id)
        if !bytes.isEmpty {
          again = true
          obey(id, downstream.received(id, bytes))
        }
        if !driver.sockets[id].isOpen {
          served.removeAll { $0 == id }
          downstream.forget(id)
        }
      }
    }
  }

  private mutating func obey(_ id: Int, _ answers: [ScriptedDownstream.Answer]) {
    for answer in answers {
      switch answer {
      case .reply(let text): driver.say(id, text + "\r\n")
      case .raw(let bytes): driver.say(id, bytes)
      case .close: driver.end(id)
      case .silence: break
      }
    }
  }

  /// Lets time pass in steps short enough for the downstream to answer on the way.
  package mutating func advance(to end: Instant) {
    settle()
    while driver.now < end {
      let due = driver.engine.nextDeadline(now: driver.now)
      driver.advance(to: min(max(due, driver.now + .milliseconds(1)), end))
      settle()
    }
  }

  package mutating func advance(by duration: Duration) { advance(to: driver.now + duration) }
}
