#if NIO
    import DTLSKit
    import NIOCore
    import NIOEmbedded
    import TestSupport

    @testable import DTLSNIO

    /// Clients and a server in embedded channels, and the wire between them, in the time of one embedded event loop.
    final class EmbeddedNetwork {
        struct Client {
            let channel: EmbeddedChannel
            let recorder: Recorder
            let address: SocketAddress
        }

        private struct Datagram {
            let time: Int
            let bytes: ByteBuffer
            /// `nil`: the server.
            let client: SocketAddress?
            let source: SocketAddress
        }

        let loop = EmbeddedEventLoop()
        let server: EmbeddedChannel
        let serverRecorder = Recorder()
        let handler: DTLSServerHandler
        let serverAddress: SocketAddress
        private(set) var clients: [Client] = []
        /// The channels of clients, and what they were told, in the order in which they were made.
        private(set) var children: [(channel: any Channel, recorder: Recorder)] = []
        /// What the children's initializers return; `nil`: success at once.
        var initialization: (() -> EventLoopFuture<Void>)?
        /// Shares of 100.
        var conditions = WireConditions.perfect
        /// What becomes of a datagram, by its number from 0; `nil`: it is lost.
        var interfere: ((Int, ByteBuffer) -> ByteBuffer?)?
        private(set) var sentByServer: [ByteBuffer] = []
        private(set) var sentByClients: [ByteBuffer] = []
        private var count = 0
        private var random: SeededGenerator
        private var onTheWay: [Datagram] = []
        /// Milliseconds.
        private var now = 0

        /// Milliseconds from one side to the other, and more, at most, for what is reordered.
        private static let delay = 20
        private static let reorderingDelay = 50

        init(
            _ option: DtlsServerOption, backlog: Int = 1_024, seed: UInt64 = 1, echoes: Bool = true,
            autoRead: Bool = true,
            onPresharedKey: (([UInt8], String?) -> EventLoopFuture<[UInt8]?>)? = nil,
            onPeer: ((DtlsPeer) -> EventLoopFuture<DtlsPeerVerdict>)? = nil
        ) throws {
            random = SeededGenerator(seed: seed)
            serverAddress = try SocketAddress(ipAddress: "192.0.2.1", port: 4_433)
            var made: ((any Channel) -> EventLoopFuture<Void>)?
            handler = try DTLSServerHandler(
                option, backlog: backlog, onPresharedKey: onPresharedKey, onPeer: onPeer
            ) { channel in
                made?(channel) ?? channel.eventLoop.makeSucceededVoidFuture()
            }
            server = EmbeddedChannel(handlers: [handler, serverRecorder], loop: loop)
            server.localAddress = serverAddress
            made = { [weak self] channel in
                guard let self else { return channel.eventLoop.makeSucceededVoidFuture() }
                let recorder = Recorder(echoes: echoes)
                children.append((channel, recorder))
                do {
                    if !autoRead { try channel.syncOptions?.setOption(.autoRead, value: false) }
                    try channel.pipeline.syncOperations.addHandler(recorder)
                } catch {
                    return channel.eventLoop.makeFailedFuture(error)
                }
                return initialization?() ?? channel.eventLoop.makeSucceededVoidFuture()
            }
            server.connect(to: try SocketAddress(ipAddress: "192.0.2.1", port: 4_433), promise: nil)
        }

        deinit {
            for channel in clients.map(\.channel) + [server] where channel.isActive { channel.close(promise: nil) }
            loop.run()
        }

        /// Adds a client, which begins its handshake.
        /// - Parameter port: its own; one that another client has had replaces that one, which says nothing more.
        @discardableResult
        func connect(
            _ option: DtlsClientOption, port: Int = 50_000,
            onPeer: ((DtlsPeer) -> EventLoopFuture<DtlsPeerVerdict>)? = nil
        ) throws -> Client {
            let recorder = Recorder()
            let address = try SocketAddress(ipAddress: "192.0.2.7", port: port)
            let channel = EmbeddedChannel(
                handlers: [try DTLSClientHandler(option, onPeer: onPeer), recorder], loop: loop)
            channel.localAddress = address
            channel.remoteAddress = serverAddress
            if let former = clients.firstIndex(where: { $0.address == address }) {
                let client = clients.remove(at: former)
                // What it would say does not arrive.
                client.channel.close(promise: nil)
            }
            let client = Client(channel: channel, recorder: recorder, address: address)
            clients.append(client)
            channel.connect(to: serverAddress, promise: nil)
            return client
        }

        /// Holds the channels of clients no longer.
        func forgetChildren() { children = [] }

        /// Lets time pass, in which datagrams arrive.
        func run(milliseconds: Int) throws {
            for _ in 0..<milliseconds {
                try collect()
                now += 1
                loop.advanceTime(by: .milliseconds(1))
                try collect()
                let due = onTheWay.filter { $0.time <= now }.sorted { $0.time < $1.time }
                onTheWay.removeAll { $0.time <= now }
                for datagram in due { try deliver(datagram.bytes, from: datagram.source, to: datagram.client) }
            }
        }

        /// Lets time pass until something is so, for 100 seconds at most.
        func run(until condition: () -> Bool) throws {
            for _ in 0..<20_000 {
                if condition() { return }
                try run(milliseconds: 5)
            }
            throw NeverHappened(description: "nothing happened in 100 seconds")
        }

        /// - Parameter client: `nil`: the server.
        func deliver(_ bytes: ByteBuffer, from source: SocketAddress, to client: SocketAddress?) throws {
            let channel = client.map { address in clients.first { $0.address == address }?.channel } ?? server
            guard let channel, channel.isActive else { return }
            try channel.writeInbound(AddressedEnvelope(remoteAddress: source, data: bytes))
        }

        private func collect() throws {
            for client in clients {
                while let datagram = try client.channel.readOutbound(as: ByteBuffer.self) {
                    sentByClients.append(datagram)
                    put(datagram, client: nil, from: client.address)
                }
            }
            while let envelope = try server.readOutbound(as: AddressedEnvelope<ByteBuffer>.self) {
                sentByServer.append(envelope.data)
                put(envelope.data, client: envelope.remoteAddress, from: serverAddress)
            }
        }

        private func put(_ bytes: ByteBuffer, client: SocketAddress?, from source: SocketAddress) {
            // Always the same number of draws, so that a datagram's fate depends on the seed and its place alone.
            let draws = (0..<4).map { _ in Int(random.next() % 100) }
            let number = count
            count += 1
            guard let bytes = interfere.map({ $0(number, bytes) }) ?? bytes, draws[0] >= conditions.loss else { return }
            for copy in 0..<(draws[1] < conditions.duplication ? 2 : 1) {
                let later = draws[2] < conditions.reordering ? draws[3] * Self.reorderingDelay / 100 : 0
                onTheWay.append(
                    Datagram(time: now + Self.delay + later + copy, bytes: bytes, client: client, source: source))
            }
        }
    }

    extension EmbeddedNetwork.Client {
        /// Writes a message.
        @discardableResult
        func send(_ text: String) -> EventLoopFuture<Void> {
            channel.writeAndFlush(ByteBuffer(string: text))
        }
    }
#endif
