// Built by scripts/fuzz, which lets it use the engine's internal names.

import COpenSSL
import Primitives

@testable import DTLSEngine

/// The receiving side of one connection twice, with the same keys: in OpenSSL, and here. What the peer seals, and what
/// somebody makes of it, comes to both.
private final class Receivers {
    let openSSL: Engine
    let ours: Engine
    /// The sender's state. Its records are sealed with whatever numbers the input asks for.
    let sender = UnsafeMutableRawPointer.allocate(byteCount: RecordState.byteCount, alignment: 8)
    private let client: Engine
    let bio: DatagramBIO
    /// The first number of the next input: far enough behind all that came before.
    var base = RecordState.firstNumber + 1_000
    var hint: Int32 = 0
    /// Why one of both has failed.
    private var failure = ""

    init(_ cipher: String) throws {
        bio = try DatagramBIO()
        let key = PresharedKey(identity: Array("fuzz".utf8), key: Array(repeating: 7, count: 16))
        var settings = ServerSettings(certifiedKeys: [], ciphers: cipher, allowsRenegotiation: true)
        settings.presharedKeys = PresharedKeys(keys: [key], hint: nil)
        client = try Engine(
            connecting: ClientContext(ClientSettings(presharedKey: key, ciphers: cipher, allowsRenegotiation: true)),
            over: bio, payloadSize: 1_400)
        openSSL = try Self.handshake(client, ServerContext(settings), bio)
        let memory = UnsafeMutableRawPointer.allocate(byteCount: RecordState.byteCount, alignment: 8)
        defer { memory.deallocate() }
        guard let receiver = openSSL.openSSLConnection, let peer = client.openSSLConnection,
            RecordState.export(
                from: receiver.ssl, receiver.protectedWrites, contentLimit: receiver.recordLimit, nil, to: memory),
            RecordState.export(from: peer.ssl, peer.protectedWrites, contentLimit: peer.recordLimit, nil, to: sender)
        else { fatalError("the keys do not leave") }
        ours = try Engine(
            resuming: [UInt8](UnsafeRawBufferPointer(start: memory, count: RecordState.byteCount)), over: bio)
    }

    deinit { sender.deallocate() }

    private static func handshake(_ client: Engine, _ context: ServerContext, _ bio: DatagramBIO) throws -> Engine {
        let cookies = try CookieAuthority(secret: Array(repeating: 9, count: 32))
        let bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: 6, alignment: 1)
        defer { bytes.deallocate() }
        bytes.copyBytes(from: [192, 0, 2, 1, 0, 1])
        let address = UnsafeRawBufferPointer(bytes)
        let minute = Minute(number: 7)
        var server: Engine?
        _ = try client.next(now: .distantPast)
        var toServer = take(bio)
        for _ in 0..<10 {
            var toClient: [[UInt8]] = []
            for datagram in toServer {
                if let server {
                    _ = try events(of: server, datagram)
                    toClient += take(bio)
                    continue
                }
                try datagram.withUnsafeBytes { datagram in
                    guard case .hello(let hello) = ClientHello.parse(datagram) else { fatalError("no hello") }
                    if let verified = cookies.verify(hello, peer: address, local: address, minute: minute) {
                        let new = try Engine(accepting: context, over: bio, payloadSize: 1_400, hello: verified)
                        _ = try new.next(now: .distantPast)
                        server = new
                        toClient += take(bio)
                        return
                    }
                    var reply = [UInt8](repeating: 0, count: CookieAuthority.helloVerifyRequestSize)
                    let size = reply.withUnsafeMutableBytes {
                        cookies.writeHelloVerifyRequest(
                            answering: hello, peer: address, local: address, minute: minute, into: $0)
                    }
                    toClient.append([UInt8](reply.prefix(size)))
                }
            }
            toServer = []
            for datagram in toClient {
                _ = try events(of: client, datagram)
                toServer += take(bio)
            }
            if client.isEstablished, let server, server.isEstablished { return server }
        }
        fatalError("no handshake")
    }

    private static func take(_ bio: DatagramBIO) -> [[UInt8]] {
        defer { bio.outbox.removeAll() }
        return bio.outbox.withDatagrams { bytes, sizes in
            var start = 0
            return sizes.map { size in
                defer { start += size }
                return [UInt8](bytes[start..<(start + size)])
            }
        }
    }

    enum Verdict: Equatable {
        case message([UInt8])
        case closed
        case failed

        var summary: String {
            if case .message(let message) = self { "\(message.count) bytes" } else { "\(self)" }
        }
    }

    /// What an engine says to a datagram.
    static func events(of engine: Engine, _ datagram: [UInt8]) throws -> [Verdict] {
        var verdicts: [Verdict] = []
        try datagram.withUnsafeBytes { datagram in
            engine.deliver(datagram)
            while true {
                switch try engine.next(now: .distantPast) {
                case .needsInput: return
                case .established, .pathResponse: continue
                case .message(let message): verdicts.append(.message([UInt8](message)))
                case .closed: return verdicts.append(.closed)
                }
            }
        }
        return verdicts
    }

    private func verdicts(of engine: Engine, _ datagram: [UInt8]) -> [Verdict] {
        defer { bio.outbox.removeAll() }
        do {
            return try Self.events(of: engine, datagram)
        } catch {
            failure = "\(error)"
            return [.failed]
        }
    }

    /// Gives both a datagram.
    /// - Returns: whether the connection goes on.
    func deliver(_ datagram: [UInt8]) -> Bool {
        let (expected, found) = (verdicts(of: openSSL, datagram), verdicts(of: ours, datagram))
        guard expected == found else {
            fatalError("OpenSSL says \(expected.map(\.summary)), and this code \(found.map(\.summary)): \(failure)")
        }
        return !expected.contains(.closed) && !expected.contains(.failed)
    }

    /// An authentic record.
    func record(_ type: ContentType, _ number: UInt64, _ content: [UInt8]) -> [UInt8] {
        let state = RecordState(sender)
        guard let algorithm = state.algorithm else { fatalError("no algorithm") }
        var record = [UInt8](repeating: 0, count: Record.headerSize + algorithm.overhead + content.count)
        let isSealed = record.withUnsafeMutableBytes { record in
            content.withUnsafeBytes { bio.contexts.seal($0, type, number, state, hint: &hint, into: record) }
        }
        guard isSealed else { fatalError("it is not sealed") }
        return record
    }
}

