import COpenSSL
import Primitives

/// The state of one connection's records, in memory that can be kept, moved and taken up again by another process.
///
/// A value is a view of ``byteCount`` bytes that somebody else owns. The bytes hold **keys**: who has read them can read
/// and forge what the connection carries. A reader finds a state that is safe to go on with at any instant:
/// a number is taken before a record is sealed with it, and a record is marked as received before its message is handed
/// on. So no nonce is used twice, and no record is taken twice, whenever the writer dies.
public struct RecordState {
    /// The size of a state. Its memory must be 8-byte aligned.
    public static let byteCount = 200
    /// The version of the layout that this program writes, and the only one that it reads.
    static let version: UInt8 = 2

    /// Where things are. What is not named here is zero.
    private enum Offset {
        /// ``nextNumber``; all zero in memory that holds no state.
        static let next = 0
        static let newest = 8
        /// Two words.
        static let window = 16
        static let version = 32
        static let role = 33
        static let algorithm = 34
        /// ``Flags``.
        static let flags = 35
        static let suite = 36
        static let contentLimit = 38
        static let noncePrefix = 40
        static let ownConnectionIDCount = 42
        static let peerConnectionIDCount = 43
        static let sendKey = 48
        static let receiveKey = 80
        static let sendNonce = 112
        static let receiveNonce = 124
        static let ownConnectionID = 136
        static let peerConnectionID = 168
    }

    private enum Flags {
        /// Both sides have agreed on connection IDs, which may be empty ones.
        static let connectionIDs: UInt8 = 1
        /// Both sides have agreed on return routability checks (RFC 9853).
        static let returnRoutability: UInt8 = 2
    }

    let memory: UnsafeMutableRawPointer

    init(_ memory: UnsafeMutableRawPointer) { self.memory = memory }

    // MARK: Making and reading

    /// What is agreed on in a handshake and stays as it is.
    struct Terms {
        var isServer: Bool
        var algorithm: RecordAlgorithm
        /// The number of the cipher suite on the wire.
        var suite: UInt16
        /// The bytes of the largest message of a record.
        var contentLimit: Int
        /// What the explicit nonces of AES-GCM begin with; see ``nonce(_:)``.
        var noncePrefix: UInt16
        /// What was agreed on by RFC 9146; `nil` where nothing was.
        var connectionIDs: ConnectionIDs?
        /// Whether return routability checks were agreed on (RFC 9853).
        var checksReturnRoutability = false
    }

    /// One sender's part of the key block.
    struct Keys {
        var key: UnsafeRawBufferPointer
        var nonce: UnsafeRawBufferPointer
    }

    /// Writes a state of which nothing has been received.
    /// - Parameter nextNumber: of epoch 1.
    static func write(
        _ terms: Terms, send: Keys, receive: Keys, nextNumber: UInt64,
        to memory: UnsafeMutableRawPointer
    ) {
        memory.initializeMemory(as: UInt8.self, repeating: 0, count: byteCount)
        memory.storeBytes(of: version, toByteOffset: Offset.version, as: UInt8.self)
        memory.storeBytes(of: terms.isServer ? 1 : 0, toByteOffset: Offset.role, as: UInt8.self)
        memory.storeBytes(of: terms.algorithm.rawValue, toByteOffset: Offset.algorithm, as: UInt8.self)
        memory.storeBytes(of: terms.suite, toByteOffset: Offset.suite, as: UInt16.self)
        memory.storeBytes(
            of: UInt16(clamping: terms.contentLimit), toByteOffset: Offset.contentLimit, as: UInt16.self)
        memory.storeBytes(of: terms.noncePrefix, toByteOffset: Offset.noncePrefix, as: UInt16.self)
        for (bytes, offset) in [
            (send.key, Offset.sendKey), (receive.key, Offset.receiveKey), (send.nonce, Offset.sendNonce),
            (receive.nonce, Offset.receiveNonce),
        ] {
            UnsafeMutableRawBufferPointer(start: memory + offset, count: bytes.count).copyBytes(from: bytes)
        }
        if let ids = terms.connectionIDs {
            let flags = Flags.connectionIDs | (terms.checksReturnRoutability ? Flags.returnRoutability : 0)
            memory.storeBytes(of: flags, toByteOffset: Offset.flags, as: UInt8.self)
            for (id, count, offset) in [
                (ids.own, Offset.ownConnectionIDCount, Offset.ownConnectionID),
                (ids.peer, Offset.peerConnectionIDCount, Offset.peerConnectionID),
            ] {
                memory.storeBytes(of: UInt8(clamping: id.count), toByteOffset: count, as: UInt8.self)
                id.withUnsafeBytes {
                    UnsafeMutableRawBufferPointer(start: memory + offset, count: $0.count).copyBytes(from: $0)
                }
            }
        }
        SharedWord.store(firstNumber - 1, memory + Offset.newest)
        SharedWord.store(nextNumber, memory + Offset.next)
    }

