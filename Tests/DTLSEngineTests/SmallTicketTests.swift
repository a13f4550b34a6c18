import COpenSSL
import Primitives
import TestSupport
import Testing

@testable import DTLSEngine

/// Tickets that hold what is to be known of a client, and not its certificate.
@Suite struct SmallTicketTests {
    let certificates: TestCertificates
    private let root: MadeCertificate
    private let ticketKeys = [UInt8](repeating: 5, count: ServerContext.ticketKeyLength)

    init() throws {
        certificates = try TestCertificates.make()
        root = try MadeCertificate("Root", isAuthority: true)
    }

    private func server() throws -> ServerSettings {
        var settings = ServerSettings(
            certificate: certificates.ecdsaServer.certificate, privateKey: certificates.ecdsaServer.privateKey)
        settings.clients = PeerVerification(mode: .requested, authorities: try root.pem())
        return settings
    }

    /// An established pair.
    /// - Parameter prepare: is called before the server has anything.
    private func pair(
        _ own: TestCertificates.Identity?, _ session: ResumableSession? = nil,
        prepare: (ServerContext) -> Void = { _ in }
    ) throws -> EnginePair {
        var client = ClientSettings(certificateAuthorities: certificates.authority)
        (client.certificate, client.privateKey) = (own?.certificate, own?.privateKey)
        let pair = try EnginePair(client: client, server: server(), ticketKeys: ticketKeys, session: session)
        prepare(pair.serverContext)
        pair.handshake()
        try #require(pair.client.isEstablished && pair.server.isEstablished)
        return pair
    }

    private func ticketSize(of pair: EnginePair) throws -> Int {
        let encoded = try #require(pair.client.session).encoded
        let session = try #require(SessionBytes.decode(encoded))
        defer { SSL_SESSION_free(session) }
        var ticket: UnsafePointer<UInt8>?
        var count = 0
        SSL_SESSION_get0_ticket(session, &ticket, &count)
        return count
    }

    @Test(arguments: [Key.Kind.ecdsa, .rsa])
    func `a certificate makes a ticket as much larger as its names are, and no more`(_ kind: Key.Kind) throws {
        let without = try ticketSize(of: pair(nil))
        let device = try MadeCertificate("device", issuer: root, key: Key(kind)).identity()
        let first = try pair(device)
        let size = try ticketSize(of: first)
        // Two names, a fingerprint in digits, and a block of AES.
        #expect(size > without && size < without + 200, "\(without) \(size)")
        let name = try #require(first.server.engine?.details?.peerName)
        #expect(name.commonName == "device" && name.fingerprint?.count == 64)
        // What is known stays known, and so do keys and hash of the handshake.
        try first.send([1, 2, 3], from: .client)
        first.run()
        #expect(first.server.messages == [[1, 2, 3]])

        var session = first.client.session
        for _ in 0..<3 {
            let next = try pair(device, session)
            #expect(next.server.engine?.isResumed == true && next.server.engine?.details?.peerName == name)
            #expect(next.server.engine?.details?.verificationResult == 0)
            try next.send([4], from: .client)
            next.run()
            #expect(next.server.messages == [[4]])
            session = next.client.session ?? session
        }
    }

    /// One that has expired, as it were: the ring has a newer key.
    @Test func `a ticket that is renewed says the same`() throws {
        let device = try MadeCertificate("device", issuer: root).identity()
        let first = try pair(device)
        let ring = TicketKeyRing(
            [[UInt8](repeating: 6, count: ServerContext.ticketKeyLength), ticketKeys].compactMap(TicketKey.init))
        let second = try pair(device, first.client.session) { $0.exData.ticketKeys = ring }
        #expect(second.server.engine?.isResumed == true)
        let third = try pair(device, second.client.session) { $0.exData.ticketKeys = TicketKeyRing([ring.keys[0]]) }
        #expect(third.server.engine?.isResumed == true)
        #expect(third.server.engine?.details?.peerName == first.server.engine?.details?.peerName)
        // A session that comes from a ticket has a session ID, the client's.
        #expect(try ticketSize(of: second) <= ticketSize(of: first) + 48)
    }

