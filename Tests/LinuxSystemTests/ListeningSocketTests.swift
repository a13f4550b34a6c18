import LinuxSystem
import Testing

@Suite struct ListeningSocketTests {
    private final class Owner {
        let socket: FileDescriptor
        init(_ socket: consuming FileDescriptor) { self.socket = socket }
    }

    /// Of 500 that share, some four pairs would have met.
    @Test func `ports of the kernel's choice are not shared`() throws {
        let any = try #require(SocketAddress("127.0.0.1:0"))
        let listeners = try (0..<500).map { _ in Owner(try UDPSocket.listen(on: any, options: SocketOptions())) }
        let ports = try listeners.map { try #require(try UDPSocket.localAddress(of: $0.socket)).port }
        #expect(Set(ports).count == ports.count)
        // A connection's socket can still be bound beside one.
        let beside = try UDPSocket.open(.ipv4)
        try UDPSocket.shareAddress(of: beside)
        try UDPSocket.bind(beside, to: any.with(port: try #require(ports.first)))
    }
}
