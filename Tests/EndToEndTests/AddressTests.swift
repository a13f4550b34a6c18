import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEnd {
    /// Addresses and interfaces of this machine that a configuration names.
    struct AddressTests {
        let folder: TestFolder
        let identity: Identity

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
        }

        private static func address(_ host: String, _ port: UInt16) throws -> SocketAddress {
            try #require(SocketAddress(host: host, port: port))
        }

        /// The next datagram of a backend, and where it comes from.
        private static func received(by backend: DatagramSocket) async throws -> (text: String, from: SocketAddress) {
            try await eventualValue("the backend gets a datagram") {
                backend.receive().flatMap { bytes, sender in
                    sender.withUnsafeBytes { raw in
                        raw.baseAddress.flatMap { SocketAddress($0, length: raw.count) }.map {
                            (String(decoding: bytes, as: UTF8.self), $0)
                        }
                    }
                }
            }
        }

        @Test(
            .enabled(if: PrivateNetwork.isAllowed, "a network of its own takes root"),
            arguments: ["192.0.2.9", "2001:db8::9"])
        func `an address that comes later is listened on with freebind, and stops the start without it`(
            _ host: String
        ) async throws {
            let address = try Self.address(host, 5_684)
            let there = try Self.address(host.contains(":") ? "::1" : "127.0.0.1", 5_684)
            func service(_ more: String) -> String {
                Service(listen: [there, address], identity: identity, more: more).text
            }
            let error = await #expect(throws: Daemon.Failure.self) {
                _ = try await Daemon.start(
                    service(""), in: try TestFolder(), prefix: PrivateNetwork.prefix(mtu: 1_500))
            }
            #expect(error?.description.contains("freebind = true in the table socket lets it come later") == true)
            let daemon = try await Daemon.start(
                service("socket.freebind = true"), in: folder, prefix: PrivateNetwork.prefix(mtu: 1_500))
            try await Program.run(
                PrivateNetwork.prefix(of: daemon) + ["ip", "addr", "add", host, "dev", "lo"]
                    + (host.contains(":") ? ["nodad"] : []),
                in: folder)
            let client = try SecureClient(
                to: address, trust: identity.certificate, in: folder, prefix: PrivateNetwork.prefix(of: daemon))
            try await client.exchange("here I am")
            try await client.leave()
            try await daemon.stop()
        }

        @Test(.enabled(if: PrivateNetwork.isAllowed, "a network of its own takes root"))
        func `a reload brings freebind, and an address that is not there yet`() async throws {
            let there = try Self.address("127.0.0.1", 5_684)
            let later = try Self.address("192.0.2.9", 5_684)
            func service(_ listen: [SocketAddress], _ more: String) -> String {
                Service(listen: listen, identity: identity, more: more).text
            }
            let daemon = try await Daemon.start(
                service([there], ""), in: folder, prefix: PrivateNetwork.prefix(mtu: 1_500))
            try daemon.reload(service([there, later], ""))
            try await daemon.logged("freebind = true in the table socket lets it come later")
            try daemon.reload(service([there, later], "socket.freebind = true"))
            try await daemon.logged("configuration and certificates reloaded")
            try await ip("addr add \(later.host) dev lo", daemon)
            let client = try SecureClient(
                to: later, trust: identity.certificate, in: folder, prefix: PrivateNetwork.prefix(of: daemon))
            try await client.exchange("here I am")
            try await client.leave()
            try await daemon.stop()
        }

        @Test func `backends are sent to from the ports of source, each by one connection`() async throws {
            let backend = try DatagramSocket.onOwnLoopback()
            let listen = try SocketAddress.freeOnOwnLoopback()
            let first = try SocketAddress.free(on: "127.0.0.7")
            let last = first.with(port: first.port + 1)
            func service(_ source: String) -> String {
                "workers = 1\n"
                    + Service.forwarding(to: "udp:\(backend.local)", listen: listen, identity: identity).text
                    + "source = \"127.0.0.7:\(source)\"\n"
            }
            let daemon = try await Daemon.start(service("\(first.port)-\(last.port)"), in: folder)
            var ports: Set<String> = []
            var clients: [SecureClient] = []
            for name in ["one", "two"] {
                let client = try SecureClient(to: listen, trust: identity.certificate, in: folder)
                client.say(name)
                clients.append(client)
                let (text, sender) = try await Self.received(by: backend)
                #expect(text == "\(name)\n")
                backend.send(Array("to \(name)\n".utf8), to: sender)
                try await client.hears("to \(name)")
                ports.insert("\(sender)")
            }
            #expect(ports == ["\(first)", "\(last)"])
            // Both are taken, and a reload brings more.
            let refused = try SecureClient(to: listen, trust: identity.certificate, in: folder)
            try await daemon.logged("no local port is left for a socket to the backend")
            refused.program.signal(SIGKILL)
            let more = try SocketAddress.free(on: "127.0.0.7")
            try daemon.reload(service("\(more.port)"))
            try await daemon.logged("configuration and certificates reloaded")
            let third = try SecureClient(to: listen, trust: identity.certificate, in: folder)
            third.say("three")
            #expect(try await Self.received(by: backend).from == more)
            for client in clients + [third] { try await client.leave() }
            try await daemon.stop()
        }

        @Test func `a server is sent to from the addresses and ports of source`() async throws {
            let fixture = try await ClientFixture()
            let server = try await fixture.serverDaemon()
            let port = try SocketAddress.free(on: "127.0.0.8")
            let daemon = try await Daemon.start(
                fixture.client(
                    more: "server_name = \"localhost\"\nsource = [\"127.0.0.7\", \"127.0.0.8:\(port.port)\"]"),
                in: fixture.folder)
            let senders = try (0..<2).map { _ in try PlainSender(to: fixture.front) }
            for sender in senders { try await sender.exchange("hello", details: daemon.program.errors) }
            try await server.logged("connection opened", "PEER=127.0.0.7:")
            try await server.logged("connection opened", "PEER=\(port)")
            // The port is taken: the other address has others.
            let third = try PlainSender(to: fixture.front)
            try await third.exchange("hello", details: daemon.program.errors)
            try await server.logged("connection opened", "PEER=127.0.0.7:", count: 2)
            try daemon.reload(
                fixture.client(more: "server_name = \"localhost\"\nsource = \"127.0.0.8:\(port.port)\""))
            try await daemon.logged("configuration and certificates reloaded")
            let fourth = try PlainSender(to: fixture.front)
            fourth.send("hello")
            try await daemon.logged(
                "no local port is left for a socket to it", "expected more addresses or ports in source")
            try await daemon.stop()
            try await server.stop()
        }

        /// The loopback interface leads nowhere but to this machine.
        @Test(.enabled(if: PrivateNetwork.isAllowed, "networks of their own take root"))
        func `a backend is sent to over the interface alone, also where another route leads to it`() async throws {
            let listen = try Self.address("127.0.0.1", 5_684)
            func service(_ interface: String) -> String {
                "workers = 1\n"
                    + Service.forwarding(to: "udp:192.0.2.1:9", listen: listen, identity: identity).text
                    + "interface = \"\(interface)\"\n"
            }
            let daemon = try await Daemon.start(
                service("wan0"), in: folder, prefix: PrivateNetwork.prefix(mtu: 1_500, addresses: ["192.0.2.1/32"]))
            try await daemon.logged("there is no interface \"wan0\" yet")
            let backend = try PrivateNetwork.socket(at: Self.address("192.0.2.1", 9), in: daemon)
            func client() throws -> SecureClient {
                try SecureClient(
                    to: listen, trust: identity.certificate, in: folder, prefix: PrivateNetwork.prefix(of: daemon))
            }
            let early = try client()
            try await daemon.logged("there is no socket for the backend", "wan0: No such device")
            try await early.leave()
            try daemon.reload(service("lo"))
            try await daemon.logged("configuration and certificates reloaded")
            let later = try client()
            later.say("over lo")
            #expect(try await Self.received(by: backend).text == "over lo\n")
            try await later.leave()
            try await daemon.stop()
        }

        private static let back = "10.78.0.1"

        /// A server that is reached over the interface wan0 of the tunnel's network, once that is there.
        private func server(_ more: String) async throws -> Daemon {
            try await Daemon.start(
                Service(
                    listen: [try Self.address("0.0.0.0", 5_684)], identity: identity,
                    more: more.isEmpty ? "" : "connection_id = 16"
                ).text,
                in: TestFolder(), prefix: PrivateNetwork.prefix(mtu: 1_500))
        }

        private func tunnel(_ front: SocketAddress, interface: String, _ more: String = "") throws -> String {
            "workers = 1\n"
                + Client(
                    listen: front, connect: try Self.address(Self.back, 5_684), trust: identity.certificate,
                    more: "server_name = \"localhost\"\ninterface = \"\(interface)\"\n\(more)"
                ).text
        }

        private func ip(_ words: String, _ daemon: Daemon) async throws {
            try await Program.run(
                PrivateNetwork.prefix(of: daemon) + ["ip"] + words.split(separator: " ").map(String.init), in: folder)
        }

        /// Adds the interface wan0 to the tunnel's network.
        private func plugIn(_ tunnel: Daemon, to server: Daemon) async throws {
            try await ip("link add wan0 type veth peer name cable netns \(server.program.pid)", tunnel)
            try await ip("addr add \(Self.back)/24 dev cable", server)
            try await ip("link set cable up", server)
            try await ip("addr add 10.78.0.2/24 dev wan0", tunnel)
            try await ip("link set wan0 up", tunnel)
        }

        /// What a modem or a VPN does.
        @Test(
            .enabled(if: PrivateNetwork.isAllowed, "networks of their own take root"),
            arguments: ["", "connection_id = 8"])
        func `a tunnel uses its interface once that appears, and again when it comes back`(_ more: String) async throws
        {
            let front = try Self.address("127.0.0.1", 5_685)
            let server = try await server(more)
            let tunnel = try await Daemon.start(
                tunnel(front, interface: "wan0", more), in: folder, prefix: PrivateNetwork.prefix(mtu: 1_500))
            try await tunnel.logged("there is no interface \"wan0\" yet")
            let sender = try OwnThread.run(inNetworkOf: tunnel.program.pid) {
                try PlainSender(to: front, from: "127.0.0.1")
            }
            sender.send("too early")
            try await tunnel.logged("no connection to the server", "wan0: No such device")
            try await plugIn(tunnel, to: server)
            try await sender.exchangeWithLosses("first", details: tunnel.program.errors)
            try await ip("link del wan0", tunnel)
            try await plugIn(tunnel, to: server)
            try await sender.exchangeWithLosses("second", details: tunnel.program.errors)
            if more.isEmpty {
                try await tunnel.logged("connection to the server closed: its network interface was removed")
                try await tunnel.logged("connection to the server opened", count: 2)
            } else {
                #expect(tunnel.lines(with: "connection to the server opened").count == 1)
            }
            try await tunnel.stop()
            try await server.stop()
        }

        @Test(.enabled(if: PrivateNetwork.isAllowed, "networks of their own take root"))
        func `a reload gives a tunnel another interface`() async throws {
            let front = try Self.address("127.0.0.1", 5_685)
            let server = try await server("")
            let daemon = try await Daemon.start(
                tunnel(front, interface: "lan0"), in: folder, prefix: PrivateNetwork.prefix(mtu: 1_500))
            try await plugIn(daemon, to: server)
            let sender = try OwnThread.run(inNetworkOf: daemon.program.pid) {
                try PlainSender(to: front, from: "127.0.0.1")
            }
            sender.send("nowhere")
            try await daemon.logged("no connection to the server", "lan0: No such device")
            try daemon.reload(tunnel(front, interface: "wan0"))
            try await daemon.logged("configuration and certificates reloaded")
            try await sender.exchangeWithLosses("over wan0", details: daemon.program.errors)
            try await daemon.stop()
            try await server.stop()
        }
    }
}
