// SPDX-License-Identifier: Apache-2.0
//
// Measures what a look-up costs the worker: the resolver beside plain c-ares, against an rbldnsd that it starts, half of
// the addresses listed. Each figure is one line of JSON. Not part of the program. CPU is that of this thread, so that of
// rbldnsd is not in it; for instructions, run it under `valgrind --tool=callgrind` with two counts and divide the
// difference.

import CAllocations
import CAres
import DNSLists
import Glibc
import Resolver
import ResolverFixtures
import Structures

@main
enum ResolverBenchmark {
  static let usage = """
    resolver-benchmark resolver [--lookups N] [--window N] [--channels N] [--renew N]
    resolver-benchmark c-ares   [--lookups N] [--window N]
    resolver-benchmark renewal  [--lookups N]
    resolver-benchmark worker   [--lookups N] [--window N]   clients of a driver that looks them up
    resolver-benchmark no-lists [--lookups N] [--window N]   the same clients, not looked up
    """

  static func main() throws {
    var words = CommandLine.arguments.dropFirst()
    guard let command = words.popFirst() else { fail("a command is missing") }
    var numbers = ["lookups": 100_000, "window": 100, "channels": 4, "renew": 1_000]
    while let name = words.popFirst() {
      guard name.hasPrefix("--"), numbers[String(name.dropFirst(2))] != nil,
        let number = words.popFirst().flatMap({ Int($0) }), number > 0
      else { fail("'\(name)' is no option with a number") }
      numbers[String(name.dropFirst(2))] = number
    }
    guard Rbldnsd.isInstalled else { fail("rbldnsd is not installed") }
    let server = try Rbldnsd([
      .init(
        "ip4set", "bl.example", [":127.0.0.2:listed", "127.0.0.2", "10.0.0.0/9", "127.128.0.0/9"])
    ])
    let run = Run(numbers, port: server.port)
    switch command {
    case "resolver": try run.resolver()
    case "c-ares": run.plain()
    case "renewal": try run.renewal()
    case "worker": try run.worker(looksUp: true)
    case "no-lists": try run.worker(looksUp: false)
    default: fail("there is no command '\(command)'")
    }
    withExtendedLifetime(server) {}
  }

  static func fail(_ reason: String) -> Never {
    let text = Array("resolver-benchmark: \(reason)\n\(usage)\n".utf8)
    _ = write(STDERR_FILENO, text, text.count)
    exit(64)
  }
}

/// What this thread has used.
struct Use {
  let microseconds: Double
  let allocations: UInt64

  init() {
    var time = timespec()
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
    microseconds = Double(time.tv_sec) * 1e6 + Double(time.tv_nsec) / 1e3
    allocations = allocations_of_this_thread()
  }

  func report(_ what: String, _ lookups: Int, _ answered: Int, listed: Int, since start: Use) {
    let cpu = Double(Int((microseconds - start.microseconds) / Double(lookups) * 1_000)) / 1_000
    let each = Double(Int(Double(allocations - start.allocations) / Double(lookups) * 100)) / 100
    print(
      "{\"what\": \"\(what)\", \"lookups\": \(lookups), \"answered\": \(answered), \"listed\": \(listed), "
        + "\"cpu_us_per_lookup\": \(cpu), \"allocations_per_lookup\": \(each)}")
  }
}

struct Run {
  let numbers: [String: Int]
  let port: UInt16

  init(_ numbers: [String: Int], port: UInt16) {
    self.numbers = numbers
    self.port = port
  }

  func number(_ name: String) -> Int { numbers[name] ?? 1 }

  static func now() -> Instant {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Instant(microseconds: Int64(time.tv_sec) * 1_000_000 + Int64(time.tv_nsec) / 1_000)
  }

  /// Half of them in 10.0.0.0/9, which is listed.
  static func address(_ i: Int) -> Address {
    Address(v4: 0x0A00_0000 | UInt32(truncatingIfNeeded: i &* 0x9E_3779) & 0xFF_FFFF)
  }

