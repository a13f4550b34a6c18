import DTLSEngine
import LinuxSystem
import Primitives
import TestSupport
import VirtualClock

@testable import DTLSTransport

/// A client and a server over a simulated wire in virtual time, made of what the daemon is made of: the server's
/// ``Endpoint`` does the cookie exchange, the hello that it admits is handed over as bytes, and ``Association``s do the
/// rest. All of them write into one outbox, as the connections of a worker do.
///
/// What sockets would do is done here: a datagram for the server goes to its association while there is one, as to a
/// connected socket, and to the endpoint otherwise.
final class AssociationPair {
    /// What an association has said, messages apart.
    enum Happening: Equatable {
        case established
        case replaced
        case rehandshakeFailed(Connection.Ending)
        case ended(Connection.Ending)
    }

    /// One association, and what has happened to it.
    final class Side {
        let association: Association
        fileprivate(set) var messages: [[UInt8]] = []
        fileprivate(set) var happenings: [Happening] = []
        /// How often the record of the other side's Finished has come once more.
        fileprivate(set) var repetitions = 0
        /// What a loop's timer would be armed for.
        fileprivate(set) var alarm = Instant.distantFuture
        /// Where the peer is, as a ``Connection`` keeps it.
        fileprivate(set) var paths = PathCheck()

        init(_ association: Association) { self.association = association }

        var isEstablished: Bool { happenings.contains(.established) && association.isOpen }
    }

    private(set) var client: Side
    /// The association that the server has now, or had last.
    private(set) var server: Side?
    private(set) var endpoint: Endpoint
    private(set) var drops: [Endpoint.DropReason] = []
    private(set) var recordsOfNoConnection = 0
    /// How many datagrams were taken to the server's association though they had come to the endpoint.
    private(set) var forwarded = 0
    var wire: SimulatedWire
    /// Whether the server's association has a socket of its own; until then, datagrams come to the endpoint.
    var isSocketConnected = true
    /// What a client that has lost its state is offered.
    var offersContext = true
    var offersAnything = true
    var refusal: Refusal?
    /// Where the server's association is kept.
    private(set) var slot = SlotMemory()
    /// Called at every moment at which the server's process could die: before and after whatever it does.
    var moment: () -> Void = {}
    /// Whether the server's process has died: it sends nothing and hands nothing on.
    var isServerDead = false
    let flow: FlowKey
    /// Where the client is: what it sends comes from there, and what is sent elsewhere is lost.
    var clientFlow: FlowKey
    /// The flows that the server's association has wanted a socket for, and that have been given up after challenges.
    private(set) var wantedFlows: [FlowKey] = []
    private(set) var failedFlows: [FlowKey] = []
    /// How many bytes the server has sent to each flow.
    private(set) var bytesSent: [FlowKey: Int] = [:]
    /// How many records have come whose connection ID is of another connection.
    private(set) var recordsOfOthers = 0
    /// The datagram that the server's association works on: its flow, its size, and the newest record before it.
    private var arrival: (flow: FlowKey, count: Int, newest: UInt64)?
    /// The flow that a datagram past the wire comes by.
    private var injectedFlow: FlowKey?
    private var nextCookie: UInt64 = 0
    private let serverID: ConnectionID?
    private let clientID: ConnectionID?
    let buffers: EngineBuffers

    private let clock: Int64
    private let cookies: CookieAuthority
    private let serverContext: ServerContext
    private let clientContext: ClientContext
    private let limits: Connection.Limits
    private var number: UInt64 = 0
    /// The virtual time that the pair began at.
    private static let start: Int64 = 1_700_000_000_000_000
    private static let key = PresharedKey(identity: Array("sensor".utf8), key: Array(repeating: 0xa5, count: 16))

    init(
        conditions: WireConditions = .perfect, seed: UInt64 = 1, limits: Connection.Limits = Connection.Limits(),
        keepsOpenSSL: Bool = false, serverID: ConnectionID? = nil, clientID: ConnectionID? = nil
    ) throws {
        self.serverID = serverID
        self.clientID = clientID
        clock = virtual_clock_start(Self.start)
        wire = SimulatedWire(conditions, seed: seed)
        self.limits = limits
        buffers = try EngineBuffers()
        buffers.slots = try SlotFile(capacity: 1, name: "flights")
        cookies = try CookieAuthority(secret: Array(repeating: 9, count: 32))
        endpoint = Endpoint(.cookies(cookies))
        var settings = ServerSettings(certifiedKeys: [])
        settings.presharedKeys = PresharedKeys(keys: [Self.key], hint: nil)
        settings.allowsRenegotiation = keepsOpenSSL
        settings.connectionIDs = serverID != nil
        serverContext = try ServerContext(settings)
        var clientSettings = ClientSettings(presharedKey: Self.key, allowsRenegotiation: keepsOpenSSL)
        clientSettings.connectionIDs = clientID != nil
        clientContext = try ClientContext(clientSettings)
        flow = FlowKey(
            peer: .anyAddress(.ipv4, port: 40_000), local: .anyAddress(.ipv4, port: 4_433))
        clientFlow = flow
        client = Side(try Self.connect(flow, clientContext, clientID, limits, buffers))
        work(client) { _ in }
    }

