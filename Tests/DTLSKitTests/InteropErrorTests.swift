import DTLSKit
import Foundation
import Testing

/// What goes wrong between us and the programs of OpenSSL and GnuTLS, and which error it ends in on our side.
@Suite struct InteropErrorTests {
    /// What is wrong with a server's certificate, in the eyes of its client.
    enum Fault: CaseIterable, Sendable {
        case wrongName
        case expired
        case untrusted

        /// What OpenSSL calls it.
        var reasons: [String] {
            switch self {
            case .wrongName: ["ostname mismatch"]
            case .expired: ["certificate has expired"]
            // s_server sends its CA along, gnutls-serv does not.
            case .untrusted: ["self-signed certificate in certificate chain", "unable to get local issuer"]
            }
        }
    }

    private func issue(_ fault: Fault, by authority: TestAuthority) async throws -> TestIdentity {
        try await authority.issue("server", days: fault == .expired ? -1 : 30)
    }

    private func failure(_ option: DtlsClientOption, port: Int) async throws -> DtlsError? {
        try await onThread {
            do throws(DtlsError) {
                let client = try Dtls.createClient(option, Dtls.sockaddr("127.0.0.1", port))
                client.close()
                return nil
            } catch {
                return error
            }
        }
    }

    // MARK: Our client

    @Test(arguments: ForeignPeer.allCases, Fault.allCases)
    func ourClientRefusesTheirServer(_ peer: ForeignPeer, _ fault: Fault) async throws {
        let authority = try await TestAuthority()
        let stranger = try await TestAuthority()
        let port = try ForeignPeer.freePort()
        let server = try peer.serve(try await issue(fault, by: authority), authority, port: port)
        let error = try await failure(
            DtlsClientOption(
                rejectUnauthorized: true, ca: (fault == .untrusted ? stranger : authority).certificate,
                server: fault == .wrongName ? "elsewhere.example" : "localhost"),
            port: port)
        guard case .handshake(let reason, let certificate?) = error else {
            Issue.record("\(String(describing: error)) \(server.errors)")
            return
        }
        #expect(reason.contains("certificate verify failed"), "\(reason)")
        #expect(fault.reasons.contains { certificate.contains($0) }, "\(certificate)")
    }

    @Test(arguments: [false, true])
    func openSSLWantsAnotherCertificate(_ ofAStranger: Bool) async throws {
        let authority = try await TestAuthority()
        let stranger = try await TestAuthority()
        defer { withExtendedLifetime(stranger) {} }
        let own = try await stranger.issue("client")
        let port = try ForeignPeer.freePort()
        let server = try ForeignPeer.openSSL.serve(
            try await authority.issue("server"), authority, port: port, wantsCertificate: true)
        let error = try await failure(
            DtlsClientOption(cert: ofAStranger ? own.certificate : nil, key: ofAStranger ? own.key : nil), port: port)
        guard case .handshake(let reason, nil) = error else {
            Issue.record("\(String(describing: error)) \(server.errors)")
            return
        }
        #expect(reason.contains("alert"), "the server's own word: \(reason)")
    }

    /// gnutls-serv says nothing to a client without a certificate, and is not heard of again.
    @Test(arguments: [false, true])
    func gnuTLSWantsAnotherCertificate(_ ofAStranger: Bool) async throws {
        let authority = try await TestAuthority()
        let stranger = try await TestAuthority()
        defer { withExtendedLifetime(stranger) {} }
        let own = try await stranger.issue("client")
        let port = try ForeignPeer.freePort()
        let server = try ForeignPeer.gnuTLS.serve(
            try await authority.issue("server"), authority, port: port, wantsCertificate: true)
        let option = DtlsClientOption(
            handshakeTimeout: 2_000, cert: ofAStranger ? own.certificate : nil, key: ofAStranger ? own.key : nil)
        // On a busy machine two seconds may be too few to come as far as the certificate.
        for _ in 0..<30 {
            let error = try await failure(option, port: port)
            switch error {
            case .timedOut("the handshake", _): break
            case .handshake(let reason, nil) where ofAStranger && reason.contains("alert"): return
            default: Issue.record("\(String(describing: error)) \(server.errors)")
            }
            if server.errors.contains("Error in handshake") { break }
        }
        #expect(server.errors.contains("Error in handshake"), "\(server.errors)")
    }

    /// s_server has two certificates: one for a name, and one for clients that ask for none.
    @Test func theirServerHasTwoNames() async throws {
        let authority = try await TestAuthority()
        let main = try await authority.issue("main", names: "IP:127.0.0.1")
        let other = try await authority.issue("other", names: "DNS:other.example", kind: .rsa)
        var option = DtlsClientOption(rejectUnauthorized: true, ca: authority.certificate)
        // An address is not asked for, but the certificate is to have it. For the last name s_server has none: it warns,
        // and OpenSSL 3.0 takes its one warning for too many, in s_client too. Later versions go on to the certificate.
        for name in ["127.0.0.1", "other.example", "third.example"] {
            let port = try ForeignPeer.freePort()
            let server = try ForeignPeer.openSSL.serve(
                main, authority, port: port,
                more: ["-servername", "other.example", "-cert2", other.certificateFile, "-key2", other.keyFile])
            option.server = name
            let error = try await failure(option, port: port)
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

    // MARK: Our server

    @Test(arguments: ForeignPeer.allCases, Fault.allCases)
    func theirClientRefusesOurServer(_ peer: ForeignPeer, _ fault: Fault) async throws {
        let authority = try await TestAuthority()
        let identity = try await issue(fault, by: authority)
        let server = try await EchoServer(DtlsServerOption(cert: identity.certificate, key: identity.key))
        let client = try peer.connect(
            to: server.address.port, trusting: fault == .untrusted ? nil : authority.file,
            name: fault == .wrongName ? "elsewhere.example" : "localhost", in: authority.folder)
        #expect(try await client.ended() != .exited(0))
        try await eventually("the server hears of it", details: client.output + client.errors) {
            !server.handshakeErrors.isEmpty
        }
        guard case .handshake(let reason, nil)? = server.handshakeErrors.first else {
            Issue.record("\(server.handshakeErrors)")
            return
        }
        #expect(reason.contains("alert"), "the client's own word: \(reason)")
        #expect(server.handshakeErrors.count == 1)
        try await server.stop()
    }

    @Test(arguments: ForeignPeer.allCases, [false, true])
    func theirClientShowsAnotherCertificate(_ peer: ForeignPeer, _ ofAStranger: Bool) async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let stranger = try await TestAuthority()
        defer { withExtendedLifetime(stranger) {} }
        let own = try await stranger.issue("client")
        let server = try await EchoServer(
            DtlsServerOption(ca: authority.certificate, cert: identity.certificate, key: identity.key))
        let client = try peer.connect(
            to: server.address.port, trusting: authority.file, showing: ofAStranger ? own : nil, in: authority.folder)
        #expect(try await client.ended() != .exited(0))
        try await eventually("the server says why", details: client.output + client.errors) {
            !server.handshakeErrors.isEmpty
        }
        guard case .handshake(let reason, _)? = server.handshakeErrors.first else {
            Issue.record("\(server.handshakeErrors)")
            return
        }
        #expect(
            reason.contains(ofAStranger ? "certificate verify failed" : "peer did not return a certificate"),
            "\(reason)")
        try await server.stop()
    }

    @Test(arguments: ForeignPeer.allCases) func ourServerHasTwoNames(_ peer: ForeignPeer) async throws {
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
    @Test(arguments: [nil, "wrong"]) func keysOfAnotherPassword(_ password: String?) async throws {
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
