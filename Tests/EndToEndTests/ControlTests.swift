import Foundation
import LinuxSystem
import TestSupport
import Testing

/// A daemon with a control socket, and what its clients say to it and hear of it.
struct ControlledDaemon {
    let daemon: Daemon
    let folder: TestFolder
    let identity: Identity
    let address: SocketAddress
    let configuration: String
    var path: String { folder.file("control.sock") }

    typealias Object = [String: Any]

    init(_ more: String = "", control: String = "", environment: [String: String] = [:]) async throws {
        folder = try TestFolder()
        identity = try await CertificateMaker(folder: folder).selfSigned("server")
        address = try SocketAddress.freeOnOwnLoopback()
        configuration = """
            workers = 2
            [control]
            path = "\(folder.file("control.sock"))"
            \(control)
            \(Service(listen: [address], identity: identity, more: more).text)
            """
        daemon = try await Daemon.start(configuration, in: folder, environment: environment)
    }

    func connect() throws -> SecureClient { try SecureClient(to: address, trust: identity.certificate, in: folder) }

    /// Asks over a connection of its own.
    func ask(_ arguments: String) async throws -> Object {
        try await ask(line: "{\"version\":1,\(arguments)}", over: StreamClient(to: path))
    }

    func ask(line: String, over client: StreamClient) async throws -> Object {
        client.send(line + "\n")
        let answer = try await client.line()
        return try #require(try JSONSerialization.jsonObject(with: Data(answer.utf8)) as? Object, "\(answer)")
    }

    func result(_ arguments: String) async throws -> Object {
        let answer = try await ask(arguments)
        return try #require(answer["result"] as? Object, "\(answer)")
    }

    func error(_ arguments: String) async throws -> Object {
        let answer = try await ask(arguments)
        #expect(answer["ok"] as? Bool == false)
        return try #require(answer["error"] as? Object, "\(answer)")
    }

    /// What the status says of the server of the only client table.
    func serverState() async throws -> String {
        let clients = try #require(try await result("\"command\":\"status\"")["clients"] as? [Object])
        let backends = try #require(clients.first?["backends"] as? [Object])
        return try #require(backends.first?["state"] as? String)
    }

    /// Does `work` and asks, until the status says that.
    func serverState(becomes wanted: String, work: () -> Void) async throws {
        for _ in 0..<1_200 {
            work()
            if try await serverState() == wanted { return }
            try await Task.sleep(for: .milliseconds(50))
        }
        throw NeverHappened(description: "the server is \(wanted)")
    }

    /// Waits until the main process knows of so many connections: a worker reports within 10 ms which ones have ended.
    func has(connections count: Int) async throws {
        for _ in 0..<1_200 {
            if try await connections().count == count { return }
            try await Task.sleep(for: .milliseconds(50))
        }
        Issue.record("there are not \(count) connections after a minute")
    }

    func connections(_ more: String = "") async throws -> [Object] {
        try #require(try await result("\"command\":\"connections\"\(more)")["connections"] as? [Object])
    }
}

extension EndToEnd {
    /// The control socket of the real daemon, with a client that knows JSON and nothing of the daemon.
    @Suite struct ControlTests {
        @Test func `the server of a client is up or down, as its newest handshake has ended`() async throws {
            let (front, back) = (try SocketAddress.freeOnOwnLoopback(), try SocketAddress.freeOnOwnLoopback())
            let client = Client(listen: front, connect: back, more: "verify = false\nhandshake_timeout = 2")
            let controlled = try await ControlledDaemon(client.text)
            #expect(try await controlled.serverState() == "unknown")
            let sender = try DatagramSocket.onOwnLoopback()
            // Nobody is there yet.
            try await controlled.serverState(becomes: "down") { sender.send([1], to: front) }
            let server = try await Daemon.start(
                Service(listen: [back], identity: controlled.identity).text, in: TestFolder())
            try await controlled.serverState(becomes: "up") { sender.send([1], to: front) }
            try await server.stop()
            try await controlled.daemon.stop()
        }

