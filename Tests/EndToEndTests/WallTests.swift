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

        @Test(.enabled(if: geteuid() == 0, "a bounding set is root's to change"))
        func `the checker has no rights either`() async throws {
            let backend = try DatagramSocket(at: .freeOnOwnLoopback())
            let check = "[service.forward.forward.health_check]\nsend = \"ping\"\nexpect = \"pong\"\n"
            let forward = Service.forwarding(to: "udp:\(backend.local)", listen: address, identity: identity)
            let daemon = try await Daemon.start("workers = 1\n" + forward.text + check, in: folder)
            let checker = try await eventualValue("there is a checker", details: daemon.program.errors) {
                ProcessTable.children(of: daemon.program.pid).first { ProcessTable.name(of: $0) == "dtlsd: checker" }
            }
            try await eventually("it has given its rights up") { Self.status("NoNewPrivs", of: checker) == "1" }
            for set in ["CapEff", "CapPrm", "CapBnd"] {
                #expect(Self.status(set, of: checker) == "0000000000000000", "\(set)")
            }
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
        func `the main process calls nothing of OpenSSL but what cookies, connection IDs and the keys of sessions take`() async throws {
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
