import LinuxSystem
import TestSupport
import Testing

extension EndToEndClientMode {
    /// config/examples/radius.toml and radius-client.toml with radsecproxy, FreeRADIUS and its client.
    @Suite struct RadiusExampleTests {
        let folder: TestFolder

        init() throws { folder = try TestFolder() }

        /// radclient → radsecproxy → DTLS → dtlsd → FreeRADIUS.
        @Test func `requests over DTLS reach a plain server`() async throws {
            let maker = CertificateMaker(folder: folder)
            let identity = try await maker.selfSigned("radius")
            let client = try await maker.selfSigned("radius-clients")
            let backend = try SocketAddress.freeOnOwnLoopback()
            let radius = FreeRadius(folder: folder)
            let server = try await radius.serve(on: backend)
            let address = try SocketAddress.freeOnOwnLoopback()
            let example = try ExampleConfiguration("radius.toml", listen: [address], backend: backend)
            let daemon = try await Daemon.start(example.text, in: folder)

            let front = try SocketAddress.freeOnOwnLoopback()
            let proxy = try await radsecproxy(
                """
                ListenUDP \(front)
                tls default {
                    CACertificateFile \(identity.certificate)
                    CertificateFile \(client.certificate)
                    CertificateKeyFile \(client.privateKey)
                }
                client 127.0.0.0/8 {
                    type udp
                    secret testing123
                }
                server dtlsd {
                    host \(address.host)
                    port \(address.port)
                    type dtls
                    secret radius/dtls
                    CertificateNameCheck off
                    tls default
                }
                realm * {
                    server dtlsd
                    accountingServer dtlsd
                }
                """, on: front)
            try await daemon.logged("connection opened", "SERVICE=radius")
            let accepted = try await radius.request("bob", "hello", to: front, secret: "testing123", answer: "Accept")
            #expect(accepted.contains("Reply-Message = \"Hello, bob\""))
            try await radius.request("bob", "goodbye", to: front, secret: "testing123", answer: "Reject")
            try await daemon.stop()
            #expect(server.ending == nil && proxy.ending == nil)
        }

        /// radclient → dtlsd → DTLS → radsecproxy, which answers by itself.
        @Test func `plain requests reach a server over DTLS`() async throws {
            let maker = CertificateMaker(folder: folder)
            let server = try await maker.selfSigned("radius-server")
            let client = try await maker.selfSigned("radius")
            let secure = try SocketAddress.free(on: "127.0.0.1")
            let proxy = try await radsecproxy(
                """
                ListenDTLS \(secure)
                tls default {
                    CACertificateFile \(client.certificate)
                    CertificateFile \(server.certificate)
                    CertificateKeyFile \(server.privateKey)
                }
                client 127.0.0.0/8 {
                    type dtls
                    secret radius/dtls
                    CertificateNameCheck off
                    tls default
                }
                realm * {
                    replymessage "nobody may come in"
                    accountingResponse on
                }
                """, on: secure)
            let (authentication, accounting) = (
                try SocketAddress.freeOnOwnLoopback(), try SocketAddress.freeOnOwnLoopback()
            )
            let example = try ExampleConfiguration(
                "radius-client.toml", listen: [authentication, accounting], connect: secure)
            let daemon = try await Daemon.start(example.text, in: folder)

            let radius = FreeRadius(folder: folder)
            try radius.writeDictionary()
            let rejected = try await radius.request(
                "bob", "hello", to: authentication, secret: "radius/dtls", answer: "Reject")
            #expect(rejected.contains("nobody may come in"))
            try await radius.account("bob", to: accounting, secret: "radius/dtls")
            try await daemon.stop()
            #expect(proxy.ending == nil)
        }

        private func radsecproxy(_ configuration: String, on address: SocketAddress) async throws -> Program {
            let file = try folder.write(configuration + "\n", to: "radsecproxy.conf")
            return try await ForeignProgram.serve(
                ["radsecproxy", "-f", "-d", "2", "-i", folder.file("radsecproxy.pid"), "-c", file], on: address,
                in: folder)
        }
    }
}

/// A RADIUS server that knows one user, and its client.
private struct FreeRadius {
    let folder: TestFolder

    /// Both need the names of the attributes.
    func writeDictionary() throws { try folder.write("$INCLUDE /usr/share/freeradius/dictionary\n", to: "dictionary") }

    func serve(on address: SocketAddress) async throws -> Program {
        try writeDictionary()
        try folder.write("bob Cleartext-Password := \"hello\"\n    Reply-Message := \"Hello, bob\"\n", to: "users")
        try folder.write(configuration(address), to: "radiusd.conf")
        return try await ForeignProgram.serve(
            ["freeradius", "-X", "-d", folder.path, "-n", "radiusd"], on: address, in: folder)
    }

    @discardableResult
    func request(
        _ name: String, _ password: String, to address: SocketAddress, secret: String, answer: String
    ) async throws -> String {
        try await send(
            "User-Name = \"\(name)\", User-Password = \"\(password)\", Message-Authenticator = 0x00", "auth", address,
            secret, answer: "Received Access-\(answer)")
    }

    func account(_ name: String, to address: SocketAddress, secret: String) async throws {
        try await send(
            "User-Name = \"\(name)\", Acct-Status-Type = Start, Acct-Session-Id = \"1\"", "acct", address, secret,
            answer: "Received Accounting-Response")
    }

    @discardableResult
    private func send(
        _ attributes: String, _ kind: String, _ address: SocketAddress, _ secret: String, answer: String
    ) async throws -> String {
        try await ForeignProgram.run(
            ["radclient", "-D", folder.path, "-x", "-r", "3", "-t", "3", "\(address)", kind, secret], until: answer,
            in: folder, input: attributes + "\n")
    }

    private func configuration(_ address: SocketAddress) -> String {
        """
        prefix = /usr
        libdir = /usr/lib/freeradius
        localstatedir = \(folder.path)
        logdir = \(folder.path)
        raddbdir = \(folder.path)
        run_dir = \(folder.path)
        max_request_time = 30
        hostname_lookups = no
        log {
            destination = stdout
        }
        security {
            allow_vulnerable_openssl = yes
        }
        client loopback {
            ipaddr = 127.0.0.0/8
            secret = radius/dtls
            require_message_authenticator = no
        }
        modules {
            files {
                usersfile = \(folder.path)/users
            }
            pap {
            }
        }
        server default {
            listen {
                type = auth
                ipaddr = \(address.host)
                port = \(address.port)
            }
            authorize {
                files
                pap
            }
            authenticate {
                Auth-Type PAP {
                    pap
                }
            }
        }

        """
    }
}
