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

    @Test(arguments: [nil, "named"]) func `clients that nobody takes are refused beyond the backlog`(_ name: String?)
        async throws
    {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        var serverOption = DtlsServerOption(name: name, cert: identity.certificate, key: identity.key)
        serverOption.backlog = 3
        let server = try await AsyncDtlsServer(serverOption, on: Dtls.sockaddr("127.0.0.1", 0))
        let address = try await server.sockName()
        var clients: [AsyncDtlsConnection] = []
        for _ in 0..<3 { clients.append(try await AsyncDtlsConnection.connect(DtlsClientOption(), to: address)) }
        // There is a cookie for one more, and no socket.
        let isRefused = { (error: any Error) in
            if case DtlsError.timedOut = error { return true }
            return false
        }
        await #expect(
            performing: {
                _ = try await AsyncDtlsConnection.connect(DtlsClientOption(), to: address, timeout: 300)
            }, throws: isRefused)
        var iterator = server.connections.makeAsyncIterator()
        let taken = try #require(try await iterator.next())
        clients.append(try await AsyncDtlsConnection.connect(DtlsClientOption(), to: address))
        try await clients[0].send("to the first")
        #expect(try await taken.receive() == Array("to the first".utf8))
        await server.close()
        #expect(try await iterator.next() == nil)
    }

    /// Code that runs on the loop that all asynchronous servers and connections share.
    @DtlsLoop private static func wait(_ call: String, _ option: DtlsServerOption) throws {
        let address = try Dtls.sockaddr("127.9.9.6", 0)
        switch call {
        case "createClient": _ = try Dtls.createClient(DtlsClientOption(), Dtls.sockaddr("127.9.9.6", 9))
        case "createByFd": _ = try Dtls.createByFd("waiting", 0)
        case "accept": _ = try Dtls.createServer(option, address).accept()
        case "poll": try iosched.poll()
        case "forever": try iosched.forever()
        default:
            let connection = try Dtls.createClient(DtlsClientOption(), Dtls.sockaddr("127.9.9.6", 9)) { _, _ in }
            defer { connection.close() }
            var buffer: [UInt8] = [0]
            switch call {
            case "recv": _ = try connection.recv(&buffer)
            case "send": try connection.send("x")
            case "isAlive": _ = try connection.isAlive()
            default: _ = try connection.suspend()
            }
        }
    }

    @Test(arguments: [
        "createClient", "createByFd", "accept", "poll", "forever", "recv", "send", "isAlive", "suspend",
    ])
    func `a call that would wait on the shared loop throws`(_ call: String) async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let option = DtlsServerOption(cert: identity.certificate, key: identity.key)
        let error = await #expect(throws: DtlsError.self) { try await Self.wait(call, option) }
        guard case .invalid(let reason) = error else {
            Issue.record("\(error as Any)")
            return
        }
        #expect(reason.contains("would wait on DtlsLoop"))
    }
}
