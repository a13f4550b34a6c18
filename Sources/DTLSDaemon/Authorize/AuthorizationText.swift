import DTLSEngine
import LinuxSystem
import Primitives

/// A question to an authorizer as a datagram of JSON. docs/authorization.md describes its members.
struct AuthorizationText {
    let service: String
    let peer: SocketAddress
    let local: SocketAddress
    let question: AuthorizationQuestion

    /// Bytes of the longest name of a certificate. A longer one is left out, since a part of it can be another client's.
    private static let longestName = 1_024
    /// The most alternative names of each kind. A certificate can have thousands.
    private static let mostNames = 32

    /// The datagram.
    func bytes(id: UInt64) -> [UInt8] {
        var text = JSONText()
        text.object { text in
            text.integer("version", 1)
            text.string("id", Self.text(of: id))
            text.string("service", service)
            address("peer", peer, &text)
            address("local", local, &text)
            client(&text)
            text.bool("resumed", question.isResumed)
        }
        return text.bytes
    }

    /// What the answer is about, for a worker that asks the same again: all of the question but what differs between the
    /// handshakes of one client.
    var key: [UInt8] {
        var text = JSONText()
        text.object { text in
            text.string("address", peer.host)
            text.string("local", "\(local)")
            client(&text)
        }
        return text.bytes
    }

    static func text(of id: UInt64) -> String {
        let digits = String(id, radix: 16)
        return String(repeating: "0", count: 16 - digits.utf8.count) + digits
    }

    private func address(_ name: String, _ address: SocketAddress, _ text: inout JSONText) {
        text.object(name) { text in
            text.string("address", address.host)
            text.integer("port", Int(address.port))
        }
    }

    private func client(_ text: inout JSONText) {
        if let name = question.serverName { text.string("server_name", name) }
        if let name = question.applicationProtocol { text.string("alpn", name) }
        if let identity = question.presharedKeyIdentity {
            text.string("psk_identity", PresharedKeys.text(of: identity))
            text.string("psk_identity_hex", Hexadecimal.text(identity))
        }
        if let key = question.publicKey {
            text.object("public_key") { text in
                if let fingerprint = key.fingerprint { text.string("fingerprint", fingerprint) }
                if let name = key.publicKeyName { text.string("name", name) }
            }
        }
        guard let certificate = question.certificate else { return }
        text.object("certificate") { text in
            var isComplete = true
            func add(_ name: String, _ value: String?) {
                guard let value else { return }
                if value.utf8.count <= Self.longestName { text.string(name, value) } else { isComplete = false }
            }
            add("fingerprint", certificate.fingerprint)
            add("common_name", certificate.commonName)
            add("subject", certificate.subject)
            let names = question.alternativeNames
            for (name, values) in [("dns", names.dns), ("ip", names.ip), ("uri", names.uri), ("email", names.email)]
            where !values.isEmpty {
                let short = values.prefix(Self.mostNames).filter { $0.utf8.count <= Self.longestName }
                if short.count < values.count { isComplete = false }
                text.array(name) { text in for value in short { text.string(nil, value) } }
            }
            text.bool("complete", isComplete)
        }
    }
}
