import DTLSEngine
import LinuxSystem
import Primitives
import TestSupport
import Testing

@testable import DTLSTransport

/// Clients with connection IDs that change their address, over a simulated wire in virtual time.
@Suite struct MovingClientTests {
    private static let serverID = ConnectionID((0..<10).map { UInt8($0) + 0xa0 }) ?? .empty
    private static let clientID = ConnectionID([1, 2, 3]) ?? .empty

    private func flow(_ port: UInt16) -> FlowKey {
        FlowKey(peer: .anyAddress(.ipv4, port: port), local: .anyAddress(.ipv4, port: 4_433))
    }

    private func established(_ clientID: ConnectionID = Self.clientID) throws -> (
        pair: AssociationPair, server: AssociationPair.Side
    ) {
        let pair = try AssociationPair(serverID: Self.serverID, clientID: clientID)
        pair.handshake()
        let server = try #require(pair.server)
        try #require(server.isEstablished && pair.client.isEstablished)
        try #require(server.association.connectionIDs == ConnectionIDs(own: Self.serverID, peer: clientID))
        pair.run(for: .milliseconds(100))
        return (pair, server)
    }

    /// Has the client send a message, and the server answer it.
    private func exchange(
        _ pair: AssociationPair, _ server: AssociationPair.Side, _ message: [UInt8], answer: [UInt8]
    ) throws {
        let count = server.messages.count
        try pair.send(message, from: pair.client)
        pair.run(for: .seconds(5)) { _ in server.messages.count > count }
        try pair.send(answer, from: server)
        pair.run(for: .milliseconds(100))
    }

    @Test func `a client at another address is answered there once its address is confirmed`() throws {
        let (pair, server) = try established()
        try #require(server.association.checksReturnRoutability)
        pair.clientFlow = flow(50_000)
        try exchange(pair, server, [1], answer: [2])
        #expect(pair.client.messages == [[2]])
        pair.run(for: .seconds(1)) { !$0.wantedFlows.isEmpty }
        #expect(pair.wantedFlows == [flow(50_000)] && pair.failedFlows.isEmpty)
        pair.connectWantedSocket()
        #expect(server.paths.isSettled && server.association.flow == flow(50_000))
        for value in UInt8(0)..<10 { try exchange(pair, server, [value], answer: [value, value]) }
        #expect(pair.client.messages.suffix(10) == (0..<10).map { [$0, $0] })
        #expect(pair.wantedFlows.count == 1)
    }

    @Test func `an address that answers no challenge gets three times what came from it, and the connection stays`()
        throws
    {
        let (pair, server) = try established()
        let home = pair.clientFlow
        // Somebody passes on what the client sends, from an address of another one, and keeps the original.
        let sent = pair.wire.sentCount
        pair.wire.conditions = WireConditions(loss: 100)
        try pair.send([1], from: pair.client)
        pair.wire.conditions = .perfect
        let copy = try #require(pair.sent(to: .server, after: sent).first)
        let before = pair.bytesSent[home] ?? 0
        pair.inject(copy, from: flow(50_000))
        #expect(server.messages == [[1]])
        for _ in 0..<50 { try pair.send([UInt8](repeating: 7, count: 20), from: server) }
        pair.run(for: .seconds(10))
        let victim = pair.bytesSent[flow(50_000)] ?? 0
        #expect(victim > 0 && victim <= 3 * copy.count)
        // All that was beyond the limit has gone to where the client is.
        #expect((pair.bytesSent[home] ?? 0) > before && pair.client.messages.count > 40)
        #expect(pair.failedFlows == [flow(50_000)] && pair.wantedFlows.isEmpty)
        #expect(server.paths.isSettled && server.association.flow == home)
        try exchange(pair, server, [3], answer: [4])
        #expect(pair.client.messages.last == [4])
    }

