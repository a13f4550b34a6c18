import Foundation
import LinuxSystem
import TestSupport

/// A client or server of Mbed TLS (Programs/mbedtls-peer.c), the stack of most small devices.
struct MbedTLSPeer {
    let program: Program

    /// - Parameter arguments: see the program.
    private init(_ arguments: [String], in folder: TestFolder) async throws {
        let source = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../Programs/mbedtls-peer.c")
        let binary = folder.file("mbedtls-peer")
        if !FileManager.default.fileExists(atPath: binary) {
            try await Program.run(
                ["cc", "-O1", "-o", binary, source.standardized.path, "-lmbedtls", "-lmbedx509", "-lmbedcrypto"],
                in: folder)
        }
        program = try Program([binary] + arguments, in: folder)
    }

    /// A client that takes these steps and ends.
    /// - Parameter options: before the steps, `mfl=1` for example.
    static func client(
        to server: SocketAddress, in folder: TestFolder, options: [String] = [], steps: [String]
    ) async throws -> MbedTLSPeer {
        try await MbedTLSPeer(["client", "\(server)"] + options + ["--"] + steps, in: folder)
    }

    /// A server that listens when this returns.
    /// - Parameter clientAuthority: the certificate that its clients' must be signed by; it gives them tickets then.
    static func server(
        at address: SocketAddress, as identity: Identity, in folder: TestFolder, clientAuthority: String? = nil
    ) async throws -> MbedTLSPeer {
        let peer = try await MbedTLSPeer(
            ["server", "\(address)", identity.certificate, identity.privateKey]
                + (clientAuthority.map { ["ca=\($0)"] } ?? []), in: folder)
        try await eventually("the server of Mbed TLS listens", details: peer.program.errors) {
            peer.output.contains("listening")
        }
        return peer
    }

    /// One line for each thing that has happened.
    var output: [String] { program.output.split(separator: "\n").map(String.init) }

    /// The output, when it has ended.
    func finished() async throws -> [String] {
        _ = try await program.ended()
        return output
    }
}
