import LinuxSystem
import TestSupport
import Testing

extension EndToEnd {
    /// SIGHUP with changed settings of handlers, of sockets and of the log: new connections go by them, and what is
    /// there stays as it was.
    @Suite struct ChangedHandlersTests {
        let folder: TestFolder
        let identity: Identity

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
        }

        private func client(to place: SocketAddress) throws -> SecureClient {
            try SecureClient(to: place, trust: identity.certificate, in: folder)
        }

        @Test func `a changed PROXY protocol setting holds for new connections`() async throws {
            let socket = try DatagramSocket.onOwnLoopback()
            let backend = Backend(on: [socket]) { [$0.bytes.first == 13 ? Array("header\n".utf8) : $0.bytes] }
            let place = try SocketAddress.freeOnOwnLoopback()
            let service = Service.forwarding(to: "udp:\(socket.local)", listen: place, identity: identity).text
            let daemon = try await Daemon.start(service, in: folder)
            let old = try client(to: place)
            try await old.exchange("before")
            try daemon.reload(service + "proxy_protocol = true\n")
            try await daemon.logged("reloaded")
            try await client(to: place).exchange("after", answer: "header")
            try await old.exchange("still without")
            try await daemon.stop()
            try await backend.stop()
        }

        @Test func `changed programs hold for new connections`() async throws {
            let place = try SocketAddress.freeOnOwnLoopback()
            func service(_ exec: String) -> String {
                Service(
                    name: "run", listen: [place], identity: identity, handler: "exec",
                    more: "[service.run.exec]\n\(exec)"
                ).text
            }
            let daemon = try await Daemon.start("workers = 1\n" + service("command = [\"/bin/cat\"]"), in: folder)
            let old = try client(to: place)
            try await old.exchange("before")

            try daemon.reload(
                "workers = 1\n" + service("command = [\"/bin/sh\", \"-c\", \"ulimit -n\"]\nopen_files = 77"))
            try await daemon.logged("reloaded")
            try await client(to: place).hears("77")
            try await old.exchange("still a cat")

            try daemon.reload("workers = 1\n" + service("command = [\"/bin/cat\"]\nprograms_per_worker = 1"))
            try await daemon.logged("reloaded", count: 2)
            let late = try client(to: place)
            _ = try await late.program.ended()
            #expect(late.gotCloseNotify && late.output.isEmpty)
            try await daemon.logged(" warning ", "programs_per_worker")
            try await old.exchange("still here")
            try await daemon.stop()
        }

        @Test func `changed outputs of the log handler hold for new connections`() async throws {
            let place = try SocketAddress.freeOnOwnLoopback()
            let socket = try DatagramSocket(atPath: folder.file("syslog"))
            func service(_ log: String) -> String {
                Service(
                    name: "collect", listen: [place], identity: identity, handler: "log",
                    more: "[service.collect.log]\n\(log)"
                ).text
            }
            func say(_ text: String, _ client: SecureClient, until condition: () -> Bool) async throws {
                client.say(text)
                try await eventually("'\(text)' is logged", details: client.transcript, condition)
            }
            let daemon = try await Daemon.start(service("to = \"file:\(folder.file("first"))\""), in: folder)
            let old = try client(to: place)
            try await say("7 <13>one", old) { folder.read("first").contains(" - 7 <13>one\n") }

            try daemon.reload(service("to = \"file:\(folder.file("second"))\"\nformat = \"syslog\""))
            try await daemon.logged("reloaded")
            try await say("7 <13>two", try client(to: place)) { folder.read("second").contains(" - <13>two\n") }
            try await say("still the first", old) { folder.read("first").contains(" - still the first\n") }

            try daemon.reload(service("to = \"syslog:\(folder.file("syslog"))\""))
            try await daemon.logged("reloaded", count: 2)
            try await say("9 <13>three", try client(to: place)) { socket.receive()?.bytes == Array("<13>three".utf8) }
            try await daemon.stop()
        }

        @Test func `a changed log level holds at once`() async throws {
            let place = try SocketAddress.freeOnOwnLoopback()
            let service = Service(listen: [place], identity: identity).text
            let daemon = try await Daemon.start(service, in: folder)
            try await client(to: place).exchange("told")
            try await daemon.logged("connection opened")
            try daemon.reload("log_level = \"notice\"\n" + service)
            try await daemon.logged("reloaded")
            try await client(to: place).exchange("not told")
            try daemon.reload("log_level = \"info\"\n" + service)
            try await daemon.logged("reloaded", count: 2)
            try await client(to: place).exchange("told again")
            // Workers write what they log before they answer.
            try await daemon.logged("connection opened", count: 2)
            #expect(daemon.lines(with: "connection opened").count == 2)
            try await daemon.stop()
        }

        /// The listener is opened anew with them; connections that are there go on.
        @Test func `changed socket options hold for new connections`() async throws {
            let everywhere = try SocketAddress.free(on: "::")
            let ipv6 = try #require(SocketAddress(host: "::1", port: everywhere.port))
            let ipv4 = try #require(SocketAddress(host: "127.0.0.1", port: everywhere.port))
            func service(_ keys: String) -> String {
                Service(listen: [everywhere], identity: identity, more: "[service.echo.socket]\n\(keys)").text
            }
            func listener() async throws -> String {
                try await Program.run(["ss", "-Huanm", "sport = :\(everywhere.port)"], in: folder)
            }
            let daemon = try await Daemon.start(service(""), in: folder)
            let old = try client(to: ipv6)
            try await old.exchange("before")
            let refused = try client(to: ipv4)
            #expect(try await refused.program.ended() != .exited(0))
            try daemon.reload(
                service("ipv6_only = false\nreceive_buffer = 50000\nsend_buffer = 60000\ninterface = \"lo\""))
            try await daemon.logged("reloaded")
            try await client(to: ipv4).exchange("over IPv4")
            try await client(to: ipv6).exchange("over IPv6")
            try await old.exchange("still here")
            // The kernel doubles what is set (socket(7)).
            let text = try await listener()
            #expect(
                text.contains("*%lo:\(everywhere.port)") && text.contains("rb100000") && text.contains("tb120000"),
                "\(text)")
            try await daemon.stop()
        }
    }
}
