// SPDX-License-Identifier: Apache-2.0
package import Policy
package import TLS

extension TLSContexts {
  /// What a configuration asks for, with the ticket keys of what was in force before, so that a reload breaks no
  /// session's resumption.
  ///
  /// - Parameters:
  ///   - listeners: those that are open, in their order.
  ///   - modes: how each comes to TLS.
  ///   - downstream: the one in force, which a reload does not change.
  package init(
    _ configuration: Configuration, listeners: [Listener], modes: [ListenerTLS],
    downstream: Downstream, before: TLSContexts? = nil
  ) throws(TLSContextError) {
    var servers: [TLSServerContext?] = []
    for (number, listener) in listeners.enumerated() {
      guard modes[number] == .starttls || modes[number] == .implicit,
        !configuration.tls.certificates.isEmpty
      else {
        servers.append(nil)
        continue
      }
      var keys: TLSTicketKeys?
      if configuration.tls.ticketRotation != nil {
        let old = before.flatMap { number < $0.servers.count ? $0.servers[number] : nil }
        let fresh = configuration.tls.ticketKeys()
        // Of another time, tickets of before are worth a whole handshake each, and no more.
        keys = old?.ticketKeys?.rotation == fresh?.rotation ? old?.ticketKeys : fresh
      }
      servers.append(
        try TLSServerContext(configuration.tls.serverSettings(for: listener), ticketKeys: keys))
    }
    var client: TLSClientContext?
    if let settings = downstream.clientSettings { client = try TLSClientContext(settings) }
    self.init(servers: servers, client: client)
  }
}
