import Primitives
import TestSupport
import Testing

@testable import DTLSEngine

/// Messages of return routability checks (RFC 9853).
@Suite struct ReturnRoutabilityTests {
    private func challenge(_ pair: EnginePair, _ cookie: UInt64, from side: SimulatedWire.Side) {
        (side == .client ? pair.client : pair.server).engine?.sendPathChallenge(cookie)
        pair.flush(side)
    }

    @Test(arguments: [
        ConnectionIDTests.Lengths(client: 0, server: 17), .init(client: 8, server: 0), .init(client: 0, server: 0),
        .init(client: 9, server: 17),
    ])
    func `a challenge is answered with its cookie at once`(_ lengths: ConnectionIDTests.Lengths) throws {
        let pair = try ConnectionIDTests.establishedPair(ConnectionIDTests.keys, lengths)
        challenge(pair, 0x0123_4567_89ab_cdef, from: .server)
        challenge(pair, 7, from: .client)
        let sent = pair.wire.sentCount
        pair.run { $0.wire.nextArrival == nil }
        #expect(pair.server.pathResponses == [0x0123_4567_89ab_cdef] && pair.client.pathResponses == [7])
        #expect(pair.wire.sentCount == sent + 2)
        #expect(pair.client.messages.isEmpty && pair.server.messages.isEmpty)
    }

    @Test func `an answer is not larger than its challenge`() throws {
        let pair = try ConnectionIDTests.establishedPair(ConnectionIDTests.keys, .init(client: 9, server: 9))
        challenge(pair, 7, from: .server)
        pair.run { $0.wire.nextArrival == nil }
        let sizes = pair.wire.sent.suffix(2).map(\.datagram.count)
        #expect(sizes.count == 2 && sizes[0] == sizes[1])
    }

    @Test func `messages of other types and lengths mean nothing`() throws {
        let pair = try ConnectionIDTests.establishedPair(ConnectionIDTests.keys, .both)
        let sent = pair.wire.sentCount
        let type = ContentType.returnRoutabilityCheck
        let cookie = [UInt8](repeating: 1, count: 8)
        for content in [[], [0], [1] + cookie + [0], [2] + cookie, [3] + cookie, [255] + cookie] as [[UInt8]] {
            pair.inject(try pair.record(type, content, from: .client), into: .server)
        }
        #expect(pair.server.pathResponses.isEmpty && pair.wire.sentCount == sent && pair.server.error == nil)
        pair.inject(try pair.record(type, [1] + cookie, from: .client), into: .server)
        #expect(pair.server.pathResponses == [0x0101_0101_0101_0101])
    }

    @Test func `where checks were not agreed on, nothing is asked or answered`() throws {
        let pair = try ConnectionIDTests.establishedPair(ConnectionIDTests.keys, ConnectionIDTests.Lengths.lone[0])
        let sent = pair.wire.sentCount
        challenge(pair, 7, from: .server)
        let content = [0, 1, 2, 3, 4, 5, 6, 7, 8] as [UInt8]
        pair.inject(try pair.record(.returnRoutabilityCheck, content, from: .client), into: .server)
        pair.inject(try pair.record(.returnRoutabilityCheck, [1] + content.dropFirst(), from: .client), into: .server)
        #expect(pair.wire.sentCount == sent && pair.server.pathResponses.isEmpty && pair.server.error == nil)
    }

    @Test func `the newest number grows with newer records only`() throws {
        let pair = try ConnectionIDTests.establishedPair(ConnectionIDTests.keys, .both)
        let records = try (0..<3).map { try pair.record(.applicationData, [UInt8($0)], from: .client) }
        func newest() throws -> UInt64 { try #require(pair.server.engine?.newestReceived) }
        let start = try newest()
        pair.inject(records[1], into: .server)
        let second = try newest()
        pair.inject(records[0], into: .server)
        pair.inject(records[1], into: .server)
        #expect(try newest() == second)
        #expect(second > start)
        pair.inject(records[2], into: .server)
        #expect(try newest() == second + 1)
        #expect(pair.server.messages == [[1], [0], [2]])
    }
}
