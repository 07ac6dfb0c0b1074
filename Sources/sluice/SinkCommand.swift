// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Configuration
import Foundation
import Glibc
import Lab
import TestServer

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
  var dieAt: [ServerScript.Stage] = []
  @Option(help: "How to close it: fin or rst.")
  var dieBy = ServerScript.Ending.fin
  @Option(help: "Stop replying at this stage; at body: stop reading too. Repeatable.")
  var stallAt: [ServerScript.Stage] = []
  @Option(help: "Send a malformed reply at this stage. Repeatable.")
  var garbageAt: [ServerScript.Stage] = []
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
    options.logPeer = logPeer
    options.script = script()

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

  /// What it says and does.
  private func script() -> ServerScript {
    var script = ServerScript()
    script.keepsMessages = store != nil
    script.rejectedRecipients = rejectRecipient
    script.delays = Dictionary(delayReply.map { ($0.stage, $0.seconds) }) { $1 }
    for answer in answer { script.answer(answer.stage, .reply(answer.reply)) }
    for stage in dieAt { script.fault(stage, .hangUp(dieBy)) }
    for stage in stallAt { script.fault(stage, .stall) }
    for stage in garbageAt { script.fault(stage, ServerScript.garbage) }
    script.faultAfterBytes = faultAfterBytes
    script.faultTimes = faultTimes
    script.hasLogin = auth
    script.offers += offer
    script.offers.removeAll { keyword in
      withhold.contains { keyword.uppercased().hasPrefix($0.uppercased()) }
    }
    if proxy { script.header = .mustCome }
    script.relaysAll = openRelay
    script.connectionsMax = connections
    return script
  }
}

extension ServerScript.Stage: ExpressibleByArgument {}
extension ServerScript.Ending: ExpressibleByArgument {}
extension SinkDelay: ExpressibleByArgument {}
extension SinkAnswer: ExpressibleByArgument {}
extension LoopbackEndpoint: ExpressibleByArgument {}
