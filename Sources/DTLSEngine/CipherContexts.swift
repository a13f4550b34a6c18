import COpenSSL
import Glibc

/// The key schedules of the connections of one thread that were used last.
///
/// A schedule takes about a kilobyte, twice for each connection, and 0.3 µs to make again from the keys (AES-128-GCM,
/// OpenSSL 3.0). So there is a bounded number of them, and the one that makes room for another was not used for a while
/// (the clock algorithm).
///
/// Records go through OpenSSL's interface for its own record layer, OSSL_CIPHER_PARAM_AEAD_TLS1_AAD and EVP_Cipher, which works
/// where the record is. With 64 bytes and OpenSSL 3.0.19, sealing takes 363 ns in place of 456 with the calls for any
/// AEAD (AES-128-GCM), and 488 in place of 1,188 (ChaCha20-Poly1305). It is not the cheaper one everywhere: AES-CCM
/// takes 296 ns in place of 226 with the OpenSSL of Debian 13, and AES-256-GCM 154 in place of 147 with that of Debian
/// unstable. (Measured in C, in one pass, on a machine that had other work too.)
///
/// Records with a connection ID cannot take that way, which covers 13 bytes and no more. With AES-GCM they get their nonces
/// by the parameters that it is made of, ``NonceParameters``: with 64 bytes, AES-256-GCM and OpenSSL 3.0.19, a record is
/// sealed in 212 ns in place of 281, and opened in 203 in place of 287 (in C, the best of nine), since EVP_CipherInit_ex
/// asks a provider for sizes each time.
public final class CipherContexts {
    /// How many connections have key schedules where nothing else is said.
    public static let defaultCapacity = 512

    private struct Entry {
        /// ``RecordState/identity``, or 0 for nobody.
        var identity: UInt64 = 0
        /// An EVP_CIPHER_CTX that this entry owns, with what it was made for: the keys are another's where the
        /// identities differ.
        var send = Schedule()
        var receive = Schedule()
        /// Whether it was used since the hand of the clock passed.
        var wasUsed = false
    }

    private struct Schedule {
        var context: OpaquePointer?
        var identity: UInt64 = 0
        var algorithm: RecordAlgorithm?
        /// Whether it is for records with a connection ID; see ``CipherContexts/seal(_:_:_:_:hint:into:)``.
        var coversConnectionID = false
        /// The explicit nonce that AES-GCM will write next, or has been given already where a record has a connection ID;
        /// 0 where that is not known.
        var nextNonce: UInt64 = 0
        /// Whether a record with a connection ID gets its nonce by ``NonceParameters``.
        var takesNonces = false
    }

    private let capacity: Int
    private let entries: UnsafeMutablePointer<Entry>
    private var count = 0
    private var hand = 0
    private var places: [UInt64: Int] = [:]
    /// For records that are only checked, which must not push anybody out.
    private var spare = Schedule()
    /// For such records that have a connection ID.
    private var connectionIDSpare = Schedule()
    /// 16 bytes for what protection covers beside the content, 16 for a nonce, and 64 for what protection covers where
    /// there is a connection ID.
    private let scratch = UnsafeMutableRawPointer.allocate(byteCount: 96, alignment: 8)
    private let coverage: CoverageParameters
    private let tagParameters = TagParameters()
    private let nonceParameters = NonceParameters()

    init(capacity: Int) {
        self.capacity = max(capacity, 1)
        coverage = CoverageParameters(scratch)
        entries = .allocate(capacity: self.capacity)
    }

    deinit {
        for index in 0..<count {
            EVP_CIPHER_CTX_free(entries[index].send.context)
            EVP_CIPHER_CTX_free(entries[index].receive.context)
        }
        EVP_CIPHER_CTX_free(spare.context)
        EVP_CIPHER_CTX_free(connectionIDSpare.context)
        entries.deinitialize(count: count)
        entries.deallocate()
        scratch.deallocate()
    }

    /// How many connections have an entry.
    var connectionCount: Int { places.count }

    /// Wipes all key schedules, a megabyte where each connection has one: those in use are made again.
    public func releaseAll() {
        for identity in places.keys { forget(identity) }
    }

    // MARK: Entries

