// Built by scripts/fuzz, which lets it use the engine's internal names.

import Primitives

@testable import DTLSEngine

/// What every run needs, made once.
private final class Fuzzed {
    let bio: DatagramBIO
    let memory = UnsafeMutableRawPointer.allocate(byteCount: RecordState.byteCount, alignment: 8)
    /// A datagram of another size lies elsewhere, so that AddressSanitizer sees each byte too many.
    var sum: UInt64 = 0

    init() {
        do { bio = try DatagramBIO(scheduleCapacity: 4) } catch { fatalError("\(error)") }
    }

    let cipher = ConnectionIDCipher(keys: [(0, [UInt8](1...16)), (5, [UInt8](2...17))], serverIDLength: 2)

    /// What records have to have in them, where there are connection IDs.
    static let ids = ConnectionID([1, 2]).map { ConnectionIDs(own: $0, peer: $0) }

    /// A state of any algorithm, with the same keys each time.
    func reset(_ algorithm: RecordAlgorithm, limit: Int, _ ids: ConnectionIDs?) {
        [UInt8](1...64).withUnsafeBytes { bytes in
            func keys(_ start: Int) -> RecordState.Keys {
                RecordState.Keys(
                    key: UnsafeRawBufferPointer(rebasing: bytes[start..<(start + algorithm.keySize)]),
                    nonce: UnsafeRawBufferPointer(rebasing: bytes[..<algorithm.fixedNonceSize]))
            }
            RecordState.write(
                RecordState.Terms(
                    isServer: limit % 2 == 0, algorithm: algorithm, suite: 0, contentLimit: limit, noncePrefix: 1,
                    connectionIDs: ids, checksReturnRoutability: ids != nil),
                send: keys(0), receive: keys(32), nextNumber: RecordState.firstNumber + 1, to: memory)
        }
    }
}

private nonisolated(unsafe) let fuzzed = Fuzzed()

/// Any datagram comes to an established connection, and any bytes are taken for the state of one.
///
/// The first byte chooses the algorithm and what is done.
@_cdecl("LLVMFuzzerTestOneInput")
func fuzzRecords(_ bytes: UnsafePointer<UInt8>?, _ count: Int) -> Int32 {
    guard let bytes, count > 0 else { return 0 }
    let input = UnsafeRawBufferPointer(start: bytes + 1, count: count - 1)
    let algorithms = RecordAlgorithm.allCases
    let algorithm = algorithms[Int(bytes[0] & 0x7f) % algorithms.count]
    if bytes[0] & 0x80 == 0 {
        let ids = Int(bytes[0]) / algorithms.count % 2 == 1 ? Fuzzed.ids : nil
        fuzzed.reset(algorithm, limit: 16_384 >> (Int(bytes[0]) % 6), ids)
        receive(input)
        readConnectionID(input)
    } else {
        resume(input)
    }
    return 0
}

/// Nothing that was not sealed with the keys is taken, answered or noted.
private func receive(_ datagram: UnsafeRawBufferPointer) {
    let state = RecordState(fuzzed.memory)
    let (newest, next) = (state.newestNumber, state.nextNumber)
    guard RecordState.authenticates(datagram, at: fuzzed.memory, over: fuzzed.bio) == .no else {
        fatalError("it is authentic")
    }
    guard let engine = try? Engine(resuming: fuzzed.memory, over: fuzzed.bio) else { fatalError("no engine") }
    engine.deliver(datagram)
    do throws(EngineError) {
        guard case .needsInput = try engine.next(now: .distantPast) else { fatalError("something was taken") }
    } catch {
        fatalError("\(error)")
    }
    guard state.newestNumber == newest, state.nextNumber == next, fuzzed.bio.outbox.isEmpty else {
        fatalError("something was answered or noted")
    }
}

/// Somebody makes up an extension, a record's connection ID, and one that would be decrypted.
private func readConnectionID(_ bytes: UnsafeRawBufferPointer) {
    if let content = ConnectionIDNegotiation.connectionID(in: bytes) {
        guard content.count == bytes.count - 1 else { fatalError("another length") }
    }
    if let message = ReturnRoutabilityMessage(bytes) {
        guard message.withBytes({ [UInt8]($0) }) == [UInt8](bytes) else { fatalError("another message") }
    }
    let found = ConnectionID(selfDescribedIn: bytes)
    for id in [found, ConnectionID(bytes)].compactMap({ $0 }) {
        guard let read = fuzzed.cipher?.decrypt(id) else { continue }
        guard read.serverID.count == 2, read.nonce.count == id.count - 3 else { fatalError("other lengths") }
        fuzzed.sum &+= UInt64(read.nonce[0])
    }
}

/// A program gives the library bytes that it has kept.
private func resume(_ bytes: UnsafeRawBufferPointer) {
    var reader = ByteReader(bytes)
    if let details = try? SessionDetails(decoding: &reader) {
        var writer = ByteWriter()
        details.encode(into: &writer)
        fuzzed.sum &+= UInt64(details.encoded(inAtMost: 200).count)
        writer.bytes.withUnsafeBytes {
            var again = ByteReader($0)
            guard (try? SessionDetails(decoding: &again)) == details else { fatalError("other details") }
        }
    }
    guard let engine = try? Engine(resuming: [UInt8](bytes.prefix(RecordState.byteCount)), over: fuzzed.bio) else {
        return
    }
    engine.deliver(UnsafeRawBufferPointer(rebasing: bytes.dropFirst(RecordState.byteCount)))
    _ = try? engine.next(now: .distantPast)
    try? engine.send(UnsafeRawBufferPointer(rebasing: bytes.prefix(64)))
    fuzzed.sum &+= UInt64(engine.largestMessage(inPayload: 1_000))
    engine.close()
    fuzzed.bio.outbox.removeAll()
}
