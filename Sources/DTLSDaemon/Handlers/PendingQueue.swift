import DTLSEngine

/// How much memory the messages that wait take in one worker; all its connections share this budget.
final class PendingBudget {
    /// Bytes. Whatever the clients of all connections send, a worker keeps no more for backends that are slow.
    static let maximum = 16 << 20
    fileprivate(set) var used = 0
}

/// Messages that wait in their order until the other side has room for them, a backend for example. What exceeds a bound
/// is dropped, as it would be on the wire.
struct PendingQueue: ~Copyable {
    private var messages: [[UInt8]] = []
    private var bytes = 0
    private let budget: PendingBudget
    private let maximumCount: Int
    private let maximumBytes: Int

    /// - Parameters:
    ///   - maximumCount: the most messages that wait.
    ///   - maximumBytes: the most bytes that wait; by default as many as one batch holds.
    init(_ budget: PendingBudget, maximumCount: Int = 64, maximumBytes: Int = Outbox.byteCapacity) {
        self.budget = budget
        self.maximumCount = maximumCount
        self.maximumBytes = maximumBytes
    }

    deinit { budget.used -= bytes }

    var isEmpty: Bool { messages.isEmpty }
    var count: Int { messages.count }

    /// - Returns: false where there is no room.
    mutating func append(_ message: UnsafeRawBufferPointer) -> Bool {
        let size = message.count
        guard messages.count < maximumCount, size <= maximumBytes - bytes,
            size <= PendingBudget.maximum - budget.used
        else { return false }
        messages.append([UInt8](message))
        bytes += size
        budget.used += size
        return true
    }

    /// Keeps the messages of a batch, from its message number `first` on.
    /// - Returns: how many there was no room for.
    mutating func append(_ batch: borrowing OutgoingBatch, from first: Int) -> Int {
        var dropped = 0
        batch.withMessages { bytes, sizes in
            var offset = 0
            for (index, size) in sizes.enumerated() {
                defer { offset += size }
                guard index >= first else { continue }
                if !append(UnsafeRawBufferPointer(rebasing: bytes[offset..<(offset + size)])) { dropped += 1 }
            }
        }
        return dropped
    }

    /// Puts all messages into an empty batch; they stay until they are removed.
    func copy(to batch: borrowing OutgoingBatch) {
        for message in messages { message.withUnsafeBytes { _ = batch.append($0) } }
    }

    /// Calls `body` with each message in order; they stay until they are removed.
    func readAll(_ body: (UnsafeRawBufferPointer) -> Void) {
        for message in messages { message.withUnsafeBytes(body) }
    }

    /// Calls `body` with each message in order, and removes those before the first for which it returns false.
    mutating func removeWhile(_ body: (UnsafeRawBufferPointer) -> Bool) {
        removeFirst(messages.firstIndex { !$0.withUnsafeBytes(body) } ?? messages.count)
    }

    /// Removes the oldest `count` messages, or all where there are fewer.
    mutating func removeFirst(_ count: Int) {
        let done = messages.prefix(count)
        let size = done.reduce(0) { $0 + $1.count }
        bytes -= size
        budget.used -= size
        messages.removeFirst(done.count)
    }

    mutating func removeAll() { removeFirst(messages.count) }
}
