// SPDX-License-Identifier: Apache-2.0
//
// How downstreams are reached: where they are, and a socket to one of their addresses.

import Glibc
import Policy
import Shield
import Structures
import Uring

struct Dialler: ~Copyable {
  /// Twice as many as there may be: a connect that is not submitted yet still reads what its number meant before.
  private let addresses: UnsafeMutablePointer<SocketAddress>
  private var start = 0
  private var one: [Int32] = [0]

  private static let most = Server.addressesMost

  init(_ servers: [Server]) {
    addresses = .allocate(capacity: 2 * Dialler.most)
    addresses.initialize(
      repeating: SocketAddress(Address(high: 0, low: 0), port: 0), count: 2 * Dialler.most)
    write(servers)
  }

  deinit { addresses.deallocate() }

  /// The downstreams are there from now on; connections that stand stay as they are.
  mutating func adopt(_ servers: [Server]) {
    start = Dialler.most - start
    write(servers)
  }

  private func write(_ servers: [Server]) {
    for server in servers {
      for (number, address) in server.addresses.enumerated() {
        addresses[start + number] = SocketAddress(address, port: server.port)
      }
    }
  }

  /// Opens a socket to a downstream's address number `number`. By plain calls: NODELAY must be set before data goes out,
  /// and on a direct descriptor kernels before 6.7 cannot set it.
  ///
  /// - Returns: false if there is no socket for it.
  mutating func connect(
    _ slot: Slot, _ number: Int, _ wire: inout Wire, _ counters: inout DriverCounters
  ) -> Bool {
    let descriptor = socket(
      addresses[start + number].family,
      Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    guard descriptor >= 0 else {
      if errno == EMFILE || errno == ENFILE { counters.descriptorsExhausted += 1 }
      return false
    }
    PlainSocket.setOption(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, 1)
    PlainSocket.setOption(descriptor, SOL_SOCKET, SO_SNDBUF, DriverSizes.linkSend)
    PlainSocket.setOption(descriptor, SOL_SOCKET, SO_RCVBUF, DriverSizes.linkReceive)
    one[0] = descriptor
    counters.installs += 1
    let isThere = wire.install(one, at: Int32(slot.index)) == 1
    PlainSocket.close(descriptor)
    if isThere { wire.connect(slot, to: addresses + start + number) }
    return isThere
  }
}
