// SPDX-License-Identifier: Apache-2.0
//
// The few things done to an ordinary descriptor by system call, between accept and the moment its
// socket moves into the ring's table. Not a second way to do I/O: nothing here waits. Keeps: no call
// blocks, and none raises SIGPIPE.

import Glibc

package enum PlainSocket {
  /// True if the kernel took it.
  @discardableResult
  package static func setOption(
    _ descriptor: Int32, _ level: Int32, _ name: Int32, _ value: Int32
  ) -> Bool {
    var value = value
    return setsockopt(descriptor, level, name, &value, 4) == 0
  }

  /// Zero, or -1 with errno set.
  package static func bind(_ descriptor: Int32, to address: SocketAddress) -> Int32 {
    address.withPointer { Glibc.bind(descriptor, $0, $1) }
  }

  /// Zero, or -1 with errno set; EINPROGRESS on a socket that does not wait.
  package static func connect(_ descriptor: Int32, to address: SocketAddress) -> Int32 {
    address.withPointer { Glibc.connect(descriptor, $0, $1) }
  }

  package static func close(_ descriptor: Int32) { _ = Glibc.close(descriptor) }
}

/// A last short word to a peer that gets no slot.
package enum SyncSend {
  /// Sends `bytes` if the socket takes them at once, and closes. True if all were taken.
  ///
  /// What the peer sent already is read away first (at most 4 KB): closing a socket with unread bytes
  /// sends a reset, and a reset can overtake the refusal.
  @discardableResult
  package static func refuse(_ descriptor: Int32, with bytes: Span<UInt8>) -> Bool {
    let dontWait = Int32(MSG_DONTWAIT)
    let sent = bytes.withUnsafeBytes { raw in
      send(descriptor, raw.baseAddress, raw.count, dontWait | Int32(MSG_NOSIGNAL))
    }
    shutdown(descriptor, Int32(SHUT_WR))
    withUnsafeTemporaryAllocation(byteCount: 4096, alignment: 1) { away in
      _ = recv(descriptor, away.baseAddress, away.count, dontWait)
    }
    PlainSocket.close(descriptor)
    return sent == bytes.count
  }
}