    /// The place of a connection's entry, which is made where there is none.
    /// - Parameter hint: the place that it had last.
    @inline(__always)
    private func place(of identity: UInt64, hint: inout Int32) -> Int {
        let last = Int(hint)
        if last < count, entries[last].identity == identity {
            entries[last].wasUsed = true
            return last
        }
        let place = findPlace(of: identity)
        hint = Int32(truncatingIfNeeded: place)
        return place
    }

    private func findPlace(of identity: UInt64) -> Int {
        let place = places[identity] ?? takePlace()
        if entries[place].identity != identity {
            places[identity] = place
            entries[place].identity = identity
        }
        entries[place].wasUsed = true
        return place
    }

    private func takePlace() -> Int {
        if count < capacity {
            (entries + count).initialize(to: Entry())
            count += 1
            return count - 1
        }
        while entries[hand].wasUsed {
            entries[hand].wasUsed = false
            hand = (hand + 1) % capacity
        }
        let place = hand
        hand = (hand + 1) % capacity
        if entries[place].identity != 0 { places[entries[place].identity] = nil }
        entries[place].identity = 0
        return place
    }

    /// Wipes the key schedules of a connection that has ended.
    func forget(_ identity: UInt64) {
        guard let place = places.removeValue(forKey: identity) else { return }
        EVP_CIPHER_CTX_free(entries[place].send.context)
        EVP_CIPHER_CTX_free(entries[place].receive.context)
        // Not used: it is the next one to be taken when the hand comes by.
        entries[place] = Entry()
    }

    // MARK: Schedules

    private enum Direction: Int32 {
        case open = 0
        case seal = 1
    }

    /// Makes a schedule the connection's own, if it is not.
    @inline(__always)
    private static func prepare(
        _ schedule: inout Schedule, _ direction: Direction, _ state: RecordState, isForOneRecord: Bool = false
    ) -> Bool {
        schedule.identity == state.identity && schedule.context != nil
            || key(&schedule, direction, state, isForOneRecord: isForOneRecord)
    }

