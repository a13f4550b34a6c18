import DTLSEngine
import LinuxSystem
import Primitives
import TestSupport
import Testing

@testable import DTLSDaemon

@Suite struct ForwardBackendsTests {
    private static func backends(_ names: some Sequence<Int>) throws -> [Backend] {
        try names.map { try Backend.udp("192.0.2.\($0):53") }
    }

    private static func clients(_ count: Int) throws -> [UInt64] {
        try (0..<count).map {
            RendezvousHash.client(try #require(SocketAddress("10.\($0 >> 16).\($0 >> 8 & 255).\($0 & 255):1")))
        }
    }

    private static func homes(_ backends: [Backend], _ clients: [UInt64]) throws -> [String] {
        let backends = try ForwardBackends(backends)
        return clients.map { backends.home(of: $0).configuration.name }
    }

    /// The choice must be the same in every version, or an update moves all clients: these are its numbers, worked out
    /// apart from this code.
    @Test func `the hash never changes`() throws {
        #expect(RendezvousHash.key(of: "") == 0xcbf2_9ce4_8422_2325)
        #expect(RendezvousHash.key(of: "foobar") == 0x8594_4171_f739_67e8)
        let four = RendezvousHash.client(try #require(SocketAddress("192.0.2.1:1")))
        #expect(four == 0x897f_1662_2ee1_3c17)
        #expect(RendezvousHash.client(try #require(SocketAddress("[2001:db8::1]:1"))) == 0x263d_c1df_78d3_e472)
        #expect(RendezvousHash.rank(0x8594_4171_f739_67e8, four) == 0x2a26_72f1_4b2c_49d4)
    }

    @Test func `the port is not part of the client`() throws {
        let one = RendezvousHash.client(try #require(SocketAddress("192.0.2.1:1")))
        #expect(one == RendezvousHash.client(try #require(SocketAddress("192.0.2.1:65535"))))
        #expect(one == RendezvousHash.client(try #require(SocketAddress("[::ffff:192.0.2.1]:7"))))
        #expect(one != RendezvousHash.client(try #require(SocketAddress("192.0.2.2:1"))))
    }

    @Test(arguments: [2, 3, 7, 16])
    func `clients are spread evenly`(_ count: Int) throws {
        let clients = try Self.clients(20_000)
        let homes = try Self.homes(try Self.backends(1...count), clients)
        let shares = Dictionary(grouping: homes) { $0 }.mapValues(\.count)
        #expect(shares.count == count)
        // Six standard deviations of a fair draw.
        let mean = Double(clients.count) / Double(count)
        let bound = 6 * (mean * (1 - 1 / Double(count))).squareRoot()
        for (name, share) in shares { #expect(abs(Double(share) - mean) < bound, "\(name) has \(share)") }
    }

    @Test func `the order in the file does not matter`() throws {
        let clients = try Self.clients(1_000)
        #expect(
            try Self.homes(try Self.backends(1...5), clients)
                == Self.homes(try Self.backends((1...5).reversed()), clients))
    }

    @Test func `when a backend goes only its own clients move`() throws {
        let clients = try Self.clients(10_000)
        let before = try Self.homes(try Self.backends(1...5), clients)
        let after = try Self.homes(try Self.backends([1, 2, 4, 5]), clients)
        var moved: [String: Int] = [:]
        for (old, new) in zip(before, after) where old != new {
            #expect(old == "udp:192.0.2.3:53")
            moved[new, default: 0] += 1
        }
        // 500 each, if all others share them.
        #expect(moved.count == 4 && moved.values.allSatisfy { (350...650).contains($0) })
    }

    // MARK: Which of them is used

    private final class Tester {}
    private let one = Tester()
    private let other = Tester()
    private let second: UInt64 = 1_000_000_000

    @Test func `clients of a backend that refuses go to their next one and back`() throws {
        let backends = try ForwardBackends(try Self.backends(1...3))
        let client = try #require(try Self.clients(1).first)
        let id = ObjectIdentifier(one)
        let home = backends.home(of: client)
        func choice(_ nanoseconds: UInt64) -> ForwardBackend {
            backends.choice(of: client, home: home, for: id, now: at(nanoseconds))
        }
        #expect(choice(0) == home)
        #expect(home.noteRefusal(now: at(0)))
        let next = choice(1)
        #expect(next != home)
        // Both: there is a third.
        #expect(next.noteRefusal(now: at(2)))
        let last = choice(3)
        #expect(last != home && last != next)
        // None is left: to the first, whatever comes of it.
        #expect(last.noteRefusal(now: at(4)))
        #expect(choice(5) == home)
        #expect(home.begin(by: id, now: at(5)) == nil)
        #expect(!home.isServing)
        // It was down alone, and is back.
        #expect(choice(second) == home)
        #expect(home.begin(by: id, now: at(second)) == nil)
        #expect(home.noteAnswer() == 1)
        #expect(home.isServing)
    }

    @Test func `a single backend is always the choice`() throws {
        let backends = try ForwardBackends([.unix("/x")])
        #expect(!backends.areSeveral)
        let only = backends.list.first
        #expect(only.noteRefusal(now: at(0)))
        #expect(backends.choice(of: 7, home: only, for: ObjectIdentifier(one), now: at(1)) == only)
    }

    @Test func `only one connection tries a backend that was out`() throws {
        let backends = try ForwardBackends(try Self.backends(1...2))
        let client = try #require(try Self.clients(1).first)
        let home = backends.home(of: client)
        _ = home.noteRefusal(now: at(0))
        let (first, second) = (ObjectIdentifier(one), ObjectIdentifier(other))
        #expect(backends.choice(of: client, home: home, for: first, now: at(self.second)) == home)
        _ = home.begin(by: first, now: at(self.second))
        #expect(backends.choice(of: client, home: home, for: first, now: at(self.second + 1)) == home)
        #expect(backends.choice(of: client, home: home, for: second, now: at(self.second + 1)) != home)
        _ = home.noteAnswer()
        #expect(backends.choice(of: client, home: home, for: second, now: at(self.second + 2)) == home)
    }

    // MARK: Reloads

    private static func configuration(_ names: some Sequence<Int>) throws -> ForwardConfiguration {
        ForwardConfiguration(backends: NonEmpty(try backends(names)))
    }

    @Test func `connections of a service share its backends over reloads`() throws {
        let loop = try EventLoop()
        let services = ForwardServices(loop: loop, logs: WorkerLogs(worker: 0, loop: loop))
        let before = try Self.configuration(1...2)
        let after = try Self.configuration(2...3)
        #expect(services.service(named: "a") === nil)
        var ofConnections: ForwardService? = ForwardService(before)
        services.activate(try #require(ofConnections), as: "a", before)
        #expect(services.service(named: "a") === ofConnections && services.service(named: "b") === nil)
        let backends = try #require(ofConnections?.backends(of: SessionDetails()))
        let (first, second) = (backends.list.first, try #require(backends.list.elements.last))

        services.activate(try #require(services.service(named: "a")), as: "a", after)
        #expect(!first.isConfigured && second.isConfigured)
        #expect(backends.list.first == second && backends.list.elements.count == 2)

        // They are kept as long as anybody has them.
        ofConnections = nil
        #expect(services.service(named: "a") === nil)
    }
}
