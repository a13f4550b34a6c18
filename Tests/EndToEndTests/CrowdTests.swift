import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEnd {
    /// Rule 9: many connections on one address.
    @Suite struct CrowdTests {
        /// Half-open handshakes will do for a crowd: their sockets are the same. They need their ports as long as it is
        /// one, and the queue of a listener has room for some.
        private func crowd(of count: Int, at address: SocketAddress) async throws -> [DatagramSocket] {
            var sockets: [DatagramSocket] = []
            while sockets.count < count {
                let some = try (0..<50).map { _ in (try DatagramSocket(at: address.with(port: 0)), ClientHelloBytes()) }
                for (socket, hello) in some { socket.send(hello.bytes(), to: address) }
                for (socket, hello) in some {
                    guard case .helloVerifyRequest(let cookie) = try await answer(to: socket) else {
                        throw NeverHappened(description: "a client of the crowd got no HelloVerifyRequest")
                    }
                    socket.send(hello.bytes(cookie: cookie, number: 1), to: address)
                }
                for (socket, _) in some { #expect(try await answer(to: socket) == .serverHello) }
                sockets += some.map(\.0)
            }
            return sockets
        }

        private func answer(to socket: DatagramSocket) async throws -> HelloAnswer {
            try await eventualValue("the server answers") { socket.receive().map { HelloAnswer($0.bytes) } }
        }

        @Test func `real clients are served among six hundred connections`() async throws {
            _ = OpenFileLimit.raise()
            let folder = try TestFolder()
            let identity = try await CertificateMaker(folder: folder).selfSigned("server")
            let address = try SocketAddress.freeOnOwnLoopback()
            let daemon = try await Daemon.start(
                "workers = 2\n" + Service(listen: [address], identity: identity).text, in: folder)
            let early = try SecureClient(to: address, trust: identity.certificate, in: folder)
            try await early.exchange("before the crowd")
            let descriptors = ProcessTable.openDescriptors(of: daemon.program.pid)

            // The main process keeps no connection's socket, but those that stand in front of them.
            let crowd = try await crowd(of: 600, at: address)
            #expect(crowd.count == 600)
            let isShielded = UDPSocket.findsConnectedFirst(like: address)
            try await eventually("there are as many sockets as there should be") {
                ProcessTable.openDescriptors(of: daemon.program.pid) == descriptors + (isShielded ? 2 : 0)
            }

            let late = try SecureClient(to: address, trust: identity.certificate, in: folder)
            try await late.exchange("after the crowd")
            try await early.exchange("still here")
            daemon.program.signal(SIGHUP)
            try await daemon.logged("reloaded")
            let last = try SecureClient(to: address, trust: identity.certificate, in: folder)
            try await last.exchange("after the reload")
            try await [early, late, last].leave()
            try await daemon.stop()
        }
    }
}
