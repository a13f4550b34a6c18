import COpenSSL
import DTLSEngine
import Primitives
import Testing

/// Which OCSP responses are stapled to a certificate.
@Suite struct OCSPStapleTests {
    let certificates: TestCertificates
    let certificate: OwnCertificate

    init() throws {
        certificates = try TestCertificates.make()
        certificate = try OwnCertificate(pem: certificates.ecdsaServer.certificate)
    }

    /// A response about a certificate, which it signs itself: that is for clients to judge.
    private func response(
        about identity: TestCertificates.Identity, status: Int32 = V_OCSP_CERTSTATUS_GOOD, from: Int = -3_600,
        until: Int? = 3_600,
        digest: OpaquePointer? = EVP_sha1()
    ) throws -> [UInt8] {
        let bio = BIO_new(BIO_s_mem())
        defer { BIO_free(bio) }
        for text in [identity.certificate, identity.privateKey] { BIO_puts(bio, text) }
        let leaf = PEM_read_bio_X509(bio, nil, nil, nil)
        let issuer = PEM_read_bio_X509(bio, nil, nil, nil)
        let key = PEM_read_bio_PrivateKey(bio, nil, nil, nil)
        let basic = OCSP_BASICRESP_new()
        let start = X509_gmtime_adj(nil, from)
        let end = until.flatMap { X509_gmtime_adj(nil, $0) }
        defer {
            X509_free(leaf)
            X509_free(issuer)
            EVP_PKEY_free(key)
            OCSP_BASICRESP_free(basic)
            ASN1_STRING_free(start)
            ASN1_STRING_free(end)
        }
        let identifier = OCSP_cert_to_id(digest, leaf, issuer)
        defer { OCSP_CERTID_free(identifier) }
        let isRevoked = status == V_OCSP_CERTSTATUS_REVOKED
        _ = try #require(OCSP_basic_add1_status(basic, identifier, status, 0, isRevoked ? start : nil, start, end))
        #expect(OCSP_basic_sign(basic, leaf, key, EVP_sha256(), nil, 0) == 1)
        return try encode(OCSP_response_create(OCSP_RESPONSE_STATUS_SUCCESSFUL, basic))
    }

    private func encode(_ response: OpaquePointer?) throws -> [UInt8] {
        defer { OCSP_RESPONSE_free(response) }
        var bytes: UnsafeMutablePointer<UInt8>?
        let count = i2d_OCSP_RESPONSE(response, &bytes)
        defer { CRYPTO_free(bytes, nil, 0) }
        return Array(UnsafeBufferPointer(start: try #require(bytes), count: Int(count)))
    }

    @Test(arguments: ["SHA1", "SHA256"])
    func `a valid response is accepted`(_ digest: String) throws {
        let bytes = try response(about: certificates.ecdsaServer, digest: EVP_get_digestbyname(digest))
        let staple = try OCSPStaple(bytes, for: certificate)
        #expect(staple.response == bytes)
        let expiry = try #require(staple.expiry)
        #expect(staple.isValid(at: UnixTime(seconds: expiry.seconds - 1)) && !staple.isValid(at: expiry))
        // In an hour, give or take the minutes that a slow machine takes.
        #expect(abs(expiry.seconds - Int64(time(nil)) - 3_600) < 600)
    }

    @Test func `a response without nextUpdate stays valid`() throws {
        let staple = try OCSPStaple(response(about: certificates.ecdsaServer, until: nil), for: certificate)
        #expect(staple.expiry == nil && staple.isValid(at: UnixTime(seconds: .max - 1)))
    }

    @Test func `an outdated response is refused`() throws {
        let old = try response(about: certificates.ecdsaServer, from: -7_200, until: -3_600)
        #expect {
            try OCSPStaple(old, for: certificate)
        } throws: {
            guard case .outOfDate(let end) = $0 as? OCSPStapleError else { return false }
            return end.hasSuffix(" UTC")
        }
        // Also when it has only just run out: it would never be sent.
        let late = try response(about: certificates.ecdsaServer, from: -7_200, until: -1)
        #expect(throws: OCSPStapleError.self) { try OCSPStaple(late, for: certificate) }
        let early = try response(about: certificates.ecdsaServer, from: 3_600, until: 7_200)
        #expect(throws: OCSPStapleError.self) { try OCSPStaple(early, for: certificate) }
    }

    @Test func `a response about another certificate is refused`() throws {
        // Of the same authority, and of another one of the same name.
        for other in [certificates.rsaServer, certificates.stranger] {
            let bytes = try response(about: other)
            #expect(throws: OCSPStapleError.otherCertificate) { try OCSPStaple(bytes, for: certificate) }
        }
    }

    /// From 3.6 on OpenSSL announces it to the client, sends none, and waits for ever.
    @Test func `a response about a certificate that signs itself is refused, and none is sent`() throws {
        let root = try MadeCertificate("localhost", names: [.dns("localhost")], isAuthority: true)
        let identity = try root.identity()
        let twice = TestCertificates.Identity(
            certificate: identity.certificate + identity.certificate, privateKey: identity.privateKey)
        let bytes = try response(about: twice)
        let leaf = try OwnCertificate(pem: identity.certificate)
        #expect(leaf.isSelfSigned && !certificate.isSelfSigned)
        #expect(throws: OCSPStapleError.selfSigned) { try OCSPStaple(bytes, for: leaf) }

        let issued = certificates.ecdsaServer
        for (name, bytes, isAsked) in [
            (identity, bytes, true), (issued, try response(about: issued), true), (identity, bytes, false),
        ] {
            var key = CertifiedKey(certificate: name.certificate, privateKey: name.privateKey)
            key.staple = OCSPStaple(checked: bytes, expiry: nil)
            let pair = try EnginePair(
                client: ClientSettings(certificateAuthorities: identity.certificate + certificates.authority),
                server: ServerSettings(certifiedKeys: [key]), asksForStaple: isAsked)
            pair.handshake()
            #expect(pair.client.isEstablished && pair.server.isEstablished)
            let stapled = pair.client.stapledResponse
            #expect(stapled == (name.certificate == identity.certificate ? nil : bytes))
        }
    }

    @Test(arguments: [(V_OCSP_CERTSTATUS_REVOKED, "revoked"), (V_OCSP_CERTSTATUS_UNKNOWN, "unknown")])
    func `a response that does not say good is refused`(_ status: Int32, _ name: String) throws {
        let bytes = try response(about: certificates.ecdsaServer, status: status)
        #expect(throws: OCSPStapleError.notGood(name)) { try OCSPStaple(bytes, for: certificate) }
    }

    @Test func `a responder's error is refused`() throws {
        let bytes = try encode(OCSP_response_create(OCSP_RESPONSE_STATUS_TRYLATER, nil))
        #expect(throws: OCSPStapleError.unsuccessful("trylater")) { try OCSPStaple(bytes, for: certificate) }
    }

    /// Whatever the file holds.
    @Test func `a broken response is refused`() throws {
        let good = try response(about: certificates.ecdsaServer)
        for count in good.indices {
            #expect(throws: OCSPStapleError.self) { try OCSPStaple(Array(good[..<count]), for: certificate) }
        }
        var refused = 0
        for position in good.indices {
            for bit in [UInt8(1), 0x80] {
                var changed = good
                changed[position] ^= bit
                do { _ = try OCSPStaple(changed, for: certificate) } catch { refused += 1 }
            }
        }
        #expect(refused > good.count / 2)
    }
}
