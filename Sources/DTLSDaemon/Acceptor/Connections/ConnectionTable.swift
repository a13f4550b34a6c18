import DTLSEngine
import DTLSTransport
import Glibc
import LinuxSystem
import Primitives

/// All connections of the daemon, as the main process keeps them: in the ``SlotTable`` of the worker that serves them,
/// in the ``FlowTable``, and counted in the limits. Those that have moved since they got their connection IDs are also
/// known by the numbers in these.
///
/// It does no I/O but for making memory files, and takes under 48 bytes for a connection that has not moved, beside its
/// slot.
final class ConnectionTable {
    let admission = Admission()
    /// By their numbers.
    private var tables: [SlotTable?] = []
    private var flows = FlowTable()
    /// The connections that have other numbers than those in their connection IDs, by these.
    private var moved: [ConnectionNumber: ConnectionNumber] = [:]
    /// The numbers in the connection IDs of ``moved``, by those that the connections have.
    private var named: [ConnectionNumber: ConnectionNumber] = [:]
    /// Tables that were adopted while no configuration was active, so that nobody could read their connection IDs.
    private var unread: [Int] = []
    /// The tables whose worker has died, as long as not all of their slots have been looked at.
    private var reviews: [Int: SlotReview] = [:]
    /// Makes the connection IDs of new connections, and reads those of all; `nil` before the first configuration is
    /// active.
    var connectionIDs: ConnectionIDAuthority? {
        didSet { readConnectionIDs() }
    }

    /// How many connections of each service and client there are, by state.
    private(set) var occupancy = Occupancy()
    /// Where this process counts; `nil` where nobody asks.
    var counters: CounterRegistry?

    /// Numbers of files that this process cannot use, and that are kept.
    private var reserved: Set<Int> = []

    /// Slots of each table that is made from now on. They take address space, and memory once they are used.
    private(set) var capacity = leastCapacity
    private static let leastCapacity = 1 << 20

