import LinuxSystem
import TestSupport
import Testing

@testable import DTLSTransport

/// What tells kinds of datagrams apart, in this process and in the kernel.
@Suite struct DatagramKindTests {
    private static let hello = ClientHelloBytes()

    private static func changed(_ bytes: [UInt8], at index: Int, to value: UInt8) -> [UInt8] {
        var bytes = bytes
        bytes[index] = value
        return bytes
    }

    /// Datagrams, and what they are.
    static let samples: [(name: String, bytes: [UInt8], kind: DatagramKind)] = [
        ("first hello", hello.bytes(), .firstHello),
        ("the same after a second", changed(hello.bytes(), at: 10, to: 1), .repeatedHello),
        ("the same after 256 of them", changed(hello.bytes(), at: 9, to: 1), .repeatedHello),
        ("hello with a cookie", hello.bytes(cookie: Array(0..<19), number: 1), .helloWithCookie),
        ("hello with a cookie of one byte", hello.bytes(cookie: [0], number: 1), .helloWithCookie),
        ("application data", [23, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 1, 0, 40] + Array(repeating: 1, count: 80), .other),
        ("another epoch", changed(hello.bytes(), at: 4, to: 1), .other),
        ("another message", changed(hello.bytes(), at: 13, to: 16), .other),
        ("a later fragment", changed(hello.bytes(), at: 21, to: 200), .other),
        ("up to the length of the session", Array(hello.bytes().prefix(60)), .other),
        ("one byte", [22], .other),
    ]

    @Test(arguments: samples.indices)
    func `each datagram is of its kind`(_ index: Int) {
        let sample = Self.samples[index]
        #expect(sample.bytes.withUnsafeBytes { DatagramKind(of: $0) } == sample.kind, "\(sample.name)")
    }

    @Test func `a session's length is taken into account`() {
        let session: [UInt8] = [32] + Array(repeating: 9, count: 32)
        let first = Array(Self.hello.bytes()[..<59]) + session + Self.hello.bytes()[60...]
        #expect(first.withUnsafeBytes { DatagramKind(of: $0) } == .firstHello)
        let second = Self.hello.bytes(cookie: [5], number: 1)
        let withSession = Array(second[..<59]) + session + second[60...]
        #expect(withSession.withUnsafeBytes { DatagramKind(of: $0) } == .helloWithCookie)
        // A length that leads behind the end.
        let broken = Self.changed(Self.hello.bytes(), at: 59, to: 255)
        #expect(broken.withUnsafeBytes { DatagramKind(of: $0) } == .firstHello)
    }

    /// Two sockets: what one sends comes to the other.
    private final class Wire {
        let receiver: FileDescriptor
        let sender: FileDescriptor
        let batch = ReceiveBatch(capacity: 64, slotSize: 1_024)

        init(_ host: String) throws {
            receiver = try UDPSocket.open(host.contains(":") ? .ipv6 : .ipv4)
            sender = try UDPSocket.open(host.contains(":") ? .ipv6 : .ipv4)
            try UDPSocket.bind(receiver, to: try #require(SocketAddress(host: host, port: 0)))
            try UDPSocket.connect(sender, to: try #require(try UDPSocket.localAddress(of: receiver)))
        }

        /// Has the kernel run this program for the receiver; says whether it does so.
        func install(_ filter: DatagramFilter?) -> Bool { DatagramFilter.install(filter, on: receiver) }

        /// How many of them arrive; over loopback they are there at once.
        func arriving(_ datagrams: [[UInt8]]) throws -> Int {
            var count = 0
            for datagram in datagrams {
                _ = try datagram.withUnsafeBytes { try UDPSocket.send($0, over: sender) }
                count += try batch.receive(from: receiver)
            }
            return count
        }
    }

    @Test(arguments: DatagramKind.allCases, ["127.0.0.1", "::1"])
    func `the kernel tells the same kinds apart, and drops one of them`(_ kind: DatagramKind, host: String) throws {
        let wire = try Wire(host)
        var shares = DatagramKind.Shares.all
        shares[kind] = 0
        let isInstalled = wire.install(DatagramKind.filter(letting: shares))
        try #require(isInstalled)
        for sample in Self.samples {
            #expect(try wire.arriving([sample.bytes]) == (sample.kind == kind ? 0 : 1), "\(sample.name)")
        }
        var drops = QueueDrops(of: wire.receiver)
        _ = try wire.arriving(Self.samples.map(\.bytes))
        drops.update(from: wire.receiver)
        #expect(drops.total == UInt64(Self.samples.count { $0.kind == kind }), "what is dropped is counted")
        let isRemoved = wire.install(nil)
        #expect(isRemoved)
        #expect(try wire.arriving(Self.samples.map(\.bytes)) == Self.samples.count)
    }

    @Test func `the kernel lets a share in`() throws {
        let wire = try Wire("127.0.0.1")
        var shares = DatagramKind.Shares.all
        shares[.firstHello] = 0.25
        shares[.other] = 0.5
        let isInstalled = wire.install(DatagramKind.filter(letting: shares))
        try #require(isInstalled)
        let count = 4_000
        // Six standard deviations of the binomial distribution.
        let hellos = try wire.arriving(Array(repeating: Self.hello.bytes(), count: count))
        #expect(abs(hellos - count / 4) < 165, "\(hellos)")
        let records = try wire.arriving(Array(repeating: [23, 0xfe, 0xfd], count: count))
        #expect(abs(records - count / 2) < 190, "\(records)")
        #expect(try wire.arriving(Array(repeating: Self.hello.bytes(cookie: [1]), count: 100)) == 100)
    }

    @Test func `where the kernel takes no program, that is said`() throws {
        let wire = try Wire("127.0.0.1")
        let broken = DatagramFilter([.skipIfEqual(7, 0), .keep])
        let isInstalled = wire.install(broken)
        #expect(!isInstalled)
        #expect(try wire.arriving([[1]]) == 1)
    }
}
