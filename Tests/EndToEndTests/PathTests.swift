import Foundation
import LinuxSystem
import Testing

extension EndToEnd {
    /// A path that takes less than a message needs.
    @Suite(.enabled(if: PrivateNetwork.isAllowed, "it takes a network namespace: root"))
    struct PathTests {
        let folder: TestFolder
        let identity: Identity

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server", kind: .rsa)
        }

        /// The daemon and its client in a network with an MTU of 600. The handshake fits it at once. A client's message
        /// may come in fragments; the echo of it leaves in fragments where that is allowed, and is counted where not.
        @Test(arguments: [false, true])
        func aMessageThatDoesNotFit(_ fragment: Bool) async throws {
            let address = try Endpoint.free(on: "127.0.0.1")
            let more = fragment ? "socket.fragment = true" : ""
            let daemon = try await Daemon.start(
                Service(listen: [address], identity: identity, more: more).text, in: folder,
                prefix: PrivateNetwork.prefix(mtu: 600))
            // With -mtu, s_client lets the kernel fragment what it sends.
            let client = try SecureClient(
                to: address, trust: identity.certificate, in: folder, ["-nbio", "-mtu", "600"],
                prefix: PrivateNetwork.prefix(of: daemon))
            try await client.exchange("small")
            // 600 less 28 of IP and UDP, and 37 of a record with AES-GCM; less the line's end.
            let largest = String(repeating: "x", count: 600 - 28 - 37 - 1)
            try await client.exchange(largest)
            let large = largest + "y"
            let before = try PrivateNetwork.datagramsReceived(in: daemon)
            client.say(large)
            // Else s_client could make one message of it and the next line.
            try await eventually("the large message has arrived", details: client.transcript) {
                try PrivateNetwork.datagramsReceived(in: daemon) > before
            }
            if fragment {
                try await client.hears(large)
            } else {
                try await client.exchange("still here")
                #expect(!client.hasHeard(large))
            }
            try await client.leave()
            let closed = try #require(try await daemon.logged("connection closed").first)
            #expect(closed.contains("DATAGRAMS_TOO_LARGE=1") == !fragment)
            #expect(!closed.contains("DATAGRAMS_UNSENT"))
            let opened = try #require(daemon.lines(with: "connection opened").first)
            let duration = try #require(opened.split(separator: " ").first { $0.hasPrefix("HANDSHAKE_USEC=") })
            // No flight had to be sent twice.
            #expect(try #require(Int(duration.dropFirst("HANDSHAKE_USEC=".count))) < 1_000_000)
            try await daemon.stop()
        }
    }
}
