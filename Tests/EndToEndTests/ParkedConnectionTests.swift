import Foundation
import LinuxSystem
import Synchronization
import TestSupport
import Testing

extension EndToEndCrowds {
    /// Silent connections give their sockets up, and nobody notices.
    @Suite struct ParkedConnectionTests {
        let folder: TestFolder
        let identity: Identity
        let address: SocketAddress

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
            address = try SocketAddress.freeOnOwnLoopback()
        }

        private func start(_ more: String = "", workers: Int = 1) async throws -> Daemon {
            try await start(service: Service(listen: [address], identity: identity, more: park(more)).text, workers)
        }

        private func start(service: String, _ workers: Int = 1) async throws -> Daemon {
            let daemon = try await Daemon.start("workers = \(workers)\n" + service, in: folder)
            // Then each worker has closed what it got its configuration with.
            daemon.program.signal(SIGHUP)
            try await daemon.logged("reloaded")
            return daemon
        }

        private func park(_ more: String) -> String { "park_after = \"1s\"\n" + more }

        private func client(_ arguments: [String] = [], to server: SocketAddress? = nil) throws -> SecureClient {
            try SecureClient(to: server ?? address, trust: identity.certificate, in: folder, arguments)
        }

        @Test func `parked clients hold no socket, and are served as before`() async throws {
            let daemon = try await start(workers: 2)
            let sockets = daemon.openSockets
            let clients = try (0..<6).map { _ in try client() }
            for client in clients { try await client.exchange("before") }
            for round in 0..<3 {
                try await daemon.parked(sockets: sockets)
                for client in clients { try await client.exchange("round \(round)") }
            }
            try await daemon.parked(sockets: sockets)
            try await clients.leave()
            try await daemon.logged("connection closed: closed by the peer", count: 6)
            #expect(daemon.lines(with: "connection opened").count == 6)
            #expect(clients.allSatisfy { $0.handshakesDone == 1 && $0.handshakeMessagesSent >= 4 })
            try await daemon.parked(sockets: sockets)
            try await daemon.stop()
        }

        @Test func `clients of GnuTLS and Mbed TLS are parked and served`() async throws {
            let daemon = try await start()
            let sockets = daemon.openSockets
            let gnutls = try GnuTLSClient(to: address, in: folder)
            try await gnutls.exchange("before")
            let mbedTLS = try await MbedTLSPeer.client(
                to: address, in: folder, steps: ["send:one", "receive", "sleep:8000", "send:two", "receive"])
            try await eventually("the client of Mbed TLS is served", details: daemon.program.errors) {
                mbedTLS.output.contains("received 3: one")
            }
            try await daemon.parked(sockets: sockets)
            try await gnutls.exchange("after")
            #expect(try await mbedTLS.finished() == ["handshake done", "received 3: one", "received 3: two"])
            #expect(daemon.lines(with: "connection opened").count == 2)
            gnutls.program.closeInput()
            try await daemon.stop()
        }

        /// RFC 6347, section 4.2.4: the client asks for it by sending its own last flight again.
        @Test func `a client that has lost the end of its handshake gets it when its connection is parked`()
            async throws
        {
            let daemon = try await start()
            let sockets = daemon.openSockets
            let isLost = Mutex(true)
            let relay = try Relay(to: address) { direction, _, bytes in
                let isDropped = direction == .toClient && bytes.hasChangeCipherSpec && isLost.withLock { $0 }
                return isDropped ? [] : [Relay.Passed(direction: direction, bytes: bytes)]
            }
            let client = try client(to: relay.address)
            client.say("hello")
            try await daemon.logged("connection opened")
            try await daemon.parked(sockets: sockets)
            isLost.withLock { $0 = false }
            try await client.hears("hello")
            try await client.leave()
            #expect(daemon.lines(with: "connection opened").count == 1 && client.handshakesDone == 1)
            try await daemon.stop()
        }

