// SPDX-License-Identifier: Apache-2.0
//
// One channel of c-ares: sockets with source ports of their own, and the queries in flight on them. Kept: it is destroyed
// only when nothing is in flight on it, or together with the resolver.

import CAres
import DNSLists
import Glibc
import Structures

struct Channel: ~Copyable {
  private var handle: ares_channel?
  /// Handed to c-ares and not landed.
  private(set) var inFlight = 0
  /// Handed to c-ares since it was made.
  private(set) var queries = 0
  private(set) var madeAt: Instant
  /// Not before that has a query of c-ares run out of time. Early is harmless, late is not.
  private(set) var timerAt = Instant.distantFuture
  /// What c-ares waits for the first try.
  private let patience: Int64
  /// It gets no more queries, to become idle.
  var isRetiring = false

  init(
    _ settings: ResolverSettings, label: UnsafeMutablePointer<ChannelLabel>, now: Instant
  ) throws(ResolverError) {
    guard Self.isLibraryReady else { throw ResolverError("library", code: ARES_ENOMEM) }
    var servers = settings.servers
    if servers.isEmpty {
      // As many as there are; the time-out depends on it.
      servers = try Self.systemServers()
    }
    // c-ares doubles the wait after each round of all servers.
    let shares = servers.count * ((1 << settings.tries) - 1)
    let milliseconds = max(settings.timeout.microseconds / 1_000 / Int64(shares), 1)
    var options = ares_options()
    // STAYOPEN: sockets are kept until the channel is renewed. NOSEARCH, NOALIASES: names are whole.
    options.flags = ARES_FLAG_STAYOPEN | ARES_FLAG_NOSEARCH | ARES_FLAG_NOALIASES
    options.timeout = Int32(clamping: milliseconds)
    options.tries = Int32(settings.tries)
    options.sock_state_cb = Desk.socketChanged
    options.sock_state_cb_data = UnsafeMutableRawPointer(label)
    var made: ares_channel?
    var status = ares_init_options(
      &made, &options,
      ARES_OPT_FLAGS | ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_SOCK_STATE_CB
        | ARES_OPT_NOROTATE)
    guard status == ARES_SUCCESS else { throw ResolverError("channel", code: status) }
    let list = servers.map(\.description).joined(separator: ",")
    status = ares_set_servers_ports_csv(made, list)
    guard status == ARES_SUCCESS else {
      ares_destroy(made)
      throw ResolverError("servers \(list)", code: status)
    }
    handle = made
    madeAt = now
    patience = milliseconds * 1_000
  }

  deinit { if let handle { ares_destroy(handle) } }

  private static let isLibraryReady = ares_library_init(ARES_LIB_INIT_ALL) == ARES_SUCCESS

  /// Those of /etc/resolv.conf as c-ares reads it, 8 at most; 127.0.0.1 if there is none.
  private static func systemServers() throws(ResolverError) -> [ServerAddress] {
    var channel: ares_channel?
    var status = ares_init(&channel)
    guard status == ARES_SUCCESS else { throw ResolverError("resolv.conf", code: status) }
    defer { ares_destroy(channel) }
    var first: UnsafeMutablePointer<ares_addr_port_node>?
    status = ares_get_servers_ports(channel, &first)
    guard status == ARES_SUCCESS else { throw ResolverError("resolv.conf", code: status) }
    defer { ares_free_data(first) }
    var servers: [ServerAddress] = []
    var node = first
    while let here = node, servers.count < ResolverSettings.serversMax {
      let port = here.pointee.udp_port
      withUnsafeBytes(of: here.pointee.addr) { octets in
        func word(_ place: Int) -> UInt64 {
          UInt64(UInt32(bigEndian: octets.loadUnaligned(fromByteOffset: place, as: UInt32.self)))
        }
        let address =
          here.pointee.family == 2
          ? Address(v4: UInt32(word(0)))
          : Address(high: word(0) << 32 | word(4), low: word(8) << 32 | word(12))
        servers.append(ServerAddress(address, port: port > 0 ? UInt16(port) : 53))
      }
      node = here.pointee.next
    }
    return servers.isEmpty ? [ServerAddress(Address(v4: 0x7F00_0001))] : servers
  }

  /// Asks. It may land before this returns.
  mutating func send(
    _ question: Question, identifier: UInt16, landing: UnsafeMutablePointer<Landing>, now: Instant
  ) {
    inFlight += 1
    queries += 1
    timerAt = min(timerAt, now.after(microseconds: patience))
    let handle = handle
    // Header, name, type and class (RFC 1035, 4.1); recursion desired. Without EDNS: a reply has 512 octets at most, or
    // it comes by TCP, and no one can slip in a fragment.
    let wire = question.name.wire
    withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 12 + QueryName.octetsMax + 4) { query in
      query.initialize(repeating: 0)
      query[0] = UInt8(identifier >> 8)
      query[1] = UInt8(identifier & 255)
      query[2] = 1
      query[5] = 1
      for i in 0..<wire.count { query[12 + i] = wire[i] }
      let end = 12 + wire.count
      query[end] = UInt8(question.type.rawValue >> 8)
      query[end + 1] = UInt8(question.type.rawValue & 255)
      query[end + 3] = 1
      ares_send(
        handle, query.baseAddress, Int32(end + 4), Desk.queryEnded,
        UnsafeMutableRawPointer(landing))
    }
  }

  /// Takes up what a socket is ready for.
  func process(_ descriptor: Int32, readable: Bool, writable: Bool) {
    ares_process_fd(
      handle, readable ? descriptor : ARES_SOCKET_BAD, writable ? descriptor : ARES_SOCKET_BAD)
  }

  /// Takes up what has run out of time, and looks when that is so again.
  mutating func timeReached(_ now: Instant) {
    guard now >= timerAt else { return }
    ares_process_fd(handle, ARES_SOCKET_BAD, ARES_SOCKET_BAD)
    var left = timeval()
    guard ares_timeout(handle, nil, &left) != nil else {
      timerAt = .distantFuture
      return
    }
    // c-ares has a clock of its own: what it calls due now is due in a millisecond at the latest.
    let microseconds = Int64(left.tv_sec) * 1_000_000 + Int64(left.tv_usec)
    timerAt = now.after(microseconds: max(microseconds, 1_000))
  }

  /// A query has landed.
  mutating func landed() {
    inFlight -= 1
    if inFlight == 0 { timerAt = .distantFuture }
  }
}
