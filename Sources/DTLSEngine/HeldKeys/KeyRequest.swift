import Glibc
import Primitives

/// The hash, and for RSA the padding, of a signature.
package struct SignatureForm: Hashable, Sendable {
    package enum Hash: UInt8, CaseIterable, Sendable {
        /// The algorithm has its own (Ed25519, Ed448).
        case intrinsic = 0
        /// Both, one after the other: RSA in DTLS 1.0.
        case md5AndSHA1 = 1
        case sha1 = 2
        case sha224 = 3
        case sha256 = 4
        case sha384 = 5
        case sha512 = 6

        /// OpenSSL's name; `nil`: none is given.
        var name: String? {
            switch self {
            case .intrinsic: nil
            case .md5AndSHA1: "MD5-SHA1"
            case .sha1: "SHA1"
            case .sha224: "SHA2-224"
            case .sha256: "SHA2-256"
            case .sha384: "SHA2-384"
            case .sha512: "SHA2-512"
            }
        }

        private static let names: [(StaticString, Hash)] = [
            ("SHA2-256", .sha256), ("SHA256", .sha256), ("SHA-256", .sha256), ("SHA2-384", .sha384),
            ("SHA384", .sha384), ("SHA-384", .sha384), ("SHA2-512", .sha512), ("SHA512", .sha512),
            ("SHA-512", .sha512), ("SHA1", .sha1), ("SHA-1", .sha1), ("SHA2-224", .sha224), ("SHA224", .sha224),
            ("SHA-224", .sha224), ("MD5-SHA1", .md5AndSHA1),
        ]

        /// - Parameter name: any that OpenSSL has for it.
        init?(named name: UnsafePointer<CChar>) {
            let found = Self.names.first { known, _ in
                known.utf8Start.withMemoryRebound(to: CChar.self, capacity: known.utf8CodeUnitCount + 1) {
                    strcasecmp(name, $0) == 0
                }
            }
            guard let found else { return nil }
            self = found.1
        }
    }

    package var hash: Hash
    /// RSASSA-PSS with a salt as long as the hash (RFC 8446, section 4.2.3), in the place of PKCS #1 v1.5.
    package var isPSS: Bool

    package init(hash: Hash, isPSS: Bool = false) {
        self.hash = hash
        self.isPSS = isPSS
    }
}

/// What a process that has no private keys asks of the one that holds them. Bytes are valid as long as the request's.
package enum KeyRequest {
    /// Keep the key, or the table of pre-shared keys, whatever becomes of the configuration that it is from, until ``release(_:)``. The answer says whether
    /// there is such a key.
    case hold(KeyID)
    /// It is not answered.
    case release(KeyID)
    /// Sign what is a ``SignedContent``, and is hashed by the process that signs.
    case sign(KeyID, SignatureForm, content: UnsafeRawBufferPointer)
    /// Decrypt a client's premaster secret. Of what does not decrypt, or has another version than this in front, the answer
    /// are random bytes, so that nobody learns which of both it was (RFC 5246, section 7.4.7.1).
    case decrypt(KeyID, version: UInt16, secret: UnsafeRawBufferPointer)
    /// Tell the pre-shared key of an identity in a table.
    case presharedKey(table: KeyID, identity: UnsafeRawBufferPointer)

    private enum Kind: UInt8 {
        case hold = 1
        case release = 2
        case sign = 3
        case decrypt = 4
        case presharedKey = 5
    }

    package var bytes: [UInt8] {
        var writer = ByteWriter()
        func begin(_ kind: Kind, _ id: KeyID) {
            writer.integer(kind.rawValue)
            writer.bytes(id.bytes)
        }
        switch self {
        case .hold(let id): begin(.hold, id)
        case .release(let id): begin(.release, id)
        case .sign(let id, let form, let content):
            begin(.sign, id)
            writer.integer(form.hash.rawValue)
            writer.bool(form.isPSS)
            writer.data(content)
        case .decrypt(let id, let version, let secret):
            begin(.decrypt, id)
            writer.integer(version)
            writer.data(secret)
        case .presharedKey(let table, let identity):
            begin(.presharedKey, table)
            writer.data(identity)
        }
        return writer.bytes
    }

    package init(decoding bytes: UnsafeRawBufferPointer) throws(MalformedBytes) {
        var reader = ByteReader(bytes)
        guard let kind = Kind(rawValue: try reader.integer()), let id = KeyID(try reader.take(KeyID.length)) else {
            throw MalformedBytes()
        }
        switch kind {
        case .hold: self = .hold(id)
        case .release: self = .release(id)
        case .sign:
            guard let hash = SignatureForm.Hash(rawValue: try reader.integer()) else { throw MalformedBytes() }
            let isPSS: UInt8 = try reader.integer()
            guard isPSS <= 1 else { throw MalformedBytes() }
            self = .sign(id, SignatureForm(hash: hash, isPSS: isPSS == 1), content: try reader.data())
        case .decrypt: self = .decrypt(id, version: try reader.integer(), secret: try reader.data())
        case .presharedKey: self = .presharedKey(table: id, identity: try reader.data())
        }
        guard reader.isAtEnd else { throw MalformedBytes() }
    }
}

/// The answer to a ``KeyRequest``: what was asked for, nothing for ``KeyRequest/hold(_:)``, or why there is none.
package enum KeyAnswer: Equatable, Sendable {
    case done([UInt8])
    /// There is no such key, or it was not asked to be held.
    case unknownKey
    /// The worker has asked more often than its handshakes explain.
    case tooMany
    /// OpenSSL does not do that with this key.
    case failed
    /// The table has no key for the identity.
    case unknownIdentity

    package var bytes: [UInt8] {
        switch self {
        case .done(let bytes): [0] + bytes
        case .unknownKey: [1]
        case .tooMany: [2]
        case .failed: [3]
        case .unknownIdentity: [4]
        }
    }

    package init?(decoding bytes: [UInt8]) {
        switch bytes.first {
        case 0: self = .done(Array(bytes.dropFirst()))
        case 1: self = .unknownKey
        case 2: self = .tooMany
        case 3: self = .failed
        case 4: self = .unknownIdentity
        default: return nil
        }
    }

    /// The rest of a sentence about the process that holds the keys.
    var reason: String {
        switch self {
        case .done: "has answered"
        case .unknownKey: "does not have this key"
        case .tooMany: "refuses, since this worker has asked more often than its handshakes explain"
        case .failed: "cannot do this with the key"
        case .unknownIdentity: "has no key for the identity"
        }
    }
}