    /// - Parameter isForOneRecord: whether another connection's record is likely to be the next one, so that nothing is
    ///   prepared for more.
    private static func key(
        _ schedule: inout Schedule, _ direction: Direction, _ state: RecordState, isForOneRecord: Bool
    ) -> Bool {
        schedule.identity = 0
        schedule.nextNonce = 0
        schedule.takesNonces = false
        guard let algorithm = state.algorithm, let cipher = algorithm.cipher else { return false }
        if schedule.context == nil { schedule.context = EVP_CIPHER_CTX_new() }
        guard let context = schedule.context else { return false }
        let coversConnectionID = !(direction == .seal ? state.peerConnectionID : state.ownConnectionID).isEmpty
        if schedule.coversConnectionID != coversConnectionID {
            // The two ways to cover records are not to be mixed in one context.
            EVP_CIPHER_CTX_reset(context)
            schedule.algorithm = nil
            schedule.coversConnectionID = coversConnectionID
        }
        if schedule.algorithm != algorithm {
            schedule.algorithm = nil
            guard EVP_CipherInit_ex(context, cipher, nil, nil, nil, direction.rawValue) == 1 else { return false }
            // CCM has to know these sizes before it gets the key (EVP_EncryptInit(3)).
            if algorithm.mode == .ccm {
                guard EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_IVLEN, 12, nil) > 0,
                    EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, Int32(algorithm.tagSize), nil) > 0
                else { return false }
            }
            schedule.algorithm = algorithm
        }
        let key = direction == .seal ? state.sendKey : state.receiveKey
        let nonce = UnsafeMutableRawPointer(mutating: direction == .seal ? state.sendNonce : state.receiveNonce)
        let bytes = key.assumingMemoryBound(to: UInt8.self)
        guard EVP_CipherInit_ex(context, nil, nil, bytes, nil, direction.rawValue) == 1 else { return false }
        let takesNonces = !coversConnectionID || !isForOneRecord && NonceParameters.areKnown(to: algorithm)
        if takesNonces {
            guard EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_IV_FIXED, Int32(algorithm.fixedNonceSize), nonce) > 0
            else { return false }
        }
        schedule.takesNonces = takesNonces
        schedule.identity = state.identity
        return true
    }

    /// Tells a schedule what protection covers beside the content: number, type, version and length (RFC 5246, section
    /// 6.2.3.3). The version is that of DTLS 1.2 whatever an alert's header says, as OpenSSL has it (tls1_enc).
    @inline(__always)
    private func cover(_ number: UInt64, _ type: ContentType, length: Int, _ context: OpaquePointer) -> Bool {
        scratch.storeBytes(of: number.bigEndian, as: UInt64.self)
        scratch.storeBytes(of: type.rawValue, toByteOffset: 8, as: UInt8.self)
        scratch.storeBytes(of: ProtocolVersion.dtls12.rawValue.bigEndian, toByteOffset: 9, as: UInt16.self)
        scratch.storeBytes(of: UInt16(truncatingIfNeeded: length).bigEndian, toByteOffset: 11, as: UInt16.self)
        return EVP_CIPHER_CTX_set_params(context, coverage.list) == 1
    }

    // MARK: Records with a connection ID

    /// Bytes that a record with a connection ID has more than one without: the ID, and the type behind the content (RFC
    /// 9146, section 4).
    @inline(__always)
    static func connectionIDOverhead(_ id: UnsafeRawBufferPointer) -> Int { id.isEmpty ? 0 : id.count + 1 }

    /// Writes to the scratch what protection covers beside the content where there is a connection ID (RFC 9146, section
    /// 5.3).
    /// - Returns: the number of bytes.
    @inline(__always)
    private func coverConnectionID(_ id: UnsafeRawBufferPointer, _ number: UInt64, length: Int) -> Int {
        let bytes = scratch + 32
        let type = ContentType.connectionID.rawValue
        bytes.storeBytes(of: UInt64.max, as: UInt64.self)
        bytes.storeBytes(of: type, toByteOffset: 8, as: UInt8.self)
        bytes.storeBytes(of: UInt8(truncatingIfNeeded: id.count), toByteOffset: 9, as: UInt8.self)
        bytes.storeBytes(of: type, toByteOffset: 10, as: UInt8.self)
        bytes.storeBytes(of: ProtocolVersion.dtls12.rawValue.bigEndian, toByteOffset: 11, as: UInt16.self)
        bytes.storeBytes(of: number.bigEndian, toByteOffset: 13, as: UInt64.self)
        if let source = id.baseAddress { (bytes + 21).copyMemory(from: source, byteCount: id.count) }
        bytes.storeBytes(
            of: UInt16(truncatingIfNeeded: length).bigEndian, toByteOffset: 21 + id.count, as: UInt16.self)
        return 23 + id.count
    }

    /// Gives a context what protection covers beside the content: the coverage in the scratch.
    @inline(__always)
    private func cover(_ count: Int, _ context: OpaquePointer) -> Bool {
        var written: Int32 = 0
        let covered = (scratch + 32).assumingMemoryBound(to: UInt8.self)
        return EVP_CipherUpdate(context, nil, &written, covered, Int32(truncatingIfNeeded: count)) == 1
    }

    /// Gives a context the nonce of a record, whose content is `length` bytes.
    @inline(__always)
    private func setNonce(
        _ context: OpaquePointer, _ algorithm: RecordAlgorithm, fixed: UnsafeRawPointer, explicit: UInt64, length: Int
    ) -> Bool {
        let nonce = scratch + 16
        if algorithm.mode == .chacha20Poly1305 {
            // RFC 7905, section 2: the number, padded on the left, is XORed with what comes from the key block.
            nonce.copyMemory(from: fixed, byteCount: 12)
            let word = nonce.loadUnaligned(fromByteOffset: 4, as: UInt64.self) ^ explicit.bigEndian
            nonce.storeBytes(of: word, toByteOffset: 4, as: UInt64.self)
        } else {
            nonce.copyMemory(from: fixed, byteCount: 4)
            nonce.storeBytes(of: explicit.bigEndian, toByteOffset: 4, as: UInt64.self)
        }
        var count: Int32 = 0
        return EVP_CipherInit_ex(context, nil, nil, nil, nonce.assumingMemoryBound(to: UInt8.self), -1) == 1
            && (algorithm.mode != .ccm
                || EVP_CipherUpdate(context, nil, &count, nil, Int32(truncatingIfNeeded: length)) == 1)
    }

    /// Has a schedule of AES-GCM go on with this explicit nonce, if it does not already, and make the ones that follow by
    /// itself.
    @inline(__always)
    private func advance(_ schedule: inout Schedule, to explicit: UInt64, _ state: RecordState) -> Bool {
        if schedule.nextNonce == explicit, explicit != 0 { return true }
        schedule.nextNonce = 0
        guard let context = schedule.context, setNonce(explicit, state, context),
            EVP_CIPHER_CTX_get_params(context, nonceParameters.generator) == 1, nonceParameters.generated == explicit
        else { return false }
        schedule.nextNonce = explicit
        return true
    }

    private func sealWithConnectionID(
        _ content: UnsafeRawBufferPointer, _ type: ContentType, _ number: UInt64, _ state: RecordState,
        _ schedule: inout Schedule, _ algorithm: RecordAlgorithm, into record: UnsafeMutableRawBufferPointer
    ) -> Bool {
        guard let context = schedule.context else { return false }
        let id = state.peerConnectionID
        let size = content.count + 1
        let length = algorithm.overhead + size
        guard let start = record.baseAddress, record.count == Record.headerSize + id.count + length else {
            return false
        }
        Self.writeHeader(.connectionID, number, to: start)
        if let source = id.baseAddress {
            (start + ConnectionID.offsetInRecord).copyMemory(from: source, byteCount: id.count)
        }
        start.storeBytes(
            of: UInt16(truncatingIfNeeded: length).bigEndian, toByteOffset: ConnectionID.offsetInRecord + id.count,
            as: UInt16.self)
        let fragment = start + Record.headerSize + id.count
        // AES-CCM's explicit nonce is the number (RFC 6655, section 3); ChaCha20-Poly1305 has none in the record.
        let explicit = algorithm.mode == .gcm ? state.nonce(number) : number
        if algorithm.explicitNonceSize > 0 { fragment.storeBytes(of: explicit.bigEndian, as: UInt64.self) }
        let text = fragment + algorithm.explicitNonceSize
        if let source = content.baseAddress { text.copyMemory(from: source, byteCount: content.count) }
        text.storeBytes(of: type.rawValue, toByteOffset: content.count, as: UInt8.self)
        let bytes = text.assumingMemoryBound(to: UInt8.self)
        var count: Int32 = 0
        guard
            schedule.takesNonces
                ? advance(&schedule, to: explicit, state)
                : setNonce(context, algorithm, fixed: state.sendNonce, explicit: explicit, length: size)
        else { return false }
        // The nonce is used from here on, whatever happens.
        schedule.nextNonce = 0
        guard cover(coverConnectionID(id, number, length: size), context),
            EVP_CipherUpdate(context, bytes, &count, bytes, Int32(truncatingIfNeeded: size)) == 1, count == size,
            algorithm.mode == .ccm || EVP_CipherFinal_ex(context, bytes + size, &count) == 1
        else { return false }
        guard schedule.takesNonces else {
            return EVP_CIPHER_CTX_get_params(context, tagParameters.list(text + size, algorithm.tagSize)) == 1
        }
        guard EVP_CIPHER_CTX_get_params(context, nonceParameters.listOfTag(text + size)) == 1 else { return false }
        schedule.nextNonce = nonceParameters.generated
        return true
    }

    private func openWithConnectionID(
        _ record: Record, _ state: RecordState, _ context: OpaquePointer, _ algorithm: RecordAlgorithm,
        takesNonces: Bool, in buffer: UnsafeMutableRawBufferPointer
    ) -> UnsafeRawBufferPointer? {
        let id = state.ownConnectionID
        let fragment = record.fragment
        let size = fragment.count - algorithm.overhead
        guard size > 0, size <= buffer.count, let source = fragment.baseAddress,
            let target = buffer.baseAddress?.assumingMemoryBound(to: UInt8.self)
        else { return nil }
        let text = (source + algorithm.explicitNonceSize).assumingMemoryBound(to: UInt8.self)
        // CCM takes the tag before the ciphertext only.
        let tag = UnsafeMutableRawPointer(mutating: text + size)
        var count: Int32 = 0
        let hasNonce: Bool
        if takesNonces {
            hasNonce = EVP_CIPHER_CTX_set_params(context, nonceParameters.list(explicit: source, tag: tag)) == 1
        } else {
            let explicit =
                algorithm.explicitNonceSize > 0
                ? fragment.loadUnaligned(as: UInt64.self).bigEndian : record.number
            hasNonce =
                EVP_CIPHER_CTX_set_params(context, tagParameters.list(tag, algorithm.tagSize)) == 1
                && setNonce(context, algorithm, fixed: state.receiveNonce, explicit: explicit, length: size)
        }
        guard hasNonce, cover(coverConnectionID(id, record.number, length: size), context),
            EVP_CipherUpdate(context, target, &count, text, Int32(truncatingIfNeeded: size)) == 1, count == size,
            algorithm.mode == .ccm || EVP_CipherFinal_ex(context, target + size, &count) == 1
        else {
            OpenSSLError.clear()
            return nil
        }
        return UnsafeRawBufferPointer(start: target, count: size)
    }

    @inline(__always)
    private static func writeHeader(_ type: ContentType, _ number: UInt64, to start: UnsafeMutableRawPointer) {
        start.storeBytes(of: type.rawValue, as: UInt8.self)
        start.storeBytes(of: ProtocolVersion.dtls12.rawValue.bigEndian, toByteOffset: 1, as: UInt16.self)
        start.storeBytes(of: number.bigEndian, toByteOffset: 3, as: UInt64.self)
    }

    // MARK: Records

    /// Writes a protected record. Where the peer has a connection ID that is not empty, the record is one with it, and
    /// protected by the calls for any AEAD: what OpenSSL's interface for its own record layer covers is another thing.
    /// - Parameters:
    ///   - number: taken from the state, for this record alone.
    ///   - record: header, overhead and content have room in it, with the ``connectionIDOverhead(_:)`` of the peer's
    ///     connection ID, and nothing else has.
    ///   - hint: what the last call for this connection has left in it; 0 at first.
    /// - Returns: false when OpenSSL has failed, for lack of memory.
    @inline(__always)
    func seal(
        _ content: UnsafeRawBufferPointer, _ type: ContentType, _ number: UInt64, _ state: RecordState,
        hint: inout Int32, into record: UnsafeMutableRawBufferPointer
    ) -> Bool {
        guard let algorithm = state.algorithm, let start = record.baseAddress else { return false }
        let length = algorithm.overhead + content.count
        let place = place(of: state.identity, hint: &hint)
        guard Self.prepare(&entries[place].send, .seal, state), let context = entries[place].send.context else {
            return false
        }
        if !state.peerConnectionID.isEmpty {
            return sealWithConnectionID(content, type, number, state, &entries[place].send, algorithm, into: record)
        }
        guard record.count == Record.headerSize + length else { return false }
        Self.writeHeader(type, number, to: start)
        start.storeBytes(of: UInt16(truncatingIfNeeded: length).bigEndian, toByteOffset: 11, as: UInt16.self)
        let fragment = start + Record.headerSize
        if let source = content.baseAddress {
            (fragment + algorithm.explicitNonceSize).copyMemory(from: source, byteCount: content.count)
        }
        let nonce = state.nonce(number)
        // OpenSSL counts its explicit nonces itself, as these are counted: it is told one only where it has another.
        if algorithm.mode == .gcm, entries[place].send.nextNonce != nonce {
            guard setNonce(nonce, state, context) else { return false }
        }
        guard cover(number, type, length: algorithm.explicitNonceSize + content.count, context),
            EVP_Cipher(context, fragment, fragment, UInt32(truncatingIfNeeded: length))
                == Int32(truncatingIfNeeded: length)
        else {
            entries[place].send.nextNonce = 0
            return false
        }
        guard algorithm.mode == .gcm else { return true }
        entries[place].send.nextNonce = nonce &+ 1
        return fragment.loadUnaligned(as: UInt64.self).bigEndian == nonce
    }

    /// Sets the whole nonce of AES-GCM for the next record (EVP_CTRL_GCM_SET_IV_FIXED with the size -1).
    private func setNonce(_ nonce: UInt64, _ state: RecordState, _ context: OpaquePointer) -> Bool {
        let bytes = scratch + 16
        bytes.copyMemory(from: state.sendNonce, byteCount: 4)
        bytes.storeBytes(of: nonce.bigEndian, toByteOffset: 4, as: UInt64.self)
        return EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_IV_FIXED, -1, bytes) > 0
    }

    /// Decrypts a whole record, if its tag is right.
    /// - Parameters:
    ///   - record: where this side has a connection ID that is not empty, one with that ID.
    ///   - buffer: as large as the record's fragment, at least.
    /// - Returns: the content, in the buffer, and behind it type and padding where there is a connection ID (RFC 9146,
    ///   section 4); `nil` for a record that is not authentic.
    @inline(__always)
    func open(
        _ record: Record, _ state: RecordState, hint: inout Int32, in buffer: UnsafeMutableRawBufferPointer
    ) -> UnsafeRawBufferPointer? {
        let place = place(of: state.identity, hint: &hint)
        return open(record, state, &entries[place].receive, in: buffer)
    }

    /// Decrypts a record of a connection that has no engine, and takes no entry for it: a flood of forgeries for many
    /// connections would push out those that are in use.
    func openOnce(
        _ record: Record, _ state: RecordState, in buffer: UnsafeMutableRawBufferPointer
    ) -> UnsafeRawBufferPointer? {
        state.ownConnectionID.isEmpty
            ? open(record, state, &spare, in: buffer)
            : open(record, state, &connectionIDSpare, isForOneRecord: true, in: buffer)
    }

    @inline(__always)
    private func open(
        _ record: Record, _ state: RecordState, _ schedule: inout Schedule, isForOneRecord: Bool = false,
        in buffer: UnsafeMutableRawBufferPointer
    ) -> UnsafeRawBufferPointer? {
        guard let algorithm = state.algorithm,
            Self.prepare(&schedule, .open, state, isForOneRecord: isForOneRecord), let context = schedule.context,
            let start = buffer.baseAddress, let source = record.fragment.baseAddress
        else { return nil }
        let length = record.length
        guard record.isComplete, length >= algorithm.overhead, length <= buffer.count else { return nil }
        if !state.ownConnectionID.isEmpty {
            return openWithConnectionID(
                record, state, context, algorithm, takesNonces: schedule.takesNonces, in: buffer)
        }
        start.copyMemory(from: source, byteCount: length)
        let size = length - algorithm.overhead
        // It answers -1 for a wrong tag; else the bytes of the content, or of the whole fragment, by the algorithm.
        guard cover(record.number, record.contentType, length: length, context),
            EVP_Cipher(context, start, start, UInt32(truncatingIfNeeded: length)) >= 0
        else {
            OpenSSLError.clear()
            return nil
        }
        return UnsafeRawBufferPointer(start: start + algorithm.explicitNonceSize, count: size)
    }
}

