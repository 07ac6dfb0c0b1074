// SPDX-License-Identifier: Apache-2.0
import Personas
import Shield
import Structures
import TestServer

/// The mail server of a simulated world, and the network between it and the shield: what is on its way, which
/// connections break, when it is away. Links are numbered from 0.
struct ServerSide {
  /// A connection, seen from the server.
  private struct Line {
    /// Bytes of `inbound` that have arrived at the shield.
    var arrived = 0
    /// After so many more bytes it breaks; below 0: never.
    var doom = -1
    /// What the server has said and the shield has not read.
    var inbound = ByteQueue()
  }

  private let setup: Scenario.Downstream
  private var server: TestServer
  /// How many of its replies were taken.
  private var taken = 0
  private var lines: [Line]
  private var random: SeededGenerator

  init(_ setup: Scenario.Downstream, links: Int, seed: UInt64) {
    self.setup = setup
    server = TestServer(ServerScript.of(setup), seed: seed)
    lines = Array(repeating: Line(), count: links)
    random = SeededGenerator(seed: seed &+ 0x5EED)
  }

  /// Messages that the server has accepted, recipients that it was told, connections that are open.
  var messages: Int { server.counts.messages }
  var recipients: Int { server.counts.recipients }
  var open: Int { server.open }

  /// Whether it takes no connections, at a moment in microseconds.
  func isAway(_ now: Int64) -> Bool {
    setup.outages.contains {
      now >= Int64($0.at * 1_000_000) && now < Int64(($0.at + $0.lasting) * 1_000_000)
    }
  }

  /// A connection stands: the server greets.
  mutating func connected(_ l: Int, now: Int64) {
    lines[l] = Line()
    if setup.breaks > 0 && Double(random.next() >> 11) * 0x1p-53 < setup.breaks {
      lines[l].doom = Int(random.next() % 3_000) + 1
    }
    server.connected(l, now: now)
  }

  /// The shield has sent octets: the server hears them, unless the connection breaks with them.
  ///
  /// - Returns: whether it did not break.
  mutating func heard(_ l: Int, _ shield: borrowing Arena, _ region: Region, now: Int64) -> Bool {
    if lines[l].doom >= 0 {
      lines[l].doom -= region.count
      if lines[l].doom < 0 { return false }
    }
    server.received(l, shield.span(region), now: now)
    return true
  }

  /// The next thing that the server does, if there is one: it says so many octets on a connection, at a moment, and
  /// perhaps ends that.
  mutating func next() -> (l: Int, count: Int, at: Int64, ends: Bool)? {
    if taken == server.replies.count {
      taken = 0
      server.replies.removeAll(keepingCapacity: true)
      return nil
    }
    defer { taken += 1 }
    let l = server.replies[taken].session
    lines[l].inbound.append(server.replies[taken].text)
    return (
      l, server.replies[taken].text.count, server.replies[taken].at,
      server.replies[taken].then != .goOn
    )
  }

  /// Octets that the server has said are at the shield.
  mutating func arrived(_ l: Int, _ count: Int) { lines[l].arrived += count }

  func hasArrived(_ l: Int) -> Bool { lines[l].arrived > 0 }

  /// Hands over what has arrived, as much as fits.
  ///
  /// - Returns: how many octets.
  mutating func move(_ l: Int, to arena: inout Arena, _ region: Region) -> Int {
    let count = min(region.count, lines[l].arrived)
    Self.move(count, from: &lines[l].inbound, to: &arena, at: region.offset)
    lines[l].arrived -= count
    return count
  }

  private static func move(
    _ count: Int, from queue: inout ByteQueue, to arena: inout Arena, at offset: Int
  ) {
    arena.write(queue.bytes.extracting(0..<count), at: offset)
    queue.consume(count)
  }

  mutating func gone(_ l: Int) { server.gone(l) }
}
