import Primitives
import Testing

@Suite struct PrintableTests {
    @Test(arguments: [
        ("plain", "\"plain\""), ("", "\"\""), ("a \"b\" \\c", "\"a \\\"b\\\" \\\\c\""), ("ä€😀", "\"ä€😀\""),
        ("a\nb\tc\u{1b}[0m", "\"a\\u{a}b\\u{9}c\\u{1b}[0m\""), ("\u{202e}evil\u{2028}", "\"\\u{202e}evil\\u{2028}\""),
        ("\0", "\"\\u{0}\""),
    ])
    func `a quoted text is one line of printable characters`(_ text: String, _ expected: String) {
        #expect(Printable.quoted(text) == expected)
        #expect(Printable.quoted(Array(text.utf8)) == expected)
    }

    @Test func `a quoted text ends with an ellipsis where it is cut off`() {
        let text = String(repeating: "é", count: 11)
        #expect(Printable.quoted(text, limit: 11) == "\"\(text)\"")
        #expect(Printable.quoted(text, limit: 10) == "\"\(text.dropLast())…\"")
        #expect(Printable.quoted(text, limit: 0) == "\"…\"")
    }

    @Test func `bytes that are not UTF-8 are replaced`() {
        #expect(Printable.quoted([0x61, 0xff, 0x62]) == "\"a\u{fffd}b\"")
    }

    @Test func `no two bytes make a line break or an unescaped quotation mark`() {
        for first in UInt8.min...UInt8.max {
            for second: UInt8 in [0x0a, 0x0d, 0x22, 0x5c, 0x80, 0xe2, 0xff] {
                let quoted = Printable.quoted([first, second]).unicodeScalars.dropFirst().dropLast()
                #expect(quoted.allSatisfy(Printable.isPrintable), "\(first) \(second)")
                var isEscaped = false
                for scalar in quoted {
                    if scalar == "\"" { #expect(isEscaped, "\(first) \(second)") }
                    isEscaped = scalar == "\\" && !isEscaped
                }
                #expect(!isEscaped, "\(first) \(second)")
            }
        }
    }
}
