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
        /// Of a service that wants certificates, and of one that serves nobody.
        let strict: SocketAddress
        let closed: SocketAddress

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
            address = try SocketAddress.freeOnOwnLoopback()
            strict = try SocketAddress.freeOnOwnLoopback()
            closed = try SocketAddress.freeOnOwnLoopback()
        }

        private var configuration: String {
            "workers = 1\n[control]\npath = \"\(folder.file("control"))\"\n"
                + Service(listen: [address], identity: identity).text
                + Service(
                    name: "strict", listen: [strict], identity: identity, more: "ca = \"\(identity.certificate)\""
                ).text
                + Service(
                    name: "closed", listen: [closed], identity: identity,
                    more: "[service.closed.limits]\ndeny = [\"0.0.0.0/0\", \"::/0\"]"
                ).text
        }

        // MARK: The control socket

        /// The counters of a service, by name; those with a label as `NAME{VALUE}`.
        private func counters(of service: String) async throws -> [String: UInt64] {
            let client = try StreamClient(to: folder.file("control"))
            client.send("{\"version\":1,\"command\":\"counters\"}\n")
            let answer = try JSONSerialization.jsonObject(with: Data(try await client.line().utf8))
            let result = try #require((answer as? [String: Any])?["result"] as? [String: Any])
            let services = try #require(result["services"] as? [String: [String: Any]])
            var counters: [String: UInt64] = [:]
            for (name, value) in try #require(services[service]) {
                if let number = value as? NSNumber { counters[name] = number.uint64Value }
                for (label, number) in value as? [String: Any] ?? [:] {
                    if let number = number as? NSNumber { counters["\(name){\(label)}"] = number.uint64Value }
                    if label == "counts", let counts = number as? [NSNumber] {
                        counters[name] = counts.reduce(0) { $0 + $1.uint64Value }
                    }
                }
            }
            return counters
        }

        /// Waits until the counters of a service are these; others may be anything.
        private func expect(_ expected: [String: UInt64], of service: String) async throws {
            var last: [String: UInt64] = [:]
            do {
                for _ in 0..<100 {
                    last = try await counters(of: service)
                    if expected.allSatisfy({ last[$0.key] == $0.value }) { return }
                    try await Task.sleep(for: .milliseconds(50))
                }
            }
            for (name, value) in expected { #expect(last[name] == value, "\(service): \(name)") }
        }

        // MARK: Clients

        private func visit(_ arguments: [String] = []) async throws -> SecureClient {
            let client = try SecureClient(to: address, trust: identity.certificate, in: folder, arguments)
            try await client.exchange("hello")
            return client
        }

        @Test func `what clients do is counted, and a worker that is killed takes no count with it`() async throws {
            let daemon = try await Daemon.start(configuration, in: folder)
            let first = try await visit(["-sess_out", folder.file("session")])
            try await first.leave()
            try await expect(
                [
                    "handshakes_total{full}": 1, "handshakes_total{resumed}": 0, "handshake_duration_seconds": 1,
                    "connections_opened_total": 1, "connections_closed_total{peer}": 1, "cookies_sent_total": 1,
                    "client_hellos_total": 2, "messages_received_total": 1, "message_received_bytes_total": 6,
                    "messages_sent_total": 1, "message_sent_bytes_total": 6,
                    "alerts_received_total{close_notify}": 1, "alerts_sent_total{close_notify}": 1,
                    "handshake_ciphers_total{ECDHE-ECDSA-AES128-GCM-SHA256}": 1, "handshake_groups_total{x25519}": 1,
                ], of: "echo")

            let stays = try await visit()
            let victim = try #require(daemon.workers.first)
            kill(victim, SIGKILL)
            try await eventually("there is another worker", details: daemon.program.errors) {
                daemon.workers.count == 1 && !daemon.workers.contains(victim)
            }
            try await stays.exchange("taken over")
            let second = try await visit(["-sess_in", folder.file("session")])
            try await expect(
                [
                    "handshakes_total{full}": 2, "handshakes_total{resumed}": 1, "connections_opened_total": 3,
                    "connections_taken_over_total": 1, "connections_woken_total": 1, "connections{open}": 2,
                    "messages_received_total": 4, "handshake_groups_total{x25519}": 2,
                    "handshake_ciphers_total{ECDHE-ECDSA-AES128-GCM-SHA256}": 3,
                ], of: "echo")
            try await [stays, second].leave()
            try await expect(["connections_closed_total{peer}": 3, "connections{open}": 0], of: "echo")
            try await daemon.stop()
            #expect(daemon.logs("stopped: ", "3 handshakes, 1 of them resumed, 0 failed"))
        }

        @Test func `lookups by session ID are counted`() async throws {
            let daemon = try await Daemon.start(configuration, in: folder)
            try await visit(["-no_ticket", "-sess_out", folder.file("session")]).leave()
            try await visit(["-no_ticket", "-sess_in", folder.file("session")]).leave()
            try await expect(
                [
                    "session_cache_lookups_total{hit}": 1, "session_cache_lookups_total{miss}": 0,
                    "session_cache_insertions_total{stored}": 1, "session_cache_replaced_total": 0,
                    "handshakes_total{resumed}": 1,
                ], of: "echo")
            try await daemon.stop()
        }

        @Test func `handshakes that fail and clients that are refused are counted by reason`() async throws {
            let daemon = try await Daemon.start(configuration, in: folder)
            // The service takes DTLS 1.2 alone.
            let old = try SecureClient(
                to: address, trust: identity.certificate, in: folder, ["-cipher", "DEFAULT:@SECLEVEL=0"],
                version: "-dtls1")
            _ = try await old.program.ended()
            try await expect(["handshakes_total{failed}": 1, "alerts_sent_total{protocol_version}": 1], of: "echo")
            // A certificate of nobody whom the service knows.
            let stranger = try await CertificateMaker(folder: folder).selfSigned("stranger")
            let foreign = try SecureClient(
                to: strict, trust: identity.certificate, in: folder,
                ["-cert", stranger.certificate, "-key", stranger.privateKey])
            _ = try await foreign.program.ended()
            try await expect(["handshakes_total{unverified}": 1, "handshakes_total{full}": 0], of: "strict")
            let refused = try SecureClient(to: closed, trust: identity.certificate, in: folder)
            try await daemon.logged("its address is denied")
            refused.program.signal(SIGKILL)
            let counted = try await counters(of: "closed")
            #expect(counted["refusals_total{denied}"] ?? 0 >= 1)
            #expect(counted["cookies_sent_total"] == 0 && counted["client_hellos_total"] == 0)
            try await daemon.stop()
            #expect(daemon.logs("stopped: ", "0 handshakes, 0 of them resumed, 2 failed", "denied)"))
        }
    }
}
