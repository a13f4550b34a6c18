import Primitives
import TestSupport
import Testing

@testable import DTLSEngine

/// Handshakes that wait until somebody has said whether the client may come in.
@Suite struct AuthorizationTests {
    let certificates: TestCertificates
    let root: MadeCertificate
    let member: MadeCertificate
    private let ticketKeys = [UInt8](repeating: 7, count: ServerContext.ticketKeyLength)
    private static let key = PresharedKey(identity: Array("sensor-7".utf8), key: Array(repeating: 0xa5, count: 16))
    private static let refused = AuthorizationAnswer.refused(reason: "the client is not on the list")

    init() throws {
        certificates = try TestCertificates.make()
        root = try MadeCertificate("Root", isAuthority: true)
        member = try MadeCertificate("member", names: [.dns("member.example"), .dns("m.example")], issuer: root)
    }

    // MARK: Pairs

    private func server(_ scope: AuthorizationScope = .all, asksForCertificate: Bool = true) throws -> ServerSettings {
        var settings = ServerSettings(
            certificate: certificates.ecdsaServer.certificate, privateKey: certificates.ecdsaServer.privateKey)
        if asksForCertificate {
            settings.clients = PeerVerification(mode: .requested, authorities: try root.pem())
        }
        settings.authorization = scope
        return settings
    }

    private func client(withCertificate: Bool = true) throws -> ClientSettings {
        let identity = try member.identity()
        return ClientSettings(
            certificateAuthorities: certificates.authority, certificate: withCertificate ? identity.certificate : nil,
            privateKey: withCertificate ? identity.privateKey : nil)
    }

    private func keyServer(
        _ keys: [PresharedKey] = [], _ scope: AuthorizationScope = .all, ciphers: String? = nil
    ) -> ServerSettings {
        var settings = ServerSettings(certifiedKeys: [], ciphers: ciphers)
        settings.presharedKeys = PresharedKeys(keys: keys)
        settings.authorization = scope
        return settings
    }

    private func keyPair(
        _ key: PresharedKey = key, _ scope: AuthorizationScope = .all, keys: [PresharedKey] = [],
        payloadSize: Int = 1452,
        conditions: WireConditions = .perfect, seed: UInt64 = 1, ciphers: String? = nil, ids: Bool = false
    ) throws -> EnginePair {
        try EnginePair(
            client: ClientSettings(presharedKey: key, ciphers: ciphers),
            server: keyServer(keys, scope, ciphers: ciphers),
            payloadSize: payloadSize, conditions: conditions, seed: seed, clientID: ids ? ConnectionID([1]) : nil,
            serverID: ids ? ConnectionID([2, 3]) : nil)
    }

    private func certificatePair(
        _ scope: AuthorizationScope = .all, withCertificate: Bool = true, session: ResumableSession? = nil,
        payloadSize: Int = 1452, conditions: WireConditions = .perfect, seed: UInt64 = 1, ids: Bool = false
    ) throws -> EnginePair {
        try EnginePair(
            client: client(withCertificate: withCertificate), server: server(scope), payloadSize: payloadSize,
            conditions: conditions, seed: seed, ticketKeys: ticketKeys, session: session,
            clientID: ids ? ConnectionID([1]) : nil, serverID: ids ? ConnectionID([2, 3]) : nil)
    }

