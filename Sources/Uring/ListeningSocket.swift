// SPDX-License-Identifier: Apache-2.0
//
// A TCP listener as a tarpit wants it: options set before listen, so that every accepted socket
// inherits them without a system call. Not an accept loop: the ring accepts. Keeps: a listener that
// exists is listening, and the error of one that could not be made names the likely culprit.

import CUring
import Glibc
package import Structures

package struct ListeningSocket: ~Copyable {
  package struct Options: Sendable {
    /// One of a group of listeners on the same address, one for each worker.
    package var reusePort = false
    /// false: an IPv6 listener takes IPv4 too. Default true: two listeners, so that "::" failing on
    /// a host without IPv6 never takes IPv4 down with it.
    package var v6Only = true
    /// SO_RCVBUF of accepted sockets, nil for the kernel's. 4096 lets an unread flood pin 5.8 KB
    /// instead of 131.8 KB. It also fixes the connection's window scale at 0 (at most 65,535 bytes in
    /// flight, for good) and its window at about 4 KB: widen survivors as `Ring.setSocketOption`
    /// says, or a message crawls at 4 KB a round trip. Leave it nil where the ring cannot set options.
    package var receiveBufferBytes: Int32?
    /// SO_SNDBUF of accepted sockets, which the kernel doubles; nil for the kernel's, which grows to 4 MB for a peer that
    /// asks for much and takes nothing.
    package var sendBufferBytes: Int32?
    /// Longest time sent bytes may stay unacknowledged; 0 for the kernel's default (about 15 min).
    package var userTimeoutMilliseconds: Int32 = 60_000
    /// Finds peers that vanished while held; 0 for none.
    package var keepaliveIdleSeconds: Int32 = 120
    package var keepaliveIntervalSeconds: Int32 = 30
    package var keepaliveProbes: Int32 = 4
    /// Keep the SYN of each connection until read once (96 bytes each until then).
    package var saveSYN = true
    /// The kernel cuts it to net.core.somaxconn.
    package var backlog: Int32 = 65_535

    package init() {}
  }

  package let descriptor: Int32
  package let address: Address

  /// - Parameter port: 0 lets the kernel choose; see `localPort`.
  package init(
    _ address: Address, port: UInt16, options: Options = Options()
  ) throws(ListenError) {
    let family = address.isIPv4 ? AF_INET : AF_INET6
    let type = Int32(SOCK_STREAM.rawValue) | Int32(CURING_SOCK_CLOEXEC)
    let made = socket(family, type, 0)
    func failed(_ step: ListenError.Step) -> ListenError {
      let number = errno
      if made >= 0 { close(made) }
      return ListenError(step, errno: number, address: address, port: port)
    }
    guard made >= 0 else { throw failed(.socket) }

    let tcp = Int32(IPPROTO_TCP)
    var wishes: [(Int32, Int32, Int32)] = [
      (SOL_SOCKET, SO_REUSEADDR, 1),
      // SMTP is small replies, each written whole: Nagle would only add 40 ms to the second.
      (tcp, TCP_NODELAY, 1),
      // A greeting comes first, so the client is silent and must be accepted at once.
      (tcp, TCP_DEFER_ACCEPT, 0),
    ]
    if family == AF_INET6 {
      wishes.append((Int32(IPPROTO_IPV6), IPV6_V6ONLY, options.v6Only ? 1 : 0))
    }
    if options.reusePort { wishes.append((SOL_SOCKET, SO_REUSEPORT, 1)) }
    if options.saveSYN { wishes.append((tcp, TCP_SAVE_SYN, 1)) }
    if let bytes = options.sendBufferBytes { wishes.append((SOL_SOCKET, SO_SNDBUF, bytes)) }
    if let bytes = options.receiveBufferBytes { wishes.append((SOL_SOCKET, SO_RCVBUF, bytes)) }
    if options.userTimeoutMilliseconds > 0 {
      wishes.append((tcp, TCP_USER_TIMEOUT, options.userTimeoutMilliseconds))
    }
    if options.keepaliveIdleSeconds > 0 {
      wishes.append((SOL_SOCKET, SO_KEEPALIVE, 1))
      wishes.append((tcp, TCP_KEEPIDLE, options.keepaliveIdleSeconds))
      wishes.append((tcp, TCP_KEEPINTVL, options.keepaliveIntervalSeconds))
      wishes.append((tcp, TCP_KEEPCNT, options.keepaliveProbes))
    }
    for (level, name, value) in wishes where !PlainSocket.setOption(made, level, name, value) {
      throw failed(.option)
    }
    let place = SocketAddress(address, port: port)
    guard place.withPointer({ bind(made, $0, $1) }) == 0 else { throw failed(.bind) }
    guard listen(made, options.backlog) == 0 else { throw failed(.listen) }
    descriptor = made
    self.address = address
  }

  deinit { close(descriptor) }

  /// Makes sure that no process listens there: listeners with SO_REUSEPORT would share the port with another process of
  /// this user, and each would get some of the clients. What remains of old connections is no hindrance.
  ///
  /// - Parameter port: not 0.
  package static func refuseTaken(
    _ address: Address, port: UInt16, v6Only: Bool = true
  ) throws(ListenError) {
    do throws(ListenError) {
      try tryBinding(address, port: port, v6Only: v6Only)
    } catch {
      // What else is wrong is told by the listener itself.
      if error.errno == EADDRINUSE { throw error }
    }
  }

  /// Takes the place of a listener for a moment, without listening there: whoever connects meanwhile is refused as before.
  package static func tryBinding(
    _ address: Address, port: UInt16, v6Only: Bool = true
  ) throws(ListenError) {
    let family = address.isIPv4 ? AF_INET : AF_INET6
    let made = socket(family, Int32(SOCK_STREAM.rawValue) | Int32(CURING_SOCK_CLOEXEC), 0)
    guard made >= 0 else { throw ListenError(.socket, errno: errno, address: address, port: port) }
    defer { close(made) }
    PlainSocket.setOption(made, SOL_SOCKET, SO_REUSEADDR, 1)
    if family == AF_INET6 {
      PlainSocket.setOption(made, Int32(IPPROTO_IPV6), IPV6_V6ONLY, v6Only ? 1 : 0)
    }
    if PlainSocket.bind(made, to: SocketAddress(address, port: port)) != 0 {
      throw ListenError(.bind, errno: errno, address: address, port: port)
    }
  }

  /// The port the kernel gave, when 0 was asked for.
  package var localPort: UInt16 { SocketAddress(descriptor: descriptor, getsockname)?.port ?? 0 }

  /// Sends each source network (IPv4 /24, IPv6 /64) always to the same of `workers` listeners.
  ///
  /// Once for each reuseport group, through any member, after all of them listen: the kernel numbers
  /// them in the order of their listen(). When one closes, the last takes its number: attach again.
  package borrowing func attachSteering(workers: Int) throws(ListenError) {
    invariant((1...1024).contains(workers), "steering to \(workers) workers")
    var program = Steering.program(workers: UInt32(workers))
    let count = UInt16(program.count)
    let status = program.withUnsafeMutableBufferPointer { instructions in
      var wrapped = sock_fprog(len: count, filter: instructions.baseAddress)
      return setsockopt(
        descriptor, SOL_SOCKET, Int32(CURING_SO_ATTACH_REUSEPORT_CBPF), &wrapped,
        socklen_t(MemoryLayout<sock_fprog>.size))
    }
    if status != 0 {
      throw ListenError(.steering, errno: errno, address: address, port: localPort)
    }
  }
}

