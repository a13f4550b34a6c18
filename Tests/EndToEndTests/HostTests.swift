import Foundation
import Glibc
import LinuxSystem
import TestSupport
import Testing

extension EndToEnd {
    /// Hosts without systemd: who dtlsd runs as, and the services of config/examples/hosts.
    @Suite(.enabled(if: geteuid() == 0, "only root can become another user"))
    struct HostTests {
        let folder: TestFolder
        let identity: Identity
        let listen: SocketAddress
        private static let nobody: UInt32 = 65_534

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
            listen = try SocketAddress.freeOnOwnLoopback()
            // The user enters it.
            chmod(folder.path, 0o755)
            chmod(identity.certificate, 0o644)
            chown(identity.privateKey, 0, Self.nobody)
            chmod(identity.privateKey, 0o640)
        }

        private func service(_ listen: SocketAddress, _ more: String = "", user: String? = "65534") -> String {
            let user = user.map { "user = \"\($0)\"\ngroup = \"65534\"\n" } ?? ""
            return "\(user)workers = 1\n[control]\npath = \"\"\n"
                + Service(listen: [listen], identity: identity, more: more).text
        }

        /// A line of /proc/PID/status.
        private static func status(_ name: String, of pid: pid_t) -> [String] {
            ProcessTable.text(of: "/proc/\(pid)/status").split(separator: "\n")
                .first { $0.hasPrefix("\(name):") }
                .map { $0.dropFirst(name.count + 1).split(whereSeparator: \.isWhitespace).map(String.init) } ?? []
        }

        /// A daemon whose user can read its configuration file, as a reload has to.
        private func start(_ configuration: String) async throws -> Daemon {
            let daemon = try await Daemon.start(configuration, in: folder)
            chmod(daemon.configurationFile, 0o644)
            return daemon
        }

        private static let lowPorts = "0000000000000400"
        private static let nothing = "0000000000000000"

        private func expectServes(_ address: SocketAddress, prefix: [String] = []) async throws {
            let client = try SecureClient(to: address, trust: identity.certificate, in: folder, prefix: prefix)
            try await client.exchange("hello")
            try await client.leave()
        }

