// SPDX-License-Identifier: Apache-2.0
// What another process takes: memory and CPU, from /proc. Bounded: two small files a look, and whoever asks looks
// once a second. Not the kernel's memory for its sockets, which belongs to no process.

import Foundation
import Glibc

/// A process that is looked at.
package struct ProcessSample {
  package struct Look: Sendable, Equatable {
    /// Bytes; PSS where the kernel says it, which shares out what several processes have.
    var rss = 0
    var pss = 0
    /// Microseconds of CPU since the process began.
    var cpu = 0
    var memory: Int { pss > 0 ? pss : rss }
  }

  package let process: Int32

  package init(process: Int32) { self.process = process }

  /// nil if there is no such process or we may not look at it.
  package func look() -> Look? {
    guard let stat = read("stat") else { return nil }
    // The name in brackets may hold anything: fields are counted from its end.
    guard let end = stat.lastIndex(of: ")") else { return nil }
    let fields = stat[stat.index(after: end)...].split(separator: " ")
    guard fields.count > 21, let user = Int(fields[11]), let system = Int(fields[12]),
      let pages = Int(fields[21])
    else { return nil }
    var look = Look()
    let ticks = max(sysconf(Int32(_SC_CLK_TCK)), 1)
    look.cpu = (user + system) * 1_000_000 / ticks
    look.rss = pages * sysconf(Int32(_SC_PAGESIZE))
    for line in (read("smaps_rollup") ?? "").split(separator: "\n") where line.hasPrefix("Pss:") {
      let words = line.split(separator: " ")
      if words.count > 1, let kilobytes = Int(words[1]) { look.pss = kilobytes * 1_024 }
    }
    return look
  }

  /// Sockets that it has open; nil if we may not look.
  package var sockets: Int? {
    guard let folder = opendir("/proc/\(process)/fd") else { return nil }
    defer { closedir(folder) }
    var count = 0
    var text = [CChar](repeating: 0, count: 16)
    while let entry = readdir(folder) {
      let length = withUnsafePointer(to: &entry.pointee.d_name) { name in
        name.withMemoryRebound(to: CChar.self, capacity: 256) {
          readlinkat(dirfd(folder), $0, &text, text.count)
        }
      }
      if length > 7 && text.prefix(7).elementsEqual("socket:".utf8.map { CChar($0) }) { count += 1 }
    }
    return count
  }

  private func read(_ name: String) -> String? {
    let descriptor = open("/proc/\(process)/\(name)", O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return nil }
    defer { close(descriptor) }
    var bytes = [UInt8](repeating: 0, count: 8_192)
    let count = Glibc.read(descriptor, &bytes, bytes.count)
    return count > 0 ? String(decoding: bytes[..<count], as: UTF8.self) : nil
  }
}
