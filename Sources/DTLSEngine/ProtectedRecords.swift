import COpenSSL
import Glibc
import Primitives

/// The records of an established connection whose keys have left OpenSSL: they are sealed and opened here (RFC 6347,
/// section 4.1), by the state of which nothing else has to be known.
///
/// Records that are not authentic, and authentic ones that mean nothing, are dropped (RFC 6347, section 4.1.2.7).
struct ProtectedRecords {
    private(set) var state: RecordState
    /// ``RecordState/identity``, which is still known when somebody else has wiped the state.
    private let identity: UInt64
    private var ownsMemory: Bool
    private(set) var isOpen = true
    /// For ``CipherContexts``.
    private var hint: Int32 = 0
    /// The position of the next record in the datagram that was delivered.
    private var offset = 0
    private var datagram: UnsafeRawBufferPointer?
    private var remains: Remains?
    /// Whether the owner keeps the last flight, and is to be told when the peer asks for it.
    private(set) var hasLeftLastFlight = false

    /// What is left of the handshake: nothing, most of the time.
    private final class Remains {
        var held: HeldRecords
        var lastFlight: LastFlight?
        /// When the last flight is given up: a while after it was asked for last.
        var expiry: Instant

        init(_ held: HeldRecords, _ lastFlight: LastFlight?, expiry: Instant) {
            self.held = held
            self.lastFlight = lastFlight
            self.expiry = expiry
        }
    }

    /// Goes on with a state in memory that outlives this, or that this owns.
    init(_ state: RecordState, ownsMemory: Bool) {
        self.state = state
        self.ownsMemory = ownsMemory
        identity = state.identity
    }

    init(copying bytes: [UInt8]) throws(InvalidRecordState) {
        if let fault = RecordState.fault(of: bytes) { throw fault }
        let memory = Self.allocate()
        UnsafeMutableRawBufferPointer(start: memory, count: RecordState.byteCount).copyBytes(from: bytes)
        self.init(RecordState(memory), ownsMemory: true)
    }

    /// Takes over from OpenSSL when a handshake is done.
    /// - Returns: `nil` where the records have to stay with OpenSSL.
    init?(leaving openSSL: OpenSSLConnection, now: Instant) {
        guard !openSSL.context.allowsRenegotiation else { return nil }
        let memory = Self.allocate()
        let limit = openSSL.recordLimit
        guard
            RecordState.export(
                from: openSSL.ssl, openSSL.protectedWrites, contentLimit: limit, openSSL.connectionIDs, to: memory)
        else {
            Self.deallocate(memory)
            return nil
        }
        self.init(RecordState(memory), ownsMemory: true)
        let held = openSSL.takeHeld()
        if openSSL.lastFlight != nil || !held.isEmpty {
            remains = Remains(held, openSSL.lastFlight, expiry: now + LastFlight.lifetime)
        }
    }

    /// Records for the alert to a client whose session was about to be resumed.
    /// - Returns: `nil` where the keys are OpenSSL's alone.
    init?(refusing openSSL: OpenSSLConnection) {
        let memory = Self.allocate()
        guard
            RecordState.export(
                from: openSSL.ssl, openSSL.protectedWrites, contentLimit: Engine.maximumMessageSize,
                openSSL.connectionIDs, to: memory)
        else {
            Self.deallocate(memory)
            return nil
        }
        self.init(RecordState(memory), ownsMemory: true)
    }

    /// The flight that has ended the handshake, as ``keepLastFlight(_:until:now:)`` takes it, and until when it is kept.
    var lastFlight: (bytes: [UInt8], expiry: Instant)? {
        guard let remains, let flight = remains.lastFlight else { return nil }
        return (flight.encoded, remains.expiry)
    }

    /// Keeps a flight that another process has sent, for as long as the peer may ask for it.
    mutating func keepLastFlight(_ bytes: [UInt8], until expiry: Instant, now: Instant) {
        let age = LastFlight.lifetime - (expiry - now)
        hasLeftLastFlight = false
        guard expiry > now, let flight = LastFlight(decoding: bytes, age: age) else { return }
        remains = Remains(remains?.held ?? HeldRecords(), flight, expiry: expiry)
    }

    /// Keeps the flight no longer: the owner does.
    mutating func leaveLastFlight() {
        forgetLastFlight()
        hasLeftLastFlight = true
    }

    private var keepsLastFlight: Bool { hasLeftLastFlight || remains?.lastFlight != nil }

    private static func allocate() -> UnsafeMutableRawPointer {
        .allocate(byteCount: RecordState.byteCount, alignment: 8)
    }

