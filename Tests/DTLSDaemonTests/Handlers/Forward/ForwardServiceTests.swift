import DTLSEngine
import DTLSTransport
import LinuxSystem
import TestSupport
import Testing

@testable import DTLSDaemon

/// Which backends a connection goes to, by the rules of its service.
@Suite struct ForwardServiceTests {
    private static func rule(_ name: String, _ conditions: ForwardCondition..., to paths: String...) throws
        -> ForwardRule
    {
        ForwardRule(
            name: name, conditions: try #require(NonEmpty(conditions)),
            backends: NonEmpty(paths.map { Backend.unix($0) }))
    }

    private static func serverName(_ text: String) throws -> ForwardCondition {
        .serverName([try BytePattern(text).lowercased])
    }

    private static func session(
        serverName: String? = nil, alpn: String? = nil, identity: String? = nil, commonName: String? = nil,
        fingerprint: String? = nil
    ) -> SessionDetails {
        var session = SessionDetails()
        session.serverName = serverName
        session.applicationProtocol = alpn
        if identity != nil || commonName != nil {
            session.peerName = PeerName(
                commonName: commonName, fingerprint: fingerprint, presharedKeyIdentity: identity)
        }
        return session
    }

    /// The first backend's path.
    private func path(_ service: ForwardService, _ session: SessionDetails, _ slot: ConnectionSlot? = nil) -> String {
        switch service.destination(of: session, slot) {
        case .backends(let backends): "\(backends.list.first.configuration)"
        case .refused(let refusal, let reason): "\(refusal.key): \(reason)"
        }
    }

