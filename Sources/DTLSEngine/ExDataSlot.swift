import COpenSSL

/// A place for a Swift object in OpenSSL's objects of one kind, by an index that OpenSSL gave out
/// (CRYPTO_get_ex_new_index(3)).
///
/// The SSL or SSL_CTX that an object is put into owns it: it is released when OpenSSL frees its owner, or when another
/// object takes its place. An index is never given back, so a slot is a `static let`.
struct ExDataSlot<Value: AnyObject> {
    enum Owner {
        /// An SSL: one connection.
        case connection
        /// An SSL_CTX, which lives as long as its last SSL.
        case context
    }

    private let owner: Owner
    /// -1 where OpenSSL had no memory for an index: then nothing can be put into the slot, and it is always empty.
    private let index: Int32

    init(of owner: Owner) {
        self.owner = owner
        let kind = owner == .connection ? CRYPTO_EX_INDEX_SSL : CRYPTO_EX_INDEX_SSL_CTX
        index = CRYPTO_get_ex_new_index(kind, 0, nil, nil, nil) { _, value, _, _, _, _ in
            if let value { Unmanaged<AnyObject>.fromOpaque(value).release() }
        }
    }

    /// Puts an object into the slot of an SSL or SSL_CTX; `nil` empties the slot.
    /// - Returns: false when OpenSSL has no memory. The slot is then as it was.
    @discardableResult
    func set(_ value: Value?, in pointer: OpaquePointer) -> Bool {
        let former = raw(in: pointer)
        let retained = value.map { Unmanaged.passRetained($0) }
        let opaque = retained?.toOpaque()
        let isSet =
            switch owner {
            case .connection: SSL_set_ex_data(pointer, index, opaque) == 1
            case .context: SSL_CTX_set_ex_data(pointer, index, opaque) == 1
            }
        if isSet { former.map { Unmanaged<Value>.fromOpaque($0).release() } } else { retained?.release() }
        return isSet
    }

    /// The object in the slot of an SSL or SSL_CTX, or `nil` where the slot is empty.
    func value(in pointer: OpaquePointer) -> Value? {
        raw(in: pointer).map { Unmanaged<Value>.fromOpaque($0).takeUnretainedValue() }
    }

    private func raw(in pointer: OpaquePointer) -> UnsafeMutableRawPointer? {
        switch owner {
        case .connection: SSL_get_ex_data(pointer, index)
        case .context: SSL_CTX_get_ex_data(pointer, index)
        }
    }
}
