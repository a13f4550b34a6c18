import DTLSEngine
import Glibc
import LinuxSystem
import TestSupport
import Testing

@testable import DTLSTransport

/// The cookie exchange on a connected socket that has arrived without a hello, over the loopback interface.
@Suite struct CookieExchangeTests {
    /// A client's socket and the server's, connected to each other.
    private final class Sockets {
        let client: FileDescriptor
        let server: FileDescriptor
        let flow: FlowKey

        init() throws {
            let host = try #require(SocketAddress("127.0.0.1:0"))
            client = try UDPSocket.listen(on: host, options: SocketOptions())
            server = try UDPSocket.listen(on: host, options: SocketOptions())
            flow = FlowKey(
                peer: try #require(try UDPSocket.localAddress(of: client)),
                local: try #require(try UDPSocket.localAddress(of: server)))
            try UDPSocket.connect(client, to: flow.local)
            try UDPSocket.connect(server, to: flow.peer)
        }

        func send(_ bytes: [UInt8]) throws {
            #expect(try bytes.withUnsafeBytes { try UDPSocket.send($0, over: client) })
        }

        func receive() -> [UInt8]? {
            var bytes = [UInt8](repeating: 0, count: 2_048)
            let count = recv(client.rawValue, &bytes, bytes.count, Int32(MSG_DONTWAIT))
            return count >= 0 ? Array(bytes[..<count]) : nil
        }
    }

    @Test func `the socket is given away with the verified hello and what follows it`() throws {
        let sockets = try Sockets()
        let loop = try EventLoop()
        var arrived: [[UInt8]]?
        var isOpen = false
        let exchange = try CookieExchange(
            try sockets.server.duplicate(), sockets.flow, cookies: try CookieAuthority(secret: Array(0..<32)),
            datapath: try Datapath(loop: loop), misdelivered: { _, peer in Issue.record("a datagram of \(peer)") },
            completion: { socket, hello, datagrams in
                isOpen = socket.isOpen
                arrived = [hello.handover] + datagrams
            })
        let hello = ClientHelloBytes()
        for datagram in [[23], hello.bytes(cookie: Array(repeating: 1, count: 32), number: 1), hello.bytes()] {
            try sockets.send(datagram)
        }
        try loop.poll(timeout: .seconds(60))
        // The first datagram is no hello; the other two are answered.
        let answers = [try #require(sockets.receive()), try #require(sockets.receive())].map { HelloAnswer($0) }
        guard case .helloVerifyRequest(let cookie) = answers[0], case .helloVerifyRequest(let second) = answers[1]
        else {
            Issue.record("the hellos were not answered")
            return
        }
        #expect(cookie == second && sockets.receive() == nil && arrived == nil)
        let verified = hello.bytes(cookie: cookie, number: 1)
        try sockets.send(verified)
        try sockets.send([22, 1])
        try loop.poll(timeout: .seconds(60))
        #expect(arrived == [verified, [22, 1]] && isOpen)
        #expect(exchange.descriptor == -1)
    }
}
