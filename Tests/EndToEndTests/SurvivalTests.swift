import Foundation
import LinuxSystem
import Synchronization
import TestSupport
import Testing

extension EndToEndCrowds {
    /// A worker is killed, and its successor goes on with its connections: the clients are not told, and do no second
    /// handshake.
    @Suite struct SurvivalTests {
        let folder: TestFolder
        let identity: Identity
        let address: SocketAddress

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
            address = try SocketAddress.freeOnOwnLoopback()
        }

        private func start(_ text: String, workers: Int = 1) async throws -> Daemon {
            try await Daemon.start("workers = \(workers)\n" + text, in: folder)
        }

        private func client(_ arguments: [String] = [], to server: SocketAddress? = nil) throws -> SecureClient {
            try SecureClient(to: server ?? address, trust: identity.certificate, in: folder, arguments)
        }

        @Test func `all clients of a killed worker go on`() async throws {
            let daemon = try await start(Service(listen: [address], identity: identity).text, workers: 2)
            let clients = try (0..<8).map { _ in try client() }
            for client in clients { try await client.exchange("before") }
            for round in 0..<3 {
                try await daemon.replaceWorker(round % 2)
                for client in clients { try await client.exchange("after death \(round)") }
            }
            #expect(daemon.lines(with: "connection opened").count == 8)
            #expect(!daemon.logs("connection closed"))
            try await clients.leave()
            #expect(clients.allSatisfy { $0.handshakesDone == 1 })
            try await daemon.logged("connection closed: closed by the peer", count: 8)
            try await daemon.stop()
        }

        /// It is one of records alone that goes on, whichever cipher suite protects them.
        @Test(arguments: [
            "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305",
            "ECDHE-ECDSA-AES128-CCM", "ECDHE-ECDSA-AES256-CCM8",
        ])
        func `a connection goes on with every cipher suite`(_ cipher: String) async throws {
            let daemon = try await start(
                Service(listen: [address], identity: identity, more: "ciphers = \"\(cipher):@SECLEVEL=0\"").text)
            let client = try client(["-cipher", "\(cipher):@SECLEVEL=0"])
            try await client.exchange("before")
            #expect(daemon.logs("connection opened", "CIPHER=\(cipher)"))
            try await daemon.replaceWorker()
            for number in 0..<5 { try await client.exchange("after \(number)") }
            try await client.leave()
            try await daemon.logged("connection closed: closed by the peer")
            try await daemon.stop()
        }

        @Test func `clients of GnuTLS and Mbed TLS go on`() async throws {
            let daemon = try await start(Service(listen: [address], identity: identity).text)
            let gnutls = try GnuTLSClient(to: address, in: folder)
            try await gnutls.exchange("before")
            let mbedTLS = try await MbedTLSPeer.client(
                to: address, in: folder, steps: ["send:one", "receive", "sleep:5000", "send:two", "receive"])
            try await eventually("the client of Mbed TLS is served", details: daemon.program.errors) {
                mbedTLS.output.contains("received 3: one")
            }
            try await daemon.replaceWorker()
            try await gnutls.exchange("after")
            #expect(try await mbedTLS.finished() == ["handshake done", "received 3: one", "received 3: two"])
            #expect(daemon.lines(with: "connection opened").count == 2)
            gnutls.program.closeInput()
            try await daemon.stop()
        }

        /// The backend tells its clients apart by their ports.
        @Test func `the backend of a killed worker notices nothing`() async throws {
            let socket = try DatagramSocket.onOwnLoopback()
            let backend = Backend.numbering(on: socket)
            let daemon = try await start(
                Service.forwarding(to: "udp:\(socket.local)", listen: address, identity: identity).text)
            let clients = try (0..<4).map { _ in try client() }
            for (number, client) in clients.enumerated() {
                try await client.exchange("before", answer: "\(number):before")
            }
            try await daemon.replaceWorker()
            for (number, client) in clients.enumerated().reversed() {
                try await client.exchange("after", answer: "\(number):after")
            }
            #expect(Set(backend.received.map(\.client)) == [0, 1, 2, 3])
            #expect(daemon.lines(with: "connection opened").count == 4)
            try await daemon.stop()
            try await backend.stop()
        }

