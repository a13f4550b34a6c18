import DTLSEngine
import DTLSTransport
import Glibc
import LinuxSystem
import Logging
import Primitives
import TestSupport
import Testing

@testable import DTLSDaemon

/// Connections without sockets, with real listeners, and with workers that are the other ends of their channels.
@Suite struct SocketRestorerTests {
    /// What a worker has been sent.
    private enum Message: Equatable {
        case slots(capacity: Int?)
        case configure
        case takeOver
        case record(ConnectionNumber, [UInt8])
        case resume(ConnectionNumber, [[UInt8]], peer: SocketAddress?)
        case resumeFailed(ConnectionNumber)
        case giveUpSocket(ConnectionNumber)
        case records([ConnectionNumber])
        case farSocket(ConnectionNumber, hasDescriptor: Bool)
        case adopt([ConnectionNumber])
        case release(UInt32)
        case stop(keepingConnections: Bool)
        case handover(ConnectionNumber)
        case misdelivered(ConnectionNumber, [UInt8])
        case other
    }

    private final class Workers {
        private final class Channel {
            var descriptor: FileDescriptor
            init(_ descriptor: consuming FileDescriptor) { self.descriptor = descriptor }
        }
        private var channels: [pid_t: Channel] = [:]
        private(set) var started: pid_t = 0
        /// No process has this ID, or one near it (PID_MAX_LIMIT).
        static let first: pid_t = 2_000_000_000
        /// Keeps the sockets that connections have got open.
        private var sockets: [Channel] = []

        func start(_ channel: consuming FileDescriptor) -> pid_t {
            defer { started += 1 }
            channels[Self.first + started] = Channel(channel)
            return Self.first + started
        }

        func send(_ bytes: [UInt8], descriptor: Int32 = -1, from number: pid_t) throws {
            let channel = try #require(channels[Self.first + number])
            let wasSent = try bytes.withUnsafeBytes {
                try UnixChannel.send($0, descriptor: descriptor, over: channel.descriptor)
            }
            #expect(wasSent)
        }

        /// What the worker finds in its channel, without keys and pings.
        func received(by number: pid_t) throws -> [Message] {
            let channel = try #require(channels[Self.first + number])
            var messages: [Message] = []
            let buffer = UnsafeMutableRawBufferPointer.allocate(
                byteCount: UnixChannel.maximumMessageSize, alignment: 16)
            defer { buffer.deallocate() }
            while true {
                let received = try UnixChannel.receive(into: buffer, from: channel.descriptor)
                guard case .message(let count, let descriptor, _) = consume received else { return messages }
                let message = try message(UnsafeRawBufferPointer(rebasing: buffer[..<count]), descriptor)
                if message != .other { messages.append(message) }
            }
        }

        private func message(
            _ bytes: UnsafeRawBufferPointer, _ descriptor: consuming FileDescriptor?
        ) throws -> Message {
            switch try MessageToWorker(decoding: bytes) {
            case .slots:
                guard let file = descriptor else { return .slots(capacity: nil) }
                return .slots(capacity: try SlotFile(file).capacity)
            case .configure: return .configure
            case .takeOver: return .takeOver
            case .records(let records):
                guard let record = records.first, records.count == 1 else {
                    return .records(records.map { ($0.id) })
                }
                return .record(record.id, [UInt8](record.datagram))
            case .resume(let id, _, let datagrams):
                let datagrams = datagrams.map { [UInt8]($0) }
                guard let socket = descriptor else { return .resume(id, datagrams, peer: nil) }
                let peer = try UDPSocket.peerAddress(of: socket)
                sockets.append(Channel(socket))
                return .resume(id, datagrams, peer: peer)
            case .resumeFailed(let id): return .resumeFailed(id)
            case .giveUpSocket(let id): return .giveUpSocket(id)
            case .farSocket(let id): return .farSocket(id, hasDescriptor: descriptor != nil)
            case .adopt(let ids): return .adopt(ids)
            case .release(let count): return .release(count)
            case .stop(let keeping): return .stop(keepingConnections: keeping)
            case .connection(let handover):
                if let socket = descriptor { sockets.append(Channel(socket)) }
                return .handover(handover.id)
            case .misdelivered(let id, let datagram): return .misdelivered(id, [UInt8](datagram))
            case .ping, .rehandshake, .sessions, .keyLog, .keys, .counters, .close, .logLevel, .trace, .addresses,
                .backend:
                return .other
            }
        }

