// SPDX-License-Identifier: Apache-2.0
import Shield
package import Structures
package import TestServer

/// A shield on a virtual network with a test server behind it, which answers at once.
package struct VirtualShield: ~Copyable {
  package var driver: VirtualDriver
  package var downstream = TestServer(.agreeable)
  /// In ascending order.
  private var served: [Int] = []
  private var dialledBefore = 0

  package init(driver: consuming VirtualDriver) { self.driver = driver }

  /// Lets the downstream hear and answer until nothing more happens now.
  package mutating func settle() {
    var again = true
    while again {
      again = false
      while dialledBefore < driver.dialled.count {
        let id = driver.dialled[dialledBefore]
        dialledBefore += 1
        guard driver.takesConnection(id) else { continue }
        if !served.contains(id) {
          served.insert(id, at: served.firstIndex { $0 > id } ?? served.count)
        }
        if downstream.knows(id) { downstream.gone(id) }
        downstream.connected(id, now: driver.now.microseconds)
        obey()
        again = true
      }
      for id in served
      where !driver.sockets[id].outbound.isEmpty || !driver.sockets[id].isOpen {
        let (bytes, _) = driver.heard(id)
        if !bytes.isEmpty {
          again = true
          downstream.received(id, bytes.span, now: driver.now.microseconds)
          obey()
        }
        if !driver.sockets[id].isOpen {
          served.removeAll { $0 == id }
          downstream.gone(id)
        }
      }
    }
  }

  /// Carries out what the server does, without its delays.
  private mutating func obey() {
    let replies = downstream.replies
    downstream.replies.removeAll()
    for reply in replies {
      if !reply.text.isEmpty { driver.say(reply.session, reply.text) }
      if reply.then != .goOn { driver.end(reply.session) }
    }
  }

  /// Lets time pass in steps short enough for the downstream to answer on the way.
  package mutating func advance(to end: Instant) {
    settle()
    while driver.now < end {
      let due = driver.engine.nextDeadline(now: driver.now)
      driver.advance(to: min(max(due, driver.now + .milliseconds(1)), end))
      settle()
    }
  }

  package mutating func advance(by duration: Duration) { advance(to: driver.now + duration) }
}