    private func expectExchange(_ pair: EnginePair, sourceLocation: SourceLocation = #_sourceLocation) throws {
        #expect(
            pair.client.isEstablished && pair.server.isEstablished,
            "\(pair.client.error as Any) \(pair.server.error as Any)",
            sourceLocation: sourceLocation)
        try pair.send([1, 2, 3], from: .client)
        try pair.send([4], from: .server)
        pair.run { !$0.server.messages.isEmpty && !$0.client.messages.isEmpty }
        #expect(pair.server.messages == [[1, 2, 3]] && pair.client.messages == [[4]], sourceLocation: sourceLocation)
    }

    /// - Parameter alert: OpenSSL's name of the alert that the client has got.
    private func expectRefusal(
        _ pair: EnginePair, alert: String, client: String?, sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        #expect(!pair.server.isEstablished, sourceLocation: sourceLocation)
        guard case .unauthorized(let refusal) = pair.server.error else {
            Issue.record("\(pair.server.error as Any)", sourceLocation: sourceLocation)
            return
        }
        #expect(refusal.reason == "the client is not on the list", sourceLocation: sourceLocation)
        #expect(refusal.client?.name == client, sourceLocation: sourceLocation)
        let heard = pair.client.error.map { "\($0)" } ?? ""
        #expect(heard.contains(alert), "\(heard)", sourceLocation: sourceLocation)
    }

    // MARK: Pre-shared keys

    @Test(arguments: [
        nil, "PSK-AES128-CCM8", "PSK-AES128-GCM-SHA256", "DHE-PSK-AES128-GCM-SHA256", "ECDHE-PSK-AES128-CBC-SHA256",
    ])
    func `the key comes with the answer`(_ suite: String?) throws {
        let pair = try keyPair(ciphers: suite)
        pair.authorize = { _ in .allowed(key: Self.key.key, label: "gold") }
        pair.handshake()
        try expectExchange(pair)
        #expect(pair.questions.count == 1)
        #expect(pair.questions.first?.presharedKeyIdentity == Self.key.identity)
        #expect(pair.questions.first?.certificate == nil && pair.questions.first?.isResumed == false)
        #expect(pair.server.engine?.details?.label == "gold")
        #expect(pair.server.engine?.details?.peerName?.presharedKeyIdentity == "sensor-7")
    }

    @Test func `a key of the settings serves where the answer has none`() throws {
        let pair = try keyPair(keys: [Self.key])
        pair.authorize = { _ in .allowed() }
        pair.handshake()
        try expectExchange(pair)
        #expect(pair.server.engine?.details?.label == nil)

        let other = try keyPair(PresharedKey(identity: [0x61], key: Self.key.key), keys: [Self.key])
        other.authorize = { _ in .allowed() }
        other.handshake()
        #expect("\(other.server.error as Any)".contains("unknown PSK identity"), "\(other.server.error as Any)")
        #expect("\(other.client.error as Any)".contains("unknown psk identity"))
    }

    @Test func `a refused identity is answered like an unknown one`() throws {
        for keys in [[], [Self.key]] {
            let pair = try keyPair(keys: keys)
            pair.authorize = { _ in Self.refused }
            pair.handshake()
            try expectRefusal(pair, alert: "unknown psk identity", client: "sensor-7")
            #expect(pair.server.engine?.presharedKeyRemark == "")
        }
    }

    @Test func `a wrong key proves nothing`() throws {
        let pair = try keyPair()
        pair.authorize = { _ in .allowed(key: Array(repeating: 1, count: 16)) }
        pair.handshake()
        #expect(!pair.server.isEstablished && pair.questions.count == 1)
        #expect(pair.server.engine?.presharedKeyRemark.contains("sensor-7") == true)
    }

    /// The identity needs several datagrams then.
    @Test func `an identity in fragments is put together`() throws {
        let key = PresharedKey(identity: Array(repeating: 0xfe, count: 255), key: Self.key.key)
        for conditions in [.perfect, WireConditions(loss: 20, duplication: 10, reordering: 40)] {
            for seed in 1...10 as ClosedRange<UInt64> {
                let pair = try keyPair(key, payloadSize: 208, conditions: conditions, seed: seed)
                pair.authorize = { _ in .allowed(key: Self.key.key) }
                pair.handshake()
                #expect(pair.server.isEstablished, "seed \(seed): \(pair.server.error as Any)")
                #expect(pair.questions.map(\.presharedKeyIdentity) == [key.identity], "seed \(seed)")
            }
        }
    }

    @Test func `an identity that nobody can have is not asked about`() throws {
        let pair = try keyPair(PresharedKey(identity: [0x61], key: Self.key.key))
        // The length of the identity, and its byte, in the ClientKeyExchange of a suite of PSK.
        pair.tamper = { datagram in
            guard datagram.count > 27, datagram[0] == 22, datagram[13] == 16 else { return datagram }
            var changed = datagram
            changed[27] = 0
            return changed
        }
        pair.authorize = { _ in .allowed(key: Self.key.key) }
        pair.handshake()
        #expect(pair.questions.isEmpty && !pair.server.isEstablished)
        #expect("\(pair.server.error as Any)".contains("NUL"), "\(pair.server.error as Any)")
    }

    /// Such a session is no shorter way: the key has to be asked for.
    @Test func `a session with a key of an answer is not resumed`() throws {
        let settings = keyServer()
        func pair(_ session: ResumableSession?) throws -> EnginePair {
            let pair = try EnginePair(
                client: ClientSettings(presharedKey: Self.key), server: settings, ticketKeys: ticketKeys,
                session: session)
            pair.authorize = { _ in .allowed(key: Self.key.key) }
            pair.handshake()
            try expectExchange(pair)
            return pair
        }
        let first = try pair(nil)
        let second = try pair(first.client.session)
        #expect(second.server.engine?.details?.isResumed == false && second.questions.count == 1)
    }

    // MARK: Certificates and sessions

    @Test func `a client with a certificate is asked about when it has proven it`() throws {
        let pair = try certificatePair()
        pair.authorize = { _ in .allowed(label: "silver") }
        pair.handshake()
        try expectExchange(pair)
        let question = try #require(pair.questions.first)
        #expect(pair.questions.count == 1 && question.serverName == "localhost" && !question.isResumed)
        #expect(question.certificate?.commonName == "member" && question.certificate?.fingerprint?.count == 64)
        #expect(question.alternativeNames.dns == ["member.example", "m.example"])
        #expect(question.presharedKeyIdentity == nil)
        #expect(pair.server.engine?.details?.label == "silver")
    }

    @Test(arguments: [true, false]) func `a refused client gets the alert access_denied`(_ withCertificate: Bool) throws
    {
        for ids in [false, true] {
            let pair = try certificatePair(withCertificate: withCertificate, ids: ids)
            pair.authorize = { _ in Self.refused }
            pair.handshake()
            try expectRefusal(pair, alert: "access denied", client: withCertificate ? "member" : nil)
            #expect(pair.questions.count == 1)
        }
    }

    @Test func `who resumes a session is asked about again`() throws {
        for ids in [false, true] {
            let first = try certificatePair(ids: ids)
            first.authorize = { _ in .allowed(label: "silver") }
            first.handshake()
            let session = try #require(first.client.session)
            let second = try certificatePair(session: session, ids: ids)
            second.authorize = { _ in .allowed(label: "bronze") }
            second.handshake()
            try expectExchange(second)
            let question = try #require(second.questions.first)
            #expect(second.questions.count == 1 && question.isResumed && question.certificate?.commonName == "member")
            #expect(
                second.server.engine?.details?.isResumed == true && second.server.engine?.details?.label == "bronze")

            let third = try certificatePair(session: session, ids: ids)
            third.authorize = { _ in Self.refused }
            third.handshake()
            third.run()
            try expectRefusal(third, alert: "access denied", client: "member")
        }
    }

    @Test func `a certificate that is not valid is refused without a question`() throws {
        let other = try MadeCertificate("other", isAuthority: true)
        let identity = try MadeCertificate("stranger", issuer: other).identity()
        let pair = try EnginePair(
            client: ClientSettings(
                certificateAuthorities: certificates.authority, certificate: identity.certificate,
                privateKey: identity.privateKey), server: server())
        pair.handshake()
        #expect(pair.questions.isEmpty && pair.server.error?.verification != nil)
    }

    @Test func `with keys alone as the scope, certificates and sessions pass`() throws {
        let first = try certificatePair(.presharedKeys)
        first.handshake()
        try expectExchange(first)
        let second = try certificatePair(.presharedKeys, session: first.client.session)
        second.handshake()
        try expectExchange(second)
        #expect(first.questions.isEmpty && second.questions.isEmpty)
        #expect(second.server.engine?.details?.isResumed == true)
        let third = try keyPair(Self.key, .presharedKeys)
        third.authorize = { _ in .allowed(key: Self.key.key) }
        third.handshake()
        try expectExchange(third)
        #expect(third.questions.count == 1)
    }

    // MARK: Time and losses

    /// A client sends its flight again and again meanwhile.
    @Test(arguments: [true, false]) func `an answer may come late`(_ hasKey: Bool) throws {
        for ids in [false, true] {
            let pair = try hasKey ? keyPair(ids: ids) : certificatePair(ids: ids)
            pair.run { $0.elapsed > 20_000_000 }
            #expect(!pair.server.isEstablished && pair.server.error == nil && pair.questions.count == 1)
            // The server has nothing to send again.
            #expect(pair.server.engine?.deadline == .distantFuture)
            pair.answer(.allowed(key: Self.key.key, label: "late"))
            pair.handshake()
            try expectExchange(pair)
            #expect(pair.questions.count == 1 && pair.server.engine?.details?.label == "late")
        }
    }

    @Test func `without an answer nobody comes in`() throws {
        for pair in try [keyPair(), certificatePair(), certificatePair(withCertificate: false)] {
            pair.run()
            #expect(!pair.server.isEstablished && !pair.client.isEstablished && pair.questions.count == 1)
        }
    }

    @Test func `handshakes are done over a bad network`() throws {
        let conditions = WireConditions(loss: 25, duplication: 10, reordering: 30)
        for seed in 1...15 as ClosedRange<UInt64> {
            for ids in [false, true] {
                let pairs = try [
                    keyPair(conditions: conditions, seed: seed, ids: ids),
                    certificatePair(payloadSize: 400, conditions: conditions, seed: seed, ids: ids),
                ]
                for pair in pairs {
                    pair.run { !$0.questions.isEmpty || $0.hasGivenUp }
                    let asked = pair.elapsed
                    pair.run { $0.elapsed > asked + 2_500_000 }
                    pair.answer(.allowed(key: Self.key.key))
                    pair.handshake()
                    #expect(pair.server.isEstablished || pair.hasGivenUp, "seed \(seed): \(pair.server.error as Any)")
                    #expect(pair.questions.count <= 1, "seed \(seed)")
                }
            }
        }
    }

    @Test func `what a client sends right behind its Finished is not lost`() throws {
        let first = try certificatePair()
        first.authorize = { _ in .allowed() }
        first.handshake()
        // In a resumed handshake the client is the last, and may send at once.
        let second = try certificatePair(session: first.client.session)
        second.run { $0.client.isEstablished && !$0.questions.isEmpty }
        try second.send([9], from: .client)
        second.run { $0.elapsed > 10_000_000 }
        #expect(second.server.messages.isEmpty)
        second.answer(.allowed())
        second.run { !$0.server.messages.isEmpty }
        #expect(second.server.isEstablished && second.server.messages == [[9]])
    }
}
