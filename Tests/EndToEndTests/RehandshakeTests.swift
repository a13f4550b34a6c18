import Foundation
import LinuxSystem
import Synchronization
import TestSupport
import Testing

extension EndToEndCrowds {
    /// A client that has lost its state comes back on its old port (RFC 6347, section 4.2.8).
    @Suite struct RehandshakeTests {
        /// Stops a process with the first ServerHello that the relay brings to a client after `arm()`. What the client
        /// says then comes in one batch.
        private final class Stopper: Sendable {
            private let armed = Mutex<pid_t?>(nil)

            func arm(_ process: pid_t) { armed.withLock { $0 = process } }

            func sees(_ direction: Relay.Direction, _ bytes: [UInt8]) {
                guard direction == .toClient, HelloAnswer(bytes) == .serverHello else { return }
                armed.withLock { process in
                    if let process { kill(process, SIGSTOP) }
                    process = nil
                }
            }
        }

        /// What a restarted client says goes over its own new backend socket, even if it comes together with the end of
        /// the handshake.
        @Test func `the backend hears a restarted client on its own socket`() async throws {
            let folder = try TestFolder()
            let identity = try await CertificateMaker(folder: folder).selfSigned("server")
            let address = try SocketAddress.freeOnOwnLoopback()
            let socket = try DatagramSocket.onOwnLoopback()
            let backend = Backend.numbering(on: socket)
            let daemon = try await Daemon.start(
                "workers = 1\n"
                    + Service.forwarding(to: "udp:\(socket.local)", listen: address, identity: identity).text,
                in: folder)
            let worker = try #require(daemon.workers.first)
            let bystander = try SecureClient(to: address, trust: identity.certificate, in: folder)
            try await bystander.exchange("bystander", answer: "0:bystander")

            let stopper = Stopper()
            let relay = try Relay(to: address) { direction, _, bytes in
                stopper.sees(direction, bytes)
                return [Relay.Passed(direction: direction, bytes: bytes)]
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

        /// A client that dies in the midst of its handshake is served at once when it comes back on its port, not only
        /// when that handshake has run out of time; but nobody can end a handshake who cannot return a cookie.
        @Test func `a client comes back before its handshake is done`() async throws {
            let folder = try TestFolder()
            let identity = try await CertificateMaker(folder: folder).selfSigned("server")
            let address = try SocketAddress.freeOnOwnLoopback()
            let daemon = try await Daemon.start(
                "workers = 1\n" + Service(listen: [address], identity: identity).text, in: folder)
            let socket = try DatagramSocket(at: .free(on: address.host))
            func answer(_ wanted: (HelloAnswer) -> Bool, to hello: [UInt8]) async throws -> HelloAnswer {
                socket.send(hello, to: address)
                return try await eventualValue("an answer", details: daemon.program.errors) {
                    while let datagram = socket.receive()?.bytes {
                        if wanted(HelloAnswer(datagram)) { return HelloAnswer(datagram) }
                    }
                    return nil
                }
            }
            func begin(_ hello: ClientHelloBytes) async throws {
                let asked = try await answer({ $0 != .serverHello && $0 != .other }, to: hello.bytes())
                guard case .helloVerifyRequest(let cookie) = asked else {
                    Issue.record("no HelloVerifyRequest but \(asked)")
                    return
                }
                _ = try await answer({ $0 == .serverHello }, to: hello.bytes(cookie: cookie, number: 1))
            }
            try await begin(ClientHelloBytes())
            for forged in [
                ClientHelloBytes().bytes(cookie: Array(repeating: 7, count: 32)), ClientHelloBytes().bytes(),
            ] {
                _ = try await answer({ $0 != .serverHello && $0 != .other }, to: forged)
            }
            #expect(!daemon.logs("handshake failed"))
            try await begin(ClientHelloBytes())
            try await daemon.logged("handshake failed", "the peer has begun a new handshake")
            // And not because it was over by itself.
            #expect(daemon.lines(with: "handshake failed").count == 1)
            try await daemon.stop()
        }

        /// What somebody who knows the addresses can send in the client's name, but for a cookie.
        private static func forgeries() -> [[UInt8]] {
            let hello = ClientHelloBytes()
            let fragment: [UInt8] = Array(hello.bytes(number: 1)[..<13]) + [1, 0, 1, 0, 0, 1, 0, 0, 9, 0, 0, 88]
            var alerts: [[UInt8]] = []
            for alert in [[2, 40], [1, 0]] as [[UInt8]] {
                for epoch in [0, 1] as [UInt8] {
                    alerts.append([21, 0xfe, 0xfd, 0, epoch, 0, 0, 0, 0, 1, 7, 0, 2] + alert)
                }
            }
            var records: [[UInt8]] = [
                hello.bytes(), hello.bytes(cookie: [UInt8](repeating: 1, count: 32), number: 1),
                ClientHelloBytes().bytes(cookie: [1], number: 3), Array(hello.bytes().dropLast(9)), fragment,
                [20, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 9, 0, 1, 1], [22, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 9, 0, 1, 1],
                [22, 0xfe, 0xfd, 0, 2, 0, 0, 0, 0, 0, 9, 0, 1, 1],
            ]
            // In the record's number, which an answer repeats.
            for index in records.indices { records[index][8] = mark }
            return records + alerts
        }

        private static let mark: UInt8 = 0xee

        /// The answer to the first hello asks for the cookie, and the answer to the second begins the handshake: two
        /// round trips, while forged datagrams come in between. Until then the lost connection is there, and then it is
        /// gone.
        @Test func `a restarted client is answered at once, whatever is forged in its name`() async throws {
            let folder = try TestFolder()
            let identity = try await CertificateMaker(folder: folder).selfSigned("server")
            let address = try SocketAddress.freeOnOwnLoopback()
            let daemon = try await Daemon.start(Service(listen: [address], identity: identity).text, in: folder)
            let isForging = Mutex(false)
            let relay = try Relay(to: address) { direction, _, bytes in
                let datagram = Relay.Passed(direction: direction, bytes: bytes)
                // An answer to a forgery could as well be forged: it is not what this test is about.
                if direction == .toClient { return bytes[0] == 22 && bytes[8] == Self.mark ? [] : [datagram] }
                guard isForging.withLock({ $0 }) else { return [datagram] }
                return Self.forgeries().map { Relay.Passed(direction: .toServer, bytes: $0) } + [datagram]
            }
            func restartedClient() async throws -> SecureClient {
                isForging.withLock { $0 = false }
                let before = try SecureClient(to: relay.address, trust: identity.certificate, in: folder)
                try await before.exchange("before")
                before.program.signal(SIGKILL)
                _ = try await before.program.ended()
                isForging.withLock { $0 = true }
                let after = try SecureClient(to: relay.address, trust: identity.certificate, in: folder)
                try await after.exchange("after")
                try await after.leave()
                return after
            }
            // Nothing waits for a timer: nothing is said twice. A busy machine may be too slow for that once, a daemon
            // that is led astray is so each time.
            var rounds = 0
            var isAnsweredAtOnce = false
            while !isAnsweredAtOnce, rounds < 10 {
                isAnsweredAtOnce = try await restartedClient().handshakeMessagesSent == 4
                rounds += 1
                try await daemon.logged("connection closed: closed by the peer", count: rounds)
                #expect(daemon.lines(with: "connection opened").count == 2 * rounds)
                #expect(daemon.lines(with: "connection closed", "begun a new handshake").count == rounds)
            }
            #expect(isAnsweredAtOnce)
            try await daemon.stop()
        }

        /// No forgery begins a succession, ends the connection, or costs more than one small answer.
        @Test func `forged datagrams do not disturb a connection`() async throws {
            let folder = try TestFolder()
            let identity = try await CertificateMaker(folder: folder).selfSigned("server")
            let address = try SocketAddress.freeOnOwnLoopback()
            let daemon = try await Daemon.start(
                Service(listen: [address], identity: identity, more: "handshake_timeout = 2").text, in: folder)
            let relay = try Relay(to: address) { _, _ in true }
            let client = try SecureClient(to: relay.address, trust: identity.certificate, in: folder)
            try await client.exchange("before")
            let start = relay.passed.count
            var expected = "before\n"
            var sent = 0
            for round in 0..<50 {
                for forgery in Self.forgeries() {
                    relay.inject(forgery)
                    sent += forgery.count
                }
                try await client.exchange("round \(round)")
                expected += "round \(round)\n"
            }
            #expect(client.output == expected)
            let answers = relay.passed[start...].filter { $0.direction == .toClient && $0.bytes[0] != 23 }
            // A cookie for each hello that is whole, and smaller than it; nothing else.
            #expect(answers.allSatisfy { $0.bytes.count == 47 && $0.bytes[13] == 3 })
            #expect(answers.count <= 50 * 3)
            #expect(answers.reduce(0) { $0 + $1.bytes.count } < sent)
            #expect(daemon.lines(with: "connection opened").count == 1)
            try await client.leave()
            try await daemon.logged("connection closed: closed by the peer")
            try await daemon.stop()
        }
    }
}
