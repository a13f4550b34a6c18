import DTLSKit
import Foundation
import TestSupport
import Testing

/// What our server makes of what the clients of OpenSSL and GnuTLS do wrong, or find wrong with it.
@Suite(.serialized) struct InteropClientErrorTests {
    @Test(arguments: ForeignPeer.allCases, Fault.allCases)
    func `our server says why a client of another library has refused it`(_ peer: ForeignPeer, _ fault: Fault)
        async throws
    {
        let authority = try await TestAuthority()
        let identity = try await authority.issue(fault)
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
    func `our server refuses a client of another library without a certificate that it trusts`(
        _ peer: ForeignPeer, _ ofAStranger: Bool
    ) async throws {
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
}
