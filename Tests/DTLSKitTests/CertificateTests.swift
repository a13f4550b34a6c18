import DTLSKit
import TestSupport
import Testing

@Suite(.serialized) struct CertificateTests {
    /// Which certificate a server shows, or why the client does not take it.
    private func connect(_ option: DtlsClientOption, to server: EchoServer) async throws -> Result<String, DtlsError> {
        try await onThread {
            do throws(DtlsError) {
                let client = try Dtls.createClient(option, server.address, timeout: 60_000)
                try client.send("hello")
                var buffer = [UInt8](repeating: 0, count: 10)
                _ = try client.recv(&buffer, timeout: 60_000)
                let cipher = client.session?.cipher ?? ""
                client.close()
                return .success(cipher)
            } catch {
                return .failure(error)
            }
        }
    }

    private func expectFailure(_ result: Result<String, DtlsError>, certificate part: String) {
        guard case .failure(.handshake(let reason, let certificate)) = result else {
            Issue.record("\(result)")
            return
        }
        #expect(reason.contains("certificate verify failed"))
        #expect(certificate?.contains(part) == true, "\(certificate ?? "")")
    }

    @Test func `a server may have an RSA or an ECDSA key`() async throws {
        let authority = try await TestAuthority()
        for kind in [TestAuthority.Kind.rsa, .ecdsa] {
            let identity = try await authority.issue("server", kind: kind)
            let server = try await EchoServer(DtlsServerOption(cert: identity.certificate, key: identity.key))
            let option = DtlsClientOption(rejectUnauthorized: true, ca: authority.certificate, server: "127.0.0.1")
            let cipher = try await connect(option, to: server).get()
            #expect(cipher.hasPrefix(kind == .rsa ? "ECDHE-RSA" : "ECDHE-ECDSA"))
            try await server.stop()
        }
    }

    @Test func `a certificate with a wrong name, expired or untrusted is refused`() async throws {
        let authority = try await TestAuthority()
        let stranger = try await TestAuthority()
        let good = try await authority.issue("server")
        let old = try await authority.issue("old", isExpired: true)
        let server = try await EchoServer(DtlsServerOption(cert: good.certificate, key: good.key))
        let expired = try await EchoServer(DtlsServerOption(cert: old.certificate, key: old.key))

        var option = DtlsClientOption(rejectUnauthorized: true, ca: authority.certificate, server: "elsewhere.example")
        expectFailure(try await connect(option, to: server), certificate: "ostname mismatch")
        option.server = "127.0.0.9"
        expectFailure(try await connect(option, to: server), certificate: "IP address mismatch")
        option.server = "localhost"
        expectFailure(try await connect(option, to: expired), certificate: "expired")
        option.ca = stranger.certificate
        expectFailure(try await connect(option, to: server), certificate: "unable to get local issuer")
        option.ca = nil
        option.loadDefaultCerts = true
        expectFailure(try await connect(option, to: server), certificate: "unable to get local issuer")
        // Not asked to, a client takes any certificate.
        option.rejectUnauthorized = false
        _ = try await connect(option, to: server).get()

        try await eventually("the server has heard of all four") { server.handshakeErrors.count == 4 }
        guard case .handshake(let reason, nil)? = server.handshakeErrors.first else {
            Issue.record("\(server.handshakeErrors)")
            return
        }
        #expect(reason.contains("alert"), "the server learns from the client's alert: \(reason)")
        try await server.stop()
        try await expired.stop()
    }

    @Test func `a client without a valid certificate is refused where one is required`() async throws {
        let authority = try await TestAuthority()
        let stranger = try await TestAuthority()
        let identity = try await authority.issue("server")
        let known = try await authority.issue("client")
        let unknown = try await stranger.issue("client")
        let encrypted = try await authority.encrypt(known, password: "secret")
        let server = try await EchoServer(
            DtlsServerOption(ca: authority.certificate, cert: identity.certificate, key: identity.key))

        _ = try await connect(DtlsClientOption(cert: known.certificate, key: known.key), to: server).get()
        _ = try await connect(
            DtlsClientOption(cert: known.certificate, key: encrypted, passwd: "secret"), to: server
        ).get()
        #expect(server.handshakeErrors.isEmpty)

        for option in [DtlsClientOption(), DtlsClientOption(cert: unknown.certificate, key: unknown.key)] {
            guard case .failure(.handshake(let reason, _)) = try await connect(option, to: server) else {
                Issue.record("a client without a valid certificate was let in")
                continue
            }
            #expect(reason.contains("alert"), "\(reason)")
        }
        try await eventually("the server has seen both") { server.handshakeErrors.count == 2 }
        #expect("\(server.handshakeErrors[0])".contains("peer did not return a certificate"))
        #expect("\(server.handshakeErrors[1])".contains("certificate verify failed"))

        guard
            case .failure(.credentials) = try await connect(
                DtlsClientOption(cert: known.certificate, key: encrypted, passwd: "wrong"), to: server)
        else {
            Issue.record("a wrong password was taken")
            return
        }
        try await server.stop()
    }

