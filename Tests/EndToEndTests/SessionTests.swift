import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEndHandshakes {
    /// Session tickets: their keys, shared, rotated and taken away.
    @Suite struct SessionTests {
        let folder: TestFolder
        let identity: Identity
        let address: SocketAddress

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
            address = try SocketAddress.freeOnOwnLoopback()
        }

        private func configuration(_ tickets: String, at address: SocketAddress? = nil, more: String = "") -> String {
            "[tickets]\n\(tickets)\n" + Service(listen: [address ?? self.address], identity: identity, more: more).text
        }

        private func writeKey(_ name: String) throws {
            let bytes = (0..<80).map { _ in UInt8.random(in: 0...255) }
            let path = folder.file(name)
            try Data(bytes).write(to: URL(fileURLWithPath: path))
            chmod(path, 0o600)
        }

        /// One exchange of a client that keeps its session in a file, or comes with one.
        @discardableResult
        private func visit(
            _ address: SocketAddress? = nil, with session: String? = nil, keep name: String? = nil
        ) async throws -> SecureClient {
            let arguments =
                (session.map { ["-sess_in", folder.file($0)] } ?? [])
                + (name.map { ["-sess_out", folder.file($0)] } ?? [])
            let client = try SecureClient(
                to: address ?? self.address, trust: identity.certificate, in: folder, arguments)
            try await client.exchange("hello")
            return client
        }

        private func reload(_ daemon: Daemon, _ configuration: String) async throws {
            let before = daemon.lines(with: "configuration and certificates reloaded").count
            try daemon.reload(configuration)
            try await daemon.logged("configuration and certificates reloaded", count: before + 1)
        }

        /// Whether each of the daemon's connections so far, `count` of them, was resumed, in their order.
        private func resumed(_ daemon: Daemon, count: Int) async throws -> [Bool] {
            try await daemon.logged("connection opened", count: count).map { $0.contains("RESUMED=yes") }
        }

        /// The first 4 bytes of the ticket in a session file: the name of the key that its own is derived from.
        private func keyName(in session: String) async throws -> Substring {
            let text = try await Program.run(
                ["openssl", "sess_id", "-in", folder.file(session), "-noout", "-text"], in: folder)
            let lines = text.split(separator: "\n")
            let start = try #require(lines.firstIndex { $0.contains("TLS session ticket:") }, "\(text)")
            return lines[start + 1].dropFirst("    0000 - ".count).prefix(4 * 3 - 1)
        }

        @Test func `machines with the same key file resume each other's sessions`() async throws {
            try writeKey("tickets.key")
            let tickets = "key_file = \"tickets.key\""
            let here = try await Daemon.start(configuration(tickets), in: folder)
            let other = try SocketAddress.freeOnOwnLoopback()
            let otherFolder = try TestFolder()
            try FileManager.default.copyItem(
                atPath: folder.file("tickets.key"), toPath: otherFolder.file("tickets.key"))
            let there = try await Daemon.start(configuration(tickets, at: other), in: otherFolder)
            try await visit(keep: "session")
            try await visit(other, with: "session")
            #expect(try await resumed(here, count: 1) == [false])
            #expect(try await resumed(there, count: 1) == [true])

            // After a restart, too.
            try await here.stop()
            try FileManager.default.removeItem(atPath: folder.file("dtlsd.errors"))
            let again = try await Daemon.start(configuration(tickets), in: folder)
            try await visit(with: "session")
            #expect(try await resumed(again, count: 1) == [true])
            try await again.stop()
            try await there.stop()
        }

        @Test func `an old ticket key is accepted until it is removed`() async throws {
            for name in ["one.key", "two.key"] { try writeKey(name) }
            let daemon = try await Daemon.start(configuration("key_file = \"one.key\""), in: folder)
            try await visit(keep: "first")
            try await reload(daemon, configuration("key_file = [\"two.key\", \"one.key\"]"))
            // With a new ticket, for the next time.
            let comesBack = try SecureClient(
                to: address, trust: identity.certificate, in: folder, ["-sess_in", folder.file("first")])
            try await comesBack.exchange("hello")
            try await comesBack.leave()
            #expect(comesBack.hasGotTicket)
            try await visit(keep: "second")
            #expect(try await keyName(in: "first") != keyName(in: "second"))
            try await reload(daemon, configuration("key_file = \"two.key\""))
            try await visit(with: "first")
            let isUpToDate = try SecureClient(
                to: address, trust: identity.certificate, in: folder, ["-sess_in", folder.file("second")])
            try await isUpToDate.exchange("hello")
            try await isUpToDate.leave()
            #expect(!isUpToDate.hasGotTicket)
            #expect(try await resumed(daemon, count: 5) == [false, true, false, false, true])
            try await daemon.stop()
        }

        @Test func `a service without resumption neither issues nor accepts tickets`() async throws {
            try writeKey("tickets.key")
            let tickets = "key_file = \"tickets.key\""
            let daemon = try await Daemon.start(configuration(tickets), in: folder)
            try await visit(keep: "session")
            try await reload(daemon, configuration(tickets, more: "resumption = false"))
            try await visit(with: "session", keep: "none")
            #expect(try await resumed(daemon, count: 2) == [false, false])
            let kept = try? await keyName(in: "none")
            #expect(kept == nil)
            try await daemon.stop()
        }

        /// Without a file, the daemon draws keys; a connection that is there notices nothing, and old tickets are good.
        @Test func `generated ticket keys rotate`() async throws {
            let daemon = try await Daemon.start(
                "workers = 2\n" + configuration("rotation = 2\nlifetime = 124"), in: folder)
            let lasting = try SecureClient(to: address, trust: identity.certificate, in: folder)
            try await lasting.exchange("before")
            try await visit(keep: "session")
            let name = try await keyName(in: "session")
            var visits = 2
            let deadline = ContinuousClock.now + .seconds(60)
            repeat {
                try await visit(keep: "later").leave()
                visits += 1
            } while try await keyName(in: "later") == name && ContinuousClock.now < deadline
            #expect(try await keyName(in: "later") != name)
            // Both workers have the new key and the old one, and so have those that replace them: while one client
            // stays, the next one is the other worker's.
            let staying = try SecureClient(
                to: address, trust: identity.certificate, in: folder, ["-sess_in", folder.file("session")])
            try await staying.exchange("hello")
            try await visit(with: "session")
            visits += 2
            #expect(try await resumed(daemon, count: visits).suffix(2) == [true, true])
            let ends = daemon.lines(with: "connection opened").suffix(2)
            #expect(Set(ends.compactMap { $0.firstMatch(of: /WORKER=\d+/)?.output }).count == 2, "\(ends)")
            try await lasting.exchange("after")
            let workers = daemon.workers
            for worker in workers { kill(worker, SIGKILL) }
            try await daemon.logged("worker", "started", count: 4)
            try await eventually("the new workers serve") {
                daemon.workers.count == 2 && Set(daemon.workers).isDisjoint(with: workers)
            }
            try await visit(with: "session")
            #expect(try await resumed(daemon, count: visits + 1).last == true)
            try await daemon.stop()
        }

        /// Without tickets: by the session's ID, at whatever worker, after a reload, and once all workers have died.
        @Test func `a client without tickets resumes by its session ID`() async throws {
            let text = "workers = 2\n" + configuration("")
            let daemon = try await Daemon.start(text, in: folder)
            func come(_ arguments: [String]) async throws -> SecureClient {
                let client = try SecureClient(
                    to: address, trust: identity.certificate, in: folder, ["-no_ticket"] + arguments)
                try await client.exchange("hello")
                return client
            }
            let back = ["-sess_in", folder.file("session")]
            try await come(["-sess_out", folder.file("session")]).leave()
            // While one client stays, the next one is the other worker's.
            let staying = try await come(back)
            _ = try await come(back)
            #expect(try await resumed(daemon, count: 3) == [false, true, true])
            let ends = daemon.lines(with: "connection opened").suffix(2)
            #expect(Set(ends.compactMap { $0.firstMatch(of: /WORKER=\d+/)?.output }).count == 2, "\(ends)")

            try await reload(daemon, "workers = 2\n" + configuration("", more: "alpn = \"coap\""))
            _ = try await come(back)
            try await staying.exchange("still here")
            let workers = daemon.workers
            for worker in workers { kill(worker, SIGKILL) }
            try await eventually("the new workers serve") {
                daemon.workers.count == 2 && Set(daemon.workers).isDisjoint(with: workers)
            }
            _ = try await come(back)
            #expect(try await resumed(daemon, count: 5).suffix(2) == [true, true])

            try await reload(daemon, "session_cache = 0\n" + text)
            _ = try await come(back)
            #expect(try await resumed(daemon, count: 6).last == false)
            try await daemon.stop()
        }

        /// The memory of the sessions is the main process's, and goes to its successor.
        @Test func `a session is resumed by its ID after an upgrade`() async throws {
            let daemon = try await Daemon.start(configuration("", more: "session_tickets = false"), in: folder)
            try await visit(keep: "session").leave()
            daemon.program.signal(SIGUSR2)
            #expect(try await daemon.program.ended() == .exited(0))
            let main = try #require(daemon.mainProcess)
            try await visit(with: "session")
            #expect(try await resumed(daemon, count: 2) == [false, true])
            let text = try await Program.run(
                ["openssl", "sess_id", "-in", folder.file("session"), "-noout", "-text"], in: folder)
            #expect(!text.contains("TLS session ticket:"), "no ticket was given")
            kill(main, SIGTERM)
            try await eventually("it ends", details: daemon.program.errors) { !ProcessTable.isRunning(main) }
        }

        /// gnutls-cli does two handshakes with --resume.
        @Test func `GnuTLS resumes by its session ID`() async throws {
            let daemon = try await Daemon.start(configuration(""), in: folder)
            let client = try Program(
                [
                    "gnutls-cli", "--udp", "--port", "\(address.port)", "--x509cafile", identity.certificate,
                    "--verify-hostname", "localhost", "--noticket", "--resume", address.host,
                ], in: folder)
            try await daemon.logged("connection opened", count: 2)
            #expect(try await resumed(daemon, count: 2) == [false, true])
            client.closeInput()
            _ = try await client.ended()
            try await daemon.stop()
        }

        @Test func `a session can be resumed for the configured lifetime`() async throws {
            let daemon = try await Daemon.start(configuration("lifetime = 2"), in: folder)
            var visits = 0
            func isResumed() async throws -> Bool {
                try await visit(with: "session")
                visits += 1
                return try await resumed(daemon, count: visits).last ?? false
            }
            let deadline = ContinuousClock.now + .seconds(60)
            // On a busy machine the next client may come too late for a session.
            repeat {
                try #require(ContinuousClock.now < deadline, "no session is ever resumed: \(daemon.program.errors)")
                try await visit(keep: "session")
                visits += 1
            } while try await !isResumed()
            while try await isResumed() {
                try #require(ContinuousClock.now < deadline, "the session lives on: \(daemon.program.errors)")
            }
            try await daemon.stop()
        }
    }
}
