import Primitives

/// The binary format of a configuration between the loader, the main process and the workers.
///
/// Every type of the configuration is `Codable`, and the compiler generates both directions, so that every stored
/// property is part of the bytes. Both ends are the same program, so the format has no version:
///
/// - An integer has the size of its type and is little-endian; a `Bool` is one byte, 0 or 1.
/// - A `String` is its UTF-8, and a `[UInt8]` its bytes, each preceded by the number of bytes in 4 bytes.
/// - A value with properties is a sequence of entries, each preceded by the name of the property (its length in 1 byte,
///   and its UTF-8), and a byte 0 at the end. A property that is `nil` has no entry.
/// - An enum with payloads is one entry with the name of the case, which contains the entries of the payload.
/// - An array has a byte 1 before each element, and a byte 0 at the end.
///
/// Decoding never traps: it checks every length, and refuses all bytes that ``encode(_:)`` would not have written.
enum BinaryCoding {
    /// - Returns: the bytes. There are none, which ``decode(_:from:)`` refuses, if the format does not support the
    ///   value: a floating-point number, an optional in an array, a 128-bit integer outside an array, a dictionary, or
    ///   a class that inherits. No configuration contains any of these.
    static func encode(_ value: some Encodable) -> [UInt8] {
        let encoder = BinaryEncoder()
        do { try encoder.encode(value) } catch { return [] }
        return encoder.isUnsupported ? [] : encoder.writer.bytes
    }

    /// - Throws: an error when the bytes are not exactly one whole value.
    static func decode<Value: Decodable>(
        _: Value.Type = Value.self, from bytes: UnsafeRawBufferPointer
    ) throws(MalformedBytes) -> Value {
        let decoder = BinaryDecoder(bytes)
        // An error of the types themselves (DecodingError, for a raw value without a case) adds no information.
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
    /// Called for a part of `Encoder` that the format does not support, and that cannot throw an error.
    var isUnsupported = false
    /// Whether the value that is being written has requested a container, which has to be ended after it.
    private var isInContainer = false

    let codingPath: [any CodingKey] = []
    let userInfo: [CodingUserInfoKey: Any] = [:]

    func encode<Value: Encodable>(_ value: Value) throws {
        switch value {
        // An empty array of any type can be cast to any other array type.
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

    /// Begins an entry of a value with properties.
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

    /// One generic method replaces the methods for each type that `KeyedEncodingContainerProtocol` requires.
    private struct Keyed<Key: CodingKey>: KeyedEncodingContainerProtocol {
        let encoder: BinaryEncoder
        let codingPath: [any CodingKey] = []

        func encode<Value: Encodable>(_ value: Value, forKey key: Key) throws {
            encoder.begin(key)
            try encoder.encode(value)
        }

        /// The payload of an enum. It ends with the enum, so it needs no separate end.
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

    /// - Parameter bytes: the bytes, which must stay valid as long as the decoder is used.
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

    /// The name of the next entry; `nil` at the end of the entries.
    fileprivate func nextKey() -> String? {
        var ahead = reader
        guard let length = try? ahead.integer(UInt8.self), length > 0, let name = try? ahead.take(Int(length)) else {
            return nil
        }
        return String(validating: name, as: UTF8.self)
    }

    /// Skips the name of an entry.
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

        /// The case of an enum, which is the name of its only entry.
        var allKeys: [Key] { decoder.nextKey().flatMap(Key.init(stringValue:)).map { [$0] } ?? [] }

        /// Properties are read in the order in which they were written, so an entry is either the next one or absent.
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
        /// The count is unknown until the end, so that no memory is reserved for elements that may not exist.
        let count: Int? = nil
        private(set) var currentIndex = 0

        init(decoder: BinaryDecoder) { self.decoder = decoder }

        /// This is also true when the bytes end too early; reading the missing end then fails.
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