    /// Why bytes are no state that this program can go on with; `nil` where they are one.
    ///
    /// Any bytes may be asked about.
    static func fault(of memory: UnsafeRawPointer) -> InvalidRecordState? {
        let found = memory.load(fromByteOffset: Offset.version, as: UInt8.self)
        guard found == version else {
            return InvalidRecordState(
                "the state of its records has version \(found), and this program knows version \(version)")
        }
        let limit = memory.load(fromByteOffset: Offset.contentLimit, as: UInt16.self)
        guard memory.load(fromByteOffset: Offset.role, as: UInt8.self) <= 1,
            RecordAlgorithm(rawValue: memory.load(fromByteOffset: Offset.algorithm, as: UInt8.self)) != nil,
            (1...Engine.maximumMessageSize).contains(Int(limit)), hasValidConnectionIDs(memory),
            SharedWord.load(memory + Offset.next) >> 48 >= 1, SharedWord.load(memory + Offset.newest) >> 48 <= 1
        else { return InvalidRecordState("the state of its records is damaged") }
        return nil
    }

    private static func hasValidConnectionIDs(_ memory: UnsafeRawPointer) -> Bool {
        let flags = memory.load(fromByteOffset: Offset.flags, as: UInt8.self)
        let own = Int(memory.load(fromByteOffset: Offset.ownConnectionIDCount, as: UInt8.self))
        let peer = Int(memory.load(fromByteOffset: Offset.peerConnectionIDCount, as: UInt8.self))
        if flags & Flags.connectionIDs == 0 { return flags == 0 && own == 0 && peer == 0 }
        return flags <= Flags.connectionIDs | Flags.returnRoutability
            && max(own, peer) <= ConnectionID.maximumCount
    }

    /// Why bytes are no state that this program can go on with; `nil` where they are one.
    package static func fault(of bytes: [UInt8]) -> InvalidRecordState? {
        guard bytes.count == byteCount else {
            return InvalidRecordState(
                "the state of its records has \(bytes.count) bytes, and should have \(byteCount)")
        }
        return withUnsafeTemporaryAllocation(byteCount: byteCount, alignment: 8) { copy in
            copy.copyBytes(from: bytes)
            guard let memory = copy.baseAddress else { return nil }
            defer { wipe(memory) }
            return fault(of: memory)
        }
    }

    /// Wipes a state, so that its keys are gone.
    static func wipe(_ memory: UnsafeMutableRawPointer) { OPENSSL_cleanse(memory, byteCount) }

    // MARK: Terms

    var isServer: Bool { memory.load(fromByteOffset: Offset.role, as: UInt8.self) == 1 }

    /// `nil` for bytes that are no state.
    @inline(__always)
    var algorithm: RecordAlgorithm? {
        RecordAlgorithm(rawValue: memory.load(fromByteOffset: Offset.algorithm, as: UInt8.self))
    }

    /// What was agreed on by RFC 9146; `nil` where nothing was.
    var connectionIDs: ConnectionIDs? {
        guard flags & Flags.connectionIDs != 0, let own = ConnectionID(ownConnectionID),
            let peer = ConnectionID(peerConnectionID)
        else { return nil }
        return ConnectionIDs(own: own, peer: peer)
    }

    /// The connection ID in the records that are received, of a state in memory; `nil` where there is none.
    package static func ownConnectionID(of memory: UnsafeMutableRawPointer) -> ConnectionID? {
        let bytes = RecordState(memory).ownConnectionID
        return bytes.isEmpty ? nil : ConnectionID(bytes)
    }

