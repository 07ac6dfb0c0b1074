// SPDX-License-Identifier: Apache-2.0
//
// One io_uring with its table of direct descriptors: what may be asked of the kernel, one wait per
// loop, and completions in batches. It decides nothing: no connection state, no retry of a peer's
// failure, no timer. Keeps: no submission is lost because a queue was full, and after a failure the
// ring swallows submissions and the next `submitAndWait` throws, so a worker dies in one place.

public import CUring
import Glibc
import Structures

/// The kernel's shared memory and every mapping the kernel may still write to.
///
/// Shared by the ring and its buffer rings, so that whichever goes last closes the ring first and
/// unmaps the buffers after: the kernel never holds an address of ours that has become another's.
public final class RingMemory {
  @usableFromInline package let ring: UnsafeMutablePointer<io_uring>
  /// Where submissions go after the ring failed; the kernel never sees it.
  let scratch: UnsafeMutablePointer<io_uring_sqe>
  var isOpen = false
  var mappings: [(base: UnsafeMutableRawPointer, bytes: Int)] = []

  init() {
    ring = .allocate(capacity: 1)
    ring.initialize(to: io_uring())
    scratch = .allocate(capacity: 1)
    scratch.initialize(to: io_uring_sqe())
  }

  deinit {
    if isOpen { io_uring_queue_exit(ring) }
    for mapping in mappings { munmap(mapping.base, mapping.bytes) }
    ring.deallocate()
    scratch.deallocate()
  }
}

/// Made and used by one thread (SINGLE_ISSUER): any other gets EEXIST from the kernel.
///
/// "Slot" is an index into the table of direct descriptors; "descriptor" is an ordinary one.
/// Pointers handed to a submission must stay valid until its completion has come.
public struct Ring: ~Copyable {
  /// How the kernel runs what has become ready.
  public enum Mode: String, Sendable {
    /// Only inside our own wait (6.1): no interruption, best batches.
    case deferred
    /// At our next system call, without an interrupt (5.19).
    case cooperative
    case plain
  }

  let memory: RingMemory
  @usableFromInline package let ring: UnsafeMutablePointer<io_uring>
  @usableFromInline var batch = 0
  private var failure: Int32 = 0

  /// What has happened so far.
  public var counters = RingCounters()
  /// What the kernel allowed, found out by trying.
  public let mode: Mode
  /// Direct descriptors in the table: 0 ..< slots.
  public let slots: Int
  /// Length of the submission queue, as the kernel rounded it.
  public let submissionEntries: Int
  /// Length of the completion queue, as the kernel rounded it.
  public let completionEntries: Int
  /// Whether `setSocketOption` works here (kernel 6.7 and later), found out by trying.
  public private(set) var setsSocketOptions = false

  /// - Parameters:
  ///   - entries: submission queue; the kernel rounds up to a power of two and clamps to 32,768.
  ///   - completions: at least four times `entries` is taken, because one loop can complete more
  ///     than it submits (accepts, deferred polls) and an overflow costs kernel memory and time.
  ///   - slots: direct descriptors, at most RLIMIT_NOFILE in each ring; 0 for none.
  public init(entries: Int, completions: Int = 0, slots: Int) throws(RingError) {
    invariant(entries > 0 && slots >= 0, "a ring of \(entries) entries and \(slots) slots")
    memory = RingMemory()
    ring = memory.ring
    // Each step gives up what an older kernel may not know. SUBMIT_ALL: one bad entry does not hold
    // up those after it. CLAMP: a size above the kernel's maximum is cut, not refused.
    let size = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP
    let ladder: [(Mode, UInt32)] = [
      (
        .deferred,
        size | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN
      ),
      (.cooperative, size | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN),
      (.plain, size),
    ]
    var status = -EINVAL
    var chosen = Mode.plain
    var parameters = io_uring_params()
    for (mode, flags) in ladder where status == -EINVAL {
      parameters = io_uring_params()
      parameters.flags = flags
      parameters.cq_entries = UInt32(max(completions, 4 * entries))
      status = io_uring_queue_init_params(UInt32(entries), ring, &parameters)
      chosen = mode
    }
    mode = chosen
    self.slots = slots
    submissionEntries = Int(parameters.sq_entries)
    completionEntries = Int(parameters.cq_entries)
    if status < 0 { throw RingError(.setUp, errno: -status) }
    memory.isOpen = true
    // A profile may allow one of the three calls and not another: what forbids is to be known before we are ready.
    nothing(token: Token(.nothing))
    try submitAndWait(timeoutMicroseconds: 1_000_000)
    advance(self.completions())
    counters = RingCounters()
    // Saves a descriptor look-up on each enter; a thread has 16 of these, and without is only slower.
    _ = io_uring_register_ring_fd(ring)
    // SHUTDOWN always runs on a kernel worker thread; keep a burst of closings from making hundreds.
    var workersMax: (UInt32, UInt32) = (2, 4)
    withUnsafeMutableBytes(of: &workersMax) { raw in
      raw.withMemoryRebound(to: UInt32.self) { values in
        _ = io_uring_register_iowq_max_workers(ring, values.baseAddress)
      }
    }
    if slots > 0 {
      let registered = io_uring_register_files_sparse(ring, UInt32(slots))
      if registered < 0 {
        throw RingError(.registerFiles, errno: -registered, requested: slots)
      }
      setsSocketOptions = trySocketOption()
    }
  }

