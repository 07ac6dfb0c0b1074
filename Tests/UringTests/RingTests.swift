// SPDX-License-Identifier: Apache-2.0
//
// What the ring promises the driver, against the real kernel. Not a test of connection logic: that is
// simulated. Keeps: no assertion depends on time finer than seconds, and each ring lives in one thread.

import CRefusals
import Glibc
import Structures
import Testing
import Uring

@Suite struct RingTests {
  @Test("a nop completes with its token, and the counters say so")
  func nop() throws {
    var ring = try Ring(entries: 8, slots: 0)
    #expect(ring.mode == .deferred)
    #expect(ring.completionEntries >= 4 * ring.submissionEntries)
    let token = Token(.nothing, generation: 7, index: 42)
    ring.nothing(token: token)
    let done = try collect(&ring, 1)
    #expect(done.map(\.token) == [token])
    #expect(done.map(\.result) == [0])
    let counters = ring.counters
    #expect(counters.submissions == 1 && counters.completions == 1 && counters.enters == 1)
  }

  @Test("a wait with nothing to come ends when its time is up, and that is no error")
  func timeout() throws {
    var ring = try Ring(entries: 8, slots: 0)
    let before = MonotonicClock.now()
    try ring.submitAndWait(for: 1, timeoutMicroseconds: 30_000)
    let waited = MonotonicClock.now() - before
    #expect(waited >= 29_000 && waited < 5_000_000)
    try ring.submitAndWait(for: 1, timeoutMicroseconds: 0)
    try ring.submitAndWait(for: 1, timeoutMicroseconds: -5)
    let count = ring.completions()
    #expect(count == 0)
    #expect(ring.counters.enters == 3)
  }

  @Test("more submissions than the queue holds are handed over, counted, and all complete")
  func fullQueue() throws {
    var ring = try Ring(entries: 8, completions: 1024, slots: 0)
    for i in 0..<500 { ring.nothing(token: Token(.nothing, index: UInt32(i))) }
    let done = try collect(&ring, 500)
    #expect(done.map(\.token.index) == Array(0..<500))
    #expect(ring.counters.sqFull == 62)
    #expect(ring.counters.cqOverflow == 0)
  }

  @Test(
    "a kernel that has no memory for 1,500 tries in a row ends no ring",
    arguments: [EAGAIN, EBUSY, ENOMEM])
  func refused(error: Int32) throws {
    var ring = try Ring(entries: 8, completions: 1024, slots: 0)
    for i in 0..<8 { ring.nothing(token: Token(.nothing, index: UInt32(i))) }
    refuse_submits(1_500, error)
    // The queue is full: this one must be handed over first.
    ring.nothing(token: Token(.nothing, index: 8))
    let left = refuse_submits(0, 0)
    #expect(left == 0)
    let done = try collect(&ring, 9)
    #expect(done.map(\.token.index) == Array(0..<9))
    #expect(ring.counters.retries == 1_500)
  }

  @Test("a completion queue that overflows 100,000 times loses nothing")
  func overflow() throws {
    var ring = try Ring(entries: 8, slots: 0)
    let total = 100_000
    for i in 0..<total { ring.nothing(token: Token(.nothing, index: UInt32(i))) }
    var seen = [UInt8](repeating: 0, count: total)
    for completion in try collect(&ring, total) { seen[Int(completion.token.index)] += 1 }
    #expect(seen.allSatisfy { $0 == 1 })
    #expect(ring.counters.cqOverflow > 0)
    #expect(ring.counters.completions == UInt64(total))
  }

  @Test("ready completions do not keep what became ready meanwhile from running")
  func noStarvation() throws {
    var ring = try Ring(entries: 8, slots: 0)
    let wakeUp = try WakeUp()
    ring.pollAdd(descriptor: wakeUp.descriptor, mask: 1, token: Token(.wake))
    try ring.submitAndWait(for: 1, timeoutMicroseconds: 0)
    wakeUp.signal()
    // Leave completions standing before each wait, as a loop that fills its queue does.
    var woken = false
    for _ in 0..<3 {
      for i: UInt32 in 0..<20 { ring.nothing(token: Token(.nothing, index: i)) }
      try ring.submitAndWait(for: 1, timeoutMicroseconds: 0)
      let count = ring.completions()
      for i in 0..<count where ring.completion(at: i).token.operation == .wake { woken = true }
      ring.advance(count)
    }
    #expect(woken)
  }

  @Test("another thread's signal ends the wait, and many signals are one")
  func wakeUp() throws {
    var ring = try Ring(entries: 8, slots: 0)
    let wakeUp = try WakeUp()
    ring.pollAdd(descriptor: wakeUp.descriptor, mask: 1, token: Token(.wake))
    var thread = pthread_t()
    let box = Unmanaged.passRetained(wakeUp)
    pthread_create(
      &thread, nil,
      { raw in
        guard let raw else { return nil }
        let wakeUp = Unmanaged<WakeUp>.fromOpaque(raw).takeRetainedValue()
        for _ in 0..<5 { wakeUp.signal() }
        return nil
      }, box.toOpaque())
    let done = try collect(&ring, 1)
    pthread_join(thread, nil)
    #expect(done.map(\.token.operation) == [.wake])
    wakeUp.drain()
    ring.pollAdd(descriptor: wakeUp.descriptor, mask: 1, token: Token(.wake))
    try ring.submitAndWait(for: 1, timeoutMicroseconds: 20_000)
    let count = ring.completions()
    #expect(count == 0)
  }

