// SPDX-License-Identifier: Apache-2.0
// Clients that only hold on: opened by plain calls, then kept in the tables of rings, where they cost no
// file descriptor; read now and then, their bytes counted and thrown away. What they say is a fixed list of
// lines. Keeps: held + peer_closed = connected, and at most `burst` connections wait for the server's accept.

import Configuration
import Foundation
import Glibc
import SMTP
import Structures
package import Synchronization
import Uring

/// What all threads have seen, added up.
package final class HoldCounters: Sendable {
  package let connected = Atomic(0)
  package let refused = Atomic(0)
  package let failed = Atomic(0)
  package let timedOut = Atomic(0)
  package let held = Atomic(0)
  package let peerClosed = Atomic(0)
  package let bytes = Atomic(0)
  package let greeted = Atomic(0)
  package let said = Atomic(0)
  /// Threads that have opened all they will.
  package let ready = Atomic(0)

  package var text: String {
    func of(_ counter: borrowing Atomic<Int>) -> Int { counter.load(ordering: .relaxed) }
    return "held=\(of(held)) connected=\(of(connected)) refused=\(of(refused)) "
      + "timed_out=\(of(timedOut)) errors=\(of(failed)) peer_closed=\(of(peerClosed)) "
      + "bytes=\(of(bytes)) greeted=\(of(greeted)) said=\(of(said))"
  }
}

/// The threads of a flood, seen from outside.
package final class HoldClient: Sendable {
  private let settings: HoldSettings
  private let counters = HoldCounters()
  private let sample: LatenessSample?
  private let stopping = Atomic(false)
  private let faults = Mutex<String?>(nil)
  private let done = DispatchSemaphore(value: 0)
  private let started = MonotonicClock.now()

  package init(_ settings: HoldSettings) {
    self.settings = settings
    sample =
      if let interval = settings.interval {
        LatenessSample(settings.sample, interval: interval, counters)
      } else {
        nil
      }
    for number in 0..<settings.threads {
      let thread = Thread { [self] in
        do {
          var part = HoldThread(
            number, settings, counters, sample,
            isStopping: { [self] in stopping.load(ordering: .relaxed) })
          try part.run()
        } catch {
          faults.withLock { $0 = $0 ?? "\(error)" }
        }
        done.signal()
      }
      thread.name = "flood-\(number)"
      thread.start()
    }
  }

  /// Seconds since the first connect.
  package var age: Double { Double(MonotonicClock.now() - started) / 1e6 }
  package var counts: String { counters.text }
  package var isReady: Bool { counters.ready.load(ordering: .relaxed) == settings.threads }
  /// Why a thread had to end.
  package var fault: String? { faults.withLock { $0 } }

  /// Closes every connection by RST and waits until that is done.
  ///
  /// - Returns: the line about lateness, if a sample was taken.
  @discardableResult
  package func stop() -> String? {
    let late = sample?.stop()
    stopping.store(true, ordering: .relaxed)
    for _ in 0..<settings.threads { done.wait() }
    return late
  }
}

/// A ring and what is known of the connections in its table.
private final class HeldRing {
  var ring: Ring
  /// Slots that were ever filled; they are filled in order and not used again.
  var filled = 0
  /// By slot.
  var marks: [HoldMark]
  /// By slot: how many lines were said.
  var steps: [UInt8]
  /// By slot, where in a reply it is; none where nothing is said.
  var readers: [ReplyReader]
  /// Microseconds.
  var nextSweep: Int64 = 0

  init(slots: Int, talks: Bool) throws(RingError) {
    ring = try Ring(entries: HoldThread.window, slots: slots)
    marks = Array(repeating: [], count: slots)
    steps = Array(repeating: 0, count: slots)
    readers = Array(repeating: ReplyReader(), count: talks ? slots : 0)
  }
}

/// What is known of a connection, in one byte.
private struct HoldMark: OptionSet {
  let rawValue: UInt8
  static let open = HoldMark(rawValue: 1)
  static let greeted = HoldMark(rawValue: 2)
}

/// One thread's connections. Rings belong to the thread that made them, and one thread may have many.
private struct HoldThread: ~Copyable {
  /// Receives under way at once, each with a buffer of its own.
  static let window = 512
  private static let bufferBytes = 2_048

