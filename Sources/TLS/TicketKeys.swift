// SPDX-License-Identifier: Apache-2.0
//
// The keys that session tickets are sealed with: one that seals, the one before it, which still opens.
// Not a cache of sessions: clients keep their own. Keeps: a key seals for one rotation time and opens for
// one more, then it is overwritten; a group of listeners that share nothing shares no keys either.

import COpenSSL
import CTLS
import Glibc
import Synchronization

/// Keys for the session tickets of one listener, or of several that may resume each other's sessions.
///
/// Hand them to the context that replaces another on reload, and clients can go on resuming.
public final class TLSTicketKeys: Sendable {
  /// How long a key seals, in seconds; a ticket is good for at least this, and for less than twice.
  public let rotation: Int64
  private let clock: @Sendable () -> Int64
  private let pair: Mutex<Pair>

  private struct Pair: Sendable {
    /// nil where there were no random bytes for one: no tickets until there are.
    var current: TicketKey?
    var previous: TicketKey?
    var since: Int64
  }

  /// - Parameters:
  ///   - rotation: seconds, 60 at least.
  ///   - clock: seconds of a clock that is never set back; for tests.
  public init(rotation: Int64, clock: @escaping @Sendable () -> Int64 = TLSTicketKeys.monotonic) {
    self.rotation = max(rotation, 60)
    self.clock = clock
    pair = Mutex(Pair(current: TicketKey(), previous: nil, since: clock()))
  }

  /// CLOCK_MONOTONIC in seconds.
  public static let monotonic: @Sendable () -> Int64 = {
    var now = timespec()
    clock_gettime(CLOCK_MONOTONIC, &now)
    return Int64(now.tv_sec)
  }

  /// Makes a new key; the one in use still opens, the one before it does not any more.
  public func rotate() {
    let now = clock()
    guard let key = TicketKey() else { return }
    pair.withLock { $0 = Pair(current: key, previous: $0.current, since: now) }
  }

  /// The key to seal with, if there is one.
  func current() -> TicketKey? {
    let now = clock()
    return pair.withLock { pair in
      turn(&pair, now)
      return pair.current
    }
  }

  /// The key with a name, and whether it is no longer the one in use.
  func find(_ name: UnsafePointer<UInt8>) -> (key: TicketKey, isOld: Bool)? {
    let now = clock()
    return pair.withLock { pair in
      turn(&pair, now)
      if let current = pair.current, current.hasName(name) { return (current, false) }
      if let previous = pair.previous, previous.hasName(name) { return (previous, true) }
      return nil
    }
  }

  private func turn(_ pair: inout Pair, _ now: Int64) {
    let age = now - pair.since
    if age < rotation && pair.current != nil { return }
    // Without random bytes the old one goes on: the next ticket tries again.
    guard let key = TicketKey() else { return }
    // Nobody came for two times: what was in use is as old as a previous one may be.
    pair = Pair(current: key, previous: age < 2 * rotation ? pair.current : nil, since: now)
  }
}

/// A name of 16 bytes, a key for AES-256-CBC and one for HMAC-SHA-256, all random; overwritten at its end.
///
/// Safe to share: the bytes are written in `init` and in `deinit` only.
final class TicketKey: @unchecked Sendable {
  private static let nameBytes = 16
  private static let bytesCount = 16 + 32 + 32
  private let bytes: UnsafeMutablePointer<UInt8>

  init?() {
    bytes = .allocate(capacity: TicketKey.bytesCount)
    bytes.initialize(repeating: 0, count: TicketKey.bytesCount)
    guard
      RAND_bytes(bytes, Int32(TicketKey.nameBytes)) == 1,
      RAND_priv_bytes(bytes + 16, 64) == 1
    else {
      ERR_clear_error()
      return nil
    }
  }

  deinit {
    OPENSSL_cleanse(bytes, TicketKey.bytesCount)
    bytes.deallocate()
  }

  func hasName(_ name: UnsafePointer<UInt8>) -> Bool {
    memcmp(name, bytes, TicketKey.nameBytes) == 0
  }

  func copyName(to name: UnsafeMutablePointer<UInt8>) {
    name.update(from: bytes, count: TicketKey.nameBytes)
  }

  /// Sets both contexts to this key.
  func prepare(
    _ cipher: OpaquePointer, _ code: OpaquePointer, _ vector: UnsafePointer<UInt8>, sealing: Bool
  ) -> Bool {
    ctls_set_hmac_key(code, bytes + 48, 32) == 1
      && EVP_CipherInit_ex(
        cipher, EVP_aes_256_cbc(), nil, bytes + 16, vector, sealing ? 1 : 0) == 1
  }
}

/// What OpenSSL asks for each ticket: by the name in it, or for a new one.
///
/// - Returns: 1 done, 2 done and a new ticket should follow, 0 not ours, -1 failed.
func ticketKeyCallback(
  _ session: OpaquePointer?, _ name: UnsafeMutablePointer<UInt8>?,
  _ vector: UnsafeMutablePointer<UInt8>?, _ cipher: OpaquePointer?, _ code: OpaquePointer?,
  _ sealing: Int32
) -> Int32 {
  guard let session, let name, let vector, let cipher, let code,
    let keys = ContextState.of(SSL_get_SSL_CTX(session))?.keys
  else { return -1 }
  if sealing == 1 {
    // 0: no ticket, and the handshake goes on.
    guard let key = keys.current() else { return 0 }
    key.copyName(to: name)
    let done =
      RAND_bytes(vector, 16) == 1 && key.prepare(cipher, code, vector, sealing: true)
    return done ? 1 : -1
  }
  guard let (key, isOld) = keys.find(name) else { return 0 }
  guard key.prepare(cipher, code, vector, sealing: false) else { return -1 }
  return isOld ? 2 : 1
}