/// The list of parameters by which a tag is asked for or told (OSSL_CIPHER_PARAM_AEAD_TAG; provider-cipher(7)).
private final class TagParameters {
    private let parameters = UnsafeMutablePointer<OSSL_PARAM>.allocate(capacity: 2)
    private let name = strdup(OSSL_CIPHER_PARAM_AEAD_TAG)

    init() {
        parameters.initialize(to: OSSL_PARAM_construct_octet_string(name, nil, 0))
        (parameters + 1).initialize(to: OSSL_PARAM_construct_end())
    }

    deinit {
        parameters.deallocate()
        free(name)
    }

    /// The list for a tag that is at `bytes`, or is to be written there, until the next call.
    @inline(__always)
    func list(_ bytes: UnsafeMutableRawPointer, _ count: Int) -> UnsafeMutablePointer<OSSL_PARAM> {
        parameters.pointee.data = bytes
        parameters.pointee.data_size = count
        return parameters
    }
}

/// The list of parameters by which a schedule is told what protection covers beside the content: 13 bytes that are
/// always at the same place (OSSL_CIPHER_PARAM_AEAD_TLS1_AAD; provider-cipher(7)).
///
/// EVP_CTRL_AEAD_TLS1_AAD makes such a list each time, and then asks for the size of the tag by another one: 130 ns with
/// OpenSSL 3.0, mostly comparisons of names.
private final class CoverageParameters {
    let list = UnsafeMutablePointer<OSSL_PARAM>.allocate(capacity: 2)
    private let name = strdup(OSSL_CIPHER_PARAM_AEAD_TLS1_AAD)

