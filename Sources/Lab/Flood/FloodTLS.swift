// SPDX-License-Identifier: Apache-2.0

import Configuration
import Structures
import TLS

/// TLS for a thread's clients.
struct FloodTLS {
  /// Made for the first that wants TLS; of all, because they differ in nothing that is in it.
  private var context: TLSClientContext?

  /// A client's side of a handshake that begins; nil if there can be none.
  mutating func line() -> TLSLine? {
    if context == nil {
      var settings = TLSClientSettings(level: .opportunistic, name: nil)
      // Clients are hosts of their own: none has another's tickets.
      settings.resumes = false
      do { context = try TLSClientContext(settings) } catch {
        StandardError.write("TLS is not available: \(error)")
      }
    }
    guard let context, let line = TLSLine(context) else { return nil }
    _ = line.advance(Span())
    return line
  }
}