/// A listener could not be made.
package struct ListenError: Error, Equatable, CustomStringConvertible {
  package enum Step: String, Sendable {
    case socket = "socket"
    case option = "setsockopt"
    case bind = "bind"
    case listen = "listen"
    case steering = "setsockopt(SO_ATTACH_REUSEPORT_CBPF)"
  }

  package let step: Step
  package let errno: Int32
  package let address: Address
  package let port: UInt16

  package init(_ step: Step, errno: Int32, address: Address, port: UInt16) {
    self.step = step
    self.errno = errno
    self.address = address
    self.port = port
  }

  package var description: String {
    let place = address.isIPv4 ? "\(address):\(port)" : "[\(address)]:\(port)"
    return "Cannot listen on \(place): \(step.rawValue) failed: \(errnoText(errno)) "
      + "(errno \(errno)). \(cause)"
  }

  package var cause: String {
    switch errno {
    case EADDRINUSE:
      return "Another process holds this port, most likely the mail server Sluice should stand in "
        + "front of, or an older Sluice. See who: ss -ltnp 'sport = :\(port)'. Move the mail server "
        + "to another port or address, then start again."
    case EACCES, EPERM:
      return "Ports below net.ipv4.ip_unprivileged_port_start (usually 1024) need "
        + "CAP_NET_BIND_SERVICE. systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE; in a container: "
        + "--cap-add NET_BIND_SERVICE, or listen on a high port and forward 25 to it."
    case EADDRNOTAVAIL:
      return
        "This host does not have the address (yet): see ip addr. If it comes with the network, "
        + "start after network-online.target, or set net.ipv4.ip_nonlocal_bind=1 (IPv6: "
        + "net.ipv6.ip_nonlocal_bind=1)."
    case EAFNOSUPPORT:
      return "The kernel has no \(address.isIPv4 ? "IPv4" : "IPv6") here (ipv6.disable=1 on its "
        + "command line, or RestrictAddressFamilies= in the systemd unit). Take the address out of "
        + "the configuration."
    case EMFILE, ENFILE:
      return "No descriptor is left: raise RLIMIT_NOFILE (systemd: LimitNOFILE=)."
    case ENOMEM, ENOBUFS:
      return "The kernel has no memory for it; look at the container's memory limit."
    default:
      return "This is not expected; please report it with the output of uname -r."
    }
  }
}

