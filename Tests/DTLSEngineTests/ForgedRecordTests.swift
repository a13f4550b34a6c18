import DTLSEngine
import TestSupport
import Testing

/// Records that somebody without the keys has made: they are dropped, whatever the cipher and their size
/// (RFC 6347, section 4.1.2.7).
@Suite struct ForgedRecordTests {
    struct Suite: CustomTestStringConvertible {
        let cipher: String
        var version = ProtocolVersion.dtls12
        var testDescription: String { "\(cipher), \(version.name)" }

        static let all = [
            Suite(cipher: "ECDHE-RSA-AES128-GCM-SHA256"), Suite(cipher: "ECDHE-RSA-CHACHA20-POLY1305"),
            Suite(cipher: "AES128-CCM"), Suite(cipher: "AES128-CCM8"), Suite(cipher: "ECDHE-RSA-AES128-SHA"),
            Suite(cipher: "ECDHE-RSA-AES256-SHA384"), Suite(cipher: "AES128-SHA", version: .dtls10),
        ]
    }

    private func makePair(_ suite: Suite) throws -> EnginePair {
        let certificates = try TestCertificates.make()
        let list = "\(suite.cipher):@SECLEVEL=0"
        return try EnginePair(
            client: ClientSettings(
                certificateAuthorities: certificates.authority, ciphers: list, minimumVersion: suite.version,
                maximumVersion: suite.version),
            server: ServerSettings(
                certificate: certificates.rsaServer.certificate, privateKey: certificates.rsaServer.privateKey,
                ciphers: list, minimumVersion: suite.version, maximumVersion: suite.version))
    }

    /// Of epoch 1, numbered behind everything that is sent here.
    private func forged(_ type: UInt8, version: UInt8, number: UInt8, size: Int) -> [UInt8] {
        [type, 0xfe, version, 0, 1, 0, 0, 0, 0, 1, number, 0, UInt8(size)] + (0..<size).map { UInt8($0) }
    }

    private func exchange(_ pair: EnginePair, _ note: Comment) throws {
        try pair.send([1], from: .client)
        try pair.send([2, 3], from: .server)
        pair.run()
        #expect(pair.server.messages == [[1]], note)
        #expect(pair.client.messages == [[2, 3]], note)
        #expect(pair.client.error == nil && pair.server.error == nil, note)
    }

    /// Sends all of them to both sides of an established connection: nobody answers, and it works as before.
    private func expectNothing(from forgeries: [[UInt8]], _ suite: Suite) throws {
        let pair = try makePair(suite)
        pair.handshake()
        pair.run()
        try #require(pair.client.isEstablished && pair.server.isEstablished)
        let sent = pair.wire.sentCount
        for forgery in forgeries {
            pair.wire.send(forgery, to: .client, at: 0)
            pair.wire.send(forgery, to: .server, at: 0)
            pair.run()
        }
        #expect(pair.wire.sentCount == sent + 2 * forgeries.count, "forgeries were answered")
        try exchange(pair, "after all forgeries")
    }

    @Test(arguments: Suite.all)
    func `forged records after the handshake change nothing`(_ suite: Suite) throws {
        let forgeries = (0...100).flatMap { size in
            (20...24).flatMap { type in
                [0xfd, 0xff].map { forged(type, version: $0, number: UInt8(size), size: size) }
            }
        }
        try expectNothing(from: forgeries, suite)
    }

    /// In a record that OpenSSL gives up with its header: for its version, or because it is too long. It goes on with
    /// what is behind the header.
    @Test(arguments: Suite.all)
    func `forged records within another record change nothing`(_ suite: Suite) throws {
        let forgeries = [1, 2, 15, 16, 23, 39].flatMap { size in
            ([0xfd, 0xff] as [UInt8]).flatMap { version in
                let inner = forged(23, version: version, number: 220, size: size)
                let outers: [[UInt8]] = [
                    [23, 1, 1, 0, 1, 0, 0, 0, 0, 1, 210, 0, UInt8(inner.count)],
                    [23, 0xfe, 0xfc, 0, 1, 0, 0, 0, 0, 1, 211, 0, UInt8(inner.count)],
                    [23, 0xfe, version, 0, 1, 0, 0, 0, 0, 1, 212, 0xff, 0xff],
                    [99, 0xfe, 0xfe, 0, 0, 0, 0, 0, 0, 1, 213, 0, UInt8(inner.count)],
                ]
                return outers.map { $0 + inner }
            }
        }
        try expectNothing(from: forgeries, suite)
    }

    /// In front of each datagram of a handshake, for whom that is.
    @Test(arguments: Suite.all)
    func `forged records do not end a handshake`(_ suite: Suite) throws {
        let clean = try makePair(suite)
        clean.handshake()
        try #require(clean.client.isEstablished && clean.server.isEstablished)
        for number in 0..<clean.wire.sentCount {
            for size in [0, 1, 2, 15, 16, 23, 24, 32, 64] {
                let pair = try makePair(suite)
                pair.wire.interfere = { present, _, datagram in
                    guard present == number else { return [.init(datagram)] }
                    let record = forged(22, version: datagram[2], number: 200, size: size)
                    return [.init(record), .init(datagram, later: 1)]
                }
                pair.handshake()
                pair.run()
                let note: Comment = "\(size) bytes before datagram \(number)"
                try #require(pair.client.isEstablished && pair.server.isEstablished, note)
                try exchange(pair, note)
            }
        }
    }

    /// Behind a record that is good: what came before the forgery is taken, with the smallest message that there is.
    @Test(arguments: Suite.all)
    func `a forged record behind a valid one is dropped alone`(_ suite: Suite) throws {
        let pair = try makePair(suite)
        pair.handshake()
        pair.run()
        pair.wire.interfere = { _, _, datagram in
            [.init(datagram + forged(23, version: datagram[2], number: 200, size: 3))]
        }
        try exchange(pair, "with a forgery behind each record")
    }
}