    deinit { virtual_clock_stop(clock) }

    // MARK: Time

    static var now: Instant { Instant(nanoseconds: UInt64(virtual_clock_now()) * 1_000) }

    /// Virtual time since the beginning.
    var elapsed: Duration { .microseconds(virtual_clock_now() - Self.start) }

    /// Lets time pass, from one arrival or alarm to the next, until `condition` holds, nothing more can happen, or
    /// `limit` has gone by.
    func run(for limit: Duration = .seconds(3_600), until condition: (AssociationPair) -> Bool = { _ in false }) {
        let end = Self.now + limit
        while !condition(self) {
            let alarm = [client.alarm, server?.alarm ?? .distantFuture].min() ?? .distantFuture
            let arrival = wire.nextArrival.map { Instant(nanoseconds: UInt64($0) * 1_000) } ?? .distantFuture
            let next = min(alarm, arrival)
            guard next <= end, next != .distantFuture else { return advance(to: end, unless: next == .distantFuture) }
            advance(to: next, unless: false)
            if arrival <= alarm, let delivery = wire.takeNext() {
                deliver(delivery)
            } else {
                for side in [client, server] { if let side, side.alarm <= Self.now { fire(side) } }
            }
        }
    }

    /// Lets so much time pass, whether or not anything happens in it.
    func pass(_ duration: Duration) {
        let end = Self.now + duration
        run(for: duration)
        advance(to: end, unless: false)
    }

    private func advance(to instant: Instant, unless isPointless: Bool) {
        guard !isPointless else { return }
        // Rounded up: the clock counts in microseconds.
        virtual_clock_advance(max(0, Int64((instant.nanoseconds + 999) / 1_000) - virtual_clock_now()))
    }

    /// Runs until both sides are established, or one of them has ended.
    func handshake() {
        run { pair in
            guard let server = pair.server else { return !pair.client.association.isOpen }
            return pair.client.isEstablished && server.isEstablished
                || !pair.client.association.isOpen || !server.association.isOpen
        }
    }

    // MARK: What a program does

    func send(_ message: [UInt8], from side: Side, enforcedMTU: Int? = nil) throws {
        var error: EngineError?
        work(side) { lease in
            message.withUnsafeBytes { bytes in
                do throws(EngineError) {
                    if !side.association.isKnownToFit(bytes.count) {
                        try side.association.checkFits(bytes.count, enforcedMTU: enforcedMTU)
                    }
                    try side.association.send(bytes, now: Self.now, lease)
                } catch let thrown {
                    error = thrown
                }
            }
        }
        if let error { throw error }
    }

    /// The server's process has died, and another one goes on with what was in the slot at some moment.
    func reviveServer(from copy: SlotMemory) throws {
        isServerDead = false
        slot = copy
        let association = try Association.resume(
            copy.slot, flow, isServer: true, limits: limits, buffers: buffers, now: Self.now)
        let side = Side(association)
        side.happenings = server?.happenings ?? []
        side.messages = server?.messages ?? []
        server = side
        work(side) { _ in }
    }

    /// The server gives its association up to its slot, and goes on with it in another one.
    func suspendServer() throws {
        server?.association.abandon()
        try reviveServer(from: slot)
    }

    func close(_ side: Side) { work(side) { lease in side.association.close(.closedHere, lease) } }

    /// The client's program is gone without a word, and another one begins at the same address.
    func restartClient() throws {
        client = Side(try Self.connect(flow, clientContext, clientID, limits, buffers))
        work(client) { _ in }
    }

    /// Hands a datagram to the server at once, past the wire.
    /// - Parameter flow: the flow that it comes by; the client's where none is given.
    func inject(_ datagram: [UInt8], from flow: FlowKey? = nil) {
        injectedFlow = flow
        deliver(datagram, to: .server)
        injectedFlow = nil
    }

    /// The server's association gets the socket that it has wanted last.
    func connectWantedSocket() {
        guard let server, let wanted = wantedFlows.last else { return }
        let former = server.association.flow
        server.association.move(to: wanted)
        let actions = server.paths.moved(to: wanted, from: former)
        work(server) { _ in self.perform(actions, server) }
    }

