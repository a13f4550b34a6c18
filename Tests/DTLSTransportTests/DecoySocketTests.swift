import DTLSEngine
import Glibc
import LinuxSystem
import TestSupport
import Testing

@testable import DTLSTransport

/// Rule 9: once many connections are open on an address, the listener has sockets in front of them, and nothing goes
/// astray for that, also while they are replaced.
@Suite struct ListenerShieldTests {
    /// A listener with as many clients as a test wants, in one loop.
    private final class Gate: DTLSListenerDelegate {
        let loop: EventLoop
        private(set) var listener: DTLSListener?
        private(set) var newcomers: [SocketAddress: Entrant] = [:]
        private(set) var late = 0
        private var admitted: UInt64 = 0

        final class Entrant {
            var newcomer: IncomingConnection
            init(_ newcomer: consuming IncomingConnection) { self.newcomer = newcomer }
        }

        init(
            on address: SocketAddress, _ options: SocketOptions = SocketOptions(ipv6Only: false), loop: EventLoop
        ) throws {
            self.loop = loop
            let socket = try UDPSocket.listen(on: address, options: options)
            let actual = try #require(try UDPSocket.localAddress(of: socket))
            let made = DTLSListener(
                socket: socket, address: actual, options: options, cookies: try CookieAuthority(secret: Array(0..<32)),
                buffers: ListenerBuffers(), loop: loop, delegate: self, mayHaveShields: true)
            try made.open()
            listener = made
        }

        func close() { listener?.close() }

        /// Turns the loop until something is so.
        func turn(_ what: Comment, until condition: () throws -> Bool) throws {
            let deadline = ContinuousClock.now + .seconds(60)
            while try !condition() {
                try loop.poll(timeout: .milliseconds(100))
                if ContinuousClock.now > deadline { throw NeverHappened(description: "\(what)") }
            }
        }

        /// Has clients admitted, so many that there are shields. They must be kept: another one on a port that has been
        /// used would reach the connection of before.
        func crowd(_ server: SocketAddress) throws -> [Client] {
            try (0...DecoySockets.crowd).map { _ in
                let client = try Client(to: server)
                try client.enter(self)
                return client
            }
        }

        func refusal(of key: FlowKey, on listener: DTLSListener) -> Refusal? { nil }

        func listener(_ listener: DTLSListener, admitted newcomer: consuming IncomingConnection) -> UInt64? {
            admitted += 1
            newcomers[newcomer.key.peer] = Entrant(newcomer)
            return admitted
        }

        func listener(_ listener: DTLSListener, late datagram: UnsafeRawBufferPointer, of connection: UInt64) {
            late += 1
        }
        func listener(_ listener: DTLSListener, denied peer: SocketAddress) {}
        func listener(_ listener: DTLSListener, failed error: SystemError, for peer: SocketAddress) {
            Issue.record("\(peer): \(error)")
        }
    }

    /// A client as far as its cookie.
    private final class Client {
        let socket: FileDescriptor
        let local: SocketAddress
        private let hello = ClientHelloBytes()

        init(to server: SocketAddress) throws {
            socket = try UDPSocket.open(server.family, options: SocketOptions(ipv6Only: false))
            try UDPSocket.connect(socket, to: server)
            local = try #require(try UDPSocket.localAddress(of: socket))
        }

        func send(_ bytes: [UInt8]) throws {
            #expect(try bytes.withUnsafeBytes { try UDPSocket.send($0, over: socket) })
        }

        func receive() -> [UInt8]? { ListenerShieldTests.receive(socket) }

