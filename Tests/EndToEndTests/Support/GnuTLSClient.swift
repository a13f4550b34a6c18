import LinuxSystem
import TestSupport

/// gnutls-cli, which sends each line that it reads, and prints what it receives.
struct GnuTLSClient {
    let program: Program

    /// It takes any certificate.
    init(to server: SocketAddress, in folder: TestFolder) throws {
        program = try Program(
            ["gnutls-cli", "--udp", "--insecure", "--port", "\(server.port)", server.host], in: folder)
    }

    /// Says a line to an echo, and waits until it has come back.
    func exchange(_ line: String) async throws {
        program.send("\(line)\n")
        try await eventually("gnutls-cli hears '\(line)'", details: program.output + program.errors) {
            program.output.contains("\n\(line)\n")
        }
    }
}
