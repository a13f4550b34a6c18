import COpenSSL
import Primitives
import TestSupport
import Testing

@testable import DTLSEngine

/// What a server does with the certificates that clients show: who gets in, what the log says, and which alert goes
/// out.
@Suite struct ClientVerificationTests {
    let certificates: TestCertificates
    let root: MadeCertificate
    let intermediate: MadeCertificate
    /// Signed by the root.
    let member: MadeCertificate
    /// Signed by the intermediate.
    let device: MadeCertificate

    init() throws {
        certificates = try TestCertificates.make()
        root = try MadeCertificate("Root", isAuthority: true)
        intermediate = try MadeCertificate("Intermediate", isAuthority: true, issuer: root)
        member = try MadeCertificate("member", names: [.dns("member.example")], issuer: root)
        device = try MadeCertificate("device", names: [.dns("device.example")], issuer: intermediate)
    }

    private func handshake(
        _ clients: PeerVerification, _ identity: TestCertificates.Identity?, payloadSize: Int = 1452,
        conditions: WireConditions = .perfect
    ) throws -> EnginePair {
        let pair = try EnginePair(
            client: ClientSettings(
                certificateAuthorities: certificates.authority, certificate: identity?.certificate,
                privateKey: identity?.privateKey),
            server: ServerSettings(
                certifiedKeys: [
                    CertifiedKey(
                        certificate: certificates.ecdsaServer.certificate,
                        privateKey: certificates.ecdsaServer.privateKey)
                ], clients: clients), payloadSize: payloadSize, conditions: conditions)
        pair.handshake()
        return pair
    }

    private func isServed(_ pair: EnginePair) -> Bool { pair.client.isEstablished && pair.server.isEstablished }

    /// Nobody is served, the server says why, and the client hears of it.
    private func expectRefusal(
        _ pair: EnginePair, _ reason: String, alert: Int, sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        #expect(!pair.server.isEstablished && !pair.client.isEstablished, sourceLocation: sourceLocation)
        let error = try #require(pair.server.error, sourceLocation: sourceLocation)
        guard case .handshake(_, let verification?) = error else {
            Issue.record("no reason: \(error)", sourceLocation: sourceLocation)
            return
        }
        #expect(verification.contains(reason), "\(verification)", sourceLocation: sourceLocation)
        #expect(pair.server.engine?.peerRejection?.description == verification, sourceLocation: sourceLocation)
        let heard = "\(try #require(pair.client.error, sourceLocation: sourceLocation))"
        #expect(heard.contains("SSL alert number \(alert)"), "\(heard)", sourceLocation: sourceLocation)
    }

    private func required(
        revocationLists: [String] = [], allow: [String] = [], deny: [String] = []
    ) throws -> PeerVerification {
        PeerVerification(
            mode: .required, authorities: try root.pem(), revocationLists: revocationLists,
            allow: try allow.map { try PeerRule($0) }, deny: try deny.map { try PeerRule($0) })
    }

    // MARK: Rules

    @Test func `allow and deny lists decide who is served`() throws {
        let identity = try member.identity()
        for allow in ["cn:member", "dns:*.example", "sha256:\(Hexadecimal.text(member.fingerprint))"] {
            #expect(try isServed(handshake(required(allow: ["cn:other", allow]), identity)), "\(allow)")
        }
        try expectRefusal(
            handshake(required(allow: ["cn:other"]), identity),
            "client certificate \"CN=member\" matches nothing of the allow list", alert: 49)
        for deny in ["cn:Member", "dns:*.example", "sha256:\(Hexadecimal.text(member.fingerprint))"] {
            try expectRefusal(
                handshake(required(allow: ["cn:member"], deny: ["cn:other", deny]), identity),
                "\"CN=member\" matches \"\(deny)\" of the deny list", alert: 49)
        }
        #expect(try isServed(handshake(required(deny: ["cn:other"]), identity)))
    }

    @Test func `the client that was refused is known`() throws {
        let pair = try handshake(required(deny: ["cn:member"]), member.identity())
        let client = try #require(pair.server.engine?.peerRejection?.client)
        #expect(client.commonName == "member" && client.fingerprint == Hexadecimal.text(member.fingerprint))
        let served = try handshake(required(), member.identity())
        #expect(served.server.engine?.peerRejection == nil)
        #expect(served.server.engine?.peerName?.fingerprint == client.fingerprint)
        let names = try #require(served.server.engine?.details?.certificateNames?.names)
        #expect(names.contains { $0.kind == .dns && $0.value == Array("member.example".utf8) })
        #expect(served.client.alternativeNames?.dns == ["localhost"])
    }

