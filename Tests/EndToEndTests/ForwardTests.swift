import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEnd {
    @Suite struct ForwardTests {
        let folder: TestFolder
        let identity: Identity

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
        }

        enum BackendKind: CaseIterable { case ipv4, ipv6, hostName, unixSocket }

        /// Where `kind` of backend serves, and its name in the configuration.
        private func sockets(_ kind: BackendKind) throws -> (sockets: [DatagramSocket], name: String) {
            switch kind {
            case .ipv4:
                let socket = try DatagramSocket.onOwnLoopback()
                return ([socket], "udp:\(socket.local)")
            case .ipv6:
                let socket = try DatagramSocket(at: .free(on: "::1"))
                return ([socket], "udp:\(socket.local)")
            case .hostName:
                // The name may mean either address, or both.
                let socket = try DatagramSocket(at: .free(on: "::1", and: "127.0.0.1"))
                let other = try #require(SocketAddress(host: "127.0.0.1", port: socket.local.port))
                return ([socket, try DatagramSocket(at: other)], "udp:localhost:\(socket.local.port)")
            case .unixSocket:
                let path = folder.file("backend.socket")
                return ([try DatagramSocket(atPath: path)], "unix:\(path)")
            }
        }

        @Test(arguments: BackendKind.allCases)
        func `the backend can tell clients apart and answers each`(_ kind: BackendKind) async throws {
            let (sockets, name) = try sockets(kind)
            let backend = Backend(on: sockets) { [Array("\($0.client):".utf8) + $0.bytes] }
            let address = try SocketAddress.freeOnOwnLoopback()
            let daemon = try await Daemon.start(
                Service.forwarding(to: name, listen: address, identity: identity).text, in: folder)
            var clients: [SecureClient] = []
            for number in 0..<5 {
                let client = try SecureClient(to: address, trust: identity.certificate, in: folder)
                try await client.exchange("I am \(number)", answer: "\(number):I am \(number)")
                clients.append(client)
            }
            // In another order, each is still who it was.
            for number in (0..<5).reversed() {
                try await clients[number].exchange("again \(number)", answer: "\(number):again \(number)")
            }
            for (number, client) in clients.enumerated() {
                #expect(client.output == "\(number):I am \(number)\n\(number):again \(number)\n")
            }
            try await daemon.stop()
            try await backend.stop()
        }

        /// One datagram in is one datagram out, in both directions, whatever its length.
        @Test func `message boundaries are kept`() async throws {
            let lengths = [1, 700, 2, 1_200, 3]
            let socket = try DatagramSocket.onOwnLoopback()
            let backend = Backend(on: [socket]) { received in
                received.text == "burst\n" ? lengths.map { [UInt8](repeating: UInt8(ascii: "x"), count: $0) } : []
            }
            let address = try SocketAddress.freeOnOwnLoopback()
            let daemon = try await Daemon.start(
                Service.forwarding(to: "udp:\(socket.local)", listen: address, identity: identity).text, in: folder)
            let relay = try Relay(to: address) { _, _ in true }
            let client = try SecureClient(to: relay.address, trust: identity.certificate, in: folder)
            let lines = ["one", String(repeating: "2", count: 900), "three"]
            for (number, line) in lines.enumerated() {
                client.say(line)
                try await eventually("the backend has '\(line)'") { backend.received.count > number }
            }
            client.say("burst")
            try await eventually("the client has all of the burst", details: client.transcript) {
                client.output.count == lengths.reduce(0, +)
            }
            #expect(backend.received.map(\.text) == (lines + ["burst"]).map { $0 + "\n" })

            // On the wire each of them is a datagram with one record of application data (type 23), longer by the
            // same 37 bytes: header 13, nonce 8, authentication tag 16.
            let records = relay.passed.filter { $0.direction == .toClient && $0.bytes.first == 23 }
            #expect(records.map { $0.bytes.count - 37 } == lengths)
            try await daemon.stop()
            try await backend.stop()
        }

        /// A datagram of the backend that no record has room for is lost, and the log says so.
        @Test func `an answer that is too long for a message is reported`() async throws {
            let socket = try DatagramSocket.onOwnLoopback()
            let backend = Backend(on: [socket]) { _ in
                [[UInt8](repeating: UInt8(ascii: "x"), count: 16_385), Array("short enough\n".utf8)]
            }
            let address = try SocketAddress.freeOnOwnLoopback()
            let daemon = try await Daemon.start(
                Service.forwarding(to: "udp:\(socket.local)", listen: address, identity: identity).text, in: folder)
            let client = try SecureClient(to: address, trust: identity.certificate, in: folder)
            try await client.exchange("answer me", answer: "short enough")
            #expect(client.output == "short enough\n")
            try await daemon.logged(" warning ", "16385 bytes", "\(socket.local)")
            try await daemon.stop()
            try await backend.stop()
        }

        /// A backend that hangs costs what there is no room for, and the log says so; the rest is there, in order.
        @Test func `messages that a backend does not take in time are reported`() async throws {
            let path = folder.file("backend.socket")
            let address = try SocketAddress.freeOnOwnLoopback()
            let hanging = try DatagramSocket(atPath: path)
            let daemon = try await Daemon.start(
                Service.forwarding(to: "unix:\(path)", listen: address, identity: identity).text, in: folder)
            let client = try SecureClient(to: address, trust: identity.certificate, in: folder)
            var sent = 0
            try await eventually("the queues are full", details: client.transcript) {
                client.say("\(sent)")
                sent += 1
                return daemon.logs(" warning ", "dropped: the backend", path, "fast enough", "SERVICE=forward")
            }
            let backend = Backend(on: [hanging]) { _ in [] }
            try await eventually("the backend has read what was kept", details: client.transcript) {
                client.say("the end")
                return backend.received.contains { $0.text.hasSuffix("the end\n") }
            }
            // 64 of them have waited in the daemon.
            let numbers = backend.received.flatMap { $0.text.split(separator: "\n") }.compactMap { Int($0) }
            #expect(Array(numbers.prefix(65)) == Array(0..<65))
            #expect(numbers == numbers.sorted() && numbers.count < sent)
            try await daemon.stop()
            try await backend.stop()
        }

        /// With messages waiting for a full backend, any error must end the waiting, not only a refusal: a socket with
        /// an error always looks as if it had room.
        @Test func `a backend that fails while messages wait is reported`() async throws {
            let path = folder.file("backend.socket")
            let address = try SocketAddress.freeOnOwnLoopback()
            let full = try DatagramSocket(atPath: path)
            let daemon = try await Daemon.start(
                Service.forwarding(to: "unix:\(path)", listen: address, identity: identity).text, in: folder)
            let relay = try Relay(to: address) { _, _ in true }
            let client = try SecureClient(to: relay.address, trust: identity.certificate, in: folder)
            // More than net.unix.max_dgram_qlen, so that some wait in the daemon.
            let limit = try String(contentsOfFile: "/proc/sys/net/unix/max_dgram_qlen", encoding: .utf8)
            let count = try #require(Int(limit.trimmingCharacters(in: .whitespacesAndNewlines))) + 20
            for number in 0..<count {
                client.say("\(number)")
                try await eventually("message \(number) is on its way", details: client.transcript) {
                    relay.messagesToServer > number
                }
            }
            full.stopReceiving()
            // A place in the queue wakes the sender.
            _ = full.receive()
            try await daemon.logged("does not take datagrams", "Broken pipe")

            unlink(path)
            let backend = Backend.numbering(on: try DatagramSocket(atPath: path))
            try await eventually("the new backend hears of the client", details: client.transcript) {
                client.say("are you there")
                return client.output.contains("0:are you there\n")
            }
            #expect(!daemon.logs("connection closed"))
            try await daemon.stop()
            try await backend.stop()
        }

        /// A backend that is not there costs the clients nothing but answers, and the log a line, not thousands.
        @Test func `a refusing backend does not end the connection`() async throws {
            let place = try SocketAddress.freeOnOwnLoopback()
            let address = try SocketAddress.freeOnOwnLoopback()
            let daemon = try await Daemon.start(
                Service.forwarding(to: "udp:\(place)", listen: address, identity: identity).text, in: folder)
            let client = try SecureClient(to: address, trust: identity.certificate, in: folder)
            for number in 0..<20 { client.say("lost \(number)") }
            try await daemon.logged("refuse", "\(place.port)")

            let backend = Backend.numbering(on: try DatagramSocket(at: place))
            // Lines that came before the backend did are lost, as datagrams are: say it until it is heard.
            try await eventually(
                "the backend hears of the client", details: client.transcript + daemon.program.errors
            ) {
                client.say("are you there")
                return client.output.contains("0:are you there\n")
            }
            #expect(daemon.lines(with: "refuse", "\(place.port)").count <= 2)
            #expect(!daemon.logs("connection closed"))
            try await backend.stop()
            try await daemon.stop()
        }
    }
}
