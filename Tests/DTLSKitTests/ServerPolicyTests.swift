import Foundation
import TestSupport
import Testing

@testable import DTLSKit

/// What a server's options say beside its certificate.
@Suite(.serialized) struct ServerPolicyTests {
    /// Connects to a server with these options, exchanges a message, and closes.
    private static func agree(
        _ client: DtlsClientOption, _ server: DtlsServerOption
    ) async throws -> (agreement: DtlsAgreement, peer: DtlsPeer?) {
        let server = try await EchoServer(server)
        do {
            let client = try await AsyncDtlsConnection.connect(client, to: server.address, timeout: 20_000)
            try await client.send("hello")
            #expect(try await client.receive() == Array("hello".utf8))
            let result = (try #require(await client.agreement), await client.peer)
            await client.close()
            try await server.stop()
            return result
        } catch {
            try await server.stop()
            throw error
        }
    }

    private static func refusal(_ client: DtlsClientOption, _ server: DtlsServerOption) async throws -> String {
        let error = await #expect(throws: DtlsError.self) { _ = try await agree(client, server) }
        guard case .handshake(let reason, _) = error else {
            Issue.record("\(String(describing: error))")
            return ""
        }
        return reason
    }

    private static func invalid(_ option: DtlsServerOption) async throws -> String {
        do {
            try await EchoServer(option).stop()
            return "nothing"
        } catch {
            return "\(error)"
        }
    }

    private static func failure(_ client: DtlsClientOption, _ address: DtlsAddress) async -> String {
        do {
            try await AsyncDtlsConnection.connect(client, to: address, timeout: 5_000).close()
            return "nothing"
        } catch {
            return "\(error)"
        }
    }

    @Test func `a server chooses protocol, cipher suite and group by its own order`() async throws {
        let identity = try await TestAuthority().issue("server")
        var option = DtlsServerOption(cert: identity.certificate, key: identity.key)
        option.applicationProtocols = ["coap", "chat"]
        option.ciphers = "ECDHE+CHACHA20:ECDHE+AESGCM"
        option.groups = "P-384:P-256"
        let agreement = try await Self.agree(DtlsClientOption(applicationProtocols: ["chat", "coap"]), option).agreement
        #expect(agreement.applicationProtocol == "coap" && agreement.group == "secp384r1")
        #expect(agreement.cipher == "ECDHE-ECDSA-CHACHA20-POLY1305")
        let other = try await Self.agree(DtlsClientOption(ciphers: "ECDHE+AESGCM", groups: "P-256"), option).agreement
        #expect(other.applicationProtocol == nil && other.group == "secp256r1" && other.cipher.contains("GCM"))
        #expect(
            try await Self.refusal(DtlsClientOption(applicationProtocols: ["other"]), option)
                .contains("no application protocol"))
        #expect(try await Self.refusal(DtlsClientOption(ciphers: "ECDHE+AESCCM"), option).contains("handshake failure"))
    }

    @Test func `a server speaks the versions of its options`() async throws {
        let identity = try await TestAuthority().issue("server")
        var option = DtlsServerOption(cert: identity.certificate, key: identity.key)
        let old = DtlsClientOption(
            ciphers: "ECDHE+AES:@SECLEVEL=0", minimumVersion: .dtls10, maximumVersion: .dtls10)
        #expect(try await Self.refusal(old, option).contains("protocol version"))
        option.minimumVersion = .dtls10
        #expect(try await Self.agree(old, option).agreement.version == "DTLSv1")
        #expect(try await Self.agree(DtlsClientOption(), option).agreement.version == "DTLSv1.2")
        option.maximumVersion = .dtls10
        #expect(try await Self.agree(old, option).agreement.version == "DTLSv1")
        option.minimumVersion = .dtls12
        #expect(try await Self.invalid(option).contains("above the maximum"))
    }

