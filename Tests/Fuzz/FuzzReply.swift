// SPDX-License-Identifier: Apache-2.0

// Fuzz target: replies of the downstream in any pieces and any room, and the capabilities read from
// them. A finding is a result that depends on the split, a re-made reply that is none, and any crash.

import SMTP

/// libFuzzer calls this with each input it makes.
@c(LLVMFuzzerTestOneInput)
public func fuzzReply(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
  var input = FuzzInput(start, count)
  let room = input.number(1..<256) * 6
  input.takeCuts()
  let all = input.stream

  let found = read(all, cutAt: input.cuts, room: room)
  let whole = read(all, cutAt: [], room: room)
  demand(found == whole, "cut at \(input.cuts): \(found), whole: \(whole)")
  demand(found.text.count <= room && found.consumed <= all.count, "beyond its bounds")
  for byte in found.text {
    demand((0x20..<0x7F).contains(byte) || byte == 13 || byte == 10, "an octet \(byte) got out")
  }
  for use in [ReplyUse.clientUTF8, .login, .ourselves] {
    let made = read(all, cutAt: input.cuts, room: room, for: use)
    let once = read(all, cutAt: [], room: room, for: use)
    demand(made == once, "for \(use), cut at \(input.cuts): \(made), whole: \(once)")
    demand(made.step == found.step && made.code == found.code, "for \(use) it means another")
    // A line is looked through when it is whole.
    guard made.step == .complete else { continue }
    demand(String(validating: made.text, as: UTF8.self) != nil, "for \(use): no UTF-8")
  }
  guard found.step == .complete else { return 0 }

  let again = read(found.text, cutAt: [], room: room)
  demand(again.step == .complete && again.text == found.text, "re-made into something else")
  demand(again.code == found.code && again.consumed == found.text.count, "re-made to mean another")

  let capabilities = Capabilities(ehloReply: found.text.span)
  for role in [Capabilities.Role.inbound, .outbound] {
    let offer = capabilities.offered(by: capabilities, role: role)
    demand(role == .outbound || !offer.keywords.contains(.auth), "AUTH offered to the Internet")
    var written = false
    let name: [UInt8] = [0x6D, 0x78]
    let reply = [UInt8](capacity: 2_000) {
      written = offer.writeEHLOReply(hostname: name.span, into: &$0)
    }
    demand(written, "an EHLO reply that does not fit in 2,000 octets")
    let second = Capabilities(ehloReply: reply.span)
    demand(second.keywords == offer.keywords, "what was offered is not what is read")
    demand(second.sizeMax == offer.sizeMax, "another SIZE is read than was offered")
  }
  return 0
}
