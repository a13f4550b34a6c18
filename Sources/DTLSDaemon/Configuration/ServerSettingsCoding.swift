import DTLSEngine
import DTLSTransport

// A service's TLS settings as the bytes that go from one process to another.

extension ServerSettings {
    func write(to writer: inout ByteWriter) {
        writer.list(certifiedKeys) { $1.write(to: &$0) }
        clients.write(to: &writer)
        writer.optional(ciphers) { $0.string($1) }
        writer.integer(minimumVersion.rawValue)
        writer.optional(maximumVersion) { $0.integer($1.rawValue) }
        writeIdentity(to: &writer)
        writer.optional(presharedKeys) { $1.write(to: &$0) }
        sessions.write(to: &writer)
    }

    init(from reader: inout ByteReader) throws(MalformedBytes) {
        self.init(
            certifiedKeys: try reader.list { (reader) throws(MalformedBytes) in try CertifiedKey(from: &reader) },
            clients: try PeerVerification(from: &reader),
            ciphers: try reader.optionalString(),
            minimumVersion: try Self.version(from: &reader),
            maximumVersion: try reader.optional { (reader) throws(MalformedBytes) in try Self.version(from: &reader) })
        try readIdentity(from: &reader)
        presharedKeys = try reader.optional { (reader) throws(MalformedBytes) in try PresharedKeys(from: &reader) }
        sessions = try SessionSettings(from: &reader)
    }

    private static func version(from reader: inout ByteReader) throws(MalformedBytes) -> ProtocolVersion {
        guard let version = ProtocolVersion(rawValue: try reader.integer()) else { throw MalformedBytes() }
        return version
    }
}
