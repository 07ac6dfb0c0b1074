// SPDX-License-Identifier: Apache-2.0
//
// Who listens at a TCP port, out of /proc, as far as this user may see. For words to an operator alone: between the look
// and whatever follows the port may change hands.

import Configuration
import Glibc

struct PortHolder {
  let pid: Int32
  /// The program's name, as the kernel has it (15 letters at most).
  let name: String
  /// It is a `serve` of the program that asks.
  let isService: Bool

  /// All processes that listen at the port at any address; empty if there are none or none that may be looked into.
  static func find(port: UInt16) -> [PortHolder] {
    let sockets = Set(["/proc/net/tcp", "/proc/net/tcp6"].flatMap { listening($0, port) })
    if sockets.isEmpty { return [] }
    let processes = (try? names(in: "/proc", endingIn: "")) ?? []
    let own = text(of: "/proc/self/comm")
    return processes.compactMap { Int32($0) }.compactMap { pid in
      guard holds(pid, sockets) else { return nil }
      let name = text(of: "/proc/\(pid)/comm")
      let words = text(of: "/proc/\(pid)/cmdline").split(separator: "\0")
      return PortHolder(
        pid: pid, name: name, isService: name == own && words.dropFirst().first == "serve")
    }
  }

  /// The inodes of listening sockets in one of the kernel's tables (proc_pid_net(5)).
  private static func listening(_ table: String, _ port: UInt16) -> [String] {
    let hex = String(port, radix: 16, uppercase: true)
    let place = ":" + String(repeating: "0", count: 4 - hex.count) + hex
    return text(of: table).split(separator: "\n").compactMap { line in
      let fields = line.split(separator: " ")
      // 0A is TCP_LISTEN.
      guard fields.count > 9, fields[1].hasSuffix(place), fields[3] == "0A" else { return nil }
      return String(fields[9])
    }
  }

  private static func holds(_ pid: Int32, _ sockets: Set<String>) -> Bool {
    let folder = "/proc/\(pid)/fd"
    guard let descriptors = try? names(in: folder, endingIn: "") else { return false }
    return descriptors.contains { descriptor in
      var room = [CChar](repeating: 0, count: 64)
      let count = readlink("\(folder)/\(descriptor)", &room, room.count)
      guard count > 9 else { return false }
      let target = String(decoding: room[..<count].map { UInt8(bitPattern: $0) }, as: UTF8.self)
      let number = String(target.dropFirst(8).dropLast())
      return target.hasPrefix("socket:[") && sockets.contains(number)
    }
  }

  private static func text(of path: String) -> String {
    guard let bytes = try? readFile(path, bytesMax: 1 << 24) else { return "" }
    let text = String(decoding: bytes, as: UTF8.self)
    return text.last == "\n" && text.filter({ $0 == "\n" }).count == 1
      ? String(text.dropLast()) : text
  }
}
