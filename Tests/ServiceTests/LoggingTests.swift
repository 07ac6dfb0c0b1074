// SPDX-License-Identifier: Apache-2.0
import ConfigurationFixtures
import Foundation
import Glibc
import Logging
import Shield
import Structures
import Testing

@testable import Configuration
@testable import Driver
@testable import Service

struct JournalQueueTests {
  @Test("entries come out once, in order, in portions; what does not fit is counted")
  func portions() {
    let queue = JournalQueue(capacity: 200)
    var portion: [JournalEntry] = []
    var (expected, next, dropped) = (0, 0, UInt64(0))
    for round in 0..<48 {
      for _ in 0..<(round % 7 * 40) {
        queue.append(JournalEntry(.connect, at: Instant(microseconds: Int64(next))))
        next += 1
      }
      let lost = queue.take(&portion)
      #expect(portion.count <= JournalQueue.portion)
      dropped += lost
      // What was dropped is the newest, so the order has gaps but never goes back.
      for entry in portion {
        #expect(entry.at.microseconds >= Int64(expected))
        expected = Int(entry.at.microseconds) + 1
      }
    }
    var taken = 0
    repeat {
      dropped += queue.take(&portion)
      taken += portion.count
    } while !portion.isEmpty
    #expect(dropped > 0 && taken > 0)
    queue.append(JournalEntry(.timeout, at: Instant(microseconds: 7)))
    _ = queue.take(&portion)
    #expect(portion.map(\.event) == [.timeout])
  }
}

struct EscapeTests {
  @Test(
    "client bytes cannot leave their place in a line",
    arguments: [
      ("EHLO x\r\n", "EHLO x\\r\\n", "line ends"), ("a\tb", "a\\tb", "tabs"),
      ("a\\nb", "a\\\\nb", "a backslash is no escape of ours"),
      ("\u{1B}[2J", "\\x1b[2J", "terminals"),
      ("é", "\\xc3\\xa9", "8-bit"), ("\u{0}\u{7F}", "\\x00\\x7f", "NUL and DEL"),
      ("", "", "nothing"),
    ])
  func escapes(text: String, escaped: String, reason: String) {
    #expect(escape(Array(text.utf8)) == escaped, "\(reason)")
  }

  @Test("a hundred bytes are shown, no more")
  func limit() {
    let hundred = [UInt8](repeating: 65, count: 100)
    #expect(escape(hundred) == String(repeating: "A", count: 100))
    #expect(escape(hundred + [66]) == String(repeating: "A", count: 100) + "...")
    #expect(escape((hundred + [66, 67]).span).hasSuffix("A..."))
  }

  @Test("the result is printable ASCII and tells any two inputs apart")
  func distinct() {
    var seen: Set<String> = []
    for a in UInt8.min...UInt8.max {
      let text = escape([a, a &+ 1])
      #expect(text.utf8.allSatisfy { (32...126).contains($0) })
      #expect(seen.insert(text).inserted)
    }
  }
}

struct FloodGateTests {
  @Test("a kind gets its lines a second, then one summary after ten seconds")
  func summary() {
    var gate = FloodGate(linesPerSecond: 50)
    var admitted = 0
    for i in 0..<1_284 {
      let isAdmitted = gate.admits("CONNECT", now: Instant(microseconds: Int64(i)))
      if isAdmitted { admitted += 1 }
    }
    #expect(admitted == 50)
    let early = gate.due(now: Instant(seconds: 9.9))
    #expect(early == [])
    let due = gate.due(now: Instant(seconds: 10.1))
    #expect(due == ["... 1,234 more CONNECT lines in 10 s"])
    let again = gate.due(now: Instant(seconds: 30))
    #expect(again == [])
    #expect(gate.heldTotal == 1_234)
  }

  @Test("kinds do not take each other's room")
  func kinds() {
    var gate = FloodGate(linesPerSecond: 1)
    let first = gate.admits("CONNECT", now: .origin)
    let second = gate.admits("CONNECT", now: .origin)
    let other = gate.admits("PREGREET", now: .origin)
    #expect(first && !second && other)
    let last = gate.flush(now: .origin)
    #expect(last == ["... 1 more CONNECT line in 1 s"])
  }

  @Test("a new second brings new room")
  func seconds() {
    var gate = FloodGate(linesPerSecond: 2)
    var pattern = ""
    for tenth in 0..<30 {
      let isAdmitted = gate.admits("X", now: Instant(microseconds: Int64(tenth) * 100_000))
      pattern += isAdmitted ? "1" : "0"
    }
    #expect(pattern == "110000000011000000001100000000")
  }

