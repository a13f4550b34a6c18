import DTLSTransport
import Glibc
import LinuxSystem
import Primitives

/// All connections of the daemon, as the main process keeps them: in the ``SlotTable`` of the worker that serves them,
/// those without sockets also in the ``FlowTable``, and counted in the limits.
///
/// It does no I/O but for making memory files, and takes under 48 bytes for a connection without a socket, beside its
/// slot.
final class ConnectionTable {
    let admission = Admission()
    /// By their numbers.
    private var tables: [SlotTable?] = []
    private var flows = FlowTable()

    /// Slots of a file. They take memory once they are used.
    private static let capacity = 1 << 20

    // MARK: Tables

    /// The numbers of all tables, in ascending order.
    var numbers: [Int] { tables.indices.filter { tables[$0] != nil } }

    /// The table of a number; `nil` where there is none.
    subscript(number: Int) -> SlotTable? { tables.indices.contains(number) ? tables[number] : nil }

    /// The connections of all tables.
    var count: Int { tables.reduce(0) { $0 + ($1?.count ?? 0) } }
    /// The connections of all tables that have no socket.
    var countWithoutSockets: Int { tables.reduce(0) { $0 + ($1.map { $0.count - $0.countWithSockets } ?? 0) } }

    /// Makes an empty table.
    /// - Parameter preferred: its number if no other table has it.
    func makeTable(preferring preferred: Int) throws(SystemError) -> SlotTable {
        guard let number = ([preferred] + Array(0..<FlowTable.maximumTables)).first(where: { self[$0] == nil }) else {
            throw SystemError("a table of connections", errno: EMFILE)
        }
        let table = try SlotTable(number: number, capacity: Self.capacity)
        insert(table)
        return table
    }

    private func insert(_ table: SlotTable) {
        while tables.count <= table.number { tables.append(nil) }
        tables[table.number] = table
    }

    /// Takes over the connections of a file that an earlier main process has kept. Those that are established have no
    /// sockets, and wait for their peers; what others have left is freed.
    /// - Parameter number: the number of the table that it was of. It must be free, and below
    ///   ``FlowTable/maximumTables``.
    func adopt(_ file: SlotFile, number: Int) {
        let table = SlotTable(number: number, adopting: file)
        insert(table)
        for index in table.indices {
            guard let connection = table.number(at: index), let flow = table[connection].flow else { continue }
            admission.adopt(flow.peer, table[connection].target)
            insert(connection, flow, table)
        }
    }

    /// Is told of a table that was dropped: another one may get its number.
    var onTableRemoved: (Int) -> Void = { _ in }

    /// Drops a table that has no connections, with its file.
    func removeTable(_ number: Int) {
        guard self[number]?.count == 0 else { return }
        tables[number] = nil
        onTableRemoved(number)
    }

    /// Forgets all tables and their connections, which another main process goes on with. None has a socket.
    /// - Returns: the files, by the numbers of the tables.
    func forgetAll() -> [Int: SlotFile] {
        forEach { admission.end($0, $1) }
        var files: [Int: SlotFile] = [:]
        for number in numbers { files[number] = self[number]?.file }
        tables = []
        flows = FlowTable()
        return files
    }

    // MARK: Connections

    /// The table that a connection is in; `nil` where it is gone.
    private func table(of connection: ConnectionNumber) -> SlotTable? {
        guard let table = self[connection.worker], table.contains(connection) else { return nil }
        return table
    }

    func contains(_ connection: ConnectionNumber) -> Bool { table(of: connection) != nil }

    /// What is kept of a connection; `nil` where it is gone.
    func slot(of connection: ConnectionNumber) -> ConnectionSlot? { table(of: connection)?[connection] }

    /// Whether the connection is there and has a socket.
    func hasSocket(_ connection: ConnectionNumber) -> Bool { table(of: connection)?.hasSocket(connection) ?? false }

    /// Whether a socket may be made for a connection: it is there, has none, and no other connection has its flow.
    func lacksSocket(_ connection: ConnectionNumber) -> Bool {
        guard let table = table(of: connection) else { return false }
        return !table.hasSocket(connection) && !table.isSuperseded(connection)
    }

    /// The connection of a flow that has no socket.
    func connectionWithoutSocket(of flow: FlowKey) -> ConnectionNumber? {
        let place = flows.place(of: flow) { self[$0.table]?.file[$0.slot].flow == flow }
        return place.flatMap { self[$0.table]?.number(at: $0.slot) }
    }

    /// Takes a slot for a new connection, which has a socket and is in its handshake.
    /// - Parameter target: its ``SlotTarget``.
    /// - Returns: `nil` where the table is full.
    func begin(_ flow: FlowKey, target: UInt64, in number: Int, now: Instant) -> ConnectionNumber? {
        guard let connection = self[number]?.take(flow, target: target, now: now) else { return nil }
        admission.begin(flow.peer, target, now: now)
        return connection
    }

    /// The first handshake of a connection has succeeded. Later calls change nothing.
    func establish(_ connection: ConnectionNumber) {
        guard let table = table(of: connection), table.isHandshaking(connection) else { return }
        table.establish(connection)
        admission.endHandshake(table[connection].target)
    }

