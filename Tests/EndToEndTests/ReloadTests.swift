import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEndCrowds {
    /// SIGHUP: a good configuration is taken up, a bad one changes nothing, and no client notices either.
    @Suite struct ReloadTests {
        let folder: TestFolder
        let certificates: CertificateMaker
        let identity: Identity
        let address: SocketAddress

        init() async throws {
            folder = try TestFolder()
            certificates = CertificateMaker(folder: folder)
            identity = try await certificates.selfSigned("old")
            address = try SocketAddress.freeOnOwnLoopback()
        }

        private var configuration: String { Service(listen: [address], identity: identity).text }

        /// The unit (OU) in the subject of the certificate that a new client is shown.
        private func servedCertificate(at address: SocketAddress) async throws -> String {
            let client = try Program(["openssl", "s_client", "-dtls1_2", "-connect", "\(address)"], in: folder)
            try await eventually("a certificate is shown", details: client.output + client.errors) {
                client.ending != nil || client.output.contains("Verify return code")
            }
            let subject = client.output.split(separator: "\n").first { $0.hasPrefix("subject=") }
            let unit = subject?.firstMatch(of: /OU ?= ?(\w+)/)?.output.1
            return String(try #require(unit, "no certificate: \(client.output)\(client.errors)"))
        }

        /// Replaces the certificate files' contents by another identity's.
        private func copy(_ other: Identity) throws {
            for (from, to) in [
                (other.certificate, identity.certificate), (other.privateKey, identity.privateKey),
            ] {
                try folder.write(String(contentsOfFile: from, encoding: .utf8), to: URL(filePath: to).lastPathComponent)
            }
        }

        @Test func `a private key that all may read is taken up once the configuration lets that be`() async throws {
            let daemon = try await Daemon.start(configuration, in: folder)
            try copy(try await certificates.selfSigned("new"))
            chmod(identity.privateKey, 0o644)
            daemon.program.signal(SIGHUP)
            try await daemon.logged(" error ", "every user may use", "(mode 644)")
            #expect(try await servedCertificate(at: address) == "old")
            try daemon.reload("allow_world_readable_secrets = true\n" + configuration)
            try await daemon.logged("configuration and certificates reloaded")
            #expect(daemon.logs(" warning ", "allow_world_readable_secrets = true lets that be"))
            #expect(try await servedCertificate(at: address) == "new")
            try await daemon.stop()
        }

        @Test func `a renewed certificate is served and connections go on`() async throws {
            let daemon = try await Daemon.start(configuration, in: folder)
            let client = try SecureClient(to: address, trust: identity.certificate, in: folder)
            try await client.exchange("before")
            #expect(try await servedCertificate(at: address) == "old")
            try copy(try await certificates.selfSigned("new", kind: .rsa))
            daemon.program.signal(SIGHUP)
            try await daemon.logged("reloaded")
            #expect(try await servedCertificate(at: address) == "new")
            try await client.exchange("after")
            try await daemon.stop()
        }

        @Test func `an invalid configuration changes nothing`() async throws {
            let daemon = try await Daemon.start(configuration, in: folder)
            let client = try SecureClient(to: address, trust: identity.certificate, in: folder)
            try await client.exchange("before")

            // Half of a certificate, as when a reload meets a file that is being written.
            let whole = try String(contentsOfFile: identity.certificate, encoding: .utf8)
            let name = URL(filePath: identity.certificate).lastPathComponent
            try folder.write(String(whole.prefix(whole.count / 2)), to: name)
            daemon.program.signal(SIGHUP)
            try await daemon.logged(" error ", "service.echo.certificate")
            #expect(try await servedCertificate(at: address) == "old")
            try folder.write(whole, to: name)

            for (broken, named) in [
                (configuration.replacing("handler", with: "handle"), "handle"),
                (configuration + "\n[service.second]\nhandler = \"echo\"\n", "second"),
                (String(configuration.prefix(configuration.count / 2)), "dtlsd.toml"),
                ("", "dtlsd.toml"),
            ] {
                let before = daemon.lines(with: " error ").count
                try daemon.reload(broken)
                try await eventually("the reload fails", details: daemon.program.errors) {
                    daemon.lines(with: " error ").dropFirst(before).contains { $0.contains(named) }
                }
                #expect(try await servedCertificate(at: address) == "old")
                try await client.exchange("after a bad \(named) \(before)")
            }
            #expect(!daemon.logs("reloaded"))

            try daemon.reload(configuration)
            try await daemon.logged("reloaded")
            try await client.exchange("after a good one")
            try await daemon.stop()
        }

        @Test func `listeners open and close`() async throws {
            let daemon = try await Daemon.start(configuration, in: folder)
            let client = try SecureClient(to: address, trust: identity.certificate, in: folder)
            try await client.exchange("before")
            let moved = try SocketAddress.freeOnOwnLoopback()
            try daemon.reload(Service(listen: [moved], identity: identity).text)
            try await daemon.logged("reloaded")
            let newcomer = try SecureClient(to: moved, trust: identity.certificate, in: folder)
            try await newcomer.exchange("at the new place")
            try await client.exchange("at the old place")
            try await client.leave()
            // As long as anybody has it, it cannot be had by somebody else.
            try await eventually("nobody has the old port") { (try? DatagramSocket(at: address)) != nil }
            try await daemon.stop()
        }

        @Test func `the handler of new connections changes`() async throws {
            let socket = try DatagramSocket.onOwnLoopback()
            let numbering = Backend.numbering(on: socket)
            let daemon = try await Daemon.start(configuration, in: folder)
            let old = try SecureClient(to: address, trust: identity.certificate, in: folder)
            try await old.exchange("echo")
            let table = "[service.echo.forward]\nbackend = \"udp:\(socket.local)\""
            try daemon.reload(
                Service(listen: [address], identity: identity, handler: "forward", more: table).text)
            try await daemon.logged("reloaded")
            let new = try SecureClient(to: address, trust: identity.certificate, in: folder)
            try await new.exchange("forward", answer: "0:forward")
            try await old.exchange("still echo")
            #expect(!old.output.contains("0:still echo"))
            try await daemon.stop()
            try await numbering.stop()
        }

        /// Clients come, stay and go while the configuration is good, bad and half-written in turn.
        @Test func `under load no connection ends and no handshake fails`() async throws {
            let daemon = try await Daemon.start("workers = 2\n" + configuration, in: folder)
            let certificate = identity.certificate
            let trust = folder.file("trust.pem")
            try FileManager.default.copyItem(atPath: certificate, toPath: trust)
            let residents = try (0..<10).map { _ in try SecureClient(to: address, trust: trust, in: folder) }
            for resident in residents { try await resident.exchange("here") }

            let good = "workers = 2\n" + configuration
            let whole = try String(contentsOfFile: certificate, encoding: .utf8)
            let name = URL(filePath: certificate).lastPathComponent
            for round in 0..<6 {
                let newcomers = try (0..<8).map { _ in
                    let client = try SecureClient(to: address, trust: trust, in: folder)
                    client.say("newcomer of round \(round)")
                    return client
                }
                let before = (
                    good: daemon.lines(with: "reloaded").count, bad: daemon.lines(with: "reload failed").count
                )
                switch round % 3 {
                case 0: try daemon.reload(good)
                case 1: try daemon.reload(good.replacing("handler", with: "handle"))
                default:
                    try folder.write(String(whole.dropLast(100)), to: name)
                    try daemon.reload(good)
                }
                for resident in residents { try await resident.exchange("round \(round)") }
                for newcomer in newcomers { try await newcomer.hears("newcomer of round \(round)") }
                try await newcomers.leave()
                try await eventually("the reload of round \(round) has ended", details: daemon.program.errors) {
                    round % 3 == 0
                        ? daemon.lines(with: "reloaded").count > before.good
                        : daemon.lines(with: "reload failed").count > before.bad
                }
                try folder.write(whole, to: name)
            }
            #expect(residents.allSatisfy { $0.program.ending == nil })
            #expect(!daemon.logs("handshake failed"))
            try await daemon.stop()
        }
    }
}
