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
            hello: target == .client(3) ? nil : [22, 254], datagrams: [[22, 254, 255], [], [1]])
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
            #expect(handover.hello.map { [UInt8]($0) } == (target == .client(3) ? nil : [22, 254]))
            #expect(handover.datagrams.map { [UInt8]($0) } == [[22, 254, 255], [], [1]])
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
        for kind: UInt8 in [0, 16, 255] {
            #expect(throws: MalformedBytes.self) {
                try [kind, 0, 0, 0, 0].withUnsafeBytes { _ = try MessageToWorker(decoding: $0) }
            }
        }
        for kind: UInt8 in [0, 11, 255] {
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
        let keys = try (1...2).map { try #require(TicketKey([UInt8](repeating: $0, count: TicketKey.length))) }
        try decoded(MessageToWorker.encode(ticketKeys: keys)) { message in
            guard case .ticketKeys(keys) = message else {
                Issue.record("\(message)")
                return
            }
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
        try check(MessageToWorker.encode(slotsOfTable: 65_535, outliveDaemon: true)) {
            if case .slots(table: 65_535, outliveDaemon: true) = $0 { true } else { false }
        }
        try check(MessageToWorker.takeOverBytes) { if case .takeOver = $0 { true } else { false } }
        try check(
            ([23, 254, 253] as [UInt8]).withUnsafeBytes { MessageToWorker.encode(recordOfParked: $0, id: number) }
        ) {
            guard case .recordOfParked(id: number, let datagram) = $0 else { return false }
            return datagram.elementsEqual([23, 254, 253])
        }
        try check(MessageToWorker.encode(farSocketOf: number)) {
            if case .farSocket(id: number) = $0 { true } else { false }
        }
        try check(MessageToWorker.encode(resume: number, datagrams: [[22], [], [23, 254]])) {
            guard case .resume(id: number, let datagrams) = $0 else { return false }
            return datagrams.map { [UInt8]($0) } == [[22], [], [23, 254]]
        }
        try check(MessageToWorker.encode(resumeFailed: number)) {
            if case .resumeFailed(id: number) = $0 { true } else { false }
        }
        try check(MessageToWorker.encode(adopt: Array(others.prefix(20)))) {
            if case .adopt(Array(others.prefix(20))) = $0 { true } else { false }
        }
        try check(MessageToWorker.encode(release: .max)) {
            if case .release(count: .max) = $0 { true } else { false }
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
        try check(MessageFromWorker.encode(farSocketOf: number)) {
            if case .farSocket(id: number) = $0 { true } else { false }
        }
        try check(MessageFromWorker.encode(released: [number])) {
            if case .released([number]) = $0 { true } else { false }
        }
        try check(MessageFromWorker.releaseDoneBytes) { if case .releaseDone = $0 { true } else { false } }
    }

    @Test func `the longest lists of connections fit a message`() {
        let most = Array(others.prefix(ConnectionNumber.maximumOfMessage))
        for bytes in [
            MessageToWorker.encode(adopt: most), MessageFromWorker.encode(wake: most),
            MessageFromWorker.encode(parked: most), MessageFromWorker.encode(released: most),
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
            handshakes: 5_000, resumed: 1, failed: 2, forged: 8)
        report.dropped.count(.bytesPerSecond, 7)
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
            sum.handshakes += part.handshakes
            sum.resumed += part.resumed
            sum.failed += part.failed
            sum.forged += part.forged
            sum.dropped.add(part.dropped)
            sum.refused.add(part.refused)
        }
        #expect(sum == whole)
    }
}
