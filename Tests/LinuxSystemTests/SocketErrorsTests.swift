import Glibc
import Testing

@testable import LinuxSystem

@Suite struct SocketErrorsTests {
    /// A socket connected to a port of loopback that nobody has, after `count` datagrams to it.
    private func refused(_ host: String, datagrams count: Int) throws -> FileDescriptor {
        let address = try #require(SocketAddress(host: host, port: 0))
        var free = try UDPSocket.open(address.family)
        try UDPSocket.bind(free, to: address)
        let closed = try #require(try UDPSocket.localAddress(of: free))
        _ = free.take()
        let socket = try UDPSocket.open(address.family)
        try UDPSocket.reportAllErrors(address.family, of: socket)
        try UDPSocket.connect(socket, to: closed)
        for _ in 0..<count {
            // Every other one is told of the error that the one before has brought.
            _ = [1].withUnsafeBytes { try? UDPSocket.send($0, over: socket) }
        }
        return socket
    }

    /// What the error of an earlier datagram does to the next ones is the caller's choice.
    @Test(arguments: [true, false])
    func `an earlier error ends a batch where the caller asks for that`(_ retrying: Bool) throws {
        let socket = try refused("127.0.0.1", datagrams: 1)
        var bytes: [UInt8] = [1, 2, 3]
        let sizes = [1, 2]
        let outcome = bytes.withUnsafeMutableBytes { bytes in
            sizes.withUnsafeBufferPointer {
                DatagramSender().send(bytes, sizes: $0, over: socket, segmenting: false, retrying: retrying)
            }
        }
        #expect(retrying ? outcome.handled > 0 : outcome.handled == 0)
        #expect(retrying || outcome.error == ECONNREFUSED)
    }

    private func hasError(_ socket: borrowing FileDescriptor) -> Bool {
        var entry = pollfd(fd: socket.rawValue, events: 0, revents: 0)
        return poll(&entry, 1, 0) == 1 && entry.revents & Int16(POLLERR) != 0
    }

    /// A queue that is not emptied would wake its loop for ever.
    @Test(arguments: ["127.0.0.1", "::1"])
    func `refusals are read once and are gone then`(_ host: String) throws {
        let socket = try refused(host, datagrams: 9)
        // Over loopback the answer to a datagram is there when send returns.
        let before = hasError(socket)
        let error = UDPSocket.takeErrors(of: socket)
        let after = hasError(socket)
        #expect(before && error == ECONNREFUSED)
        let secondError = UDPSocket.takeErrors(of: socket)
        #expect(!after && secondError == 0)
    }
}
