import DTLSTransport
import Primitives
import TOMLKit

extension TableReader {
    /// Reports a first timeout of flights after which no handshake is left to be saved.
    func checkRetransmission(
        _ property: PartialKeyPath<Section>, _ timeout: Duration?, within handshake: Duration
    ) {
        guard has(property), let timeout, timeout >= handshake else { return }
        report(
            property,
            "nothing is ever sent again, since a handshake may take \(handshake.seconds) s; expected less than"
                + " handshake_timeout")
    }
}

extension ValueType where Value == Duration {
    /// A number of seconds, integer or decimal, rounded to milliseconds, or a time with its unit, such as "90s".
    static func seconds(_ range: ClosedRange<Int>) -> Self {
        Self(scalar: expectation(range), text: decimal) { fraction($0, range) ?? whole($0, range) }
    }

    /// The same, or 0 for no limit.
    static func seconds(_ range: ClosedRange<Int>, orZero: Void) -> Self {
        let seconds = seconds(0...range.upperBound)
        return Self(seconds.expected, text: seconds.text) { field in
            guard let value = seconds.read(field) else { return nil }
            if value > .zero, value < .seconds(range.lowerBound) {
                field.report(
                    "expected a number of seconds, \(range.lowerBound) to \(range.upperBound), or 0 for no limit,"
                        + " found less than \(range.lowerBound)")
            }
            return value
        }
    }

    /// A number of seconds without decimals, or a time with its unit.
    static func wholeSeconds(_ range: ClosedRange<Int>) -> Self {
        Self(scalar: expectation(range, "an integer of seconds"), text: decimal) { whole($0, range) }
    }

    /// The same, of which a default is written with its unit.
    /// - Parameter off: what the word "off" stands for; `nil` where the word is not one.
    static func time(_ range: ClosedRange<Int>, off: Duration? = nil) -> Self {
        let alternative = off == nil ? "" : ", or \"off\""
        return Self(
            scalar: expectation(range, "an integer of seconds") + alternative,
            text: { $0 == off ? "\"off\"" : written($0) },
            { value in
                if let off, value.string == "off" { return off }
                return whole(value, range)
            })
    }

    private static func expectation(_ range: ClosedRange<Int>, _ kind: String = "a number of seconds") -> String {
        let example =
            switch range.upperBound {
            case ..<3_600: "30s"
            case ..<86_400: "5m"
            case ..<604_800: "12h"
            default: "7d"
            }
        return "\(kind), \(range.lowerBound) to \(range.upperBound), or a time such as \"\(example)\""
    }

    @Sendable private static func fraction(_ value: any TOMLValueConvertible, _ range: ClosedRange<Int>) -> Duration? {
        ValueType<Int>.thousandths(value, range).map { .milliseconds($0) }
    }

    @Sendable private static func whole(_ value: any TOMLValueConvertible, _ range: ClosedRange<Int>) -> Duration? {
        let seconds = value.int ?? value.string.flatMap(seconds)
        return seconds.flatMap { range.contains($0) ? .seconds($0) : nil }
    }

    private static var units: KeyValuePairs<Character, Int> { ["d": 86_400, "h": 3_600, "m": 60, "s": 1] }

    /// - Returns: the seconds of a text such as "90s"; `nil` for any other text.
    @Sendable private static func seconds(_ text: String) -> Int? {
        guard let unit = units.first(where: { $0.key == text.last }), let count = Int(text.dropLast()), count >= 0
        else { return nil }
        let (seconds, overflow) = count.multipliedReportingOverflow(by: unit.value)
        return overflow ? nil : seconds
    }

    @Sendable private static func decimal(_ duration: Duration) -> String {
        let (seconds, attoseconds) = duration.components
        return attoseconds == 0 ? "\(seconds)" : "\(Double(seconds) + Double(attoseconds) / 1e18)"
    }

    @Sendable private static func written(_ duration: Duration) -> String {
        let seconds = duration.seconds
        let unit = units.first { seconds > 0 && seconds % $0.value == 0 } ?? ("s", 1)
        return "\"\(seconds / unit.value)\(unit.key)\""
    }

    /// The longest `idle_timeout`, for devices that report once a year.
    private static var longestIdleTime: Int { 400 * 86_400 }

    /// How long nothing need come; 0 means no limit.
    /// - Parameter least: the smallest number of seconds but 0.
    static func idleTime(_ least: Int) -> Self { seconds(least...longestIdleTime, orZero: ()) }
}

extension ValueType where Value == Connection.RecordBound {
    static var recordMTU: Self {
        let sizes = 256...65_535
        return Self(
            scalar: "an integer of bytes, \(sizes.lowerBound) to \(sizes.upperBound), or \"handshake\"",
            text: { bound in
                switch bound {
                case .none: nil
                case .handshake: "\"handshake\""
                case .size(let size): "\(size)"
                }
            },
            { value in
                if value.string == "handshake" { return .handshake }
                return value.int.flatMap { sizes.contains($0) ? .size($0) : nil }
            })
    }
}
