import DTLSKit
import Glibc
import LinuxSystem
import Synchronization
import TestSupport
import Testing

/// What is counted, and who is told of what happens.
@Suite(.serialized) struct CounterTests {
    private final class Events: Sendable {
        private let events = Mutex<[DtlsEvent]>([])
        var all: [DtlsEvent] { events.withLock { $0 } }
        var observer: DtlsObserver {
            DtlsObserver { event, address in
                #expect(address.addr == "127.0.0.1" && address.port > 0)
                self.events.withLock { $0.append(event) }
            }
        }
    }

    /// A server and a client of this thread, with a connection between them.
    private struct Pair {
        let server: DtlsServer
        let served: DtlsConnection
        let client: DtlsConnection

        init(
            _ server: DtlsServer, _ option: DtlsClientOption, at address: DtlsAddress? = nil,
            _ relay: MovingRelay? = nil
        )
            throws
        {
            self.server = server
            var served: DtlsConnection?
            server.accept { client, _ in served = client }
            client = try Dtls.createClient(option, try address ?? server.sockName()) { _, _ in }
            let connection = client
            let isDone = { served != nil && connection.isEstablished }
            if let relay { try relay.run(until: isDone) } else { while !isDone() { try iosched.poll(timeout: 20_000) } }
            self.served = try #require(served)
        }

        func receive() throws -> Int {
            var buffer = [UInt8](repeating: 0, count: 100)
            return try served.recv(&buffer, timeout: 20_000)
        }
    }

    @Test func `messages, datagrams and bytes are counted on both sides, and added up by the server`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        try await onThread {
            let server = try Dtls.createServer(
                DtlsServerOption(cert: identity.certificate, key: identity.key), Dtls.sockaddr("127.0.0.1", 0))
            var option = DtlsClientOption(keepsSession: true)
            let pair = try Pair(server, option)
            let before = (pair.client.counters, pair.served.counters)
            #expect(before.0.datagramsSent >= 3 && before.0.messagesSent == 0)
            for _ in 0..<5 { try pair.client.send("hello") }
            for _ in 0..<5 { #expect(try pair.receive() == 5) }
            let after = (pair.client.counters, pair.served.counters)
            #expect(after.0.messagesSent == 5 && after.0.messageBytesSent == 25)
            #expect(after.1.messagesReceived == 5 && after.1.messageBytesReceived == 25)
            #expect(after.0.datagramsSent - before.0.datagramsSent == 5)
            #expect(after.1.datagramsReceived - before.1.datagramsReceived == 5)
            let bytes = after.0.datagramBytesSent - before.0.datagramBytesSent
            #expect(bytes > 5 * 25 && bytes == after.1.datagramBytesReceived - before.1.datagramBytesReceived)
            #expect(server.counters.traffic == pair.served.counters)
            option.session = pair.client.resumableSession
            pair.client.close()
            while pair.served.isEstablished { try iosched.poll(timeout: 20_000) }
            #expect(pair.client.counters.messagesSent == 5, "it stays known")
            let next = try Pair(server, option)
            try next.client.send("again")
            #expect(try next.receive() == 5)
            let counters = server.counters
            #expect(counters.handshakesDone == 2 && counters.handshakesResumed == 1 && counters.handshakesFailed == 0)
            #expect(counters.traffic.messagesReceived == 6)
            server.close()
            #expect(server.counters.traffic.messagesReceived == 6)
            next.client.close()
        }
    }