    /// - Parameter bytes: must live as long as this.
    init(_ bytes: UnsafeMutableRawPointer) {
        list.initialize(to: OSSL_PARAM_construct_octet_string(name, bytes, 13))
        (list + 1).initialize(to: OSSL_PARAM_construct_end())
    }

    deinit {
        list.deallocate()
        free(name)
    }
}

/// The parameters by which AES-GCM is given the nonces of records without EVP_CipherInit_ex, as OpenSSL's own record layer
/// does it: the invocation field of the next one that it opens (OSSL_CIPHER_PARAM_AEAD_TLS1_SET_IV_INV), and the next one
/// that it makes, one more than the last, and seals with (OSSL_CIPHER_PARAM_AEAD_TLS1_GET_IV_GEN; provider-cipher(7)).
private final class NonceParameters {
    /// Each of three entries, with an end.
    private let opening = UnsafeMutablePointer<OSSL_PARAM>.allocate(capacity: 3)
    private let sealing = UnsafeMutablePointer<OSSL_PARAM>.allocate(capacity: 3)
    private let names = [
        strdup(OSSL_CIPHER_PARAM_AEAD_TLS1_SET_IV_INV), strdup(OSSL_CIPHER_PARAM_AEAD_TLS1_GET_IV_GEN),
        strdup(OSSL_CIPHER_PARAM_AEAD_TAG),
    ]
    private let nonce = UnsafeMutableRawPointer.allocate(byteCount: 8, alignment: 8)