    @Test func `the first rule counts whose conditions all hold`() throws {
        let service = ForwardService(
            ForwardConfiguration(
                backends: try .of(.unix("/others")),
                rules: [
                    try Self.rule(
                        "both", Self.serverName("a.example.org"), .applicationProtocol([BytePattern("coap")]),
                        to: "/both"),
                    try Self.rule("name", Self.serverName("*.Example.org"), to: "/name"),
                    try Self.rule("lost", .identity([BytePattern("lost-*"), BytePattern("stolen")])),
                    try Self.rule("any", .identity([BytePattern("*")]), to: "/any"),
                ]))
        #expect(path(service, Self.session(serverName: "a.example.org", alpn: "coap")) == "unix:/both")
        #expect(path(service, Self.session(serverName: "A.EXAMPLE.ORG")) == "unix:/name")
        #expect(path(service, Self.session(serverName: "b.example.org", identity: "lost-1")) == "unix:/name")
        #expect(path(service, Self.session(identity: "lost-1")) == "rule: by the rule lost of its service")
        #expect(
            path(service, Self.session(serverName: "x", identity: "stolen")) == "rule: by the rule lost of its service")
        #expect(path(service, Self.session(identity: "sensor")) == "unix:/any")
        #expect(path(service, Self.session(commonName: "sensor")) == "unix:/others")
        #expect(path(service, Self.session()) == "unix:/others")
    }

    @Test func `a client that no rule is for is refused where there is no other backend`() throws {
        let service = ForwardService(
            ForwardConfiguration(backends: nil, rules: [try Self.rule("a", Self.serverName("a"), to: "/a")]))
        #expect(path(service, Self.session(serverName: "a")) == "unix:/a")
        #expect(
            path(service, Self.session())
                == "no_rule: no rule of its service is for the client, and there is no backend for others")
    }

    @Test func `certificates are known by their common names and fingerprints in another process`() throws {
        let digits = String(repeating: "0a", count: 32)
        let service = ForwardService(
            ForwardConfiguration(
                backends: try .of(.unix("/others")),
                rules: [
                    try Self.rule("name", .certificateName([PeerRule("cn:*.example.org")]), to: "/name"),
                    try Self.rule("one", .certificateName([PeerRule("sha256:\(digits)")]), to: "/one"),
                ]))
        #expect(path(service, Self.session(commonName: "A.example.org", fingerprint: digits)) == "unix:/name")
        #expect(path(service, Self.session(commonName: "b", fingerprint: digits)) == "unix:/one")
        let other = String(repeating: "0b", count: 32)
        #expect(path(service, Self.session(commonName: "example.org", fingerprint: other)) == "unix:/others")
        // The identity of a key is no name of a certificate.
        #expect(path(service, Self.session(identity: "a.example.org")) == "unix:/others")
    }

    @Test func `raw public keys are known by their names, and are no certificates`() throws {
        let digits = String(repeating: "0a", count: 32)
        let service = ForwardService(
            ForwardConfiguration(
                backends: try .of(.unix("/others")),
                rules: [
                    try Self.rule(
                        "certificate", .certificateName([PeerRule("sha256:\(digits)"), PeerRule("cn:sensor-1")]),
                        to: "/certificate"),
                    try Self.rule("key", .publicKey([BytePattern("sensor-*")]), to: "/key"),
                ]))
        func session(_ name: String) -> SessionDetails {
            var session = SessionDetails()
            session.peerName = PeerName(fingerprint: digits, publicKeyName: name)
            return session
        }
        #expect(path(service, session("sensor-1")) == "unix:/key")
        #expect(path(service, session("gateway")) == "unix:/others")
        #expect(path(service, Self.session(commonName: "sensor-2")) == "unix:/others")
    }

    // MARK: Connections that live

    /// A slot in memory of its own.
    private static func withSlot(_ body: (ConnectionSlot) throws -> Void) rethrows {
        let count = ConnectionSlot.byteCount + ConnectionSlot.overflowByteCount
        let memory = UnsafeMutableRawPointer.allocate(byteCount: count, alignment: 8)
        memory.initializeMemory(as: UInt8.self, repeating: 0, count: count)
        defer { memory.deallocate() }
        try body(ConnectionSlot(memory, overflow: memory + ConnectionSlot.byteCount))
    }

    @Test func `the mark of a rule in the slot leaves the addresses beside it alone`() throws {
        try Self.withSlot { slot in
            let (far, local) = (try #require(SocketAddress("192.0.2.1:53")), try #require(SocketAddress("[::1]:7")))
            slot.farSide = .udp(far, local: local)
            slot.farGroup = 0xabcd
            #expect(slot.farSide == .udp(far, local: local) && slot.farGroup == 0xabcd)
            slot.farSide = .unix(7)
            #expect(slot.farSide == .unix(7) && slot.farGroup == 0xabcd)
            slot.farSide = .none
            #expect(slot.farSide == .none && slot.farGroup == 0xabcd)
        }
    }

    @Test func `a connection keeps its rule in another process whatever its conditions are by then`() throws {
        let former = ForwardService(
            ForwardConfiguration(
                backends: try .of(.unix("/others")), rules: [try Self.rule("a", Self.serverName("a"), to: "/a")]))
        let later = ForwardService(
            ForwardConfiguration(
                backends: try .of(.unix("/others")),
                rules: [
                    try Self.rule("first", Self.serverName("*"), to: "/first"),
                    try Self.rule("a", Self.serverName("b"), to: "/new"),
                ]))
        let session = Self.session(serverName: "a")
        try Self.withSlot { slot in
            slot.farGroup = try #require(former.backends(of: session)).mark
            #expect(path(later, session, slot) == "unix:/new")
            #expect(path(later, session) == "unix:/first")
            // So does one that no rule was for.
            slot.farGroup = try #require(former.backends(of: Self.session())).mark
            #expect(path(later, session, slot) == "unix:/others")
            // Its rule is gone: one is chosen for it again.
            slot.farGroup = ForwardRule.mark("gone")
            #expect(path(later, session, slot) == "unix:/first")
        }
    }

    @Test func `a reload changes the backends of a rule and retires one that is gone`() throws {
        let service = ForwardService(
            ForwardConfiguration(
                backends: try .of(.unix("/others")),
                rules: [
                    try Self.rule("a", Self.serverName("a"), to: "/a", "/b"),
                    try Self.rule("c", Self.serverName("c"), to: "/c"),
                ]))
        let a = try #require(service.backends(of: Self.session(serverName: "a")))
        let c = try #require(service.backends(of: Self.session(serverName: "c")))
        let others = try #require(service.backends(of: Self.session()))
        let kept = try #require(a.list.elements.last)
        service.configure(
            ForwardConfiguration(backends: nil, rules: [try Self.rule("a", Self.serverName("z"), to: "/b", "/d")]))
        #expect(!a.isRetired && c.isRetired && others.isRetired)
        #expect(service.backends(of: Self.session(serverName: "z")) === a)
        #expect(a.list.first === kept && kept.isConfigured && a.list.elements.count == 2)
        #expect(c.list.elements.allSatisfy { !$0.isConfigured })
        // A rule that comes back is a new one.
        service.configure(
            ForwardConfiguration(
                backends: nil,
                rules: [
                    try Self.rule("a", Self.serverName("z"), to: "/b"),
                    try Self.rule("c", Self.serverName("c"), to: "/c"),
                ]))
        let again = try #require(service.backends(of: Self.session(serverName: "c")))
        #expect(again !== c && c.isRetired)
    }

    @Test func `the connection of a rule that is gone moves with its next message`() throws {
        let service = ForwardService(
            ForwardConfiguration(
                backends: try .of(.unix("/others")), rules: [try Self.rule("a", Self.serverName("a"), to: "/a")]))
        let session = Self.session(serverName: "a")
        let connection = Anybody()
        let a = try #require(service.backends(of: session))
        var route = BackendRoute(
            a, client: try #require(SocketAddress("192.0.2.1:1")), connection: ObjectIdentifier(connection))
        #expect(route.begin(now: at(0)) == .connect && route.connected() == .send && route.isBackendConfigured)
        service.configure(ForwardConfiguration(backends: try .of(.unix("/others"))))
        #expect(!route.isBackendConfigured && a.isRetired)
        route.change(to: try #require(service.backends(of: session)))
        #expect(route.begin(now: at(0)) == .switchBackend && "\(route.backend.configuration)" == "unix:/others")
    }

    private final class Anybody {}

    // MARK: Numbers

    @Test func `backends of rules have numbers of their own in the gauges`() throws {
        let file = try CounterFile(name: "test")
        let counters = file.counters(of: 1)
        let service = ForwardService(
            ForwardConfiguration(
                backends: try .of(.unix("/x"), .unix("/y")),
                rules: [try Self.rule("a", Self.serverName("a"), to: "/a", "/b")]))
        service.count(in: counters)
        let a = try #require(service.backends(of: Self.session(serverName: "a")))
        _ = a.list.elements[1].noteRefusal(now: at(0))
        a.noteStates()
        a.noteUse(of: a.list.elements[0])
        #expect(counters.block.values[.backendsOut] == 0b1000 && counters.block.values[.backendsUp] == 0b0100)
        // The numbers follow a reload, and nothing is left of those that are gone.
        service.configure(
            ForwardConfiguration(backends: nil, rules: [try Self.rule("a", Self.serverName("a"), to: "/b", "/a")]))
        #expect(counters.block.values[.backendsOut] == 0b01 && counters.block.values[.backendsUp] == 0b10)
        withExtendedLifetime(file) {}
    }

    @Test func `a backend that nobody has tried is neither up nor out`() throws {
        let file = try CounterFile(name: "test")
        let counters = file.counters(of: 1)
        let service = ForwardService(ForwardConfiguration(backends: try .of(.udp("192.0.2.1:53"))))
        service.count(in: counters)
        let backends = try #require(service.backends(of: Self.session()))
        #expect(counters.block.values[.backendsOut] == 0 && counters.block.values[.backendsUp] == 0)
        backends.noteUse(of: backends.list.first)
        #expect(counters.block.values[.backendsUp] == 1)
        _ = backends.list.first.noteRefusal(now: at(0))
        backends.noteStates()
        #expect(counters.block.values[.backendsOut] == 1 && counters.block.values[.backendsUp] == 0)
        withExtendedLifetime(file) {}
    }

    // MARK: Health checks

    @Test func `what checks call down is out in every rule, and also where it comes with a reload`() throws {
        let loop = try EventLoop()
        let services = ForwardServices(loop: loop, logs: WorkerLogs(worker: 0, loop: loop))
        // Before the service is there, as a worker is told that is started.
        services.note(.unix("/a"), ofService: "s", isDown: true)
        let configuration = ForwardConfiguration(
            backends: try .of(.unix("/a"), .unix("/b")),
            rules: [try Self.rule("r", Self.serverName("r"), to: "/a")])
        let service = ForwardService(configuration)
        services.activate(service, as: "s", configuration)
        let others = try #require(service.backends(of: Self.session()))
        let ofRule = try #require(service.backends(of: Self.session(serverName: "r")))
        #expect(others.list.elements.map(\.isServing) == [false, true] && !ofRule.list.first.isServing)
        services.note(.unix("/b"), ofService: "other", isDown: true)
        #expect(others.list.elements.map(\.isServing) == [false, true])

        let later = ForwardConfiguration(backends: try .of(.unix("/b"), .unix("/c"), .unix("/a")))
        services.activate(service, as: "s", later)
        #expect(others.list.elements.map(\.isServing) == [true, true, false])
        services.note(.unix("/a"), ofService: "s", isDown: false)
        #expect(others.list.elements.map(\.isServing) == [true, true, true])
    }

    @Test func `a connection moves off a backend that checks call down, and returns`() throws {
        let service = ForwardService(ForwardConfiguration(backends: try .of(.unix("/a"), .unix("/b"))))
        let backends = try #require(service.backends(of: Self.session()))
        let connection = Anybody()
        var route = BackendRoute(
            backends, client: try #require(SocketAddress("192.0.2.1:1")), connection: ObjectIdentifier(connection))
        #expect(route.begin(now: at(0)) == .connect && route.connected() == .send)
        let home = route.backend
        service.note(home.configuration.address, isDown: true)
        #expect(route.begin(now: at(1)) == .switchBackend && route.backend != home)
        #expect(route.connected() == .send && route.sent(0, now: at(1)).step == .finish)
        service.note(home.configuration.address, isDown: false)
        #expect(route.begin(now: at(2)) == .switchBackend && route.backend == home)
        // Where all are down, the first choice is better than none.
        for backend in backends.list.elements { service.note(backend.configuration.address, isDown: true) }
        #expect(route.begin(now: at(3)) == .connect && route.backend == home)
    }
}
