#if NIO
    import DTLSKit
    import DTLSNIO
    import LinuxSystem
    import NIOCore
    import NIOPosix
    import Synchronization
    import TestSupport
    import Testing

    private typealias Address = LinuxSystem.SocketAddress

    /// Over sockets, with other stacks and with DTLSKit on the other side.
    @Suite struct SocketTests {
        private let credentials: Credentials
        private let group = MultiThreadedEventLoopGroup.singleton

        init() async throws { credentials = try await Credentials.shared }

        /// A server, and what its clients' channels were told.
        private final class Server: Sendable {
            let channel: any Channel
            let recorder = Recorder()
            private let children: Children
            var port: Int { channel.localAddress?.port ?? 0 }

            final class Children: Sendable {
                let all = Mutex<[(channel: any Channel, recorder: Recorder)]>([])
            }

            init(_ option: DtlsServerOption, on group: MultiThreadedEventLoopGroup, host: String = "127.0.0.1")
                async throws
            {
                let children = Children()
                self.children = children
                channel = try await DatagramBootstrap(group: group)
                    .channelInitializer { [recorder] channel in
                        channel.eventLoop.makeCompletedFuture {
                            let handler = try DTLSServerHandler(option) { child in
                                child.eventLoop.makeCompletedFuture {
                                    let recorder = Recorder(echoes: true)
                                    try child.pipeline.syncOperations.addHandler(recorder)
                                    children.all.withLock { $0.append((child, recorder)) }
                                }
                            }
                            try channel.pipeline.syncOperations.addHandlers(handler, recorder)
                        }
                    }
                    .channelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: 16_640))
                    .bind(host: host, port: 0).get()
            }

            var clients: [(channel: any Channel, recorder: Recorder)] { children.all.withLock { $0 } }
        }

        private struct Client {
            let channel: any Channel
            let recorder: Recorder
        }

        private func connect(
            _ option: DtlsClientOption, host: String = "127.0.0.1", port: Int
        ) async throws -> Client {
            let recorder = Recorder()
            let channel = try await DatagramBootstrap(group: group)
                .channelInitializer { channel in
                    channel.eventLoop.makeCompletedFuture {
                        try channel.pipeline.syncOperations.addHandlers(try DTLSClientHandler(option), recorder)
                    }
                }
                .channelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: 16_640))
                .connect(host: host, port: port).get()
            return Client(channel: channel, recorder: recorder)
        }

        @Test(arguments: ["127.0.0.1", "::1"]) func `a client and a server talk, and end, on several threads`(
            _ host: String
        ) async throws {
            let server = try await Server(credentials.server, on: group, host: host)
            let option = credentials.client
            let clients = try await withThrowingTaskGroup(of: Client.self) { group in
                for _ in 0..<20 { group.addTask { try await connect(option, host: host, port: server.port) } }
                return try await group.reduce(into: [Client]()) { $0.append($1) }
            }
            for (number, client) in clients.enumerated() {
                for message in 0..<10 {
                    try await client.channel.writeAndFlush(ByteBuffer(string: "\(number) \(message)"))
                }
            }
            for (number, client) in clients.enumerated() {
                try await eventually("all comes back", details: "\(client.recorder.all)") {
                    Set(client.recorder.messages) == Set((0..<10).map { "\(number) \($0)" })
                }
            }
            #expect(server.clients.count == 20)
            for client in clients.dropLast() { try await client.channel.close() }
            try await eventually("the server has seen the ends") {
                server.clients.filter { $0.recorder.all.suffix(2) == ["shutdown", "inactive"] }.count == 19
            }
            try await server.channel.close()
            try await clients.last?.channel.closeFuture.get()
            #expect(clients.last?.recorder.all.suffix(2) == ["shutdown", "inactive"])
        }

        @Test func `the largest message passes where the receive buffers hold it`() async throws {
            let server = try await Server(credentials.server, on: group)
            let client = try await connect(credentials.client, port: server.port)
            let message = String(repeating: "x", count: 16_384)
            try await client.channel.writeAndFlush(ByteBuffer(string: message))
            try await eventually("it comes back") { client.recorder.messages == [message] }
            try await client.channel.close()
            try await server.channel.close()
        }

        @Test func `OpenSSL's client talks with a server, and closes`() async throws {
            let server = try await Server(credentials.server, on: group)
            let theirs = try Program(
                [
                    "openssl", "s_client", "-dtls1_2", "-nbio", "-connect", "127.0.0.1:\(server.port)",
                    "-verify_return_error", "-CAfile", credentials.certificateFile,
                ], in: credentials.folder)
            theirs.send("typed\n")
            try await eventually("the line comes back", details: theirs.output + theirs.errors) {
                theirs.output.contains("typed")
            }
            theirs.send("Q\n")
            #expect(try await theirs.ended() == .exited(0))
            try await eventually("the server has seen the end") { server.clients.first?.channel.isActive == false }
            #expect(server.clients.first?.recorder.messages == ["typed\n"])
            try await server.channel.close()
        }

        @Test func `OpenSSL's client that does not trust the server is announced`() async throws {
            let server = try await Server(credentials.server, on: group)
            let theirs = try Program(
                [
                    "openssl", "s_client", "-dtls1_2", "-connect", "127.0.0.1:\(server.port)", "-verify_return_error",
                    "-no-CAfile", "-no-CApath",
                ], in: credentials.folder)
            try await eventually("the failure is announced") { !server.recorder.failed.isEmpty }
            #expect("\(server.recorder.failed[0].error)".contains("unknown ca"))
            #expect(server.clients.isEmpty)
            theirs.closeInput()
            try await server.channel.close()
        }

        @Test func `a client talks with OpenSSL's server, and tells it of its end`() async throws {
            let port = Int(try Address.free(on: "127.0.0.1").port)
            let theirs = try Program(
                [
                    "openssl", "s_server", "-dtls1_2", "-accept", "127.0.0.1:\(port)", "-listen", "-cert",
                    credentials.certificateFile, "-key", credentials.keyFile, "-alpn", "coap",
                ], in: credentials.folder)
            try await eventually("it listens", details: theirs.errors) {
                ProcessTable.localPorts(of: theirs.pid).contains(UInt16(port))
            }
            var option = credentials.client
            option.applicationProtocols = ["http", "coap"]
            let client = try await connect(option, port: port)
            try await client.channel.writeAndFlush(ByteBuffer(string: "to openssl\n"))
            try await eventually("it arrives", details: theirs.output + theirs.errors) {
                theirs.output.contains("to openssl")
            }
            #expect(client.recorder.completed.first?.agreement.applicationProtocol == "coap")
            theirs.send("from openssl\n")
            try await eventually("the answer comes") { client.recorder.messages == ["from openssl\n"] }
            try await client.channel.close()
            try await eventually("it has heard of the end", details: theirs.output) { theirs.output.contains("DONE") }
        }

        @Test func `DTLSKit's client talks with a server`() async throws {
            let server = try await Server(credentials.server, on: group)
            let connection = try await AsyncDtlsConnection.connect(
                credentials.client, to: Dtls.sockaddr("127.0.0.1", server.port))
            try await connection.send([UInt8]("hello".utf8))
            #expect(try await connection.receive() == [UInt8]("hello".utf8))
            await connection.close()
            try await eventually("the server has seen the end") { server.clients.first?.channel.isActive == false }
            try await server.channel.close()
        }

        @Test func `a client talks with DTLSKit's server, resumes its session, and is told of its end`() async throws {
            let server = try await AsyncDtlsServer(credentials.server, on: Dtls.sockaddr("127.0.0.1", 0))
            let port = try await server.sockName().port
            let echo = Task {
                for try await connection in server.connections {
                    Task {
                        for try await message in connection.messages {
                            try await connection.send(message)
                            if message == [UInt8]("two".utf8) { await connection.close() }
                        }
                    }
                }
            }
            var option = credentials.client
            option.keepsSession = true
            let first = try await connect(option, port: port)
            try await first.channel.writeAndFlush(ByteBuffer(string: "one"))
            try await eventually("it comes back") { first.recorder.messages == ["one"] }
            #expect(first.recorder.completed.first?.agreement.isResumed == false)
            option.session = try #require(first.recorder.completed.first?.session)
            try await first.channel.close()
            let second = try await connect(option, port: port)
            try await second.channel.writeAndFlush(ByteBuffer(string: "two"))
            try await eventually("it comes back") { second.recorder.messages == ["two"] }
            #expect(second.recorder.completed.first?.agreement.isResumed == true)
            try await second.channel.closeFuture.get()
            #expect(second.recorder.all.suffix(2) == ["shutdown", "inactive"])
            echo.cancel()
            await server.close()
        }

        @Test func `where nobody listens, the network's word ends the attempt early`() async throws {
            let port = Int(try Address.free(on: "127.0.0.1").port)
            let began = ContinuousClock.now
            let client = try await connect(credentials.client, port: port)
            try await client.channel.closeFuture.get()
            #expect(ContinuousClock.now - began < .seconds(30))
            #expect((client.recorder.errors.first as? DtlsError)?.errno == 111)
        }

        @Test func `a channel of a client can be used with async and await`() async throws {
            typealias Connection = NIOAsyncChannel<ByteBuffer, ByteBuffer>
            let (connections, continuation) = AsyncStream.makeStream(of: Connection.self)
            let option = credentials.server
            let server = try await DatagramBootstrap(group: group)
                .channelInitializer { channel in
                    channel.eventLoop.makeCompletedFuture {
                        let handler = try DTLSServerHandler(option) { child in
                            child.eventLoop.makeCompletedFuture {
                                continuation.yield(try Connection(wrappingChannelSynchronously: child))
                            }
                        }
                        try channel.pipeline.syncOperations.addHandler(handler)
                    }
                }
                .bind(host: "127.0.0.1", port: 0).get()
            let echo = Task {
                for await connection in connections {
                    try await connection.executeThenClose { messages, writer in
                        for try await message in messages { try await writer.write(message) }
                    }
                    return
                }
            }
            let client = try await connect(credentials.client, port: try #require(server.localAddress?.port))
            for number in 0..<100 {
                try await client.channel.writeAndFlush(ByteBuffer(string: "\(number)"))
                try await eventually("it comes back") { client.recorder.messages.last == "\(number)" }
            }
            try await client.channel.close()
            try await echo.value
            try await server.close()
        }

        @Test func `datagrams of others do not disturb a server`() async throws {
            let server = try await Server(credentials.server, on: group)
            let target = try #require(Address(host: "127.0.0.1", port: UInt16(server.port)))
            let stranger = try DatagramSocket(at: try #require(Address(host: "127.0.0.1", port: 0)))
            for _ in 0..<500 {
                stranger.send((0..<Int.random(in: 0...1_400)).map { _ in .random(in: 0...255) }, to: target)
            }
            let client = try await connect(credentials.client, port: server.port)
            try await client.channel.writeAndFlush(ByteBuffer(string: "hello"))
            try await eventually("it comes back") { client.recorder.messages == ["hello"] }
            try await client.channel.close()
            try await server.channel.close()
        }
    }
#endif
