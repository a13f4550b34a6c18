import LinuxSystem
import Testing

@testable import DTLSTransport

/// A listener for plain datagrams, a client's local side, with a delegate in place of the workers.
@Suite struct PlainListenerTests {
    /// Closes senders' sockets at once, as when their worker dies.
    private final class Delegate: DatagramListenerDelegate {
        var admitted: [[UInt8]] = []
        var misdelivered: [[UInt8]] = []
        var isThere = true

        func refusal(of flow: FlowKey, on listener: DatagramListener) -> Refusal? { nil }

        func listener(_ listener: DatagramListener, admitted incoming: consuming IncomingConnection) -> UInt64? {
            admitted += incoming.datagrams
            return UInt64(admitted.count)
        }

        func listener(
            _ listener: DatagramListener, misdelivered datagram: UnsafeRawBufferPointer, of connection: UInt64
        ) -> Bool {
            if isThere { misdelivered.append([UInt8](datagram)) }
            return isThere
        }

        func listener(_ listener: DatagramListener, doesNotServe peer: SocketAddress, _ refusal: Refusal) {
            Issue.record("\(peer) was denied")
        }

        func listener(_ listener: DatagramListener, droppedRecordOfNoConnectionFrom peer: SocketAddress) {
            Issue.record("a record of \(peer) was dropped")
        }

        func listener(_ listener: DatagramListener, failed error: SystemError, for peer: SocketAddress) {
            Issue.record(error)
        }
    }

    /// What a sender sends moments after it was admitted is its connection's, or, where that is gone, a new one's.
    @Test func `a sender whose connection is gone is admitted again`() throws {
        let loop = try EventLoop()
        let delegate = Delegate()
        let socket = try UDPSocket.listen(on: try #require(SocketAddress("127.0.0.1:0")), options: SocketOptions())
        let address = try #require(try UDPSocket.localAddress(of: socket))
        let listener = DatagramListener(
            socket: socket, address: address, policy: .none, options: SocketOptions(), buffers: ListenerBuffers(),
            loop: loop, delegate: delegate)
        try listener.open()
        let sender = try UDPSocket.open(.ipv4)
        try UDPSocket.connect(sender, to: address)
        func send(_ byte: UInt8) throws {
            _ = try withUnsafeBytes(of: byte) { try UDPSocket.send($0, over: sender) }
            try loop.poll(timeout: nil)
        }
        try send(1)
        try send(2)
        #expect(delegate.admitted == [[1]] && delegate.misdelivered == [[2]])
        delegate.isThere = false
        try send(3)
        #expect(delegate.admitted == [[1], [3]] && delegate.misdelivered == [[2]])
        listener.close()
    }
}
