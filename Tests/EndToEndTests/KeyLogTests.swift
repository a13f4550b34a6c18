import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEndHandshakes {
    /// `key_log_file`: the secrets of connections, for those who ask for them and nobody else.
    @Suite struct KeyLogTests {
        let folder: TestFolder
        let identity: Identity
        let address: SocketAddress

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
            address = try SocketAddress.freeOnOwnLoopback()
        }

        private var service: String { Service(listen: [address], identity: identity).text }

        private func visit(_ arguments: [String] = []) async throws {
            let client = try SecureClient(to: address, trust: identity.certificate, in: folder, arguments)
            try await client.exchange("hello")
        }

        @Test func `both sides write the same secrets`() async throws {
            let daemon = try await Daemon.start("key_log_file = \"keys.log\"\nworkers = 2\n" + service, in: folder)
            try await daemon.logged("warning", "the secrets of all connections are written to", "keys.log")
            var status = stat()
            #expect(stat(folder.file("keys.log"), &status) == 0)
            #expect(status.st_mode & 0o777 == 0o600)
            for _ in 0..<3 { try await visit(["-keylogfile", folder.file("client.log")]) }
            let lines = folder.read("keys.log").split(separator: "\n")
            #expect(lines.count == 3)
            #expect(lines.allSatisfy { $0.wholeMatch(of: /CLIENT_RANDOM [0-9a-f]{64} [0-9a-f]{96}/) != nil })
            // s_client puts a comment above.
            let theirs = folder.read("client.log").split(separator: "\n").filter { !$0.hasPrefix("#") }
            #expect(Set(lines) == Set(theirs))
            try await daemon.stop()
        }

        @Test func `a reload switches the key log on and off`() async throws {
            let daemon = try await Daemon.start(service, in: folder)
            try await visit()
            #expect(!FileManager.default.fileExists(atPath: folder.file("keys.log")))
            #expect(!daemon.logs("secrets"))

            // What --check finds good it does not make.
            let on = "key_log_file = \"keys.log\"\n" + service
            try folder.write(on, to: "checked.toml")
            try await Program.run([Daemon.binary, "--check", "--config", folder.file("checked.toml")], in: folder)
            #expect(!FileManager.default.fileExists(atPath: folder.file("keys.log")))

            try daemon.reload(on)
            try await daemon.logged("reloaded from")
            try await daemon.logged("the secrets of all connections are written to")
            try await visit()
            #expect(folder.read("keys.log").split(separator: "\n").count == 1)

            // A worker that replaces another writes too.
            let workers = daemon.workers
            for worker in workers { kill(worker, SIGKILL) }
            try await eventually("the new workers serve") {
                daemon.workers.count == workers.count && Set(daemon.workers).isDisjoint(with: workers)
            }
            try await visit()
            #expect(folder.read("keys.log").split(separator: "\n").count == 2)

            // One that others can read is refused, and all goes on as it was.
            chmod(folder.file("keys.log"), 0o644)
            daemon.program.signal(SIGHUP)
            try await daemon.logged("key_log_file", "users other than its owner may use")
            chmod(folder.file("keys.log"), 0o600)

            try daemon.reload(service)
            try await daemon.logged("reloaded from", count: 2)
            try await visit()
            #expect(folder.read("keys.log").split(separator: "\n").count == 2)
            try await daemon.stop()
        }
    }
}
