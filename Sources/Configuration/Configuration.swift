// SPDX-License-Identifier: Apache-2.0
package import Flow
import Foundation
package import Policy
import Shield
package import Structures
package import TLS

/// Everything the operator decides, as one immutable value that is swapped as a whole on reload.
///
/// Not the reading of it (`ConfigurationReader`) nor the list of its keys (`Setting.all`). Kept: a value that
/// somebody holds has been checked as a whole; what is wrong never gets this far.
package struct Configuration: Sendable {
  package internal(set) var policy: Policy
  package internal(set) var limits = Limits()
  package internal(set) var listeners = [Listener.shipped]
  package internal(set) var downstream = Downstream()
  package internal(set) var tables = Tables()
  package internal(set) var lists = ListSection()
  /// The file with the key under which names are remembered; nil for a new key at each start.
  var nameKeyFile: String?
  package internal(set) var nameKey: NameKey?
  package internal(set) var tls = TLSSection()
  package internal(set) var log = LogSettings()
  /// Every file that was read, in the order in which it was: `sluice.yaml`, `conf.d`, tables.
  package internal(set) var files: [String] = []
  /// Where each key was set; a key that has its shipped value because nobody wrote it is not here.
  package internal(set) var origins: [String: SourcePosition] = [:]
  /// What a later reload compares.
  var marks = FileMarks()

  /// As written: nil is `auto`.
  var workersAsked: Int?
  var hostnameAsked: String?
  /// Without the host name and as written, for `dump`.
  var ownNamesAsked: [String] = []
  let environment: Environment

  /// Threads with a ring each.
  package var workers: Int { workersAsked ?? environment.processors }

  /// When it was read, in seconds since the start of 1970: certificates are looked at as of then.
  var now: Int64 { environment.now }

  /// What ships, on this machine: the same as an empty file.
  package init(environment: Environment = .current) {
    self.environment = environment
    policy = Policy(
      access: AccessTable.load(content: [], file: "").table,
      rates: RateTable.load(content: [], file: "").table)
    policy.hostname = environment.machineName
  }

  /// The policy with what the engine must know of the listeners.
  package var enginePolicy: Policy {
    var policy = policy
    policy.listeners = listeners.map(\.terms)
    policy.authOnClear = tls.authOnClear
    policy.timeouts.handshake = tls.handshakeTimeout
    return policy
  }

  /// Plain sentences that an operator should have read once, whatever the file says; printed at start.
  package var cautions: [String] {
    var found = listeners.filter { $0.tls == .passThrough }.map {
      "listener \($0.text) has tls: pass_through: after STARTTLS Sluice cannot see the session. "
        + "Commands are not limited, mail is not counted, and no client becomes known good."
    }
    guard !downstream.terms.introduction.namesClient else { return found }
    // What is said with each transaction ends where we are blind. XCLIENT is said before, stays, and is then refused.
    found += listeners.filter { $0.tls == .passThrough }.map {
      "listener \($0.text) has tls: pass_through, and downstream.identity is \(downstream.terms.introduction.rawValue): after "
        + "STARTTLS \(downstream.text) learns neither the client's address nor its name. If it accepts "
        + "XCLIENT or XFORWARD from Sluice's address, it accepts them from such a client too. "
        + "Set proxy_v2 or proxy_v1 on both sides."
    }
    found += [
      "downstream.identity is \(downstream.terms.introduction.rawValue): \(downstream.text) sees every connection as "
        + "coming from Sluice's own address. If it trusts that address (Postfix: mynetworks), it is an OPEN "
        + "RELAY. Remove that trust, or set proxy_v2, proxy_v1 or xclient on both "
        + "sides. Test it with sluice check --probe-downstream."
    ]
    return found
  }
}

/// What a configuration takes from the machine, as a value so that tests need not depend on theirs.
package struct Environment: Sendable {
  /// What gethostname(2) says.
  package var machineName: String
  /// Processors this process may run on.
  package var processors: Int
  /// Seconds since the start of 1970.
  package var now: Int64
  /// The DNS servers of /etc/resolv.conf.
  package var nameServers: [Address]

  package init(
    machineName: String, processors: Int, now: Int64 = Int64(time(nil)), nameServers: [Address] = []
  ) {
    self.nameServers = nameServers
    self.machineName = machineName
    self.processors = max(processors, 1)
    self.now = now
  }

  package static var current: Environment {
    let name = ProcessInfo.processInfo.hostNameOfMachine
    return Environment(
      machineName: name, processors: ProcessInfo.processInfo.activeProcessorCount,
      nameServers: systemNameServers())
  }
}

extension ProcessInfo {
  /// Without asking DNS, which Foundation's `hostName` may do.
  fileprivate var hostNameOfMachine: String {
    var name = [UInt8](repeating: 0, count: 256)
    let failed = name.withUnsafeMutableBytes { raw in
      raw.withMemoryRebound(to: CChar.self) { text in
        text.baseAddress.map { gethostname($0, text.count - 1) != 0 } ?? true
      }
    }
    let text = String(decoding: name.prefix { $0 != 0 }, as: UTF8.self)
    return failed || text.isEmpty ? "localhost" : text
  }
}