    /// Makes tables from now on so large that each could hold all connections that the limits allow, since all may come to
    /// one worker. Tables that there are keep their size.
    /// - Parameter limit: `nil` where there is none.
    func allowConnections(_ limit: Int?) {
        capacity = min(max(limit ?? 0, Self.leastCapacity), SlotFile.maximumCapacity)
    }

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
        let numbers = [preferred] + Array(0..<FlowTable.maximumTables)
        guard let number = numbers.first(where: { self[$0] == nil && !reserved.contains($0) }) else {
            throw SystemError("a table of connections", errno: EMFILE)
        }
        let table = try SlotTable(number: number, capacity: capacity)
        insert(table)
        return table
    }

    /// Makes no table with this number.
    func reserve(_ number: Int) { reserved.insert(number) }

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
            guard let connection = table.number(at: index), let flow = table[connection].lastFlow else { continue }
            admission.adopt(flow.peer, table[connection].target)
            occupancy.change(table[connection].target, from: nil, to: .parked)
            guard table[connection].flow != nil else { continue }
            if let other = self.connection(of: flow), let otherSlot = slot(of: other) {
                // The process before this one has died while it moved one of them.
                guard otherSlot.lastReceived <= table[connection].lastReceived else {
                    table[connection].leaveFlow()
                    continue
                }
            }
            take(flow, for: connection)
        }
        unread.append(number)
        readConnectionIDs()
    }

    /// Finds out which connections in adopted tables are known by other numbers than those that they have.
    private func readConnectionIDs() {
        guard let connectionIDs else { return }
        for table in unread.compactMap({ self[$0] }) {
            for index in table.indices {
                guard let connection = table.number(at: index), let id = table[connection].ownConnectionID,
                    case .connection(let name) = connectionIDs.read(id)
                else { continue }
                note(connection, isNamed: name)
            }
        }
        unread = []
    }

    /// Is told of a connection whose flow is another one's from now on. It may have a socket.
    var onFlowLeft: (ConnectionNumber) -> Void = { _ in }

    /// Is told of a table that was dropped: another one may get its number.
    var onTableRemoved: (Int) -> Void = { _ in }

    /// Drops a table that has no connections, with its file.
    func removeTable(_ number: Int) {
        guard self[number]?.count == 0 else { return }
        tables[number] = nil
        reviews[number] = nil
        onTableRemoved(number)
    }

    /// Forgets all tables and their connections, which another main process goes on with. None has a socket.
    /// - Returns: the files, by the numbers of the tables.
    func forgetAll() -> [Int: SlotFile] {
        forEach { admission.end($0, $1) }
        occupancy = Occupancy()
        var files: [Int: SlotFile] = [:]
        for number in numbers { files[number] = self[number]?.file }
        tables = []
        flows = FlowTable()
        moved = [:]
        named = [:]
        unread = []
        reviews = [:]
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
        return !table.hasSocket(connection) && table[connection].flow != nil
    }

    /// The connection of a flow.
    func connection(of flow: FlowKey) -> ConnectionNumber? {
        flows.place(of: flow) { self[$0.table]?.file[$0.slot].flow == flow }.flatMap { connection(at: $0) }
    }

    /// The connection of a flow that has no socket.
    func connectionWithoutSocket(of flow: FlowKey) -> ConnectionNumber? {
        connection(of: flow).flatMap { hasSocket($0) ? nil : $0 }
    }

    /// The connection whose records have a connection ID. Where its handshake is done, it is known that it has just this
    /// one.
    /// - Parameter name: the number in the connection ID.
    func connection(with id: ConnectionID, named name: ConnectionNumber) -> ConnectionNumber? {
        let connection = moved[name] ?? name
        guard let table = table(of: connection), self.connection(at: place(connection)) != nil else { return nil }
        switch table[connection].phase {
        case .handshaking: return connection
        case .established: return table[connection].ownConnectionID == id ? connection : nil
        case .free, .bound, .ended: return nil
        }
    }

    /// Takes a slot for a new connection, which has a socket and is in its handshake.
    /// - Parameter target: its ``SlotTarget``.
    /// - Returns: `nil` where the table is full.
    func begin(_ flow: FlowKey, target: UInt64, in number: Int, now: Instant) -> ConnectionNumber? {
        guard let table = self[number], let connection = table.take(flow, target: target, now: now) else { return nil }
        occupancy.change(target, from: nil, to: state(of: connection, in: table))
        admission.begin(flow.peer, target, now: now)
        take(flow, for: connection)
        return connection
    }

    /// The first handshake of a connection has succeeded. Later calls change nothing.
    func establish(_ connection: ConnectionNumber) {
        guard let table = table(of: connection), table.isHandshaking(connection) else { return }
        let former = state(of: connection, in: table)
        table.establish(connection)
        noteChange(of: connection, in: table, from: former)
        admission.endHandshake(table[connection].target)
    }

    /// A connection has ended: frees its slot and its place in the limits.
    func end(_ connection: ConnectionNumber) {
        guard let table = table(of: connection) else { return }
        if table.isHandshaking(connection) { admission.endHandshake(table[connection].target) }
        occupancy.change(table[connection].target, from: state(of: connection, in: table), to: nil)
        if let flow = table[connection].lastFlow {
            flows.remove(place(connection), flow)
            admission.end(flow.peer, table[connection].target)
        }
        if let name = named.removeValue(forKey: connection) { moved[name] = nil }
        table.free(connection)
    }

    /// A connection has no socket from now on.
    func noteWithoutSocket(_ connection: ConnectionNumber) {
        guard let table = table(of: connection), table.hasSocket(connection) else { return }
        // Whatever the worker has not reported yet: nothing without a socket is in its handshake.
        establish(connection)
        setHasSocket(false, connection, in: table)
    }

    /// A socket was made for a connection.
    func noteSocket(_ connection: ConnectionNumber) {
        if let table = table(of: connection) { setHasSocket(true, connection, in: table) }
    }

    private func setHasSocket(_ hasSocket: Bool, _ connection: ConnectionNumber, in table: SlotTable) {
        let former = state(of: connection, in: table)
        table.setHasSocket(hasSocket, connection)
        noteChange(of: connection, in: table, from: former)
    }

    /// A tunnel counts as open from the beginning: its connections to the server come and go.
    private func state(of connection: ConnectionNumber, in table: SlotTable) -> ConnectionState {
        if table.isHandshaking(connection), SlotTarget.isService(table[connection].target) { return .handshaking }
        return table.hasSocket(connection) ? .open : .parked
    }

    private func noteChange(of connection: ConnectionNumber, in table: SlotTable, from former: ConnectionState) {
        let present = state(of: connection, in: table)
        if present != former { occupancy.change(table[connection].target, from: former, to: present) }
    }

    /// The peer of an established connection is at another flow, for which a socket was made.
    /// - Returns: the connection that had this flow, whose peer is not there any more. It may have a socket.
    @discardableResult
    func rebind(_ connection: ConnectionNumber, to flow: FlowKey) -> ConnectionNumber? {
        guard let table = table(of: connection), let former = table[connection].lastFlow else { return nil }
        establish(connection)
        flows.remove(place(connection), former)
        admission.end(former.peer, table[connection].target)
        admission.adopt(flow.peer, table[connection].target)
        table[connection].move(to: flow)
        setHasSocket(true, connection, in: table)
        return take(flow, for: connection)
    }

    /// Notes that a flow is that of a connection. A flow has one: the peer of another one has left it, or the same peer
    /// has begun another connection, since it could not know that the first was kept.
    /// - Returns: the other connection.
    @discardableResult
    private func take(_ flow: FlowKey, for connection: ConnectionNumber) -> ConnectionNumber? {
        // The slot of this one has the flow already.
        let other = flows.place(of: flow) { $0 != place(connection) && self[$0.table]?.file[$0.slot].flow == flow }
            .flatMap { self[$0.table]?.number(at: $0.slot) }
        if let other {
            flows.remove(place(other), flow)
            slot(of: other)?.leaveFlow()
        }
        flows.insert(place(connection), flow)
        if let other { onFlowLeft(other) }
        return other
    }

    private func place(_ connection: ConnectionNumber) -> FlowTable.Place {
        FlowTable.Place(table: connection.worker, slot: connection.slot)
    }

    // MARK: Moving

    /// Moves an established connection that has no socket to another table.
    /// - Returns: its number from now on; `nil` where it is gone, or the other table is full.
    func move(_ connection: ConnectionNumber, to number: Int) -> ConnectionNumber? {
        guard let table = table(of: connection), let other = self[number], other !== table, other.hasRoom,
            !table.hasSocket(connection), table[connection].phase == .established,
            let flow = table[connection].lastFlow
        else { return nil }
        let isFound = flows.remove(place(connection), flow)
        guard let new = other.take(connection, from: table) else {
            if isFound { flows.insert(place(connection), flow) }
            return nil
        }
        if isFound { flows.insert(place(new), flow) }
        if let target = slot(of: new)?.target { counters?.counters(of: target).count(ConnectionMove.worker) }
        let name = named.removeValue(forKey: connection) ?? connection
        if let slot = slot(of: new), slot.ownConnectionID != nil { note(new, isNamed: name) } else { moved[name] = nil }
        return new
    }

    /// Notes which number is in the connection ID of a connection.
    private func note(_ connection: ConnectionNumber, isNamed name: ConnectionNumber) {
        guard name != connection else {
            moved[name] = nil
            return
        }
        moved[name] = connection
        named[connection] = name
    }

    /// The connections that are known by other numbers than their own.
    var countOfMoved: Int { moved.count }

    /// Deaths on one connection within this time end it.
    static let deathInterval = Duration.seconds(60)

    /// The worker of a table has died: its established connections have no sockets from now on, and its others have ended.
    /// That is found out by ``review(_:effort:)``, slot by slot, or at once for a connection that something comes for.
    ///
    /// Until the review is over, nothing may take a slot of the table or make a socket for a connection in it: no worker
    /// serves it.
    func workerDied(_ number: Int, now: Instant) {
        guard let table = self[number] else { return }
        // Where the next worker has died before the review was over, that goes on: nothing has changed in the slots.
        if reviews[number] == nil { reviews[number] = SlotReview() }
        if let current = table.file.current, let connection = table.number(at: current),
            table[connection].phase == .established, let poison = noteDeath(table[connection], now: now)
        {
            reviews[number]?.survival.poison = poison
            counters?.counters(of: poison.target).count(CloseReason.workerDied)
            end(connection)
        }
        table.file.current = nil
    }

    /// A table whose worker has died, and whose connections have not all been looked at; `nil` where there is none.
    var tableUnderReview: Int? { reviews.keys.min() }

    func isUnderReview(_ number: Int) -> Bool { reviews[number] != nil }

    /// Looks at the next slots of a table whose worker has died.
    /// - Parameter effort: how many slots with nothing to do are looked at; see ``SlotReview``.
    /// - Returns: what has become of all of them, once the last one was looked at; `nil` before.
    func review(_ number: Int, effort: Int = SlotReview.effortPerTurn) -> SlotReview.Survival? {
        guard let table = self[number], let begun = reviews[number] else { return SlotReview.Survival() }
        let range = begun.next..<table.indices.upperBound
        var left = effort
        var next = range.lowerBound
        while left > 0, next < range.upperBound {
            left -= review(next, of: table)
            next += 1
        }
        reviews[number]?.next = next
        guard next == range.upperBound, var survival = reviews.removeValue(forKey: number)?.survival else { return nil }
        survival.kept = table.count
        return survival
    }

    /// Finds out what has become of the connection in a slot of a table whose worker has died. Once that is known, another
    /// call changes nothing.
    /// - Returns: the effort.
    @discardableResult
    private func review(_ index: Int, of table: SlotTable) -> Int {
        guard let connection = table.number(at: index) else { return 1 }
        let target = table[connection].target
        switch table[connection].phase {
        case .established where table[connection].lastFlow != nil:
            guard table.hasSocket(connection) else { return 1 }
            noteWithoutSocket(connection)
            return SlotReview.effortOfChange
        case .bound:
            reviews[table.number]?.survival.bound += 1
            counters?.counters(of: target).count(CloseReason.workerDied)
        case .handshaking, .free:
            reviews[table.number]?.survival.handshaking += 1
            counters?.counters(of: target).count(HandshakeResult.workerDied)
        case .established, .ended: break
        }
        end(connection)
        return SlotReview.effortOfEnd
    }

    /// The connection in a slot that something has come for; `nil` where it has ended with its worker.
    private func connection(at place: FlowTable.Place) -> ConnectionNumber? {
        guard let table = self[place.table] else { return nil }
        if !reviews.isEmpty, isUnderReview(place.table) { review(place.slot, of: table) }
        return table.number(at: place.slot)
    }

    /// - Returns: the connection where it is to end.
    private func noteDeath(_ slot: ConnectionSlot, now: Instant) -> (flow: FlowKey, target: UInt64)? {
        let isSecond = slot.deaths > 0 && now - slot.lastDeath < Self.deathInterval
        slot.deaths &+= 1
        slot.lastDeath = now
        guard isSecond, let flow = slot.lastFlow else { return nil }
        return (flow, slot.target)
    }

    /// How many connections of each service and client there are, by state.
    struct Occupancy {
        /// By ``SlotTarget`` and ``ConnectionState``.
        private var counts: [UInt64: [Int]] = [:]
        private static let none = [Int](repeating: 0, count: ConnectionState.allCases.count)

        subscript(target: UInt64, state: ConnectionState) -> Int { counts[target]?[state.rawValue] ?? 0 }

        /// - Parameters:
        ///   - former: `nil`: the connection begins.
        ///   - present: `nil`: the connection has ended.
        mutating func change(_ target: UInt64, from former: ConnectionState?, to present: ConnectionState?) {
            if let former { counts[target, default: Self.none][former.rawValue] -= 1 }
            if let present { counts[target, default: Self.none][present.rawValue] += 1 }
        }

        var targets: [UInt64] { Array(counts.keys) }

        /// Whether there are tunnels without a socket of their local sender.
        var hasParkedTunnels: Bool {
            counts.contains { !SlotTarget.isService($0.key) && $0.value[ConnectionState.parked.rawValue] > 0 }
        }
    }

    /// Calls `body` with the peer and the target of every connection.
    func forEach(_ body: (SocketAddress, UInt64) -> Void) {
        for case let table? in tables {
            for index in table.indices {
                guard let connection = table.number(at: index), let flow = table[connection].lastFlow else { continue }
                body(flow.peer, table[connection].target)
            }
        }
    }
}
