import Foundation
import LinuxSystem
import TestSupport

/// Raw public keys (RFC 7250) with the programs of OpenSSL and GnuTLS.
enum RawKeys {
    /// Whether this release's OpenSSL has them, the program as well as the library.
    static let areThere: Bool = {
        let process = Process()
        let pipe = Pipe()
        process.executableURL = URL(filePath: "/usr/bin/env")
        process.arguments = ["openssl", "s_client", "-help"]
        (process.standardError, process.standardOutput) = (pipe, FileHandle.nullDevice)
        guard (try? process.run()) != nil else { return false }
        let text = String(decoding: pipe.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        return text.contains("enable_server_rpk")
    }()

    /// What makes GnuTLS's programs show raw public keys, and take them.
    static let gnutlsPriority = "NORMAL:-CTYPE-ALL:+CTYPE-CLI-RAWPK:+CTYPE-SRV-RAWPK"
}

extension CertificateMaker {
    /// Writes the public key of an identity to a file, in PEM.
    func publicKey(of identity: Identity) async throws -> String {
        let file = identity.privateKey + ".pub"
        try await Program.run(["openssl", "pkey", "-in", identity.privateKey, "-pubout", "-out", file], in: folder)
        return file
    }

    /// SHA-256 of the public key of an identity, in hexadecimal digits.
    func keyFingerprint(of identity: Identity) async throws -> String {
        let der = identity.privateKey + ".der"
        try await Program.run(
            ["openssl", "pkey", "-in", identity.privateKey, "-pubout", "-outform", "DER", "-out", der], in: folder)
        let text = try await Program.run(["sha256sum", der], in: folder)
        return String(text.prefix(64))
    }
}

/// `openssl s_client` that takes any raw public key of the server, and shows its own.
final class RawKeyClient: Sendable {
    let program: Program

    init(to server: SocketAddress, as own: Identity?, in folder: TestFolder, _ arguments: [String] = []) throws {
        program = try Program(
            ["openssl", "s_client", "-dtls1_2", "-quiet", "-no_ign_eof", "-nbio", "-connect", "\(server)"]
                + ["-enable_server_rpk", "-enable_client_rpk"]
                + (own.map { ["-cert", $0.certificate, "-key", $0.privateKey] } ?? []) + arguments, in: folder)
    }

    func exchange(_ line: String, details: @autoclosure () -> String = "") async throws {
        program.send("\(line)\n")
        try await eventually("s_client hears '\(line)'", details: program.errors + details()) {
            program.output.contains("\(line)\n")
        }
    }

    /// Says a line, and waits until the client has ended without an answer.
    /// - Returns: what it has said about that.
    func isRefused() async throws -> String {
        program.send("let me in\n")
        _ = try await program.ended()
        guard program.output.isEmpty else { throw NeverHappened(description: "let in: \(program.output)") }
        return program.errors
    }

    func leave() async throws {
        program.closeInput()
        _ = try await program.ended()
    }
}
