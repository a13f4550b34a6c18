import DTLSKit
import Foundation
import Synchronization
import TestSupport
import Testing

/// Keys for other protocols, and the log of secrets.
@Suite(.serialized) struct DerivedKeyTests {
    private final class Lines: Sendable {
        private let lines = Mutex<[String]>([])
        var all: [String] { lines.withLock { $0 } }
        func append(_ line: String) { lines.withLock { $0.append(line) } }
    }

    /// A connection between a server and a client of this thread.
    private static func connect(
        _ server: DtlsServerOption, _ client: DtlsClientOption, _ body: (DtlsConnection, DtlsConnection) throws -> Void
    ) throws {
        let server = try Dtls.createServer(server, Dtls.sockaddr("127.0.0.1", 0))
        var served: DtlsConnection?
        server.accept { client, _ in served = client }
        var failure: DtlsError?
        let client = try Dtls.createClient(client, server.sockName()) { result, _ in
            if case .failure(let error) = result { failure = error }
        }
        while served == nil || !client.isEstablished {
            if let failure { throw failure }
            try iosched.poll(timeout: 20_000)
        }
        try body(try #require(served), client)
        client.close()
        server.close()
    }

    private static func hexadecimal(_ bytes: [UInt8]) -> String {
        bytes.map { String(UInt16(0x100) + UInt16($0), radix: 16).dropFirst() }.joined().uppercased()
    }

    @Test(arguments: ["ECDHE+AESGCM", "ECDHE+AES:!AESGCM:!AESCCM:@SECLEVEL=0"])
    func `both sides derive the same keys, and others for another use`(_ ciphers: String) async throws {
        let identity = try await TestAuthority().issue("server")
        try await onThread {
            var server = DtlsServerOption(cert: identity.certificate, key: identity.key)
            server.exportsKeys = true
            server.ciphers = ciphers
            var client = DtlsClientOption()
            client.exportsKeys = true
            client.ciphers = ciphers
            try Self.connect(server, client) { served, client in
                var seen: Set<[UInt8]> = []
                for (label, context) in [
                    ("EXPERIMENTAL one", nil), ("EXPERIMENTAL one", []), ("EXPERIMENTAL one", [1]),
                    ("EXPERIMENTAL two", nil), ("EXPERIMENTAL two", [UInt8](repeating: 7, count: 496)),
                ] as [(String, [UInt8]?)] {
                    let keys = try client.exportKeyingMaterial(label: label, context: context, length: 40)
                    #expect(keys.count == 40)
                    #expect(try served.exportKeyingMaterial(label: label, context: context, length: 40) == keys)
                    #expect(seen.insert(keys).inserted)
                }
                for (label, context, length) in [
                    ("", [], 1), ("master secret", [], 1), ("key expansion", [], 1), ("é", [], 1), ("a", [], 0),
                    ("a", [], 4_097), ("a", [UInt8](repeating: 0, count: 512), 1),
                ] {
                    let error = #expect(throws: DtlsError.self) {
                        _ = try client.exportKeyingMaterial(label: label, context: context, length: length)
                    }
                    guard case .invalid = error else {
                        Issue.record("\(error as Any)")
                        continue
                    }
                }
                #expect(client.srtpKeys == nil)
                client.close()
                #expect(throws: DtlsError.notOpen) { _ = try client.exportKeyingMaterial(label: "a", length: 1) }
            }
        }
    }

