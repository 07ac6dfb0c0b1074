// SPDX-License-Identifier: Apache-2.0
import Flow
import Policy
import Shield
import Structures

// `listeners: [{address, role, tls, proxy_protocol}]`: where clients connect.
extension ConfigurationReader {
  private static let listenerExample = "[{address: \"0.0.0.0:25\", role: inbound}]"

  mutating func readListeners(_ node: ConfigNode) throws(BadValue) {
    guard case .list(let nodes) = node.content else {
      throw BadValue(
        reason: "found \(node.kind) instead of a list of listeners",
        hint: "write \(ConfigurationReader.listenerExample)")
    }
    if nodes.isEmpty {
      throw BadValue(
        reason: "without a listener no client can connect",
        hint: "write \(ConfigurationReader.listenerExample)")
    }
    var listeners: [(listener: Listener, place: SourcePosition, tlsPlace: SourcePosition?)] = []
    for item in nodes {
      guard let (listener, tlsPlace) = readListener(item) else { continue }
      if let other = listeners.first(where: { $0.listener.overlaps(listener) }) {
        let line = other.place.line > 0 ? " in line \(other.place.line)" : ""
        let isSame = other.listener.address == listener.address
        problems.add(
          .error, at: item.place,
          "\(listener.text) \(isSame ? "is the same as" : "overlaps with") "
            + "\(other.listener.text)\(line): it would be random which of them accepts a client",
          isSame ? "delete one of them" : "write single addresses, or only the wildcard")
      }
      listeners.append((listener, item.place, tlsPlace))
    }
    draft.listeners = listeners.map(\.listener)
    tlsPlaces = listeners.map(\.tlsPlace)
  }

  private mutating func readListener(
    _ node: ConfigNode
  ) -> (listener: Listener, tlsPlace: SourcePosition?)? {
    guard case .map(let members) = node.content else {
      let hint =
        if case .scalar(let text) = node.content {
          "write {address: \"\(text)\", role: inbound}"
        } else {
          "write {address: \"0.0.0.0:25\", role: inbound}"
        }
      problems.add(.error, at: node.place, "found \(node.kind) instead of a listener", hint)
      return nil
    }
    var endpoint: (text: String, address: Address, port: UInt16)?
    var role = Role.inbound
    var tls: (mode: ListenerTLS, place: SourcePosition)?
    var balancers: [Prefix]?
    for member in members {
      do throws(BadValue) {
        switch member.name {
        case "address":
          let text = try Setting.text(member.value, "an address such as 0.0.0.0:25")
          let read = try Form.endpoint(text, allowsName: false)
          if let address = read.address { endpoint = (text, address, read.port) }
        case "role":
          let text = try Setting.text(member.value, "inbound or outbound")
          role = try Form.choice(text, Role.words) == 0 ? .inbound : .outbound
        case "tls":
          let words = ListenerTLS.allCases.map(\.rawValue)
          let text = try Setting.text(member.value, words.joined(separator: " or "))
          tls = (ListenerTLS.allCases[try Form.choice(text, words)], member.value.place)
        case "proxy_protocol": balancers = try readBalancers(member.value)
        default:
          problems.add(
            .error, at: member.place,
            "unknown key '\(ConfigNode.cut(member.name))' in a listener",
            hint(for: member.name, among: ["address", "role", "tls", "proxy_protocol"]))
        }
      } catch {
        problems.add(.error, at: member.value.place, error.reason, error.hint)
      }
    }
    if !members.contains(where: { $0.name == "address" }) {
      problems.add(
        .error, at: node.place, "a listener without an address",
        "write {address: \"0.0.0.0:25\", role: inbound}")
    }
    guard let endpoint else { return nil }
    let listener = Listener(
      address: endpoint.address, port: endpoint.port, role: role, text: endpoint.text,
      balancers: balancers, tls: tls?.mode)
    return (listener, tls?.place)
  }
}
