import COpenSSL
import TestSupport
import Testing

@testable import DTLSEngine

/// What is offered and answered in hellos, and when connection IDs are not agreed on.
@Suite struct ConnectionIDOfferTests {
    private let certificates: TestCertificates
    private let clientID = ConnectionID([UInt8](repeating: 0xcc, count: 32))
    private let serverID = ConnectionID([UInt8](repeating: 0x55, count: 32))

    init() throws { certificates = try TestCertificates.make() }

    private func makePair(
        ciphers: String? = nil, client: (inout ClientSettings) -> Void = { _ in },
        server: (inout ServerSettings) -> Void = { _ in }
    ) throws -> EnginePair {
        var clientSettings = ClientSettings(certificateAuthorities: certificates.authority, ciphers: ciphers)
        var serverSettings = ServerSettings(
            certificate: certificates.rsaServer.certificate, privateKey: certificates.rsaServer.privateKey,
            ciphers: ciphers)
        client(&clientSettings)
        server(&serverSettings)
        return try EnginePair(
            client: clientSettings, server: serverSettings, clientID: clientID, serverID: serverID)
    }

    private func expectNothingAgreed(_ pair: EnginePair, sourceLocation: SourceLocation = #_sourceLocation) throws {
        pair.handshake()
        try #require(
            pair.client.isEstablished && pair.server.isEstablished, "\(pair.client) \(pair.server)",
            sourceLocation: sourceLocation)
        #expect(pair.client.engine?.connectionIDs == nil, sourceLocation: sourceLocation)
        #expect(pair.server.engine?.connectionIDs == nil, sourceLocation: sourceLocation)
        #expect(pair.client.engine?.details?.connectionIDs == nil, sourceLocation: sourceLocation)
        try pair.send([1], from: .client)
        try pair.send([2], from: .server)
        pair.run { $0.wire.nextArrival == nil }
        #expect(pair.server.messages == [[1]] && pair.client.messages == [[2]], sourceLocation: sourceLocation)
        let types = pair.wire.sent.compactMap(\.datagram.first)
        #expect(!types.contains(ContentType.connectionID.rawValue), sourceLocation: sourceLocation)
    }

    @Test func `nothing is agreed on for AES-CBC`() throws {
        try expectNothingAgreed(try makePair(ciphers: "ECDHE-RSA-AES128-SHA256"))
    }

    @Test func `nothing is agreed on in DTLS 1_0`() throws {
        let ciphers = "ECDHE-RSA-AES128-SHA@SECLEVEL=0"
        try expectNothingAgreed(
            try makePair(ciphers: ciphers) {
                $0.minimumVersion = .dtls10
                $0.maximumVersion = .dtls10
            } server: {
                $0.minimumVersion = .dtls10
            })
    }

    @Test func `contexts that allow renegotiation neither offer nor answer`() throws {
        try expectNothingAgreed(try makePair { $0.allowsRenegotiation = true })
        try expectNothingAgreed(try makePair(server: { $0.allowsRenegotiation = true }))
    }

    @Test func `virtual hosts agree as their service does`() throws {
        let identity = certificates.rsaServer
        let pair = try makePair(server: {
            $0.names = [
                VirtualHost(
                    name: "localhost",
                    certifiedKeys: [CertifiedKey(certificate: identity.certificate, privateKey: identity.privateKey)])
            ]
        })
        pair.handshake()
        #expect(pair.server.engine?.connectionIDs?.own == serverID)
    }

    // MARK: Extensions

    /// The content of connection_id in a datagram of hellos, found by its number and two lengths that agree.
    private static func offset(ofExtensionIn datagram: [UInt8]) -> Int? {
        datagram.indices.dropLast(5).first { index in
            datagram[index] == 0 && datagram[index + 1] == 54 && datagram[index + 2] == 0
                && datagram[index + 3] == datagram[index + 4] &+ 1
        }
    }

    /// Has the connection ID swallow the extension behind it, which is rrc, so that it has 36 bytes.
    private static func lengthen(_ datagram: [UInt8]) -> [UInt8] {
        guard let offset = offset(ofExtensionIn: datagram), datagram[offset + 4] == 32,
            Array(datagram[(offset + 37)...].prefix(4)) == [0, 61, 0, 0]
        else { return datagram }
        var datagram = datagram
        datagram[offset + 3] = 37
        datagram[offset + 4] = 36
        return datagram
    }

    @Test func `a client says so where the server's connection ID is too long`() throws {
        let pair = try makePair()
        var changed = 0
        pair.wire.interfere = { _, side, datagram in
            guard side == .client else { return [.init(datagram)] }
            let longer = Self.lengthen(datagram)
            if longer != datagram { changed += 1 }
            return [.init(longer)]
        }
        pair.handshake()
        #expect(changed > 0)
        #expect(
            pair.client.error.map { "\($0)" }
                == "the server's connection ID has 36 bytes, and 32 are the most that this side takes")
    }

    @Test func `a server does not answer a connection ID that is too long`() throws {
        let pair = try makePair()
        var changed = 0
        pair.tamper = { datagram in
            let longer = Self.lengthen(datagram)
            if longer != datagram { changed += 1 }
            return longer
        }
        pair.run { $0.wire.sent.contains { side, datagram in side == .client && datagram.count > 200 } }
        let answers = pair.wire.sent.filter { $0.side == .client && $0.datagram.count > 200 }
        #expect(changed > 0 && !answers.isEmpty)
        #expect(!answers.contains { Self.offset(ofExtensionIn: $0.datagram) != nil })
    }

    @Test(arguments: [0, 1, 31, 33, 255]) func `an extension whose lengths do not agree ends the handshake`(
        _ length: UInt8
    ) throws {
        let pair = try makePair()
        pair.wire.interfere = { _, side, datagram in
            guard side == .client, let offset = Self.offset(ofExtensionIn: datagram) else { return [.init(datagram)] }
            var datagram = datagram
            datagram[offset + 4] = length
            return [.init(datagram)]
        }
        pair.handshake()
        #expect(!pair.client.isEstablished && pair.client.error != nil)
    }

    @Test(arguments: [[], [0], [1, 7], [32] + [UInt8](repeating: 1, count: 32)] as [[UInt8]])
    func `an extension holds a length and as many bytes`(_ content: [UInt8]) {
        content.withUnsafeBytes { bytes in
            let id = ConnectionIDNegotiation.connectionID(in: bytes)
            #expect(id.map { [UInt8]($0) } == (content.isEmpty ? nil : Array(content.dropFirst())))
        }
        (content + [9]).withUnsafeBytes { bytes in
            #expect(ConnectionIDNegotiation.connectionID(in: bytes) == nil)
        }
    }
}
