import COpenSSL

/// The choice of an application protocol (ALPN, RFC 7301).
extension ServerContext {
    /// Answers a client's offer with the best protocol that both sides know. A client that offers none of the server's
    /// protocols is refused (RFC 7301, section 3.2: no_application_protocol), and one that offers no protocol is
    /// served.
    func choose(ofApplicationProtocols protocols: [String]) {
        guard !protocols.isEmpty else { return }
        exData.applicationProtocols = protocols.map { Array($0.utf8) }
        SSL_CTX_set_alpn_select_cb(
            pointer,
            { ssl, chosen, chosenLength, offered, offeredLength, _ in
                guard let ssl, let chosen, let chosenLength, let offered,
                    let protocols = ContextExData.of(ssl)?.applicationProtocols
                else { return SSL_TLSEXT_ERR_NOACK }
                let offer = UnsafeBufferPointer(start: offered, count: Int(offeredLength))
                guard let place = ApplicationProtocols.choose(of: protocols, offer) else {
                    return SSL_TLSEXT_ERR_ALERT_FATAL
                }
                // In the client's list, which is there for as long as OpenSSL needs it.
                chosen.pointee = offered + place.lowerBound
                chosenLength.pointee = UInt8(truncatingIfNeeded: place.count)
                return SSL_TLSEXT_ERR_OK
            }, nil)
    }
}

extension TLSContext {
    /// Offers protocols, best first, as a client.
    func offer(applicationProtocols: [String]) throws(CredentialsError) {
        guard !applicationProtocols.isEmpty else { return }
        let list = ApplicationProtocols.encode(applicationProtocols)
        ERR_clear_error()
        // 0 means success here.
        guard let list, SSL_CTX_set_alpn_protos(pointer, list, UInt32(truncatingIfNeeded: list.count)) == 0 else {
            throw .context(
                "application protocols must have 1 to 255 bytes each, and with one of length before each "
                    + "\(ApplicationProtocols.maximumLength) together at most")
        }
    }
}

/// The list of protocols on the wire: each with a byte of length before it (RFC 7301, section 3.1).
public enum ApplicationProtocols {
    /// The most bytes that a whole list may have.
    public static let maximumLength = Int(UInt16.max)

    public static func encodedLength(of names: [String]) -> Int { names.reduce(0) { $0 + 1 + $1.utf8.count } }

    static func encode(_ names: [String]) -> [UInt8]? {
        var list: [UInt8] = []
        for name in names {
            guard let length = UInt8(exactly: name.utf8.count), length > 0 else { return nil }
            list.append(length)
            list.append(contentsOf: name.utf8)
        }
        return list.count <= maximumLength ? list : nil
    }

    /// The place in the client's offer of the first of `protocols` that the offer holds; `nil` where it holds none.
    static func choose(of protocols: [[UInt8]], _ offer: UnsafeBufferPointer<UInt8>) -> Range<Int>? {
        for wanted in protocols {
            var position = 0
            while position < offer.count {
                let start = position + 1
                let end = start + Int(offer[position])
                guard end <= offer.count else { break }
                if offer[start..<end].elementsEqual(wanted) { return start..<end }
                position = end
            }
        }
        return nil
    }
}
