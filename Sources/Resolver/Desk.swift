// SPDX-License-Identifier: Apache-2.0
//
// Where c-ares leaves what it has to say: its two callbacks write here, and nowhere else. This is the only file that c-ares
// calls into. Why its pointers are safe: a desk is allocated at the resolver's start and freed at its end, after every
// channel is destroyed, so it outlives all callbacks; a resolver is used by one thread, and holds no access to the desk
// while it calls c-ares.

import CAres
import Structures

/// A query that was handed to c-ares, and what came of it.
struct Landing: BitwiseCopyable {
  let desk: UnsafeMutablePointer<Desk>
  let number: Int32
  var channel: Int32 = 0
  /// The question that waits for it; -1 if its time was over first.
  var flight: Int32 = -1
  var type = RecordType.a
  /// The next one that has landed.
  var next: Int32 = -1
  var answer = Answer.failure(.timedOut)
}

/// A socket of c-ares.
struct SocketPlace: BitwiseCopyable {
  enum State: UInt8 { case free, open, gone }
  var state = State.free
  /// Whether the caller was told of it.
  var isReported = false
  /// Whether the caller is to be told.
  var isChanged = false
  var isReadable = false
  var isWritable = false
  var channel: Int32 = 0
  var socket = WatchedSocket(descriptor: -1, serial: 0)
}

/// What c-ares calls back with, to find its way.
struct ChannelLabel: BitwiseCopyable {
  let desk: UnsafeMutablePointer<Desk>
  let channel: Int32
}

struct Desk {
  let landings: UnsafeMutablePointer<Landing>
  let landingCount: Int
  let sockets: UnsafeMutablePointer<SocketPlace>
  let socketCount: Int
  let labels: UnsafeMutablePointer<ChannelLabel>
  /// What has landed, in that order.
  var firstLanded: Int32 = -1
  var lastLanded: Int32 = -1
  var serial: UInt32 = 0
  /// Sockets the caller is to be told of, by kind.
  var gone = 0
  var changed = 0

  static func make(
    landings: Int, channels: Int, sockets: Int
  ) -> UnsafeMutablePointer<Desk> {
    let desk = UnsafeMutablePointer<Desk>.allocate(capacity: 1)
    desk.initialize(
      to: Desk(
        landings: .allocate(capacity: landings), landingCount: landings,
        sockets: .allocate(capacity: sockets), socketCount: sockets,
        labels: .allocate(capacity: channels)))
    for i in 0..<landings {
      (desk.pointee.landings + i).initialize(to: Landing(desk: desk, number: Int32(i)))
    }
    desk.pointee.sockets.initialize(repeating: SocketPlace(), count: sockets)
    for i in 0..<channels {
      (desk.pointee.labels + i).initialize(to: ChannelLabel(desk: desk, channel: Int32(i)))
    }
    return desk
  }

  static func free(_ desk: UnsafeMutablePointer<Desk>) {
    desk.pointee.landings.deallocate()
    desk.pointee.sockets.deallocate()
    desk.pointee.labels.deallocate()
    desk.deallocate()
  }

  private init(
    landings: UnsafeMutablePointer<Landing>, landingCount: Int,
    sockets: UnsafeMutablePointer<SocketPlace>, socketCount: Int,
    labels: UnsafeMutablePointer<ChannelLabel>
  ) {
    self.landings = landings
    self.landingCount = landingCount
    self.sockets = sockets
    self.socketCount = socketCount
    self.labels = labels
  }

  // MARK: What landed

  /// The next query that has landed.
  mutating func takeLanded() -> Int? {
    guard firstLanded >= 0 else { return nil }
    let number = Int(firstLanded)
    firstLanded = landings[number].next
    if firstLanded < 0 { lastLanded = -1 }
    landings[number].next = -1
    return number
  }

  private mutating func landed(_ number: Int32) {
    if lastLanded >= 0 { landings[Int(lastLanded)].next = number } else { firstLanded = number }
    lastLanded = number
  }

