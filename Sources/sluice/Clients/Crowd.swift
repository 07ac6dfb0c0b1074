// SPDX-License-Identifier: Apache-2.0
// Runs many clients at once, each on a small thread, spread over time and bounded in number. It knows
// nothing of what they do; it starts them, counts them and waits for them.

import Foundation
import Glibc
import Synchronization

/// The demo's crowd in front of the shield.
final class Crowd: Sendable {
  let target: LoopbackEndpoint
  let board = Scoreboard()
  let stop = StopSign()
  /// Clients at once; a thread each of 128 KB of stack, of which a few are touched.
  let clientsMax: Int
  private let running = Atomic(0)
  private let numbers = Mutex([Int](repeating: 0, count: ClientKind.allCases.count))

  init(target: LoopbackEndpoint, clientsMax: Int = 1_000) {
    self.target = target
    self.clientsMax = clientsMax
  }

  /// Clients that are at it now.
  var count: Int { running.load(ordering: .relaxed) }

  /// Starts one client; false when the crowd is full or going home.
  @discardableResult
  func launch(_ kind: ClientKind, messages: Int = 1, patience: Double? = nil) -> Bool {
    if stop.isRaised { return false }
    if running.add(1, ordering: .relaxed).newValue > clientsMax {
      running.subtract(1, ordering: .relaxed)
      return false
    }
    let number = numbers.withLock { all in
      defer { all[kind.rawValue] += 1 }
      return all[kind.rawValue]
    }
    let source = kind.source(number)
    let thread = Thread { [self] in
      if kind == .honest {
        let sender = HonestSender(target: target, source: source, messages: messages)
        _ = sender.run(board, stop)
      } else {
        var bot = Bot(kind: kind, target: target, source: source)
        if let patience { bot.patience = patience }
        bot.run(board, stop)
      }
      running.subtract(1, ordering: .relaxed)
    }
    thread.stackSize = 128 << 10
    thread.start()
    return true
  }

  /// Starts several of a kind, spread evenly over a time, from a thread of their own.
  func launch(_ kind: ClientKind, count: Int, over seconds: Double, messages: Int = 1) {
    let thread = Thread { [self] in
      for _ in 0..<min(count, clientsMax) where !stop.isRaised {
        launch(kind, messages: messages)
        HonestSender.nap(seconds / Double(max(count, 1)), stop)
      }
    }
    thread.stackSize = 128 << 10
    thread.start()
  }

  /// Tells all to go and waits until they are gone, or the time is over.
  func sendHome(within seconds: Double = 10) {
    stop.raise()
    let until = ClientSocket.now() + seconds
    while count > 0 && ClientSocket.now() < until { usleep(20_000) }
  }
}
