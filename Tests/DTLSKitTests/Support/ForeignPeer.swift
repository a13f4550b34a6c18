import Foundation
import Synchronization

/// The foreign programs that tests talk with.
enum ForeignPeer: CaseIterable, Sendable {
    case openSSL
    case gnuTLS

    /// A UDP port that was free a moment ago. It is none that the kernel gives out (net.ipv4.ip_local_port_range begins at
    /// 32768), so that no server and no client of another test gets it before its own.
    static func freePort() throws -> Int {
        for port in (20_000..<32_000).shuffled() where given.withLock({ $0.insert(port).inserted }) {
            let descriptor = socket(AF_INET, Int32(SOCK_DGRAM.rawValue), 0)
            defer { close(descriptor) }
            var address = sockaddr_in()
            address.sin_family = sa_family_t(AF_INET)
            address.sin_port = UInt16(port).bigEndian
            let code = withUnsafePointer(to: &address) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
                }
            }
            if code == 0 { return port }
        }
        throw NeverHappened(description: "there is no free port")
    }

    private static let given = Mutex<Set<Int>>([])

    /// Starts its server on `port` of the loopback address. What a client sends before it listens is sent again.
    func serve(
        _ identity: TestIdentity, _ authority: TestAuthority, port: Int, wantsCertificate: Bool = false,
        more: [String] = []
    ) throws -> Program {
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
        return try Program(arguments + more, in: authority.folder)
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
            arguments = ["openssl", "s_client", "-dtls1_2", "-connect", "127.0.0.1:\(port)", "-verify_return_error"]
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
