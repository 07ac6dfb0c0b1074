// SPDX-License-Identifier: Apache-2.0
package import Policy
package import Structures
import Suspicion

/// What every part of the engine works with: the policy in force, the memory in which regions lie, the clocks, the
/// places, and the ledger. It decides nothing.
package struct Core: ~Copyable {
  package internal(set) var policy: Policy
  package let limits: Limits
  let layout: Layout
  /// The block in which every region of an order lies.
  package var arena: Arena
  var timers: Timers
  var places: Places
  var texts = Texts()
  package var journal: Journal
  package var counters = Counters()
  /// Set once: no new clients, idle ones are told to go.
  private(set) var isDraining = false
  private let staysPut = StaysPut()

  /// - Parameter headers: how many PROXY headers may be waited for at once.
  init(_ policy: Policy, _ limits: Limits, headers: Int) {
    self.policy = policy
    self.limits = limits
    layout = Layout(limits, headers: headers)
    arena = Arena(count: layout.total)
    let ports = Ports(clients: limits.connections, links: limits.downstreamConnections)
    timers = Timers(ports)
    places = Places(limits)
    journal = Journal(capacity: limits.journal)
    prepareTexts()
  }

  mutating func beginDraining() { isDraining = true }

  /// A ready text as the tarpit says it, and as it is sent.
  func line(_ text: PitText) -> PitLine { texts[text] }
  func text(_ text: PitText) -> Region { texts[text].region }

  /// Makes the ready texts and their pace those of the policy in force.
  mutating func prepareTexts() {
    for text in PitText.allCases {
      let region = layout.text(text, set: texts.set)
      let words = text.words(host: policy.hostname, offersTLS: policy.offersTLS)
      let bytes = Array(words.utf8.prefix(region.count))
      arena.write(bytes.span, at: region.offset)
      texts[text] = PitLine(region.prefix(bytes.count), span: policy.delays[text.stage].bad)
    }
  }

  /// Whether every octet of a region is printable ASCII.
  func isPrintable(_ region: Region) -> Bool {
    let bytes = arena.span(region)
    for k in 0..<bytes.count where bytes[k] < 32 || bytes[k] >= 127 { return false }
    return true
  }
}

/// Which clients, sessions and downstream connections there are room for.
struct Places: ~Copyable {
  var clients: RecordAllocator<Connection>
  var sessions: RecordAllocator<Session>
  var links: RecordAllocator<Link>

  init(_ limits: Limits) {
    clients = RecordAllocator(capacity: limits.connections)
    sessions = RecordAllocator(capacity: limits.sessions)
    links = RecordAllocator(capacity: limits.downstreamConnections)
  }
}

/// The ready texts of the set in use. The others may still be going out.
struct Texts: BitwiseCopyable {
  private(set) var set = 0
  private var lines = InlineArray<16, PitLine>(repeating: PitLine())

  /// Begins the next set: what is being said of this one is still to be read.
  mutating func turn() { set = (set + 1) % Layout.textSets }

  subscript(_ text: PitText) -> PitLine {
    get { lines[Int(text.rawValue)] }
    set { lines[Int(text.rawValue)] = newValue }
  }

  /// By its number, for the hot path.
  @inline(__always)
  subscript(number number: Int) -> PitLine { lines[number] }
}
