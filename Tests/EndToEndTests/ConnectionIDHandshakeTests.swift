import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEndHandshakes {
    /// What services and clients of other stacks agree on (RFC 9146, section 3).
    @Suite(.enabled(if: PeerProgram.areMade, .init(rawValue: PeerProgram.howToMake)))
    struct ConnectionIDHandshakeTests {
        let folder: TestFolder
        let identity: Identity
        let address: SocketAddress

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
            address = try SocketAddress.freeOnOwnLoopback()
        }

        private func start(_ connectionID: String, _ credentials: PeerProgram.Credentials) async throws -> Daemon {
            try folder.write("\(PeerProgram.Credentials.identity):\(PeerProgram.Credentials.key)\n", to: "keys.psk")
            let proof =
                switch credentials {
                case .certificate: "certificate = \"\(identity.certificate)\"\nprivate_key = \"\(identity.privateKey)\""
                case .presharedKey: "[service.echo.psk]\nfile = \"keys.psk\""
                }
            return try await Daemon.start(
                """
                workers = 2
                [service.echo]
                listen = "\(address)"
                handler = "echo"
                connection_id = \(connectionID)
                \(proof)

                """, in: folder)
        }

        /// - Parameters:
        ///   - line: what a client prints of its handshake.
        ///   - offered: the CID that it has offered.
        private func check(_ line: String, resumed: Bool, offered: String?, length: Int?) throws {
            let handshake = try PeerHandshake(line)
            #expect(handshake.isResumed == resumed)
            guard let offered, let length else {
                #expect(handshake.own == "none" && handshake.peer == "none", "\(line)")
                return
            }
            #expect(handshake.peer.count == 2 * length && handshake.peer != "none", "\(line)")
            // pion does not tell an empty one from none.
            #expect(handshake.own == offered || (offered.isEmpty && handshake.own == "none"), "\(line)")
        }

        @Test(
            arguments: PeerProgram.Stack.allCases,
            [PeerProgram.Credentials.certificate, .presharedKey])
        func `a client gets a connection ID in full and resumed handshakes, and each handshake gives another one`(
            _ stack: PeerProgram.Stack, _ credentials: PeerProgram.Credentials
        ) async throws {
            let daemon = try await start("10", credentials)
            // None is offered; one of length 0; one of the least and of the greatest length that all three know: wolfSSL
            // knows 10 bytes at most, as Debian builds it.
            for offered in [nil, "", "c1", "c0ffee00c0ffee01c0ff"] {
                let client = try PeerProgram(stack, to: address, connectionID: offered, by: credentials, in: folder)
                let first = try await client.prints("handshake", details: daemon.program.errors)
                try check(first, resumed: false, offered: offered, length: 10)
                #expect(try await client.echo(3, details: daemon.program.errors))
                let second = try await client.perform("resume", until: "handshake", details: daemon.program.errors)
                try check(second, resumed: true, offered: offered, length: 10)
                #expect(try await client.echo(3, details: daemon.program.errors))
                if offered != nil { #expect(try PeerHandshake(first).peer != PeerHandshake(second).peer) }
                try await client.leave()
            }
            try await daemon.logged("connection closed: closed by the peer", count: 8)
            try await daemon.stop()
        }

        @Test(arguments: PeerProgram.Stack.allCases)
        func `a service without connection IDs answers no offer`(_ stack: PeerProgram.Stack) async throws {
            let daemon = try await start("\"off\"", .certificate)
            // A client of wolfSSL 5.9 that offers one for itself ends no handshake with a server that does not answer,
            // Mbed TLS's neither.
            for offered in stack == .wolfSSL ? [""] : ["", "c0ffee"] {
                let client = try PeerProgram(stack, to: address, connectionID: offered, by: .certificate, in: folder)
                let line = try await client.prints("handshake", details: daemon.program.errors)
                try check(line, resumed: false, offered: offered, length: nil)
                #expect(try await client.echo(3, details: daemon.program.errors))
                let resumed = try await client.perform("resume", until: "handshake", details: daemon.program.errors)
                try check(resumed, resumed: true, offered: offered, length: nil)
                #expect(try await client.echo(3, details: daemon.program.errors))
                try await client.leave()
            }
            try await daemon.stop()
        }

        @Test(arguments: ["11", "20"])
        func `a connection ID has the length that the service wants`(_ length: String) async throws {
            let daemon = try await start(length, .certificate)
            // wolfSSL knows no longer ones than 10 bytes, as Debian builds it.
            for stack in PeerProgram.Stack.allCases where stack != .wolfSSL {
                let client = try PeerProgram(stack, to: address, connectionID: "", by: .certificate, in: folder)
                let line = try await client.prints("handshake", details: daemon.program.errors)
                try check(line, resumed: false, offered: "", length: Int(length))
                #expect(try await client.echo(3, details: daemon.program.errors))
                // The log names what the peer names, so that an operator finds a connection by a capture.
                try await daemon.logged("connection opened", try PeerHandshake(line).peer)
            }
            try await daemon.stop()
        }

        @Test(arguments: PeerProgram.Stack.allCases, NAT.Moment.allCases)
        func `a port may change in the last flight of a handshake`(_ stack: PeerProgram.Stack, _ moment: NAT.Moment)
            async throws
        {
            let daemon = try await start("10", .certificate)
            let nat = try NAT(to: address, moves: moment, connectionIDLength: 10)
            let client = try PeerProgram(stack, to: nat.address, connectionID: "c0ffee", by: .certificate, in: folder)
            let line = try await client.prints("handshake", details: daemon.program.errors)
            try check(line, resumed: false, offered: "c0ffee", length: 10)
            #expect(try await client.echo(3, details: daemon.program.errors))
            try await daemon.logged("\(nat.outside)")
            try await daemon.stop()
        }

        @Test(arguments: PeerProgram.Stack.allCases.filter(\.isFoundByItsResumedFinished))
        func `a port may change in the last flight of a resumed handshake`(_ stack: PeerProgram.Stack) async throws {
            let daemon = try await start("10", .certificate)
            let nat = try NAT(to: address, connectionIDLength: 10)
            let client = try PeerProgram(stack, to: nat.address, connectionID: "c0ffee", by: .certificate, in: folder)
            try await client.prints("handshake done", details: daemon.program.errors)
            nat.move(.beforeChangeCipherSpec)
            let line = try await client.perform("resume", until: "handshake", details: daemon.program.errors)
            try check(line, resumed: true, offered: "c0ffee", length: 10)
            #expect(try await client.echo(3, details: daemon.program.errors))
            try await daemon.logged("\(nat.outside)")
            try await daemon.stop()
        }
    }
}