    @Test func `without having been asked for, the secret is not kept`() async throws {
        let identity = try await TestAuthority().issue("server")
        try await onThread {
            try Self.connect(DtlsServerOption(cert: identity.certificate, key: identity.key), DtlsClientOption()) {
                served, client in
                for connection in [served, client] {
                    let error = #expect(throws: DtlsError.self) {
                        _ = try connection.exportKeyingMaterial(label: "a", length: 1)
                    }
                    #expect("\(error as Any)".contains("set exportsKeys"))
                }
            }
        }
    }

    @Test(arguments: ForeignPeer.allCases) func `clients of other libraries derive the same keys`(
        _ foreign: ForeignPeer
    )
        async throws
    {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        var option = DtlsServerOption(cert: identity.certificate, key: identity.key)
        option.exportsKeys = true
        let server = try await AsyncDtlsServer(option, on: Dtls.sockaddr("127.0.0.1", 0))
        let port = try await server.sockName().port
        let client = try Program(
            foreign == .openSSL
                ? ["openssl", "s_client", "-dtls", "-nbio", "-connect", "127.0.0.1:\(port)"]
                    + ["-keymatexport", "EXPERIMENTAL x", "-keymatexportlen", "32"]
                : ["gnutls-cli", "--udp", "-p", "\(port)", "--x509cafile", authority.file, "localhost"]
                    + ["--keymatexport", "EXPERIMENTAL x", "--keymatexportsize", "32"],
            in: authority.folder)
        var clients = server.connections.makeAsyncIterator()
        let connection = try #require(try await clients.next())
        let keys = Self.hexadecimal(
            try await connection.exportKeyingMaterial(label: "EXPERIMENTAL x", length: 32))
        try await eventually("it prints the keys", details: client.output + client.errors) {
            client.output.uppercased().contains(keys)
        }
        client.closeInput()
        await connection.close()
        await server.close()
    }

    @Test(arguments: DtlsSrtpProfile.allCases) func `both sides agree on SRTP and its keys`(_ profile: DtlsSrtpProfile)
        async throws
    {
        let identity = try await TestAuthority().issue("server")
        try await onThread {
            var server = DtlsServerOption(cert: identity.certificate, key: identity.key)
            server.srtpProfiles = [profile]
            var client = DtlsClientOption()
            client.srtpProfiles = DtlsSrtpProfile.allCases
            try Self.connect(server, client) { served, client in
                let (theirs, ours) = (try #require(served.srtpKeys), try #require(client.srtpKeys))
                #expect(theirs.profile == profile && ours.profile == profile)
                #expect(theirs.localKey == ours.remoteKey && theirs.remoteKey == ours.localKey)
                #expect(theirs.localSalt == ours.remoteSalt && theirs.remoteSalt == ours.localSalt)
                #expect(Set([ours.localKey, ours.remoteKey]).count == 2 && ours.localKey.count == profile.keyLength)
                #expect(ours.localSalt.count == profile.saltLength && ours.remoteSalt.count == profile.saltLength)
            }
            // A peer without the extension, or with other profiles, gets a connection without.
            client.srtpProfiles = DtlsSrtpProfile.allCases.filter { $0 != profile }
            try Self.connect(server, client) { served, client in
                #expect(served.srtpKeys == nil && client.srtpKeys == nil)
            }
            try Self.connect(server, DtlsClientOption()) { served, _ in #expect(served.srtpKeys == nil) }
        }
    }

    @Test func `OpenSSL's client has the same keys for SRTP`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        var option = DtlsServerOption(cert: identity.certificate, key: identity.key)
        option.srtpProfiles = [.aes128CmSha1With80]
        let server = try await AsyncDtlsServer(option, on: Dtls.sockaddr("127.0.0.1", 0))
        let client = try Program(
            [
                "openssl", "s_client", "-dtls", "-nbio", "-connect", "127.0.0.1:\(try await server.sockName().port)",
                "-use_srtp", "SRTP_AES128_CM_SHA1_32:SRTP_AES128_CM_SHA1_80", "-keymatexport", "EXTRACTOR-dtls_srtp",
                "-keymatexportlen", "60",
            ], in: authority.folder)
        var clients = server.connections.makeAsyncIterator()
        let connection = try #require(try await clients.next())
        let keys = try #require(await connection.srtpKeys)
        // RFC 5764, section 4.2: the client's key, the server's, and their salts.
        let material = Self.hexadecimal(keys.remoteKey + keys.localKey + keys.remoteSalt + keys.localSalt)
        try await eventually("it prints the keys", details: client.output + client.errors) {
            client.output.uppercased().contains(material)
        }
        #expect(client.output.contains("SRTP_AES128_CM_SHA1_80"))
        client.closeInput()
        await connection.close()
        await server.close()
    }

    @Test func `the key log has a line for each connection, the same on both sides`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let (theirs, ours) = (Lines(), Lines())
        var option = DtlsServerOption(cert: identity.certificate, key: identity.key)
        option.keyLog = DtlsKeyLog { theirs.append($0) }
        var client = DtlsClientOption(server: "other.example")
        client.keyLog = DtlsKeyLog { ours.append($0) }
        let server = try await EchoServer(option) {
            try $0.addcert(DtlsCertificateOption(name: "other.example", cert: identity.certificate, key: identity.key))
        }
        let connection = try await AsyncDtlsConnection.connect(client, to: server.address)
        await connection.close()
        #expect(ours.all.count == 1 && ours.all == theirs.all)
        let words = ours.all.first?.split(separator: " ") ?? []
        #expect(words.map(\.count) == ["CLIENT_RANDOM".count, 64, 96] && words.first == "CLIENT_RANDOM")
        let file = authority.folder.file("keys")
        let program = try Program(
            [
                "openssl", "s_client", "-dtls", "-nbio", "-connect", "127.0.0.1:\(server.address.port)", "-keylogfile",
                file,
            ], in: authority.folder)
        program.send("hello\n")
        try await eventually("the echo comes back", details: program.output + program.errors) {
            program.output.contains("hello")
        }
        #expect(theirs.all.count == 2 && authority.folder.read("keys").contains(theirs.all.last ?? "?"))
        program.closeInput()
        try await server.stop()
    }
}
