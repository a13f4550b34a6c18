/// What is signed in a handshake of DTLS 1.0 and 1.2, told by its bytes. The process that holds a key signs these and nothing
/// else.
///
/// OpenSSL hands over what is to be signed as a whole, not its hash (EVP_DigestSign in tls_construct_server_key_exchange
/// and tls_construct_cert_verify; read in 3.0.22), so that it can be looked at.
package enum SignedContent: Equatable, Sendable {
    /// A server's: the two random values, and the parameters of an ephemeral key (RFC 5246, section 7.4.3; RFC 8422,
    /// section 5.4).
    case serverKeyExchange
    /// A client's: all messages of the handshake up to its ClientKeyExchange (RFC 5246, section 7.4.8).
    case certificateVerify

    /// - Returns: `nil` for what is signed in no such handshake: a certificate, a signature of TLS 1.3, a mere hash.
    package init?(_ bytes: UnsafeRawBufferPointer) {
        if Self.isServerKeyExchange(bytes) {
            self = .serverKeyExchange
        } else if Self.isTranscript(bytes) {
            self = .certificateVerify
        } else {
            return nil
        }
    }

    var use: KeyUses { self == .serverKeyExchange ? .serverKeyExchange : .certificateVerify }

    // MARK: ServerKeyExchange

    /// ClientHello.random and ServerHello.random
    private static let randomLength = 64
    private static let namedCurve: UInt8 = 3
    /// Of a prime: 1,024 to 8,192 bits.
    private static let primeLengths = 128...1_024

    private static func isServerKeyExchange(_ bytes: UnsafeRawBufferPointer) -> Bool {
        var reader = Reader(bytes)
        guard reader.take(randomLength) != nil else { return false }
        let parameters = reader.rest
        return isEllipticCurve(parameters) || isDiffieHellman(parameters)
    }

    /// ServerECDHParams: `named_curve`, the group, and its point.
    private static func isEllipticCurve(_ bytes: UnsafeRawBufferPointer) -> Bool {
        var reader = Reader(bytes)
        guard reader.integer(1) == Int(namedCurve), let group = reader.integer(2), let length = reader.integer(1),
            let point = reader.take(length), reader.isAtEnd
        else { return false }
        let isUncompressed = point.first == 4 && length % 2 == 1
        // The numbers of the groups are those of IANA's registry "TLS Supported Groups".
        switch group {
        case 29: return length == 32
        case 30: return length == 56
        case 23, 26: return isUncompressed && length == 65
        case 24, 27: return isUncompressed && length == 97
        case 25: return isUncompressed && length == 133
        case 28: return isUncompressed && length == 129
        // The others of RFC 8422 are curves with points of two coordinates, of 160 to 571 bits.
        case 1...22: return isUncompressed && (41...145).contains(length)
        default: return false
        }
    }

    /// ServerDHParams: prime, generator, and public value.
    private static func isDiffieHellman(_ bytes: UnsafeRawBufferPointer) -> Bool {
        var reader = Reader(bytes)
        guard let prime = reader.vector(2), primeLengths.contains(prime.count), let first = prime.first, first != 0,
            let last = prime.last, last % 2 == 1,
            let generator = reader.vector(2), !generator.isEmpty, generator.count <= prime.count,
            let value = reader.vector(2), !value.isEmpty, value.count <= prime.count
        else { return false }
        return reader.isAtEnd
    }

    // MARK: Messages of a handshake

    /// The messages of a full handshake whose server asks for a certificate, up to what is signed, in their order (RFC
    /// 5246, section 7.3; RFC 6066, section 8, for certificate_status). All but those in `optional` have to be there.
    private static let order: [UInt8] = [1, 2, 11, 22, 12, 13, 14, 11, 16]
    private static let optional: Set<Int> = [2, 3, 4]

    /// Each message has the header of DTLS, as if it had not been fragmented (RFC 6347, section 4.2.6).
    private static func isTranscript(_ bytes: UnsafeRawBufferPointer) -> Bool {
        var reader = Reader(bytes)
        var next = 0
        while !reader.isAtEnd {
            guard let type = reader.integer(1), let length = reader.integer(3), reader.take(2) != nil,
                reader.integer(3) == 0, reader.integer(3) == length, let body = reader.take(length)
            else { return false }
            // The hellos begin with a version of DTLS.
            if type <= 2 { guard body.first == 0xfe else { return false } }
            while next < order.count, Int(order[next]) != type {
                guard optional.contains(next) else { return false }
                next += 1
            }
            guard next < order.count else { return false }
            next += 1
        }
        return next == order.count
    }

    /// Reads big-endian numbers, as TLS writes them.
    private struct Reader {
        private(set) var rest: UnsafeRawBufferPointer

        init(_ bytes: UnsafeRawBufferPointer) { rest = bytes }

        var isAtEnd: Bool { rest.isEmpty }

        mutating func take(_ count: Int) -> UnsafeRawBufferPointer? {
            guard count <= rest.count else { return nil }
            defer { rest = UnsafeRawBufferPointer(rebasing: rest.dropFirst(count)) }
            return UnsafeRawBufferPointer(rebasing: rest.prefix(count))
        }

        /// - Parameter count: 1 to 3.
        mutating func integer(_ count: Int) -> Int? { take(count)?.reduce(0) { $0 << 8 | Int($1) } }

        mutating func vector(_ lengthBytes: Int) -> UnsafeRawBufferPointer? {
            integer(lengthBytes).flatMap { take($0) }
        }
    }
}
