// SPDX-License-Identifier: Apache-2.0
package import Driver
package import Structures

/// What a running service is told to do, by whoever may: signals, and what it finds out itself. `Supervisor` carries it
/// out.
package enum Order: Sendable {
  /// Read the configuration and its tables again, and put them in force if nothing is wrong with them.
  case reload
  /// Take no new clients and let transactions end; where that is under way already, stop.
  case drain
  /// End now.
  case stop
  /// Open the log file anew.
  case reopenLog
  /// Write the counters to the log.
  case report
  /// The downstream is at these addresses now.
  case connect([Address])
  /// The downstream was asked again; this came of it.
  case heed(Preflight)

  /// What became of an order.
  package enum Answer: Sendable {
    case done
    /// It takes its time; the log says how it ended.
    case begun
    /// Until then, in seconds, transactions may end.
    case draining(seconds: Int)
    case figures(Snapshot)
    /// Nothing has changed; why.
    case refused(String)
  }
}
