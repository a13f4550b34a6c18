import DTLSEngine
import DTLSTransport
import LinuxSystem
import Logging
import Primitives

/// The worker's connections without a socket: how they lose it, how they get one again, and what is done for them
/// meanwhile.
///
/// What is left of a connection without a socket is its slot. Only one whose handler stays has an object in
/// ``Worker/connections`` besides.
final class Parking {
    private unowned let worker: Worker
    private let loop: EventLoop
    private var wakes = WakeQueue()
    private var hasScheduledWakes = false
    /// Connections that are to give their sockets up at the end of this turn.
    private var silent: [ServedConnection] = []
    /// Sockets to the other side that have come along before the connections that they belong to.
    private var farSockets: [ConnectionNumber: Held] = [:]

    private var sweep = SlotWalk()
    private lazy var sweepStart = CallbackTimer { [unowned self] _ in scheduleSweep() }
    private lazy var sweeper = CallbackTimer { [unowned self] _ in sweepStep() }
    /// Whether a reload has removed services, so that the sweep is not to take its time.
    private var isSweepUrgent = false
    /// Slots of connections that were released are not touched before the main process has moved these.
    private var sweepPauseEnd = Instant.distantPast
    /// What is still to be told to the peers of connections that have ended without a socket.
    private var lastWords = DatagramGathering()
    private var stopping: Stopping?
    private lazy var stopper = CallbackTimer { [unowned self] _ in stopStep() }
    private var takeover: SlotWalk?
    private lazy var takeoverTimer = CallbackTimer { [unowned self] _ in takeOverStep() }
    /// Connections whose sockets to the other side are still to be made; for the first ones that is done.
    private var toPrepare: [ConnectionNumber] = []
    private var preparedCount = 0
    /// The connections without a socket that are being released.
    private var releasing = SlotWalk()
    /// Connections that were released, and that have not come back: the main process copies their slots at any moment, and
    /// a record that is sealed meanwhile would have a number that the next worker uses, too.
    private var givenUp: Set<ConnectionNumber> = []
    private lazy var relief = CallbackTimer { [unowned self] _ in relieve() }
    /// Connections of programs whose sockets could not be watched, and that try again in a while.
    private var unwatched: [ConnectionNumber] = []
    private lazy var rewaker = CallbackTimer { [unowned self] _ in wakeUnwatched() }

    private final class Held {
        private var descriptor: FileDescriptor
        init(_ descriptor: consuming FileDescriptor) { self.descriptor = descriptor }
        func take() -> FileDescriptor { descriptor.take() }
    }

    /// Slots that are looked at in one turn: a word of each, which takes a millisecond where none is in a cache.
    private static let slotsPerTurn = 8_192
    /// Connections whose other side is made in one turn, which takes up to 50 µs each.
    private static let connectionsPerTurn = 64
    /// Connections without a socket that are ended in one turn: 1 µs each here, and 2 µs in the main process. Their
    /// close_notify fill one message of half the largest size, of which a channel holds a few.
    private static let endingsPerTurn = 512

    /// Slots whose connections are released in one turn, in one message.
    private static let releasedPerTurn = ConnectionNumber.maximumOfMessage

    /// All connections without a socket are being ended.
    private struct Stopping {
        var walk = SlotWalk()
        let deadline: Instant
        var whenDone: () -> Void = {}
    }

    init(_ worker: Worker) {
        self.worker = worker
        loop = worker.datapath.loop
    }

    // MARK: Giving sockets up

    /// The connection gives its socket up at the end of this turn, together with others.
    func park(_ served: ServedConnection) {
        if served.isGoingToPark { return }
        served.isGoingToPark = true
        if silent.isEmpty { loop.atEndOfTurn { [unowned self] in parkSilent() } }
        silent.append(served)
    }

    private func parkSilent() {
        let all = silent
        silent = []
        for served in all { served.isGoingToPark = false }
        // It may have ended, or begun a re-handshake, in this turn.
        let served = all.filter {
            worker.connections[$0.id] === $0 && ($0.mayPark || $0.mustGiveUpSocket && $0.canPark)
        }
        for start in stride(from: 0, to: served.count, by: ConnectionNumber.maximumOfMessage) {
            let part = served[start..<min(served.count, start + ConnectionNumber.maximumOfMessage)]
            // First of all: from now on the main process looks for the connections' records at its listeners.
            worker.send(MessageFromWorker.encode(parked: part.map(\.id)))
            for served in part where !served.park() { worker.forget(served) }
        }
        scheduleSweep()
    }

