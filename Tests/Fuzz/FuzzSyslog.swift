// Built by scripts/fuzz together with SyslogMessage.swift, in one module.

/// Any datagram is taken apart into messages, and any message into parts that lie in it, in their order.
@_cdecl("LLVMFuzzerTestOneInput")
func fuzzSyslog(_ bytes: UnsafePointer<UInt8>?, _ count: Int) -> Int32 {
    let datagram = UnsafeRawBufferPointer(start: bytes, count: count)
    var end = datagram.baseAddress
    SyslogFrames.each(of: datagram) { message in
        guard !message.isEmpty || count > 0, let start = message.baseAddress, let before = end, start >= before else {
            fatalError("a message that is not where it should be")
        }
        end = start + message.count
        check(SyslogMessage(message), within: message)
    }
    guard count == 0 || end.map({ $0 <= datagram.baseAddress.map { $0 + count } ?? $0 }) ?? false else {
        fatalError("messages beyond the end")
    }
    check(SyslogMessage(datagram), within: datagram)
    return 0
}

private func check(_ message: SyslogMessage, within bytes: UnsafeRawBufferPointer) {
    guard message.facility < 24, message.severity < 8, message.whole.count <= bytes.count else {
        fatalError("out of range")
    }
    let parts = [
        message.timestamp, message.hostname, message.identifier, message.processID, message.messageID,
        message.structuredData, message.text,
    ]
    var place = message.whole.baseAddress
    for case let part? in parts where !part.isEmpty {
        guard let start = part.baseAddress, let before = place, start >= before else { fatalError("parts overlap") }
        place = start + part.count
    }
    guard let place, let start = message.whole.baseAddress else { return }
    if place > start + message.whole.count { fatalError("a part beyond the end") }
    // The text is all that the header leaves.
    if !message.text.isEmpty, place != start + message.whole.count { fatalError("something is left over") }
}
