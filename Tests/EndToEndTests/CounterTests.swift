import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEndHandshakes {
    /// What the daemon counts of real clients.
    @Suite struct CounterTests {
        let folder: TestFolder
        let identity: Identity
        let address: SocketAddress

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
            address = try SocketAddress.freeOnOwnLoopback()
        }

        private func visit(_ line: String, _ arguments: [String] = []) async throws -> SecureClient {
            let client = try SecureClient(to: address, trust: identity.certificate, in: folder, arguments)
            try await client.exchange(line)
            return client
        }

        /// Has clients open connections, resume one, fail in the two ways that there are and be refused, with a worker's
        /// death in between.
        private func happenings(_ daemon: Daemon, closed: SocketAddress, strict: SocketAddress) async throws {
            let first = try await visit("hello", ["-sess_out", folder.file("session")])
            try await first.leave()
            try await daemon.logged("connection closed")
            let victim = try #require(daemon.workers.first)
            kill(victim, SIGKILL)
            try await eventually("there is another worker", details: daemon.program.errors) {
                daemon.workers.count == 1 && !daemon.workers.contains(victim)
            }
            let second = try await visit("hello again", ["-sess_in", folder.file("session")])
            // Wrong version: the service takes DTLS 1.2 alone.
            let old = try SecureClient(
                to: address, trust: identity.certificate, in: folder, ["-cipher", "DEFAULT:@SECLEVEL=0"],
                version: "-dtls1")
            _ = try await old.program.ended()
            // Bad certificate: the service wants one, and there is none.
            let stranger = try SecureClient(to: strict, trust: identity.certificate, in: folder)
            _ = try await stranger.program.ended()
            try await daemon.logged("handshake failed", count: 2)
            let refused = try SecureClient(to: closed, trust: identity.certificate, in: folder)
            try await daemon.logged("its address is denied")
            refused.program.signal(SIGKILL)
            try await second.leave()
            try await daemon.logged("connection closed", count: 2)
        }

        @Test func `a worker that is killed takes no count with it`() async throws {
            let strict = try SocketAddress.freeOnOwnLoopback()
            let closed = try SocketAddress.freeOnOwnLoopback()
            let daemon = try await Daemon.start(
                "workers = 1\n" + Service(listen: [address], identity: identity).text
                    + Service(
                        name: "strict", listen: [strict], identity: identity, more: "ca = \"\(identity.certificate)\""
                    ).text
                    + Service(
                        name: "closed", listen: [closed], identity: identity,
                        more: "[service.closed.limits]\ndeny = [\"0.0.0.0/0\", \"::/0\"]"
                    ).text, in: folder)
            try await happenings(daemon, closed: closed, strict: strict)
            try await daemon.stop()
            let status = try #require(daemon.lines(with: "stopped: ").last)
            #expect(status.contains("2 handshakes, 1 of them resumed, 2 failed"), "\(status)")
            #expect(status.contains("denied)"), "\(status)")
        }
    }
}