    /// There is no place in epoll for the connection's socket (a passing lack of memory, or fs.epoll.max_user_watches), so
    /// nothing would be read from it.
    func parkUnwatched(_ served: ServedConnection) {
        worker.send(MessageFromWorker.encode(parked: [served.id]))
        if !served.park() { worker.forget(served) }
        guard served.service.parking == .never else { return }
        // Its next program may have something to say first, as after ``takeOver()``.
        unwatched.append(served.id)
        loop.timers.arm(rewaker, at: loop.now + .seconds(1))
    }

    private func wakeUnwatched() {
        let ids = unwatched
        unwatched = []
        for id in ids where worker.connections[id] == nil && worker.establishedSlot(id) != nil { wake(id) }
    }

    /// The address of a connection's peer is another connection's peer's now. The peer can come back from elsewhere where
    /// it has a connection ID.
    func giveUpSocket(_ id: ConnectionNumber) {
        guard let served = worker.connections[id], served.hasSocket else { return }
        guard served.canPark, served.hasConnectionID else { return served.close(.addressTaken) }
        served.mustGiveUpSocket = true
        park(served)
    }

    /// The worker may be short of descriptors: those connections give their sockets up that have been silent longest.
    func relieveSoon() {
        if worker.isShortOfDescriptors { loop.timers.arm(relief, at: loop.now + .milliseconds(200)) }
    }

    private func relieve() {
        guard worker.isShortOfDescriptors else { return }
        var wanted = worker.descriptors.limit / 4
        for silence in [30, 10, 3, 1] where wanted > 0 {
            for served in worker.connections.values where wanted > 0 && served.mayPark {
                guard served.hasBeenSilent(for: .seconds(silence)) else { continue }
                park(served)
                wanted -= 1
            }
            if !silent.isEmpty { break }
        }
        loop.timers.arm(relief, at: loop.now + .milliseconds(silent.isEmpty ? 1_000 : 200))
    }

    // MARK: Getting sockets again

    /// Takes a datagram that nobody has authenticated, and that came to a listener.
    func receive(_ datagram: UnsafeRawBufferPointer, _ flow: FlowKey, of id: ConnectionNumber) {
        if let served = worker.connections[id], served.hasSocket {
            return receive(datagram, flow, of: id, served)
        }
        guard let slot = worker.establishedSlot(id), !wakes.isFull(id) else { return }
        let present = slot.flow
        guard case .authentic(let isNewest) = worker.datapath.authenticates(datagram, of: slot, at: id.slot) else {
            worker.datapath.trace?.received(
                datagram, from: flow.peer, "of a connection without a socket: dropped, since it is forged, or a copy")
            return worker.countForged(from: flow, slot)
        }
        worker.datapath.trace?.received(
            datagram, from: flow.peer, "of a connection without a socket: authentic, and kept until it has one")
        if flow != present, !mayMove(to: flow, slot) { return }
        guard flow != present, isNewest, let number = Self.number(of: datagram) else {
            // Without an address that it is known to be at, only a newer record shows where the peer is.
            guard present != nil else { return }
            if wakes.wake(id, with: datagram, from: flow) { scheduleWakes() }
            return
        }
        let sighting = WakeQueue.Sighting(flow: flow, number: number)
        if present != nil, RecordState.checksReturnRoutability(at: slot.records) {
            // The new address is challenged once there is a connection to challenge it from.
            if wakes.wake(id, with: datagram, from: flow, sighting: sighting) { scheduleWakes() }
        } else if wakes.move(id, with: datagram, to: sighting) {
            worker.send(MessageFromWorker.encode(rebind: id, flow: flow))
        }
    }

