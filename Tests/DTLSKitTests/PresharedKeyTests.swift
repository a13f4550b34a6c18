import DTLSKit
import TestSupport
import Testing

/// Servers with pre-shared keys, by table and by asking the program.
@Suite(.serialized) struct PresharedKeyTests {
    private static func key(_ name: String, _ key: [UInt8] = [1, 2, 3, 4]) -> DtlsPresharedKey {
        DtlsPresharedKey(identity: Array(name.utf8), key: key)
    }

    private static func connect(
        _ server: DtlsServer, _ key: DtlsPresharedKey?
    ) throws -> Result<DtlsConnection, DtlsError> {
        var outcome: Result<DtlsConnection, DtlsError>?
        try Dtls.createClient(DtlsClientOption(presharedKey: key), server.sockName(), timeout: 2_000) { result, _ in
            outcome = result
        }
        while true {
            if let outcome { return outcome }
            try iosched.poll(timeout: 20_000)
        }
    }

    @Test func `a server without a certificate lets in clients by its table`() async throws {
        try await onThread {
            let option = DtlsServerOption(cert: "", presharedKeys: [Self.key("one"), Self.key("two", [9])])
            let server = try Dtls.createServer(option, Dtls.sockaddr("127.0.0.1", 0))
            var served: [DtlsConnection] = []
            server.accept { client, _ in served.append(client) }
            let client = try Self.connect(server, Self.key("two", [9])).get()
            while served.isEmpty { try iosched.poll(timeout: 20_000) }
            #expect(served.first?.agreement?.presharedKeyIdentity == Array("two".utf8))
            #expect(client.agreement?.cipher.contains("PSK") == true)
            for wrong in [Self.key("two", [8]), Self.key("three"), nil] {
                #expect(throws: DtlsError.self) { _ = try Self.connect(server, wrong).get() }
            }
            #expect(served.count == 1)
            client.close()
            server.close()
        }
    }

    @Test func `the program is asked for keys that are not in the table, and answers later`() async throws {
        try await onThread {
            let option = DtlsServerOption(
                cert: "", presharedKeys: [Self.key("one")], asksForPresharedKeys: true)
            let server = try Dtls.createServer(option, Dtls.sockaddr("127.0.0.1", 0))
            server.accept { _, _ in }
            var asked: [String] = []
            let refused = try Self.connect(server, Self.key("nobody"))
            #expect(throws: DtlsError.self, "there is no callback") { _ = try refused.get() }
            server.onPresharedKey { question in
                asked.append(String(decoding: question.identity, as: UTF8.self))
                let key: [UInt8]? =
                    switch asked.last {
                    case "late": [5, 6]
                    case "long": [UInt8](repeating: 1, count: 513)
                    default: nil
                    }
                _ = try? iosched.timer(after: 30) {
                    question.answer(key)
                    question.answer([7])
                }
            }
            try Self.connect(server, Self.key("one")).get().close()
            #expect(asked.isEmpty)
            try Self.connect(server, Self.key("late", [5, 6])).get().close()
            for wrong in [Self.key("unknown", [7]), Self.key("long", [7])] {
                #expect(throws: DtlsError.self) { _ = try Self.connect(server, wrong).get() }
            }
            #expect(asked == ["late", "unknown", "long"])
            server.close()
        }
    }

    @Test func `an asynchronous server looks keys up, beside its certificate`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let server = try await AsyncDtlsServer(
            DtlsServerOption(cert: identity.certificate, key: identity.key, asksForPresharedKeys: true),
            on: Dtls.sockaddr("127.0.0.1", 0))
        await server.onPresharedKey { identity in
            await Task.yield()
            return identity == Array("known".utf8) ? [1, 2, 3, 4] : nil
        }
        let address = try await server.sockName()
        let known = try await AsyncDtlsConnection.connect(
            DtlsClientOption(presharedKey: Self.key("known")), to: address)
        #expect(await known.agreement?.presharedKeyIdentity == Array("known".utf8))
        await #expect(throws: DtlsError.self) {
            _ = try await AsyncDtlsConnection.connect(
                DtlsClientOption(presharedKey: Self.key("other")), to: address, timeout: 5_000)
        }
        let shown = try await AsyncDtlsConnection.connect(
            DtlsClientOption(rejectUnauthorized: true, ca: authority.certificate, server: "localhost"), to: address)
        #expect(await shown.agreement?.presharedKeyIdentity == nil)
        await server.close()
    }

    @Test func `OpenSSL's client gets in by a key that the program is asked for`() async throws {
        let folder = try TestFolder()
        let server = try await EchoServer(DtlsServerOption(cert: "", asksForPresharedKeys: true)) {
            $0.onPresharedKey { question in
                question.answer(question.identity == Array("sensor-7".utf8) ? Array("key7".utf8) : nil)
            }
        }
        func connect(as identity: String) throws -> Program {
            try Program(
                [
                    "openssl", "s_client", "-dtls1_2", "-nbio", "-connect", "127.0.0.1:\(server.address.port)",
                    "-psk_identity", identity, "-psk", "6b657937",
                ], in: folder)
        }
        let client = try connect(as: "sensor-7")
        client.send("hello\n")
        try await eventually("the echo comes back", details: client.output + client.errors) {
            client.output.contains("hello")
        }
        client.send("Q\n")
        #expect(try await client.ended() == .exited(0))
        #expect(server.handshakeErrors.isEmpty)
        let unknown = try connect(as: "sensor-8")
        #expect(try await unknown.ended() != .exited(0))
        #expect(unknown.errors.contains("alert"), "\(unknown.errors)")
        try await server.stop()
    }

    @Test func `keys that cannot be used are refused`() async throws {
        try await onThread {
            for keys in [
                [Self.key("")], [Self.key("a", [])], [Self.key("a\0b")], [Self.key("a"), Self.key("a")],
                [Self.key("a", [UInt8](repeating: 1, count: 513))],
            ] {
                let error = #expect(throws: DtlsError.self) {
                    _ = try Dtls.createServer(
                        DtlsServerOption(cert: "", presharedKeys: keys), Dtls.sockaddr("127.0.0.1", 0))
                }
                guard case .invalid = error else {
                    Issue.record("\(error as Any)")
                    continue
                }
            }
            let option = DtlsServerOption(cert: "", renegotiate: true, asksForPresharedKeys: true)
            #expect(throws: DtlsError.self) { _ = try Dtls.createServer(option, Dtls.sockaddr("127.0.0.1", 0)) }
        }
    }
}
