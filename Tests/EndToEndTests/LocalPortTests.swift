import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEnd {
    /// A daemon that has as good as no local ports for its sockets to backends. Its clients have ports of their own
    /// choice, beside those.
    @Suite(.enabled(if: PrivateNetwork.isAllowed, "a network of its own takes root"))
    struct LocalPortTests {
        let folder: TestFolder
        let identity: Identity
        private let address: SocketAddress
        private let places: [SocketAddress]
        /// Three of them.
        private static let ports: ClosedRange<UInt16> = 40_000...40_002

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
            address = try #require(SocketAddress("127.0.0.1:4433"))
            places = try ["127.0.0.2:5683", "127.0.0.3:5683"].map { try #require(SocketAddress($0)) }
        }

        private func configuration(_ backends: [SocketAddress], source: [String] = []) -> String {
            func list(_ texts: [String]) -> String { "[\(texts.map { "\"\($0)\"" }.joined(separator: ", "))]" }
            let key = source.isEmpty ? "" : "source = \(list(source))"
            return "workers = 1\n"
                + Service(
                    name: "forward", listen: [address], identity: identity, handler: "forward",
                    more: "[service.forward.forward]\nbackend = \(list(backends.map { "udp:\($0)" }))\n\(key)"
                ).text
        }

        private func start(_ configuration: String) async throws -> Daemon {
            try await Daemon.start(
                configuration, in: folder, prefix: PrivateNetwork.prefix(mtu: 1_500, ports: Self.ports))
        }

        /// It answers with its own address, and the client's.
        private func backend(at place: SocketAddress, in daemon: Daemon) throws -> Backend {
            Backend(on: [try PrivateNetwork.socket(at: place, in: daemon)]) { received in
                [Array("\(place.host) says ".utf8) + received.bytes]
            }
        }

        private func client(_ number: Int, of daemon: Daemon) throws -> SecureClient {
            try SecureClient(
                to: address, trust: identity.certificate, in: folder, ["-bind", "127.1.0.\(number):20000"],
                prefix: PrivateNetwork.prefix(of: daemon))
        }

        @Test func `without local ports nobody is moved and newcomers are refused until one is free`() async throws {
            let daemon = try await start(configuration(places))
            let backends = try places.map { try backend(at: $0, in: daemon) }
            let clients = try (1...3).map { try client($0, of: daemon) }
            for client in clients { try await client.exchange("hello", answer: " says hello") }
            let homes = clients.map { $0.output.prefix(9) }

            // The first that finds no port is told so by close_notify.
            let late = try client(4, of: daemon)
            late.say("and I?")
            try await daemon.logged("no local port is left", "net.ipv4.ip_local_port_range")
            _ = try await late.program.ended()
            #expect(late.gotCloseNotify)
            // The next ones are refused before their handshake, and get in once there is a port.
            let waiting = try client(5, of: daemon)
            waiting.say("is there room")
            try await daemon.logged("worker 0 has refused", "REASON=local_ports")
            #expect(daemon.lines(with: "connection opened").count == 4)

            for (client, home) in zip(clients, homes) {
                try await client.exchange("still", answer: "\(home) says still")
            }
            #expect(!daemon.logs("does not take datagrams"))
            try await clients[0].leave()
            try await waiting.hears(" says is there room")
            #expect(daemon.lines(with: "forward.source").count == 1)
            try await daemon.stop()
            for backend in backends { try await backend.stop() }
        }

        @Test func `each address in source has all the ports, and a reload adds to them`() async throws {
            let daemon = try await start(configuration([places[0]], source: ["127.0.0.4", "127.0.0.5"]))
            let socket = try PrivateNetwork.socket(at: places[0], in: daemon)
            let backend = Backend(on: [socket]) { [$0.bytes] }
            let clients = try (1...6).map { try client($0, of: daemon) }
            for client in clients { try await client.exchange("hello") }
            let late = try client(7, of: daemon)
            late.say("and I?")
            try await daemon.logged("no local port is left", "forward.source")

            try daemon.reload(configuration([places[0]], source: ["127.0.0.4", "127.0.0.5", "127.0.0.6"]))
            try await daemon.logged("reloaded")
            for number in 8...10 { try await client(number, of: daemon).exchange("hello") }
            for client in clients { try await client.exchange("still here") }
            try await daemon.stop()
            try await backend.stop()
        }
    }
}
