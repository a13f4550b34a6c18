import DTLSEngine
import Glibc
import LinuxSystem
import TestSupport
import Testing

@testable import DTLSTransport

/// Rule 9: once many connections are open on an address, the listener has decoy sockets in front of them, and every
/// datagram still reaches the socket that it is for, also while decoys are replaced.
@Suite struct DecoySocketTests {
    /// A listener with as many clients as a test wants, in one loop.
    private final class Service: DatagramListenerDelegate {
        let loop: EventLoop
        private(set) var listener: DatagramListener?
        private(set) var connections: [SocketAddress: Admitted] = [:]
        private(set) var misdelivered = 0
        private var admitted: UInt64 = 0

        final class Admitted {
            var connection: IncomingConnection
            init(_ connection: consuming IncomingConnection) { self.connection = connection }
        }

        init(
            on address: SocketAddress, _ options: SocketOptions = SocketOptions(ipv6Only: false), loop: EventLoop
        ) throws {
            self.loop = loop
            let socket = try UDPSocket.listen(on: address, options: options)
            let actual = try #require(try UDPSocket.localAddress(of: socket))
            let made = DatagramListener(
                socket: socket, address: actual, policy: .cookies(try CookieAuthority(secret: Array(0..<32))),
                options: options, buffers: ListenerBuffers(), loop: loop, delegate: self, mayHaveDecoys: true)
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

        /// Has so many clients admitted that there are decoys. The clients must be kept: another one on a port that was
        /// used before would reach that one's connection.
        func crowd(_ server: SocketAddress) throws -> [Client] {
            try (0...DecoySockets.crowd).map { _ in
                let client = try Client(to: server)
                try client.enter(self)
                return client
            }
        }

        func refusal(of flow: FlowKey, on listener: DatagramListener) -> Refusal? { nil }

        func listener(_ listener: DatagramListener, admitted incoming: consuming IncomingConnection) -> UInt64? {
            admitted += 1
            connections[incoming.flow.peer] = Admitted(incoming)
            return admitted
        }

        func listener(
            _ listener: DatagramListener, misdelivered datagram: UnsafeRawBufferPointer, of connection: UInt64
        ) -> Bool {
            misdelivered += 1
            return true
        }

        func listener(_ listener: DatagramListener, droppedRecordOfNoConnectionFrom peer: SocketAddress) {}
        func listener(_ listener: DatagramListener, doesNotServe peer: SocketAddress, _ refusal: Refusal) {}
        func listener(_ listener: DatagramListener, failed error: SystemError, for peer: SocketAddress) {
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

        func receive() -> [UInt8]? { DecoySocketTests.receive(socket) }

        /// Asks for a cookie, and comes back with it.
        func enter(_ service: Service) throws {
            try send(hello.bytes())
            var cookie: [UInt8]?
            try service.turn("a cookie comes") {
                if case .helloVerifyRequest(let given)? = receive().map({ HelloAnswer($0) }) { cookie = given }
                return cookie != nil
            }
            try send(hello.bytes(cookie: try #require(cookie), number: 1))
            try service.turn("the client is admitted") { service.connections[local] != nil }
        }
    }

    private static func receive(_ socket: borrowing FileDescriptor) -> [UInt8]? {
        var bytes = [UInt8](repeating: 0, count: 2_048)
        let count = recv(socket.rawValue, &bytes, bytes.count, Int32(MSG_DONTWAIT))
        return count >= 0 ? Array(bytes[..<count]) : nil
    }

    /// What the listener's own socket, of a wildcard address, is called by a client.
    private static func destination(_ host: String, of service: Service) throws -> SocketAddress {
        let listener = try #require(service.listener)
        return try #require(SocketAddress(host: host, port: listener.address.port))
    }

    private static let unrelated: [UInt8] = [23, 0xfe, 0xfd]

    struct Place: Sendable, CustomTestStringConvertible {
        let listening: String
        let host: String
        var testDescription: String { "\(host) of \(listening)" }

        /// Whether this kernel lets a listener have decoys.
        var hasDecoys: Bool { SocketAddress(host: host, port: 0).map(UDPSocket.findsConnectedFirst) ?? false }

        static let all = [
            Place(listening: "127.0.0.1", host: "127.0.0.1"), Place(listening: "0.0.0.0", host: "127.0.0.1"),
            Place(listening: "::1", host: "::1"), Place(listening: "::", host: "::1"),
            Place(listening: "::", host: "::ffff:127.0.0.1"),
        ]
    }

    /// Every client is admitted and has its own datagrams on its own socket, and every datagram of no connection is the
    /// listener's, while several generations of decoys come and go.
    @Test(arguments: Place.all) func `every datagram reaches its socket`(_ place: Place) throws {
        _ = OpenFileLimit.raise()
        let service = try Service(
            on: try #require(SocketAddress(host: place.listening, port: 0)), loop: try EventLoop())
        defer { service.close() }
        let listener = try #require(service.listener)
        let server = try Self.destination(place.host, of: service)
        let other = try Client(to: server)
        var clients: [Client] = []
        for number in 1...(3 * DecoySockets.crowd + 10) {
            let client = try Client(to: server)
            try other.send(Self.unrelated)
            try client.enter(service)
            try other.send(Self.unrelated)
            try client.send([UInt8(truncatingIfNeeded: number)])
            clients.append(client)
        }
        try service.turn("all unrelated datagrams are counted") { listener.counters.unrelated == 2 * clients.count }
        #expect(listener.counters.admitted == clients.count && service.misdelivered == 0)
        for (index, client) in clients.enumerated() {
            let admitted = try #require(service.connections[client.local])
            #expect(Self.receive(admitted.connection.socket) == [UInt8(truncatingIfNeeded: index + 1)])
            #expect(Self.receive(admitted.connection.socket) == nil)
        }
        #expect(listener.decoyCount == (place.hasDecoys ? 1 : 0))

        // A datagram of no connection does not come to the listener's own socket any more.
        guard place.hasDecoys else { return }
        try other.send(Self.unrelated)
        FileDescriptor.withBorrowed(listener.descriptor) { #expect(Self.receive($0) == nil) }
        try service.turn("the decoy has taken it") { listener.counters.unrelated == 2 * clients.count + 1 }
    }

    /// Connections of a listener that is for one interface would be in the decoys' reuseport group.
    @Test func `a listener for one interface has no decoys`() throws {
        let options = SocketOptions(interface: "lo", ipv6Only: false)
        let service = try Service(on: try #require(SocketAddress("127.0.0.1:0")), options, loop: try EventLoop())
        defer { service.close() }
        let server = try Self.destination("127.0.0.1", of: service)
        let clients = try service.crowd(server)
        #expect(service.listener?.decoyCount == 0 && service.connections.count == clients.count)
    }

    /// A listener that a reload opens on the very address gets what the wildcard's decoys got before.
    @Test(arguments: ["127.0.0.1", "::1"]) func `decoys make way for another listener`(_ host: String) throws {
        let loop = try EventLoop()
        let any = try #require(SocketAddress(host: host == "::1" ? "::" : "0.0.0.0", port: 0))
        let wildcard = try Service(on: any, loop: loop)
        defer { wildcard.close() }
        let server = try Self.destination(host, of: wildcard)
        let clients = try wildcard.crowd(server)
        let before = try #require(wildcard.listener)
        #expect(before.decoyCount == (UDPSocket.findsConnectedFirst(like: server) ? 1 : 0))
        let waiting = try Client(to: server)
        try waiting.send(Self.unrelated)
        before.closeDecoys()
        #expect(before.decoyCount == 0 && before.counters.unrelated == 1, "what they had got is not lost")
        let specific = try Service(on: server, loop: loop)
        defer { specific.close() }
        try waiting.enter(specific)
        #expect(before.decoyCount == 0 && before.counters.admitted == clients.count)
    }
}
