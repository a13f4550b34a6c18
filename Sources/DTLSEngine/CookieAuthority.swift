import COpenSSL
import Primitives

/// Makes and checks the cookies of the stateless exchange (RFC 6347, section 4.2.1): nothing is kept per peer.
///
/// A cookie is 19 bytes: the low byte of the minute whose key made it, the millisecond of that minute in two bytes, and 16
/// bytes of ``MAC`` over these three, the peer's and the local address, and the ClientHello without its cookie and
/// extensions. The key comes from the secret and the minute, so processes and machines with one secret, one MAC and roughly
/// one clock know each other's cookies. This minute's and the last minute's are valid: a cookie lives for one to two
/// minutes. The millisecond says how long the client took to bring it (``VerifiedHello/roundTrip``).
///
/// Addresses are any bytes that name them (address and port), always written the same way by the caller.
/// Not thread-safe. Nothing is allocated for a client before its cookie is verified, except inside OpenSSL.
public final class CookieAuthority {
    /// What authenticates a cookie.
    public enum MAC: Sendable {
        /// SipHash-2-4 with 128 bits. It takes a quarter of the time of the other one.
        case sipHash
        /// The first 128 bits of HMAC-SHA256, which builds of OpenSSL have that are bound to FIPS 140.
        case hmacSHA256
    }

    /// Bytes of a cookie.
    public static let cookieSize = timeSize + macSize
    /// Bytes of when it was made, with which it begins.
    private static let timeSize = 3
    private static let macSize = 16
    /// Bytes of a HelloVerifyRequest's datagram. The smallest valid ClientHello has 67.
    public static let helloVerifyRequestSize =
        Record.headerSize + HandshakeFragment.headerSize + helloVerifyRequestBodySize

    /// server_version, the length of the cookie, and the cookie (RFC 6347, section 4.2.1).
    private static let helloVerifyRequestBodySize = 3 + cookieSize
    /// The fewest bytes that a secret may have.
    public static let minimumSecretSize = 16

    /// Derives the minutes' keys from the secret.
    private var derivation: KeyedHash
    // This minute's key and the last one's: one number is even, the other odd.
    private var even: MinuteKey
    private var odd: MinuteKey

    /// What this one's cookies are made with.
    public let mac: MAC

    /// Makes cookies with ``MAC/sipHash``, or with ``MAC/hmacSHA256`` where OpenSSL has no SipHash.
    /// - Parameter secret: at least ``minimumSecretSize`` bytes from a random source.
    /// - Throws: when the secret is too short, or OpenSSL has no HMAC-SHA256.
    public convenience init(secret: [UInt8]) throws(CookieError) {
        try self.init(secret: secret, mac: KeyedHash.isAvailable(.sipHash) ? .sipHash : .hmacSHA256)
    }

    /// Makes cookies with this MAC.
    /// - Parameter secret: at least ``minimumSecretSize`` bytes from a random source.
    /// - Throws: when the secret is too short, or OpenSSL does not have the MAC, or no HMAC-SHA256.
    public init(secret: [UInt8], mac: MAC) throws(CookieError) {
        guard secret.count >= Self.minimumSecretSize else { throw .secretTooShort(secret.count) }
        self.mac = mac
        derivation = try KeyedHash(.hmacSHA256)
        even = MinuteKey(hash: try KeyedHash(mac))
        odd = MinuteKey(hash: try KeyedHash(mac))
        guard secret.withUnsafeBytes({ derivation.setKey($0) }) else { throw .openSSL(OpenSSLError.drain()) }
    }

    /// The proof that the hello's cookie was made for this hello, between these two addresses, in `minute` or the one
    /// before; `nil` for every other cookie, and for none. The time that it takes says nothing about how much of a
    /// cookie is right.
    public func verify(
        _ hello: ClientHello, peer: UnsafeRawBufferPointer, local: UnsafeRawBufferPointer, minute: Minute
    ) -> VerifiedHello? {
        isValid(hello, peer: peer, local: local, minute: minute) ? VerifiedHello(hello, minute: minute) : nil
    }

    private func isValid(
        _ hello: ClientHello, peer: UnsafeRawBufferPointer, local: UnsafeRawBufferPointer, minute: Minute
    ) -> Bool {
        let cookie = hello.cookie
        guard let made = Self.timeOf(cookie, now: minute) else { return false }
        return withUnsafeTemporaryAllocation(byteCount: Self.cookieSize, alignment: 1) { expected in
            write(to: expected, for: hello, peer: peer, local: local, minute: made)
                && CRYPTO_memcmp(expected.baseAddress, cookie.baseAddress, Self.cookieSize) == 0
        }
    }

