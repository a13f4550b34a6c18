import Foundation
import LinuxSystem
import Testing

extension EndToEnd {
    /// The tests' own view of the machine.
    @Suite struct ProcessTableTests {
        /// The kernel gives /proc/net/udp away in pieces of 31 lines.
        @Test func aPortIsSeenHoweverManyThereAre() async throws {
            let sockets = try (0..<100).map { _ in
                try DatagramSocket(at: try #require(SocketAddress(host: SocketAddress.ownLoopback, port: 0)))
            }
            let ports = Set(sockets.map(\.local.port))
            var seen: Set<UInt16> = []
            try await eventually("all ports are seen", details: "\(ports.subtracting(seen))") {
                seen.formUnion(ProcessTable.localPorts(of: getpid()))
                return seen.isSuperset(of: ports)
            }
        }
    }
}
