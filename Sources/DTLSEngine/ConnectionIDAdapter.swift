import COpenSSL

/// Stands between the wire and OpenSSL as long as a handshake lasts in which connection IDs may be agreed on (RFC 9146):
/// OpenSSL does not know records that have one. The Finished messages have it already.
///
/// So a protected record that comes is opened, and sealed again as the record without a connection ID that it would have
/// been, with the same number; and one that OpenSSL has written is opened and sealed with the connection ID. The keys
/// are known as soon as OpenSSL has read ClientKeyExchange, and in a resumed handshake when the ServerHello is
/// there. One datagram may hold what makes the keys known and what they protect, so OpenSSL is given each record alone.
final class ConnectionIDAdapter {
    let negotiation: ConnectionIDNegotiation
    private let ssl: OpaquePointer
    private var datagram: UnsafeRawBufferPointer?
    private var offset = 0
    /// Protected records that came before it was known what to do with them, in their order.
    private var early: [[UInt8]] = []
    private var earlyByteCount = 0
    private var translator: Translator?
    /// A copy of an early record that was given out last.
    private var current: UnsafeMutableRawBufferPointer?

    private static let maximumEarlyCount = 16
    private static let maximumEarlyBytes = 64 * 1_024

    /// - Parameter ssl: outlives this.
    init(_ negotiation: ConnectionIDNegotiation, over ssl: OpaquePointer) {
        self.negotiation = negotiation
        self.ssl = ssl
    }

    /// Whether the hellos have said that there are no connection IDs, and nothing is left to be given out.
    var isDone: Bool { isDecided && negotiation.agreed == nil && early.isEmpty && datagram == nil }

    /// Whether both hellos have been read or written: the cipher suite is chosen just before.
    private var isDecided: Bool { negotiation.agreed != nil || SSL_get_pending_cipher(ssl) != nil }

    /// Whether the peer's records have to have a connection ID.
    private var expectsConnectionID: Bool { negotiation.agreed.map { !$0.own.isEmpty } ?? false }

    deinit { current?.deallocate() }

    /// Whether the client's Finished is read without a connection ID, too, against RFC 9146, section 3. pion/dtls up to
    /// 3.1.5 puts none into that of a resumed handshake (flight5bGenerate), although into all records after it, and its
    /// users would have a connection that seems to stand and over which nothing comes. OpenSSL opens such a record with
    /// the keys of this handshake, and it has come from the address that the cookie was for; so it proves what one with a
    /// connection ID would.
    private var mayLackConnectionID: Bool { SSL_is_server(ssl) == 1 && SSL_session_reused(ssl) == 1 }

    // MARK: Receiving

    /// What is to be done with the next record.
    enum Input {
        /// OpenSSL gets the bytes as they have come.
        case plain(UnsafeRawBufferPointer)
        /// OpenSSL gets the bytes, valid until the next call, in place of the record that has come.
        case translated(UnsafeRawBufferPointer, original: UnsafeRawBufferPointer)
        /// An authentic record that is not OpenSSL's.
        case held(UnsafeRawBufferPointer)
    }

    /// Takes a datagram, which stays valid until ``next(_:)`` has said that there is nothing left of it.
    func deliver(_ datagram: UnsafeRawBufferPointer) {
        self.datagram = datagram
        offset = 0
    }

    /// Drops the rest of the datagram.
    func dropRest() { datagram = nil }

    /// What is to be done next, as far as the handshake has got; `nil` where there is nothing.
    func next() -> Input? {
        while true {
            if !early.isEmpty, canJudge {
                if let input = judge(takeEarly()) { return input }
                continue
            }
            guard let datagram else { return nil }
            guard let record = Record(of: datagram, at: offset, connectionIDLength: negotiation.own.count) else {
                self.datagram = nil
                return nil
            }
            offset = record.end
            guard record.isProtected, record.isComplete else { return .plain(record.bytes) }
            guard canJudge else {
                keep(record.bytes)
                continue
            }
            if let input = judge(record.bytes) { return input }
        }
    }

