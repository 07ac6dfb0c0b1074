// SPDX-License-Identifier: Apache-2.0
import ConfigurationFixtures
import DNSLists
import Flow
import Logging
import Policy
import Resolver
import ResolverFixtures
import Shield
import Structures
import Suspicion
import TLS
import Testing
import Uring

@testable import Driver
@testable import Service

/// A whole service in this process, on loopback.
@Suite(.serialized)
struct ServiceTests {
  private static let home = Address(v4: 0x7F00_0001)

  private func settings(_ port: UInt16 = 0, workers: Int = 2) -> ServiceSettings {
    var policy = Policy(
      access: AccessTable.load(content: Array("127.0.0.0/8 trusted\n".utf8), file: "access").table,
      rates: RateTable.load(content: [], file: "rates").table)
    policy.mode = .enforce
    policy.hostname = "mx.example.test"
    policy.listeners = [ListenerTerms(address: Self.home, port: port)]
    var limits = Limits()
    limits.connections = 64
    limits.sessions = 16
    limits.downstreamConnections = 8
    return ServiceSettings(
      policy: policy, limits: limits, servers: [Server(at: [Self.home], port: 1)], workers: workers,
      seed: 1)
  }

  private var quiet: Logger { Logger(label: "test") { _ in SwiftLogNoOpLogHandler() } }

  private func end(_ service: Service) {
    service.stop()
    #expect(eventually { service.isDone })
    service.closeLog()
  }

  @Test("workers share a port, and their figures are one sum as of now")
  func sum() throws {
    let service = try Service(settings(), logger: quiet)
    let port = try #require(service.ports.first)
    let clients = try (0..<6).map { _ in try #require(TestSocket.connect(to: port)) }
    for client in clients { #expect(eventually { client.look().hasPrefix("220 mx.example.test") }) }
    let held = try #require(service.held())
    #expect(held.connections == 6)
    let figures = service.figures()
    #expect(figures.engine.accepted == 6 && figures.connections == 6)
    #expect(service.fault == nil && !service.isDone)
    end(service)
  }

  @Test("a new policy is in force at once, with the ports that the listeners got")
  func adopt() throws {
    let service = try Service(settings(), logger: quiet)
    let port = try #require(service.ports.first)
    var policy = service.settings.policy
    policy.hostname = "other.example.test"
    #expect(try service.adopt(policy, TLSContexts()))
    // An answer comes after the orders before it.
    _ = service.figures()
    let client = try #require(TestSocket.connect(to: port))
    #expect(eventually { client.look().hasPrefix("220 other.example.test") })
    end(service)
  }

  @Test("DNS lists are tested by one worker, and a reload that keeps them does not test them anew")
  func lists() throws {
    let server = try TestServer { query in
      .send(
        query.name.hasPrefix("2.0.0.127.")
          ? Message.reply(to: query.octets, [.a(127, 0, 0, 2)])
          : Message.reply(to: query.octets, code: 3))
    }
    var settings = settings()
    settings.policy.lists = ListTerms(try ListSites([try ListSite("bl.example")]))
    settings.lookUps.servers = [NameServer(Self.home, port: server.port)]
    let service = try Service(settings, logger: quiet)
    #expect(eventually { service.figures().driver.lookUps.queries == 2 })
    var policy = settings.policy
    policy.lists?.threshold = 2
    #expect(try service.adopt(policy, TLSContexts(), lookUps: settings.lookUps))
    _ = service.figures()
    policy.lists = ListTerms(try ListSites([try ListSite("other.example")]))
    #expect(try service.adopt(policy, TLSContexts(), lookUps: settings.lookUps))
    #expect(eventually { server.queries.count == 4 })
    #expect(server.queries.suffix(2).allSatisfy { $0.name.hasSuffix(".other.example") })
    policy.lists = nil
    #expect(try service.adopt(policy, TLSContexts()))
    _ = service.figures()
    end(service)
  }

  @Test(
    "too many DNS servers are told at the start, and at a reload, which changes nothing then")
  func wrongServers() throws {
    var settings = settings()
    settings.policy.lists = ListTerms(try ListSites([try ListSite("bl.example")]))
    settings.lookUps.servers = (1...9).map { NameServer(Address(v4: 0x7F00_0000 + $0)) }
    let error = #expect(throws: ServiceError.self) { try Service(settings, logger: quiet) }
    #expect(error?.exitCode == 71 && "\(error.map { "\($0)" } ?? "")".contains("8 DNS servers"))
    let policy = settings.policy
    settings.policy.lists = nil
    let service = try Service(settings, logger: quiet)
    #expect(throws: ResolverError.self) {
      try service.adopt(policy, TLSContexts(), lookUps: settings.lookUps)
    }
    end(service)
  }

  @Test("a drain lets what is there end and takes nobody new")
  func drain() throws {
    let service = try Service(settings(), logger: quiet)
    let port = try #require(service.ports.first)
    let client = try #require(TestSocket.connect(to: port))
    #expect(eventually { client.look().hasPrefix("220") })
    service.drain()
    #expect(eventually { client.look().contains("421") })
    #expect(TestSocket.connect(to: port) == nil)
    client.finish()
    #expect(eventually { service.isDone })
    #expect(service.held().map { $0.connections + $0.links } == 0)
    service.closeLog()
  }

  @Test("a port that is taken is told as that, with its exit code, and no worker is left over")
  func taken() throws {
    let (other, port) = try #require(TestSocket.listening())
    let error = #expect(throws: ServiceError.self) { try Service(settings(port), logger: quiet) }
    withExtendedLifetime(other) {}
    #expect(error?.exitCode == 71 && "\(error.map { "\($0)" } ?? "")".contains("\(port)"))
  }
}