    private static func deallocate(_ memory: UnsafeMutableRawPointer) {
        RecordState.wipe(memory)
        memory.deallocate()
    }

    /// Gives up what this owns. To be called once, at last.
    mutating func end(_ bio: DatagramBIO) {
        bio.contexts.forget(identity)
        isOpen = false
        if ownsMemory { Self.deallocate(state.memory) }
        ownsMemory = false
    }

    mutating func move(to memory: UnsafeMutableRawPointer) {
        memory.copyMemory(from: state.memory, byteCount: RecordState.byteCount)
        if ownsMemory { Self.deallocate(state.memory) }
        state = RecordState(memory)
        ownsMemory = false
    }

    /// A copy of the state.
    var bytes: [UInt8] { [UInt8](UnsafeRawBufferPointer(start: state.memory, count: RecordState.byteCount)) }

    var contentLimit: Int { state.contentLimit }
    /// It is known after the end too, for who tells of that.
    var connectionIDs: ConnectionIDs? { state.connectionIDs }
    /// Whether a record with a connection ID, which a datagram begins with, has another one than this side's.
    func isOfAnotherConnection(_ datagram: UnsafeRawBufferPointer) -> Bool {
        let own = state.ownConnectionID
        let end = ConnectionID.offsetInRecord + own.count
        guard datagram.count >= end else { return false }
        guard let expected = own.baseAddress, let found = datagram.baseAddress, !own.isEmpty else { return true }
        return memcmp(expected, found + ConnectionID.offsetInRecord, own.count) != 0
    }

    var checksReturnRoutability: Bool { isOpen && state.checksReturnRoutability }
    @inline(__always)
    var newestReceived: UInt64 { state.newestNumber }

    func largestMessage(inPayload size: Int) -> Int {
        guard isOpen, let algorithm = state.algorithm else { return 0 }
        let overhead = algorithm.overhead + CipherContexts.connectionIDOverhead(state.peerConnectionID)
        return min(max(0, size - Record.headerSize - overhead), state.contentLimit)
    }

    // MARK: Receiving

    @inline(__always)
    mutating func deliver(_ datagram: UnsafeRawBufferPointer) {
        self.datagram = datagram
        offset = 0
    }

    /// The next thing that happened.
    @inline(__always)
    mutating func next(over bio: DatagramBIO, now: Instant) throws(EngineError) -> Engine.Event {
        if remains != nil, let event = try nextOfRemains(over: bio, now: now) { return event }
        while isOpen, let record = nextRecord() {
            if let event = try receive(record, over: bio, now: now) { return event }
        }
        if let datagram, offset < datagram.count, isOpen { bio.notes.noteDropped(.malformed) }
        datagram = nil
        return isOpen ? .needsInput : .closed
    }

    private mutating func nextOfRemains(
        over bio: DatagramBIO, now: Instant
    ) throws(EngineError) -> Engine.Event? {
        handleTimeout(now: now)
        while isOpen, let held = remains?.held.removeFirst() {
            let result = held.bytes.withUnsafeBytes { bytes -> Result<Engine.Event?, EngineError> in
                guard let record = Record(of: bytes, connectionIDLength: state.ownConnectionID.count),
                    isWellFormed(record)
                else { return .success(nil) }
                do throws(EngineError) {
                    // The peer's Finished, which OpenSSL has read, asks for nothing; its number has come.
                    return .success(
                        held.wasRead ? try mark(record, over: bio) : try receive(record, over: bio, now: now))
                } catch {
                    return .failure(error)
                }
            }
            if let event = try result.get() { return event }
        }
        if remains?.lastFlight == nil { remains = nil }
        return nil
    }

    /// The next record of the datagram. It ends at one that is not well formed: who has made that has made what comes
    /// after it, too.
    @inline(__always)
    private mutating func nextRecord() -> Record? {
        guard let datagram,
            let record = Record(of: datagram, at: offset, connectionIDLength: state.ownConnectionID.count),
            isWellFormed(record)
        else { return nil }
        offset = record.end
        return record
    }

    /// As OpenSSL and ``RecordFilter`` have it. Where this side has a connection ID that is not empty, all protected
    /// records have to have it (RFC 9146, section 3).
    @inline(__always)
    func isWellFormed(_ record: Record) -> Bool {
        let hasVersion =
            record.version == ProtocolVersion.dtls12.rawValue || record.contentType == .alert && record.isDTLS
        guard hasVersion, record.isComplete, record.length <= state.contentLimit + RecordFilter.overhead else {
            return false
        }
        if !record.isProtected { return true }
        let id = state.ownConnectionID
        if !id.isEmpty {
            let found = record.connectionID
            guard found.count == id.count, let one = found.baseAddress, let other = id.baseAddress,
                memcmp(one, other, id.count) == 0
            else { return false }
        }
        return record.length >= state.algorithm?.overhead ?? .max
    }

