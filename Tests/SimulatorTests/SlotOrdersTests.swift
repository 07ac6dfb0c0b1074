// SPDX-License-Identifier: Apache-2.0
import Shield
import Simulator
import Structures
import Testing

/// Each breach of the contract of orders and facts is found.
@Suite("The contract of orders and facts")
struct SlotOrdersTests {
  private let slot = Slot(index: 7, generation: 1)
  private let region = Region(offset: 0, count: 16)

  private func after(_ orders: Effect...) -> SlotOrders {
    var state = SlotOrders()
    for order in orders { state.take(order) }
    return state
  }

  @Test("one receive and one send at a time")
  func twice() {
    #expect(after().breach(of: .fill(slot, region)) == nil)
    #expect(after(.fill(slot, region)).breach(of: .fill(slot, region)) == .twoFills)
    #expect(after(.send(slot, region)).breach(of: .send(slot, region)) == .twoSends)
    var answered = after(.fill(slot, region), .send(slot, region))
    answered.answer(.filled, slot)
    answered.answer(.sent, slot)
    #expect(answered.breach(of: .fill(slot, region)) == nil)
    #expect(answered.breach(of: .send(slot, region)) == nil)
  }

  @Test("nothing is ordered behind the end")
  func end() {
    let orders: [Effect] = [
      .listen(slot), .watch(slot), .fill(slot, region), .send(slot, region), .finish(slot),
      .secure(slot, .accept), .close(slot), .narrow(slot), .widen(slot),
    ]
    for order in orders { #expect(after(.close(slot)).breach(of: order) == .afterClose) }
  }

  @Test("a handshake has the slot for itself")
  func handshake() {
    #expect(after().breach(of: .secure(slot, .accept)) == nil)
    #expect(after(.watch(slot)).breach(of: .secure(slot, .accept)) == nil)
    for order in [Effect.fill(slot, region), .send(slot, region)] {
      #expect(after(order).breach(of: .secure(slot, .accept)) == .handshakeInFlight)
      #expect(after(.secure(slot, .accept)).breach(of: order) == .handshakeInFlight)
    }
    let twice = after(.secure(slot, .accept)).breach(of: .secure(slot, .accept))
    #expect(twice == .twoHandshakes)
  }

  @Test("of listen and watch the newer holds, for one fact")
  func wishes() {
    var state = after(.listen(slot), .watch(slot))
    #expect(state.want == .watch)
    #expect(state.breach(of: .received) == .notAsked(.received))
    state.take(.listen(slot))
    state.answer(.received, slot)
    #expect(state.want == .nothing)
    #expect(state.breach(of: .received) == .notAsked(.received))
  }

  @Test("a fact answers an order", arguments: SlotOrders.Fact.allCases)
  func facts(fact: SlotOrders.Fact) {
    #expect(after().breach(of: fact) == .notAsked(fact))
    let order: Effect =
      switch fact {
      case .connected: .connect(slot, server: 0)
      case .received: .listen(slot)
      case .filled: .fill(slot, region)
      case .sent: .send(slot, region)
      case .ended: .watch(slot)
      case .secured, .notSecured: .secure(slot, .accept)
      case .closed: .close(slot)
      }
    var state = after(order)
    #expect(state.breach(of: fact) == nil)
    // Behind the end only the end is told.
    if fact != .closed {
      state.take(.close(slot))
      #expect(state.breach(of: fact) == .notAsked(fact))
    }
  }

  @Test(
    "a connection begins on a slot with nothing outstanding, and hears nothing before it stands")
  func connecting() {
    for order in [Effect.listen(slot), .fill(slot, region), .send(slot, region)] {
      #expect(after(order).breach(of: .connect(slot, server: 0)) == .slotInUse)
      #expect(after(.connect(slot, server: 0)).breach(of: order) == .notConnected)
    }
    #expect(after(.connect(slot, server: 0)).breach(of: .close(slot)) == nil)
    var closed = after(.send(slot, region), .close(slot))
    closed.answer(.closed, slot)
    #expect(closed.breach(of: .connect(slot, server: 0)) == nil)
    var failed = after(.connect(slot, server: 0))
    failed.fail()
    #expect(failed.breach(of: .connected) == .notAsked(.connected))
  }

  @Test("an octet is dripped where a send may be")
  func drips() {
    #expect(after(.fill(slot, region)).breachOfDrip == nil)
    #expect(after(.send(slot, region)).breachOfDrip == .twoSends)
    #expect(after(.secure(slot, .accept)).breachOfDrip == .handshakeInFlight)
    #expect(after(.finish(slot)).breachOfDrip == .afterFinish)
    #expect(after(.finish(slot)).breach(of: .send(slot, region)) == .afterFinish)
    #expect(after(.close(slot)).breachOfDrip == .afterClose)
  }

  @Test("a breach ends the process, and says on which slot")
  func ends() async {
    let order = await #expect(processExitsWith: .failure, observing: [\.standardErrorContent]) {
      var state = SlotOrders()
      let slot = Slot(index: 7, generation: 1)
      for _ in 0..<2 { state.take(.send(slot, Region(offset: 0, count: 1))) }
    }
    let fact = await #expect(processExitsWith: .failure, observing: [\.standardErrorContent]) {
      var state = SlotOrders()
      state.answer(.filled, Slot(index: 7, generation: 1))
    }
    for (result, word) in [(order, "twoSends"), (fact, "notAsked")] {
      let text = String(decoding: result?.standardErrorContent ?? [], as: UTF8.self)
      #expect(text.contains(word) && text.contains("slot 7"), "\(text)")
    }
  }
}
