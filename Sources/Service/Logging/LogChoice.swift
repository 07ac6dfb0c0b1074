// SPDX-License-Identifier: Apache-2.0
//
// Which journal entries become a line, and of which kind they count where lines are limited. Not the limit itself
// (`FloodGate`). Kept: of the mail that the server behind accepted while we only look on, no closing line is left out.

import Flow
package import Shield

extension JournalEntry {
  /// Of what kind the line is for `log.flood_lines`. Sessions are counted by what became of them, and what would have
  /// been done apart from what was done, so that a sum of lines left out says of which there were how many.
  package var floodKind: String {
    switch event {
    case .disconnect: "DISCONNECT verdict=\(verdict.word)"
    case .tarpit where observed: "TARPIT would"
    case .rateLimit where observed && (reply > 0 || over == .drop): "RATE would be"
    case .denylisted where observed: "DENYLISTED would be"
    default: event.word
    }
  }

  /// Whether the line is written however many there are: whoever decides by a week of observing counts these, and the
  /// server behind bounds them, which has written more about the same message.
  package var isAlwaysWritten: Bool {
    switch event {
    case .disconnect: observed && messages > 0
    case .downstreamDown, .downstreamUp: true
    default: false
    }
  }
}

/// Whether the downstream is there, from what all workers say: each finds out for itself.
///
/// Kept: between two lines that it is down there is one that it is up.
package struct DownstreamStanding: Sendable {
  private var down: Set<UInt16> = []

  package init() {}

  /// Whether the process has something to say that it has not said: it is down with the first worker that finds it so,
  /// and up when the last one has it back.
  package mutating func isNews(_ entry: JournalEntry) -> Bool {
    switch entry.event {
    case .downstreamDown:
      down.insert(entry.worker)
      return down.count == 1
    case .downstreamUp:
      return down.remove(entry.worker) != nil && down.isEmpty
    default: return true
    }
  }
}
