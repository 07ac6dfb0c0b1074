// SPDX-License-Identifier: Apache-2.0
package import Structures

// `proxy_protocol: {from: [...]}` of a listener: the load balancers that may say who a client is.
extension ConfigurationReader {
  private static let balancerExample = "proxy_protocol: {from: [10.0.0.0/24]}"

  /// - Returns: nil if nothing in it can be used; what is wrong is among the problems.
  mutating func readBalancers(_ node: ConfigNode) throws(BadValue) -> [Prefix]? {
    guard case .map(let members) = node.content else {
      throw BadValue(
        reason: "\(node.kind) does not say who may send a PROXY header",
        hint: "write \(ConfigurationReader.balancerExample)")
    }
    var found: [Prefix]?
    for member in members {
      guard member.name == "from" else {
        problems.add(
          .error, at: member.place,
          "unknown key '\(ConfigNode.cut(member.name))' in 'proxy_protocol'",
          "write \(ConfigurationReader.balancerExample)")
        continue
      }
      found = try readList(member.value, "networks") { (word) throws(BadValue) in
        try Form.network(word)
      }
    }
    guard let found, !found.isEmpty else {
      if problems.sorted.hasErrors { return nil }
      throw BadValue(
        reason: "without load balancers no client could connect to this listener",
        hint: "write \(ConfigurationReader.balancerExample)")
    }
    return found
  }
}

extension Form {
  /// A network of load balancers: `192.0.2.1`, `192.0.2.0/24`, `2001:db8::/64`.
  static func network(_ text: String) throws(BadValue) -> Prefix {
    func bad(_ reason: String, _ hint: String) -> BadValue {
      BadValue(reason: "'\(ConfigNode.cut(text))' \(reason)", hint: hint)
    }
    let parts = text.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
    guard let address = Address(parts[0]) else {
      throw bad("is not an address or network", "write one such as 10.0.0.0/24")
    }
    if parts.count == 1 {
      guard let prefix = Prefix(address, length: address.width) else {
        throw bad("is not an address", "write one such as 10.0.0.1")
      }
      return prefix
    }
    guard let length = Int(parts[1]), (0...address.width).contains(length), parts[1].first != "+"
    else {
      throw bad(
        "has no prefix length from 0 to \(address.width)", "write \(address)/\(address.width)")
    }
    if length == 0 {
      throw bad(
        "lets any client claim any address", "write the addresses of the load balancers")
    }
    guard let prefix = Prefix(address, length: length) else {
      throw bad(
        "has bits set after its prefix length", "write \(address.network(length))/\(length)")
    }
    return prefix
  }
}

extension Listener {
  /// The load balancers as the engine looks them up; nil where clients come by themselves.
  package var balancerTable: PrefixTable? {
    balancers.map { PrefixTable(Array(Set($0)).map { ($0, 0) }) }
  }

  /// The words behind the role, for `dump`.
  var balancerText: String {
    guard let balancers else { return "" }
    let all = balancers.map { "\"\($0)\"" }.joined(separator: ", ")
    return ", proxy_protocol: {from: [\(all)]}"
  }
}
