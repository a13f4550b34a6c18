import Primitives
import Testing

@Suite struct HexadecimalTests {
    @Test func `bytes are written and read again`() {
        let bytes = (0...255).map(UInt8.init)
        let text = Hexadecimal.text(bytes)
        #expect(text.hasPrefix("000102") && text.hasSuffix("feff") && text.utf8.count == 512)
        #expect(Hexadecimal.bytes(Array(text.utf8)) == bytes)
        #expect(Hexadecimal.bytes(Array(text.uppercased().utf8)) == bytes)
    }

    @Test(arguments: [("", []), ("0a:Bc", [0x0a, 0xbc]), ("0abc:de", [0x0a, 0xbc, 0xde])] as [(String, [UInt8])])
    func `colons may stand between pairs`(_ text: String, _ bytes: [UInt8]) {
        #expect(Hexadecimal.bytes(Array(text.utf8)) == bytes)
    }

    @Test(arguments: ["0", "0g", ":00", "00:", "00::01", "0:0", "00 01", "é"])
    func `other texts are refused`(_ text: String) {
        #expect(Hexadecimal.bytes(Array(text.utf8)) == nil)
    }
}

@Suite struct PrintableTests {
    @Test func `what could end a line or turn it around is escaped`() {
        #expect(Printable.quoted("a\nb\u{202e}c\u{1b}\"\\") == #""a\u{a}b\u{202e}c\u{1b}\"\\""#)
        #expect(Printable.quoted([0x61, 0xff]) == "\"a\u{fffd}\"")
    }

    @Test func `a long text is cut off with an ellipsis`() {
        #expect(Printable.quoted("abcdef", limit: 3) == "\"abc…\"")
        #expect(Printable.quoted("abc", limit: 3) == "\"abc\"")
    }
}

@Suite struct ByteCodingTests {
    @Test func `every kind of value arrives`() throws {
        var writer = ByteWriter()
        writer.integer(UInt16(0x1234))
        writer.bool(true)
        writer.duration(.milliseconds(-5))
        writer.string("é")
        writer.optional(nil as Int32?) { $0.integer($1) }
        writer.list([1, 2] as [UInt8]) { $0.integer($1) }
        try writer.bytes.withUnsafeBytes { bytes in
            var reader = ByteReader(bytes)
            let integer: UInt16 = try reader.integer()
            let bool = try reader.bool()
            let duration = try reader.duration()
            let string = try reader.string()
            let absent = try reader.optionalString()
            let list = try reader.list { (reader) throws(MalformedBytes) in try reader.integer(UInt8.self) }
            #expect(integer == 0x1234 && bool && duration == .milliseconds(-5) && string == "é" && absent == nil)
            #expect(list == [1, 2] && reader.isAtEnd)
        }
    }

    @Test func `a value that is cut off or says a length beyond the end is malformed`() {
        var writer = ByteWriter()
        writer.string("abc")
        for count in 0..<writer.bytes.count {
            #expect(throws: MalformedBytes.self, "\(count) bytes") {
                try writer.bytes[..<count].withUnsafeBytes { bytes in
                    var reader = ByteReader(bytes)
                    _ = try reader.string()
                }
            }
        }
        #expect(throws: MalformedBytes.self) {
            try ([0xff, 0xff, 0xff, 0xff, 1] as [UInt8]).withUnsafeBytes { bytes in
                var reader = ByteReader(bytes)
                _ = try reader.list { (reader) throws(MalformedBytes) in try reader.integer(UInt64.self) }
            }
        }
    }
}
