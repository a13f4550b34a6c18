import DTLSKit
import Foundation
import Testing

@Suite(.serialized) struct OptionTests {
    @Test func `constants have the documented values`() {
        #expect(Dtls.AF_INET == 2)
        #expect(Dtls.AF_INET6 == 10)
        #expect(Dtls.INADDR_NONE == "255.255.255.255")
        #expect(Dtls.INADDR_LOOPBACK == "127.0.0.1")
        #expect(Dtls.INADDR_ANY == "0.0.0.0")
        #expect(Dtls.INADDR_BROADCAST == "255.255.255.255")
        #expect(Dtls.IN6ADDR_ANY == "::")
        #expect(Dtls.IN6ADDR_LOOPBACK == "::1")
        #expect(Dtls.IN6ADDR_NODELOCAL_ALLNODES == "ff01::1")
        #expect(Dtls.IN6ADDR_LINKLOCAL_ALLNODES == "ff02::1")
        #expect(Dtls.IN6ADDR_LINKLOCAL_ALLROUTERS == "ff01::2")
    }

    @Test func `addresses that are none are refused`() throws {
        let four = try Dtls.sockaddr(Dtls.INADDR_ANY, 3000)
        #expect(four.domain == Dtls.AF_INET && four.addr == "0.0.0.0" && four.port == 3000)
        let six = try Dtls.sockaddr6(Dtls.IN6ADDR_LOOPBACK, 65_535)
        #expect(six.domain == Dtls.AF_INET6 && six.addr == "::1" && six.port == 65_535)
        #expect("\(six)" == "[::1]:65535")
        for wrong in [
            { try Dtls.sockaddr("::1", 1) }, { try Dtls.sockaddr6("127.0.0.1", 1) },
            { try Dtls.sockaddr("localhost", 1) }, { try Dtls.sockaddr("127.0.0.1", 65_536) },
            { try Dtls.sockaddr("127.0.0.1", -1) },
        ] as [() throws -> DtlsAddress] {
            let error = #expect(throws: DtlsError.self) { _ = try wrong() }
            guard case .invalid = error else {
                Issue.record("\(String(describing: error))")
                return
            }
        }
    }

    @Test func `options have the documented defaults`() {
        let server = DtlsServerOption(cert: "")
        #expect(server.name == nil && server.ca == nil && server.key == nil && server.passwd == nil)
        #expect(!server.ipcert && !server.renegotiate && server.handshakeTimeout == 60_000)
        #expect(server.sessionTickets && server.sessionCache == 1 << 20)
        let client = DtlsClientOption()
        #expect(!client.rejectUnauthorized && !client.loadDefaultCerts && client.ca == nil && client.server == nil)
        #expect(!client.renegotiate && client.handshakeTimeout == 60_000)
        #expect(client.cert == nil && client.key == nil && client.passwd == nil)
    }

    @Test(arguments: [-1, 1, 8_191, 1 << 31]) func `a session cache out of range is refused`(_ bytes: Int) async throws
    {
        let identity = try await TestAuthority().issue("server")
        try await onThread {
            let option = DtlsServerOption(cert: identity.certificate, key: identity.key, sessionCache: bytes)
            #expect(throws: DtlsError.self) { try Dtls.createServer(option, Dtls.sockaddr("127.0.0.1", 0)) }
        }
    }

