// SPDX-License-Identifier: Apache-2.0
//
// A reload until it is decided: the files are read beside the main thread, what would be lost is compared with what is
// in force, and the downstream is asked where the new configuration acts and the old one did not. Nothing is put in
// force here.

package import Configuration
import Policy
import Structures

package struct Reloader: Sendable {
  /// Reads the files as at the start. Takes as long as they take.
  package typealias Reading = @Sendable () -> (configuration: Configuration?, problems: [Problem])

  /// What was read, and asked of the downstream where that is to be known first.
  struct Reread: Sendable {
    /// Nil if it must not be in force; then the problems say why.
    let configuration: Configuration?
    let problems: [Problem]
    let preflight: Preflight?
  }

  private let rereading = Rereading<Reread>()
  /// Sockets, roles, limits and the downstream are those of the start.
  private let started: Configuration
  private let read: Reading

  package init(_ started: Configuration, _ read: @escaping Reading) {
    self.started = started
    self.read = read
  }

  var isReading: Bool { rereading.isReading }

  /// Whether the reading under way takes longer than it should; true once for each.
  func isOverdue() -> Bool { rereading.isOverdue() }

  /// What was read, once; and whether it is wanted again since.
  func take() -> (found: Reread, isWantedAgain: Bool)? { rereading.take() }

  /// Begins to read, or notes that it is wanted once more when the reading under way is done.
  func begin(inForce: Configuration, at addresses: [Address]) throws(ThreadError) {
    let (started, read) = (started, read)
    _ = try rereading.begin {
      let (found, problems) = read()
      let losses = found?.losses(of: inForce) ?? []
      guard let found, losses.isEmpty else {
        return Reread(configuration: nil, problems: problems + losses, preflight: nil)
      }
      // From looking on to acting, or no longer told to look away: what is asked before a start with that.
      let isAsked = found.isGuarded && !inForce.isGuarded
      return Reread(
        configuration: found, problems: problems,
        preflight: isAsked ? Preflight(started, at: addresses) : nil)
    }
  }

  /// The policy of a configuration on the sockets of the start, whose roles stay: by their number in the new file an
  /// inbound port could become an outbound one.
  func policy(of found: Configuration) -> Policy {
    var policy = found.enginePolicy
    policy.listeners = started.listeners.map { listener in
      var terms = listener.terms
      let asked = found.listeners.first { $0.text == listener.text }?.tls ?? listener.tls
      // One that is not in the file any more. Of TLS alone, it closes at once.
      terms.tls = asked == .starttls && found.tls.certificates.isEmpty ? .off : asked
      return terms
    }
    return policy
  }

  /// The sections of a configuration that differ and take another start.
  func notInForce(of found: Configuration) -> [String] {
    [
      ("limits", found.limits != started.limits),
      ("workers", found.workers != started.workers),
      ("listeners", !found.listeners.elementsEqual(started.listeners) { $0.isOpenLike($1) }),
      ("downstream", found.downstream != started.downstream),
      ("reputation.key_file", found.nameKey != started.nameKey),
      ("log", found.log != started.log),
    ].filter(\.1).map(\.0)
  }
}
