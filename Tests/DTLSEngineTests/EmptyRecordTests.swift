import COpenSSL
import TestSupport
import Testing

@testable import DTLSEngine

/// Records without content, which some stacks send (mbedTLS, wolfSSL) and OpenSSL does not.
@Suite struct EmptyRecordTests {
    let certificates: TestCertificates

    init() throws { certificates = try TestCertificates.make() }

    private static let key = PresharedKey(identity: Array("sensor".utf8), key: Array(repeating: 0xa5, count: 16))

    private func makePair(
        _ ciphers: String, versions: ClosedRange<ProtocolVersion> = .dtls12...(.dtls12),
        renegotiates: Bool = false
    ) throws -> EnginePair {
        let isPSK = ciphers.hasPrefix("PSK")
        let client = ClientSettings(
            certificateAuthorities: certificates.authority, presharedKey: isPSK ? Self.key : nil, ciphers: ciphers,
            minimumVersion: versions.lowerBound, maximumVersion: versions.upperBound,
            allowsRenegotiation: renegotiates)
        let identity = certificates.rsaServer
        var server = ServerSettings(
            certifiedKeys: isPSK
                ? [] : [CertifiedKey(certificate: identity.certificate, privateKey: identity.privateKey)],
            ciphers: ciphers, minimumVersion: versions.lowerBound, maximumVersion: versions.upperBound,
            allowsRenegotiation: renegotiates)
        if isPSK { server.presharedKeys = PresharedKeys(keys: [Self.key], hint: nil) }
        let pair = try EnginePair(client: client, server: server)
        pair.handshake()
        try #require(
            pair.client.isEstablished && pair.server.isEstablished,
            "\(ciphers): \(String(describing: pair.client.error)) \(String(describing: pair.server.error))")
        pair.run()
        return pair
    }

    private static let old = ProtocolVersion.dtls10...(.dtls10)
    private static let new = ProtocolVersion.dtls12...(.dtls12)

    @Test(
        arguments: [
            ("ECDHE-RSA-AES128-GCM-SHA256", new), ("ECDHE-RSA-AES256-GCM-SHA384", new),
            ("ECDHE-RSA-CHACHA20-POLY1305", new), ("PSK-AES128-CCM", new), ("PSK-AES128-CCM8:@SECLEVEL=0", new),
            ("ECDHE-RSA-AES128-SHA256", new), ("ECDHE-RSA-AES256-SHA384", new), ("PSK-AES128-CBC-SHA", new),
            ("ECDHE-RSA-AES128-SHA:@SECLEVEL=0", old),
        ])
    func `an empty message arrives whatever the suite, and messages go on`(
        _ ciphers: String, _ versions: ClosedRange<ProtocolVersion>
    ) throws {
        let pair = try makePair(ciphers, versions: versions)
        let messages: [[UInt8]] = [[1], [], [], [2, 2], [], [3]]
        for side in [SimulatedWire.Side.client, .server] {
            for message in messages { try pair.send(message, from: side) }
        }
        pair.run()
        #expect(pair.server.messages == messages)
        #expect(pair.client.messages == messages)
        #expect(pair.client.error == nil && pair.server.error == nil)
    }

    @Test(arguments: ["ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-SHA256"])
    func `the record behind an empty one in its datagram is not lost`(_ cipher: String) throws {
        let pair = try makePair(cipher)
        pair.wire.interfere = { _, _, _ in [] }
        for message in [[], [1], [], []] as [[UInt8]] { try pair.send(message, from: .client) }
        let datagram = pair.wire.sent.suffix(4).flatMap(\.datagram)
        pair.inject(datagram, into: .server)
        // Where OpenSSL has the records and does not tell of empty ones, those of a datagram count as one.
        let countAsOne = OpenSSLConnection.readsPastEmptyRecords && pair.server.engine?.isMovable == false
        let expected: [[UInt8]] = countAsOne ? [[1], []] : [[], [1], [], []]
        #expect(pair.server.messages == expected)
        pair.inject(datagram, into: .server)
        #expect(pair.server.messages == expected)
    }

    @Test(arguments: ["ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-SHA256"])
    func `a forged empty record is no sign of life`(_ cipher: String) throws {
        let pair = try makePair(cipher)
        pair.wire.interfere = { _, _, _ in [] }
        try pair.send([], from: .client)
        let genuine = try #require(pair.wire.sent.last?.datagram)
        for position in [10, genuine.count - 17, genuine.count - 1] {
            var forged = genuine
            forged[position] ^= 1
            pair.inject(forged, into: .server)
            #expect(pair.server.messages.isEmpty, "byte \(position) of \(genuine.count)")
        }
        pair.inject(genuine, into: .server)
        #expect(pair.server.messages == [[]])
        #expect(pair.server.error == nil)
    }

    /// OpenSSL ends a TLS connection after 32 empty records in a row (MAX_EMPTY_RECORDS).
    @Test func `any number of empty records leaves the connection as it is`() throws {
        let pair = try makePair("ECDHE-RSA-AES128-GCM-SHA256")
        for _ in 0..<1_000 { try pair.send([], from: .client) }
        try pair.send([1], from: .client)
        pair.run()
        #expect(pair.server.messages.count == 1_001)
        #expect(pair.server.messages.last == [1])
        #expect(!pair.server.isClosed && pair.server.error == nil)
    }

    @Test func `a repeated empty record is dropped as any replay is`() throws {
        let pair = try makePair("ECDHE-RSA-AES128-GCM-SHA256")
        try pair.send([], from: .client)
        pair.run()
        let record = try #require(pair.wire.sent.last?.datagram)
        pair.inject(record, into: .server)
        #expect(pair.server.messages == [[]])
    }

    @Test func `the record is as short as an empty one is`() throws {
        let pair = try makePair("ECDHE-RSA-AES128-GCM-SHA256")
        try pair.send([], from: .client)
        try pair.send([1], from: .client)
        let sizes = pair.wire.sent.suffix(2).map(\.datagram.count)
        #expect(sizes == [13 + 8 + 16, 13 + 8 + 1 + 16])
    }

    @Test func `an empty message goes through after a renegotiation and after buffers were released`() throws {
        let pair = try makePair("ECDHE-RSA-AES128-GCM-SHA256", renegotiates: true)
        pair.renegotiate()
        pair.run()
        pair.releaseBuffers()
        try pair.send([], from: .client)
        try pair.send([], from: .server)
        pair.run()
        #expect(pair.server.messages == [[]])
        #expect(pair.client.messages == [[]])
        #expect(pair.client.error == nil && pair.server.error == nil)
    }

    /// The keys that it needs are not to be had then: half of what they come from is the new handshake's.
    @Test func `an empty message in a renegotiation is refused, and the connection goes on`() throws {
        let pair = try makePair("ECDHE-RSA-AES128-GCM-SHA256", renegotiates: true)
        pair.renegotiate()
        let sent = pair.wire.sentCount
        #expect(throws: EngineError.self) { try pair.send([], from: .client) }
        #expect(pair.wire.sentCount == sent)
        pair.run()
        try pair.send([], from: .client)
        try pair.send([1], from: .client)
        pair.run()
        #expect(pair.server.messages == [[], [1]])
    }
}
