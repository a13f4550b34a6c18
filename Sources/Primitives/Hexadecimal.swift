/// Bytes as hexadecimal digits, as fingerprints are written.
package enum Hexadecimal {
    /// Lower-case digits without colons.
    package static func text(_ bytes: some Sequence<UInt8>) -> String {
        let digits = Array("0123456789abcdef".utf8)
        var text: [UInt8] = []
        for byte in bytes {
            text.append(digits[Int(byte >> 4)])
            text.append(digits[Int(byte & 15)])
        }
        return String(decoding: text, as: UTF8.self)
    }

    /// The 32 bytes of a SHA-256 fingerprint: 64 digits of any case, with a colon between each two bytes or none at
    /// all.
    package static func fingerprint(_ text: [UInt8]) -> [UInt8]? {
        let colon = UInt8(ascii: ":")
        var digits = text
        if text.count == 95 {
            guard stride(from: 2, to: 95, by: 3).allSatisfy({ text[$0] == colon }) else { return nil }
            digits = text.enumerated().filter { $0.offset % 3 != 2 }.map(\.element)
        }
        let values = digits.compactMap(value)
        guard values.count == 64, digits.count == 64 else { return nil }
        return stride(from: 0, to: 64, by: 2).map { values[$0] << 4 | values[$0 + 1] }
    }

    /// Bytes as pairs of digits of any case, with or without a colon between two pairs; `nil` for anything else.
    package static func bytes(_ text: some Collection<UInt8>) -> [UInt8]? {
        let colon = UInt8(ascii: ":")
        var bytes: [UInt8] = []
        var rest = text[...]
        while let first = rest.popFirst() {
            if first == colon, !bytes.isEmpty, !rest.isEmpty, rest.first != colon { continue }
            guard let high = value(first), let second = rest.popFirst(), let low = value(second) else { return nil }
            bytes.append(high << 4 | low)
        }
        return bytes
    }

    /// The value of a digit; `nil` for any other byte.
    package static func value(_ digit: UInt8) -> UInt8? {
        switch digit {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): digit - UInt8(ascii: "0")
        case UInt8(ascii: "a")...UInt8(ascii: "f"): digit - UInt8(ascii: "a") + 10
        case UInt8(ascii: "A")...UInt8(ascii: "F"): digit - UInt8(ascii: "A") + 10
        default: nil
        }
    }
}

extension [UInt8] {
    /// With the ASCII letters in lower case, and everything else as it is.
    package func asciiLowercased() -> [UInt8] {
        map { (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains($0) ? $0 | 0x20 : $0 }
    }
}
