import DTLSTransport

/// How a ``ConnectionSlot/target`` names the table of the configuration that a connection belongs to: the same way in
/// all processes, and after a reload that has moved or removed tables. The lowest bit tells the kind.
enum SlotTarget {
    static func service(_ name: String) -> UInt64 { ConnectionSlot.hash(of: "service.\(name)") & ~1 }
    static func client(_ name: String) -> UInt64 { ConnectionSlot.hash(of: "client.\(name)") | 1 }
    static func isService(_ target: UInt64) -> Bool { target & 1 == 0 }
}

extension ListeningTable {
    /// The ``SlotTarget`` of this table.
    var slotTarget: UInt64 {
        switch kind {
        case .service: SlotTarget.service(name)
        case .client: SlotTarget.client(name)
        }
    }
}