/// An address we accept clients on. One of IPv6 takes IPv6 only: a second one is needed for IPv4.
package struct Listener: Sendable, Equatable {
  package let address: Address
  package let port: UInt16
  package let role: Role
  /// As given.
  package let text: String
  /// The load balancers that alone connect here and say by a PROXY header for whom; nil for none.
  package let balancers: [Prefix]?
  /// As written; nil where nothing is: then it depends on whether there are certificates.
  let tlsAsked: ListenerTLS?
  package internal(set) var tls = ListenerTLS.off

  package init(
    address: Address, port: UInt16, role: Role, text: String, balancers: [Prefix]? = nil,
    tls: ListenerTLS? = nil
  ) {
    self.address = address
    self.port = port
    self.role = role
    self.text = text
    self.balancers = balancers
    tlsAsked = tls
    self.tls = tls ?? .off
  }

  /// The same for the engine.
  package var terms: ListenerTerms {
    ListenerTerms(address: address, port: port, role: role, tls: tls, balancers: balancerTable)
  }

  /// Whether it is open as the other is: all but TLS, which a reload changes.
  package func isOpenLike(_ other: Listener) -> Bool {
    text == other.text && address == other.address && port == other.port && role == other.role
      && balancers == other.balancers
  }

  package static let shipped = Listener(
    address: Address(v4: 0), port: 25, role: .inbound, text: "0.0.0.0:25")

  /// Whether it takes every address of its family.
  package var isWildcard: Bool { address == Address(v4: 0) || address == Address(high: 0, low: 0) }

  /// Whether both would take the same connection.
  func overlaps(_ other: Listener) -> Bool {
    port == other.port && address.isIPv4 == other.address.isIPv4
      && (address == other.address || isWildcard || other.isWildcard)
  }
}

extension Role {
  /// The word in configuration and log.
  package var name: String { self == .inbound ? "inbound" : "outbound" }
  static let words = ["inbound", "outbound"]
}

/// The mail server behind us.
package struct Downstream: Sendable, Equatable {
  /// A name or an address, without brackets; resolved elsewhere.
  package internal(set) var host = "127.0.0.1"
  package internal(set) var port: UInt16 = 10_025
  /// As given.
  package internal(set) var text = "127.0.0.1:10025"
  /// How it is spoken to, by the engine and by our probes.
  package internal(set) var terms = DownstreamTerms(.proxyV2)
  /// Enforce although it relays for strangers.
  package internal(set) var allowsOpenRelay = false
  /// Sent as SNI and looked for in its certificate; nil for `host`, if that is a name.
  package internal(set) var tlsName: String?
  package internal(set) var tlsAuthorities = TLSAuthorities.system

  package init() {}

  /// The same for engine and driver, with its name looked up.
  ///
  /// - Parameter addresses: at least one.
  package func server(at addresses: [Address]) -> Server {
    Server(terms, at: addresses, port: port)
  }
}

/// Where the per-CIDR tables are; nil for none. Absolute, or relative to where the process was started.
package struct Tables: Sendable, Equatable {
  package internal(set) var access: String?
  package internal(set) var rates: String?
}

/// What is logged and where to.
package struct LogSettings: Sendable, Equatable {
  package enum Destination: Sendable, Equatable {
    case stderr
    /// An absolute path.
    case file(String)
  }

  /// The words of swift-log, from the most to the least talkative.
  package static let levels = ["trace", "debug", "info", "notice", "warning", "error", "critical"]

  package internal(set) var level = "info"
  package internal(set) var destination = Destination.stderr
  /// Lines a second of each kind of event; more are counted and summed up.
  package internal(set) var floodLinesPerSecond = 50

  package init() {}
}

/// What the command line says over every file.
package struct Overrides: Sendable, Equatable {
  /// Each `--listen ADDRESS:PORT`; together they replace the listeners of the file.
  package var listen: [String]
  package var downstream: String?
  package var identity: String?
  package var mode: String?
  package var hostname: String?
  /// The file of the access table; a relative path counts from the configuration's folder.
  package var access: String?

  package init(
    listen: [String] = [], downstream: String? = nil, identity: String? = nil,
    mode: String? = nil, hostname: String? = nil, access: String? = nil
  ) {
    self.listen = listen
    self.downstream = downstream
    self.identity = identity
    self.mode = mode
    self.hostname = hostname
    self.access = access
  }

  /// The same as nodes of a file; their positions name the option.
  var node: ConfigNode {
    func at(_ option: String) -> SourcePosition { SourcePosition(file: option, line: 0, column: 0) }
    func map(_ name: String, _ value: ConfigNode) -> ConfigNode {
      let member = ConfigNode.Member(name: name, place: value.place, value: value)
      return ConfigNode(content: .map([member]), place: value.place)
    }
    func text(_ value: String, _ option: String) -> ConfigNode {
      ConfigNode(content: .scalar(value), place: at("\(option) \(ConfigNode.cut(value))"))
    }
    var root = ConfigNode(content: .map([]), place: at("command line"))
    if !listen.isEmpty {
      let all = listen.map { map("address", text($0, "--listen")) }
      let list = ConfigNode(content: .list(all), place: at("--listen"))
      root = root.merged(with: map("listeners", list))
    }
    if let downstream {
      root = root.merged(
        with: map("downstream", map("address", text(downstream, "--downstream"))))
    }
    if let identity {
      root = root.merged(with: map("downstream", map("identity", text(identity, "--identity"))))
    }
    if let mode { root = root.merged(with: map("mode", text(mode, "--mode"))) }
    if let hostname { root = root.merged(with: map("hostname", text(hostname, "--hostname"))) }
    if let access {
      root = root.merged(with: map("tables", map("access", text(access, "--access"))))
    }
    return root
  }
}
