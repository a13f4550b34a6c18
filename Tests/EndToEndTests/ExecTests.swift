import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEndClientMode {
    /// A program per connection.
    @Suite struct ExecTests {
        let folder: TestFolder
        let identity: Identity
        let address: SocketAddress

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
            address = try SocketAddress.freeOnOwnLoopback()
        }

        private func start(
            _ command: [String], more: String = "", keys: String = "", stopTimeout: Int = 5
        ) async throws -> Daemon {
            let words = command.map { "\"\($0)\"" }.joined(separator: ", ")
            let service = Service(
                name: "run", listen: [address], identity: identity, handler: "exec",
                more: "\(keys)\n[service.run.exec]\ncommand = [\(words)]\n\(more)")
            return try await Daemon.start(
                "workers = 1\nstop_timeout = \(stopTimeout)\n" + service.text, in: folder)
        }

        private func shell(_ script: String, more: String = "", stopTimeout: Int = 5) async throws -> Daemon {
            try await start(["/bin/sh", "-c", script], more: more, stopTimeout: stopTimeout)
        }

        private func client(_ arguments: [String] = []) throws -> SecureClient {
            try SecureClient(to: address, trust: identity.certificate, in: folder, arguments)
        }

        /// The programs of a daemon with one worker, those that nobody has waited for included.
        private func programs(of daemon: Daemon) -> [pid_t] {
            daemon.workers.flatMap { ProcessTable.children(of: $0) }
        }

        /// cat writes what a read has given it: a datagram comes back as it went.
        @Test func `each read and each write is a datagram`() async throws {
            let daemon = try await start(["/bin/cat"])
            let relay = try Relay(to: address) { _, _ in true }
            let client = try SecureClient(to: relay.address, trust: identity.certificate, in: folder)
            let lines = ["one", String(repeating: "2", count: 900), "three", String(repeating: "4", count: 7_000)]
            for line in lines { try await client.exchange(line) }
            #expect(client.output == lines.map { $0 + "\n" }.joined())
            // Application data is longer by 37 bytes: header 13, nonce 8, authentication tag 16.
            let records = relay.passed.filter { $0.direction == .toClient && $0.bytes.first == 23 }
            #expect(records.map { $0.bytes.count - 37 } == lines.map { $0.utf8.count + 1 })
            try await client.leave()
            try await daemon.stop()
        }

        @Test func `a program's environment describes the client, and nothing of the daemon`() async throws {
            let maker = CertificateMaker(folder: folder)
            let authority = try await maker.selfSigned("authority")
            let person = try await maker.issued("person", by: authority)
            let daemon = try await start(["/usr/bin/env"], keys: "ca = \"\(authority.certificate)\"")
            let client = try client([
                "-cert", person.certificate, "-key", person.privateKey, "-servername", "name.example",
            ])
            // env ends by itself, and so does the connection.
            #expect(try await client.program.ended() == .exited(0))
            #expect(client.gotCloseNotify)
            let lines = Set(client.output.split(separator: "\n").map(String.init))
            for line in [
                "SSL_CLIENT_S_DN_CN=person", "SSL_CLIENT_S_DN=CN=person", "SSL_CLIENT_VERIFY=SUCCESS",
                "SSL_TLS_SNI=name.example", "SSL_PROTOCOL=DTLSv1.2", "SSL_SESSION_RESUMED=Initial",
                "SERVER_ADDR=\(address.host)", "SERVER_PORT=\(address.port)", "DTLSD_SERVICE=run", "LANG=C.UTF-8",
            ] {
                #expect(lines.contains(line), "\(line) is not in \(lines)")
            }
            let names = Set(lines.map { String($0.prefix { $0 != "=" }) })
            #expect(
                names == [
                    "SSL_CLIENT_S_DN_CN", "SSL_CLIENT_S_DN", "SSL_CLIENT_VERIFY", "SSL_CLIENT_FINGERPRINT",
                    "SSL_TLS_SNI", "SSL_PROTOCOL", "SSL_CIPHER", "SSL_SESSION_RESUMED", "SERVER_ADDR", "SERVER_PORT",
                    "REMOTE_ADDR", "REMOTE_PORT", "DTLSD_SERVICE", "LANG", "PATH",
                ])
            let openssl = try await Program.run(
                ["openssl", "x509", "-in", person.certificate, "-noout", "-fingerprint", "-sha256"], in: folder)
            let fingerprint = openssl.split(separator: "=").last?.replacing(":", with: "").lowercased() ?? ""
            #expect(lines.contains("SSL_CLIENT_FINGERPRINT=\(fingerprint.trimmingCharacters(in: .newlines))"))
            let port = try #require(lines.first { $0.hasPrefix("REMOTE_PORT=") }?.dropFirst(12))
            #expect(daemon.logs("connection opened", ":\(port)"))
            try await daemon.stop()
        }

        /// Neither descriptors nor signals of the worker's, and a group of its own.
        @Test func `a program starts with default signals and without inherited descriptors`() async throws {
            let daemon = try await shell("cat /proc/self/status; ls /proc/self/fd; cat /proc/self/stat; pwd")
            let client = try client()
            _ = try await client.program.ended()
            let lines = client.output.split(separator: "\n").map(String.init)
            for name in ["SigBlk", "SigIgn"] {
                #expect(lines.contains("\(name):\t0000000000000000"), "\(lines)")
            }
            // 3 is the folder that ls reads.
            let numbers = lines.filter { Int($0) != nil }
            #expect(numbers == ["0", "1", "2", "3"])
            // pid (name) state ppid pgrp session
            let statistics = try #require(lines.first { $0.contains("(cat)") }?.split(separator: " "))
            #expect(statistics[3] == statistics[4] && statistics[4] == statistics[5])
            #expect(lines.last == "/")
            try await daemon.stop()
        }

        @Test func `a program ends when its client disconnects`() async throws {
            let daemon = try await start(["/bin/cat"])
            let client = try client()
            try await client.exchange("hello")
            #expect(programs(of: daemon).count == 1)
            try await client.leave()
            try await eventually("the program is gone") { programs(of: daemon).isEmpty }
            #expect(!daemon.logs("the program of"))
            try await daemon.stop()
        }

        /// What was said before the goodbye is read before the end of the input. SIGTERM, two seconds later, is
        /// ignored: a slow machine may need longer.
        @Test func `what a client sends right before it disconnects reaches the program`() async throws {
            let daemon = try await shell(
                "trap '' TERM; echo ready; cat > \(folder.file("read")); echo end >> \(folder.file("read"))")
            let client = try client()
            try await client.hears("ready")
            for number in 0..<20 { client.say("line \(number)") }
            try await client.leave()
            try await eventually("the program has read all") { folder.read("read").hasSuffix("line 19\nend\n") }
            #expect(folder.read("read").hasPrefix("line 0\n"))
            try await eventually("the program is gone") { programs(of: daemon).isEmpty }
            #expect(!daemon.logs("the program of"))
            try await daemon.stop()
        }

        /// Neither the end of its input nor SIGTERM impresses it, nor what it has started.
        @Test func `a program that does not end is killed with all that it started`() async throws {
            let daemon = try await shell("trap '' TERM; sleep 1000 & echo $!; while :; do sleep 1000; done")
            let client = try client()
            try await eventually("it has started", details: client.transcript) { client.output.hasSuffix("\n") }
            let started = try #require(pid_t(client.output.trimmingCharacters(in: .newlines)))
            #expect(ProcessTable.isRunning(started))
            try await client.leave()
            try await daemon.logged("did not end by itself")
            try await eventually("all are gone") {
                programs(of: daemon).isEmpty && !ProcessTable.isRunning(started)
            }
            try await daemon.stop()
        }

        @Test func `a program that fails is reported`() async throws {
            let daemon = try await shell("echo goodbye; exit 3")
            let client = try client()
            _ = try await client.program.ended()
            #expect(client.output == "goodbye\n")
            #expect(client.gotCloseNotify)
            try await daemon.logged(" notice ", "exited with status 3", "PEER=", "PROGRAM_PID=")
            try await daemon.stop()
        }

        @Test func `fifty programs leave nothing behind`() async throws {
            let daemon = try await start(["/bin/cat"])
            let clients = try (0..<50).map { _ in try client() }
            for (number, client) in clients.enumerated() { try await client.exchange("I am \(number)") }
            #expect(programs(of: daemon).count == 50)
            let worker = try #require(daemon.workers.first)
            // Half of the programs end first, and half of the clients.
            for program in programs(of: daemon).prefix(25) { kill(program, SIGKILL) }
            for client in clients { client.program.closeInput() }
            for client in clients { _ = try await client.program.ended() }
            try await eventually("all are gone, and waited for", details: "\(programs(of: daemon))") {
                programs(of: daemon).isEmpty
            }
            #expect(daemon.workers == [worker])
            let last = try client()
            try await last.exchange("hello")
            try await daemon.stop()
        }

        @Test func `programs end with their worker`() async throws {
            let daemon = try await shell("trap '' TERM; echo ready; exec sleep 1000")
            let client = try client()
            try await client.hears("ready")
            let program = try #require(programs(of: daemon).first)
            let worker = try #require(daemon.workers.first)
            kill(worker, SIGKILL)
            try await eventually("the program is gone") { !ProcessTable.isRunning(program) }
            try await daemon.stop()
        }

        /// It is given its time, within stop_timeout.
        @Test func `stopping the daemon ends the programs`() async throws {
            let mark = folder.file("ended")
            let daemon = try await shell(
                "trap 'echo ended > \(mark); exit' TERM; echo ready; while :; do sleep 0.1; done", stopTimeout: 20)
            let client = try client()
            try await client.hears("ready")
            let program = try #require(programs(of: daemon).first)
            try await daemon.stop()
            #expect(!ProcessTable.isRunning(program))
            #expect(folder.read("ended") == "ended\n")
        }

        /// By default, too, nothing is left of a program that does not care, nor of what it has started.
        @Test func `stopping the daemon kills what programs have started`() async throws {
            let daemon = try await shell("trap '' TERM; sleep 1000 & echo $!; while :; do sleep 1000; done")
            let client = try client()
            try await eventually("it has started", details: client.transcript) { client.output.hasSuffix("\n") }
            let started = try #require(pid_t(client.output.trimmingCharacters(in: .newlines)))
            let program = try #require(programs(of: daemon).first)
            #expect(ProcessTable.isRunning(started))
            try await daemon.stop()
            try await eventually("all are gone") {
                !ProcessTable.isRunning(program) && !ProcessTable.isRunning(started)
            }
        }

        @Test func `limits of memory, processor time and open files hold for a program`() async throws {
            let daemon = try await shell(
                "ulimit -v; ulimit -n; ulimit -t; while :; do :; done",
                more: "memory = 64\nopen_files = 17\ncpu_time = 1")
            let client = try client()
            #expect(try await client.program.ended() == .exited(0))
            #expect(client.output == "65536\n17\n1\n")
            #expect(client.gotCloseNotify)
            try await daemon.logged("was killed by signal \(SIGXCPU)")
            try await daemon.stop()
        }

        @Test func `a service has only so many programs`() async throws {
            let daemon = try await shell("echo ready; exec cat", more: "programs_per_worker = 1")
            let first = try client()
            try await first.hears("ready")
            let second = try client()
            _ = try await second.program.ended()
            #expect(second.gotCloseNotify)
            #expect(second.output.isEmpty)
            try await daemon.logged(" warning ", "programs_per_worker")
            try await first.exchange("still here")
            try await first.leave()
            try await eventually("the program is gone") { programs(of: daemon).isEmpty }
            let third = try client()
            try await third.hears("ready")
            try await daemon.stop()
        }

        @Test func `a program that cannot be found is reported`() async throws {
            let script = try folder.write("#!/bin/sh\necho ready\nexec cat\n", to: "script")
            chmod(script, 0o700)
            let daemon = try await start([script])
            let first = try client()
            try await first.hears("ready")
            unlink(script)
            let second = try client()
            _ = try await second.program.ended()
            #expect(second.gotCloseNotify)
            try await daemon.logged(" warning ", "cannot be started", script, "No such file")
            try await first.exchange("still here")
            #expect(programs(of: daemon).count == 1)
            try await daemon.stop()
        }

        @Test func `a write that is too long for a message is reported`() async throws {
            let daemon = try await shell("dd if=/dev/zero bs=20000 count=1 status=none; echo short enough; exec cat")
            let client = try client()
            try await client.hears("short enough")
            #expect(client.output == "short enough\n")
            try await daemon.logged(" warning ", "20000 bytes")
            try await daemon.stop()
        }

        /// What it does not read waits for it as far as there is room, and the rest is lost; the worker goes on.
        @Test func `a program that does not read does not hold up other clients`() async throws {
            let daemon = try await shell("echo $$; kill -STOP $$; exec cat > \(folder.file("read"))")
            let relay = try Relay(to: address) { _, _ in true }
            let client = try SecureClient(to: relay.address, trust: identity.certificate, in: folder)
            try await eventually("it has started", details: client.transcript) { client.output.hasSuffix("\n") }
            let pid = try #require(pid_t(client.output.trimmingCharacters(in: .newlines)))
            let filler = String(repeating: "x", count: 4_990)
            // The socket's buffer has 208 KiB by default, and the worker keeps 256 KiB.
            for number in 0..<200 {
                client.say("\(1_000 + number)\(filler)")
                try await eventually("message \(number) is on its way", details: client.transcript) {
                    relay.messagesToServer > number
                }
            }
            try await daemon.logged(" warning ", "does not read its input")
            kill(pid, SIGCONT)
            try await eventually("it has read what was kept", details: client.transcript) {
                client.say("the end")
                return folder.read("read").contains("the end\n")
            }
            let numbers = folder.read("read").split(separator: "\n").compactMap { Int($0.prefix(4)) }
            #expect(numbers.count > 30 && numbers.count < 200)
            #expect(numbers == Array(1_000..<(1_000 + numbers.count)))
            try await daemon.stop()
        }
    }
}