        func end(_ number: pid_t) { channels[Self.first + number] = nil }
    }

    private let loop: EventLoop
    private let workers = Workers()
    private let supervisor: WorkerSupervisor
    private let dispatcher: ConnectionDispatcher
    private let listener: DatagramListener
    private let client: DatagramSocket
    private let record: [UInt8] = [23, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 7, 0, 2, 1, 2]

    init() throws { try self.init(.cookies(try CookieAuthority(secret: Array(0..<32)))) }

    private init(_ policy: Endpoint.Policy) throws {
        loop = try EventLoop()
        supervisor = WorkerSupervisor(loop: loop, logger: Logger(label: "test")) {
            [workers] _, channel throws(SystemError) in workers.start(channel)
        }
        dispatcher = ConnectionDispatcher(workers: supervisor, loop: loop)
        let socket = try UDPSocket.listen(on: try #require(SocketAddress("127.0.0.1:0")), options: SocketOptions())
        let address = try #require(try UDPSocket.localAddress(of: socket))
        listener = DatagramListener(
            socket: socket, address: address, policy: policy, options: SocketOptions(), buffers: ListenerBuffers(),
            loop: loop, delegate: dispatcher)
        try listener.open()
        client = try DatagramSocket(at: try #require(SocketAddress("127.0.0.1:0")))
        let target: Target = listener.isPlain ? .client(0) : .service(0)
        dispatcher.activate(.empty(services: "a"), targets: [ObjectIdentifier(listener): target])
        dispatcher.findListeners { [listener] in $0 == listener.address ? listener : nil }
        supervisor.onEvent = { [dispatcher] in
            if case .tookOver(let table) = $0 { dispatcher.workerTookOver(table: table) }
        }
        try configure(workers: 1)
    }

    private func configure(workers count: Int) throws {
        let setup = WorkerSetup(
            snapshot: try MemoryFile.make([1], name: "snapshot"), keyLog: FileDescriptor(owning: -1))
        try supervisor.configure(workers: count, setup)
    }

    private func ready(_ number: pid_t, generation: UInt32 = 1) throws {
        try workers.send(MessageFromWorker.encode(ready: generation, capacity: 100), from: number)
        try turn()
    }

    /// Two turns: what the first one has deferred is done in the second one.
    private func turn() throws { for _ in 0..<3 { try loop.poll(timeout: .milliseconds(1)) } }

    private func send(_ bytes: [UInt8]) throws {
        client.send(bytes, to: listener.address)
        try turn()
    }

    private var flow: FlowKey { FlowKey(peer: client.local, local: listener.address) }

    /// An established connection of the client, or of another one.
    private func connection(
        _ target: UInt64 = SlotTarget.service("a"), in table: Int = 0, from other: SocketAddress? = nil
    ) throws -> ConnectionNumber {
        let flow = FlowKey(peer: other ?? client.local, local: listener.address)
        let connection = try #require(supervisor.connections.begin(flow, target: target, in: table, now: loop.now))
        let slot = try #require(supervisor.connections.slot(of: connection))
        slot.establish(
            slot.prepare(random: UnsafeRawBufferPointer(start: nil, count: 0), details: [], handshakeDuration: .zero),
            isMovable: true)
        return connection
    }

    private func report(parked: ConnectionNumber) throws {
        try workers.send(MessageFromWorker.encode(parked: [parked]), from: 0)
    }

    @Test func `a worker gets its slots before its configuration`() throws {
        #expect(try workers.received(by: 0) == [.slots(capacity: 1 << 20), .configure])
    }

    @Test
    func `a record of a connection without a socket goes to its worker, and a socket is made when that wants one`()
        throws
    {
        try ready(0)
        let connection = try connection()
        try report(parked: connection)
        // The listener may be read before the channel.
        try send(record)
        #expect(listener.counters.ofNoConnection == 0)
        _ = try workers.received(by: 0).count
        try send(record)
        #expect(try workers.received(by: 0) == [.record(connection, record)])
        #expect(!supervisor.connections.hasSocket(connection), "nobody has authenticated it")
        try workers.send(MessageFromWorker.encode(wake: [connection]), from: 0)
        try turn()
        #expect(try workers.received(by: 0) == [.resume(connection, [], peer: client.local)])
        #expect(supervisor.connections.hasSocket(connection))
        // Another wake finds that it has one.
        try workers.send(MessageFromWorker.encode(wake: [connection]), from: 0)
        try turn()
        #expect(try workers.received(by: 0).isEmpty)
        // The client's datagrams come over that one now, and the listener has none of them.
        try send(record)
        #expect(try workers.received(by: 0).isEmpty && listener.counters.ofNoConnection == 0)
    }

    /// The worker would lose what it keeps for the connection if it were told that there is no socket.
    @Test func `a socket that finds no room in the channel of its worker waits for it`() throws {
        try ready(0)
        let parked = try connection()
        try report(parked: parked)
        let other = try connection(from: SocketAddress("127.0.0.1:9"))
        /// How many messages have room.
        func fill(upTo limit: Int) throws -> Int {
            let datagram = [UInt8](repeating: 7, count: 1_000)
            for count in 0..<limit {
                datagram.withUnsafeBytes { _ = supervisor.deliver($0, to: other) }
                if supervisor.refusalOfSocket(for: parked) == .busy { return count }
            }
            return limit
        }
        /// The worker reads all that is there.
        func empty() throws {
            try turn()
            while try !workers.received(by: 0).isEmpty { try turn() }
        }
        try empty()
        let room = try fill(upTo: 10_000)
        #expect((10..<10_000).contains(room))
        try empty()
        #expect(try fill(upTo: room) == room, "the channel does not know yet that it is full")
        try workers.send(MessageFromWorker.encode(wake: [parked]), from: 0)
        try turn()
        #expect(try workers.received(by: 0).count == room)
        try turn()
        #expect(try workers.received(by: 0) == [.resume(parked, [], peer: client.local)])
        #expect(supervisor.connections.hasSocket(parked))
    }

    @Test func `a record of an unknown flow is dropped and counted`() throws {
        try ready(0)
        _ = try workers.received(by: 0)
        try send(record)
        #expect(try workers.received(by: 0).isEmpty && listener.counters.ofNoConnection == 1)
    }

    @Test func `a verified hello of a connection without a socket is its re-handshake, and begins no other connection`()
        throws
    {
        try ready(0)
        let connection = try connection()
        try report(parked: connection)
        try turn()
        _ = try workers.received(by: 0)
        let hello = ClientHelloBytes()
        try send(hello.bytes())
        #expect(try workers.received(by: 0).isEmpty, "without a cookie, it proves nothing")
        guard case .helloVerifyRequest(let cookie) = HelloAnswer(try #require(client.receive()).bytes) else {
            Issue.record("the listener has asked for no cookie")
            return
        }
        let verified = hello.bytes(cookie: cookie, number: 1)
        client.send(verified, to: listener.address)
        // A copy of it waits in the listener's queue.
        try send(verified)
        let messages = try workers.received(by: 0)
        #expect(messages.first.map { if case .resume(connection, _, _) = $0 { true } else { false } } == true)
        #expect(!messages.contains { if case .handover = $0 { true } else { false } })
        #expect(supervisor.connections.count == 1 && supervisor.connections.hasSocket(connection))
    }

    @Test func `what comes while a dead worker has no successor reaches that one`() throws {
        try ready(0)
        let connection = try connection()
        workers.end(0)
        supervisor.childEnded(Workers.first, .killed(signal: 9))
        #expect(workers.started == 2)
        try send(record)
        try send(record + [9])
        #expect(try workers.received(by: 1) == [.slots(capacity: 1 << 20), .configure])
        try ready(1)
        #expect(
            try workers.received(by: 1) == [
                .takeOver, .record(connection, record), .record(connection, record + [9]),
            ])
        #expect(listener.counters.ofNoConnection == 0)
    }

    @Test func `what is kept for a dead worker is bounded`() throws {
        try ready(0)
        _ = try connection()
        workers.end(0)
        supervisor.childEnded(Workers.first, .killed(signal: 9))
        let long = record + [UInt8](repeating: 0, count: 1_300)
        for _ in 0..<400 { try send(long) }
        try ready(1)
        var records = 0
        // The channel takes some of them at a time.
        for _ in 0..<10 {
            records += try workers.received(by: 1).count { if case .record = $0 { true } else { false } }
            try turn()
        }
        #expect(records == SocketRestorer.maximumKept / (long.count + 64))
    }

    @Test func `a local sender's connection gets its socket as soon as a worker goes on with it`() throws {
        let test = try SocketRestorerTests(.none)
        try test.ready(0)
        let connection = try test.connection(SlotTarget.client("c"))
        test.workers.end(0)
        test.supervisor.childEnded(Workers.first, .killed(signal: 9))
        try test.send([1, 2, 3])
        try test.ready(1)
        #expect(
            try test.workers.received(by: 1) == [
                .slots(capacity: 1 << 20), .configure, .takeOver,
                .resume(connection, [[1, 2, 3]], peer: test.client.local),
            ])
        #expect(test.supervisor.connections.count == 1)
    }