    /// When a cookie was made, as it says; `nil` where it is not of this minute or the last one.
    fileprivate static func timeOf(_ cookie: UnsafeRawBufferPointer, now: Minute) -> Minute? {
        guard cookie.count == cookieSize else { return nil }
        // Modulo 256, so that it also holds where the byte wraps.
        let age = UInt64(UInt8(truncatingIfNeeded: now.number) &- cookie[0])
        guard age <= 1, age <= now.number else { return nil }
        return Minute(number: now.number - age, milliseconds: UInt16(cookie[1]) << 8 | UInt16(cookie[2]))
    }

    /// Writes the datagram that asks the client to come back with a cookie.
    /// - Parameter minute: the number of the current minute, by a clock that all processes with this secret share.
    /// - Returns: the datagram's length, never more than that of the hello's datagram; or 0 where nothing is to be
    ///   sent, because `buffer` has fewer than ``helloVerifyRequestSize`` bytes or OpenSSL failed.
    public func writeHelloVerifyRequest(
        answering hello: ClientHello, peer: UnsafeRawBufferPointer, local: UnsafeRawBufferPointer, minute: Minute,
        into buffer: UnsafeMutableRawBufferPointer
    ) -> Int {
        let size = Self.helloVerifyRequestSize
        guard buffer.count >= size, size <= hello.datagram.count else { return 0 }
        // Record and message say DTLS 1.0 whatever the client offered (RFC 6347, section 4.2.1). message_seq is 0 at
        // first. A client that is asked once more in one handshake, since its cookie has become too old, goes on
        // counting and waits for the next number (RFC 6347, section 4.2.2).
        Record.writeHeader(
            .handshake, version: ProtocolVersion.dtls10.rawValue, sequenceNumber: hello.recordSequence,
            length: size - Record.headerSize, to: buffer)
        HandshakeFragment.writeHeader(
            .helloVerifyRequest, messageSequence: hello.messageSequence,
            messageLength: Self.helloVerifyRequestBodySize, fragmentLength: Self.helloVerifyRequestBodySize,
            to: UnsafeMutableRawBufferPointer(rebasing: buffer[Record.headerSize...]))
        let body = UnsafeMutableRawBufferPointer(rebasing: buffer[(size - Self.helloVerifyRequestBodySize)..<size])
        body.storeBytes(of: ProtocolVersion.dtls10.rawValue.bigEndian, as: UInt16.self)
        body[2] = UInt8(Self.cookieSize)
        let cookie = UnsafeMutableRawBufferPointer(rebasing: body[3...])
        return write(to: cookie, for: hello, peer: peer, local: local, minute: minute) ? size : 0
    }

    /// Writes the bytes of a cookie.
    private func write(
        to cookie: UnsafeMutableRawBufferPointer, for hello: ClientHello,
        peer: UnsafeRawBufferPointer, local: UnsafeRawBufferPointer, minute: Minute
    ) -> Bool {
        let isWritten =
            if minute.number.isMultiple(of: 2) {
                even.setMinute(minute, from: derivation)
                    && Self.write(to: cookie, for: hello, peer: peer, local: local, minute: minute, with: even.hash)
            } else {
                odd.setMinute(minute, from: derivation)
                    && Self.write(to: cookie, for: hello, peer: peer, local: local, minute: minute, with: odd.hash)
            }
        if !isWritten { ERR_clear_error() }
        return isWritten
    }

    private static func write(
        to cookie: UnsafeMutableRawBufferPointer, for hello: ClientHello,
        peer: UnsafeRawBufferPointer, local: UnsafeRawBufferPointer, minute: Minute, with key: borrowing KeyedHash
    ) -> Bool {
        cookie[0] = UInt8(truncatingIfNeeded: minute.number)
        cookie[1] = UInt8(truncatingIfNeeded: minute.milliseconds >> 8)
        cookie[2] = UInt8(truncatingIfNeeded: minute.milliseconds)
        return withUnsafeTemporaryAllocation(byteCount: KeyedHash.largestSize, alignment: 8) { digest in
            // Each field goes in with its length, the hello's fields with those that are in it, so none can pass for
            // another's bytes.
            guard key.start(), key.add(UnsafeRawBufferPointer(rebasing: cookie[..<Self.timeSize])),
                key.addWithLength(peer), key.addWithLength(local),
                key.add(hello.beforeCookie), key.add(hello.afterCookie), key.finish(into: digest)
            else { return false }
            UnsafeMutableRawBufferPointer(rebasing: cookie[Self.timeSize...]).copyMemory(
                from: UnsafeRawBufferPointer(rebasing: digest[..<Self.macSize]))
            return true
        }
    }
}