    @Test(arguments: ForeignPeer.allCases) func `clients of other libraries get the server's protocol`(
        _ foreign: ForeignPeer
    ) async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        var option = DtlsServerOption(cert: identity.certificate, key: identity.key)
        option.applicationProtocols = ["coap"]
        option.groups = "P-384"
        let server = try await EchoServer(option)
        let client = try Program(
            foreign == .openSSL
                ? ["openssl", "s_client", "-dtls", "-nbio", "-alpn", "other,coap"]
                    + ["-connect", "127.0.0.1:\(server.address.port)"]
                : ["gnutls-cli", "--udp", "-p", "\(server.address.port)", "--alpn", "other", "--alpn", "coap"]
                    + ["--x509cafile", authority.file, "localhost"],
            in: authority.folder)
        client.send("hello\n")
        try await eventually("the echo comes back", details: client.output + client.errors) {
            client.output.contains("hello")
        }
        let text = client.output.lowercased()
        #expect(text.contains(foreign == .openSSL ? "alpn protocol: coap" : "application protocol: coap"), "\(text)")
        #expect(text.contains("secp384r1"), "\(text)")
        client.closeInput()
        try await server.stop()
    }

    @Test func `rules let clients in and keep them out`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let sensor = try await authority.issue("sensor", names: "DNS:a.sensors.example")
        let broken = try await authority.issue("broken", names: "DNS:b.sensors.example")
        let other = try await authority.issue("other", names: "DNS:a.pumps.example")
        func client(_ own: TestIdentity) -> DtlsClientOption {
            DtlsClientOption(cert: own.certificate, key: own.key)
        }
        var option = DtlsServerOption(ca: authority.certificate, cert: identity.certificate, key: identity.key)
        option.clientRules = DtlsClientRules(allow: ["dns:*.sensors.example"], deny: ["cn:broken"])
        _ = try await Self.agree(client(sensor), option)
        for own in [broken, other] { #expect(try await Self.refusal(client(own), option).contains("access denied")) }
        // A name of the server's has the same rules.
        let server = try await EchoServer(option) {
            try $0.addcert(DtlsCertificateOption(name: "other.example", cert: identity.certificate, key: identity.key))
        }
        var asking = client(broken)
        asking.server = "other.example"
        #expect(await Self.failure(asking, server.address).contains("access denied"))
        try await server.stop()

        option.clientRules = DtlsClientRules(allow: ["host:x"])
        #expect(try await Self.invalid(option).contains("clientRules.allow: \"host:x\": expected one of"))
        option.ca = nil
        option.clientRules = DtlsClientRules(deny: ["cn:x"])
        #expect(try await Self.invalid(option).contains("no client is asked for a certificate"))
        // Without a CA, fingerprints are what counts.
        let text = try await Program.run(
            ["openssl", "x509", "-in", other.certificateFile, "-noout", "-fingerprint", "-sha256"],
            in: authority.folder)
        let digits = try #require(text.split(separator: "=").last).trimmingCharacters(in: .whitespacesAndNewlines)
        option.clientRules = DtlsClientRules(allow: ["sha256:\(digits)"])
        _ = try await Self.agree(client(other), option)
        #expect(try await Self.refusal(client(sensor), option).contains("access denied"))
        option.clientRules.allow = ["cn:other"]
        #expect(try await Self.invalid(option).contains("fingerprints only"))
    }

    @Test func `certificates on a revocation list are refused, and a list that is wanted has to be there`() async throws
    {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let good = try await authority.issue("good")
        let bad = try await authority.issue("bad")
        var option = DtlsServerOption(ca: authority.certificate, cert: identity.certificate, key: identity.key)
        option.clientRules.revocationLists = [try await authority.revocationList(revoking: [bad])]
        _ = try await Self.agree(DtlsClientOption(cert: good.certificate, key: good.key), option)
        let client = DtlsClientOption(cert: bad.certificate, key: bad.key)
        #expect(try await Self.refusal(client, option).contains("certificate revoked"))
        option.clientCertificates = .judged
        let server = try await EchoServer(option) { $0.onPeer(nil) }
        _ = try await AsyncDtlsConnection.connect(client, to: server.address)
        try await server.stop()
        // The list of another authority says nothing.
        option.clientCertificates = .automatic
        option.clientRules.revocationLists = [try await TestAuthority().revocationList(revoking: [])]
        #expect(
            try await Self.refusal(DtlsClientOption(cert: good.certificate, key: good.key), option)
                .contains("certificate unknown"))
        option.clientRules.revocationLists = ["no list"]
        #expect(try await Self.invalid(option).contains("revocation list"))
    }

    @Test func `an OCSP response is stapled for the clients that ask`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let other = try await authority.issue("other")
        var option = DtlsServerOption(cert: identity.certificate, key: identity.key)
        option.ocspResponse = try await authority.ocspResponse(about: identity)
        let server = try await EchoServer(option)
        let client = try Program(
            [
                "openssl", "s_client", "-dtls", "-nbio", "-status", "-CAfile", authority.file, "-connect",
                "127.0.0.1:\(server.address.port)",
            ], in: authority.folder)
        try await eventually("it shows the response", details: client.output + client.errors) {
            client.output.contains("OCSP Response Status: successful") && client.output.contains("Cert Status: good")
        }
        client.closeInput()
        try await server.stop()
        option.ocspResponse = try await authority.ocspResponse(about: other)
        #expect(try await Self.invalid(option).contains("ocspResponse: the OCSP response is about another certificate"))
        option.ocspResponse = [1, 2, 3]
        #expect(try await Self.invalid(option).contains("not an OCSP response"))
    }

    @Test func `servers that share ticket keys resume each other's sessions, and keys can be replaced`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let keys = (1...3).map { [UInt8](repeating: UInt8($0), count: 80) }
        var option = DtlsServerOption(cert: identity.certificate, key: identity.key, sessionCache: 0)
        option.ticketKeys = [keys[0]]
        let one = try await AsyncDtlsServer(option, on: Dtls.sockaddr("127.0.0.1", 0))
        let other = try await AsyncDtlsServer(option, on: Dtls.sockaddr("127.0.0.1", 0))
        let stranger = try await AsyncDtlsServer(
            DtlsServerOption(cert: identity.certificate, key: identity.key, sessionCache: 0),
            on: Dtls.sockaddr("127.0.0.1", 0))
        var client = DtlsClientOption(
            rejectUnauthorized: true, ca: authority.certificate, server: "localhost", keepsSession: true)
        func resumes(_ client: DtlsClientOption, _ server: AsyncDtlsServer) async throws -> (Bool?, DtlsSession?) {
            let connection = try await AsyncDtlsConnection.connect(client, to: server.sockName(), timeout: 20_000)
            defer { Task { await connection.close() } }
            return (await connection.agreement?.isResumed, await connection.resumableSession)
        }
        client.session = try await resumes(client, one).1
        #expect(try await resumes(client, other).0 == true)
        #expect(try await resumes(client, stranger).0 == false)
        // A new key seals, the old one still opens.
        try await other.setTicketKeys([keys[1], keys[0]])
        let renewed = try await resumes(client, other)
        #expect(renewed.0 == true)
        try await other.setTicketKeys([keys[2], keys[1]])
        #expect(try await resumes(client, other).0 == false)
        client.session = renewed.1
        #expect(try await resumes(client, other).0 == true)
        for wrong in [[], [[1]], [keys[0], keys[0]]] {
            await #expect(throws: DtlsError.self) { try await other.setTicketKeys(wrong) }
        }
        for server in [one, other, stranger] { await server.close() }
    }

    @Test(.enabled(if: DtlsPublicKey.unavailability == nil))
    func `peers show raw public keys in the place of certificates`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let device = try await authority.issue("device")
        let other = try await authority.issue("other")
        func known(_ name: String, _ identity: TestIdentity) async throws -> DtlsPublicKey {
            try DtlsPublicKey(
                name: name,
                pem: try await Program.run(
                    ["openssl", "pkey", "-in", identity.keyFile, "-pubout"], in: authority.folder))
        }
        var option = DtlsServerOption(cert: "", key: identity.key)
        option.showsRawPublicKey = true
        option.clientPublicKeys = [try await known("device-7", device)]
        option.asksAboutPeers = true
        let names = Seen()
        let server = try await EchoServer(option) {
            $0.onPeer { question in
                names.append(question.peer.rawPublicKeyName ?? "")
                question.answer(.accepted)
            }
        }
        var client = DtlsClientOption(rejectUnauthorized: true, key: device.key, keepsSession: true)
        client.showsRawPublicKey = true
        client.serverPublicKeys = [try await known("the server", identity)]
        for _ in 0..<2 {
            let connection = try await AsyncDtlsConnection.connect(client, to: server.address)
            #expect(await connection.peer?.rawPublicKeyName == "the server")
            #expect(await connection.peer?.isVerified == true)
            client.session = await connection.resumableSession
            await connection.close()
        }
        // Where a session is resumed, the client's handshake is done before the server asks.
        try await eventually("the program was asked about both clients") { names.all == ["device-7", "device-7"] }
        client.session = nil
        client.key = other.key
        #expect(await Self.failure(client, server.address).contains("access denied"))
        client.key = device.key
        client.serverPublicKeys = [try await known("another", other)]
        #expect(await Self.failure(client, server.address).contains("not among those that are known"))
        try await server.stop()
    }

    @Test(.enabled(if: DtlsPublicKey.unavailability != nil))
    func `where OpenSSL has no raw public keys, the error says which version has`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        var option = DtlsServerOption(cert: identity.certificate, key: identity.key)
        option.showsRawPublicKey = true
        #expect(try await Self.invalid(option).contains("need OpenSSL 3.2 or later"))
        var client = DtlsClientOption(rejectUnauthorized: true)
        client.serverPublicKeys = [try DtlsPublicKey(name: "x", fingerprint: [UInt8](repeating: 1, count: 32))]
        #expect(await Self.failure(client, try Dtls.sockaddr("127.0.0.1", 9)).contains("need OpenSSL 3.2 or later"))
    }

    @Test func `options that cannot be are refused`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let option = DtlsServerOption(cert: identity.certificate, key: identity.key)
        func changed(_ change: (inout DtlsServerOption) -> Void) -> DtlsServerOption {
            var option = option
            change(&option)
            return option
        }
        for (option, text) in [
            (changed { $0.applicationProtocols = [""] }, "has 0 bytes; it must have 1 to 255"),
            (changed { $0.ciphers = "NONE" }, "cipher list"),
            (changed { $0.groups = "P-13" }, "OpenSSL knows no such groups"),
            (changed { $0.ticketKeys = [[1, 2]] }, "ticket key 1 has 2 bytes; it must have 80"),
            (changed { $0.srtpProfiles = [.aes128Gcm, .aes128Gcm] }, "srtpProfiles has a profile twice"),
            (changed { $0.cert = "" }, "certificate"),
        ] { #expect(try await Self.invalid(option).contains(text)) }
        #expect(throws: DtlsError.self) { try DtlsPublicKey(name: "", fingerprint: [UInt8](repeating: 1, count: 32)) }
        #expect(throws: DtlsError.self) { try DtlsPublicKey(name: "a", fingerprint: [1]) }
        #expect(throws: DtlsError.self) { try DtlsPublicKey(name: "a", pem: "no key") }
    }

    /// All options, and all that was added.
    @Test func `a task gets all of a server's options`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        var option = DtlsServerOption(
            name: "n", ca: authority.certificate, cert: identity.certificate, key: identity.key, ipcert: true,
            handshakeTimeout: 5_000, connectionID: 9, sessionTickets: false, sessionCache: 10_000, idleTimeout: 200,
            presharedKeys: [DtlsPresharedKey(identity: [65], key: [1])], asksForPresharedKeys: true,
            clientCertificates: .judged, asksAboutPeers: true)
        option.ciphers = "ECDHE+AESGCM:PSK"
        option.groups = "P-256"
        option.minimumVersion = .dtls10
        option.maximumVersion = .dtls12
        option.applicationProtocols = ["a", "b"]
        option.clientRules = DtlsClientRules(
            allow: ["cn:a"], deny: ["cn:b"], revocationLists: [try await authority.revocationList(revoking: [])])
        option.exportsKeys = true
        option.srtpProfiles = [.aes128Gcm, .aes128CmSha1With80]
        option.ocspResponse = try await authority.ocspResponse(about: identity)
        option.ciphers = "ECDHE+AESGCM:PSK:@SECLEVEL=0"
        let one = try ServerIdentity(option)
        try one.add(
            DtlsCertificateOption(
                name: "a.example", cert: identity.certificate, key: identity.key, ocspResponse: option.ocspResponse))
        try one.setTicketKeys([[UInt8](repeating: 1, count: 80), [UInt8](repeating: 2, count: 80)])
        let other = try ServerIdentity.decode(one.encode())
        #expect(other.option == option && other.added == one.added)
        #expect(other.encode() == one.encode())
    }

    private final class Seen: @unchecked Sendable {
        private let lock = NSLock()
        private var names: [String] = []
        var all: [String] { lock.withLock { names } }
        func append(_ name: String) { lock.withLock { names.append(name) } }
    }
}