        @Test func `the status says what there is, and each connection is listed, shown and closed`() async throws {
            let controlled = try await ControlledDaemon()
            let client = try controlled.connect()
            try await client.exchange("hello")
            let other = try controlled.connect()
            try await other.exchange("hi")

            let status = try await controlled.result("\"command\":\"status\"")
            #expect(status["pid"] as? Int == Int(controlled.daemon.program.pid))
            #expect(status["phase"] as? String == "serving" && status["ready"] as? Bool == true)
            #expect((status["openssl"] as? String)?.hasPrefix("OpenSSL") == true)
            #expect((status["workers"] as? [Any])?.count == 2)
            #expect((status["connections"] as? [String: Any])?["open"] as? Int == 2)
            let certificate = try #require((status["certificates"] as? [[String: Any]])?.first)
            #expect(certificate["service"] as? String == "echo" && (certificate["days_left"] as? Int ?? -1) >= 0)

            let listed = try await controlled.connections(",\"sort\":\"age\"")
            #expect(listed.count == 2)
            let first = try #require(listed.first)
            #expect(first["service"] as? String == "echo" && first["state"] as? String == "established")
            #expect(first["received_bytes"] as? Int == 6 && first["sent_messages"] as? Int == 1)
            let number = try #require(first["connection"] as? String)
            let shown = try await controlled.result("\"command\":\"connection\",\"connection\":\"\(number)\"")
            #expect(shown["peer"] as? String == first["peer"] as? String)
            #expect((shown["cipher"] as? String)?.contains("GCM") == true && shown["movable"] as? Bool == true)
            #expect(shown["sent_records"] as? Int ?? 0 > 0)

            let closed = try await controlled.result("\"command\":\"close\",\"connection\":\"\(number)\"")
            #expect(closed["count"] as? Int == 1)
            _ = try await client.program.ended()
            try await controlled.daemon.logged("connection closed", "closed here")
            try await controlled.has(connections: 1)
            let error = try await controlled.error("\"command\":\"connection\",\"connection\":\"\(number)\"")
            #expect(error["code"] as? String == "unknown_connection")
            let rest = try await controlled.result(
                "\"command\":\"close\",\"prefix\":\"127.0.0.0/8\",\"service\":\"echo\"")
            #expect(rest["count"] as? Int == 1)
            _ = try await other.program.ended()
            try await eventually("no connection is left") {
                controlled.daemon.lines(with: "connection closed").count == 2
            }
            try await controlled.daemon.stop()
            #expect(access(controlled.path, F_OK) != 0)
        }

        @Test func `a parked connection is closed with close_notify, from the listener's socket`() async throws {
            let controlled = try await ControlledDaemon("park_after = \"1s\"")
            let client = try controlled.connect()
            try await client.exchange("hello")
            var parked: [ControlledDaemon.Object] = []
            for _ in 0..<600 where parked.isEmpty {
                parked = try await controlled.connections(",\"state\":\"parked\"")
                if parked.isEmpty { try await Task.sleep(for: .milliseconds(50)) }
            }
            #expect(parked.count == 1)
            let closed = try await controlled.result("\"command\":\"close\",\"all\":true")
            #expect(closed["count"] as? Int == 1)
            // s_client ends by close_notify alone.
            _ = try await client.program.ended()
            try await controlled.daemon.logged("connection closed", "closed here")
            try await controlled.has(connections: 0)
        }

