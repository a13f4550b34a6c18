/// A message of a return routability check (RFC 9853): a type and a cookie of 64 bits.
struct ReturnRoutabilityMessage: Equatable {
    enum Kind: UInt8 {
        /// path_challenge: the peer is to answer with the same cookie, over the path that this came over.
        case challenge = 0
        /// path_response.
        case response = 1
        /// path_drop: the sender has not asked for the check; it belongs to the enhanced check, which this side does
        /// not do.
        case drop = 2
    }

    var kind: Kind
    var cookie: UInt64

    init(kind: Kind, cookie: UInt64) {
        self.kind = kind
        self.cookie = cookie
    }

    /// `nil` for another number of bytes, and for types that are not known, which are to be ignored.
    init?(_ bytes: UnsafeRawBufferPointer) {
        guard bytes.count == 9, let kind = Kind(rawValue: bytes[0]) else { return nil }
        self.kind = kind
        cookie = bytes.loadUnaligned(fromByteOffset: 1, as: UInt64.self).bigEndian
    }

    func withBytes<Result>(_ body: (UnsafeRawBufferPointer) -> Result) -> Result {
        withUnsafeTemporaryAllocation(byteCount: 9, alignment: 1) { bytes in
            bytes[0] = kind.rawValue
            bytes.storeBytes(of: cookie.bigEndian, toByteOffset: 1, as: UInt64.self)
            return body(UnsafeRawBufferPointer(bytes))
        }
    }
}