        /// Asks for a cookie, and comes back with it.
        func enter(_ gate: Gate) throws {
            try send(hello.bytes())
            var cookie: [UInt8]?
            try gate.turn("a cookie comes") {
                if case .helloVerifyRequest(let given)? = receive().map({ HelloAnswer($0) }) { cookie = given }
                return cookie != nil
            }
            try send(hello.bytes(cookie: try #require(cookie), number: 1))
            try gate.turn("the client is admitted") { gate.newcomers[local] != nil }
        }
    }

    private static func receive(_ socket: borrowing FileDescriptor) -> [UInt8]? {
        var bytes = [UInt8](repeating: 0, count: 2_048)
        let count = recv(socket.rawValue, &bytes, bytes.count, Int32(MSG_DONTWAIT))
        return count >= 0 ? Array(bytes[..<count]) : nil
    }

    /// What the listener's own socket, of a wildcard address, is called by a client.
    private static func destination(_ host: String, of gate: Gate) throws -> SocketAddress {
        let listener = try #require(gate.listener)
        return try #require(SocketAddress(host: host, port: listener.address.port))
    }

    private static let stray: [UInt8] = [23, 0xfe, 0xfd]

    struct Place: Sendable, CustomTestStringConvertible {
        let listening: String
        let host: String
        var testDescription: String { "\(host) of \(listening)" }

        /// Whether this kernel lets a shield be.
        var isShielded: Bool { SocketAddress(host: host, port: 0).map(UDPSocket.findsConnectedFirst) ?? false }

        static let all = [
            Place(listening: "127.0.0.1", host: "127.0.0.1"), Place(listening: "0.0.0.0", host: "127.0.0.1"),
            Place(listening: "::1", host: "::1"), Place(listening: "::", host: "::1"),
            Place(listening: "::", host: "::ffff:127.0.0.1"),
        ]
    }

    /// Every client is admitted, has its own datagrams on its own socket, and every stranger's datagram is the
    /// listener's, while several generations of shields come and go.
    @Test(arguments: Place.all) func `nothing goes astray`(_ place: Place) throws {
        _ = OpenFileLimit.raise()
        let gate = try Gate(on: try #require(SocketAddress(host: place.listening, port: 0)), loop: try EventLoop())
        defer { gate.close() }
        let listener = try #require(gate.listener)
        let server = try Self.destination(place.host, of: gate)
        let stranger = try Client(to: server)
        var clients: [Client] = []
        for number in 1...(3 * DecoySockets.crowd + 10) {
            let client = try Client(to: server)
            try stranger.send(Self.stray)
            try client.enter(gate)
            try stranger.send(Self.stray)
            try client.send([UInt8(truncatingIfNeeded: number)])
            clients.append(client)
        }
        try gate.turn("all strays are counted") { listener.counters.strays == 2 * clients.count }
        #expect(listener.counters.admitted == clients.count && gate.late == 0)
        for (index, client) in clients.enumerated() {
            let entrant = try #require(gate.newcomers[client.local])
            #expect(Self.receive(entrant.newcomer.socket) == [UInt8(truncatingIfNeeded: index + 1)])
            #expect(Self.receive(entrant.newcomer.socket) == nil)
        }
        #expect(listener.shieldCount == (place.isShielded ? 1 : 0))

        // A stranger's datagram does not come to the listener's own socket any more.
        guard place.isShielded else { return }
        try stranger.send(Self.stray)
        FileDescriptor.withBorrowed(listener.descriptor) { #expect(Self.receive($0) == nil) }
        try gate.turn("the shield has taken it") { listener.counters.strays == 2 * clients.count + 1 }
    }

    /// Connections of a listener that is for one interface would be in the shields' reuseport group.
    @Test func `a listener of one interface has none`() throws {
        let options = SocketOptions(interface: "lo", ipv6Only: false)
        let gate = try Gate(on: try #require(SocketAddress("127.0.0.1:0")), options, loop: try EventLoop())
        defer { gate.close() }
        let server = try Self.destination("127.0.0.1", of: gate)
        let clients = try gate.crowd(server)
        #expect(gate.listener?.shieldCount == 0 && gate.newcomers.count == clients.count)
    }

    /// A listener that a reload opens on the very address gets what the wildcard's shields had got.
    @Test(arguments: ["127.0.0.1", "::1"]) func `shields make way for another listener`(_ host: String) throws {
        let loop = try EventLoop()
        let any = try #require(SocketAddress(host: host == "::1" ? "::" : "0.0.0.0", port: 0))
        let wildcard = try Gate(on: any, loop: loop)
        defer { wildcard.close() }
        let server = try Self.destination(host, of: wildcard)
        let clients = try wildcard.crowd(server)
        let before = try #require(wildcard.listener)
        #expect(before.shieldCount == (UDPSocket.findsConnectedFirst(like: server) ? 1 : 0))
        let waiting = try Client(to: server)
        try waiting.send(Self.stray)
        before.closeShields()
        #expect(before.shieldCount == 0 && before.counters.strays == 1, "what they had got is not lost")
        let specific = try Gate(on: server, loop: loop)
        defer { specific.close() }
        try waiting.enter(specific)
        #expect(before.shieldCount == 0 && before.counters.admitted == clients.count)
    }
}
