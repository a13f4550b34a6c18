import COpenSSL
import Primitives

/// The certificates that a server shows to clients that ask for a name.
public struct VirtualHost: Codable, Equatable, Sendable {
    /// A host name. A `*` as its first label stands for any one label. Case does not matter.
    public var name: String
    /// One certificate of each kind of key (RSA, ECDSA) at most, as in ``ServerSettings/certifiedKeys``.
    public var certifiedKeys: [CertifiedKey]

    public init(name: String, certifiedKeys: [CertifiedKey]) {
        self.name = name
        self.certifiedKeys = certifiedKeys
    }
}

/// The choice of the certificate that a client gets. The name that it asks for decides (SNI, RFC 6066, section 3), else
/// the address that it has sent to; else it gets the server's own certificate.
///
/// The choice is made before OpenSSL looks for a session to resume, in the ClientHello callback and not in the one for
/// the server name: sessions of one virtual host are then none of another's, so a client that has shown no certificate
/// to one cannot resume its way into another that demands one.
extension ServerContext {
    /// Serves `name` with this context from now on: a further name, or a new certificate for one that is there.
    /// - Parameters:
    ///   - name: a host name; `*.example.com` stands for every name with one more label. Case does not matter.
    ///   - virtualHost: made with another `sessionIDContext` than this one's.
    public func add(_ virtualHost: ServerContext, for name: String) {
        let name = name.lowercased()
        if virtualHosts.updateValue(virtualHost, forKey: name) == nil { names.append(name) }
        if let address = Self.addressBytes(of: name) { addresses[address] = virtualHost }
        // The choice is the service's: it is not made again when a client of this name renegotiates.
        SSL_CTX_set_client_hello_cb(virtualHost.pointer, nil, nil)
        virtualHost.exData.server = nil
    }

    /// Makes a virtual host of each name of the settings: with the service's policy and trust, and sessions of its own.
    func addNames(
        of settings: ServerSettings, tickets: TicketKeyRing?, sessions: SessionCache?, sessionIDContext: String
    ) throws(CredentialsError) {
        for host in settings.names {
            var own = settings
            own.certifiedKeys = host.certifiedKeys
            own.bareKeys = []
            own.names = []
            own.refusesUnknownNames = false
            own.choosesByAddress = false
            let context = try ServerContext(
                own, tickets: tickets, sessions: sessions, heldKeys: heldKeys,
                sessionIDContext: "\(sessionIDContext)\0name:\(host.name.lowercased())",
                trustOf: self)
            add(context, for: host.name)
        }
        choosesByAddress = settings.choosesByAddress
    }

    /// Whether a client that asks for no name gets the certificate that names the local address.
    public func chooseByAddress() { choosesByAddress = true }

    /// Has OpenSSL ask which certificate a client gets. It asks also where there is only one, because sessions are told
    /// apart by the name that was asked for.
    func enableChoice() {
        exData.server = self
        SSL_CTX_set_client_hello_cb(
            pointer,
            { ssl, alert, _ in
                // An engine retains its context, so the server is there for as long as a handshake is.
                guard let ssl, let server = ContextExData.of(ssl)?.server else { return SSL_CLIENT_HELLO_SUCCESS }
                return server.choose(for: ssl, alert)
            }, nil)
    }

    /// The virtual host of the address that a connection's client has come to, by its SSL, which owns it.
    private static let chosenByAddress = ExDataSlot<ServerContext>(of: .connection)

    /// Chooses a virtual host by the address that a client has come to. It serves the client unless that asks for a
    /// name.
    /// - Parameter address: 4 or 16 bytes; any other number of them chooses none.
    func chooseVirtualHost(forAddress address: [UInt8], of ssl: OpaquePointer) {
        let virtualHost = address.withUnsafeBytes { self.virtualHost(forAddress: $0) }
        if let virtualHost { Self.chosenByAddress.set(virtualHost, in: ssl) }
    }

    /// The virtual host for this address, if that is asked for: the one that was added for it, else the first whose
    /// certificate names it; `nil`: this server itself.
    /// - Parameter address: 4 or 16 bytes.
    private func virtualHost(forAddress address: UnsafeRawBufferPointer) -> ServerContext? {
        guard choosesByAddress else { return nil }
        // Certificates have four bytes for an IPv4 address (RFC 5280, section 4.2.1.6).
        let address = IPv4Mapped.unmapped(address)
        if let added = addresses[Array(address)] { return added }
        if certifies(address) { return nil }
        return names.lazy.compactMap { self.virtualHosts[$0] }.first { $0.certifies(address) }
    }

    /// The 4 or 16 bytes of an IP address in text, or `nil` for another text.
    private static func addressBytes(of text: String) -> [UInt8]? {
        guard !text.utf8.contains(0) else { return nil }
        ERR_set_mark()
        defer { ERR_pop_to_mark() }
        guard let string = a2i_IPADDRESS(text) else { return nil }
        defer { ASN1_OCTET_STRING_free(string) }
        let bytes = UnsafeRawBufferPointer(
            start: ASN1_STRING_get0_data(string), count: Int(ASN1_STRING_length(string)))
        return Array(IPv4Mapped.unmapped(bytes))
    }

