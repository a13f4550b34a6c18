import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEnd {
    /// Who is let in, key by key: a client that a limit keeps out hears no ServerHello, the log names the limit, and
    /// when there is a place again the client has it. Clients have addresses of their own in 127.0.0.0/8.
    @Suite struct AdmissionTests {
        let folder: TestFolder
        let identity: Identity
        let address: SocketAddress

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
            address = try SocketAddress.freeOnOwnLoopback()
        }

        private func configuration(_ limits: String, all: String = "", workers: Int = 1) -> String {
            "workers = \(workers)\n"
                + Service(listen: [address], identity: identity, more: "[service.echo.limits]\n\(limits)").text
                + "[limits]\n\(all)\n"
        }

        private func start(_ limits: String, all: String = "", workers: Int = 1) async throws -> Daemon {
            try await Daemon.start(configuration(limits, all: all, workers: workers), in: folder)
        }

        private func client(from host: String, port: UInt16 = 0) throws -> SecureClient {
            try SecureClient(to: address, trust: identity.certificate, in: folder, ["-bind", "\(host):\(port)"])
        }

        /// A client that has done its handshake and heard its echo.
        private func served(from host: String) async throws -> SecureClient {
            let client = try client(from: host)
            try await client.exchange("hello from \(host)")
            return client
        }

        /// A client's socket that sends a hello with a good cookie: a handshake that will not be finished.
        private func halfOpen(from host: String) async throws -> (socket: DatagramSocket, answer: HelloAnswer) {
            let socket = try DatagramSocket(at: try #require(SocketAddress(host: host, port: 0)))
            let hello = ClientHelloBytes()
            guard case .helloVerifyRequest(let cookie) = try await socket.ask(hello.bytes(), of: address) else {
                Issue.record("no cookie for \(host)")
                return (socket, .other)
            }
            return (socket, try await socket.ask(hello.bytes(cookie: cookie, number: 1), of: address))
        }

        /// The log says that a newcomer from there was refused, and why.
        private func refused(_ host: String, _ reason: String, by daemon: Daemon) async throws {
            try await daemon.logged(" warning main: ", "PEER=\(host):", "REASON=\(reason) ", "SERVICE=echo")
        }

        @Test(arguments: [("connections = 2", ""), ("", "connections = 2"), ("connections = 2", "connections = 3")])
        func `connections are limited`(_ limits: String, _ all: String) async throws {
            let daemon = try await start(limits, all: all)
            let first = try await served(from: "127.0.0.11")
            let second = try await served(from: "127.0.0.12")
            let third = try client(from: "127.0.0.13")
            third.say("let me in")
            try await refused("127.0.0.13", "connections", by: daemon)
            #expect(daemon.logs("\(limits.isEmpty ? "limits" : "service.echo.limits").connections is reached"))
            try await second.exchange("nothing happened")
            #expect(third.output.isEmpty)

            try await first.leave()
            try await third.hears("let me in")
            try await [second, third].leave()
            try await daemon.stop()
            #expect(daemon.logs("stopped: 0 connections, 0 of them in handshake"))
            #expect(try #require(daemon.lines(with: "stopped:").first).contains(/[1-9]\d* connections[,)]/))
        }

        @Test(arguments: ["127.0.0.12", "127.0.1.12"])
        func `connections per prefix are limited`(_ neighbour: String) async throws {
            let isWide = neighbour == "127.0.1.12"
            let daemon = try await start("connections_per_prefix = 2\n\(isWide ? "ipv4_prefix = 23" : "")")
            let mine = isWide ? ["127.0.0.11", neighbour] : [neighbour, neighbour]
            let clients = [try await served(from: mine[0]), try await served(from: mine[1])]
            let third = try client(from: neighbour)
            third.say("let me in")
            try await refused(neighbour, "connections_per_prefix", by: daemon)
            _ = try await served(from: isWide ? "127.0.2.1" : "127.0.0.13")
            #expect(third.output.isEmpty)
            try await clients[0].leave()
            try await third.hears("let me in")
            try await daemon.stop()
        }

        /// A handshake that is given up makes room, and one that is done too.
        @Test func `handshakes in progress are limited`() async throws {
            let daemon = try await Daemon.start(
                configuration("handshakes = 2").replacing(
                    "[service.echo.limits]", with: "handshake_timeout = 6\n[service.echo.limits]"), in: folder)
            let residents = [
                try await served(from: "127.0.0.11"), try await served(from: "127.0.0.11"),
                try await served(from: "127.0.0.11"),
            ]
            let hanging = [try await halfOpen(from: "127.0.0.21"), try await halfOpen(from: "127.0.0.22")]
            #expect(hanging.allSatisfy { $0.answer == .serverHello })
            let client = try client(from: "127.0.0.23")
            client.say("let me in")
            try await refused("127.0.0.23", "handshakes", by: daemon)
            #expect(client.output.isEmpty)
            try await daemon.logged("handshake failed", "PEER=127.0.0.21:")
            try await client.hears("let me in")
            _ = residents
            try await daemon.stop()
        }

        @Test func `new handshakes per second are limited`() async throws {
            // One at once, and the next in a thousand seconds; a reload lifts the limit.
            let daemon = try await start("handshakes_per_second = 0.001")
            let first = try await served(from: "127.0.0.11")
            let second = try client(from: "127.0.0.12")
            second.say("let me in")
            try await refused("127.0.0.12", "handshakes_per_second", by: daemon)
            #expect(second.output.isEmpty)
            try daemon.reload(configuration("handshakes_per_second = 1000"))
            try await second.hears("let me in")
            _ = first
            try await daemon.stop()
        }

        @Test func `new handshakes per second and prefix are limited`() async throws {
            let daemon = try await start("handshakes_per_second_per_prefix = 0.001")
            let first = try await served(from: "127.0.0.11")
            let second = try client(from: "127.0.0.11")
            second.say("let me in")
            try await refused("127.0.0.11", "handshakes_per_second_per_prefix", by: daemon)
            let others = [try await served(from: "127.0.0.12"), try await served(from: "127.0.0.13")]
            #expect(second.output.isEmpty)
            try daemon.reload(configuration(""))
            try await second.hears("let me in")
            _ = (first, others)
            try await daemon.stop()
        }

        /// The most specific network wins, a reload changes who is served, and who was served stays connected.
        @Test func `only networks that are allowed are served`() async throws {
            let daemon = try await start(
                "allow = [\"127.0.0.0/24\", \"127.0.1.7\"]\ndeny = [\"127.0.0.64/26\", \"127.0.0.0/8\"]")
            let clients = [try await served(from: "127.0.0.11"), try await served(from: "127.0.1.7")]
            let hello = ClientHelloBytes().bytes()
            for host in ["127.0.0.65", "127.0.1.8"] {
                let socket = try DatagramSocket(at: try #require(SocketAddress(host: host, port: 0)))
                socket.send(hello, to: address)
                try await refused(host, "denied", by: daemon)
                #expect(socket.receive() == nil, "not even a cookie")
            }
            try daemon.reload(configuration("", all: "deny = [\"127.0.0.11\"]"))
            try await daemon.logged("reloaded")
            _ = try await served(from: "127.0.0.65")
            try await clients[0].exchange("still here")
            let late = try client(from: "127.0.0.11")
            late.say("let me in")
            try await refused("127.0.0.11", "denied", by: daemon)
            #expect(late.output.isEmpty)
            try await daemon.stop()
            #expect(daemon.logs("stopped:", " denied"))
        }

        /// Lists for IPv4 hold for IPv4 clients of an IPv6 socket.
        @Test func `IPv4-mapped addresses count as IPv4`() async throws {
            let port = try SocketAddress.free(on: "::").port
            let more = """
                [service.echo.socket]
                ipv6_only = false
                [service.echo.limits]
                deny = ["127.0.0.11"]
                connections_per_prefix = 1
                """
            let any = try #require(SocketAddress(host: "::", port: port))
            let daemon = try await Daemon.start(
                Service(listen: [any], identity: identity, more: more).text, in: folder)
            let server = try #require(SocketAddress(host: "127.0.0.1", port: port))
            func client(_ host: String) throws -> SecureClient {
                try SecureClient(to: server, trust: identity.certificate, in: folder, ["-bind", "\(host):0"])
            }
            let served = try client("127.0.0.12")
            try await served.exchange("hello")
            let denied = try client("127.0.0.11")
            try await daemon.logged("PEER=[::ffff:127.0.0.11]:", "REASON=denied")
            let second = try client("127.0.0.12")
            try await daemon.logged("PEER=[::ffff:127.0.0.12]:", "REASON=connections_per_prefix")
            #expect(denied.output.isEmpty && second.output.isEmpty)
            try await daemon.stop()
        }

        /// A lower limit sends nobody away, and holds for newcomers; the connections from before count.
        @Test func `a reload changes limits`() async throws {
            let daemon = try await start("", workers: 2)
            let clients = [
                try await served(from: "127.0.0.11"), try await served(from: "127.0.0.11"),
                try await served(from: "127.0.0.12"),
            ]
            try daemon.reload(configuration("connections_per_prefix = 2", all: "connections = 3", workers: 2))
            try await daemon.logged("reloaded")
            let third = try client(from: "127.0.0.11")
            third.say("let me in")
            try await refused("127.0.0.11", "connections_per_prefix", by: daemon)
            let other = try client(from: "127.0.0.12")
            other.say("let me in")
            try await refused("127.0.0.12", "connections", by: daemon)
            for client in clients { try await client.exchange("still here") }
            try await clients[0].leave()
            // Whoever asks first has the place.
            try await eventually("one of both is let in", details: third.transcript + other.transcript) {
                third.hasHeard("let me in") || other.hasHeard("let me in")
            }
            try daemon.reload(configuration("", workers: 2))
            try await daemon.logged("reloaded", count: 2)
            try await third.hears("let me in")
            try await other.hears("let me in")
            try await daemon.stop()
        }

        /// The connections of a worker that dies are taken over, and go on to count.
        @Test func `a worker's death makes no room`() async throws {
            let daemon = try await start("connections = 2\nconnections_per_prefix = 2")
            let kept = [try await served(from: "127.0.0.11"), try await served(from: "127.0.0.11")]
            let third = try client(from: "127.0.0.11")
            third.say("let me in")
            try await refused("127.0.0.11", "connections", by: daemon)
            kill(try #require(daemon.workers.first), SIGKILL)
            try await daemon.logged("worker", "signal 9", "CONNECTIONS_KEPT=2")
            for client in kept { try await client.exchange("still here") }
            #expect(!third.hasHeard("let me in"))
            try await kept[0].leave()
            try await third.hears("let me in")
            try await daemon.stop()
        }

        /// A client that comes back without its state on its port has its connection already.
        @Test func `a client that does a re-handshake keeps its place`() async throws {
            let daemon = try await start("connections = 1\nhandshakes_per_second = 0.001")
            let port = try SocketAddress.free(on: "127.0.0.11")
            let lost = try client(from: "127.0.0.11", port: port.port)
            try await lost.exchange("before")
            lost.program.signal(SIGKILL)
            _ = try await lost.program.ended()
            let back = try client(from: "127.0.0.11", port: port.port)
            try await back.exchange("after")
            try await daemon.stop()
        }

        /// Whoever has a connection cannot have handshakes on it without end: 5 at once, and one a second.
        @Test func `re-handshakes are limited`() async throws {
            let daemon = try await start("")
            let port = try SocketAddress.free(on: "127.0.0.11")
            let lost = try client(from: "127.0.0.11", port: port.port)
            try await lost.exchange("before")
            lost.program.signal(SIGKILL)
            _ = try await lost.program.ended()
            let socket = try DatagramSocket(at: port)
            let start = ContinuousClock.now
            var answered = 0
            let tries = 40
            for _ in 0..<tries {
                let hello = ClientHelloBytes()
                guard case .helloVerifyRequest(let cookie) = try await socket.ask(hello.bytes(), of: address) else {
                    // The flight of an earlier try, sent again.
                    continue
                }
                socket.send(hello.bytes(cookie: cookie, number: 1), to: address)
                if answered == 0 {
                    // The first is answered for certain.
                    try await eventually("a ServerHello", details: daemon.program.errors) {
                        socket.receive().map { HelloAnswer($0.bytes) } == .serverHello
                    }
                    answered = 1
                } else if let answer = socket.receive(), HelloAnswer(answer.bytes) == .serverHello {
                    answered += 1
                }
            }
            let seconds = Int((ContinuousClock.now - start) / .seconds(1)) + 1
            // One a second, and one that is sent again.
            #expect(answered <= 5 + 2 * seconds, "\(answered) of \(tries) in \(seconds) s")
            // And the connection can be had again.
            _ = consume socket
            let back = try client(from: "127.0.0.11", port: port.port)
            try await back.exchange("after")
            try await daemon.stop()
        }

        /// Hellos of a great many clients that never answer, from one socket, while a client comes: it is served, and
        /// the flood costs no process a descriptor or the log more than some lines.
        @Test func `a flood of ClientHellos keeps no client out`() async throws {
            let daemon = try await start(
                "handshakes_per_second = 50\nhandshakes_per_second_per_prefix = 5\ndeny = [\"127.0.0.99\"]")
            let resident = try await served(from: "127.0.0.11")
            let processes = [daemon.program.pid] + daemon.workers
            let descriptors = processes.map { ProcessTable.openDescriptors(of: $0) }
            let lines = daemon.log.count
            let flood = Task.detached { [address] in
                let sockets = try ["127.0.0.98", "127.0.0.99"].map {
                    try DatagramSocket(at: try #require(SocketAddress(host: $0, port: 0)))
                }
                var count = 0
                while !Task.isCancelled {
                    // Some with a cookie that was never given.
                    let hello = ClientHelloBytes().bytes(
                        cookie: count.isMultiple(of: 2) ? [] : [UInt8](repeating: 7, count: 20))
                    for socket in sockets { socket.send(hello, to: address) }
                    count += 1
                    if count.isMultiple(of: 64) { try? await Task.sleep(for: .milliseconds(1)) }
                }
                return count
            }
            var visitors: [SecureClient] = []
            for number in 0..<5 {
                let client = try client(from: "127.0.0.\(20 + number)")
                try await client.exchange("in the flood")
                try await resident.exchange("number \(number)")
                visitors.append(client)
            }
            try await visitors.leave()
            flood.cancel()
            #expect(try await flood.value > 100)
            try await eventually("connections are closed") {
                daemon.lines(with: "connection closed").count >= 5
            }
            #expect(([daemon.program.pid] + daemon.workers) == processes)
            #expect(processes.map { ProcessTable.openDescriptors(of: $0) } == descriptors)
            #expect(daemon.log.count - lines < 100, "\(daemon.program.errors)")
            _ = resident
            try await daemon.stop()
        }

        /// DTLS 1.3 alone, by supported_versions.
        @Test func `a client that offers DTLS 1.3 alone is told so, and the log says it`() async throws {
            let daemon = try await start("")
            let socket = try DatagramSocket(at: try #require(SocketAddress(host: "127.0.0.11", port: 0)))
            let hello = ClientHelloBytes()
            let answer = try await eventualValue("the server answers") {
                socket.send(hello.bytes(versions: [0xfefc]), to: address)
                return socket.receive()?.bytes
            }
            // A fatal alert, protocol_version.
            #expect(answer == [21, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 70])
            try await daemon.logged("offers DTLS 1.3 alone", "PEER=127.0.0.11:", "REASON=version ", "SERVICE=echo")
            for _ in 0..<100 { socket.send(hello.bytes(versions: [0xfefc]), to: address) }
            _ = try await served(from: "127.0.0.12")
            #expect(daemon.lines(with: "offers DTLS 1.3 alone").count <= 20)
            try await daemon.stop()
        }
    }
}
