import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEndClientMode {
    /// Starts that fail for other reasons than what the file says: with what status, and what is said of them.
    @Suite struct StartTests {
        let folder: TestFolder
        let identity: Identity

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
        }

        private func run(_ configuration: String, prefix: [String] = []) async throws -> (
            Program.Ending, errors: String
        ) {
            let file = try folder.write(configuration, to: "dtlsd.toml")
            let program = try Program(prefix + [Daemon.binary, "--config", file], in: folder)
            return (try await program.ended(), program.errors)
        }

        /// An interface that has no address yet during boot is no reason to give up for good
        /// (RestartPreventExitStatus=78).
        @Test(arguments: [false, true])
        func `an address that may come is not reported as a fault of the configuration`(_ isFaultyToo: Bool)
            async throws
        {
            let address = try SocketAddress.freeOnOwnLoopback()
            let more = isFaultyToo ? "mtu = 1" : ""
            // RFC 5737: no machine has it.
            let (ending, errors) = try await run(
                Service.forwarding(to: "udp:127.0.0.1:5683", listen: address, identity: identity, more: more).text
                    + "source = \"192.0.2.1\"\n")
            #expect(ending == .exited(isFaultyToo ? 78 : 75), "\(errors)")
            #expect(errors.contains("service.forward.forward.source: 192.0.2.1: no interface of this machine has"))
        }

        /// During boot for example. The daemon finds that out at once where it has no network at all.
        @Test(.enabled(if: PrivateNetwork.isAllowed, "a network of its own takes root"))
        func `an unreachable name server does not keep the daemon from starting`() async throws {
            let address = try SocketAddress.freeOnOwnLoopback()
            let daemon = try await Daemon.start(
                Service.forwarding(to: "udp:backend.example:5683", listen: address, identity: identity).text,
                in: folder, prefix: PrivateNetwork.prefix(mtu: 1_500))
            try await daemon.logged("the host name backend.example cannot be resolved")
            try await daemon.stop()
        }

        /// All addresses that cannot be had are named at once.
        @Test func `addresses that are in use, or not of this machine, are reported`() async throws {
            let held = [try DatagramSocket.onOwnLoopback(), try DatagramSocket.onOwnLoopback()]
            // RFC 5737: no machine has it.
            let foreign = try #require(SocketAddress(host: "192.0.2.1", port: 4_433))
            let (ending, errors) = try await run(
                Service(name: "one", listen: [held[0].local, foreign], identity: identity).text
                    + Service(name: "two", listen: [held[1].local], identity: identity).text)
            #expect(ending == .exited(71))
            #expect(errors.contains("dtlsd.toml: service.one.listen: bind \(held[0].local): Address already in use"))
            #expect(errors.contains("dtlsd.toml: service.one.listen: bind \(foreign): Cannot assign requested address"))
            #expect(errors.contains("dtlsd.toml: service.two.listen: bind \(held[1].local): Address already in use"))
            #expect(errors.contains("stopping: the sockets cannot be opened"), "\(errors)")
        }

        @Test(.enabled(if: PrivateNetwork.isAllowed, "a network of its own takes root"))
        func `a port that requires a capability is reported with what to do`() async throws {
            let address = try #require(SocketAddress(host: SocketAddress.ownLoopback, port: 853))
            let (ending, errors) = try await run(
                Service(listen: [address], identity: identity).text,
                prefix: PrivateNetwork.prefix(mtu: 1_500) + ["setpriv", "--bounding-set=-net_bind_service"])
            #expect(ending == .exited(71))
            #expect(errors.contains("bind \(address): Permission denied"), "\(errors)")
            #expect(errors.contains("CAP_NET_BIND_SERVICE"))
        }

        /// A bare container has no /proc.
        @Test(.enabled(if: PrivateNetwork.isAllowed, "a mount namespace takes root"))
        func `a daemon without proc starts, serves, reads its configuration again and replaces workers`() async throws {
            let address = try SocketAddress.freeOnOwnLoopback()
            let daemon = try await Daemon.start(
                "workers = 1\n" + Service(listen: [address], identity: identity).text, in: folder,
                prefix: ["unshare", "-m", "sh", "-c", "mount -t tmpfs none /proc && exec \"$@\"", "sh"])
            let client = try SecureClient(to: address, trust: identity.certificate, in: folder)
            try await client.exchange("hello")
            daemon.program.signal(SIGHUP)
            try await daemon.logged("reloaded")
            try await client.exchange("still here")
            let worker = try #require(daemon.workers.first)
            kill(worker, SIGKILL)
            try await daemon.logged("worker 0 started", count: 2)
            let late = try SecureClient(to: address, trust: identity.certificate, in: folder)
            try await late.exchange("new")
            try await late.leave()
            try await daemon.stop()
        }

        /// Runs dtlsd as a user who may have no other process (RLIMIT_NPROC does not concern root).
        private static func asUserWithOneProcess(_ program: [String]) -> [String] {
            getuid() == 0
                ? ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "prlimit", "--nproc=1"] + program
                : ["prlimit", "--nproc=1"] + program
        }

        /// The user of the test may run the program: its folder may be root's alone.
        private static let canLimitProcesses: Bool = {
            let command = asUserWithOneProcess(["test", "-x", Daemon.binary])
            guard let process = try? Process.run(URL(filePath: "/usr/bin/env"), arguments: command) else {
                return false
            }
            process.waitUntilExit()
            return process.terminationStatus == 0
        }()

        @Test(.enabled(if: canLimitProcesses, "another user has to have access to dtlsd"))
        func `a daemon that can start no other process says so and ends`() async throws {
            let program = try Program(
                Self.asUserWithOneProcess([Daemon.binary, "--config", folder.file("dtlsd.toml")]), in: folder)
            #expect(try await program.ended() == .exited(71))
            #expect(program.errors.contains("the loader process cannot be started: "), "\(program.errors)")
            #expect(program.errors.contains("TasksMax="), "\(program.errors)")
            #expect(program.errors.contains("stopping: a resource of the system is missing"), "\(program.errors)")
        }

        /// The loader may be reading, or workers may be starting: there is always something that the end has to wait
        /// for.
        @Test(arguments: [0, 5, 20, 50, 100])
        func `a daemon that is told to stop while it starts ends well`(_ milliseconds: Int) async throws {
            let file = try folder.write(
                "workers = 2\n" + Service(listen: [try .freeOnOwnLoopback()], identity: identity).text,
                to: "dtlsd.toml")
            let program = try Program([Daemon.binary, "--config", file], in: folder)
            // From here on signals are events of its loop.
            try await eventually("dtlsd has begun to start", details: program.errors) {
                program.errors.contains("dtlsd starts with")
            }
            try await Task.sleep(for: .milliseconds(milliseconds))
            program.signal(SIGTERM)
            #expect(try await program.ended() == .exited(0), "\(program.errors)")
            #expect(program.errors.contains("stopped: "), "\(program.errors)")
        }

        /// 33 descriptors are enough for a worker and its first client.
        @Test(arguments: [20, 24, 32])
        func `a limit of open files with which nobody could be served ends the start`(_ limit: Int) async throws {
            let file = try folder.write(
                "workers = 1\n" + Service(listen: [try .freeOnOwnLoopback()], identity: identity).text,
                to: "dtlsd.toml")
            let program = try Program([Daemon.binary, "--config", file], in: folder, descriptorLimit: limit)
            #expect(try await program.ended() == .exited(71))
            #expect(
                program.errors.contains("each process may open \(limit) files (RLIMIT_NOFILE)"), "\(program.errors)")
            #expect(program.errors.contains("at least 33:"), "\(program.errors)")
            #expect(program.errors.contains("LimitNOFILE="), "\(program.errors)")
        }

        @Test func `with the fewest open files that are enough a client is served, and no more is asked of a reload`()
            async throws
        {
            let address = try SocketAddress.freeOnOwnLoopback()
            let configuration = "workers = 1\n" + Service(listen: [address], identity: identity).text
            let daemon = try await Daemon.start(configuration, in: folder, descriptorLimit: 33)
            #expect(daemon.logs("up to 1 connection"), "\(daemon.program.errors)")
            let client = try SecureClient(to: address, trust: identity.certificate, in: folder)
            try await client.exchange("hello")
            // Two descriptors for each connection.
            try daemon.reload(
                "workers = 1\n"
                    + Service.forwarding(to: "udp:127.0.0.1:9", listen: address, identity: identity).text)
            try await daemon.logged("each process may open 33 files (RLIMIT_NOFILE)", "at least 34:")
            try await daemon.logged("reload failed")
            try await client.exchange("still here")
            try daemon.reload(configuration)
            try await daemon.logged("configuration and certificates reloaded")
            try await client.exchange("after")
            try await daemon.stop()
        }

        @Test func `a service without an address is reported`() async throws {
            let (ending, errors) = try await run(
                Service(name: "one", listen: [], identity: identity).text.replacing("listen = []\n", with: "")
                    + Service(name: "two", listen: [], identity: identity).text.replacing("listen = []\n", with: ""))
            #expect(ending == .exited(78))
            for name in ["one", "two"] {
                #expect(
                    errors.contains(
                        "dtlsd.toml: service.\(name).listen: no address to listen on, and no socket named \"\(name)\""),
                    "\(errors)")
            }
            #expect(errors.contains("stopping: the configuration cannot be used"))
        }
    }
}
