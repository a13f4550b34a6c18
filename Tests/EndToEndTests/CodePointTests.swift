import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEndHandshakes {
    /// `socket.dscp`: the differentiated services code point of what the daemon sends (RFC 2474), as the kernel of the
    /// receiver reports it.
    @Suite struct CodePointTests {
        let folder: TestFolder
        let identity: Identity

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
        }

        /// The traffic class of the answer to a datagram; the upper six bits of it are the code point.
        private func trafficClass(
            of datagram: [UInt8], from socket: DatagramSocket, to server: SocketAddress
        ) async throws -> (answer: HelloAnswer, trafficClass: UInt8?) {
            while socket.receive() != nil {}
            var received: (bytes: [UInt8], trafficClass: UInt8?)?
            try await eventually("the server answers") {
                socket.send(datagram, to: server)
                received = socket.receiveTrafficClass()
                return received != nil
            }
            let (bytes, trafficClass) = try #require(received)
            return (HelloAnswer(bytes), trafficClass)
        }

        private func configuration(_ place: SocketAddress, dscp: Int?) -> String {
            Service(listen: [place], identity: identity).text
                + (dscp.map { "[service.echo.socket]\ndscp = \($0)\n" } ?? "")
        }

        @Test(arguments: ["127.0.0.1", "::1"])
        func `listener and connection mark what they send, and a reload changes the mark`(_ host: String) async throws {
            let place =
                host == "::1" ? try SocketAddress.free(on: host) : try SocketAddress.freeOnOwnLoopback()
            let daemon = try await Daemon.start(configuration(place, dscp: 46), in: folder)
            for (index, expected) in [46, 10, nil].enumerated() {
                if index > 0 { try daemon.reload(configuration(place, dscp: expected)) }
                if index > 0 { try await daemon.logged("reloaded", count: index) }
                let socket = try DatagramSocket(at: try #require(SocketAddress(host: host, port: 0)))
                socket.reportTrafficClass()
                let hello = ClientHelloBytes()
                let first = try await trafficClass(of: hello.bytes(), from: socket, to: place)
                guard case .helloVerifyRequest(let cookie) = first.answer else {
                    Issue.record("no HelloVerifyRequest: \(first.answer)")
                    return
                }
                let mark = UInt8((expected ?? 0) << 2)
                #expect(first.trafficClass == mark, "of the listener, with \(expected ?? 0)")
                let second = try await trafficClass(
                    of: hello.bytes(cookie: cookie, number: 1), from: socket, to: place)
                #expect(second.answer == .serverHello)
                #expect(second.trafficClass == mark, "of the connection, with \(expected ?? 0)")
            }
            try await daemon.stop()
        }

        @Test func `client mode marks what it sends to its server`() async throws {
            let server = try DatagramSocket.onOwnLoopback()
            server.reportTrafficClass()
            let place = try SocketAddress.freeOnOwnLoopback()
            let text = """
                [client.tunnel]
                listen = ["\(place)"]
                connect = "\(server.local)"
                verify = false
                [client.tunnel.socket]
                dscp = 46

                """
            let daemon = try await Daemon.start(text, in: folder)
            let sender = try DatagramSocket.onOwnLoopback()
            var received: (bytes: [UInt8], trafficClass: UInt8?)?
            try await eventually("the daemon begins a handshake") {
                sender.send([1], to: place)
                received = server.receiveTrafficClass()
                return received != nil
            }
            let (bytes, trafficClass) = try #require(received)
            #expect(bytes.first == 22, "a handshake record")
            #expect(trafficClass == 46 << 2)
            try await daemon.stop()
        }
    }
}
