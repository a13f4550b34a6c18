import DTLSKit
import Foundation
import LinuxSystem
import TestSupport
import Testing

@Suite(.serialized) struct HandshakeReportTests {
    private func withServer(
        _ change: (inout DtlsServerOption) -> Void = { _ in },
        _ work: @escaping @Sendable (DtlsAddress, DtlsClientOption) throws -> Void
    ) async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        var serverOption = DtlsServerOption(cert: identity.certificate, key: identity.key)
        change(&serverOption)
        let server = try await EchoServer(serverOption)
        let option = DtlsClientOption(rejectUnauthorized: true, ca: authority.certificate, server: "localhost")
        try await onThread { try work(server.address, option) }
        try await server.stop()
    }

    @Test func `a client knows its round trips, what was agreed on, and the server's certificate`() async throws {
        try await withServer { address, option in
            var option = option
            option.groups = "P-256"
            option.ciphers = "ECDHE+CHACHA20"
            let client = try Dtls.createClient(option, address)
            defer { client.close() }
            #expect(client.roundTrips.map(\.flight) == [.hello, .helloWithCookie, .keyExchange])
            #expect(client.roundTrips.allSatisfy { $0.duration ?? .zero > .zero })
            let agreement = try #require(client.agreement)
            #expect(agreement.version == "DTLSv1.2" && agreement.group == "secp256r1" && !agreement.isResumed)
            #expect(agreement.cipher.hasSuffix("CHACHA20-POLY1305") && agreement.verificationFault == nil)
            let certificate = try #require(client.serverCertificate)
            #expect(certificate.names.contains("localhost"))
            let now = Int64(Date().timeIntervalSince1970)
            #expect(certificate.notBefore <= now && certificate.notAfter > now)
        }
    }

    @Test func `a refused certificate is known all the same`() async throws {
        try await withServer { address, option in
            var option = option
            option.server = "elsewhere.example"
            let outcome = Outcome()
            let client = try Dtls.createClient(option, address) { result, _ in outcome.result = result }
            while outcome.result == nil { try iosched.poll() }
            guard case .failure(.handshake(_, certificate: let fault?)) = outcome.result else {
                Issue.record("\(String(describing: outcome.result))")
                return
            }
            #expect(fault.contains("hostname"))
            #expect(client.serverCertificate?.names.contains("localhost") == true)
        }
    }

    @Test func `without verification a connection says what is wrong with the certificate`() async throws {
        try await withServer { address, option in
            var option = option
            option.server = "elsewhere.example"
            option.rejectUnauthorized = false
            let client = try Dtls.createClient(option, address)
            defer { client.close() }
            #expect(client.agreement?.verificationFault?.contains("hostname") == true)
        }
    }

    /// By its ID, where the server gives no tickets and has memory for sessions.
    @Test(arguments: [true, false], [1 << 20, 0])
    func `a session is resumed by ticket or ID`(_ hasTickets: Bool, _ cache: Int) async throws {
        try await withServer {
            $0.sessionTickets = hasTickets
            $0.sessionCache = cache
        } _: { address, option in
            var option = option
            option.keepsSession = true
            let first = try Dtls.createClient(option, address)
            option.session = first.resumableSession
            first.close()
            #expect((option.session != nil) == (hasTickets || cache > 0))
            let second = try Dtls.createClient(option, address)
            #expect(second.agreement?.isResumed == (hasTickets || cache > 0))
            second.close()
        }
    }

    @Test func `a session is resumed, by its bytes too, and not with other options`() async throws {
        try await withServer { address, option in
            var option = option
            option.keepsSession = true
            let first = try Dtls.createClient(option, address)
            let session = try #require(first.resumableSession)
            first.close()
            option.session = try DtlsSession(decoding: session.encoded)
            let second = try Dtls.createClient(option, address)
            defer { second.close() }
            #expect(second.agreement?.isResumed == true && second.agreement?.group == nil)
            #expect(second.roundTrips.map(\.flight) == [.hello, .helloWithCookie])
            var other = option
            other.server = "127.0.0.1"
            #expect(!session.fits(other))
            #expect(throws: DtlsError.self) { try Dtls.createClient(other, address) }
            #expect(throws: DtlsError.self) { try DtlsSession(decoding: Array(session.encoded.dropLast())) }
        }
    }

    @Test func `where nobody answers, the flight has no duration and was sent again`() async throws {
        let silent = try DatagramSocket(at: try #require(SocketAddress(host: "127.0.0.1", port: 0)))
        let port = Int(silent.local.port)
        try await onThread {
            let client = try Dtls.createClient(
                DtlsClientOption(handshakeTimeout: 2_000), Dtls.sockaddr("127.0.0.1", port)
            ) {
                _, _ in
            }
            while client.roundTrips.first?.retransmissions != 1 { try iosched.poll(timeout: 100) }
            #expect(client.roundTrips.map(\.flight) == [.hello] && client.roundTrips.first?.duration == nil)
            client.close()
        }
        _ = silent.receive()
    }

    @Test func `groups and sizes that cannot be are refused`() throws {
        for option in [DtlsClientOption(groups: "P-13"), DtlsClientOption(mtu: 100), DtlsClientOption(ciphers: "NONE")]
        {
            #expect(throws: DtlsError.self) { try Dtls.createClient(option, Dtls.sockaddr("127.0.0.1", 9)) }
        }
    }
}

private final class Outcome {
    var result: Result<DtlsConnection, DtlsError>?
}
