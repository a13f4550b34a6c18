import COpenSSL
import Primitives

/// The reason why a client was refused for the certificate or raw public key that it has shown.
public struct PeerRejection: Sendable, Equatable, CustomStringConvertible {
    enum Reason: Sendable, Equatable {
        case chain(ChainFault)
        case rule(RuleFault)
    }

    enum RuleFault: Sendable, Equatable {
        case denied(String)
        case notAllowed
        /// A name that cannot be read.
        case unreadable
        /// A name with a NUL in it.
        case nul
        /// A raw public key that nobody knows.
        case unknownKey
        /// A certificate, where raw public keys alone are taken.
        case notAKey
    }

    /// The names that the client claims. None of them is proven.
    public let client: PeerName
    let reason: Reason

    /// A sentence for the operator: which certificate, and what is wrong with it.
    public var description: String {
        if case .rule(.unknownKey) = reason {
            return "the client's raw public key sha256:\(client.fingerprint ?? "…") is not among those that are known"
        }
        let fault =
            switch reason {
            case .chain(let fault): fault.text
            case .rule(.denied(let rule)): "matches \(Printable.quoted(rule, limit: 200)) of the deny list"
            case .rule(.notAllowed): "matches nothing of the allow list"
            case .rule(.unreadable):
                "has names that cannot be compared with the rules: one is malformed"
            case .rule(.nul):
                "has a name with a NUL byte in it, of which programs would take what stands before it for the whole"
            case .rule(.unknownKey): "is not among those that are known"
            case .rule(.notAKey): "is none of the raw public keys, which are all that clients may show"
            }
        return "client certificate \(ChainFault.quoted(name: client.subject ?? "")) \(fault)"
    }

    /// The alert that says so (RFC 5246, section 7.2.2).
    ///
    /// OpenSSL derives one from the error of the check (ssl_x509err2alert), with access_denied for none of them, and
    /// for some another one than the RFC.
    var alert: UInt8 {
        switch reason {
        case .rule: UInt8(SSL_AD_ACCESS_DENIED)
        case .chain(let fault): fault.alert
        }
    }

    /// Puts ``alert`` in the place of the one that OpenSSL has just written. That is in the clear: in a first handshake
    /// the server has no keys in use yet when it sees the client's certificate.
    func correctAlert(in outbox: Outbox) {
        let alert = alert
        outbox.withDatagrams { bytes, sizes in
            guard let size = sizes.last else { return }
            MutableRecord.replaceFatalAlert(
                in: UnsafeMutableRawBufferPointer(rebasing: bytes.suffix(size)), by: alert)
        }
    }
}
