// SPDX-License-Identifier: Apache-2.0
import Glibc

/// A thread could not be started.
package struct ThreadError: Error, Equatable, CustomStringConvertible {
  package let errno: Int32

  package var description: String {
    "cannot start a thread: \(String(cString: strerror(errno))). Raise RLIMIT_NPROC (systemd: LimitNPROC=, TasksMax=) "
      + "or the container's process limit, or add memory."
  }
}

/// Starts a detached thread.
package func startThread(_ body: @escaping @Sendable () -> Void) throws(ThreadError) {
  final class Box {
    let body: @Sendable () -> Void
    init(_ body: @escaping @Sendable () -> Void) { self.body = body }
  }
  var thread = pthread_t()
  let box = Unmanaged.passRetained(Box(body))
  let status = pthread_create(
    &thread, nil,
    { raw in
      if let raw { Unmanaged<Box>.fromOpaque(raw).takeRetainedValue().body() }
      return nil
    }, box.toOpaque())
  guard status == 0 else {
    box.release()
    throw ThreadError(errno: status)
  }
  pthread_detach(thread)
}
