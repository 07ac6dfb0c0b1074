// SPDX-License-Identifier: Apache-2.0
//
// Whether mail for the downstream would come back to one of our own listeners. For an address; names are resolved by
// callers that may wait for that.

package import Glibc
import Policy
package import Structures

extension Configuration {
  /// Whether a downstream somewhere on this machine could be a listener of ours: else its name need not be resolved.
  package var mayCircle: Bool { listeners.contains { $0.port == downstream.port } }

  /// What is wrong with a downstream at this address; nil if connections to it do not come back to us.
  package func circle(at address: Address) -> String? {
    // The kernel connects to itself there.
    let target =
      address == Address(v4: 0)
      ? Address(v4: 0x7F00_0001)
      : address == Address(high: 0, low: 0) ? Address(high: 0, low: 1) : address
    let reached = listeners.first { listener in
      guard listener.port == downstream.port else { return false }
      if listener.address == target { return true }
      return listener.isWildcard && listener.address.isIPv4 == target.isIPv4
        && (target.isLoopback || policy.ownAddresses.contains(target) || isOfThisMachine(target))
    }
    guard let listener = reached else { return nil }
    let place = Address(downstream.host) == nil ? " (\(address))" : ""
    return
      "the downstream \(downstream.text)\(place) is Sluice's own listener \(listener.text): mail would loop"
  }

  package static let circleHint =
    "write the mail server's address; on the same machine it needs another port"
}

/// Whether an interface has it. By the list of them: binding to it proves nothing where `ip_nonlocal_bind` is set.
private func isOfThisMachine(_ address: Address) -> Bool {
  var list: UnsafeMutablePointer<ifaddrs>?
  guard getifaddrs(&list) == 0 else { return false }
  defer { freeifaddrs(list) }
  var next = list
  while let entry = next {
    if let place = entry.pointee.ifa_addr, addressOf(place) == address { return true }
    next = entry.pointee.ifa_next
  }
  return false
}

/// The address in a sockaddr; nil where it is of another family than IPv4 and IPv6.
package func addressOf(_ place: UnsafeMutablePointer<sockaddr>) -> Address? {
  let family = Int32(place.pointee.sa_family)
  guard family == AF_INET || family == AF_INET6 else { return nil }
  let length = family == AF_INET ? MemoryLayout<sockaddr_in>.size : MemoryLayout<sockaddr_in6>.size
  var text = [CChar](repeating: 0, count: Int(NI_MAXHOST))
  guard
    getnameinfo(
      place, socklen_t(length), &text, socklen_t(text.count), nil, 0, NI_NUMERICHOST) == 0
  else { return nil }
  return Address(
    String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self))
}
