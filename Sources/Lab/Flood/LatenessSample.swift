// SPDX-License-Identifier: Apache-2.0
// How punctual a server's bytes are, from a sample of connections. Arrival is the kernel's time stamp of the
// segment, not the moment we woke: a busy client must not make the server look late. Not a histogram of
// the wire: on loopback there is none.

import Foundation
import Glibc
import Synchronization
import Uring

/// Connections that are ordinary descriptors, watched by a thread of their own.
package final class LatenessSample: Sendable {
  /// Time stamps kept for one connection: an hour of one byte a second.
  private static let stampsMax = 3_600

  private let capacity: Int
  private let interval: Double
  private let counters: HoldCounters
  private let fresh = Mutex<[Int32]>([])
  private let taken = Atomic(0)
  private let stopping = Atomic(false)
  private let result = Mutex<String>("")
  private let done = DispatchSemaphore(value: 0)

  /// - Parameter interval: the seconds between two bytes that the server means to keep.
  package init(_ capacity: Int, interval: Double, _ counters: HoldCounters) {
    self.capacity = capacity
    self.interval = interval
    self.counters = counters
    let thread = Thread { [self] in
      run()
      done.signal()
    }
    thread.name = "sample"
    thread.start()
  }

  /// Takes a connected socket over, from any thread; false if there are enough.
  package func add(_ descriptor: Int32) -> Bool {
    if taken.add(1, ordering: .relaxed).newValue > capacity { return false }
    // SO_TIMESTAMPNS (35): with each receive, when its last segment came.
    PlainSocket.setOption(descriptor, SOL_SOCKET, 35, 1)
    fresh.withLock { $0.append(descriptor) }
    return true
  }

  /// Closes all of them; the line to print.
  package func stop() -> String {
    stopping.store(true, ordering: .relaxed)
    done.wait()
    return result.withLock { $0 }
  }

  private struct Arrivals {
    /// Microseconds, with the number of the byte.
    var stamps: [(byte: Int, at: Int64)] = []
    var bytes = 0
  }

  private func run() {
    var places: [pollfd] = []
    var peers: [Arrivals] = []
    var merged = 0
    while !stopping.load(ordering: .relaxed) {
      let more = fresh.withLock { list in
        defer { list.removeAll() }
        return list
      }
      for descriptor in more {
        places.append(pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0))
        peers.append(Arrivals())
      }
      // The kernel stamps the bytes; a nap makes fewer turns of this loop and no byte later.
      usleep(2_000)
      if poll(&places, nfds_t(places.count), 100) <= 0 { continue }
      for k in places.indices where places[k].revents != 0 {
        guard let (bytes, at) = LatenessSample.receive(places[k].fd) else {
          close(places[k].fd)
          places[k].fd = -1
          counters.held.subtract(1, ordering: .relaxed)
          counters.peerClosed.add(1, ordering: .relaxed)
          continue
        }
        if bytes == 0 { continue }
        counters.bytes.add(bytes, ordering: .relaxed)
        if peers[k].bytes == 0 { counters.greeted.add(1, ordering: .relaxed) }
        if bytes > 1 { merged += 1 }
        peers[k].bytes += bytes
        if let at, peers[k].stamps.count < LatenessSample.stampsMax {
          peers[k].stamps.append((peers[k].bytes, at))
        }
      }
    }
    for place in places where place.fd >= 0 { close(place.fd) }
    result.withLock { $0 = line(peers, merged: merged) }
  }

  /// What has come and when its last byte did; no bytes if there are none yet; nil if the peer closed.
  private static func receive(_ descriptor: Int32) -> (bytes: Int, at: Int64?)? {
    withUnsafeTemporaryAllocation(byteCount: 4_096 + 256, alignment: 16) { memory in
      var piece = iovec(iov_base: memory.baseAddress, iov_len: 4_096)
      let control = UnsafeMutableRawBufferPointer(rebasing: memory[4_096...])
      return withUnsafeMutablePointer(to: &piece) { piece in
        var header = msghdr()
        header.msg_iov = piece
        header.msg_iovlen = 1
        header.msg_control = control.baseAddress
        header.msg_controllen = control.count
        let count = recvmsg(descriptor, &header, Int32(MSG_DONTWAIT))
        if count < 0 && (errno == EAGAIN || errno == EINTR) { return (0, nil) }
        if count <= 0 { return nil }
        // One control message: length (8), level (4), type (4), then seconds and nanoseconds.
        guard header.msg_controllen >= 32,
          control.load(fromByteOffset: 8, as: Int32.self) == SOL_SOCKET,
          control.load(fromByteOffset: 12, as: Int32.self) == 35
        else { return (count, nil) }
        let seconds = control.load(fromByteOffset: 16, as: Int64.self)
        let nanoseconds = control.load(fromByteOffset: 24, as: Int64.self)
        return (count, seconds * 1_000_000 + nanoseconds / 1_000)
      }
    }
  }

  /// Two views. `gap`: how far the time between neighbouring bytes was from the interval, either way.
  /// `late`: how far each byte was behind a schedule with that interval through the most punctual byte of
  /// its connection; the clock of the stamps may be slewed, which this one sees and the gaps do not.
  private func line(_ peers: [Arrivals], merged: Int) -> String {
    let nominal = interval * 1e6
    var gaps: [Double] = []
    var late: [Double] = []
    for peer in peers where peer.stamps.count > 1 {
      let offsets = peer.stamps.map { Double($0.at) - Double($0.byte) * nominal }
      let least = offsets.min() ?? 0
      late += offsets.map { $0 - least }
      for (one, next) in zip(peer.stamps, peer.stamps.dropFirst()) where next.byte == one.byte + 1 {
        gaps.append(abs(Double(next.at - one.at) - nominal))
      }
    }
    gaps.sort()
    late.sort()
    func at(_ share: Double, _ values: [Double]) -> Int {
      values.isEmpty ? 0 : Int(values[min(Int(Double(values.count) * share), values.count - 1)])
    }
    return "LATENESS connections=\(peers.count) gaps=\(gaps.count) merged=\(merged) "
      + "interval_us=\(Int(nominal)) "
      + "gap_p50_us=\(at(0.5, gaps)) gap_p99_us=\(at(0.99, gaps)) gap_p999_us=\(at(0.999, gaps)) "
      + "gap_max_us=\(at(1, gaps)) late_p50_us=\(at(0.5, late)) late_p99_us=\(at(0.99, late)) "
      + "late_p999_us=\(at(0.999, late)) late_max_us=\(at(1, late))"
  }
}