    init() {
        nonce.storeBytes(of: 0, as: UInt64.self)
        let tagSize = RecordAlgorithm.aes128GCM.tagSize
        opening.initialize(to: OSSL_PARAM_construct_octet_string(names[0], nil, 8))
        (opening + 1).initialize(to: OSSL_PARAM_construct_octet_string(names[2], nil, tagSize))
        (opening + 2).initialize(to: OSSL_PARAM_construct_end())
        sealing.initialize(to: OSSL_PARAM_construct_octet_string(names[2], nil, tagSize))
        (sealing + 1).initialize(to: OSSL_PARAM_construct_octet_string(names[1], nonce, 8))
        (sealing + 2).initialize(to: OSSL_PARAM_construct_end())
    }

    deinit {
        opening.deallocate()
        sealing.deallocate()
        nonce.deallocate()
        for name in names { free(name) }
    }

    /// Tells the nonce and the tag of a record that is to be opened, which are where it is.
    @inline(__always)
    func list(explicit: UnsafeRawPointer, tag: UnsafeMutableRawPointer) -> UnsafeMutablePointer<OSSL_PARAM> {
        opening.pointee.data = UnsafeMutableRawPointer(mutating: explicit)
        (opening + 1).pointee.data = tag
        return opening
    }

    /// Has the next nonce made, which ``generated`` tells.
    @inline(__always)
    var generator: UnsafeMutablePointer<OSSL_PARAM> {
        nonce.storeBytes(of: 0, as: UInt64.self)
        return sealing + 1
    }