        /// A client that only listens says nothing by which the daemon could find it again.
        @Test func `a backend's message reaches a client that has been silent since its worker was killed`()
            async throws
        {
            let backend = try DatagramSocket.onOwnLoopback()
            let daemon = try await start(
                Service.forwarding(to: "udp:\(backend.local)", listen: address, identity: identity).text)
            let client = try client()
            client.say("subscribe")
            let (_, sender) = try await eventualValue("the backend hears the client", details: client.transcript) {
                backend.receive()
            }
            try await daemon.replaceWorker()
            // The successor has its sockets when it is ready, and a reload waits for that.
            daemon.program.signal(SIGHUP)
            try await daemon.logged("reloaded")
            backend.send(Array("news\n".utf8), to: sender)
            try await client.hears("news")
            try await daemon.stop()
        }

        @Test func `a log goes on under the same client`() async throws {
            let service = Service(
                name: "collect", listen: [address], identity: identity, handler: "log",
                more: "[service.collect.log]\nto = \"file:\(folder.file("messages"))\"")
            let daemon = try await start(service.text)
            var lines: [Substring] { folder.read("messages").split(separator: "\n") }
            let client = try client()
            client.say("before")
            try await eventually("the message is logged", details: client.transcript) { lines.count == 1 }
            try await daemon.replaceWorker()
            client.say("after")
            try await eventually("the next message is logged", details: client.transcript) {
                lines.contains { $0.contains("after") }
            }
            #expect(daemon.lines(with: "connection opened").count == 1)
            // TIME PEER CLIENT MESSAGE
            #expect(Set(lines.map { $0.split(separator: " ")[1] }).count == 1, "\(lines)")
            try await daemon.stop()
        }

        @Test func `a program's connection goes on with a new program`() async throws {
            let service = Service(
                name: "run", listen: [address], identity: identity, handler: "exec",
                more: "[service.run.exec]\ncommand = [\"/bin/sh\", \"-c\", \"echo program $$; exec cat\"]")
            let daemon = try await start(service.text)
            let client = try client()
            try await client.exchange("before")
            let first = try #require(client.output.split(separator: "\n").first)
            #expect(first.hasPrefix("program "))
            try await daemon.replaceWorker()
            try await eventually("a new program answers", details: client.transcript) {
                client.say("after")
                return client.hasHeard("after")
            }
            let programs = Set(client.output.split(separator: "\n").filter { $0.hasPrefix("program ") })
            #expect(programs.count == 2, "\(client.transcript)")
            #expect(daemon.lines(with: "connection opened").count == 1)
            try await daemon.stop()
        }

        /// Both ways: what the server says while the sender is silent finds it too.
        @Test func `a tunnel of client mode goes on`() async throws {
            let fixture = try await ClientFixture()
            let server = try await SecureServer(at: fixture.back, as: fixture.identity, in: fixture.folder)
            let daemon = try await Daemon.start(fixture.client(), in: fixture.folder)
            let sender = try PlainSender(to: fixture.front)
            sender.send("before\n")
            try await server.hears("before\n")
            try await daemon.replaceWorker()
            daemon.program.signal(SIGHUP)
            try await daemon.logged("reloaded")
            server.program.send("from the server\n")
            try await sender.hears("from the server\n", details: daemon.program.errors)
            sender.send("after\n")
            try await server.hears("after\n")
            #expect(daemon.lines(with: "connection to the server opened").count == 1)
            #expect(!daemon.logs("connection to the server closed"))
            try await daemon.stop()
        }

