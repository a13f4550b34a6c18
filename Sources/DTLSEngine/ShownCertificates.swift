import COpenSSL

/// The certificates that a peer has shown in a handshake: OpenSSL forgets them when a check has failed, and a server when it
/// gives a session to its client (``SessionNotes``).
///
/// They are kept where the settings say so, since most users need no more than the peer's names.
final class ShownCertificates {
    /// DER, in the order in which the peer has sent them: its own first.
    private let chain: [[UInt8]]

    private init(_ chain: [[UInt8]]) { self.chain = chain }

    private static let slot = ExDataSlot<ShownCertificates>(of: .connection)

    /// Notes what a check of OpenSSL's is about.
    static func note(_ store: OpaquePointer, for ssl: OpaquePointer) {
        guard ContextExData.of(ssl)?.keepsPeerCertificates == true, let leaf = X509_STORE_CTX_get0_cert(store) else {
            return
        }
        var chain: [[UInt8]] = []
        // All that was sent, with the peer's own (ssl_verify_cert_chain).
        if let sent = X509_STORE_CTX_get0_untrusted(store) {
            for index in 0..<max(0, OPENSSL_sk_num(sent)) {
                if let certificate = OPENSSL_sk_value(sent, index) {
                    chain.append(CertificateDetails.der(of: OpaquePointer(certificate)))
                }
            }
        }
        if chain.isEmpty { chain = [CertificateDetails.der(of: leaf)] }
        slot.set(ShownCertificates(chain), in: ssl)
    }

    /// What the peer has shown, or what is still known of it where the handshake resumes a session.
    static func chain(of ssl: OpaquePointer) -> [[UInt8]] {
        guard ContextExData.of(ssl)?.keepsPeerCertificates == true else { return [] }
        if let shown = slot.value(in: ssl) { return shown.chain }
        return SSL_get0_peer_certificate(ssl).map { [CertificateDetails.der(of: $0)] } ?? []
    }
}

extension ClientContext {
    /// Has OpenSSL's own check of a server's certificate note what it is about.
    func noteShownCertificates() {
        SSL_CTX_set_cert_verify_callback(
            pointer,
            { store, _ in
                guard let store else { return 0 }
                if let ssl = PeerVerifier.connection(of: store) { ShownCertificates.note(store, for: ssl) }
                return max(0, X509_verify_cert(store))
            }, nil)
    }
}

extension Engine {
    /// All certificates that the peer has shown, DER, its own first, where the context's settings keep them; right after
    /// `.established`, or after the handshake has failed. In a handshake that resumes a session a client knows the first,
    /// and a server none.
    public var peerCertificates: [[UInt8]] { ssl.map(ShownCertificates.chain) ?? [] }

    /// What was agreed on and is known of the peer in a handshake that goes on or has failed, as far as it has come.
    package var unfinishedDetails: SessionDetails? { ssl.map { SessionDetails($0) } }
}
