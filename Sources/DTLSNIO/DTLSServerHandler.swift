#if NIO
    import DTLSEngine
    import DTLSKit
    import DTLSTransport
    import LinuxSystem
    import NIOCore
    import NIOTLS
    import Primitives

    /// A DTLS server in a bound datagram channel: it makes a channel of its own for each client.
    ///
    /// A client is asked for a cookie first (RFC 6347, section 4.2.1). Nothing is kept or allocated for it until its address is
    /// proven, and its channel is made when its handshake is done. The channel is a child of the datagram channel, on the same
    /// event loop; it reads and writes `ByteBuffer`s, one for each datagram. When the initializer's future has succeeded, it
    /// becomes active, and the user event ``DTLSHandshakeCompleted`` follows. A handshake that fails is announced by the user
    /// event ``DTLSHandshakeFailed`` in the datagram channel.
    ///
    /// A client's channel ends when the client closes the connection (`TLSUserEvent.shutdownCompleted` comes first), when it
    /// breaks (the reason is fired as an error, a `DtlsError`), when the client comes back from its port without its state and
    /// has done a new handshake (it has a new channel then), and when the datagram channel is closed. Closing the channel tells
    /// the client.
    ///
    /// Nobody waits for a client's channel that does not read: up to 1,024 messages and 256 KiB are kept for it, and what
    /// comes then is lost, as on the wire.
    ///
    /// Datagrams leave from the address that the operating system chooses. Where the host has several, bind a channel to each
    /// of them, not one to 0.0.0.0 or ::.
    public final class DTLSServerHandler: ChannelDuplexHandler {
        public typealias InboundIn = AddressedEnvelope<ByteBuffer>
        public typealias OutboundIn = AddressedEnvelope<ByteBuffer>
        public typealias OutboundOut = AddressedEnvelope<ByteBuffer>

        private let identity: ServerIdentity
        private let backlog: Int
        private let initializer: (any Channel) -> EventLoopFuture<Void>
        private let keyOf: (([UInt8], String?) -> EventLoopFuture<[UInt8]?>)?
        private let decide: ((DtlsPeer) -> EventLoopFuture<DtlsPeerVerdict>)?
        private let buffers: EngineBuffers
        private var endpoint: Endpoint
        private var clients: [FlowKey: ServedClient] = [:]
        /// Clients in their handshake, and those whose channel is not initialized.
        private var waiting = 0
        private var context: ChannelHandlerContext?
        // For tests.
        var clientCount: Int { clients.count }
        var waitingCount: Int { waiting }
        /// Whether the channel is being read, so that what is written leaves at the end of that.
        private var isReading = false
        private var needsFlush = false
        /// The clients that have had messages since the channel's read began.
        private var readers: [DTLSChildChannel] = []

        /// - Parameters:
        ///   - option: its certificate and policy. It has no name, and asks for no connection IDs (RFC 9146).
        ///   - backlog: clients in their handshake, or whose channel is being initialized, at most; further ones have to try
        ///     again.
        ///   - onPresharedKey: is asked, on the event loop, for the key of an identity that is not in the option's `presharedKeys`, where
        ///     `asksForPresharedKeys` is set; with the name that the client asks for (SNI). The client waits meanwhile. `nil`,
        ///     and a future that fails: the client is refused.
        ///   - onPeer: is asked, on the event loop, whether a client may come in, where the option's `asksAboutPeers` is set; the
        ///     client waits meanwhile. `nil`, and a future that fails: the client is refused.
        ///   - childChannelInitializer: adds handlers to a client's channel. Where its future fails, the channel is closed.
        /// - Throws: `.credentials` for a certificate, key or CA, `.invalid` for another option.
        public init(
            _ option: DtlsServerOption, backlog: Int = DtlsServer.backlog,
            onPresharedKey: ((_ identity: [UInt8], _ serverName: String?) -> EventLoopFuture<[UInt8]?>)? = nil,
            onPeer: ((DtlsPeer) -> EventLoopFuture<DtlsPeerVerdict>)? = nil,
            childChannelInitializer: @escaping (any Channel) -> EventLoopFuture<Void>
        ) throws(DtlsError) {
            guard option.connectionID == nil else { throw .invalid("there are no connection IDs in DTLSNIO's servers") }
            guard option.name == nil else { throw .invalid("a name is for servers with tasks; DTLSNIO has none") }
            guard !option.keepsExporter else { throw .invalid("DTLSNIO has no keys for other protocols") }
            identity = try ServerIdentity(option)
            self.backlog = backlog
            initializer = childChannelInitializer
            keyOf = onPresharedKey
            decide = onPeer
            endpoint = Endpoint(.cookies(identity.cookies))
            do throws(OpenSSLError) { buffers = try EngineBuffers() } catch { throw DtlsError(error) }
        }

        /// Adds a certificate for a host name, or replaces the one that the name has, for new handshakes. Clients of the name
        /// are asked for the same as all others, unless the option has CAs of its own. To be called on the event loop.
        public func addCertificate(_ option: DtlsCertificateOption) throws(DtlsError) { try identity.add(option) }

        // MARK: Lifecycle

        public func handlerAdded(context: ChannelHandlerContext) { self.context = context }

        public func handlerRemoved(context: ChannelHandlerContext) {
            abandonClients()
            self.context = nil
        }

        public func channelInactive(context: ChannelHandlerContext) {
            abandonClients()
            context.fireChannelInactive()
        }

        private func abandonClients() {
            for client in takeClients() { client.abandon() }
        }

        private func takeClients() -> [ServedClient] {
            defer {
                clients = [:]
                waiting = 0
            }
            return Array(clients.values)
        }

        /// Tells all clients before the channel is closed.
        public func close(context: ChannelHandlerContext, mode: CloseMode, promise: EventLoopPromise<Void>?) {
            if mode == .all {
                for client in takeClients() { client.close() }
                context.flush()
            }
            context.close(mode: mode, promise: promise)
        }

        // MARK: Inbound

        public func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            isReading = true
            let envelope = unwrapInboundIn(data)
            guard let flow = FlowKey(peer: envelope.remoteAddress, local: context.localAddress) else { return }
            if let client = clients[flow], client.receive(envelope.data, offer: { rehandshakeOffer }) { return }
            guard clients[flow] == nil else { return }
            listen(to: envelope, flow, context)
        }

        public func channelReadComplete(context: ChannelHandlerContext) {
            isReading = false
            let readers = readers
            self.readers = []
            for channel in readers { channel.readComplete() }
            if needsFlush { context.flush() }
            needsFlush = false
            context.fireChannelReadComplete()
        }

        public func channelWritabilityChanged(context: ChannelHandlerContext) {
            for client in clients.values { client.channel?.parentWritabilityChanged() }
            context.fireChannelWritabilityChanged()
        }

        private var rehandshakeOffer: RehandshakeOffer {
            let material = RehandshakeMaterial(context: identity.context, cookies: identity.cookies)
            return RehandshakeOffer(material: material, minute: .now(), pathMTU: nil)
        }

        /// Takes a datagram of somebody who is no client.
        private func listen(
            to envelope: AddressedEnvelope<ByteBuffer>, _ flow: FlowKey, _ context: ChannelHandlerContext
        ) {
            var answer: ByteBuffer?
            envelope.data.withUnsafeReadableBytes { datagram in
                let now = AssociationDriver.now(of: context.eventLoop)
                switch endpoint.receive(datagram, flow, now: now, minute: .now(), buffers.fragments) {
                case .reply(let request):
                    answer = Self.datagram(HelloVerifyRequest.size, context) { request.write(into: $0) }
                case .refuse(let alert):
                    answer = Self.datagram(ProtocolVersionAlert.size, context) { alert.write(into: $0) }
                case .admit(.hello(let hello)): admit(hello, flow, envelope.remoteAddress, context)
                // Records of connections that are not here any more, and noise.
                default: break
                }
            }
            if let answer { send(answer, to: envelope.remoteAddress, promise: nil) }
        }

        private static func datagram(
            _ size: Int, _ context: ChannelHandlerContext, _ write: (UnsafeMutableRawBufferPointer) -> Int
        ) -> ByteBuffer? {
            var buffer = context.channel.allocator.buffer(capacity: size)
            let count = buffer.writeWithUnsafeMutableBytes(minimumWritableBytes: size) { write($0) }
            return count > 0 ? buffer : nil
        }

        private func admit(
            _ hello: consuming VerifiedHello, _ flow: FlowKey, _ peer: NIOCore.SocketAddress,
            _ context: ChannelHandlerContext
        ) {
            guard waiting < backlog else {
                observe(.clientTurnedAway, flow)
                return endpoint.refused(.full)
            }
            let now = AssociationDriver.now(of: context.eventLoop)
            let random = hello.random
            let association: Association
            do throws(OpenSSLError) {
                association = try Association.accept(
                    hello, flow, context: identity.context,
                    limits: identity.option.limits(handshakeTimeout: identity.option.handshakeTimeout),
                    buffers: buffers, now: now)
            } catch {
                observe(.handshakeFailed(DtlsError(error)), flow)
                return context.fireUserInboundEventTriggered(
                    DTLSHandshakeFailed(remoteAddress: peer, error: DtlsError(error)))
            }
            endpoint.admitted(random, flow, as: 0, now: now)
            let client = ServedClient(
                association, buffers, flow, peer, of: self, context.channel, identity.option.observer)
            clients[flow] = client
            waiting += 1
            client.start()
        }

        private func observe(_ event: DtlsEvent, _ flow: FlowKey) {
            identity.option.observer?.observe(event, DtlsAddress(flow.peer))
        }

        // MARK: For clients

        func send(_ datagram: ByteBuffer, to peer: NIOCore.SocketAddress, promise: EventLoopPromise<Void>?) {
            guard let context else {
                promise?.fail(ChannelError.ioOnClosedChannel)
                return
            }
            context.write(wrapOutboundOut(AddressedEnvelope(remoteAddress: peer, data: datagram)), promise: promise)
            if isReading { needsFlush = true }
        }

        /// Has what was sent leave, now or at the end of the channel's read.
        func flush() { if !isReading { context?.flush() } }

        /// Has the program initialize a client's channel, which then becomes active.
        func initialize(_ channel: DTLSChildChannel, of client: ServedClient) {
            initializer(channel).hop(to: channel.eventLoop).assumeIsolated().whenComplete { [weak self] result in
                if client.stopsWaiting(channel) { self?.stoppedWaiting(client) }
                switch result {
                case .success: channel.activate()
                case .failure(let error): channel.initializationFailed(error)
                }
            }
        }

        private func stoppedWaiting(_ client: ServedClient) {
            if clients[client.flow] === client { waiting -= 1 }
        }

        /// A client's new handshake goes on in place of an association that it has lost.
        func waitsAgain(_ client: ServedClient) { if clients[client.flow] === client { waiting += 1 } }

        func hasMessages(_ channel: DTLSChildChannel) {
            if !isReading { return channel.readComplete() }
            if !readers.contains(where: { $0 === channel }) { readers.append(channel) }
        }

        func ended(_ client: ServedClient, isWaiting: Bool) {
            guard clients[client.flow] === client else { return }
            clients[client.flow] = nil
            if isWaiting { waiting -= 1 }
        }

        func handshakeFailed(_ client: ServedClient, _ error: DtlsError) {
            context?.fireUserInboundEventTriggered(DTLSHandshakeFailed(remoteAddress: client.peer, error: error))
        }

        /// Asks for the key of a client's identity, and about the client, as the options say.
        func ask(_ question: AuthorizationQuestion, _ answer: @escaping (AuthorizationAnswer) -> Void) {
            guard let identity = question.presharedKeyIdentity, !question.isResumed,
                !self.identity.presharedIdentities.contains(identity)
            else { return askAboutPeer(question, key: nil, answer) }
            guard let keyOf, let eventLoop = context?.eventLoop else {
                return answer(.refused(reason: "nobody can be asked for its key"))
            }
            keyOf(identity, question.serverName).hop(to: eventLoop).assumeIsolated().whenComplete {
                [weak self] result in
                switch result {
                case .success(let key?) where (1...PresharedKeys.maximumKeyLength).contains(key.count):
                    self?.askAboutPeer(question, key: key, answer)
                case .success(let key?):
                    answer(
                        .refused(
                            reason: "its key has \(key.count) bytes, and 1 to \(PresharedKeys.maximumKeyLength) do"))
                case .success(nil): answer(.refused(reason: "its identity has no key"))
                case .failure(let error): answer(.refused(reason: "its key was asked for in vain: \(error)"))
                }
            }
        }

        private func askAboutPeer(
            _ question: AuthorizationQuestion, key: [UInt8]?, _ answer: @escaping (AuthorizationAnswer) -> Void
        ) {
            guard identity.option.asksAboutPeers, let eventLoop = context?.eventLoop else {
                return answer(.allowed(key: key))
            }
            PeerDecision.ask(decide, DtlsPeer(question), key: key, on: eventLoop, answer)
        }
    }

    /// A client of a server, from its proven hello on: its association, and its channel when the handshake is done.
    final class ServedClient {
        let flow: FlowKey
        let peer: NIOCore.SocketAddress
        private(set) var channel: DTLSChildChannel?
        private var driver: AssociationDriver?
        private weak var server: DTLSServerHandler?
        private let parent: any Channel
        /// Whether it counts for the backlog: the channel's initializer has not ended.
        private var isWaiting = true

        init(
            _ association: Association, _ buffers: EngineBuffers, _ flow: FlowKey, _ peer: NIOCore.SocketAddress,
            of server: DTLSServerHandler, _ parent: any Channel, _ observer: DtlsObserver?
        ) {
            self.flow = flow
            self.peer = peer
            self.server = server
            self.parent = parent
            driver = AssociationDriver(
                association, buffers, on: parent.eventLoop, parent.allocator, observer,
                timePassed: { [weak self] in self?.perform($0) })
        }

        func start() { if let driver { perform(driver.start()) } }

        /// - Returns: whether the datagram was the client's.
        func receive(_ datagram: ByteBuffer, offer: () -> RehandshakeOffer?) -> Bool {
            guard let driver else { return false }
            let (work, isTaken) = driver.receive(datagram, offer: offer)
            perform(work)
            return isTaken
        }

        private func perform(_ work: AssociationDriver.Work) {
            for datagram in work.datagrams { server?.send(datagram, to: peer, promise: nil) }
            if !work.datagrams.isEmpty { server?.flush() }
            for event in work.events { perform(event) }
        }

        private func perform(_ event: AssociationDriver.Event) {
            switch event {
            case .established(let session, let certificates, _):
                guard let driver, let server else { break }
                let channel = DTLSChildChannel(
                    self, parent,
                    DTLSHandshakeCompleted(
                        remoteAddress: peer, peer: DtlsPeer(session, chain: certificates),
                        agreement: DtlsAgreement(session), session: nil, largestMessage: driver.largestMessage))
                self.channel = channel
                server.initialize(channel, of: self)
            case .message(let message):
                if let channel, channel.append(message) { server?.hasMessages(channel) }
            case .replaced:
                let former = channel
                channel = nil
                former?.end(nil)
                guard !isWaiting else { break }
                isWaiting = true
                server?.waitsAgain(self)
            case .asks(let question, let number):
                server?.ask(question) { [weak self] answer in
                    guard let self, let driver else { return }
                    perform(driver.authorize(number, answer))
                }
            case .ended(let ending): end(ending)
            }
        }

        private func end(_ ending: DTLSTransport.Connection.Ending) {
            let former = channel
            channel = nil
            driver = nil
            server?.ended(self, isWaiting: isWaiting)
            switch (former, ending) {
            // The client has begun another handshake.
            case (nil, .replaced): break
            case (nil, _): server?.handshakeFailed(self, DtlsError(ending, lastError: 0))
            case (let channel?, .closedByPeer):
                channel.end(nil, isShutdown: true)
            case (let channel?, _): channel.end(DtlsError(ending, lastError: 0))
            }
        }

        /// - Returns: whether the client has counted for the backlog, and does no longer.
        func stopsWaiting(_ channel: DTLSChildChannel) -> Bool {
            guard self.channel === channel, isWaiting else { return false }
            isWaiting = false
            return true
        }

        // MARK: For the channel and the server

        /// Encrypts a message and sends it. The promise is the datagram's.
        func send(_ message: ByteBuffer, promise: EventLoopPromise<Void>) {
            guard let driver, let server else { return promise.fail(ChannelError.ioOnClosedChannel) }
            let (work, error) = driver.send(message)
            if let error {
                promise.fail(DtlsError(error))
            } else if let datagram = work.datagrams.first {
                server.send(datagram, to: peer, promise: promise)
            } else {
                // It is lost, as on the wire.
                promise.succeed()
            }
            for event in work.events { perform(event) }
        }

        func flush() { server?.flush() }

        /// Ends the connection, and tells the client.
        func close() {
            guard let driver else { return }
            perform(driver.close())
            leave()
        }

        /// Ends the connection without a word.
        func abandon() {
            driver?.abandon()
            leave()
        }

        private func leave() {
            let former = channel
            channel = nil
            driver = nil
            server?.ended(self, isWaiting: isWaiting)
            former?.end(nil)
        }
    }
#endif
