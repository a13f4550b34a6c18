import DTLSKit
import Foundation
import TestSupport
import Testing

/// What our client makes of what the servers of OpenSSL and GnuTLS do wrong, or find wrong with it.
@Suite(.serialized) struct InteropServerErrorTests {
    @Test(arguments: ForeignPeer.allCases, Fault.allCases)
    func `our client says why it refuses a server of another library`(_ peer: ForeignPeer, _ fault: Fault) async throws
    {
        let authority = try await TestAuthority()
        let stranger = try await TestAuthority()
        let port = try ForeignPeer.freePort()
        let server = try await peer.serve(authority.issue(fault), authority, port: port)
        let error = try await DtlsClientOption(
            rejectUnauthorized: true, ca: (fault == .untrusted ? stranger : authority).certificate,
            server: fault == .wrongName ? "elsewhere.example" : "localhost"
        ).failure(port: port)
        guard case .handshake(let reason, let certificate?) = error else {
            Issue.record("\(String(describing: error)) \(server.errors)")
            return
        }
        #expect(reason.contains("certificate verify failed"), "\(reason)")
        #expect(fault.reasons.contains { certificate.contains($0) }, "\(certificate)")
    }

    @Test(arguments: [false, true])
    func `an OpenSSL server refuses a client without a certificate that it trusts`(_ ofAStranger: Bool) async throws {
        let authority = try await TestAuthority()
        let stranger = try await TestAuthority()
        defer { withExtendedLifetime(stranger) {} }
        let own = try await stranger.issue("client")
        let port = try ForeignPeer.freePort()
        let server = try await ForeignPeer.openSSL.serve(
            authority.issue("server"), authority, port: port, wantsCertificate: true)
        let error = try await DtlsClientOption(
            cert: ofAStranger ? own.certificate : nil, key: ofAStranger ? own.key : nil
        ).failure(port: port)
        guard case .handshake(let reason, nil) = error else {
            Issue.record("\(String(describing: error)) \(server.errors)")
            return
        }
        #expect(reason.contains("alert"), "the server's own word: \(reason)")
    }

    /// gnutls-serv says nothing to a client without a certificate, and is not heard of again.
    @Test(arguments: [false, true])
    func `a GnuTLS server refuses a client without a certificate that it trusts`(_ ofAStranger: Bool) async throws {
        let authority = try await TestAuthority()
        let stranger = try await TestAuthority()
        defer { withExtendedLifetime(stranger) {} }
        let own = try await stranger.issue("client")
        let port = try ForeignPeer.freePort()
        let server = try await ForeignPeer.gnuTLS.serve(
            authority.issue("server"), authority, port: port, wantsCertificate: true)
        let option = DtlsClientOption(
            handshakeTimeout: 2_000, cert: ofAStranger ? own.certificate : nil, key: ofAStranger ? own.key : nil)
        // On a busy machine two seconds may be too few to come as far as the certificate.
        for _ in 0..<30 {
            let error = try await option.failure(port: port)
            switch error {
            case .timedOut("the handshake", _): break
            case .handshake(let reason, nil) where ofAStranger && reason.contains("alert"): return
            default: Issue.record("\(String(describing: error)) \(server.errors)")
            }
            if server.errors.contains("Error in handshake") { break }
        }
        #expect(server.errors.contains("Error in handshake"), "\(server.errors)")
    }
}
