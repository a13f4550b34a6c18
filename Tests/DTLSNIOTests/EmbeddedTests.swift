#if NIO
    import DTLSKit
    import NIOCore
    import NIOEmbedded
    import Synchronization
    import TestSupport
    import Testing

    @testable import DTLSNIO

    /// Client and server in embedded channels: without sockets, threads and clock.
    @Suite struct EmbeddedTests {
        private let credentials: Credentials

        init() async throws { credentials = try await Credentials.shared }

        private func made(_ future: EventLoopFuture<Void>) -> Outcome {
            let outcome = Outcome()
            future.assumeIsolated().whenComplete { outcome.result = $0 }
            return outcome
        }

        private final class Outcome {
            var result: Result<Void, any Error>?

            var isSuccess: Bool {
                if case .success? = result { return true }
                return false
            }

            var error: DtlsError? {
                if case .failure(let error)? = result { return error as? DtlsError }
                return nil
            }
        }

        // MARK: Handshake and messages

        @Test func `a message that is written before the handshake leaves after it, and comes back`() throws {
            let network = try EmbeddedNetwork(credentials.server)
            let client = try network.connect(credentials.client)
            let write = made(client.send("early"))
            try network.run(milliseconds: 30)
            #expect(write.result == nil)
            #expect(client.recorder.all == ["active"])
            try network.run { !client.recorder.messages.isEmpty }
            #expect(write.isSuccess)
            #expect(client.recorder.all == ["active", "completed", "TLS completed", "message"])
            #expect(client.recorder.messages == ["early"])
            let completed = try #require(client.recorder.completed.first)
            #expect(completed.remoteAddress == network.serverAddress)
            #expect(completed.agreement.version == "DTLSv1.2")
            #expect(completed.agreement.serverName == "localhost")
            #expect(completed.peer.isVerified && completed.peer.names.dns == ["localhost"])
            #expect(completed.peer.certificate?.names.contains("localhost") == true)
            #expect(completed.largestMessage == 16_384)
            #expect(network.children.count == 1)
            let child = try #require(network.children.first)
            #expect(child.recorder.all == ["active", "completed", "TLS completed", "message"])
            #expect(child.channel.remoteAddress == client.address)
            #expect(child.channel.localAddress == network.serverAddress)
            #expect(child.recorder.completed.first?.remoteAddress == client.address)
            #expect(child.recorder.completed.first?.agreement.cipher == completed.agreement.cipher)
            #expect(network.serverRecorder.all == ["active"])
        }

        @Test(arguments: 1...12 as ClosedRange<UInt64>)
        func `handshakes are done on a bad network, and messages keep their content`(_ seed: UInt64) throws {
            let network = try EmbeddedNetwork(credentials.server, seed: seed)
            network.conditions = WireConditions(loss: 15, duplication: 15, reordering: 30)
            let client = try network.connect(credentials.client)
            try network.run { !client.recorder.completed.isEmpty }
            let sent = Set((0..<200).map { "message \($0)" })
            for text in sent.sorted() {
                client.send(text)
                try network.run(milliseconds: 5)
            }
            try network.run(milliseconds: 2_000)
            #expect(client.recorder.errors.isEmpty)
            let received = client.recorder.messages
            // Some 0.85² of them come back, each once at the most.
            #expect(received.count > 90 && received.count <= 200)
            #expect(Set(received).isSubset(of: sent) && Set(received).count == received.count)
            #expect(network.children.count == 1)
        }

        @Test func `a lost flight is sent again when its time has passed`() throws {
            let network = try EmbeddedNetwork(credentials.server)
            network.interfere = { number, datagram in number == 0 ? nil : datagram }
            let client = try network.connect(credentials.client)
            try network.run(milliseconds: 200)
            #expect(network.sentByClients.count == 1 && network.sentByServer.isEmpty)
            try network.run { !client.recorder.completed.isEmpty }
            #expect(network.sentByClients.count > 2)
        }

        @Test func `an endpoint that does not answer fails the handshake, and what waits for it`() throws {
            let network = try EmbeddedNetwork(credentials.server)
            network.interfere = { _, _ in nil }
            var option = credentials.client
            option.handshakeTimeout = 5_000
            let client = try network.connect(option)
            let write = made(client.send("never"))
            try network.run(milliseconds: 4_900)
            #expect(client.recorder.errors.isEmpty && client.channel.isActive)
            try network.run(milliseconds: 200)
            #expect(client.recorder.errors as? [DtlsError] == [.timedOut(waitingFor: "the handshake", errno: 0)])
            #expect(write.error == .timedOut(waitingFor: "the handshake", errno: 0))
            #expect(!client.channel.isActive)
            #expect(client.recorder.all == ["active", "error", "inactive"])
        }

        @Test func `a server that is not trusted is refused on both sides with the reason`() throws {
            let network = try EmbeddedNetwork(credentials.server)
            var option = credentials.client
            option.ca = nil
            let client = try network.connect(option)
            try network.run { !client.recorder.errors.isEmpty && !network.serverRecorder.failed.isEmpty }
            guard case .handshake(_, let certificate?)? = client.recorder.errors.first as? DtlsError else {
                Issue.record("\(client.recorder.errors)")
                return
            }
            #expect(certificate.contains("self-signed certificate"))
            let failed = try #require(network.serverRecorder.failed.first)
            #expect(failed.remoteAddress == client.address)
            #expect("\(failed.error)".contains("alert"))
            #expect(network.children.isEmpty && network.handler.clientCount == 0)
        }

        @Test func `a message that is too large fails alone, with the sizes`() throws {
            let network = try EmbeddedNetwork(credentials.server)
            let client = try network.connect(credentials.client)
            try network.run { !client.recorder.completed.isEmpty }
            let large = made(client.send(String(repeating: "x", count: 16_385)))
            let fits = made(client.send(String(repeating: "y", count: 16_384)))
            #expect(large.error == .invalid("a message of 16385 bytes: it may have at most 16384"))
            #expect(fits.isSuccess)
            try network.run { !client.recorder.messages.isEmpty }
            #expect(client.recorder.messages.map(\.count) == [16_384])
            let child = try #require(network.children.first?.channel)
            let childs = made(child.writeAndFlush(ByteBuffer(repeating: 0, count: 16_385)))
            #expect(childs.error == .invalid("a message of 16385 bytes: it may have at most 16384"))
            #expect(child.isActive)
        }

        // MARK: Ends

        @Test func `a client that closes its channel tells the server`() throws {
            let network = try EmbeddedNetwork(credentials.server)
            let client = try network.connect(credentials.client)
            try network.run { !client.recorder.completed.isEmpty }
            let child = try #require(network.children.first)
            let closed = made(client.channel.close())
            #expect(closed.isSuccess && !client.channel.isActive)
            try network.run { !child.channel.isActive }
            #expect(child.recorder.all == ["active", "completed", "TLS completed", "shutdown", "inactive"])
            network.loop.run()
            #expect(made(child.channel.closeFuture).isSuccess)
            #expect(network.handler.clientCount == 0)
            let late = made(child.channel.writeAndFlush(ByteBuffer(string: "late")))
            guard case .failure(let error)? = late.result else {
                Issue.record("it was written")
                return
            }
            #expect(error as? ChannelError == .ioOnClosedChannel)
        }

        @Test func `closing a client's channel at the server tells the client`() throws {
            let network = try EmbeddedNetwork(credentials.server)
            let client = try network.connect(credentials.client)
            try network.run { !client.recorder.completed.isEmpty }
            let child = try #require(network.children.first)
            let waits = made(child.channel.write(ByteBuffer(string: "not flushed")))
            let closed = made(child.channel.close())
            #expect(closed.isSuccess && !child.channel.isActive && waits.result != nil && !waits.isSuccess)
            #expect(network.handler.clientCount == 0)
            try network.run { !client.channel.isActive }
            #expect(client.recorder.all == ["active", "completed", "TLS completed", "shutdown", "inactive"])
            let late = made(client.send("late"))
            #expect(late.result != nil && !late.isSuccess)
            #expect(network.server.isActive)
        }

        @Test func `closing the server's channel tells all clients`() throws {
            let network = try EmbeddedNetwork(credentials.server)
            let clients = try (0..<3).map { try network.connect(credentials.client, port: 50_000 + $0) }
            try network.run { clients.allSatisfy { !$0.recorder.completed.isEmpty } }
            network.server.close(promise: nil)
            try network.run { clients.allSatisfy { !$0.channel.isActive } }
            for client in clients { #expect(client.recorder.all.suffix(2) == ["shutdown", "inactive"]) }
            for child in network.children { #expect(child.recorder.all.last == "inactive") }
        }

        @Test func `a client that comes back from its port without its state has a new channel`() throws {
            let network = try EmbeddedNetwork(credentials.server)
            let first = try network.connect(credentials.client)
            try network.run { !first.recorder.completed.isEmpty }
            let second = try network.connect(credentials.client)
            second.send("again")
            try network.run { !second.recorder.messages.isEmpty }
            #expect(network.children.count == 2 && network.handler.clientCount == 1)
            #expect(network.children.map(\.channel.isActive) == [false, true])
            #expect(network.children.first?.recorder.all == ["active", "completed", "TLS completed", "inactive"])
            #expect(network.children.last?.recorder.messages == ["again"])
        }

        @Test func `a silent peer ends a connection where there is an idle timeout`() throws {
            var option = credentials.server
            option.idleTimeout = 3_000
            let network = try EmbeddedNetwork(option)
            let client = try network.connect(credentials.client)
            try network.run { !client.recorder.completed.isEmpty }
            let child = try #require(network.children.first)
            for _ in 0..<4 {
                try network.run(milliseconds: 2_000)
                client.send("alive")
            }
            #expect(child.channel.isActive)
            try network.run(milliseconds: 3_100)
            #expect(!child.channel.isActive)
            #expect(
                child.recorder.errors as? [DtlsError]
                    == [.timedOut(waitingFor: "anything from the peer (idleTimeout)", errno: 0)])
        }

        @Test func `nothing is left of a client that has ended, nor of a server`() throws {
            weak var child: DTLSChildChannel?
            weak var client: DTLSClientHandler?
            weak var server: DTLSServerHandler?
            func talk() throws {
                let network = try EmbeddedNetwork(credentials.server)
                let first = try network.connect(credentials.client)
                try network.run { !first.recorder.completed.isEmpty }
                child = network.children.first?.channel as? DTLSChildChannel
                client = try first.channel.pipeline.syncOperations.handler(type: DTLSClientHandler.self)
                server = network.handler
                #expect(child != nil && client != nil)
                network.forgetChildren()
                #expect(child != nil)
                first.channel.close(promise: nil)
                try network.run(milliseconds: 50)
                #expect(child == nil && client == nil)
                let second = try network.connect(credentials.client, port: 50_001)
                try network.run { !second.recorder.completed.isEmpty }
            }
            try talk()
            #expect(server == nil)
        }

        // MARK: Initializers and backlog

        @Test func `a channel becomes active, and is read, when its initializer has ended`() throws {
            let network = try EmbeddedNetwork(credentials.server)
            let promise = network.loop.makePromise(of: Void.self)
            network.initialization = { promise.futureResult }
            let client = try network.connect(credentials.client)
            client.send("one")
            try network.run { !client.recorder.completed.isEmpty }
            client.send("two")
            try network.run(milliseconds: 500)
            let child = try #require(network.children.first)
            #expect(!child.channel.isActive && child.recorder.all.isEmpty)
            promise.succeed()
            #expect(child.channel.isActive)
            #expect(child.recorder.messages == ["one", "two"])
            try network.run { client.recorder.messages.count == 2 }
        }

        @Test func `a channel whose initializer fails is closed, and the client is told`() throws {
            struct Failure: Error {}
            let network = try EmbeddedNetwork(credentials.server)
            network.initialization = { network.loop.makeFailedFuture(Failure()) }
            let client = try network.connect(credentials.client)
            try network.run { !client.channel.isActive }
            #expect(client.recorder.all.suffix(2) == ["shutdown", "inactive"])
            #expect(network.children.first?.recorder.errors.first is Failure)
            #expect(network.handler.clientCount == 0 && network.handler.waitingCount == 0)
        }

        @Test func `clients beyond the backlog get their turn when there is room`() throws {
            let network = try EmbeddedNetwork(credentials.server, backlog: 2)
            let promise = network.loop.makePromise(of: Void.self)
            network.initialization = { promise.futureResult }
            let clients = try (0..<5).map { try network.connect(credentials.client, port: 50_000 + $0) }
            try network.run(milliseconds: 1_500)
            #expect(network.handler.clientCount == 2 && network.handler.waitingCount == 2)
            #expect(clients.filter { !$0.recorder.completed.isEmpty }.count == 2)
            promise.succeed()
            try network.run { clients.allSatisfy { !$0.recorder.completed.isEmpty } }
            #expect(network.handler.clientCount == 5 && network.handler.waitingCount == 0)
        }

        // MARK: Back pressure

        @Test func `a channel that does not read keeps messages, up to a bound`() throws {
            let network = try EmbeddedNetwork(credentials.server, echoes: false, autoRead: false)
            let client = try network.connect(credentials.client)
            try network.run { !client.recorder.completed.isEmpty }
            let child = try #require(network.children.first)
            for number in 0..<1_100 { client.send("\(number)") }
            try network.run(milliseconds: 100)
            #expect(child.recorder.messages.isEmpty)
            child.channel.read()
            #expect(child.recorder.messages == (0..<1_024).map { "\($0)" })
            client.send("later")
            try network.run(milliseconds: 100)
            #expect(child.recorder.messages.count == 1_024)
            child.channel.read()
            #expect(child.recorder.messages.last == "later")
        }

        @Test func `a channel is writable below its water mark, and where its parent is`() throws {
            let network = try EmbeddedNetwork(credentials.server, echoes: false)
            let client = try network.connect(credentials.client)
            try network.run { !client.recorder.completed.isEmpty }
            let child = try #require(network.children.first)
            let message = ByteBuffer(repeating: 7, count: 10_000)
            let writes = (0..<7).map { _ in made(child.channel.write(message)) }
            #expect(!child.channel.isWritable && writes.allSatisfy { $0.result == nil })
            child.channel.flush()
            #expect(child.channel.isWritable && writes.allSatisfy(\.isSuccess))
            #expect(child.recorder.all.suffix(2) == ["not writable", "writable"])
            network.server.isWritable = false
            network.server.pipeline.fireChannelWritabilityChanged()
            #expect(!child.channel.isWritable)
            network.server.isWritable = true
            network.server.pipeline.fireChannelWritabilityChanged()
            #expect(child.channel.isWritable)
            #expect(child.recorder.all.suffix(2) == ["not writable", "writable"])
            let options = try #require(child.channel.syncOptions)
            try options.setOption(.writeBufferWaterMark, value: .init(low: 1, high: 2))
            child.channel.write(ByteBuffer(string: "abc"), promise: nil)
            #expect(!child.channel.isWritable)
            #expect(throws: ChannelError.operationUnsupported) { try options.setOption(.maxMessagesPerRead, value: 2) }
            #expect(try options.getOption(.autoRead))
        }

        // MARK: Pre-shared keys

        @Test func `a client waits for the key of its identity, and is refused where there is none`() throws {
            var option = DtlsServerOption(cert: "")
            option.asksForPresharedKeys = true
            var asked: [(identity: String, promise: EventLoopPromise<[UInt8]?>)] = []
            var loop: EmbeddedEventLoop?
            let network = try EmbeddedNetwork(
                option,
                onPresharedKey: { identity, _ in
                    guard let loop else { preconditionFailure("it is set below") }
                    let promise = loop.makePromise(of: [UInt8]?.self)
                    asked.append((String(decoding: identity, as: UTF8.self), promise))
                    return promise.futureResult
                })
            loop = network.loop
            let key = [UInt8](repeating: 5, count: 32)
            let clients = try ["sensor-1", "sensor-2"].enumerated().map { number, identity in
                try network.connect(
                    DtlsClientOption(presharedKey: DtlsPresharedKey(identity: [UInt8](identity.utf8), key: key)),
                    port: 50_000 + number)
            }
            try network.run { asked.count == 2 }
            #expect(clients.allSatisfy { $0.recorder.completed.isEmpty })
            try network.run(milliseconds: 300)
            #expect(asked.count == 2)
            for question in asked { question.promise.succeed(question.identity == "sensor-1" ? key : nil) }
            try network.run { !clients[0].recorder.completed.isEmpty && !clients[1].recorder.errors.isEmpty }
            #expect(
                network.children.first?.recorder.completed.first?.agreement.presharedKeyIdentity
                    == [UInt8]("sensor-1".utf8))
            #expect(network.children.count == 1)
            #expect("\(network.serverRecorder.failed.map(\.error))".contains("its identity has no key"))
        }

        // MARK: Decisions of the program

        @Test func `a server's program decides who may come in, by the certificate that the client shows`() throws {
            var option = credentials.server
            option.ca = credentials.certificate
            option.asksAboutPeers = true
            var asked: [DtlsPeer] = []
            var verdict = DtlsPeerVerdict.accepted
            var loop: EmbeddedEventLoop?
            let network = try EmbeddedNetwork(
                option,
                onPeer: { peer in
                    asked.append(peer)
                    guard let loop else { preconditionFailure("it is set below") }
                    return loop.makeSucceededFuture(verdict)
                })
            loop = network.loop
            var clientOption = credentials.client
            (clientOption.cert, clientOption.key) = (credentials.certificate, credentials.key)
            let first = try network.connect(clientOption)
            try network.run { !first.recorder.completed.isEmpty && !network.children.isEmpty }
            #expect(asked.count == 1 && asked.first?.isVerified == true && asked.first?.commonName == "localhost")
            #expect(network.children.first?.recorder.completed.first?.peer.commonName == "localhost")
            verdict = .refused(.certificateRevoked, reason: "it was stolen")
            let second = try network.connect(clientOption, port: 50_001)
            try network.run { !second.recorder.errors.isEmpty && !network.serverRecorder.failed.isEmpty }
            #expect("\(second.recorder.errors)".contains("certificate revoked"))
            #expect("\(network.serverRecorder.failed)".contains("it was stolen"))
            #expect(network.children.count == 1 && network.handler.clientCount == 1)
        }

        @Test func `a client's program decides about the server, and nobody is let in unasked`() throws {
            let network = try EmbeddedNetwork(credentials.server)
            var option = credentials.client
            (option.ca, option.rejectUnauthorized) = (nil, false)
            var asked: [DtlsPeer] = []
            let promise = network.loop.makePromise(of: DtlsPeerVerdict.self)
            let client = try network.connect(option) { peer in
                asked.append(peer)
                return promise.futureResult
            }
            try network.run { !asked.isEmpty }
            try network.run(milliseconds: 500)
            #expect(client.recorder.completed.isEmpty && asked.first?.verification.fault?.kind == .untrusted)
            promise.succeed(.refused(reason: "another fingerprint"))
            try network.run { !client.recorder.errors.isEmpty }
            #expect("\(client.recorder.errors)".contains("another fingerprint"))

            var serverOption = credentials.server
            serverOption.asksAboutPeers = true
            let silent = try EmbeddedNetwork(serverOption)
            let refused = try silent.connect(credentials.client)
            try silent.run { !refused.recorder.errors.isEmpty }
            #expect("\(silent.serverRecorder.failed)".contains("nobody can be asked about the peer"))
        }

        // MARK: What anybody can send

        @Test func `hellos without a cookie leave nothing behind, and get less than they bring`() throws {
            let network = try EmbeddedNetwork(credentials.server)
            for number in 0..<2_000 {
                let hello = ClientHelloBytes().bytes(cookie: number.isMultiple(of: 2) ? [] : [1, 2, 3])
                let source = try SocketAddress(ipAddress: "198.51.100.\(number % 250)", port: 1_024 + number)
                try network.deliver(ByteBuffer(bytes: hello), from: source, to: nil)
                let answer = try #require(
                    try network.server.readOutbound(as: AddressedEnvelope<ByteBuffer>.self))
                #expect(answer.remoteAddress == source && answer.data.readableBytes <= hello.count)
            }
            #expect(network.handler.clientCount == 0 && network.handler.waitingCount == 0)
        }

        @Test(arguments: 1...8 as ClosedRange<UInt64>)
        func `no datagram ends a server, a client, or a connection`(_ seed: UInt64) throws {
            let network = try EmbeddedNetwork(credentials.server, seed: seed)
            let client = try network.connect(credentials.client)
            try network.run { !client.recorder.completed.isEmpty }
            let templates = network.sentByClients + network.sentByServer
            var random = SeededGenerator(seed: seed)
            let stranger = try SocketAddress(ipAddress: "198.51.100.9", port: 9)
            for number in 0..<600 {
                let datagram = mutated(templates, &random)
                // A record of the handshake may be repeated to the client once the first one has come.
                try network.deliver(datagram, from: client.address, to: nil)
                try network.deliver(datagram, from: stranger, to: nil)
                try network.deliver(datagram, from: network.serverAddress, to: client.address)
                if number.isMultiple(of: 50) { try network.run(milliseconds: 50) }
            }
            client.send("still here")
            try network.run { client.recorder.messages.contains("still here") }
            #expect(client.recorder.errors.isEmpty && client.channel.isActive)
            let other = try network.connect(credentials.client, port: 50_001)
            try network.run { !other.recorder.completed.isEmpty }
        }

        @Test(arguments: 1...8 as ClosedRange<UInt64>)
        func `noise in a handshake keeps nobody from completing it`(_ seed: UInt64) throws {
            let network = try EmbeddedNetwork(credentials.server, seed: seed)
            var random = SeededGenerator(seed: seed)
            let client = try network.connect(credentials.client)
            for _ in 0..<200 where client.recorder.completed.isEmpty {
                try network.run(milliseconds: 5)
                let noise = ByteBuffer(bytes: (0..<Int(random.next() % 200)).map { _ in UInt8(random.next() % 256) })
                try network.deliver(noise, from: client.address, to: nil)
                try network.deliver(noise, from: network.serverAddress, to: client.address)
            }
            try network.run { !client.recorder.completed.isEmpty }
        }

        /// A datagram that was sent, changed in some places, cut, or made longer; or noise.
        private func mutated(_ templates: [ByteBuffer], _ random: inout SeededGenerator) -> ByteBuffer {
            var bytes = [UInt8](templates[Int(random.next() % UInt64(templates.count))].readableBytesView)
            switch random.next() % 4 {
            case 0: bytes = Array(bytes.prefix(Int(random.next() % UInt64(bytes.count + 1))))
            case 1: bytes += (0..<Int(random.next() % 40)).map { _ in UInt8(random.next() % 256) }
            case 2: bytes = (0..<Int(random.next() % 300)).map { _ in UInt8(random.next() % 256) }
            default: break
            }
            for _ in 0..<Int(random.next() % 4) where !bytes.isEmpty {
                bytes[Int(random.next() % UInt64(bytes.count))] ^= UInt8(1 + random.next() % 255)
            }
            return ByteBuffer(bytes: bytes)
        }

        // MARK: Observers

        private final class Events: Sendable {
            private let events = Mutex<[String]>([])
            var all: [String] { events.withLock { $0 } }
            var observer: DtlsObserver {
                DtlsObserver { event, address in
                    let text =
                        switch event {
                        case .handshakeDone(let agreement, let duration):
                            "done by \(agreement.version) in \(duration / .milliseconds(1)) ms"
                        case .handshakeFailed(.handshake): "failed"
                        case .handshakeFailed(let error): "failed: \(error)"
                        case .flightsRetransmitted(let count): "\(count) flights again"
                        case .recordsDropped(let reason, let count): "\(count) \(reason)"
                        case .ended(let error): "ended: \(error)"
                        case .clientTurnedAway: "turned away"
                        }
                    self.events.withLock { $0.append("\(address) \(text)") }
                }
            }
        }

        /// The options of server and client, and what their observers are told.
        private func observed() -> (DtlsServerOption, Events, DtlsClientOption, Events) {
            var (server, client) = (credentials.server, credentials.client)
            let (ofServer, ofClient) = (Events(), Events())
            server.observer = ofServer.observer
            client.observer = ofClient.observer
            return (server, ofServer, client, ofClient)
        }

        @Test func `observers are told of handshakes, flights that are sent again, drops and ends`() throws {
            let (server, ofServer, option, ofClient) = observed()
            let network = try EmbeddedNetwork(server)
            network.interfere = { number, datagram in number == 0 ? nil : datagram }
            let client = try network.connect(option)
            try network.run { !client.recorder.completed.isEmpty }
            client.send("hello")
            try network.run { !client.recorder.messages.isEmpty }
            let message = try #require(network.sentByClients.last)
            try network.deliver(message, from: client.address, to: nil)
            client.channel.close(promise: nil)
            try network.run { network.handler.clientCount == 0 }
            // A quarter of a second until the first flight is sent again, and 20 ms for each of the six on their way.
            #expect(
                ofClient.all == [
                    "192.0.2.1:4433 1 flights again", "192.0.2.1:4433 done by DTLSv1.2 in 370.0 ms",
                    "192.0.2.1:4433 ended: \(DtlsError.notOpen)",
                ])
            #expect(
                ofServer.all == [
                    "192.0.2.7:50000 done by DTLSv1.2 in 40.0 ms", "192.0.2.7:50000 1 replayed",
                    "192.0.2.7:50000 ended: \(DtlsError.closed)",
                ])
        }

        @Test func `observers are told of handshakes that fail, on both sides`() throws {
            let (server, ofServer, trusting, ofClient) = observed()
            var option = trusting
            option.ca = nil
            let network = try EmbeddedNetwork(server)
            try network.connect(option)
            try network.run { !network.serverRecorder.failed.isEmpty }
            #expect(ofClient.all == ["192.0.2.1:4433 failed"])
            // An alert without protection can be forged, so the server goes on for a while.
            #expect(ofServer.all.filter { !$0.hasSuffix("flights again") } == ["192.0.2.7:50000 failed"])
            network.interfere = { _, _ in nil }
            option.handshakeTimeout = 2_000
            let late = try network.connect(option)
            try network.run { !late.recorder.errors.isEmpty }
            let timedOut = DtlsError.timedOut(waitingFor: "the handshake", errno: 0)
            #expect(ofClient.all.last == "192.0.2.1:4433 failed: \(timedOut)")
        }

        @Test func `a server's observer is told of clients that are turned away, or come back`() throws {
            let (server, ofServer, option, _) = observed()
            let network = try EmbeddedNetwork(server, backlog: 1)
            try network.connect(option)
            try network.connect(option, port: 50_001)
            try network.run { network.children.count == 2 }
            #expect(ofServer.all.filter { $0.hasSuffix("turned away") } == ["192.0.2.7:50001 turned away"])
            let before = ofServer.all.count
            let again = try network.connect(option)
            try network.run { !again.recorder.completed.isEmpty }
            #expect(
                ofServer.all.suffix(from: before) == [
                    "192.0.2.7:50000 ended: \(DtlsError.closed)", "192.0.2.7:50000 done by DTLSv1.2 in 40.0 ms",
                ])
        }

        // MARK: Options

        @Test func `options that this module does not have are refused`() throws {
            var option = credentials.server
            option.connectionID = 9
            #expect(throws: DtlsError.invalid("there are no connection IDs in DTLSNIO's servers")) {
                _ = try DTLSServerHandler(option) { $0.eventLoop.makeSucceededVoidFuture() }
            }
            option.connectionID = nil
            option.exportsKeys = true
            #expect(throws: DtlsError.invalid("DTLSNIO has no keys for other protocols")) {
                _ = try DTLSServerHandler(option) { $0.eventLoop.makeSucceededVoidFuture() }
            }
            option.exportsKeys = false
            option.name = "server"
            #expect(throws: DtlsError.invalid("a name is for servers with tasks; DTLSNIO has none")) {
                _ = try DTLSServerHandler(option) { $0.eventLoop.makeSucceededVoidFuture() }
            }
            #expect(throws: DtlsError.self) { _ = try DTLSClientHandler(DtlsClientOption(handshakeTimeout: 1)) }
            #expect(throws: DtlsError.self) { _ = try DTLSClientHandler(DtlsClientOption(ca: "no PEM")) }
        }

        @Test func `a channel that is not connected says so`() throws {
            let recorder = Recorder()
            let channel = EmbeddedChannel(handlers: [try DTLSClientHandler(credentials.client), recorder])
            channel.connect(to: try SocketAddress(unixDomainSocketPath: "/nowhere"), promise: nil)
            channel.embeddedEventLoop.run()
            #expect(
                recorder.errors as? [DtlsError] == [.invalid("the channel is not connected to an IP address and port")])
            #expect(!channel.isActive)
        }
    }
#endif
