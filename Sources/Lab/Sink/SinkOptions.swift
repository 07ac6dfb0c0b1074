// SPDX-License-Identifier: Apache-2.0
// What `sluice sink` can be told, as one value. Not the server itself, and not the command line: the demo builds the
// same value without either.

package import TestServer

/// `STAGE=SECONDS` on the command line.
package struct SinkDelay: Sendable {
  package var stage: ServerScript.Stage
  package var seconds: Double

  package init?(argument: String) {
    let parts = argument.split(separator: "=", maxSplits: 1)
    guard parts.count == 2, let stage = ServerScript.Stage(rawValue: String(parts[0])),
      let seconds = Double(parts[1]), (0...3_600).contains(seconds)
    else { return nil }
    self.stage = stage
    self.seconds = seconds
  }
}

/// `STAGE=REPLY` on the command line, where `\n` in REPLY starts the next line of the reply.
package struct SinkAnswer: Sendable {
  package var stage: ServerScript.Stage
  package var reply: String

  package init?(argument: String) {
    let parts = argument.split(separator: "=", maxSplits: 1)
    guard parts.count == 2, let stage = ServerScript.Stage(rawValue: String(parts[0])),
      stage != .body
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
    reply = lines.map { String(decoding: $0, as: UTF8.self) }.joined(separator: "\r\n")
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
  package var logPeer = false
  /// What it says and does.
  package var script = ServerScript()

  /// All that ships, and no fault.
  package init() {}
}
