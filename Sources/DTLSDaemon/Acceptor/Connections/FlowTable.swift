import DTLSTransport

/// The connections by their flow. What comes from the flow of one without a socket to a listener is of it.
///
/// It is an open-addressing hash table with linear probing, of 8 bytes an entry: where the connection's slot is, and
/// 27 bits of its flow's hash. The flow itself is in the slot, which a look-up reads only where those bits agree. The
/// hash is keyed at random (`Hasher`), so nobody can choose addresses that share a place. A million entries take 16 MiB.
struct FlowTable {
    /// Where the slot of a connection is.
    struct Place: Equatable {
        /// The number of its ``SlotTable``, below ``maximumTables``.
        let table: Int
        /// Below ``SlotFile/maximumCapacity``.
        let slot: Int
    }

    static let maximumTables = 1 << tableBits
    private static let slotBits: UInt64 = 25
    private static let tableBits: UInt64 = 12
    private static let tagBits = 64 - slotBits - tableBits
    /// With more places, the bits of the hash in an entry would not tell its home.
    private static let maximumCapacityBits = tagBits
    private static let minimumCapacityBits: UInt64 = 10

    private(set) var count = 0
    private var capacityBits = minimumCapacityBits
    /// Zero: free.
    private var entries = [UInt64](repeating: 0, count: 1 << minimumCapacityBits)

    /// Bytes of memory.
    var byteCount: Int { entries.count * MemoryLayout<UInt64>.size }

    // MARK: Entries

    private static func tag(of flow: FlowKey) -> UInt64 {
        var hasher = Hasher()
        hasher.combine(flow)
        return UInt64(truncatingIfNeeded: hasher.finalize()) >> (slotBits + tableBits)
    }

    private static func entry(_ tag: UInt64, _ place: Place) -> UInt64 {
        // One more than the slot, so that no entry is zero.
        tag << (slotBits + tableBits) | UInt64(truncatingIfNeeded: place.table) << slotBits
            | (UInt64(truncatingIfNeeded: place.slot) + 1)
    }

    private static func tag(_ entry: UInt64) -> UInt64 { entry >> (slotBits + tableBits) }

    private static func place(_ entry: UInt64) -> Place {
        Place(
            table: Int(truncatingIfNeeded: entry >> slotBits & (1 << tableBits - 1)),
            slot: Int(truncatingIfNeeded: entry & (1 << slotBits - 1)) - 1)
    }

    /// The upper bits of the tag, so that entries keep their order when the table grows.
    private func home(_ tag: UInt64) -> Int { Int(truncatingIfNeeded: tag >> (Self.tagBits - capacityBits)) }

    private var mask: Int { entries.count - 1 }

    // MARK: Use

    /// The place of the connection of a flow.
    /// - Parameter isOfFlow: whether the connection there has this flow.
    func place(of flow: FlowKey, where isOfFlow: (Place) -> Bool) -> Place? {
        let tag = Self.tag(of: flow)
        var index = home(tag)
        while entries[index] != 0 {
            if Self.tag(entries[index]) == tag, isOfFlow(Self.place(entries[index])) {
                return Self.place(entries[index])
            }
            index = (index + 1) & mask
        }
        return nil
    }

    /// - Parameter place: a place that is not in the table.
    mutating func insert(_ place: Place, _ flow: FlowKey) {
        if (count + 1) * 4 > entries.count * 3, capacityBits < Self.maximumCapacityBits { resize(capacityBits + 1) }
        // A place must stay free, where every search ends.
        guard count + 1 < entries.count else { return }
        put(Self.entry(Self.tag(of: flow), place))
        count += 1
    }

    private mutating func put(_ entry: UInt64) {
        var index = home(Self.tag(entry))
        while entries[index] != 0 { index = (index + 1) & mask }
        entries[index] = entry
    }

    /// - Returns: whether the place was in the table.
    @discardableResult
    mutating func remove(_ place: Place, _ flow: FlowKey) -> Bool {
        let entry = Self.entry(Self.tag(of: flow), place)
        var index = home(Self.tag(entry))
        while entries[index] != entry {
            guard entries[index] != 0 else { return false }
            index = (index + 1) & mask
        }
        close(index)
        count -= 1
        if count * 8 < entries.count, capacityBits > Self.minimumCapacityBits { resize(capacityBits - 1) }
        return true
    }

    /// Frees a place, and moves up what has been put behind it for want of a place before it.
    private mutating func close(_ freed: Int) {
        var gap = freed
        var index = freed
        while true {
            index = (index + 1) & mask
            guard entries[index] != 0 else { break }
            let home = home(Self.tag(entries[index]))
            // An entry must not come before its home.
            guard (index - home) & mask >= (index - gap) & mask else { continue }
            entries[gap] = entries[index]
            gap = index
        }
        entries[gap] = 0
    }

    private mutating func resize(_ bits: UInt64) {
        let former = entries
        capacityBits = bits
        entries = [UInt64](repeating: 0, count: 1 << bits)
        for entry in former where entry != 0 { put(entry) }
    }
}
