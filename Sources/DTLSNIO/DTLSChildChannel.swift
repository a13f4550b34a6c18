#if NIO
    import DTLSKit
    import NIOCore
    import NIOTLS
    import Synchronization

    /// The channel of one client of a ``DTLSServerHandler``.
    ///
    /// It is `@unchecked Sendable`, since all that other threads may ask for is immutable or atomic; the rest is used on the
    /// event loop alone.
    final class DTLSChildChannel: Channel, ChannelCore, @unchecked Sendable {
        private enum State {
            /// Its initializer has not ended.
            case initializing
            case active
            case closed
        }

        let allocator: ByteBufferAllocator
        let eventLoop: any EventLoop
        let localAddress: SocketAddress?
        let remoteAddress: SocketAddress?
        let parent: (any Channel)?
        var pipeline: ChannelPipeline { ownPipeline }
        var closeFuture: EventLoopFuture<Void> { closePromise.futureResult }
        var isActive: Bool { active.load(ordering: .relaxed) }
        var isWritable: Bool { writable.load(ordering: .relaxed) }
        var _channelCore: any ChannelCore { self }
        var syncOptions: (any NIOSynchronousChannelOptions)? { SynchronousOptions(channel: self) }

        // Set once, in the initializer, which a pipeline needs its channel for.
        private var ownPipeline: ChannelPipeline!
        private let closePromise: EventLoopPromise<Void>
        private let active = Atomic(false)
        private let writable = Atomic(true)
        private let client: ServedClient
        private let completed: DTLSHandshakeCompleted
        private var state = State.initializing
        private var autoRead = true
        private var wantsRead = false
        private var reads = CircularBuffer<ByteBuffer>()
        private var readByteCount = 0
        private var writes = PendingMessages()
        /// Bytes of messages that were written, and whose datagrams were not.
        private var writeByteCount = 0
        private var waterMark = ChannelOptions.Types.WriteBufferWaterMark(low: 32 * 1_024, high: 64 * 1_024)
        private var isBelowWaterMark = true

        /// What is kept for a channel that does not read.
        private static let maximumReads = 1_024
        private static let maximumReadBytes = 256 * 1_024

        init(_ client: ServedClient, _ parent: any Channel, _ completed: DTLSHandshakeCompleted) {
            self.client = client
            self.parent = parent
            self.completed = completed
            allocator = parent.allocator
            eventLoop = parent.eventLoop
            localAddress = parent.localAddress
            remoteAddress = client.peer
            closePromise = parent.eventLoop.makePromise()
            ownPipeline = ChannelPipeline(channel: self)
            writable.store(parent.isWritable, ordering: .relaxed)
        }

        // MARK: Lifecycle

        func activate() {
            guard case .initializing = state else { return }
            state = .active
            active.store(true, ordering: .relaxed)
            pipeline.fireChannelActive()
            pipeline.fireUserInboundEventTriggered(completed)
            pipeline.fireUserInboundEventTriggered(
                TLSUserEvent.handshakeCompleted(negotiatedProtocol: completed.agreement.applicationProtocol))
            if autoRead, isOpen { pipeline.read() }
            sendFlushed()
        }

        func initializationFailed(_ error: any Error) {
            guard isOpen else { return }
            pipeline.fireErrorCaught(error)
            close0(error: error, mode: .all, promise: nil)
        }

        private var isOpen: Bool {
            if case .closed = state { return false }
            return true
        }

        /// The connection has ended; its client knows.
        /// - Parameter error: why, where that is an error.
        func end(_ error: DtlsError?, isShutdown: Bool = false) {
            guard isOpen else { return }
            // What has come before the end is read, whether it was asked for or not.
            if case .active = state { deliver() }
            guard isOpen else { return }
            finish(failingWrites: error ?? ChannelError.ioOnClosedChannel) {
                if isShutdown { pipeline.fireUserInboundEventTriggered(TLSUserEvent.shutdownCompleted) }
                if let error { pipeline.fireErrorCaught(error) }
            }
        }

        private func finish(failingWrites error: any Error, _ announce: () -> Void) {
            let wasActive = isActive
            state = .closed
            active.store(false, ordering: .relaxed)
            reads.removeAll()
            writes.takeAll().fail(error)
            announce()
            if wasActive { pipeline.fireChannelInactive() }
            // As NIO's own channels: handlers that are working now must find their pipeline.
            eventLoop.assumeIsolated().execute { [self] in
                removeHandlers(pipeline: pipeline)
                closePromise.succeed()
            }
        }

        func close0(error: any Error, mode: CloseMode, promise: EventLoopPromise<Void>?) {
            guard mode == .all else {
                promise?.fail(ChannelError.operationUnsupported)
                return
            }
            guard isOpen else {
                promise?.fail(ChannelError.alreadyClosed)
                return
            }
            finish(failingWrites: error) {
                // It tells the client, and forgets this channel.
                client.close()
            }
            promise?.succeed()
        }

        // MARK: Reading

        /// - Returns: whether there is room for the message, which is lost otherwise.
        func append(_ message: ByteBuffer) -> Bool {
            guard isOpen, reads.count < Self.maximumReads, readByteCount < Self.maximumReadBytes else { return false }
            reads.append(message)
            readByteCount += message.readableBytes
            return true
        }

        /// All that the parent had to read has come.
        func readComplete() {
            guard wantsRead, !reads.isEmpty, case .active = state else { return }
            wantsRead = false
            deliver()
            if autoRead, isOpen { pipeline.read() }
        }

        private func deliver() {
            guard !reads.isEmpty else { return }
            while isOpen, let message = reads.popFirst() {
                readByteCount -= message.readableBytes
                pipeline.fireChannelRead(message)
            }
            if isOpen { pipeline.fireChannelReadComplete() }
        }

        func read0() {
            guard isOpen else { return }
            wantsRead = true
            readComplete()
        }

        // MARK: Writing

        func write0(_ data: NIOAny, promise: EventLoopPromise<Void>?) {
            guard isOpen else {
                promise?.fail(ChannelError.ioOnClosedChannel)
                return
            }
            guard let message = tryUnwrapData(data, as: ByteBuffer.self) else {
                promise?.fail(ChannelError.operationUnsupported)
                return
            }
            let count = message.readableBytes
            let written = promise ?? eventLoop.makePromise(of: Void.self)
            written.futureResult.assumeIsolated().whenComplete { [self] _ in
                writeByteCount -= count
                updateWritability()
            }
            writeByteCount += count
            writes.append(message, written)
            updateWritability()
        }

        func flush0() {
            writes.flush()
            sendFlushed()
        }

        private func sendFlushed() {
            var hasSent = false
            while case .active = state, let (message, promise) = writes.next() {
                if let promise { client.send(message, promise: promise) }
                hasSent = true
            }
            if hasSent { client.flush() }
        }

        func parentWritabilityChanged() { updateWritability() }

        private func updateWritability() {
            if writeByteCount > waterMark.high { isBelowWaterMark = false }
            if writeByteCount < waterMark.low { isBelowWaterMark = true }
            let isWritable = isBelowWaterMark && parent?.isWritable == true
            guard writable.exchange(isWritable, ordering: .relaxed) != isWritable, isOpen else { return }
            pipeline.fireChannelWritabilityChanged()
        }

        // MARK: Options

        func setOption<Option: ChannelOption>(_ option: Option, value: Option.Value) -> EventLoopFuture<Void> {
            guard eventLoop.inEventLoop else { return eventLoop.submit { try self.set(option, value) } }
            return eventLoop.makeCompletedFuture { try set(option, value) }
        }

        func getOption<Option: ChannelOption>(_ option: Option) -> EventLoopFuture<Option.Value> {
            guard eventLoop.inEventLoop else { return eventLoop.submit { try self.get(option) } }
            return eventLoop.makeCompletedFuture { try get(option) }
        }

        fileprivate func set<Option: ChannelOption>(_ option: Option, _ value: Option.Value) throws {
            guard isOpen else { throw ChannelError.ioOnClosedChannel }
            switch (option, value) {
            case (_ as ChannelOptions.Types.AutoReadOption, let on as Bool):
                let began = on && !autoRead
                autoRead = on
                if began, isActive { pipeline.read() }
            case (
                _ as ChannelOptions.Types.WriteBufferWaterMarkOption,
                let mark as ChannelOptions.Types.WriteBufferWaterMark
            ):
                waterMark = mark
                updateWritability()
            default: throw ChannelError.operationUnsupported
            }
        }

        fileprivate func get<Option: ChannelOption>(_ option: Option) throws -> Option.Value {
            let value: Any? =
                switch option {
                case _ as ChannelOptions.Types.AutoReadOption: autoRead
                case _ as ChannelOptions.Types.WriteBufferWaterMarkOption: waterMark
                default: nil
                }
            guard let value = value as? Option.Value else { throw ChannelError.operationUnsupported }
            return value
        }

        private struct SynchronousOptions: NIOSynchronousChannelOptions {
            let channel: DTLSChildChannel

            func setOption<Option: ChannelOption>(_ option: Option, value: Option.Value) throws {
                channel.eventLoop.preconditionInEventLoop()
                try channel.set(option, value)
            }

            func getOption<Option: ChannelOption>(_ option: Option) throws -> Option.Value {
                channel.eventLoop.preconditionInEventLoop()
                return try channel.get(option)
            }
        }

        // MARK: What such a channel does not do

        func localAddress0() throws -> SocketAddress { try Self.present(localAddress) }
        func remoteAddress0() throws -> SocketAddress { try Self.present(remoteAddress) }

        private static func present(_ address: SocketAddress?) throws -> SocketAddress {
            guard let address else { throw ChannelError.unknownLocalAddress }
            return address
        }

        func register0(promise: EventLoopPromise<Void>?) { promise?.fail(ChannelError.operationUnsupported) }
        func registerAlreadyConfigured0(promise: EventLoopPromise<Void>?) {
            promise?.fail(ChannelError.operationUnsupported)
        }
        func bind0(to: SocketAddress, promise: EventLoopPromise<Void>?) {
            promise?.fail(ChannelError.operationUnsupported)
        }
        func connect0(to: SocketAddress, promise: EventLoopPromise<Void>?) {
            promise?.fail(ChannelError.operationUnsupported)
        }
        func triggerUserOutboundEvent0(_ event: Any, promise: EventLoopPromise<Void>?) {
            promise?.fail(ChannelError.operationUnsupported)
        }
        func channelRead0(_ data: NIOAny) {}
        func errorCaught0(error: any Error) {}
    }
#endif
