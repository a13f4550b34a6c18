import Foundation
import LinuxSystem
import Synchronization
import Testing

extension EndToEnd {
    /// A client that has lost its state comes back on its old port (RFC 6347, section 4.2.8).
    @Suite struct RestartTests {
        /// Stops a process with the second datagram that the relay brings to a client after `arm()`: the first is the
        /// HelloVerifyRequest, the second the server's flight. What the client says then comes in one batch.
        private final class Stopper: Sendable {
            private let state = Mutex<(process: pid_t, left: Int)>((0, 0))

            func arm(_ process: pid_t) { state.withLock { $0 = (process, 2) } }

            func sees(_ direction: Relay.Direction) {
                guard direction == .toClient else { return }
                state.withLock { state in
                    guard state.left > 0 else { return }
                    state.left -= 1
                    if state.left == 0 { kill(state.process, SIGSTOP) }
                }
            }
        }

        /// What a restarted client says goes over its own new backend socket, even if it comes together with the end of
        /// the handshake.
        @Test func theBackendHearsARestartedClientOnItsOwnSocket() async throws {
            let folder = try TestFolder()
            let identity = try await CertificateMaker(folder: folder).selfSigned("server")
            let address = try Endpoint.freeOnOwnLoopback()
            let socket = try DatagramSocket(at: .freeOnOwnLoopback())
            let backend = Backend.numbering(on: socket)
            let daemon = try await Daemon.start(
                "workers = 1\n"
                    + Service.forwarding(to: "udp:\(socket.local)", listen: address, identity: identity).text,
                in: folder)
            let worker = try #require(daemon.workers.first)
            let bystander = try SecureClient(to: address, trust: identity.certificate, in: folder)
            try await bystander.exchange("bystander", answer: "0:bystander")

            let stopper = Stopper()
            let relay = try Relay(to: address) { direction, _ in
                stopper.sees(direction)
                return true
            }
            let session = folder.file("session")
            let before = try SecureClient(
                to: relay.address, trust: identity.certificate, in: folder, ["-sess_out", session])
            try await before.exchange("before", answer: "1:before")
            // Without a word.
            before.program.signal(SIGKILL)
            _ = try await before.program.ended()

            let said = relay.messagesToServer
            stopper.arm(worker)
            let after = try SecureClient(
                to: relay.address, trust: identity.certificate, in: folder, ["-sess_in", session])
            after.say("after")
            try await eventually("the client has said its word", details: after.transcript) {
                relay.messagesToServer > said
            }
            kill(worker, SIGCONT)
            // A message that was left behind would leave over this one's socket.
            bystander.say("bystander again")
            try await eventually("the backend has heard both", details: after.transcript) {
                Set(backend.received.map(\.text)).isSuperset(of: ["after\n", "bystander again\n"])
            }
            #expect(
                backend.received.map { "\($0.client):\($0.text)" }.sorted()
                    == ["0:bystander\n", "0:bystander again\n", "1:before\n", "2:after\n"].sorted())
            try await after.hears("2:after")
            #expect(daemon.lines(with: "connection opened", "RESUMED=yes").count == 1)
            try await daemon.stop()
            try await backend.stop()
        }
    }
}
