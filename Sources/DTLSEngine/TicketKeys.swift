import COpenSSL
import Primitives

/// A key that session tickets are sealed with (RFC 5077, section 4): AES-256-CBC and HMAC-SHA256, as OpenSSL and nginx
/// do it.
public struct TicketKey: Sendable, Equatable {
    /// Bytes of a key: 16 that stand in the ticket as its name, 32 for HMAC, 32 for AES.
    public static let length = 80

    public let bytes: [UInt8]

    /// - Parameter bytes: ``length`` of them, at random; `nil` for any other number.
    public init?(_ bytes: [UInt8]) {
        guard bytes.count == Self.length else { return nil }
        self.bytes = bytes
    }

    /// Two keys with one name cannot be told apart by a ticket.
    public var name: ArraySlice<UInt8> { bytes[..<Self.nameLength] }

    fileprivate static let nameLength = 16
    fileprivate static let macLength = 32
    fileprivate var macKey: ArraySlice<UInt8> { bytes[Self.nameLength..<Self.nameLength + Self.macLength] }
    fileprivate var cipherKey: ArraySlice<UInt8> { bytes[(Self.nameLength + Self.macLength)...] }
}

/// A key is coded as its bytes.
extension TicketKey: Codable {
    public init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        guard let key = TicketKey(try container.decode([UInt8].self)) else {
            throw DecodingError.dataCorruptedError(
                in: container, debugDescription: "a ticket key has \(Self.length) bytes")
        }
        self = key
    }

    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(bytes)
    }
}

/// The active keys, shared by the contexts of a thread: the first one seals, all open. They can be replaced at any
/// time, for all handshakes from then on. A ticket that a later key has opened is renewed with the first.
public final class TicketKeyRing {
    public var keys: [TicketKey]

    public init(_ keys: [TicketKey] = []) { self.keys = keys }

    nonisolated(unsafe) private static let cipher = EVP_CIPHER_fetch(nil, "AES-256-CBC", nil)

    private static let initializationVectorLength = 16

    /// The result of the callback: see SSL_CTX_set_tlsext_ticket_key_cb(3).
    fileprivate enum Answer: Int32 {
        case failed = -1
        /// No ticket is made; or no key opens this ticket, and a full handshake follows.
        case none = 0
        case success = 1
        /// The ticket is opened, and a new one is to be made.
        case renew = 2
    }

    fileprivate func seal(
        name: UnsafeMutablePointer<UInt8>, initializationVector: UnsafeMutablePointer<UInt8>, _ cipher: OpaquePointer,
        _ mac: OpaquePointer
    ) -> Answer {
        guard let key = keys.first else { return .none }
        for (index, byte) in key.name.enumerated() { name[index] = byte }
        guard RAND_bytes(initializationVector, Int32(Self.initializationVectorLength)) == 1,
            key.cipherKey.withUnsafeBufferPointer({
                EVP_EncryptInit_ex(cipher, Self.cipher, nil, $0.baseAddress, initializationVector)
            }) == 1, Self.prepare(mac, key)
        else { return .failed }
        return .success
    }

    fileprivate func open(
        name: UnsafeMutablePointer<UInt8>, initializationVector: UnsafeMutablePointer<UInt8>, _ cipher: OpaquePointer,
        _ mac: OpaquePointer
    ) -> Answer {
        let name = UnsafeBufferPointer(start: name, count: TicketKey.nameLength)
        guard let index = keys.firstIndex(where: { $0.name.elementsEqual(name) }) else { return .none }
        let key = keys[index]
        guard Self.prepare(mac, key),
            key.cipherKey.withUnsafeBufferPointer({
                EVP_DecryptInit_ex(cipher, Self.cipher, nil, $0.baseAddress, initializationVector)
            }) == 1
        else { return .failed }
        return index == 0 ? .success : .renew
    }

    private static func prepare(_ mac: OpaquePointer, _ key: TicketKey) -> Bool {
        var digest = Array("SHA256".utf8CString)
        var secret = Array(key.macKey)
        defer { OPENSSL_cleanse(&secret, secret.count) }
        return digest.withUnsafeMutableBufferPointer { digest in
            secret.withUnsafeMutableBytes { secret in
                // The names must outlive the parameters: see KeyedHash.useSHA256.
                OSSL_MAC_PARAM_DIGEST.withCString { digestName in
                    OSSL_MAC_PARAM_KEY.withCString { keyName in
                        let parameters = [
                            OSSL_PARAM_construct_octet_string(keyName, secret.baseAddress, secret.count),
                            OSSL_PARAM_construct_utf8_string(digestName, digest.baseAddress, 0),
                            OSSL_PARAM_construct_end(),
                        ]
                        return EVP_MAC_CTX_set_params(mac, parameters) == 1
                    }
                }
            }
        }
    }
}

extension ServerContext {
    /// Seals and opens tickets with the ring's keys; without a ring, with one that OpenSSL draws for this context.
    func prepareTickets(_ settings: SessionSettings, ring: TicketKeyRing?) {
        SSL_CTX_set_timeout(pointer, settings.lifetime.seconds)
        if !settings.resumption || !settings.tickets { SSL_CTX_set_options(pointer, CO_SSL_OP_NO_TICKET) }
        guard let ring else { return }
        exData.ticketKeys = ring
        SSL_CTX_set_tlsext_ticket_key_evp_cb(pointer) { ssl, name, initializationVector, cipher, mac, isSealing in
            guard let ssl, let name, let initializationVector, let cipher, let mac else { return -1 }
            guard let ring = ContextExData.of(ssl)?.ticketKeys else { return 0 }
            let answer =
                isSealing == 1
                ? ring.seal(name: name, initializationVector: initializationVector, cipher, mac)
                : ring.open(name: name, initializationVector: initializationVector, cipher, mac)
            return answer.rawValue
        }
    }
}