  func resolver() throws {
    var settings = ResolverSettings()
    settings.servers = [ServerAddress(Address(v4: 0x7F00_0001), port: port)]
    settings.channels = number("channels")
    settings.inFlightMax = number("window")
    settings.renewAfterQueries = number("renew")
    var resolver = try Resolver(settings, hash: SipHash(k0: 1, k1: 2), now: Self.now())
    let sites = try ListSites([try ListSite("bl.example")])
    var watched: [WatchedSocket] = []
    let lookups = number("lookups")
    var (asked, answered, listed) = (0, 0, 0)
    forget_most_bytes_held()
    let held = bytes_held_by_this_thread()
    let start = Use()
    while answered < lookups {
      while asked < lookups, asked - answered < settings.inFlightMax {
        let name = sites.queryName(Self.address(asked), inZone: 0)
        guard resolver.ask(Question(.a, name), ticket: UInt64(asked), now: Self.now()) == .waiting
        else { break }
        asked += 1
      }
      func drain() {
        while let event = resolver.next() {
          switch event {
          case .forget(let socket): watched.removeAll { $0 == socket }
          case .watch(let socket, _, _):
            if !watched.contains(socket) { watched.append(socket) }
          case .answered(_, let answer):
            answered += 1
            if case .addresses(let list, _) = answer,
              case .listed = sites.verdict(ofZone: 0, list)
            {
              listed += 1
            }
          }
        }
      }
      drain()
      let sockets = watched
      var polled = sockets.map { pollfd(fd: $0.descriptor, events: Int16(POLLIN), revents: 0) }
      _ = poll(&polled, nfds_t(polled.count), 100)
      for (place, socket) in zip(polled, sockets) where place.revents != 0 {
        resolver.process(socket, readable: true, writable: false, now: Self.now())
      }
      drain()
      resolver.timeReached(Self.now())
      drain()
    }
    Use().report("resolver", lookups, answered, listed: listed, since: start)
    print(
      "{\"bytes_per_query\": \(Resolver.bytesPerQuery), \"bytes_of_c-ares_per_query\": "
        + "\((most_bytes_held_by_this_thread() - held) / Int64(settings.inFlightMax)), \"footprint\": \(resolver.footprint), "
        + "\"renewals\": \(resolver.counters.renewals), \"timed_out\": \(resolver.counters.timedOut)}"
    )
  }

  func plain() {
    var options = ares_options()
    options.flags = ARES_FLAG_STAYOPEN | ARES_FLAG_NOSEARCH | ARES_FLAG_NOALIASES
    options.timeout = 1_000
    options.tries = 2
    var channel: ares_channel?
    ares_library_init(ARES_LIB_INIT_ALL)
    ares_init_options(
      &channel, &options, ARES_OPT_FLAGS | ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES)
    ares_set_servers_ports_csv(channel, "127.0.0.1:\(port)")
    defer { ares_destroy(channel) }
    let counts = UnsafeMutablePointer<Int>.allocate(capacity: 2)
    counts.initialize(repeating: 0, count: 2)
    defer { counts.deallocate() }
    let lookups = number("lookups")
    let window = number("window")
    var asked = 0
    let start = Use()
    while counts[0] < lookups {
      while asked < lookups, asked - counts[0] < window {
        let bits = Self.address(asked).v4
        let name = "\(bits & 255).\(bits >> 8 & 255).\(bits >> 16 & 255).\(bits >> 24).bl.example"
        ares_query(
          channel, name, 1, 1,
          { argument, status, _, octets, count in
            guard let counts = argument?.assumingMemoryBound(to: Int.self) else { return }
            counts[0] += 1
            var places = (ares_addrttl(), ares_addrttl(), ares_addrttl(), ares_addrttl())
            var found: Int32 = 4
            guard status == ARES_SUCCESS else { return }
            withUnsafeMutablePointer(to: &places) { pointer in
              pointer.withMemoryRebound(to: ares_addrttl.self, capacity: 4) {
                if ares_parse_a_reply(octets, count, nil, $0, &found) == ARES_SUCCESS {
                  counts[1] += 1
                }
              }
            }
          }, counts)
        asked += 1
      }
      var socket: ares_socket_t = 0
      ares_getsock(channel, &socket, 1)
      var polled = pollfd(fd: socket, events: Int16(POLLIN), revents: 0)
      _ = poll(&polled, 1, 100)
      ares_process_fd(channel, polled.revents != 0 ? socket : ARES_SOCKET_BAD, ARES_SOCKET_BAD)
    }
    Use().report("c-ares", lookups, counts[0], listed: counts[1], since: start)
  }

  /// What a new channel costs, the closing of the old one and its first query included.
  func renewal() throws {
    var settings = ResolverSettings()
    settings.servers = [ServerAddress(Address(v4: 0x7F00_0001), port: port)]
    let count = number("lookups")
    let start = Use()
    for _ in 0..<count {
      settings.channels = 1
      _ = try Resolver(settings, hash: SipHash(k0: 1, k1: 2), now: .origin)
    }
    let one = Use()
    for _ in 0..<count {
      settings.channels = 11
      _ = try Resolver(settings, hash: SipHash(k0: 1, k1: 2), now: .origin)
    }
    let eleven = Use()
    let each =
      (eleven.microseconds - one.microseconds - one.microseconds + start.microseconds)
      / Double(count) / 10
    print("{\"what\": \"renewal\", \"cpu_us_per_channel\": \(each)}")
  }
}
