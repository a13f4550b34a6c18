import CLinux
import DTLSKit
import Foundation
import LinuxSystem
import TestSupport
import Testing

/// The program DTLSKitTasks, in a folder with its certificate for main.example.
final class TaskServer: Sendable {
    let program: Program
    let port: Int
    let task: pid_t
    let authority: TestAuthority

    init(_ mode: String, connectionID: Int? = nil) async throws {
        authority = try await TestAuthority()
        let identity = try await authority.issue("main", names: "DNS:main.example")
        try authority.folder.write(identity.certificate, to: "cert.pem")
        try authority.folder.write(identity.key, to: "cert.key")
        let program = try Program(
            ["env", "-C", authority.folder.path, "stdbuf", "-oL", Executables.path("DTLSKitTasks"), mode]
                + (connectionID.map { ["\($0)"] } ?? []),
            in: authority.folder)
        self.program = program
        let words = try await eventualValue("it listens", details: program.output + program.errors) {
            program.output.split(separator: "\n").first { $0.hasPrefix("Listening on:") && $0.contains("task") }?
                .split { " :".contains($0) }
        }
        port = try #require(words.dropLast(2).last.flatMap { Int($0) })
        task = try #require(words.last.flatMap { pid_t($0) })
    }

    deinit { kill(task, SIGCONT) }

    func count(_ text: String) -> Int {
        program.output.split(separator: "\n").count { $0.contains(text) }
    }

    func printed(_ text: String, count: Int = 1) async throws {
        try await eventually("\"\(text)\" is printed", details: program.output + program.errors) {
            self.count(text) >= count
        }
    }

    func failure(of name: String) async throws -> DtlsError? {
        let option = DtlsClientOption(rejectUnauthorized: true, ca: authority.certificate, server: name)
        let port = port
        return try await onThread {
            do throws(DtlsError) {
                let client = try Dtls.createClient(option, Dtls.sockaddr("127.0.0.1", port))
                try client.send("hello")
                var buffer = [UInt8](repeating: 0, count: 10)
                #expect(try client.recv(&buffer, timeout: 60_000) == 5)
                client.close()
                return nil
            } catch {
                return error
            }
        }
    }

    func echo(_ peer: ForeignPeer, name: String) async throws {
        let client = try peer.connect(to: port, trusting: authority.file, name: name, in: authority.folder)
        client.send("for \(name)\n")
        try await eventually("the echo comes back", details: client.output + client.errors + program.output) {
            client.output.contains("for \(name)")
        }
        if peer == .openSSL { client.send("Q\n") }
        client.closeInput()
        #expect(try await client.ended() == .exited(0))
    }
}
