import LinuxSystem
import TestSupport
import Testing

extension EndToEndHandshakes {
    @Suite struct ClientCertificateTests {
        @Test func `only clients with a certificate of the authority get in`() async throws {
            let folder = try TestFolder()
            let certificates = CertificateMaker(folder: folder)
            let identity = try await certificates.selfSigned("server")
            let authority = try await certificates.selfSigned("authority")
            let member = try await certificates.issued("member", by: authority)
            let stranger = try await certificates.issued("stranger", by: certificates.selfSigned("elsewhere"))
            let address = try SocketAddress.freeOnOwnLoopback()
            let daemon = try await Daemon.start(
                Service(listen: [address], identity: identity, more: "ca = \"\(authority.certificate)\"").text,
                in: folder)

            func connect(_ own: Identity?) throws -> SecureClient {
                let arguments = own.map { ["-cert", $0.certificate, "-key", $0.privateKey] } ?? []
                return try SecureClient(to: address, trust: identity.certificate, in: folder, arguments)
            }
            try await connect(member).exchange("let me in")
            for refused in [try connect(nil), try connect(stranger)] {
                refused.say("let me in")
                #expect(try await refused.program.ended() != .exited(0))
                #expect(refused.output.isEmpty)
            }
            try await daemon.logged("handshake", "notice", count: 2)
            try await connect(member).exchange("me again")
            try await daemon.stop()
        }

        /// The ticket has names and fingerprint of the certificate, which is 600 bytes larger.
        @Test func `a client that resumes is known as before, by a small ticket`() async throws {
            let folder = try TestFolder()
            let certificates = CertificateMaker(folder: folder)
            let identity = try await certificates.selfSigned("server")
            let authority = try await certificates.selfSigned("authority")
            let member = try await certificates.issued("member", by: authority)
            let address = try SocketAddress.freeOnOwnLoopback()
            let daemon = try await Daemon.start(
                Service(listen: [address], identity: identity, more: "ca = \"\(authority.certificate)\"").text,
                in: folder)
            let session = folder.file("session")
            for arguments in [["-sess_out", session], ["-sess_in", session]] {
                let client = try SecureClient(
                    to: address, trust: identity.certificate, in: folder,
                    ["-cert", member.certificate, "-key", member.privateKey] + arguments)
                try await client.exchange("hello")
                try await client.leave()
            }
            let lines = try await daemon.logged("connection opened", count: 2)
            #expect(lines.map { $0.contains("RESUMED=yes") } == [false, true])
            let names = lines.compactMap { $0.firstMatch(of: /CLIENT=\S+/)?.output }
            #expect(names.count == 2 && names.first == names.last, "\(lines)")
            let prints = lines.compactMap { $0.firstMatch(of: /CLIENT_FINGERPRINT=[0-9a-f]{64}/)?.output }
            #expect(prints.count == 2 && prints.first == prints.last, "\(lines)")
            let text = try await Program.run(["openssl", "sess_id", "-in", session, "-noout", "-text"], in: folder)
            let ticket = text.split(separator: "\n").filter { $0.contains(/[0-9a-f]{4} - [0-9a-f]{2}/) }
            #expect((10..<30).contains(ticket.count), "16 bytes a line: \(text)")
            try await daemon.stop()
        }

        /// A session that began when nobody was asked for a certificate is no way around the authority.
        @Test func `an old session does not get around a new authority`() async throws {
            let folder = try TestFolder()
            let certificates = CertificateMaker(folder: folder)
            let identity = try await certificates.selfSigned("server")
            let authority = try await certificates.selfSigned("authority")
            let member = try await certificates.issued("member", by: authority)
            let address = try SocketAddress.freeOnOwnLoopback()
            let session = folder.file("session")
            let service = Service(listen: [address], identity: identity)
            let daemon = try await Daemon.start(service.text, in: folder)

            let early = try SecureClient(
                to: address, trust: identity.certificate, in: folder, ["-sess_out", session])
            try await early.exchange("nobody asks for a certificate")
            #expect(folder.read("session").contains("SSL SESSION"))
            let back = try SecureClient(to: address, trust: identity.certificate, in: folder, ["-sess_in", session])
            try await back.exchange("back again")
            #expect(daemon.logs("connection opened", "RESUMED=yes"), "the session is of no use: \(daemon.log)")

            var restricted = service
            restricted.more = "ca = \"\(authority.certificate)\""
            try daemon.reload(restricted.text)
            try await daemon.logged("reloaded")
            let late = try SecureClient(to: address, trust: identity.certificate, in: folder, ["-sess_in", session])
            late.say("let me in")
            try await eventually("the client is refused, or let in", details: late.transcript) {
                late.program.ending != nil || !late.output.isEmpty
            }
            #expect(late.output.isEmpty)
            #expect(late.program.ending != .exited(0))
            try await SecureClient(
                to: address, trust: identity.certificate, in: folder,
                ["-cert", member.certificate, "-key", member.privateKey]
            ).exchange("I have one")
            try await daemon.stop()
        }
    }
}
