// SPDX-License-Identifier: Apache-2.0
// What a flood counts while it runs, and the promises that can be checked from outside. One value a thread, added
// up by whoever prints; the findings about each persona are `Population`'s and come at the end.

package import Personas

/// The state of one entry of the scenario.
package struct FloodRow: Sendable {
  package var connections = 0
  package var there = 0
  /// Lost patience; was told 4xx or 5xx or not let in; was cut off or broke.
  package var left = 0
  package var refused = 0
  package var cutOff = 0
  /// Messages.
  package var delivered = 0

  package static func += (a: inout FloodRow, b: FloodRow) {
    a.connections += b.connections
    a.there += b.there
    a.left += b.left
    a.refused += b.refused
    a.cutOff += b.cutOff
    a.delivered += b.delivered
  }
}

package struct FloodTally: Sendable {
  package var rows: [FloodRow]
  /// Of those that are there, how many have not heard a whole banner.
  package var waiting = 0
  package var letThrough = 0
  /// Bytes heard, lines said, connections made and ended, timers.
  package var events = 0
  /// The most that were there at once.
  package var thereMost = 0
  /// Clients that did not come because of the bound on connections, and tries put off for it.
  package var missed = 0
  /// Sockets that could not be made or bound, or had no port left.
  package var errors = 0
  /// Connections of IPv6 clients that came by IPv4, because there is no IPv6 target; that came from ::1.
  package var byIPv4 = 0
  package var fromOne = 0
  /// Clients that will come again, after the run as it may be.
  package var away = 0
  /// TLS handshakes that began.
  package var handshakes = 0
  /// Bytes of our own memory for them all, without the buffers that are the same for any number and OpenSSL's.
  package var bytes = 0
  /// How far behind its plan the thread was at worst, in microseconds.
  package var lagMost: Int64 = 0
  package var isDone = false

  package init(entries: Int) { rows = Array(repeating: FloodRow(), count: entries) }

  package var total: FloodRow { rows.reduce(into: FloodRow()) { $0 += $1 } }

  package static func += (a: inout FloodTally, b: FloodTally) {
    for k in a.rows.indices { a.rows[k] += b.rows[k] }
    a.waiting += b.waiting
    a.letThrough += b.letThrough
    a.events += b.events
    a.thereMost += b.thereMost
    a.missed += b.missed
    a.errors += b.errors
    a.byIPv4 += b.byIPv4
    a.fromOne += b.fromOne
    a.away += b.away
    a.handshakes += b.handshakes
    a.bytes += b.bytes
    a.lagMost = max(a.lagMost, b.lagMost)
    a.isDone = a.isDone && b.isDone
  }
}

/// Promises of a server, seen by its clients.
package struct FloodChecks: Sendable {
  package var one = Check("each accepted message got one reply, and only one")
  package var turn = Check("no reply out of turn: each was awaited (421 may come at any time)")
  package var form = Check("each reply has the form of RFC 5321, 4.2")
  package var honest = Check("no honest mail is lost")

  package var all: [Check] { [one, turn, form, honest] }

  package static func fail(_ check: inout Check, _ text: @autoclosure () -> String) {
    check.broken += 1
    if check.first == nil { check.first = text() }
  }

  package static func += (a: inout FloodChecks, b: FloodChecks) {
    func add(_ path: WritableKeyPath<FloodChecks, Check>) {
      a[keyPath: path].looked += b[keyPath: path].looked
      a[keyPath: path].broken += b[keyPath: path].broken
      if a[keyPath: path].first == nil { a[keyPath: path].first = b[keyPath: path].first }
    }
    add(\.one)
    add(\.turn)
    add(\.form)
    add(\.honest)
  }
}

/// Follows a server's bytes from reply to reply. It knows how many are owed and nothing of what they mean.
package struct ReplyWatch: BitwiseCopyable {
  /// Replies the server owes us.
  package var owed: UInt16 = 1
  private var code: UInt16 = 0
  private var column: UInt8 = 0
  private var isLast = true
  private var isMalformed = false
  /// Of a message, said and not replied to: its reply is the last that is owed.
  package var isAtDot = false
  /// The last reply was to a message, and nothing was said since.
  private var isAfterDot = false
  /// It says things that are no commands: how many replies they get is the server's choice.
  package var isLenient = false

  /// A line was said.
  ///
  /// - Parameter harvests: its groups end without DATA.
  package mutating func said(_ line: Line, harvests: Bool) {
    isAfterDot = false
    switch line {
    case .group(let recipients): owed += UInt16(recipients) + (harvests ? 1 : 2)
    case .rush(_, let recipients): owed += UInt16(recipients) + (harvests ? 2 : 3)
    case .foreign, .trickle: isLenient = true
    case .body:
      owed += 1
      isAtDot = true
    default: owed += 1
    }
  }

  package mutating func heard(_ byte: UInt8, _ checks: inout FloodChecks, _ number: UInt32) {
    if byte == UInt8(ascii: "\n") {
      if column < 3 || isMalformed || !(200..<600).contains(code) {
        FloodChecks.fail(&checks.form, "client \(number)")
      }
      if isLast { whole(&checks, number) }
      column = 0
      isLast = true
      isMalformed = false
      return
    }
    if column < 3 {
      if !(48...57).contains(byte) { isMalformed = true }
      code = (column == 0 ? 0 : code &* 10) &+ UInt16(byte &- 48)
    } else if column == 3 {
      isLast = byte != UInt8(ascii: "-")
      if isLast && byte != UInt8(ascii: " ") && byte != 13 { isMalformed = true }
    }
    if column < 4 { column += 1 }
  }

  private mutating func whole(_ checks: inout FloodChecks, _ number: UInt32) {
    checks.form.looked += 1
    if isLenient || code == 421 { return }
    checks.turn.looked += 1
    if owed == 0 {
      FloodChecks.fail(&checks.turn, "client \(number): \(code) that was not expected")
      if isAfterDot { FloodChecks.fail(&checks.one, "client \(number): \(code) after its 250") }
      return
    }
    owed -= 1
    guard owed == 0 else { return }
    if isAtDot && code < 400 { checks.one.looked += 1 }
    isAfterDot = isAtDot
    isAtDot = false
  }
}
