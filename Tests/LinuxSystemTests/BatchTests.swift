import Glibc
import LinuxSystem
import TestSupport
import Testing

/// One socket as a listener has it, and one of a peer.
private final class Sockets {
    let listener: FileDescriptor
    let peer: FileDescriptor
    let local: SocketAddress
    let remote: SocketAddress

    /// - Parameter listening: where the listener is bound, a wildcard address perhaps.
    init(_ host: String = "127.0.0.1", listening: String? = nil) throws {
        let address = try #require(SocketAddress(host: host, port: 0))
        let bound = try #require(SocketAddress(host: listening ?? host, port: 0))
        listener = try UDPSocket.listen(on: bound, options: SocketOptions(ipv6Only: false))
        peer = try UDPSocket.open(address.family)
        try UDPSocket.bind(peer, to: address)
        local = address.with(port: try #require(try UDPSocket.localAddress(of: listener)).port)
        remote = try #require(try UDPSocket.localAddress(of: peer))
        try UDPSocket.connect(peer, to: local)
    }

    func send(_ datagram: [UInt8]) throws {
        try #require(try datagram.withUnsafeBytes { try UDPSocket.send($0, over: peer) })
    }
}

@Suite struct ReceiveBatchTests {
    @Test func `a batch has the datagrams that have come, in their order, with their sender`() throws {
        let sockets = try Sockets()
        let batch = ReceiveBatch(capacity: 4, slotSize: 64)
        #expect(try batch.receive(from: sockets.listener) == 0)
        for number in 1...3 { try sockets.send([UInt8](repeating: UInt8(number), count: number)) }
        #expect(try batch.receive(from: sockets.listener) == 3)
        #expect(batch.count == 3)
        #expect((0..<3).map { Array(batch[$0]) } == [[1], [2, 2], [3, 3, 3]])
        #expect((0..<3).allSatisfy { batch.source($0) == sockets.remote && !batch.isTruncated($0) })
    }

    @Test func `what does not fit into a batch is in the next one`() throws {
        let sockets = try Sockets()
        let batch = ReceiveBatch(capacity: 4, slotSize: 64)
        for number in 0..<10 { try sockets.send([UInt8(number)]) }
        var numbers: [UInt8] = []
        for count in [4, 4, 2, 0] {
            #expect(try batch.receive(from: sockets.listener) == count)
            numbers += (0..<batch.count).map { batch[$0][0] }
        }
        #expect(numbers == Array(0..<10))
    }

    @Test func `a datagram that is longer than its slot is cut off and marked, and its neighbours are whole`() throws {
        let sockets = try Sockets()
        let batch = ReceiveBatch(capacity: 4, slotSize: 64)
        for size in [64, 65, 3_000, 0, 1] { try sockets.send([UInt8](repeating: UInt8(size & 0xff), count: size)) }
        #expect(try batch.receive(from: sockets.listener) == 4)
        #expect((0..<4).map { batch[$0].count } == [64, 64, 64, 0])
        #expect((0..<4).map { batch.isTruncated($0) } == [false, true, true, false])
        #expect(batch[1].allSatisfy { $0 == 65 } && batch[2].allSatisfy { $0 == UInt8(truncatingIfNeeded: 3_000) })
        #expect(try batch.receive(from: sockets.listener) == 1)
        #expect(Array(batch[0]) == [1] && !batch.isTruncated(0), "nothing is left of the batch before")
    }

    @Test func `one datagram by itself is whole or marked as cut off, and batches before and after it are as ever`()
        throws
    {
        let sockets = try Sockets()
        let batch = ReceiveBatch(capacity: 4, slotSize: 64)
        #expect(try batch.receiveOne(from: sockets.listener) == 0)
        for size in [1, 2, 64, 65, 0, 3, 4] { try sockets.send([UInt8](repeating: UInt8(size), count: size)) }
        #expect(try batch.receive(from: sockets.listener) == 4)
        #expect(batch.isTruncated(3))
        for size in [0, 3] {
            #expect(try batch.receiveOne(from: sockets.listener) == 1)
            #expect(batch.count == 1)
            #expect(Array(batch[0]) == [UInt8](repeating: UInt8(size), count: size) && !batch.isTruncated(0))
            #expect(batch.source(0) == nil, "the source is that of no former datagram")
        }
        #expect(try batch.receive(from: sockets.listener) == 1)
        #expect(Array(batch[0]) == [4, 4, 4, 4] && batch.source(0) == sockets.remote)
        try sockets.send([UInt8](repeating: 7, count: 65))
        #expect(try batch.receiveOne(from: sockets.listener) == 1)
        #expect(batch[0].count == 64 && batch.isTruncated(0))
        #expect(try batch.receiveOne(from: sockets.listener) == 0)
        #expect(batch.count == 0)
    }

    @Test(arguments: [("127.0.0.1", "0.0.0.0"), ("::1", "::"), ("127.0.0.1", "127.0.0.1")])
    func `a batch says to which address and over which interface a datagram came`(
        _ host: String, _ listening: String
    ) throws {
        let sockets = try Sockets(host, listening: listening)
        let batch = ReceiveBatch(capacity: 2, slotSize: 64, destinations: true)
        // The kernel shortens a message's room for control messages to what it has used: the second round must have
        // all of it again.
        for _ in 0..<2 {
            try sockets.send([1])
            #expect(try batch.receive(from: sockets.listener) == 1)
            let destination = try #require(batch.destination(0, port: sockets.local.port))
            #expect(destination.address == sockets.local)
            #expect(destination.interface == if_nametoindex("lo"))
        }
    }