  // MARK: - Held and accepted sockets

  /// One-shot readiness. `mask` as in poll(2); `Ring.readable` is what a held peer needs.
  @inlinable
  public mutating func pollAdd(slot: Int32, mask: UInt32, token: Token) {
    let entry = nextEntry(token)
    io_uring_prep_poll_add(entry, slot, mask)
    entry.pointee.flags |= Ring.fixedFile
  }

  /// One-shot readiness of an ordinary descriptor: an eventfd, a resolver's socket.
  @inlinable
  public mutating func pollAdd(descriptor: Int32, mask: UInt32, token: Token) {
    io_uring_prep_poll_add(nextEntry(token), descriptor, mask)
  }

  /// Input or the peer's end of sending (POLLIN | POLLRDHUP).
  @inlinable public static var readable: UInt32 { 0x0001 | UInt32(CURING_POLLRDHUP) }
  /// Room for output (POLLOUT).
  @inlinable public static var writable: UInt32 { 0x0004 }

  /// Into memory of ours, which must stay until the completion: at most `count` bytes, 0 at the peer's end.
  @inlinable
  public mutating func receive(
    slot: Int32, into bytes: UnsafeMutableRawPointer, count: Int, flags: Int32 = 0, token: Token
  ) {
    let entry = nextEntry(token)
    io_uring_prep_recv(entry, slot, bytes, count, flags)
    entry.pointee.flags |= Ring.fixedFile
  }

  /// Into a buffer the kernel picks from `group` when it has bytes to put there; -ENOBUFS at once if
  /// the group is empty, even with nothing to read.
  @inlinable
  public mutating func receive(
    slot: Int32, group: UInt16, bytesMax: Int, flags: Int32 = 0, token: Token
  ) {
    let entry = nextEntry(token)
    io_uring_prep_recv(entry, slot, nil, bytesMax, flags)
    entry.pointee.buf_group = group
    entry.pointee.flags |= Ring.fixedFile | UInt8(CURING_BUFFER_SELECT)
  }

  /// - Parameters:
  ///   - flags: MSG_WAITALL makes the kernel go on after a short write; MSG_DONTWAIT gives -EAGAIN
  ///     instead of waiting for room. MSG_NOSIGNAL is always added.
  ///   - skipSuccess: no completion unless it fails. MSG_WAITALL is added, because then a short write
  ///     counts as a failure and is reported; alone it would be a success nobody hears of.
  @inlinable
  public mutating func send(
    slot: Int32, _ bytes: UnsafeRawPointer, count: Int, flags: Int32 = 0,
    skipSuccess: Bool = false, token: Token
  ) {
    let entry = nextEntry(token)
    let always = Int32(CURING_MSG_NOSIGNAL)
    if skipSuccess {
      let whole = flags | always | Int32(CURING_MSG_WAITALL)
      io_uring_prep_send(entry, slot, bytes, count, whole)
      entry.pointee.flags |= Ring.fixedFile | UInt8(CURING_SKIP_SUCCESS)
    } else {
      io_uring_prep_send(entry, slot, bytes, count, flags | always)
      entry.pointee.flags |= Ring.fixedFile
    }
  }