    @Test func `a connection whose listener is gone gets no socket`() throws {
        try ready(0)
        let connection = try connection()
        try report(parked: connection)
        dispatcher.findListeners { _ in nil }
        _ = try workers.received(by: 0)
        try workers.send(MessageFromWorker.encode(wake: [connection]), from: 0)
        try turn()
        #expect(try workers.received(by: 0) == [.resumeFailed(connection)])
        #expect(supervisor.connections.lacksSocket(connection))
    }

    @Test func `the connections of a worker that drains go to another one with their sockets`() throws {
        try ready(0)
        try configure(workers: 2)
        try ready(1, generation: 2)
        try ready(0, generation: 2)
        let parked = try connection(in: 1)
        supervisor.connections.noteWithoutSocket(parked)
        let active = try connection(in: 1)
        try configure(workers: 1)
        for number: pid_t in [0, 1] { _ = try workers.received(by: number).count }
        let socket = try UDPSocket.open(.ipv4)
        try UDPSocket.connect(socket, to: client.local)
        try workers.send(MessageFromWorker.encode(farSocketOf: active), descriptor: socket.rawValue, from: 1)
        try workers.send(
            MessageFromWorker.encode(released: [active], hadSocket: true), descriptor: socket.rawValue, from: 1)
        try workers.send(MessageFromWorker.encode(released: [parked], hadSocket: false), from: 1)
        try workers.send(MessageFromWorker.releaseDoneBytes, from: 1)
        try turn()
        let table = try #require(supervisor.connections[0])
        let moved = table.indices.compactMap { table.number(at: $0) }
        #expect(moved.count == 2 && supervisor.connections.count == 2)
        #expect(
            try workers.received(by: 0) == [
                .farSocket(moved[0], hasDescriptor: true), .resume(moved[0], [], peer: client.local),
                .adopt([moved[1]]),
            ])
        #expect(table.hasSocket(moved[0]) && !table.hasSocket(moved[1]))
        #expect(try workers.received(by: 1) == [.stop(keepingConnections: false)])
        workers.end(1)
        supervisor.childEnded(Workers.first + 1, .exited(status: 0))
        try turn()
        #expect(supervisor.connections.numbers == [0])
    }

    /// Both would have it: the one with the socket, the other with the slot (Tests/Models/handover.pml).
    @Test func `a connection that gets a socket while its worker gives it up stays with that worker`() throws {
        try ready(0)
        try configure(workers: 2)
        try ready(1, generation: 2)
        try ready(0, generation: 2)
        let connection = try connection(in: 1)
        supervisor.connections.noteWithoutSocket(connection)
        try configure(workers: 1)
        _ = try workers.received(by: 0)
        // The worker has asked for a socket, and gives all up before that comes.
        let socket = try UDPSocket.open(.ipv4)
        try UDPSocket.connect(socket, to: client.local)
        try workers.send(MessageFromWorker.encode(wake: [connection]), from: 1)
        try turn()
        #expect(supervisor.connections.hasSocket(connection))
        try workers.send(MessageFromWorker.encode(farSocketOf: connection), descriptor: socket.rawValue, from: 1)
        try workers.send(MessageFromWorker.encode(released: [connection], hadSocket: false), from: 1)
        try turn()
        #expect(supervisor.connections.hasSocket(connection) && supervisor.connections.count == 1)
        #expect(try workers.received(by: 0).isEmpty)
        #expect(try workers.received(by: 1).contains(.resume(connection, [], peer: client.local)))
    }

    @Test func `a connection that no other worker can take goes back to its own`() throws {
        try ready(0)
        let connection = try connection()
        _ = try workers.received(by: 0)
        let socket = try UDPSocket.open(.ipv4)
        try UDPSocket.connect(socket, to: client.local)
        try workers.send(
            MessageFromWorker.encode(released: [connection], hadSocket: true), descriptor: socket.rawValue, from: 0)
        try turn()
        #expect(try workers.received(by: 0) == [.resume(connection, [], peer: client.local)])
        #expect(supervisor.connections.hasSocket(connection))
    }

    @Test func `the connections of a draining worker that dies are served by another one`() throws {
        try ready(0)
        try configure(workers: 2)
        try ready(1, generation: 2)
        _ = try connection(in: 1)
        try configure(workers: 1)
        try ready(0, generation: 3)
        workers.end(1)
        supervisor.childEnded(Workers.first + 1, .killed(signal: 9))
        // It comes while the connection is nobody's.
        client.send(record, to: listener.address)
        try turn()
        let table = try #require(supervisor.connections[0])
        let moved = try #require(table.number(at: 0))
        let messages = try workers.received(by: 0)
        #expect(messages.contains(.adopt([moved])))
        try send(record)
        #expect(try (messages + workers.received(by: 0)).contains(.record(moved, record)))
        #expect(supervisor.connections.numbers == [0])
    }

    // MARK: Connection IDs

    /// An established connection of another client, which puts a connection ID into its records.
    private func named(
        _ peer: SocketAddress, target: UInt64 = SlotTarget.service("a")
    ) throws -> (number: ConnectionNumber, record: [UInt8]) {
        if supervisor.connections.connectionIDs == nil {
            supervisor.connections.connectionIDs = try ConnectionIDAuthority.ofTests()
        }
        let connections = supervisor.connections
        let flow = FlowKey(peer: peer, local: listener.address)
        let number = try #require(connections.begin(flow, target: target, in: 0, now: loop.now))
        let id = try #require(connections.connectionIDs?.makeConnectionID(for: number, length: 17))
        try #require(connections.slot(of: number)).establish(with: id)
        return (number, record(id))
    }

    private func record(_ id: ConnectionID) -> [UInt8] {
        [25, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 7] + id.bytes + [0, 2, 1, 2]
    }

    private var elsewhere: SocketAddress { get throws { try #require(SocketAddress("127.0.0.77:40000")) } }

    @Test func `a record from a new address goes to the worker, and a socket is made when that has found it good`()
        throws
    {
        try ready(0)
        let (connection, record) = try named(try elsewhere)
        _ = try workers.received(by: 0)
        try send(record)
        #expect(try workers.received(by: 0) == [.record(connection, record)])
        #expect(
            supervisor.connections.slot(of: connection)?.flow?.peer == (try elsewhere), "nobody has authenticated it")
        try workers.send(MessageFromWorker.encode(rebind: connection, flow: flow), from: 0)
        try turn()
        #expect(try workers.received(by: 0) == [.resume(connection, [], peer: client.local)])
        #expect(
            supervisor.connections.slot(of: connection)?.flow == flow && supervisor.connections.hasSocket(connection))
        #expect(dispatcher.addressChanges == ["1 changes of a client's address"])
        // It is there already.
        try workers.send(MessageFromWorker.encode(rebind: connection, flow: flow), from: 0)
        try turn()
        #expect(try workers.received(by: 0) == [.resumeFailed(connection)])
        #expect(listener.counters.ofNoConnection == 0)
    }

    @Test func `records that come together go to their worker together`() throws {
        try ready(0)
        let (connection, record) = try named(try elsewhere)
        _ = try workers.received(by: 0)
        for _ in 0..<20 { client.send(record, to: listener.address) }
        try turn()
        #expect(try workers.received(by: 0) == [.records([ConnectionNumber](repeating: connection, count: 20))])
    }

    @Test func `a worker gets one message with records in a millisecond, and the first one at once`() throws {
        try ready(0)
        let (connection, record) = try named(try elsewhere)
        _ = try workers.received(by: 0)
        client.send(record, to: listener.address)
        try loop.poll(timeout: .milliseconds(1))
        #expect(try workers.received(by: 0) == [.record(connection, record)])
        let start = loop.now
        for _ in 0..<200 {
            client.send(record, to: listener.address)
            try loop.poll(timeout: .zero)
        }
        // The listener leaves its socket alone for moments, since these are many.
        var messages = try workers.received(by: 0)
        var count: Int {
            messages.reduce(0) { sum, message in
                if case .records(let ids) = message { sum + ids.count } else { sum + 1 }
            }
        }
        for _ in 0..<100 where count < 200 {
            try loop.poll(timeout: .milliseconds(10))
            messages += try workers.received(by: 0)
        }
        #expect(count == 200)
        let passed = Int((loop.now - start).nanoseconds / 1_000_000)
        #expect(messages.count <= passed + 1)
    }

    @Test func `a client at the port of another one takes it, and the other one gives its socket up`() throws {
        try ready(0)
        let former = try connection()
        let (mover, _) = try named(try elsewhere)
        _ = try workers.received(by: 0)
        try workers.send(MessageFromWorker.encode(rebind: mover, flow: flow), from: 0)
        try turn()
        #expect(try workers.received(by: 0) == [.giveUpSocket(former), .resume(mover, [], peer: client.local)])
        #expect(supervisor.connections.slot(of: former)?.flow == nil)
        try report(parked: former)
        try workers.send(MessageFromWorker.encode(wake: [former]), from: 0)
        try turn()
        #expect(try workers.received(by: 0) == [.resumeFailed(former)], "nobody knows where its client is")
        #expect(supervisor.connections.count == 2)
    }

    @Test(arguments: [false, true])
    func `a new client at the port of one with a connection ID begins a connection, and the other one stays`(
        _ hasSocket: Bool
    ) throws {
        try ready(0)
        let (former, record) = try named(client.local)
        if !hasSocket { try report(parked: former) }
        try turn()
        _ = try workers.received(by: 0)
        let hello = ClientHelloBytes()
        try send(hello.bytes())
        guard case .helloVerifyRequest(let cookie) = HelloAnswer(try #require(client.receive()).bytes) else {
            Issue.record("the listener has asked for no cookie")
            return
        }
        // It comes from the worker where the connection has a socket.
        let verified = hello.bytes(cookie: cookie, number: 1)
        listener.expectLateDatagrams(of: flow, for: former.rawValue)
        verified.withUnsafeBytes { listener.reinject($0, flow) }
        try turn()
        let messages = try workers.received(by: 0)
        let new = try #require(supervisor.connections.connection(of: flow))
        #expect(new != former && messages == (hasSocket ? [.giveUpSocket(former)] : []) + [.handover(new)])
        #expect(supervisor.connections.slot(of: former)?.flow == nil && supervisor.connections.count == 2)
        // The former client comes from elsewhere.
        let other = try DatagramSocket(at: try #require(SocketAddress("127.0.0.1:0")))
        other.send(record, to: listener.address)
        try turn()
        #expect(try workers.received(by: 0) == [.record(former, record)])
    }

    @Test func `a record whose connection ID is nobody's, or another service's, is one of no connection`() throws {
        try ready(0)
        let (gone, record) = try named(try elsewhere)
        supervisor.connections.end(gone)
        let (_, ofOther) = try named(try elsewhere, target: SlotTarget.service("b"))
        _ = try workers.received(by: 0)
        try send(record)
        try send(ofOther)
        let there = ConnectionIDAuthority(
            ConnectionIDConfiguration(serverID: [9]), ownKey: [UInt8](repeating: 3, count: 16))
        try send(self.record(try #require(there?.makeConnectionID(for: gone, length: 17))))
        #expect(try workers.received(by: 0).isEmpty)
        #expect(listener.counters.ofNoConnection == 3)
        #expect(dispatcher.addressChanges == ["1 record with a connection ID of other machines"])
    }

    @Test func `a connection whose connection ID no key reads any more is found at its own address`() throws {
        try ready(0)
        let (connection, record) = try named(client.local)
        let key = ConnectionIDKey(rotation: 6, bytes: [UInt8](repeating: 1, count: 16))
        supervisor.connections.connectionIDs = ConnectionIDAuthority(
            ConnectionIDConfiguration(keys: [key]), ownKey: [UInt8](repeating: 3, count: 16))
        try report(parked: connection)
        try turn()
        _ = try workers.received(by: 0)
        try send(record)
        #expect(try workers.received(by: 0) == [.record(connection, record)])
        let (_, other) = try named(try elsewhere)
        supervisor.connections.connectionIDs = try ConnectionIDAuthority.ofTests()
        try send(other)
        #expect(try workers.received(by: 0).isEmpty)
    }

    @Test func `forged records from new addresses are dropped once there are many, and those from the old one are not`()
        throws
    {
        try ready(0)
        let (moved, record) = try named(try elsewhere)
        var report = MessageFromWorker.Report()
        for _ in 0..<2_000 { report.countForged(from: client.local) }
        try workers.send(MessageFromWorker.encode(report), from: 0)
        try turn()
        _ = try workers.received(by: 0)
        try send(record)
        #expect(try workers.received(by: 0).isEmpty)
        #expect(
            dispatcher.addressChanges == ["1 record with a connection ID dropped for many forged ones"])
        // Nor is one looked at whose connection ID names nobody.
        var unknown = record
        unknown[15] ^= 1
        try send(unknown)
        #expect(
            dispatcher.addressChanges == ["2 records with connection IDs dropped for many forged ones"])
        #expect(listener.counters.ofNoConnection == 0)
        let (home, own) = try named(client.local)
        try self.report(parked: home)
        try send(own)
        #expect(try workers.received(by: 0) == [.record(home, own)])
        #expect(supervisor.connections.contains(moved))
    }

    @Test func `records with connection IDs that come while a dead worker has no successor reach that one`() throws {
        try ready(0)
        let (connection, record) = try named(try elsewhere)
        workers.end(0)
        supervisor.childEnded(Workers.first, .killed(signal: 9))
        try send(record)
        try ready(1)
        #expect(
            try workers.received(by: 1) == [
                .slots(capacity: 1 << 20), .configure, .takeOver, .record(connection, record),
            ])
    }

    @Test func `a worker's datagram for an unproven address leaves from the listener`() throws {
        try ready(0)
        supervisor.onDatagrams = { [listener] datagrams in
            for item in datagrams { listener.send(item.datagram, to: item.flow) }
        }
        let challenge: [UInt8] = [25, 0xfe, 0xfd] + [UInt8](repeating: 7, count: 1_300)
        try challenge.withUnsafeBytes {
            try workers.send(MessageFromWorker.encode(sendFromListener: $0, flow: flow), from: 0)
        }
        try turn()
        let received = try #require(client.receive(from: listener.address))
        #expect(received == challenge)
    }

    @Test func `a rebind of a connection that is gone, in its handshake or of another worker fails`() throws {
        try ready(0)
        let connections = supervisor.connections
        let handshaking = try #require(
            connections.begin(flow, target: SlotTarget.service("a"), in: 0, now: loop.now))
        _ = try workers.received(by: 0)
        let gone = ConnectionNumber(worker: 0, slot: 77, generation: 1)
        let foreign = ConnectionNumber(worker: 5, slot: 0, generation: 1)
        for connection in [handshaking, gone, foreign] {
            try workers.send(MessageFromWorker.encode(rebind: connection, flow: flow), from: 0)
        }
        try turn()
        let answers = try workers.received(by: 0)
        #expect(answers.count == 3)
        for connection in [handshaking, gone, foreign] { #expect(answers.contains(.resumeFailed(connection))) }
    }
}
