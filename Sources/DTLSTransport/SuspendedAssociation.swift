import DTLSEngine
import LinuxSystem
import Primitives

/// All that there is of an established association, as bytes: it holds keys. One association goes on with it.
package struct SuspendedAssociation: Equatable {
    package let flow: FlowKey
    /// ``RecordState/byteCount`` bytes.
    let records: [UInt8]
    /// The random of the hello that it began with; `nil` for a client's side.
    let random: ClientRandom?
    package let details: SessionDetails
    /// Whether it is a client's side.
    package var isClient: Bool { random == nil }

    package func encode(into writer: inout ByteWriter) {
        writer.address(flow.peer)
        writer.address(flow.local)
        writer.data(records)
        writer.optional(random) { writer, random in random.withBytes { writer.data($0) } }
        details.encode(into: &writer)
    }

    package init(decoding reader: inout ByteReader) throws(MalformedBytes) {
        flow = FlowKey(peer: try reader.address(), local: try reader.address())
        records = try reader.array()
        random = try reader.optional { (reader) throws(MalformedBytes) in
            guard let random = ClientRandom(writtenDown: try reader.data()) else { throw MalformedBytes() }
            return random
        }
        details = try SessionDetails(decoding: &reader)
    }

    /// Why this program cannot go on with it; `nil` where it can.
    package var fault: InvalidRecordState? { RecordState.fault(of: records) }

    init(_ flow: FlowKey, _ records: [UInt8], _ random: ClientRandom?, _ details: SessionDetails) {
        self.flow = flow
        self.records = records
        self.random = random
        self.details = details
    }
}