  /// Sends one byte on each of `count` slots, each without a completion unless it fails, and without waiting
  /// for room.
  ///
  /// - Parameter order: the slot, the byte and the token of number 0 ..< count.
  @inlinable @inline(__always)
  public mutating func sendBytes(
    count: Int, _ order: (Int) -> (slot: Int32, byte: UnsafePointer<UInt8>, token: Token)
  ) {
    var model = io_uring_sqe()
    let flags = CURING_MSG_NOSIGNAL | CURING_MSG_WAITALL | CURING_MSG_DONTWAIT
    io_uring_prep_send(&model, 0, nil, 1, Int32(flags))
    model.flags |= Ring.fixedFile | UInt8(CURING_SKIP_SUCCESS)
    var done = 0
    while done < count {
      var taken: UInt32 = 0
      var entry = curing_take(ring, UInt32(truncatingIfNeeded: count &- done), &taken)
      if taken == 0 {
        // Full: this hands over what is there and gives one.
        entry = entryAfterSubmitting()
        taken = 1
      }
      guard var place = entry else { break }
      for k in done..<(done &+ Int(taken)) {
        let (slot, byte, token) = order(k)
        place.pointee = model
        place.pointee.fd = slot
        place.pointee.addr = UInt64(UInt(bitPattern: byte))
        place.pointee.user_data = token.bits
        place += 1
      }
      done &+= Int(taken)
    }
    counters.submissions &+= UInt64(count)
  }

  // MARK: - Downstream sockets

  /// Makes a socket directly in `slot`; whatever was there is closed. No SOCK_CLOEXEC (-EINVAL): a
  /// direct descriptor is not inherited anyway. Where the ring cannot set options, a plain socket
  /// with its options set (or bound to a source) and then moved in by `updateFiles` does as well.
  @inlinable
  public mutating func openSocket(
    domain: Int32, type: Int32, protocol number: Int32 = 0, slot: Int32, token: Token
  ) {
    io_uring_prep_socket_direct(nextEntry(token), domain, type, number, UInt32(slot), 0)
  }

  /// Connects the socket in `slot`. `address` must stay until the completion.
  public mutating func connect(
    slot: Int32, to address: UnsafePointer<SocketAddress>, token: Token
  ) {
    let entry = nextEntry(token)
    let length = address.pointee.length
    let raw = UnsafeRawPointer(address).assumingMemoryBound(to: sockaddr.self)
    io_uring_prep_connect(entry, slot, raw, length)
    entry.pointee.flags |= Ring.fixedFile
  }

  /// Only where `setsSocketOptions`; elsewhere the completion brings an error.
  ///
  /// To widen a socket from a listener with SO_RCVBUF 4096, set SO_RCVBUF and then TCP_WINDOW_CLAMP:
  /// loopback went from 122 MB/s to 177 with SO_RCVBUF alone, to 115 with the clamp alone, and to
  /// 1,803 with both (untouched default: 1,615). About 0.4 µs each, as much as the plain call.
  @inlinable
  public mutating func setSocketOption(
    slot: Int32, level: Int32, name: Int32, value: UnsafePointer<Int32>, token: Token
  ) {
    let entry = nextEntry(token)
    curing_prep_setsockopt(entry, slot, level, name, value, 4)
    entry.pointee.flags |= Ring.fixedFile
  }

  // MARK: - Closing

  /// `how`: SHUT_RD 0, SHUT_WR 1, SHUT_RDWR 2. Always handed over to a kernel thread: 2.2 µs of CPU
  /// against 0.2 µs for `closeDirect`, which sends the FIN too once nothing is in flight.
  @inlinable
  public mutating func shutdown(slot: Int32, how: Int32, token: Token) {
    let entry = nextEntry(token)
    io_uring_prep_shutdown(entry, slot, how)
    entry.pointee.flags |= Ring.fixedFile
  }

