import Testing

@testable import DTLSEngine

/// A record's bytes, right or wrong on purpose.
private func record(
    _ type: UInt8 = 22, version: UInt16 = 0xfefd, epoch: UInt16 = 0, number: UInt64 = 0, claimedLength: Int? = nil,
    _ fragment: [UInt8] = []
) -> [UInt8] {
    [type] + bigEndian(version, 2) + bigEndian(epoch, 2) + bigEndian(number, 6)
        + bigEndian(claimedLength ?? fragment.count, 2) + fragment
}

private func bigEndian(_ value: some BinaryInteger, _ count: Int) -> [UInt8] {
    (0..<count).map { UInt8(truncatingIfNeeded: value >> (8 * (count - 1 - $0))) }
}

/// What a naive reader of one record after the other finds: where each begins, and its fragment as far as it is there.
private func naiveRecords(of bytes: [UInt8]) -> [(offset: Int, fragment: [UInt8])] {
    var found: [(Int, [UInt8])] = []
    var offset = 0
    while offset + 13 <= bytes.count {
        let length = Int(bytes[offset + 11]) * 256 + Int(bytes[offset + 12])
        found.append((offset, Array(bytes[(offset + 13)...].prefix(length))))
        offset += 13 + length
    }
    return found
}

/// Compares ``Records`` with the naive reader, behind a page that nobody may read.
private func expectSameRecords(_ bytes: [UInt8], _ note: Comment) {
    withGuardedBytes(bytes) { datagram in
        let expected = naiveRecords(of: bytes)
        let found = Array(Records(of: datagram))
        #expect(found.map(\.offset) == expected.map(\.offset), note)
        #expect(found.map { Array($0.fragment) } == expected.map(\.fragment), note)
        #expect(!found.dropLast().contains { !$0.isComplete }, note)
        for record in found {
            #expect(record.isComplete == (record.end <= bytes.count), note)
            #expect(Array(record.bytes) == Array(bytes[record.offset..<min(record.end, bytes.count)]), note)
            #expect(Array(record.precedingBytes) == Array(bytes[..<record.offset]), note)
        }
    }
}

@Suite struct RecordTests {
    private static let datagrams: [[UInt8]] = [
        record(22, [1, 2, 3]) + record(20, [1]) + record(22, epoch: 1, Array(repeating: 9, count: 40)),
        record(23) + record(23) + record(23, [0]),
        record(21, [2, 40]) + record(23, claimedLength: 0xffff, [5, 5, 5]),
        record(22, Array(repeating: 0xff, count: 300)) + [22, 0xfe, 0xfd],
    ]

    @Test func `every field of the header is read`() throws {
        let bytes = record(
            99, version: 0x0102, epoch: 0x0304, number: 0x0506_0708_090a, claimedLength: 0x0b0c, [1])
        try withGuardedBytes(bytes) { datagram in
            let record = try #require(Record(of: datagram))
            #expect(record.contentType == ContentType(rawValue: 99))
            #expect(record.version == 0x0102)
            #expect(record.epoch == 0x0304)
            #expect(record.sequenceNumber == 0x0506_0708_090a)
            #expect(record.length == 0x0b0c)
            #expect(!record.isComplete && record.isProtected && !record.isDTLS && !record.contentType.isKnown)
            #expect(Array(record.fragment) == [1])
        }
    }

    @Test func `the largest values of all fields are read`() throws {
        let bytes = [UInt8](repeating: 0xff, count: 13)
        try withGuardedBytes(bytes) { datagram in
            let record = try #require(Record(of: datagram))
            #expect(record.sequenceNumber == 1 << 48 - 1)
            #expect(record.epoch == 0xffff && record.version == 0xffff && record.length == 0xffff)
            #expect(record.fragment.isEmpty && !record.isComplete)
            #expect(record.end == 13 + 0xffff)
        }
    }

