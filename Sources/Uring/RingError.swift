// SPDX-License-Identifier: Apache-2.0
//
// Why a ring could not be made or had to be given up, in words for the person who must fix it.
// Not for errors of one operation on one peer: those are results of completions. Keeps: every error
// names the call, the errno, and the likeliest cause on this machine with its remedy.

import Glibc

/// A ring failed. The worker that owns it cannot go on.
public struct RingError: Error, Equatable, CustomStringConvertible {
  /// What was being done, named by its call.
  public enum Step: String, Sendable {
    case setUp = "io_uring_setup"
    case registerFiles = "io_uring_register(FILES2)"
    case updateFiles = "io_uring_register(FILES_UPDATE)"
    case registerBuffers = "io_uring_register(PBUF_RING)"
    case mapBuffers = "mmap for receive buffers"
    case enter = "io_uring_enter"
    case eventDescriptor = "eventfd"
  }

  /// The call that failed.
  public let step: Step
  /// Positive, as in errno.h.
  public let errno: Int32
  /// The likeliest cause and its remedy, in sentences.
  public let cause: String

  /// An error of this machine as it is now; `requested`: how many slots, buffers or bytes were asked for.
  public init(_ step: Step, errno: Int32, requested: Int = 0) {
    self.step = step
    self.errno = errno
    cause = RingError.cause(step, errno: errno, requested: requested, host: .current())
  }

  /// Whether io_uring, or a part of it, is not allowed or not there: no other try will go better.
  public var isForbidden: Bool { [EPERM, EACCES, ENOSYS].contains(errno) }

  /// Call, errno and cause, for the operator.
  public var description: String {
    "\(step.rawValue) failed: \(errnoText(errno)) (errno \(errno)). \(cause)"
  }

  /// The facts about this machine that tell one cause from another.
  public struct Host: Equatable {
    /// kernel.io_uring_disabled; nil where the kernel is older than 6.6.
    public var disabled: Int?
    /// kernel.io_uring_group.
    public var group: Int?
    /// RLIMIT_NOFILE.
    public var descriptorsMax: UInt64
    /// RLIMIT_MEMLOCK, in bytes.
    public var lockedBytesMax: UInt64

    /// Facts as given: limits in descriptors and in bytes.
    public init(disabled: Int?, group: Int?, descriptorsMax: UInt64, lockedBytesMax: UInt64) {
      self.disabled = disabled
      self.group = group
      self.descriptorsMax = descriptorsMax
      self.lockedBytesMax = lockedBytesMax
    }

    /// What this machine says now.
    public static func current() -> Host {
      var descriptors = rlimit()
      var locked = rlimit()
      getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &descriptors)
      getrlimit(__rlimit_resource_t(__RLIMIT_MEMLOCK.rawValue), &locked)
      return Host(
        disabled: readNumber("/proc/sys/kernel/io_uring_disabled"),
        group: readNumber("/proc/sys/kernel/io_uring_group"),
        descriptorsMax: UInt64(descriptors.rlim_cur), lockedBytesMax: UInt64(locked.rlim_cur))
    }
  }

  /// The likeliest cause and its remedy. Pure, so that each sentence has a test.
  public static func cause(_ step: Step, errno: Int32, requested: Int, host: Host) -> String {
    switch errno {
    case ENOSYS:
      return
        "The kernel has no io_uring (CONFIG_IO_URING is off), or a seccomp profile that answers "
        + "ENOSYS hides it. Sluice needs Linux 6.1 or later with io_uring; in a container, allow "
        + "io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile."
    case EPERM where step != .setUp, EACCES where step != .setUp:
      return
        "io_uring_setup is allowed here and this call is not, so a seccomp profile forbids it. "
        + "Allow io_uring_setup, io_uring_enter and io_uring_register in the profile (docker run "
        + "--security-opt seccomp=FILE)."
    case EPERM, EACCES:
      switch host.disabled {
      case 2?:
        return "The sysctl kernel.io_uring_disabled is 2, which forbids io_uring to everybody. "
          + "Run: sysctl -w kernel.io_uring_disabled=0 (or 1, with kernel.io_uring_group set to the "
          + "group Sluice runs in)."
      case 1?:
        let group = host.group.map(String.init) ?? "-1"
        return
          "The sysctl kernel.io_uring_disabled is 1, and kernel.io_uring_group is \(group): only "
          + "that group and CAP_SYS_ADMIN may use io_uring. Put the id of Sluice's group into "
          + "kernel.io_uring_group, or run: sysctl -w kernel.io_uring_disabled=0"
      default:
        return "No sysctl forbids io_uring here, so most likely a seccomp profile does: Docker and "
          + "containerd forbid it by default. Allow io_uring_setup, io_uring_enter and "
          + "io_uring_register in the profile (docker run --security-opt seccomp=FILE)."
      }
    case ENOMEM:
      return "The memory for the ring was refused. Raise RLIMIT_MEMLOCK (it is "
        + "\(host.lockedBytesMax) bytes; systemd: LimitMEMLOCK=), look at the memory limit of the "
        + "container, or ask for fewer slots or buffers."
    case EMFILE where step == .registerFiles:
      return "A table of \(requested) connections was asked for, but RLIMIT_NOFILE is "
        + "\(host.descriptorsMax), and one ring's table cannot be larger. Raise it (systemd: "
        + "LimitNOFILE=), or use more workers: the limit counts for each ring alone."
    case EMFILE, ENFILE:
      return "The process has no descriptor left (RLIMIT_NOFILE is \(host.descriptorsMax)) or the "
        + "whole system has none (fs.file-max). Raise the one that is exhausted."
    case EEXIST:
      return "The ring was used by a thread that does not own it, or a buffer group was registered "
        + "twice. This is a bug in Sluice; please report it."
    case EBADR:
      return
        "The kernel ran out of memory and dropped completions, so what this worker believes of "
        + "its connections may be wrong. The worker must be restarted; give the machine more memory."
    case EINVAL:
      return "The kernel refused the parameters. Sluice needs Linux 6.1 or later; look at uname -r."
    default:
      return "This is not expected; please report it with the output of uname -r."
    }
  }
}

/// strerror: since glibc 2.32 its buffer belongs to the thread.
func errnoText(_ number: Int32) -> String {
  strerror(number).map { String(cString: $0) } ?? "error \(number)"
}

/// The whole number in a one-line file, as /proc/sys writes them.
private func readNumber(_ path: String) -> Int? {
  let descriptor = open(path, O_RDONLY | O_CLOEXEC)
  guard descriptor >= 0 else { return nil }
  defer { close(descriptor) }
  return withUnsafeTemporaryAllocation(byteCount: 32, alignment: 1) { bytes in
    let count = read(descriptor, bytes.baseAddress, 32)
    guard count > 0 else { return nil }
    let text = String(decoding: bytes[..<count], as: UTF8.self)
    return text.split(whereSeparator: \.isWhitespace).first.flatMap { Int($0) }
  }
}