    /// Takes a datagram for a connection with a socket, which the datagram has not come over.
    private func receive(
        _ datagram: UnsafeRawBufferPointer, _ flow: FlowKey, of id: ConnectionNumber, _ served: ServedConnection
    ) {
        // The socket has come meanwhile.
        if served.flow == flow { return served.receive(datagram, from: flow) }
        guard let slot = worker.slot(id) else { return }
        switch slot.phase {
        case .established:
            func isOfPeer() -> Bool {
                worker.datapath.authenticates(datagram, of: slot, at: id.slot) != .no
                    || served.mayRepeatFlight(for: datagram)
            }
            guard isOfPeer() else { return worker.countForged(from: flow, slot) }
            // The record itself may wait in the connection's socket, and this be a copy of it that somebody has sent from
            // elsewhere (RFC 9146, section 6): what is there has come first.
            served.readAll()
            guard worker.connections[id] === served, served.hasSocket else { return }
            guard isOfPeer() else { return worker.countForged(from: flow, slot) }
        // The client's last flight has come from another address. Nothing can be said of it before the handshake has it.
        case .handshaking: break
        case .free, .bound, .ended: return worker.countForged(from: flow, slot)
        }
        if mayMove(to: flow, slot) { served.receive(datagram, from: flow) }
    }

    /// The number of the record that a check of the datagram has looked at.
    private static func number(of datagram: UnsafeRawBufferPointer) -> UInt64? {
        Records(of: datagram).first { $0.isProtected }?.number
    }

    /// Whether the client of a connection may be at an address by the access lists of its service and of all services.
    private func mayMove(to flow: FlowKey, _ slot: ConnectionSlot) -> Bool {
        guard let service = worker.service(slot.target) else { return false }
        if worker.allows(flow.peer, service) { return true }
        worker.logs.limited(
            .connectionRefused,
            "records of a connection from another address are dropped: its service does not allow that address",
            service,
            ["PEER": "\(flow.peer)"])
        return false
    }

    /// The connection needs a socket, since there is something for its peer.
    func wake(_ id: ConnectionNumber) {
        if wakes.wake(id) { scheduleWakes() }
    }

    /// All that wake up in one turn are asked for in one message.
    private func scheduleWakes() {
        if hasScheduledWakes { return }
        hasScheduledWakes = true
        loop.atEndOfTurn { [unowned self] in
            hasScheduledWakes = false
            while true {
                let ids = wakes.takeUnasked(ConnectionNumber.maximumOfMessage)
                if ids.isEmpty { return }
                worker.send(MessageFromWorker.encode(wake: ids))
            }
        }
    }

    /// The socket to the other side of a connection that comes with the next messages.
    func hold(far socket: consuming FileDescriptor, of id: ConnectionNumber) { farSockets[id] = Held(socket) }

    /// Sockets that are held by ``hold(far:of:)``.
    var countOfFarSockets: Int { farSockets.count }

    private func takeFarSocket(_ id: ConnectionNumber) -> FileDescriptor {
        farSockets.removeValue(forKey: id)?.take() ?? FileDescriptor(owning: -1)
    }

    /// A socket has come for a connection, or none for want of a descriptor here.
    func resume(
        _ id: ConnectionNumber, _ flow: FlowKey, over socket: consuming FileDescriptor?,
        with datagrams: [UnsafeRawBufferPointer]
    ) {
        givenUp.remove(id)
        let far = takeFarSocket(id)
        let waiting = wakes.remove(id)
        // It may have ended meanwhile, and this was under way.
        guard let slot = worker.establishedSlot(id) else { return }
        guard let socket, worker.allows(socket.rawValue) else {
            relieveSoon()
            return resumeWithoutSocket(id)
        }
        if !SlotTarget.isService(slot.target) {
            return worker.resumeTunnel(id, slot, over: socket, far, with: datagrams)
        }
        guard let client = ServedClient(slot, flow), let service = worker.service(slot.target) else {
            return end(id, slot, "its service is not in the configuration")
        }
        worker.noteUse(of: slot.target)
        if let served = worker.connections[id], served.hasSocket {
            if served.flow != flow { served.move(to: flow, over: socket) }
            for datagram in datagrams { served.receive(datagram, from: flow) }
            return
        }
        let served =
            worker.connections[id] ?? ServedConnection(parked: id, service: service, worker: worker)
        served.hasComeBack = worker.departure.isReleasing
        worker.connections[id] = served
        do throws(InvalidRecordState) {
            try served.resume(
                over: socket, client, hasMoved: waiting.isMove && waiting.sighting?.flow == flow, far,
                with: waiting.datagrams + datagrams.map { WakeQueue.Kept(flow: flow, bytes: [UInt8]($0)) })
        } catch {
            served.closeParked()
            worker.connections[id] = nil
            return end(id, slot, "\(error)")
        }
        relieveSoon()
    }