    private mutating func mark(_ record: Record, over bio: DatagramBIO) throws(EngineError) -> Engine.Event? {
        _ = try open(record, over: bio)
        return nil
    }

    /// Type and content of a record that is authentic and has not come before; `nil` for any other. From now on it has
    /// come.
    @inline(__always)
    private mutating func open(
        _ record: Record, over bio: DatagramBIO
    ) throws(EngineError) -> (type: ContentType, content: UnsafeRawBufferPointer)? {
        let number = record.number
        guard state.mayBeNew(number),
            let text = bio.contexts.open(record, state, hint: &hint, in: bio.plaintext)
        else { return nil }
        state.markReceived(number)
        let inner = state.ownConnectionID.isEmpty ? (record.contentType, text) : InnerPlaintext.split(text)
        guard let inner else { return nil }
        guard inner.1.count <= state.contentLimit else { throw overflow(over: bio) }
        return inner
    }

    @inline(__always)
    private mutating func receive(
        _ record: Record, over bio: DatagramBIO, now: Instant
    ) throws(EngineError) -> Engine.Event? {
        guard let (type, content) = try open(record, over: bio) else {
            return explainDrop(of: record, over: bio)
        }
        guard type == .applicationData else { return try receive(content, of: type, over: bio, now: now) }
        // The peer has finished the handshake too: it does not ask for the last flight any more.
        if keepsLastFlight { forgetLastFlight() }
        return .message(content)
    }

    /// What is to be done about a record that is not authentic and new.
    @inline(never)
    private func explainDrop(of record: Record, over bio: DatagramBIO) -> Engine.Event? {
        if keepsLastFlight, isRepeatedFinished(record, over: bio) { return .finishedRepeated }
        let reason: RecordDrop =
            record.epoch != 1 ? .unprotected : state.mayBeNew(record.number) ? .forged : .replayed
        bio.notes.noteDropped(reason)
        return nil
    }

    /// Whether a record is that of the peer's Finished once more. pion/dtls 3.1.5 repeats its Finished under the number
    /// that it had, where the record has a connection ID; the window drops that as a replay, and anybody who has seen it
    /// can send it too. So it is up to the caller to bound what is answered.
    @inline(never)
    private func isRepeatedFinished(_ record: Record, over bio: DatagramBIO) -> Bool {
        guard keepsLastFlight, record.isProtected, record.epoch == 1, !state.mayBeNew(record.number),
            record.bytes.count <= HeldRecords.longestCopy,
            let text = bio.contexts.openOnce(record, state, in: bio.plaintext),
            let (type, content) = state.ownConnectionID.isEmpty
                ? (record.contentType, text) : InnerPlaintext.split(text)
        else { return false }
        return type == .handshake && HandshakeFragment(content)?.type == .finished
    }

    func holdsRepeatedFinished(_ datagram: UnsafeRawBufferPointer, over bio: DatagramBIO) -> Bool {
        guard isOpen, keepsLastFlight else { return false }
        for record in Records(of: datagram, connectionIDLength: state.ownConnectionID.count) {
            guard isWellFormed(record) else { return false }
            if record.isProtected { return isRepeatedFinished(record, over: bio) }
        }
        return false
    }

    /// The flight is kept no longer for it: anybody may have asked.
    func sendLastFlight(over bio: DatagramBIO) { remains?.lastFlight?.send(to: bio.outbox) }

    /// The peer, which has asked for the flight, has time to ask once more.
    mutating func repeatLastFlight(over bio: DatagramBIO, now: Instant) {
        guard remains?.lastFlight != nil else { return }
        bio.notes.noteRetransmission()
        remains?.lastFlight?.send(to: bio.outbox)
        remains?.expiry = now + LastFlight.lifetime
    }

    mutating func forgetLastFlight() {
        hasLeftLastFlight = false
        guard let held = remains?.held else { return }
        remains = held.isEmpty ? nil : Remains(held, nil, expiry: .distantFuture)
    }

