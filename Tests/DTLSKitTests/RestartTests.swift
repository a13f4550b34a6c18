import DTLSKit
import Foundation
import TestSupport
import Testing

/// A client that has lost its state comes back on its old port (RFC 6347, section 4.2.8), and its server is a program
/// with the library.
@Suite(.serialized) struct RestartTests {
    private func client(to port: Int, from own: Int, in folder: TestFolder) throws -> Program {
        try Program(
            ["openssl", "s_client", "-dtls1_2", "-nbio", "-connect", "127.0.0.1:\(port)", "-bind", "127.0.0.1:\(own)"],
            in: folder)
    }

    @Test func `a client that has lost its state is served as a new connection`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let server = try await EchoServer(DtlsServerOption(cert: identity.certificate, key: identity.key))
        let port = try ForeignPeer.freePort()
        for life in ["first", "second", "third"] {
            let client = try client(to: server.address.port, from: port, in: authority.folder)
            client.send("\(life) life\n")
            try await eventually("the \(life) life is served", details: client.output + client.errors) {
                client.output.contains("\(life) life")
            }
            // Without a word.
            client.signal(SIGKILL)
            _ = try await client.ended()
        }
        #expect(server.handshakeErrors.isEmpty)
        try await server.stop()
    }
}
