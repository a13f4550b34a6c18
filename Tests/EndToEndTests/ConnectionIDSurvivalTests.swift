import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEndCrowds {
    /// Clients behind a NAT, on stacks that we did not write, that move after the daemon's processes have changed.
    @Suite(.enabled(if: PeerProgram.areMade, .init(rawValue: PeerProgram.howToMake)))
    struct ConnectionIDSurvivalTests {
        let folder: TestFolder
        let identity: Identity
        let address: SocketAddress

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
            address = try SocketAddress.freeOnOwnLoopback()
        }

        private func start(_ more: String = "", keys: String = "") async throws -> Daemon {
            try await Daemon.start(text(more, keys: keys), in: folder)
        }

        private func text(_ more: String = "", keys: String = "") -> String {
            "workers = 2\n\(keys)\n"
                + Service(listen: [address], identity: identity, more: "connection_id = 10\n\(more)").text
        }

        /// A client behind a NAT of its own on each stack.
        private func clients() async throws -> [(nat: NAT, client: PeerProgram)] {
            var pairs: [(NAT, PeerProgram)] = []
            for stack in PeerProgram.Stack.allCases {
                let nat = try NAT(to: address)
                let client = try PeerProgram(
                    stack, to: nat.address, connectionID: "c0ffee", by: .certificate, in: folder)
                try await client.prints("handshake done")
                #expect(try await client.echo(3))
                pairs.append((nat, client))
            }
            return pairs
        }

        private func expectMoves(_ pairs: [(nat: NAT, client: PeerProgram)], _ daemon: Daemon) async throws {
            for (nat, client) in pairs {
                let outside = try await nat.move()
                #expect(try await client.echo(3, details: daemon.program.errors))
                try await daemon.logged("the client's address has changed", "PEER=\(outside)")
            }
            #expect(daemon.lines(with: "connection opened").count == pairs.count)
            #expect(daemon.lines(with: "connection closed").isEmpty)
        }

        @Test func `clients move after each worker was killed`() async throws {
            let daemon = try await start()
            let pairs = try await clients()
            for worker in 0..<2 {
                try await daemon.replaceWorker(worker)
                try await expectMoves(pairs, daemon)
            }
            try await daemon.stop()
        }

        @Test func `clients move after an upgrade, and after the next one`() async throws {
            let daemon = try await start()
            let pairs = try await clients()
            var main = daemon.program.pid
            for round in 0..<2 {
                kill(main, SIGUSR2)
                let former = main
                main = try await eventualValue("another main process serves", details: daemon.program.errors) {
                    daemon.mainProcess.flatMap { $0 != former && !ProcessTable.isRunning(former) ? $0 : nil }
                }
                if round == 0 { #expect(try await daemon.program.ended() == .exited(0)) }
                try await expectMoves(pairs, daemon)
            }
            kill(main, SIGTERM)
            try await eventually("it ends", details: daemon.program.errors) { !ProcessTable.isRunning(main) }
        }

        /// The key of the IDs that the clients have stays in the file, below the one that new clients get theirs with; a
        /// daemon without a file goes on reading what it has made with its own.
        @Test(arguments: [true, false])
        func `clients move after a reload with another key file`(_ hadFile: Bool) async throws {
            func keys(_ name: String, _ lines: [String]) throws -> String {
                let file = try folder.write(lines.joined(separator: "\n") + "\n", to: name)
                return "[connection_ids]\nkey_file = \"\(file)\""
            }
            let first = "0 00112233445566778899aabbccddeeff"
            let daemon = try await start(keys: hadFile ? try keys("first.keys", [first]) : "")
            let pairs = try await clients()
            let second = "1 ffeeddccbbaa99887766554433221100"
            try daemon.reload(text(keys: try keys("second.keys", hadFile ? [second, first] : [second])))
            try await daemon.logged("reloaded")
            try await expectMoves(pairs, daemon)
            // New clients get theirs with the new key, which is in the first three bits.
            let client = try PeerProgram(
                .mbedTLS, to: address, connectionID: "c0ffee", by: .certificate, in: folder)
            let handshake = try PeerHandshake(try await client.prints("handshake done"))
            #expect(try #require(UInt8(handshake.peer.prefix(2), radix: 16)) >> 5 == 1)
            #expect(try await client.echo(3))
            try await daemon.stop()
        }

        /// Nothing has proven that the client is at its new address, so what it is sent there is bounded, also after the
        /// connection has lost its socket and another worker has it.
        @Test(arguments: [false, true])
        func `the limit for an address that is not proven holds for a parked connection`(_ dies: Bool) async throws {
            let backend = try DatagramSocket.onOwnLoopback()
            let service = Service.forwarding(
                to: "udp:\(backend.local)", listen: address, identity: identity,
                more: "connection_id = 10\npark_after = \"1s\"")
            let daemon = try await Daemon.start("workers = 1\n\(service.text)", in: folder)
            daemon.program.signal(SIGHUP)
            try await daemon.logged("reloaded")
            // Each connection has a socket to its backend as long as it lives.
            let sockets = daemon.openSockets
            let nat = try NAT(to: address)
            let client = try PeerProgram(
                .mbedTLS, to: nat.address, connectionID: "c0ffee", by: .certificate, in: folder)
            try await client.prints("handshake done")
            client.say("before")
            _ = try await eventualValue("the backend hears the client") { backend.receive() }
            try await nat.move()
            let known = nat.toServer.count
            client.say("after")
            let (_, sender) = try await eventualValue("the backend hears the client again") { backend.receive() }
            let came = nat.toServer.dropFirst(known).reduce(0) { $0 + $1.count }
            try await eventually("the connection is parked", details: daemon.program.errors) {
                daemon.openSockets == sockets + 1
            }
            if dies {
                try await daemon.replaceWorker()
                daemon.program.signal(SIGHUP)
                try await daemon.logged("reloaded", count: 2)
            }
            for _ in 0..<50 { backend.send([UInt8](repeating: 0x61, count: 20), to: sender) }
            let port = try #require(
                sender.withUnsafeBytes { raw in
                    raw.baseAddress.flatMap { SocketAddress($0, length: raw.count)?.port }
                })
            // The client's next record, which comes after something was sent to it, proves that it is there.
            try await eventually("what the backend has sent has been read", details: daemon.program.errors) {
                !ProcessTable.hasUnreadDatagrams(atPort: port)
            }
            client.say("again")
            _ = try await eventualValue("the backend hears the client at last") { backend.receive() }
            try await eventually("the client is sent what the limit allows", details: daemon.program.errors) {
                nat.bytesToPresentPort > 0
            }
            let bytes = nat.toServer.dropFirst(known).reduce(0) { $0 + $1.count }
            #expect(nat.bytesToPresentPort <= 3 * bytes, "\(came)")
            try await daemon.stop()
        }
    }
}

extension Daemon {
    /// The main process, which an upgrade has started in the place of the first one perhaps.
    var mainProcess: pid_t? {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []
        return names.compactMap { pid_t($0) }.first { pid in
            ProcessTable.name(of: pid).hasPrefix("dtlsd: main process")
                && (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/\(pid)/fd/2"))
                    == folder.file("dtlsd.errors")
        }
    }
}