    @Test func `failed handshakes are counted by their reason, and told`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let own = try await authority.issue("client")
        let other = try await TestAuthority().issue("other")
        let events = Events()
        var option = DtlsServerOption(
            ca: authority.certificate, cert: identity.certificate, key: identity.key, asksAboutPeers: true)
        option.observer = events.observer
        option.applicationProtocols = ["coap"]
        let server = try await AsyncDtlsServer(option, on: Dtls.sockaddr("127.0.0.1", 0))
        await server.onPeer { peer, _ in peer.serverName == "refused.example" ? .refused() : .accepted }
        let address = try await server.sockName()
        let good = DtlsClientOption(cert: own.certificate, key: own.key)
        func client(_ change: (inout DtlsClientOption) -> Void) -> DtlsClientOption {
            var option = good
            change(&option)
            return option
        }
        let connection = try await AsyncDtlsConnection.connect(good, to: address)
        let failing = [
            client { $0 = DtlsClientOption() },
            client { $0 = DtlsClientOption(cert: other.certificate, key: other.key) },
            client { $0.server = "refused.example" },
            client { $0.applicationProtocols = ["other"] },
            client {
                $0.rejectUnauthorized = true
                $0.ca = other.certificate
            },
        ]
        for option in failing {
            await #expect(throws: DtlsError.self) {
                _ = try await AsyncDtlsConnection.connect(option, to: address, timeout: 10_000)
            }
        }
        var counters = await server.counters
        for _ in 0..<500 where counters.handshakesFailed < 5 {
            try await Task.sleep(for: .milliseconds(10))
            counters = await server.counters
        }
        #expect(counters.handshakesDone == 1 && counters.handshakesFailed == 5)
        #expect(counters[.unverified] == 2 && counters[.refused] == 1 && counters[.other] == 1 && counters[.alert] == 1)
        await connection.close()
        await server.close()
        let (done, failed) = events.all.reduce(into: (0, 0)) { sums, event in
            switch event {
            case .handshakeDone(let agreement, let duration):
                sums.0 += agreement.version == "DTLSv1.2" && duration > .zero ? 1 : 0
            case .handshakeFailed: sums.1 += 1
            default: break
            }
        }
        #expect(done == 1 && failed == 5)
    }

    @Test func `dropped records are counted by their reason, and told`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        try await onThread {
            let events = Events()
            var option = DtlsServerOption(cert: identity.certificate, key: identity.key)
            option.observer = events.observer
            let server = try Dtls.createServer(option, Dtls.sockaddr("127.0.0.1", 0))
            let there = try #require(SocketAddress(host: "127.0.0.1", port: UInt16(server.sockName().port)))
            let relay = try MovingRelay(to: there)
            let pair = try Pair(
                server, DtlsClientOption(), at: Dtls.sockaddr("127.0.0.1", Int(relay.address.port)), relay)
            let before = pair.served.counters.recordsDropped
            // Each record comes twice.
            relay.copies = 2
            try pair.client.send("hello")
            try relay.run { pair.served.counters.recordsDropped[.replayed] > before[.replayed] }
            relay.copies = 1
            func forge(_ type: UInt8, epoch: UInt8, _ length: Int) {
                var record: [UInt8] = [type, 0xfe, 0xfd, 0, epoch, 0, 0, 0, 0, 1, 0, 0, UInt8(length)]
                record += [UInt8](repeating: 7, count: length)
                #expect(send(pair.client.sockFd, record, record.count, 0) == record.count)
            }
            forge(23, epoch: 1, 60)
            forge(22, epoch: 0, 60)
            #expect(send(pair.client.sockFd, [1, 2, 3] as [UInt8], 3, 0) == 3)
            try relay.run { pair.served.counters.recordsDropped.total >= before.total + 4 }
            let after = pair.served.counters.recordsDropped
            for reason in DtlsDroppedRecords.Reason.allCases {
                #expect(after[reason] == before[reason] + 1, "\(reason)")
            }
            #expect(server.counters.traffic.recordsDropped == after)
            var told = DtlsDroppedRecords.Reason.allCases.map { ($0, UInt64(0)) }
            for case .recordsDropped(let reason, let count) in events.all { told[reason.rawValue].1 += UInt64(count) }
            for (reason, count) in told { #expect(count == after[reason]) }
            // The connection goes on.
            #expect(try pair.receive() == 5)
            try pair.client.send("again")
            try relay.run { pair.served.counters.messagesReceived == 2 }
            pair.client.close()
            server.close()
        }
    }

    @Test func `a flight that is sent again is counted and told`() async throws {
        let silent = try DatagramSocket(at: try #require(SocketAddress(host: "127.0.0.1", port: 0)))
        let port = Int(silent.local.port)
        try await onThread {
            let events = Events()
            var option = DtlsClientOption(handshakeTimeout: 2_000)
            option.observer = events.observer
            let client = try Dtls.createClient(option, Dtls.sockaddr("127.0.0.1", port)) { _, _ in }
            while client.counters.flightsRetransmitted == 0 { try iosched.poll(timeout: 100) }
            #expect(client.counters.datagramsSent == 1 + client.counters.flightsRetransmitted)
            guard case .flightsRetransmitted(1) = events.all.first else {
                Issue.record("\(events.all)")
                return
            }
            while client.peer == nil { try iosched.poll(timeout: 3_000) }
            guard case .handshakeFailed(.timedOut) = events.all.last else {
                Issue.record("\(events.all)")
                return
            }
            client.close()
        }
        _ = silent.receive()
    }
}
