/// Writes JSON (RFC 8259), object by object.
struct JSONText {
    private(set) var bytes: [UInt8] = []
    private var needsComma = false

    /// - Parameter name: the member's name in an object; `nil` in an array, and for the outermost.
    mutating func object(_ name: String? = nil, _ body: (inout JSONText) -> Void) {
        enclose(name, "{", "}", body)
    }

    mutating func array(_ name: String? = nil, _ body: (inout JSONText) -> Void) {
        enclose(name, "[", "]", body)
    }

    mutating func string(_ name: String? = nil, _ value: String) {
        begin(name)
        quote(value)
    }

    mutating func integer(_ name: String? = nil, _ value: Int) {
        begin(name)
        bytes += "\(value)".utf8
    }

    mutating func bool(_ name: String? = nil, _ value: Bool) {
        begin(name)
        bytes += "\(value)".utf8
    }

    private mutating func enclose(
        _ name: String?, _ open: Unicode.Scalar, _ close: Unicode.Scalar, _ body: (inout JSONText) -> Void
    ) {
        begin(name)
        bytes.append(UInt8(ascii: open))
        needsComma = false
        body(&self)
        bytes.append(UInt8(ascii: close))
        needsComma = true
    }

    private mutating func begin(_ name: String?) {
        if needsComma { bytes.append(UInt8(ascii: ",")) }
        needsComma = true
        guard let name else { return }
        quote(name)
        bytes.append(UInt8(ascii: ":"))
    }

    private mutating func quote(_ text: String) {
        bytes.append(UInt8(ascii: "\""))
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "\""), UInt8(ascii: "\\"): bytes += [UInt8(ascii: "\\"), byte]
            case 0..<0x20, 0x7f:
                let digits = String(byte, radix: 16)
                bytes += (digits.utf8.count == 1 ? "\\u000" : "\\u00").utf8
                bytes += digits.utf8
            default: bytes.append(byte)
            }
        }
        bytes.append(UInt8(ascii: "\""))
    }
}
