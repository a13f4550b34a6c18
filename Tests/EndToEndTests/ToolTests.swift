import LinuxSystem
import Primitives
import TestSupport
import Testing

extension EndToEndHandshakes {
    /// `dtls`, the tool, with the real daemon.
    @Suite struct ToolTests {
        let folder: TestFolder
        let identity: Identity
        let address: SocketAddress

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
            address = try SocketAddress.freeOnOwnLoopback()
        }

        private var socket: String { folder.file("control.sock") }

        private func configuration(_ service: Service) -> String {
            """
            workers = 1

            [control]
            path = "\(socket)"

            \(service.text)
            """
        }

        /// Runs the tool to its end; any other exit status is an error.
        @discardableResult
        private func dtls(_ arguments: String..., status: Int32 = 0) async throws -> (output: String, errors: String) {
            let tool = try Program([Daemon.tool] + arguments + ["--socket", socket], in: folder)
            tool.closeInput()
            let ending = try await tool.ended()
            guard ending == .exited(status) else {
                throw Daemon.Failure(description: "\(tool.command): \(ending): \(tool.output)\(tool.errors)")
            }
            return (tool.output, tool.errors)
        }

        @Test func `the tool shows what a daemon does, has it log more, and ends connections`() async throws {
            let daemon = try await Daemon.start(
                configuration(Service(listen: [address], identity: identity)), in: folder)
            #expect(try await dtls("status", "--ready").output == "ready\n")
            #expect(try await dtls("connections").errors == "There are no connections.\n")

            let client = try SecureClient(to: address, trust: identity.certificate, in: folder)
            try await client.exchange("hello")
            let status = try await dtls("status").output
            #expect(status.hasPrefix("dtlsd \(ProgramVersion.current) is ready, up "))
            for part in ["\(daemon.program.pid), since ", daemon.configurationFile, "\(address)", "CN=localhost"] {
                #expect(status.contains(part), "\(status)")
            }

            let rows = try await dtls("connections", "--service", "echo", "--prefix", "127.0.0.0/8").output
                .split(separator: "\n")
            #expect(rows.count == 2)
            let connection = String(try #require(rows.last?.split(separator: " ").first))
            let details = try await dtls("connection", connection).output
            for part in ["Service           echo", "State             established", "DTLSv1.2", "1 message, 6 B"] {
                #expect(details.contains(part), "\(details)")
            }
            let json = try await dtls("connection", connection, "--json").output
            #expect(json.contains("\"connection\":\"\(connection)\""))
            let unknown = try await dtls("connection", "00000000ffffffff", status: 1)
            #expect(unknown.errors.hasPrefix("dtls: "))

            let counters = try await dtls("counters", "handshakes_total").output
            #expect(counters.contains("handshakes_total{result=full}  1"), "\(counters)")
            let top = try await dtls("top", "--once", "--interval", "0.5").output
            #expect(top.contains(connection), "\(top)")

            try await dtls("trace", "127.0.0.0/8", "--for", "1m")
            // The worker may hear of it after the first of these.
            try await eventually("records are traced", details: daemon.program.errors) {
                client.say("traced")
                return daemon.logs("trace of ")
            }
            #expect(try await dtls("trace", "--off").output == "No client is traced.\n")
            #expect(
                try await dtls("log-level", "debug", "--for", "1m").output.hasPrefix("The log level is debug until "))
            try await dtls("log-level", "--reset")

            #expect(
                try await dtls("close", "--service", "echo").output == "1 connection is being closed.\n")
            _ = try await client.program.ended()
            try await daemon.stop()
            #expect(try await dtls("status", status: 3).output == "")
        }

        @Test func `the tool reloads, names every problem, and replaces workers under a connection`() async throws {
            let daemon = try await Daemon.start(
                configuration(Service(listen: [address], identity: identity)), in: folder)
            let client = try SecureClient(to: address, trust: identity.certificate, in: folder)
            try await client.exchange("hello")
            #expect(try await dtls("reload").output == "\(daemon.configurationFile) is in use.\n")

            try folder.write(
                configuration(Service(listen: [address], identity: identity, more: "one = 1\ntwo = 2")),
                to: "dtlsd.toml")
            let refused = try await dtls("reload", status: 1)
            #expect(refused.errors.contains("service.echo.one"))
            #expect(refused.errors.contains("service.echo.two"))
            #expect(try await dtls("status").output.contains("Reload failed"))

            let workers = daemon.workers
            #expect(try await dtls("drain").output == "Worker 0 is being replaced.\n")
            try await eventually("the worker is replaced", details: daemon.program.errors) {
                let now = daemon.workers
                return now.count == 1 && now != workers
            }
            try await client.exchange("still here")
            try await client.leave()
            try await daemon.stop()
        }
    }
}
