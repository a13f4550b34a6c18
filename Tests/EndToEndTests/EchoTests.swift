import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEndCrowds {
    @Suite struct EchoTests {
        let folder: TestFolder
        let certificates: CertificateMaker

        init() throws {
            folder = try TestFolder()
            certificates = CertificateMaker(folder: folder)
        }

        @Test(arguments: CertificateMaker.KeyKind.allCases, ["127.0.0.1", "::1"])
        func `OpenSSL gets its lines back`(_ kind: CertificateMaker.KeyKind, _ host: String) async throws {
            let identity = try await certificates.selfSigned("server", kind: kind)
            let address = try SocketAddress.free(on: host)
            let daemon = try await Daemon.start(Service(listen: [address], identity: identity).text, in: folder)
            let client = try SecureClient(to: address, trust: identity.certificate, in: folder)
            try await client.exchange("first line")
            try await client.exchange(String(repeating: "a long second line ", count: 60))
            try await client.leave()
            try await daemon.logged("connection closed")
            try await daemon.stop()
        }

        @Test(arguments: ["127.0.0.1", "::1"])
        func `GnuTLS gets its lines back`(_ host: String) async throws {
            let identity = try await certificates.selfSigned("server")
            let address = try SocketAddress.free(on: host)
            let daemon = try await Daemon.start(Service(listen: [address], identity: identity).text, in: folder)
            let client = try Program(
                ["gnutls-cli", "--udp", "--port", "\(address.port)", "--x509cafile", identity.certificate, host],
                in: folder)
            for line in ["one", "two", "three"] {
                client.send("\(line)\n")
                try await eventually("gnutls-cli hears '\(line)'", details: client.output + client.errors) {
                    client.output.contains("\n\(line)\n")
                }
            }
            client.closeInput()
            #expect(try await client.ended() == .exited(0))
            try await daemon.stop()
        }

        /// An address and the wildcard over it: each serves what is its own.
        @Test(arguments: [true, false])
        func `a listener on an address and one on the wildcard share a port`(_ wildcardFirst: Bool) async throws {
            let identity = try await certificates.selfSigned("server")
            let anywhere = try SocketAddress.free(on: "0.0.0.0")
            let host = try #require(SocketAddress(host: "127.0.0.1", port: anywhere.port))
            let listen = wildcardFirst ? [anywhere, host] : [host, anywhere]
            let daemon = try await Daemon.start(Service(listen: listen, identity: identity).text, in: folder)
            for name in ["127.0.0.1", SocketAddress.ownLoopback] {
                let address = try #require(SocketAddress(host: name, port: anywhere.port))
                let client = try SecureClient(to: address, trust: identity.certificate, in: folder)
                try await client.exchange("hello \(name)")
            }
            try await daemon.stop()
        }

        /// A wildcard listener must answer from the address that the client used, or the client hears nothing.
        @Test func `wildcard listeners answer from the address that was used`() async throws {
            let identity = try await certificates.selfSigned("server")
            let anywhere = try SocketAddress.free(on: "0.0.0.0", and: "::")
            let port = anywhere.port
            let anywhere6 = try #require(SocketAddress("[::]:\(port)"))
            let daemon = try await Daemon.start(
                Service(listen: [anywhere, anywhere6], identity: identity).text, in: folder)
            for host in ["127.0.0.1", SocketAddress.ownLoopback, "::1"] {
                let address = try #require(SocketAddress(host: host, port: port))
                let client = try SecureClient(to: address, trust: identity.certificate, in: folder)
                try await client.exchange("hello \(host)")
            }
            try await daemon.stop()
        }

        @Test func `the log has the opening and the end of a connection`() async throws {
            let identity = try await certificates.selfSigned("server")
            let address = try SocketAddress.freeOnOwnLoopback()
            let daemon = try await Daemon.start(Service(listen: [address], identity: identity).text, in: folder)
            let client = try SecureClient(to: address, trust: identity.certificate, in: folder)
            try await client.exchange("12345")
            try await client.leave()
            let opened = try await daemon.logged("connection opened")[0]
            for key in ["PEER=", "SERVICE=echo", "WORKER=", "CIPHER=", "HANDSHAKE_USEC="] {
                #expect(opened.contains(key), "\(opened)")
            }
            // Five characters and a line feed came in and went out.
            let closed = try await daemon.logged("connection closed")[0]
            for key in ["PEER=", "SERVICE=echo", "REASON=", "BYTES_IN=6 ", "BYTES_OUT=6 ", "DATAGRAMS_IN=1 "] {
                #expect(closed.contains(key), "\(closed)")
            }
            try await daemon.stop()
        }

        /// A client that lost its state comes back on its old port (RFC 6347, 4.2.8), where its old connection still
        /// is.
        @Test(arguments: ["127.0.0.1", "::1"])
        func `a client that comes back on its old port is served`(_ host: String) async throws {
            let identity = try await certificates.selfSigned("server")
            let address = try SocketAddress.free(on: host)
            let own = try SocketAddress.free(on: host)
            let daemon = try await Daemon.start(Service(listen: [address], identity: identity).text, in: folder)
            for life in 1...3 {
                let client = try SecureClient(
                    to: address, trust: identity.certificate, in: folder, ["-bind", "\(own)"])
                try await client.exchange("life \(life)")
                client.program.signal(SIGKILL)
                #expect(try await client.program.ended() == .killed(SIGKILL))
            }
            try await daemon.logged("connection closed", "PEER=\(own)", count: 2)
            try await daemon.stop()
        }

        /// Everyone gets their own data back, at once and for as long as they stay.
        @Test(arguments: ["127.0.0.1", "::1"])
        func `two hundred clients are served at once`(_ host: String) async throws {
            let identity = try await certificates.selfSigned("server")
            let address = try SocketAddress.free(on: host)
            let daemon = try await Daemon.start(Service(listen: [address], identity: identity).text, in: folder)
            let clients = try (0..<200).map { number in
                let client = try SecureClient(to: address, trust: identity.certificate, in: folder)
                client.say("client \(number) was here")
                return client
            }
            for (number, client) in clients.enumerated() { try await client.hears("client \(number) was here") }
            // All are connected now, and still served.
            for (number, client) in clients.enumerated() { client.say("client \(number) is still here") }
            for (number, client) in clients.enumerated() { try await client.hears("client \(number) is still here") }
            try await clients.leave()
            for (number, client) in clients.enumerated() {
                let own = "client \(number) was here\nclient \(number) is still here\n"
                #expect(client.output == own)
            }
            try await daemon.logged("connection closed", count: 200)
            try await daemon.stop()
        }
    }
}