  @Test("a table larger than RLIMIT_NOFILE is refused with both numbers and the remedy")
  func tableTooLarge() throws {
    var limit = rlimit()
    getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    let slots = Int(limit.rlim_cur) + 1
    do {
      _ = try Ring(entries: 8, slots: slots)
      Issue.record("a table of \(slots) slots was accepted")
    } catch {
      #expect(error.errno == EMFILE && error.step == .registerFiles)
      #expect(error.description.contains("\(slots)"))
      #expect(error.description.contains("RLIMIT_NOFILE is \(limit.rlim_cur)"))
      #expect(error.description.contains("LimitNOFILE="))
    }
    let largest = try Ring(entries: 8, slots: min(Int(limit.rlim_cur), 1 << 20))
    #expect(largest.slots == min(Int(limit.rlim_cur), 1 << 20))
  }

  @Test("a whole run of descriptors moves by one call, and an invalid one stops it there")
  func runOfFiles() throws {
    var ring = try Ring(entries: 8, slots: 16)
    let wakeUp = try WakeUp()
    var run: [Int32] = [wakeUp.descriptor, wakeUp.descriptor, wakeUp.descriptor]
    let all = try ring.updateFiles(startingAt: 4, &run, count: 3)
    #expect(all == 3)
    run[1] = 1_000_000
    let some = try ring.updateFiles(startingAt: 8, &run, count: 3)
    #expect(some == 1)
    #expect(throws: RingError.self) {
      var bad: Int32 = 1_000_000
      try ring.updateFiles(startingAt: 8, &bad, count: 1)
    }
    #expect(throws: RingError.self) {
      var good = wakeUp.descriptor
      try ring.updateFiles(startingAt: 16, &good, count: 1)
    }
  }

  @Test("a token brings back what was put in; unknown bits are no operation")
  func tokens() {
    let token = Token(.setOption, generation: 0xFFAB_CDEF, index: .max)
    #expect(token.operation == .setOption)
    #expect(token.generation == 0xAB_CDEF)
    #expect(token.index == .max)
    #expect(Token(bits: .max).operation == .none)
    #expect(Token(bits: 0).operation == .none)
  }

  @Test("a late completion for a reused slot shows its age")
  func staleGeneration() throws {
    var ring = try Ring(entries: 8, slots: 4)
    let wakeUp = try WakeUp()
    var generation: UInt32 = Token.generationMask  // the next life wraps to 0
    var one = wakeUp.descriptor
    try ring.updateFiles(startingAt: 2, &one, count: 1)
    ring.pollAdd(slot: 2, mask: 1, token: Token(.poll, generation: generation, index: 2))
    // The slot is given to another life before the first life's poll has ended.
    generation = (generation + 1) & Token.generationMask
    ring.pollAdd(slot: 2, mask: 1, token: Token(.poll, generation: generation, index: 2))
    try ring.submitAndWait(for: 1, timeoutMicroseconds: 0)
    wakeUp.signal()
    let done = try collect(&ring, 2)
    let current = done.filter { $0.token.generation == generation }
    #expect(done.count == 2 && current.count == 1)
  }
}

@Suite struct RingErrorTests {
  struct Row: CustomTestStringConvertible {
    let errno: Int32
    let disabled: Int?
    let expected: [String]
    let reason: String
    var testDescription: String { reason }
  }

  static let rows = [
    Row(
      errno: ENOSYS, disabled: nil, expected: ["CONFIG_IO_URING", "6.1"], reason: "not built in"),
    Row(
      errno: EPERM, disabled: 2, expected: ["io_uring_disabled is 2", "sysctl -w"],
      reason: "off for all"),
    Row(
      errno: EPERM, disabled: 1, expected: ["io_uring_disabled is 1", "io_uring_group is 107"],
      reason: "off outside a group"),
    Row(
      errno: EPERM, disabled: 0, expected: ["seccomp", "Docker"], reason: "allowed: a container"),
    Row(errno: EPERM, disabled: nil, expected: ["seccomp"], reason: "before 6.6: a container"),
    Row(
      errno: ENOMEM, disabled: 0, expected: ["RLIMIT_MEMLOCK", "65536", "LimitMEMLOCK="],
      reason: "locked memory"),
    Row(
      errno: EMFILE, disabled: 0, expected: ["20001", "20000", "more workers"],
      reason: "table too large"),
    Row(errno: EBADR, disabled: 0, expected: ["dropped", "restarted"], reason: "lost completions"),
    Row(errno: EEXIST, disabled: 0, expected: ["thread"], reason: "wrong thread"),
  ]

  @Test("each cause is named with its remedy", arguments: rows)
  func texts(row: Row) {
    let host = RingError.Host(
      disabled: row.disabled, group: 107, descriptorsMax: 20_000, lockedBytesMax: 65_536)
    let step: RingError.Step = row.errno == EMFILE ? .registerFiles : .setUp
    let text = RingError.cause(step, errno: row.errno, requested: 20_001, host: host)
    for part in row.expected { #expect(text.contains(part), "\(row.reason): \(text)") }
  }

  @Test("the error reads as one sentence with the call, the errno and the cause")
  func description() {
    let error = RingError(.setUp, errno: ENOSYS)
    #expect(
      error.description.hasPrefix(
        "io_uring_setup failed: Function not implemented (errno 38). The kernel has no io_uring"))
  }
}
