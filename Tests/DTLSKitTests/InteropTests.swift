import DTLSKit
import Foundation
import TestSupport
import Testing

/// Handshake, messages and close, both ways, with the programs of OpenSSL and GnuTLS.
@Suite(.serialized) struct InteropTests {
    struct Case: Sendable, CustomTestStringConvertible {
        let peer: ForeignPeer
        let kind: TestAuthority.Kind
        let withClientCertificate: Bool

        var testDescription: String {
            "\(peer) \(kind)\(withClientCertificate ? " with a client certificate" : "")"
        }

        static let all = ForeignPeer.allCases.flatMap { peer in
            [TestAuthority.Kind.ecdsa, .rsa].flatMap { kind in
                [false, true].map { Case(peer: peer, kind: kind, withClientCertificate: $0) }
            }
        }
    }

    @Test(arguments: Case.all) func `clients of other libraries talk to our server`(_ test: Case) async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server", kind: test.kind)
        let own = try await authority.issue("client", kind: test.kind)
        let server = try await EchoServer(
            DtlsServerOption(
                ca: test.withClientCertificate ? authority.certificate : nil, cert: identity.certificate,
                key: identity.key))
        let port = server.address.port
        var arguments: [String]
        switch test.peer {
        case .openSSL:
            arguments = [
                "openssl", "s_client", "-dtls", "-nbio", "-connect", "127.0.0.1:\(port)", "-CAfile", authority.file,
            ]
            arguments += ["-verify_return_error", "-verify_hostname", "localhost", "-servername", "localhost"]
            if test.withClientCertificate { arguments += ["-cert", own.certificateFile, "-key", own.keyFile] }
        case .gnuTLS:
            arguments = ["gnutls-cli", "--udp", "-p", "\(port)", "--x509cafile", authority.file]
            if test.withClientCertificate {
                arguments += ["--x509certfile", own.certificateFile, "--x509keyfile", own.keyFile]
            }
            arguments.append("localhost")
        }
        let client = try Program(arguments, in: authority.folder)
        client.send("from their client\n")
        // The text comes back once from the server; gnutls-cli and s_client do not echo their input.
        try await eventually("the echo comes back", details: client.output + client.errors) {
            client.output.contains("from their client")
        }
        client.send(test.peer == .openSSL ? "Q\n" : "")
        client.closeInput()
        #expect(try await client.ended() == .exited(0))
        #expect(server.handshakeErrors.isEmpty)
        try await server.stop()
    }

    @Test(arguments: Case.all) func `our client talks to servers of other libraries`(_ test: Case) async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server", kind: test.kind)
        let own = try await authority.issue("client", kind: test.kind)
        let port = try ForeignPeer.freePort()
        let server = try await test.peer.serve(
            identity, authority, port: port, wantsCertificate: test.withClientCertificate,
            more: test.peer == .openSSL ? ["-quiet"] : [])
        let option = DtlsClientOption(
            rejectUnauthorized: true, ca: authority.certificate, server: "localhost",
            cert: test.withClientCertificate ? own.certificate : nil,
            key: test.withClientCertificate ? own.key : nil)
        async let conversation = onThread {
            let address = try Dtls.sockaddr("127.0.0.1", port)
            let client = try Dtls.createClient(option, address, timeout: 60_000)
            try client.send("to their server\n")
            var buffer = [UInt8](repeating: 0, count: 1_000)
            let count = try client.recv(&buffer, timeout: 60_000)
            client.close()
            return String(decoding: buffer[..<count], as: UTF8.self)
        }
        if test.peer == .openSSL {
            try await eventually("s_server prints it", details: server.output + server.errors) {
                server.output.contains("to their server")
            }
            server.send("from their server\n")
        }
        let answer = try await conversation
        #expect(answer == (test.peer == .openSSL ? "from" : "to") + " their server\n", "\(server.errors)")
        #expect(server.ending == nil, "the server lives on: \(server.errors)")
    }

    @Test func `our client says why a server of another library has refused it`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let port = try ForeignPeer.freePort()
        let server = try await ForeignPeer.openSSL.serve(
            identity, authority, port: port, wantsCertificate: true, more: ["-quiet"])
        try await onThread {
            let error = #expect(throws: DtlsError.self) {
                _ = try Dtls.createClient(DtlsClientOption(), Dtls.sockaddr("127.0.0.1", port), timeout: 60_000)
            }
            guard case .handshake(let reason, nil) = error else {
                Issue.record("\(String(describing: error))")
                return
            }
            #expect(reason.contains("handshake failure") || reason.contains("certificate"), "\(reason)")
        }
        _ = server
    }

    /// s_client asks for a new handshake with "R".
    @Test(arguments: [true, false]) func `our server renegotiates only where it is allowed`(_ allowed: Bool)
        async throws
    {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let server = try await EchoServer(
            DtlsServerOption(cert: identity.certificate, key: identity.key, renegotiate: allowed))
        let client = try Program(
            ["openssl", "s_client", "-dtls", "-nbio", "-connect", "127.0.0.1:\(server.address.port)"],
            in: authority.folder)
        client.send("before\n")
        try await eventually("the echo comes back", details: client.output + client.errors) {
            client.output.contains("before")
        }
        client.send("R\n")
        try await eventually("it asks again", details: client.output + client.errors) {
            client.errors.contains("RENEGOTIATING")
        }
        if allowed {
            var questions = 0
            try await eventually("the echo comes back", details: client.output + client.errors) {
                // A message that is sent in the middle of a handshake may be lost, so it is sent once a second.
                if questions % 100 == 0 { client.send("afterwards\n") }
                questions += 1
                return client.output.contains("afterwards")
            }
            client.send("Q\n")
            #expect(try await client.ended() == .exited(0))
        } else {
            #expect(try await client.ended() != .exited(0))
            #expect(client.errors.contains("no renegotiation"), "\(client.errors)")
        }
        try await server.stop()
    }

    /// s_server asks for a new handshake with "r"; it prints each message of a handshake.
    @Test(arguments: [true, false]) func `our client renegotiates with a server of another library where it is allowed`(
        _ allowed: Bool
    ) async throws {
        let authority = try await TestAuthority()
        let port = try ForeignPeer.freePort()
        let server = try await ForeignPeer.openSSL.serve(
            authority.issue("server"), authority, port: port, more: ["-msg"])
        async let outcome = onThread {
            let client = try Dtls.createClient(
                DtlsClientOption(renegotiate: allowed), Dtls.sockaddr("127.0.0.1", port))
            defer { client.close() }
            try client.send("before\n")
            var buffer = [UInt8](repeating: 0, count: 1_000)
            do throws(DtlsError) {
                let count = try client.recv(&buffer, timeout: 60_000)
                try client.send("afterwards\n")
                return String(decoding: buffer[..<count], as: UTF8.self)
            } catch {
                return "\(error)"
            }
        }
        // Before each Finished comes a ChangeCipherSpec, content type 20, which not every version calls by its name.
        func finished() -> Int {
            server.output.split(separator: "\n").count {
                $0.hasPrefix("<<<") && ($0.contains("content_type=20") || $0.contains("ChangeCipherSpec"))
            }
        }
        try await eventually("it arrives", details: server.output + server.errors) { server.output.contains("before") }
        #expect(finished() == 1, "\(server.output)")
        server.send("r\n")
        if allowed {
            try await eventually("the second handshake", details: server.output + server.errors) { finished() == 2 }
            server.send("all is well\n")
            #expect(try await outcome == "all is well\n")
            try await eventually("it arrives", details: server.output) { server.output.contains("afterwards") }
        } else {
            try await eventually("it is refused", details: server.output + server.errors) {
                server.output.contains("no_renegotiation") || server.errors.contains("no renegotiation")
            }
            server.send("all is well\n")
            let text = try await outcome
            #expect(
                text == "all is well\n" || text == "\(DtlsError.closed)" || text.hasPrefix("the connection broke"),
                "\(text)")
            #expect(finished() == 1)
        }
    }
}
