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

    @Sendable static func thousandths(_ value: any TOMLValueConvertible, _ range: ClosedRange<Int>) -> Int? {
        guard let number = value.int.map(Double.init) ?? value.double, number.isFinite,
            number >= Double(range.lowerBound), number <= Double(range.upperBound)
        else { return nil }
        return number > 0 ? max(1, Int((number * 1_000).rounded())) : 0
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
