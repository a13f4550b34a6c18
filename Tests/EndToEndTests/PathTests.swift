import Foundation
import LinuxSystem
import TestSupport
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

        /// The interface on the way to the backends sends nothing on, so its queue is full for good. To wait until the
        /// socket takes more would be to spin: the kernel drops, and so does the daemon.
        @Test func `a full interface does not make a worker spin`() async throws {
            let address = try SocketAddress.free(on: "127.0.0.1")
            let more = "[service.echo.forward]\nbackend = [\"udp:192.0.2.2:9\", \"udp:192.0.2.3:9\"]"
            let network = [
                "unshare", "-n", "sh", "-c",
                "ip link set lo up && ip link add out type veth peer name far && ip link set far up"
                    + " && ip address add 192.0.2.1/24 dev out && ip link set out up"
                    + " && for n in 2 3; do ip neigh add 192.0.2.$n lladdr 02:00:00:00:00:0$n dev out; done"
                    + " && tc qdisc add dev out root tbf rate 80bit burst 1600 limit 1600"
                    + " && exec \"$@\"", "sh",
            ]
            let daemon = try await Daemon.start(
                "workers = 1\n"
                    + Service(listen: [address], identity: identity, handler: "forward", more: more).text,
                in: folder, prefix: network)
            let worker = try #require(daemon.workers.first)
            let client = try SecureClient(
                to: address, trust: identity.certificate, in: folder, prefix: PrivateNetwork.prefix(of: daemon))
            try await daemon.logged("connection opened")
            let text = String(repeating: "x", count: 900)
            let deadline = ContinuousClock.now + .seconds(60)
            while try await dropped(in: daemon) == 0 {
                try #require(ContinuousClock.now < deadline, "the queue is never full: \(client.transcript)")
                client.say(text)
            }
            // In many looks on end, and between them: who spins does not sleep that long.
            var looks: [Int?] = []
            try await eventually("the worker sleeps", details: daemon.program.errors) {
                looks.append(ProcessTable.sleep(of: worker))
                let last = looks.suffix(20).compactMap { $0 }
                return last.count == 20 && Set(last).count == 1
            }
            try await daemon.stop()
        }

        /// What the queue of the interface `out` has dropped.
        private func dropped(in daemon: Daemon) async throws -> Int {
            let words = PrivateNetwork.prefix(of: daemon) + ["tc", "-s", "qdisc", "show", "dev", "out"]
            let text = try await Program.run(words, in: folder)
            return text.firstMatch(of: /dropped (\d+)/).flatMap { Int($0.output.1) } ?? 0
        }

        /// The daemon and its client in a network with an MTU of 600. The handshake fits it at once. A client's message
        /// may come in fragments; the echo of it leaves in fragments where that is allowed, and is counted where not.
        @Test(arguments: [false, true])
        func `a message that does not fit into the path is reported`(_ fragment: Bool) async throws {
            let address = try SocketAddress.free(on: "127.0.0.1")
            let more = fragment ? "socket.fragment = true" : ""
            let daemon = try await Daemon.start(
                Service(listen: [address], identity: identity, more: more).text, in: folder,
                prefix: PrivateNetwork.prefix(mtu: 600))
            func makeClient() throws -> SecureClient {
                // With -mtu, s_client lets the kernel fragment what it sends.
                try SecureClient(
                    to: address, trust: identity.certificate, in: folder, ["-mtu", "600"],
                    prefix: PrivateNetwork.prefix(of: daemon))
            }
            let client = try makeClient()
            try await client.exchange("small")
            // 600 less 28 of IP and UDP, and 37 of a record with AES-GCM; less the line's end.
            let largest = String(repeating: "x", count: 600 - 28 - 37 - 1)
            try await client.exchange(largest)
            let large = largest + "y"
            let before = PrivateNetwork.datagramsReceived(in: daemon)
            client.say(large)
            // Else s_client could make one message of it and the next line.
            try await eventually("the large message has arrived", details: client.transcript) {
                PrivateNetwork.datagramsReceived(in: daemon) > before
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
            // No flight has to be sent twice since it does not fit; on a busy machine others may take too long.
            var messages = client.handshakeMessagesSent
            for _ in 0..<10 where messages != 4 {
                let another = try makeClient()
                try await another.exchange("small")
                try await another.leave()
                messages = another.handshakeMessagesSent
            }
            #expect(messages == 4)
            try await daemon.stop()
        }
    }
}
