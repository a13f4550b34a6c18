import DTLSEngine
import Testing

/// Which servers a client takes for the one that it means.
@Suite struct ClientTrustTests {
    let root: MadeCertificate
    let intermediate: MadeCertificate
    let server: MadeCertificate

    init() throws {
        root = try MadeCertificate("Root", isAuthority: true)
        intermediate = try MadeCertificate("Intermediate", isAuthority: true, issuer: root)
        server = try MadeCertificate("server", names: [.dns("localhost")], issuer: intermediate)
    }

    private func isTaken(
        _ identity: TestCertificates.Identity, trusting authorities: MadeCertificate...
    ) throws -> Bool {
        let pair = try EnginePair(
            client: ClientSettings(certificateAuthorities: try authorities.map { try $0.pem() }.joined()),
            server: ServerSettings(certificate: identity.certificate, privateKey: identity.privateKey))
        pair.handshake()
        return pair.client.isEstablished
    }

    @Test func `each certificate of the list is trusted on its own`() throws {
        let identity = try server.identity(chain: [intermediate])
        #expect(try isTaken(identity, trusting: root))
        #expect(try isTaken(identity, trusting: intermediate))
        #expect(try isTaken(identity, trusting: server))
        // Also where the server does not show who has issued it.
        #expect(try isTaken(server.identity(), trusting: intermediate))
        #expect(try isTaken(server.identity(), trusting: server))
        #expect(try !isTaken(server.identity(), trusting: root))
    }

    @Test func `a certificate that is not in the list is not trusted`() throws {
        let other = try MadeCertificate("other", names: [.dns("localhost")], issuer: intermediate)
        #expect(try !isTaken(other.identity(chain: [intermediate]), trusting: server))
        let elsewhere = try MadeCertificate("server", names: [.dns("elsewhere")], issuer: intermediate)
        #expect(try !isTaken(elsewhere.identity(chain: [intermediate]), trusting: elsewhere))
        let impostor = try MadeCertificate("Intermediate", isAuthority: true, issuer: root)
        let forged = try MadeCertificate("server", names: [.dns("localhost")], issuer: impostor)
        #expect(try !isTaken(forged.identity(chain: [impostor]), trusting: intermediate))
    }
}
