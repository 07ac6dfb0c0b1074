// SPDX-License-Identifier: Apache-2.0
// What `sluice sink` can be told, as one value, and what it counts. Not the server itself, and not the
// command line: the demo builds the same value without either. Every fault is off unless asked for.

/// A moment in a session with the sink at which it can be told to misbehave or to wait.
package enum SinkStage: String, CaseIterable, Sendable {
  case banner, ehlo, mail, rcpt, data
  /// While the message is arriving.
  case body
  /// The final dot is here; nothing is stored or counted yet.
  case dot
  /// The message is stored and counted; its 250 is not sent yet.
  case afterDot = "after-dot"
  case quit
}

/// How the sink hangs up when told to die.
package enum SinkEnding: String, CaseIterable, Sendable {
  case fin, rst
}

/// `STAGE=SECONDS` on the command line.
package struct SinkDelay: Sendable {
  package var stage: SinkStage
  package var seconds: Double

  package init?(argument: String) {
    let parts = argument.split(separator: "=", maxSplits: 1)
    guard parts.count == 2, let stage = SinkStage(rawValue: String(parts[0])),
      let seconds = Double(parts[1]), (0...3_600).contains(seconds)
    else { return nil }
    self.stage = stage
    self.seconds = seconds
  }
}

/// `STAGE=REPLY` on the command line, where `\n` in REPLY starts the next line of the reply.
package struct SinkAnswer: Sendable {
  package var stage: SinkStage
  package var reply: String

  package init?(argument: String) {
    let parts = argument.split(separator: "=", maxSplits: 1)
    guard parts.count == 2, let stage = SinkStage(rawValue: String(parts[0])), stage != .body
    else { return nil }
    self.stage = stage
    var lines: [[UInt8]] = [[]]
    var escaped = false
    for byte in parts[1].utf8 {
      if escaped, byte == UInt8(ascii: "n") {
        lines.append([])
      } else if escaped {
        lines[lines.count - 1] += [UInt8(ascii: "\\"), byte]
      } else if byte != UInt8(ascii: "\\") {
        lines[lines.count - 1].append(byte)
      }
      escaped = !escaped && byte == UInt8(ascii: "\\")
    }
    reply = lines.map { String(decoding: $0, as: UTF8.self) }.joined(separator: "\r\n") + "\r\n"
  }
}

/// A loopback address and port, as `127.0.0.1:2600` or `[::1]:2600`.
package struct LoopbackEndpoint: Hashable, Sendable, CustomStringConvertible {
  package var isIPv6 = false
  /// The four octets of an address in 127.0.0.0/8; unused for `::1`, the only IPv6 loopback.
  package var octets: [UInt8] = [127, 0, 0, 1]
  package var port: UInt16

  package init(port: UInt16) { self.port = port }

  package init(octets: [UInt8], port: UInt16) {
    self.octets = octets
    self.port = port
  }

  package init?(argument: String) {
    guard let colon = argument.lastIndex(of: ":"),
      let port = UInt16(argument[argument.index(after: colon)...])
    else { return nil }
    self.port = port
    let host = argument[..<colon]
    if host == "[::1]" {
      isIPv6 = true
      return
    }
    let parts = (host == "localhost" ? "127.0.0.1" : String(host))
      .split(separator: ".", omittingEmptySubsequences: false).map { UInt8($0) }
    guard parts.count == 4, parts[0] == 127, !parts.contains(nil) else { return nil }
    octets = parts.compactMap { $0 }
  }

  package var description: String {
    isIPv6 ? "[::1]:\(port)" : octets.map(String.init).joined(separator: ".") + ":\(port)"
  }
}

/// Everything the sink can be told.
package struct SinkOptions: Sendable {
  package var listen = LoopbackEndpoint(port: 2600)
  /// Where accepted messages go, one file each; nil to count only.
  package var storeDirectory: String?
  /// Recipients that contain one of these are refused with 550 5.1.1.
  package var rejectedRecipients: [String] = []
  package var delays: [SinkStage: Double] = [:]
  /// Whole replies to give instead of our own.
  package var answers: [SinkStage: String] = [:]
  package var dieAt: Set<SinkStage> = []
  package var dieBy = SinkEnding.fin
  package var stallAt: Set<SinkStage> = []
  package var garbageAt: Set<SinkStage> = []
  /// Bytes of the body after which a fault `at body` strikes.
  package var faultAfterBytes = 1
  /// How many times faults strike before the sink behaves; `.max` for always.
  package var faultTimes = Int.max
  /// More EHLO keywords to offer, whether or not they work.
  package var offers: [String] = []
  /// EHLO keywords of ours to leave out.
  package var withheld: [String] = []
  package var auth = false
  /// Expect a PROXY protocol header (version 1 or 2) before anything else.
  package var proxyHeader = false
  /// Take example.invalid as well, as an open relay would.
  package var relaysAll = false
  package var logPeer = false
  /// Connections at once; more get 421 4.3.2.
  package var connectionsMax = 5_000
  /// Octets of one message; more get 552 5.3.4.
  package var messageBytesMax = 50 << 20
  package var hostname = "sink.example"

  /// All that ships, and no fault.
  package init() {}
}

/// What the sink has seen since it started.
package struct SinkCounts: Sendable, Equatable, CustomStringConvertible {
  package var messages = 0
  /// Of accepted messages, without dot stuffing and without the final dot.
  package var bytes = 0
  package var connections = 0
  package var rejectedRecipients = 0
  /// LF without CR before it, anywhere in what clients sent.
  package var bareLF = 0
  /// CR without LF after it, likewise.
  package var bareCR = 0

  package var description: String {
    "accepted \(messages) messages, \(bytes) bytes, \(connections) connections, "
      + "bare_lf \(bareLF), bare_cr \(bareCR)"
  }
}
