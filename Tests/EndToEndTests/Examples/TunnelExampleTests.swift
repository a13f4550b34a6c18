import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEndClientMode {
    /// config/examples/tunnel.toml and tunnel-client.toml, with plain CoAP through them.
    @Suite struct TunnelExampleTests {
        let near: TestFolder
        let far: TestFolder

        init() throws { (near, far) = (try TestFolder(), try TestFolder()) }

        @Test func `any UDP service passes through the pair`() async throws {
            let farIdentity = try await CertificateMaker(folder: far).selfSigned("far")
            let nearIdentity = try await CertificateMaker(folder: near).selfSigned("near")
            try FileManager.default.copyItem(atPath: farIdentity.certificate, toPath: near.file("far.pem"))
            try FileManager.default.copyItem(atPath: nearIdentity.certificate, toPath: far.file("near.pem"))
            let backend = try SocketAddress.freeOnOwnLoopback()
            let server = try await ForeignProgram.serve(
                ["coap-server-notls", "-A", backend.host, "-p", "\(backend.port)", "-d", "10", "-v", "1"], on: backend,
                in: far)
            let secure = try SocketAddress.free(on: "127.0.0.1")
            let farDaemon = try await Daemon.start(
                ExampleConfiguration("tunnel.toml", listen: [secure], backend: backend).text, in: far)
            let address = try SocketAddress.freeOnOwnLoopback()
            let nearDaemon = try await Daemon.start(
                ExampleConfiguration("tunnel-client.toml", listen: [address], connect: secure).text, in: near)

            let client = ["coap-client-notls", "-B", "30"]
            let text = String(repeating: "0123456789", count: 2_000)
            try near.write(text, to: "payload")
            let resource = "coap://\(address)/stored"
            try await Program.run(client + ["-m", "put", "-f", near.file("payload"), resource], in: near)
            let stored = try await Program.run(client + ["-m", "get", resource], in: near)
            #expect(stored.trimmingCharacters(in: .newlines) == text)
            try await farDaemon.logged("connection opened", "CLIENT=localhost")
            try await nearDaemon.stop()
            try await farDaemon.stop()
            #expect(server.ending == nil)
        }
    }
}