    @Test(arguments: [1_999, 120_001, -1, 0]) func `a handshake timeout out of range is refused`(_ timeout: Int)
        async throws
    {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        try await onThread {
            let option = DtlsServerOption(
                cert: identity.certificate, key: identity.key, handshakeTimeout: timeout)
            #expect(throws: DtlsError.self) { try Dtls.createServer(option, Dtls.sockaddr("127.0.0.1", 0)) }
            #expect(throws: DtlsError.self) {
                try Dtls.createClient(DtlsClientOption(handshakeTimeout: timeout), Dtls.sockaddr("127.0.0.1", 9))
            }
        }
    }

    @Test func `a socket option is set, or throws and changes nothing`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        try await onThread {
            let option = DtlsServerOption(cert: identity.certificate, key: identity.key)
            let server = try Dtls.createServer(option, Dtls.sockaddr6(Dtls.IN6ADDR_LOOPBACK, 0))
            defer { server.close() }
            try server.setRecvBufferSize(65_536)
            // Linux reports twice what was set.
            #expect(try server.getRecvBufferSize() == 131_072)
            try server.setSendBufferSize(32_768)
            #expect(try server.getSendBufferSize() == 65_536)
            for size in [1_023, 16_777_217, -1, Int.max] {
                #expect(throws: DtlsError.self) { try server.setRecvBufferSize(size) }
                #expect(throws: DtlsError.self) { try server.setSendBufferSize(size) }
            }
            #expect(try server.getRecvBufferSize() == 131_072)
            #expect(try server.getSendBufferSize() == 65_536)

            try server.setTTL(64)
            for hops in [-1, 256] { #expect(throws: DtlsError.self) { try server.setTTL(hops) } }

            let port = try server.sockName().port
            try server.setIPv6Only(true)
            try server.setIPv6Only(false)
            #expect(try server.sockName().port == port)
            #expect(try server.getRecvBufferSize() == 131_072, "a new socket has the options of the old one")

            let error = #expect(throws: DtlsError.self) { try server.bindToDevice("no-such-device") }
            #expect(error?.errno == ENODEV || error?.errno == EPERM)
            #expect(throws: DtlsError.self) { try server.bindToDevice(String(repeating: "x", count: 16)) }
            let noPeer = #expect(throws: DtlsError.self) { _ = try server.peerName() }
            #expect(noPeer?.errno == ENOTCONN)
            #expect(server.error() == 0)
            #expect(server.sockFd >= 0)
            server.close()
            #expect(server.sockFd == -1)
            #expect(throws: DtlsError.notOpen) { _ = try server.sockName() }
            #expect(throws: DtlsError.notOpen) { try server.setTTL(1) }
        }
    }

    @Test func `credentials that cannot be used are refused`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let other = try await authority.issue("other")
        let encrypted = try await authority.encrypt(identity, password: "right")
        try await onThread {
            let address = try Dtls.sockaddr("127.0.0.1", 0)
            func expectCredentials(_ option: DtlsServerOption, _ part: String) {
                let error = #expect(throws: DtlsError.self) { _ = try Dtls.createServer(option, address) }
                guard case .credentials(let reason) = error else {
                    Issue.record("\(String(describing: error))")
                    return
                }
                #expect(reason.contains(part))
            }
            expectCredentials(DtlsServerOption(cert: "nonsense", key: identity.key), "certificate")
            expectCredentials(DtlsServerOption(cert: identity.certificate, key: "nonsense"), "private key")
            expectCredentials(DtlsServerOption(cert: identity.certificate), "private key")
            expectCredentials(DtlsServerOption(cert: identity.certificate, key: other.key), "does not belong")
            expectCredentials(DtlsServerOption(cert: identity.certificate, key: encrypted), "passphrase")
            expectCredentials(
                DtlsServerOption(cert: identity.certificate, key: encrypted, passwd: "wrong"), "passphrase")
            expectCredentials(
                DtlsServerOption(ca: "nonsense", cert: identity.certificate, key: identity.key), "CA")
            let server = try Dtls.createServer(
                DtlsServerOption(cert: identity.certificate, key: encrypted, passwd: "right"), address)
            server.close()
            let together = try Dtls.createServer(
                DtlsServerOption(cert: identity.certificate + identity.key), address)
            #expect(throws: DtlsError.self) {
                try together.addcert(DtlsCertificateOption(name: "", cert: identity.certificate, key: identity.key))
            }
            #expect(throws: DtlsError.self) {
                try together.addcert(DtlsCertificateOption(name: "a.example", cert: "nonsense"))
            }
            together.close()
        }
    }

    @Test func `a port in use is refused`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let server = try await EchoServer(DtlsServerOption(cert: identity.certificate, key: identity.key))
        try await onThread {
            let option = DtlsServerOption(cert: identity.certificate, key: identity.key)
            let error = #expect(throws: DtlsError.self) { _ = try Dtls.createServer(option, server.address) }
            #expect(error?.errno == EADDRINUSE)
        }
        try await server.stop()
    }

    private func message(_ work: @escaping @Sendable () throws -> Void) async throws -> String {
        try await onThread {
            do {
                try work()
                return "nothing was thrown"
            } catch {
                return "\(error)"
            }
        }
    }

    @Test func `names that no client can ask for are refused`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let names = [
            "", "a b", "*", "a.*.example", "*.*.example", ".example", "example.", "bücher.example", "-a", "a\nb",
            String(repeating: "a", count: 64), String(repeating: "a.", count: 127) + "a",
        ]
        for name in names {
            let refusal = try await message {
                let server = try Dtls.createServer(
                    DtlsServerOption(cert: identity.certificate, key: identity.key), Dtls.sockaddr("127.0.0.1", 0))
                defer { server.close() }
                try server.addcert(
                    DtlsCertificateOption(name: name, cert: identity.certificate, key: identity.key))
            }
            #expect(refusal.contains("is none that clients can ask for"), "\(name): \(refusal)")
            let server = try await message {
                try Dtls.createClient(DtlsClientOption(server: name), Dtls.sockaddr("127.0.0.1", 9)) { _, _ in }
            }
            #expect(server.contains("neither an IP address nor a host name"), "\(name): \(server)")
        }
    }

    @Test func `a certificate without a key is said to lack one`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let expected = "there is no private key: key is not given, and cert contains none"
        let asClient = try await message {
            try Dtls.createClient(DtlsClientOption(cert: identity.certificate), Dtls.sockaddr("127.0.0.1", 9)) { _, _ in
            }
        }
        #expect(asClient == expected)
        let asServer = try await message {
            _ = try Dtls.createServer(DtlsServerOption(cert: identity.certificate), Dtls.sockaddr("127.0.0.1", 0))
        }
        #expect(asServer == expected)
        let added = try await message {
            let server = try Dtls.createServer(
                DtlsServerOption(cert: identity.certificate + identity.key), Dtls.sockaddr("127.0.0.1", 0))
            defer { server.close() }
            try server.addcert(DtlsCertificateOption(name: "a.example", cert: identity.certificate))
        }
        #expect(added == expected)
    }

    @Test func `what was got of a buffer's size is said`() async throws {
        func limit(_ name: String) throws -> Int {
            let text = try String(contentsOfFile: "/proc/sys/net/core/\(name)_max", encoding: .utf8)
            return try #require(Int(text.trimmingCharacters(in: .whitespacesAndNewlines)))
        }
        let (receive, send) = (try limit("rmem"), try limit("wmem"))
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        try await onThread {
            let server = try Dtls.createServer(
                DtlsServerOption(cert: identity.certificate, key: identity.key), Dtls.sockaddr("127.0.0.1", 0))
            #expect(try server.setRecvBufferSize(16 << 20) == min(16 << 20, receive))
            #expect(try server.setSendBufferSize(16 << 20) == min(16 << 20, send))
            #expect(try server.setRecvBufferSize(1_024) == 1_024)
            #expect(try server.setSendBufferSize(8_192) == 8_192)
            server.close()
        }
    }
}
