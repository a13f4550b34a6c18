import Glibc
import LinuxSystem
import TestSupport
import Testing

extension EndToEndClientMode {
    /// What limits, and a configuration that has changed meanwhile, mean for a client that comes back on its old port.
    @Suite struct RehandshakeLimitTests {
        let folder: TestFolder
        let identity: Identity
        let address: SocketAddress

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
            address = try SocketAddress.freeOnOwnLoopback()
        }

        private func configuration(_ limits: String = "", name: String = "echo", all: String = "") -> String {
            let more = "[service.\(name).limits]\n\(limits)"
            return "workers = 1\n" + Service(name: name, listen: [address], identity: identity, more: more).text
                + "[limits]\n\(all)\n"
        }

        /// A client that has begun its handshake once more needs no second place beside its own.
        @Test(arguments: ["connections = 1", "connections_per_prefix = 1", "handshakes = 1"])
        func `a second handshake takes the place of the first`(_ limit: String) async throws {
            let daemon = try await Daemon.start(configuration(limit), in: folder)
            let socket = try DatagramSocket(at: .free(on: address.host))
            func answer(_ hello: [UInt8], _ wanted: (HelloAnswer) -> Bool) async throws -> HelloAnswer {
                socket.send(hello, to: address)
                return try await eventualValue("an answer", details: daemon.program.errors) {
                    // What comes of the handshake before is sent again and again.
                    while let datagram = socket.receive()?.bytes {
                        if wanted(HelloAnswer(datagram)) { return HelloAnswer(datagram) }
                    }
                    return nil
                }
            }
            for round in 1...3 {
                let hello = ClientHelloBytes()
                guard
                    case .helloVerifyRequest(let cookie) = try await answer(
                        hello.bytes(), { $0 != .serverHello && $0 != .other })
                else {
                    Issue.record("no HelloVerifyRequest in round \(round)")
                    return
                }
                // Once, as its client would not say it again for a second.
                _ = try await answer(hello.bytes(cookie: cookie, number: 1)) { $0 == .serverHello }
                if round > 1 {
                    try await daemon.logged("handshake failed", "the peer has begun a new handshake", count: round - 1)
                }
            }
            #expect(!daemon.logs("REASON=\(limit.prefix { $0 != " " })"), "\(daemon.program.errors)")
            try await daemon.stop()
        }

        private func client(at port: SocketAddress) throws -> SecureClient {
            try SecureClient(to: address, trust: identity.certificate, in: folder, ["-bind", "\(port)"])
        }

        /// A connection, its client gone without a word, and a configuration that came after it.
        private func orphaned(_ configuration: String, at port: SocketAddress, by daemon: Daemon) async throws {
            let lost = try client(at: port)
            try await lost.exchange("before")
            try daemon.reload(configuration)
            try await daemon.logged("reloaded")
            try await lost.exchange("still connected")
            lost.program.signal(SIGKILL)
            _ = try await lost.program.ended()
        }

        @Test(arguments: [("deny = [\"127.0.0.11\"]", ""), ("", "deny = [\"127.0.0.11\"]")])
        func `a client that has been denied since gets no re-handshake`(_ limits: String, _ all: String) async throws {
            let daemon = try await Daemon.start(configuration(), in: folder)
            let port = try SocketAddress.free(on: "127.0.0.11")
            try await orphaned(configuration(limits, all: all), at: port, by: daemon)
            let back = try client(at: port)
            back.say("let me in")
            try await daemon.logged("connection closed: the peer has begun a new handshake", "PEER=\(port)")
            try await daemon.logged(" warning main: ", "PEER=\(port)", "REASON=denied")
            #expect(back.output.isEmpty)
            #expect(daemon.lines(with: "connection opened").count == 1)
            try await daemon.stop()
        }

        /// Its hello is the listener's, which serves the address for another service.
        @Test func `a service that has been removed does no re-handshake`() async throws {
            let daemon = try await Daemon.start(configuration(), in: folder)
            let port = try SocketAddress.free(on: "127.0.0.11")
            try await orphaned(configuration(name: "other"), at: port, by: daemon)
            let back = try client(at: port)
            try await back.exchange("hello, other")
            #expect(daemon.logs("connection closed: the peer has begun a new handshake", "SERVICE=echo"))
            #expect(daemon.logs("connection opened", "SERVICE=other"))
            try await daemon.stop()
        }
    }
}