    /// The datagrams that were sent to a side after the first `count`.
    func sent(to side: SimulatedWire.Side, after count: Int = 0) -> [[UInt8]] {
        wire.sent.dropFirst(count).filter { $0.side == side }.map(\.datagram)
    }

    private static func connect(
        _ flow: FlowKey, _ context: ClientContext, _ id: ConnectionID?, _ limits: Connection.Limits,
        _ buffers: EngineBuffers
    ) throws -> Association {
        try Association.connect(
            FlowKey(peer: flow.local, local: flow.peer), context: context, serverName: nil, resuming: nil,
            connectionID: id, limits: limits, pathMTU: nil, buffers: buffers, now: now)
    }

    // MARK: What sockets do

    private func deliver(_ delivery: SimulatedWire.Delivery) { deliver(delivery.datagram, to: delivery.side) }

    private func deliver(_ datagram: [UInt8], to side: SimulatedWire.Side) {
        datagram.withUnsafeBytes { bytes in
            switch side {
            case .client: receive(bytes, client)
            case .server:
                if let server, server.association.isOpen, isSocketConnected {
                    receive(bytes, server)
                } else {
                    receiveAtEndpoint(bytes)
                }
            }
        }
    }

    private func receive(_ datagram: UnsafeRawBufferPointer, _ side: Side) {
        var isMisdelivered = false
        if side === server { arrival = (injectedFlow ?? clientFlow, datagram.count, side.association.newestReceived) }
        defer { arrival = nil }
        work(side) { lease in
            if case .misdelivered = side.association.receive(datagram, now: Self.now, lease, offer: offer) {
                isMisdelivered = true
            }
        }
        guard isMisdelivered, side === server else { return }
        if datagram.first == ContentType.connectionID.rawValue {
            recordsOfOthers += 1
        } else {
            receiveAtEndpoint(datagram)
        }
    }

    private func offer() -> RehandshakeOffer? {
        guard offersAnything else { return nil }
        return RehandshakeOffer(
            material: RehandshakeMaterial(context: offersContext ? serverContext : nil, cookies: cookies),
            minute: Self.minute, pathMTU: nil)
    }

    private static var minute: Minute { Minute(milliseconds: virtual_clock_now() / 1_000) }

    private func receiveAtEndpoint(_ datagram: UnsafeRawBufferPointer) {
        switch endpoint.receive(datagram, flow, now: Self.now, minute: Self.minute, buffers.fragments) {
        case .reply(let request):
            request.withDatagram { wire.send([UInt8]($0), to: .client, at: virtual_clock_now()) }
        case .refuse(let alert):
            alert.withDatagram { wire.send([UInt8]($0), to: .client, at: virtual_clock_now()) }
        case .admit(let opening):
            if let refusal { return endpoint.refused(refusal) }
            guard case .hello(let hello) = consume opening else { return }
            accept(hello)
        case .forward:
            guard let server, server.association.isOpen else {
                endpoint.forget(flow)
                return receiveAtEndpoint(datagram)
            }
            forwarded += 1
            receive(datagram, server)
        case .recordOfConnection:
            recordsOfNoConnection += 1
        case .recordWithConnectionID:
            recordsOfNoConnection += 1
        case .drop(let reason):
            drops.append(reason)
        }
    }

    private func accept(_ verified: consuming VerifiedHello) {
        let random = verified.random
        // On its way to a worker it is bytes.
        let handedOver = verified.handover
        guard let hello = VerifiedHello(handedOver: handedOver, minute: Self.minute) else { return }
        slot.slot.take(flow, target: 7, now: Self.now)
        let association = try? Association.accept(
            hello, flow, slot: slot.slot, context: serverContext, connectionID: serverID, limits: limits,
            buffers: buffers, now: Self.now)
        guard let association else { return }
        number += 1
        endpoint.admitted(random, flow, as: number, now: Self.now)
        let side = Side(association)
        server = side
        work(side) { _ in }
    }

    private func fire(_ side: Side) {
        side.alarm = .distantFuture
        work(side) { lease in
            side.association.handleTimeout(now: Self.now, lease)
            perform(
                side.paths.handleTimeout(present: side.association.flow, now: Self.now, cookie: { self.cookie() }), side
            )
        }
    }

    // MARK: Paths, as a connection has them

    private func cookie() -> UInt64 {
        nextCookie += 1
        return nextCookie
    }

