import DTLSTransport
import LinuxSystem
import Primitives
import Testing

@testable import DTLSDaemon

@Suite struct WaitingHellosTests {
    private let start = Instant(nanoseconds: 1_000_000_000)

    private func flow(_ port: UInt16) throws -> FlowKey {
        FlowKey(
            peer: try #require(SocketAddress(host: "192.0.2.1", port: port)),
            local: try #require(SocketAddress(host: "192.0.2.2", port: 5_684)))
    }

    private func add(_ hellos: inout WaitingHellos, _ port: UInt16, _ bytes: [UInt8], at time: Duration = .zero) throws
        -> Bool
    {
        try bytes.withUnsafeBytes { hellos.add($0, try flow(port), now: start + time) }
    }

    @Test func `who has waited longest is next`() throws {
        var hellos = WaitingHellos()
        #expect(hellos.isEmpty)
        for port in UInt16(1)...5 { #expect(try add(&hellos, port, [UInt8(port)])) }
        #expect(hellos.next() == .init(flow: try flow(1), datagram: [1], heard: start))
        #expect(hellos.next()?.datagram == [2])
        #expect(try add(&hellos, 6, [6]))
        #expect(hellos.next()?.datagram == [3])
        #expect(hellos.next()?.datagram == [4])
        #expect(hellos.next()?.datagram == [5])
        #expect(!hellos.isEmpty)
        #expect(hellos.next()?.datagram == [6])
        #expect(hellos.isEmpty)
        #expect(hellos.next() == nil)
    }

    @Test func `a client that repeats its hello keeps its place`() throws {
        var hellos = WaitingHellos()
        for port in UInt16(1)...4 { #expect(try add(&hellos, port, [0])) }
        #expect(hellos.next()?.flow == (try flow(1)))
        #expect(hellos.next()?.flow == (try flow(2)))
        #expect(try add(&hellos, 4, [9, 9], at: .seconds(1)))
        #expect(hellos.next()?.flow == (try flow(3)))
        #expect(hellos.next() == .init(flow: try flow(4), datagram: [9, 9], heard: start + .seconds(1)))
        #expect(hellos.isEmpty)
        // Its next one waits behind others again.
        #expect(try add(&hellos, 4, [1]))
        #expect(hellos.next()?.datagram == [1])
    }

    @Test func `what is kept is bounded, and there is room again once some have had their turn`() throws {
        var hellos = WaitingHellos()
        let hello = [UInt8](repeating: 1, count: 65_000)
        var count: UInt16 = 0
        while try add(&hellos, count + 1, hello) { count += 1 }
        #expect(Int(count) == WaitingHellos.maximumByteCount / (65_000 + WaitingHellos.overhead))
        #expect(try add(&hellos, 1, hello), "it takes no more room")
        #expect(hellos.next() != nil)
        #expect(try add(&hellos, 60_000, hello))
        #expect(try !add(&hellos, 60_001, hello))
        while hellos.next() != nil {}
        #expect(try add(&hellos, 60_001, hello))
    }
}