    /// Whether return routability checks were agreed on (RFC 9853).
    @inline(__always)
    var checksReturnRoutability: Bool { flags & Flags.returnRoutability != 0 }

    @inline(__always)
    private var flags: UInt8 { memory.load(fromByteOffset: Offset.flags, as: UInt8.self) }

    /// The bytes of the connection ID in the records that are received.
    @inline(__always)
    var ownConnectionID: UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(
            start: memory + Offset.ownConnectionID,
            count: Int(memory.load(fromByteOffset: Offset.ownConnectionIDCount, as: UInt8.self)))
    }

    /// The bytes of the connection ID in the records that are sent.
    @inline(__always)
    var peerConnectionID: UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(
            start: memory + Offset.peerConnectionID,
            count: Int(memory.load(fromByteOffset: Offset.peerConnectionIDCount, as: UInt8.self)))
    }

    @inline(__always)
    var contentLimit: Int { Int(memory.load(fromByteOffset: Offset.contentLimit, as: UInt16.self)) }

    /// What distinguishes the connection from all others: the beginning of a key that is random.
    @inline(__always)
    var identity: UInt64 { memory.load(fromByteOffset: Offset.sendKey, as: UInt64.self) }

    var sendKey: UnsafeRawPointer { UnsafeRawPointer(memory + Offset.sendKey) }
    var receiveKey: UnsafeRawPointer { UnsafeRawPointer(memory + Offset.receiveKey) }
    /// 4 bytes, or 12 for ChaCha20-Poly1305.
    var sendNonce: UnsafeRawPointer { UnsafeRawPointer(memory + Offset.sendNonce) }
    var receiveNonce: UnsafeRawPointer { UnsafeRawPointer(memory + Offset.receiveNonce) }

    /// The explicit nonce of the record with this number, for AES-GCM (RFC 5288, section 3: it must be unique, and need
    /// be nothing else).
    ///
    /// It is the record's number, as RFC 6347 and RFC 6655 have it for other suites, but for its first two bytes. OpenSSL
    /// has used nonces of its own with the same key for its Finished: it counts on from a random number of 64 bits. The
    /// prefix is one that those do not have, which is 1, the epoch, but for one handshake in 65,536.
    @inline(__always)
    func nonce(_ number: UInt64) -> UInt64 {
        UInt64(memory.load(fromByteOffset: Offset.noncePrefix, as: UInt16.self)) << 48
            | number & Record.sequenceNumberMask
    }

    // MARK: Numbers

    /// The first number of epoch 1, which is the only one whose records are protected by these keys.
    static let firstNumber: UInt64 = 1 << 48

    /// Epoch and number, as ``Record/number``, of the next record that is sent.
    @inline(__always)
    var nextNumber: UInt64 {
        get { SharedWord.load(memory + Offset.next) }
        nonmutating set { SharedWord.store(newValue, memory + Offset.next) }
    }

    /// The greatest number that was received; one less than the first one before any was.
    @inline(__always)
    var newestNumber: UInt64 { SharedWord.load(memory + Offset.newest) }

    /// Takes a number for a record, which nobody gets after this; `nil` where none is left.
    /// - Parameter isLast: whether the last one may be taken, which is kept for close_notify.
    @inline(__always)
    func takeNumber(isLast: Bool = false) -> UInt64? {
        let number = nextNumber
        let last = Self.firstNumber | Record.sequenceNumberMask
        guard number < last || isLast && number == last else { return nil }
        nextNumber = number + 1
        return number
    }

    // MARK: Replay window

    /// Whether a record of this number may be new (RFC 6347, section 4.1.2.6): of the epoch of these keys, and newer than
    /// all that were received, or among the last 64 numbers and missing.
    @inline(__always)
    func mayBeNew(_ number: UInt64) -> Bool {
        guard number >> 48 == 1 else { return false }
        let newest = newestNumber
        guard number <= newest else { return true }
        return newest - number < 64 && !isMarked(number)
    }

    /// Notes that an authentic record has been received, which ``mayBeNew(_:)``.
    ///
    /// The window is a ring of 128 bits, by the number modulo 128, of which the 64 up to the newest number are in use.
    /// So the bits ahead of it are cleared, and the new one is set, before they are in use, and the state is one to go
    /// on with after each store.
    /// - Parameter observe: called after each store, for tests.
    @inline(__always)
    func markReceived(_ number: UInt64, observe: () -> Void = {}) {
        var newest = newestNumber
        guard number > newest else {
            write(clearing: (0, 0), setting: number, observe)
            return
        }
        if number - newest > 64 {
            jump(to: number - 1, from: newest, observe)
            newest = number - 1
        }
        write(clearing: Self.bits(after: newest, upTo: number), setting: number, observe)
        SharedWord.store(number, memory + Offset.newest)
        observe()
    }

    /// Moves the window beyond all that is in it: past the 64 numbers that are in use, and then, when none of the bits
    /// in use is set, to wherever it shall be.
    private func jump(to number: UInt64, from newest: UInt64, _ observe: () -> Void) {
        write(clearing: Self.bits(after: newest, upTo: newest + 64), setting: nil, observe)
        SharedWord.store(newest + 64, memory + Offset.newest)
        observe()
        write(clearing: (.max, .max), setting: nil, observe)
        SharedWord.store(number, memory + Offset.newest)
        observe()
    }

    /// The bits of up to 64 numbers, as the two words of the window have them.
    @inline(__always)
    private static func bits(after newest: UInt64, upTo number: UInt64) -> (UInt64, UInt64) {
        let count = number - newest
        let bits: UInt64 = count < 64 ? (1 << count) - 1 : .max
        let shift = (newest + 1) & 63
        let (low, high) = (bits << shift, shift == 0 ? 0 : bits >> (64 - shift))
        return (newest + 1) & 64 == 0 ? (low, high) : (high, low)
    }

    @inline(__always)
    private func write(clearing cleared: (UInt64, UInt64), setting number: UInt64?, _ observe: () -> Void) {
        write(clearing: cleared.0, setting: number.flatMap { $0 & 64 == 0 ? $0 : nil }, ofWord: 0, observe)
        write(clearing: cleared.1, setting: number.flatMap { $0 & 64 != 0 ? $0 : nil }, ofWord: 1, observe)
    }

    @inline(__always)
    private func write(
        clearing cleared: UInt64, setting number: UInt64?, ofWord index: UInt64, _ observe: () -> Void
    ) {
        let word = memory + Offset.window + Int(index << 3)
        let former = SharedWord.load(word)
        let new = former & ~cleared | (number.map(Self.bit) ?? 0)
        guard new != former else { return }
        SharedWord.store(new, word)
        observe()
    }

    @inline(__always)
    private static func bit(_ number: UInt64) -> UInt64 { 1 << (number & 63) }

    @inline(__always)
    private func isMarked(_ number: UInt64) -> Bool {
        SharedWord.load(memory + Offset.window + Int(number >> 3 & 8)) & Self.bit(number) != 0
    }
}

