import DTLSEngine
import DTLSTransport
import Glibc
import LinuxSystem
import TestSupport
import Testing

@testable import DTLSDaemon

/// Listeners on sockets that the service manager has passed in.
@Suite struct ListenerSetTests {
    private final class Delegate: DatagramListenerDelegate {
        func refusal(of flow: FlowKey, on listener: DatagramListener) -> Refusal? { .full }
        func listener(_ listener: DatagramListener, admitted connection: consuming IncomingConnection) -> UInt64? {
            nil
        }
        func listener(
            _ listener: DatagramListener, misdelivered datagram: UnsafeRawBufferPointer, of connection: UInt64
        ) -> Bool { false }
        func listener(_ listener: DatagramListener, doesNotServe peer: SocketAddress, _ refusal: Refusal) {}
        func listener(_ listener: DatagramListener, droppedRecordOfNoConnectionFrom peer: SocketAddress) {}
        func listener(_ listener: DatagramListener, failed error: SystemError, for peer: SocketAddress) {}
    }

    private func option(_ level: Int32, _ name: Int32, of socket: Int32) -> Int32 {
        var value: Int32 = -1
        var length = socklen_t(MemoryLayout<Int32>.size)
        return getsockopt(socket, level, name, &value, &length) == 0 ? value : -1
    }

    private func configuration(_ options: SocketOptions) -> Configuration {
        let service = ServiceConfiguration(
            name: "inherited", listen: [], tls: ServerSettings(certifiedKeys: []), socket: options)
        return Configuration(workers: 1, stopTimeout: .zero, logLevel: .debug, services: [service])
    }

    /// What the socket unit has set: IPTOS= and ReceiveBuffer=.
    @Test(arguments: ["127.0.0.1", "::1"])
    func `an option that a reload removes is that of the socket unit again`(_ host: String) throws {
        let address = try #require(SocketAddress(host: host, port: 0))
        let descriptor = try UDPSocket.listen(on: address, options: SocketOptions(receiveBuffer: 8_192, dscp: 8))
        let socket = descriptor.rawValue
        let inherited = try InheritedSocket(name: "inherited", descriptor)
        let loop = try EventLoop()
        let delegate = Delegate()
        let listeners = ListenerSet(
            inherited: [inherited], cookies: try CookieAuthority(secret: [UInt8](repeating: 1, count: 32)), loop: loop,
            delegate: delegate)
        func values() -> [Int32] {
            let own =
                address.family == .ipv4
                ? [(IP_TTL, IPPROTO_IP), (IP_TOS, IPPROTO_IP), (IP_MTU_DISCOVER, IPPROTO_IP)]
                : [(IPV6_UNICAST_HOPS, IPPROTO_IPV6), (IPV6_TCLASS, IPPROTO_IPV6), (IP_TOS, IPPROTO_IP)]
            return own.map { option(Int32($1), $0, of: socket) }
                + [SO_RCVBUF, SO_SNDBUF].map { option(SOL_SOCKET, $0, of: socket) }
        }
        func activate(_ options: SocketOptions) throws {
            try listeners.commit(try listeners.prepare(configuration(options)))
        }
        try activate(SocketOptions())
        let before = values()
        #expect(before.contains(8 << 2) && before.contains(16_384))
        try activate(
            SocketOptions(receiveBuffer: 4_096, sendBuffer: 5_000, timeToLive: 7, dscp: 46, fragmentation: false))
        let during = values()
        #expect(during.contains(46 << 2) && during.contains(7) && during.contains(8_192) && during.contains(10_000))
        try activate(SocketOptions())
        #expect(values() == before)
        listeners.closeAll()
    }

    private func makeListeners(_ stored: [PassedDescriptor], _ loop: EventLoop, _ delegate: Delegate) throws
        -> ListenerSet
    {
        ListenerSet(
            inherited: [], stored: stored, cookies: try CookieAuthority(secret: [UInt8](repeating: 1, count: 32)),
            loop: loop, delegate: delegate)
    }

    private func configuration(_ address: SocketAddress, _ options: SocketOptions) -> Configuration {
        let service = ServiceConfiguration(
            name: "echo", listen: [address], tls: ServerSettings(certifiedKeys: []), socket: options)
        return Configuration(workers: 1, stopTimeout: .zero, logLevel: .debug, services: [service])
    }

    /// What the service manager, or the main process before this one, has kept of the listeners' sockets.
    private func passed(_ sockets: [StoredItem: Int32]) throws -> [PassedDescriptor] {
        try sockets.map { item, raw in
            try FileDescriptor.withBorrowed(raw) { PassedDescriptor(item.name, try $0.duplicate()) }
        }
    }

    @Test func `a stored socket is listened on again as it is, with the datagrams that wait in it`() throws {
        let loop = try EventLoop()
        let delegate = Delegate()
        let address = try SocketAddress.freeOnOwnLoopback()
        let first = try makeListeners([], loop, delegate)
        try first.commit(try first.prepare(configuration(address, SocketOptions(dscp: 8))))
        let stored = try passed(first.ownSockets)
        #expect(stored.count == 1)
        first.closeAll()
        let client = try UDPSocket.open(.ipv4)
        try UDPSocket.connect(client, to: address)
        #expect(try [1, 2, 3].withUnsafeBytes { bytes throws(SystemError) in try UDPSocket.send(bytes, over: client) })

        let second = try makeListeners(stored, loop, delegate)
        // A probe of the address would find that the stored socket has it.
        try second.commit(try second.prepare(configuration(address, SocketOptions(dscp: 8))))
        #expect(second.ownSockets.keys.map(\.name) == stored.map(\.name))
        try second.openAll()
        try loop.poll(timeout: .seconds(5))
        #expect(second.counters.unrelated == 1)
        second.closeAll()
    }

    @Test func `a stored socket with other options is not used`() throws {
        let loop = try EventLoop()
        let delegate = Delegate()
        let address = try SocketAddress.freeOnOwnLoopback()
        let first = try makeListeners([], loop, delegate)
        try first.commit(try first.prepare(configuration(address, SocketOptions(dscp: 8))))
        let before = first.ownSockets
        let second = try makeListeners(try passed(before), loop, delegate)
        try second.commit(try second.prepare(configuration(address, SocketOptions(dscp: 9))))
        let after = try #require(second.ownSockets.first)
        #expect(before[after.key] == nil)
        #expect(option(Int32(IPPROTO_IP), IP_TOS, of: after.value) == 9 << 2)
        second.closeAll()
        first.closeAll()
    }

    @Test func `listeners that pause leave datagrams in their sockets`() throws {
        let loop = try EventLoop()
        let delegate = Delegate()
        let address = try SocketAddress.freeOnOwnLoopback()
        let listeners = try makeListeners([], loop, delegate)
        try listeners.commit(try listeners.prepare(configuration(address, SocketOptions())))
        try listeners.openAll()
        listeners.pauseAll()
        let client = try UDPSocket.open(.ipv4)
        try UDPSocket.connect(client, to: address)
        #expect(try [1, 2, 3].withUnsafeBytes { bytes throws(SystemError) in try UDPSocket.send(bytes, over: client) })
        try loop.poll(timeout: .zero)
        #expect(listeners.counters.unrelated == 0)
        try listeners.openAll()
        try loop.poll(timeout: .seconds(5))
        #expect(listeners.counters.unrelated == 1)
        listeners.closeAll()
    }
}
