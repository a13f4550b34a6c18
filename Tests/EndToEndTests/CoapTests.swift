import LinuxSystem
import TestSupport
import Testing

extension EndToEnd {
    /// libcoap's client over DTLS, and its server behind the daemon, which knows no DTLS.
    @Suite struct CoapTests {
        let folder: TestFolder

        init() throws { folder = try TestFolder() }

        @Test(arguments: [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("127.0.0.1", "::1")])
        func `a CoAP client reaches a CoAP server`(_ host: String, _ backendHost: String) async throws {
            let identity = try await CertificateMaker(folder: folder).selfSigned("server")
            let backend = try SocketAddress.free(on: backendHost)
            let server = try Program(
                ["coap-server-notls", "-A", backend.host, "-p", "\(backend.port)", "-d", "10", "-v", "1"], in: folder)
            try await eventually(
                "coap-server is there", details: server.errors
            ) { ProcessTable.localPorts(of: server.pid).contains(backend.port) }
            let address = try SocketAddress.free(on: host)
            let daemon = try await Daemon.start(
                Service.forwarding(to: "udp:\(backend)", listen: address, identity: identity).text, in: folder)

            let client = ["coap-client-openssl", "-B", "30", "-R", identity.certificate]
            let greeting = try await Program.run(client + ["-m", "get", "coaps://\(address)/"], in: folder)
            #expect(greeting.contains("This is a test server made with libcoap"))
            // A resource of more than one block: several datagrams each way over one connection.
            let text = String(repeating: "0123456789", count: 300)
            try folder.write(text, to: "payload")
            let resource = "coaps://\(address)/stored"
            try await Program.run(client + ["-m", "put", "-f", folder.file("payload"), resource], in: folder)
            let stored = try await Program.run(client + ["-m", "get", resource], in: folder)
            #expect(stored.trimmingSuffix("\n") == text)
            try await daemon.stop()
        }
    }
}

extension String {
    fileprivate func trimmingSuffix(_ suffix: String) -> String {
        hasSuffix(suffix) ? String(dropLast(suffix.count)) : self
    }
}
