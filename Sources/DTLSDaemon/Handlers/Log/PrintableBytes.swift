/// Any bytes as a part of one line that people read: what is not printable UTF-8 is escaped, and so is the backslash,
/// so that nothing is lost.
enum PrintableBytes {
    static func append(_ bytes: UnsafeRawBufferPointer, to line: inout [UInt8]) {
        if bytes.allSatisfy({ $0 >= 0x20 && $0 < 0x7f && $0 != UInt8(ascii: "\\") }) {
            line.append(contentsOf: bytes)
            return
        }
        var rest = bytes[...]
        while let byte = rest.first {
            if byte < 0x80 {
                appendASCII(byte, to: &line)
                rest = rest.dropFirst()
                continue
            }
            let length = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2
            let scalar = Array(rest.prefix(length))
            guard let text = String(validating: scalar, as: UTF8.self), let first = text.unicodeScalars.first,
                text.unicodeScalars.count == 1
            else {
                appendHexadecimal(byte, to: &line)
                rest = rest.dropFirst()
                continue
            }
            let isPrintable = TextEncoding.isPrintable(first)
            line.append(contentsOf: isPrintable ? scalar : Array("\\u{\(String(first.value, radix: 16))}".utf8))
            rest = rest.dropFirst(length)
        }
    }

    private static func appendASCII(_ byte: UInt8, to line: inout [UInt8]) {
        switch byte {
        case UInt8(ascii: "\n"): line.append(contentsOf: "\\n".utf8)
        case UInt8(ascii: "\r"): line.append(contentsOf: "\\r".utf8)
        case UInt8(ascii: "\t"): line.append(contentsOf: "\\t".utf8)
        case UInt8(ascii: "\\"): line.append(contentsOf: "\\\\".utf8)
        case 0x20...0x7e: line.append(byte)
        default: appendHexadecimal(byte, to: &line)
        }
    }

    /// `\x1b`
    private static func appendHexadecimal(_ byte: UInt8, to line: inout [UInt8]) {
        line.append(contentsOf: (byte < 0x10 ? "\\x0" : "\\x").utf8)
        line.append(contentsOf: String(byte, radix: 16).utf8)
    }
}
