import Testing

@testable import DTLSEngine

/// The groups and signature algorithms that both sides agree on.
@Suite struct NegotiationListTests {
    let certificates: TestCertificates

    init() throws { certificates = try TestCertificates.make() }

    private func server(
        groups: String? = nil, signatures: String? = nil, _ identities: [TestCertificates.Identity]? = nil
    ) -> ServerSettings {
        var settings = ServerSettings(
            certifiedKeys: (identities ?? [certificates.ecdsaServer]).map {
                CertifiedKey(certificate: $0.certificate, privateKey: $0.privateKey)
            })
        settings.groups = groups
        settings.signatureAlgorithms = signatures
        return settings
    }

    private func client(groups: String? = nil, signatures: String? = nil) -> ClientSettings {
        var settings = ClientSettings(certificateAuthorities: certificates.authority)
        settings.groups = groups
        settings.signatureAlgorithms = signatures
        return settings
    }

    private func handshake(_ client: ClientSettings, _ server: ServerSettings) throws -> EnginePair {
        let pair = try EnginePair(client: client, server: server)
        pair.handshake()
        return pair
    }

    @Test func `a group that both have is agreed on, and none without one`() throws {
        let pair = try handshake(client(), server(groups: "P-384:P-256"))
        #expect(pair.server.engine?.details?.group == "secp384r1" || pair.server.engine?.details?.group == "secp256r1")
        #expect(try !handshake(client(groups: "X25519:P-256"), server(groups: "P-384")).server.isEstablished)
        #expect(try handshake(client(groups: "X25519:P-256"), server(groups: "P-384:X25519")).server.isEstablished)
    }

    @Test func `a signature algorithm that both have is agreed on, and none without one`() throws {
        #expect(try handshake(client(), server(signatures: "ECDSA+SHA384")).server.isEstablished)
        #expect(
            try !handshake(client(signatures: "ECDSA+SHA256"), server(signatures: "ECDSA+SHA384")).server.isEstablished)
        #expect(
            try handshake(client(signatures: "ECDSA+SHA256:RSA+SHA256"), server(signatures: "ECDSA+SHA256")).server
                .isEstablished)
    }

    @Test func `a list without an algorithm for a certificate is refused`() throws {
        func fault(_ signatures: String, _ identity: TestCertificates.Identity) -> CredentialsError? {
            do throws(CredentialsError) {
                _ = try ServerContext(server(signatures: signatures, [identity]))
                return nil
            } catch { return error }
        }
        let (ecdsa, rsa) = (certificates.ecdsaServer, certificates.rsaServer)
        for (list, identity) in [
            ("RSA+SHA256", ecdsa), ("ecdsa_secp256r1_sha256", rsa), ("rsa_pss_pss_sha256", rsa), ("ECDSA+SHA1", ecdsa),
        ] {
            guard case .signatures? = fault(list, identity) else {
                Issue.record("\(list): \(String(describing: fault(list, identity)))")
                continue
            }
        }
        for (list, identity) in [
            ("RSA-PSS+SHA256", rsa), ("PSS+SHA256", rsa), ("rsa_pkcs1_sha256", rsa), ("RSA+SHA256", rsa),
            ("ecdsa_secp256r1_sha256", ecdsa), ("RSA+SHA256:ECDSA+SHA512", ecdsa),
        ] {
            #expect(fault(list, identity) == nil, "\(list)")
        }
    }

    @Test func `unknown names in lists are found`() {
        #expect(GroupList.fault(of: "X25519:P-256") == nil)
        #expect(GroupList.fault(of: "X25519:nonesuch") == "OpenSSL knows no group \"nonesuch\"")
        #expect(GroupList.fault(of: "ffdhe2048") == "DTLS 1.2 has none of these groups")
        #expect(GroupList.unusedWords(in: "X25519:ffdhe2048") == ["ffdhe2048"])
        #expect(GroupList.unusedWords(in: "?X25519MLKEM768/P-256") == ["X25519MLKEM768"])
        #expect(SignatureAlgorithms.fault(of: "ECDSA+SHA256:ed25519") == nil)
        #expect(
            SignatureAlgorithms.fault(of: "ECDSA+SHA256:RSA+X:Y")
                == "OpenSSL knows no signature algorithm \"RSA+X\", \"Y\"")
        #expect(GroupList.fault(of: "P-256\u{0}") == "it contains a NUL")
    }

    /// OpenSSL does not check either of them again when it resumes a session.
    @Test func `sessions of other lists are others`() {
        let contexts = [
            server(), server(groups: "P-256"), server(signatures: "ECDSA+SHA256"), server(groups: "P-384"),
            server(groups: "P-256", signatures: "ECDSA+SHA256"),
        ].map(\.sessionIDContext)
        #expect(Set(contexts).count == contexts.count)
    }
}
