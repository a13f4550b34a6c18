import DTLSEngine
import LinuxSystem
import TestSupport
import Testing

@testable import DTLSTransport

/// What a trace says of datagrams that a test has made.
@Suite struct ClientTraceTests {
    private let peer: SocketAddress
    private let flow: FlowKey
    private final class Lines { var all: [String] = [] }
    private let lines = Lines()
    private let trace: ClientTrace

    init() throws {
        let peer = try #require(SocketAddress("192.0.2.7:4711"))
        self.peer = peer
        flow = FlowKey(peer: peer, local: try #require(SocketAddress("192.0.2.1:5684")))
        let lines = lines
        trace = ClientTrace([try AddressPattern(parsing: "192.0.2.0/24")]) { lines.all.append("\($0) \($1)") }
    }

    private func received(_ bytes: [UInt8], from other: SocketAddress? = nil) {
        bytes.withUnsafeBytes { trace.received($0, from: other ?? peer, "dropped") }
    }

    private func sent(_ bytes: [UInt8]) { bytes.withUnsafeBytes { trace.sent($0, by: flow) } }

    /// A record of DTLS 1.2.
    private func record(_ type: UInt8, epoch: UInt8, number: UInt8, _ fragment: [UInt8]) -> [UInt8] {
        [type, 254, 253, 0, epoch, 0, 0, 0, 0, 0, number, 0, UInt8(fragment.count)] + fragment
    }

    /// A whole handshake message of 4 bytes.
    private func message(_ type: UInt8, number: UInt8) -> [UInt8] {
        [type, 0, 0, 4, 0, number, 0, 0, 0, 0, 0, 4, 1, 2, 3, 4]
    }

    @Test func `each record of a datagram has a line, with its messages and what becomes of it`() {
        received(
            record(22, epoch: 0, number: 3, message(16, number: 2) + message(15, number: 3))
                + record(20, epoch: 0, number: 4, [1]) + record(22, epoch: 1, number: 0, [9, 9, 9])
                + record(21, epoch: 0, number: 5, [2, 40]))
        #expect(
            lines.all == [
                "192.0.2.7:4711 received ClientKeyExchange (message 2), CertificateVerify (message 3): record 3 of epoch 0,"
                    + " 32 bytes: dropped",
                "192.0.2.7:4711 received change_cipher_spec: record 4 of epoch 0, 1 byte: dropped",
                "192.0.2.7:4711 received handshake: record 0 of epoch 1, 3 bytes: dropped",
                "192.0.2.7:4711 received alert 40 of level 2: record 5 of epoch 0, 2 bytes: dropped",
            ])
    }

    @Test func `what is no record, or only a part of one, is told as well`() {
        received([1, 2, 3])
        received(Array(record(23, epoch: 1, number: 7, [1, 2, 3]).dropLast()))
        received([])
        #expect(
            lines.all == [
                "192.0.2.7:4711 received 3 bytes, which are no record: dropped",
                "192.0.2.7:4711 received application_data: record 7 of epoch 1, 3 bytes, cut off: dropped",
                "192.0.2.7:4711 received 0 bytes, which are no record: dropped",
            ])
    }

    @Test func `others are not told of`() throws {
        let other = try #require(SocketAddress("192.0.3.7:4711"))
        received([1], from: other)
        trace.note(try #require(SocketAddress("[2001:db8::1]:4711")), "something")
        #expect(lines.all.isEmpty)
    }

    @Test func `a flight that is sent again is known by its messages, or since nobody has answered`() {
        let first = record(22, epoch: 0, number: 1, message(2, number: 1))
        let again = record(22, epoch: 0, number: 2, message(2, number: 1))
        let finished = record(22, epoch: 1, number: 1, [9])
        sent(first)
        sent(again)
        sent(finished)
        trace.isTimedOut = true
        sent(finished)
        sent(record(23, epoch: 1, number: 2, [1]))
        trace.isTimedOut = false
        trace.ended(flow)
        sent(first)
        let verbs = lines.all.map { $0.hasPrefix("192.0.2.7:4711 sent again ") }
        #expect(verbs == [false, true, false, true, false, false], "\(lines.all)")
    }

    @Test func `any bytes are told in a bounded number of lines`() {
        var generator = SeededGenerator(seed: 3)
        for _ in 0..<2_000 {
            var bytes = (0..<Int.random(in: 0..<64, using: &generator)).map { _ in
                UInt8.random(in: 0...255, using: &generator)
            }
            if bytes.count > 13 { bytes.replaceSubrange(0..<5, with: [22, 254, 253, 0, 0]) }
            lines.all = []
            received(bytes)
            sent(bytes)
            #expect((2...32).contains(lines.all.count))
        }
    }
}
