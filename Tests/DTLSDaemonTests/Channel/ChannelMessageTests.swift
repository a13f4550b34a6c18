import DTLSEngine
import DTLSTransport
import LinuxSystem
import Primitives
import Testing

@testable import DTLSDaemon

/// The messages between the main process and the workers, as bytes.
@Suite struct ChannelMessageTests {
    private func decoded(_ bytes: [UInt8], _ body: (MessageToWorker) throws -> Void) throws {
        try bytes.withUnsafeBytes { try body(try MessageToWorker(decoding: $0)) }
    }

    private func flow() throws -> FlowKey {
        FlowKey(
            peer: try #require(SocketAddress(host: "2001:db8::7", port: 5_684)),
            local: try #require(SocketAddress(host: "::1", port: 684)))
    }

    private func handover(_ target: Target) throws -> [UInt8] {
        MessageToWorker.encode(
            connection: ConnectionNumber(rawValue: 0x1234_5678_9abc), generation: 7, target: target, flow: try flow(),
            connectionID: target == .client(3) ? nil : ConnectionID([7, 8, 9]),
            resumptionKeys: target == .client(3) ? nil : [5, 6], hello: target == .client(3) ? nil : [22, 254],
            datagrams: [[22, 254, 255], [], [1]])
    }

    @Test(arguments: [Target.service(0), .service(70_000), .client(0), .client(3)])
    func `a connection is handed over with its target`(_ target: Target) throws {
        let flow = try flow()
        try decoded(handover(target)) { message in
            guard case .connection(let handover) = message else {
                Issue.record("not a connection")
                return
            }
            #expect(handover.id.rawValue == 0x1234_5678_9abc)
            #expect(handover.generation == 7)
            #expect(handover.target == target)
            #expect(handover.flow == flow)
            #expect(handover.connectionID == (target == .client(3) ? nil : ConnectionID([7, 8, 9])))
            #expect(handover.resumptionKeys.map { [UInt8]($0) } == (target == .client(3) ? nil : [5, 6]))
            #expect(handover.hello.map { [UInt8]($0) } == (target == .client(3) ? nil : [22, 254]))
            #expect(handover.datagrams.map { [UInt8]($0) } == [[22, 254, 255], [], [1]])
        }
    }

    @Test func `what operators ask for reaches the worker as it is`() throws {
        let ids = [ConnectionNumber(rawValue: 1), ConnectionNumber(rawValue: .max)]
        try decoded(MessageToWorker.encode(close: ids)) { message in
            guard case .close(ids) = message else {
                Issue.record("not the connections to be closed")
                return
            }
        }
        for level in [LogLevel.debug, nil] {
            try decoded(MessageToWorker.encode(logLevel: level)) { message in
                guard case .logLevel(level) = message else {
                    Issue.record("not the level \(level.map { "\($0)" } ?? "of the configuration")")
                    return
                }
            }
        }
        let patterns = try ["192.0.2.7", "192.0.2.0/24", "[2001:db8::1]:4711"].map {
            try AddressPattern(parsing: $0)
        }
        try decoded(MessageToWorker.encode(trace: patterns)) { message in
            guard case .trace(patterns) = message else {
                Issue.record("not the peers to be traced")
                return
            }
        }
    }

    @Test(arguments: [Backend.Address.unix("/a"), .udp(.anyAddress(.ipv6, port: 7))], [true, false])
    func `what checks say of a backend reaches the worker`(_ address: Backend.Address, _ isDown: Bool) throws {
        try decoded(MessageToWorker.encode(backend: address, ofService: "ä", isDown: isDown)) { message in
            guard case .backend(address, "ä", isDown) = message else {
                Issue.record("not the backend")
                return
            }
        }
    }

    @Test func `the addresses of a host name reach the worker, and its question for them the main process`() throws {
        let addresses = try ["192.0.2.1", "2001:db8::1"].map { try #require(SocketAddress(host: $0, port: 0)) }
        let bytes = MessageToWorker.encode(addresses: addresses, ofHost: "be.example")
        try decoded(bytes) { message in
            guard case .addresses(addresses, "be.example") = message else {
                Issue.record("not the addresses")
                return
            }
        }
        for count in bytes.indices {
            #expect(throws: MalformedBytes.self, "\(count)") {
                try bytes[..<count].withUnsafeBytes { _ = try MessageToWorker(decoding: $0) }
            }
        }
        let question = MessageFromWorker.encode(hostRefused: "be.example")
        guard case .hostRefused("be.example") = try question.withUnsafeBytes({ try MessageFromWorker(decoding: $0) })
        else {
            Issue.record("not the host name")
            return
        }
    }

    @Test func `a message that ends early is an error at every byte`() throws {
        let bytes = try handover(.client(1))
        for count in bytes.indices {
            #expect(throws: MalformedBytes.self, "\(count)") {
                try bytes[..<count].withUnsafeBytes { _ = try MessageToWorker(decoding: $0) }
            }
        }
    }