        @Test func `a reload answers when it is done, with all that is wrong`() async throws {
            let controlled = try await ControlledDaemon()
            let done = try await controlled.result("\"command\":\"reload\"")
            #expect(done["file"] as? String == controlled.daemon.configurationFile)
            #expect(controlled.daemon.logs("configuration and certificates reloaded"))
            try controlled.folder.write(
                controlled.configuration + "mtu = 1\nidle_timeout = -1\n", to: "dtlsd.toml")
            let error = try await controlled.error("\"command\":\"reload\"")
            #expect(error["code"] as? String == "failed")
            let problems = try #require(error["problems"] as? [String])
            #expect(problems.count == 2 && problems.allSatisfy { $0.contains("dtlsd.toml:") }, "\(problems)")
            let status = try await controlled.result("\"command\":\"status\"")
            let configuration = try #require(status["configuration"] as? [String: Any])
            #expect(configuration["problems"] as? [String] == problems && configuration["failed_at"] is String)
            // Several at a time have one end.
            try controlled.folder.write(controlled.configuration, to: "dtlsd.toml")
            let clients = try (0..<3).map { _ in try StreamClient(to: controlled.path) }
            for client in clients { client.send("{\"version\":1,\"command\":\"reload\"}\n") }
            for client in clients { #expect(try await client.line().contains("\"ok\":true")) }
        }

        @Test func `workers are replaced one after the other, and connections go on`() async throws {
            let controlled = try await ControlledDaemon()
            let client = try controlled.connect()
            try await client.exchange("hello")
            let before = Set(controlled.daemon.workers)
            let drained = try await controlled.result("\"command\":\"drain\"")
            #expect(drained["workers"] as? [Int] == [0, 1])
            try await eventually("both workers are other processes", details: controlled.daemon.program.errors) {
                let now = controlled.daemon.workers
                return now.count == 2 && before.isDisjoint(with: now)
            }
            try await client.exchange("still here")
            let error = try await controlled.error("\"command\":\"drain\",\"worker\":7")
            #expect(error["code"] as? String == "unknown_service")
        }

        @Test func `an upgrade answers with the new process, over the same socket`() async throws {
            let controlled = try await ControlledDaemon()
            let client = try controlled.connect()
            try await client.exchange("hello")
            let other = try StreamClient(to: controlled.path)
            let upgraded = try await controlled.result("\"command\":\"upgrade\"")
            let pid = try #require(upgraded["pid"] as? Int)
            defer { kill(pid_t(pid), SIGTERM) }
            try await other.closed()
            let status = try await controlled.result("\"command\":\"status\"")
            #expect(status["pid"] as? Int == pid && status["ready"] as? Bool == true)
            try await client.exchange("still here")
            // One that fails says why, and the daemon goes on.
            try controlled.folder.write("workers = \"none\"\n", to: "dtlsd.toml")
            let error = try await controlled.error("\"command\":\"upgrade\"")
            #expect(error["code"] as? String == "failed")
            #expect((error["problems"] as? [String])?.first?.contains("workers") == true, "\(error)")
            #expect(try await controlled.result("\"command\":\"status\"")["pid"] as? Int == pid)
        }

        @Test func `the level of the log changes for a time`() async throws {
            let controlled = try await ControlledDaemon()
            try controlled.folder.write("log_level = \"warning\"\n" + controlled.configuration, to: "dtlsd.toml")
            _ = try await controlled.result("\"command\":\"reload\"")
            try await controlled.connect().exchange("unseen")
            #expect(!controlled.daemon.logs("connection opened"))
            let set = try await controlled.result("\"command\":\"log_level\",\"level\":\"info\",\"seconds\":2")
            #expect(set["level"] as? String == "info" && set["until_at"] is String)
            // A reload within the time leaves the level as it is.
            _ = try await controlled.result("\"command\":\"reload\"")
            let client = try controlled.connect()
            try await client.exchange("seen")
            #expect(controlled.daemon.logs("connection opened"))
            var level = "info"
            for _ in 0..<600 where level == "info" {
                let status = try await controlled.result("\"command\":\"status\"")
                level = (status["log_level"] as? [String: Any])?["level"] as? String ?? ""
                try await Task.sleep(for: .milliseconds(50))
            }
            #expect(level == "warning")
            let count = controlled.daemon.lines(with: "connection opened").count
            try await controlled.connect().exchange("unseen")
            #expect(controlled.daemon.lines(with: "connection opened").count == count)
        }

        @Test func `a trace shows the records and flights of one client, and of no other`() async throws {
            let controlled = try await ControlledDaemon("park_after = \"1s\"")
            let port = try SocketAddress.freeOnOwnLoopback().port
            let begun = try await controlled.result(
                "\"command\":\"trace\",\"address\":\"\(controlled.address.host):\(port)\"")
            #expect((begun["traces"] as? [Any])?.count == 1)
            let unseen = try controlled.connect()
            try await unseen.exchange("unseen")
            let client = try SecureClient(
                to: controlled.address, trust: controlled.identity.certificate, in: controlled.folder,
                ["-bind", "\(controlled.address.host):\(port)"])
            try await client.exchange("hello")
            let daemon = controlled.daemon
            for part in [
                "received ClientHello (message 0): record 0 of epoch 0",
                "at the listener: answered with a HelloVerifyRequest",
                "its cookie is valid: it begins a connection", "sent ServerHello (message 1", "sent ServerHelloDone",
                "received ClientKeyExchange", "the handshake is done", "received application_data: record",
                "authentic", "sent application_data: record", "gives its socket up",
            ] {
                try await daemon.logged("trace of \(controlled.address.host):\(port)", part)
            }
            try await client.exchange("awake")
            try await daemon.logged("of a connection without a socket: authentic")
            let traced = daemon.lines(with: "trace of ")
            #expect(traced.allSatisfy { $0.contains(":\(port): ") && $0.contains("PEER=") })
            let ended = try await controlled.result("\"command\":\"trace\",\"off\":true")
            #expect((ended["traces"] as? [Any])?.isEmpty == true)
            let count = daemon.lines(with: "trace of ").count
            try await client.exchange("unseen")
            #expect(daemon.lines(with: "trace of ").count == count)
        }

        @Test(.enabled(if: geteuid() == 0, "only root can be another user"))
        func `users that the daemon does not obey are told so`() async throws {
            let controlled = try await ControlledDaemon(control: "mode = \"0666\"")
            chmod(controlled.folder.path, 0o755)
            let program = try Program(
                [
                    "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "perl", "-MIO::Socket::UNIX", "-e",
                    """
                    # The daemon may have closed the socket before it reads anything.
                    $SIG{PIPE} = "IGNORE";
                    my $socket = IO::Socket::UNIX->new(Peer => "\(controlled.path)") or die "connect: $!";
                    print $socket '{"version":1,"command":"reload"}', "\\n";
                    $socket->flush;
                    print scalar <$socket>;
                    """,
                ], in: controlled.folder)
            _ = try await program.ended()
            #expect(program.output.contains("\"code\":\"denied\""), "\(program.output) \(program.errors)")
            #expect(!controlled.daemon.logs("reloaded"))
        }

        @Test func `two daemons do not take one another's socket`() async throws {
            let controlled = try await ControlledDaemon()
            let folder = try TestFolder()
            let file = try folder.write(
                controlled.configuration.replacing(
                    "\(controlled.address)", with: "\(try SocketAddress.freeOnOwnLoopback())"),
                to: "other.toml")
            let other = try Program([Daemon.binary, "--config", file], in: folder)
            #expect(try await other.ended() == .exited(71))
            #expect(other.errors.contains("control.path"), "\(other.errors)")
            #expect(other.errors.contains("another process answers there"), "\(other.errors)")
            #expect(try await controlled.result("\"command\":\"status\"")["ready"] as? Bool == true)
        }

        /// What stands in docs/control-protocol.md: requests, and answers with at least these fields of these types.
        @Test func `the documented requests have the documented answers`() async throws {
            let controlled = try await ControlledDaemon()
            let client = try controlled.connect()
            try await client.exchange("hello")
            let number = try #require(try await controlled.connections().first?["connection"] as? String)
            let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
                .deletingLastPathComponent()
            let text = try String(contentsOf: root.appendingPathComponent("docs/control-protocol.md"), encoding: .utf8)
            let lines = text.split(separator: "\n").filter { $0.hasPrefix("{\"") }
            #expect(lines.count >= 24 && lines.count.isMultiple(of: 2))
            for pair in stride(from: 0, to: lines.count - 1, by: 2) {
                let request = lines[pair].replacing("00000100000a0001", with: number)
                let expected = try JSONSerialization.jsonObject(with: Data(lines[pair + 1].utf8))
                let answer = try await controlled.ask(line: String(request), over: StreamClient(to: controlled.path))
                expect(expected, isShapeOf: answer, "\(request)")
                if request.contains("\"upgrade\""), let pid = (answer["result"] as? [String: Any])?["pid"] as? Int {
                    kill(pid_t(pid), SIGTERM)
                }
            }
        }

        private func expect(_ shape: Any, isShapeOf value: Any, _ place: String) {
            switch (shape, value) {
            case (let shape as [String: Any], let value as [String: Any]):
                for (key, part) in shape {
                    guard let found = value[key] else {
                        Issue.record("\(place): there is no \(key) in \(value)")
                        continue
                    }
                    expect(part, isShapeOf: found, "\(place) \(key)")
                }
            case (let shape as [Any], let value as [Any]):
                if let part = shape.first, let found = value.first { expect(part, isShapeOf: found, place) }
            case (let shape as String, let value as String):
                if place.hasSuffix(" code") { #expect(shape == value, "\(place)") }
            case (is NSNumber, is NSNumber): break
            default: Issue.record("\(place): \(value) is no \(shape)")
            }
        }
    }
}
