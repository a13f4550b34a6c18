import CLinux
import COpenSSL
import Primitives
import TestSupport
import Testing

@testable import DTLSEngine

/// The bytes that are all there is of a connection when its keys have left OpenSSL.
@Suite struct RecordStateTests {
    /// Memory for a state, freed with its last user.
    final class Memory {
        let pointer = UnsafeMutableRawPointer.allocate(byteCount: RecordState.byteCount, alignment: 8)
        var state: RecordState { RecordState(pointer) }
        var bytes: [UInt8] { [UInt8](UnsafeRawBufferPointer(start: pointer, count: RecordState.byteCount)) }

        init(_ algorithm: RecordAlgorithm = .aes128GCM, nextNumber: UInt64 = RecordState.firstNumber + 1) {
            let key = [UInt8](repeating: 7, count: 32)
            key.withUnsafeBytes { key in
                let keys = RecordState.Keys(
                    key: UnsafeRawBufferPointer(rebasing: key[..<algorithm.keySize]),
                    nonce: UnsafeRawBufferPointer(rebasing: key[..<algorithm.fixedNonceSize]))
                RecordState.write(
                    RecordState.Terms(
                        isServer: true, algorithm: algorithm, suite: 0xc02b, contentLimit: 16_384, noncePrefix: 1),
                    send: keys, receive: keys, nextNumber: nextNumber, to: pointer)
            }
        }

        init(_ bytes: [UInt8]) {
            UnsafeMutableRawBufferPointer(start: pointer, count: RecordState.byteCount).copyBytes(from: bytes)
        }

        deinit { pointer.deallocate() }
    }

    // MARK: Window

    /// What RFC 6347, section 4.1.2.6, says, with all that was received.
    private struct Model {
        private(set) var received: Set<UInt64> = []
        private(set) var newest: UInt64 = RecordState.firstNumber - 1

        func mayBeNew(_ number: UInt64) -> Bool {
            number > newest || newest - number < 64 && !received.contains(number)
        }

        mutating func mark(_ number: UInt64) {
            received.insert(number)
            newest = max(newest, number)
        }
    }

    /// Steps of every size around those at which words and halves of the window change.
    private static func numbers(_ seed: UInt64) -> [UInt64] {
        var random = SeededGenerator(seed: seed)
        var newest = RecordState.firstNumber
        return (0..<300).map { _ in
            switch random.next() % 8 {
            case 0, 1: newest += 1
            case 2: newest += random.next() % 64
            case 3: newest += 62 + random.next() % 5
            case 4: newest += 126 + random.next() % 5
            case 5: newest += random.next() % 1_000
            default: return max(RecordState.firstNumber, newest &- random.next() % 80)
            }
            return newest
        }
    }

    @Test(arguments: 1...20 as ClosedRange<UInt64>)
    func `the window takes what RFC 6347 lets it take`(_ seed: UInt64) {
        let memory = Memory()
        var model = Model()
        for number in Self.numbers(seed) {
            for near in (number &- 70)...(number + 2) where near >= RecordState.firstNumber {
                #expect(memory.state.mayBeNew(near) == model.mayBeNew(near))
            }
            guard model.mayBeNew(number) else { continue }
            memory.state.markReceived(number)
            model.mark(number)
            #expect(memory.state.newestNumber == model.newest)
        }
    }

    /// Wherever its writer dies: what was received is not taken again, and what was not is not lost.
    @Test(arguments: 1...20 as ClosedRange<UInt64>)
    func `the window is right after each of its stores`(_ seed: UInt64) {
        let memory = Memory()
        var model = Model()
        var stores = 0
        for number in Self.numbers(seed) where model.mayBeNew(number) {
            var after = model
            after.mark(number)
            memory.state.markReceived(number) {
                stores += 1
                let survivor = Memory(memory.bytes)
                for near in (after.newest &- 200)...(after.newest + 200) where near >= RecordState.firstNumber {
                    if model.received.contains(near) {
                        #expect(!survivor.state.mayBeNew(near), "\(near) is taken twice")
                    } else if near != number, after.mayBeNew(near) {
                        #expect(survivor.state.mayBeNew(near), "\(near) is lost")
                    }
                }
            }
            model = after
            #expect(!memory.state.mayBeNew(number))
        }
        #expect(stores > 300)
    }

