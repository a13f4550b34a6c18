import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEndCrowds {
    /// kill -9, and what must go on nevertheless.
    @Suite struct ProcessDeathTests {
        let folder: TestFolder
        let identity: Identity
        let address: SocketAddress

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
            address = try SocketAddress.freeOnOwnLoopback()
        }

        private func start(in folder: TestFolder? = nil) async throws -> Daemon {
            let daemon = try await Daemon.start(
                "workers = 2\n" + Service(listen: [address], identity: identity).text, in: folder ?? self.folder)
            #expect(daemon.workers.count == 2)
            return daemon
        }

        /// - Parameter names: the names that the clients ask for, by which the log tells one from another.
        private func connect(_ names: [String]) async throws -> [SecureClient] {
            let clients = try names.map {
                try SecureClient(to: address, trust: identity.certificate, in: folder, ["-servername", $0])
            }
            for client in clients { try await client.exchange("hello") }
            return clients
        }

        private func connect(_ count: Int) async throws -> [SecureClient] {
            try await connect((1...count).map { "client-\($0).example" })
        }

        @Test func `a worker's death loses no connection`() async throws {
            let daemon = try await start()
            let names = (1...8).map { "early-\($0).example" }
            let clients = try await connect(names)
            let victim = daemon.workers[0]
            let number = try #require(ProcessTable.name(of: victim).split(separator: " ").last)
            var (kept, others): ([SecureClient], [SecureClient]) = ([], [])
            for (client, name) in zip(clients, names) {
                let opened = try await daemon.logged("connection opened", "SNI=\(name) ")[0]
                let isVictims = opened.split(separator: " ").contains("WORKER=\(number)")
                if isVictims { kept.append(client) } else { others.append(client) }
            }
            #expect(kept.count == 4, "the worker with the fewest connections gets the next one")
            #expect(others.count == 4)

            kill(victim, SIGKILL)
            let death = try await daemon.logged("worker", "signal 9")[0]
            #expect(death.contains("CONNECTIONS_KEPT=4") && death.contains("CONNECTIONS_LOST=0"), "\(death)")
            for client in kept { try await client.exchange("taken over") }
            for client in others { try await client.exchange("nothing happened") }
            #expect(others.allSatisfy { $0.program.ending == nil })

            try await eventually("there are two workers again", details: daemon.program.errors) {
                daemon.workers.count == 2 && !daemon.workers.contains(victim)
            }
            _ = try await connect(8)
            for client in others { try await client.exchange("still nothing happened") }
            try await daemon.stop()
        }

        @Test func `all workers die and all are replaced`() async throws {
            let daemon = try await start()
            let victims = daemon.workers
            for victim in victims { kill(victim, SIGKILL) }
            try await eventually("there are two new workers", details: daemon.program.errors) {
                daemon.workers.count == 2 && Set(daemon.workers).isDisjoint(with: victims)
            }
            _ = try await connect(4)
            try await daemon.stop()
        }

        /// A worker that cannot be started is tried again, less and less often, and is there when it can be.
        @Test func `a worker that cannot be started is started later`() async throws {
            let configuration = "workers = 1\n" + Service(listen: [address], identity: identity).text
            let daemon = try await Daemon.start(configuration, in: folder)
            let victim = try #require(daemon.workers.first)
            // The soft limit alone: nothing new can be opened.
            let limit = getdtablesize()
            try await Program.run(["prlimit", "--pid", "\(daemon.program.pid)", "--nofile=4:"], in: folder)
            kill(victim, SIGKILL)
            try await daemon.logged("worker 0 cannot be started", count: 4)
            let pauses = daemon.lines(with: "worker 0 cannot be started").prefix(4).map { line in
                line.firstMatch(of: /in (\d+) ms/)?.output.1
            }
            #expect(pauses == ["100", "200", "400", "800"])

            try await Program.run(["prlimit", "--pid", "\(daemon.program.pid)", "--nofile=\(limit):"], in: folder)
            try await daemon.logged("worker 0 started", count: 2)
            daemon.program.signal(SIGHUP)
            try await daemon.logged("reloaded")
            #expect(daemon.workers.count == 1)
            _ = try await connect(2)
            try await daemon.stop()
        }

        @Test func `workers send close_notify when the main process dies`() async throws {
            let daemon = try await start()
            let clients = try await connect(6)
            let workers = daemon.workers
            daemon.program.signal(SIGKILL)
            #expect(try await daemon.program.ended() == .killed(SIGKILL))
            for client in clients {
                #expect(try await client.program.ended() == .exited(0))
                #expect(client.gotCloseNotify)
            }
            try await eventually("all workers end") { !workers.contains { ProcessTable.isRunning($0) } }
        }

        @Test(arguments: [SIGTERM, SIGINT])
        func `stopping sends close_notify to all clients`(_ number: Int32) async throws {
            let daemon = try await start()
            let clients = try await connect(6)
            let workers = daemon.workers
            daemon.program.signal(number)
            #expect(try await daemon.program.ended() == .exited(0))
            for client in clients {
                #expect(try await client.program.ended() == .exited(0))
                #expect(client.gotCloseNotify)
            }
            #expect(!workers.contains { ProcessTable.isRunning($0) })
        }

        /// It has the fewest connections, and would get every new client until it is killed after 30 seconds.
        @Test func `a worker that hangs gets at most the clients of a moment, and the other one all that follow`()
            async throws
        {
            let daemon = try await start()
            let residents = try await connect(6)
            let before = daemon.workers
            kill(before[0], SIGKILL)
            let hung = try await eventualValue("there is a new worker", details: daemon.program.errors) {
                daemon.workers.first { !before.contains($0) }
            }
            // Then it is ready.
            daemon.program.signal(SIGHUP)
            try await daemon.logged("reloaded")
            kill(hung, SIGSTOP)
            var waiting: [(client: SecureClient, line: String)] = []
            for number in 1...6 {
                let line = "newcomer \(number)"
                let client = try SecureClient(to: address, trust: identity.certificate, in: folder)
                client.say(line)
                do {
                    try await eventually("\(line) is served", within: 8) { client.hasHeard(line) }
                } catch is NeverHappened {
                    waiting.append((client, line))
                }
            }
            #expect(waiting.count <= 2, "\(daemon.program.errors)")
            kill(hung, SIGCONT)
            for (client, line) in waiting { try await client.hears(line) }
            withExtendedLifetime(residents) {}
            try await daemon.stop()
        }

        /// A worker reports and ends within a millisecond. What it has said last must not get lost by that, which it
        /// did in some of a hundred stops.
        @Test func `what the daemon has counted is complete when it has stopped`() async throws {
            for _ in 0..<5 {
                let daemon = try await start(in: try TestFolder())
                let clients = try await connect(4)
                try await Array(clients.prefix(2)).leave()
                daemon.program.signal(SIGTERM)
                #expect(try await daemon.program.ended() == .exited(0))
                #expect(
                    daemon.logs(
                        "stopped: 0 connections, 0 of them in handshake; 4 handshakes, 0 of them resumed, 0 failed; "),
                    "\(daemon.program.errors)")
            }
        }

        /// A worker that cannot say goodbye does not keep the daemon from ending.
        @Test func `stopping ends in time when a worker hangs`() async throws {
            let daemon = try await Daemon.start(
                "workers = 1\nstop_timeout = 1\n" + Service(listen: [address], identity: identity).text, in: folder)
            _ = try await connect(1)
            let workers = daemon.workers
            for worker in workers { kill(worker, SIGSTOP) }
            daemon.program.signal(SIGTERM)
            _ = try await daemon.program.ended()
            #expect(!workers.contains { ProcessTable.isRunning($0) })
        }
    }
}
