import DTLSEngine
import Glibc
import LinuxSystem
import Primitives

/// What is kept of one connection in a worker's ``SlotFile``: all that another process needs to go on with it.
///
/// A value is a view of memory that the main process and one worker share. The main process takes and frees slots, and
/// writes the flow and the target before it hands a connection over; from then on the worker alone writes, until the
/// connection has ended or the worker has. A reader finds a whole state at any instant: the word with the
/// ``phase`` is stored last of all that a change consists of.
package struct ConnectionSlot {
    /// Bytes of a slot.
    package static let byteCount = 512
    /// Bytes of the overflow cell that belongs to a slot. It is touched only for what the slot cannot hold.
    package static let overflowByteCount = 2_048
    /// Bytes of the longest ``details``.
    package static let maximumDetails = overflowByteCount / 2 - AssociationOffset.details

    package enum Phase: UInt8 {
        /// Nobody's. All bytes but the generation are zero.
        case free = 0
        /// The worker does the handshake. There is nothing that another process could go on with.
        case handshaking = 1
        /// Records are protected by the keys in the slot.
        case established = 2
        /// The handshake is done, and the records are OpenSSL's: the connection ends with its worker.
        case bound = 3
        /// The connection has ended, its secrets are wiped, and the main process has not freed the slot yet.
        case ended = 4
    }

    private enum Offset {
        static let status = 0
        static let target = 8
        static let local = 16
        static let peer = 40
        static let far = 64
        static let farLocal = 88
        static let started = 112
        static let lastReceived = 120
        static let counters = 128
        /// A byte; the last flight is in the three after it.
        static let deaths = 176
        static let unproven = 180
        static let lastDeath = 184
        /// The first of the places for an association.
        static let association = 192
    }

    /// Where things are within a place for an association.
    private enum AssociationOffset {
        static let records = 0
        static let random = 200
        /// Two bytes, as the next one.
        static let detailsCount = 216
        static let discoveredMTU = 218
        static let handshakeMicroseconds = 220
        static let details = 224
    }

    private let memory: UnsafeMutableRawPointer
    private let overflow: UnsafeMutableRawPointer

    /// - Parameters:
    ///   - memory: ``byteCount`` bytes, 8-byte aligned.
    ///   - overflow: ``overflowByteCount`` bytes, 8-byte aligned.
    package init(_ memory: UnsafeMutableRawPointer, overflow: UnsafeMutableRawPointer) {
        self.memory = memory
        self.overflow = overflow
    }

    // MARK: Phase

    /// The phase, where the association is, and in the upper half how often the slot has been taken: one word, so that
    /// a reader finds all of them as they were before a change, or as they are after it.
    private struct Status {
        var word: UInt64

        var phase: Phase {
            // What no process of this version has written is nothing to go on with.
            get { Phase(rawValue: UInt8(truncatingIfNeeded: word)) ?? .ended }
            set { word = word & ~0xff | UInt64(newValue.rawValue) }
        }
        var place: Place {
            get { Place(rawValue: UInt8(truncatingIfNeeded: word >> 8 & 3)) ?? .slot }
            set { word = word & ~0x300 | UInt64(newValue.rawValue) << 8 }
        }
        /// Whether the overflow cell has held anything, so that it is to be wiped too.
        var hasOverflown: Bool {
            get { word & 0x400 != 0 }
            set { word = newValue ? word | 0x400 : word & ~0x400 }
        }
        var generation: UInt32 {
            get { UInt32(truncatingIfNeeded: word >> 32) }
            set { word = word & 0xffff_ffff | UInt64(newValue) << 32 }
        }
    }

    /// Where an association can be. There are three, so that one that replaces another (RFC 6347, section 4.2.8) can be
    /// written beside it, however long its details are.
    private enum Place: UInt8, CaseIterable {
        case slot = 0
        case overflow = 1
        case secondOverflow = 2

        var detailsRoom: Int {
            self == .slot
                ? ConnectionSlot.byteCount - Offset.association - AssociationOffset.details
                : ConnectionSlot.maximumDetails
        }
    }

    private var status: Status {
        get { Status(word: SharedWord.load(memory + Offset.status)) }
        nonmutating set { SharedWord.store(newValue.word, memory + Offset.status) }
    }

    package var phase: Phase { status.phase }
    /// How often the slot has been taken, in 24 bits.
    package var generation: UInt32 { status.generation }

    /// Takes a free slot for a connection that is to be handed over.
    /// - Parameter target: ``hash(of:)`` of the service or client.
    package func take(_ flow: FlowKey, target: UInt64, now: Instant) {
        store(flow.peer, Offset.peer)
        store(flow.local, Offset.local)
        memory.storeBytes(of: target, toByteOffset: Offset.target, as: UInt64.self)
        started = now
        lastReceived = now
        var new = Status(word: 0)
        new.generation = (generation &+ 1) & 0xff_ffff
        new.phase = .handshaking
        status = new
    }

    /// Takes the established connection of another slot over into this one, which is free, and ends it there.
    ///
    /// Wherever the process dies in this, no two slots hold the connection: its nonces would be used twice.
    package func takeOver(from other: ConnectionSlot) {
        let former = other.status
        var new = former
        new.generation = (generation &+ 1) & 0xff_ffff
        var incomplete = new
        incomplete.phase = .handshaking
        status = incomplete
        (memory + Offset.target).copyMemory(
            from: other.memory + Offset.target, byteCount: Self.byteCount - Offset.target)
        if former.hasOverflown { overflow.copyMemory(from: other.overflow, byteCount: Self.overflowByteCount) }
        other.end()
        status = new
    }

    /// Notes that the connection has ended, and wipes its secrets.
    package func end() {
        var new = status
        new.phase = .ended
        status = new
        wipe(memory + Offset.association, Self.byteCount - Offset.association)
        if new.hasOverflown { wipe(overflow, Self.overflowByteCount) }
    }

    /// Notes that the connection has no association until it gets another one, as a tunnel may, and wipes the secrets of
    /// the last one.
    package func leaveAssociation() {
        var new = status
        new.phase = .handshaking
        new.place = .slot
        status = new
        wipe(memory + Offset.association, Self.byteCount - Offset.association)
        if new.hasOverflown { wipe(overflow, Self.overflowByteCount) }
    }

    /// Frees the slot, which wipes it.
    package func free() {
        end()
        wipe(memory + Offset.target, Self.byteCount - Offset.target)
        var new = Status(word: 0)
        new.generation = generation
        status = new
    }

    private func wipe(_ start: UnsafeMutableRawPointer, _ count: Int) { explicit_bzero(start, count) }

    // MARK: Association

    /// A place that an association has been written to, but for its record state; see ``prepare(random:details:_:)``.
    package struct PreparedAssociation {
        /// ``RecordState/byteCount`` bytes for its record state.
        package let records: UnsafeMutableRawPointer
        fileprivate let place: UInt8
    }

    /// Writes what a handshake has agreed on beside the association that may be there. Readers do not see it before
    /// ``establish(_:isMovable:)``.
    /// - Parameters:
    ///   - random: the ``ClientRandom`` of the ClientHello, in bytes; empty for a client's side.
    ///   - details: what was agreed on, encoded; at most ``maximumDetails`` bytes.
    ///   - handshakeDuration: from the start of the handshake to its end.
    ///   - discoveredMTU: ``discoveredMTU``.
    package func prepare(
        random: UnsafeRawBufferPointer, details: [UInt8], handshakeDuration: Duration, discoveredMTU: UInt16 = 0
    ) -> PreparedAssociation {
        let status = status
        let isReplaced = status.phase == .established || status.phase == .bound
        let place =
            Place.allCases.first { !(isReplaced && $0 == status.place) && details.count <= $0.detailsRoom }
            ?? (status.place == .overflow && isReplaced ? .secondOverflow : .overflow)
        if place != .slot {
            var new = status
            new.hasOverflown = true
            self.status = new
        }
        let start = start(of: place)
        let details = details.prefix(place.detailsRoom)
        UnsafeMutableRawBufferPointer(start: start + AssociationOffset.random, count: ClientRandom.byteCount)
            .copyBytes(from: random.prefix(ClientRandom.byteCount))
        UnsafeMutableRawBufferPointer(start: start + AssociationOffset.details, count: place.detailsRoom)
            .copyBytes(from: details)
        start.storeBytes(
            of: UInt16(clamping: details.count), toByteOffset: AssociationOffset.detailsCount, as: UInt16.self)
        start.storeBytes(of: discoveredMTU, toByteOffset: AssociationOffset.discoveredMTU, as: UInt16.self)
        start.storeBytes(
            of: UInt32(clamping: handshakeDuration.nanoseconds / 1_000),
            toByteOffset: AssociationOffset.handshakeMicroseconds, as: UInt32.self)
        return PreparedAssociation(records: start + AssociationOffset.records, place: place.rawValue)
    }

    /// The association that was prepared is the connection's from now on.
    /// - Parameter isMovable: false where the records are OpenSSL's, and the record state is empty.
    package func establish(_ prepared: PreparedAssociation, isMovable: Bool) {
        let former = status
        var new = former
        new.place = Place(rawValue: prepared.place) ?? .slot
        new.phase = isMovable ? .established : .bound
        status = new
        if former.phase == .established { wipe(start(of: former.place), AssociationOffset.random) }
    }

    private func start(of place: Place) -> UnsafeMutableRawPointer {
        switch place {
        case .slot: memory + Offset.association
        case .overflow: overflow
        case .secondOverflow: overflow + Self.overflowByteCount / 2
        }
    }

    private var association: UnsafeMutableRawPointer { start(of: status.place) }

    /// The record state of an established connection.
    package var records: UnsafeMutableRawPointer { association + AssociationOffset.records }

    /// The bytes of the ``ClientRandom`` that the association began with; zero for a client's side.
    package var random: UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(start: association + AssociationOffset.random, count: ClientRandom.byteCount)
    }

    /// The connection ID that the peer puts into its records (RFC 9146); `nil` where there is none, and where there is no
    /// association.
    package var ownConnectionID: ConnectionID? {
        phase == .established ? RecordState.ownConnectionID(of: records) : nil
    }

    /// What was agreed on, as it was given to ``prepare(random:details:handshakeDuration:)``.
    package var details: UnsafeRawBufferPointer {
        let place = status.place
        let start = start(of: place)
        let count = start.load(fromByteOffset: AssociationOffset.detailsCount, as: UInt16.self)
        return UnsafeRawBufferPointer(
            start: start + AssociationOffset.details, count: min(Int(count), place.detailsRoom))
    }

    /// Bytes of the largest IP packet that the handshake has found the path to take, where records are bounded by that;
    /// else 0.
    package var discoveredMTU: UInt16 {
        get { association.load(fromByteOffset: AssociationOffset.discoveredMTU, as: UInt16.self) }
        nonmutating set {
            association.storeBytes(of: newValue, toByteOffset: AssociationOffset.discoveredMTU, as: UInt16.self)
        }
    }

    package var handshakeDuration: Duration {
        get {
            .microseconds(
                Int64(association.load(fromByteOffset: AssociationOffset.handshakeMicroseconds, as: UInt32.self)))
        }
        nonmutating set {
            association.storeBytes(
                of: UInt32(clamping: newValue.nanoseconds / 1_000),
                toByteOffset: AssociationOffset.handshakeMicroseconds, as: UInt32.self)
        }
    }

    // MARK: What it is about

    /// Names a service, a client or a path in a slot. It is the same in all processes and versions.
    package static func hash(of name: String) -> UInt64 { FNV1a.hash(name.utf8) }

    /// ``hash(of:)`` of the service or client, as ``Target`` names it in words.
    package var target: UInt64 { memory.load(fromByteOffset: Offset.target, as: UInt64.self) }

    /// The client's flow; for a tunnel, the local sender's. `nil` where the client is not there any more
    /// (``leaveFlow()``), and for memory that holds no addresses.
    package var flow: FlowKey? { hasLeftFlow ? nil : lastFlow }

    /// The flow that the client was last known to have. `nil` for memory that holds no addresses, and where the main
    /// process stands still in the midst of ``move(to:)``.
    package var lastFlow: FlowKey? {
        // The main process may write another one meanwhile, which takes some nanoseconds and changes the word.
        for _ in 0..<1_000 {
            let before = SharedWord.load(memory + Offset.peer)
            let peer = address(Offset.peer)
            let local = address(Offset.local)
            SharedWord.fence()
            guard SharedWord.load(memory + Offset.peer) == before else { continue }
            if let peer, let local { return FlowKey(peer: peer, local: local) }
        }
        return nil
    }

    /// In the byte after the family of the peer's address: the client has left the flow. The other bits change with each
    /// flow, so that a reader notices.
    private static let leftMark: UInt64 = 0x80
    private static let markShift = 8

    private var hasLeftFlow: Bool {
        UInt64(littleEndian: SharedWord.load(memory + Offset.peer)) >> Self.markShift & Self.leftMark != 0
    }

    /// The main process notes that the client's address is another client's now, so that the next authentic record of
    /// this one says where it is, whatever address that comes from.
    package func leaveFlow() {
        let word = UInt64(littleEndian: SharedWord.load(memory + Offset.peer)) | Self.leftMark << Self.markShift
        SharedWord.store(word.littleEndian, memory + Offset.peer)
    }

    /// The main process notes that the client is at another flow. A reader in the worker finds the former flow or this
    /// one, never a part of each. That the client is there is not proven until the worker says so.
    /// - Parameter observe: called while there is no flow, for tests.
    package func move(to flow: FlowKey, observe: () -> Void = {}) {
        let mark = (UInt64(littleEndian: SharedWord.load(memory + Offset.peer)) >> Self.markShift &+ 1) & 0x7f
        // Of no family: there is no address until the last store.
        SharedWord.store((mark << Self.markShift).littleEndian, memory + Offset.peer)
        SharedWord.fence()
        unprovenAllowance = 0
        observe()
        store(flow.local, Offset.local)
        storeBytes(of: flow.peer, Offset.peer)
        observe()
        var word: UInt64 = 0
        withUnsafeMutableBytes(of: &word) { bytes in
            bytes.storeBytes(of: flow.peer.family.rawValue, toByteOffset: 0, as: UInt8.self)
            bytes.storeBytes(of: flow.peer.port, toByteOffset: 2, as: UInt16.self)
            bytes.storeBytes(of: flow.peer.scope, toByteOffset: 4, as: UInt32.self)
        }
        SharedWord.store(word | (mark << Self.markShift).littleEndian, memory + Offset.peer)
    }

    /// Bytes that may be sent to the client's address before the client has shown that it is there (RFC 9146, section 6);
    /// `nil` where it has. The main process notes that an address is new (``move(to:)``), and the worker the rest.
    package var unprovenAllowance: Int? {
        get {
            let word = memory.load(fromByteOffset: Offset.unproven, as: UInt32.self)
            return word == 0 ? nil : Int(word - 1)
        }
        nonmutating set {
            let word = newValue.map { UInt32(clamping: max(0, $0)) }.map { $0 == .max ? $0 : $0 + 1 } ?? 0
            memory.storeBytes(of: word, toByteOffset: Offset.unproven, as: UInt32.self)
        }
    }

    /// Mends what the main process has left where it has died in the midst of ``move(to:)``: the client has a connection ID,
    /// by which it is found, and is nowhere until then (``leaveFlow()``).
    /// - Returns: whether there is a flow now.
    @discardableResult
    package func mendFlow() -> Bool {
        if lastFlow != nil { return true }
        guard phase == .established, ownConnectionID != nil else { return false }
        let local = address(Offset.local) ?? .anyAddress(.ipv4, port: 0)
        move(to: FlowKey(peer: .anyAddress(local.family, port: 0), local: local))
        leaveFlow()
        return true
    }

    /// The other socket of a connection: to the backend of a service, or from a tunnel to its server.
    package enum FarSide: Equatable {
        case none
        /// - Parameter local: what this side's socket is bound to.
        case udp(SocketAddress, local: SocketAddress)
        /// A Unix socket, by ``ConnectionSlot/hash(of:)`` of its path.
        case unix(UInt64)
    }

    /// It is stored in more than one step: a reader may find the address of one socket with the port of another one
    /// where the process has died just then.
    package var farSide: FarSide {
        get {
            if let far = address(Offset.far), let local = address(Offset.farLocal) { return .udp(far, local: local) }
            guard memory.load(fromByteOffset: Offset.far, as: UInt8.self) == Self.unixMark else { return .none }
            return .unix(memory.load(fromByteOffset: Offset.far + 8, as: UInt64.self))
        }
        nonmutating set {
            switch newValue {
            case .none:
                memory.storeBytes(of: 0, toByteOffset: Offset.far, as: UInt8.self)
            case .udp(let far, let local):
                store(far, Offset.far)
                store(local, Offset.farLocal)
            case .unix(let path):
                memory.storeBytes(of: path, toByteOffset: Offset.far + 8, as: UInt64.self)
                memory.storeBytes(of: Self.unixMark, toByteOffset: Offset.far, as: UInt8.self)
            }
        }
    }

    /// Names the group of backends that ``farSide`` is one of, in a number that the daemon chooses; 0: it is not noted. It
    /// is in the bytes after the families of the two addresses.
    package var farGroup: UInt16 {
        get {
            UInt16(memory.load(fromByteOffset: Offset.far + 1, as: UInt8.self)) << 8
                | UInt16(memory.load(fromByteOffset: Offset.farLocal + 1, as: UInt8.self))
        }
        nonmutating set {
            memory.storeBytes(of: UInt8(newValue >> 8), toByteOffset: Offset.far + 1, as: UInt8.self)
            memory.storeBytes(of: UInt8(newValue & 0xff), toByteOffset: Offset.farLocal + 1, as: UInt8.self)
        }
    }

    /// The family AF_UNIX.
    private static let unixMark: UInt8 = 1

    /// When the handshake began that the association came from, by this machine's monotonic clock.
    package var started: Instant {
        get { Instant(nanoseconds: memory.load(fromByteOffset: Offset.started, as: UInt64.self)) }
        nonmutating set {
            memory.storeBytes(of: newValue.nanoseconds, toByteOffset: Offset.started, as: UInt64.self)
        }
    }

    /// When the last record of the peer came, by this machine's monotonic clock.
    package var lastReceived: Instant {
        get { Instant(nanoseconds: memory.load(fromByteOffset: Offset.lastReceived, as: UInt64.self)) }
        nonmutating set {
            memory.storeBytes(of: newValue.nanoseconds, toByteOffset: Offset.lastReceived, as: UInt64.self)
        }
    }

    package var counters: Connection.Counters {
        get {
            func counter(_ index: Int) -> UInt64 {
                memory.load(fromByteOffset: Offset.counters + 8 * index, as: UInt64.self)
            }
            var counters = Connection.Counters()
            counters.messagesIn = counter(0)
            counters.bytesIn = counter(1)
            counters.messagesOut = counter(2)
            counters.bytesOut = counter(3)
            counters.unsent = counter(4)
            counters.tooLarge = counter(5)
            return counters
        }
        nonmutating set {
            func store(_ value: UInt64, _ index: Int) {
                memory.storeBytes(of: value, toByteOffset: Offset.counters + 8 * index, as: UInt64.self)
            }
            store(newValue.messagesIn, 0)
            store(newValue.bytesIn, 1)
            store(newValue.messagesOut, 2)
            store(newValue.bytesOut, 3)
            store(newValue.unsent, 4)
            store(newValue.tooLarge, 5)
        }
    }

    /// Workers that have died while they worked on this connection.
    package var deaths: UInt32 {
        get { UInt32(memory.load(fromByteOffset: Offset.deaths, as: UInt8.self)) }
        nonmutating set {
            memory.storeBytes(of: UInt8(clamping: newValue), toByteOffset: Offset.deaths, as: UInt8.self)
        }
    }

    /// Where the last flight of the association's handshake is (``SlotFile/flight(of:)``), in 24 bits; 0: nowhere.
    var flight: UInt32 {
        get { UInt32(littleEndian: memory.load(fromByteOffset: Offset.deaths, as: UInt32.self)) >> 8 }
        nonmutating set {
            let word = newValue << 8 | deaths
            memory.storeBytes(of: word.littleEndian, toByteOffset: Offset.deaths, as: UInt32.self)
        }
    }

    /// Whose flight it is. It stays the same when the connection moves to another slot.
    var flightOwner: UInt64 { Self.flightOwner(started: started, random: random) }

    /// - Parameters:
    ///   - started: as in ``started``.
    ///   - random: as in ``random``.
    static func flightOwner(started: Instant, random: UnsafeRawBufferPointer) -> UInt64 {
        FNV1a.hash(random) ^ started.nanoseconds
    }

    /// When the last of ``deaths`` was.
    package var lastDeath: Instant {
        get { Instant(nanoseconds: memory.load(fromByteOffset: Offset.lastDeath, as: UInt64.self)) }
        nonmutating set {
            memory.storeBytes(of: newValue.nanoseconds, toByteOffset: Offset.lastDeath, as: UInt64.self)
        }
    }

    // MARK: Addresses

    /// Family, port, scope and address, in 24 bytes. The family is stored last.
    private func store(_ address: SocketAddress, _ offset: Int) {
        memory.storeBytes(of: address.port, toByteOffset: offset + 2, as: UInt16.self)
        memory.storeBytes(of: address.scope, toByteOffset: offset + 4, as: UInt32.self)
        storeBytes(of: address, offset)
        memory.storeBytes(of: address.family.rawValue, toByteOffset: offset, as: UInt8.self)
    }

    private func storeBytes(of address: SocketAddress, _ offset: Int) {
        address.withBytes {
            UnsafeMutableRawBufferPointer(start: memory + offset + 8, count: 16).copyBytes(from: $0.dropLast(2))
        }
    }

    private func address(_ offset: Int) -> SocketAddress? {
        guard let family = SocketAddress.Family(rawValue: memory.load(fromByteOffset: offset, as: UInt8.self)) else {
            return nil
        }
        return SocketAddress(
            family: family,
            addressBytes: UnsafeRawBufferPointer(start: memory + offset + 8, count: family == .ipv4 ? 4 : 16),
            port: memory.load(fromByteOffset: offset + 2, as: UInt16.self),
            scope: memory.load(fromByteOffset: offset + 4, as: UInt32.self))
    }
}
