// SPDX-License-Identifier: Apache-2.0
//
// How far a long command is: one line on standard error that is written over and gone at the end. On a terminal only:
// in a file or a pipe it would be noise. Not a report: nothing in it is counted on.

import Dispatch
import Glibc
import Synchronization

/// Told by any thread; draws at most five times a second.
package final class ProgressLine: Sendable {
  private struct State {
    /// Of each part of the work, 0…1.
    var parts: [Double]
    var drawnAt: UInt64 = 0
    var isDrawn = false
  }

  private let what: String
  private let began = DispatchTime.now().uptimeNanoseconds
  private let isLive = isatty(STDERR_FILENO) == 1
  private let state: Mutex<State>

  private static let pause: UInt64 = 200_000_000

  /// - Parameters:
  ///   - what: "simulating 3 runs".
  ///   - parts: how many there are, each as long as the others.
  package init(_ what: String, parts: Int) {
    self.what = what
    state = Mutex(State(parts: Array(repeating: 0, count: max(parts, 1))))
  }

  /// A part is so far, 0…1.
  package func tell(_ part: Int, _ share: Double) {
    guard isLive else { return }
    let now = DispatchTime.now().uptimeNanoseconds
    state.withLock { state in
      state.parts[part] = min(max(share, 0), 1)
      // Who is done at once needs no line.
      guard now - max(state.drawnAt, began) >= Self.pause else { return }
      state.drawnAt = now
      state.isDrawn = true
      let sum = state.parts.reduce(0, +) / Double(state.parts.count)
      write("\r\u{1B}[2K\(what): \(Int(sum * 100)) %, \((now - began) / 1_000_000_000) s so far")
    }
  }

  /// Takes the line away.
  package func end() {
    state.withLock { state in
      if state.isDrawn { write("\r\u{1B}[2K") }
      state.isDrawn = false
    }
  }

  /// A terminal that is gone is no reason to stop.
  private func write(_ text: String) {
    let bytes = Array(text.utf8)
    _ = Glibc.write(STDERR_FILENO, bytes, bytes.count)
  }
}
