import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEnd {
    /// Several backends behind one service.
    @Suite struct ForwardChoiceTests {
        let folder: TestFolder
        let identity: Identity

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
        }

        /// A backend that can be stopped and started again in the same place; it answers with its name before the
        /// datagram.
        private final class NamedBackend {
            enum Place {
                case udp(SocketAddress)
                case unix(String)
            }

            let name: String
            let place: Place
            private var running: Backend?

            init(_ name: String, at place: Place) {
                self.name = name
                self.place = place
            }

            /// `"udp:…"` or `"unix:…"`, quoted.
            var configured: String {
                switch place {
                case .udp(let address): "\"udp:\(address)\""
                case .unix(let path): "\"unix:\(path)\""
                }
            }

            func start() async throws {
                let socket = try await eventualValue("\(configured) is free") {
                    switch place {
                    case .udp(let address):
                        return try? DatagramSocket(at: address)
                    case .unix(let path):
                        unlink(path)
                        return try? DatagramSocket(atPath: path)
                    }
                }
                running = Backend(on: [socket]) { [name] in [Array("\(name):".utf8) + $0.bytes] }
            }

            func stop() async throws {
                try await running?.stop()
                running = nil
                if case .unix(let path) = place { unlink(path) }
            }
        }

        /// - Parameter workers: each learns for itself which backends refuse.
        private func service(_ backends: [NamedBackend], listen: SocketAddress, workers: Int = 1) -> String {
            "workers = \(workers)\n"
                + Service(
                    name: "forward", listen: [listen], identity: identity, handler: "forward",
                    more: "[service.forward.forward]\nbackend = [\(backends.map(\.configured).joined(separator: ", "))]"
                ).text
        }

        private func client(_ source: String, to address: SocketAddress) throws -> SecureClient {
            try SecureClient(to: address, trust: identity.certificate, in: folder, ["-bind", "\(source):0"])
        }

        /// The names of the backends that serve clients at these addresses.
        private func backends(of sources: [String], at address: SocketAddress) async throws -> [String] {
            let clients = try sources.map { try client($0, to: address) }
            var names: [String] = []
            for client in clients {
                // Again and again: what is the trial of a backend that is still away is lost.
                let name = try await eventualValue("the client is served", details: client.transcript) {
                    client.say("who")
                    return client.output.hasSuffix(":who\n") ? String(client.output.prefix(1)) : nil
                }
                names.append(name)
            }
            try await clients.leave()
            return names
        }

        @Test func `a client's address keeps its backend`() async throws {
            var backends: [NamedBackend] = []
            for name in ["a", "b", "c"] {
                backends.append(NamedBackend(name, at: .udp(try .freeOnOwnLoopback())))
                try await backends.last?.start()
            }
            let address = try SocketAddress.freeOnOwnLoopback()
            let sources = (1...8).map { "127.9.\(UInt8.random(in: 1...254)).\($0)" }
            var daemon = try await Daemon.start(service(backends, listen: address), in: folder)
            let homes = try await self.backends(of: sources, at: address)
            // Another connection from another port is served by the same one.
            #expect(try await self.backends(of: sources, at: address) == homes)

            // So is one of another daemon's, whatever the order of the list.
            try await daemon.stop()
            daemon = try await Daemon.start(
                service(backends.reversed(), listen: address, workers: 3), in: try TestFolder())
            #expect(try await self.backends(of: sources, at: address) == homes)

            // Without one of them, its clients alone go elsewhere.
            let gone = try #require(homes.first)
            try daemon.reload(service(backends.filter { $0.name != gone }, listen: address))
            try await daemon.logged("reloaded")
            let later = try await self.backends(of: sources, at: address)
            for (home, name) in zip(homes, later) { #expect(home == gone ? name != gone : name == home) }
            try await daemon.stop()
        }

        enum Kinds: CaseIterable { case udp, unix, unixFirst }

        private func pair(_ kinds: Kinds) throws -> (NamedBackend, NamedBackend) {
            let unix = NamedBackend("a", at: .unix(folder.file("a.socket")))
            switch kinds {
            case .udp:
                return (
                    NamedBackend("a", at: .udp(try .freeOnOwnLoopback())),
                    NamedBackend("b", at: .udp(try .free(on: "::1")))
                )
            case .unix: return (unix, NamedBackend("b", at: .unix(folder.file("b.socket"))))
            case .unixFirst: return (unix, NamedBackend("b", at: .udp(try .freeOnOwnLoopback())))
            }
        }

        /// Says it until a backend answers as hoped: what went to one that was down is lost, as datagrams are.
        private func speaks(_ client: SecureClient, with name: String, _ words: String) async throws {
            try await eventually("backend \(name) hears '\(words)'", details: client.transcript) {
                client.say(words)
                return client.output.contains("\(name):\(words)\n")
            }
        }

        @Test(arguments: Kinds.allCases)
        func `clients of a backend that fails are served by the other one until it is back`(_ kinds: Kinds) async throws
        {
            let (first, other) = try pair(kinds)
            try await first.start()
            try await other.start()
            let address = try SocketAddress.freeOnOwnLoopback()
            let daemon = try await Daemon.start(service([first, other], listen: address), in: folder)
            let net = "127.10.\(UInt8.random(in: 1...254))"
            let sources = (1...20).map { "\(net).\($0)" }
            let names = try await backends(of: sources, at: address)
            let source = sources[try #require(names.firstIndex(of: "a"), "no client is the first backend's")]
            let client = try client(source, to: address)
            try await client.exchange("hello", answer: "a:hello")

            try await first.stop()
            try await speaks(client, with: "b", "is anybody there")
            try await daemon.logged("does not take datagrams", first.configured.trimmingQuotes)
            #expect(!daemon.logs("does not take datagrams", other.configured.trimmingQuotes))
            // One that comes now is not lost on the way to the first.
            #expect(try await backends(of: [source], at: address) == ["b"])

            try await first.start()
            try await speaks(client, with: "a", "are you back")
            try await daemon.logged("takes datagrams again", first.configured.trimmingQuotes)
            #expect(try await backends(of: [source], at: address) == ["a"])
            #expect(!daemon.logs("connection closed", "closed here"))
            try await daemon.stop()
        }

        /// A path that is gone is found out before anything is sent, at every trial: nothing is lost over it.
        @Test func `a Unix backend that stays away loses no message`() async throws {
            let (first, other) = try pair(.unix)
            try await other.start()
            let address = try SocketAddress.freeOnOwnLoopback()
            let daemon = try await Daemon.start(service([first, other], listen: address), in: folder)
            // Until there is a client whose backend is the first.
            var found: SecureClient?
            for number in 1...50 where !daemon.logs("does not take datagrams") {
                let client = try client("127.13.9.\(number)", to: address)
                try await client.exchange("hello", answer: "b:hello")
                found = client
            }
            let client = try #require(found)
            // As long as it takes to be over the first two pauses, of one second and of two.
            let start = ContinuousClock.now
            var number = 0
            while ContinuousClock.now - start < .milliseconds(3_500) {
                number += 1
                try await client.exchange("\(number)", answer: "b:\(number)")
            }
            #expect(daemon.lines(with: "does not take datagrams", first.configured.trimmingQuotes).count == 1)
            try await daemon.stop()
        }

        // MARK: Reloads

        /// The backend is still there, and the reload names another one. Its last client is in a worker that the reload
        /// makes superfluous.
        @Test(arguments: Kinds.allCases)
        func `clients that are connected follow a backend that a reload has moved`(_ kinds: Kinds) async throws {
            let (first, other) = try pair(kinds)
            try await first.start()
            try await other.start()
            let address = try SocketAddress.freeOnOwnLoopback()
            let daemon = try await Daemon.start(service([first], listen: address, workers: 2), in: folder)
            let clients = try (1...2).map { try client("127.14.9.\($0)", to: address) }
            for client in clients { try await client.exchange("hello", answer: "a:hello") }
            try daemon.reload(service([other], listen: address))
            try await daemon.logged("reloaded")
            // A worker that drains gets the configuration after the others.
            try await speaks(clients[0], with: "b", "anybody")
            try await speaks(clients[1], with: "b", "anybody")
            // Not a message is lost over another change.
            try daemon.reload(service([first], listen: address))
            try await daemon.logged("reloaded", count: 2)
            try await clients[0].exchange("and back", answer: "a:and back")
            #expect(!daemon.logs("does not take datagrams") && !daemon.logs("connection closed"))
            try await daemon.stop()
        }

        @Test func `a client stays with its backend until that refuses and then goes to a new one`() async throws {
            let (first, other) = try pair(.udp)
            try await first.start()
            try await other.start()
            let address = try SocketAddress.freeOnOwnLoopback()
            let daemon = try await Daemon.start(service([first], listen: address), in: folder)
            let sources = (1...8).map { "127.15.9.\($0)" }
            let clients = try sources.map { try client($0, to: address) }
            for client in clients { try await client.exchange("hello", answer: "a:hello") }
            try daemon.reload(service([first, other], listen: address))
            try await daemon.logged("reloaded")
            // New clients are divided, but these stay.
            #expect(try await Set(backends(of: (1...20).map { "127.15.8.\($0)" }, at: address)) == ["a", "b"])
            for client in clients { try await client.exchange("still here", answer: "a:still here") }
            try await first.stop()
            for client in clients { try await speaks(client, with: "b", "anybody") }
            try await daemon.stop()
        }

        /// What backends expect is a matter of the configuration that names them.
        @Test func `a client that moves brings the header that its new backend expects`() async throws {
            let sockets = try (0..<2).map { _ in try DatagramSocket.onOwnLoopback() }
            let backends = sockets.map {
                Backend(on: [$0]) { [$0.bytes.first == 13 ? Array("header\n".utf8) : $0.bytes] }
            }
            let address = try SocketAddress.freeOnOwnLoopback()
            func service(_ number: Int, _ key: String) -> String {
                Service.forwarding(to: "udp:\(sockets[number].local)", listen: address, identity: identity).text + key
            }
            let daemon = try await Daemon.start(service(0, ""), in: folder)
            let client = try SecureClient(to: address, trust: identity.certificate, in: folder)
            try await client.exchange("before")
            try daemon.reload(service(1, "proxy_protocol = true\n"))
            try await daemon.logged("reloaded")
            try await client.exchange("after", answer: "header")
            try await daemon.stop()
            for backend in backends { try await backend.stop() }
        }

        /// A service that is gone, or that has another handler, names no new backends.
        @Test func `clients of a service that is gone keep their backend until a reload names it again`() async throws {
            let (first, other) = try pair(.udp)
            try await first.start()
            try await other.start()
            let address = try SocketAddress.freeOnOwnLoopback()
            let elsewhere = try SocketAddress.freeOnOwnLoopback()
            let daemon = try await Daemon.start(service([first], listen: address), in: folder)
            let client = try client("127.16.9.1", to: address)
            try await client.exchange("hello", answer: "a:hello")
            try daemon.reload("workers = 1\n" + Service(listen: [elsewhere], identity: identity).text)
            try await daemon.logged("reloaded")
            try await client.exchange("still here", answer: "a:still here")
            try daemon.reload(
                "workers = 1\n" + Service(name: "forward", listen: [address], identity: identity).text)
            try await daemon.logged("reloaded", count: 2)
            try await client.exchange("and here", answer: "a:and here")
            try daemon.reload(service([other], listen: address))
            try await daemon.logged("reloaded", count: 3)
            try await client.exchange("a new one", answer: "b:a new one")
            try await daemon.stop()
        }

        /// While all are down nothing is served, and nothing ends; then the one that is back has all clients.
        @Test func `when all backends are down, the first that is back serves`() async throws {
            let (first, other) = try pair(.udp)
            let address = try SocketAddress.freeOnOwnLoopback()
            let daemon = try await Daemon.start(service([first, other], listen: address), in: folder)
            let clients = try (1...4).map { try client("127.11.9.\($0)", to: address) }
            try await eventually("both are found to be down", details: daemon.program.errors) {
                for client in clients { client.say("lost") }
                return [first, other].allSatisfy {
                    daemon.logs("does not take datagrams", $0.configured.trimmingQuotes)
                }
            }
            try await other.start()
            for client in clients { try await speaks(client, with: "b", "anybody") }
            #expect(daemon.lines(with: "does not take datagrams").count == 2)
            #expect(!daemon.logs("connection closed"))
            try await daemon.stop()
        }
    }
}

extension String {
    fileprivate var trimmingQuotes: String { trimmingCharacters(in: ["\""]) }
}