        @Test func `dtlsd becomes its user before it starts workers, and keeps no right`() async throws {
            let daemon = try await start(service(listen))
            try await daemon.logged("dtlsd runs as the user \"65534\" from now on")
            for pid in [daemon.program.pid] + daemon.workers {
                #expect(Self.status("Uid", of: pid) == Array(repeating: "65534", count: 4))
                #expect(Self.status("Gid", of: pid) == Array(repeating: "65534", count: 4))
                #expect(Self.status("Groups", of: pid) == ["65534"])
                for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
                    #expect(Self.status(set, of: pid) == [Self.nothing], "\(set) of \(pid)")
                }
            }
            try await expectServes(listen)
            // A reload reads the key as the user.
            try daemon.reload(service(listen, "idle_timeout = 7"))
            try await daemon.logged("configuration and certificates reloaded")
            try await expectServes(listen)
            // And it cannot add a low port.
            try daemon.reload(service(listen.with(port: 853)))
            try await daemon.logged(
                "Permission denied (dtlsd has become the user \"65534\"", "a restart by root lets it")
            try await daemon.logged("reload failed")
            try await expectServes(listen)
            try daemon.reload(service(listen, user: "0"))
            try await daemon.logged("user: dtlsd runs as the user 65534, and only root can become \"0\"")
            try await daemon.stop()
        }

        @Test func `a daemon with a low port keeps the right to bind such ports, and no other`() async throws {
            let low = listen.with(port: 853)
            let daemon = try await start(service(low))
            try await daemon.logged("and may bind ports below 1024 (CAP_NET_BIND_SERVICE)")
            let pid = daemon.program.pid
            #expect(Self.status("Uid", of: pid) == Array(repeating: "65534", count: 4))
            for set in ["CapEff", "CapPrm", "CapAmb"] { #expect(Self.status(set, of: pid) == [Self.lowPorts]) }
            // Workers get sockets that are bound.
            for worker in daemon.workers {
                for set in ["CapEff", "CapPrm", "CapAmb"] { #expect(Self.status(set, of: worker) == [Self.nothing]) }
            }
            // Each connection has a socket of this port.
            try await expectServes(low)
            try daemon.reload(service(listen.with(port: 854)))
            try await daemon.logged("configuration and certificates reloaded")
            try await expectServes(listen.with(port: 854))
            try await daemon.stop()
        }

        @Test func `a key that root alone can read works at the start with a warning, and fails a reload`() async throws
        {
            chmod(identity.privateKey, 0o600)
            let daemon = try await start(service(listen))
            try await daemon.logged("user: the user \"65534\" cannot read this file (Permission denied)")
            try await daemon.logged(
                "service.echo.private_key: the user \"65534\" cannot read \"\(identity.privateKey)\" (Permission denied)",
                "a reload will fail")
            #expect(daemon.lines(with: "service.echo.certificate", "cannot read").isEmpty)
            try await expectServes(listen)
            daemon.program.signal(SIGHUP)
            try await daemon.logged("cannot read \"\(identity.privateKey)\": Permission denied")
            try await daemon.logged("reload failed: the previous configuration and certificates stay active")
            try await expectServes(listen)
            chmod(identity.privateKey, 0o640)
            daemon.program.signal(SIGHUP)
            try await daemon.logged("configuration and certificates reloaded")
            try await daemon.stop()
        }

        @Test func `a user that comes with a reload needs a restart`() async throws {
            let daemon = try await Daemon.start(service(listen, user: nil), in: folder)
            try daemon.reload(service(listen))
            try await daemon.logged(
                "user: dtlsd runs as root, and becomes \"65534\" at a start alone; expected a restart")
            try await expectServes(listen)
            try await daemon.stop()
        }

        // MARK: Services

        private static func example(_ name: String) -> String {
            URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../../config/examples/hosts/\(name)")
                .standardizedFileURL.path(percentEncoded: false)
        }

        private static func isThere(_ program: String) -> Bool {
            ["/usr/bin", "/usr/sbin", "/bin", "/sbin"].contains { access("\($0)/\(program)", X_OK) == 0 }
        }

        private var variables: [String: String] {
            [
                "DTLSD_PROGRAM": Daemon.binary, "DTLS_PROGRAM": Daemon.tool, "DTLSD_USER": "nobody",
                "DTLSD_CONFIG": folder.file("dtlsd.toml"), "DTLSD_FOLDER": folder.file("run"),
            ]
        }

        private func configuration(_ listen: SocketAddress, user: String?) throws -> String {
            let text =
                (user.map { "user = \"\($0)\"\n" } ?? "")
                + "workers = 1\n[control]\npath = \"\(folder.file("run"))/control.sock\"\n"
                + Service(listen: [listen], identity: identity).text
            try folder.write(text, to: "dtlsd.toml")
            chmod(folder.file("dtlsd.toml"), 0o644)
            return text
        }

        @Test(.enabled(if: isThere("runsvdir"), "it takes runit"))
        func `runit starts, checks, reloads, restarts and stops dtlsd`() async throws {
            let manager = FileManager.default
            let low = listen.with(port: 853)
            _ = try configuration(low, user: "nobody")
            let services = folder.file("services")
            try manager.createDirectory(atPath: services, withIntermediateDirectories: false)
            try manager.copyItem(atPath: Self.example("runit"), toPath: "\(services)/dtlsd")
            try manager.removeItem(atPath: "\(services)/dtlsd/log")
            let settings = variables.sorted { $0.key < $1.key }.map { "\($0.key)='\($0.value)'" }
            try folder.write(settings.joined(separator: "\n") + "\n", to: "services/dtlsd/conf")
            let runit = try Program(["runsvdir", services], in: folder, name: "runit")
            func sv(_ words: String...) async throws -> String {
                try await Program.run(["sv", "-w", "60"] + words + ["\(services)/dtlsd"], in: folder)
            }
            try await eventually("runsv is there", details: runit.output + runit.errors) {
                access("\(services)/dtlsd/supervise/ok", F_OK) == 0
            }
            #expect(try await sv("start").hasPrefix("ok: run:"))
            try await expectServes(low)
            // runsv empties the file while it starts the program.
            func daemon() -> pid_t? {
                pid_t(folder.read("services/dtlsd/supervise/pid").trimmingCharacters(in: .newlines))
            }
            let first = try #require(daemon())
            #expect(Self.status("Uid", of: first) == Array(repeating: "65534", count: 4))
            #expect(Self.status("CapEff", of: first) == [Self.lowPorts])
            _ = try configuration(listen.with(port: 854), user: "nobody")
            _ = try await sv("hup")
            try await eventually("the reload is done", details: runit.output) {
                runit.output.contains("configuration and certificates reloaded")
            }
            try await expectServes(listen.with(port: 854))
            // It is started again when it has died, and not when its configuration is wrong.
            kill(first, SIGKILL)
            try await eventually("there is another one", details: runit.output) {
                guard let present = daemon() else { return false }
                return present != first && runit.output.components(separatedBy: " ready: ").count == 3
            }
            #expect(try await sv("check").hasPrefix("ok: run:"))
            try await expectServes(listen.with(port: 854))
            try folder.write("nonsense = 1\n", to: "dtlsd.toml")
            chmod(folder.file("dtlsd.toml"), 0o644)
            kill(try #require(daemon()), SIGKILL)
            try await eventually("runit leaves it down", details: runit.output) {
                folder.read("services/dtlsd/supervise/stat").hasPrefix("down")
            }
            _ = try configuration(low, user: "nobody")
            _ = try await sv("start")
            try await expectServes(low)
            #expect(try await sv("stop").hasPrefix("ok: down:"))
            runit.signal(SIGHUP)
            _ = try await runit.ended()
        }

        @Test(.enabled(if: isThere("setpriv"), "it takes setpriv"))
        func `setpriv starts dtlsd as its user, with one right`() async throws {
            let low = listen.with(port: 853)
            let text = try configuration(low, user: nil)
            let variables = variables.map { "\($0.key)=\($0.value)" }
            let program = try Program(
                ["env"] + variables + [Self.example("setpriv/dtlsd-start")], in: folder, name: "setpriv")
            try await eventually("dtlsd is ready", details: program.errors) { program.errors.contains(" ready: ") }
            #expect(Self.status("Uid", of: program.pid) == Array(repeating: "65534", count: 4))
            for set in ["CapEff", "CapBnd", "CapAmb"] {
                #expect(Self.status(set, of: program.pid) == [Self.lowPorts], "\(set)")
            }
            #expect(Self.status("NoNewPrivs", of: program.pid) == ["1"])
            try await expectServes(low)
            try folder.write(text.replacing(":853", with: ":854"), to: "dtlsd.toml")
            chmod(folder.file("dtlsd.toml"), 0o644)
            program.signal(SIGHUP)
            try await eventually("the reload is done", details: program.errors) {
                program.errors.contains("configuration and certificates reloaded")
            }
            try await expectServes(listen.with(port: 854))
            program.signal(SIGTERM)
            #expect(try await program.ended() == .exited(0))
        }

        /// OpenRC itself is not run here: it takes a file system of its own.
        @Test(arguments: [
            "openrc/dtlsd", "runit/run", "runit/finish", "runit/check", "runit/log/run", "setpriv/dtlsd-start",
        ])
        func `the scripts are valid and may be run`(_ name: String) async throws {
            try await Program.run(["sh", "-n", Self.example(name)], in: folder)
            #expect(access(Self.example(name), X_OK) == 0)
        }
    }
}
