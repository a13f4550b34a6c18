import DTLSEngine
import TestSupport
import Testing

@Suite struct RenegotiationTests {
    private func makePair() throws -> EnginePair {
        let certificates = try TestCertificates.make()
        return try EnginePair(
            client: ClientSettings(certificateAuthorities: certificates.authority, allowsRenegotiation: true),
            server: ServerSettings(
                certificate: certificates.rsaServer.certificate, privateKey: certificates.rsaServer.privateKey,
                allowsRenegotiation: true))
    }

    /// Whichever datagram of it gets lost, thrice in a row, on a connection that gives its buffers back all the time.
    @Test func `flights of a renegotiation are sent again`() throws {
        let clean = try makePair()
        clean.handshake()
        clean.run()
        let before = clean.wire.sentCount
        clean.renegotiate()
        clean.run()
        let count = clean.wire.sentCount - before
        try #require(count > 3)
        for lost in 0..<count {
            let pair = try makePair()
            pair.handshake()
            pair.run()
            let first = pair.finished(.client)
            var drops = 0
            pair.wire.interfere = { number, _, datagram in
                guard number >= before + lost, drops < 3 else { return [.init(datagram)] }
                drops += 1
                return []
            }
            pair.releaseBuffers()
            pair.renegotiate()
            pair.run { pair in
                pair.releaseBuffers()
                return false
            }
            let note: Comment = "datagrams \(lost) and the next two"
            #expect(drops == 3, note)
            try #require(pair.client.error == nil && pair.server.error == nil, note)
            #expect(pair.finished(.client) != first, note)
            try pair.send([1, 2], from: .client)
            try pair.send([3], from: .server)
            pair.run()
            #expect(pair.server.messages == [[1, 2]] && pair.client.messages == [[3]], note)
        }
    }

    /// A client that begins it and is never heard of again: the server gives up, and nothing else.
    @Test func `a renegotiation ends when the peer vanishes`() throws {
        let pair = try makePair()
        pair.handshake()
        pair.run()
        pair.wire.interfere = { _, side, datagram in side == .server ? [.init(datagram)] : [] }
        pair.renegotiate()
        pair.run { pair in
            pair.releaseBuffers()
            return pair.server.error != nil
        }
        #expect(pair.server.error != nil)
    }

    /// It fits the datagrams that the handshake before it has fitted.
    @Test func `flights of a renegotiation do not shrink without loss`() throws {
        let pair = try makePair()
        pair.handshake()
        pair.run()
        let size = try #require(pair.server.engine?.payloadSize)
        for _ in 0..<3 {
            pair.renegotiate()
            pair.run()
        }
        #expect(pair.server.engine?.payloadSize == size)
        #expect(pair.client.engine?.payloadSize == size)
    }
}