    @Test func `records of another epoch are never new`() {
        let memory = Memory()
        let state = memory.state
        for epoch in [0, 2, 3, 0xffff] as [UInt64] { #expect(!state.mayBeNew(epoch << 48 | 5)) }
        #expect(memory.state.mayBeNew(RecordState.firstNumber))
    }

    // MARK: Numbers

    @Test func `each number is given once and none after the last`() {
        let last = RecordState.firstNumber | Record.sequenceNumberMask
        let memory = Memory(nextNumber: last - 1)
        let state = memory.state
        #expect(state.takeNumber() == last - 1)
        #expect(state.takeNumber() == nil)
        #expect(state.takeNumber(isLast: true) == last)
        #expect(state.takeNumber(isLast: true) == nil)
        #expect(state.takeNumber() == nil)
        #expect(memory.state.nextNumber == last + 1)
    }

    /// OpenSSL's Finished has an explicit nonce that begins with any 16 bits.
    @Test func `no explicit nonce can be one of OpenSSL's`() {
        func finished(_ nonce: UInt64, number: UInt8) -> [UInt8] {
            let bytes = withUnsafeBytes(of: nonce.bigEndian) { [UInt8]($0) }
            return [22, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, number, 0, 48] + bytes + [UInt8](repeating: 0, count: 40)
        }
        for (first, second, expected) in [
            (0x7766_0000_0000_0000, 0x7766_0000_0000_0001, 1), (0x0001_0000_0000_0000, 0x0001_0000_0000_0001, 2),
            (0x0001_ffff_ffff_ffff, 0x0002_0000_0000_0000, 3), (0x0000_ffff_ffff_ffff, 0x0001_0000_0000_0000, 2),
        ] as [(UInt64, UInt64, UInt16)] {
            var writes = ProtectedWrites()
            finished(first, number: 0).withUnsafeBytes { writes.note($0) }
            var later = ProtectedWrites()
            finished(second, number: 1).withUnsafeBytes { later.note($0) }
            writes.add(later)
            #expect(writes.unusedNoncePrefix == expected)
            #expect(writes.lastNumber == RecordState.firstNumber + 1)
        }
    }

    // MARK: Bytes

    @Test func `another version of the bytes is named and refused`() throws {
        let bio = try DatagramBIO()
        var bytes = Memory().bytes
        #expect(throws: Never.self) { try Engine(resuming: bytes, over: bio) }
        bytes[32] = 9
        let error = #expect(throws: InvalidRecordState.self) { try Engine(resuming: bytes, over: bio) }
        #expect(error?.description == "the state of its records has version 9, and this program knows version 2")
        #expect(throws: InvalidRecordState.self) { try Engine(resuming: [UInt8](bytes.dropLast()), over: bio) }
        #expect(throws: InvalidRecordState.self) {
            try Engine(resuming: [UInt8](repeating: 0, count: RecordState.byteCount), over: bio)
        }
    }

    @Test func `whatever the bytes are an engine is made of them or refused`() throws {
        let bio = try DatagramBIO()
        var random = SeededGenerator(seed: 11)
        let good = Memory().bytes
        let datagram: [UInt8] = [23, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 9, 0, 40] + [UInt8](repeating: 1, count: 40)
        var made = 0
        for _ in 0..<2_000 {
            var bytes = good
            for _ in 0..<3 { bytes[Int(random.next() % 160)] = UInt8(truncatingIfNeeded: random.next()) }
            guard let engine = try? Engine(resuming: bytes, over: bio) else { continue }
            made += 1
            datagram.withUnsafeBytes { engine.deliver($0) }
            _ = try? engine.next(now: .distantPast)
            try? datagram.withUnsafeBytes { try engine.send($0) }
            engine.close()
            bio.outbox.removeAll()
        }
        #expect(made > 100)
    }

    @Test func `an engine takes less than half a kilobyte`() async {
        await #expect(processExitsWith: .success) {
            let bio = try DatagramBIO()
            let bytes = Memory().bytes
            var engines: [Engine] = []
            engines.reserveCapacity(1_000)
            let before = cl_bytes_in_use()
            for _ in 0..<1_000 { engines.append(try Engine(resuming: bytes, over: bio)) }
            let growth = Int(cl_bytes_in_use()) - Int(before)
            #expect(growth > 160_000 || growth == 0)
            #expect(growth < 512_000, "\(growth / 1_000) bytes each")
        }
    }

    // MARK: Details

    private static var details: SessionDetails {
        var details = SessionDetails()
        details.version = "DTLSv1.2"
        details.cipher = "ECDHE-ECDSA-AES128-GCM-SHA256"
        details.isResumed = true
        details.serverName = "coap.example"
        details.applicationProtocol = "coap"
        details.peerName = PeerName(commonName: "sensor", subject: "CN=sensor,O=Ümlaut", fingerprint: "ab12")
        details.presharedKeyIdentity = [0, 255, 1]
        details.verificationResult = 18
        return details
    }

    @Test func `details are the same after coding, and cut bytes are refused`() throws {
        for details in [Self.details, SessionDetails()] {
            var writer = ByteWriter()
            details.encode(into: &writer)
            let bytes = writer.bytes
            func decode(_ bytes: some Collection<UInt8>) throws -> SessionDetails {
                try [UInt8](bytes).withUnsafeBytes {
                    var reader = ByteReader($0)
                    let decoded = try SessionDetails(decoding: &reader)
                    // A suspended connection has messages behind its details.
                    #expect(reader.isAtEnd)
                    return decoded
                }
            }
            #expect(try decode(bytes) == details)
            // The last bytes say that there is no label and no name of a raw public key; programs without these have written
            // none.
            for count in 0..<(bytes.count - 2) {
                #expect(throws: MalformedBytes.self) { try decode(bytes.prefix(count)) }
            }
            #expect(try decode(bytes.dropLast()) == details)
            #expect(try decode(bytes.dropLast(2)) == details)
            var labelled = details
            labelled.label = "gold"
            var more = ByteWriter()
            labelled.encode(into: &more)
            #expect(try decode(more.bytes) == labelled)
        }
    }

    @Test func `details that are too long for their place lose whole names`() throws {
        var long = Self.details
        long.peerName?.subject = String(repeating: "x", count: 2_000)
        let bytes = long.encoded(inAtMost: 824)
        #expect(bytes.count <= 824)
        try bytes.withUnsafeBytes {
            var reader = ByteReader($0)
            let kept = try SessionDetails(decoding: &reader)
            #expect(kept.peerName?.subject == nil && kept.peerName?.commonName == "sensor")
            #expect(kept.serverName == "coap.example")
        }
    }
}
