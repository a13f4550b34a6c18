import Primitives

/// The bytes in which a configuration goes from the loader to the main process, and from there to the workers.
///
/// Every type of the configuration is `Codable`, and the compiler writes both directions: a stored property that is
/// added is part of the bytes from then on. Both ends are the same program, so the format has no version:
///
/// - An integer has its own size and is little endian; a `Bool` is one byte, 0 or 1.
/// - A `String` is its UTF-8, and `[UInt8]` its bytes, both after their number in 4 bytes.
/// - What has properties is a list of entries, each with the property's name in front (its length in 1 byte, then its
///   UTF-8), and a byte 0 at the end. A property that is `nil` has no entry.
/// - An enum with payloads is one entry with the case's name, which holds the entries of the payload.
/// - A list is a byte 1 before each element, and a byte 0 at the end.
///
/// Decoding is total: it checks every length, and refuses whatever ``encode(_:)`` would not have written.
enum BinaryCoding {
    /// - Returns: no bytes at all, which ``decode(_:from:)`` refuses, for a value that holds what the format has no place
    ///   for: a floating-point number, an optional inside a list, an integer of 128 bits outside of one, a dictionary, a
    ///   class that inherits. No configuration holds any of them.
    static func encode(_ value: some Encodable) -> [UInt8] {
        let encoder = BinaryEncoder()
        do { try encoder.encode(value) } catch { return [] }
        return encoder.isUnsupported ? [] : encoder.writer.bytes
    }

    /// - Throws: when the bytes are not one whole value, and nothing else.
    static func decode<Value: Decodable>(
        _: Value.Type = Value.self, from bytes: UnsafeRawBufferPointer
    ) throws(MalformedBytes) -> Value {
        let decoder = BinaryDecoder(bytes)
        // What the types themselves throw (DecodingError, for a raw value without a case) says nothing more.
        guard let value = try? decoder.decode(Value.self), decoder.reader.isAtEnd else { throw MalformedBytes() }
        return value
    }

    static func decode<Value: Decodable>(
        _: Value.Type = Value.self, from bytes: [UInt8]
    ) throws(MalformedBytes) -> Value {
        try bytes.withUnsafeBufferPointer { bytes throws(MalformedBytes) in
            try decode(from: UnsafeRawBufferPointer(bytes))
        }
    }

    fileprivate static let endOfEntries: UInt8 = 0
    fileprivate static let element: UInt8 = 1
}

// MARK: Encoder

private final class BinaryEncoder: Encoder {
    var writer = ByteWriter()
    /// A part of `Encoder` that the format has no place for, and that could not be refused by an error.
    var isUnsupported = false
    /// Whether the value that is being written has asked for a container, which has to be ended after it.
    private var isInContainer = false

    let codingPath: [any CodingKey] = []
    let userInfo: [CodingUserInfoKey: Any] = [:]

    func encode<Value: Encodable>(_ value: Value) throws {
        switch value {
        // An empty array of anything can be cast to any other array.
        case let bytes as [UInt8] where Value.self == [UInt8].self: writer.data(bytes)
        case let text as String: writer.string(text)
        case let flag as Bool: writer.bool(flag)
        case let integer as any FixedWidthInteger: writer.integer(integer)
        case is any BinaryFloatingPoint: isUnsupported = true
        default:
            let outer = isInContainer
            isInContainer = false
            try value.encode(to: self)
            if isInContainer { writer.integer(BinaryCoding.endOfEntries) }
            isInContainer = outer
        }
    }

    /// Begins an entry of what has properties.
    func begin(_ key: some CodingKey) {
        let name = Array(key.stringValue.utf8)
        if name.isEmpty || name.count > UInt8.max { isUnsupported = true }
        writer.integer(UInt8(truncatingIfNeeded: name.count))
        for byte in name { writer.integer(byte) }
    }

    func container<Key: CodingKey>(keyedBy: Key.Type) -> KeyedEncodingContainer<Key> {
        isInContainer = true
        return KeyedEncodingContainer(Keyed(encoder: self))
    }

    func unkeyedContainer() -> any UnkeyedEncodingContainer {
        isInContainer = true
        return Unkeyed(encoder: self)
    }