    /// Programs that take it for a C string would log, or trust, another client.
    @Test func `a name that deceives is refused with rules and without`() throws {
        let deceiver = try MadeCertificate(
            "member", names: [.dns(Array("member.example\0.evil.example".utf8))], issuer: root)
        let other = try MadeCertificate(commonNames: [Array("member\0evil".utf8)], issuer: root)
        for clients in [try required(allow: ["cn:member"]), try required(deny: ["cn:other"]), try required()] {
            for certificate in [deceiver, other] {
                try expectRefusal(
                    handshake(clients, certificate.identity()), "has a name with a NUL byte in it", alert: 49)
            }
        }
    }

    @Test(arguments: [228, 1452], [0, 20])
    func `a certificate with many names and a long chain comes through in small datagrams`(payloadSize: Int, loss: Int)
        throws
    {
        let big = try MadeCertificate(
            "big", names: (0..<600).map { .dns("name-\($0).example") }, issuer: intermediate)
        let pair = try handshake(
            required(allow: ["dns:name-599.example"]), big.identity(chain: [intermediate, root]),
            payloadSize: payloadSize, conditions: WireConditions(loss: loss))
        #expect(isServed(pair) || pair.hasGivenUp && loss > 0)
        #expect(loss > 0 || pair.wire.largest <= payloadSize)
    }

    // MARK: Modes

    @Test func `mode requested serves clients without a certificate and refuses those with an invalid one`() throws {
        var clients = try required(allow: ["cn:member"])
        clients.mode = .requested
        let nobody = try handshake(clients, nil)
        #expect(isServed(nobody))
        #expect(nobody.server.engine?.peerName == nil && nobody.server.alternativeNames == nil)
        #expect(try isServed(handshake(clients, member.identity())))
        try expectRefusal(
            handshake(clients, device.identity(chain: [intermediate])), "matches nothing of the allow list", alert: 49)
        try expectRefusal(handshake(clients, MadeCertificate("member").identity()), "is signed by itself", alert: 48)
    }

    @Test func `mode required refuses clients without a certificate`() throws {
        let pair = try handshake(required(), nil)
        #expect("\(try #require(pair.server.error))".contains("peer did not return a certificate"))
        // RFC 5246, section 7.4.6: handshake_failure.
        #expect("\(try #require(pair.client.error))".contains("SSL alert number 40"))
    }