    func resumeFailed(_ id: ConnectionNumber) {
        if let served = worker.connections[id], served.hasSocket { return served.moveFailed() }
        // The address in the slot may be another client's by now.
        if let flow = wakes.moveInstead(id) { return worker.send(MessageFromWorker.encode(rebind: id, flow: flow)) }
        wakes.remove(id)
        worker.connections[id]?.resumeFailed()
    }

    /// The socket of a connection was lost on its way here, and there is no room for one. Where it has another one, of the
    /// flow that its peer has left, nothing comes over that any more.
    private func resumeWithoutSocket(_ id: ConnectionNumber) {
        guard let served = worker.connections[id], served.hasSocket else {
            return worker.send(MessageFromWorker.encode(parked: [id]))
        }
        guard served.canPark else { return served.close(.addressTaken) }
        worker.send(MessageFromWorker.encode(parked: [id]))
        if !served.park() { worker.forget(served) }
    }

    /// Another worker goes on with the connection.
    func forget(_ id: ConnectionNumber) {
        wakes.remove(id)
        givenUp.insert(id)
    }

    // MARK: What other workers have left

    /// Serves what is in the slots, where a worker before this one has put it.
    func takeOver() {
        takeover = SlotWalk()
        takeOverStep()
        scheduleSweep()
    }

    /// Serves connections that have been put into slots of this worker.
    func adopt(_ ids: [ConnectionNumber]) {
        for id in ids {
            givenUp.remove(id)
            if let slot = worker.establishedSlot(id) { adopt(id, slot) } else { _ = takeFarSocket(id) }
        }
        prepareSome()
        scheduleSweep()
    }

    private func takeOverStep() {
        if let slots = worker.datapath.slots, let range = takeover?.step(Self.slotsPerTurn, of: slots.used) {
            for index in range { takeOver(index, slots[index]) }
        } else {
            takeover = nil
        }
        prepareSome()
    }

    private func takeOver(_ index: Int, _ slot: ConnectionSlot) {
        let id = worker.number(ofSlot: index, slot)
        if worker.hasObject(id) { return }
        switch slot.phase {
        // Where a handshake was going on, the main process has freed the slot, and may have given it to a new connection,
        // which is on its way here.
        case .free, .handshaking: break
        case .bound, .ended: worker.countClosed(id)
        case .established:
            worker.counters(of: slot.target).block.add(to: .connectionsTakenOver)
            adopt(id, slot)
        }
    }

    private func adopt(_ id: ConnectionNumber, _ slot: ConnectionSlot) {
        // A tunnel goes on when the socket of its sender comes, which the main process sends by itself.
        guard SlotTarget.isService(slot.target) else {
            if worker.client(slot.target) == nil { end(id, slot, "its client is not in the configuration") }
            return
        }
        guard worker.isActive(slot.target), let service = worker.service(slot.target) else {
            return end(id, slot, "its service is not in the configuration")
        }
        switch service.parking {
        case .handlerEnds: break
        case .handlerStays: toPrepare.append(id)
        // A program may have something to say first.
        case .never: wake(id)
        }
    }

    /// Makes the other sides of some connections, so that what these send finds them.
    private func prepareSome() {
        let ids = toPrepare[preparedCount...].prefix(Self.connectionsPerTurn)
        preparedCount += ids.count
        if preparedCount == toPrepare.count {
            toPrepare = []
            preparedCount = 0
        }
        for id in ids where worker.connections[id] == nil {
            guard let slot = worker.establishedSlot(id), let client = ServedClient(slot),
                let service = worker.service(slot.target)
            else {
                _ = takeFarSocket(id)
                continue
            }
            let served = ServedConnection(parked: id, service: service, worker: worker)
            worker.connections[id] = served
            served.prepareHandler(client, takeFarSocket(id))
        }
        if takeover != nil || !toPrepare.isEmpty { loop.timers.arm(takeoverTimer, at: loop.now) }
    }

    // MARK: Time