extension Steering {
  /// Classic BPF. The packet's data is the TCP payload; SKF_NET_OFF reaches back to the IP header.
  /// The version nibble is looked at because a dual-stack socket sees both.
  static func program(workers: UInt32) -> [sock_filter] {
    let header = UInt32(bitPattern: -0x100000)  // SKF_NET_OFF
    func alu(_ code: UInt16, _ k: UInt32 = 0) -> sock_filter {
      sock_filter(code: code, jt: 0, jf: 0, k: k)
    }
    func word(_ offset: UInt32) -> sock_filter { alu(0x20, header &+ offset) }
    func byte(_ offset: UInt32) -> sock_filter { alu(0x30, header &+ offset) }
    let multiply: UInt16 = 0x24
    let shiftRight: UInt16 = 0x74
    let remainder: UInt16 = 0x94
    let exclusiveOrX: UInt16 = 0xAC
    let toX: UInt16 = 0x07
    let returnA: UInt16 = 0x16
    return [
      byte(0),
      alu(shiftRight, 4),
      sock_filter(code: 0x15, jt: 6, jf: 0, k: 4),  // version 4: jump over the IPv6 part
      // IPv6: both words of the /64, folded into one.
      word(12),
      alu(toX),
      word(8),
      alu(multiply, spread),
      alu(exclusiveOrX),
      sock_filter(code: 0x05, jt: 0, jf: 0, k: 2),  // jump over the IPv4 part
      // IPv4: the /24.
      word(12),
      alu(shiftRight, 8),
      // Both.
      alu(multiply, first),
      alu(toX),
      alu(shiftRight, 15),
      alu(exclusiveOrX),
      alu(multiply, second),
      alu(shiftRight, 16),
      alu(remainder, workers),
      alu(returnA),
    ]
  }
}