  /// Empties the slot. Cancels nothing: operations in flight keep the socket open, so cancel first.
  @inlinable
  public mutating func closeDirect(slot: Int32, token: Token) {
    io_uring_prep_close_direct(nextEntry(token), UInt32(slot))
  }

  /// Cancels everything in flight on `slot`; the result is how many were found.
  @inlinable
  public mutating func cancelAll(slot: Int32, token: Token) {
    let flags = IORING_ASYNC_CANCEL_ALL | IORING_ASYNC_CANCEL_FD_FIXED
    io_uring_prep_cancel_fd(nextEntry(token), slot, flags)
  }

  /// Cancels the operation submitted with `target`: 0, -ENOENT (gone) or -EALREADY (too late). The
  /// two completions come in either order, and the target may have succeeded.
  @inlinable
  public mutating func cancel(_ target: Token, token: Token) {
    io_uring_prep_cancel64(nextEntry(token), target.bits, 0)
  }

  // MARK: - Listening

  /// Multishot, without the peer's address: one pointer would be overwritten by the next accept, and
  /// `AcceptedPeer` reads it from the saved SYN. Results are ordinary descriptors, close-on-exec.
  @inlinable
  public mutating func acceptMultishot(listener: Int32, token: Token) {
    let flags = Int32(CURING_SOCK_CLOEXEC)
    io_uring_prep_multishot_accept(nextEntry(token), listener, nil, nil, flags)
  }

  /// Does nothing but complete.
  @inlinable
  public mutating func nothing(token: Token) { io_uring_prep_nop(nextEntry(token)) }

  // MARK: - The table

  /// Puts `count` descriptors into the slots from `first` on; the table keeps its own reference, so
  /// close them afterwards. -1 empties a slot. Returns how many were done: fewer than `count` only if
  /// the next one is not a valid descriptor. One by one 0.5 µs each, in runs of 100 0.12 µs. Works
  /// whatever is in flight on the slot (that keeps the old file), and while completions overflow.
  @discardableResult
  public mutating func updateFiles(
    startingAt first: Int32, _ descriptors: UnsafePointer<Int32>, count: Int
  ) throws(RingError) -> Int {
    let status = io_uring_register_files_update(ring, UInt32(first), descriptors, UInt32(count))
    if status < 0 { throw RingError(.updateFiles, errno: -status) }
    return Int(status)
  }

  // MARK: - Turning the crank

  /// Hands over what was submitted and waits until `count` (at least 1) completions are there or the
  /// time is up. Exactly one io_uring_enter; a signal or the time ends it normally.
  public mutating func submitAndWait(
    for count: Int = 1, timeoutMicroseconds: Int64
  ) throws(RingError) {
    if failure != 0 { throw RingError(.enter, errno: failure) }
    let wanted = UInt32(max(count, 1))
    let status: Int32
    if curing_ready(ring) >= wanted {
      // liburing would submit without GETEVENTS here. With DEFER_TASKRUN nothing that became ready
      // meanwhile would then run, and a busy loop could starve its own receives.
      status = io_uring_submit_and_get_events(ring)
    } else {
      let wait = max(timeoutMicroseconds, 0)
      var time = __kernel_timespec(tv_sec: wait / 1_000_000, tv_nsec: wait % 1_000_000 * 1000)
      var first: UnsafeMutablePointer<io_uring_cqe>?
      status = io_uring_submit_and_wait_timeout(ring, &first, wanted, &time, nil)
    }
    counters.enters &+= 1
    if curing_overflowed(ring) != 0 { counters.cqOverflow &+= 1 }
    switch -status {
    case EAGAIN, EBUSY, ENOMEM:
      counters.retries &+= 1
      // Without this a worker would spin, and the memory it waits for come later.
      if curing_ready(ring) == 0 { usleep(Ring.refusalRest) }
    case ETIME, EINTR: break
    case let error where error > 0:
      failure = error
      throw RingError(.enter, errno: error)
    default: break
    }
  }