    /// Looks at all slots within an eighth of the shortest idle timeout, or a minute.
    func scheduleSweep() {
        guard let cycle = worker.sweepCycle, loop.now >= sweepPauseEnd, stopping == nil,
            let used = worker.datapath.slots?.used, used > 0
        else { return }
        let steps = (used + Self.slotsPerTurn - 1) / Self.slotsPerTurn
        let pause = isSweepUrgent ? .zero : max(cycle / steps, .milliseconds(10))
        loop.timers.arm(sweeper, at: loop.now + pause)
    }

    /// Services are gone from the configuration, with the listeners that could get something for their connections: those
    /// without a socket end.
    func endThoseOfRemovedServices() {
        guard let slots = worker.datapath.slots, slots.used > 0 else { return worker.forgetUnusedServices() }
        sweep = SlotWalk()
        isSweepUrgent = true
        scheduleSweep()
    }

    private func sweepStep() {
        guard let slots = worker.datapath.slots else { return }
        guard step(&sweep, over: slots, ending: endingOfDue) != .busy else {
            return loop.timers.arm(sweeper, at: loop.now + .milliseconds(1))
        }
        if sweep.isAtStart {
            isSweepUrgent = false
            worker.forgetUnusedServices()
        }
        scheduleSweep()
    }

    private func endingOfDue(_ slot: ConnectionSlot, _ service: ServiceRuntime) -> Connection.Ending? {
        if !worker.isActive(slot.target) { return .serviceRemoved }
        let limit = service.limits.idleTimeout
        return limit > .zero && loop.now >= slot.lastReceived + limit ? .idle : nil
    }

    /// The outcome of a step of a walk over the slots.
    private enum Step {
        /// The main process has not read what it was told before: nothing was done.
        case busy
        case done
    }

    /// Ends those connections without a socket, of the next slots of a walk, that `ending` gives a reason for.
    private func step(
        _ walk: inout SlotWalk, over slots: SlotFile,
        ending: (ConnectionSlot, ServiceRuntime) -> Connection.Ending?
    ) -> Step {
        if worker.isChannelFull { return .busy }
        guard let range = walk.step(Self.slotsPerTurn, of: slots.used) else { return .done }
        var ended = 0
        for index in range {
            guard ended < Self.endingsPerTurn else {
                walk.goBack(to: index)
                break
            }
            if endIfDue(index, slots[index], ending) { ended += 1 }
        }
        if walk.left(of: slots.used) == 0 { walk = SlotWalk() }
        sendLastWords()
        return .done
    }

    private func endIfDue(
        _ index: Int, _ slot: ConnectionSlot, _ ending: (ConnectionSlot, ServiceRuntime) -> Connection.Ending?
    ) -> Bool {
        let phase = slot.phase
        guard phase != .free, phase != .ended, SlotTarget.isService(slot.target),
            let service = worker.service(slot.target)
        else {
            return false
        }
        let id = worker.number(ofSlot: index, slot)
        // One with a socket has a timer of its own.
        guard phase == .established, worker.connections[id]?.hasSocket != true, !givenUp.contains(id),
            let ending = ending(slot, service)
        else {
            worker.noteUse(of: slot.target)
            return false
        }
        end(id, slot, service, ending)
        return true
    }

    /// Ends a connection without a socket, with close_notify.
    private func end(
        _ id: ConnectionNumber, _ slot: ConnectionSlot, _ service: ServiceRuntime, _ ending: Connection.Ending
    ) {
        service.counters.count(CloseReason(ending))
        if let flow = slot.lastFlow {
            worker.logs.closed(
                flow.peer, id, RecordState.connectionIDs(at: slot.records), slot.counters, service, ending, dropped: 0)
        }
        worker.connections[id]?.closeParked()
        worker.connections[id] = nil
        end(id, slot)
    }

    /// Ends a connection without a socket, since somebody wants it to.
    func close(_ id: ConnectionNumber) {
        guard let slot = worker.establishedSlot(id), !givenUp.contains(id) else { return }
        guard SlotTarget.isService(slot.target), let service = worker.service(slot.target) else { return end(id, slot) }
        end(id, slot, service, .closedHere)
    }

