// SPDX-License-Identifier: Apache-2.0
import DNSLists
import Flow
package import Policy
import Shield
import Structures

/// What a worker's driver takes of its own, in bytes: figures, because nothing here knows a driver.
package struct DriverFootprint: Sendable, Equatable {
  /// The record of a slot.
  package var slot: Int
  /// SO_SNDBUF of a client.
  package var clientSendBuffer: Int
  /// SO_SNDBUF and SO_RCVBUF of a downstream connection, together.
  package var linkBuffers: Int
  /// The records of a slot that speaks TLS, without what OpenSSL has.
  package var secureSlot: Int
  /// The receive buffers that all TLS sessions of a worker share.
  package var secureBuffers: Int
  /// A worker's mailbox, and what it has learnt on its way to the others.
  package var mailbox: Int
  /// A worker's look-ups in DNS lists, and its resolver.
  package var lookUps: Int

  package init(
    slot: Int, clientSendBuffer: Int, linkBuffers: Int, secureSlot: Int, secureBuffers: Int,
    mailbox: Int, lookUps: Int
  ) {
    self.slot = slot
    self.clientSendBuffer = clientSendBuffer
    self.linkBuffers = linkBuffers
    self.secureSlot = secureSlot
    self.secureBuffers = secureBuffers
    self.mailbox = mailbox
    self.lookUps = lookUps
  }
}

/// What each limit may take in memory when it is full, in the process and in the kernel, and the sum.
///
/// Not a measurement: unit sizes come in as figures. Kept: every limit has a row, and the sum is that of
/// the rows, so that "everything is bounded" is a number an operator can compare with the machine.
package struct MemoryStatement: Sendable {
  /// What one of each takes, in bytes.
  package struct Units: Sendable, Equatable {
    /// A held connection: its records in the engine and in the driver.
    package var connection: Int
    /// The kernel's part of it with a poll armed (3.83 KB and 256 B, measured on Linux 6.18), and what it
    /// pins when it floods the socket we do not read: 7.6 to 33.6 KB where receive buffers can be widened
    /// later (Linux 6.7), 131.8 KB before that.
    package var connectionKernel = 4_100 + 33_600
    /// What a session's widened receive buffer may pin beyond that, and replies that it does not take. The kernel doubles
    /// what a socket is given.
    package var sessionKernel: Int
    /// A session without its input buffer.
    package var session = Footprint.session
    package var downstream: Int
    /// With a message that it does not take (210 to 262 KB measured) and replies that we do not read.
    package var downstreamKernel: Int
    package var header = Footprint.header
    /// A session of TLS: what OpenSSL has of it at rest (12.9 to 14.2 KB measured, with its certificate and ticket
    /// more), and our records.
    package var tlsSession: Int
    /// What it has more while its handshake is under way: some 30 KB where the peer has stopped in the middle of it, up
    /// to 64 KB for some milliseconds.
    package var tlsHandshake = 64_000
    package var bucket = 15
    /// 15.75 B.
    package var source = 16
    package var journalEntry = Footprint.journalEntry
    package var receiveBuffer = 512
    /// An entry of a ring's submission queue (64 B and its number) and the four of its completion queue
    /// (16 B), in the kernel's memory and mapped into the process.
    package var ringEntry = 64 + 4 + 4 * 16
    /// Stack and bookkeeping of a worker, what it has learnt on its way out and what others have on its way in, and the
    /// least that shares are counted in.
    package var worker: Int
    /// What a worker has more where there is TLS.
    package var workerTLS: Int
    /// What a worker, and a connection, have more where DNS lists are asked.
    package var workerLists: Int
    package var connectionLists = Footprint.listMatch
    /// An answer of a DNS list.
    package var answer = AnswerCache.bytesEach

    package init(_ driver: DriverFootprint) {
      connection = Footprint.connection + driver.slot
      sessionKernel = 131_072 + 2 * driver.clientSendBuffer
      downstream = Footprint.link + driver.slot
      downstreamKernel = 4_100 + 2 * driver.linkBuffers
      tlsSession = 16_000 + Footprint.tlsPlace + driver.secureSlot
      worker = 65_536 + driver.mailbox + CrowdCounts.leastFootprint
      workerTLS = driver.secureBuffers
      workerLists = driver.lookUps
    }
  }

  package struct Row: Sendable, Equatable {
    package let name: String
    package let count: Int
    /// Of one, in the process.
    package let user: Int
    /// Of one, in the kernel.
    package let kernel: Int
    package var userSum: Int { count * user }
    package var kernelSum: Int { count * kernel }
  }

  package let rows: [Row]
  package var user: Int { rows.reduce(0) { $0 + $1.userSum } }
  package var kernel: Int { rows.reduce(0) { $0 + $1.kernelSum } }
  package var total: Int { user + kernel }

  /// - Parameters:
  ///   - limits: of the whole process.
  ///   - workers: 1 and more.
  ///   - tables: bytes of all per-CIDR tables; while they are reloaded they are there twice.
  ///   - isBalanced: whether a listener stands behind a load balancer.
  ///   - answers: of DNS lists that are remembered; 0 where none are asked.
  package init(
    limits: Limits, workers: Int, tables: Int, isBalanced: Bool = false, answers: Int = 0,
    units: Units
  ) {
    // What runs is the sum of the shares, which rounding makes a little more than the limits.
    let share = limits.share(of: workers)
    func row(_ name: String, _ each: Int, _ user: Int, _ kernel: Int = 0) -> Row {
      Row(name: name, count: each * workers, user: user, kernel: kernel)
    }
    rows =
      [
        row("connections", share.connections, units.connection, units.connectionKernel),
        row(
          "sessions", share.sessions, units.session + limits.inputBytes, units.sessionKernel),
        row(
          "downstream_connections", share.downstreamConnections, units.downstream,
          units.downstreamKernel),
        row("tls_sessions", share.tlsSessions, units.tlsSession),
        row("in a TLS handshake", share.handshakes, units.tlsHandshake),
        row("proxy_headers", isBalanced ? share.proxyHeaders : 0, units.header),
        row("buckets", share.buckets, units.bucket),
        row("sources", share.sources, units.source),
        row("journal", share.journal, units.journalEntry),
        row("receive_buffers", share.receiveBuffers, units.receiveBuffer),
        // Twice: while a table is reloaded the old one still serves.
        Row(name: "bytes of tables", count: tables, user: 2, kernel: 0),
        // Twice for the same reason.
        Row(
          name: "answers of DNS lists", count: answers > 0 ? AnswerCache.places(for: answers) : 0,
          user: 2 * units.answer, kernel: 0),
        row("workers", 1, units.worker, units.ringEntry * Limits.ringEntries(workers: workers)),
      ]
  }

  /// For a configuration with its tables.
  package init(_ configuration: Configuration, units: Units) {
    var units = units
    if configuration.downstream.terms.tls != .off { units.downstream += units.tlsSession }
    if configuration.downstream.terms.tls != .off
      || configuration.listeners.contains(where: { $0.tls == .starttls || $0.tls == .implicit })
    {
      units.worker += units.workerTLS
    }
    let asksLists = configuration.policy.lists != nil
    if asksLists {
      units.connection += units.connectionLists
      units.worker += units.workerLists
    }
    self.init(
      limits: configuration.limits, workers: configuration.workers,
      tables: configuration.policy.access.footprint + configuration.policy.rates.footprint,
      isBalanced: configuration.listeners.contains { $0.balancers != nil },
      answers: asksLists ? configuration.lists.lookUps.cacheEntries : 0, units: units)
  }
}

