import LinuxSystem
import Primitives
import Testing

@testable import DTLSDaemon

/// Backends that are host names: all their addresses are used.
@Suite struct NamedBackendsTests {
    private let hosts = HostTable()
    private let named = Backend(name: "udp:be.example:53", address: .name("be.example", port: 53))
    private let now = Instant(nanoseconds: 1_000_000_000_000)
    private final class Connection {}

    private func resolve(_ addresses: String..., host: String = "be.example") throws {
        hosts.replace(try addresses.map { try #require(SocketAddress(host: $0, port: 0)) }, of: host)
    }

    private func backends(_ all: Backend...) throws -> ForwardBackends {
        try ForwardBackends(all, hosts: hosts)
    }

    private func clients(_ count: Int) throws -> [SocketAddress] {
        try (0..<count).map { try #require(SocketAddress("10.0.\($0 >> 8).\($0 & 255):1")) }
    }

    private func homes(_ backends: ForwardBackends, _ clients: [SocketAddress]) -> [String] {
        clients.map { "\(backends.home(of: RendezvousHash.client($0)).configuration)" }
    }

    @Test func `clients are spread over the addresses of the preferred family`() throws {
        try resolve("2001:db8::1", "192.0.2.1", "2001:db8::2")
        let homes = homes(try backends(named), try clients(1_000))
        let shares = Dictionary(grouping: homes) { $0 }.mapValues(\.count)
        #expect(Set(shares.keys) == ["udp:[2001:db8::1]:53", "udp:[2001:db8::2]:53"])
        for share in shares.values { #expect((400...600).contains(share)) }
    }

    @Test func `a name counts as one backend, however many addresses it has`() throws {
        let other = try Backend.udp("198.51.100.1:53")
        try resolve("192.0.2.1")
        let clients = try clients(1_000)
        let before = homes(try backends(named, other), clients)
        try resolve("192.0.2.1", "192.0.2.2", "192.0.2.3")
        let after = homes(try backends(named, other), clients)
        for (one, later) in zip(before, after) {
            #expect((one == "\(other)") == (later == "\(other)"))
        }
    }

    @Test func `where one address refuses, the next is used, and the other family last`() throws {
        try resolve("192.0.2.1", "192.0.2.2", "2001:db8::1")
        let backends = try backends(named)
        let connection = Connection()
        var route = BackendRoute(
            backends, client: try clients(1)[0], connection: ObjectIdentifier(connection))
        var used: [String] = []
        for _ in 0..<3 {
            _ = route.begin(now: now)
            used.append("\(route.backend.configuration)")
            _ = route.connectFailed(111, now: now)
        }
        #expect(Set(used.prefix(2)) == ["udp:192.0.2.1:53", "udp:192.0.2.2:53"])
        #expect(used.last == "udp:[2001:db8::1]:53")
    }

    @Test func `when all addresses of a name have refused it is asked for again, and not before`() throws {
        try resolve("192.0.2.1", "192.0.2.2")
        let backends = try backends(named, try .udp("198.51.100.1:53"))
        var asked: [String] = []
        hosts.onRefused = { asked.append($0) }
        let connection = Connection()
        for backend in backends.list.elements where backend.configuration.name == named.name {
            #expect(asked == [])
            var route = BackendRoute(
                backends, client: try clients(1)[0], connection: ObjectIdentifier(connection), last: backend)
            _ = route.begin(now: now)
            _ = route.connectFailed(111, now: now)
        }
        #expect(asked == ["be.example"])
    }

    @Test func `a name without an address is no backend until it has one`() throws {
        let backends = try backends(named)
        #expect(!backends.areResolved)
        let connection = Connection()
        var route = BackendRoute(backends, client: try clients(1)[0], connection: ObjectIdentifier(connection))
        #expect(route.begin(now: now) == .connect)
        // Nobody has refused anything.
        #expect(route.connectFailed(89, now: now) == BackendRoute.Transition(step: .finish))
        try resolve("192.0.2.1")
        backends.addressesChanged(of: "be.example")
        #expect(backends.areResolved)
        #expect(route.begin(now: now) == .switchBackend)
        #expect("\(route.backend.configuration)" == "udp:192.0.2.1:53")
    }

    @Test func `clients of a name without an address use the other backends`() throws {
        let other = try Backend.udp("198.51.100.1:53")
        let backends = try backends(named, other)
        #expect(Set(homes(backends, try clients(100))) == ["\(other)"] && backends.areResolved)
    }

    @Test func `a connection stays with its address as long as the name has it, and moves when it is gone`() throws {
        try resolve("192.0.2.1")
        let backends = try backends(named)
        let connection = Connection()
        var route = BackendRoute(backends, client: try clients(1)[0], connection: ObjectIdentifier(connection))
        _ = route.begin(now: now)
        _ = route.connected()
        try resolve("192.0.2.1", "192.0.2.2", "192.0.2.3")
        backends.addressesChanged(of: "be.example")
        #expect(route.begin(now: now) == .send)
        try resolve("192.0.2.9")
        backends.addressesChanged(of: "be.example")
        #expect(route.isBackendGone && route.begin(now: now) == .switchBackend)
        #expect("\(route.backend.configuration)" == "udp:192.0.2.9:53")
    }

    @Test func `an address that several backends have is one backend`() throws {
        try resolve("192.0.2.1", "192.0.2.2")
        let backends = try backends(try .udp("192.0.2.1:53"), named)
        #expect(backends.list.elements.map { "\($0.configuration)" } == ["udp:192.0.2.1:53", "udp:192.0.2.2:53"])
    }

    @Test func `addresses of another name change nothing`() throws {
        try resolve("192.0.2.1")
        let backends = try backends(named)
        let before = backends.list.elements
        try resolve("192.0.2.7", host: "other.example")
        backends.addressesChanged(of: "other.example")
        #expect(backends.list.elements == before)
    }
}
