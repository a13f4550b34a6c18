import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEndClientMode {
    /// dtlsd as a client of servers on other stacks.
    @Suite(.enabled(if: PeerProgram.areMade, .init(rawValue: PeerProgram.howToMake)))
    struct ConnectionIDClientTests {
        let fixture: ClientFixture

        init() async throws { fixture = try await ClientFixture() }

        private func client(
            _ connectionID: String, by credentials: PeerProgram.Credentials = .certificate,
            to server: SocketAddress? = nil
        ) throws -> String {
            let more = "connection_id = \(connectionID)"
            switch credentials {
            case .certificate:
                return Client(
                    listen: fixture.front, connect: server ?? fixture.back, trust: fixture.identity.certificate,
                    more: "server_name = \"localhost\"\n\(more)"
                ).text
            case .presharedKey:
                let keys = try fixture.folder.write(
                    "\(PeerProgram.Credentials.identity):\(PeerProgram.Credentials.key)\n", to: "keys.psk")
                return Client(
                    listen: fixture.front, connect: server ?? fixture.back,
                    more: "\(more)\n[client.out.psk]\nfile = \"\(keys)\""
                ).text
            }
        }

        private func server(
            _ stack: PeerProgram.Stack, connectionID: String?, by credentials: PeerProgram.Credentials = .certificate
        ) async throws -> PeerProgram {
            try await PeerProgram(
                stack, at: fixture.back, connectionID: connectionID, by: credentials, identity: fixture.identity,
                in: fixture.folder)
        }

        /// Each connection is closed by its server after a message that begins with "bye", and the next message opens
        /// one that resumes the session.
        @Test(arguments: PeerProgram.Stack.allCases, PeerProgram.Credentials.allCases)
        func `servers of other stacks agree in full and resumed handshakes`(
            _ stack: PeerProgram.Stack, _ credentials: PeerProgram.Credentials
        ) async throws {
            let serverID = "0011223344556677"
            for (own, others) in [("\"off\"", serverID), ("0", serverID), ("8", serverID), ("8", ""), ("8", nil)] {
                let server = try await server(stack, connectionID: others, by: credentials)
                // In a folder of its own, with a log of its own.
                let daemon = try await Daemon.start(client(own, by: credentials), in: TestFolder())
                let sender = try PlainSender(to: fixture.front)
                // pion's server resumes no session with connection IDs (Tests/Peers/pion/main.go).
                let rounds = stack == .pion && own == "8" && others != nil ? 1 : 2
                for round in 1...rounds {
                    try await sender.exchange("one \(round)", details: "\(server.output)\n\(daemon.program.errors)")
                    try await sender.exchange("bye \(round)", details: "\(server.output)\n\(daemon.program.errors)")
                    try await server.prints("closed", count: round)
                    let line = try await server.prints("handshake done", count: round)
                    let handshake = try PeerHandshake(line)
                    #expect(handshake.isResumed == (round == 2))
                    let isAgreed = own != "\"off\"" && others != nil && !(stack == .pion && round == 2)
                    if isAgreed {
                        #expect(handshake.own == others || (others == "" && handshake.own == "none"), "\(line)")
                        let length = handshake.peer == "none" ? 0 : handshake.peer.count / 2
                        #expect(length == Int(own), "\(line)")
                    } else {
                        #expect(handshake.own == "none" && handshake.peer == "none", "\(line)")
                    }
                    try await daemon.logged("connection to the server closed", count: round)
                }
                try await daemon.stop()
                try await server.kill()
            }
        }

        @Test(arguments: PeerProgram.Stack.allCases, ["0", "8"])
        func `a tunnel keeps its connection when its port changes`(_ stack: PeerProgram.Stack, _ own: String)
            async throws
        {
            let server = try await server(stack, connectionID: "0011223344556677")
            let nat = try NAT(to: fixture.back)
            let daemon = try await Daemon.start(client(own, to: nat.address), in: fixture.folder)
            let sender = try PlainSender(to: fixture.front)
            try await sender.exchange("before", details: "\(server.output)\n\(daemon.program.errors)")
            for number in 0..<3 {
                let port = try await nat.move().port
                try await sender.exchange("message \(number)", details: "\(server.output)\n\(daemon.program.errors)")
                try await server.prints("the peer has moved to port \(port)")
            }
            #expect(server.output.filter { $0.hasPrefix("handshake") }.count == 1)
            try await daemon.stop()
        }

        /// pion's server answers a handshake at the address that it has begun from, and takes none of it from another.
        @Test(arguments: PeerProgram.Stack.allCases.filter { $0 != .pion }, NAT.Moment.allCases)
        func `a tunnel's port may change in the last flight of a handshake`(
            _ stack: PeerProgram.Stack, _ moment: NAT.Moment
        ) async throws {
            let server = try await server(stack, connectionID: "0011223344556677")
            let nat = try NAT(to: fixture.back, moves: moment, connectionIDLength: 8)
            let daemon = try await Daemon.start(client("8", to: nat.address), in: fixture.folder)
            let sender = try PlainSender(to: fixture.front)
            try await sender.exchangeWithLosses(
                "after", details: "\(server.output)\n\(daemon.program.errors)")
            try await daemon.stop()
        }

        /// Both sides know the return routability check (RFC 9853).
        @Test func `dtlsd follows dtlsd to another port and checks it`() async throws {
            let service = Service(listen: [fixture.back], identity: fixture.identity, more: "connection_id = 16")
            let server = try await fixture.serverDaemon(service.text)
            let nat = try NAT(to: fixture.back)
            let daemon = try await Daemon.start(client("8", to: nat.address), in: fixture.folder)
            let sender = try PlainSender(to: fixture.front)
            try await sender.exchange("before", details: server.program.errors)
            for number in 0..<3 {
                let outside = try await nat.move()
                try await sender.exchange("message \(number)", details: server.program.errors)
                try await server.logged("\(outside)")
            }
            #expect(server.lines(with: "connection opened").count == 1)
            try await daemon.stop()
            try await server.stop()
        }
    }
}
