import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEnd {
    /// Workers that a reload has made superfluous.
    @Suite struct DrainingWorkerTests {
        @Test func `a draining worker's death is logged`() async throws {
            let folder = try TestFolder()
            let identity = try await CertificateMaker(folder: folder).selfSigned("server")
            let address = try SocketAddress.freeOnOwnLoopback()
            let service = Service(listen: [address], identity: identity, more: "policy = \"legacy\"").text
            let daemon = try await Daemon.start("workers = 3\n" + service, in: folder)
            let clients = try (0..<3).map { _ in
                // Connections with AES-CBC stay with their workers.
                try SecureClient(
                    to: address, trust: identity.certificate, in: folder, ["-cipher", "ECDHE-ECDSA-AES128-SHA"])
            }
            for client in clients { try await client.exchange("one for each worker") }
            func worker(_ number: Int) throws -> pid_t {
                try #require(daemon.workers.first { ProcessTable.name(of: $0) == "dtlsd: worker \(number)" })
            }
            let retired = try (worker(1), worker(2))
            try daemon.reload("workers = 1\n" + service)
            try await daemon.logged("reloaded")
            kill(retired.1, SIGKILL)
            try await daemon.logged(" error main: worker 2 was killed by signal 9", "CONNECTIONS_LOST=1", "draining")

            // One that ends with its last connection has done as it was told.
            for client in clients { client.program.closeInput() }
            try await eventually("worker 1 ends", details: daemon.program.errors) {
                !ProcessTable.isRunning(retired.0)
            }
            try await daemon.stop()
            #expect(!daemon.logs("worker 1 exited"))
        }
    }
}
