// Built by scripts/fuzz, together with the files of DTLSDaemon whose parsers it calls.

import DTLSEngine
import DTLSTransport
import LinuxSystem
import Primitives

/// A value with all that a configuration is made of.
private struct Sample: Codable {
    var backends: NonEmpty<Backend>
    var level: LogLevel?
    var tickets: TicketConfiguration
    var tls: ServerSettings
    var numbers: [UInt16]
    var names: [String]
    var isSet: Bool
}

/// What a process of the daemon may be sent by another one that somebody else controls: a worker and the main process by
/// their channel, a successor, the resolver and the checker by theirs, and anybody by the loader's values. And what the
/// service manager keeps, which an earlier version has written. No bytes may end the reader, or have it read what is not
/// there.
///
/// The first byte of the input names the parser.
@_cdecl("LLVMFuzzerTestOneInput")
func fuzzMessages(_ bytes: UnsafePointer<UInt8>?, _ count: Int) -> Int32 {
    let input = UnsafeRawBufferPointer(start: bytes, count: count)
    guard let parser = input.first else { return 0 }
    let message = UnsafeRawBufferPointer(rebasing: input.dropFirst())
    switch parser & 15 {
    case 0: _ = try? MessageFromWorker(decoding: message)
    case 1: _ = try? MessageToWorker(decoding: message)
    case 2: check(message, { try? MessageToSuccessor(decoding: $0) }, \.bytes)
    case 3: check(message, { try? MessageFromSuccessor(decoding: $0) }, \.bytes)
    case 4: check(message, { try? LookUpQuestion(decoding: $0) }, { $0.encode() })
    case 5: check(message, { try? LookUpAnswer(decoding: $0) }, { $0.encode() })
    case 6: check(message, { try? GeneratedTicketKeys(decoding: $0) }, { $0.encode() })
    case 8: checkExactly(CheckQuestion.self, message)
    case 9: checkExactly(CheckAnswer.self, message)
    case 10: readNames(message)
    case 11: compare(message)
    default: checkExactly(Sample.self, message)
    }
    return 0
}

/// What was understood is written in a form that is understood in the same way.
private func check<Message: Equatable>(
    _ bytes: UnsafeRawBufferPointer, _ decode: (UnsafeRawBufferPointer) -> Message?, _ encode: (Message) -> [UInt8]
) {
    guard let message = decode(bytes) else { return }
    guard encode(message).withUnsafeBytes({ decode($0) }) == message else {
        fatalError("\(message) is something else once it is written and read")
    }
}

/// The format has one form for each value, so what was understood is written as it was.
private func checkExactly<Value: Codable>(_: Value.Type, _ bytes: UnsafeRawBufferPointer) {
    guard let value: Value = try? BinaryCoding.decode(from: bytes) else { return }
    guard BinaryCoding.encode(value).elementsEqual(bytes) else {
        fatalError("\(Value.self) has another form than it was read from")
    }
}

/// Addresses of names, with the sum that stands at their end.
private func readNames(_ message: UnsafeRawBufferPointer) {
    var writer = ByteWriter()
    for byte in message { writer.integer(byte) }
    writer.integer(FNV1a.hash(message))
    _ = writer.bytes.withUnsafeBytes { try? NameTable.decode($0) }
}

/// What a backend answers, with what it is to answer: a text up to the first NUL.
private func compare(_ message: UnsafeRawBufferPointer) {
    let parts = message.split(separator: 0, maxSplits: 1, omittingEmptySubsequences: false)
    guard parts.count == 2, let pattern = try? BytePattern(String(decoding: parts[0], as: UTF8.self)) else { return }
    let matches = pattern.matches(parts[1])
    // A text without wildcards is itself alone.
    if !parts[0].contains(UInt8(ascii: "*")), !parts[0].contains(UInt8(ascii: "\\")) {
        guard matches == String(decoding: parts[0], as: UTF8.self).utf8.elementsEqual(parts[1]) else {
            fatalError("another text")
        }
    }
}
