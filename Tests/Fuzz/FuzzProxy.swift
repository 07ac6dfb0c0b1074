// SPDX-License-Identifier: Apache-2.0

// Fuzz target: PROXY headers in any pieces, as a load balancer or somebody who poses as one may send them. A
// finding is a source that depends on the pieces, a read beyond what can belong to a header, a header of ours
// that reads as something else, and any crash.

import SMTP
import Structures

/// libFuzzer calls this with each input it makes.
@c(LLVMFuzzerTestOneInput)
public func fuzzProxy(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
  var input = FuzzInput(start, count)
  let piece = input.number(1..<40)
  let all = input.stream
  let whole = feed(all, piece: 10_000)
  let cut = feed(all, piece: piece)
  demand(whole == cut, "\(piece) at a time: \(cut), at once: \(whole)")
  guard case .complete(.client(let address, let port), let skip) = whole.step else { return 0 }
  demand(skip <= ProxyHeader.extrasMax, "skips \(skip)")
  let ends = ClientEnds(address: address, port: port)
  for version in [1, 2] {
    let header = [UInt8](capacity: 256) { out in
      if version == 1 {
        ProxyHeader.writeV1(ends, into: &out)
      } else {
        ProxyHeader.writeV2(ends, session: 7, into: &out)
      }
    }
    guard case .complete(let again, _) = feed(header, piece: piece).step else {
      fatalError("our header of version \(version) is none")
    }
    demand(again == .client(address, port), "\(again) is not \(address) \(port)")
  }
  return 0
}

/// What was found and how many octets were looked at.
struct Fed: Equatable {
  var step: ProxyHeader.Step
  var taken: Int
}

private func feed(_ stream: [UInt8], piece: Int) -> Fed {
  var have = 0
  while true {
    let step = ProxyHeader.read(Array(stream[..<have]).span)
    guard case .needMore(let more) = step else {
      // How soon it is clear that it is none depends on the pieces.
      return Fed(step: step, taken: step == .malformed ? 0 : have)
    }
    demand(more > 0 && have + more <= ProxyHeader.lineMax, "asks for \(more) behind \(have)")
    if have == stream.count { return Fed(step: .needMore(0), taken: have) }
    have += min(more, piece, stream.count - have)
  }
}
