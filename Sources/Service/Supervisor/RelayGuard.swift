// SPDX-License-Identifier: Apache-2.0
//
// What an answer of the downstream means for the service: it is told, and where something is still to be learnt the
// downstream is asked on. Not the asking (`Preflight`, `RelayWatch`), and not what is done about an open relay.

package import Configuration
import Logging
import Policy

package struct RelayGuard: Sendable {
  private let watch: RelayWatch
  private let announcer: Announcer

  package init(_ watch: RelayWatch, _ announcer: Announcer) {
    self.watch = watch
    self.announcer = announcer
  }

  /// Says what came of asking. One that gave no answer is asked again later.
  ///
  /// - Parameter isGuarded: whether there must be no open relay behind what is, or is to be, in force.
  /// - Returns: false if there is one, and must not be.
  func heed(_ preflight: Preflight, isGuarded: Bool) -> Bool {
    announcer.tell(preflight)
    if preflight.isOpenRelay && isGuarded { return false }
    watch.stop()
    if preflight.isOpen {
      let end = isGuarded ? "; if it relays for strangers, sluice will stop" : ""
      announcer.logger.notice("the downstream is probed again until it answers\(end)")
      watch.begin(after: preflight)
    }
    return true
  }

  /// It has moved: whether it relays there nobody knows yet.
  func askAnew() { watch.begin(after: nil) }

  /// What was found since, if it is news; once.
  func take() -> Preflight? { watch.take() }

  func stop() { watch.stop() }
}

extension Configuration {
  /// Whether it must not be in force in front of an open relay.
  package var isGuarded: Bool { policy.mode == .enforce && !downstream.allowsOpenRelay }
}
