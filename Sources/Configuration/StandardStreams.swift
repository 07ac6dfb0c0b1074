// SPDX-License-Identifier: Apache-2.0
//
// Lines for the person at the terminal, by write(2). Not the log: that never waits (`LogSink`). Keeps: a stream that
// nobody reads, that is full or that was closed before the start ends no process of ours.

import Glibc

/// Lines for the operator, on standard error. What cannot be written is lost: there is no other place to say so.
package enum StandardError {
  package static func write(_ line: String) {
    _ = StandardStreams.write(line + "\n", to: STDERR_FILENO)
  }
}

package enum StandardStreams {
  /// Opens what was closed (`2>&-`) to nothing. Otherwise the next file or socket gets the number of standard error,
  /// and our words go into it.
  package static func open() {
    for descriptor in STDIN_FILENO...STDERR_FILENO
    where fcntl(descriptor, F_GETFD) < 0 && errno == EBADF {
      // The lowest free number is this one: those below are open.
      _ = Glibc.open("/dev/null", O_RDWR)
    }
  }

  /// Writes all of a text, waiting where a pipe is full.
  ///
  /// - Returns: 0, or the errno of what went wrong. SIGPIPE does what the process has set it to.
  package static func write(_ text: String, to descriptor: Int32) -> Int32 {
    var text = text
    return text.withUTF8 { bytes in
      var rest = UnsafeRawBufferPointer(bytes)
      while rest.count > 0 {
        let count = Glibc.write(descriptor, rest.baseAddress, rest.count)
        if count >= 0 {
          rest = UnsafeRawBufferPointer(rebasing: rest[count...])
        } else if errno == EAGAIN {
          // Another process that shares it has made it so.
          var wanted = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
          poll(&wanted, 1, -1)
        } else if errno != EINTR {
          return errno
        }
      }
      return 0
    }
  }
}