    /// Whether a certificate has a name, or an address that is asked for as one. Devices have certificates with their
    /// address for a DNS name or a common name.
    private func covers(_ name: String, _ address: [UInt8]?) -> Bool {
        if let address, address.withUnsafeBytes({ certifies($0) }) { return true }
        return exData.certificates.contains { $0.certificate.covers(name: name) }
    }

    /// The virtual host that was added for an address, or the first whose certificate has it; `nil`: this server
    /// itself.
    private func virtualHost(askedFor address: [UInt8]) -> ServerContext? {
        if let added = addresses[address] { return added }
        return address.withUnsafeBytes { address in
            if certifies(address) { return nil }
            return names.lazy.compactMap { self.virtualHosts[$0] }.first { $0.certifies(address) }
        }
    }

    private func certifies(_ address: UnsafeRawBufferPointer) -> Bool {
        exData.certificates.contains { $0.certificate.covers(address: address) }
    }

    /// The name's own virtual host, or the one with an asterisk for its first label (RFC 6125, section 6.4.3).
    func virtualHost(named name: String) -> ServerContext? {
        if let exact = virtualHosts[name] { return exact }
        guard let dot = name.firstIndex(of: ".") else { return nil }
        return virtualHosts["*" + name[dot...]]
    }

    private func choose(for ssl: OpaquePointer, _ alert: UnsafeMutablePointer<Int32>?) -> Int32 {
        if let name = ServerName.asked(of: ssl) {
            // An address is no name (RFC 6066, section 3), but there are clients that ask for one: it stands for
            // itself.
            let address = Self.addressBytes(of: name)
            let virtualHost =
                virtualHost(named: name) ?? address.flatMap { self.virtualHost(askedFor: $0) }
            if virtualHost == nil, refusesUnknownNames, !covers(name, address) {
                HandshakeRefusal.record(.unknownServerName(name), for: ssl)
                alert?.pointee = SSL_AD_UNRECOGNIZED_NAME
                return SSL_CLIENT_HELLO_ERROR
            }
            (virtualHost ?? self).adopt(ssl, askedFor: name)
        } else {
            Self.chosenByAddress.value(in: ssl)?.adopt(ssl)
        }
        guard Self.canShowItself(to: ssl) else {
            HandshakeRefusal.record(.rawPublicKeyNotTaken, for: ssl)
            alert?.pointee = SSL_AD_UNSUPPORTED_CERTIFICATE
            return SSL_CLIENT_HELLO_ERROR
        }
        return SSL_CLIENT_HELLO_SUCCESS
    }

    /// Whether a client takes what the server has to show: OpenSSL would say that there is no cipher suite in common to one
    /// that does not. Where there are pre-shared keys, the client may have meant these.
    private static func canShowItself(to ssl: OpaquePointer) -> Bool {
        guard let exData = ContextExData.of(ssl), exData.hasBareKeysAlone, exData.presharedKeys == nil else {
            return true
        }
        var start: UnsafePointer<UInt8>?
        var count = 0
        guard SSL_client_hello_get0_ext(ssl, RawPublicKeys.serverTypeExtension, &start, &count) == 1, let start else {
            return false
        }
        // The length of the list in a byte, and a byte for each type (RFC 7250, section 3).
        return UnsafeBufferPointer(start: start, count: count).dropFirst().contains(RawPublicKeys.type)
    }

    /// Makes a connection one of this context's. SSL_set_SSL_CTX takes the certificate and the trusted CAs along, but
    /// neither the verification mode, nor how long a client's chain may be, nor, once it differs, the session context.
    ///
    /// A session is resumed only for the name that it was made for (RFC 6066, section 3).
    private func adopt(_ ssl: OpaquePointer, askedFor name: String? = nil) {
        guard SSL_set_SSL_CTX(ssl, pointer) != nil else { return }
        SSL_set_verify(ssl, SSL_CTX_get_verify_mode(pointer), nil)
        _ = co_ssl_set_max_cert_list(ssl, co_ssl_ctx_get_max_cert_list(pointer))
        // 0xff: no name, and no text, has this byte.
        let context = name.map { Self.shorten(sessionIDContext + [0xff] + $0.utf8) } ?? sessionIDContext
        _ = SSL_set_session_id_context(ssl, context, UInt32(truncatingIfNeeded: context.count))
    }
}

/// The server_name extension of a ClientHello that OpenSSL is at (RFC 6066, section 3).
private enum ServerName {
    /// The host name in lower case and without a dot at its end, or `nil` where none is asked for. One that is not
    /// UTF-8 becomes a name that no server has.
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