extension MemoryStatement: CustomStringConvertible {
  /// A table of at most 80 columns.
  package var description: String {
    func line(_ cells: [String]) -> String {
      let widths = [24, 14, 9, 13, 13]
      let padded = zip(cells, widths).enumerated().map { index, cell in
        let fill = String(repeating: " ", count: max(cell.1 - cell.0.count, 0))
        return index == 0 ? cell.0 + fill : fill + cell.0
      }
      return padded.joined(separator: " ")
    }
    var lines = [line(["limit", "count", "each", "process", "kernel"])]
    for row in rows {
      lines.append(
        line([
          row.name, grouped(row.count), bytesText(row.user + row.kernel), bytesText(row.userSum),
          bytesText(row.kernelSum),
        ]))
    }
    lines.append(line(["sum", "", "", bytesText(user), bytesText(kernel)]))
    lines.append("At most \(bytesText(total)) when every limit is reached at once.")
    return lines.joined(separator: "\n")
  }
}

/// A whole number with commas between its thousands.
package func grouped(_ value: some BinaryInteger) -> String {
  let digits = String(value.magnitude)
  var text = ""
  for (index, digit) in digits.enumerated() {
    if index > 0 && (digits.count - index) % 3 == 0 { text.append(",") }
    text.append(digit)
  }
  return value < 0 ? "-" + text : text
}

/// Bytes for people, in steps of 1,000 and with three digits: `64 B`, `4.10 KB`, `41.6 MB`.
package func bytesText(_ bytes: Int) -> String {
  if bytes < 1_000 { return "\(bytes) B" }
  var unit = 0
  var scale = 1_000
  let units = ["KB", "MB", "GB", "TB", "PB", "EB"]
  // 999.5 of a unit and more would be shown with four digits.
  while bytes >= scale / 2 * 1_999 && unit + 1 < units.count {
    unit += 1
    scale *= 1_000
  }
  let decimals = bytes < scale * 10 ? 2 : bytes < scale * 100 ? 1 : 0
  let power = [1, 10, 100][decimals]
  let shown = (Double(bytes) / Double(scale) * Double(power)).rounded()
  let whole = Int(shown) / power
  if decimals == 0 { return "\(whole) \(units[unit])" }
  let fraction = String(Int(shown) % power)
  return "\(whole)." + String(repeating: "0", count: decimals - fraction.count)
    + "\(fraction) \(units[unit])"
}
