import DTLSEngine
import LinuxSystem
import Primitives

/// Which of the clients with a valid certificate a server lets in. (Not in the reference.)
///
/// A rule names certificates in one line of text:
///
/// | rule | the certificates that it means |
/// | --- | --- |
/// | `cn:NAME` | with this common name in the subject |
/// | `dns:NAME`, `ip:ADDRESS`, `uri:URI`, `email:MAILBOX` | with this subject alternative name |
/// | `cn:*.NAME`, `dns:*.NAME` | with any name that has exactly one label more |
/// | `ip:ADDRESS/BITS` | with any address of the network |
/// | `uri:START*` | with any URI that starts so |
/// | `email:*@HOST` | with any mailbox of the host |
/// | `sha256:DIGITS` | this one alone, by the SHA-256 of the whole certificate |
///
/// Those that are kept out get the alert access_denied.
public struct DtlsClientRules: Sendable, Equatable {
    /// Where it is not empty, a client's certificate must match one of these. Where there is no `ca`, they must be `sha256:`
    /// rules: certificates are trusted by these alone then, whatever their issuers and dates are.
    public var allow: [String]
    /// No client's certificate may match one of these.
    public var deny: [String]
    /// Certificate revocation lists, PEM, each of them of one issuer. Where there are any, each certificate of a chain but
    /// the trusted one needs a list of its issuer that is in force, also those of clients that ask for a name with a `ca`
    /// of its own.
    public var revocationLists: [String]

    /// Nothing is checked here: what is given options with a wrong rule throws.
    public init(allow: [String] = [], deny: [String] = [], revocationLists: [String] = []) {
        self.allow = allow
        self.deny = deny
        self.revocationLists = revocationLists
    }

    func apply(to verification: inout PeerVerification) throws(DtlsError) {
        verification.allow = try Self.parse(allow, "allow")
        verification.deny = try Self.parse(deny, "deny")
        verification.revocationLists = revocationLists
    }

    private static func parse(_ rules: [String], _ name: String) throws(DtlsError) -> [PeerRule] {
        var parsed: [PeerRule] = []
        for text in rules {
            do throws(PeerRuleError) {
                parsed.append(try PeerRule(text))
            } catch {
                throw .invalid("clientRules.\(name): \(Printable.quoted(text, limit: 200)): \(error)")
            }
        }
        return parsed
    }
}

/// A public key that a peer may show in the place of a certificate (raw public keys, RFC 7250), and what the peer is called
/// then. They need OpenSSL 3.2 or later. (Not in the reference.)
public struct DtlsPublicKey: Sendable, Equatable {
    /// What the peer is called (``DtlsPeer/rawPublicKeyName``): 1 to 64 bytes. Several keys may have the same name.
    public let name: String
    /// SHA-256 of the key's SubjectPublicKeyInfo: 32 bytes.
    public let fingerprint: [UInt8]

    /// Why there are no raw public keys, in one sentence; `nil` where there are.
    public static var unavailability: String? { RawPublicKeys.missing }

    /// - Parameters:
    ///   - name: what the peer is called.
    ///   - fingerprint: SHA-256 of the key's SubjectPublicKeyInfo.
    /// - Throws: `.invalid` for a name that is empty or too long, and a fingerprint that has not 32 bytes.
    public init(name: String, fingerprint: [UInt8]) throws(DtlsError) {
        guard (1...KnownPublicKey.maximumNameLength).contains(name.utf8.count) else {
            throw .invalid(
                "a public key's name has \(name.utf8.count) bytes; it must have 1 to \(KnownPublicKey.maximumNameLength)"
            )
        }
        guard fingerprint.count == 32 else {
            throw .invalid(
                "the fingerprint of the public key \"\(name)\" has \(fingerprint.count) bytes; it must have 32")
        }
        self.name = name
        self.fingerprint = fingerprint
    }

    /// - Parameters:
    ///   - name: what the peer is called.
    ///   - pem: the key ("PUBLIC KEY"), as `openssl pkey -pubout` and `openssl x509 -noout -pubkey` print it.
    public init(name: String, pem: String) throws(DtlsError) {
        let fingerprint: [UInt8]
        do throws(OpenSSLError) {
            fingerprint = try RawPublicKeys.fingerprint(ofPublicKey: pem)
        } catch {
            throw .credentials("the public key \"\(name)\" is not valid PEM: \(error)")
        }
        try self.init(name: name, fingerprint: fingerprint)
    }

    /// - Returns: `nil` for none.
    static func known(_ keys: [DtlsPublicKey]) throws(DtlsError) -> KnownPublicKeys? {
        guard !keys.isEmpty else { return nil }
        var seen: Set<[UInt8]> = []
        for key in keys where !seen.insert(key.fingerprint).inserted {
            throw .invalid("the public key \"\(key.name)\" is there twice")
        }
        return engineKeys(keys)
    }

    static func engineKeys(_ keys: [DtlsPublicKey]) -> KnownPublicKeys {
        KnownPublicKeys(keys.map { KnownPublicKey(name: $0.name, fingerprint: $0.fingerprint) })
    }
}

/// The keys that a server seals its session tickets with (RFC 5077). (Not in the reference.)
enum TicketKeys {
    static func check(_ keys: [[UInt8]]) throws(DtlsError) {
        var names: Set<[UInt8]> = []
        for (index, key) in keys.enumerated() {
            guard let key = TicketKey(key) else {
                throw .invalid("ticket key \(index + 1) has \(key.count) bytes; it must have \(TicketKey.length)")
            }
            guard names.insert(Array(key.name)).inserted else {
                throw .invalid("ticket key \(index + 1) begins with the same 16 bytes as another one")
            }
        }
    }
}

/// The application protocols that a side knows.
enum ApplicationProtocolList {
    static func check(_ names: [String]) throws(DtlsError) {
        for name in names where !(1...255).contains(name.utf8.count) {
            throw .invalid(
                "the application protocol \(Printable.quoted(name, limit: 100)) has \(name.utf8.count) bytes; it must have"
                    + " 1 to 255")
        }
        guard ApplicationProtocols.encodedLength(of: names) <= ApplicationProtocols.maximumLength else {
            throw .invalid(
                "the application protocols have more than \(ApplicationProtocols.maximumLength) bytes together")
        }
    }
}

extension CertifiedKey {
    /// - Parameter staple: an OCSP response about the certificate, DER.
    init(_ certificate: String, _ key: String?, _ passphrase: String?, staple: [UInt8]?) throws(DtlsError) {
        self.init(certificate: certificate, privateKey: key ?? certificate, passphrase: passphrase)
        guard let staple else { return }
        let own: OwnCertificate
        do throws(CredentialsError) { own = try OwnCertificate(pem: certificate) } catch { throw DtlsError(error) }
        do throws(OCSPStapleError) {
            self.staple = try OCSPStaple(staple, for: own)
        } catch {
            throw .credentials("ocspResponse: \(error)")
        }
    }
}
