import DTLSEngine
import DTLSTransport
import LinuxSystem
import Primitives
import Testing

@testable import DTLSDaemon

/// A worker in the process of the test, which is its main process: it has the other end of the channel, and the memory
/// of the connections.
final class LoneWorker {
    /// What the worker has said, reports of handshakes apart.
    enum Message: Equatable {
        case ready
        case parked([ConnectionNumber])
        case wake([ConnectionNumber])
        case closed([ConnectionNumber])
        case sent(FlowKey, [UInt8])
        case released([ConnectionNumber])
        case releaseDone
        case other
    }

    let worker: Worker
    let slots: SlotFile
    private let channel: FileDescriptor
    private let folder: ConfigurationFolder
    private var generation: UInt32 = 0
    /// What it has said and nobody has asked for yet.
    private var unheard: [Message] = []

    /// - Parameter text: the configuration. There are `server.pem` and `server.key` in its folder.
    init(_ text: String, capacity: Int = 8_192) throws {
        folder = try ConfigurationFolder()
        slots = try SlotFile(capacity: capacity, name: "slots")
        var ends = try UnixChannel.pair()
        channel = ends.one.take()
        worker = try Worker(number: 0, channel: ends.other.take())
        try send(
            MessageToWorker.encode(slotsOfTable: 0, outliveDaemon: false),
            try slots.descriptor.duplicate())
        try configure(text)
    }

    func configure(_ text: String) throws {
        let configuration = try folder.read(text)
        let snapshot = Snapshot(configuration: configuration, cookieSecret: [UInt8](repeating: 1, count: 32))
        generation += 1
        try send(
            MessageToWorker.encode(configure: generation),
            try MemoryFile.make(BinaryCoding.encode(snapshot), name: "snapshot"))
        let heard = try received { $0.contains(.ready) }
        #expect(heard.contains(.ready))
        unheard = heard.filter { $0 != .ready }
    }

    /// Has it serve what is in the slots, as far as it does that by itself.
    func takeOver() throws {
        try send(MessageToWorker.takeOverBytes)
        for _ in 0..<5 {
            try worker.loop.poll(timeout: .milliseconds(1))
            unheard += try read()
        }
    }

    func send(_ message: [UInt8], _ descriptor: consuming FileDescriptor = FileDescriptor(owning: -1)) throws {
        let raw = descriptor.rawValue
        let wasSent = try message.withUnsafeBytes { try UnixChannel.send($0, descriptor: raw, over: channel) }
        #expect(wasSent)
        _ = consume descriptor
    }

    /// An established connection of a service without a socket, in the next slot.
    func park(_ flow: FlowKey, _ service: String, lastReceived: Instant = .now()) -> ConnectionNumber {
        let index = slots.used
        slots[index].take(flow, target: SlotTarget.service(service), now: lastReceived)
        slots[index].establish(with: nil)
        slots.used = index + 1
        return ConnectionNumber(worker: 0, slot: index, generation: slots[index].generation)
    }

    /// Lets the worker work until it has said what `condition` wants to hear, for some seconds at most.
    /// - Returns: all that it has said.
    func received(until condition: ([Message]) -> Bool) throws -> [Message] {
        let deadline = Instant.now() + .seconds(10)
        var messages = unheard
        unheard = []
        while !condition(messages), Instant.now() < deadline {
            try worker.loop.poll(timeout: .milliseconds(5))
            messages += try read()
        }
        return messages
    }

    private func read() throws -> [Message] {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: UnixChannel.maximumMessageSize, alignment: 16)
        defer { buffer.deallocate() }
        var messages: [Message] = []
        while true {
            let received = try UnixChannel.receive(into: buffer, from: channel)
            guard case .message(let count, _, _) = consume received else { return messages }
            messages += try Self.messages(in: UnsafeRawBufferPointer(rebasing: buffer[..<count]))
        }
    }

    private static func messages(in bytes: UnsafeRawBufferPointer) throws -> [Message] {
        switch try MessageFromWorker(decoding: bytes) {
        case .ready: [.ready]
        case .parked(let ids): [.parked(ids)]
        case .wake(let ids): [.wake(ids)]
        case .report(let report): report.closed.isEmpty ? [] : [.closed(report.closed)]
        case .sendFromListener(let datagrams): datagrams.map { .sent($0.flow, [UInt8]($0.datagram)) }
        case .released(let ids, _): [.released(ids)]
        case .releaseDone: [.releaseDone]
        default: [.other]
        }
    }
}

extension [LoneWorker.Message] {
    /// The datagrams that were to be sent from listeners, by their flows.
    var sent: [FlowKey: [[UInt8]]] {
        reduce(into: [:]) { if case .sent(let flow, let datagram) = $1 { $0[flow, default: []].append(datagram) } }
    }

    var released: [[ConnectionNumber]] { compactMap { if case .released(let ids) = $0 { ids } else { nil } } }

    var closed: Set<ConnectionNumber> {
        reduce(into: []) { if case .closed(let ids) = $1 { $0.formUnion(ids) } }
    }
}
