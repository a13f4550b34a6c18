import Foundation
import LinuxSystem
import Synchronization
import TestSupport
import Testing

extension EndToEnd {
    /// Backends that fall silent, and come back.
    @Suite struct HealthCheckTests {
        let folder: TestFolder
        let identity: Identity
        let address: SocketAddress
        private var control: String { folder.file("control.sock") }

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
            address = try SocketAddress.freeOnOwnLoopback()
        }

        private func service(
            _ backends: [String], check: String, rules: String = "", keys: String = "", workers: Int = 1
        ) -> String {
            let list = backends.map { "\"\($0)\"" }.joined(separator: ", ")
            return "workers = \(workers)\ncontrol.path = \"\(control)\"\n"
                + Service(
                    name: "forward", listen: [address], identity: identity, handler: "forward",
                    more: """
                        [service.forward.forward]
                        backend = [\(list)]
                        \(keys)
                        [service.forward.forward.health_check]
                        interval = 1
                        timeout = 1
                        fall = 2
                        rise = 2
                        \(check)
                        \(rules)
                        """
                ).text
        }

        private func client(from source: String = "127.0.0.1", _ arguments: [String] = []) throws -> SecureClient {
            try SecureClient(
                to: address, trust: identity.certificate, in: folder, ["-bind", "\(source):0"] + arguments)
        }

