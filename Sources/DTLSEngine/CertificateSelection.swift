import COpenSSL

/// What a server proves itself with to clients that ask for a name.
public struct VirtualHost: Codable, Equatable, Sendable {
    /// A host name, or one with `*` for its first label, which stands for any one label; case does not matter.
    public var name: String
    /// As ``ServerSettings/certifiedKeys``.
    public var certifiedKeys: [CertifiedKey]

    public init(name: String, certifiedKeys: [CertifiedKey]) {
        self.name = name
        self.certifiedKeys = certifiedKeys
    }
}

/// Which certificate a client gets: by the name that it asks for (SNI, RFC 6066, section 3), else by the address that
/// it has come to, else the server's own.
///
/// The choice is made before OpenSSL looks for a session to resume, in the ClientHello callback and not in the one for
/// the server name: sessions of one identity are then none of another's, so a client that has shown no certificate to
/// one cannot resume its way into another that demands one.
extension ServerContext {
    /// Serves `name` with this context from now on: a further name, or a new certificate for one that is there.
    /// - Parameters:
    ///   - name: a host name; `*.example.com` stands for every name with one more label. Case does not matter.
    ///   - identity: made with another `sessionContext` than this one's.
    public func add(_ identity: ServerContext, for name: String) {
        let name = name.lowercased()
        if identities.updateValue(identity, forKey: name) == nil { names.append(name) }
        if let address = Self.addressBytes(of: name) { addresses[address] = identity }
        // The choice is the service's: it is not made again when a client of this name renegotiates. Nor may the
        // callback be called then, since the identity can be gone: its connections outlive it when another takes its
        // place.
        SSL_CTX_set_client_hello_cb(identity.pointer, nil, nil)
    }

    /// Makes an identity of each name of the settings: with the service's policy and trust, and sessions of its own.
    func addNames(
        of settings: ServerSettings, tickets: TicketKeyRing?, sessionContext: String
    ) throws(CredentialsError) {
        for identity in settings.names {
            var own = settings
            own.certifiedKeys = identity.certifiedKeys
            own.names = []
            own.refusesUnknownNames = false
            own.choosesByAddress = false
            let context = try ServerContext(
                own, tickets: tickets, sessionContext: "\(sessionContext)\0name:\(identity.name.lowercased())",
                trustOf: self)
            add(context, for: identity.name)
        }
        choosesByAddress = settings.choosesByAddress
    }

    /// Whether a client that asks for no name gets the certificate that names the local address (reference: ipcert).
    public func chooseByAddress() { choosesByAddress = true }

    /// Has OpenSSL ask which identity a client gets. Also where there is but one: its sessions are told apart by name.
    func enableChoice() {
        // The callback's argument lives as long as any engine: each retains its context.
        SSL_CTX_set_client_hello_cb(
            pointer,
            { ssl, alert, argument in
                guard let ssl, let argument else { return SSL_CLIENT_HELLO_SUCCESS }
                return Unmanaged<ServerContext>.fromOpaque(argument)._withUnsafeGuaranteedRef {
                    $0.choose(for: ssl, alert)
                }
            }, Unmanaged.passUnretained(self).toOpaque())
    }

    /// The identity for this address, if that is asked for: the one that was added for it, else the first whose
    /// certificate names it; `nil`: this one.
    /// - Parameter address: 4 or 16 bytes.
    func identity(forAddress address: UnsafeRawBufferPointer) -> ServerContext? {
        guard choosesByAddress else { return nil }
        let address = Self.unmapped(address)
        if let added = addresses[Array(address)] { return added }
        if certifies(address) { return nil }
        return names.lazy.compactMap { self.identities[$0] }.first { $0.certifies(address) }
    }

