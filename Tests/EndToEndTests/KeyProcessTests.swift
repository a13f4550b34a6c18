import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEnd {
    /// The process that has the private keys: nobody else has them, it signs what handshakes sign and nothing else, and
    /// what happens to it costs handshakes of that moment alone.
    @Suite struct KeyProcessTests {
        let folder: TestFolder
        let identity: Identity
        let address: SocketAddress

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
            address = try SocketAddress.freeOnOwnLoopback()
        }

        private var echo: Service { Service(listen: [address], identity: identity) }

        private func start(workers: Int = 1, more: String = "") async throws -> Daemon {
            try await Daemon.start(
                "workers = \(workers)\n\(more)\n\(echo.text)", in: folder, environment: ["DTLSD_STAND_IN": "1"])
        }

        private func client() throws -> SecureClient {
            try SecureClient(to: address, trust: identity.certificate, in: folder)
        }

        private static func keyProcess(of daemon: Daemon) -> pid_t? {
            ProcessTable.children(of: daemon.program.pid).first {
                ProcessTable.isRunning($0) && ProcessTable.name(of: $0) == "dtlsd: keys"
            }
        }

        /// A new connection is tried until it stands: one that meets the moment without a key process fails.
        private func connectAgain(_ text: String) async throws {
            for _ in 0..<20 {
                if (try? await client().exchange(text)) != nil { return }
            }
            Issue.record("no handshake has succeeded")
        }

        // MARK: Who has the keys

        /// The secret number of an EC key, as files have it.
        private static func secret(of path: String) throws -> Data {
            let lines = try String(contentsOfFile: path, encoding: .utf8).split(separator: "\n")
            let der = try #require(Data(base64Encoded: lines.filter { !$0.hasPrefix("-") }.joined()))
            // ECPrivateKey (RFC 5915): version 1, and an octet string of 32 bytes.
            let start = try #require(der.firstRange(of: Data([2, 1, 1, 4, 32])))
            return der[start.upperBound..<(start.upperBound + 32)]
        }

        @Test(.enabled(if: geteuid() == 0, "only root reads the memory of others"))
        func `no process but the key process has a private key`() async throws {
            let daemon = try await start(workers: 2)
            let clients = try (0..<3).map { _ in try client() }
            for client in clients { try await client.exchange("hello") }
            let secret = try Self.secret(of: identity.privateKey)
            let text = try #require(
                try String(contentsOfFile: identity.privateKey, encoding: .utf8).split(separator: "\n")
                    .first { !$0.hasPrefix("-") })
            // OpenSSL has numbers in memory with their lowest byte first.
            let forms = [secret, Data(secret.reversed()), Data(text.utf8)]
            let keys = try #require(Self.keyProcess(of: daemon))
            #expect(try !ProcessMemory.search(keys, for: forms).isEmpty, "the search finds what is there")
            for pid in [daemon.program.pid] + daemon.workers {
                #expect(try ProcessMemory.search(pid, for: forms) == [], "\(ProcessTable.name(of: pid))")
            }
            try await daemon.stop()
        }

        private static let psk = "00112233445566778899aabbccddeeff"
        private static let bytesOfPSK = Data((0..<16).map { UInt8($0 * 17) })

        /// A service with pre-shared keys alone, which serves until the test ends.
        private func startSharing(workers: Int = 1) async throws -> Daemon {
            try folder.write("sensor-7:\(Self.psk)\nsensor-8:ffeeddccbbaa99887766554433221100\n", to: "keys.psk")
            return try await Daemon.start(
                """
                workers = \(workers)
                [service.echo]
                listen = "\(address)"
                handler = "echo"
                [service.echo.psk]
                file = "keys.psk"

                """, in: folder, environment: ["DTLSD_STAND_IN": "1"])
        }

        private func sharingClient(_ name: String = "sensor-7") throws -> SecureClient {
            try SecureClient(
                to: address, trust: identity.certificate, in: folder, ["-psk_identity", name, "-psk", Self.psk])
        }

        @Test(.enabled(if: geteuid() == 0, "only root reads the memory of others"))
        func `no process but the key process has the file of pre-shared keys`() async throws {
            let daemon = try await startSharing(workers: 2)
            let other = Data("ffeeddccbbaa99887766554433221100".utf8)
            let otherBytes = Data((0..<16).map { UInt8(255 - $0 * 17) })
            let client = try sharingClient()
            try await client.exchange("hello")
            try await daemon.logged("connection opened", "CLIENT=sensor-7")
            let keys = try #require(Self.keyProcess(of: daemon))
            #expect(try ProcessMemory.search(keys, for: [otherBytes, Self.bytesOfPSK]) == [0, 1])
            for pid in [daemon.program.pid] + daemon.workers {
                #expect(try ProcessMemory.search(pid, for: [other, otherBytes]) == [], "\(ProcessTable.name(of: pid))")
            }
            // The main process has not even that of the client which is there.
            #expect(try ProcessMemory.search(daemon.program.pid, for: [Self.bytesOfPSK]) == [])
            try await daemon.stop()
        }

        @Test func `an identity without a key is refused, and others go on`() async throws {
            let daemon = try await startSharing()
            let first = try sharingClient()
            try await first.exchange("one")
            _ = try await sharingClient("nobody").program.ended()
            try await daemon.logged("unknown PSK identity \"nobody\"")
            let keys = try #require(Self.keyProcess(of: daemon))
            kill(keys, SIGKILL)
            try await daemon.logged("the key process has ended", "signal 9")
            try await first.exchange("two")
            for _ in 0..<20 where (try? await sharingClient().exchange("three")) == nil {}
            try await sharingClient().exchange("four")
            try await daemon.stop()
        }

        @Test(.enabled(if: geteuid() == 0, "a bounding set is root's to change"))
        func `the key process has no rights, in any of its threads`() async throws {
            chmod(folder.path, 0o755)
            chmod(identity.certificate, 0o644)
            chown(identity.privateKey, 0, 65_534)
            chmod(identity.privateKey, 0o640)
            let daemon = try await start(more: "user = \"65534\"\ngroup = \"65534\"\n[control]\npath = \"\"\n")
            try await client().exchange("hello")
            let keys = try #require(Self.keyProcess(of: daemon))
            let threads = try FileManager.default.contentsOfDirectory(atPath: "/proc/\(keys)/task")
            #expect(threads.count > 1)
            for thread in threads {
                let lines = ProcessTable.text(of: "/proc/\(keys)/task/\(thread)/status").split(separator: "\n")
                for expected in [
                    "NoNewPrivs:\t1", "Seccomp:\t2", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000",
                    "Uid:\t65534\t65534\t65534\t65534",
                ] {
                    #expect(lines.contains { $0 == expected }, "\(expected)")
                }
            }
            var owner = stat()
            #expect(stat("/proc/\(keys)/mem", &owner) == 0 && owner.st_uid == 0)
            #expect(daemon.lines(with: "the kernel does not keep").isEmpty)
            try await daemon.stop()
        }

        // MARK: What it signs

        private static func digits(_ bytes: [UInt8]) -> String {
            "x" + bytes.map { String(format: "%02x", $0) }.joined()
        }

        /// A request for a signature of these bytes, as a worker sends it.
        private static func signing(_ content: [UInt8]) -> String {
            let count = UInt32(content.count)
            return digits(
                [3] + [UInt8](repeating: 7, count: 32) + [4, 0]
                    + (0..<4).map { UInt8(truncatingIfNeeded: count >> (8 * $0)) } + content)
        }

        @Test(
            .enabled(if: Daemon.hasStandIn),
            arguments: [
                "xff", "x03", signing([UInt8](repeating: 7, count: 32)), signing(Array("{\"alg\":\"ES256\"}.{}".utf8)),
                signing([UInt8](repeating: 32, count: 64) + "TLS 1.3, server CertificateVerify\0".utf8),
            ])
        func `a worker that asks for any other signature is ended, and nothing else`(_ request: String) async throws {
            let daemon = try await start()
            let (client, worker) = (try client(), try #require(daemon.workers.first))
            try await client.exchange("hello")
            let keys = Self.keyProcess(of: daemon)
            client.say("stand-in: ask \(request)")
            try await daemon.logged("worker 0 has asked the key process for", "WORKER_PID=\(worker)")
            try await eventually("there is another worker", details: daemon.program.errors) {
                daemon.workers.count == 1 && daemon.workers != [worker]
            }
            try await client.exchange("hello again")
            try await connectAgain("and hello")
            #expect(Self.keyProcess(of: daemon) == keys)
            try await daemon.stop()
        }

        @Test(.enabled(if: Daemon.hasStandIn))
        func `a worker gets no signature with a key that there is not`() async throws {
            let daemon = try await start()
            let client = try client()
            let random = [UInt8](repeating: 5, count: 64)
            let request = Self.signing(random + [3, 0, 29, 32] + [UInt8](repeating: 9, count: 32))
            try await client.exchange("stand-in: ask \(request)", answer: "ask \(request): answer 1")
            try await client.exchange("hello")
            try await daemon.stop()
        }

        // MARK: What happens to it

        @Test func `a key process that dies is replaced, and connections go on`() async throws {
            let daemon = try await start(workers: 2)
            let first = try client()
            try await first.exchange("one")
            for round in 0..<3 {
                let keys = try await eventualValue("there is a key process", details: daemon.program.errors) {
                    Self.keyProcess(of: daemon)
                }
                kill(keys, SIGKILL)
                try await first.exchange("still here \(round)")
                try await daemon.logged("the key process has ended", "signal 9", count: round + 1)
                try await eventually("there is another one", details: daemon.program.errors) {
                    Self.keyProcess(of: daemon).map { $0 != keys } ?? false
                }
                try await connectAgain("new \(round)")
            }
            #expect(daemon.lines(with: "worker", "signal").isEmpty)
            try await daemon.stop()
        }

        @Test func `a key process that does not answer is replaced`() async throws {
            let daemon = try await start()
            let first = try client()
            try await first.exchange("one")
            let keys = try #require(Self.keyProcess(of: daemon))
            kill(keys, SIGSTOP)
            try await daemon.logged("the key process does not answer, and is killed")
            try await eventually("there is another one", details: daemon.program.errors) {
                Self.keyProcess(of: daemon).map { $0 != keys } ?? false
            }
            try await first.exchange("two")
            try await connectAgain("three")
            try await daemon.stop()
        }

        @Test func `a reload with another key is served by it`() async throws {
            let daemon = try await start()
            let first = try client()
            try await first.exchange("one")
            let other = try await CertificateMaker(folder: folder).selfSigned("other")
            try daemon.reload("workers = 1\n" + Service(listen: [address], identity: other).text)
            try await daemon.logged("configuration and certificates reloaded")
            try await SecureClient(to: address, trust: other.certificate, in: folder).exchange("two")
            try await first.exchange("three")
            try await daemon.stop()
        }
    }
}
