import DTLSKit
import Foundation
import TestSupport
import Testing

/// Servers with several names, and keys that cannot be read.
@Suite(.serialized) struct InteropNameTests {
    /// s_server has two certificates: one for a name, and one for clients that ask for none.
    @Test func `our client gets the certificate of the name that it asks another library's server for`() async throws {
        let authority = try await TestAuthority()
        let main = try await authority.issue("main", names: "IP:127.0.0.1")
        let other = try await authority.issue("other", names: "DNS:other.example", kind: .rsa)
        var option = DtlsClientOption(rejectUnauthorized: true, ca: authority.certificate)
        // An address is not asked for, but the certificate is to have it. For the last name s_server has none: it
        // warns, and OpenSSL 3.0 takes its one warning for too many, in s_client too. Later versions go on to the
        // certificate.
        for name in ["127.0.0.1", "other.example", "third.example"] {
            let port = try ForeignPeer.freePort()
            let server = try await ForeignPeer.openSSL.serve(
                main, authority, port: port,
                more: ["-servername", "other.example", "-cert2", other.certificateFile, "-key2", other.keyFile])
            option.server = name
            let error = try await option.failure(port: port)
            if name != "third.example" {
                #expect(error == nil, "\(name): \(server.errors)")
            } else {
                guard case .handshake = error else {
                    Issue.record("\(String(describing: error)) \(server.errors)")
                    return
                }
            }
        }
    }

    @Test(arguments: ForeignPeer.allCases)
    func `our server shows each client the certificate of the name that it asks for`(_ peer: ForeignPeer) async throws {
        let authority = try await TestAuthority()
        let main = try await authority.issue("main", names: "DNS:main.example")
        let other = try await authority.issue("other", names: "DNS:other.example", kind: .rsa)
        let server = try await EchoServer(DtlsServerOption(cert: main.certificate, key: main.key)) {
            try $0.addcert(DtlsCertificateOption(name: "other.example", cert: other.certificate, key: other.key))
        }
        let names = [
            ("main.example", "main.example"), ("other.example", "other.example"), ("third.example", "main.example"),
        ]
        for (asked, expected) in names {
            let client = try peer.connect(
                to: server.address.port, trusting: authority.file, name: expected, asking: asked, in: authority.folder)
            client.send("for \(asked)\n")
            try await eventually("the echo comes back", details: client.output + client.errors) {
                client.output.contains("for \(asked)")
            }
            if peer == .openSSL { client.send("Q\n") }
            client.closeInput()
            #expect(try await client.ended() == .exited(0))
        }
        // The other certificate is for its own name alone.
        let client = try peer.connect(
            to: server.address.port, trusting: authority.file, name: "main.example", asking: "other.example",
            in: authority.folder)
        #expect(try await client.ended() != .exited(0))
        try await server.stop()
    }

    private static func isCredentials(_ error: DtlsError?) -> Bool {
        if case .credentials(let reason)? = error { return !reason.isEmpty }
        return false
    }

    /// A key that cannot be read is refused at once, without a question on the terminal; nothing is changed.
    @Test(arguments: [nil, "wrong"]) func `a key whose passphrase is missing or wrong is refused`(_ password: String?)
        async throws
    {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let encrypted = try await authority.encrypt(identity, password: "secret")
        try await onThread {
            let address = try Dtls.sockaddr("127.0.0.1", 0)
            let refused = #expect(throws: DtlsError.self) {
                _ = try Dtls.createServer(
                    DtlsServerOption(cert: identity.certificate, key: encrypted, passwd: password), address)
            }
            #expect(Self.isCredentials(refused), "\(String(describing: refused))")
            let server = try Dtls.createServer(
                DtlsServerOption(cert: identity.certificate, key: encrypted, passwd: "secret"), address)
            let added = #expect(throws: DtlsError.self) {
                try server.addcert(
                    DtlsCertificateOption(
                        name: "a.example", cert: identity.certificate, key: encrypted, passwd: password))
            }
            #expect(Self.isCredentials(added), "\(String(describing: added))")
            try server.addcert(
                DtlsCertificateOption(name: "a.example", cert: identity.certificate, key: encrypted, passwd: "secret"))
            server.close()
        }
    }
}