private nonisolated(unsafe) var receivers: [Int: Receivers] = [:]

private let ciphers = [
    "PSK-AES128-GCM-SHA256", "PSK-AES256-GCM-SHA384", "PSK-AES128-CCM", "PSK-AES256-CCM", "PSK-AES128-CCM8",
    "PSK-AES256-CCM8", "PSK-CHACHA20-POLY1305",
]

/// The input is a list of things to do with records and datagrams. Both receivers must say the same to each datagram.
///
/// What they are known to say otherwise to is left out: empty messages, of which OpenSSL tells from 3.2 on in another
/// order, malformed alerts, for which it ends the connection, and authentic records of other types. So are warnings:
/// OpenSSL 3.0.19 counts the last one once more for each record that it drops after it, and ends the connection at five
/// ("too many warn alerts").
@_cdecl("LLVMFuzzerTestOneInput")
func fuzzRecordVerdicts(_ bytes: UnsafePointer<UInt8>?, _ count: Int) -> Int32 {
    var input = Input(bytes: UnsafeBufferPointer(start: bytes, count: count))
    let index = Int(input.next()) % ciphers.count
    do {
        if receivers[index] == nil { receivers[index] = try Receivers(ciphers[index]) }
    } catch {
        fatalError("\(error)")
    }
    guard let both = receivers[index] else { return 0 }
    let base = both.base + 256
    both.base = base + 100_000
    if !run(&input, base, both) { receivers[index] = nil }
    return 0
}

private struct Input {
    let bytes: UnsafeBufferPointer<UInt8>
    var position = 0

    var isAtEnd: Bool { position >= bytes.count }

    mutating func next() -> UInt8 {
        guard !isAtEnd else { return 0 }
        defer { position += 1 }
        return bytes[position]
    }
}

private func run(_ input: inout Input, _ base: UInt64, _ both: Receivers) -> Bool {
    // The windows are the same, whatever came before.
    guard both.deliver(both.record(.applicationData, base, [1])) else { fatalError("the first is not taken") }
    var sent: [[UInt8]] = []
    var datagram: [UInt8] = []
    while !input.isAtEnd {
        let operation = input.next()
        var record: [UInt8] = []
        let number = base &+ UInt64(input.next()) &- 100
        switch operation & 0x0f {
        case 0...5:
            record = both.record(.applicationData, number, Array(repeating: operation, count: 1 + Int(input.next())))
        case 6:
            let far = base + UInt64(input.next()) << 8
            record = both.record(.applicationData, far, [operation])
        case 8:
            // close_notify, or a fatal alert.
            let isFatal = input.next() % 2 == 1
            record = both.record(.alert, number, isFatal ? [2, 80] : [1, 0])
        case 9 where datagram.isEmpty:
            record = both.record(
                .applicationData, number, Array(repeating: 1, count: 16_380 + Int(input.next() % 16)))
        case 10, 11: if !sent.isEmpty { record = sent[Int(input.next()) % sent.count] }
        case 12: record = (0..<(input.next() % 64)).map { _ in input.next() }
        case 13: record = [23, 0xfe, 0xfd, 0, 1, 0, 0] + (0..<6).map { _ in input.next() }
        default: break
        }
        if sent.count < 32, !record.isEmpty, record.count < 1_000 { sent.append(record) }
        switch operation >> 4 & 0x07 {
        case 1: if !record.isEmpty { record[Int(input.next()) % record.count] ^= 1 << (input.next() & 7) }
        case 2: record.removeLast(min(record.count, Int(input.next() % 32)))
        case 3: record += [input.next(), input.next()]
        default: break
        }
        datagram += record
        // The highest bit: another record follows in the same datagram. OpenSSL reads no more than one record of the
        // greatest size at a time, and cuts off what is beyond it.
        if operation & 0x80 != 0, datagram.count < 8_000 { continue }
        if !both.deliver(datagram) { return false }
        datagram = []
    }
    return datagram.isEmpty || both.deliver(datagram)
}