        /// The states of the only service's backends, and why checks have failed.
        private func backends() async throws -> [[String: Any]] {
            let outcome = try await Tool.run(["status", "--json", "--socket", control], in: folder)
            let status = try #require(
                try JSONSerialization.jsonObject(with: Data(outcome.output.utf8)) as? [String: Any])
            let service = try #require((status["services"] as? [[String: Any]])?.first)
            return try #require(service["backends"] as? [[String: Any]])
        }

        private func states() async throws -> [String] { try await backends().map { $0["state"] as? String ?? "" } }

        private func states(become wanted: [String]) async throws {
            for _ in 0..<600 {
                if try await states() == wanted { return }
                try await Task.sleep(for: .milliseconds(50))
            }
            throw NeverHappened(description: "the backends are \(wanted), not \(try await states())")
        }

        private func checker(of daemon: Daemon) -> pid_t? {
            ProcessTable.children(of: daemon.program.pid).first { ProcessTable.name(of: $0) == "dtlsd: checker" }
        }

        // MARK: Software that we did not write

        /// CoAP servers, which answer a ping (RFC 7252, section 1.2: an empty confirmable message) with Reset. A server
        /// that is stopped is silent: its port is open.
        @Test func `clients of a CoAP server that falls silent are served by the other one until it is back`()
            async throws
        {
            let places = try (0..<2).map { _ in try SocketAddress.free(on: "127.0.0.1") }
            let servers = try places.map {
                try Program(["coap-server-notls", "-A", $0.host, "-p", "\($0.port)", "-v", "1"], in: folder)
            }
            for (server, place) in zip(servers, places) {
                try await eventually("coap-server is there", details: server.errors) {
                    ProcessTable.localPorts(of: server.pid).contains(place.port)
                }
            }
            let names = places.map { "udp:\($0)" }
            let daemon = try await Daemon.start(
                service(names, check: "send = \"hex:40000001\"\nexpect = \"hex:70000001\""), in: folder)
            // Without a client: the checks have found out.
            try await states(become: ["up", "up"])
            func greets() async throws -> String {
                try await Program.run(
                    [
                        "coap-client-openssl", "-B", "10", "-R", identity.certificate, "-m", "get",
                        "coaps://\(address)/",
                    ], in: folder)
            }
            #expect(try await greets().contains("This is a test server made with libcoap"))

            servers[0].signal(SIGSTOP)
            try await daemon.logged(
                "the backend \(names[0]) is down: 2 checks failed", "no answer within 1 s", "SERVICE=forward")
            #expect(try await states() == ["down", "up"])
            #expect(try await backends()[0]["check_failure"] as? String == "no answer within 1 s")
            // Whichever of the two is the client's, it is served.
            #expect(try await greets().contains("This is a test server made with libcoap"))
            servers[0].signal(SIGCONT)
            try await daemon.logged("the backend \(names[0]) is up again", "SERVICE=forward")
            try await states(become: ["up", "up"])
            #expect(daemon.lines(with: "is down: ").count == 1 && daemon.lines(with: "is up again").count == 1)

            // And the other one, so that the client's own was silent once.
            servers[1].signal(SIGSTOP)
            try await daemon.logged("the backend \(names[1]) is down")
            #expect(try await greets().contains("This is a test server made with libcoap"))
            servers[1].signal(SIGCONT)
            try await daemon.stop()
            for server in servers { server.signal(SIGKILL) }
        }

        /// dnsmasq, which answers a question for the address of localhost: a header with the bit QR, and no error.
        @Test func `a name server is checked by a question that it has to answer`() async throws {
            let server = try await NameServer([("be.example", "192.0.2.7")], in: folder)
            let question = "0007 0100 0001 0000 0000 0000 02 6265 07 6578616d706c65 00 0001 0001"
            let daemon = try await Daemon.start(
                service(
                    ["udp:\(server.address)"],
                    check: "send = \"hex:\(question)\"\nexpect = \"hex:0007*c0000207\""), in: folder)
            try await states(become: ["up"])
            // Another address is not the one that is expected.
            try server.replace(with: [("be.example", "192.0.2.8")])
            try await daemon.logged(
                "the backend udp:\(server.address) is down", "its answer is not the one that is expected: hex:0007")
            try server.replace(with: [("be.example", "192.0.2.7")])
            try await daemon.logged("the backend udp:\(server.address) is up again")
            try await server.stop()
            try await daemon.logged("the backend udp:\(server.address) is down", "Connection refused")
            try await daemon.stop()
        }

        // MARK: Connections

        /// A backend that answers with its name, and nothing while it is silent.
        private final class Backends {
            let place: SocketAddress
            let socket: DatagramSocket
            let backend: Backend
            let isSilent: Flag

            init(_ name: String) throws {
                socket = try DatagramSocket.onOwnLoopback()
                place = socket.local
                let flag = Flag()
                isSilent = flag
                backend = Backend(on: [socket]) { received in
                    if flag.isSet { return [] }
                    return [received.text == "ping" ? Array("pong".utf8) : Array("\(name):".utf8) + received.bytes]
                }
            }
        }

        @Test func `a connection leaves a silent backend and returns over the death of workers`() async throws {
            let (first, other) = (try Backends("a"), try Backends("b"))
            let daemon = try await Daemon.start(
                service(
                    ["udp:\(first.place)", "udp:\(other.place)"], check: "send = \"ping\"\nexpect = \"pong\"",
                    workers: 2), in: folder)
            try await states(become: ["up", "up"])
            // A client whose own backend is the first.
            var found: SecureClient?
            var source = ""
            for number in 1...40 where found == nil {
                source = "127.31.9.\(number)"
                let client = try client(from: source)
                client.say("who")
                try await eventually("the client is served", details: client.transcript) {
                    client.output.hasSuffix(":who\n")
                }
                if client.output.hasPrefix("a:") { found = client } else { try await client.leave() }
            }
            let client = try #require(found)
            first.isSilent.set(true)
            try await daemon.logged("the backend udp:\(first.place) is down")
            try await eventually("the client is the other's", details: client.transcript) {
                client.say("now")
                return client.hasHeard("b:now")
            }
            // Workers that are started meanwhile know it too, and there is one checker all the time.
            let pid = try #require(checker(of: daemon))
            for worker in 0..<2 { try await daemon.replaceWorker(worker) }
            try await client.exchange("after", answer: "b:after")
            let newcomer = try self.client(from: "127.31.9.100")
            try await newcomer.exchange("new", answer: "b:new")
            #expect(checker(of: daemon) == pid && daemon.lines(with: "is down").count == 1)

            first.isSilent.set(false)
            try await daemon.logged("the backend udp:\(first.place) is up again")
            // What another process goes on with stays where it is; the next connection of the address is the first's.
            try await client.exchange("still", answer: "b:still")
            try await client.leave()
            let next = try self.client(from: source)
            try await next.exchange("next", answer: "a:next")
            #expect(!daemon.logs("connection closed", "closed here"))
            try await daemon.stop()
        }

        @Test func `a checker that dies is started again, and what it had found out holds`() async throws {
            let (first, other) = (try Backends("a"), try Backends("b"))
            first.isSilent.set(true)
            let daemon = try await Daemon.start(
                service(
                    ["udp:\(first.place)", "udp:\(other.place)"], check: "send = \"ping\"\nexpect = \"pong\""),
                in: folder)
            try await states(become: ["down", "up"])
            let victim = try #require(checker(of: daemon))
            kill(victim, SIGKILL)
            try await daemon.logged("backends are not checked: its process", "is started again in 1 s")
            #expect(try await states() == ["down", "up"])
            try await eventually("there is another checker", details: daemon.program.errors) {
                checker(of: daemon).map { $0 != victim } ?? false
            }
            first.isSilent.set(false)
            try await states(become: ["up", "up"])
            try await daemon.stop()
        }

        @Test func `a reload begins, changes and ends checks, of the backends of rules too`() async throws {
            let (first, other) = (try Backends("a"), try Backends("b"))
            other.isSilent.set(true)
            let rule = """
                [service.forward.forward.rule.r]
                server_name = "r.example"
                backend = "udp:\(other.place)"
                """
            let plain =
                "workers = 1\ncontrol.path = \"\(control)\"\n"
                + Service.forwarding(to: "udp:\(first.place)", listen: address, identity: identity).text + rule + "\n"
            let daemon = try await Daemon.start(plain, in: folder)
            #expect(checker(of: daemon) == nil)
            #expect(try await states() == ["unknown", "unknown"])
            let checked = service(
                ["udp:\(first.place)"], check: "send = \"ping\"\nexpect = \"pong\"", rules: rule)
            try daemon.reload(checked)
            try await states(become: ["up", "down"])
            // Another answer is wanted, and the first gives it no more than the other.
            try daemon.reload(checked.replacing("\"pong\"", with: "\"ping*\""))
            try await states(become: ["down", "down"])
            try await daemon.logged("its answer is not the one that is expected: hex:706f6e67")
            try daemon.reload(plain)
            try await daemon.logged("reloaded", count: 3)
            try await eventually("the checker ends", details: daemon.program.errors) { checker(of: daemon) == nil }
            try await states(become: ["unknown", "unknown"])
            let client = try client()
            try await client.exchange("hello", answer: "a:hello")
            try await daemon.stop()
        }

        /// It is all that there is, and a check may be wrong.
        @Test func `the only backend is sent to although its checks fail, and they are counted`() async throws {
            let only = try Backends("a")
            let daemon = try await Daemon.start(
                service(["udp:\(only.place)"], check: "send = \"ping\"\nexpect = \"other\""), in: folder)
            try await states(become: ["down"])
            let client = try client()
            try await client.exchange("hello", answer: "a:hello")
            let counters = try await Tool.run(["counters", "--json", "--socket", control], in: folder)
            #expect(counters.output.contains("backend_checks_total"), "\(counters)")
            let table = try await Tool.run(["status", "--socket", control], in: folder)
            #expect(table.output.contains("LAST CHECK"), "\(table)")
            try await daemon.stop()
        }

        @Test func `a Unix backend, and one that expects the PROXY protocol, are checked`() async throws {
            let path = folder.file("backend.socket")
            let unix = try DatagramSocket(atPath: path)
            let proxied = try DatagramSocket.onOwnLoopback()
            let header: [UInt8] = [
                0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a, 0x20, 0x00, 0x00, 0x00,
            ]
            let backends = [unix, proxied].map { socket in
                Backend(on: [socket]) { $0.bytes == header + Array("ping".utf8) ? [Array("pong".utf8)] : [] }
            }
            let daemon = try await Daemon.start(
                service(
                    ["unix:\(path)", "udp:\(proxied.local)"], check: "send = \"ping\"", keys: "proxy_protocol = true"),
                in: folder)
            try await states(become: ["up", "up"])
            try await backends[0].stop()
            unlink(path)
            try await daemon.logged("the backend unix:\(path) is down", "No such file or directory")
            try await daemon.stop()
            try await backends[1].stop()
        }
    }
}

/// A flag that another thread reads.
private final class Flag: Sendable {
    private let value = Mutex(false)
    var isSet: Bool { value.withLock { $0 } }
    func set(_ isSet: Bool) { value.withLock { $0 = isSet } }
}
