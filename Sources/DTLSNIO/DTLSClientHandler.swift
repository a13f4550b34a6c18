#if NIO
    import DTLSKit
    import NIOCore
    import DTLSEngine
    import DTLSTransport
    import Glibc
    import LinuxSystem
    import NIOTLS

    /// A client's DTLS connection over a datagram channel that is connected to the server: messages are written and read as
    /// `ByteBuffer`s, one for each datagram.
    ///
    /// The handshake begins when the channel becomes active. What is written meanwhile waits for its end, which is announced by
    /// the user event ``DTLSHandshakeCompleted``. A promise of a write succeeds when its datagram was written to the socket,
    /// and fails with a `DtlsError` otherwise.
    ///
    /// When the handshake fails or the connection breaks, the reason is fired as an error, a `DtlsError`, and the channel is
    /// closed. When the server closes the connection (close_notify), `TLSUserEvent.shutdownCompleted` is fired, and the
    /// channel is closed. Closing the channel tells the server.
    ///
    /// As with UDP, a message may be lost or overtake another.
    public final class DTLSClientHandler: ChannelDuplexHandler {
        public typealias InboundIn = AddressedEnvelope<ByteBuffer>
        public typealias InboundOut = ByteBuffer
        public typealias OutboundIn = ByteBuffer
        public typealias OutboundOut = ByteBuffer

        private enum State {
            case idle
            case handshaking(AssociationDriver)
            case established(AssociationDriver)
            case ended(any Error)
        }

        private let option: DtlsClientOption
        private let context: ClientContext
        private var state = State.idle
        private var pending = PendingMessages()
        private var refusals = RefusalCheck()
        private var server: NIOCore.SocketAddress?
        private let decide: ((DtlsPeer) -> EventLoopFuture<DtlsPeerVerdict>)?

        /// Reads and checks certificates, keys and CAs, so it may take some milliseconds.
        /// - Parameters:
        ///   - option: whom the client trusts, and what it shows of itself.
        ///   - onPeer: is asked, on the event loop, whether the server is the right one, beside what the option says; the
        ///     handshake waits meanwhile. A future that fails refuses the server.
        /// - Throws: `.credentials` for a certificate, key or CA, `.invalid` for another option.
        public init(
            _ option: DtlsClientOption, onPeer: ((DtlsPeer) -> EventLoopFuture<DtlsPeerVerdict>)? = nil
        ) throws(DtlsError) {
            try option.check()
            guard !option.keepsExporter else { throw .invalid("DTLSNIO has no keys for other protocols") }
            var settings = option.settings
            if onPeer != nil {
                guard !option.renegotiate else {
                    throw .invalid(
                        "onPeer cannot be given where renegotiate is set: nobody is asked in a renegotiation")
                }
                settings.asksAboutServer = true
            }
            self.option = option
            decide = onPeer
            do throws(CredentialsError) { context = try ClientContext(settings) } catch { throw DtlsError(error) }
            if let keyLog = option.keyLog { context.logOwnKeys(to: keyLog.engineLog) }
        }

        private var driver: AssociationDriver? {
            switch state {
            case .handshaking(let driver), .established(let driver): driver
            case .idle, .ended: nil
            }
        }

        // MARK: Lifecycle

        public func handlerAdded(context: ChannelHandlerContext) { if context.channel.isActive { begin(context) } }

        public func handlerRemoved(context: ChannelHandlerContext) { abandon(ChannelError.ioOnClosedChannel) }

        public func channelActive(context: ChannelHandlerContext) {
            // First: what follows may close the channel.
            context.fireChannelActive()
            begin(context)
        }

        public func channelInactive(context: ChannelHandlerContext) {
            abandon(ChannelError.ioOnClosedChannel)
            context.fireChannelInactive()
        }

        private func abandon(_ error: any Error) {
            driver?.abandon()
            end(error)
        }

        private func begin(_ context: ChannelHandlerContext) {
            guard case .idle = state else { return }
            guard let server = context.remoteAddress, let flow = FlowKey(peer: server, local: context.localAddress)
            else {
                return fail(.invalid("the channel is not connected to an IP address and port"), context)
            }
            self.server = server
            let association: Association
            let buffers: EngineBuffers
            do throws(OpenSSLError) {
                buffers = try EngineBuffers()
                association = try Association.connect(
                    flow, context: self.context, serverName: option.server, resuming: option.session?.session,
                    connectionID: option.connectionID.map { length throws(OpenSSLError) in
                        try ConnectionID.random(count: length)
                    },
                    limits: option.limits(handshakeTimeout: option.handshakeTimeout), pathMTU: nil, buffers: buffers,
                    now: AssociationDriver.now(of: context.eventLoop))
            } catch {
                return fail(DtlsError(error), context)
            }
            let driver = AssociationDriver(
                association, buffers, on: context.eventLoop, context.channel.allocator, option.observer,
                timePassed: { [weak self] in self?.perform($0, context) })
            state = .handshaking(driver)
            perform(driver.start(), context)
        }

        private func end(_ error: any Error) {
            if case .ended = state { return }
            state = .ended(error)
            pending.takeAll().fail(error)
        }

        private func fail(_ error: DtlsError, _ context: ChannelHandlerContext) {
            if case .ended = state { return }
            end(error)
            context.fireErrorCaught(error)
            context.close(promise: nil)
        }

        // MARK: Inbound

        public func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            let envelope = unwrapInboundIn(data)
            guard let driver, envelope.remoteAddress == server else { return }
            perform(driver.receive(envelope.data, offer: { nil }).work, context)
        }

        public func errorCaught(context: ChannelHandlerContext, error: any Error) {
            if !takeSocketError(error, context) { context.fireErrorCaught(error) }
        }

        /// In a handshake, the network's word that nobody listens there is believed when it comes once more after a flight was
        /// sent again: it can be forged, or come from a server that is just starting.
        /// - Returns: whether the error was such.
        private func takeSocketError(_ error: any Error, _ context: ChannelHandlerContext) -> Bool {
            guard case .handshaking(let driver) = state, let error = error as? IOError,
                error.errnoCode == ECONNREFUSED
            else { return false }
            if refusals.wasRefused() {
                let refusal = DtlsError.system(
                    call: "connect", subject: (server.flatMap { LinuxSystem.SocketAddress($0) })?.description ?? "",
                    errno: error.errnoCode)
                driver.abandon(refusal)
                fail(refusal, context)
            }
            return true
        }

        private func perform(_ work: AssociationDriver.Work, _ context: ChannelHandlerContext) {
            if work.repeatedFlights > 0 { refusals.flightWasRepeated() }
            send(work.datagrams, context)
            for event in work.events {
                switch event {
                case .established(let session, let certificates, let resumable):
                    guard case .handshaking(let driver) = state, let server else { break }
                    state = .established(driver)
                    let agreement = DtlsAgreement(session)
                    context.fireUserInboundEventTriggered(
                        DTLSHandshakeCompleted(
                            remoteAddress: server, peer: DtlsPeer(session, chain: certificates), agreement: agreement,
                            session: option.keepsSession ? resumable.map { DtlsSession($0, option) } : nil,
                            largestMessage: driver.largestMessage))
                    context.fireUserInboundEventTriggered(
                        TLSUserEvent.handshakeCompleted(negotiatedProtocol: agreement.applicationProtocol))
                    sendPending(context)
                case .message(let message):
                    if case .established = state { context.fireChannelRead(wrapInboundOut(message)) }
                case .ended(.closedByPeer):
                    end(DtlsError.closed)
                    context.fireUserInboundEventTriggered(TLSUserEvent.shutdownCompleted)
                    context.close(promise: nil)
                case .ended(let ending):
                    fail(DtlsError(ending, lastError: 0), context)
                case .asks(let question, let number): ask(question, number, context)
                // It is of servers.
                case .replaced: break
                }
            }
        }

        private func ask(_ question: AuthorizationQuestion, _ number: UInt32, _ context: ChannelHandlerContext) {
            PeerDecision.ask(decide, DtlsPeer(question), on: context.eventLoop) { [weak self] answer in
                guard let self, let driver else { return }
                perform(driver.authorize(number, answer), context)
            }
        }

        private func send(_ datagrams: [ByteBuffer], _ context: ChannelHandlerContext) {
            if datagrams.isEmpty { return }
            for datagram in datagrams {
                guard case .handshaking = state else {
                    context.write(wrapOutboundOut(datagram), promise: nil)
                    continue
                }
                // Where the network has refused an earlier datagram, sending the next one may be what tells it.
                let promise = context.eventLoop.makePromise(of: Void.self)
                promise.futureResult.assumeIsolated().whenFailure { [weak self] error in
                    _ = self?.takeSocketError(error, context)
                }
                context.write(wrapOutboundOut(datagram), promise: promise)
            }
            context.flush()
        }

        // MARK: Outbound

        public func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
            if case .ended(let error) = state {
                promise?.fail(error)
            } else {
                pending.append(unwrapOutboundIn(data), promise)
            }
        }

        public func flush(context: ChannelHandlerContext) {
            pending.flush()
            sendPending(context)
            context.flush()
        }

        private func sendPending(_ context: ChannelHandlerContext) {
            var hasWritten = false
            while case .established(let driver) = state, let (message, promise) = pending.next() {
                let (work, error) = driver.send(message)
                if let error {
                    promise?.fail(DtlsError(error))
                } else if let datagram = work.datagrams.first {
                    context.write(wrapOutboundOut(datagram), promise: promise)
                    hasWritten = true
                } else {
                    // It is lost, as on the wire.
                    promise?.succeed()
                }
                if !work.events.isEmpty { perform(AssociationDriver.Work(events: work.events), context) }
            }
            if hasWritten { context.flush() }
        }

        public func close(context: ChannelHandlerContext, mode: CloseMode, promise: EventLoopPromise<Void>?) {
            if mode == .all, let driver {
                let work = driver.close()
                end(ChannelError.ioOnClosedChannel)
                send(work.datagrams, context)
            }
            context.close(mode: mode, promise: promise)
        }
    }
#endif
