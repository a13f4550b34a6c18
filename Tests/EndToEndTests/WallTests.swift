import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEnd {
    /// What the kernel keeps workers from, and what an attacker who controls one gets: the stand-in
    /// (`Sources/DTLSDaemon/Worker/StandIn.swift`) does what it is told by its client.
    @Suite struct WallTests {
        let folder: TestFolder
        let identity: Identity
        let address: SocketAddress

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
            address = try SocketAddress.freeOnOwnLoopback()
        }

        private func start(_ services: Service..., more: String = "") async throws -> Daemon {
            try await Daemon.start(
                "workers = 1\n\(more)\n" + services.map(\.text).joined(separator: "\n"), in: folder,
                environment: ["DTLSD_STAND_IN": "1"])
        }

        private var echo: Service { Service(listen: [address], identity: identity) }

        private func client() throws -> SecureClient {
            try SecureClient(to: address, trust: identity.certificate, in: folder)
        }

        private static func status(_ name: String, of pid: pid_t) -> String {
            ProcessTable.text(of: "/proc/\(pid)/status").split(separator: "\n")
                .first { $0.hasPrefix("\(name):") }
                .map { $0.dropFirst(name.count + 1).trimmingCharacters(in: .whitespaces) } ?? ""
        }

        private static func expectNoRights(_ pid: pid_t) {
            #expect(status("NoNewPrivs", of: pid) == "1")
            #expect(status("Seccomp", of: pid) == "2")
            for set in ["CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd"] {
                #expect(status(set, of: pid) == "0000000000000000", "\(set)")
            }
        }

        @Test(.enabled(if: geteuid() == 0, "a bounding set is root's to change"))
        func `a worker has no rights once it serves`() async throws {
            let daemon = try await start(echo)
            let worker = try #require(daemon.workers.first)
            Self.expectNoRights(worker)
            let limits = ProcessTable.text(of: "/proc/\(worker)/limits").split(separator: "\n")
            for name in ["Max core file size", "Max processes"] {
                let line = try #require(limits.first { $0.hasPrefix(name) })
                #expect(line.dropFirst(name.count).split(separator: " ").prefix(2) == ["0", "0"])
            }
            #expect(daemon.lines(with: "the kernel does not keep workers").isEmpty)
            try await client().exchange("hello")
            try await daemon.stop()
        }

        private static let refused = "Operation not permitted"

        /// What nobody but the main process may do, and what becomes of it.
        private static let forbidden = [
            ("raw", refused), ("signal main", refused), ("own main", refused), ("fork", refused),
            ("thread", "Function not implemented"), ("code", refused), ("limit main", refused),
        ]

        /// A service whose backend is a host name, and is checked.
        private var named: String {
            Service.forwarding(to: "udp:localhost:9", listen: address, identity: identity).text
                + "[service.forward.forward.health_check]\nsend = \"ping\"\nexpect = \"pong\"\n"
        }

        /// Starts a daemon one of whose processes does this once it is behind its walls, and asserts the outcomes.
        private func start(
            _ configuration: String, _ role: String, does actions: [(action: String, outcome: String)]
        ) async throws -> Daemon {
            let told = actions.map(\.action).joined(separator: ";")
            let daemon = try await Daemon.start(
                "workers = 1\n" + configuration, in: folder,
                environment: ["DTLSD_STAND_IN_\(role.uppercased())": told])
            for (action, outcome) in actions {
                let line = try #require(await daemon.logged("\(role): \(action): ").first)
                #expect(line == "\(role): \(action): \(outcome)")
            }
            return daemon
        }

        private static func process(_ role: String, of daemon: Daemon) async throws -> pid_t {
            try await eventualValue("there is a \(role)", details: daemon.program.errors) {
                ProcessTable.children(of: daemon.program.pid).first { ProcessTable.name(of: $0) == "dtlsd: \(role)" }
            }
        }

        @Test(.enabled(if: Daemon.hasStandIn))
        func `the loader reads files, and does nothing else`() async throws {
            let daemon = try await start(
                echo.text, "loader",
                does: [
                    ("read /etc/hosts", "done"), ("append \(folder.file("new"))", Self.refused),
                    ("overwrite \(folder.file("new"))", Self.refused), ("tcp", Self.refused), ("udp", Self.refused),
                    ("unix", Self.refused), ("connect", Self.refused), ("status NoNewPrivs", "1"),
                    ("status Seccomp", "2"),
                    // That of root can read what another user has kept from it.
                    ("status CapPrm", geteuid() == 0 ? "0000000000000004" : "0000000000000000"),
                ] + Self.forbidden)
            #expect(!FileManager.default.fileExists(atPath: folder.file("new")))
            try await client().exchange("hello")
            try await daemon.stop()
        }

        /// What the configuration needs beyond reading is found before a parser has seen it.
        @Test(.enabled(if: Daemon.hasStandIn && geteuid() == 0, "only root can become another user"))
        func `the loader of a configuration with a key log or a user can do what these take, and no more`() async throws
        {
            let log = folder.file("keys")
            let more = "key_log_file = \"\(log)\"\nuser = \"root\"\n[control]\npath = \"\"\n"
            let daemon = try await start(
                more + echo.text, "loader",
                does: [
                    ("append \(folder.file("new"))", "done"), ("overwrite \(folder.file("new"))", Self.refused),
                    ("tcp", Self.refused), ("udp", Self.refused), ("unix", Self.refused),
                    ("status CapPrm", "00000000000000c6"),
                ] + Self.forbidden)
            #expect(FileManager.default.fileExists(atPath: log))
            try await daemon.stop()
        }

        @Test(.enabled(if: Daemon.hasStandIn))
        func `the resolver asks name servers, reads what says which, and does nothing else`() async throws {
            let denied = "Permission denied"
            let daemon = try await start(
                named, "resolver",
                does: [
                    ("read /etc/hosts", "done"), ("read /etc/passwd", denied), ("read \(identity.privateKey)", denied),
                    ("append \(folder.file("new"))", Self.refused), ("tcp", "done"), ("udp", "done"),
                    ("unix", Self.refused), ("interface lo", "done"),
                ] + Self.forbidden)
            if geteuid() == 0 { Self.expectNoRights(try await Self.process("resolver", of: daemon)) }
            try await daemon.stop()
        }

        @Test(.enabled(if: Daemon.hasStandIn))
        func `the checker sends datagrams, and does nothing else`() async throws {
            let daemon = try await start(
                named, "checker",
                does: [
                    ("read /etc/hosts", Self.refused), ("append \(folder.file("new"))", Self.refused),
                    ("tcp", Self.refused), ("udp", "done"), ("unix", "done"),
                ] + Self.forbidden)
            if geteuid() == 0 { Self.expectNoRights(try await Self.process("checker", of: daemon)) }
            try await daemon.stop()
        }

        @Test(.enabled(if: Daemon.hasStandIn), arguments: ["resolver", "checker"])
        func `a process beside the workers that tries what no library does is killed`(_ role: String) async throws {
            let daemon = try await Daemon.start(
                "workers = 1\n" + named, in: folder, environment: ["DTLSD_STAND_IN_\(role.uppercased())": "trace 1"])
            try await daemon.logged(role, "signal 31")
            try await daemon.stop()
        }

        /// The resolver may open the files that it has found when it began, and no others.
        @Test func `a file of the resolver's that another one replaces is read by another resolver`() async throws {
            let aliases = try folder.write("alias be.example\n", to: "aliases")
            let server = try await NameServer([("be.example", "127.0.0.1")], in: folder)
            let forward = Service.forwarding(to: "udp:be.example:9", listen: address, identity: identity)
            let daemon = try await Daemon.start(
                "workers = 1\n" + server.configuration + forward.text, in: folder, environment: ["HOSTALIASES": aliases]
            )
            let before = try await Self.process("resolver", of: daemon)
            rename(try folder.write("alias be.example\n", to: "aliases.new"), aliases)
            try server.replace(with: [("be.example", "127.0.0.2")])
            try await daemon.logged("the host name be.example has other addresses: 127.0.0.2")
            #expect(try await Self.process("resolver", of: daemon) != before)
            #expect(daemon.lines(with: "resolver").isEmpty)
            try await daemon.stop()
        }

        @Test(.enabled(if: geteuid() == 0, "only root can become another user"))
        func `no process stays root where the configuration has a user`() async throws {
            chmod(folder.path, 0o755)
            chmod(identity.certificate, 0o644)
            chown(identity.privateKey, 0, 65_534)
            chmod(identity.privateKey, 0o640)
            let check = "[service.forward.forward.health_check]\nsend = \"ping\"\nexpect = \"pong\"\n"
            let forward = Service.forwarding(to: "udp:localhost:9", listen: address, identity: identity)
            let daemon = try await Daemon.start(
                "workers = 1\nuser = \"65534\"\ngroup = \"65534\"\n[control]\npath = \"\"\n" + forward.text + check,
                in: folder)
            func processes() -> [pid_t] { ProcessTable.children(of: daemon.program.pid) }
            try await eventually("there are all processes, and none is root's", details: daemon.program.errors) {
                Set(processes().map { ProcessTable.name(of: $0) })
                    == ["dtlsd: worker 0", "dtlsd: resolver", "dtlsd: checker", "dtlsd: keys"]
                    && processes().allSatisfy { Self.status("Uid", of: $0).hasPrefix("65534") }
            }
            #expect(Self.status("Uid", of: daemon.program.pid).hasPrefix("65534"))
            try await daemon.stop()
        }

        /// The files of a process in /proc are root's where nobody else may read its memory.
        @Test(.enabled(if: geteuid() == 0, "only root can become another user"))
        func `no process of the daemon lets others of its user read its memory`() async throws {
            chmod(folder.path, 0o755)
            chmod(identity.certificate, 0o644)
            chown(identity.privateKey, 0, 65_534)
            chmod(identity.privateKey, 0o640)
            let daemon = try await start(
                echo, more: "user = \"65534\"\ngroup = \"65534\"\n[control]\npath = \"\"\n")
            for pid in [daemon.program.pid] + daemon.workers {
                #expect(Self.status("Uid", of: pid).hasPrefix("65534"))
                var owner = stat()
                #expect(stat("/proc/\(pid)/mem", &owner) == 0 && owner.st_uid == 0)
            }
            try await daemon.stop()
        }

        @Test(.enabled(if: geteuid() == 0, "a bounding set is root's to change"))
        func `programs have no rights that others of their user have not`() async throws {
            let daemon = try await start(
                Service(
                    name: "run", listen: [address], identity: identity, handler: "exec",
                    more: "[service.run.exec]\ncommand = [\"/bin/cat\", \"/proc/self/status\", \"-\"]"))
            let client = try client()
            try await client.exchange("", answer: "Seccomp:\t2")
            for line in ["NoNewPrivs:\t1", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000"] {
                #expect(client.output.contains(line))
            }
            Self.expectNoRights(try #require(daemon.workers.first))
            try await daemon.stop()
        }

        @Test(.enabled(if: Daemon.hasStandIn))
        func `a worker that an attacker controls gets nothing that it was not given`() async throws {
            let daemon = try await start(echo)
            let client = try client()
            let (main, worker) = (daemon.program.pid, try #require(daemon.workers.first))
            let refused = "Operation not permitted"
            for (action, outcome) in [
                ("read /etc/passwd", refused), ("read \(identity.privateKey)", refused),
                ("read \(daemon.configurationFile)", refused), ("read /proc/\(main)/mem", refused),
                ("read /proc/self/mem", refused), ("append \(folder.file("new"))", refused),
                ("overwrite \(folder.file("new"))", refused), ("tcp", refused), ("udp", refused), ("raw", refused),
                ("unix", refused), ("signal \(main)", refused), ("own \(main)", refused), ("fork", refused),
                ("thread", "Function not implemented"), ("code", refused), ("limit \(main)", refused),
                // The stand-in does what it is told where nothing keeps it from that.
                ("scribbled", "there is no such action"), ("limit 0", "done"),
            ] {
                try await client.exchange("stand-in: \(action)", answer: "\(action): \(outcome)")
            }
            #expect(daemon.workers == [worker])
            #expect(!FileManager.default.fileExists(atPath: folder.file("new")))
            try await daemon.stop()
        }

        @Test(
            .enabled(if: Daemon.hasStandIn),
            arguments: ["trace 1", "peek 1", "take", "execute", "namespace", "ring"])
        func `a worker that tries what no library does is killed, and replaced`(_ action: String) async throws {
            let daemon = try await start(echo)
            let (client, worker) = (try client(), try #require(daemon.workers.first))
            try await client.exchange("hello")
            client.say("stand-in: \(action)")
            try await daemon.logged("worker 0", "signal 31")
            try await eventually("there is another worker", details: daemon.program.errors) {
                daemon.workers.count == 1 && daemon.workers != [worker]
            }
            // Its connections go on.
            try await client.exchange("hello again")
            try await daemon.stop()
        }

        @Test(.enabled(if: Daemon.hasStandIn))
        func `a worker that forwards has datagram sockets, and one that logs has its files, and neither has more`()
            async throws
        {
            let logs = folder.file("logs")
            mkdir(logs, 0o755)
            let socket = try DatagramSocket(at: .freeOnOwnLoopback())
            let backend = Backend.numbering(on: socket)
            defer { withExtendedLifetime(backend) {} }
            let (forwards, writes) = (try SocketAddress.freeOnOwnLoopback(), try SocketAddress.freeOnOwnLoopback())
            let file = Service(
                name: "file", listen: [writes], identity: identity, handler: "log",
                more: "[service.file.log]\nto = \"file:\(logs)/messages\"")
            let daemon = try await start(
                echo, .forwarding(to: "udp:\(socket.local)", listen: forwards, identity: identity), file)
            let client = try client()
            let refused = "Operation not permitted"
            for (action, outcome) in [
                ("udp", "done"), ("tcp", refused), ("raw", refused), ("read \(logs)/messages", refused),
                ("overwrite \(logs)/messages", refused), ("append \(logs)/messages", "done"),
                ("append \(identity.privateKey)", "Permission denied"),
            ] {
                try await client.exchange("stand-in: \(action)", answer: "\(action): \(outcome)")
            }
            try await daemon.stop()
        }

        /// Kinds and lengths that no worker sends, messages that are cut, and lists that are longer than the message.
        @Test(
            .enabled(if: Daemon.hasStandIn),
            arguments: [
                "0", "1", "131073", "xff", "x01", "x0100000000", "x010000000000000000ff", "x03ffffffff",
                "x0300000000000000000000000000000080", "x04", "x0402", "x06ffffffff0000", "x08000000000000",
                "x0bffffffffffffffff", "x0c", "x0c0900000000", "x0dffffff7f61",
            ])
        func `a malformed message ends its worker, and nothing else`(_ bytes: String) async throws {
            let daemon = try await start(echo)
            let (client, worker) = (try client(), try #require(daemon.workers.first))
            try await client.exchange("hello")
            client.say("stand-in: send \(bytes)")
            try await daemon.logged("worker 0 has sent a message that no worker sends", "WORKER_PID=\(worker)")
            try await daemon.logged("worker 0", "signal 9")
            try await eventually("there is another worker", details: daemon.program.errors) {
                daemon.workers.count == 1 && daemon.workers != [worker]
            }
            try await client.exchange("hello again")
            try await daemon.stop()
        }

        /// Garbage in the memory of its connections costs those connections, and no process.
        @Test(.enabled(if: Daemon.hasStandIn))
        func `the main process survives any garbage in the memory that it shares with a worker`() async throws {
            let daemon = try await start(echo, more: "[control]\npath = \"\(folder.file("control"))\"\n")
            let client = try client()
            try await client.exchange("hello")
            let worker = try #require(daemon.workers.first)
            client.say("stand-in: scribble")
            try await daemon.logged("scribbled")
            for arguments in [["connections"], ["status"], ["counters"]] {
                _ = try await Tool.run(arguments + ["--socket", folder.file("control")], in: folder)
            }
            kill(worker, SIGKILL)
            try await eventually("there is another worker", details: daemon.program.errors) {
                daemon.workers.count == 1 && daemon.workers != [worker]
            }
            try await self.client().exchange("hello")
            try await daemon.stop()
        }

        /// The dynamic linker tells each function that is called for the first time. That is how a debug build is linked.
        @Test(.enabled(if: Daemon.hasStandIn))
        func
            `the main process calls nothing of OpenSSL but what cookies, connection IDs and the keys of sessions take`()
            async throws
        {
            let bindings = folder.file("bindings")
            // The linker's descriptor must not be 3, which a child's channel becomes while the linker still writes to it.
            let daemon = try await Daemon.start(
                "workers = 1\n" + Service(listen: [address], identity: identity, more: "connection_id = 12").text,
                in: folder, environment: ["LD_DEBUG": "bindings", "LD_DEBUG_OUTPUT": bindings],
                prefix: ["sh", "-c", "exec 3</dev/null; exec \"$@\"", "sh"])
            try await client().exchange("hello")
            daemon.program.signal(SIGHUP)
            try await daemon.logged("configuration and certificates reloaded")
            try await client().exchange("hello")
            try await daemon.stop()
            func functions(of pid: pid_t) throws -> Set<Substring> {
                let text = try String(contentsOfFile: "\(bindings).\(pid)", encoding: .utf8)
                return Set(
                    text.split(separator: "\n")
                        .filter { $0.contains(/file [^ ]*dtlsd[^\/]* to [^ ]*\/lib(crypto|ssl)/) }
                        .compactMap { $0.firstMatch(of: /symbol `(\w+)'/)?.output.1 })
            }
            let allowed: Set<Substring> = [
                "CRYPTO_memcmp", "ERR_clear_error", "OPENSSL_cleanse", "OSSL_PARAM_construct_end",
                "OSSL_PARAM_construct_size_t", "OSSL_PARAM_construct_utf8_string", "OpenSSL_version_num",
                "EVP_MAC_CTX_free", "EVP_MAC_CTX_new",
                "EVP_MAC_CTX_set_params", "EVP_MAC_fetch", "EVP_MAC_final", "EVP_MAC_free", "EVP_MAC_init",
                "EVP_MAC_update", "EVP_CIPHER_CTX_free", "EVP_CIPHER_CTX_new", "EVP_CIPHER_CTX_set_padding",
                "EVP_Cipher", "EVP_CipherInit_ex", "EVP_aes_128_ecb",
                "EVP_Digest", "EVP_aes_256_ecb", "EVP_sha512",
            ]
            #expect(try functions(of: daemon.program.pid).subtracting(allowed) == [])
            #expect(try functions(of: daemon.program.pid).contains("EVP_MAC_final"))
        }

        /// The walls around a worker do not become wider, so others take its place.
        @Test func `a configuration that needs more gets other workers, and keeps the connections`() async throws {
            let programs = try SocketAddress.freeOnOwnLoopback()
            let daemon = try await start(echo)
            let (client, before) = (try client(), daemon.workers)
            try await client.exchange("hello")
            let run = Service(
                name: "run", listen: [programs], identity: identity, handler: "exec",
                more: "[service.run.exec]\ncommand = [\"/bin/cat\"]")
            try daemon.reload("workers = 1\n" + echo.text + run.text)
            try await daemon.logged("configuration and certificates reloaded")
            try await SecureClient(to: programs, trust: identity.certificate, in: folder).exchange("program")
            try await client.exchange("still here")
            try await eventually("the former worker has ended", details: daemon.program.errors) {
                daemon.workers.count == 1 && daemon.workers != before
            }
            try await client.exchange("and here")
            // What needs less changes nothing.
            let wide = daemon.workers
            try daemon.reload("workers = 1\n" + echo.text)
            try await daemon.logged("configuration and certificates reloaded", count: 2)
            #expect(daemon.workers == wide)
            try await daemon.stop()
        }
    }
}