    private func keep(_ record: UnsafeRawBufferPointer) {
        guard early.count < Self.maximumEarlyCount, earlyByteCount + record.count <= Self.maximumEarlyBytes else {
            return
        }
        early.append([UInt8](record))
        earlyByteCount += record.count
    }

    /// The first early record, valid until the next call.
    private func takeEarly() -> UnsafeRawBufferPointer {
        let record = early.removeFirst()
        earlyByteCount -= record.count
        current?.deallocate()
        let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: record.count, alignment: 8)
        copy.copyBytes(from: record)
        current = copy
        return UnsafeRawBufferPointer(copy)
    }

    private var canJudge: Bool { isDecided && (!expectsConnectionID || prepareTranslator()) }

    private func prepareTranslator() -> Bool {
        if translator != nil { return true }
        guard let ids = negotiation.agreed else { return false }
        translator = RecordKeys(of: ssl).map { Translator($0, ids) }
        return translator != nil
    }

    /// What is to be done with a whole protected record; `nil` for one that is to be dropped.
    private func judge(_ bytes: UnsafeRawBufferPointer) -> Input? {
        guard expectsConnectionID, let translator else { return .plain(bytes) }
        if mayLackConnectionID, Record(of: bytes)?.contentType == .handshake { return .plain(bytes) }
        guard let record = Record(of: bytes, connectionIDLength: negotiation.own.count) else { return nil }
        switch translator.open(record) {
        case .none: return nil
        case .handshakeMessage(let plain): return .translated(plain, original: bytes)
        case .other: return .held(bytes)
        }
    }

    /// Holds what is left of the datagram when the handshake is done, for the record layer that comes then.
    func holdRest(in held: inout HeldRecords) {
        while let input = next() {
            switch input {
            case .plain(let bytes):
                // Only protected records are of use then.
                guard let record = Record(of: bytes), record.isProtected, record.isComplete else { continue }
                held.hold(bytes, wasRead: false)
            case .translated(_, let original): held.hold(original, wasRead: false)
            case .held(let bytes): held.hold(bytes, wasRead: false)
            }
        }
        early = []
    }

    // MARK: Sending

    /// Bytes of the connection ID in the records that are sent.
    var peerConnectionIDLength: Int { negotiation.agreed?.peer.count ?? 0 }

    /// Puts the peer's connection ID into the protected records that OpenSSL has written since `checkpoint`. Where they
    /// become too long for a datagram, they get one of their own.
    /// - Returns: false where that cannot be done. Nothing is left of those records then.
    func translateWritten(to outbox: Outbox, since checkpoint: Outbox.Checkpoint, payloadSize: Int) -> Bool {
        guard peerConnectionIDLength > 0, let written = outbox.datagrams(since: checkpoint) else { return true }
        outbox.truncate(to: checkpoint)
        guard prepareTranslator(), let translator else { return false }
        return written.bytes.withUnsafeBytes { bytes in
            var start = 0
            for size in written.sizes {
                var datagram: [UInt8] = []
                for record in Records(of: UnsafeRawBufferPointer(rebasing: bytes[start..<(start + size)])) {
                    guard let translated = record.isProtected ? translator.seal(record) : [UInt8](record.bytes) else {
                        return false
                    }
                    if !datagram.isEmpty, datagram.count + translated.count > payloadSize {
                        datagram.withUnsafeBytes { _ = outbox.append($0) }
                        datagram = []
                    }
                    datagram += translated
                }
                datagram.withUnsafeBytes { _ = outbox.append($0) }
                start += size
            }
            return true
        }
    }
}

