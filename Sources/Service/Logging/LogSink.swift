// SPDX-License-Identifier: Apache-2.0
import Configuration
import Glibc
import Structures
import Synchronization

/// Where log lines go: standard error or a file; never waits for whoever reads them.
///
/// Not a buffer: a line that a pipe or socket does not take at once is dropped and counted, for a shield
/// that waits for its log is down. Kept: lines are whole; what was cut off by a full socket is finished
/// before the next one starts. The process must ignore SIGPIPE.
package final class LogSink: Sendable {
  private struct State {
    var descriptor: Int32
    var kind: Kind
    /// The rest of a line that a socket took in part.
    var rest = ByteQueue(limit: LogSink.lineMax)
    /// Since the last line that said so.
    var dropped: UInt64 = 0
    var droppedTotal: UInt64 = 0
  }

  private enum Kind {
    case file, pipe, socket
    /// One whose writes wait for room: it is asked first.
    case waitingPipe
  }

  /// What stands before the line.
  package enum Stamp: Sendable {
    /// Nothing: whoever reads standard error puts time and place to it.
    case none
    /// `Jan  2 03:04:05 host `, as syslog and Postfix's maillog_file have it and log tools expect.
    case syslog(host: String)
    /// `<6>`, which journald takes for the priority and removes.
    case priority
  }

  /// A line is written by one call, which a pipe takes whole or not at all up to PIPE_BUF.
  package static let lineMax = 4_096

  /// Whether whoever reads the lines puts the program's name and number before them: then they must not say it again.
  /// The journal does (`sluice/smtpd[812]: `, by the unit's SyslogIdentifier), and log tools read one tag.
  package var isTagged: Bool {
    if case .priority = stamp { true } else { false }
  }

  package let path: String?
  private let stamp: Stamp
  private let state: Mutex<State>

  /// Standard error. Pipes are opened anew, because O_NONBLOCK on the one we were given would be seen
  /// by every process that shares it.
  package static func standardError() -> LogSink {
    let journal = getenv("JOURNAL_STREAM").map { String(cString: $0) }
    return LogSink(
      descriptor: STDERR_FILENO,
      stamp: isJournal(STDERR_FILENO, journal) ? .priority : .none)
  }

  /// Whether a descriptor is the journal's own. The variable is inherited by whatever runs below a unit, and by then the
  /// descriptor may be a file: systemd.exec(5) says to compare.
  ///
  /// - Parameter journal: device and inode of the journal's socket, as systemd writes them: `8:4711`.
  static func isJournal(_ descriptor: Int32, _ journal: String?) -> Bool {
    var status = stat()
    guard let journal, fstat(descriptor, &status) == 0 else { return false }
    return journal == "\(status.st_dev):\(status.st_ino)"
  }

  /// Writes to a descriptor that stays the caller's.
  package init(descriptor: Int32, stamp: Stamp = .none) {
    path = nil
    self.stamp = stamp
    var status = stat()
    _ = fstat(descriptor, &status)
    let format = status.st_mode & S_IFMT
    var own: Int32 = -1
    var kind: Kind = format == S_IFSOCK ? .socket : format == S_IFREG ? .file : .pipe
    if kind == .pipe {
      own = Glibc.open("/proc/self/fd/\(descriptor)", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC)
      // It may be another user's, as in a container, or there may be no /proc.
      if own < 0 { kind = .waitingPipe }
    }
    if own < 0 { own = fcntl(descriptor, F_DUPFD_CLOEXEC, 3) }
    state = Mutex(State(descriptor: own, kind: kind))
  }

  /// Appends to a file, which is made if it is not there.
  package init(path: String, host: String) throws(LogFailure) {
    self.path = path
    stamp = .syslog(host: host)
    state = Mutex(State(descriptor: try LogSink.open(path), kind: .file))
  }

  deinit {
    state.withLock { state in
      if state.descriptor >= 0 { close(state.descriptor) }
    }
  }

  private static func open(_ path: String) throws(LogFailure) -> Int32 {
    // O_NONBLOCK for the case that it is a named pipe: without a reader this fails at once.
    let flags = O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY
    let descriptor = Glibc.open(path, flags, 0o640)
    if descriptor < 0 { throw LogFailure(path: path, errno: errno) }
    return descriptor
  }

  /// Finds out whether the file could be opened, and makes none.
  package static func tryOut(_ path: String) throws(LogFailure) {
    let flags = O_WRONLY | O_APPEND | O_CLOEXEC | O_NONBLOCK | O_NOCTTY
    let descriptor = Glibc.open(path, flags)
    if descriptor >= 0 {
      close(descriptor)
      return
    }
    guard errno == ENOENT else { throw LogFailure(path: path, errno: errno) }
    let slash = path.lastIndex(of: "/")
    let folder = slash.map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
    if access(folder, W_OK | X_OK) != 0 { throw LogFailure(path: path, errno: errno) }
  }

  /// Opens the file anew, after logrotate has moved the old one (USR1); the old one stays on failure.
  package func reopen() throws(LogFailure) {
    guard let path else { return }
    let new = try LogSink.open(path)
    state.withLock { state in
      close(state.descriptor)
      state.descriptor = new
      state.rest.removeAll()
    }
  }

  /// Lines that nobody took, since the start.
  package var droppedTotal: UInt64 { state.withLock { $0.droppedTotal } }

  /// Writes one line, or counts it as dropped.
  ///
  /// - Parameters:
  ///   - line: without its end; line breaks in it become blanks.
  ///   - priority: of syslog, 0…7; for journald.
  package func write(_ line: String, priority: Int = 6) {
    // Outside of the lock: only the write itself has to be one at a time.
    let bytes = encoded(line, priority)
    state.withLock { state in
      if state.dropped > 0 {
        let missed = encoded(
          "warning: \(grouped(state.dropped)) log lines dropped: the log was too slow", 4
        )
        // In one write if it may be: else the short one fits where the long one does not, again and again.
        if missed.count + bytes.count <= LogSink.lineMax {
          if LogSink.put(missed + bytes, &state) {
            state.dropped = 0
            return
          }
        } else if LogSink.put(missed, &state) {
          state.dropped = 0
        }
      }
      if state.dropped > 0 || !LogSink.put(bytes, &state) {
        state.dropped += 1
        state.droppedTotal += 1
      }
    }
  }

  private func encoded(_ line: String, _ priority: Int) -> [UInt8] {
    var bytes: [UInt8] = []
    switch stamp {
    case .none: break
    case .syslog(let host): bytes += Array("\(LogSink.timeText()) \(host) ".utf8)
    case .priority: bytes += Array("<\(priority)>".utf8)
    }
    for byte in line.utf8 {
      if bytes.count == LogSink.lineMax - 4 {
        // Never in the middle of a character.
        while let last = bytes.last, last & 0xC0 == 0x80 { bytes.removeLast() }
        if let last = bytes.last, last >= 0xC0 { bytes.removeLast() }
        bytes += Array("...".utf8)
        break
      }
      bytes.append(byte < 32 || byte == 127 ? 32 : byte)
    }
    bytes.append(10)
    return bytes
  }

  /// `Jan  2 03:04:05` in local time; month names do not depend on the locale.
  private static func timeText() -> String {
    let months = [
      "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ]
    var now = time(nil)
    var parts = tm()
    localtime_r(&now, &parts)
    func two(_ value: Int32, _ fill: String) -> String {
      value < 10 ? "\(fill)\(value)" : "\(value)"
    }
    let clock = [parts.tm_hour, parts.tm_min, parts.tm_sec].map { two($0, "0") }.joined(
      separator: ":")
    return "\(months[Int(parts.tm_mon) % 12]) \(two(parts.tm_mday, " ")) \(clock)"
  }

  /// - Returns: whether the line is written, or will be finished by the next call.
  private static func put(_ bytes: [UInt8], _ state: inout State) -> Bool {
    if !state.rest.isEmpty {
      let taken = send(state.rest.bytes, state)
      state.rest.consume(max(taken, 0))
      if !state.rest.isEmpty { return false }
    }
    let taken = send(bytes.span, state)
    if taken <= 0 { return false }
    return state.rest.append(bytes[taken...])
  }

  private static func send(_ bytes: Span<UInt8>, _ state: State) -> Int {
    let flags = Int32(MSG_DONTWAIT) | Int32(MSG_NOSIGNAL)
    if state.kind == .waitingPipe {
      var room = pollfd(fd: state.descriptor, events: Int16(POLLOUT), revents: 0)
      // A pipe says so when there is room for PIPE_BUF, which is as much as a line has.
      if poll(&room, 1, 0) != 1 { return -1 }
    }
    return bytes.withUnsafeBytes { raw in
      while true {
        let taken =
          state.kind == .socket
          ? Glibc.send(state.descriptor, raw.baseAddress, raw.count, flags)
          : Glibc.write(state.descriptor, raw.baseAddress, raw.count)
        if taken >= 0 || errno != EINTR { return taken }
      }
    }
  }
}

/// Why a log file cannot be opened.
package struct LogFailure: Error, CustomStringConvertible {
  /// EX_CANTCREAT of sysexits(3).
  package static let exitCode: Int32 = 73

  package let path: String
  package let errno: Int32

  package var description: String {
    let cause =
      switch errno {
      case EACCES, EPERM: ": give Sluice's user permission to write there"
      case ENOENT: ": create its folder first"
      case ENXIO: ": it is a named pipe without a reader"
      default: ""
      }
    return "cannot open the log file \(path): \(String(cString: strerror(errno)))\(cause)"
  }
}
