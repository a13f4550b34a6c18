/// Numbers in the form in which people read them.
enum Quantity {
    /// `1,234,567`
    static func count(_ number: some BinaryInteger) -> String {
        let digits = String(number.magnitude)
        var grouped = ""
        for (index, digit) in digits.enumerated() {
            if index > 0, (digits.count - index).isMultiple(of: 3) { grouped += "," }
            grouped.append(digit)
        }
        return (number < 0 ? "-" : "") + grouped
    }

    /// `512 B`, `9.8 KiB`, `1.2 GiB`
    static func bytes(_ number: UInt64) -> String { bytes(Double(number)) }

    static func bytes(_ number: Double) -> String {
        var number = number
        for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
            // What would be rounded to 1024 is one of the next unit.
            if number < 1023.5 {
                return unit == "B" || number >= 99.95
                    ? "\(count(Int(number.rounded()))) \(unit)" : "\(fixed(number, digits: 1)) \(unit)"
            }
            number /= 1024
        }
        return "\(significant(number)) PiB"
    }

    /// Events a second: `0`, `0.4`, `12`, `1,234`, `56.7k`
    static func rate(_ number: Double) -> String {
        if number <= 0 { return "0" }
        if number < 0.05 { return "<0.1" }
        if number < 9_999.5 { return significant(number) }
        return number < 999_950 ? "\(significant(number / 1_000))k" : "\(significant(number / 1_000_000))M"
    }

    /// An age or a time to wait: `0.3s`, `45s`, `12m 5s`, `3h 12m`, `4d 3h`
    static func duration(seconds: Double) -> String {
        guard seconds >= 0, seconds < 1e12 else { return "?" }
        if seconds < 9.95 { return "\(fixed(seconds, digits: 1))s" }
        let whole = Int(seconds.rounded())
        let parts = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")]
        let first = parts.firstIndex { whole >= $0.0 } ?? parts.count - 1
        let rest = whole % parts[first].0
        var text = "\(whole / parts[first].0)\(parts[first].1)"
        if first + 1 < parts.count, rest / parts[first + 1].0 > 0 {
            text += " \(rest / parts[first + 1].0)\(parts[first + 1].1)"
        }
        return text
    }

    /// A latency: `340 µs`, `1.2 ms`, `2.5 s`
    static func latency(seconds: Double) -> String {
        guard seconds >= 0, seconds < 1e12 else { return "?" }
        if seconds < 0.000_999_5 { return "\(significant(seconds * 1_000_000)) µs" }
        if seconds < 0.999_5 { return "\(significant(seconds * 1_000)) ms" }
        return "\(significant(seconds)) s"
    }

    /// `1 connection`, `1,234 connections`
    static func things(_ number: some BinaryInteger, _ one: String, _ many: String? = nil) -> String {
        "\(count(number)) \(number == 1 ? one : many ?? one + "s")"
    }

    /// One decimal place below 10 where it says something, and none above 100.
    private static func significant(_ number: Double) -> String {
        guard number.isFinite, number < 1e15 else { return "?" }
        if number >= 99.95 || number == number.rounded() { return count(Int(number.rounded())) }
        return fixed(number, digits: 1)
    }

    /// A number with as many decimal places as asked for. It is finite, and its magnitude is at most 10^12.
    static func fixed(_ number: Double, digits: Int) -> String {
        let scale = (0..<digits).reduce(1.0) { scale, _ in scale * 10 }
        let scaled = Int((number.magnitude * scale).rounded())
        let whole = scaled / Int(scale)
        let fraction = String(scaled % Int(scale))
        let sign = number < 0 && scaled > 0 ? "-" : ""
        guard digits > 0 else { return "\(sign)\(count(whole))" }
        return "\(sign)\(count(whole)).\(String(repeating: "0", count: digits - fraction.count))\(fraction)"
    }
}