        /// A datagram that looks like the client's costs an attempt to open it, and nothing else.
        @Test func `forged records of a parked client make no socket`() async throws {
            let daemon = try await start()
            let sockets = daemon.openSockets
            let relay = try Relay(to: address) { _, _ in true }
            let client = try client(to: relay.address)
            try await client.exchange("before")
            try await daemon.parked(sockets: sockets)
            var random = SystemRandomNumberGenerator()
            let replayed = relay.passed.filter { $0.direction == .toServer && $0.bytes.first == 23 }.map(\.bytes)
            #expect(!replayed.isEmpty)
            for number in 0..<200 {
                // Application data, alert and handshake, in epochs that the client has and has not.
                let header: [UInt8] = [
                    [23, 21, 22][number % 3], 0xfe, 0xfd, 0, [1, 1, 2][number / 3 % 3], 0, 0, 0, 0, UInt8(number), 9, 0,
                    40,
                ]
                relay.inject(header + (0..<40).map { _ in UInt8.random(in: 0...255, using: &random) })
                for bytes in replayed { relay.inject(bytes) }
            }
            // The process that answers this has read what came before it.
            let stranger = try DatagramSocket.onOwnLoopback()
            guard case .helloVerifyRequest = try await stranger.ask(ClientHelloBytes().bytes(), of: address) else {
                Issue.record("a hello is not answered with a HelloVerifyRequest")
                return
            }
            daemon.program.signal(SIGHUP)
            try await daemon.logged("reloaded", count: 2)
            #expect(daemon.openSockets == sockets)
            #expect(daemon.lines(with: "connection opened").count == 1)
            #expect(!daemon.logs("connection closed"))
            try await client.exchange("after")
            #expect(client.output == "before\nafter\n", "what was replayed is not heard twice")
            try await client.leave()
            try await daemon.logged("connection closed: closed by the peer")
            try await daemon.stop()
        }

        /// RFC 6347, section 4.2.8.
        @Test func `a client that has lost its state comes back on the port of its parked connection`() async throws {
            let daemon = try await start()
            let sockets = daemon.openSockets
            let relay = try Relay(to: address) { _, _ in true }
            let before = try client(to: relay.address)
            try await before.exchange("before")
            before.program.signal(SIGKILL)
            _ = try await before.program.ended()
            try await daemon.parked(sockets: sockets)
            let after = try client(to: relay.address)
            try await after.exchange("after")
            try await daemon.logged("connection closed", "begun a new handshake")
            try await daemon.parked(sockets: sockets)
            try await after.exchange("after the next pause")
            try await after.leave()
            try await daemon.logged("connection closed: closed by the peer")
            #expect(daemon.lines(with: "connection opened").count == 2)
            try await daemon.stop()
        }

        @Test func `a parked connection that is idle for too long is closed, and its client is told`() async throws {
            let daemon = try await start("idle_timeout = 4")
            let sockets = daemon.openSockets
            let client = try client()
            try await client.exchange("before")
            try await daemon.parked(sockets: sockets)
            #expect(!daemon.logs("connection closed"))
            try await daemon.logged("connection closed", "idle")
            #expect(daemon.openSockets == sockets)
            _ = try await client.program.ended()
            #expect(client.gotCloseNotify)
            try await daemon.stop()
        }

        @Test func `parked clients are told when the daemon stops`() async throws {
            let daemon = try await start(workers: 2)
            let sockets = daemon.openSockets
            let clients = try (0..<6).map { _ in try client() }
            for client in clients { try await client.exchange("before") }
            try await daemon.parked(sockets: sockets)
            try await daemon.stop()
            for client in clients {
                _ = try await client.program.ended()
                #expect(client.gotCloseNotify)
            }
            #expect(daemon.lines(with: "connection closed: closed here").count == 6)
        }

        /// Nothing of them could come to a listener any more. The listener is closed by then, too.
        @Test func `parked clients of a service that a reload removes are told`() async throws {
            let other = Service(
                name: "other", listen: [try .freeOnOwnLoopback()], identity: identity, more: park(""))
            let daemon = try await start(
                service: Service(listen: [address], identity: identity, more: park("")).text + other.text, 2)
            let sockets = daemon.openSockets
            let leaving = try (0..<3).map { _ in try client() }
            let staying = try client(to: other.listen[0])
            for client in leaving + [staying] { try await client.exchange("before") }
            try await daemon.parked(sockets: sockets)
            try daemon.reload("workers = 2\n" + other.text)
            for client in leaving {
                _ = try await client.program.ended()
                #expect(client.gotCloseNotify)
            }
            try await daemon.logged("connection closed", "not in the configuration any more", count: 3)
            try await staying.exchange("after")
            try await daemon.stop()
        }

