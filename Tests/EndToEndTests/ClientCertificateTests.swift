import LinuxSystem
import Testing

extension EndToEnd {
    @Suite struct ClientCertificateTests {
        @Test func onlyClientsWithACertificateOfTheAuthorityGetIn() async throws {
            let folder = try TestFolder()
            let certificates = CertificateMaker(folder: folder)
            let identity = try await certificates.selfSigned("server")
            let authority = try await certificates.selfSigned("authority")
            let member = try await certificates.issued("member", by: authority)
            let stranger = try await certificates.issued("stranger", by: certificates.selfSigned("elsewhere"))
            let address = try Endpoint.freeOnOwnLoopback()
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
    }
}