  /// `ares_callback`.
  static let queryEnded: ares_callback = { argument, status, _, octets, count in
    guard let landing = argument?.assumingMemoryBound(to: Landing.self) else { return }
    landing.pointee.answer = answer(
      status, UnsafeBufferPointer(start: octets, count: octets == nil ? 0 : Int(count)),
      landing.pointee.type)
    landing.pointee.desk.pointee.landed(landing.pointee.number)
  }

  private static func answer(
    _ status: Int32, _ octets: UnsafeBufferPointer<UInt8>, _ type: RecordType
  ) -> Answer {
    switch status {
    case ARES_SUCCESS: return Reply.read(Span(_unsafeElements: octets), type: type)
    case ARES_ETIMEOUT: return .failure(.timedOut)
    case ARES_ECONNREFUSED, ARES_ESERVFAIL, ARES_EREFUSED, ARES_ENOTIMP, ARES_EFORMERR:
      return .failure(.unavailable)
    case ARES_EBADRESP, ARES_EBADQUERY, ARES_EBADNAME: return .failure(.malformed)
    default: return .failure(.outOfResources)
    }
  }

  // MARK: Sockets

  /// `ares_sock_state_cb`: both false comes before the socket is closed.
  static let socketChanged: ares_sock_state_cb = { argument, descriptor, readable, writable in
    guard let label = argument?.assumingMemoryBound(to: ChannelLabel.self) else { return }
    label.pointee.desk.pointee.changed(
      descriptor, label.pointee.channel, isReadable: readable != 0, isWritable: writable != 0)
  }

  private mutating func changed(
    _ descriptor: Int32, _ channel: Int32, isReadable: Bool, isWritable: Bool
  ) {
    var free: Int?
    for i in 0..<socketCount {
      switch sockets[i].state {
      case .open where sockets[i].socket.descriptor == descriptor:
        if isReadable || isWritable {
          change(i, isReadable, isWritable)
        } else {
          close(i)
        }
        return
      case .free: free = free ?? i
      case .open, .gone: break
      }
    }
    guard isReadable || isWritable else { return }
    guard let free else { invariantFailed("c-ares has more sockets than servers and channels") }
    serial &+= 1
    sockets[free] = SocketPlace(
      state: .open, channel: channel,
      socket: WatchedSocket(descriptor: descriptor, serial: serial))
    change(free, isReadable, isWritable)
  }

  private mutating func change(_ i: Int, _ isReadable: Bool, _ isWritable: Bool) {
    sockets[i].isReadable = isReadable
    sockets[i].isWritable = isWritable
    if !sockets[i].isChanged {
      sockets[i].isChanged = true
      changed += 1
    }
  }

  private mutating func close(_ i: Int) {
    if sockets[i].isChanged { changed -= 1 }
    sockets[i].isChanged = false
    if sockets[i].isReported {
      sockets[i].state = .gone
      gone += 1
    } else {
      sockets[i].state = .free
    }
  }

  /// A socket that is to be forgotten.
  mutating func takeGone() -> WatchedSocket? {
    guard gone > 0 else { return nil }
    for i in 0..<socketCount where sockets[i].state == .gone {
      gone -= 1
      let socket = sockets[i].socket
      sockets[i] = SocketPlace()
      return socket
    }
    invariantFailed("\(gone) sockets are gone, and none is to be found")
  }

  /// A socket that is to be watched, or watched otherwise.
  mutating func takeChanged() -> SocketPlace? {
    guard changed > 0 else { return nil }
    for i in 0..<socketCount where sockets[i].isChanged {
      changed -= 1
      sockets[i].isChanged = false
      sockets[i].isReported = true
      return sockets[i]
    }
    invariantFailed("\(changed) sockets have changed, and none is to be found")
  }

  /// nil if it is gone, even if another one has its number.
  func channel(of socket: WatchedSocket) -> Int? {
    for i in 0..<socketCount where sockets[i].state == .open && sockets[i].socket == socket {
      return Int(sockets[i].channel)
    }
    return nil
  }
}