    @Test func `without destinations there is none`() throws {
        let sockets = try Sockets()
        let batch = ReceiveBatch(capacity: 2, slotSize: 64)
        try sockets.send([1])
        #expect(try batch.receive(from: sockets.listener) == 1)
        #expect(batch.destination(0, port: 1) == nil)
    }

    @Test func `reading empty stops after so many batches, since a peer can go on for ever`() throws {
        let sockets = try Sockets()
        let batch = ReceiveBatch(capacity: 4, slotSize: 64)
        for number in 0..<20 { try sockets.send([UInt8(number)]) }
        var numbers: [UInt8] = []
        batch.receiveAll(from: sockets.listener, batches: 3) { numbers.append(batch[$0][0]) }
        #expect(numbers == Array(0..<12))
        batch.receiveAll(from: sockets.listener) { numbers.append(batch[$0][0]) }
        #expect(numbers == Array(0..<20))
    }

    @Test func `an ICMP error that waits in the socket does not hide the datagrams behind it`() throws {
        let sockets = try Sockets()
        // The socket asks a port that is closed, and is connected to another peer before it has read the error.
        let closed = try Sockets().local
        let socket = try UDPSocket.open(.ipv4)
        try UDPSocket.connect(socket, to: closed)
        try #require(try [1].withUnsafeBytes { try UDPSocket.send($0, over: socket) })
        try UDPSocket.connect(socket, to: sockets.remote)
        try UDPSocket.connect(sockets.peer, to: try #require(try UDPSocket.localAddress(of: socket)))
        try sockets.send([7])
        var found: [[UInt8]] = []
        let batch = ReceiveBatch(capacity: 4, slotSize: 64)
        batch.receiveAll(from: socket) { found.append(Array(batch[$0])) }
        #expect(found == [[7]])
    }
}

@Suite struct ReplyBatchTests {
    private func add(_ datagram: [UInt8], to batch: ReplyBatch, _ sockets: Sockets, from local: SocketAddress? = nil) {
        batch.add(to: sockets.remote, from: local ?? sockets.local) { slot in
            slot.copyBytes(from: datagram)
            return datagram.count
        }
    }

    private func received(_ sockets: Sockets) throws -> [(bytes: [UInt8], source: SocketAddress?)] {
        let batch = ReceiveBatch(capacity: 16, slotSize: 256)
        _ = try batch.receive(from: sockets.peer)
        return (0..<batch.count).map { (Array(batch[$0]), batch.source($0)) }
    }

    @Test(arguments: [("127.0.0.1", "0.0.0.0"), ("127.77.1.9", "0.0.0.0"), ("::1", "::")])
    func `replies leave from the address that the peer has used`(_ host: String, _ listening: String) throws {
        let sockets = try Sockets(host, listening: listening)
        let batch = ReplyBatch(capacity: 4, slotSize: 128)
        for number in 1...3 { add([UInt8](repeating: UInt8(number), count: number), to: batch, sockets) }
        #expect(batch.count == 3)
        #expect(batch.send(over: sockets.listener) == 0)
        #expect(batch.count == 0)
        // The peer's socket is connected, so that it gets nothing from another address.
        let replies = try received(sockets)
        #expect(replies.map(\.bytes) == [[1], [2, 2], [3, 3, 3]])
        #expect(replies.allSatisfy { $0.source == sockets.local })
    }

    @Test func `a full batch takes no more, and one that was sent does again`() throws {
        let sockets = try Sockets()
        let batch = ReplyBatch(capacity: 2, slotSize: 128)
        for number in 0..<3 { add([UInt8(number)], to: batch, sockets) }
        #expect(batch.count == 2)
        #expect(batch.send(over: sockets.listener) == 0)
        add([9], to: batch, sockets)
        #expect(batch.send(over: sockets.listener) == 0)
        #expect(try received(sockets).map(\.bytes) == [[0], [1], [9]])
    }

    @Test func `a reply of no bytes is none`() throws {
        let sockets = try Sockets()
        let batch = ReplyBatch(capacity: 2, slotSize: 128)
        add([], to: batch, sockets)
        #expect(batch.count == 0)
        #expect(batch.send(over: sockets.listener) == 0)
        #expect(try received(sockets).isEmpty)
    }

    @Test func `a reply that the kernel refuses is counted and does not hold up the others`() throws {
        let sockets = try Sockets()
        let batch = ReplyBatch(capacity: 4, slotSize: 128)
        add([1], to: batch, sockets)
        // 192.0.2.1 (RFC 5737) is no address of this machine, so that nothing can leave from it.
        let foreign = try #require(SocketAddress("192.0.2.1:1"))
        add([2], to: batch, sockets, from: foreign)
        add([3], to: batch, sockets)
        #expect(batch.send(over: sockets.listener) == 1)
        #expect(try received(sockets).map(\.bytes) == [[1], [3]])
    }
}