/// A ClientHello whose cookie has been verified: the proof that the client gets datagrams at the address that it sends
/// from, without which no server's ``Engine`` begins (RFC 6347, section 4.2.1).
///
/// There are exactly two ways to one: ``CookieAuthority/verify(_:peer:local:minute:)``, and, in another process, the
/// bytes of a hand-over by a process that has verified it. OpenSSL is told to accept any cookie, so this type is what
/// keeps addresses that nobody has proven away from it.
///
/// It owns a copy of the hello's datagram, so it outlives the buffer that the hello was read from.
public struct VerifiedHello: ~Copyable {
    /// The datagram that the hello is in: its first record, with whatever follows. A first fragment will do (see
    /// ``ClientHello/parse(_:)``).
    let datagram: [UInt8]
    /// What tells a copy of this hello from the hello of another handshake.
    public let random: ClientRandom
    /// How often the client was asked for a cookie.
    let messageSequence: UInt16
    let recordSequence: UInt64
    /// From when this side has asked for the cookie until now; `nil` where that is not known. The client has done nothing
    /// in between but to write another hello, so it is the path's round trip, unless a datagram was lost.
    public let roundTrip: Duration?

    fileprivate init(_ hello: ClientHello, minute: Minute) {
        roundTrip = Self.roundTrip(hello, minute)
        datagram = [UInt8](hello.datagram)
        random = hello.randomValue
        messageSequence = hello.messageSequence
        recordSequence = hello.recordSequence
    }

    /// The hello as it is handed over to another process of this daemon or program, over a channel that nobody else can
    /// write to.
    public var handover: [UInt8] { datagram }

    /// See ``ClientHello/offeredSession``.
    package var offeredSession: SessionName? {
        datagram.withUnsafeBytes { bytes in
            guard case .hello(let hello) = ClientHello.parse(bytes) else { return nil }
            return hello.offeredSession
        }
    }

    /// The hello that another process has verified and handed over.
    ///
    /// The cookie is not checked again: only bytes that came over the channel from that process may be given here.
    /// - Parameter minute: the present time; `nil`: nobody asks for the round trip.
    /// - Returns: `nil` for bytes that are not a hello.
    public init?(handedOver bytes: [UInt8], minute: Minute? = nil) {
        let fields = bytes.withUnsafeBytes { bytes -> (ClientRandom, UInt16, UInt64, Duration?)? in
            guard case .hello(let hello) = ClientHello.parse(bytes) else { return nil }
            let roundTrip = minute.flatMap { Self.roundTrip(hello, $0) }
            return (hello.randomValue, hello.messageSequence, hello.recordSequence, roundTrip)
        }
        guard let fields else { return nil }
        (random, messageSequence, recordSequence, roundTrip) = fields
        datagram = bytes
    }

    private static func roundTrip(_ hello: ClientHello, _ now: Minute) -> Duration? {
        guard let made = CookieAuthority.timeOf(hello.cookie, now: now) else { return nil }
        let milliseconds =
            Int64(clamping: now.number - made.number) * 60_000 + Int64(now.milliseconds) - Int64(made.milliseconds)
        // The clock may have been set back.
        return milliseconds >= 0 ? .milliseconds(milliseconds) : nil
    }
}

/// Why there is no ``CookieAuthority``.
public enum CookieError: Error, Sendable, Equatable, CustomStringConvertible {
    /// The secret's length in bytes.
    case secretTooShort(Int)
    case openSSL(OpenSSLError)

    public var description: String {
        switch self {
        case .secretTooShort(let count):
            "the cookie secret has \(counted(count, "byte")); it needs \(CookieAuthority.minimumSecretSize) or more"
        case .openSSL(let error): "OpenSSL has no HMAC-SHA256 for cookies: \(error)"
        }
    }
}

/// A ``KeyedHash`` with the key of a minute.
private struct MinuteKey: ~Copyable {
    private(set) var hash: KeyedHash
    private var number: UInt64?

    init(hash: consuming KeyedHash) { self.hash = hash }

    /// Changes the key where it is another minute's.
    mutating func setMinute(_ minute: Minute, from derivation: borrowing KeyedHash) -> Bool {
        if number == minute.number { return true }
        number = nil
        let isSet = withUnsafeTemporaryAllocation(byteCount: KeyedHash.largestSize, alignment: 8) { key in
            defer { OPENSSL_cleanse(key.baseAddress, key.count) }
            return derivation.start() && withUnsafeBytes(of: minute.number.bigEndian) { derivation.add($0) }
                && derivation.finish(into: key) && hash.setKey(UnsafeRawBufferPointer(key))
        }
        if isSet { number = minute.number }
        return isSet
    }
}

