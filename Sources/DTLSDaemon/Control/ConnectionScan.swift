import ControlProtocol
import DTLSEngine
import DTLSTransport
import LinuxSystem
import Primitives

/// Which connections are meant, by what is in their slots.
struct ConnectionCondition {
    /// The ``SlotTarget``; `nil`: any.
    var target: UInt64?
    var peers: AddressPattern?
    var identity: String?
    var state: ListedState?
    /// What the peer puts into its records (RFC 9146).
    var connectionID: ConnectionID?

    /// Whether it holds for a connection. What costs most is asked last.
    func holds(_ slot: ConnectionSlot, _ state: ListedState) -> Bool {
        if let target, slot.target != target { return false }
        if let expected = self.state, state != expected { return false }
        if let connectionID, slot.ownConnectionID != connectionID { return false }
        if let peers {
            guard let peer = slot.lastFlow?.peer, peers.matches(peer) else { return false }
        }
        guard let identity else { return true }
        guard state != .handshake, let name = slot.session?.peerName else { return false }
        return [name.commonName, name.subject, name.fingerprint, name.presharedKeyIdentity, name.publicKeyName]
            .contains(identity)
    }

    /// Whether details are to be decoded of every connection.
    var isCostly: Bool { identity != nil }
}

/// Goes through all slots of all tables in steps, so that a million of them do not keep the loop from its work.
struct ConnectionWalk {
    /// Slots that are looked at in a step: a millisecond or so.
    static let slotsPerStep = 4_096
    static let costlySlotsPerStep = 256

    private var table = 0
    private var index = 0

    /// Calls `body` with the connections in the next slots.
    /// - Returns: whether there are more slots.
    mutating func step(
        _ count: Int, through tables: ConnectionTable,
        _ body: (ConnectionNumber, ConnectionSlot, ListedState) -> Void
    ) -> Bool {
        var left = count
        while left > 0 {
            guard let number = tables.numbers.first(where: { $0 >= table }), let slots = tables[number] else {
                return false
            }
            if number != table {
                table = number
                index = 0
            }
            let end = min(index + left, slots.indices.upperBound)
            while index < end {
                if let connection = slots.number(at: index) {
                    body(connection, slots[connection], Self.state(of: connection, in: slots))
                }
                index += 1
                left -= 1
            }
            if index >= slots.indices.upperBound {
                table += 1
                index = 0
            }
        }
        return true
    }

    static func state(of connection: ConnectionNumber, in table: SlotTable) -> ListedState {
        if table.isHandshaking(connection) { return .handshake }
        return table.hasSocket(connection) ? .established : .parked
    }
}

/// A page of the connections for which a condition holds, found in one pass over all of them: it keeps no more than the
/// best that it has seen.
struct ConnectionPage {
    /// The place of a connection in the order that was asked for.
    struct Place: Comparable, Hashable {
        /// Lower ones come first.
        let rank: UInt64
        let connection: ConnectionNumber

        static func < (one: Place, other: Place) -> Bool {
            one.rank != other.rank ? one.rank < other.rank : one.connection.rawValue < other.connection.rawValue
        }

        /// As it stands in a cursor.
        var text: String { String(rank, radix: 16) + "." + String(connection.rawValue, radix: 16) }

        init(_ rank: UInt64, _ connection: ConnectionNumber) {
            self.rank = rank
            self.connection = connection
        }

        init?(text: String) {
            let parts = text.split(separator: ".", omittingEmptySubsequences: false)
            guard parts.count == 2, let rank = UInt64(parts[0], radix: 16), let number = UInt64(parts[1], radix: 16)
            else { return nil }
            self.init(rank, ConnectionNumber(rawValue: number))
        }
    }

    private let sort: ConnectionsQuery.Sort
    private let order: ConnectionsQuery.Order
    private let limit: Int
    /// The page begins after this place.
    private let start: Place?
    /// All that the condition holds for, those before the page included.
    private(set) var matched = 0
    /// In order; one more than a page has where there is another page.
    private var best: [Place] = []

    init(_ query: ConnectionsQuery, after start: Place?) {
        sort = query.sort
        order = query.order
        limit = query.limit
        self.start = start
    }

    /// Takes a connection for which the condition holds.
    mutating func add(_ connection: ConnectionNumber, _ slot: ConnectionSlot) {
        matched += 1
        let place = Place(rank(slot), connection)
        if let start, place <= start { return }
        if best.count > limit {
            guard let last = best.last, place < last else { return }
            best.removeLast()
        }
        var low = 0
        var high = best.count
        while low < high {
            let middle = (low + high) / 2
            if best[middle] < place { low = middle + 1 } else { high = middle }
        }
        best.insert(place, at: low)
    }

    private func rank(_ slot: ConnectionSlot) -> UInt64 {
        switch sort {
        // The oldest is the one that began first.
        case .age: order == .descending ? slot.started.nanoseconds : ~slot.started.nanoseconds
        case .idle: order == .descending ? slot.lastReceived.nanoseconds : ~slot.lastReceived.nanoseconds
        case .traffic:
            order == .descending ? ~slot.counters.bytes : slot.counters.bytes
        }
    }

    /// The connections of the page.
    var connections: [ConnectionNumber] { best.prefix(limit).map(\.connection) }

    /// Where the next page begins; `nil` where this is the last.
    var nextCursor: String? { best.count > limit ? best[limit - 1].text : nil }
}

extension Connection.Counters {
    /// In both directions.
    fileprivate var bytes: UInt64 { bytesIn &+ bytesOut }
}
