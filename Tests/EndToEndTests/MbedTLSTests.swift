import LinuxSystem
import TestSupport
import Testing

extension EndToEnd {
    /// What clients with Mbed TLS do and those with OpenSSL cannot.
    @Suite struct MbedTLSTests {
        let folder: TestFolder
        let identity: Identity
        let address: SocketAddress

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
            address = try SocketAddress.freeOnOwnLoopback()
        }

        @Test func `an empty record leaves the connection as it is`() async throws {
            let daemon = try await Daemon.start(Service(listen: [address], identity: identity).text, in: folder)
            let client = try await MbedTLSPeer.client(
                to: address, in: folder, steps: ["send:one", "receive", "empty", "empty", "send:two", "receive"])
            #expect(try await client.finished() == ["handshake done", "received 3: one", "received 3: two"])
            try await daemon.logged("closed by the peer", "DATAGRAMS_IN=4", "DATAGRAMS_OUT=2", "BYTES_IN=6")
            try await daemon.stop()
        }

        @Test func `empty records keep a connection from being idle`() async throws {
            let daemon = try await Daemon.start(
                Service(listen: [address], identity: identity, more: "idle_timeout = 2").text,
                in: folder)
            let client = try await MbedTLSPeer.client(
                to: address, in: folder,
                steps: Array(repeating: ["empty", "sleep:500"], count: 8).flatMap(\.self) + ["send:late", "receive"])
            #expect(try await client.finished() == ["handshake done", "received 4: late"])
            try await daemon.stop()
        }

        @Test func `empty records count for the limits of traffic`() async throws {
            let more = "[service.echo.limits]\ndatagrams_per_second = 5"
            let daemon = try await Daemon.start(
                Service(listen: [address], identity: identity, more: more).text, in: folder)
            let client = try await MbedTLSPeer.client(
                to: address, in: folder, steps: Array(repeating: "empty", count: 100))
            #expect(try await client.finished() == ["handshake done"])
            try await daemon.logged("datagrams are dropped", "REASON=datagrams_per_second")
            try await daemon.stop()
        }

        @Test func `a backend's empty datagram goes to the client as an empty record`() async throws {
            let socket = try DatagramSocket.onOwnLoopback()
            let backend = Backend(on: [socket]) { [[], $0.bytes] }
            let daemon = try await Daemon.start(
                Service.forwarding(to: "udp:\(socket.local)", listen: address, identity: identity).text, in: folder)
            let client = try await MbedTLSPeer.client(
                to: address, in: folder, steps: ["send:one", "receive", "send:two", "receive"])
            #expect(try await client.finished() == ["handshake done", "received 3: one", "received 3: two"])
            try await daemon.logged("closed by the peer", "DATAGRAMS_OUT=4", "BYTES_OUT=6")
            try await daemon.stop()
            try await backend.stop()
        }

        /// The backend answers with as many bytes as it is asked for.
        @Test(arguments: [(1, 512), (2, 1_024)])
        func `an answer larger than the client's max_fragment_length is dropped, and the connection goes on`(
            _ code: Int, _ limit: Int
        ) async throws {
            let socket = try DatagramSocket.onOwnLoopback()
            let backend = Backend(on: [socket]) { [Array(repeating: UInt8(ascii: "x"), count: Int($0.text) ?? 0)] }
            let daemon = try await Daemon.start(
                Service.forwarding(to: "udp:\(socket.local)", listen: address, identity: identity).text, in: folder)
            let client = try await MbedTLSPeer.client(
                to: address, in: folder, options: ["mfl=\(code)"],
                steps: ["send:\(limit)", "receive", "send:\(limit + 1)", "send:1200", "send:2", "receive"])
            let output = try await client.finished()
            #expect(
                output.first == "handshake done" && output.dropFirst().first?.hasPrefix("received \(limit): x") == true)
            #expect(output.last == "received 2: xx")
            #expect(output.count == 3)
            try await daemon.logged("closed by the peer", "DATAGRAMS_OUT=2", "DATAGRAMS_TOO_LARGE=2")
            try await daemon.stop()
            try await backend.stop()
        }
    }
}

extension EndToEndClientMode {
    /// dtlsd as a client of servers with Mbed TLS.
    @Suite struct MbedTLSServerTests {
        let fixture: ClientFixture

        init() async throws { fixture = try await ClientFixture() }

        @Test func `a server's empty records leave the connection as it is`() async throws {
            let server = try await MbedTLSPeer.server(at: fixture.back, as: fixture.identity, in: fixture.folder)
            let daemon = try await Daemon.start(fixture.client(), in: fixture.folder)
            let sender = try PlainSender(to: fixture.front)
            for number in 0..<3 {
                try await sender.exchange("message \(number)", details: daemon.program.errors)
            }
            #expect(sender.receive() == nil)
            #expect(server.output.filter { $0.hasPrefix("handshake") } == ["handshake done"])
            try await daemon.stop()
        }

        @Test func `a local sender's empty datagram goes to the server as an empty record`() async throws {
            let server = try await fixture.serverDaemon()
            let daemon = try await Daemon.start(fixture.client(), in: fixture.folder)
            let sender = try PlainSender(to: fixture.front)
            // The first waits for the connection.
            sender.send("")
            try await sender.exchange("one", details: daemon.program.errors)
            sender.send("")
            try await sender.exchange("two", details: daemon.program.errors)
            try await daemon.stop()
            try await server.logged("closed by the peer", "DATAGRAMS_IN=4", "DATAGRAMS_OUT=2")
            try await server.stop()
        }

        /// The ticket has the client's certificate in it, and Mbed TLS does not put hellos together that come in
        /// several datagrams.
        @Test func `a session whose ticket is too large for the hello's datagram is not offered`() async throws {
            let folder = fixture.folder
            let authority = try await fixture.certificates.authority("clients")
            let names = (0..<40).map { "DNS:a-long-name-of-a-client-\($0).example.com" }.joined(separator: ",")
            let certificate = try await fixture.certificates.issued(
                "client", by: authority, extensions: ["subjectAltName=\(names)"])
            let server = try await MbedTLSPeer.server(
                at: fixture.back, as: fixture.identity, in: folder, clientAuthority: authority.certificate)
            let daemon = try await Daemon.start(
                fixture.client(
                    more: "server_name = \"localhost\"\ncertificate = \"\(certificate.certificate)\"\n"
                        + "private_key = \"\(certificate.privateKey)\""), in: folder)
            let sender = try PlainSender(to: fixture.front)
            for number in 1...3 {
                try await sender.exchange("bye \(number)", details: daemon.program.errors)
                try await daemon.logged("connection to the server closed", count: number)
            }
            #expect(server.output.filter { $0.hasPrefix("handshake") } == Array(repeating: "handshake done", count: 3))
            try await daemon.logged("connection to the server opened", "RESUMED=no", count: 3)
            try await daemon.stop()
        }
    }
}
