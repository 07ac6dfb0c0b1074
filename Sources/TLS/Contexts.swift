// SPDX-License-Identifier: Apache-2.0

/// The contexts a worker's handshakes are made from. Sessions keep the one they began with.
package struct TLSContexts: Sendable {
  /// By listener; nil where Sluice ends no TLS.
  package var servers: [TLSServerContext?]
  /// For the downstream; nil where there is no TLS.
  package var client: TLSClientContext?

  /// Whether any connection may come to TLS.
  package var isSecure: Bool { client != nil || servers.contains { $0 != nil } }

  package init(servers: [TLSServerContext?] = [], client: TLSClientContext? = nil) {
    self.servers = servers
    self.client = client
  }
}