    @Test func `there is no record where no header fits`() {
        withGuardedBytes(record(22, [1, 2])) { datagram in
            for offset in [-1, 3, 14, 15, 16, 1_000, .max, .min] {
                #expect(Record(of: datagram, at: offset) == nil, "at \(offset)")
            }
            #expect(Record(of: datagram, at: 2) != nil)
        }
        let none = UnsafeRawBufferPointer(start: nil, count: 0)
        #expect(Record(of: none) == nil)
        #expect(Records(of: none).first == nil)
    }

    @Test func `any byte is a content type and any two are a version`() throws {
        for byte in UInt8.min...UInt8.max {
            try withGuardedBytes(record(byte, version: UInt16(byte) << 8 | 7)) { datagram in
                let record = try #require(Record(of: datagram))
                #expect(record.contentType.rawValue == byte)
                #expect(record.contentType.isKnown == [20, 21, 22, 23, 24].contains(byte))
                #expect(record.isDTLS == (byte == 0xfe))
            }
        }
    }

    @Test(arguments: Self.datagrams)
    func `the records of a datagram are found however short it is cut`(_ bytes: [UInt8]) {
        for count in 0...bytes.count { expectSameRecords(Array(bytes.prefix(count)), "the first \(count) bytes") }
    }

    @Test(arguments: Self.datagrams)
    func `the records of a datagram are found whichever bit is wrong`(_ bytes: [UInt8]) {
        for bit in 0..<bytes.count * 8 {
            var bytes = bytes
            bytes[bit / 8] ^= 1 << (bit % 8)
            expectSameRecords(bytes, "bit \(bit)")
        }
    }

    @Test func `an alert in the clear has two bytes`() throws {
        func alert(_ bytes: [UInt8]) -> [UInt8]? {
            withGuardedBytes(bytes) { Record(of: $0)?.plaintextAlert.map { [$0.level, $0.description] } }
        }
        #expect(alert(record(21, [2, 40])) == [2, 40])
        #expect(alert(record(21, [2, 40]) + [7, 7]) == [2, 40])
        for wrong in [
            record(22, [2, 40]), record(21, epoch: 1, [2, 40]), record(21, [2]), record(21, [2, 40, 0]),
            record(21, claimedLength: 2, [2]), record(21, claimedLength: 1, [2, 40]),
        ] {
            #expect(alert(wrong) == nil, "\(wrong)")
        }
    }
}

@Suite struct MutableRecordTests {
    /// The numbers of the records of a datagram.
    private func numbers(of bytes: [UInt8]) -> [UInt64] {
        withGuardedBytes(bytes) { Records(of: $0).map(\.sequenceNumber) }
    }

    private func changed(_ bytes: [UInt8], _ change: (UnsafeMutableRawBufferPointer) -> Void) -> [UInt8] {
        var bytes = bytes
        bytes.withUnsafeMutableBytes { change($0) }
        return bytes
    }

    @Test func `only records of epoch 0 get other numbers`() {
        let bytes = record(22, number: 3, [1]) + record(22, epoch: 1, number: 3, [2]) + record(20, number: 4, [1])
        let result = changed(bytes) { MutableRecord.renumber($0, by: 5) }
        #expect(numbers(of: result) == [8, 3, 9])
        #expect(changed(result) { MutableRecord.renumber($0, by: 0 &- 5) } == bytes)
    }

    @Test func `numbers wrap at 48 bits and leave the epoch alone`() {
        let bytes = record(22, number: 1 << 48 - 1, [1])
        #expect(changed(bytes) { MutableRecord.renumber($0, by: 2) } == record(22, number: 1, [1]))
    }

    @Test func `a record that is cut off gets another number too`() {
        let bytes = record(22, number: 1, claimedLength: 500, [1])
        let result = changed(bytes) { MutableRecord.renumber($0, by: 1) }
        #expect(result == record(22, number: 2, claimedLength: 500, [1]))
    }

