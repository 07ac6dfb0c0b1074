// SPDX-License-Identifier: Apache-2.0
import Structures

/// A session's output: replies that are not sent yet, in the session's outbox region.
struct Outbox: BitwiseCopyable, Sendable {
  /// Bytes at `start..<end` of the region are not sent yet.
  private var start: Int32 = 0
  private var end: Int32 = 0
  /// How many of them, at the end, wait for a delay: the reply to a recipient whose downstream was let go.
  private var held: Int32 = 0
  /// A send is outstanding.
  private(set) var isSending = false

  /// Whether all is out.
  var isEmpty: Bool { start == end }
  /// Whether a reply waits in it for its time.
  var holdsReply: Bool { held > 0 }
  /// Whether nothing has been put into it since it was last emptied.
  var isReset: Bool { end == 0 }
  /// Octets for which there is room.
  var room: Int { Layout.outboxBytes - Int(end) }

  /// Where the next octets go.
  func free(in region: Region) -> Region { region.from(Int(end)) }

  /// `count` octets were put there.
  mutating func append(_ count: Int) { end += Int32(count) }

  /// The last `count` octets wait for a delay; 0 lets them go.
  mutating func hold(_ count: Int) { held = Int32(count) }

  /// Whether there is something to be sent now: nothing is being sent, and something is not held back.
  @inline(__always)
  var mayGo: Bool { !isSending && end - held - start > 0 }

  /// What is to be sent now; there is something.
  mutating func send(from region: Region) -> Region {
    let count = end - held - start
    isSending = true
    return Region(offset: region.offset + Int(start), count: Int(count))
  }

  /// `count` octets are out.
  mutating func sent(_ count: Int) {
    isSending = false
    start += Int32(count)
    if start == end {
      start = 0
      end = 0
    }
  }
}
