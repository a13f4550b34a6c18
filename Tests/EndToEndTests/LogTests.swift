import LinuxSystem
import TestSupport
import Testing

extension EndToEndCrowds {
    @Suite struct LogTests {
        /// A device goes on sending over its connection after a NAT has given it another port.
        @Test func `records of no connection are counted for their listener, and the first of a burst is logged`()
            async throws
        {
            let folder = try TestFolder()
            let identity = try await CertificateMaker(folder: folder).selfSigned("server")
            let addresses = [try SocketAddress.freeOnOwnLoopback(), try SocketAddress.freeOnOwnLoopback()]
            let daemon = try await Daemon.start(
                "workers = 1\n" + Service(listen: addresses, identity: identity).text, in: folder)
            let device = try DatagramSocket(at: addresses[0].with(port: 0))
            let record: [UInt8] = [23, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 7, 0, 4, 1, 2, 3, 4]
            for _ in 0..<5 { device.send(record, to: addresses[0]) }
            for _ in 0..<2 { device.send([1, 2, 3], to: addresses[0]) }
            device.send(record, to: addresses[1])
            for address in addresses {
                try await daemon.logged(
                    " info main: a record was dropped whose connection is not here", "PEER=\(device.local)",
                    "LISTENER=\(address)", "SERVICE=echo")
            }
            try await daemon.stop()
            #expect(daemon.lines(with: "a record was dropped").count == 2, "\(daemon.program.errors)")
            #expect(
                daemon.logs(
                    "stopped: ", "; 6 records of no connection", "\(addresses[0]): 5", "\(addresses[1]): 1",
                    "; 2 other datagrams dropped"), "\(daemon.program.errors)")
        }

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
                let client = try DatagramSocket.onOwnLoopback()
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
