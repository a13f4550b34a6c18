import DTLSKit
import Foundation
import Testing

@Suite(.serialized) struct ConnectionTests {
    private func withServer(
        _ work: @escaping @Sendable (DtlsAddress, DtlsClientOption) throws -> Void
    ) async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let server = try await EchoServer(DtlsServerOption(cert: identity.certificate, key: identity.key))
        let option = DtlsClientOption(rejectUnauthorized: true, ca: authority.certificate, server: "localhost")
        try await onThread { try work(server.address, option) }
        try await server.stop()
    }

    @Test func `messages go both ways`() async throws {
        try await withServer { address, option in
            let client = try Dtls.createClient(option, address, timeout: 60_000)
            #expect(client.isEstablished)
            #expect(try client.peerName() == address)
            #expect(try client.sockName().addr == "127.0.0.1")
            #expect(try client.send("Hello Packet!") == 13)
            var buffer = [UInt8](repeating: 0, count: 100)
            #expect(try client.recv(&buffer, timeout: 60_000) == 13)
            #expect(String(decoding: buffer[..<13], as: UTF8.self) == "Hello Packet!")

            #expect(try client.send([1, 2, 3, 4, 5], offset: 1, length: 3) == 3)
            #expect(try client.recv(&buffer, offset: 10, length: 50, timeout: 60_000) == 3)
            #expect(buffer[10..<13] == [2, 3, 4])
            client.close()
        }
    }

    @Test func `the rest of a message that does not fit the buffer is received by the next call`() async throws {
        try await withServer { address, option in
            let client = try Dtls.createClient(option, address, timeout: 60_000)
            defer { client.close() }
            try client.send(Array(0..<100))
            var buffer = [UInt8](repeating: 0, count: 60)
            #expect(try client.recv(&buffer, timeout: 60_000) == 60)
            #expect(client.pending() == 40)
            #expect(try client.recv(&buffer, timeout: 0) == 40)
            #expect(buffer[..<40] == Array(60..<100)[...])
            #expect(client.pending() == 0)
            #expect(try client.recv(&buffer, timeout: 0) == 0)
            #expect(try client.recv(&buffer, timeout: 30) == 0)
        }
    }

    @Test func `wrong arguments throw and change nothing`() async throws {
        try await withServer { address, option in
            let client = try Dtls.createClient(option, address, timeout: 60_000)
            defer { client.close() }
            var buffer = [UInt8](repeating: 0, count: 10)
            #expect(throws: DtlsError.self) { try client.send([1], offset: 2) }
            #expect(throws: DtlsError.self) { try client.send([1], offset: -1) }
            #expect(throws: DtlsError.self) { try client.send([1], offset: 0, length: 2) }
            #expect(throws: DtlsError.self) { try client.send("") }
            #expect(throws: DtlsError.self) { try client.send([UInt8](repeating: 0, count: 16_385)) }
            #expect(throws: DtlsError.self) { try client.send("x", timeout: -1) }
            #expect(throws: DtlsError.self) { _ = try client.recv(&buffer, offset: 11) }
            #expect(throws: DtlsError.self) { _ = try client.recv(&buffer, length: 11) }
            #expect(throws: DtlsError.self) { _ = try client.recv(&buffer, timeout: -2) }
            // All that has changed nothing.
            try client.send([UInt8](repeating: 7, count: 16_384))
            var large = [UInt8](repeating: 0, count: 20_000)
            #expect(try client.recv(&large, timeout: 60_000) == 16_384)
        }
    }

    @Test func `calls on a connection that has ended throw closed or not open`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        try await onThread {
            let server = try Dtls.createServer(
                DtlsServerOption(cert: identity.certificate, key: identity.key), Dtls.sockaddr("127.0.0.1", 0))
            let address = try server.sockName()
            var accepted: [DtlsConnection] = []
            server.accept { client, remote in
                #expect(client.remote == remote)
                accepted.append(client)
            }
            var outcome: Result<DtlsConnection, DtlsError>?
            try Dtls.createClient(DtlsClientOption(), address) { result, remote in
                #expect(remote == address)
                outcome = result
            }
            while outcome == nil || accepted.isEmpty { try iosched.poll() }
            let client = try #require(try outcome?.get())
            let served = accepted[0]
            try served.send("last words")
            served.close()
            #expect(throws: DtlsError.notOpen) { try served.send("x") }
            var buffer = [UInt8](repeating: 0, count: 100)
            #expect(try client.recv(&buffer, timeout: 60_000) == 10)
            #expect(throws: DtlsError.closed) { _ = try client.recv(&buffer, timeout: 60_000) }
            #expect(throws: DtlsError.closed) { try client.send("x") }
            #expect(client.sockFd == -1)
            client.close()
            client.close()
            server.close()
        }
    }

    @Test func `accept throws when no client comes in time`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        try await onThread {
            let server = try Dtls.createServer(
                DtlsServerOption(cert: identity.certificate, key: identity.key), Dtls.sockaddr("127.0.0.1", 0))
            #expect(throws: DtlsError.timedOut(waitingFor: "a client", errno: 0)) { _ = try server.accept(timeout: 0) }
            #expect(throws: DtlsError.timedOut(waitingFor: "a client", errno: 0)) { _ = try server.accept(timeout: 20) }
            server.close()
            #expect(throws: DtlsError.notOpen) { _ = try server.accept(timeout: 0) }
        }
    }

    /// Two threads, nothing but calls that wait: the reference's synchronous mode.
    @Test func `a synchronous server and a synchronous client talk`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let (addresses, continuation) = AsyncStream.makeStream(of: DtlsAddress.self)
        async let served = onThread {
            let server = try Dtls.createServer(
                DtlsServerOption(cert: identity.certificate, key: identity.key), Dtls.sockaddr6("::1", 0))
            continuation.yield(try server.sockName())
            var remote: DtlsAddress?
            let client = try server.accept(&remote, timeout: 60_000)
            #expect(remote == client.remote)
            var buffer = [UInt8](repeating: 0, count: 100)
            let count = try client.recv(&buffer)
            try client.send(buffer, length: count)
            #expect(throws: DtlsError.closed) { _ = try client.recv(&buffer) }
            return String(decoding: buffer[..<count], as: UTF8.self)
        }
        var iterator = addresses.makeAsyncIterator()
        let address = try #require(await iterator.next())
        try await onThread {
            let client = try Dtls.createClient(DtlsClientOption(), address)
            try client.send("one after the other")
            var buffer = [UInt8](repeating: 0, count: 100)
            #expect(try client.recv(&buffer) == 19)
            client.close()
        }
        #expect(try await served == "one after the other")
    }

    @Test func `a server's callback may close anything`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        try await onThread {
            let server = try Dtls.createServer(
                DtlsServerOption(cert: identity.certificate, key: identity.key), Dtls.sockaddr("127.0.0.1", 0))
            let address = try server.sockName()
            var ended = 0
            let clients = try (0..<8).map { _ in
                try Dtls.createClient(DtlsClientOption(handshakeTimeout: 60_000), address) { _, _ in ended += 1 }
            }
            var accepted = 0
            server.accept { client, _ in
                accepted += 1
                client.close()
                if accepted == 2 { server.close() }
            }
            while accepted < 2 { try iosched.poll(timeout: 5_000) }
            #expect(server.sockFd == -1)
            for client in clients { client.close() }
            // Each is told how its handshake has ended.
            while ended < 8 { try iosched.poll(timeout: 5_000) }
            #expect(accepted == 2)
        }
    }

    /// Clients that are connected close all; each is told once how its handshake has ended.
    @Test func `a client's callback may close anything`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        try await onThread {
            let server = try Dtls.createServer(
                DtlsServerOption(cert: identity.certificate, key: identity.key), Dtls.sockaddr("127.0.0.1", 0))
            let address = try server.sockName()
            var clients: [DtlsConnection] = []
            var ended = 0
            for _ in 0..<8 {
                clients.append(
                    try Dtls.createClient(DtlsClientOption(handshakeTimeout: 60_000), address) { result, _ in
                        ended += 1
                        if case .success = result { for client in clients { client.close() } }
                    })
            }
            server.accept { client, _ in client.close() }
            while ended < 8 { try iosched.poll(timeout: 5_000) }
            try iosched.poll(timeout: 0)
            #expect(ended == 8)
            #expect(clients.allSatisfy { $0.sockFd == -1 })
            server.close()
        }
    }

    @Test func `the loop calls back for timers and descriptors`() async throws {
        try await onThread {
            let iosched = try iosched
            var calls: [String] = []
            try iosched.timer(after: 20) { calls.append("late") }
            try iosched.timer(after: 1) { calls.append("early") }
            let cancelled = try iosched.timer(after: 1) { calls.append("never") }
            cancelled.cancel()
            var repeated = 0
            var timer: Iosched.Timer?
            timer = try iosched.timer(after: 2, repeats: true) {
                repeated += 1
                if repeated == 3 { timer?.cancel() }
            }
            var ends: [Int32] = [-1, -1]
            #expect(pipe(&ends) == 0)
            var read: [UInt8] = []
            let event = iosched.event(.read, ends[0]) {
                var byte: UInt8 = 0
                if Glibc.read(ends[0], &byte, 1) == 1 { read.append(byte) }
                return read.count < 2
            }
            try iosched.add(event)
            var writes = 0
            try iosched.add(
                iosched.event(.write, ends[1]) {
                    writes += 1
                    var byte = UInt8(writes)
                    _ = Glibc.write(ends[1], &byte, 1)
                    return writes < 3
                })
            while calls.count < 2 || repeated < 3 || read.count < 2 || writes < 3 { try iosched.poll() }
            #expect(calls == ["early", "late"])
            #expect(read == [1, 2])
            try iosched.poll(timeout: 0)
            #expect(read == [1, 2], "an event whose callback gave false is gone")
            close(ends[0])
            close(ends[1])
            #expect(throws: DtlsError.self) { try iosched.add(iosched.event(.read, 1_000_000) { true }) }
            try iosched.timer(after: 0) { iosched.stop() }
            try iosched.forever()
            // A stop that came before: this would not return otherwise.
            iosched.stop()
            try iosched.forever()
        }
    }
}
