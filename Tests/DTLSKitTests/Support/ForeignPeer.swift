import Foundation
import LinuxSystem
import TestSupport

/// The foreign programs that tests talk with.
enum ForeignPeer: CaseIterable, Sendable {
    case openSSL
    case gnuTLS

    /// A UDP port that nobody else gets before its server. gnutls-serv serves on all addresses of both families.
    static func freePort() throws -> Int { Int(try SocketAddress.free(on: "0.0.0.0", and: "::").port) }

    /// Starts its server on `port`, and waits until it listens: OpenSSL says a hello that is lost again after a second.
    func serve(
        _ identity: TestIdentity, _ authority: TestAuthority, port: Int, wantsCertificate: Bool = false,
        more: [String] = []
    ) async throws -> Program {
        var arguments: [String]
        switch self {
        case .openSSL:
            arguments = ["openssl", "s_server", "-dtls1_2", "-accept", "127.0.0.1:\(port)", "-listen"]
            arguments += ["-cert", identity.certificateFile, "-key", identity.keyFile, "-CAfile", authority.file]
            if wantsCertificate { arguments += ["-Verify", "1", "-verify_return_error"] }
        case .gnuTLS:
            arguments = ["gnutls-serv", "--udp", "--echo", "-p", "\(port)", "--x509cafile", authority.file]
            arguments += ["--x509certfile", identity.certificateFile, "--x509keyfile", identity.keyFile]
            if wantsCertificate { arguments += ["--require-client-cert", "--verify-client-cert"] }
        }
        let server = try Program(arguments + more, in: authority.folder)
        try await eventually("\(server.command) listens", details: server.output + server.errors) {
            guard server.ending == nil else { throw NeverHappened(description: "it ended: \(server.errors)") }
            return ProcessTable.localPorts(of: server.pid).contains(UInt16(port))
        }
        return server
    }

    /// Starts its client, which ends when it does not trust the server.
    /// - Parameters:
    ///   - trusted: the file of the CA that it trusts; `nil`: none.
    ///   - name: the name that it asks for and expects.
    ///   - asking: the name that it asks for, where that is another one.
    func connect(
        to port: Int, trusting trusted: String?, name: String = "localhost", asking: String? = nil,
        showing identity: TestIdentity? = nil, in folder: TestFolder
    ) throws -> Program {
        var arguments: [String]
        switch self {
        case .openSSL:
            // Without -nbio it waits for ever after a datagram that it drops, as a second last flight of its server.
            arguments = [
                "openssl", "s_client", "-dtls1_2", "-nbio", "-connect", "127.0.0.1:\(port)", "-verify_return_error",
            ]
            arguments += ["-servername", asking ?? name, "-verify_hostname", name]
            arguments += trusted.map { ["-CAfile", $0] } ?? ["-no-CAfile", "-no-CApath"]
            if let identity { arguments += ["-cert", identity.certificateFile, "-key", identity.keyFile] }
        case .gnuTLS:
            arguments = ["gnutls-cli", "--udp", "-p", "\(port)"]
            arguments += ["--sni-hostname", asking ?? name, "--verify-hostname", name]
            if let trusted { arguments += ["--x509cafile", trusted] }
            if let identity { arguments += ["--x509certfile", identity.certificateFile] }
            if let identity { arguments += ["--x509keyfile", identity.keyFile] }
            arguments.append("127.0.0.1")
        }
        return try Program(arguments, in: folder)
    }
}
