import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEndClientMode {
    /// Workers that have no descriptors left keep their connections, whatever the main process asks of them.
    @Suite struct DescriptorTests {
        let folder: TestFolder
        let identity: Identity
        let address: SocketAddress

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
            address = try SocketAddress.freeOnOwnLoopback()
        }

        private func configuration(handler: String = "echo", more: String = "") -> String {
            "workers = 1\n" + Service(listen: [address], identity: identity, handler: handler, more: more).text
        }

        private func client() throws -> SecureClient {
            try SecureClient(to: address, trust: identity.certificate, in: folder)
        }

        /// Three descriptors for each connection with "exec", one with "echo": what the present configuration would
        /// leave room for says nothing of what the connections of before have taken.
        @Test func `connections of a handler that needs more descriptors count as such after a reload`() async throws {
            let daemon = try await Daemon.start(
                configuration(handler: "exec", more: "[service.echo.exec]\ncommand = [\"/bin/cat\"]"), in: folder,
                descriptorLimit: 72)
            let workers = daemon.workers
            let clients = try (0..<12).map { _ in try client() }
            for client in clients { try await client.exchange("before") }
            try daemon.reload(configuration())
            try await daemon.logged("reloaded")

            var newcomers: [DatagramSocket] = []
            try await eventually("newcomers are turned away", details: daemon.program.errors) {
                guard newcomers.count < 72 else { throw NeverHappened(description: "all newcomers were taken") }
                let socket = try DatagramSocket(at: try #require(SocketAddress(host: address.host, port: 0)))
                let hello = ClientHelloBytes()
                socket.send(hello.bytes(), to: address)
                if let answer = socket.receive(), case .helloVerifyRequest(let cookie) = HelloAnswer(answer.bytes) {
                    socket.send(hello.bytes(cookie: cookie, number: 1), to: address)
                }
                newcomers.append(socket)
                return daemon.logs(" warning main: worker 0 has refused ", "REASON=descriptors")
            }
            daemon.program.signal(SIGHUP)
            try await daemon.logged("reloaded", count: 2)
            for client in clients { try await client.exchange("after") }
            #expect(daemon.workers == workers)
            try await daemon.stop()
            #expect(
                daemon.lines(with: "stopped: ").first?.contains(/\d descriptors[,)]/) == true,
                "\(daemon.program.errors)")
        }

        /// A configuration for which a worker has no descriptor is given to it again when it has one.
        @Test func `a configuration for which a worker had no descriptor is sent again`() async throws {
            let keyLog = "key_log_file = \"\(folder.file("keys.log"))\"\n"
            let daemon = try await Daemon.start(keyLog + configuration(), in: folder)
            let worker = try #require(daemon.workers.first)
            let resident = try client()
            try await resident.exchange("before")
            let limit = getdtablesize()
            // The soft limit alone, and below what is open: nothing new arrives.
            try await Program.run(["prlimit", "--pid", "\(worker)", "--nofile=4:"], in: folder)
            daemon.program.signal(SIGHUP)
            try await daemon.logged(" warning main: worker 0 has no file descriptors left to take up the configuration")
            try await resident.exchange("meanwhile")
            let newcomer = try client()
            newcomer.say("let me in")
            try await daemon.logged("REASON=no_worker")
            #expect(newcomer.output.isEmpty)
            #expect(!daemon.logs("reloaded"))

            try await Program.run(["prlimit", "--pid", "\(worker)", "--nofile=\(limit):"], in: folder)
            try await daemon.logged("reloaded")
            try await newcomer.hears("let me in")
            try await resident.exchange("after")
            #expect(daemon.workers == [worker])
            try await daemon.stop()
        }

        /// The kernel gives the worker the message without the descriptor that was sent with it (MSG_CTRUNC).
        @Test func `a worker that has no descriptor for a new client refuses it, and serves it later`() async throws {
            let daemon = try await Daemon.start(configuration(), in: folder)
            let worker = try #require(daemon.workers.first)
            let resident = try client()
            try await resident.exchange("before")
            let limit = getdtablesize()
            try await Program.run(["prlimit", "--pid", "\(worker)", "--nofile=4:"], in: folder)
            let refused = try client()
            refused.say("let me in")
            try await daemon.logged(" warning main: worker 0 has refused ", "file descriptors", "REASON=descriptors")
            try await resident.exchange("meanwhile")
            #expect(refused.output.isEmpty)

            try await Program.run(["prlimit", "--pid", "\(worker)", "--nofile=\(limit):"], in: folder)
            try await refused.hears("let me in")
            try await resident.exchange("after")
            #expect(daemon.workers == [worker])
            try await daemon.stop()
        }

        /// The client's own socket arrives, but no other can be opened (EMFILE).
        @Test
        func `a worker that has no descriptor for a backend's socket says so, and serves clients when it has one`()
            async throws
        {
            let socket = try DatagramSocket.onOwnLoopback()
            let backend = Backend.numbering(on: socket)
            let daemon = try await Daemon.start(
                "workers = 1\n"
                    + Service.forwarding(to: "udp:\(socket.local)", listen: address, identity: identity).text,
                in: folder)
            let worker = try #require(daemon.workers.first)
            let resident = try client()
            try await resident.exchange("before", answer: "0:before")
            let limit = getdtablesize()
            let open =
                try #require(
                    FileManager.default.contentsOfDirectory(atPath: "/proc/\(worker)/fd").compactMap { Int($0) }.max())
                + 1
            try await Program.run(["prlimit", "--pid", "\(worker)", "--nofile=\(open + 1):"], in: folder)
            let lost = try client()
            lost.say("lost")
            try await daemon.logged(" warning ", "no socket for the backend", "Too many open files", "SERVICE=forward")
            try await resident.exchange("meanwhile", answer: "0:meanwhile")

            try await Program.run(["prlimit", "--pid", "\(worker)", "--nofile=\(limit):"], in: folder)
            let late = try client()
            try await late.exchange("new", answer: ":new")
            try await resident.exchange("after", answer: "0:after")
            #expect(daemon.workers == [worker])
            try await daemon.stop()
            try await backend.stop()
        }

        /// The main process has none left for newcomers, and says whose they were.
        @Test func `new clients for which the main process has no descriptor are named in the log`() async throws {
            let local = try SocketAddress.freeOnOwnLoopback()
            let out = Client(
                listen: local, connect: address, trust: identity.certificate, more: "server_name = \"localhost\""
            ).text
            let daemon = try await Daemon.start(configuration() + out, in: folder)
            let limit = getdtablesize()
            try await Program.run(["prlimit", "--pid", "\(daemon.program.pid)", "--nofile=4:"], in: folder)
            let newcomer = try client()
            newcomer.say("let me in")
            try await daemon.logged(
                " warning main: ", "Too many open files", "SERVICE=echo", "REASON=descriptors", "PEER=")
            let sender = try PlainSender(to: local)
            sender.send("and me")
            try await daemon.logged(
                " warning main: ", "Too many open files", "SERVICE=out", "REASON=descriptors", "PEER=\(sender.address)")
            try await Program.run(["prlimit", "--pid", "\(daemon.program.pid)", "--nofile=\(limit):"], in: folder)
            try await newcomer.hears("let me in")
            try await sender.exchangeWithLosses("and me")
            try await daemon.stop()
        }
    }
}
