// SPDX-License-Identifier: Apache-2.0
//
// Where the mail server behind is: the addresses of its name, looked up in a thread of its own, because getaddrinfo(3)
// waits as long as it likes. Looked up again while the server does not answer and when the operator says so (HUP). Not
// the judge of what is found: that is for whoever takes it. Kept: there is always at least one address, and one look-up
// at a time.

import Configuration
import Glibc
import Policy
package import Structures
import Synchronization

package final class HostAddresses: Sendable {
  /// In microseconds.
  package struct Pace: Sendable {
    /// After the server has not answered; then twice as long each time.
    package var first: Int64 = 5_000_000
    package var most: Int64 = 60_000_000

    package init() {}
  }

  private struct State {
    var current: [Address]
    var found: [Address]?
    var isLooking = false
    /// Asked for while a look-up was under way, whose answer may be older than the question.
    var isWantedAgain = false
    var pause: Int64
    var next: Int64?
  }

  private let host: String
  private let pace: Pace
  private let resolver: @Sendable (String) -> [Address]
  private let state: Mutex<State>

  /// - Parameters:
  ///   - host: a name, or an address, which is never looked up.
  ///   - found: what was found for it; at least one.
  package init(
    _ host: String, found: [Address], pace: Pace = Pace(),
    resolver: @escaping @Sendable (String) -> [Address] = addresses(of:)
  ) {
    invariant(!found.isEmpty, "a host without an address")
    self.host = host
    self.pace = pace
    self.resolver = resolver
    state = Mutex(State(current: found, pause: pace.first))
  }

  package var current: [Address] { state.withLock { $0.current } }

  /// Looks the name up now.
  package func lookUp() {
    if Address(host) != nil { return }
    let begins = state.withLock { state in
      if state.isLooking { state.isWantedAgain = true }
      defer { state.isLooking = true }
      return !state.isLooking
    }
    guard begins else { return }
    do throws(ThreadError) { try startThread { self.run() } } catch {
      // The next question tries again.
      state.withLock { $0.isLooking = false }
    }
  }

  /// To be called a few times a second: looks the name up when the server has not answered for a while.
  ///
  /// - Parameters:
  ///   - isFailing: whether the last probe failed.
  ///   - now: any clock, in microseconds.
  package func attend(isFailing: Bool, now: Int64) {
    let isDue = state.withLock { state in
      guard isFailing else {
        state.pause = pace.first
        state.next = nil
        return false
      }
      guard let next = state.next else {
        // At once: it may have moved.
        state.next = now + state.pause
        return true
      }
      if now < next { return false }
      state.pause = min(2 * state.pause, pace.most)
      state.next = now + state.pause
      return true
    }
    if isDue { lookUp() }
  }

  /// The addresses found since, if they are others than those in use, which they take the place of; once.
  ///
  /// - Parameter isUsable: which of them may be made use of.
  package func take(where isUsable: (Address) -> Bool) -> [Address]? {
    guard
      let found = state.withLock({ state in
        defer { state.found = nil }
        return state.found
      })?.filter(isUsable), !found.isEmpty
    else { return nil }
    return state.withLock { state in
      // In another order they are the same: name servers turn them round.
      if Set(found) == Set(state.current) { return nil }
      state.current = found
      return found
    }
  }

  private func run() {
    var again = true
    while again {
      let found = resolver(host)
      again = state.withLock { state in
        // A name server that is away takes nothing back.
        if !found.isEmpty { state.found = found }
        defer { state.isWantedAgain = false }
        state.isLooking = state.isWantedAgain
        return state.isWantedAgain
      }
    }
  }
}

/// The addresses of a host, at most `Server.addressesMost`: itself if it is one, else what the resolver says, in its order
/// (RFC 6724). None if there is none. Waits for the resolver.
package func addresses(of host: String) -> [Address] {
  if let address = Address(host) { return [address] }
  let found = lookUp(host)
  // /etc/hosts knows no names with a dot at the end.
  return found.isEmpty && host.hasSuffix(".") ? lookUp(String(host.dropLast())) : found
}

private func lookUp(_ host: String) -> [Address] {
  var hints = addrinfo()
  hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
  var list: UnsafeMutablePointer<addrinfo>?
  guard getaddrinfo(host, nil, &hints, &list) == 0 else { return [] }
  defer { freeaddrinfo(list) }
  var found: [Address] = []
  var next = list
  while let entry = next, found.count < Server.addressesMost {
    if let place = entry.pointee.ai_addr, let address = addressOf(place), !found.contains(address) {
      found.append(address)
    }
    next = entry.pointee.ai_next
  }
  return found
}