    /// Ends a connection without a socket that nobody can go on with.
    private func end(_ id: ConnectionNumber, _ slot: ConnectionSlot, _ reason: String) {
        worker.logs.connectionEvent(
            .connectionClosed, "connection closed: \(reason)",
            ["PEER": "\(slot.lastFlow.map { "\($0.peer)" } ?? "unknown")", "REASON": "\(reason)"])
        worker.counters(of: slot.target).count(CloseReason.lost)
        end(id, slot)
    }

    /// Tells the peer, where it is known where that is, and gives the slot up.
    private func end(_ id: ConnectionNumber, _ slot: ConnectionSlot) {
        wakes.remove(id)
        _ = takeFarSocket(id)
        if SlotTarget.isService(slot.target), let flow = slot.flow {
            worker.datapath.writeCloseNotify(of: slot, at: id.slot, flow) { datagram in
                if lastWords.count == 0 { loop.atEndOfTurn { [unowned self] in sendLastWords() } }
                lastWords.add(datagram, flow)
            }
            if lastWords.count == Self.endingsPerTurn { sendLastWords() }
        }
        worker.countClosed(id)
    }

    private func sendLastWords() {
        guard lastWords.count > 0 else { return }
        worker.send(lastWords.bytes)
        lastWords.removeAll()
    }

    // MARK: The end

    /// Ends all connections without a socket, with close_notify: as many as the main process sends until `deadline`.
    func stop(by deadline: Instant) {
        takeover = nil
        toPrepare = []
        preparedCount = 0
        loop.timers.disarm(sweeper)
        loop.timers.disarm(sweepStart)
        stopping = Stopping(deadline: deadline)
        stopStep()
    }

    /// Calls `work` once ``stop(by:)`` is done: at once where it was not called.
    func whenStopped(_ work: @escaping () -> Void) {
        if stopping == nil { work() } else { stopping?.whenDone = work }
    }

    private func stopStep() {
        guard var now = stopping else { return }
        guard let slots = worker.datapath.slots, worker.canReport else { return stopped() }
        guard loop.now < now.deadline else {
            let left = now.walk.left(of: slots.used)
            worker.logs.always(
                .stopping,
                "stop_timeout has left no time to send close_notify for up to \(counted(left, "connection")) without a socket: their"
                    + " clients find out by the silence")
            return stopped()
        }
        let outcome = step(&now.walk, over: slots) { _, _ in .closedHere }
        stopping?.walk = now.walk
        if outcome == .done, now.walk.isAtStart { return stopped() }
        loop.timers.arm(stopper, at: loop.now + (outcome == .busy ? .milliseconds(1) : .zero))
    }

    private func stopped() {
        let work = stopping?.whenDone
        stopping = nil
        work?()
    }

    // MARK: Giving connections up

    /// Begins to give connections without a socket up to other workers.
    func beginRelease() {
        releasing = SlotWalk()
        // Those that have moved are not in their slots any more.
        givenUp = givenUp.filter { worker.establishedSlot($0) != nil }
    }

    enum Release {
        /// Nothing can be released at the moment: the worker still takes over what another one has left, and the far
        /// socket's port of what is released would be the next worker's, or the main process has not read what it was
        /// told before.
        case busy
        /// The connections of some slots, which are forgotten here.
        case some([ConnectionNumber])
        /// All slots have been looked at.
        case done
    }

    /// Gives up the connections without a socket in the next slots.
    func release(upTo count: Int) -> Release {
        guard let slots = worker.datapath.slots, count > 0 else { return .done }
        guard takeover == nil, toPrepare.isEmpty, !worker.isChannelFull else { return .busy }
        sweepPauseEnd = loop.now + .seconds(30)
        loop.timers.disarm(sweeper)
        loop.timers.arm(sweepStart, at: sweepPauseEnd)
        guard let range = releasing.step(Self.releasedPerTurn, of: slots.used) else { return .done }
        var ids: [ConnectionNumber] = []
        for index in range where ids.count < count {
            let slot = slots[index]
            let id = worker.number(ofSlot: index, slot)
            // One that has asked for a socket gets that, with what has woken it, and is released with it later.
            guard slot.phase == .established, !worker.hasObject(id), !wakes.contains(id), !givenUp.contains(id) else {
                continue
            }
            _ = takeFarSocket(id)
            givenUp.insert(id)
            ids.append(id)
        }
        return .some(ids)
    }
}
