import DTLSTransport
import LinuxSystem
import Primitives

/// The main process's side of one ``SlotFile``: which slots are taken, and which of their connections have a socket.
/// The file holds everything else.
///
/// It takes a byte for each slot that was ever taken, and four for each that is free again.
final class SlotTable {
    /// The lower half of the numbers of its connections (``ConnectionNumber/worker``). A worker that replaces a dead one
    /// takes over its table, so the number of a table is mostly that of the worker that serves it.
    let number: Int
    let file: SlotFile
    /// The connections in it.
    private(set) var count = 0
    /// Those whose peers' sockets are open in a worker.
    private(set) var countWithSockets = 0
    private var marks: [Marks] = []
    private var free: [UInt32] = []
    /// There is no connection in the slots before this one.
    private var emptyBelow = 0
    private var isLocking = true
    /// Slots are locked in memory so many at a time.
    private static let lockedTogether = 64

    /// What is known of a slot in this process alone.
    private struct Marks: OptionSet {
        let rawValue: UInt8
        static let taken = Marks(rawValue: 1)
        static let hasSocket = Marks(rawValue: 2)
        /// The connection counts as one in its handshake.
        static let handshaking = Marks(rawValue: 4)
    }

    init(number: Int, capacity: Int) throws(SystemError) {
        self.number = number
        file = try SlotFile(capacity: capacity, name: "dtlsd-connections-\(number)")
    }

    /// Takes over a file whose process has ended. Its established connections have no sockets; all other slots are freed.
    init(number: Int, adopting file: SlotFile) {
        self.number = number
        self.file = file
        marks = [Marks](repeating: [], count: file.used)
        for index in marks.indices {
            if file[index].phase == .established, file[index].mendFlow() {
                marks[index] = .taken
                count += 1
            } else {
                if file[index].phase != .free { file[index].free() }
                free.append(UInt32(truncatingIfNeeded: index))
            }
        }
        lock(upTo: marks.count)
    }

    var hasRoom: Bool { !free.isEmpty || marks.count < file.capacity }

    // MARK: Numbers

    /// The slots that were ever taken.
    var indices: Range<Int> { marks.indices }

    /// The number of the connection in a slot; `nil` where there is none.
    func number(at index: Int) -> ConnectionNumber? {
        guard marks.indices.contains(index), marks[index].contains(.taken) else { return nil }
        return ConnectionNumber(worker: number, slot: index, generation: file[index].generation)
    }

    /// Whether the connection of this number is in this table.
    func contains(_ connection: ConnectionNumber) -> Bool { number(at: connection.slot) == connection }

    // The connection is in this table for everything below.

    subscript(connection: ConnectionNumber) -> ConnectionSlot { file[connection.slot] }

    func hasSocket(_ connection: ConnectionNumber) -> Bool { marks[connection.slot].contains(.hasSocket) }
    func isHandshaking(_ connection: ConnectionNumber) -> Bool { marks[connection.slot].contains(.handshaking) }

    // MARK: Changes

    /// Takes a slot for a new connection, which has a socket and is in its handshake.
    /// - Returns: `nil` where all slots are taken.
    func take(_ flow: FlowKey, target: UInt64, now: Instant) -> ConnectionNumber? {
        guard let index = takeFreeSlot([.taken, .hasSocket, .handshaking]) else { return nil }
        file[index].take(flow, target: target, now: now)
        countWithSockets += 1
        return number(at: index)
    }

    /// Moves an established connection without a socket here from another table, which frees its slot.
    /// - Returns: its number from now on; `nil` where all slots are taken, and then nothing has changed.
    func take(_ connection: ConnectionNumber, from other: SlotTable) -> ConnectionNumber? {
        guard let index = takeFreeSlot(other.marks[connection.slot]) else { return nil }
        file.takeOver(other[connection], of: other.file, into: index)
        other.free(connection)
        return number(at: index)
    }

    private func takeFreeSlot(_ new: Marks) -> Int? {
        let index: Int
        if let freed = free.popLast() {
            index = Int(freed)
            marks[index] = new
        } else {
            guard marks.count < file.capacity else { return nil }
            index = marks.count
            marks.append(new)
            if index.isMultiple(of: Self.lockedTogether) { lock(upTo: index + Self.lockedTogether) }
            file.used = marks.count
        }
        count += 1
        emptyBelow = min(emptyBelow, index)
        return index
    }

    /// The first connection.
    /// - Parameter effort: the slots that may be looked at, which is lessened by those that were.
    /// - Returns: `nil` where none was found with that effort; the next call goes on from there.
    func firstConnection(effort: inout Int) -> ConnectionNumber? {
        while emptyBelow < marks.count, effort > 0 {
            if let connection = number(at: emptyBelow) { return connection }
            emptyBelow += 1
            effort -= 1
        }
        return nil
    }

    private func lock(upTo count: Int) {
        // Where the limit is reached, it stays so.
        if isLocking { isLocking = file.lock(min(count, file.capacity)) }
    }

    /// Frees the slot of a connection that has ended.
    func free(_ connection: ConnectionNumber) {
        if marks[connection.slot].contains(.hasSocket) { countWithSockets -= 1 }
        marks[connection.slot] = []
        count -= 1
        file[connection.slot].free()
        free.append(UInt32(truncatingIfNeeded: connection.slot))
    }

    func establish(_ connection: ConnectionNumber) { marks[connection.slot].remove(.handshaking) }

    /// Notes whether the connection has a socket of its peer.
    func setHasSocket(_ hasSocket: Bool, _ connection: ConnectionNumber) {
        guard hasSocket != marks[connection.slot].contains(.hasSocket) else { return }
        if hasSocket {
            marks[connection.slot].insert(.hasSocket)
            countWithSockets += 1
        } else {
            marks[connection.slot].remove(.hasSocket)
            countWithSockets -= 1
        }
    }
}
