/// Writes the values of a channel message or a snapshot, little endian, one after the other.
///
/// Other modules can specialize what is generic in it: unspecialized, an integer takes 100 ns.
package struct ByteWriter {
    @usableFromInline package internal(set) var bytes: [UInt8] = []

    package init() {}

    /// Begins again, in the same memory.
    package mutating func removeAll() { bytes.removeAll(keepingCapacity: true) }

    @inlinable @inline(__always) package mutating func integer<Value: FixedWidthInteger>(_ value: Value) {
        withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0) }
    }

    package mutating func duration(_ value: Duration) { integer(value.nanoseconds) }

    @inlinable package mutating func bool(_ value: Bool) { integer(UInt8(value ? 1 : 0)) }

    @inlinable @inline(__always) package mutating func data(_ value: UnsafeRawBufferPointer) {
        integer(UInt32(truncatingIfNeeded: value.count))
        bytes.append(contentsOf: value)
    }

    package mutating func data(_ value: [UInt8]) { value.withUnsafeBytes { data($0) } }

    /// Writes bytes whose number the reader knows.
    package mutating func bytes(_ value: [UInt8]) { bytes.append(contentsOf: value) }

    package mutating func string(_ value: String) {
        var value = value
        value.withUTF8 { data(UnsafeRawBufferPointer($0)) }
    }

    @inlinable package mutating func optional<Value>(_ value: Value?, _ write: (inout ByteWriter, Value) -> Void) {
        bool(value != nil)
        if let value { write(&self, value) }
    }

    @inlinable package mutating func list<Value>(_ values: [Value], _ write: (inout ByteWriter, Value) -> Void) {
        integer(UInt32(truncatingIfNeeded: values.count))
        for value in values { write(&self, value) }
    }
}

/// The bytes did not hold what was asked of them. Both ends are the same program, so this is a defect, not input.
package struct MalformedBytes: Error, CustomStringConvertible {
    @inlinable package init() {}

    package var description: String { "a message between the processes is malformed" }
}

/// Reads what ``ByteWriter`` wrote. Total: every read checks its length.
package struct ByteReader {
    private let bytes: UnsafeRawBufferPointer
    private var position = 0

    package init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

    package var isAtEnd: Bool { position == bytes.count }

    /// The next `count` bytes, valid as long as the reader's own.
    package mutating func take(_ count: Int) throws(MalformedBytes) -> UnsafeRawBufferPointer {
        guard count >= 0, count <= bytes.count - position else { throw MalformedBytes() }
        defer { position += count }
        return UnsafeRawBufferPointer(rebasing: bytes[position..<(position + count)])
    }

    // One function for each type, since Swift 6.3 does not specialize a generic one with a typed error in other modules.
    package mutating func integer(_: UInt8.Type = UInt8.self) throws(MalformedBytes) -> UInt8 { try any() }
    package mutating func integer(_: UInt16.Type = UInt16.self) throws(MalformedBytes) -> UInt16 { try any() }
    package mutating func integer(_: UInt32.Type = UInt32.self) throws(MalformedBytes) -> UInt32 { try any() }
    package mutating func integer(_: UInt64.Type = UInt64.self) throws(MalformedBytes) -> UInt64 { try any() }
    package mutating func integer(_: Int32.Type = Int32.self) throws(MalformedBytes) -> Int32 { try any() }
    package mutating func integer(_: Int64.Type = Int64.self) throws(MalformedBytes) -> Int64 { try any() }

    package mutating func integer<Value: FixedWidthInteger>(_: Value.Type) throws(MalformedBytes) -> Value { try any() }

    @inline(__always)
    private mutating func any<Value: FixedWidthInteger>() throws(MalformedBytes) -> Value {
        Value(littleEndian: try take(MemoryLayout<Value>.size).loadUnaligned(as: Value.self))
    }

    package mutating func duration() throws(MalformedBytes) -> Duration { .nanoseconds(try integer(Int64.self)) }

    package mutating func bool() throws(MalformedBytes) -> Bool { try integer(UInt8.self) != 0 }

    package mutating func data() throws(MalformedBytes) -> UnsafeRawBufferPointer {
        try take(Int(try integer(UInt32.self)))
    }

    package mutating func array() throws(MalformedBytes) -> [UInt8] { [UInt8](try data()) }

    package mutating func string() throws(MalformedBytes) -> String { String(decoding: try data(), as: UTF8.self) }

    package mutating func optional<Value>(
        _ read: (inout ByteReader) throws(MalformedBytes) -> Value
    ) throws(MalformedBytes) -> Value? {
        try bool() ? try read(&self) : nil
    }

    package mutating func optionalString() throws(MalformedBytes) -> String? {
        try bool() ? try string() : nil
    }

    package mutating func list<Value>(
        _ read: (inout ByteReader) throws(MalformedBytes) -> Value
    ) throws(MalformedBytes) -> [Value] {
        var values: [Value] = []
        for _ in 0..<(try integer(UInt32.self)) { values.append(try read(&self)) }
        return values
    }
}