  /// How many completions this batch has. One acquire load; take them by `completion(at:)`, then call
  /// `advance` once. Submitting meanwhile is fine.
  @inlinable
  public mutating func completions() -> Int {
    batch = Int(curing_ready(ring))
    return batch
  }

  /// The completion at `offset`, 0 ..< what `completions()` said; any other ends the process.
  @inlinable
  public func completion(at offset: Int) -> Completion {
    precondition(UInt(bitPattern: offset) < UInt(bitPattern: batch), "past the end of the batch")
    let entry = curing_completion(ring, UInt32(truncatingIfNeeded: offset)).pointee
    return Completion(token: Token(bits: entry.user_data), result: entry.res, flags: entry.flags)
  }

  /// Gives the first `count` completions of the batch back to the kernel.
  @inlinable
  public mutating func advance(_ count: Int) {
    precondition(UInt(bitPattern: count) <= UInt(bitPattern: batch), "more than the batch has")
    batch -= count
    counters.completions &+= UInt64(count)
    io_uring_cq_advance(ring, UInt32(truncatingIfNeeded: count))
  }

  // MARK: - Details

  /// Between two tries of what the kernel had no memory for, and how long it may have none; in microseconds.
  private static let refusalRest: UInt32 = 1_000
  private static let refusalMost: Int64 = 30_000_000

  @inlinable static var fixedFile: UInt8 { UInt8(CURING_FIXED_FILE) }

  /// A submission entry. liburing's prep functions set every field but user_data.
  @inlinable @inline(__always)
  public mutating func nextEntry(_ token: Token) -> UnsafeMutablePointer<io_uring_sqe> {
    counters.submissions &+= 1
    let entry = io_uring_get_sqe(ring) ?? entryAfterSubmitting()
    entry.pointee.user_data = token.bits
    return entry
  }

  /// The queue is full: hand it over without waiting, and if the kernel is short of memory or wants
  /// its completions drained, let it flush and try again, without a rest at first, then once a
  /// millisecond. Only after half a minute of nothing but refusals is the ring given up.
  @inline(never)
  public mutating func entryAfterSubmitting() -> UnsafeMutablePointer<io_uring_sqe> {
    counters.sqFull &+= 1
    var attempts = 0
    var refusedSince: Int64?
    while failure == 0 {
      counters.enters &+= 1
      let status = io_uring_submit(ring)
      if status >= 0 || status == -EINTR, let entry = io_uring_get_sqe(ring) { return entry }
      switch -status {
      case EAGAIN, EBUSY, ENOMEM:
        counters.retries &+= 1
        counters.enters &+= 1
        _ = io_uring_get_events(ring)
      case EINTR: break
      case let error where error > 0: failure = error
      default: break
      }
      attempts += 1
      if attempts > 100 && failure == 0 {
        let now = MonotonicClock.now()
        if now - (refusedSince ?? now) > Ring.refusalMost { failure = EAGAIN }
        refusedSince = refusedSince ?? now
        usleep(Ring.refusalRest)
      }
    }
    return memory.scratch
  }

  /// Makes a socket in slot 0 (still empty), sets an option on it, and closes it again.
  private mutating func trySocketOption() -> Bool {
    defer { counters = RingCounters() }
    let value = UnsafeMutablePointer<Int32>.allocate(capacity: 1)
    value.initialize(to: 4096)
    defer { value.deallocate() }
    openSocket(
      domain: AF_INET, type: Int32(SOCK_STREAM.rawValue), slot: 0, token: Token(.openSocket))
    guard completeAlone() == 0 else { return false }
    setSocketOption(
      slot: 0, level: SOL_SOCKET, name: SO_RCVBUF, value: value, token: Token(.setOption))
    let works = completeAlone() == 0
    closeDirect(slot: 0, token: Token(.close))
    _ = completeAlone()
    return works
  }

  /// The result of the only submission in flight; for the probe.
  private mutating func completeAlone() -> Int32? {
    for _ in 0..<10 {
      guard (try? submitAndWait(for: 1, timeoutMicroseconds: 1_000_000)) != nil else { return nil }
      if completions() > 0 {
        let result = completion(at: 0).result
        advance(1)
        return result
      }
    }
    return nil
  }
}