    func singleValueContainer() -> any SingleValueEncodingContainer { Single(encoder: self) }

    fileprivate func unsupported() -> Self {
        isUnsupported = true
        return self
    }

    /// One generic method stands for all that `KeyedEncodingContainerProtocol` demands, one for each type.
    private struct Keyed<Key: CodingKey>: KeyedEncodingContainerProtocol {
        let encoder: BinaryEncoder
        let codingPath: [any CodingKey] = []

        func encode<Value: Encodable>(_ value: Value, forKey key: Key) throws {
            encoder.begin(key)
            try encoder.encode(value)
        }

        /// An enum's payload. It ends with the enum, so it needs no end of its own.
        func nestedContainer<Inner: CodingKey>(
            keyedBy: Inner.Type, forKey key: Key
        ) -> KeyedEncodingContainer<Inner> {
            encoder.begin(key)
            return KeyedEncodingContainer(Keyed<Inner>(encoder: encoder))
        }

        func encodeNil(forKey key: Key) { encoder.isUnsupported = true }
        func nestedUnkeyedContainer(forKey key: Key) -> any UnkeyedEncodingContainer {
            Unkeyed(encoder: encoder.unsupported())
        }
        func superEncoder() -> any Encoder { encoder.unsupported() }
        func superEncoder(forKey key: Key) -> any Encoder { encoder.unsupported() }
    }

    private struct Unkeyed: UnkeyedEncodingContainer {
        let encoder: BinaryEncoder
        let codingPath: [any CodingKey] = []
        private(set) var count = 0

        init(encoder: BinaryEncoder) { self.encoder = encoder }

        mutating func encode<Value: Encodable>(_ value: Value) throws {
            count += 1
            encoder.writer.integer(BinaryCoding.element)
            try encoder.encode(value)
        }

        func encodeNil() { encoder.isUnsupported = true }
        func nestedContainer<Inner: CodingKey>(keyedBy: Inner.Type) -> KeyedEncodingContainer<Inner> {
            KeyedEncodingContainer(Keyed(encoder: encoder.unsupported()))
        }
        func nestedUnkeyedContainer() -> any UnkeyedEncodingContainer { Unkeyed(encoder: encoder.unsupported()) }
        func superEncoder() -> any Encoder { encoder.unsupported() }
    }

    private struct Single: SingleValueEncodingContainer {
        let encoder: BinaryEncoder
        let codingPath: [any CodingKey] = []

        func encode<Value: Encodable>(_ value: Value) throws { try encoder.encode(value) }
        func encodeNil() { encoder.isUnsupported = true }
    }
}

// MARK: Decoder

private final class BinaryDecoder: Decoder {
    var reader: ByteReader
    private var isInContainer = false

    let codingPath: [any CodingKey] = []
    let userInfo: [CodingUserInfoKey: Any] = [:]

    /// - Parameter bytes: valid as long as the decoder is used.
    init(_ bytes: UnsafeRawBufferPointer) { reader = ByteReader(bytes) }

    func decode<Value: Decodable>(_ type: Value.Type) throws -> Value {
        if type == [UInt8].self { return try cast(reader.array()) }
        if type == String.self { return try cast(text(of: reader.data())) }
        if type == Bool.self { return try cast(flag()) }
        if let integer = type as? any FixedWidthInteger.Type { return try cast(self.integer(integer)) }
        if type is any BinaryFloatingPoint.Type { throw MalformedBytes() }
        let outer = isInContainer
        isInContainer = false
        let value = try Value(from: self)
        if isInContainer, try reader.integer(UInt8.self) != BinaryCoding.endOfEntries { throw MalformedBytes() }
        isInContainer = outer
        return value
    }

    private func cast<Value>(_ value: Any) throws(MalformedBytes) -> Value {
        guard let value = value as? Value else { throw MalformedBytes() }
        return value
    }

    private func integer(_ type: (some FixedWidthInteger).Type) throws(MalformedBytes) -> any FixedWidthInteger {
        try reader.integer(type)
    }

    private func flag() throws(MalformedBytes) -> Bool {
        let byte: UInt8 = try reader.integer()
        guard byte <= 1 else { throw MalformedBytes() }
        return byte == 1
    }