  @Test("every line is admitted, summed up or still counted", arguments: [1, 2, 3])
  func accounts(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    var gate = FloodGate(linesPerSecond: 3)
    var now = Instant.origin
    var asked = 0
    var admitted = 0
    var summed = 0
    func count(_ lines: [String]) {
      for line in lines {
        summed += Int(line.split(separator: " ")[1].replacing(",", with: "")) ?? 0
      }
    }
    for _ in 0..<20_000 {
      now = now + .microseconds(Int64.random(in: 0...100_000, using: &random))
      asked += 1
      let isAdmitted = gate.admits(["A", "B", "C"].randomElement(using: &random) ?? "A", now: now)
      if isAdmitted { admitted += 1 }
      if Int.random(in: 0..<50, using: &random) == 0 { count(gate.due(now: now)) }
    }
    count(gate.flush(now: now))
    #expect(admitted + summed == asked, "seed \(seed)")
  }

  @Test("words without end do not take memory without end")
  func bounded() {
    var gate = FloodGate(linesPerSecond: 1)
    for i in 0..<10_000 { _ = gate.admits("kind \(i)", now: .origin) }
    let lines = gate.flush(now: .origin)
    #expect(lines == ["... 9,743 more other lines in 1 s"])
  }
}

struct LogChoiceTests {
  private func closing(_ verdict: Verdict, messages: UInt32 = 0, observed: Bool = true)
    -> JournalEntry
  {
    var entry = JournalEntry(.disconnect, at: .origin)
    entry.verdict = verdict
    entry.messages = messages
    entry.observed = observed
    return entry
  }

  @Test("what is left out of closing lines is told for each verdict")
  func verdicts() {
    var gate = FloodGate(linesPerSecond: 1)
    for verdict in [Verdict.wouldRefuse, .wouldRefuse, .wouldRefuse, .pass, .pass] {
      _ = gate.admits(closing(verdict).floodKind, now: .origin)
    }
    #expect(
      gate.flush(now: .origin) == [
        "... 1 more DISCONNECT verdict=pass line in 1 s",
        "... 2 more DISCONNECT verdict=would-refuse lines in 1 s",
      ])
  }

  @Test("closing lines of mail that was accepted while we look on are always written, no others")
  func always() {
    #expect(closing(.wouldRefuse, messages: 1).isAlwaysWritten)
    #expect(closing(.delivered, messages: 1).isAlwaysWritten)
    #expect(!closing(.wouldRefuse).isAlwaysWritten)
    #expect(!closing(.delivered, messages: 1, observed: false).isAlwaysWritten)
    #expect(!JournalEntry(.connect, at: .origin).isAlwaysWritten)
  }

  @Test("what would have been done is counted apart from what was done")
  func would() {
    var tarpit = JournalEntry(.tarpit, at: .origin)
    #expect(tarpit.floodKind == "TARPIT")
    tarpit.observed = true
    #expect(tarpit.floodKind == "TARPIT would")
    var rate = JournalEntry(.rateLimit, at: .origin)
    rate.observed = true
    #expect(rate.floodKind == "RATE")
    rate.reply = 421
    #expect(rate.floodKind == "RATE would be")
  }

  @Test("the downstream is down with the first worker and up with the last, each said once")
  func standing() {
    var standing = DownstreamStanding()
    func said(_ event: Event, _ worker: UInt16) -> Bool {
      var entry = JournalEntry(event, at: .origin)
      entry.worker = worker
      return standing.isNews(entry)
    }
    let down = [said(.downstreamDown, 0), said(.downstreamDown, 1), said(.downstreamDown, 2)]
    #expect(down == [true, false, false])
    let up = [said(.downstreamUp, 1), said(.downstreamUp, 2), said(.downstreamUp, 0)]
    #expect(up == [false, false, true])
    // A line that was lost (the journal was full) leaves nothing that cannot be put right.
    let again = [said(.downstreamUp, 0), said(.downstreamDown, 1), said(.downstreamUp, 1)]
    #expect(again == [false, true, true])
    #expect(said(.connect, 0) && said(.connect, 0))
  }
}

struct LogSinkTests {
  private static func pipe() -> (read: Int32, write: Int32) {
    var ends: [Int32] = [0, 0]
    _ = Glibc.pipe(&ends)
    return (ends[0], ends[1])
  }

