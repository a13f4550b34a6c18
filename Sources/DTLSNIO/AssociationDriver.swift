#if NIO
    import DTLSEngine
    import DTLSKit
    import DTLSTransport
    import NIOCore
    import Primitives

    /// An association in an event loop, which gives it its time.
    ///
    /// What an association has to say is gathered while it works, and handed out as ``Work`` when it is at rest: so what the
    /// program does about it may call the association again.
    final class AssociationDriver {
        enum Event {
            case established(SessionDetails, certificates: [[UInt8]], ResumableSession?)
            /// It has bytes: empty records, which say that the peer is there and nothing else, are left out.
            case message(ByteBuffer)
            /// The peer has lost its state, and has done a new handshake. `established` follows.
            case replaced
            case asks(AuthorizationQuestion, number: UInt32)
            case ended(DTLSTransport.Connection.Ending)
        }

        /// What is to be done: the datagrams are to be sent before the program hears of the events.
        struct Work {
            var datagrams: [ByteBuffer] = []
            var events: [Event] = []
            /// Flights of the handshake among the datagrams that were sent before.
            var repeatedFlights = 0
        }

        private let association: Association
        private let buffers: EngineBuffers
        private let eventLoop: any NIOCore.EventLoop
        private let allocator: ByteBufferAllocator
        private let observer: DtlsObserver?
        private var isEstablished = false
        private var timer: (task: Scheduled<Void>, deadline: Instant)?
        private var tellsEnd = true
        /// Is given what is to be done when time has passed.
        private let timePassed: (Work) -> Void

        init(
            _ association: Association, _ buffers: EngineBuffers, on eventLoop: any NIOCore.EventLoop,
            _ allocator: ByteBufferAllocator, _ observer: DtlsObserver?, timePassed: @escaping (Work) -> Void
        ) {
            self.association = association
            self.buffers = buffers
            self.eventLoop = eventLoop
            self.allocator = allocator
            self.observer = observer
            self.timePassed = timePassed
        }

        deinit { timer?.task.cancel() }

        static func now(of eventLoop: any NIOCore.EventLoop) -> Instant {
            Instant(nanoseconds: eventLoop.now.uptimeNanoseconds)
        }

        private var now: Instant { Self.now(of: eventLoop) }

        var isOpen: Bool { association.isOpen }

        // MARK: Working

        /// Begins the handshake.
        func start() -> Work { work { lease, work in gatherEvents(of: 0, lease, &work) } }

        /// - Parameter offer: what a client that has lost its state may do a new handshake with, asked for only where a datagram
        ///   says that it has; `nil` for a client's side.
        /// - Returns: whether the association has taken the datagram; a listener is to see it otherwise.
        func receive(_ datagram: ByteBuffer, offer: () -> RehandshakeOffer?) -> (work: Work, isTaken: Bool) {
            var isTaken = true
            let work = work { lease, work in
                datagram.withUnsafeReadableBytes { bytes in
                    switch association.receive(bytes, now: now, lease, offer: offer) {
                    // The keys of a new handshake's sessions are the context's here.
                    case .taken, .wantsKeys: gatherEvents(of: bytes.count, lease, &work)
                    case .misdelivered: isTaken = false
                    }
                }
            }
            return (work, isTaken)
        }

        /// Encrypts a message.
        /// - Returns: the datagram, if there is no error; none where the message is lost, since the peer could not read it.
        func send(_ message: ByteBuffer) -> (work: Work, error: EngineError?) {
            var failure: EngineError?
            let work = work { lease, _ in
                do throws(EngineError) {
                    let count = message.readableBytes
                    // The kernel fragments what is larger than the path takes: NIO sets no socket option against it.
                    if !association.isKnownToFit(count) { try association.checkFits(count, enforcedMTU: nil) }
                    try message.withUnsafeReadableBytes { bytes throws(EngineError) in
                        try association.send(bytes, now: now, lease)
                    }
                } catch {
                    failure = error
                }
            }
            return (work, failure)
        }

        func authorize(_ number: UInt32, _ answer: AuthorizationAnswer) -> Work {
            work { lease, work in
                association.authorize(number, answer)
                gatherEvents(of: 0, lease, &work)
            }
        }

        /// Ends the association with close_notify, where its handshake is done. There is no event for it.
        func close() -> Work {
            tellsEnd = false
            return work { lease, _ in association.close(.closedHere, lease) }
        }

        /// Ends the association without a word to the peer, which cannot be told.
        /// - Parameter error: why, as the observer is told.
        func abandon(_ error: DtlsError = .notOpen) {
            tellsEnd = false
            let wasOpen = association.isOpen
            association.abandon()
            if wasOpen { observeEnd(error) }
            disarm()
        }

        /// Bytes of the largest message that the peer has agreed to take; 0 before the handshake is done.
        var largestMessage: Int { association.largestMessage(enforcedMTU: nil) }

        private func work(_ body: (borrowing OutboxLease, inout Work) -> Void) -> Work {
            var work = Work()
            var written: [ByteBuffer] = []
            let wasOpen = association.isOpen
            buffers.outbox.lend(
                to: self, sending: { written += datagrams(of: $0) }, { lease in body(lease, &work) })
            work.datagrams += written
            work.repeatedFlights = buffers.notes.retransmittedFlights
            if !buffers.notes.isEmpty {
                observer?.tell(buffers.notes, of: remote)
                buffers.notes.removeAll()
            }
            if wasOpen, let ending = association.ending {
                if tellsEnd { work.events.append(.ended(ending)) }
                observeEnd(DtlsError(ending, lastError: 0))
            }
            rearm()
            return work
        }

        private func gatherEvents(of byteCount: Int, _ lease: borrowing OutboxLease, _ work: inout Work) {
            while true {
                switch association.next(now: now, lease) {
                case .needsInput: return
                case .established:
                    isEstablished = true
                    observe(
                        .handshakeDone(DtlsAgreement(association.session), duration: now - association.started))
                    work.events.append(
                        .established(
                            association.session, certificates: association.peerCertificates,
                            association.resumableSession))
                case .message(let message):
                    if !message.isEmpty { work.events.append(.message(allocator.buffer(bytes: message))) }
                case .replaced:
                    observeEnd(.closed)
                    work.events.append(.replaced)
                case .needsAuthorization(let number):
                    if let question = association.question(number) {
                        work.events.append(.asks(question, number: number))
                    }
                case .finishedRepeated: answerRepetition(byteCount, &work)
                // The association that was there goes on.
                case .rehandshakeFailed(let ending):
                    observe(.handshakeFailed(DtlsError(ending, lastError: 0)))
                // Challenges are for peers that move, which those of this module do not.
                case .pathResponse: break
                }
            }
        }

        /// Sends the flight once more that has ended the handshake, but not so many bytes that somebody who has seen the peer's
        /// record go by could have this side flood the peer.
        private func answerRepetition(_ byteCount: Int, _ work: inout Work) {
            var written: [ByteBuffer] = []
            var size = 0
            buffers.outbox.lend(
                to: association,
                sending: { outbox in
                    size = outbox.byteCount
                    written = datagrams(of: outbox)
                },
                { _ in association.sendLastFlight(now: now) })
            if size <= PathCheck.amplification * byteCount { work.datagrams += written }
        }

        private func datagrams(of outbox: Outbox) -> [ByteBuffer] {
            outbox.withDatagrams { bytes, sizes in
                var offset = 0
                return sizes.map { size in
                    defer { offset += size }
                    return allocator.buffer(
                        bytes: UnsafeRawBufferPointer(rebasing: bytes[offset..<(offset + size)]))
                }
            }
        }

        // MARK: Observing

        private var remote: DtlsAddress { DtlsAddress(association.flow.peer) }

        private func observe(_ event: @autoclosure () -> DtlsEvent) { observer?.observe(event(), remote) }

        /// A handshake that this side gives up by itself has not failed.
        private func observeEnd(_ error: DtlsError) {
            if isEstablished {
                observe(.ended(error))
            } else if error != .notOpen {
                observe(.handshakeFailed(error))
            }
        }

        // MARK: Time

        /// Has the event loop call for the next deadline. A timer that fires too early is set again: a deadline that has
        /// become later, as each message makes it, need not be known before.
        private func rearm() {
            guard association.isOpen else { return disarm() }
            guard timer == nil || association.mayHaveEarlierDeadline else { return }
            let deadline = association.deadline(now: now)
            guard deadline < .distantFuture else { return }
            if let timer, timer.deadline <= deadline { return }
            timer?.task.cancel()
            let time = NIODeadline.uptimeNanoseconds(deadline.nanoseconds)
            let task = eventLoop.assumeIsolated().scheduleTask(deadline: time) { [weak self] in
                guard let self else { return }
                timer = nil
                timePassed(handleTimeout())
            }
            timer = (task, deadline)
        }

        private func handleTimeout() -> Work {
            work { lease, work in
                guard association.isOpen, association.deadline(now: now) <= now else { return }
                association.handleTimeout(now: now, lease)
                gatherEvents(of: 0, lease, &work)
            }
        }

        private func disarm() {
            timer?.task.cancel()
            timer = nil
        }
    }
#endif
