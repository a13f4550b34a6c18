import DTLSKit
import Testing

@Suite(.serialized) struct AsyncTests {
    private func makeServer(_ name: String? = nil) async throws -> (AsyncDtlsServer, DtlsAddress, DtlsClientOption) {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let server = try await AsyncDtlsServer(
            DtlsServerOption(name: name, cert: identity.certificate, key: identity.key),
            on: Dtls.sockaddr("127.0.0.1", 0))
        let option = DtlsClientOption(rejectUnauthorized: true, ca: authority.certificate, server: "localhost")
        return (server, try await server.sockName(), option)
    }

    @Test(arguments: [nil, "named"]) func `connections and messages come as sequences`(_ name: String?) async throws {
        let (server, address, option) = try await makeServer(name)
        async let served: Int = withThrowingTaskGroup(of: Int.self) { group in
            for try await connection in server.connections {
                group.addTask {
                    var count = 0
                    for try await message in connection.messages {
                        count += 1
                        try await connection.send(message)
                    }
                    return count
                }
            }
            return try await group.reduce(0, +)
        }
        try await withThrowingTaskGroup(of: Void.self) { group in
            for number in 0..<20 {
                group.addTask {
                    let client = try await AsyncDtlsConnection.connect(option, to: address)
                    for round in 0..<5 {
                        try await client.send("\(number) \(round)")
                        #expect(try await client.receive() == Array("\(number) \(round)".utf8))
                    }
                    await client.close()
                    await #expect(throws: DtlsError.notOpen) { try await client.send("x") }
                }
            }
            try await group.waitForAll()
        }
        await server.close()
        #expect(try await served == 100)
    }

    @Test func `a cancelled task stops waiting`() async throws {
        let (server, address, option) = try await makeServer()
        let waitingForClients = Task {
            // Held on to: a connection is closed with its last reference.
            var clients: [AsyncDtlsConnection] = []
            do {
                for try await client in server.connections { clients.append(client) }
            } catch {
                return (clients, error)
            }
            throw DtlsError.closed
        }
        let client = try await AsyncDtlsConnection.connect(option, to: address)
        let waitingForMessages = Task { for try await _ in client.messages {} }
        let connecting = Task {
            // Nobody answers there.
            _ = try await AsyncDtlsConnection.connect(option, to: Dtls.sockaddr("127.9.9.8", 9))
        }
        for task in [waitingForMessages, connecting] {
            task.cancel()
            await #expect(throws: CancellationError.self) { try await task.value }
        }
        waitingForClients.cancel()
        let (clients, error) = try await waitingForClients.value
        #expect(error is CancellationError)
        // What was cancelled was the waiting alone.
        try await client.send("still there")
        #expect(try await clients.first?.receive() == Array("still there".utf8))
        #expect(await client.session?.version == "DTLSv1.2")
        try await client.configure { try $0.setTTL(10) }
        await server.close()
    }

    @Test func `the last reference closes what it refers to`() async throws {
        let (server, address, option) = try await makeServer()
        var client: AsyncDtlsConnection? = try await AsyncDtlsConnection.connect(option, to: address)
        try await client?.send("the only message")
        client = nil
        var iterator = server.connections.makeAsyncIterator()
        let served = try #require(try await iterator.next())
        var messages: [[UInt8]] = []
        for try await message in served.messages { messages.append(message) }
        #expect(messages == [Array("the only message".utf8)])
        await server.close()
        #expect(try await iterator.next() == nil)
    }

    @Test func `failures of a handshake are thrown`() async throws {
        let (server, address, option) = try await makeServer()
        var wrong = option
        wrong.server = "elsewhere.example"
        await #expect(throws: DtlsError.self) { _ = try await AsyncDtlsConnection.connect(wrong, to: address) }
        await #expect(throws: DtlsError.self) {
            try await server.addcert(DtlsCertificateOption(name: "a.example", cert: "nonsense"))
        }
        await server.close()
    }
}
