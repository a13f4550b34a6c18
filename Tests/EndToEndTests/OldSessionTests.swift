import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEnd {
    /// What the memory of a worker tells of the sessions of clients that have left.
    @Suite struct OldSessionTests {
        let folder: TestFolder
        let identity: Identity
        let address: SocketAddress

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
            address = try SocketAddress.freeOnOwnLoopback()
        }

        private func visit(_ arguments: [String]) async throws {
            let client = try SecureClient(to: address, trust: identity.certificate, in: folder, arguments)
            try await client.exchange("hello")
            try await client.leave()
        }

        /// The master secret of a session that a client has kept.
        private func masterSecret(of session: String) async throws -> Data {
            let text = try await Program.run(
                ["openssl", "sess_id", "-in", folder.file(session), "-noout", "-text"], in: folder)
            let digits = try #require(text.firstMatch(of: /Master-Key: ([0-9A-F]+)/)?.output.1)
            let pairs = stride(from: 0, to: digits.count, by: 2).map { digits.dropFirst($0).prefix(2) }
            return Data(pairs.compactMap { UInt8($0, radix: 16) })
        }

        /// Sessions with tickets, and with IDs in the table that workers share, from full handshakes and resumed ones.
        @Test(.enabled(if: geteuid() == 0, "only root reads the memory of others"))
        func `who reads the memory of a worker can open no session of a client that has left`() async throws {
            let key = Data((0..<80).map { _ in UInt8.random(in: 0...255) })
            let path = folder.file("tickets.key")
            try key.write(to: URL(fileURLWithPath: path))
            chmod(path, 0o600)
            let daemon = try await Daemon.start(
                "workers = 1\n[tickets]\nkey_file = \"tickets.key\"\n"
                    + Service(listen: [address], identity: identity).text, in: folder)
            var secrets: [Data] = []
            for (index, options) in [[], ["-no_ticket"], [], ["-no_ticket"]].enumerated() {
                let session = "session\(index)"
                try await visit(options + ["-sess_out", folder.file(session)])
                for _ in 0..<2 { try await visit(options + ["-sess_in", folder.file(session)]) }
                secrets.append(try await masterSecret(of: session))
            }
            let resumed = try await daemon.logged("connection opened", count: 12).map { $0.contains("RESUMED=yes") }
            #expect(resumed == (0..<12).map { !$0.isMultiple(of: 3) })
            #expect(Set(secrets).count == 4 && secrets.allSatisfy { $0.count == 48 })
            let worker = try #require(daemon.workers.first)
            // The parts of a ticket key that other programs use, and its beginning and end.
            let parts = [key[..<32], key[16..<48], key[48...]].map { Data($0) }
            #expect(
                try ProcessMemory.search(daemon.program.pid, for: parts).count == 3, "the search finds what is there")
            #expect(try ProcessMemory.search(worker, for: parts) == [])
            #expect(try ProcessMemory.search(worker, for: secrets) == [])
            try await daemon.stop()
        }
    }
}
