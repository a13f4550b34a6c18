import Testing

@testable import dtls

@Suite struct TextTableTests {
    private func table() -> TextTable {
        var table = TextTable([.text("NAME", isFlexible: true), .number("OPEN"), .text("STATE")])
        table.add([.init("coap"), .init("1,234"), .init("up")])
        table.add([.init("a-service-with-a-long-name"), .init("7"), .init("")])
        return table
    }

    @Test func `columns are as wide as what is in them, and numbers stand at the right`() {
        #expect(
            table().lines(width: nil).map(\.text) == [
                "NAME                         OPEN  STATE",
                "coap                        1,234  up",
                "a-service-with-a-long-name      7",
            ])
    }

    @Test func `a flexible column gives way where the terminal is narrow`() {
        #expect(
            table().lines(width: 24).map(\.text) == [
                "NAME          OPEN STATE", "coap         1,234 up", "a-service-w…     7",
            ])
    }

    @Test func `no line is wider than the terminal however narrow it is`() {
        for width in 0...40 {
            for line in table().lines(width: width) { #expect(line.width <= width) }
        }
    }

    @Test func `wide characters take two columns, and marks that combine none`() {
        #expect(StyledLine("日本").width == 4)
        #expect(StyledLine("e\u{301}").width == 1)
        #expect(StyledLine("日本語").cut(to: 4).text == "日…")
    }

    @Test func `control characters and marks of direction are escaped wherever they come from`() {
        let hostile = "\u{1b}[2J\u{9b}31m\u{7}\n\u{202e}x"
        var table = TextTable([.text("IDENTITY")])
        table.add([.init(hostile)])
        var line = StyledLine(hostile)
        line.append(hostile, .bad)
        for text in table.lines(width: nil).map({ $0.encoded(inColour: false) }) + [line.text] {
            #expect(text.unicodeScalars.allSatisfy { $0.value >= 0x20 && !(0x7f...0x9f).contains($0.value) })
            #expect(!text.unicodeScalars.contains("\u{202e}"))
        }
        #expect(line.spans.first?.text == #"\u{1b}[2J\u{9b}31m\u{7}\u{a}\u{202e}x"#)
    }

    @Test func `colour is used only where it is asked for`() {
        let line = StyledLine("down", .bad)
        #expect(line.encoded(inColour: false) == "down")
        #expect(line.encoded(inColour: true) == "\u{1b}[1;31mdown\u{1b}[0m")
    }
}

@Suite struct JSONTextTests {
    private func value(_ key: String, _ json: String) -> String? {
        JSONText.value(of: key, in: Array(json.utf8)).map { String(decoding: $0, as: UTF8.self) }
    }

    @Test func `the value of a key is found at the outermost level alone`() {
        #expect(
            value("result", #"{"id":1,"ok":true,"result":{"result":[1,{"a":"}"}]},"version":1}"#)
                == #"{"result":[1,{"a":"}"}]}"#)
        #expect(value("result", #"{"ok":{"result":1},"result":2}"#) == "2")
        #expect(value("result", #"{"id":"result","x":"\"result\":3","result":"a,\"b"}"#) == #""a,\"b""#)
        #expect(value("result", #"{"id":"result"}"#) == nil)
    }

    @Test func `numbers keep their digits`() {
        #expect(
            value("result", #"{"result":{"a":18446744073709551615,"b":0.10}}"#)
                == #"{"a":18446744073709551615,"b":0.10}"#)
    }

    @Test func `what a terminal might obey is escaped, and the JSON stays the same`() {
        #expect(
            JSONText.printable(Array("{\"a\":\t\"x\u{9b}\u{7f}\u{202e}é\u{E0001}\"}".utf8))
                == #"{"a": "x\u009b\u007f\u202eé\udb40\udc01"}"#)
    }
}