    /// As versions before notes have made it.
    @Test func `a ticket with a certificate is good`() throws {
        let device = try MadeCertificate("device", issuer: root).identity()
        let first = try pair(device) { SSL_CTX_set_session_ticket_cb($0.pointer, nil, nil, nil) }
        let second = try pair(device, first.client.session)
        #expect(second.server.engine?.isResumed == true)
        #expect(second.server.engine?.details?.peerName == first.server.engine?.details?.peerName)
        #expect(second.server.engine?.details?.peerName?.commonName == "device")
    }

    @Test func `all names are known again`() throws {
        let device = try MadeCertificate(
            commonNames: [Array("device".utf8)], names: [.dns("device.example"), .uri("urn:dev:7")], issuer: root)
        let first = try pair(device.identity())
        let next = try pair(device.identity(), first.client.session)
        #expect(next.server.engine?.isResumed == true)
        let names = try #require(next.server.engine?.details?.certificateNames)
        #expect(names.names.map(\.kind) == [.commonName, .dns, .uri] && names.isComplete)
        #expect(names == first.server.engine?.details?.certificateNames)
    }

    /// Then the notes would be longer than the certificate.
    @Test func `a certificate of very many names stays in its ticket`() throws {
        let commonNames = (0..<10).map { Array("unit number \($0) of some organization".utf8) }
        let device = try MadeCertificate(commonNames: commonNames, issuer: root).identity()
        let first = try pair(device)
        let next = try pair(device, first.client.session)
        #expect(next.server.engine?.isResumed == true)
        let name = try #require(next.server.engine?.details?.peerName)
        #expect(name == first.server.engine?.details?.peerName && name.subject?.utf8.count ?? 0 > 300)
        #expect(next.server.engine?.details?.certificateNames?.names.count == 10)
        #expect(try ticketSize(of: first) > 800)
    }

    // MARK: Coding

    @Test func `notes are decoded as they were encoded, and of other bytes nothing`() throws {
        let made = try MadeCertificate(
            commonNames: [[0x61]],
            names: [.dns("a.example"), .email("A@b.example"), .ip([127, 0, 0, 1]), .uri("urn:a")])
        let certificate = SessionNotes.Certificate(
            name: PeerName(certificate: made.pointer), names: CertificateNames(of: made.pointer))
        #expect(certificate.names.names.count == 5)
        // For those who are asked whether the client may come in.
        var expected = AlternativeNames()
        (expected.dns, expected.email) = (["a.example"], ["A@b.example"])
        (expected.ip, expected.uri) = (["127.0.0.1"], ["urn:a"])
        #expect(AlternativeNames(certificate.names) == expected)
        let all = [
            SessionNotes(), SessionNotes(certificate: certificate), SessionNotes(key: [1, 2]),
            SessionNotes(certificate: certificate, key: []),
        ]
        for notes in all {
            let bytes = notes.encoded
            #expect(try bytes.withUnsafeBytes { try SessionNotes(decoding: $0) } == notes)
            for count in 0..<bytes.count {
                #expect(throws: MalformedBytes.self) {
                    try bytes.prefix(count).withUnsafeBytes { try SessionNotes(decoding: $0) }
                }
            }
        }
        // What versions before notes have written: a digest and an identity.
        let old = [UInt8](repeating: 0xa7, count: 32) + Array("sensor".utf8)
        #expect(throws: MalformedBytes.self) { try old.withUnsafeBytes { try SessionNotes(decoding: $0) } }
    }

    @Test func `bytes that are no session have no certificate to be left out`() throws {
        let first = try pair(nil)
        let session = try #require(first.client.session).encoded
        // A client's session has the server's certificate.
        let rest = try #require(SessionBytes.withoutPeer(session))
        #expect(rest.count < session.count - 200)
        #expect(SessionBytes.withoutPeer(rest) == rest)
        let decoded = try #require(SessionBytes.decode(rest))
        defer { SSL_SESSION_free(decoded) }
        #expect(SSL_SESSION_get0_peer(decoded) == nil && SessionBytes.encoded(decoded) == rest)
        for wrong in [
            [], [0x30], [0x30, 5, 1], [4, 1, 0], session + [0], Array(session.dropLast()), [0x30, 0x80, 0, 0],
        ] {
            #expect(SessionBytes.withoutPeer(wrong) == nil)
        }
    }
}
