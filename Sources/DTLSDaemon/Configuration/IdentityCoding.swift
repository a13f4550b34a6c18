import DTLSEngine
import DTLSTransport

// What a service proves itself with, and its policy, as the bytes that go from one process to another.

extension ServerSettings {
    func writeIdentity(to writer: inout ByteWriter) {
        writer.list(names) { writer, identity in
            writer.string(identity.name)
            writer.list(identity.certifiedKeys) { $1.write(to: &$0) }
        }
        writer.bool(refusesUnknownNames)
        writer.bool(choosesByAddress)
        writer.list(applicationProtocols) { $0.string($1) }
        writer.string(policy.rawValue)
        writer.bool(allowsRenegotiation)
    }

    mutating func readIdentity(from reader: inout ByteReader) throws(MalformedBytes) {
        names = try reader.list { (reader) throws(MalformedBytes) in
            VirtualHost(
                name: try reader.string(),
                certifiedKeys: try reader.list { (reader) throws(MalformedBytes) in try CertifiedKey(from: &reader) })
        }
        refusesUnknownNames = try reader.bool()
        choosesByAddress = try reader.bool()
        applicationProtocols = try reader.list { (reader) throws(MalformedBytes) in try reader.string() }
        guard let policy = CipherPolicy(rawValue: try reader.string()) else { throw MalformedBytes() }
        self.policy = policy
        allowsRenegotiation = try reader.bool()
    }
}

extension CertifiedKey {
    func write(to writer: inout ByteWriter) {
        writer.string(certificate)
        writer.string(privateKey)
        writer.optional(passphrase) { $0.string($1) }
        writer.optional(staple) { writer, staple in
            writer.data(staple.response)
            writer.optional(staple.expiry) { $0.integer($1) }
        }
    }

    init(from reader: inout ByteReader) throws(MalformedBytes) {
        self.init(
            certificate: try reader.string(), privateKey: try reader.string(), passphrase: try reader.optionalString())
        staple = try reader.optional { (reader) throws(MalformedBytes) in
            OCSPStaple(
                checked: try reader.array(),
                expiry: try reader.optional { (reader) throws(MalformedBytes) in try reader.integer() })
        }
    }
}

extension StapleFile {
    func write(to writer: inout ByteWriter) {
        writer.string(service)
        writer.optional(host) { $0.string($1) }
        writer.string(path)
        writer.string(key)
        writer.bool(isWatched)
    }

    init(from reader: inout ByteReader) throws(MalformedBytes) {
        self.init(
            service: try reader.string(), host: try reader.optionalString(), path: try reader.string(),
            key: try reader.string(), isWatched: try reader.bool())
    }
}
