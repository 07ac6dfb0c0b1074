// SPDX-License-Identifier: Apache-2.0
//
// Receive buffers the kernel picks from by itself, so that a thousand waiting sockets share a few.
// Not a queue of starved sockets: which socket waits for a buffer, in which order, is the driver's business.
// Keeps: free + claimed = count, and no buffer is given back twice (that would let the kernel write
// two peers' bytes into one).

package import CUring
import Glibc
import Structures

/// A provided-buffer ring. Belongs to the thread of its `Ring`, which it keeps alive.
package struct BufferRing: ~Copyable {
  private let memory: RingMemory
  @usableFromInline package let entries: UnsafeMutablePointer<io_uring_buf_ring>
  @usableFromInline let buffers: UnsafeMutableRawPointer
  /// One bit for each buffer that is ours at present.
  @usableFromInline let claimed: UnsafeMutablePointer<UInt64>

  package let group: UInt16
  package let count: Int
  package let bytesEach: Int
  /// Buffers the kernel can still pick. It takes them before we see the completion, so at 0 it may
  /// be out already, and above 0 a receive may still find none.
  @usableFromInline var freeCount: Int
  @inlinable package var free: Int { freeCount }

  /// - Parameters:
  ///   - count: a power of two, at most 32,768.
  ///   - bytesEach: size of one buffer.
  package init(
    _ ring: borrowing Ring, group: UInt16, count: Int, bytesEach: Int
  ) throws(RingError) {
    invariant(
      count > 0 && count <= 32768 && count & (count - 1) == 0 && bytesEach > 0,
      "\(count) receive buffers of \(bytesEach) bytes: the count must be a power of two up to 32768"
    )
    // One mapping: the ring of entries first (it must start on a page), then the bits, then buffers.
    let entryBytes = count * MemoryLayout<io_uring_buf>.stride
    let bitBytes = (count + 63) / 64 * 8
    let head = (entryBytes + bitBytes + 4095) / 4096 * 4096
    let total = head + count * bytesEach
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE
    guard let base = mmap(nil, total, PROT_READ | PROT_WRITE, flags, -1, 0), base != MAP_FAILED
    else { throw RingError(.mapBuffers, errno: errno, requested: total) }
    var request = io_uring_buf_reg()
    request.ring_addr = UInt64(UInt(bitPattern: base))
    request.ring_entries = UInt32(count)
    request.bgid = group
    let status = io_uring_register_buf_ring(ring.ring, &request, 0)
    if status < 0 {
      munmap(base, total)
      throw RingError(.registerBuffers, errno: -status, requested: count)
    }
    memory = ring.memory
    memory.mappings.append((base, total))
    entries = base.assumingMemoryBound(to: io_uring_buf_ring.self)
    claimed = (base + entryBytes).bindMemory(to: UInt64.self, capacity: bitBytes / 8)
    buffers = base + head
    self.group = group
    self.count = count
    self.bytesEach = bytesEach
    freeCount = count
    io_uring_buf_ring_init(entries)
    for id in 0..<count {
      io_uring_buf_ring_add(
        entries, buffers + id * bytesEach, UInt32(bytesEach), UInt16(id), Int32(count - 1),
        Int32(id))
    }
    io_uring_buf_ring_advance(entries, Int32(count))
  }

  /// The buffer a completion brought, now ours; nil if it brought none. Ask for every completion of
  /// a receive with this group, whatever its result.
  @inlinable
  package mutating func claim(_ completion: Completion) -> UInt16? {
    guard let id = completion.buffer else { return nil }
    let bit = UInt64(1) << UInt64(id & 63)
    precondition(Int(id) < count && claimed[Int(id >> 6)] & bit == 0, "buffer claimed twice")
    claimed[Int(id >> 6)] |= bit
    freeCount -= 1
    return id
  }

  /// Where the bytes of a claimed buffer are; good until it is recycled.
  @inlinable
  package func pointer(for id: UInt16) -> UnsafeMutableRawPointer {
    precondition(Int(id) < count, "no such buffer")
    return buffers + Int(id) * bytesEach
  }

  /// Gives a claimed buffer back to the kernel, which may write to it at once.
  @inlinable
  package mutating func recycle(_ id: UInt16) {
    let bit = UInt64(1) << UInt64(id & 63)
    precondition(Int(id) < count && claimed[Int(id >> 6)] & bit != 0, "buffer was not claimed")
    claimed[Int(id >> 6)] &= ~bit
    freeCount += 1
    io_uring_buf_ring_add(
      entries, buffers + Int(id) * bytesEach, UInt32(truncatingIfNeeded: bytesEach), id,
      Int32(truncatingIfNeeded: count - 1), 0)
    io_uring_buf_ring_advance(entries, 1)
  }
}
