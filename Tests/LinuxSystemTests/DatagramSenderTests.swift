import Foundation
import LinuxSystem
import Testing

@Suite struct DatagramSenderTests {
    /// Two sockets that are connected to each other.
    private final class Pair {
        let sending: FileDescriptor
        let receiving: FileDescriptor
        let sender: SocketAddress
        let receiver: SocketAddress

        init(sending: consuming FileDescriptor, receiving: consuming FileDescriptor) throws {
            sender = try #require(try UDPSocket.localAddress(of: sending))
            receiver = try #require(try UDPSocket.localAddress(of: receiving))
            try UDPSocket.connect(sending, to: receiver)
            try UDPSocket.connect(receiving, to: sender)
            self.sending = sending
            self.receiving = receiving
        }

        convenience init(_ host: String = "127.0.0.1", fragmentation: Bool? = false) throws {
            try self.init(
                sending: Self.open(host, fragmentation), receiving: Self.open(host, fragmentation))
        }

        private static func open(_ host: String, _ fragmentation: Bool?) throws -> FileDescriptor {
            let anywhere = try #require(SocketAddress(host: host, port: 0))
            let socket = try UDPSocket.open(
                anywhere.family, options: SocketOptions(receiveBuffer: 4 << 20, fragmentation: fragmentation))
            try UDPSocket.bind(socket, to: anywhere)
            return socket
        }

        /// Sends datagrams of these sizes, the first byte of each its number.
        func send(_ sizes: [Int], with sender: DatagramSender = DatagramSender()) -> DatagramSender.Outcome {
            var bytes = sizes.enumerated().flatMap { number, size in
                [UInt8(number)] + [UInt8](repeating: 0xee, count: size - 1)
            }
            return bytes.withUnsafeMutableBytes { bytes in
                sizes.withUnsafeBufferPointer { sender.send(bytes, sizes: $0, over: sending) }
            }
        }

        /// The numbers and sizes of what has arrived.
        func received() -> [[Int]] {
            let batch = ReceiveBatch(capacity: 16)
            var datagrams: [[Int]] = []
            batch.receiveAll(from: receiving) { datagrams.append([Int(batch[$0][0]), batch[$0].count]) }
            return datagrams
        }
    }

    private static func expected(_ sizes: [Int], without isLost: (Int) -> Bool) -> [[Int]] {
        sizes.enumerated().filter { !isLost($1) }.map { [$0, $1] }
    }

    /// 65,507 bytes are the most that IPv4 knows, whoever may fragment.
    @Test(arguments: [nil, false, true])
    func `a datagram that is too large for IP does not hold up the others`(_ fragmentation: Bool?) throws {
        let pair = try Pair(fragmentation: fragmentation)
        let sizes = [10, 10, 10, 65_508, 10, 65_600, 20, 20]
        let outcome = pair.send(sizes)
        #expect(outcome.sent == 6)
        #expect(outcome.handled == 8)
        #expect(outcome.tooLarge == 2)
        #expect(outcome.error == EMSGSIZE)
        let received = pair.received()
        #expect(received == Self.expected(sizes) { $0 > 65_507 })
    }

    /// What the interface does not take in one piece is refused by itself, in a run of UDP_SEGMENT or not.
    @Test(
        .enabled(if: NetworkNamespace.isAllowed, "it takes a network namespace: root"),
        arguments: ["127.0.0.1", "::1"],
        [
            [600, 600, 600, 1_900, 600, 600],
            [1_900, 1_900, 1_900, 1_900],
            // The last of a run may be shorter.
            [1_900, 1_900, 600, 600],
            [1_900, 600, 1_900, 600, 1_900, 1_900, 1_900, 600],
            [600],
            [1_900],
            [Int](repeating: 600, count: 150) + [1_900] + [Int](repeating: 700, count: 50),
        ])
    func `a datagram that is too large for the interface does not hold up the others`(_ host: String, _ sizes: [Int])
        throws
    {
        // IPv6 needs 1,280.
        try NetworkNamespace.run(mtu: 1_300) {
            let pair = try Pair(host)
            #expect(try UDPSocket.pathMTU(of: pair.sending, pair.sender.family) == 1_300)
            #expect(try UDPSocket.refusesLarge(pair.sending, pair.sender.family))
            let outcome = pair.send(sizes)
            let lost = sizes.count { $0 > 1_300 }
            #expect(outcome.sent == sizes.count - lost)
            #expect(outcome.handled == sizes.count)
            #expect(outcome.tooLarge == lost)
            let received = pair.received()
            #expect(received == Self.expected(sizes) { $0 > 1_300 })

            let fragmenting = try Pair(host, fragmentation: true)
            #expect(try !UDPSocket.refusesLarge(fragmenting.sending, fragmenting.sender.family))
            #expect(fragmenting.send(sizes).sent == sizes.count)
            let all = fragmenting.received()
            #expect(all == Self.expected(sizes) { _ in false })
        }
    }

    /// A router's "fragmentation needed" is reported once in place of sending, whatever is to be sent then (udp(7)):
    /// that loses nothing. From then on the path is known to be narrower.
    @Test(.enabled(if: NetworkNamespace.isAllowed, "it takes a network namespace: root"), arguments: [1, 5])
    func `a router's report loses nothing`(count: Int) throws {
        try NetworkNamespace.run(mtu: 1_500) {
            let pair = try Pair()
            try reportNarrowPath(of: pair.sender, to: pair.receiver, mtu: 700)
            let small = pair.send([Int](repeating: 500, count: count))
            #expect(small.sent == count)
            #expect(small.tooLarge == 0)
            let received = pair.received()
            #expect(received.count == count)
            #expect(try UDPSocket.pathMTU(of: pair.sending, .ipv4) == 700)
            let large = pair.send([500, 673, 672])
            #expect(large.sent == 2)
            #expect(large.tooLarge == 1)
            let rest = pair.received()
            #expect(rest == [[0, 500], [2, 672]])
        }
    }

    /// The ICMP message of a router (RFC 1191) for a datagram from one address to another.
    private func reportNarrowPath(of sender: SocketAddress, to receiver: SocketAddress, mtu: Int) throws {
        func port(_ address: SocketAddress) -> [UInt8] { [UInt8(address.port >> 8), UInt8(address.port & 0xff)] }
        let loopback: [UInt8] = [127, 0, 0, 1]
        // The header of the packet that was too large: 1,000 bytes of UDP with DF.
        var packet: [UInt8] = [0x45, 0, 3, 232, 0, 1, 0x40, 0, 64, 17, 0, 0]
        packet += loopback + loopback + port(sender) + port(receiver) + [3, 212, 0, 0]
        var message: [UInt8] = [3, 4, 0, 0, 0, 0, UInt8(mtu >> 8), UInt8(mtu & 0xff)] + packet
        var sum = 0
        for index in stride(from: 0, to: message.count, by: 2) {
            sum += Int(message[index]) << 8 + Int(message[index + 1])
        }
        while sum > 0xffff { sum = sum & 0xffff + sum >> 16 }
        message[2] = UInt8(~sum >> 8 & 0xff)
        message[3] = UInt8(~sum & 0xff)
        let raw = socket(AF_INET, Int32(SOCK_RAW.rawValue), Int32(IPPROTO_ICMP))
        defer { close(raw) }
        let target = try #require(SocketAddress(host: "127.0.0.1", port: 0))
        let sent = target.withSockaddr { sendto(raw, message, message.count, 0, $0, $1) }
        try #require(sent == message.count)
    }
}
