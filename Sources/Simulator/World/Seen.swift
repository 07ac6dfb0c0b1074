// SPDX-License-Identifier: Apache-2.0

/// What of a client's connection has arrived at the shield. The crowd answers with it, and the sockets find the next
/// fact by it.
struct Seen: BitwiseCopyable {
  var isReset: Bool
  var hasEnded: Bool
  /// There are lines to read.
  var hasSaid: Bool
}