    /// A connection has ended: frees its slot and its place in the limits.
    func end(_ connection: ConnectionNumber) {
        guard let table = table(of: connection) else { return }
        if table.isHandshaking(connection) { admission.endHandshake(table[connection].target) }
        if let flow = table[connection].flow {
            if !table.hasSocket(connection) { flows.remove(place(connection), flow) }
            admission.end(flow.peer, table[connection].target)
        }
        table.free(connection)
    }

    /// A connection has no socket from now on.
    func noteWithoutSocket(_ connection: ConnectionNumber) {
        guard let table = table(of: connection), table.hasSocket(connection), let flow = table[connection].flow else {
            return
        }
        // Whatever the worker has not reported yet: nothing without a socket is in its handshake.
        establish(connection)
        table.setHasSocket(false, connection)
        insert(connection, flow, table)
    }

    /// A socket was made for a connection.
    func noteSocket(_ connection: ConnectionNumber) {
        guard let table = table(of: connection), !table.hasSocket(connection), let flow = table[connection].flow else {
            return
        }
        flows.remove(place(connection), flow)
        table.setHasSocket(true, connection)
    }

    /// A flow has one connection: the peer has begun another one where it could not know that the first was kept, or
    /// where it has given that one up.
    private func insert(_ connection: ConnectionNumber, _ flow: FlowKey, _ table: SlotTable) {
        if let other = connectionWithoutSocket(of: flow), let otherTable = self.table(of: other) {
            guard otherTable[other].started <= table[connection].started else { return table.supersede(connection) }
            flows.remove(place(other), flow)
            otherTable.supersede(other)
        }
        flows.insert(place(connection), flow)
    }

    private func place(_ connection: ConnectionNumber) -> FlowTable.Place {
        FlowTable.Place(table: connection.worker, slot: connection.slot)
    }

    // MARK: Moving

    /// Moves an established connection that has no socket to another table.
    /// - Returns: its number from now on; `nil` where it is gone, or the other table is full.
    func move(_ connection: ConnectionNumber, to number: Int) -> ConnectionNumber? {
        guard let table = table(of: connection), let other = self[number], other !== table, other.hasRoom,
            !table.hasSocket(connection), table[connection].phase == .established, let flow = table[connection].flow
        else { return nil }
        let isFound = flows.remove(place(connection), flow)
        guard let new = other.take(connection, from: table) else {
            if isFound { flows.insert(place(connection), flow) }
            return nil
        }
        if isFound { flows.insert(place(new), flow) }
        return new
    }

    /// What has become of the connections of a worker that has died.
    struct Survival: Equatable {
        /// Connections that the next worker goes on with.
        var kept = 0
        /// Connections that were in their handshake.
        var handshaking = 0
        /// Connections whose records were OpenSSL's.
        var bound = 0
        /// The connection that has ended because two workers have died within a minute while they worked on it.
        var poison: (flow: FlowKey, target: UInt64)?

        var lost: Int { handshaking + bound + (poison == nil ? 0 : 1) }

        static func == (one: Survival, other: Survival) -> Bool {
            one.kept == other.kept && one.handshaking == other.handshaking && one.bound == other.bound
                && one.poison?.flow == other.poison?.flow
        }
    }

    /// Deaths on one connection within this time end it.
    static let deathInterval = Duration.seconds(60)

    /// The worker of a table has died: its established connections have no sockets from now on, and its others have
    /// ended.
    func workerDied(_ number: Int, now: Instant) -> Survival {
        var survival = Survival()
        guard let table = self[number] else { return survival }
        if let current = table.file.current, let connection = table.number(at: current),
            table[connection].phase == .established
        {
            survival.poison = noteDeath(table[connection], now: now)
            if survival.poison != nil { end(connection) }
        }
        table.file.current = nil
        for index in table.indices {
            guard let connection = table.number(at: index) else { continue }
            switch table[connection].phase {
            case .established where table[connection].flow != nil:
                if table.hasSocket(connection) { noteWithoutSocket(connection) }
                continue
            case .bound: survival.bound += 1
            case .handshaking, .free: survival.handshaking += 1
            case .established, .ended: break
            }
            end(connection)
        }
        survival.kept = table.count
        return survival
    }

    /// - Returns: the connection where it is to end.
    private func noteDeath(_ slot: ConnectionSlot, now: Instant) -> (flow: FlowKey, target: UInt64)? {
        let isSecond = slot.deaths > 0 && now - slot.lastDeath < Self.deathInterval
        slot.deaths &+= 1
        slot.lastDeath = now
        guard isSecond, let flow = slot.flow else { return nil }
        return (flow, slot.target)
    }

    /// Calls `body` with the peer and the target of every connection.
    func forEach(_ body: (SocketAddress, UInt64) -> Void) {
        for case let table? in tables {
            for index in table.indices {
                guard let connection = table.number(at: index), let flow = table[connection].flow else { continue }
                body(flow.peer, table[connection].target)
            }
        }
    }
}
