import DTLSKit
import Foundation
import Synchronization
import TestSupport
import Testing

/// Who the other side is, and whether the program lets it in.
@Suite(.serialized) struct PeerTests {
    /// What servers learn of their clients, on whatever thread.
    private final class Seen: Sendable {
        private let found = Mutex<[DtlsPeer]>([])
        var peers: [DtlsPeer] { found.withLock { $0 } }
        func append(_ peer: DtlsPeer) { found.withLock { $0.append(peer) } }
    }

    private static func fingerprint(of identity: TestIdentity, in folder: TestFolder) async throws -> String {
        let text = try await Program.run(
            ["openssl", "x509", "-in", identity.certificateFile, "-noout", "-fingerprint", "-sha256"], in: folder)
        return text.split(separator: "=").last.map {
            $0.filter { $0.isHexDigit }.lowercased()
        } ?? ""
    }

    /// Connects, exchanges a message, and closes.
    private static func talk(_ option: DtlsClientOption, to address: DtlsAddress) async throws -> DtlsSession? {
        try await onThread {
            let client = try Dtls.createClient(option, address, timeout: 20_000)
            defer { client.close() }
            try client.send("hello")
            var buffer = [UInt8](repeating: 0, count: 10)
            #expect(try client.recv(&buffer, timeout: 20_000) == 5)
            return client.resumableSession
        }
    }

    private static func refusal(_ option: DtlsClientOption, by address: DtlsAddress) async throws -> String {
        let error = await #expect(throws: DtlsError.self) { _ = try await talk(option, to: address) }
        guard case .handshake(let reason, _) = error else {
            Issue.record("\(String(describing: error))")
            return ""
        }
        return reason
    }

    @Test func `a server knows its client's certificate, and its names once more when a session is resumed`()
        async throws
    {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let own = try await authority.issue(
            "sensor-7", names: "DNS:sensor-7.example,IP:10.1.2.3,URI:urn:dev:7,email:7@example.com")
        let seen = Seen()
        let server = try await EchoServer(
            DtlsServerOption(
                ca: authority.certificate, cert: identity.certificate, key: identity.key, asksAboutPeers: true)
        ) {
            $0.onPeer { question in
                seen.append(question.peer)
                question.answer(.accepted)
            }
        }
        var option = DtlsClientOption(
            rejectUnauthorized: true, ca: authority.certificate, server: "localhost", cert: own.certificate,
            key: own.key, keepsSession: true)
        option.session = try await Self.talk(option, to: server.address)
        _ = try await Self.talk(option, to: server.address)
        let fingerprint = try await Self.fingerprint(of: own, in: authority.folder)
        try #require(seen.peers.count == 2)
        for (peer, isResumed) in zip(seen.peers, [false, true]) {
            #expect(peer.isResumed == isResumed)
            #expect(peer.verification == .passed && peer.isVerified)
            #expect(peer.fingerprint == fingerprint && peer.commonName == "sensor-7" && peer.subject == "CN=sensor-7")
            #expect(peer.names.dns == ["sensor-7.example"] && peer.names.ip == ["10.1.2.3"])
            #expect(peer.names.uri == ["urn:dev:7"] && peer.names.email == ["7@example.com"])
            #expect(peer.serverName == "localhost" && peer.presharedKeyIdentity == nil)
            // Not shown again.
            #expect((peer.certificate == nil) == isResumed && peer.chain.count == (isResumed ? 0 : 1))
        }
        #expect(seen.peers[0].certificate?.fingerprint == fingerprint)
        #expect(server.handshakeErrors.isEmpty)
        try await server.stop()
    }

