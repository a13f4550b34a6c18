import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEndClientMode {
    /// config/examples/authorize with the databases that the programs there ask.
    @Suite struct AuthorizeExampleTests {
        let folder: TestFolder
        let identity: Identity
        let member: Identity
        let fingerprint: String
        let address: SocketAddress
        private static let key = "00112233445566778899aabbccddeeff"

        init() async throws {
            folder = try TestFolder()
            let maker = CertificateMaker(folder: folder)
            identity = try await maker.selfSigned("localhost")
            let authority = try await maker.authority("authority")
            member = try await maker.issued(
                "member", by: authority, extensions: ["keyUsage = digitalSignature"])
            fingerprint = try await maker.fingerprint(of: member).replacing(":", with: "").lowercased()
            address = try SocketAddress.freeOnOwnLoopback()
        }

        private var path: String { folder.file("authz.sock") }

        private var service: String {
            """
            [service.echo]
            listen = "\(address)"
            certificate = "\(identity.certificate)"
            private_key = "\(identity.privateKey)"
            ca = "authority.pem"
            handler = "echo"
            authorize = { server = "unix:\(path)", timeout = 10 }
            [service.echo.psk]

            """
        }

        /// One of the programs of config/examples/authorize.
        private func program(_ name: String, _ arguments: [String]) async throws -> Program {
            let examples = URL(filePath: #filePath).deletingLastPathComponent()
                .appending(path: "../../../config/examples/authorize").standardized.path
            let program = try Program(["\(examples)/\(name)", "--socket", path] + arguments, in: folder)
            try await eventually("\(name) answers", details: program.errors) {
                program.errors.contains("answering") || program.ending != nil
            }
            return program
        }

        private func keyClient(_ name: String) throws -> SecureClient {
            try SecureClient(
                to: address, trust: identity.certificate, in: folder,
                ["-psk_identity", name, "-psk", Self.key, "-cipher", "PSK"])
        }

        private func memberClient() throws -> SecureClient {
            try SecureClient(
                to: address, trust: identity.certificate, in: folder,
                [
                    "-cert", member.certificate, "-key", member.privateKey, "-cipher",
                    "ECDHE-ECDSA-AES128-GCM-SHA256",
                ])
        }

        private func expectRefusal(_ client: SecureClient, _ alert: String) async throws {
            _ = try await client.program.ended()
            #expect(client.program.errors.contains(alert), "\(client.transcript)")
        }

        /// - Parameters:
        ///   - add: puts sensor-7 with its key and the label gold, and the certificate with the label silver, into the
        ///     database.
        ///   - remove: takes sensor-7 out of it.
        private func expectAnswers(
            _ connector: Program, add: () async throws -> Void, remove: () async throws -> Void
        ) async throws {
            let daemon = try await Daemon.start(service, in: folder)
            try await expectRefusal(try keyClient("sensor-7"), "unknown psk identity")
            try await daemon.logged("handshake failed", "the identity is not in the database")
            try await expectRefusal(try memberClient(), "access denied")
            try await add()
            try await keyClient("sensor-7").exchange("hello")
            try await daemon.logged("connection opened", "CLIENT=sensor-7", "LABEL=gold")
            try await memberClient().exchange("hello")
            try await daemon.logged("connection opened", "CLIENT=member", "LABEL=silver")
            try await remove()
            try await expectRefusal(try keyClient("sensor-7"), "unknown psk identity")
            #expect(connector.ending == nil, "\(connector.errors)")
            try await daemon.stop()
        }

        @Test func `who may come in is in Redis`() async throws {
            let socket = folder.file("redis.sock")
            let server = try Program(
                [
                    "redis-server", "--port", "0", "--unixsocket", socket, "--save", "", "--dir", folder.path,
                ], in: folder)
            func redis(_ words: String...) async throws {
                _ = try await Program.run(["redis-cli", "-e", "-s", socket] + words, in: folder)
            }
            try await repeatedly("Redis answers") { (try? await redis("PING")) != nil }
            let connector = try await program(
                "dtlsd-authorize-redis", ["--url", "unix://\(socket)", "--ttl", "0"])
            try await expectAnswers(
                connector,
                add: {
                    try await redis("HSET", "dtlsd:psk", "sensor-7", Self.key)
                    try await redis("HSET", "dtlsd:labels", "sensor-7", "gold")
                    try await redis("HSET", "dtlsd:certificates", fingerprint, "silver")
                }, remove: { try await redis("HDEL", "dtlsd:psk", "sensor-7") })
            #expect(server.ending == nil)
        }

        @Test func `who may come in is in PostgreSQL`() async throws {
            let database = try PostgreSQL()
            try await database.start()
            try await database.run(
                """
                CREATE TABLE dtlsd_clients (
                    client text PRIMARY KEY, key bytea, label text, allowed boolean NOT NULL DEFAULT true)
                """)
            let connector = try await program(
                "dtlsd-authorize-postgresql",
                ["--dsn", "host=\(database.folder) user=postgres dbname=postgres", "--ttl", "0"])
            try await expectAnswers(
                connector,
                add: {
                    try await database.run(
                        "INSERT INTO dtlsd_clients VALUES ('sensor-7', '\\x\(Self.key)', 'gold'),"
                            + " ('\(fingerprint)', NULL, 'silver')")
                },
                remove: {
                    try await database.run(
                        "UPDATE dtlsd_clients SET allowed = false WHERE client = 'sensor-7'")
                })
        }
    }

    /// A PostgreSQL server of the test's own, over a Unix socket alone. It does not run as root.
    private final class PostgreSQL {
        let folder: String
        private let files: TestFolder
        private var server: Program?
        private let binaries: String

        init() throws {
            files = try TestFolder()
            folder = "/tmp/dtlsd-postgresql-\(UUID().uuidString)"
            try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
            let versions = try FileManager.default.contentsOfDirectory(atPath: "/usr/lib/postgresql")
            let newest = try #require(versions.compactMap(Int.init).max())
            binaries = "/usr/lib/postgresql/\(newest)/bin"
        }

        deinit {
            server?.signal(SIGKILL)
            try? FileManager.default.removeItem(atPath: folder)
        }

        private var prefix: [String] {
            geteuid() == 0
                ? [
                    "setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "env", "-C", folder,
                ] : []
        }

        func start() async throws {
            if geteuid() == 0 { _ = try await Program.run(["chown", "postgres", folder], in: files) }
            _ = try await Program.run(
                prefix + [
                    "\(binaries)/initdb", "-N", "-A", "trust", "-U", "postgres", "-D", "\(folder)/data",
                ], in: files)
            let server = try Program(
                prefix + ["\(binaries)/postgres", "-D", "\(folder)/data", "-k", folder, "-h", "", "-F"],
                in: files)
            self.server = server
            try await repeatedly("PostgreSQL answers") { (try? await run("SELECT 1")) != nil }
        }

        func run(_ statement: String) async throws {
            _ = try await Program.run(
                ["psql", "-h", folder, "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-c", statement],
                in: files)
        }
    }
}
