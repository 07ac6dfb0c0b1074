// SPDX-License-Identifier: Apache-2.0
// `sluice sink`: an SMTP server that accepts and counts, for trying Sluice out and for its tests. It is
// not a mail server: what it accepts goes nowhere but, if wished, into a folder. It serves loopback only.

import ArgumentParser
import Foundation
import Glibc
import Synchronization

/// The accept-and-count server on a thread of its own; the demo holds one, `sluice sink` is one.
final class Sink: Sendable {
  private struct Running {
    var stopper: Int32
    var port: UInt16
    var done: DispatchSemaphore
  }

  let options: SinkOptions
  private let tally = Mutex(SinkCounts())
  private let running = Mutex<Running?>(nil)

  init(_ options: SinkOptions) { self.options = options }

  /// What was seen so far.
  var counts: SinkCounts { tally.withLock { $0 } }

  /// The port it listens on, which the kernel chose when the options said 0; nil when stopped.
  var port: UInt16? { running.withLock { $0?.port } }

  /// Binds and starts serving.
  func start() throws(SinkError) {
    if port != nil { return }
    Sink.raiseDescriptorLimit()
    let (listener, port) = try Sink.listen(on: options.listen)
    var ends: [Int32] = [-1, -1]
    if pipe(&ends) != 0 {
      let code = errno
      close(listener)
      throw SinkError(operation: "pipe", code: code)
    }
    let stopper = ends[0]
    for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
    let done = DispatchSemaphore(value: 0)
    running.withLock { $0 = Running(stopper: ends[1], port: port, done: done) }
    let thread = Thread { [self] in
      let loop = SinkLoop(
        options, listener: listener, stopper: stopper,
        count: { [self] change in tally.withLock { change(&$0) } })
      loop.run()
      close(stopper)
      close(listener)
      done.signal()
    }
    thread.name = "sink"
    thread.stackSize = 1 << 20
    thread.start()
  }

  /// Ends every connection and waits until the thread is done.
  func stop() {
    guard
      let was = running.withLock({ state in
        defer { state = nil }
        return state
      })
    else { return }
    close(was.stopper)
    was.done.wait()
  }

  private static func raiseDescriptorLimit() {
    var limit = rlimit()
    let kind = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)
    if getrlimit(kind, &limit) == 0 && limit.rlim_cur < limit.rlim_max {
      limit.rlim_cur = min(limit.rlim_max, 65_536)
      _ = setrlimit(kind, &limit)
    }
  }

  private static func listen(
    on endpoint: LoopbackEndpoint
  ) throws(SinkError) -> (listener: Int32, port: UInt16) {
    let type = Int32(
      SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue)
    let listener = socket(endpoint.isIPv6 ? AF_INET6 : AF_INET, type, 0)
    if listener < 0 { throw SinkError(operation: "socket", code: errno) }
    var on: Int32 = 1
    setsockopt(
      listener, SOL_SOCKET, SO_REUSEADDR, &on, socklen_t(MemoryLayout<Int32>.size))
    let bound = endpoint.withSocketAddress { Glibc.bind(listener, $0, $1) }
    if bound != 0 || Glibc.listen(listener, 4_096) != 0 {
      let code = errno
      close(listener)
      throw SinkError(operation: "listening on \(endpoint)", code: code)
    }
    var storage = sockaddr_in6()
    var length = socklen_t(MemoryLayout<sockaddr_in6>.size)
    withUnsafeMutablePointer(to: &storage) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        _ = getsockname(listener, $0, &length)
      }
    }
    // The port stands at the same place in both families' addresses.
    return (listener, UInt16(bigEndian: storage.sin6_port))
  }
}

extension LoopbackEndpoint {
  /// Hands the address to a system call.
  func withSocketAddress(_ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32) -> Int32 {
    if isIPv6 {
      var address = sockaddr_in6()
      address.sin6_family = sa_family_t(AF_INET6)
      address.sin6_port = port.bigEndian
      withUnsafeMutableBytes(of: &address.sin6_addr) { $0[15] = 1 }
      return withUnsafePointer(to: &address) { pointer in
        pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          body($0, socklen_t(MemoryLayout<sockaddr_in6>.size))
        }
      }
    }
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = port.bigEndian
    withUnsafeMutableBytes(of: &address.sin_addr) { bytes in
      for i in 0..<4 { bytes[i] = octets[i] }
    }
    return withUnsafePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        body($0, socklen_t(MemoryLayout<sockaddr_in>.size))
      }
    }
  }
}

