import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEnd {
    /// `watch = true`: files that change on disk are taken up without a signal.
    struct WatchTests {
        let folder: TestFolder
        let certificates: CertificateMaker
        let listen: SocketAddress

        init() async throws {
            folder = try TestFolder()
            certificates = CertificateMaker(folder: folder)
            listen = try SocketAddress.freeOnOwnLoopback()
        }

        private static let reloaded = "configuration and certificates reloaded"

        private func move(_ from: String, _ to: String) throws {
            try #require(rename(folder.file(from), folder.file(to)) == 0)
        }

        private func copy(_ from: String, over to: String) throws {
            try FileManager.default.copyItem(atPath: from, toPath: folder.file("\(to).new"))
            try move("\(to).new", to)
        }

        private func expectServes(_ identity: Identity) async throws {
            let client = try SecureClient(to: listen, trust: identity.certificate, in: folder)
            try await client.exchange("hello")
            try await client.leave()
        }

        @Test func `a certificate and its key are taken up when both have been renamed into their places`() async throws
        {
            let first = try await certificates.selfSigned("first")
            let second = try await certificates.selfSigned("second")
            for (from, to) in [(first.certificate, "live.pem"), (first.privateKey, "live.key")] {
                try copy(from, over: to)
            }
            let live = Identity(certificate: folder.file("live.pem"), privateKey: folder.file("live.key"))
            let daemon = try await Daemon.start(
                "watch = true\n" + Service(listen: [listen], identity: live).text, in: folder)
            try await expectServes(first)
            // Without its key it is not taken up.
            try copy(second.certificate, over: "live.pem")
            try await daemon.logged("files that the configuration names have changed: they are read again")
            try await daemon.logged("reload failed: the previous configuration and certificates stay active")
            try await expectServes(first)
            try copy(second.privateKey, over: "live.key")
            try await daemon.logged(Self.reloaded)
            try await expectServes(second)
            try await daemon.stop()
        }

        /// Kubernetes has a folder with the files, a link "..data" to it, and a link to "..data/NAME" for each file; it
        /// renames another "..data" over the first.
        @Test func `files behind a symbolic link that is switched are taken up, again and again`() async throws {
            let identities = [
                try await certificates.selfSigned("first"), try await certificates.selfSigned("second"),
                try await certificates.selfSigned("third"),
            ]
            let manager = FileManager.default
            try manager.createDirectory(atPath: folder.file("secret"), withIntermediateDirectories: false)
            func publish(_ number: Int) throws {
                let version = "secret/..version\(number)"
                try manager.createDirectory(atPath: folder.file(version), withIntermediateDirectories: false)
                try manager.copyItem(
                    atPath: identities[number].certificate, toPath: folder.file("\(version)/tls.crt"))
                try manager.copyItem(atPath: identities[number].privateKey, toPath: folder.file("\(version)/tls.key"))
                try manager.createSymbolicLink(
                    atPath: folder.file("secret/..data_tmp"), withDestinationPath: "..version\(number)")
                try move("secret/..data_tmp", "secret/..data")
                if number > 0 { try manager.removeItem(atPath: folder.file("secret/..version\(number - 1)")) }
            }
            try publish(0)
            for name in ["tls.crt", "tls.key"] {
                try manager.createSymbolicLink(
                    atPath: folder.file("secret/\(name)"), withDestinationPath: "..data/\(name)")
            }
            let live = Identity(certificate: folder.file("secret/tls.crt"), privateKey: folder.file("secret/tls.key"))
            let daemon = try await Daemon.start(
                "watch = true\n" + Service(listen: [listen], identity: live).text, in: folder)
            try await expectServes(identities[0])
            for number in 1...2 {
                try publish(number)
                try await daemon.logged(Self.reloaded, count: number)
                try await expectServes(identities[number])
            }
            #expect(daemon.lines(with: "reload failed").isEmpty)
            try await daemon.stop()
        }

        @Test func `a file of pre-shared keys that is written in place is taken up, and a wrong one changes nothing`()
            async throws
        {
            let keys = (one: "00112233445566778899aabbccddeeff", two: "ffeeddccbbaa99887766554433221100")
            func write(_ text: String) throws {
                let file = try #require(fopen(folder.file("clients.psk"), "w"))
                fputs(text, file)
                fclose(file)
                chmod(folder.file("clients.psk"), 0o600)
            }
            try write("one:\(keys.one)\n")
            let service = """
                watch = true
                [service.echo]
                listen = "\(listen)"
                handler = "echo"
                psk.file = "clients.psk"

                """
            let daemon = try await Daemon.start(service, in: folder)
            let nobody = try await certificates.selfSigned("nobody")
            func client(_ identity: String, _ key: String) throws -> SecureClient {
                try SecureClient(
                    to: listen, trust: nobody.certificate, in: folder,
                    ["-psk_identity", identity, "-psk", key, "-cipher", "PSK-AES128-GCM-SHA256"])
            }
            let early = try client("one", keys.one)
            try await early.exchange("hello")
            try write("one:\(keys.one)\ntwo:123\n")
            try await daemon.logged("files that the configuration names have changed")
            try write("one:\(keys.one)\ntwo:\(keys.two)\n")
            try await daemon.logged(Self.reloaded)
            let late = try client("two", keys.two)
            try await late.exchange("hello")
            // Who is connected stays so.
            try await early.exchange("still here")
            for client in [early, late] { try await client.leave() }
            try await daemon.stop()
        }

        @Test func `without watch a change waits for SIGHUP, and a reload switches it on and off`() async throws {
            let first = try await certificates.selfSigned("first")
            let second = try await certificates.selfSigned("second")
            for (from, to) in [(first.certificate, "live.pem"), (first.privateKey, "live.key")] {
                try copy(from, over: to)
            }
            let live = Identity(certificate: folder.file("live.pem"), privateKey: folder.file("live.key"))
            let service = Service(listen: [listen], identity: live).text
            let daemon = try await Daemon.start(service, in: folder)
            try copy(second.certificate, over: "live.pem")
            try copy(second.privateKey, over: "live.key")
            try await expectServes(first)
            try daemon.reload("watch = true\n" + service)
            try await daemon.logged(Self.reloaded)
            try await expectServes(second)
            try copy(first.certificate, over: "live.pem")
            try copy(first.privateKey, over: "live.key")
            try await daemon.logged(Self.reloaded, count: 2)
            try await expectServes(first)
            try daemon.reload(service)
            try await daemon.logged(Self.reloaded, count: 3)
            #expect(daemon.lines(with: "files that the configuration names have changed").count == 1)
            try await daemon.stop()
        }
    }
}