    private mutating func receive(
        _ content: UnsafeRawBufferPointer, of type: ContentType, over bio: DatagramBIO, now: Instant
    ) throws(EngineError) -> Engine.Event? {
        switch type {
        case .alert: return try receiveAlert(content, over: bio)
        case .handshake: return receiveHandshakeMessage(content, over: bio, now: now)
        case .returnRoutabilityCheck where state.checksReturnRoutability:
            guard let message = ReturnRoutabilityMessage(content) else { return nil }
            switch message.kind {
            case .challenge: send(.response, message.cookie, over: bio)
            case .response: return .pathResponse(message.cookie)
            case .drop: break
            }
        default: break
        }
        return nil
    }

    /// RFC 5246, section 7.2. A warning asks for nothing.
    private mutating func receiveAlert(
        _ content: UnsafeRawBufferPointer, over bio: DatagramBIO
    ) throws(EngineError) -> Engine.Event? {
        guard content.count == 2 else { return nil }
        let (level, description) = (content[0], content[1])
        bio.notes.noteReceivedAlert(description)
        if level == UInt8(SSL3_AL_FATAL) {
            isOpen = false
            throw .alert(description)
        }
        guard description == UInt8(SSL_AD_CLOSE_NOTIFY) else { return nil }
        // It is to be answered (RFC 5246, section 7.2.1).
        close(over: bio)
        return .closed
    }

    /// The peer's Finished once more, or another handshake that it wants to begin.
    private mutating func receiveHandshakeMessage(
        _ content: UnsafeRawBufferPointer, over bio: DatagramBIO, now: Instant
    ) -> Engine.Event? {
        guard let message = HandshakeFragment(content) else { return nil }
        switch message.type {
        case .finished:
            if hasLeftLastFlight { return .lastFlightWanted }
            repeatLastFlight(over: bio, now: now)
        case .clientHello where state.isServer, .helloRequest where !state.isServer:
            // RFC 5246, sections 7.2.2 and 7.4.1.1: a warning, and the connection goes on.
            send(.warning, UInt8(SSL_AD_NO_RENEGOTIATION), over: bio)
        default: break
        }
        return nil
    }

    /// A record that is authentic and holds more than was agreed on is fatal (RFC 5246, section 6.2.1; RFC 6066, section
    /// 4).
    private mutating func overflow(over bio: DatagramBIO) -> EngineError {
        send(.fatal, UInt8(SSL_AD_RECORD_OVERFLOW), over: bio)
        isOpen = false
        return .overflow(limit: state.contentLimit)
    }

    // MARK: Sending

    /// Seals one message into one datagram of the outbox.
    @inline(__always)
    mutating func send(_ message: UnsafeRawBufferPointer, over bio: DatagramBIO) throws(EngineError) {
        guard isOpen else { throw .notEstablished }
        guard message.count <= state.contentLimit else {
            throw message.count > Engine.maximumMessageSize
                ? .size(message.count) : .fragment(message.count, limit: state.contentLimit)
        }
        guard let number = state.takeNumber() else {
            close(over: bio)
            throw .exhausted
        }
        guard seal(message, .applicationData, number, over: bio) else { throw .record(OpenSSLError.drain()) }
    }

    @inline(__always)
    private mutating func seal(
        _ content: UnsafeRawBufferPointer, _ type: ContentType, _ number: UInt64, over bio: DatagramBIO
    ) -> Bool {
        guard let algorithm = state.algorithm else { return false }
        let (contexts, state) = (bio.contexts, state)
        var hint = hint
        defer { self.hint = hint }
        let overhead = algorithm.overhead + CipherContexts.connectionIDOverhead(state.peerConnectionID)
        return bio.outbox.append(byteCount: Record.headerSize + overhead + content.count) { record in
            contexts.seal(content, type, number, state, hint: &hint, into: record)
        }
    }

    /// Asks the peer to answer over the path that the datagram takes (RFC 9853).
    mutating func sendPathChallenge(_ cookie: UInt64, over bio: DatagramBIO) {
        guard isOpen, state.checksReturnRoutability else { return }
        send(.challenge, cookie, over: bio)
    }

    private mutating func send(_ type: ReturnRoutabilityMessage.Kind, _ cookie: UInt64, over bio: DatagramBIO) {
        guard let number = state.takeNumber() else { return }
        ReturnRoutabilityMessage(kind: type, cookie: cookie).withBytes { content in
            if !seal(content, .returnRoutabilityCheck, number, over: bio) { OpenSSLError.clear() }
        }
    }

    private enum AlertLevel: UInt8 {
        case warning = 1
        case fatal = 2
    }

