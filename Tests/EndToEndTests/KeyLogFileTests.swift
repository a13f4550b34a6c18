import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEndHandshakes {
    /// Which file of `key_log_file` workers have open, when it is changed while connections last.
    @Suite struct KeyLogFileTests {
        let folder: TestFolder
        let identity: Identity
        let address: SocketAddress

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
            address = try SocketAddress.freeOnOwnLoopback()
        }

        /// The files of the test's folder that the worker has open, by their names now.
        private func openFiles(_ daemon: Daemon) throws -> [String] {
            let worker = try #require(daemon.workers.first)
            let folder = "/proc/\(worker)/fd"
            return try FileManager.default.contentsOfDirectory(atPath: folder)
                .compactMap { try? FileManager.default.destinationOfSymbolicLink(atPath: "\(folder)/\($0)") }
                .filter { $0.hasSuffix(".log") && $0.hasPrefix(self.folder.file("")) }
                .map { String($0.dropFirst(self.folder.file("").count)) }
        }

        @Test func `a worker has one key log open, however many connections of earlier configurations it has`()
            async throws
        {
            let service = "workers = 1\n" + Service(listen: [address], identity: identity).text
            let logging = "key_log_file = \"keys.log\"\n" + service
            let daemon = try await Daemon.start(logging, in: folder)
            var lasting: [SecureClient] = []
            for round in 1...3 {
                let client = try SecureClient(to: address, trust: identity.certificate, in: folder)
                try await client.exchange("hello \(round)")
                lasting.append(client)
                #expect(try openFiles(daemon) == ["keys.log"])
                #expect(folder.read("keys.log").split(separator: "\n").count == 1)
                // As logrotate does it.
                #expect(rename(folder.file("keys.log"), folder.file("keys.\(round).log")) == 0)
                try daemon.reload(logging)
                try await daemon.logged("configuration and certificates reloaded", count: round)
            }
            try daemon.reload(service)
            try await daemon.logged("configuration and certificates reloaded", count: 4)
            #expect(try openFiles(daemon).isEmpty)
            for client in lasting { try await client.exchange("I am still here") }
            try await lasting.leave()
            try await daemon.stop()
        }
    }
}
