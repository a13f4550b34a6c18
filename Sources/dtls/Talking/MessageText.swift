import Primitives

extension TerminalText {
    /// A message of a peer. What is not UTF-8 becomes U+FFFD; tabs and the line breaks inside stay, since a text may have
    /// several lines.
    static func printable(message: [UInt8]) -> String {
        var result = ""
        for scalar in String(decoding: message, as: UTF8.self).unicodeScalars {
            if scalar == "\n" || scalar == "\t" {
                result.unicodeScalars.append(scalar)
            } else {
                Printable.append(scalar, to: &result)
            }
        }
        return result
    }
}

extension Duration {
    /// Seconds as a number.
    var inSeconds: Double { Double(nanoseconds) / 1e9 }

    /// `"0.3 ms"`, `"1.204 s"`
    var text: String {
        let milliseconds = Double(nanoseconds) / 1e6
        return milliseconds < 1_000
            ? "\(milliseconds.text(digits: milliseconds < 10 ? 2 : 1)) ms"
            : "\((milliseconds / 1_000).text(digits: 3)) s"
    }
}

extension Double {
    /// The number with that many digits after its point.
    func text(digits: Int) -> String {
        guard isFinite else { return "0" }
        var scale = 1.0
        for _ in 0..<digits { scale *= 10 }
        let rounded = (magnitude * scale).rounded()
        guard rounded < 9e15 else { return "\(self)" }
        let whole = Int64(rounded)
        let sign = self < 0 && whole != 0 ? "-" : ""
        guard digits > 0 else { return "\(sign)\(whole)" }
        let fraction = String(whole % Int64(scale))
        let zeros = String(repeating: "0", count: digits - fraction.count)
        return "\(sign)\(whole / Int64(scale)).\(zeros)\(fraction)"
    }
}