/// The subcommand.
struct SinkCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "sink",
    abstract: "An SMTP server that accepts and counts messages, for trying Sluice.",
    discussion: """
      It listens on loopback, accepts every message, counts it and discards it. Options inject faults by \
      stage: banner, ehlo, mail, rcpt, data, body, dot (final dot read, nothing stored), after-dot (stored, \
      250 not yet sent), quit. SIGUSR1 prints the counts; SIGTERM and SIGINT print them and stop.
      """)

  @Option(help: "Loopback address and port; port 0 lets the kernel choose.")
  var listen = LoopbackEndpoint(port: 2600)
  @Option(help: "Write each accepted message to this folder as <n>.eml, its envelope as <n>.env.")
  var store: String?
  @Option(help: "Reject recipients that contain this text with 550 5.1.1. Repeatable.")
  var rejectRecipient: [String] = []
  @Option(help: "STAGE=SECONDS: wait before the reply of a stage. Repeatable.")
  var delayReply: [SinkDelay] = []
  @Option(help: "STAGE=REPLY: send this reply instead; \\n starts a new line. Repeatable.")
  var answer: [SinkAnswer] = []
  @Option(help: "Close the connection at this stage. Repeatable.")
  var dieAt: [SinkStage] = []
  @Option(help: "How to close it: fin or rst.")
  var dieBy = SinkEnding.fin
  @Option(help: "Stop replying at this stage; at body: stop reading too. Repeatable.")
  var stallAt: [SinkStage] = []
  @Option(help: "Send a malformed reply at this stage. Repeatable.")
  var garbageAt: [SinkStage] = []
  @Option(help: "Faults in the body occur after this many bytes.")
  var faultAfterBytes = 1
  @Option(help: "Number of faults; after them the sink works normally.")
  var faultTimes = Int.max
  @Option(help: "Offer one more EHLO keyword. Repeatable.")
  var offer: [String] = []
  @Option(help: "Leave out the EHLO keyword with this prefix. Repeatable.")
  var withhold: [String] = []
  @Flag(help: "Offer AUTH PLAIN LOGIN: user test with password test; all others get 535.")
  var auth = false
  @Flag(help: "Expect a PROXY protocol header from every client.")
  var proxy = false

  @Flag(help: "Accept recipients at example.invalid too, as an open relay would.")
  var openRelay = false
  @Flag(help: "Print each client's address, and its PROXY header.")
  var logPeer = false
  @Option(help: "Simultaneous connections; further ones get 421.")
  var connections = 5_000

  func validate() throws {
    guard (1...60_000).contains(connections) else {
      throw ValidationError("--connections takes 1 to 60000")
    }
    if let store {
      var isFolder: ObjCBool = false
      guard FileManager.default.fileExists(atPath: store, isDirectory: &isFolder),
        isFolder.boolValue
      else { throw ValidationError("--store \(store): there is no such folder; make it first") }
    }
  }

  func run() throws {
    var options = SinkOptions()
    options.listen = listen
    options.storeDirectory = store
    options.rejectedRecipients = rejectRecipient
    options.delays = Dictionary(delayReply.map { ($0.stage, $0.seconds) }) { $1 }
    options.answers = Dictionary(answer.map { ($0.stage, $0.reply) }) { $1 }
    options.dieAt = Set(dieAt)
    options.dieBy = dieBy
    options.stallAt = Set(stallAt)
    options.garbageAt = Set(garbageAt)
    options.faultAfterBytes = faultAfterBytes
    options.faultTimes = faultTimes
    options.offers = offer
    options.withheld = withhold
    options.auth = auth
    options.proxyHeader = proxy
    options.relaysAll = openRelay
    options.logPeer = logPeer
    options.connectionsMax = connections

    // Blocked before the thread exists, so that it inherits the mask and sigwait gets them all.
    var signals = sigset_t()
    sigemptyset(&signals)
    for number in [SIGTERM, SIGINT, SIGUSR1] { sigaddset(&signals, number) }
    pthread_sigmask(SIG_BLOCK, &signals, nil)

    let sink = Sink(options)
    do {
      try sink.start()
    } catch {
      StandardError.write("sluice sink: \(error)")
      throw ExitCode(69)  // EX_UNAVAILABLE
    }
    var at = listen
    at.port = sink.port ?? listen.port
    StandardError.write("sink ready on \(at)")
    while true {
      var number: Int32 = 0
      if sigwait(&signals, &number) != 0 { continue }
      if number != SIGUSR1 { break }
      print(sink.counts)
      fflush(nil)
    }
    sink.stop()
    print(sink.counts)
  }
}