/// Makes records with connection IDs of such without, and the other way round, by the keys of a handshake that is not
/// done yet.
///
/// OpenSSL has sealed its Finished with the same keys, but that record does not leave this process. What is sealed here
/// has the same number, and a number is not used twice. What is sealed for OpenSSL does not leave it either.
private final class Translator {
    private let memory = UnsafeMutableRawPointer.allocate(byteCount: 2 * RecordState.byteCount, alignment: 8)
    private let contexts = CipherContexts(capacity: 2)
    private let plaintext: UnsafeMutableRawBufferPointer
    private let translated: UnsafeMutableRawBufferPointer
    private var hints: (Int32, Int32) = (0, 1)

    /// This side's state, as it will be.
    private var state: RecordState { RecordState(memory) }
    /// The state of the other side, if that had no connection IDs: it seals what OpenSSL reads, and opens what OpenSSL
    /// writes.
    private var other: RecordState { RecordState(memory + RecordState.byteCount) }

    /// Bytes of the longest record that is translated.
    private static let capacity = HeldRecords.longestCopy + 512

    init(_ keys: RecordKeys, _ ids: ConnectionIDs) {
        plaintext = .allocate(byteCount: Record.maximumPlaintextLength + RecordFilter.overhead, alignment: 8)
        translated = .allocate(byteCount: Self.capacity, alignment: 8)
        func terms(isServer: Bool, _ ids: ConnectionIDs?) -> RecordState.Terms {
            RecordState.Terms(
                isServer: isServer, algorithm: keys.algorithm, suite: keys.suite,
                contentLimit: Engine.maximumMessageSize, noncePrefix: 1, connectionIDs: ids)
        }
        let first = RecordState.firstNumber
        keys.withKeys { send, receive in
            RecordState.write(
                terms(isServer: keys.isServer, ids), send: send, receive: receive, nextNumber: first, to: memory)
            RecordState.write(
                terms(isServer: !keys.isServer, nil), send: receive, receive: send, nextNumber: first,
                to: memory + RecordState.byteCount)
        }
    }

    deinit {
        RecordState.wipe(memory)
        RecordState.wipe(memory + RecordState.byteCount)
        memory.deallocate()
        plaintext.deallocate()
        translated.deallocate()
    }

    enum Opened {
        case none
        /// The record without a connection ID, valid until the next call.
        case handshakeMessage(UnsafeRawBufferPointer)
        /// An authentic record of another type.
        case other
    }

    func open(_ record: Record) -> Opened {
        guard record.epoch == 1, ProtectedRecords(state, ownsMemory: false).isWellFormed(record),
            let text = contexts.open(record, state, hint: &hints.0, in: plaintext),
            let (type, content) = InnerPlaintext.split(text)
        else { return .none }
        guard type == .handshake else { return .other }
        let size = Record.headerSize + state.overhead + content.count
        guard size <= Self.capacity else { return .none }
        let plain = UnsafeMutableRawBufferPointer(rebasing: translated[..<size])
        guard contexts.seal(content, type, record.number, other, hint: &hints.1, into: plain) else {
            OpenSSLError.clear()
            return .none
        }
        return .handshakeMessage(UnsafeRawBufferPointer(plain))
    }

    /// - Returns: `nil` where OpenSSL's record cannot be opened.
    func seal(_ record: Record) -> [UInt8]? {
        guard record.epoch == 1, record.isComplete,
            let content = contexts.open(record, other, hint: &hints.1, in: plaintext)
        else { return nil }
        let size =
            Record.headerSize + state.overhead + content.count
            + CipherContexts.connectionIDOverhead(state.peerConnectionID)
        return [UInt8](unsafeUninitializedCapacity: size) { buffer, count in
            let bytes = UnsafeMutableRawBufferPointer(start: buffer.baseAddress, count: size)
            let isSealed = contexts.seal(
                content, record.contentType, record.number, state, hint: &hints.0, into: bytes)
            count = isSealed ? size : 0
        }
    }
}

extension RecordState {
    fileprivate var overhead: Int { algorithm?.overhead ?? 0 }
}
