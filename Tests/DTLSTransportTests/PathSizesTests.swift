import LinuxSystem
import Primitives
import TestSupport
import Testing

@testable import DTLSTransport

/// What handshakes have found out about paths without ICMP.
@Suite struct PathSizesTests {
    private static func peer(_ number: Int, port: UInt16 = 5_684) throws -> SocketAddress {
        try #require(SocketAddress(host: "10.0.\(number / 256).\(number % 256)", port: port))
    }

    @Test func `a size is kept for an address for ten minutes whatever the port is`() throws {
        var sizes = PathSizes()
        sizes.note(576, to: try Self.peer(1), now: at(0))
        #expect(sizes.size(to: try Self.peer(1, port: 9), now: at(599_999_999_999)) == 576)
        #expect(sizes.size(to: try Self.peer(1), now: at(600_000_000_000)) == nil)
        #expect(sizes.size(to: try Self.peer(2), now: at(0)) == nil)
        sizes.note(1_260, to: try Self.peer(1), now: at(600_000_000_000))
        #expect(sizes.size(to: try Self.peer(1), now: at(600_000_000_001)) == 1_260)
    }

    @Test func `the oldest size makes room for another one`() throws {
        var sizes = PathSizes()
        for number in 0..<PathSizes.capacity + 2 { sizes.note(576, to: try Self.peer(number), now: at(0)) }
        #expect(sizes.size(to: try Self.peer(0), now: at(1)) == nil)
        #expect(sizes.size(to: try Self.peer(1), now: at(1)) == nil)
        for number in 2..<PathSizes.capacity + 2 { #expect(sizes.size(to: try Self.peer(number), now: at(1)) == 576) }
    }
}