    @Test func `a target of an unknown kind is an error`() throws {
        var bytes = try handover(.service(0))
        // The kind of message, the connection's number and the generation come first.
        let position = 1 + 8 + 4
        #expect(bytes[position] == 0)
        bytes[position] = 2
        #expect(throws: MalformedBytes.self) { try bytes.withUnsafeBytes { _ = try MessageToWorker(decoding: $0) } }
    }

    @Test func `an unknown kind of message is an error`() {
        for kind: UInt8 in [0, 127, 255] {
            #expect(throws: MalformedBytes.self) {
                try [kind, 0, 0, 0, 0].withUnsafeBytes { _ = try MessageToWorker(decoding: $0) }
            }
        }
        for kind: UInt8 in [0, 14, 255] {
            #expect(throws: MalformedBytes.self) {
                try [kind, 0, 0, 0, 0].withUnsafeBytes { _ = try MessageFromWorker(decoding: $0) }
            }
        }
    }

    @Test func `commands to a worker arrive as they were sent`() throws {
        try decoded(MessageToWorker.encode(configure: 9)) { message in
            guard case .configure(generation: 9) = message else {
                Issue.record("\(message)")
                return
            }
        }
        for keeping in [false, true] {
            try decoded(MessageToWorker.encode(stopKeepingConnections: keeping)) { message in
                guard case .stop(keepingConnections: keeping) = message else {
                    Issue.record("\(message)")
                    return
                }
            }
        }
        try decoded(MessageToWorker.pingBytes) { message in
            guard case .ping = message else {
                Issue.record("\(message)")
                return
            }
        }
        try decoded(MessageToWorker.keyLogBytes) { message in
            guard case .keyLog = message else {
                Issue.record("\(message)")
                return
            }
        }
        let rehandshake = ([1, 2, 3] as [UInt8]).withUnsafeBytes {
            MessageToWorker.encode(rehandshake: number, resumptionKeys: [4, 5], hello: $0)
        }
        try decoded(rehandshake) { message in
            guard case .rehandshake(id: number, let keys, let hello) = message else {
                Issue.record("\(message)")
                return
            }
            #expect([UInt8](keys) == [4, 5] && [UInt8](hello) == [1, 2, 3])
        }
        let misdelivered = [1, 2, 3].withUnsafeBytes { MessageToWorker.encode(misdelivered: $0, id: number) }
        try decoded(misdelivered) { message in
            guard case .misdelivered(id: number, let datagram) = message else {
                Issue.record("\(message)")
                return
            }
            #expect(datagram.elementsEqual([1, 2, 3].withUnsafeBytes { [UInt8]($0) }))
        }
    }

    private let number = ConnectionNumber(worker: 3, slot: 70_000, generation: 9)
    private let others = (0..<5_000).map { ConnectionNumber(worker: 1, slot: $0, generation: 2) }

    @Test func `what a worker is told of connections without sockets arrives as it was sent`() throws {
        func check(_ bytes: [UInt8], _ isExpected: (MessageToWorker) -> Bool) throws {
            try decoded(bytes) { message in #expect(isExpected(message), "\(message)") }
            for count in bytes.indices {
                #expect(throws: MalformedBytes.self, "\(count)") { try decoded([UInt8](bytes[..<count])) { _ in } }
            }
        }
        try check(MessageToWorker.countersBytes) { if case .counters = $0 { true } else { false } }
        try check(MessageToWorker.encode(slotsOfTable: 65_535, outliveDaemon: true)) {
            if case .slots(table: 65_535, outliveDaemon: true) = $0 { true } else { false }
        }
        try check(MessageToWorker.takeOverBytes) { if case .takeOver = $0 { true } else { false } }
        try check(MessageToWorker.encode(farSocketOf: number)) {
            if case .farSocket(id: number) = $0 { true } else { false }
        }
        let flow = try flow()
        try check(MessageToWorker.encode(resume: number, flow: flow, datagrams: [[22], [], [23, 254]])) {
            guard case .resume(id: number, flow: flow, let datagrams) = $0 else { return false }
            return datagrams.map { [UInt8]($0) } == [[22], [], [23, 254]]
        }
        try check(MessageToWorker.encode(resumeFailed: number)) {
            if case .resumeFailed(id: number) = $0 { true } else { false }
        }
        try check(MessageToWorker.encode(giveUpSocketOf: number)) {
            if case .giveUpSocket(id: number) = $0 { true } else { false }
        }
        try check(MessageToWorker.encode(adopt: Array(others.prefix(20)))) {
            if case .adopt(Array(others.prefix(20))) = $0 { true } else { false }
        }
        try check(MessageToWorker.encode(release: .max)) {
            if case .release(count: .max) = $0 { true } else { false }
        }
    }

    @Test func `records for a worker arrive as they were gathered, and one that is cut off is an error`() throws {
        let flows = [
            try flow(),
            FlowKey(
                peer: try #require(SocketAddress(host: "192.0.2.9", port: 5)),
                local: try #require(SocketAddress(host: "192.0.2.1", port: 4_433))),
        ]
        let datagrams: [[UInt8]] = [[23, 254, 253], [], [25, 254, 253, 0, 1]]
        var gathering = RecordGathering()
        // The memory of one message is that of the next.
        for _ in 0..<2 {
            gathering.removeAll()
            var ends: Set<Int> = []
            for (index, datagram) in datagrams.enumerated() {
                datagram.withUnsafeBytes { gathering.add($0, flows[index % 2], of: others[index]) }
                ends.insert(gathering.bytes.count)
            }
            #expect(gathering.count == 3)
            try decoded(gathering.bytes) { message in
                guard case .records(let records) = message else {
                    Issue.record("\(message)")
                    return
                }
                #expect(records.map(\.id) == Array(others.prefix(3)))
                #expect(records.map(\.flow) == [flows[0], flows[1], flows[0]])
                #expect(records.map { [UInt8]($0.datagram) } == datagrams)
            }
            for count in 2..<gathering.bytes.count where !ends.contains(count) {
                #expect(throws: MalformedBytes.self, "\(count)") {
                    try decoded([UInt8](gathering.bytes[..<count])) { _ in }
                }
            }
        }
    }

    @Test func `gathered records fit a message, whatever their sizes`() throws {
        var gathering = RecordGathering()
        for size in [1, 65_535, 300, 16_640, 16_640, 1] {
            try [UInt8](repeating: 7, count: size).withUnsafeBytes {
                if gathering.isFull(for: $0) { gathering.removeAll() }
                #expect(!gathering.isFull(for: $0))
                gathering.add($0, try flow(), of: number)
            }
            #expect(gathering.bytes.count <= UnixChannel.maximumMessageSize)
        }
    }

    @Test func `a report bounds the networks that forged records came from, and counts each network once`() throws {
        var report = MessageFromWorker.Report()
        for host in 0..<2_000 {
            report.countForged(from: try #require(SocketAddress(host: "10.0.\(host / 250).\(host % 250)", port: 9)))
        }
        for interface in 1...5 {
            report.countForged(from: try #require(SocketAddress(host: "2001:db8::\(interface)", port: 9)))
        }
        #expect(report.forged == 2_005)
        #expect(report.forgedFrom.count == MessageFromWorker.Report.maximumSources)
        #expect(MessageFromWorker.encode(report).count <= UnixChannel.maximumMessageSize / 2)
        report = MessageFromWorker.Report()
        for interface in 1...5 {
            report.countForged(from: try #require(SocketAddress(host: "2001:db8::\(interface)", port: 9)))
        }
        let part = report.takePart()
        #expect(part.forgedFrom.values.map(\.count) == [5] && report.isEmpty)
        let arrived = try MessageFromWorker.encode(part).withUnsafeBytes { try MessageFromWorker(decoding: $0) }
        guard case .report(part) = arrived else {
            Issue.record("\(arrived)")
            return
        }
    }

    @Test func `what a worker says of connections without sockets arrives as it was sent`() throws {
        func check(_ bytes: [UInt8], _ isExpected: (MessageFromWorker) -> Bool) throws {
            func isAsExpected(_ bytes: ArraySlice<UInt8>) throws -> Bool {
                try bytes.withUnsafeBytes { isExpected(try MessageFromWorker(decoding: $0)) }
            }
            #expect(try isAsExpected(bytes[...]))
            for count in bytes.indices {
                #expect(throws: MalformedBytes.self, "\(count)") { try isAsExpected(bytes[..<count]) }
            }
        }
        try check(MessageFromWorker.encode(wake: Array(others.prefix(20)))) {
            if case .wake(Array(others.prefix(20))) = $0 { true } else { false }
        }
        try check(MessageFromWorker.encode(parked: Array(others.prefix(20)))) {
            if case .parked(Array(others.prefix(20))) = $0 { true } else { false }
        }
        let flow = try flow()
        try check(MessageFromWorker.encode(rebind: number, flow: flow)) {
            if case .rebind(id: number, flow: flow) = $0 { true } else { false }
        }
        let challenge = ([25, 254, 253, 0, 1] as [UInt8]).withUnsafeBytes {
            MessageFromWorker.encode(sendFromListener: $0, flow: flow)
        }
        try check(challenge) {
            guard case .sendFromListener(let datagrams) = $0, datagrams.count == 1 else { return false }
            return datagrams[0].flow == flow && datagrams[0].datagram.elementsEqual([25, 254, 253, 0, 1])
        }
        try check(MessageFromWorker.encode(farSocketOf: number)) {
            if case .farSocket(id: number) = $0 { true } else { false }
        }
        for hadSocket in [true, false] {
            try check(MessageFromWorker.encode(released: [number], hadSocket: hadSocket)) {
                if case .released([number], hadSocket) = $0 { true } else { false }
            }
        }
        try check(MessageFromWorker.releaseDoneBytes) { if case .releaseDone = $0 { true } else { false } }
    }

    @Test func `the longest lists of connections fit a message`() {
        let most = Array(others.prefix(ConnectionNumber.maximumOfMessage))
        for bytes in [
            MessageToWorker.encode(adopt: most), MessageFromWorker.encode(wake: most),
            MessageFromWorker.encode(parked: most), MessageFromWorker.encode(released: most, hadSocket: false),
        ] {
            #expect(bytes.count <= UnixChannel.maximumMessageSize)
        }
    }

    @Test func `answers of a worker arrive as they were sent`() throws {
        func check(_ bytes: [UInt8], _ isExpected: (MessageFromWorker) -> Bool) throws {
            let isAsExpected = try bytes.withUnsafeBytes { isExpected(try MessageFromWorker(decoding: $0)) }
            #expect(isAsExpected)
        }
        try check(MessageFromWorker.encode(ready: 3, capacity: 1_000)) {
            if case .ready(generation: 3, capacity: 1_000) = $0 { true } else { false }
        }
        try check(MessageFromWorker.encode(rejected: 4, reason: "keine Ahnung – 42")) {
            if case .rejected(generation: 4, reason: "keine Ahnung – 42") = $0 { true } else { false }
        }
        try check(MessageFromWorker.encode(setupLost: 5)) {
            if case .setupLost(generation: 5) = $0 { true } else { false }
        }
        let flow = try flow()
        let datagram: [UInt8] = [22, 254, 253]
        try check(datagram.withUnsafeBytes { MessageFromWorker.encode(misdelivered: $0, flow: flow) }) {
            guard case .misdelivered(flow, let received) = $0 else { return false }
            return received.elementsEqual(datagram)
        }
    }

    @Test func `a long report is split into messages that a channel takes`() throws {
        var report = MessageFromWorker.Report(
            established: others, closed: others + others.map { ConnectionNumber(rawValue: ~$0.rawValue) },
            forged: 8)
        report.refused.count(.descriptors, 3)
        let whole = report
        var sum = MessageFromWorker.Report()
        while !report.isEmpty {
            let message = MessageFromWorker.encode(report.takePart())
            #expect(message.count <= UnixChannel.maximumMessageSize)
            guard case .report(let part) = try message.withUnsafeBytes({ try MessageFromWorker(decoding: $0) }) else {
                Issue.record("not a report")
                return
            }
            sum.established += part.established
            sum.closed += part.closed
            sum.forged += part.forged
            sum.refused.add(part.refused)
        }
        #expect(sum == whole)
    }
}
