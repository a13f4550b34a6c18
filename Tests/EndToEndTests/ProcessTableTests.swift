import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEnd {
    /// The tests' own view of the machine, and what programs have of the tests.
    @Suite struct ProcessTableTests {
        /// The kernel gives /proc/net/udp away in pieces of 31 lines.
        @Test func `a port is seen however many sockets the machine has`() async throws {
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

        @Test func `programs inherit nothing`() async throws {
            var ends: [Int32] = [-1, -1]
            try #require(pipe(&ends) == 0)
            defer { for end in ends { close(end) } }
            // ls has the folder open itself.
            let descriptors = try await Program.run(["ls", "/proc/self/fd"], in: try TestFolder())
            #expect(descriptors.split(separator: "\n") == ["0", "1", "2", "3"])
        }
    }
}
