// SPDX-License-Identifier: Apache-2.0

import CAres
package import Structures

/// Where a DNS server listens.
package struct ServerAddress: Hashable, Sendable, CustomStringConvertible {
  package let address: Address
  package let port: UInt16

  package init(_ address: Address, port: UInt16 = 53) {
    self.address = address
    self.port = port
  }

  /// Reads `127.0.0.1`, `127.0.0.1:5353`, `::1` or `[::1]:5353`.
  package init?(_ text: String) {
    var host = Substring(text)
    var port: Substring?
    if host.first == "[" {
      guard let end = host.firstIndex(of: "]") else { return nil }
      let rest = host[host.index(after: end)...]
      host = host[host.index(after: host.startIndex)..<end]
      guard host.contains(":") else { return nil }
      if !rest.isEmpty {
        guard rest.first == ":" else { return nil }
        port = rest.dropFirst()
      }
    } else if host.utf8.count(where: { $0 == UInt8(ascii: ":") }) == 1,
      let colon = host.firstIndex(of: ":")
    {
      port = host[host.index(after: colon)...]
      host = host[..<colon]
    }
    guard let address = Address(host) else { return nil }
    var number: UInt16 = 53
    if let port {
      guard let read = UInt16(port), read > 0, port.utf8.allSatisfy({ (48...57).contains($0) })
      else { return nil }
      number = read
    }
    self.init(address, port: number)
  }

  package var description: String {
    address.isIPv4 ? "\(address):\(port)" : "[\(address)]:\(port)"
  }
}

/// How a resolver asks. Every number is a bound; what they are worth in memory says `Resolver.footprint`.
package struct ResolverSettings: Sendable {
  /// In the order in which they are asked; those of /etc/resolv.conf if there is none. 8 at most.
  package var servers: [ServerAddress] = []
  /// Sets of sockets, each with ports of its own, that are used in turn; with one, ports change only when it is idle.
  package var channels = 4
  /// Queries in flight at most. c-ares asks the first server unless that fails, so this is what one server may get at
  /// once: of more than 200 small datagrams the kernel's buffers lose some (measured: 867 of 10,000 at 1,000).
  package var inFlightMax = 150
  /// Questions that wait behind the window; one more is answered with `.overloaded`.
  package var queueMax = 1_024
  /// Who waits for an answer, of all questions together.
  package var waitersMax = 8_192
  /// From the question to the answer, whatever happens.
  package var timeout: Duration = .seconds(3)
  /// How often each server is asked within that time.
  package var tries = 2
  /// A channel is replaced after that, as soon as it is idle, so that its source ports do not become known.
  package var renewAfterQueries = 1_000
  package var renewAfter: Duration = .seconds(60)

  package init() {}

  static let serversMax = 8

  var complaint: String? {
    if servers.count > Self.serversMax { return "at most \(Self.serversMax) DNS servers" }
    if !(1...64).contains(channels) { return "1 to 64 channels" }
    if !(1...10_000).contains(inFlightMax) { return "1 to 10,000 DNS queries in flight" }
    if !(0...1_000_000).contains(queueMax) { return "at most 1,000,000 DNS queries in the queue" }
    if !(1...10_000_000).contains(waitersMax) { return "1 to 10,000,000 waiters" }
    if !(.milliseconds(10)...Duration.seconds(300)).contains(timeout) {
      return "a DNS time-out between 10 ms and 300 s"
    }
    if !(1...8).contains(tries) { return "1 to 8 tries" }
    if renewAfterQueries < 1 || renewAfter < .milliseconds(1) {
      return "channels that are renewed after one query and one millisecond at least"
    }
    return nil
  }
}

/// Why there is no resolver.
package struct ResolverError: Error, Sendable, CustomStringConvertible {
  /// ARES_ENOMEM and the like; 0 for a setting.
  package let code: Int32
  package let description: String

  init(setting: String) {
    code = 0
    description = "the DNS resolver needs \(setting)"
  }

  init(_ step: String, code: Int32) {
    self.code = code
    let reason = ares_strerror(code).map { String(cString: $0) } ?? "error \(code)"
    description = "the DNS resolver cannot start: \(step): \(reason)"
  }
}

/// What a resolver has counted.
package struct ResolverCounters: Hashable, Sendable {
  /// Questions, those that joined another or were turned away included.
  package var questions = 0
  /// Questions that waited for the same one, asked by someone else.
  package var joined = 0
  /// Questions turned away because the queue, or the table of those who wait, was full.
  package var overloaded = 0
  /// Queries handed to c-ares.
  package var queries = 0
  /// Queries without an answer at the end of the time.
  package var timedOut = 0
  /// Answers of queries that failed in another way.
  package var failures = 0
  /// Channels replaced by new ones.
  package var renewals = 0
  /// Channels that could not be replaced, and stayed as they were.
  package var renewalsFailed = 0
  /// Events of sockets that were no longer there.
  package var staleEvents = 0

  package init() {}
}