    /// Asks for the tag of a record that has been sealed, and has the next nonce made.
    @inline(__always)
    func listOfTag(_ tag: UnsafeMutableRawPointer) -> UnsafeMutablePointer<OSSL_PARAM> {
        nonce.storeBytes(of: 0, as: UInt64.self)
        sealing.pointee.data = tag
        return sealing
    }

    /// The explicit nonce that has been made; 0 where none was.
    @inline(__always)
    var generated: UInt64 { nonce.load(as: UInt64.self).bigEndian }

    /// Whether an algorithm of this OpenSSL understands them.
    static func areKnown(to algorithm: RecordAlgorithm) -> Bool {
        switch algorithm {
        case .aes128GCM: isKnownToAES128GCM
        case .aes256GCM: isKnownToAES256GCM
        default: false
        }
    }

    private static let isKnownToAES128GCM = isKnown(to: .aes128GCM)
    private static let isKnownToAES256GCM = isKnown(to: .aes256GCM)

    private static func isKnown(to algorithm: RecordAlgorithm) -> Bool {
        guard let cipher = algorithm.cipher, let settable = EVP_CIPHER_settable_ctx_params(cipher),
            let gettable = EVP_CIPHER_gettable_ctx_params(cipher)
        else { return false }
        return OSSL_PARAM_locate_const(settable, OSSL_CIPHER_PARAM_AEAD_TLS1_IV_FIXED) != nil
            && OSSL_PARAM_locate_const(settable, OSSL_CIPHER_PARAM_AEAD_TLS1_SET_IV_INV) != nil
            && OSSL_PARAM_locate_const(gettable, OSSL_CIPHER_PARAM_AEAD_TLS1_GET_IV_GEN) != nil
    }
}
