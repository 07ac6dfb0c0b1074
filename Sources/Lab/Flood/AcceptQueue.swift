// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import Structures
import Uring

/// How many connections wait for the server's accept, from the kernel's list.
struct AcceptQueue {
  /// As /proc/net/tcp writes the port, with its colon.
  private let port: [UInt8]
  private let path: String

  init(_ target: SocketAddress) {
    let digits = String(target.port, radix: 16, uppercase: true)
    port = Array((":" + String(repeating: "0", count: 4 - digits.count) + digits).utf8)
    path = target.address.isIPv4 ? "/proc/net/tcp" : "/proc/net/tcp6"
  }

  /// The longest of the listeners on that port; 0 if it cannot be told. Listeners come first in the list,
  /// so reading ends at the first line that is none, and a million connections do not make it slow.
  var length: Int {
    let descriptor = Glibc.open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return 0 }
    defer { close(descriptor) }
    var longest = 0
    var line: [UInt8] = []
    var number = 0
    let size = 4_096
    return withUnsafeTemporaryAllocation(byteCount: size, alignment: 1) { piece in
      // 1,024 workers of 150 bytes each fit into 64 pieces.
      for _ in 0..<64 {
        let count = Glibc.read(descriptor, piece.baseAddress, size)
        if count <= 0 { break }
        for byte in piece[..<count] {
          if byte != UInt8(ascii: "\n") {
            line.append(byte)
            continue
          }
          number += 1
          if number > 1 {
            let fields = line.split(separator: UInt8(ascii: " "))
            guard fields.count > 4, fields[3].elementsEqual("0A".utf8) else { return longest }
            if fields[1].suffix(5).elementsEqual(port) {
              let waiting = Int(String(decoding: fields[4].suffix(8), as: UTF8.self), radix: 16)
              longest = max(longest, waiting ?? 0)
            }
          }
          line.removeAll(keepingCapacity: true)
        }
      }
      return longest
    }
  }
}