        @Test func `parked connections count for the limits`() async throws {
            let daemon = try await start("[service.echo.limits]\nconnections = 2")
            let sockets = daemon.openSockets
            let clients = try (0..<2).map { _ in try client() }
            for client in clients { try await client.exchange("before") }
            try await daemon.parked(sockets: sockets)
            let third = try client()
            third.say("is there room?")
            try await daemon.logged("REASON=connections")
            #expect(!third.hasHeard("is there room?"))
            try await clients[0].leave()
            try await third.hears("is there room?")
            try await clients[1].exchange("after")
            try await daemon.stop()
        }

        @Test func `a backend's message wakes the connection of a parked client`() async throws {
            let backend = try DatagramSocket.onOwnLoopback()
            let daemon = try await start(
                service: Service.forwarding(
                    to: "udp:\(backend.local)", listen: address, identity: identity, more: park("")
                ).text)
            let sockets = daemon.openSockets
            let client = try client()
            client.say("subscribe")
            let (_, sender) = try await eventualValue("the backend hears the client", details: client.transcript) {
                backend.receive()
            }
            for number in 0..<2 {
                // The one to the backend stays.
                try await daemon.parked(sockets: sockets, more: 1)
                backend.send(Array("news \(number)\n".utf8), to: sender)
                try await client.hears("news \(number)")
            }
            client.say("and back")
            let next = try await eventualValue("the backend hears the client again", details: client.transcript) {
                backend.receive()
            }
            #expect(next.from == sender)
            try await daemon.stop()
        }

        @Test func `with forward.park, the socket to the backend is given up, too`() async throws {
            let socket = try DatagramSocket.onOwnLoopback()
            let backend = Backend.numbering(on: socket)
            let service = Service.forwarding(
                to: "udp:\(socket.local)", listen: address, identity: identity, more: park(""))
            let daemon = try await start(service: service.text + "park = true\n")
            let sockets = daemon.openSockets
            let client = try client()
            try await client.exchange("before", answer: "0:before")
            try await daemon.parked(sockets: sockets)
            client.say("after")
            try await eventually("the backend answers", details: client.transcript) {
                client.output.contains(":after\n")
            }
            #expect(daemon.lines(with: "connection opened").count == 1)
            try await daemon.stop()
            try await backend.stop()
        }

        @Test func `a program's connection is not parked`() async throws {
            let service = Service(
                name: "run", listen: [address], identity: identity, handler: "exec",
                more: park("[service.run.exec]\ncommand = [\"/bin/cat\"]"))
            let echo = try SocketAddress.freeOnOwnLoopback()
            let daemon = try await start(
                service: service.text + Service(listen: [echo], identity: identity, more: park("")).text)
            let sockets = daemon.openSockets
            let first = try client()
            try await first.exchange("before")
            // Its connection, and its program's input and output.
            let inUse = daemon.openSockets
            #expect(inUse > sockets)
            // One that comes after it and is parked says that it could have been, too.
            let second = try client(to: echo)
            try await second.exchange("before")
            try await daemon.parked(sockets: inUse)
            try await first.exchange("after")
            try await second.exchange("after")
            try await daemon.stop()
        }

        @Test func `parked clients go on after their worker is killed, and after a reload`() async throws {
            let daemon = try await start(workers: 2)
            let sockets = daemon.openSockets
            let clients = try (0..<4).map { _ in try client() }
            for client in clients { try await client.exchange("before") }
            try await daemon.parked(sockets: sockets)
            try await daemon.replaceWorker(0)
            try await daemon.replaceWorker(1)
            for client in clients { try await client.exchange("after the deaths") }
            try await daemon.parked(sockets: sockets)
            daemon.program.signal(SIGHUP)
            try await daemon.logged("reloaded", count: 2)
            for client in clients { try await client.exchange("after the reload") }
            #expect(daemon.lines(with: "connection opened").count == 4)
            try await daemon.stop()
        }
    }
}

extension Collection<UInt8> {
    /// Whether a datagram has a ChangeCipherSpec, which the last flight of a handshake has.
    var hasChangeCipherSpec: Bool {
        var rest = self[...]
        while rest.count >= 13 {
            if rest.first == 20 { return true }
            let header = Array(rest.prefix(13))
            rest = rest.dropFirst(13 + Int(header[11]) << 8 + Int(header[12]))
        }
        return false
    }
}
