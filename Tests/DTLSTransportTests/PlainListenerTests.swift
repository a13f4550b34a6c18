import LinuxSystem
import Testing

@testable import DTLSTransport

/// A client's local side, with whoever it hands its senders to in their place.
@Suite struct PlainListenerTests {
    /// Takes senders' sockets and closes them at once, as when their worker dies.
    private final class Hall: PlainListenerDelegate {
        var admitted: [[UInt8]] = []
        var late: [[UInt8]] = []
        var isThere = true

        func canAdmit(_ key: FlowKey, on listener: PlainListener) -> Bool { true }

        func listener(_ listener: PlainListener, admitted newcomer: consuming IncomingConnection) -> UInt64? {
            admitted += newcomer.datagrams
            return UInt64(admitted.count)
        }

        func listener(
            _ listener: PlainListener, late datagram: UnsafeRawBufferPointer, of connection: UInt64
        ) -> Bool {
            if isThere { late.append([UInt8](datagram)) }
            return isThere
        }

        func listener(_ listener: PlainListener, failed error: SystemError, for peer: SocketAddress) {
            Issue.record(error)
        }
    }

    /// What a sender sends moments after it was admitted is its connection's, or, where that is gone, a new one's.
    @Test func `a sender whose connection is gone is admitted anew`() throws {
        let loop = try EventLoop()
        let hall = Hall()
        let socket = try UDPSocket.listen(on: try #require(SocketAddress("127.0.0.1:0")), options: SocketOptions())
        let address = try #require(try UDPSocket.localAddress(of: socket))
        let listener = PlainListener(
            socket: socket, address: address, options: SocketOptions(), buffers: ListenerBuffers(), loop: loop,
            delegate: hall)
        try listener.open()
        let sender = try UDPSocket.open(.ipv4)
        try UDPSocket.connect(sender, to: address)
        func send(_ byte: UInt8) throws {
            _ = try withUnsafeBytes(of: byte) { try UDPSocket.send($0, over: sender) }
            try loop.poll(timeout: nil)
        }
        try send(1)
        try send(2)
        #expect(hall.admitted == [[1]] && hall.late == [[2]])
        hall.isThere = false
        try send(3)
        #expect(hall.admitted == [[1], [3]] && hall.late == [[2]])
        listener.close()
    }
}
