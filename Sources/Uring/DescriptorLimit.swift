// SPDX-License-Identifier: Apache-2.0
import Glibc

/// How many open files this process may have.
package enum DescriptorLimit {
  private static let kind = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)

  /// The soft limit, as far as a table of descriptors can need it.
  package static var current: Int {
    var limit = rlimit()
    getrlimit(kind, &limit)
    return Int(min(limit.rlim_cur, 1 << 30))
  }

  /// Raises the soft limit to the hard one. Where that fails the limit stays as it is.
  package static func raise() {
    var limit = rlimit()
    guard getrlimit(kind, &limit) == 0 else { return }
    limit.rlim_cur = limit.rlim_max
    _ = setrlimit(kind, &limit)
  }
}
