import CJansson
import DTLSEngine
import Primitives

/// What an authorizer has answered.
struct Verdict: Equatable {
    /// That of the question.
    var id: UInt64
    var answer: AuthorizationAnswer
    /// How long it holds for the same question; zero: not at all.
    var lifetime = Duration.zero

    /// A datagram that is no answer.
    struct Malformed: Error, Equatable {
        /// The question that it seems to be about; `nil` where it does not say.
        var id: UInt64?
        /// What is wrong, and what was expected.
        var message: String
    }

    /// Bytes of the longest datagram that is read.
    static let maximumSize = 16 * 1_024
    static let longestLabel = 64
    fileprivate static let longestReason = 200

    /// Has Jansson choose its secret for hash tables now, since it reads /dev/urandom for it.
    static func prepareReading() { json_object_seed(0) }
}

extension Verdict {
    /// - Parameter bytes: JSON, as docs/authorization.md describes it.
    init(_ bytes: UnsafeRawBufferPointer) throws(Malformed) {
        guard bytes.count <= Self.maximumSize else {
            throw Malformed(message: "it has \(bytes.count) bytes; expected at most \(Self.maximumSize)")
        }
        var fault = json_error_t()
        guard
            let root = json_loadb(
                bytes.bindMemory(to: CChar.self).baseAddress, bytes.count, Int(JSON_REJECT_DUPLICATES), &fault)
        else { throw Malformed(message: "it is no JSON; expected an object") }
        defer { json_decref(root) }
        guard root.pointee.type == JSON_OBJECT else { throw Malformed(message: "expected a JSON object") }
        try self.init(Members(object: root))
    }

    private init(_ members: Members) throws(Malformed) {
        guard let text = try members.string("id", about: nil), text.utf8.count == 16, let id = UInt64(text, radix: 16)
        else {
            throw Malformed(message: "\"id\": expected that of the question, 16 hexadecimal digits")
        }
        self.id = id
        guard let allow = try members.bool("allow", about: id) else {
            throw Malformed(id: id, message: "\"allow\" is missing; expected true or false")
        }
        lifetime = try members.seconds("ttl", about: id) ?? .zero
        guard allow else {
            let reason = try members.string("reason", about: id).map {
                ": " + Printable.quoted($0, limit: Self.longestReason)
            }
            answer = .refused(reason: "the authorizer has refused the client" + (reason ?? ""))
            return
        }
        let label = try members.string("label", about: id)
        if let label, !Self.isLabel(label) {
            throw Malformed(
                id: id,
                message: "\"label\": expected 1 to \(Self.longestLabel) bytes of text without control characters")
        }
        answer = .allowed(key: try members.key(about: id), label: label)
    }

    private static func isLabel(_ text: String) -> Bool {
        (1...longestLabel).contains(text.utf8.count) && text.utf8.allSatisfy { $0 >= 0x20 && $0 != 0x7f }
    }
}

/// The members of a JSON object. One that is null counts as missing.
private struct Members {
    let object: UnsafeMutablePointer<json_t>

    private func value(_ name: String) -> UnsafeMutablePointer<json_t>? {
        guard let value = json_object_get(object, name), value.pointee.type != JSON_NULL else { return nil }
        return value
    }

    func string(_ name: String, about id: UInt64?) throws(Verdict.Malformed) -> String? {
        guard let value = value(name) else { return nil }
        guard value.pointee.type == JSON_STRING, let start = json_string_value(value) else {
            throw Verdict.Malformed(id: id, message: "\"\(name)\": expected a string")
        }
        let bytes = UnsafeRawBufferPointer(start: start, count: json_string_length(value))
        return String(decoding: bytes, as: UTF8.self)
    }

    func bool(_ name: String, about id: UInt64?) throws(Verdict.Malformed) -> Bool? {
        guard let value = value(name) else { return nil }
        switch value.pointee.type {
        case JSON_TRUE: return true
        case JSON_FALSE: return false
        default: throw Verdict.Malformed(id: id, message: "\"\(name)\": expected true or false")
        }
    }

    func seconds(_ name: String, about id: UInt64?) throws(Verdict.Malformed) -> Duration? {
        guard let value = value(name) else { return nil }
        let isNumber = value.pointee.type == JSON_INTEGER || value.pointee.type == JSON_REAL
        let seconds = isNumber ? json_number_value(value) : -1
        guard seconds >= 0 else {
            throw Verdict.Malformed(id: id, message: "\"\(name)\": expected a number of seconds, 0 or more")
        }
        // Nothing is kept that long.
        return .milliseconds(Int64(min(seconds, 1_000_000) * 1_000))
    }

    func key(about id: UInt64?) throws(Verdict.Malformed) -> [UInt8]? {
        guard let text = try string("key", about: id) else { return nil }
        guard let key = Hexadecimal.bytes(Array(text.utf8)), (1...PresharedKeys.maximumKeyLength).contains(key.count)
        else {
            throw Verdict.Malformed(
                id: id,
                message: "\"key\": expected 1 to \(PresharedKeys.maximumKeyLength) bytes as hexadecimal digits")
        }
        return key
    }
}