    private mutating func send(
        _ level: AlertLevel, _ description: UInt8, isLast: Bool = false, over bio: DatagramBIO
    ) {
        guard let number = state.takeNumber(isLast: isLast) else { return }
        withUnsafeBytes(of: (level.rawValue, description)) { content in
            if seal(content, .alert, number, over: bio) {
                bio.notes.noteSentAlert(description)
            } else {
                OpenSSLError.clear()
            }
        }
    }

    /// Writes close_notify, or a fatal alert in its place, and ends the connection.
    mutating func close(_ alert: Engine.ClosingAlert = .closeNotify, over bio: DatagramBIO) {
        guard isOpen else { return }
        switch alert {
        case .closeNotify: send(.warning, UInt8(SSL_AD_CLOSE_NOTIFY), isLast: true, over: bio)
        case .accessDenied: send(.fatal, UInt8(SSL_AD_ACCESS_DENIED), isLast: true, over: bio)
        case .fatal(let description): send(.fatal, description, isLast: true, over: bio)
        }
        isOpen = false
    }

    // MARK: Time

    var deadline: Instant { remains?.expiry ?? .distantFuture }

    /// Gives the last flight up when the peer has had its time.
    mutating func handleTimeout(now: Instant) {
        if let remains, remains.expiry <= now { forgetLastFlight() }
    }
}

/// What the protected part of a record with a connection ID holds (RFC 9146, section 4): the content, its type, and any
/// number of zeros.
enum InnerPlaintext {
    /// - Returns: `nil` where there are only zeros.
    static func split(_ text: UnsafeRawBufferPointer) -> (ContentType, UnsafeRawBufferPointer)? {
        var end = text.count
        while end > 0, text[end - 1] == 0 { end -= 1 }
        guard end > 0 else { return nil }
        return (ContentType(rawValue: text[end - 1]), UnsafeRawBufferPointer(rebasing: text[..<(end - 1)]))
    }
}

extension RecordState {
    /// What a check of a datagram against the state of a connection has found.
    public enum Authenticity: Equatable, Sendable {
        /// The datagram holds no record that is authentic and new.
        case no
        /// The peer of the connection has made the first new record of the datagram.
        /// - Parameter isNewest: whether its number is greater than that of all records that were received.
        case authentic(isNewest: Bool)
    }

    /// The connection IDs of the connection whose state is at `memory`; `nil` where none were agreed on, and for bytes
    /// that are no state.
    /// - Parameter memory: ``byteCount`` bytes, 8-byte aligned.
    public static func connectionIDs(at memory: UnsafeMutableRawPointer) -> ConnectionIDs? {
        fault(of: memory) == nil ? RecordState(memory).connectionIDs : nil
    }

    /// Whether the connection whose state is at `memory` has agreed on return routability checks (RFC 9853).
    /// - Parameter memory: ``byteCount`` bytes, 8-byte aligned.
    public static func checksReturnRoutability(at memory: UnsafeMutableRawPointer) -> Bool {
        fault(of: memory) == nil && RecordState(memory).checksReturnRoutability
    }

    /// Writes the close_notify of a connection that has no engine into the outbox, as one datagram. Nobody may go on with
    /// the connection after it.
    /// - Parameter memory: the connection's state, ``byteCount`` bytes, 8-byte aligned.
    public static func writeCloseNotify(at memory: UnsafeMutableRawPointer, over bio: DatagramBIO) {
        guard fault(of: memory) == nil else { return }
        var records = ProtectedRecords(RecordState(memory), ownsMemory: false)
        records.close(over: bio)
        records.end(bio)
    }

    /// Whether a datagram holds an authentic record of a connection that has no engine, which has not come before.
    /// Nothing is noted as received.
    ///
    /// A forged record costs at most one decryption: what comes behind it is not looked at.
    /// - Parameter memory: the connection's state, ``byteCount`` bytes, 8-byte aligned.
    public static func authenticates(
        _ datagram: UnsafeRawBufferPointer, at memory: UnsafeMutableRawPointer, over bio: DatagramBIO
    ) -> Authenticity {
        guard fault(of: memory) == nil else { return .no }
        let state = RecordState(memory)
        let records = ProtectedRecords(state, ownsMemory: false)
        for record in Records(of: datagram, connectionIDLength: state.ownConnectionID.count) {
            guard records.isWellFormed(record) else { return .no }
            guard state.mayBeNew(record.number) else { continue }
            guard bio.contexts.openOnce(record, state, in: bio.plaintext) != nil else { return .no }
            return .authentic(isNewest: record.number > state.newestNumber)
        }
        return .no
    }
}