extension TestAuthority {
    /// A revocation list of this CA, PEM.
    func revocationList(revoking revoked: [TestIdentity]) async throws -> String {
        let name = UUID().uuidString
        try folder.write("", to: "\(name).database")
        let configuration = try folder.write(
            "[ca]\ndefault_ca = a\n[a]\ndatabase = \(folder.file("\(name).database"))\n", to: "\(name).conf")
        let ca =
            ["openssl", "ca", "-config", configuration, "-md", "sha256", "-cert", file]
            + ["-keyfile", folder.file("ca.key")]
        for identity in revoked { try await Program.run(ca + ["-revoke", identity.certificateFile], in: folder) }
        return try await Program.run(ca + ["-gencrl", "-crldays", "30"], in: folder)
    }

    /// An OCSP response of this CA: the certificate is good.
    func ocspResponse(about identity: TestIdentity) async throws -> [UInt8] {
        let name = UUID().uuidString
        let serial = try await Program.run(
            ["openssl", "x509", "-in", identity.certificateFile, "-noout", "-serial"], in: folder)
        let number = serial.dropFirst("serial=".count).filter(\.isHexDigit)
        let index = try folder.write("V\t400101000000Z\t\t\(number)\tunknown\t/CN=whatever\n", to: "\(name).index")
        let request = folder.file("\(name).request")
        try await Program.run(
            ["openssl", "ocsp", "-issuer", file, "-cert", identity.certificateFile, "-reqout", request], in: folder)
        let response = folder.file("\(name).response")
        try await Program.run(
            ["openssl", "ocsp", "-index", index, "-CA", file, "-rsigner", file, "-rkey", folder.file("ca.key")]
                + ["-reqin", request, "-ndays", "7", "-respout", response], in: folder)
        return [UInt8](try Data(contentsOf: URL(fileURLWithPath: response)))
    }
}
