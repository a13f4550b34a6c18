import DTLSTransport
import Primitives
import TestSupport
import Testing

@testable import DTLSDaemon

/// A value with everything that the format supports.
private struct Everything: Codable, Equatable {
    enum Plain: String, Codable { case one, two }
    enum Payload: Codable, Equatable {
        case nothing
        case unnamed(Inner)
        case named(text: String, number: UInt16?)
    }
    struct Inner: Codable, Equatable { var number: Int? }

    var flag = true
    var text = "ä\0€"
    var bytes: [UInt8] = [0, 1, 0xff]
    var noBytes: [UInt8] = []
    var small = Int8.min
    var port = UInt16.max
    var whole = Int.min
    var large: [UInt128] = [0, .max - 1]
    var time = Duration.milliseconds(1_500)
    var plain = Plain.two
    var payloads: [Payload] = [.nothing, .unnamed(Inner(number: 3)), .named(text: "", number: nil), .nothing]
    var texts = ["", "b", ""]
    var noTexts: [String] = []
    // Two neighbours have a property of the same name, with and without a value.
    var inners = [Inner(number: nil), Inner(number: 1), Inner(number: nil)]
    var there: Int? = 7
    var absent: Int?
    var last: Payload = .named(text: "end", number: 9)
}

@Suite struct BinaryCodingTests {
    private func decode<Value: Decodable>(_ type: Value.Type, _ bytes: [UInt8]) throws(MalformedBytes) -> Value {
        try BinaryCoding.decode(type, from: bytes)
    }

    @Test func `a decoded value equals the encoded one`() throws {
        let value = Everything()
        let bytes = BinaryCoding.encode(value)
        #expect(try decode(Everything.self, bytes) == value)
        var other = value
        (other.there, other.absent, other.flag) = (nil, 8, false)
        #expect(try decode(Everything.self, BinaryCoding.encode(other)) == other)
    }

    @Test func `the format is as documented`() {
        struct Sample: Codable {
            var ab: UInt16
            var c: String?
            var d: [UInt8]
            var e: [Bool]
        }
        #expect(
            BinaryCoding.encode(Sample(ab: 0x0102, c: nil, d: [9], e: [true]))
                == [2, 0x61, 0x62, 0x02, 0x01, 1, 0x64, 1, 0, 0, 0, 9, 1, 0x65, 1, 1, 0, 0])
    }

    @Test func `every truncation and every extra byte is refused`() {
        let bytes = BinaryCoding.encode(Everything())
        for count in bytes.indices {
            #expect(throws: MalformedBytes.self) { try decode(Everything.self, Array(bytes[..<count])) }
        }
        for extra: UInt8 in [0, 1, 0xff] {
            #expect(throws: MalformedBytes.self) { try decode(Everything.self, bytes + [extra]) }
        }
    }

    @Test func `bytes that can be decoded are those that encoding writes`() {
        let bytes = BinaryCoding.encode(Everything())
        var refused = 0
        for position in bytes.indices {
            for change: UInt8 in [1, 2, 4, 8, 16, 32, 64, 128, 255] {
                var changed = bytes
                changed[position] ^= change
                guard let value = try? decode(Everything.self, changed) else {
                    refused += 1
                    continue
                }
                #expect(BinaryCoding.encode(value) == changed)
            }
        }
        #expect(refused > bytes.count * 3)
    }

    @Test func `bytes that are not a value are refused`() {
        var random = SeededGenerator(seed: 8)
        let bytes = BinaryCoding.encode(Everything())
        var refused = 0
        for _ in 0..<20_000 {
            // A valid beginning leads further into the decoder than random bytes alone.
            let start = Int.random(in: 0..<bytes.count, using: &random)
            let noise = (0..<Int.random(in: 1...64, using: &random)).map { _ in
                // Small numbers are lengths and marks that are accepted.
                UInt8.random(in: 0...(Bool.random(using: &random) ? 4 : 255), using: &random)
            }
            if (try? decode(Everything.self, bytes[..<start] + noise)) == nil { refused += 1 }
        }
        #expect(refused == 20_000)
    }

    @Test func `a length beyond the bytes is refused before memory is reserved`() {
        #expect(throws: MalformedBytes.self) { try decode(String.self, [0xff, 0xff, 0xff, 0xff]) }
        #expect(throws: MalformedBytes.self) { try decode([UInt8].self, [0xff, 0xff, 0xff, 0x7f, 1]) }
    }

    @Test func `text that is not UTF-8 is refused`() {
        #expect(throws: MalformedBytes.self) { try decode(String.self, [1, 0, 0, 0, 0xff]) }
    }

    @Test func `a value that the format does not support is not decoded as another one`() {
        #expect(BinaryCoding.encode(1.5) == [])
        #expect(BinaryCoding.encode([Int?.none]) == [])
        #expect(BinaryCoding.encode(["": 1]) == [])
        struct Large: Codable { var number: UInt128 }
        #expect(BinaryCoding.encode(Large(number: 1)) == [])
        #expect(throws: MalformedBytes.self) { try decode(Double.self, [0, 0, 0, 0, 0, 0, 0, 0]) }
    }
}
