/// Messages that were received and not yet asked for.
struct Inbox {
    private var messages: [[UInt8]] = []
    /// The first message, and how much of it has been read.
    private var next = 0
    private var offset = 0
    private(set) var byteCount = 0

    /// From here on a connection leaves datagrams in its socket.
    private static let byteLimit = 256 * 1_024
    private static let messageLimit = 1_024

    var isEmpty: Bool { next == messages.count }

    var isFull: Bool { byteCount >= Self.byteLimit || messages.count - next >= Self.messageLimit }

    /// All messages, the first one as far as it has not been read.
    var all: [[UInt8]] {
        var inbox = self
        var messages: [[UInt8]] = []
        while let message = inbox.removeFirst() { messages.append(message) }
        return messages
    }

    mutating func append(_ message: UnsafeRawBufferPointer) {
        messages.append([UInt8](message))
        byteCount += message.count
    }

    /// Reads from the first message; what does not fit stays.
    mutating func read(into buffer: UnsafeMutableRawBufferPointer) -> Int {
        guard !isEmpty else { return 0 }
        let message = messages[next]
        let count = min(buffer.count, message.count - offset)
        buffer.copyBytes(from: message[offset..<(offset + count)])
        offset += count
        byteCount -= count
        if offset == message.count { advance() }
        return count
    }

    /// The first message, or what is left of it.
    mutating func removeFirst() -> [UInt8]? {
        guard !isEmpty else { return nil }
        let message = offset == 0 ? messages[next] : Array(messages[next][offset...])
        byteCount -= message.count
        advance()
        return message
    }

    mutating func removeAll() { self = Inbox() }

    private mutating func advance() {
        messages[next] = []
        offset = 0
        next += 1
        if next == messages.count {
            messages.removeAll(keepingCapacity: false)
            next = 0
        } else if next > 1_024 {
            messages.removeFirst(next)
            next = 0
        }
    }
}