    @Test func `replayed and forged records from elsewhere move nothing`() throws {
        let (pair, server) = try established()
        for value in UInt8(0)..<5 { try exchange(pair, server, [value], answer: [value]) }
        let messages = server.messages
        let count = pair.wire.sentCount
        for datagram in pair.sent(to: .server) where datagram.first == ContentType.connectionID.rawValue {
            pair.inject(datagram, from: flow(50_000))
            var forged = datagram
            // A newer number, as far as who has not the keys can say.
            forged[10] &+= 100
            pair.inject(forged, from: flow(50_001))
        }
        #expect(server.messages == messages && pair.wire.sentCount == count)
        #expect(server.paths.isSettled && pair.wantedFlows.isEmpty)
    }

    @Test func `a delayed record from the former address moves nothing, and is not lost`() throws {
        let (pair, server) = try established()
        let home = pair.clientFlow
        let sent = pair.wire.sentCount
        pair.wire.conditions = WireConditions(loss: 100)
        try pair.send([1], from: pair.client)
        pair.wire.conditions = .perfect
        let delayed = try #require(pair.sent(to: .server, after: sent).first)
        pair.clientFlow = flow(50_000)
        try exchange(pair, server, [2], answer: [3])
        pair.run(for: .seconds(1)) { !$0.wantedFlows.isEmpty }
        pair.connectWantedSocket()
        pair.inject(delayed, from: home)
        #expect(server.messages == [[2], [1]] && server.association.flow == flow(50_000))
        #expect(server.paths.isSettled && pair.wantedFlows.count == 1)
    }

    @Test func `a client that alternates between two addresses is answered at both`() throws {
        let (pair, server) = try established()
        let flows = [flow(50_000), pair.clientFlow]
        for value in UInt8(0)..<10 {
            pair.clientFlow = flows[Int(value) % 2]
            try exchange(pair, server, [value], answer: [value, value])
            pair.run(for: .seconds(1)) { $0.wantedFlows.count > Int(value) }
            pair.connectWantedSocket()
            #expect(server.association.flow == pair.clientFlow && server.paths.isSettled, "move \(value)")
        }
        #expect(pair.client.messages == (0..<10).map { [$0, $0] })
    }

    @Test func `a client moves as well after its connection was taken over by another process`() throws {
        let (pair, _) = try established()
        try pair.suspendServer()
        let server = try #require(pair.server)
        #expect(server.association.session.connectionIDs == ConnectionIDs(own: Self.serverID, peer: Self.clientID))
        pair.clientFlow = flow(50_000)
        try exchange(pair, server, [1], answer: [2])
        pair.run(for: .seconds(1)) { !$0.wantedFlows.isEmpty }
        #expect(pair.client.messages == [[2]] && pair.wantedFlows == [flow(50_000)])
    }

    @Test func `a record with another connection's ID goes back to the listener`() throws {
        let (pair, server) = try established()
        let sent = pair.wire.sentCount
        try exchange(pair, server, [1], answer: [2])
        var other = try #require(pair.sent(to: .server, after: sent).first)
        try #require(other.first == ContentType.connectionID.rawValue)
        other[12] ^= 1
        pair.inject(other)
        #expect(pair.recordsOfOthers == 1 && server.messages == [[1]])
        // One of no known connection is nobody's.
        pair.inject([UInt8](other.prefix(15)))
        #expect(pair.recordsOfOthers == 1)
    }

    @Test func `a new handshake of a client that has lost its state goes on with the same connection ID`() throws {
        let (pair, server) = try established()
        try pair.restartClient()
        pair.run(for: .seconds(10)) { $0.client.isEstablished }
        #expect(server.happenings.contains(.replaced))
        #expect(server.association.connectionIDs?.own == Self.serverID)
        pair.clientFlow = flow(50_000)
        try exchange(pair, server, [1], answer: [2])
        #expect(pair.client.messages == [[2]])
    }

    @Test func `a client without an ID of its own moves too`() throws {
        let (pair, server) = try established(.empty)
        pair.clientFlow = flow(50_000)
        try exchange(pair, server, [1], answer: [2])
        #expect(pair.client.messages == [[2]])
    }
}