    @Test func `the chain that a peer has sent is known on both sides`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let own = try await authority.issue("client")
        try await onThread {
            let option = DtlsServerOption(
                ca: authority.certificate, cert: identity.certificate + authority.certificate, key: identity.key)
            let server = try Dtls.createServer(option, Dtls.sockaddr("127.0.0.1", 0))
            var served: DtlsConnection?
            server.accept { client, _ in served = client }
            let client = try Dtls.createClient(
                DtlsClientOption(
                    rejectUnauthorized: true, ca: authority.certificate, server: "localhost",
                    cert: own.certificate + authority.certificate, key: own.key), server.sockName()
            ) { _, _ in }
            while served == nil || !client.isEstablished { try iosched.poll(timeout: 20_000) }
            let (theirs, ours) = (try #require(client.peer), try #require(served?.peer))
            for peer in [theirs, ours] {
                #expect(peer.chain.count == 2 && peer.isVerified)
                #expect(DtlsCertificate.subjects(of: peer.chain).last?.hasPrefix("CN=Test CA ") == true)
            }
            #expect(theirs.names.dns == ["localhost"] && ours.commonName == "client")
            client.close()
            while served?.isEstablished == true { try iosched.poll(timeout: 20_000) }
            #expect(client.peer == theirs && served?.peer == ours, "they stay known")
            server.close()
        }
    }

    @Test func `a server that judges by itself lets all certificates in, and says what is wrong with them`()
        async throws
    {
        let authority = try await TestAuthority()
        let stranger = try await TestAuthority()
        let identity = try await authority.issue("server")
        let seen = Seen()
        let server = try await EchoServer(
            DtlsServerOption(
                ca: authority.certificate, cert: identity.certificate, key: identity.key,
                clientCertificates: .judged, asksAboutPeers: true)
        ) {
            $0.onPeer { question in
                seen.append(question.peer)
                question.answer(.accepted)
            }
        }
        let own = [
            try await authority.issue("good"), try await stranger.issue("unknown"),
            try await authority.issue("old", isExpired: true),
        ]
        for identity in own {
            var option = DtlsClientOption(cert: identity.certificate, key: identity.key, keepsSession: true)
            // What is wrong stays known in the session.
            option.session = try await Self.talk(option, to: server.address)
            _ = try await Self.talk(option, to: server.address)
        }
        _ = try await Self.talk(DtlsClientOption(), to: server.address)
        let verifications = seen.peers.map(\.verification)
        try #require(verifications.count == 7)
        #expect(seen.peers.map(\.isResumed) == [false, true, false, true, false, true, false])
        #expect(verifications[0] == .passed && verifications[1] == .passed)
        #expect(verifications[2].fault?.kind == .untrusted && verifications[3].fault?.kind == .untrusted)
        #expect(verifications[4].fault?.kind == .expired && verifications[5].fault?.kind == .expired)
        #expect(verifications[4].fault?.description == "certificate has expired")
        #expect(verifications[6] == .nothingShown && seen.peers[6].fingerprint == nil)
        #expect(server.handshakeErrors.isEmpty)
        try await server.stop()
        // Without CAs, nothing is trusted.
        let open = try await EchoServer(
            DtlsServerOption(
                cert: identity.certificate, key: identity.key, clientCertificates: .judged, asksAboutPeers: true)
        ) { $0.onPeer { $0.answer($0.peer.verification.fault?.kind == .untrusted ? .accepted : .refused()) } }
        _ = try await Self.talk(
            DtlsClientOption(cert: own[0].certificate, key: own[0].key), to: open.address)
        #expect(try await Self.refusal(DtlsClientOption(), by: open.address).contains("access denied"))
        try await open.stop()
    }

