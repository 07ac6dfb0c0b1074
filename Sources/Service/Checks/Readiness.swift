// SPDX-License-Identifier: Apache-2.0
//
// What `serve` takes from the machine at its start, taken for a moment and given back: so that `check` finds what a start
// would find. Nothing is written and nothing listens. Kept: each obstacle has the words and the code that `serve` would end
// with.

import Driver
package import Configuration
import Glibc
import Policy
import Shield
import TLS
import Uring

package struct Readiness: Sendable {
  package struct Obstacle: Error, Sendable, Equatable {
    package let text: String
    /// sysexits(3), as of `serve`.
    package let exitCode: Int32
  }

  /// What a start would fail at.
  package private(set) var obstacles: [Obstacle] = []
  /// What looks like an obstacle and is none.
  package private(set) var notes: [String] = []

  /// - Parameter configuration: a good one; the limit on open files must have been raised as `serve` does.
  package init(_ configuration: Configuration) {
    if case .file(let path) = configuration.log.destination { tryLog(path) }
    for listener in configuration.listeners { tryListener(listener) }
    do throws(TLSContextError) {
      _ = try TLSContexts(
        configuration, listeners: configuration.listeners,
        modes: configuration.listeners.map(\.tls), downstream: configuration.downstream)
    } catch {
      obstacles.append(Obstacle(text: "TLS: \(error.reason)", exitCode: 78))
    }
    tryRings(configuration)
  }

  private mutating func tryLog(_ path: String) {
    do throws(LogFailure) {
      try LogSink.tryOut(path)
    } catch {
      obstacles.append(Obstacle(text: "\(error)", exitCode: LogFailure.exitCode))
    }
  }

  private mutating func tryListener(_ listener: Listener) {
    do throws(ListenError) {
      try ListeningSocket.tryBinding(listener.address, port: listener.port)
    } catch {
      let failure = ServiceError.listen(error)
      guard error.errno == EADDRINUSE else {
        obstacles.append(Obstacle(text: "\(failure)", exitCode: failure.exitCode))
        return
      }
      let holders = PortHolder.find(port: listener.port)
      if let service = holders.first, holders.allSatisfy(\.isService) {
        notes.append("\(listener.text) is held by the running Sluice (process \(service.pid))")
        return
      }
      let who =
        holders.first { !$0.isService }.map { " It is held by \($0.name) (process \($0.pid))." }
        ?? " This user cannot see which process holds it; if it is the running Sluice, check as root."
      obstacles.append(Obstacle(text: "\(failure)\(who)", exitCode: failure.exitCode))
    }
  }

  /// All rings at once, as the workers have them: locked memory is limited for all together.
  private mutating func tryRings(_ configuration: Configuration) {
    let share = configuration.limits.share(of: configuration.workers)
    var rings: [RingTrial] = []
    do throws(RingError) {
      for _ in 0..<configuration.workers {
        rings.append(
          try RingTrial(
            entries: Limits.ringEntries(workers: configuration.workers),
            slots: share.connections + share.downstreamConnections, buffers: share.receiveBuffers))
      }
    } catch {
      let failure = ServiceError.ring(error)
      obstacles.append(Obstacle(text: "\(failure)", exitCode: failure.exitCode))
    }
    withExtendedLifetime(rings) {}
  }
}

/// A ring as a worker has it, tried with one operation of nothing.
private final class RingTrial {
  private let ring: Ring
  private let buffers: BufferRing

  init(entries: Int, slots: Int, buffers count: Int) throws(RingError) {
    var ring = try Ring(entries: entries, completions: 4 * entries, slots: slots)
    buffers = try BufferRing(ring, group: 1, count: count, bytesEach: DriverSizes.buffer)
    ring.nothing(token: Token(.wake))
    try ring.submitAndWait(for: 1, timeoutMicroseconds: 1_000_000)
    self.ring = ring
  }
}