/// The reason why bytes cannot be taken up as the state of a connection's records.
public struct InvalidRecordState: Error, Sendable, Equatable, CustomStringConvertible {
    public let description: String

    package init(_ description: String) { self.description = description }
}

extension RecordState {
    /// What a state says of a connection to those who look at it from outside. It may change meanwhile.
    package struct Summary {
        /// What was agreed on by RFC 9146; `nil` where nothing was.
        package let connectionIDs: ConnectionIDs?
        /// Whether return routability checks were agreed on (RFC 9853).
        package let checksReturnRoutability: Bool
        package let epoch: UInt16
        /// The records that were sent in this epoch.
        package let sent: UInt64
        /// The greatest number of a record that was received in this epoch; `nil` before the first.
        package let highestReceived: UInt64?

        /// - Parameter memory: of an established connection.
        package init(of memory: UnsafeMutableRawPointer) {
            let state = RecordState(memory)
            connectionIDs = state.connectionIDs
            checksReturnRoutability = state.checksReturnRoutability
            let next = state.nextNumber
            epoch = UInt16(truncatingIfNeeded: next >> 48)
            sent = next & Record.sequenceNumberMask
            let newest = state.newestNumber
            highestReceived = newest >= RecordState.firstNumber ? newest & Record.sequenceNumberMask : nil
        }
    }
}