  private static func drain(_ descriptor: Int32) -> String {
    _ = fcntl(descriptor, F_SETFL, O_NONBLOCK)
    var all: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 65_536)
    while true {
      let count = read(descriptor, &chunk, chunk.count)
      if count <= 0 { return String(decoding: all, as: UTF8.self) }
      all += chunk[..<count]
    }
  }

  @Test("a line names component and process, and its metadata in order")
  func lines() {
    let ends = Self.pipe()
    defer {
      close(ends.read)
      close(ends.write)
    }
    let sink = LogSink(descriptor: ends.write)
    var logger = Logger(label: "x") { _ in LineLogHandler(component: "smtpd", sink: sink, pid: 42) }
    logger[metadataKey: "b"] = "2"
    logger.info("CONNECT from [192.0.2.1]:25", metadata: ["a": "1"])
    logger.warning("two\nlines")
    logger.debug("not at this level")
    #expect(
      Self.drain(ends.read) == """
        sluice/smtpd[42]: CONNECT from [192.0.2.1]:25 a=1 b=2
        sluice/smtpd[42]: warning: two lines b=2

        """)
  }

  @Test("where the journal puts the program's name before a line, it is not in the line again")
  func journal() {
    let ends = Self.pipe()
    defer {
      close(ends.read)
      close(ends.write)
    }
    let sink = LogSink(descriptor: ends.write, stamp: .priority)
    let logger = Logger(label: "x") { _ in LineLogHandler(component: "smtpd", sink: sink, pid: 42) }
    logger.info("CONNECT from [192.0.2.1]:25")
    logger.warning("odd")
    #expect(Self.drain(ends.read) == "<6>CONNECT from [192.0.2.1]:25\n<4>warning: odd\n")
  }

  @Test(
    "a reader that stops reading is never waited for; what was lost is told once it reads again")
  func stuckReader() {
    let ends = Self.pipe()
    defer {
      close(ends.read)
      close(ends.write)
    }
    let sink = LogSink(descriptor: ends.write)
    let line = String(repeating: "x", count: 999)
    for _ in 0..<100 { sink.write(line) }
    let dropped = sink.droppedTotal
    #expect(dropped > 30 && dropped < 100)
    let taken = Self.drain(ends.read)
    #expect(taken.utf8.count == (100 - Int(dropped)) * 1_000)
    sink.write("after")
    #expect(
      Self.drain(ends.read)
        == "warning: \(dropped) log lines dropped: the log was too slow\nafter\n")
    #expect(sink.droppedTotal == dropped)
    // The flag is not set on what we share with others.
    #expect(fcntl(ends.write, F_GETFL) & O_NONBLOCK == 0)
  }

  @Test("the journal's variable counts only for the descriptor that it names")
  func journalStream() throws {
    let folder = try Folder()
    let file = open(try folder.write("log", ""), O_RDWR)
    defer { close(file) }
    var status = stat()
    try #require(fstat(file, &status) == 0)
    let cases: [(journal: String?, isIt: Bool)] = [
      ("\(status.st_dev):\(status.st_ino)", true),
      ("\(status.st_dev):\(status.st_ino + 1)", false),
      ("\(status.st_dev + 1):\(status.st_ino)", false),
      ("8:4711", false), ("", false), (nil, false),
    ]
    for (journal, isIt) in cases {
      #expect(LogSink.isJournal(file, journal) == isIt, "\(journal ?? "not set")")
    }
    #expect(!LogSink.isJournal(-1, "8:4711"))
  }

  @Test("a full socket cuts no line in two")
  func socket() {
    var ends: [Int32] = [0, 0]
    _ = socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &ends)
    defer {
      close(ends[0])
      close(ends[1])
    }
    let sink = LogSink(descriptor: ends[1])
    for i in 0..<3_000 { sink.write(String(repeating: "y", count: 500) + "\(i % 10)") }
    var text = Self.drain(ends[0])
    sink.write("end")
    text += Self.drain(ends[0])
    #expect(sink.droppedTotal > 0)
    for line in text.split(separator: "\n") {
      #expect(line.count == 501 || line == "end" || line.hasPrefix("warning: "), "\(line)")
    }
    #expect(text.hasSuffix("end\n"))
  }

  @Test("a long line is cut at a character and ends in dots")
  func longLines() {
    let ends = Self.pipe()
    defer {
      close(ends.read)
      close(ends.write)
    }
    LogSink(descriptor: ends.write).write(String(repeating: "é", count: 5_000))
    let text = Self.drain(ends.read)
    #expect(text.utf8.count <= LogSink.lineMax)
    #expect(text.hasSuffix("é...\n"))
    #expect(!text.contains("\u{FFFD}"))
  }

  @Test("after logrotate a file is opened anew, and stays as it was if that fails")
  func reopening() throws {
    let folder = try Folder()
    let path = "\(folder.path)/sluice.log"
    let sink = try LogSink(path: path, host: "mx")
    sink.write("one")
    try FileManager.default.moveItem(atPath: path, toPath: path + ".1")
    sink.write("two")
    try sink.reopen()
    sink.write("three")
    let old = String(decoding: try readFile(path + ".1", bytesMax: 1_000), as: UTF8.self)
    let new = String(decoding: try readFile(path, bytesMax: 1_000), as: UTF8.self)
    #expect(old.contains(/^[A-Z][a-z]{2} [ 0-9][0-9] [0-9:]{8} mx one\n.* mx two\n$/))
    #expect(new.contains(/^.* mx three\n$/))
    try FileManager.default.removeItem(atPath: folder.path)
    #expect(throws: LogFailure.self) { try sink.reopen() }
    sink.write("into the old one")
    #expect(sink.droppedTotal == 0)
  }

  @Test("a file that cannot be opened says why and what to do")
  func failure() {
    let error = #expect(throws: LogFailure.self) { try LogSink(path: "/nowhere/x.log", host: "mx") }
    #expect(
      error?.description
        == "cannot open the log file /nowhere/x.log: No such file or directory: create its folder first"
    )
  }
}