    @Test func `fingerprints stand in for an authority`() throws {
        let own = try MadeCertificate("own", days: -3...(-1))
        var clients = PeerVerification(
            mode: .required, allow: [try PeerRule("sha256:\(Hexadecimal.text(own.fingerprint))")])
        // It is good whoever has signed it, and whatever its dates.
        #expect(try isServed(handshake(clients, own.identity())))
        clients.allow.append(try PeerRule("sha256:\(Hexadecimal.text(device.fingerprint))"))
        #expect(try isServed(handshake(clients, device.identity())))
        try expectRefusal(handshake(clients, MadeCertificate("own").identity()), "nothing of the allow list", alert: 49)
        clients.deny = [try PeerRule("cn:own")]
        try expectRefusal(handshake(clients, own.identity()), "\"cn:own\" of the deny list", alert: 49)
        for allow in [[], [try PeerRule("cn:own")]] {
            #expect(throws: CredentialsError.self) {
                try handshake(PeerVerification(mode: .required, allow: allow), own.identity())
            }
        }
    }

    @Test func `with an authority a fingerprint alone is not enough`() throws {
        let own = try MadeCertificate("own")
        try expectRefusal(
            handshake(required(allow: ["sha256:\(Hexadecimal.text(own.fingerprint))"]), own.identity()),
            "is signed by itself, and is not among the trusted CAs", alert: 48)
    }

    // MARK: Chains

    @Test func `a chain is checked up to the authority`() throws {
        #expect(try isServed(handshake(required(), device.identity(chain: [intermediate]))))
        #expect(try isServed(handshake(required(), device.identity(chain: [intermediate, root]))))
        try expectRefusal(
            handshake(required(), device.identity()),
            "\"CN=device\" was issued by \"CN=Intermediate\", which is not among the trusted CAs and was not shown by the "
                + "client", alert: 48)
        var clients = try required()
        // The intermediate CA with the root, and alone.
        clients.authorities = try root.pem() + intermediate.pem()
        #expect(try isServed(handshake(clients, device.identity())))
        clients.authorities = try intermediate.pem()
        #expect(try isServed(handshake(clients, device.identity())))
        try expectRefusal(
            handshake(clients, member.identity()), "was issued by \"CN=Root\", which is not among", alert: 48)
        // A client's own certificate among the CAs.
        let own = try MadeCertificate("own")
        clients.authorities = try root.pem() + own.pem()
        #expect(try isServed(handshake(clients, own.identity())))
        #expect(try isServed(handshake(clients, member.identity())))
    }

    @Test func `the reason says what is wrong with a certificate`() throws {
        let expired = try MadeCertificate("old", days: -3...(-1), issuer: root)
        try expectRefusal(handshake(required(), expired.identity()), "\"CN=old\" expired on 20", alert: 45)
        let future = try MadeCertificate("new", days: 1...3, issuer: root)
        try expectRefusal(handshake(required(), future.identity()), "\"CN=new\" is not valid before 20", alert: 42)
        let server = try MadeCertificate("server", usage: "serverAuth", issuer: root)
        try expectRefusal(handshake(required(), server.identity()), "may not be used by a client", alert: 43)
        let leaf = try MadeCertificate("leaf", issuer: member)
        try expectRefusal(
            handshake(required(), leaf.identity(chain: [member])), "the certificate \"CN=member\" above it", alert: 48)
        let impostor = try MadeCertificate("Root", isAuthority: true)
        try expectRefusal(
            handshake(required(), MadeCertificate("x", issuer: impostor).identity()),
            "has a signature that was not made with the key of its issuer \"CN=Root\"", alert: 42)
        let oldIntermediate = try MadeCertificate("Old CA", days: -3...(-1), isAuthority: true, issuer: root)
        try expectRefusal(
            handshake(required(), MadeCertificate("x", issuer: oldIntermediate).identity(chain: [oldIntermediate])),
            "\"CN=x\" is not valid: the certificate \"CN=Old CA\" above it expired on 20", alert: 45)
    }

    @Test func `a subject of any length and with any characters is told in one short line`() throws {
        let name = "a\n\u{1b}[31m\u{202e}" + String(repeating: "ä", count: 10_000)
        let pair = try handshake(required(deny: ["cn:x", "dns:x"]), MadeCertificate(name, issuer: root).identity())
        #expect(isServed(pair))
        let refused = try handshake(required(allow: ["cn:x"]), MadeCertificate(name, issuer: root).identity())
        let reason = try #require(refused.server.engine?.peerRejection).description
        #expect(reason.utf8.count < 400)
        #expect(reason.utf8.allSatisfy { $0 >= 0x20 && $0 != 0x7f })
        #expect(!reason.contains("\n") && !reason.contains("\u{1b}") && !reason.contains("\u{202e}"))
    }

    // MARK: Revocation

    @Test func `a certificate on a revocation list is refused`() throws {
        let clean = try root.revocationList()
        #expect(try isServed(handshake(required(revocationLists: [clean]), member.identity())))
        let revoking = try root.revocationList([member])
        try expectRefusal(
            handshake(required(revocationLists: [revoking]), member.identity()), "\"CN=member\" was revoked on 20",
            alert: 44)
        // Several lists in one text, or in several.
        let other = try MadeCertificate("Other", isAuthority: true).revocationList()
        for lists in [[other + revoking], [other, revoking]] {
            try expectRefusal(
                handshake(required(revocationLists: lists), member.identity()), "by \"CN=Root\"", alert: 44)
        }
    }

    @Test func `a missing or outdated revocation list refuses certificates`() throws {
        let identity = try member.identity()
        let other = try MadeCertificate("Other", isAuthority: true).revocationList()
        try expectRefusal(
            handshake(required(revocationLists: [other]), identity),
            "\"CN=member\" cannot be checked: there is no revocation list (CRL) of its issuer \"CN=Root\"", alert: 46)
        try expectRefusal(
            handshake(required(revocationLists: [root.revocationList(days: -3...(-1))]), identity),
            "of its issuer \"CN=Root\" has been out of date since 20", alert: 46)
        try expectRefusal(
            handshake(required(revocationLists: [root.revocationList(days: 1...3)]), identity),
            "of its issuer \"CN=Root\" is not valid before 20", alert: 46)
        let forged = try MadeCertificate("Root", isAuthority: true).revocationList()
        try expectRefusal(
            handshake(required(revocationLists: [forged]), identity), "was not signed with its key", alert: 46)
    }

    /// Every CA below the trusted one needs a list; the trusted one needs none above it.
    @Test func `every authority of a chain needs a revocation list`() throws {
        let identity = try device.identity(chain: [intermediate])
        let (upper, lower) = (try root.revocationList(), try intermediate.revocationList())
        #expect(try isServed(handshake(required(revocationLists: [upper, lower]), identity)))
        try expectRefusal(
            handshake(required(revocationLists: [upper]), identity), "revocation list (CRL) of its issuer", alert: 46)
        try expectRefusal(
            handshake(required(revocationLists: [lower]), identity),
            "the certificate \"CN=Intermediate\" above it cannot be checked", alert: 46)
        try expectRefusal(
            handshake(required(revocationLists: [root.revocationList([intermediate]), lower]), identity),
            "\"CN=device\" is not valid: the certificate \"CN=Intermediate\" above it was revoked on 20", alert: 44)
        var clients = try required(revocationLists: [lower])
        clients.authorities = try intermediate.pem()
        #expect(try isServed(handshake(clients, device.identity())))
        clients.authorities = try intermediate.pem() + root.pem()
        clients.revocationLists = [upper, lower]
        #expect(try isServed(handshake(clients, device.identity())))
        clients.revocationLists = [try root.revocationList([intermediate]), lower]
        try expectRefusal(handshake(clients, device.identity()), "\"CN=Intermediate\" above it was revoked", alert: 44)
        clients.authorities = try MadeCertificate("own").pem() + device.pem()
        clients.revocationLists = [upper]
        #expect(try isServed(handshake(clients, device.identity())))
    }

    @Test func `only the client's own certificate is looked up where that is asked for`() throws {
        let identity = try device.identity(chain: [intermediate])
        let lower = try intermediate.revocationList()
        var clients = try required(revocationLists: [lower])
        try expectRefusal(handshake(clients, identity), "above it cannot be checked", alert: 46)
        clients.revocationCheck = .leaf
        #expect(try isServed(handshake(clients, identity)))
        clients.revocationLists = [lower, try root.revocationList([intermediate])]
        #expect(try isServed(handshake(clients, identity)), "the list of the root says nothing of the device")
        clients.revocationLists = [try intermediate.revocationList([device])]
        try expectRefusal(handshake(clients, identity), "was revoked on 20", alert: 44)
        clients.revocationLists = [try root.revocationList()]
        try expectRefusal(handshake(clients, identity), "there is no revocation list (CRL) of its issuer", alert: 46)
    }

    @Test func `a revocation list tells of its life`() throws {
        let lists = try RevocationLists(pem: root.revocationList(days: -1...6))
        let life = try #require(lists.lives.first)
        #expect(lists.lives.count == 1)
        #expect(life.issuer == "CN=Root")
        #expect(life.thisUpdate?.duration(to: life.nextUpdate) == .seconds(7 * 86_400))
    }

    // MARK: Purpose

    /// Public CAs issue certificates for servers alone.
    @Test func `a certificate for servers gets in where any purpose will do`() throws {
        let server = try MadeCertificate("server", usage: "serverAuth", issuer: root)
        var clients = try required()
        try expectRefusal(handshake(clients, server.identity()), "may not be used by a client", alert: 43)
        clients.purpose = .any
        #expect(try isServed(handshake(clients, server.identity())))
        #expect(try isServed(handshake(clients, member.identity())))
        // What is no CA signs no clients.
        let child = try MadeCertificate("child", issuer: member)
        #expect(try !isServed(handshake(clients, child.identity(chain: [member]))))
        let other = try MadeCertificate("other", usage: "serverAuth")
        #expect(try !isServed(handshake(clients, other.identity())))
    }

    @Test func `a broken revocation list is refused`() throws {
        let list = try root.revocationList()
        #expect(try RevocationLists(pem: list + "\n# nothing\n" + list).count == 2)
        #expect(try RevocationLists(pem: list).outOfDate.isEmpty)
        let complaints = try RevocationLists(pem: list + root.revocationList(days: -3...(-1))).outOfDate
        #expect(complaints.count == 1)
        #expect(complaints.first?.hasPrefix("the list of \"CN=Root\" has been out of date since 20") == true)
        for text in ["", "no PEM", try root.pem(), String(list.prefix(100)), list + list.prefix(100)] {
            #expect(throws: OpenSSLError.self) { try RevocationLists(pem: text) }
            #expect(throws: CredentialsError.self) {
                try ServerContext(
                    ServerSettings(certifiedKeys: [], clients: try required(revocationLists: [text])))
            }
        }
    }

    /// What a server lists for key exchange is in DTLS 1.2 about certificates too (RFC 8422, section 5.1.1).
    @Test(arguments: [NID_secp384r1, NID_secp521r1])
    func `certificates with keys of larger curves are accepted`(_ curve: Int32) throws {
        let large = try MadeCertificate("large", issuer: root, key: Key(.ecdsa, curve: curve))
        let pair = try handshake(required(), large.identity())
        #expect(isServed(pair), "\(String(describing: pair.server.error))")
    }

    // MARK: What clients are told, and what names share

    /// A CertificateRequest cannot tell as many names as there can be CAs.
    @Test func `authorities are not named when there are too many`() throws {
        let others = try (0..<70).map { index in
            try MadeCertificate(commonNames: [Array("\(index)".utf8) + Array(repeating: 0x61, count: 1_000)]).pem()
        }
        var clients = try required()
        clients.authorities = try root.pem() + others.joined()
        #expect(isServed(try handshake(clients, member.identity())))
        try expectRefusal(try handshake(clients, device.identity()), "was issued by", alert: 48)
    }

    @Test func `a name that several authorities share is sent once`() throws {
        var settings = ServerSettings(
            certificate: certificates.ecdsaServer.certificate, privateKey: certificates.ecdsaServer.privateKey)
        settings.clients = try required()
        let again = try MadeCertificate("Root", isAuthority: true)
        settings.clients.authorities = try root.pem() + again.pem() + intermediate.pem()
        let context = try ServerContext(settings)
        #expect(OPENSSL_sk_num(SSL_CTX_get_client_CA_list(context.pointer)) == 2)
    }

    /// Lists can be many megabytes: a hundred names have them once.
    @Test func `virtual hosts share authorities and revocation lists`() throws {
        let revoked = try MadeCertificate("revoked", issuer: root)
        var settings = ServerSettings(
            certificate: certificates.ecdsaServer.certificate, privateKey: certificates.ecdsaServer.privateKey)
        settings.clients = try required(revocationLists: [root.revocationList([revoked])])
        settings.names = [VirtualHost(name: "localhost", certifiedKeys: settings.certifiedKeys)]
        let context = try ServerContext(settings)
        let named = try #require(context.virtualHost(named: "localhost"))
        #expect(SSL_CTX_get_cert_store(named.pointer) == SSL_CTX_get_cert_store(context.pointer))
        #expect(OPENSSL_sk_num(SSL_CTX_get_client_CA_list(named.pointer)) == 1)
        for (certificate, isGood) in [(member, true), (revoked, false)] {
            let identity = try certificate.identity()
            let pair = try EnginePair(
                client: ClientSettings(
                    certificateAuthorities: certificates.authority, certificate: identity.certificate,
                    privateKey: identity.privateKey), server: settings)
            pair.handshake()
            #expect(isServed(pair) == isGood)
        }
    }

    // MARK: Sessions

    @Test func `every change of the policy changes the session id context`() throws {
        let plain = try required()
        var contexts: [String] = [PeerVerification().sessionIDContext, plain.sessionIDContext]
        var changed = plain
        changed.mode = .requested
        contexts.append(changed.sessionIDContext)
        for clients in [
            try required(revocationLists: ["a"]), try required(revocationLists: ["a", ""]),
            try required(allow: ["cn:a"]),
            try required(deny: ["cn:a"]), try required(allow: ["cn:a", "cn:b"]), try required(allow: ["cn:b", "cn:a"]),
        ] { contexts.append(clients.sessionIDContext) }
        changed = plain
        changed.authorities = nil
        contexts.append(changed.sessionIDContext)
        #expect(Set(contexts).count == contexts.count)
        #expect(try required().sessionIDContext == plain.sessionIDContext)
    }
}