    @Test func `clients may come without a certificate where it is requested, and not with an invalid one`()
        async throws
    {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let stranger = try await TestAuthority().issue("unknown")
        let server = try await EchoServer(
            DtlsServerOption(
                ca: authority.certificate, cert: identity.certificate, key: identity.key,
                clientCertificates: .requested))
        _ = try await Self.talk(DtlsClientOption(), to: server.address)
        #expect(
            try await Self.refusal(
                DtlsClientOption(cert: stranger.certificate, key: stranger.key), by: server.address
            ).contains("unknown ca"))
        try await server.stop()
        for policy in [DtlsClientCertificates.requested, .required] {
            let error = await #expect(throws: DtlsError.self) {
                _ = try await EchoServer(
                    DtlsServerOption(cert: identity.certificate, key: identity.key, clientCertificates: policy))
            }
            #expect("\(error as Any)".contains("there is no ca"))
        }
    }

    private static let alertTexts: [(DtlsAlert, String)] = [
        (.certificateRevoked, "certificate revoked"), (.unknownCA, "unknown ca"), (.accessDenied, "access denied"),
    ]

    @Test func `a client that the program refuses gets the alert, at once or later, and the server learns the reason`()
        async throws
    {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let own = try await authority.issue("client")
        for (alert, text) in Self.alertTexts {
            for isLate in [false, true] {
                let server = try await EchoServer(
                    DtlsServerOption(
                        ca: authority.certificate, cert: identity.certificate, key: identity.key, asksAboutPeers: true)
                ) {
                    $0.onPeer { question in
                        let answer = {
                            question.answer(.refused(alert, reason: "it is \(question.peer.subject ?? "")"))
                        }
                        if isLate { _ = try? iosched.timer(after: 100, answer) } else { answer() }
                    }
                }
                let reason = try await Self.refusal(
                    DtlsClientOption(cert: own.certificate, key: own.key), by: server.address)
                #expect(reason.contains(text), "\(reason)")
                try await eventually("the server has heard of it") { !server.handshakeErrors.isEmpty }
                #expect("\(server.handshakeErrors)".contains("it is CN=client"))
                try await server.stop()
            }
        }
    }

    @Test(arguments: ForeignPeer.allCases) func `clients of other libraries are asked about`(_ foreign: ForeignPeer)
        async throws
    {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let good = try await authority.issue("good")
        let bad = try await authority.issue("bad")
        let server = try await EchoServer(
            DtlsServerOption(
                ca: authority.certificate, cert: identity.certificate, key: identity.key, asksAboutPeers: true)
        ) {
            $0.onPeer { question in
                let verdict: DtlsPeerVerdict =
                    question.peer.commonName == "good" ? .accepted : .refused(.certificateRevoked)
                _ = try? iosched.timer(after: 50) { question.answer(verdict) }
            }
        }
        let port = server.address.port
        let client = try foreign.connect(to: port, trusting: authority.file, showing: good, in: authority.folder)
        client.send("from their client\n")
        try await eventually("the echo comes back", details: client.output + client.errors) {
            client.output.contains("from their client")
        }
        client.closeInput()
        let refused = try foreign.connect(to: port, trusting: authority.file, showing: bad, in: authority.folder)
        #expect(try await refused.ended() != .exited(0))
        let text = (refused.output + refused.errors).lowercased()
        #expect(text.contains("revoked"), "\(text)")
        #expect(server.handshakeErrors.count == 1)
        try await server.stop()
    }

    @Test func `where nobody can be asked, clients are refused`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let server = try await EchoServer(
            DtlsServerOption(cert: identity.certificate, key: identity.key, asksAboutPeers: true))
        #expect(try await Self.refusal(DtlsClientOption(), by: server.address).contains("access denied"))
        #expect("\(server.handshakeErrors)".contains("nobody can be asked"))
        try await server.stop()
        await #expect(throws: DtlsError.self) {
            _ = try await EchoServer(
                DtlsServerOption(
                    cert: identity.certificate, key: identity.key, renegotiate: true, asksAboutPeers: true))
        }
    }

    @Test func `accept asks the program while it waits`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let ports = AsyncStream.makeStream(of: DtlsAddress.self)
        async let name = onThread { () -> String? in
            let server = try Dtls.createServer(
                DtlsServerOption(
                    cert: identity.certificate, key: identity.key, presharedKeys: [], asksForPresharedKeys: true,
                    asksAboutPeers: true), Dtls.sockaddr("127.0.0.1", 0))
            defer { server.close() }
            server.onPresharedKey { $0.answer([1, 2, 3]) }
            var asked: [DtlsPeer] = []
            server.onPeer { question in
                asked.append(question.peer)
                question.answer(.accepted)
            }
            ports.continuation.yield(try server.sockName())
            let client = try server.accept(timeout: 20_000)
            defer { client.close() }
            #expect(asked.map(\.verification) == [.unproven] && client.peer?.isVerified == true)
            return client.peer?.presharedKeyIdentity.map { String(decoding: $0, as: UTF8.self) }
        }
        var iterator = ports.stream.makeAsyncIterator()
        let address = try #require(await iterator.next())
        let client = try await AsyncDtlsConnection.connect(
            DtlsClientOption(presharedKey: DtlsPresharedKey(identity: Array("one".utf8), key: [1, 2, 3])), to: address)
        #expect(try await name == "one")
        #expect(await client.peer?.isVerified == true)
        await client.close()
    }

    @Test func `an asynchronous server lets in whom its program knows, with a key or a certificate`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let own = try await authority.issue("client")
        let known = DtlsPresharedKey(identity: Array("known".utf8), key: [1])
        let blocked = DtlsPresharedKey(identity: Array("blocked".utf8), key: [2])
        let server = try await AsyncDtlsServer(
            DtlsServerOption(
                cert: identity.certificate, key: identity.key, presharedKeys: [known, blocked],
                clientCertificates: .judged, asksAboutPeers: true), on: Dtls.sockaddr("127.0.0.1", 0))
        await server.onPeer { peer, address in
            await Task.yield()
            if let key = peer.presharedKeyIdentity { return key == known.identity ? .accepted : .refused() }
            return peer.commonName == "client" && address.addr == "127.0.0.1" ? .accepted : .refused(.badCertificate)
        }
        let address = try await server.sockName()
        for option in [
            DtlsClientOption(presharedKey: known), DtlsClientOption(cert: own.certificate, key: own.key),
        ] { try await AsyncDtlsConnection.connect(option, to: address).close() }
        for option in [DtlsClientOption(presharedKey: blocked), DtlsClientOption()] {
            await #expect(throws: DtlsError.self) {
                _ = try await AsyncDtlsConnection.connect(option, to: address, timeout: 10_000)
            }
        }
        await server.close()
    }

    // MARK: Clients

    @Test func `a client's program decides about the server, and its alert arrives`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let fingerprint = try await Self.fingerprint(of: identity, in: authority.folder)
        try await onThread {
            let server = try Dtls.createServer(
                DtlsServerOption(cert: identity.certificate, key: identity.key), Dtls.sockaddr("127.0.0.1", 0))
            var served: [DtlsConnection] = []
            server.accept { client, _ in served.append(client) }
            var asked: [DtlsPeer] = []
            for isKnown in [true, false] {
                var outcome: Result<DtlsConnection, DtlsError>?
                let client = try Dtls.createClient(
                    DtlsClientOption(), server.sockName(), timeout: 20_000,
                    onPeer: { question in
                        asked.append(question.peer)
                        let isPinned = isKnown && question.peer.fingerprint == fingerprint
                        _ = try? iosched.timer(after: 50) {
                            question.answer(isPinned ? .accepted : .refused(.badCertificate, reason: "not pinned"))
                        }
                    }
                ) { result, _ in outcome = result }
                while outcome == nil { try iosched.poll(timeout: 20_000) }
                #expect(asked.last?.verification.fault?.kind == .untrusted)
                #expect(asked.last?.chain.count == 1)
                if isKnown {
                    #expect(try outcome?.get().peer == client.peer)
                    client.close()
                } else {
                    #expect(throws: DtlsError.handshake(reason: "not pinned", certificate: nil)) {
                        _ = try outcome?.get()
                    }
                    #expect(client.peer?.fingerprint == fingerprint, "it is known all the same")
                }
            }
            // The server's handshake was done when the client looked at the certificate.
            while served.count < 2 || served[1].isEstablished { try iosched.poll(timeout: 20_000) }
            let error = #expect(throws: DtlsError.self) { try served[1].send("x") }
            #expect("\(error as Any)".contains("bad certificate"), "\(error as Any)")
            server.close()
        }
    }

    @Test(arguments: ForeignPeer.allCases) func `servers of other libraries are judged, and told`(
        _ foreign: ForeignPeer
    )
        async throws
    {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let fingerprint = try await Self.fingerprint(of: identity, in: authority.folder)
        let trusting = DtlsClientOption(rejectUnauthorized: true, ca: authority.certificate, server: "localhost")
        for isWelcome in [true, false] {
            let port = try ForeignPeer.freePort()
            let server = try await foreign.serve(identity, authority, port: port)
            try await onThread {
                let address = try Dtls.sockaddr("127.0.0.1", port)
                guard isWelcome else {
                    #expect(throws: DtlsError.handshake(reason: "not today", certificate: nil)) {
                        _ = try Dtls.createClient(trusting, address, timeout: 20_000) { _ in
                            .refused(.certificateUnknown, reason: "not today")
                        }
                    }
                    return
                }
                let client = try Dtls.createClient(trusting, address, timeout: 20_000) { peer in
                    peer.isVerified && peer.fingerprint == fingerprint ? .accepted : .refused()
                }
                #expect(client.peer?.certificate?.names == ["localhost", "127.0.0.1"])
                client.close()
            }
            if isWelcome { continue }
            try await eventually("the server has got the alert", details: server.output + server.errors) {
                let text = (server.output + server.errors).lowercased()
                // GnuTLS' server does not say which.
                return text.contains("certificate unknown") || text.contains("a tls fatal alert has been received")
            }
        }
    }

    @Test func `what is wrong with a server's certificate has a type`() async throws {
        let authority = try await TestAuthority()
        let good = try await authority.issue("server")
        let old = try await authority.issue("old", isExpired: true)
        for (identity, name, kind) in [
            (good, "elsewhere.example", DtlsVerificationFault.Kind.wrongName), (good, "127.0.0.9", .wrongName),
            (old, "localhost", .expired),
        ] {
            let server = try await EchoServer(DtlsServerOption(cert: identity.certificate, key: identity.key))
            let client = try await AsyncDtlsConnection.connect(
                DtlsClientOption(ca: authority.certificate, server: name), to: server.address)
            #expect(await client.peer?.verification.fault?.kind == kind)
            await client.close()
            try await server.stop()
        }
    }

    @Test func `a client's session is judged once more when it is resumed`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let server = try await EchoServer(DtlsServerOption(cert: identity.certificate, key: identity.key))
        var option = DtlsClientOption(
            rejectUnauthorized: true, ca: authority.certificate, server: "localhost", keepsSession: true)
        let first = try await AsyncDtlsConnection.connect(option, to: server.address) { _ in .accepted }
        option.session = await first.resumableSession
        let seen = Seen()
        for verdict in [DtlsPeerVerdict.accepted, .refused()] {
            do {
                let next = try await AsyncDtlsConnection.connect(option, to: server.address) { peer in
                    seen.append(peer)
                    return verdict
                }
                #expect(await next.agreement?.isResumed == true && verdict == .accepted)
                await next.close()
            } catch { #expect(verdict != .accepted, "\(error)") }
        }
        #expect(seen.peers.map(\.isResumed) == [true, true])
        #expect(seen.peers.allSatisfy { $0.isVerified && $0.names.dns == ["localhost"] && $0.chain.count == 1 })
        await first.close()
        try await server.stop()
    }
}

extension DtlsCertificate {
    fileprivate static func subjects(of chain: [[UInt8]]) -> [String] {
        chain.compactMap { DtlsCertificate(der: $0)?.subject }
    }
}