    private func noteArrival(_ side: Side) {
        guard let arrival, side === server, side.association.connectionIDs?.own.isEmpty == false else { return }
        let isNewest = side.association.newestReceived > arrival.newest
        guard isNewest || arrival.flow != side.association.flow else { return }
        perform(
            side.paths.received(
                arrival.count, from: arrival.flow, present: side.association.flow, isNewest: isNewest,
                checks: side.association.checksReturnRoutability, now: Self.now, cookie: { self.cookie() }), side)
    }

    private func perform(_ actions: [PathCheck.Action], _ side: Side) {
        for action in actions {
            switch action {
            case .challenge(let cookie, let flow):
                buffers.outbox.lend(
                    to: side.association,
                    sending: { outbox in
                        for datagram in outbox.datagrams where side.paths.take(datagram.count, to: flow) {
                            transmit(datagram, to: flow)
                        }
                    },
                    { _ in side.association.sendPathChallenge(cookie) })
            case .wantSocket(let flow): wantedFlows.append(flow)
            case .giveUp(let flow): failedFlows.append(flow)
            }
        }
    }

    /// Sends a datagram of the server's to a flow, where the client is or not.
    private func transmit(_ datagram: [UInt8], to flow: FlowKey) {
        bytesSent[flow, default: 0] += datagram.count
        if flow == clientFlow { wire.send(datagram, to: .client, at: virtual_clock_now()) }
    }

    /// Works on an association as a ``Connection`` does.
    private func work(_ side: Side, _ body: (borrowing OutboxLease) -> Void) {
        let wasOpen = side.association.isOpen
        let other: SimulatedWire.Side = side === client ? .server : .client
        buffers.outbox.lend(
            to: side, sending: { outbox in transmit(outbox, to: other) },
            { lease in
                note(side)
                body(lease)
                note(side)
                takeEvents(of: side, lease)
                noteArrival(side)
            })
        side.association.updateSlot()
        note(side)
        if let ending = side.association.ending {
            if wasOpen { side.happenings.append(.ended(ending)) }
            side.alarm = .distantFuture
        } else if side.association.mayHaveEarlierDeadline || !side.paths.isSettled {
            side.alarm = min(side.alarm, side.association.deadline(now: Self.now), side.paths.deadline)
        }
    }

    private func takeEvents(of side: Side, _ lease: borrowing OutboxLease) {
        while true {
            let event = side.association.next(now: Self.now, lease)
            note(side)
            if side === server, isServerDead, case .needsInput = event { return }
            if side === server, isServerDead { continue }
            switch event {
            case .needsInput: return
            case .established: side.happenings.append(.established)
            case .message(let message): side.messages.append([UInt8](message))
            case .replaced: side.happenings.append(.replaced)
            case .rehandshakeFailed(let ending): side.happenings.append(.rehandshakeFailed(ending))
            case .pathResponse(let cookie):
                let present = side.association.flow
                perform(side.paths.receivedResponse(cookie, from: arrival?.flow ?? present, present: present), side)
            case .finishedRepeated: side.repetitions += 1
            case .needsAuthorization(let number): side.association.authorize(number, .allowed())
            }
        }
    }

    private func note(_ side: Side) {
        if side === server, !isServerDead { moment() }
    }

    private func transmit(_ outbox: Outbox, to side: SimulatedWire.Side) {
        if side == .client, isServerDead { return }
        for datagram in outbox.datagrams {
            guard side == .client, let server else {
                wire.send(datagram, to: side, at: virtual_clock_now())
                continue
            }
            switch server.paths.route(datagram.count) {
            case .socket: transmit(datagram, to: server.association.flow)
            case .candidate(let flow): transmit(datagram, to: flow)
            case .nowhere: break
            }
        }
    }
}

extension Outbox {
    /// Copies of what it holds.
    var datagrams: [[UInt8]] {
        withDatagrams { bytes, sizes in
            var offset = 0
            return sizes.map { size in
                defer { offset += size }
                return Array(bytes[offset..<(offset + size)])
            }
        }
    }
}

/// Memory for one slot, which can be copied at any moment as it is.
final class SlotMemory {
    let slot: ConnectionSlot
    private let bytes: UnsafeMutableRawBufferPointer

    init() {
        bytes = .allocate(byteCount: ConnectionSlot.byteCount + ConnectionSlot.overflowByteCount, alignment: 8)
        bytes.initializeMemory(as: UInt8.self, repeating: 0)
        guard let start = bytes.baseAddress else { preconditionFailure("memory that was allocated has an address") }
        slot = ConnectionSlot(start, overflow: start + ConnectionSlot.byteCount)
    }

    deinit { bytes.deallocate() }

    func copy() -> SlotMemory {
        let other = SlotMemory()
        other.bytes.copyMemory(from: UnsafeRawBufferPointer(bytes))
        return other
    }
}
