import LinuxSystem
import TestSupport
import Testing

extension EndToEndClientMode {
    /// config/examples/dns.toml and dns-client.toml, with dnsmasq behind the one and drill before the other: there is
    /// no other DNS over DTLS to try them with.
    @Suite struct DnsExampleTests {
        let near: TestFolder
        let far: TestFolder

        init() throws { (near, far) = (try TestFolder(), try TestFolder()) }

        @Test func `DNS questions are answered through the pair`() async throws {
            let identity = try await CertificateMaker(folder: far).selfSigned("dns")
            let resolver = try SocketAddress.freeOnOwnLoopback()
            // An answer that no 1,500 bytes hold: 20 texts of 200 characters.
            let texts = (0..<20).map { "\($0) " + String(repeating: "x", count: 200) }
            let dnsmasq = try await ForeignProgram.serve(
                ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--log-facility=-"]
                    + ["--port=\(resolver.port)", "--listen-address=\(resolver.host)", "--bind-interfaces"]
                    + ["--no-resolv", "--no-hosts", "--user=", "--group=", "--edns-packet-max=8192"]
                    + [
                        "--address=/coap.example/192.0.2.7", "--txt-record=big.example,\(texts.joined(separator: ","))",
                    ],
                on: resolver, in: far)
            let secure = try SocketAddress.free(on: "127.0.0.1")
            let server = try await Daemon.start(
                ExampleConfiguration("dns.toml", listen: [secure], backend: resolver).text, in: far)
            let address = try SocketAddress.freeOnOwnLoopback()
            let client = try await Daemon.start(
                ExampleConfiguration("dns-client.toml", listen: [address], connect: secure).text, in: near,
                // The example trusts the authorities of the system.
                environment: ["SSL_CERT_FILE": identity.certificate])

            let drill = ["drill", "-b", "8192", "-p", "\(address.port)", "@\(address.host)"]
            try await ForeignProgram.run(drill + ["coap.example", "A"], until: "192.0.2.7", in: near)
            let answer = try await ForeignProgram.run(drill + ["big.example", "TXT"], until: "ANSWER: 1", in: near)
            #expect(texts.allSatisfy(answer.contains))
            // Each question comes from a port of its own. With one more than there are workers at the near side, which
            // keep their sessions for themselves, one at least is asked over a resumed session.
            for _ in 0...client.workers.count { try await Program.run(drill + ["coap.example", "A"], in: near) }
            try await server.logged("connection opened", "RESUMED=yes")
            try await client.stop()
            try await server.stop()
            #expect(dnsmasq.ending == nil)
        }
    }
}