  private let number: Int
  private let settings: HoldSettings
  private let counters: HoldCounters
  private let sample: LatenessSample?
  private let isStopping: () -> Bool
  private let share: Int
  private var rings: [HeldRing] = []
  private let buffers: UnsafeMutableRawPointer
  private let lines: [UnsafeMutableRawBufferPointer]
  private var queue: AcceptQueue
  private var opened = 0
  private var sampled = 0
  /// A reply's text is not kept, so one place does for all.
  private var text = [UInt8](repeating: 0, count: ReplyReader.textOctetsMin)

  init(
    _ number: Int, _ settings: HoldSettings, _ counters: HoldCounters, _ sample: LatenessSample?,
    isStopping: @escaping () -> Bool
  ) {
    self.number = number
    self.settings = settings
    self.counters = counters
    self.sample = sample
    self.isStopping = isStopping
    share = (settings.connections - number + settings.threads - 1) / settings.threads
    buffers = .allocate(byteCount: HoldThread.window * HoldThread.bufferBytes, alignment: 64)
    lines = settings.lines.map { line in
      let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: line.count, alignment: 1)
      copy.copyBytes(from: line)
      return copy
    }
    queue = AcceptQueue(settings.target)
  }

  deinit {
    // The kernel knows none of it any more: receives and sends end within their submission.
    buffers.deallocate()
    for line in lines { line.deallocate() }
  }

  mutating func run() throws(RingError) {
    try openAll()
    counters.ready.add(1, ordering: .relaxed)
    while !isStopping() {
      let worked = try attend()
      if !worked { usleep(5_000) }
    }
    try closeAll()
  }

  // MARK: - Opening

  private mutating func openAll() throws(RingError) {
    let start = MonotonicClock.now()
    let until = start + Int64(settings.rampSeconds * 1e6)
    while opened < share && !isStopping() {
      let now = MonotonicClock.now()
      if now > until {
        counters.timedOut.add(share - opened, ordering: .relaxed)
        return
      }
      // All threads fill the same queue.
      var room = max(settings.burst - queue.length, 0) / settings.threads
      if room == 0 && settings.burst < settings.threads && queue.length == 0 { room = 1 }
      if settings.rate > 0 {
        let due = Double(settings.rate) / Double(settings.threads) * Double(now - start) / 1e6
        room = min(room, Int(due) + 1 - opened)
      }
      room = min(room, share - opened)
      if room > 0 { try openBatch(room) }
      let worked = try attend()
      if room <= 0 && !worked { usleep(500) }
    }
  }

  /// Opens `count` connections and moves those that succeeded into a table.
  private mutating func openBatch(_ count: Int) throws(RingError) {
    var waiting: [pollfd] = []
    waiting.reserveCapacity(count)
    for _ in 0..<count {
      let index = opened * settings.threads + number
      opened += 1
      let descriptor = connectSocket(settings.sources[index % settings.sources.count])
      if descriptor >= 0 {
        waiting.append(pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0))
      }
    }
    var connected: [Int32] = []
    // A dropped SYN is sent again after 1, 3 and 7 s: after 10 s the server is not there for us.
    let until = MonotonicClock.now() + 10_000_000
    while !waiting.isEmpty {
      let ready = poll(&waiting, nfds_t(waiting.count), 100)
      if ready > 0 {
        for entry in waiting where entry.revents != 0 {
          if let descriptor = settle(entry.fd) { connected.append(descriptor) }
        }
        waiting.removeAll { $0.revents != 0 }
      }
      if MonotonicClock.now() > until || isStopping() {
        counters.timedOut.add(waiting.count, ordering: .relaxed)
        for entry in waiting { close(entry.fd) }
        break
      }
    }
    counters.connected.add(connected.count, ordering: .relaxed)
    counters.held.add(connected.count, ordering: .relaxed)
    if let sample { connected.removeAll { keepForSample($0, sample) } }
    try install(connected)
  }

  /// A socket on its way, or -1.
  private func connectSocket(_ source: Address) -> Int32 {
    // RST at the end, or a million TIME_WAITs would follow.
    let descriptor = OutboundSocket.make(from: source, isIPv6: !source.isIPv4, abortive: true)
    guard descriptor >= 0 else { return failed(-1) }
    let status = PlainSocket.connect(descriptor, to: settings.target)
    if status == 0 || errno == EINPROGRESS { return descriptor }
    if errno == ECONNREFUSED {
      counters.refused.add(1, ordering: .relaxed)
      close(descriptor)
      return -1
    }
    return failed(descriptor)
  }

  private func failed(_ descriptor: Int32) -> Int32 {
    let number = errno
    if counters.failed.add(1, ordering: .relaxed).newValue == 1 {
      StandardError.write("a connection could not be opened: \(String(cString: strerror(number)))")
    }
    if descriptor >= 0 { close(descriptor) }
    return -1
  }

  /// Looks how a connect ended.
  private func settle(_ descriptor: Int32) -> Int32? {
    var number: Int32 = 0
    var length = socklen_t(4)
    getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &number, &length)
    switch number {
    case 0:
      if settings.early, let line = lines.first {
        let sent = send(descriptor, line.baseAddress, line.count, Int32(MSG_NOSIGNAL))
        if sent == line.count { counters.said.add(1, ordering: .relaxed) }
      }
      return descriptor
    case ECONNREFUSED: counters.refused.add(1, ordering: .relaxed)
    case ETIMEDOUT: counters.timedOut.add(1, ordering: .relaxed)
    default: counters.failed.add(1, ordering: .relaxed)
    }
    close(descriptor)
    return nil
  }

  /// One of every so many connections stays an ordinary descriptor and is watched.
  private mutating func keepForSample(_ descriptor: Int32, _ sample: LatenessSample) -> Bool {
    sampled += 1
    let every = max(settings.connections / max(settings.sample, 1), 1)
    return sampled % every == 0 && sample.add(descriptor)
  }

  private mutating func install(_ descriptors: [Int32]) throws(RingError) {
    var rest = descriptors[...]
    while !rest.isEmpty {
      let last = rings.last
      let held: HeldRing
      if let last, last.filled < last.ring.slots {
        held = last
      } else {
        let left = share - rings.reduce(0) { $0 + $1.filled }
        held = try HeldRing(
          slots: max(min(left, RingTables.slotsEach), 1), talks: !lines.isEmpty)
        held.nextSweep = MonotonicClock.now()
        rings.append(held)
      }
      let count = min(rest.count, held.ring.slots - held.filled)
      let batch = Array(rest.prefix(count))
      let first = Int32(held.filled)
      _ = try batch.withUnsafeBufferPointer { bytes throws(RingError) in
        if let base = bytes.baseAddress {
          try held.ring.updateFiles(startingAt: first, base, count: count)
        }
      }
      for descriptor in batch { close(descriptor) }
      for slot in held.filled..<held.filled + count {
        held.marks[slot] = .open
        held.steps[slot] = settings.early ? 1 : 0
        if settings.sweepSeconds == nil { arm(held, slot) }
      }
      held.filled += count
      rest = rest.dropFirst(count)
    }
  }

  // MARK: - Holding

  /// Reads what is due.
  ///
  /// - Returns: false if there was nothing to do.
  private mutating func attend() throws(RingError) -> Bool {
    var worked = false
    for held in rings where held.filled > 0 {
      if let seconds = settings.sweepSeconds {
        let now = MonotonicClock.now()
        if now < held.nextSweep { continue }
        held.nextSweep = now + Int64(seconds * 1e6)
        try read(held, Array(0..<held.filled).filter { held.marks[$0].contains(.open) })
        worked = true
      } else {
        try held.ring.submitAndWait(timeoutMicroseconds: 0)
        let readable = collect(held)
        if !readable.isEmpty {
          try read(held, readable)
          worked = true
        }
      }
    }
    return worked
  }

  private func arm(_ held: HeldRing, _ slot: Int) {
    held.ring.pollAdd(
      slot: Int32(slot), mask: Ring.readable, token: Token(.poll, index: UInt32(slot)))
  }

  /// Takes the completions there are; the slots that have become readable.
  private func collect(_ held: HeldRing) -> [Int] {
    var readable: [Int] = []
    let count = held.ring.completions()
    for k in 0..<count {
      let completion = held.ring.completion(at: k)
      let slot = Int(completion.token.index)
      if completion.token.operation == .poll && completion.result >= 0
        && held.marks[slot].contains(.open)
      {
        readable.append(slot)
      }
    }
    held.ring.advance(count)
    return readable
  }

  /// Receives once from each of the slots.
  private mutating func read(_ held: HeldRing, _ slots: [Int]) throws(RingError) {
    var more = slots[...]
    while !more.isEmpty {
      let part = more.prefix(HoldThread.window)
      more = more.dropFirst(part.count)
      for (buffer, slot) in part.enumerated() {
        // Completes within the submission: no two receives ever wait with one buffer.
        held.ring.receive(
          slot: Int32(slot), into: buffers + buffer * HoldThread.bufferBytes,
          count: HoldThread.bufferBytes, flags: Int32(MSG_DONTWAIT),
          token: Token(.receive, generation: UInt32(buffer), index: UInt32(slot)))
      }
      var outstanding = part.count
      while outstanding > 0 {
        try held.ring.submitAndWait(for: 1, timeoutMicroseconds: 1_000_000)
        let count = held.ring.completions()
        var late: [Int] = []
        for k in 0..<count {
          let completion = held.ring.completion(at: k)
          let slot = Int(completion.token.index)
          switch completion.token.operation {
          case .receive:
            outstanding -= 1
            received(held, slot, completion.result, buffer: Int(completion.token.generation))
          case .poll where completion.result >= 0: late.append(slot)
          default: break
          }
        }
        held.ring.advance(count)
        if !late.isEmpty {
          // Became readable while others were read: at the next turn, by a poll that is ready at once.
          for slot in late where held.marks[slot].contains(.open) { arm(held, slot) }
        }
        if count == 0 && isStopping() { return }
      }
    }
    try held.ring.submitAndWait(timeoutMicroseconds: 0)
  }

  private mutating func received(_ held: HeldRing, _ slot: Int, _ result: Int32, buffer: Int) {
    guard held.marks[slot].contains(.open) else { return }
    if result > 0 {
      counters.bytes.add(Int(result), ordering: .relaxed)
      if !held.marks[slot].contains(.greeted) {
        held.marks[slot].insert(.greeted)
        counters.greeted.add(1, ordering: .relaxed)
      }
      if !lines.isEmpty {
        let start = (buffers + buffer * HoldThread.bufferBytes).assumingMemoryBound(to: UInt8.self)
        scan(held, slot, UnsafeBufferPointer(start: start, count: Int(result)).span)
      }
    } else if result != -EAGAIN && result != -EINTR {
      held.marks[slot] = []
      held.ring.closeDirect(slot: Int32(slot), token: Token(.close, index: UInt32(slot)))
      counters.held.subtract(1, ordering: .relaxed)
      counters.peerClosed.add(1, ordering: .relaxed)
      return
    }
    if settings.sweepSeconds == nil { arm(held, slot) }
  }

  /// Looks for ends of replies, and says the next line at each. A server that breaks RFC 5321, 4.2 is told nothing more.
  private mutating func scan(_ held: HeldRing, _ slot: Int, _ bytes: Span<UInt8>) {
    var place = 0
    while place < bytes.count {
      var consumed = 0
      var room = text.mutableSpan
      let step = held.readers[slot].read(
        bytes.extracting(droppingFirst: place), consumed: &consumed, into: &room)
      guard step == .complete else { return }
      place += consumed
      held.readers[slot].reset()
      speak(held, slot)
    }
  }

  private func speak(_ held: HeldRing, _ slot: Int) {
    let step = Int(held.steps[slot])
    guard step < lines.count, let base = lines[step].baseAddress else { return }
    held.steps[slot] += 1
    held.ring.send(
      slot: Int32(slot), base, count: lines[step].count, flags: Int32(MSG_DONTWAIT),
      skipSuccess: true, token: Token(.send, index: UInt32(slot)))
    counters.said.add(1, ordering: .relaxed)
  }

  // MARK: - Closing

  private mutating func closeAll() throws(RingError) {
    for held in rings { try RingTables.empty(&held.ring, held.filled) }
    rings.removeAll()
  }
}
