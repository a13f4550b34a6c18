import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEndClientMode {
    /// Backends and servers that are host names, whose name server changes its mind.
    @Suite struct NameTests {
        let folder: TestFolder
        let identity: Identity
        /// Where clients of the service are.
        let front: SocketAddress
        /// Three addresses of this machine where a port is free.
        let hosts = (2...4).map { "127.77.\(UInt8.random(in: 1...254)).\($0)" }
        let port: UInt16

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
            front = try SocketAddress.freeOnOwnLoopback()
            port = try SocketAddress.free(on: hosts[0], and: hosts[1], hosts[2], "::1").port
        }

        /// A backend that answers with its name before each datagram.
        private func backend(_ name: String, on host: String) throws -> Backend {
            let socket = try DatagramSocket(at: try #require(SocketAddress(host: host, port: port)))
            return Backend(on: [socket]) { [Array("\(name):".utf8) + $0.bytes] }
        }

        private func service(_ more: String = "") -> String {
            "workers = 1\n" + more
                + Service.forwarding(to: "udp:be.example:\(port)", listen: front, identity: identity).text
        }

        private func client() throws -> SecureClient {
            try SecureClient(to: front, trust: identity.certificate, in: folder)
        }

        /// Asks again and again, since what a backend has refused may be lost.
        private func isServed(_ client: SecureClient, by name: String) async throws {
            try await eventually("\(name) serves the client", details: client.transcript) {
                client.say("who")
                return client.output.hasSuffix("\(name):who\n")
            }
        }

        @Test func `a backend that moves keeps its clients without a reload, and without its name server`() async throws
        {
            let backends = [try backend("a", on: hosts[0]), try backend("b", on: hosts[1])]
            let server = try await NameServer([("be.example", hosts[0])], in: folder)
            let control = folder.file("control.sock")
            let daemon = try await Daemon.start(
                service(server.configuration) + "[control]\npath = \"\(control)\"\n", in: folder)
            let first = try client()
            try await first.exchange("one", answer: "a:one")
            try server.replace(with: [("be.example", hosts[1])])
            try await daemon.logged("the host name be.example has other addresses: \(hosts[1])")
            // The same connection, and a new one.
            try await first.exchange("two", answer: "b:two")
            let second = try client()
            try await second.exchange("three", answer: "b:three")
            let status = try await Tool.run(["status", "--socket", control], in: folder)
            #expect(
                status.output.split(separator: "\n").contains {
                    $0.hasPrefix("forward") && $0.contains("udp:be.example:\(port)") && $0.hasSuffix(hosts[1])
                }, "\(status)")

            try await server.stop()
            try await daemon.logged(
                "the host name be.example cannot be resolved:", "its last addresses stay: \(hosts[1])")
            try await second.exchange("four", answer: "b:four")
            try await daemon.stop()
            for backend in backends { try await backend.stop() }
        }

        @Test func `where one address refuses, the next serves, IPv4 after IPv6`() async throws {
            let server = try await NameServer(
                [("be.example", "::1"), ("be.example", hosts[0]), ("be.example", hosts[1])], timeToLive: 3_600,
                in: folder)
            let daemon = try await Daemon.start(service(server.configuration), in: folder)
            let backend = try backend("b", on: hosts[1])
            let client = try client()
            try await isServed(client, by: "b")
            try await daemon.logged("the backend udp:[::1]:\(port) does not take datagrams")
            try await backend.stop()
            let other = try self.backend("six", on: "::1")
            try await isServed(client, by: "six")
            try await daemon.stop()
            try await other.stop()
        }

        /// Its records are good for an hour.
        @Test func `a backend that has moved is found before its time when it refuses`() async throws {
            let server = try await NameServer([("be.example", hosts[0])], timeToLive: 3_600, in: folder)
            let daemon = try await Daemon.start(service(server.configuration), in: folder)
            let first = try backend("a", on: hosts[0])
            let client = try client()
            try await isServed(client, by: "a")
            try await first.stop()
            let second = try backend("b", on: hosts[1])
            try server.replace(with: [("be.example", hosts[1])])
            try await isServed(client, by: "b")
            try await daemon.stop()
            try await second.stop()
        }

        @Test func `a name that does not resolve makes its own service wait, and no other`() async throws {
            let backend = try backend("a", on: hosts[0])
            let server = try await NameServer([], in: folder)
            let echo = try SocketAddress.freeOnOwnLoopback()
            let text = service(server.configuration) + Service(listen: [echo], identity: identity).text
            let daemon = try await Daemon.start(text, in: folder)
            try await daemon.logged(
                "the host name be.example cannot be resolved: Domain name not found",
                "nothing can be sent there until it has an address")
            let other = try SecureClient(to: echo, trust: identity.certificate, in: folder)
            try await other.exchange("served")
            let waiting = try client()
            try await daemon.logged("worker 0 has refused", "REASON=no_backend")
            // A reload goes on, too, and what is known stays.
            try daemon.reload(text + "# the same again\n")
            try await daemon.logged("reloaded")
            #expect(waiting.output.isEmpty)

            // Another name server knows the name.
            let knowing = try await NameServer([("be.example", hosts[0])], in: try TestFolder())
            try daemon.reload(text.replacing(server.configuration, with: knowing.configuration))
            try await daemon.logged("the host name be.example is resolved: \(hosts[0])")
            // It sends its ClientHello again, and gets through.
            try await waiting.exchange("at last", answer: "a:at last")
            #expect(daemon.lines(with: "the host name be.example cannot be resolved").count == 1)
            try await daemon.stop()
            try await backend.stop()
        }

        @Test func `the resolver that dies is replaced, and what is known stays`() async throws {
            let backends = [try backend("a", on: hosts[0]), try backend("b", on: hosts[1])]
            let server = try await NameServer([("be.example", hosts[0])], in: folder)
            let daemon = try await Daemon.start(service(server.configuration), in: folder)
            func resolvers() -> [pid_t] {
                ProcessTable.children(of: daemon.program.pid).filter {
                    ProcessTable.isRunning($0) && ProcessTable.name(of: $0) == "dtlsd: resolver"
                }
            }
            let resolver = try #require(resolvers().first)
            kill(resolver, SIGKILL)
            try await daemon.logged("host names are not looked up: its process was killed by signal 9")
            let client = try client()
            try await client.exchange("one", answer: "a:one")
            try server.replace(with: [("be.example", hosts[1])])
            try await isServed(client, by: "b")
            #expect(resolvers().count == 1 && resolvers() != [resolver])
            // Nobody asks for names that are in no configuration.
            try daemon.reload("workers = 1\n" + Service(listen: [front], identity: identity).text)
            try await daemon.logged("reloaded")
            try await eventually("the resolver ends") { resolvers().isEmpty }
            try await daemon.stop()
            for backend in backends { try await backend.stop() }
        }

        @Test func `an upgrade keeps the addresses, whether a name server answers or not`() async throws {
            let backend = try backend("a", on: hosts[0])
            let server = try await NameServer([("be.example", hosts[0])], in: folder)
            let daemon = try await Daemon.start(service(server.configuration), in: folder)
            let before = try client()
            try await before.exchange("one", answer: "a:one")
            try await server.stop()
            daemon.program.signal(SIGUSR2)
            #expect(try await daemon.program.ended() == .exited(0))
            let main = try #require(daemon.mainProcess)
            try await isServed(before, by: "a")
            let after = try client()
            try await after.exchange("two", answer: "a:two")
            kill(main, SIGTERM)
            try await eventually("it ends", details: daemon.program.errors) { !ProcessTable.isRunning(main) }
            try await backend.stop()
        }

        @Test func `a client waits for its server's address, and follows it`() async throws {
            let server = try await NameServer([], in: folder)
            let text =
                "workers = 1\n" + server.configuration
                    + """
                    [client.out]
                    listen = "\(front)"
                    connect = "server.example:\(port)"
                    server_name = "localhost"
                    ca = "\(identity.certificate)"

                    """
            let daemon = try await Daemon.start(text, in: folder)
            let sender = try PlainSender(to: front)
            sender.send("one\n")
            try await daemon.logged("no connection to the server server.example:\(port): its host name has no address")
            let first = try await SecureServer(
                at: try #require(SocketAddress(host: hosts[0], port: port)), as: identity, in: folder)
            try server.replace(with: [("server.example", hosts[0])])
            // What was sent before has waited.
            try await first.hears("one\n")
            try await daemon.logged("connection to the server opened", "REMOTE_ADDRESS=\(hosts[0]):\(port)")

            // The server moves; the next connection goes to its new address.
            first.program.signal(SIGKILL)
            _ = try await first.program.ended()
            let second = try await SecureServer(
                at: try #require(SocketAddress(host: hosts[1], port: port)), as: identity, in: try TestFolder())
            try server.replace(with: [("server.example", hosts[2]), ("server.example", hosts[1])])
            try await eventually("the second server is found", details: daemon.program.errors) {
                sender.send("two\n")
                return second.output.contains("two\n")
            }
            try await daemon.stop()
        }

        @Test func `--check tells names that do not resolve, and --strict counts them as errors`() async throws {
            let server = try await NameServer([("known.example", hosts[0])], in: folder)
            func check(_ name: String, _ more: String...) async throws -> (Program.Ending, errors: String) {
                let file = try folder.write(
                    server.configuration
                        + Service.forwarding(to: "udp:\(name):1", listen: front, identity: identity).text,
                    to: "checked.toml")
                let program = try Program([Daemon.binary, "--check", "--config", file] + more, in: folder)
                return (try await program.ended(), program.errors)
            }
            let known = try await check("known.example", "--strict")
            #expect(known.0 == .exited(0) && known.errors.isEmpty, "\(known.errors)")
            let message =
                "service.forward.forward.backend: the host name \"be.example\" has no address (Domain name not found);"
                + " expected a name that resolves, or an address. Nothing can be sent there until it has one\n"
            let warned = try await check("be.example")
            #expect(warned.0 == .exited(0) && warned.errors.hasPrefix("warning: ") && warned.errors.hasSuffix(message))
            let refused = try await check("be.example", "--strict")
            #expect(refused.0 == .exited(78) && !refused.errors.contains("warning: "))
            #expect(refused.errors.hasSuffix(message), "\(refused.errors)")
        }
    }
}
