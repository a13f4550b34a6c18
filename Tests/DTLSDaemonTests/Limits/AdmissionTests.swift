import DTLSEngine
import DTLSTransport
import LinuxSystem
import Primitives
import TestSupport
import Testing

@testable import DTLSDaemon

/// What the acceptor admits, with a clock of the tests' own.
@Suite struct AdmissionTests {
    private let start = Instant(nanoseconds: 1_000_000_000_000)

    private func configuration(
        all: LimitsConfiguration = LimitsConfiguration(), _ services: (String, LimitsConfiguration)...
    ) -> Configuration {
        Configuration(
            workers: 1, stopTimeout: .zero, logLevel: .info, cookieSecret: nil,
            services: services.map { name, limits in
                ServiceConfiguration(
                    name: name, listen: [], tls: ServerSettings(certificate: "", privateKey: ""),
                    handshakeTimeout: .milliseconds(2_000), idleTimeout: .zero, mtu: 1_400, handler: .echo,
                    socket: SocketOptions(),
                    limits: limits)
            }, limits: all)
    }

    private func peer(_ host: String) throws -> SocketAddress { try #require(SocketAddress(host: host, port: 1_000)) }

    /// A connection that a test has begun.
    private struct Held {
        let peer: SocketAddress
        let target: UInt64
        let admission: Admission

        func establish() { admission.endHandshake(target) }
        /// - Parameter isHandshaking: whether its handshake has not ended before.
        func end(isHandshaking: Bool = true) {
            if isHandshaking { establish() }
            admission.end(peer, target)
        }
    }

    /// Takes a peer in if the limits allow it.
    /// - Parameter service: its index in the configuration.
    private func tryOne(
        _ admission: Admission, _ host: String, service: Int = 0, of name: String = "a", now: Instant? = nil
    ) throws -> Held? {
        let peer = try peer(host)
        let now = now ?? start
        if admission.refusal(of: peer, service: service, now: now) != nil { return nil }
        admission.begin(peer, SlotTarget.service(name), now: now)
        return Held(peer: peer, target: SlotTarget.service(name), admission: admission)
    }

    private let none: ((SocketAddress, UInt64) -> Void) -> Void = { _ in }

    private func reason(_ admission: Admission, _ host: String, service: Int = 0, now: Instant? = nil) throws
        -> Refusal?
    {
        admission.refusal(of: try peer(host), service: service, now: now ?? start)?.0
    }

    @Test func `connections are limited for a service and for all services`() throws {
        let admission = Admission()
        admission.apply(
            configuration(
                all: LimitsConfiguration(connections: 3), ("a", LimitsConfiguration(connections: 2)),
                ("b", LimitsConfiguration())), present: none)
        var held = try [tryOne(admission, "10.0.0.1"), tryOne(admission, "10.0.0.1")].compactMap { $0 }
        #expect(held.count == 2)
        let refusal = try #require(admission.refusal(of: try peer("10.0.0.2"), service: 0, now: start))
        #expect(refusal.0 == .connections && refusal.1.service == "a")
        held.append(try #require(try tryOne(admission, "10.0.0.1", service: 1, of: "b")))
        let ofAll = try #require(admission.refusal(of: try peer("10.0.0.2"), service: 1, now: start))
        #expect(ofAll.0 == .connections && ofAll.1.service == nil)
        #expect(admission.connections == 3)
        held.removeFirst().end()
        #expect(admission.connections == 2)
        #expect(try reason(admission, "10.0.0.2", service: 1) == nil)
        #expect(try reason(admission, "10.0.0.2") == nil)
        for one in held { one.end() }
        #expect(admission.connections == 0 && admission.handshakes == 0)
    }

    @Test func `handshakes in progress are limited until they end`() throws {
        let admission = Admission()
        admission.apply(configuration(("a", LimitsConfiguration(handshakes: 1))), present: none)
        let first = try #require(try tryOne(admission, "10.0.0.1"))
        #expect(try reason(admission, "10.0.0.2") == .handshakes)
        first.establish()
        #expect(admission.handshakes == 0 && admission.connections == 1)
        let second = try #require(try tryOne(admission, "10.0.0.2"))
        #expect(try reason(admission, "10.0.0.3") == .handshakes)
        // A handshake that fails is one that is over.
        second.end()
        #expect(try reason(admission, "10.0.0.3") == nil)
        #expect(admission.connections == 1)
    }

    @Test func `connections of a source prefix are limited`() throws {
        let admission = Admission()
        admission.apply(
            configuration(("a", LimitsConfiguration(connectionsPerPrefix: 2, prefixes: .init(ipv4: 24, ipv6: 56)))),
            present: none)
        var held = try ["192.0.2.1", "::ffff:192.0.2.9", "198.51.100.1", "2001:db8::1", "2001:db8:0:ff::1"].map {
            try #require(try tryOne(admission, $0), "\($0)")
        }
        for host in ["192.0.2.200", "::ffff:192.0.2.1", "2001:db8:0:80::"] {
            #expect(try reason(admission, host) == .connectionsPerPrefix, "\(host)")
        }
        for host in ["198.51.100.2", "192.0.3.1", "2001:db8:0:100::"] {
            #expect(try reason(admission, host) == nil, "\(host)")
        }
        held.removeFirst().end()
        #expect(try reason(admission, "192.0.2.200") == nil)
        #expect(held.count == 4)
    }

    /// What a prefix has too much of does not use up what all have together.
    @Test func `the excess of one source prefix does not use up the rate of all`() throws {
        let admission = Admission()
        admission.apply(
            configuration(
                all: LimitsConfiguration(handshakesPerSecond: Rate(perSecond: 5)),
                ("a", LimitsConfiguration(handshakesPerSecondPerPrefix: Rate(perSecond: 2)))), present: none)
        for _ in 0..<2 { #expect(try tryOne(admission, "10.0.0.1") != nil) }
        for _ in 0..<100 { #expect(try reason(admission, "10.0.0.1") == .handshakesPerSecondPerPrefix) }
        for host in ["10.0.0.2", "10.0.0.3", "10.0.0.4"] { #expect(try tryOne(admission, host) != nil) }
        #expect(try reason(admission, "10.0.0.5") == .handshakesPerSecond)
        #expect(try reason(admission, "10.0.0.1", now: start + .milliseconds(1_001)) == nil)
    }

    @Test func `a reload keeps counting the present connections`() throws {
        let admission = Admission()
        admission.apply(configuration(("a", LimitsConfiguration()), ("b", LimitsConfiguration())), present: none)
        var held = try ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map { try #require(try tryOne(admission, $0)) }
        held.append(try #require(try tryOne(admission, "192.0.2.4", service: 1, of: "b")))
        func present(_ body: (SocketAddress, UInt64) -> Void) { for one in held { body(one.peer, one.target) } }

        // Limits that were not there when the connections came; and the services have changed their places.
        let strict = LimitsConfiguration(connections: 3, connectionsPerPrefix: 3, prefixes: .init(ipv4: 24, ipv6: 64))
        admission.apply(configuration(("b", LimitsConfiguration()), ("a", strict)), present: present)
        #expect(try reason(admission, "203.0.113.1", service: 1) == .connections)
        #expect(try reason(admission, "203.0.113.1", service: 0) == nil)
        held.remove(at: 1).end()
        #expect(try reason(admission, "192.0.2.9", service: 1) == nil)
        held.append(try #require(try tryOne(admission, "192.0.2.9", service: 1, of: "a")))

        // More connections, and the prefix is full.
        var wider = strict
        wider.connections = 10
        admission.apply(configuration(("b", LimitsConfiguration()), ("a", wider)), present: present)
        #expect(try reason(admission, "192.0.2.7", service: 1) == .connectionsPerPrefix)
        wider.prefixes.ipv4 = 32
        admission.apply(configuration(("b", LimitsConfiguration()), ("a", wider)), present: present)
        #expect(try reason(admission, "192.0.2.7", service: 1) == nil)

        // A service that goes and comes back finds its connections counted.
        admission.apply(configuration(("b", LimitsConfiguration())), present: present)
        #expect(admission.connections == 4)
        admission.apply(configuration(("b", LimitsConfiguration()), ("a", strict)), present: present)
        #expect(try reason(admission, "203.0.113.1", service: 1) == .connections)
        for one in held { one.end() }
        #expect(admission.connections == 0)
        #expect(try reason(admission, "203.0.113.1", service: 1) == nil)
    }

    @Test func `local senders are not counted, and their connections may have the name of a service`() throws {
        let admission = Admission()
        admission.apply(configuration(("a", LimitsConfiguration(connections: 1))), present: none)
        admission.begin(try peer("127.0.0.1"), SlotTarget.client("a"), now: start)
        #expect(admission.connections == 0)
        #expect(try reason(admission, "10.0.0.1") == nil)
    }

    /// The connections are there before the first configuration is.
    @Test func `connections of an earlier process are counted once their service is configured`() throws {
        let admission = Admission()
        let peer = try peer("192.0.2.1")
        admission.adopt(peer, SlotTarget.service("a"))
        #expect(admission.connections == 1 && admission.handshakes == 0)
        let limits = LimitsConfiguration(connections: 2, connectionsPerPrefix: 1)
        admission.apply(configuration(("a", limits))) { body in body(peer, SlotTarget.service("a")) }
        #expect(try reason(admission, "192.0.2.1") == .connectionsPerPrefix)
        #expect(try reason(admission, "192.0.2.2") == nil)
        admission.end(peer, SlotTarget.service("a"))
        #expect(try reason(admission, "192.0.2.1") == nil)
        #expect(admission.connections == 0)
    }
}
