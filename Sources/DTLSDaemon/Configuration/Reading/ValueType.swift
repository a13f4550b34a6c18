import DTLSEngine
import Primitives
import TOMLKit

/// The type of a key's value: how it is read, and the message for any other value.
struct ValueType<Value>: Sendable {
    /// The type and range, as the end of a sentence that begins with "expected".
    let expected: String
    /// Reads a value. It returns `nil` for a wrong value, which it reports.
    let read: @Sendable (Field) -> Value?
    /// A default as the file would write it; `nil` if words describe it better.
    let text: @Sendable (Value) -> String?

    init(
        _ expected: String, text: @escaping @Sendable (Value) -> String? = { _ in nil },
        read: @escaping @Sendable (Field) -> Value?
    ) {
        self.expected = expected
        self.text = text
        self.read = read
    }

    /// A single value, which is wrong if `convert` returns `nil` for it.
    init(
        scalar expected: String, text: @escaping @Sendable (Value) -> String? = { _ in nil },
        _ convert: @escaping @Sendable (any TOMLValueConvertible) -> Value?
    ) {
        self.init(expected, text: text) { field in
            if let value = field.value.flatMap(convert) { return value }
            field.reportMismatch()
            return nil
        }
    }

    func map<Other>(
        text: @escaping @Sendable (Other) -> String? = { _ in nil }, _ convert: @escaping @Sendable (Value) -> Other
    ) -> ValueType<Other> {
        let read = read
        return ValueType<Other>(expected, text: text) { read($0).map(convert) }
    }

    static var expectedTable: String { "a table" }
}

extension ValueType where Value == Int {
    /// - Parameter kind: the kind of number, for the message.
    static func integer(_ range: ClosedRange<Int>, _ kind: String = "an integer") -> Self {
        Self(
            scalar: "\(kind), \(range.lowerBound) to \(range.upperBound)", text: { "\($0)" },
            { value in
                value.int.flatMap { range.contains($0) ? $0 : nil }
            })
    }

    /// A number, integer or decimal, in thousandths. A number other than 0 never becomes 0.
    static func thousandths(_ range: ClosedRange<Int>, _ kind: String) -> Self {
        Self(
            scalar: "\(kind), \(range.lowerBound) to \(range.upperBound)", text: { "\(Double($0) / 1_000)" },
            { thousandths($0, range) })
    }

    @Sendable fileprivate static func thousandths(_ value: any TOMLValueConvertible, _ range: ClosedRange<Int>) -> Int?
    {
        guard let number = value.int.map(Double.init) ?? value.double, number.isFinite,
            number >= Double(range.lowerBound), number <= Double(range.upperBound)
        else { return nil }
        return number > 0 ? max(1, Int((number * 1_000).rounded())) : 0
    }
}

extension ValueType where Value == Duration {
    /// A number of seconds, integer or decimal, rounded to milliseconds.
    static func seconds(_ range: ClosedRange<Int>) -> Self {
        ValueType<Int>.thousandths(range, "a number of seconds").map(text: decimal) { .milliseconds($0) }
    }

    /// An integer of seconds.
    static func wholeSeconds(_ range: ClosedRange<Int>) -> Self {
        ValueType<Int>.integer(range, "an integer of seconds").map(text: decimal) { .seconds($0) }
    }

    @Sendable private static func decimal(_ duration: Duration) -> String {
        let (seconds, attoseconds) = duration.components
        return attoseconds == 0 ? "\(seconds)" : "\(Double(seconds) + Double(attoseconds) / 1e18)"
    }

    /// A time with its unit, "90s", "1m", "12h" or "1d", or a number of seconds.
    /// - Parameter off: what the word "off" stands for; `nil` where the word is not one.
    static func time(_ range: ClosedRange<Int>, off: Duration? = nil) -> Self {
        let bounds = "\(written(.seconds(range.lowerBound))) to \(written(.seconds(range.upperBound)))"
        let alternative = off == nil ? "" : ", or \"off\""
        return Self(
            scalar: "a time, \(bounds)\(alternative)", text: { $0 == off ? "\"off\"" : written($0) },
            { value in
                if let off, value.string == "off" { return off }
                let seconds = value.int ?? value.string.flatMap(seconds)
                return seconds.flatMap { range.contains($0) ? .seconds($0) : nil }
            })
    }

    private static var units: KeyValuePairs<Character, Int> { ["d": 86_400, "h": 3_600, "m": 60, "s": 1] }

    /// A number of seconds, integer or decimal.
    @Sendable static func fraction(_ value: any TOMLValueConvertible, _ range: ClosedRange<Int>) -> Duration? {
        ValueType<Int>.thousandths(value, range).map { .milliseconds($0) }
    }

    /// - Returns: the seconds of a text such as "90s"; `nil` for any other text.
    @Sendable static func seconds(_ text: String) -> Int? {
        guard let unit = units.first(where: { $0.key == text.last }), let count = Int(text.dropLast()), count >= 0
        else { return nil }
        let (seconds, overflow) = count.multipliedReportingOverflow(by: unit.value)
        return overflow ? nil : seconds
    }

    @Sendable private static func written(_ duration: Duration) -> String {
        let seconds = duration.seconds
        let unit = units.first { seconds > 0 && seconds % $0.value == 0 } ?? ("s", 1)
        return "\"\(seconds / unit.value)\(unit.key)\""
    }

    /// A number of seconds, or 0 for no limit.
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
}

extension ValueType where Value == Bool {
    static var flag: Self { Self(scalar: "true or false", text: { "\($0)" }, { $0.bool }) }
}

extension ValueType where Value == String {
    /// A string that is not empty.
    static func string(_ expected: String) -> Self {
        Self(scalar: expected) { value in value.string.flatMap { $0.isEmpty ? nil : $0 } }
    }
}

extension ValueType where Value == [Element<String>] {
    /// One string, or an array of several.
    static func strings(_ expected: String) -> Self { Self(expected) { $0.strings } }
}

extension ValueType where Value: RawRepresentable<String> & CaseIterable & SendableMetatype {
    /// One of the words of an enumeration.
    static var word: Self {
        Self(
            scalar: ReadContext.alternatives(Value.allCases.map(\.rawValue)), text: { "\"\($0.rawValue)\"" },
            {
                $0.string.flatMap(Value.init(rawValue:))
            })
    }
}

extension ValueType where Value == ProtocolVersion {
    static var version: Self {
        Self(
            scalar: ReadContext.alternatives(Value.allCases.map(\.name)), text: { "\"\($0.name)\"" },
            {
                $0.string.flatMap(ProtocolVersion.init(name:))
            })
    }
}