/// A MAC by OpenSSL with a key that is set once and used often. Each call says whether OpenSSL did it.
private struct KeyedHash: ~Copyable {
    /// The most bytes that a result has.
    static let largestSize = 32
    private static let sipHashKeySize = 16
    private static let sipHashSize = 16

    private let context: OpaquePointer
    /// The key of SipHash; `nil` for HMAC, whose context remembers what it has made of the key.
    private var sipHashKey: (UInt64, UInt64)?
    private let algorithm: CookieAuthority.MAC

    init(_ algorithm: CookieAuthority.MAC) throws(CookieError) {
        ERR_clear_error()
        guard let context = Self.makeContext(algorithm) else { throw .openSSL(OpenSSLError.drain()) }
        self.context = context
        self.algorithm = algorithm
    }

    /// Whether OpenSSL has it.
    static func isAvailable(_ algorithm: CookieAuthority.MAC) -> Bool {
        let context = makeContext(algorithm)
        EVP_MAC_CTX_free(context)
        ERR_clear_error()
        return context != nil
    }

    private static func makeContext(_ algorithm: CookieAuthority.MAC) -> OpaquePointer? {
        // The context holds a reference of its own.
        let found = EVP_MAC_fetch(nil, algorithm == .sipHash ? "SIPHASH" : "HMAC", nil)
        defer { EVP_MAC_free(found) }
        guard let found, let context = EVP_MAC_CTX_new(found) else { return nil }
        if algorithm == .sipHash ? useSize(context) : useSHA256(context) { return context }
        EVP_MAC_CTX_free(context)
        return nil
    }

    // A parameter points to its key, so the key's C string must outlive it: OSSL_MAC_PARAM_DIGEST, a macro with a string, is
    // a Swift String here, whose pointer would be good for the call of construct alone.

    private static func useSHA256(_ context: OpaquePointer) -> Bool {
        var digest = Array("SHA256".utf8CString)
        return digest.withUnsafeMutableBufferPointer { name in
            OSSL_MAC_PARAM_DIGEST.withCString { key in
                let parameters = [
                    OSSL_PARAM_construct_utf8_string(key, name.baseAddress, 0), OSSL_PARAM_construct_end(),
                ]
                return EVP_MAC_CTX_set_params(context, parameters) == 1
            }
        }
    }

    private static func useSize(_ context: OpaquePointer) -> Bool {
        var size = sipHashSize
        return withUnsafeMutablePointer(to: &size) { size in
            OSSL_MAC_PARAM_SIZE.withCString { key in
                let parameters = [OSSL_PARAM_construct_size_t(key, size), OSSL_PARAM_construct_end()]
                return EVP_MAC_CTX_set_params(context, parameters) == 1
            }
        }
    }

    deinit { EVP_MAC_CTX_free(context) }

    /// - Parameter key: bytes for HMAC; SipHash takes the first 16 of them.
    mutating func setKey(_ key: UnsafeRawBufferPointer) -> Bool {
        guard algorithm == .sipHash else { return initialize(key) }
        guard key.count >= Self.sipHashKeySize else { return false }
        sipHashKey = (
            key.loadUnaligned(fromByteOffset: 0, as: UInt64.self), key.loadUnaligned(fromByteOffset: 8, as: UInt64.self)
        )
        return true
    }

    private func initialize(_ key: UnsafeRawBufferPointer) -> Bool {
        EVP_MAC_init(context, key.assumingMemoryBound(to: UInt8.self).baseAddress, key.count, nil) == 1
    }

    /// Begins another message with the key that was set. For HMAC no key means the last one (EVP_MAC(3), since 3.0). SipHash
    /// takes its key each time: it is an exclusive or of four words, and whether the last one is remembered depends on the
    /// release.
    func start() -> Bool {
        guard let sipHashKey else { return algorithm == .hmacSHA256 && EVP_MAC_init(context, nil, 0, nil) == 1 }
        return withUnsafeBytes(of: sipHashKey) { initialize($0) }
    }

    func add(_ bytes: UnsafeRawBufferPointer) -> Bool {
        EVP_MAC_update(context, bytes.assumingMemoryBound(to: UInt8.self).baseAddress, bytes.count) == 1
    }

    func addWithLength(_ bytes: UnsafeRawBufferPointer) -> Bool {
        withUnsafeBytes(of: UInt64(bytes.count).bigEndian) { add($0) } && add(bytes)
    }

    func finish(into result: UnsafeMutableRawBufferPointer) -> Bool {
        var length = 0
        return EVP_MAC_final(
            context, result.assumingMemoryBound(to: UInt8.self).baseAddress, &length, result.count) == 1
            && length == (algorithm == .sipHash ? Self.sipHashSize : Self.largestSize)
    }
}