        /// Nothing of a handshake can go on. The client asks again by itself, and the successor answers.
        @Test func `a client in its handshake is served by the successor`() async throws {
            let daemon = try await start(Service(listen: [address], identity: identity).text)
            let victim = try #require(daemon.workers.first)
            let relay = try Relay(to: address) { _, _ in true }
            kill(victim, SIGSTOP)
            let client = try client(to: relay.address)
            client.say("hello")
            try await eventually("the client returns its cookie", details: client.transcript) {
                relay.passed.count { $0.direction == .toServer } >= 2
            }
            // The process that answers this has handed the client over.
            let stranger = try DatagramSocket.onOwnLoopback()
            _ = try await stranger.ask(ClientHelloBytes().bytes(), of: address)
            try await daemon.replaceWorker()
            try await client.hears("hello")
            try await client.leave()
            try await daemon.stop()
        }

        /// RFC 6347, section 4.2.4: nobody but the server has the flight that the client lacks.
        @Test func `a client that has lost the end of its handshake gets it from the successor`() async throws {
            let daemon = try await start(Service(listen: [address], identity: identity).text)
            let isLost = Mutex(true)
            let relay = try Relay(to: address) { direction, _, bytes in
                let isDropped = direction == .toClient && bytes.hasChangeCipherSpec && isLost.withLock { $0 }
                return isDropped ? [] : [Relay.Passed(direction: direction, bytes: bytes)]
            }
            let client = try client(to: relay.address)
            client.say("hello")
            try await daemon.logged("connection opened")
            try await daemon.replaceWorker()
            isLost.withLock { $0 = false }
            try await client.hears("hello")
            try await client.leave()
            #expect(daemon.lines(with: "connection opened").count == 1 && client.handshakesDone == 1)
            try await daemon.stop()
        }

        /// One that a worker is working on when it dies, twice, may be the reason. The suspect's message makes it crash
        /// (`Sources/DTLSDaemon/Worker/StandIn.swift`).
        @Test func `a connection on which a worker died twice within a minute ends`() async throws {
            let daemon = try await Daemon.start(
                "workers = 1\n" + Service(listen: [address], identity: identity).text, in: folder,
                environment: ["DTLSD_STAND_IN": "1"])
            let bystander = try client(["-servername", "bystander.example"])
            try await bystander.exchange("before")
            let suspect = try client()
            try await suspect.exchange("before")
            for death in 1...2 {
                let victim = try #require(daemon.worker(0))
                suspect.say("stand-in: crash")
                try await eventually("death \(death) has a successor", details: daemon.program.errors) {
                    daemon.worker(0).map { $0 != victim } ?? false
                }
                try await bystander.exchange("after death \(death)")
                if death == 1 { try await suspect.exchange("once more") }
            }
            let ended = try await daemon.logged("has died twice")
            #expect(ended.count == 1, "\(ended)")
            let opened = daemon.lines(with: "connection opened").compactMap { line in
                line.split(separator: " ").first { $0.hasPrefix("PEER=") }
            }
            #expect(opened.count == 2)
            #expect(ended.allSatisfy { $0.contains(opened[opened.count - 1]) }, "\(ended)")
            suspect.say("is anybody there?")
            try await bystander.exchange("and still here")
            #expect(!suspect.hasHeard("is anybody there?"))
            try await daemon.stop()
        }

        /// Their records are OpenSSL's. They are lost with their worker, and with it alone.
        @Test func `a connection with AES-CBC is served as before, and is counted apart`() async throws {
            let daemon = try await start(
                Service(listen: [address], identity: identity, more: "policy = \"legacy\"").text, workers: 1)
            let old = try client(["-cipher", "ECDHE-ECDSA-AES128-SHA"])
            for number in 0..<3 { try await old.exchange("\(number)") }
            #expect(daemon.logs("connection opened", "CIPHER=ECDHE-ECDSA-AES128-SHA "))
            let new = try client()
            try await new.exchange("before")
            try await daemon.replaceWorker()
            let death = try await daemon.logged("worker", "signal 9")[0]
            #expect(death.contains("CONNECTIONS_LOST=1"), "\(death)")
            try await new.exchange("after")
            try await daemon.stop()
        }
    }
}
