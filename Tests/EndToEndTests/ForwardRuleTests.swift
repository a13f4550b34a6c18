import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEnd {
    /// Which backend a client gets by what it shows in its handshake.
    @Suite struct ForwardRuleTests {
        let folder: TestFolder
        let identity: Identity
        let address: SocketAddress

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
            address = try SocketAddress.freeOnOwnLoopback()
        }

        private static let key = "00112233445566778899aabbccddeeff"

        /// A backend that answers with its name before the datagram.
        private struct Named {
            let name: String
            let socket: DatagramSocket
            let backend: Backend

            init(_ name: String) throws {
                let socket = try DatagramSocket.onOwnLoopback()
                self.name = name
                self.socket = socket
                backend = Backend(on: [socket]) { [Array("\(name):".utf8) + $0.bytes] }
            }

            /// `"udp:…"`, quoted.
            var configured: String { "\"udp:\(socket.local)\"" }
        }

        /// - Parameters:
        ///   - keys: more keys of the service.
        ///   - forward: the table of the handler, and those of its rules.
        private func service(_ forward: String, keys: String = "", workers: Int = 1) -> String {
            "workers = \(workers)\n"
                + Service(
                    name: "forward", listen: [address], identity: identity, handler: "forward",
                    more: "\(keys)\n\(forward)"
                ).text
        }

        private func rule(_ name: String, _ condition: String, _ backend: Named?) -> String {
            """
            [service.forward.forward.rule.\(name)]
            \(condition)
            \(backend.map { "backend = \($0.configured)" } ?? "refuse = true")

            """
        }

        private func others(_ backend: Named) -> String {
            "[service.forward.forward]\nbackend = \(backend.configured)\n"
        }

        private func client(_ arguments: [String] = []) throws -> SecureClient {
            try SecureClient(to: address, trust: identity.certificate, in: folder, arguments)
        }

        @Test func `server name, protocol, identity and certificate choose the backend`() async throws {
            let maker = CertificateMaker(folder: folder)
            let ca = try await maker.authority("clients")
            let gateway = try await maker.issued("gateway", by: ca, names: "DNS:gw.plant.example.org")
            let other = try await maker.issued("other", by: ca, names: "DNS:gw.example.org")
            try folder.write("plant-7-1:\(Self.key)\nplant-8-1:\(Self.key)\n", to: "keys.psk")
            let (name, alpn, key, certificate, rest) = (
                try Named("name"), try Named("alpn"), try Named("key"), try Named("certificate"), try Named("rest")
            )
            let keys = """
                alpn = ["coap", "lwm2m"]
                ca = "\(ca.certificate)"
                client_certificate = "requested"
                [service.forward.psk]
                file = "keys.psk"
                """
            let rules =
                rule("name", "server_name = [\"*.example.org\", \"LOCALHOST\"]", name)
                + rule("alpn", "alpn = \"lwm2m\"", alpn) + rule("key", "identity = \"plant-7-*\"", key)
                + rule("certificate", "certificate_name = \"dns:*.plant.example.org\"", certificate)
            let daemon = try await Daemon.start(service(rules + others(rest), keys: keys), in: folder)
            let psk = ["-psk", Self.key, "-cipher", "PSK-AES128-GCM-SHA256"]
            func files(_ identity: Identity) -> [String] {
                ["-cert", identity.certificate, "-key", identity.privateKey]
            }
            let cases: [([String], String)] = [
                (["-servername", "a.b.example.org"], "name"), (["-servername", "localhost"], "name"),
                // The first rule counts.
                (["-servername", "x.example.org", "-alpn", "lwm2m"], "name"),
                (["-servername", "example.org"], "rest"), (["-noservername", "-alpn", "lwm2m"], "alpn"),
                (["-noservername", "-alpn", "coap"], "rest"), (["-noservername"], "rest"),
                (psk + ["-noservername", "-psk_identity", "plant-7-1"], "key"),
                (psk + ["-noservername", "-psk_identity", "plant-8-1"], "rest"),
                (["-noservername"] + files(gateway), "certificate"), (["-noservername"] + files(other), "rest"),
            ]
            for (arguments, expected) in cases {
                let client = try client(arguments)
                try await client.exchange("hello", answer: "\(expected):hello")
                try await client.leave()
            }
            try await daemon.stop()
        }

        /// A resumed session has the names of the certificate that was shown in its first handshake.
        @Test func `a resumed session gets the backend of its first handshake`() async throws {
            let maker = CertificateMaker(folder: folder)
            let ca = try await maker.authority("clients")
            let gateway = try await maker.issued("gateway", by: ca, names: "DNS:gw.plant.example.org")
            let (certificate, rest) = (try Named("certificate"), try Named("rest"))
            let daemon = try await Daemon.start(
                service(
                    rule("certificate", "certificate_name = \"dns:gw.plant.example.org\"", certificate) + others(rest),
                    keys: "ca = \"\(ca.certificate)\""), in: folder)
            let files = ["-cert", gateway.certificate, "-key", gateway.privateKey]
            let session = folder.file("session")
            let first = try client(files + ["-sess_out", session])
            try await first.exchange("first", answer: "certificate:first")
            try await first.leave()
            let again = try client(files + ["-sess_in", session])
            try await again.exchange("again", answer: "certificate:again")
            try await daemon.logged("connection opened", "RESUMED=yes")
            try await daemon.stop()
        }

        @Test func `a client that a rule refuses gets an alert, a line in the log and a count`() async throws {
            let rest = try Named("rest")
            let configuration = service(
                rule("lost", "server_name = \"lost.example.org\"", nil) + others(rest))
            let daemon = try await Daemon.start(
                "control.path = \"\(folder.file("control"))\"\n" + configuration, in: folder)
            let refused = try client(["-servername", "lost.example.org"])
            _ = try await refused.program.ended()
            #expect(refused.program.errors.contains("access denied"), "\(refused.transcript)")
            try await daemon.logged(
                "client refused: by the rule lost of its service", "SERVICE=forward", "SNI=lost.example.org",
                "REASON=rule")
            try await daemon.logged("connection closed: refused: by the rule lost of its service")
            let served = try client(["-servername", "found.example.org"])
            try await served.exchange("hello", answer: "rest:hello")
            let status = try await status()
            let counters = try #require(status["counters"] as? [String: Any])
            #expect((counters["refusals_total"] as? [String: Int])?["rule"] == 1)
            #expect((counters["connections_closed_total"] as? [String: Int])?["refused"] == 1)
            #expect((counters["alerts_sent_total"] as? [String: Int])?["access_denied"] == 1)
            #expect(rest.backend.received.map(\.text) == ["hello\n"])
            try await daemon.stop()
        }

        /// What `dtls status` has of the service.
        private func status() async throws -> [String: Any] {
            let text = try await tool(["status", "--json"])
            let status = try #require(try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any])
            return try #require((status["services"] as? [[String: Any]])?.first)
        }

        private func tool(_ arguments: [String]) async throws -> String {
            let outcome = try await Tool.run(arguments + ["--socket", folder.file("control")], in: folder)
            #expect(outcome.status == .exited(0), "\(outcome.errors)")
            return outcome.output
        }

        @Test func `a client that no rule is for is refused where there is no other backend`() async throws {
            let only = try Named("only")
            let daemon = try await Daemon.start(
                service(rule("only", "server_name = \"a.example.org\"", only)), in: folder)
            let served = try client(["-servername", "a.example.org"])
            try await served.exchange("hello", answer: "only:hello")
            let refused = try client(["-servername", "b.example.org"])
            _ = try await refused.program.ended()
            #expect(refused.program.errors.contains("access denied"), "\(refused.transcript)")
            try await daemon.logged("client refused: no rule of its service is for the client", "REASON=no_rule")
            try await daemon.stop()
        }

        @Test func `status names the rule of each backend, and says up only of those that were tried`() async throws {
            let (one, rest) = (try Named("one"), try Named("rest"))
            let daemon = try await Daemon.start(
                "control.path = \"\(folder.file("control"))\"\n"
                    + service(rule("one", "server_name = \"a.example.org\"", one) + others(rest)), in: folder)
            func states() async throws -> [[String]] {
                let backends = try #require(try await status()["backends"] as? [[String: Any]])
                return backends.map { [$0["rule"] as? String ?? "", $0["state"] as? String ?? ""] }
            }
            #expect(try await states() == [["", "unknown"], ["one", "unknown"]])
            let client = try client(["-servername", "a.example.org"])
            try await client.exchange("hello", answer: "one:hello")
            #expect(try await states() == [["", "unknown"], ["one", "up"]])
            // Nobody has tried it since the worker's death.
            try await client.leave()
            try await daemon.logged("connection closed")
            try await daemon.replaceWorker()
            #expect(try await states() == [["", "unknown"], ["one", "unknown"]])
            let table = try await tool(["status"])
            #expect(table.contains("RULE"))
            try await daemon.stop()
        }

        // MARK: Connections that live

        enum Change: CaseIterable { case parked, parkedWithoutSocket, death, replacement }

        @Test(arguments: Change.allCases)
        func `a connection keeps its rule`(_ change: Change) async throws {
            let (one, rest) = (try Named("one"), try Named("rest"))
            let parks = change == .parked || change == .parkedWithoutSocket
            let keys = parks ? "park_after = \"1s\"" : ""
            let park = change == .parkedWithoutSocket ? "park = true\n" : ""
            // The names of a certificate are not kept, and still it is the rule's connection.
            let maker = CertificateMaker(folder: folder)
            let ca = try await maker.authority("clients")
            let gateway = try await maker.issued("gateway", by: ca, names: "DNS:gw.plant.example.org")
            let daemon = try await Daemon.start(
                "control.path = \"\(folder.file("control"))\"\n"
                    + service(
                        rule("one", "certificate_name = \"dns:gw.plant.example.org\"", one) + others(rest) + park,
                        keys: keys + "\nca = \"\(ca.certificate)\""), in: folder)
            let sockets = daemon.openSockets
            let client = try client(["-cert", gateway.certificate, "-key", gateway.privateKey])
            try await client.exchange("before", answer: "one:before")
            switch change {
            case .parked: try await daemon.parked(sockets: sockets + 1)
            case .parkedWithoutSocket: try await daemon.parked(sockets: sockets)
            case .death: try await daemon.replaceWorker()
            case .replacement:
                // The connection moves with its sockets to the process that takes the place of its worker.
                let former = try #require(daemon.worker(0))
                _ = try await tool(["drain"])
                try await eventually("the worker is replaced", details: daemon.program.errors) {
                    daemon.workers.count == 1 && daemon.workers != [former]
                }
            }
            try await client.exchange("after", answer: "one:after")
            #expect(rest.backend.received.isEmpty)
            try await daemon.stop()
        }

        @Test func `a reload moves the connections of a rule that is gone and keeps the others`() async throws {
            let (one, two, rest) = (try Named("one"), try Named("two"), try Named("rest"))
            let before =
                rule("one", "server_name = \"a.example.org\"", one)
                + rule("two", "server_name = \"b.example.org\"", two)
                + others(rest)
            let daemon = try await Daemon.start(service(before, workers: 2), in: folder)
            let (a, b) = (
                try client(["-servername", "a.example.org"]), try client(["-servername", "b.example.org"])
            )
            try await a.exchange("hello", answer: "one:hello")
            try await b.exchange("hello", answer: "two:hello")
            // A rule before it would be for the client, and its own one is not any more.
            try daemon.reload(
                service(
                    rule("all", "server_name = \"*\"", rest) + rule("one", "server_name = \"z\"", one)
                        + rule("two", "server_name = \"b.example.org\"", two) + others(rest), workers: 2))
            try await daemon.logged("reloaded")
            try await a.exchange("still", answer: "one:still")
            try await b.exchange("still", answer: "two:still")
            // One rule is gone, and the other refuses now.
            try daemon.reload(
                service(rule("two", "server_name = \"b.example.org\"", nil) + others(rest), workers: 2))
            try await daemon.logged("reloaded", count: 2)
            try await a.exchange("moved", answer: "rest:moved")
            b.say("out")
            _ = try await b.program.ended()
            #expect(b.program.errors.contains("access denied"), "\(b.transcript)")
            try await daemon.logged("client refused: by the rule two of its service")
            try await a.exchange("and stays", answer: "rest:and stays")
            try await daemon.stop()
        }

        /// A new handshake from a connection's address may be another client's: what held of the former one is forgotten.
        @Test func `a client that comes back from the same port with another name gets the rule of that name`()
            async throws
        {
            let (one, rest) = (try Named("one"), try Named("rest"))
            let daemon = try await Daemon.start(
                service(rule("one", "server_name = \"a.example.org\"", one) + others(rest)), in: folder)
            let port = try SocketAddress.free(on: "127.0.0.1")
            let former = try client(["-bind", "\(port)", "-servername", "a.example.org"])
            try await former.exchange("before", answer: "one:before")
            former.program.signal(SIGKILL)
            _ = try await former.program.ended()
            let next = try client(["-bind", "\(port)", "-servername", "z.example.org"])
            try await next.exchange("after", answer: "rest:after")
            try await daemon.logged("the peer has begun a new handshake")
            #expect(one.backend.received.map(\.text) == ["before\n"])
            try await daemon.stop()
        }

        @Test func `a backend of a rule that refuses is not replaced by another rule's`() async throws {
            let rest = try Named("rest")
            let closed = try SocketAddress.freeOnOwnLoopback()
            let daemon = try await Daemon.start(
                service(
                    """
                    [service.forward.forward.rule.one]
                    server_name = "a.example.org"
                    backend = "udp:\(closed)"

                    """ + others(rest)), in: folder)
            let client = try client(["-servername", "a.example.org"])
            try await daemon.logged("connection opened")
            try await eventually("the backend is out", details: client.transcript) {
                client.say("hello")
                return daemon.logs("does not take datagrams", "udp:\(closed)")
            }
            #expect(rest.backend.received.isEmpty)
            try await daemon.stop()
        }
    }
}
