#if canImport(FoundationEssentials)
    import FoundationEssentials
#else
    import Foundation
#endif

/// The protocol of the daemon's control socket (docs/control-protocol.md): one JSON object a line in each direction, and
/// one answer for each request, in order.
///
/// This module has no I/O. It is the only one that the daemon needs a JSON coder for, and hides it: requests and answers
/// are bytes on the one side and values on the other.
package enum ControlProtocol {
    /// The version of requests and answers. It changes where a program that was written for the former one would fail;
    /// commands, arguments and fields that are added do not change it.
    package static let version = 1
    /// Bytes of the longest request, without its line feed.
    package static let maximumRequestBytes = 65_536
    /// Bytes of the longest answer that a client has to expect, without its line feed.
    package static let maximumAnswerBytes = 16_777_216
    /// Where the socket is with the units of the package.
    package static let defaultPath = "/run/dtlsd/control.sock"
    /// The environment variable that names another path to the tool.
    package static let pathVariable = "DTLSD_CONTROL"

    /// The JSON of a value on one line, without the line feed. Keys are in order, so that the same value has the same
    /// bytes.
    package static func encode(_ value: some Encodable) throws -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        return [UInt8](try encoder.encode(value))
    }

    /// Reads a line.
    /// - Throws: an error that ``describe(_:)`` puts in words.
    package static func decode<Value: Decodable>(_ type: Value.Type, from line: [UInt8]) throws -> Value {
        // Foundation guesses UTF-16 and UTF-32 by zeros, of which no JSON in UTF-8 has any.
        guard !line.contains(0) else { throw InvalidRequest("it has a zero byte") }
        return try JSONDecoder().decode(type, from: Data(line))
    }

    /// The answer to a line that came over the control socket, where it is no request: the error that the client is
    /// sent.
    package static func request(from line: [UInt8]) -> Result<ControlRequest, RefusedRequest> {
        let envelope: RequestEnvelope
        do {
            envelope = try decode(RequestEnvelope.self, from: line)
        } catch {
            return .failure(
                RefusedRequest(error: ControlError(.badRequest, "The request cannot be read: \(describe(error)).")))
        }
        guard envelope.version == version else {
            return .failure(
                RefusedRequest(
                    id: envelope.id,
                    error: ControlError(
                        .unsupportedVersion,
                        "The daemon speaks version \(version) of the control protocol, and the request has version"
                            + " \(envelope.version).")))
        }
        guard ControlCommand.Name(rawValue: envelope.command) != nil else {
            let known = ControlCommand.Name.allCases.map(\.rawValue).joined(separator: ", ")
            return .failure(
                RefusedRequest(
                    id: envelope.id,
                    error: ControlError(
                        .unknownCommand,
                        "There is no command \(quoted(envelope.command)); the commands are \(known).")))
        }
        do {
            return .success(try decode(ControlRequest.self, from: line))
        } catch {
            return .failure(
                RefusedRequest(
                    id: envelope.id,
                    error: ControlError(.badRequest, "The request cannot be read: \(describe(error)).")))
        }
    }

    /// What is wrong with a line, in words for the client: nothing of it is repeated but keys and short values.
    package static func describe(_ error: any Error) -> String {
        if let invalid = error as? InvalidRequest { return invalid.text }
        guard let error = error as? DecodingError else { return "it is not valid JSON" }
        let (text, path) =
            switch error {
            case .dataCorrupted(let context):
                context.codingPath.isEmpty
                    ? ("it is not valid JSON", []) : ("the value is out of range", context.codingPath)
            case .keyNotFound(let key, let context): ("\(quoted(key.stringValue)) is missing", context.codingPath)
            case .typeMismatch(let type, let context):
                ("the value is not \(name(of: type))", context.codingPath)
            case .valueNotFound(_, let context): ("the value is null", context.codingPath)
            @unknown default: ("it is not valid JSON", [])
            }
        let place = path.map(\.stringValue).joined(separator: ".")
        return place.isEmpty ? text : "\(quoted(place)): \(text)"
    }

    private static func name(of type: Any.Type) -> String {
        switch type {
        case is String.Type: "a string"
        case is Bool.Type: "true or false"
        case is any BinaryInteger.Type: "a whole number"
        case is any BinaryFloatingPoint.Type: "a number"
        default: "what is expected there"
        }
    }

    /// A part of a request, for a message: at most 64 characters, and none that does something to a terminal.
    package static func quoted(_ text: String) -> String {
        let printable = text.unicodeScalars.prefix(64).map {
            $0.properties.generalCategory == .control || $0.properties.generalCategory == .format ? "?" : String($0)
        }
        return "'" + printable.joined() + (text.unicodeScalars.count > 64 ? "…'" : "'")
    }
}

/// What every request has, to be read before the arguments of the command are.
private struct RequestEnvelope: Decodable {
    let version: Int
    let command: String
    let id: RequestID?
}

/// A line that is no request, and what its sender is answered.
package struct RefusedRequest: Error, Equatable {
    package var id: RequestID?
    package var error: ControlError
}

/// What is wrong with a request whose JSON is valid.
struct InvalidRequest: Error {
    let text: String

    init(_ text: String) { self.text = text }
}
