import LinuxSystem
import TestSupport
import Testing

extension EndToEndClientMode {
    /// config/examples/coap.toml and coap-client.toml with libcoap's client and server.
    @Suite struct CoapExampleTests {
        let folder: TestFolder
        private static let greeting = "This is a test server made with libcoap"

        init() throws { folder = try TestFolder() }

        @Test(arguments: ["openssl", "gnutls"])
        func `devices reach a plain server`(_ library: String) async throws {
            let identity = try await CertificateMaker(folder: folder).selfSigned("coap")
            try folder.write("sensor-7:swordfish-for-sensor-7\n", to: "coap.psk")
            let backend = try SocketAddress.freeOnOwnLoopback()
            let server = try await ForeignProgram.serve(
                ["coap-server-notls", "-A", backend.host, "-p", "\(backend.port)", "-v", "1"], on: backend, in: folder)
            let address = try SocketAddress.freeOnOwnLoopback()
            let example = try ExampleConfiguration("coap.toml", listen: [address], backend: backend)
            let daemon = try await Daemon.start(example.text, in: folder)

            let client = ["coap-client-\(library)", "-B", "10", "-m", "get"]
            let resource = "coaps://\(address)/"
            let withKey = try await Program.run(
                client + ["-u", "sensor-7", "-k", "swordfish-for-sensor-7", resource], in: folder)
            #expect(withKey.contains(Self.greeting))
            try await daemon.logged("connection opened", "CLIENT=sensor-7", "CIPHER=ECDHE-PSK")
            let withCertificate = try await Program.run(client + ["-R", identity.certificate, resource], in: folder)
            #expect(withCertificate.contains(Self.greeting))
            try await daemon.logged("connection opened", "CIPHER=ECDHE-ECDSA")
            try await daemon.stop()
            #expect(server.ending == nil)
        }

        @Test(arguments: ["openssl", "gnutls"])
        func `a plain client reaches a secure server`(_ library: String) async throws {
            try folder.write("sensor-7:swordfish-for-sensor-7\n", to: "coap.psk")
            // libcoap's server speaks DTLS on the port after the plain one.
            let plain = try SocketAddress.freeOnOwnLoopback()
            let secure = plain.with(port: plain.port + 1)
            let server = try await ForeignProgram.serve(
                [
                    "coap-server-\(library)", "-A", plain.host, "-p", "\(plain.port)", "-k", "swordfish-for-sensor-7",
                    "-h", "CoAP",
                ],
                on: secure, in: folder)
            let address = try SocketAddress.freeOnOwnLoopback()
            let example = try ExampleConfiguration("coap-client.toml", listen: [address], connect: secure)
            let daemon = try await Daemon.start(example.text, in: folder)

            let client = ["coap-client-notls", "-B", "10", "-m", "get", "coap://\(address)/"]
            #expect(try await Program.run(client, in: folder).contains(Self.greeting))
            try await daemon.logged("connection to the server opened", "SERVICE=coap")
            try await daemon.stop()
            #expect(server.ending == nil)
        }
    }
}
