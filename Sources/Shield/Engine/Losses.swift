// SPDX-License-Identifier: Apache-2.0
import Policy
import SMTP
import Structures
import Suspicion

// A downstream connection that is of no use any more: the client at it gets an honest answer.
extension Engine {
  /// - Parameters:
  ///   - l: the link that is lost. What it has kept can be read until its slot is closed.
  mutating func linkLost(_ l: LinkIndex, _ loss: LinkLoss, _ m: inout Moment) {
    let s = loss.session
    let isMissed = loss.state != .ready || s.exists && clients.sessions[s].envelope.hasMail
    if !loss.isOrderly && isMissed { noteFailure(l, s, loss.why, now: m.now) }
    guard s.exists else { return }
    let i = clients.sessions[s].owner
    clients.sessions[s].detach()
    clients.sessions[s].login.endExchange()
    switch clients.sessions[s].phase {
    case .opening where clients.sessions[s].verb == .ehlo: helloFromOthers(i, &m)
    case .opening: answer(i, .downstreamUnavailable, &m)
    case .forwarded:
      // A reply that has begun is not followed by another one.
      guard !downstream.links[l].hasPassedPiece, answerOutstanding(i, l, now: m.now) else {
        close(i, &m)
        return
      }
      transactionLost(i, &m)
    case .holding:
      // The reply was there before the downstream went: the client is owed that one.
      core.timers.cancel(i)
      passReply(i, l, to: downstream.links[l].repliedVerb, now: m.now)
      if downstream.links[l].outstanding.isEmpty {
        clients.sessions[s].finish()
        clients.sessions[s].envelope.lose()
      } else if answerOutstanding(i, l, now: m.now) {
        transactionLost(i, &m)
      } else {
        close(i, &m)
        return
      }
    // It owes us an answer that nobody will read: nothing said now could pair with it.
    case .challenge: leave(i, .authenticationLost, &m)
    case .body:
      swallow(i, .downstreamLost, &m)
      goOnSwallowing(i, &m)
    case .final:
      // It may have taken the message: 451 can make a duplicate, never a loss.
      say(i, .downstreamLost, now: m.now)
      clients.sessions[s].tally(.data, good: false)
      endTransaction(i)
      clients.sessions[s].enter(.command)
    case .command, .delaying:
      clients.sessions[s].envelope.lose()
      loginLost(i, &m)
      return
    case .spliced: spliceLost(i, &m)
    case .due, .swallow, .leaving, .securing: break
    }
    loginLost(i, &m)
    wake(i)
  }

  /// The log says how a connection to the downstream failed.
  mutating func noteFailure(_ l: LinkIndex, _ s: SessionIndex, _ why: Subject, now: Instant) {
    var failure =
      s.exists
      ? clients.entry(.downstreamFailed, clients.sessions[s].owner, core, now: now)
      : JournalEntry(.downstreamFailed, at: now)
    failure.subject = why
    failure.server = downstream.links[l].server
    core.journal.append(failure)
  }

  /// The current command cannot be carried out because its transaction's downstream is gone.
  mutating func transactionLost(_ i: ClientIndex, _ m: inout Moment) {
    let s = clients.connections[i].session
    switch clients.sessions[s].verb {
    case .rset:
      endTransaction(i)
      answer(i, .ok, &m)
    case .ehlo, .helo:
      clients.sessions[s].enter(.due(.greet))
      wake(i)
    default:
      clients.sessions[s].envelope.lose()
      answer(i, .downstreamLost, &m)
    }
  }

  // MARK: Offers

  /// What a client is offered in the reply to EHLO: the part of the downstream's offers that Sluice carries here.
  func offered(_ i: ClientIndex, of theirs: Capabilities) -> Capabilities {
    let connection = clients.connections[i]
    var own = Capabilities()
    own.keywords = .carried
    let isPassed = core.policy.tls(of: connection) == .passThrough
    if core.policy.offersTLS(connection) || isPassed && theirs.keywords.contains(.starttls) {
      own.keywords.insert(.starttls)
    }
    // Once is all there may be (RFC 4954, 4).
    let s = connection.session
    if !core.policy.offersAuth(connection) || s.exists && clients.sessions[s].login.isAuthenticated
    {
      own.keywords.remove(.auth)
    }
    if connection.flags.contains(.encrypted) && downstream.terms.tls == .verify {
      own.keywords.insert(.requiretls)
    }
    own.sizeMax = core.policy.session.messageBytes
    own.recipientsMax = UInt32(clamping: core.policy.session.recipients)
    let role = core.policy.role(of: connection)
    return theirs.offered(by: own, role: role == .outbound ? .outbound : .inbound)
  }

  /// What a client may use without an offer, after HELO or without any greeting. Whether that works its own downstream
  /// connection decides.
  func offeredUnasked(_ i: ClientIndex) -> Capabilities {
    var anything = Capabilities()
    anything.keywords = .carried
    return offered(i, of: downstream.offers.all ?? anything)
  }

  /// EHLO is answered by what others were offered. Where nothing is known of that, by 421: a sender that is not offered
  /// what it needs would return the mail.
  mutating func helloFromOthers(_ i: ClientIndex, _ m: inout Moment) {
    if let known = downstream.offers.all {
      sayHello(i, offered(i, of: known), &m)
    } else {
      leave(i, .offersUnknown, &m)
    }
  }
}