    @Test func `the last record's fatal alert gets another description`() {
        let before = record(22, [9, 9])
        let result = changed(before + record(21, [2, 40])) { MutableRecord.replaceFatalAlert(in: $0, by: 48) }
        #expect(result == before + record(21, [2, 48]))
    }

    @Test(arguments: [
        record(21, [1, 40]), record(21, epoch: 1, [2, 40]), record(22, [2, 40]), record(21, [2]),
        record(21, [2, 40]) + record(22, [1]), record(21, claimedLength: 9, [2, 40]), [],
    ])
    func `nothing but a fatal alert at the end of a datagram is changed`(_ bytes: [UInt8]) {
        #expect(changed(bytes) { MutableRecord.replaceFatalAlert(in: $0, by: 48) } == bytes)
    }

    @Test func `headers are read as they were written`() throws {
        var bytes = [UInt8](repeating: 0xee, count: 25)
        bytes.withUnsafeMutableBytes { buffer in
            Record.writeHeader(
                .handshake, version: ProtocolVersion.dtls10.rawValue, sequenceNumber: 0x0102_0304_0506, length: 12,
                to: buffer)
            HandshakeFragment.writeHeader(
                .helloVerifyRequest, messageSequence: 0x0708, messageLength: 0x01_0203, fragmentLength: 0,
                to: UnsafeMutableRawBufferPointer(rebasing: buffer[13...]))
        }
        #expect(
            bytes == record(22, version: 0xfeff, number: 0x0102_0304_0506, [3, 1, 2, 3, 7, 8, 0, 0, 0, 0, 0, 0]))
    }

    @Test func `a buffer that is too short for a header is left alone`() {
        let bytes = [UInt8](repeating: 7, count: 11)
        let result = changed(bytes) {
            Record.writeHeader(.handshake, version: 0xfeff, sequenceNumber: 0, length: 0, to: $0)
            HandshakeFragment.writeHeader(.clientHello, messageSequence: 0, messageLength: 0, fragmentLength: 0, to: $0)
        }
        #expect(result == bytes)
    }
}

@Suite struct HandshakeFragmentTests {
    private let bytes: [UInt8] = [1, 0, 1, 2, 0, 7, 0, 0, 5, 0, 0, 3, 10, 11, 12, 13, 14]

    @Test func `every field of the header is read`() throws {
        try withGuardedBytes(bytes) { buffer in
            let fragment = try #require(HandshakeFragment(buffer))
            #expect(fragment.type == .clientHello)
            #expect(fragment.messageLength == 258 && fragment.messageSequence == 7)
            #expect(fragment.offset == 5 && fragment.length == 3 && fragment.fitsMessage)
            #expect(fragment.body.map(Array.init) == [10, 11, 12])
            #expect(Array(fragment.rest) == [13, 14])
        }
    }

    @Test func `a fragment that is cut off has no body and nothing behind it`() throws {
        for count in 0..<15 {
            withGuardedBytes(bytes.prefix(count)) { buffer in
                let fragment = HandshakeFragment(buffer)
                #expect((fragment != nil) == (count >= 12), "\(count) bytes")
                let behind = fragment.map { $0.rest.count } ?? 0
                #expect(fragment?.body == nil, "\(count) bytes")
                #expect(behind == 0, "\(count) bytes")
            }
        }
    }

    @Test func `no bit flip reads beyond the end`() {
        for bit in 0..<bytes.count * 8 {
            var bytes = bytes
            bytes[bit / 8] ^= 1 << (bit % 8)
            withGuardedBytes(bytes) { buffer in
                guard let fragment = HandshakeFragment(buffer) else {
                    Issue.record("bit \(bit): twelve bytes are a header")
                    return
                }
                let body = fragment.body
                #expect((body != nil) == (fragment.length <= 5), "bit \(bit)")
                if let body { #expect(body.count + fragment.rest.count == 5, "bit \(bit)") }
            }
        }
    }
}