    private func text(of bytes: UnsafeRawBufferPointer) throws(MalformedBytes) -> String {
        guard let text = String(validating: bytes, as: UTF8.self) else { throw MalformedBytes() }
        return text
    }

    /// The name of the entry that comes next; `nil` at the end of the entries.
    fileprivate func nextKey() -> String? {
        var ahead = reader
        guard let length = try? ahead.integer(UInt8.self), length > 0, let name = try? ahead.take(Int(length)) else {
            return nil
        }
        return String(validating: name, as: UTF8.self)
    }

    /// Steps over the name of an entry.
    fileprivate func begin(_ key: some CodingKey) throws(MalformedBytes) {
        guard nextKey() == key.stringValue else { throw MalformedBytes() }
        _ = try reader.take(Int(try reader.integer(UInt8.self)))
    }

    func container<Key: CodingKey>(keyedBy: Key.Type) -> KeyedDecodingContainer<Key> {
        isInContainer = true
        return KeyedDecodingContainer(Keyed(decoder: self))
    }

    func unkeyedContainer() -> any UnkeyedDecodingContainer {
        isInContainer = true
        return Unkeyed(decoder: self)
    }

    func singleValueContainer() -> any SingleValueDecodingContainer { Single(decoder: self) }

    private struct Keyed<Key: CodingKey>: KeyedDecodingContainerProtocol {
        let decoder: BinaryDecoder
        let codingPath: [any CodingKey] = []

        /// The case of an enum: of its entry, which is the only one.
        var allKeys: [Key] { decoder.nextKey().flatMap(Key.init(stringValue:)).map { [$0] } ?? [] }

        /// Properties are read in the order in which they were written, so the entry is the next one or not there.
        func contains(_ key: Key) -> Bool { decoder.nextKey() == key.stringValue }

        func decode<Value: Decodable>(_ type: Value.Type, forKey key: Key) throws -> Value {
            try decoder.begin(key)
            return try decoder.decode(type)
        }

        func nestedContainer<Inner: CodingKey>(
            keyedBy: Inner.Type, forKey key: Key
        ) throws -> KeyedDecodingContainer<Inner> {
            try decoder.begin(key)
            return KeyedDecodingContainer(Keyed<Inner>(decoder: decoder))
        }

        func decodeNil(forKey key: Key) -> Bool { false }
        func nestedUnkeyedContainer(forKey key: Key) throws -> any UnkeyedDecodingContainer { throw MalformedBytes() }
        func superDecoder() throws -> any Decoder { throw MalformedBytes() }
        func superDecoder(forKey key: Key) throws -> any Decoder { throw MalformedBytes() }
    }

    private struct Unkeyed: UnkeyedDecodingContainer {
        let decoder: BinaryDecoder
        let codingPath: [any CodingKey] = []
        /// Not known before the end, so nothing is reserved for elements that may not be there.
        let count: Int? = nil
        private(set) var currentIndex = 0

        init(decoder: BinaryDecoder) { self.decoder = decoder }

        /// Also where the bytes end too early: the end that should be there is then missed.
        var isAtEnd: Bool {
            var ahead = decoder.reader
            return (try? ahead.integer(UInt8.self)) ?? BinaryCoding.endOfEntries == BinaryCoding.endOfEntries
        }

        mutating func decode<Value: Decodable>(_ type: Value.Type) throws -> Value {
            guard try decoder.reader.integer(UInt8.self) == BinaryCoding.element else { throw MalformedBytes() }
            currentIndex += 1
            return try decoder.decode(type)
        }

        func decodeNil() throws -> Bool { false }
        func nestedContainer<Inner: CodingKey>(keyedBy: Inner.Type) throws -> KeyedDecodingContainer<Inner> {
            throw MalformedBytes()
        }
        func nestedUnkeyedContainer() throws -> any UnkeyedDecodingContainer { throw MalformedBytes() }
        func superDecoder() throws -> any Decoder { throw MalformedBytes() }
    }

    private struct Single: SingleValueDecodingContainer {
        let decoder: BinaryDecoder
        let codingPath: [any CodingKey] = []

        func decode<Value: Decodable>(_ type: Value.Type) throws -> Value { try decoder.decode(type) }
        func decodeNil() -> Bool { false }
    }
}
