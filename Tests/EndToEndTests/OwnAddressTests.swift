import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEndClientMode {
    /// A tunnel on a machine whose address changes, and a server on another one that has given it a connection ID.
    @Suite(
        .enabled(if: PrivateNetwork.isAllowed, "networks of its own take root"),
        .enabled(if: PeerProgram.areMade, .init(rawValue: PeerProgram.howToMake)))
    struct OwnAddressTests {
        /// dtlsd knows the return routability check, Mbed TLS does not.
        enum Server: CaseIterable, Sendable { case dtlsd, mbedTLS }

        private static let first = "10.77.0.2"
        private static let second = "10.77.0.3"
        private static let server = "10.77.0.1"

        let folder: TestFolder
        let identity: Identity

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
        }

        /// Two machines with a cable between them, and what runs on them.
        private final class Machines: Sendable {
            let tunnel: Daemon
            let sender: PlainSender
            private let serverNetwork: Program
            private let server: Daemon?
            private let peer: PeerProgram?

            init(_ kind: Server, _ identity: Identity, in folder: TestFolder) async throws {
                let serverNetwork = try Program(["unshare", "-n", "sleep", "600"], in: folder)
                self.serverNetwork = serverNetwork
                try await eventually("there is a network for the server") {
                    ProcessTable.name(of: serverNetwork.pid) == "sleep"
                }
                let prefix = ["nsenter", "--net=/proc/\(serverNetwork.pid)/ns/net"]
                guard let anywhere = SocketAddress(host: "0.0.0.0", port: 5_684),
                    let there = SocketAddress(host: OwnAddressTests.server, port: 5_684),
                    let front = SocketAddress(host: "127.0.0.1", port: 5_685)
                else { throw NoFreePort(host: OwnAddressTests.server) }
                switch kind {
                case .dtlsd:
                    peer = nil
                    server = try await Daemon.start(
                        Service(listen: [anywhere], identity: identity, more: "connection_id = 16").text,
                        in: TestFolder(), prefix: prefix)
                case .mbedTLS:
                    server = nil
                    peer = try await PeerProgram(
                        .mbedTLS, at: anywhere, connectionID: "0011223344556677", by: .certificate,
                        identity: identity, in: folder, prefix: prefix)
                }
                tunnel = try await Daemon.start(
                    Client(
                        listen: front, connect: there, trust: identity.certificate,
                        more: "server_name = \"localhost\"\nconnection_id = 8"
                    ).text, in: folder, prefix: PrivateNetwork.prefix(mtu: 1_500))
                sender = try OwnThread.run(inNetworkOf: tunnel.program.pid) {
                    try PlainSender(to: front, from: "127.0.0.1")
                }
                try await onTunnel("link add cable type veth peer name cable netns \(serverNetwork.pid)")
                try await onServer("addr add \(OwnAddressTests.server)/24 dev cable")
                try await onServer("link set cable up")
                try await onTunnel("addr add \(OwnAddressTests.first)/24 dev cable")
                try await onTunnel("link set cable up")
            }

            func onTunnel(_ words: String) async throws { try await ip(words, tunnel.program.pid) }
            func onServer(_ words: String) async throws { try await ip(words, serverNetwork.pid) }

            private func ip(_ words: String, _ process: pid_t) async throws {
                try await Program.run(
                    ["nsenter", "--net=/proc/\(process)/ns/net", "ip"] + words.split(separator: " ").map(String.init),
                    in: tunnel.folder)
            }

            /// What all of them have to say of a failure.
            var details: String {
                "\(server?.program.errors ?? "")\n\(peer?.output ?? [])\n\(tunnel.program.errors)"
            }

            func expectOneConnection() async throws {
                try await tunnel.logged(
                    "the address of this side has changed", "LOCAL=\(OwnAddressTests.second):",
                    "FORMER_LOCAL=\(OwnAddressTests.first):", "CONNECTION_ID=")
                #expect(tunnel.lines(with: "connection to the server opened").count == 1, "\(details)")
                #expect(tunnel.lines(with: "connection to the server closed").isEmpty, "\(details)")
                switch server {
                case let server?:
                    try await server.logged("the client's address has changed", "PEER=\(OwnAddressTests.second):")
                    #expect(server.lines(with: "connection opened").count == 1)
                    try await server.stop()
                case nil: #expect(peer?.output.count { $0.hasPrefix("handshake") } == 1, "\(details)")
                }
                try await tunnel.stop()
            }
        }

        @Test(arguments: Server.allCases)
        func `a tunnel keeps its connection when this machine gets another address in the middle of an exchange`(
            _ server: Server
        ) async throws {
            let machines = try await Machines(server, identity, in: folder)
            try await machines.sender.exchangeWithLosses("before", details: machines.details)
            machines.sender.send("asked from the first address")
            try await machines.onTunnel("addr del \(Self.first)/24 dev cable")
            machines.sender.send("asked from no address")
            try await machines.onTunnel("addr add \(Self.second)/24 dev cable")
            try await machines.sender.exchangeWithLosses("after", details: machines.details)
            for number in 0..<5 { try await machines.sender.exchange("after \(number)", details: machines.details) }
            try await machines.expectOneConnection()
        }

        /// The kernel goes on sending from the socket, and nothing comes back to it.
        @Test(arguments: Server.allCases)
        func `a tunnel keeps its connection when its address stays and the way back is another one`(
            _ server: Server
        ) async throws {
            let machines = try await Machines(server, identity, in: folder)
            try await machines.sender.exchangeWithLosses("before", details: machines.details)
            try await machines.onTunnel("addr add \(Self.second)/24 dev cable")
            try await machines.onTunnel("route change 10.77.0.0/24 dev cable src \(Self.second)")
            try await machines.onServer("route add blackhole \(Self.first)/32")
            try await machines.sender.exchangeWithLosses("after", details: machines.details)
            for number in 0..<5 { try await machines.sender.exchange("after \(number)", details: machines.details) }
            try await machines.expectOneConnection()
        }
    }

    /// Servers that have lost their state.
    @Suite struct ForgetfulServerTests {
        let fixture: ClientFixture

        init() async throws { fixture = try await ClientFixture() }

        @Test func `a server that has lost its state is noticed though it has given a connection ID`() async throws {
            let service = Service(listen: [fixture.back], identity: fixture.identity, more: "connection_id = 16").text
            // The host of a server that is away says that nothing listens there; behind the relay nothing is heard of it.
            let relay = try Relay(to: fixture.back) { _, _ in true }
            let client = Client(
                listen: fixture.front, connect: relay.address, trust: fixture.identity.certificate,
                more: "server_name = \"localhost\"\nconnection_id = 0")
            let daemon = try await Daemon.start("workers = 1\n" + client.text, in: fixture.folder)
            let sender = try PlainSender(to: fixture.front)
            let first = try await fixture.serverDaemon(service)
            try await sender.exchangeWithLosses("before", details: daemon.program.errors)
            // Nobody is left who could say goodbye.
            let workers = first.workers
            first.program.signal(SIGSTOP)
            for worker in workers { kill(worker, SIGKILL) }
            first.program.signal(SIGKILL)
            _ = try await first.program.ended()
            let second = try await fixture.serverDaemon(service)
            try await sender.exchangeWithLosses("after", details: daemon.program.errors)
            try await daemon.logged("connection to the server closed: the server does not know it", "CONNECTION_ID=")
            try await daemon.logged("connection to the server opened", count: 2)
            try await daemon.stop()
            try await second.stop()
        }
    }
}
