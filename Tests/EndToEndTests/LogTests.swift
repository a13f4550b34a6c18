import LinuxSystem
import TestSupport
import Testing

extension EndToEndCrowds {
    @Suite struct LogTests {
        /// What a worker's log holds back, since there is too much of it, is told as a number at the latest when it
        /// ends.
        @Test func `log entries that were held back are counted at the end`() async throws {
            let folder = try TestFolder()
            let identity = try await CertificateMaker(folder: folder).selfSigned("server")
            let address = try SocketAddress.freeOnOwnLoopback()
            let daemon = try await Daemon.start(
                "workers = 1\n" + Service(listen: [address], identity: identity).text, in: folder)
            // More handshakes than the log takes at once; all of them fail with the end of the daemon.
            let count = 60
            var clients: [DatagramSocket] = []
            for _ in 0..<count {
                let client = try DatagramSocket(at: SocketAddress.freeOnOwnLoopback())
                // All stay open: another one on the same port would be the same client.
                clients.append(client)
                let hello = ClientHelloBytes()
                guard case .helloVerifyRequest(let cookie) = try await client.ask(hello.bytes(), of: address) else {
                    Issue.record("no HelloVerifyRequest")
                    return
                }
                var answer: HelloAnswer?
                while answer != .serverHello {
                    answer = try await client.ask(hello.bytes(cookie: cookie, number: 1), of: address)
                }
            }
            try await daemon.stop()
            let lines = daemon.lines(with: "handshake failed")
            let heldBack = lines.compactMap { $0.firstMatch(of: /HELD_BACK=(\d+)/).flatMap { Int($0.output.1) } }
            #expect(lines.count < count)
            let told = lines.count { !$0.contains(/handshake failed: \d+ more held back/) }
            #expect(told + heldBack.reduce(0, +) == count, "\(lines)")
        }
    }
}
