// Built by scripts/fuzz, which lets it use the engine's internal names.

import COpenSSL
import Primitives

@testable import DTLSEngine

/// The receiving side of one connection three times, with the same keys: in OpenSSL, here, and here with connection IDs (RFC
/// 9146), which OpenSSL does not know. What the peer seals, and what somebody makes of it, comes to all of them, to the
/// third one as records with a connection ID. What is said to these is measured by what is said to records without one.
private final class Receivers {
    let openSSL: Engine
    let ours: Engine
    private let named: Engine
    /// The sender, with connection IDs: its state, and an engine that reads what the receiver answers.
    private let namedSender = UnsafeMutableRawPointer.allocate(byteCount: RecordState.byteCount, alignment: 8)
    private let namedPeer: Engine
    /// Key schedules are kept by the keys, and those with connection IDs are others.
    private let namedBIO: DatagramBIO
    private var namedHint: Int32 = 0
    /// Whether all receivers have got what amounts to the same: a record that somebody has changed may hide those behind it
    /// from one of them.
    var isComparable = true
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
        namedBIO = try DatagramBIO()
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
        ours = try Engine(resuming: Self.copy(memory), over: bio)
        guard let own = ConnectionID([1, 2, 3]), let other = ConnectionID([9]) else { fatalError("no IDs") }
        Self.write(RecordState(memory), ConnectionIDs(own: own, peer: other), to: namedSender)
        named = try Engine(resuming: Self.copy(namedSender), over: namedBIO)
        Self.write(RecordState(sender), ConnectionIDs(own: other, peer: own), to: namedSender)
        namedPeer = try Engine(resuming: Self.copy(namedSender), over: namedBIO)
    }

    deinit {
        sender.deallocate()
        namedSender.deallocate()
    }

    private static func copy(_ memory: UnsafeMutableRawPointer) -> [UInt8] {
        [UInt8](UnsafeRawBufferPointer(start: memory, count: RecordState.byteCount))
    }

    /// The state of a connection with the same keys that has agreed on connection IDs.
    private static func write(_ state: RecordState, _ ids: ConnectionIDs, to memory: UnsafeMutableRawPointer) {
        guard let algorithm = state.algorithm else { fatalError("no algorithm") }
        func keys(_ key: UnsafeRawPointer, _ nonce: UnsafeRawPointer) -> RecordState.Keys {
            RecordState.Keys(
                key: UnsafeRawBufferPointer(start: key, count: algorithm.keySize),
                nonce: UnsafeRawBufferPointer(start: nonce, count: algorithm.fixedNonceSize))
        }
        RecordState.write(
            RecordState.Terms(
                isServer: state.isServer, algorithm: algorithm, suite: 0, contentLimit: state.contentLimit,
                noncePrefix: 7, connectionIDs: ids, checksReturnRoutability: true),
            send: keys(state.sendKey, state.sendNonce), receive: keys(state.receiveKey, state.receiveNonce),
            nextNumber: state.nextNumber, to: memory)
    }

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
        case answer(UInt64)
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
                case .established, .finishedRepeated, .lastFlightWanted, .needsAuthorization: continue
                case .pathResponse(let cookie): verdicts.append(.answer(cookie))
                case .message(let message): verdicts.append(.message([UInt8](message)))
                case .closed: return verdicts.append(.closed)
                }
            }
        }
        return verdicts
    }

    private func verdicts(of engine: Engine, _ datagram: [UInt8]) -> [Verdict] {
        defer {
            bio.outbox.removeAll()
            namedBIO.outbox.removeAll()
        }
        do {
            return try Self.events(of: engine, datagram)
        } catch {
            failure = "\(error)"
            return [.failed]
        }
    }

    /// One datagram, or one record, without connection IDs and with them.
    struct Forms {
        var plain: [UInt8] = []
        var named: [UInt8] = []

        static func += (forms: inout Forms, others: Forms) {
            forms.plain += others.plain
            forms.named += others.named
        }
    }

    /// Gives all receivers a datagram.
    /// - Returns: whether the connection goes on.
    func deliver(_ datagram: Forms) -> Bool {
        guard deliver(datagram.plain) else { return false }
        guard isComparable else { return true }
        let (expected, found) = (last, verdicts(of: named, datagram.named))
        guard expected == found else {
            fatalError(
                "to records without connection IDs \(expected.map(\.summary)) is said, and to those with them"
                    + " \(found.map(\.summary)): \(failure)")
        }
        return true
    }

    /// What was said to the last datagram without connection IDs.
    private var last: [Verdict] = []

    private func deliver(_ datagram: [UInt8]) -> Bool {
        let (expected, found) = (verdicts(of: openSSL, datagram), verdicts(of: ours, datagram))
        guard expected == found else {
            fatalError("OpenSSL says \(expected.map(\.summary)), and this code \(found.map(\.summary)): \(failure)")
        }
        last = expected
        return !expected.contains(.closed) && !expected.contains(.failed)
    }

    /// Gives all receivers a record with this number: those without connection IDs one with a message, and the other one a
    /// message of a return routability check (RFC 9853), or what a program has made by mistake.
    func deliver(_ type: ContentType, _ content: [UInt8], _ number: UInt64) {
        guard deliver(record(.applicationData, number, [7])) else { fatalError("a message ends the connection") }
        guard isComparable else { return }
        let isNew = last == [.message([7])]
        let datagram = namedRecord(type, number, content, padding: 1)
        let found: [Verdict]
        do { found = try Self.events(of: named, datagram) } catch { fatalError("\(error)") }
        var answers: [Verdict] = []
        for answer in Self.take(namedBIO) {
            do { answers += try Self.events(of: namedPeer, answer) } catch { fatalError("\(error)") }
        }
        var expected: (found: [Verdict], answers: [Verdict]) = ([], [])
        if isNew, type.rawValue == 27, content.count == 9, content[0] < 2 {
            let cookie = content.dropFirst().reduce(0) { $0 << 8 | UInt64($1) }
            expected = content[0] == 0 ? ([], [.answer(cookie)]) : ([.answer(cookie)], [])
        }
        guard found == expected.found, answers == expected.answers else {
            fatalError("\(content) of type \(type.rawValue) is taken for \(found) and answered with \(answers)")
        }
    }

    /// An authentic record in both forms.
    func records(_ type: ContentType, _ number: UInt64, _ content: [UInt8], padding: Int = 0) -> Forms {
        Forms(
            plain: record(type, number, content), named: namedRecord(type, number, content, padding: padding))
    }

    /// - Parameter padding: bytes of zeros behind the type (RFC 9146, section 4).
    private func namedRecord(_ type: ContentType, _ number: UInt64, _ content: [UInt8], padding: Int) -> [UInt8] {
        let state = RecordState(namedSender)
        guard let algorithm = state.algorithm else { fatalError("no algorithm") }
        var inner = content
        var last = type
        if padding > 0 {
            inner += [type.rawValue] + [UInt8](repeating: 0, count: padding - 1)
            last = ContentType(rawValue: 0)
        }
        let size =
            Record.headerSize + algorithm.overhead + inner.count
            + CipherContexts.connectionIDOverhead(state.peerConnectionID)
        var record = [UInt8](repeating: 0, count: size)
        let isSealed = record.withUnsafeMutableBytes { record in
            inner.withUnsafeBytes {
                namedBIO.contexts.seal($0, last, number, state, hint: &namedHint, into: record)
            }
        }
        guard isSealed else { fatalError("it is not sealed") }
        return record
    }

    private func record(_ type: ContentType, _ number: UInt64, _ content: [UInt8]) -> [UInt8] {
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
/// What OpenSSL is known to say otherwise to is left out: empty messages, of which OpenSSL tells from 3.2 on in another
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

private func run(_ input: inout Input, _ base: UInt64, _ all: Receivers) -> Bool {
    all.isComparable = true
    // The windows are the same, whatever came before.
    guard all.deliver(all.records(.applicationData, base, [1])) else { fatalError("the first is not taken") }
    var sent: [Receivers.Forms] = []
    var datagram = Receivers.Forms()
    var isChanged = false
    while !input.isAtEnd {
        let operation = input.next()
        var record = Receivers.Forms()
        let number = base &+ UInt64(input.next()) &- 100
        switch operation & 0x0f {
        case 0...5:
            record = all.records(
                .applicationData, number, Array(repeating: operation, count: 1 + Int(input.next())),
                padding: Int(operation & 0x03) * 5)
        case 6:
            let far = base + UInt64(input.next()) << 8
            record = all.records(.applicationData, far, [operation])
        case 7 where datagram.plain.isEmpty:
            let size = Int(input.next() % 12)
            all.deliver(
                ContentType(rawValue: 27), [input.next() % 4] + (0..<size).map { _ in input.next() }, number)
            continue
        case 8:
            // close_notify, or a fatal alert.
            let isFatal = input.next() % 2 == 1
            record = all.records(.alert, number, isFatal ? [2, 80] : [1, 0])
        case 9 where datagram.plain.isEmpty:
            record = all.records(
                .applicationData, number, Array(repeating: 1, count: 16_380 + Int(input.next() % 16)))
        case 10, 11: if !sent.isEmpty { record = sent[Int(input.next()) % sent.count] }
        case 12: record.plain = (0..<(input.next() % 64)).map { _ in input.next() }
        case 13: record.plain = [23, 0xfe, 0xfd, 0, 1, 0, 0] + (0..<6).map { _ in input.next() }
        case 14 where datagram.plain.isEmpty:
            // Nothing but padding, and types that nobody knows.
            let type = input.next()
            if type == 0 || type > 27 { all.deliver(ContentType(rawValue: type), [], number) }
            continue
        default: break
        }
        if operation & 0x0f == 12 || operation & 0x0f == 13 {
            record.named = record.plain
            isChanged = isChanged || !record.plain.isEmpty
        } else if sent.count < 32, !record.plain.isEmpty, record.plain.count < 1_000 {
            sent.append(record)
        }
        switch operation >> 4 & 0x07 {
        case 1:
            if !record.plain.isEmpty {
                let (place, bit) = (Int(input.next()), input.next() & 7)
                record.plain[place % record.plain.count] ^= 1 << bit
                record.named[place % record.named.count] ^= 1 << bit
                isChanged = true
            }
        case 2:
            let count = Int(input.next() % 32)
            record.plain.removeLast(min(record.plain.count, count))
            record.named.removeLast(min(record.named.count, count))
            isChanged = isChanged || count > 0
        case 3:
            let rest = [input.next(), input.next()]
            record += Receivers.Forms(plain: rest, named: rest)
            isChanged = true
        default: break
        }
        // What is behind a record that was changed may be seen by one, and not by the other.
        if isChanged, operation & 0x80 != 0 { all.isComparable = false }
        datagram += record
        // The highest bit: another record follows in the same datagram. OpenSSL reads no more than one record of the
        // greatest size at a time, and cuts off what is beyond it.
        if operation & 0x80 != 0, datagram.plain.count < 8_000 { continue }
        if !all.deliver(datagram) { return false }
        datagram = Receivers.Forms()
        isChanged = false
    }
    return datagram.plain.isEmpty || all.deliver(datagram)
}
