import DTLSEngine

/// The memory that messages waiting for backends take in one worker; all its connections share it.
final class PendingBudget {
    /// Bytes: whatever the clients of all connections send, a worker keeps no more for backends that are slow.
    static let maximum = 16 << 20
    fileprivate(set) var used = 0
}

/// Messages that a queue had no room for, a connection's to its backend for example, in their order. What is over a
/// bound is left out, as it would be on the wire.
struct PendingQueue: ~Copyable {
    private var messages: [[UInt8]] = []
    private var bytes = 0
    private let budget: PendingBudget
    private let maximumCount: Int
    private let maximumBytes: Int

    /// - Parameter maximumBytes: by default as many as leave in one go.
    init(_ budget: PendingBudget, maximumCount: Int = 64, maximumBytes: Int = Outbox.byteCapacity) {
        self.budget = budget
        self.maximumCount = maximumCount
        self.maximumBytes = maximumBytes
    }

    deinit { budget.used -= bytes }

    var isEmpty: Bool { messages.isEmpty }
    var count: Int { messages.count }

    /// - Returns: false when there was no room.
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

    /// Keeps what an outbox has, from its message number `first` on.
    /// - Returns: how many there was no room for.
    mutating func append(_ outbox: Outbox, from first: Int) -> Int {
        var refused = 0
        outbox.withDatagrams { bytes, sizes in
            var offset = 0
            for (index, size) in sizes.enumerated() {
                defer { offset += size }
                guard index >= first else { continue }
                if !append(UnsafeRawBufferPointer(rebasing: bytes[offset..<(offset + size)])) { refused += 1 }
            }
        }
        return refused
    }

    /// Puts all of them into an empty outbox; they stay until they are removed.
    func copy(to outbox: Outbox) {
        for message in messages { message.withUnsafeBytes { _ = outbox.append($0) } }
    }

    /// Gives them out in their order; they stay until they are removed.
    func readAll(_ body: (UnsafeRawBufferPointer) -> Void) {
        for message in messages { message.withUnsafeBytes(body) }
    }

    /// Gives them out in their order, and removes each that `body` is done with, as far as the first that it is not.
    mutating func removeWhile(_ body: (UnsafeRawBufferPointer) -> Bool) {
        removeFirst(messages.firstIndex { !$0.withUnsafeBytes(body) } ?? messages.count)
    }

    /// Removes the oldest.
    mutating func removeFirst(_ count: Int) {
        let done = messages.prefix(count)
        let size = done.reduce(0) { $0 + $1.count }
        bytes -= size
        budget.used -= size
        messages.removeFirst(done.count)
    }

    mutating func removeAll() { removeFirst(messages.count) }
}
