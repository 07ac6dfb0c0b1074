// SPDX-License-Identifier: Apache-2.0
//
// rbldnsd with zones of our own, on a loopback port. Kept: the process is ended by its number when the value goes away.

import Glibc

/// Makes ports on 127.0.0.1 that nobody uses.
package enum LoopbackPort {
  /// A socket bound to a port that the kernel chose, and the port.
  package static func bind(_ type: Int32, port: UInt16 = 0) -> (descriptor: Int32, port: UInt16)? {
    let descriptor = socket(AF_INET, type | Int32(0o2000000), 0)  // SOCK_CLOEXEC
    guard descriptor >= 0 else { return nil }
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = port.bigEndian
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    let status = withUnsafeMutablePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { generic in
        Glibc.bind(descriptor, generic, length) | getsockname(descriptor, generic, &length)
      }
    }
    guard status == 0 else {
      close(descriptor)
      return nil
    }
    return (descriptor, UInt16(bigEndian: address.sin_port))
  }
}

extension LoopbackPort {
  /// Connects a socket to a port of 127.0.0.1; false if the kernel refuses.
  package static func connect(_ descriptor: Int32, to port: UInt16) -> Bool {
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = port.bigEndian
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    return withUnsafePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        Glibc.connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
      }
    }
  }
}

package final class Rbldnsd {
  package static let path = "/usr/sbin/rbldnsd"
  package static var isInstalled: Bool { access(path, X_OK) == 0 }

  package struct Zone {
    /// ip4set, ip6trie and so on; see rbldnsd(8).
    let type: String
    let name: String
    let lines: [String]

    package init(_ type: String, _ name: String, _ lines: [String]) {
      self.type = type
      self.name = name
      self.lines = lines
    }
  }

  /// Why it did not start.
  package struct Failure: Error { let reason: String }

  package let port: UInt16
  private let process: pid_t
  private let folder: String
  private let files: [String]

  package init(_ zones: [Zone]) throws {
    var template = Array(
      "\(getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp")/rbldnsd-XXXXXX".utf8CString)
    guard mkdtemp(&template) != nil else { throw Failure(reason: "mkdtemp: errno \(errno)") }
    let folder = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    // It reads them as nobody.
    chmod(folder, 0o755)
    var files: [String] = []
    var arguments = [Self.path, "-n", "-c", "0", "-w", folder, "-b", ""]
    if geteuid() == 0 { arguments += ["-u", "nobody"] }
    for (number, zone) in zones.enumerated() {
      let file = "\(folder)/zone\(number)"
      guard let stream = fopen(file, "w") else { throw Failure(reason: "\(file): errno \(errno)") }
      fputs(zone.lines.joined(separator: "\n") + "\n", stream)
      fclose(stream)
      chmod(file, 0o644)
      files.append(file)
      arguments.append("\(zone.name):\(zone.type):zone\(number)")
    }
    self.folder = folder
    self.files = files
    // Another process can take the port before rbldnsd does: then it ends, and another one is tried.
    for _ in 0..<10 {
      guard let free = LoopbackPort.bind(Int32(SOCK_DGRAM.rawValue)) else { continue }
      close(free.descriptor)
      arguments[7] = "127.0.0.1/\(free.port)"
      let process = try Self.spawn(arguments)
      if Self.answers(process, port: free.port) {
        port = free.port
        self.process = process
        return
      }
    }
    throw Failure(reason: "rbldnsd did not answer")
  }

  deinit {
    kill(process, SIGTERM)
    waitpid(process, nil, 0)
    for file in files { unlink(file) }
    rmdir(folder)
  }

  private static func spawn(_ arguments: [String]) throws -> pid_t {
    var process: pid_t = 0
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    for descriptor: Int32 in [1, 2] {
      posix_spawn_file_actions_addopen(&actions, descriptor, "/dev/null", O_WRONLY, 0)
    }
    // Threads that run tests block signals, and a child would inherit that.
    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    var none = sigset_t()
    sigemptyset(&none)
    posix_spawnattr_setsigmask(&attributes, &none)
    posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK))
    var words: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) }
    words.append(nil)
    defer { for word in words { free(word) } }
    let status = posix_spawn(&process, path, &actions, &attributes, words, environ)
    guard status == 0 else { throw Failure(reason: "posix_spawn: errno \(status)") }
    return process
  }

  /// Asks until there is a reply, for 10 s at most; ends the process if there is none.
  private static func answers(_ process: pid_t, port: UInt16) -> Bool {
    guard let own = LoopbackPort.bind(Int32(SOCK_DGRAM.rawValue)) else { return false }
    defer { close(own.descriptor) }
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = port.bigEndian
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    // "A" for "x", which it refuses.
    let query: [UInt8] = [0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 120, 0, 0, 1, 0, 1]
    for _ in 0..<1_000 {
      _ = withUnsafePointer(to: &address) { pointer in
        pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          sendto(
            own.descriptor, query, query.count, 0, $0,
            socklen_t(MemoryLayout<sockaddr_in>.size))
        }
      }
      var wait = pollfd(fd: own.descriptor, events: Int16(POLLIN), revents: 0)
      if poll(&wait, 1, 10) == 1 { return true }
      if waitpid(process, nil, WNOHANG) == process { return false }
    }
    kill(process, SIGKILL)
    waitpid(process, nil, 0)
    return false
  }
}