    @Test func `a server shows the certificate of the name that the client asks for`() async throws {
        let authority = try await TestAuthority()
        let main = try await authority.issue("main", names: "DNS:main.example")
        let one = try await authority.issue("one", names: "DNS:one.example")
        let wild = try await authority.issue("wild", names: "DNS:*.wild.example", kind: .rsa)
        let later = try await authority.issue("later", names: "DNS:one.example,DNS:later.example")
        let server = try await EchoServer(DtlsServerOption(cert: main.certificate, key: main.key)) { server in
            try server.addcert(DtlsCertificateOption(name: "One.Example", cert: one.certificate, key: one.key))
            try server.addcert(DtlsCertificateOption(name: "*.wild.example", cert: wild.certificate, key: wild.key))
        }
        for name in ["main.example", "one.example", "any.wild.example"] {
            let option = DtlsClientOption(rejectUnauthorized: true, ca: authority.certificate, server: name)
            let cipher = try await connect(option, to: server).get()
            #expect(cipher.contains(name.contains("wild") ? "RSA" : "ECDSA"))
        }
        // No name of this server's: its own certificate, which the client then does not take.
        let unknown = DtlsClientOption(rejectUnauthorized: true, ca: authority.certificate, server: "two.example")
        expectFailure(try await connect(unknown, to: server), certificate: "ostname mismatch")
        try await server.stop()

        // addcert replaces the certificate of a name.
        let replaced = try await EchoServer(DtlsServerOption(cert: main.certificate, key: main.key)) { server in
            try server.addcert(DtlsCertificateOption(name: "later.example", cert: one.certificate, key: one.key))
            try server.addcert(DtlsCertificateOption(name: "later.example", cert: later.certificate, key: later.key))
        }
        let option = DtlsClientOption(rejectUnauthorized: true, ca: authority.certificate, server: "later.example")
        _ = try await connect(option, to: replaced).get()
        try await replaced.stop()
    }

    /// Names may ask for client certificates, each of its own authority.
    @Test func `each name trusts the authorities of its own`() async throws {
        let authority = try await TestAuthority()
        let main = try await authority.issue("main", names: "DNS:main.example")
        let closed = try await authority.issue("closed", names: "DNS:closed.example")
        let client = try await authority.issue("client")
        let server = try await EchoServer(DtlsServerOption(cert: main.certificate, key: main.key)) {
            try $0.addcert(
                DtlsCertificateOption(
                    name: "closed.example", ca: authority.certificate, cert: closed.certificate, key: closed.key))
        }
        _ = try await connect(DtlsClientOption(server: "main.example"), to: server).get()
        guard case .failure(.handshake) = try await connect(DtlsClientOption(server: "closed.example"), to: server)
        else {
            Issue.record("the name that asks for a certificate let a client in without one")
            return
        }
        _ = try await connect(
            DtlsClientOption(server: "closed.example", cert: client.certificate, key: client.key), to: server
        ).get()
        try await server.stop()
    }

    /// The certificate says who the server is, and nothing of whom it lets in.
    @Test func `a name without authorities demands what the server demands`() async throws {
        let authority = try await TestAuthority()
        let other = try await TestAuthority()
        let main = try await authority.issue("main", names: "DNS:main.example")
        let added = try await authority.issue("added", names: "DNS:added.example")
        let client = try await authority.issue("client")
        let stranger = try await other.issue("stranger")
        let server = try await EchoServer(
            DtlsServerOption(ca: authority.certificate, cert: main.certificate, key: main.key)
        ) {
            try $0.addcert(DtlsCertificateOption(name: "added.example", cert: added.certificate, key: added.key))
            try $0.addcert(
                DtlsCertificateOption(
                    name: "other.example", ca: other.certificate, cert: added.certificate, key: added.key))
        }
        let cases: [(name: String, shown: TestIdentity?, isServed: Bool)] = [
            ("main.example", nil, false), ("added.example", nil, false), ("added.example", stranger, false),
            ("added.example", client, true), ("other.example", client, false), ("other.example", stranger, true),
        ]
        for (name, shown, isServed) in cases {
            let result = try await connect(
                DtlsClientOption(server: name, cert: shown?.certificate, key: shown?.key), to: server)
            if isServed {
                _ = try result.get()
            } else if case .failure(.handshake) = result {
                continue
            } else {
                Issue.record(
                    "\(name) let in a client whose certificate is \(shown == nil ? "missing" : "of another CA")")
            }
        }
        // One that is none of ours.
        let foreign = try ForeignPeer.openSSL.connect(
            to: server.address.port, trusting: authority.file, name: "added.example", asking: "added.example",
            in: authority.folder)
        #expect(try await foreign.ended() != .exited(0))
        try await server.stop()
    }

    @Test(arguments: [true, false]) func `a certificate is chosen by address only where ipcert is set`(_ ipcert: Bool)
        async throws
    {
        let authority = try await TestAuthority()
        let main = try await authority.issue("main", names: "DNS:main.example")
        let address = try await authority.issue("address", names: "IP:127.0.0.5")
        let named = try await authority.issue("named", names: "DNS:named.example,IP:127.0.0.6")
        let server = try await EchoServer(
            DtlsServerOption(cert: main.certificate, key: main.key, ipcert: ipcert), on: "127.0.0.5"
        ) {
            try $0.addcert(DtlsCertificateOption(name: "a.example", cert: address.certificate, key: address.key))
            try $0.addcert(DtlsCertificateOption(name: "named.example", cert: named.certificate, key: named.key))
        }
        // An address is no SNI.
        var option = DtlsClientOption(rejectUnauthorized: true, ca: authority.certificate, server: "127.0.0.5")
        let result = try await connect(option, to: server)
        if ipcert { _ = try result.get() } else { expectFailure(result, certificate: "IP address mismatch") }
        // A name goes before the address.
        option.server = "named.example"
        _ = try await connect(option, to: server).get()
        option.server = "main.example"
        _ = try await connect(option, to: server).get()
        try await server.stop()
    }
}
