// SPDX-License-Identifier: Apache-2.0
// Where `sluice flood run` may go, and which source a client has on its way there. Not a firewall: it looks at
// the address it was given before the first connect. Kept: without the long option no packet leaves the machine.

import Foundation
import Glibc
package import Structures
import Uring

/// `ADDRESS:PORT` or `[ADDRESS]:PORT`; names are not looked up, so that nobody's resolver decides who is flooded.
package struct FloodTarget: Sendable, Equatable {
  package var address: Address
  package var port: UInt16

  package init?(_ text: String) {
    guard let colon = text.lastIndex(of: ":"),
      let port = UInt16(text[text.index(after: colon)...]), port > 0
    else { return nil }
    var host = text[..<colon]
    if host == "localhost" { host = "127.0.0.1" }
    let isBracketed = host.hasPrefix("[") && host.hasSuffix("]")
    if isBracketed { host = host.dropFirst().dropLast() }
    guard let address = Address(host), isBracketed == host.contains(":") else { return nil }
    self.address = address
    self.port = port
  }

  /// 10.0.0.0/8 or fd00::/8: what a network namespace for a flood has.
  package var isOfNamespace: Bool {
    address.isIPv4 ? address.v4 >> 24 == 10 : address.high >> 56 == 0xFD
  }

  /// Why it must not be flooded; nil if it may.
  ///
  /// - Parameter isInNamespace: somebody made a network namespace for this; it is looked at, not believed.
  package func objection(isInNamespace: Bool) -> String? {
    if address.isLoopback { return nil }
    if isOfNamespace && isInNamespace {
      if NetworkNamespace.isInits {
        return "--namespace, but this is the network namespace of the machine: use scripts/flood"
      }
      if !NetworkNamespace.hasOnlyLoopback {
        return "--namespace, but this one has interfaces other than lo: packets could leave it"
      }
      return nil
    }
    return
      "flood connects to loopback only (127.0.0.0/8, ::1), or inside a dedicated network namespace, and "
      + "\(address) is neither. Loading a server without its owner's permission does harm, and may be a crime. "
      + "For your own server: --i-own-this-server-and-may-load-it"
  }
}

/// The network namespace we are in.
package enum NetworkNamespace {
  /// Whether it is that of process 1. Who may not look there (no root) has `hasOnlyLoopback` alone.
  package static var isInits: Bool {
    func name(_ path: String) -> String? {
      var text = [CChar](repeating: 0, count: 64)
      let count = readlink(path, &text, text.count)
      if count <= 0 { return nil }
      return String(decoding: text[..<count].map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
    guard let ours = name("/proc/self/ns/net") else { return true }
    return ours == name("/proc/1/ns/net")
  }

  /// No interface but lo: nothing sent here gets out.
  package static var hasOnlyLoopback: Bool {
    guard let text = try? String(contentsOfFile: "/proc/self/net/dev", encoding: .utf8) else {
      return false
    }
    let names = text.split(separator: "\n").dropFirst(2).map { line in
      line.prefix { $0 != ":" }.trimmingCharacters(in: .whitespaces)
    }
    return names == ["lo"]
  }
}

/// The targets of a flood: one, or one of each family.
package struct FloodTargets: Sendable {
  package var v4: FloodTarget?
  package var v6: FloodTarget?
  /// Clients come from addresses of their own; off where the target is foreign and so would they be.
  package var bindsSources = true

  /// None yet.
  package init() {}

  /// The first octet of all IPv4 sources.
  package var firstOctet: UInt8 {
    if let v4, v4.address.v4 >> 24 == 10 { return 10 }
    return 127
  }

  /// From where to where a client's connection goes: to the target of its family, else to the other one from an
  /// address made from its own.
  package func way(_ client: Address) -> (source: Address, target: FloodTarget) {
    if let v4, client.isIPv4 || v6 == nil {
      if client.isIPv4 { return (client, v4) }
      let network = UInt32(truncatingIfNeeded: client.high) & 0xFFFF
      let host = UInt32(truncatingIfNeeded: client.low) & 0xFF
      return (Address(v4: UInt32(firstOctet) << 24 | network << 8 | host), v4)
    }
    guard let v6 else { invariantFailed("a flood without a target") }
    // ::1 is the only IPv6 loopback.
    if v6.address.isLoopback { return (v6.address, v6) }
    if !client.isIPv4 { return (client, v6) }
    let network = UInt64(client.v4 >> 8 & 0xFFFF)
    return (Address(high: 0xFD00_0000_0000_0000 | network, low: UInt64(client.v4 & 0xFF)), v6)
  }
}
