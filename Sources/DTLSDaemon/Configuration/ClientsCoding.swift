import DTLSEngine
import DTLSTransport

// What a service wants to know of its clients, as the bytes that go from one process to another.

extension PeerVerification {
    func write(to writer: inout ByteWriter) {
        writer.string(mode.rawValue)
        writer.optional(authorities) { $0.string($1) }
        writer.list(revocationLists) { $0.string($1) }
        writer.list(allow) { $0.string($1.text) }
        writer.list(deny) { $0.string($1.text) }
    }

    init(from reader: inout ByteReader) throws(MalformedBytes) {
        guard let mode = Mode(rawValue: try reader.string()) else { throw MalformedBytes() }
        self.init(
            mode: mode, authorities: try reader.optionalString(),
            revocationLists: try reader.list { (reader) throws(MalformedBytes) in try reader.string() },
            allow: try reader.list { (reader) throws(MalformedBytes) in try Self.rule(from: &reader) },
            deny: try reader.list { (reader) throws(MalformedBytes) in try Self.rule(from: &reader) })
    }

    private static func rule(from reader: inout ByteReader) throws(MalformedBytes) -> PeerRule {
        let text = try reader.string()
        guard let rule = try? PeerRule(text) else { throw MalformedBytes() }
        return rule
    }
}
