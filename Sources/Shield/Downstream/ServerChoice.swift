// SPDX-License-Identifier: Apache-2.0

/// Which of the downstream's addresses is tried first, and which after it (RFC 5321, 5.1: all of them in turn). They
/// are numbers here; what they stand for is the driver's.
struct ServerChoice: Sendable {
  let count: Int
  /// The one that a connection begins with: the last that answered, as far as is known.
  private(set) var first = 0

  /// - Parameter count: how many there are, at least 1.
  init(count: Int) { self.count = count }

  func next(after server: Int) -> Int { (server + 1) % count }

  /// A connection to it could not be made: the next one begins elsewhere.
  mutating func failed(_ server: Int) {
    if server == first { first = next(after: server) }
  }
}