    /// An IPv6 socket has ::ffff:a.b.c.d for its IPv4 clients; certificates have the four bytes (RFC 5280, section
    /// 4.2.1.6).
    private static func unmapped(_ address: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer {
        guard address.count == 16, address.prefix(10).allSatisfy({ $0 == 0 }), address[10] == 0xff, address[11] == 0xff
        else { return address }
        return UnsafeRawBufferPointer(rebasing: address[12...])
    }

    /// The 4 or 16 bytes of an IP address in text, or `nil` for another text.
    private static func addressBytes(of text: String) -> [UInt8]? {
        ERR_set_mark()
        defer { ERR_pop_to_mark() }
        guard let string = a2i_IPADDRESS(text) else { return nil }
        defer { ASN1_OCTET_STRING_free(string) }
        let bytes = UnsafeRawBufferPointer(
            start: ASN1_STRING_get0_data(string), count: Int(ASN1_STRING_length(string)))
        return Array(unmapped(bytes))
    }

    private func covers(_ name: String) -> Bool {
        attachments.certificates.contains { $0.certificate.covers(name: name) }
    }

    private func certifies(_ address: UnsafeRawBufferPointer) -> Bool {
        attachments.certificates.contains { $0.certificate.covers(address: address) }
    }

    /// The name's own identity, or the one with an asterisk for its first label (RFC 6125, section 6.4.3).
    func identity(named name: String) -> ServerContext? {
        if let exact = identities[name] { return exact }
        guard let dot = name.firstIndex(of: ".") else { return nil }
        return identities["*" + name[dot...]]
    }

    private func choose(for ssl: OpaquePointer, _ alert: UnsafeMutablePointer<Int32>?) -> Int32 {
        if let name = ServerName.asked(of: ssl) {
            let identity = identity(named: name)
            if identity == nil, refusesUnknownNames, !covers(name) {
                refusal = "the client asks for the name \"\(name)\", which is not served here"
                alert?.pointee = SSL_AD_UNRECOGNIZED_NAME
                return SSL_CLIENT_HELLO_ERROR
            }
            (identity ?? self).take(ssl, askedFor: name)
        } else if let chosen = SSL_get_ex_data(ssl, 0) {
            Unmanaged<ServerContext>.fromOpaque(chosen)._withUnsafeGuaranteedRef { $0.take(ssl) }
        }
        return SSL_CLIENT_HELLO_SUCCESS
    }

    /// Makes a connection this identity's. SSL_set_SSL_CTX takes the certificate and the trusted CAs along, but neither
    /// the verification mode, nor how long a client's chain may be, nor, once it differs, the session context.
    ///
    /// A session is resumed for the name alone that it was made for (RFC 6066, section 3).
    private func take(_ ssl: OpaquePointer, askedFor name: String? = nil) {
        guard SSL_set_SSL_CTX(ssl, pointer) != nil else { return }
        SSL_set_verify(ssl, SSL_CTX_get_verify_mode(pointer), nil)
        _ = co_ssl_set_max_cert_list(ssl, co_ssl_ctx_get_max_cert_list(pointer))
        // 0xff: no name, and no text, has this byte.
        let context = name.map { Self.shorten(sessionContext + [0xff] + $0.utf8) } ?? sessionContext
        _ = SSL_set_session_id_context(ssl, context, UInt32(truncatingIfNeeded: context.count))
    }
}

/// The server_name extension of a ClientHello that OpenSSL is at (RFC 6066, section 3).
private enum ServerName {
    /// The host name in lower case and without a dot at its end, or `nil` where none is asked for. One that is not
    /// UTF-8 becomes one that nobody has.
    static func asked(of ssl: OpaquePointer) -> String? {
        var start: UnsafePointer<UInt8>?
        var count = 0
        guard SSL_client_hello_get0_ext(ssl, UInt32(TLSEXT_TYPE_server_name), &start, &count) == 1, let start else {
            return nil
        }
        // ServerNameList: two bytes of length, then entries of type (0: host_name), two bytes of length, bytes.
        let bytes = UnsafeBufferPointer(start: start, count: count)
        guard count > 5, Int(bytes[0]) << 8 | Int(bytes[1]) == count - 2, bytes[2] == 0 else { return nil }
        let length = Int(bytes[3]) << 8 | Int(bytes[4])
        guard length > 0, length <= 255, length <= count - 5 else { return nil }
        let name = String(decoding: bytes[5..<(5 + length)], as: UTF8.self).lowercased()
        return name.hasSuffix(".") ? String(name.dropLast()) : name
    }
}
