// SPDX-License-Identifier: Apache-2.0
package import Personas
import Policy

/// What is looked at in every run, whatever it is for.
package struct Checks: Sendable {
  package var release = Check("no reply before its release time")
  package var ceiling = Check("no delay beyond its ceiling")
  package var acknowledgements = Check("no message acknowledged that was not accepted behind")
  package var slots = Check("each slot is freed when its connection has ended")
  package var memory = Check("every table within its bound")
  package var honest = Check("no honest mail lost")
  package var reasons = Check("no verdict without a reason")
  package init() {}

  package var all: [Check] {
    [release, ceiling, acknowledgements, slots, memory, honest, reasons]
  }

  /// Whether no table has more in it than its limit, at a moment in milliseconds.
  mutating func lookAtTables(
    held: Int, sessions: Int, links: Int, _ limits: Limits, now: Int64
  ) {
    memory.looked += 1
    if held > limits.connections || sessions > limits.sessions
      || links > limits.downstreamConnections
    {
      memory.fail(
        "at \(now) ms: \(held) held, \(sessions) sessions, \(links) downstream connections")
    }
  }
}

extension Check {
  mutating func fail(_ text: @autoclosure () -> String) {
    broken += 1
    if first == nil { first = text() }
  }
}
