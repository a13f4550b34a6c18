import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEnd {
    /// What clients send, in logs.
    @Suite struct LogHandlerTests {
        let folder: TestFolder
        let identity: Identity
        let address: SocketAddress

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
            address = try SocketAddress.freeOnOwnLoopback()
        }

        private func configuration(_ target: String, format: String = "plain", keys: String = "") -> String {
            let service = Service(
                name: "collect", listen: [address], identity: identity, handler: "log",
                more: "\(keys)\n[service.collect.log]\nto = \"\(target)\"\nformat = \"\(format)\"")
            return "workers = 2\n" + service.text
        }

        private func client(_ arguments: [String] = []) throws -> SecureClient {
            try SecureClient(to: address, trust: identity.certificate, in: folder, arguments)
        }

        private func lines(of name: String) -> [Substring] { folder.read(name).split(separator: "\n") }

        /// Lets a client say something until it is in the log: what it says goes the one way only.
        private func say(_ text: String, _ client: SecureClient, until condition: () -> Bool) async throws {
            client.say(text)
            try await eventually("'\(text)' is logged", details: client.transcript, condition)
        }

        /// The next datagram that a socket gets.
        private func next(_ socket: DatagramSocket, _ client: SecureClient) async throws -> String {
            var received: [UInt8]?
            try await eventually("something is passed on", details: client.transcript) {
                received = socket.receive()?.bytes
                return received != nil
            }
            return String(decoding: try #require(received), as: UTF8.self)
        }

        @Test func `each datagram is a line of a file`() async throws {
            let maker = CertificateMaker(folder: folder)
            let authority = try await maker.selfSigned("authority")
            let person = try await maker.issued("a person", by: authority)
            let daemon = try await Daemon.start(
                configuration("file:\(folder.file("messages"))", keys: "ca = \"\(authority.certificate)\""), in: folder)
            var clients: [SecureClient] = []
            for number in 0..<4 {
                let client = try client(["-cert", person.certificate, "-key", person.privateKey])
                try await say("hello from \(number)\tand \\ more", client) { lines(of: "messages").count == number + 1 }
                clients.append(client)
            }
            for (number, line) in lines(of: "messages").enumerated() {
                let pattern = try Regex(
                    #"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d 127\.\d+\.\d+\.\d+:(\d+) "a person" (.*)$"#)
                let match = try #require(try pattern.wholeMatch(in: line), "\(line)")
                #expect(match.output[2].substring == #"hello from \#(number)\tand \\ more"#)
                let port = try #require(match.output[1].substring)
                #expect(daemon.logs("connection opened", ":\(port) "))
            }
            #expect(clients.allSatisfy { $0.output.isEmpty })
            try await daemon.stop()
        }

        /// logrotate renames the file and reloads: connections that are there follow, too.
        @Test func `a reload opens the file again`() async throws {
            let text = configuration("file:\(folder.file("messages"))")
            let daemon = try await Daemon.start(text, in: folder)
            let client = try client()
            try await say("before", client) { folder.read("messages").hasSuffix(" - before\n") }
            rename(folder.file("messages"), folder.file("messages.1"))
            try daemon.reload(text)
            try await daemon.logged("reloaded")
            try await say("after", client) { folder.read("messages").hasSuffix(" - after\n") }
            let other = try self.client()
            try await say("another", other) { folder.read("messages").hasSuffix(" - another\n") }
            #expect(lines(of: "messages").count == 2)
            #expect(lines(of: "messages.1").count == 1)
            var status = stat()
            #expect(stat(folder.file("messages"), &status) == 0 && status.st_mode & 0o137 == 0)
            try await daemon.stop()
        }

        /// A file that cannot be written costs messages, not connections, and the log few lines.
        @Test func `a file that cannot be opened is reported`() async throws {
            let place = folder.file("place")
            mkdir(place, 0o700)
            let daemon = try await Daemon.start(configuration("file:\(place)/messages"), in: folder)
            rmdir(place)
            let client = try client()
            client.say("lost")
            try await daemon.logged(" warning ", "not logged", "No such file", "SERVICE=collect")
            // A worker may write in the folder that it has found, and the next one in this.
            mkdir(place, 0o700)
            for worker in daemon.workers { kill(worker, SIGKILL) }
            try await eventually("it is written again", details: client.transcript) {
                client.say("found")
                return folder.read("place/messages").contains(" - found")
            }
            #expect(!folder.read("place/messages").contains("lost"))
            try await daemon.stop()
        }

        @Test func `syslog is passed on without its frames`() async throws {
            let path = folder.file("log")
            let socket = try DatagramSocket(atPath: path)
            let daemon = try await Daemon.start(configuration("syslog:\(path)", format: "syslog"), in: folder)
            let client = try client()
            let modern = "<14>1 2026-01-02T03:04:05Z host.example app 77 - - message"
            let old = "<13>Feb  5 17:32:18 host logger[123]: hello"
            for (said, expected) in [
                ("\(modern.utf8.count) \(modern)", [modern]),
                ("\(modern.utf8.count) \(modern)\(old.utf8.count) \(old)", [modern, old]),
                (modern, [modern]), (old, [old]), ("no syslog at all", ["<13>no syslog at all"]),
            ] {
                client.say(said)
                for message in expected {
                    #expect(try await next(socket, client) == message)
                }
            }
            #expect(client.output.isEmpty)
            try await daemon.stop()
        }

        /// With nobody there, and with nobody who reads: what there is room for waits, and keeps its order.
        @Test func `messages that the receiver does not take are lost and counted in the log`() async throws {
            let path = folder.file("log")
            let daemon = try await Daemon.start(configuration("syslog:\(path)"), in: folder)
            let relay = try Relay(to: address) { _, _ in true }
            let client = try SecureClient(to: relay.address, trust: identity.certificate, in: folder)
            client.say("lost")
            try await daemon.logged(" warning ", "not logged", path, "No such file")
            let socket = try DatagramSocket(atPath: path)
            client.say("found")
            #expect(try await next(socket, client) == "<30>collect: found")

            // 1 MiB waits in the daemon, above what the socket's queue takes; s_client reads 8 KiB at a time.
            let filler = String(repeating: "x", count: 8_000)
            var said = 0
            while said < 500, !daemon.logs("not logged", "wait already") {
                client.say("\(said) \(filler)")
                said += 1
                try await eventually("message \(said) is on its way", details: client.transcript) {
                    relay.messagesToServer > said + 1
                }
            }
            #expect(daemon.logs("not logged", "wait already"))
            // Whole and in their order. One may be missing: a worker that does not run for a while loses datagrams.
            var last = -1
            for _ in 0..<130 {
                let words = try await next(socket, client).split(separator: " ")
                let number = try #require(words.count == 3 ? Int(words[1]) : nil, "\(words)")
                #expect(words[0] == "<30>collect:" && words[2] == filler && number > last)
                last = number
            }
            #expect(!daemon.logs("connection closed"))
            try await daemon.stop()
        }

        /// A worker that is ending passes on what waits, if somebody reads it.
        @Test func `waiting messages are passed on before the daemon ends`() async throws {
            let path = folder.file("log")
            let daemon = try await Daemon.start("stop_timeout = 60\n" + configuration("syslog:\(path)"), in: folder)
            let socket = try DatagramSocket(atPath: path)
            let relay = try Relay(to: address) { _, _ in true }
            let client = try SecureClient(to: relay.address, trust: identity.certificate, in: folder)
            for number in 0..<40 {
                client.say("\(number)")
                try await eventually("message \(number) is on its way", details: client.transcript) {
                    relay.messagesToServer > number
                }
            }
            try await client.leave()
            try await daemon.logged("connection closed: closed by the peer")
            daemon.program.signal(SIGTERM)
            try await daemon.logged("stopping")
            for number in 0..<40 { #expect(try await next(socket, client) == "<30>collect: \(number)") }
            #expect(try await daemon.program.ended() == .exited(0))
            #expect(!daemon.logs("not logged"))
        }

        /// A worker that has no descriptor left for the socket tries again.
        @Test func `a socket that cannot be opened is opened later`() async throws {
            let path = folder.file("log")
            let daemon = try await Daemon.start(configuration("syslog:\(path)"), in: folder)
            let socket = try DatagramSocket(atPath: path)
            let client = try client()
            try await daemon.logged("connection opened")
            func limitDescriptors(to limit: Int32) async throws {
                for worker in daemon.workers {
                    try await Program.run(["prlimit", "--pid", "\(worker)", "--nofile=\(limit):"], in: folder)
                }
            }
            try await limitDescriptors(to: 4)
            client.say("lost")
            try await daemon.logged(" warning ", "not logged", path, "Too many open files")
            try await limitDescriptors(to: getdtablesize())
            client.say("found")
            #expect(try await next(socket, client) == "<30>collect: found")
            try await daemon.stop()
        }

        @Test func `each datagram is an entry of the journal`() async throws {
            let maker = CertificateMaker(folder: folder)
            let authority = try await maker.selfSigned("authority")
            let person = try await maker.issued("person", by: authority)
            let path = folder.file("journal")
            let journal = try DatagramSocket(atPath: path)
            let daemon = try await Daemon.start(
                configuration("journal:\(path)", format: "syslog", keys: "ca = \"\(authority.certificate)\""),
                in: folder)
            let client = try client(["-cert", person.certificate, "-key", person.privateKey])
            func entry(_ said: String) async throws -> Set<String> {
                client.say(said)
                return Set(try await next(journal, client).split(separator: "\n").map(String.init))
            }
            let first = try await entry("<165>1 2026-01-02T03:04:05Z host app 77 ID1 [a b=\"c\"] hello")
            let peer = try #require(first.first { $0.hasPrefix("PEER=") })
            #expect(daemon.logs("connection opened", peer))
            let always: Set = [
                "MESSAGE_ID=69d7b53a4a534ffba63f2a0fd8ee7c6f", "SERVICE=collect", "CLIENT=person", peer,
            ]
            #expect(
                first
                    == always.union([
                        "PRIORITY=5", "SYSLOG_FACILITY=20", "SYSLOG_IDENTIFIER=app", "SYSLOG_PID=77",
                        "SYSLOG_TIMESTAMP=2026-01-02T03:04:05Z", "SYSLOG_HOSTNAME=host", "SYSLOG_MSGID=ID1",
                        "SYSLOG_STRUCTURED_DATA=[a b=\"c\"]", "MESSAGE=hello",
                    ]))
            #expect(
                try await entry("just a text")
                    == always.union([
                        "PRIORITY=5", "SYSLOG_FACILITY=1", "SYSLOG_IDENTIFIER=collect", "MESSAGE=just a text",
                    ]))
            #expect(client.output.isEmpty)
            try await daemon.stop()
        }
    }
}
