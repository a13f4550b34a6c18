import DTLSTransport
import Primitives

/// A value in a message between a program and its tasks.
public enum TaskValue: Sendable, Equatable {
    /// No value.
    case null
    /// True or false.
    case bool(Bool)
    /// A whole number.
    case integer(Int)
    /// A floating-point number.
    case double(Double)
    /// A text.
    case string(String)
    /// Bytes of any kind.
    case bytes([UInt8])
    /// Values in an order.
    case list([TaskValue])
    /// Values by their names.
    case dictionary([String: TaskValue])
    /// A descriptor. The receiver gets a number of its own for the same open file; a message carries at most one. The
    /// sender's own stays open: close it, or call ``DtlsConnection/flyAway()``.
    case sockFd(Int32)
}

/// Reading a value.
extension TaskValue {
    /// The value of `.bool`; `nil` for any other case, as in all that follow.
    public var bool: Bool? {
        if case .bool(let value) = self { return value }
        return nil
    }

    /// The value of `.integer`.
    public var integer: Int? {
        if case .integer(let value) = self { return value }
        return nil
    }

    /// The value of `.double`.
    public var double: Double? {
        if case .double(let value) = self { return value }
        return nil
    }

    /// The value of `.string`.
    public var string: String? {
        if case .string(let value) = self { return value }
        return nil
    }

    /// The value of `.bytes`.
    public var bytes: [UInt8]? {
        if case .bytes(let value) = self { return value }
        return nil
    }

    /// The values of `.list`.
    public var list: [TaskValue]? {
        if case .list(let value) = self { return value }
        return nil
    }

    /// The descriptor's number in this process; `nil` also where it could not arrive, since this process has too many
    /// files open. It is the program's to close, or to give to ``Dtls/createByFd(_:_:timeout:)``.
    public var sockFd: Int32? {
        if case .sockFd(let value) = self { return value }
        return nil
    }

    /// A value of a dictionary.
    public subscript(key: String) -> TaskValue? {
        if case .dictionary(let values) = self { return values[key] }
        return nil
    }
}

extension TaskValue: ExpressibleByStringLiteral, ExpressibleByIntegerLiteral, ExpressibleByFloatLiteral,
    ExpressibleByBooleanLiteral, ExpressibleByArrayLiteral, ExpressibleByDictionaryLiteral, ExpressibleByNilLiteral
{
    public init(stringLiteral value: String) { self = .string(value) }
    public init(integerLiteral value: Int) { self = .integer(value) }
    public init(floatLiteral value: Double) { self = .double(value) }
    public init(booleanLiteral value: Bool) { self = .bool(value) }
    public init(arrayLiteral elements: TaskValue...) { self = .list(elements) }
    public init(nilLiteral: ()) { self = .null }

    /// Of two values for one key, the later one holds.
    public init(dictionaryLiteral elements: (String, TaskValue)...) {
        self = .dictionary(Dictionary(elements) { $1 })
    }
}

/// On the wire between two processes of one program.
extension TaskValue {
    private enum Kind: UInt8 { case null, bool, integer, double, string, bytes, list, dictionary, sockFd }

    /// The descriptors that are in it, in order.
    var descriptors: [Int32] {
        switch self {
        case .sockFd(let descriptor): [descriptor]
        case .list(let values): values.flatMap(\.descriptors)
        case .dictionary(let values): values.values.flatMap(\.descriptors)
        default: []
        }
    }

    func write(to writer: inout ByteWriter) {
        func kind(_ kind: Kind) { writer.integer(kind.rawValue) }
        switch self {
        case .null: kind(.null)
        case .bool(let value):
            kind(.bool)
            writer.bool(value)
        case .integer(let value):
            kind(.integer)
            writer.integer(Int64(value))
        case .double(let value):
            kind(.double)
            writer.integer(value.bitPattern)
        case .string(let value):
            kind(.string)
            writer.string(value)
        case .bytes(let value):
            kind(.bytes)
            writer.data(value)
        case .list(let values):
            kind(.list)
            writer.list(values) { $1.write(to: &$0) }
        case .dictionary(let values):
            kind(.dictionary)
            writer.list(Array(values)) { writer, entry in
                writer.string(entry.key)
                entry.value.write(to: &writer)
            }
        case .sockFd: kind(.sockFd)
        }
    }

    /// - Parameter descriptor: the one that came along, or -1.
    init(reading reader: inout ByteReader, descriptor: Int32) throws(MalformedBytes) {
        guard let kind = Kind(rawValue: try reader.integer()) else { throw MalformedBytes() }
        switch kind {
        case .null: self = .null
        case .bool: self = .bool(try reader.bool())
        case .integer: self = .integer(Int(try reader.integer(Int64.self)))
        case .double: self = .double(Double(bitPattern: try reader.integer()))
        case .string: self = .string(try reader.string())
        case .bytes: self = .bytes(try reader.array())
        case .list:
            self = .list(
                try reader.list { reader throws(MalformedBytes) in
                    try TaskValue(reading: &reader, descriptor: descriptor)
                })
        case .dictionary:
            let entries = try reader.list { reader throws(MalformedBytes) in
                (try reader.string(), try TaskValue(reading: &reader, descriptor: descriptor))
            }
            self = .dictionary(Dictionary(entries) { $1 })
        case .sockFd: self = descriptor >= 0 ? .sockFd(descriptor) : .null
        }
    }
}
