import DTLSEngine

/// The memory in which the sockets of one worker gather the messages of a batch, one socket at a time. Each socket has
/// an ``OutgoingBatch`` of its own, which is the only way in and out.
///
/// A batch is complete long before another connection is read, so one piece of memory serves all connections: one per
/// connection would cost 256 KiB each. What one connection's client has sent must never leave over another one's
/// socket. This is not left to the order of calls: the memory knows whose messages it holds, and gives them to nobody
/// else.
final class BatchMemory {
    fileprivate let outbox = Outbox()
    /// The batch whose messages the outbox holds; 0: there are none.
    fileprivate var holder: UInt64 = 0
    /// Batches made so far. A number is never given twice, unlike the address of an object.
    private var batches: UInt64 = 0
    /// Messages that were dropped since another batch began before theirs was sent.
    fileprivate(set) var dropped: UInt64 = 0

    /// An empty batch. Making one does not disturb the batch that is being gathered.
    func makeBatch() -> OutgoingBatch {
        batches += 1
        return OutgoingBatch(self, number: batches)
    }

    /// Makes the outbox that of `batch`, and drops the messages of any other.
    @inline(__always)
    fileprivate func claim(for batch: UInt64) {
        if holder != batch { replaceHolder(by: batch) }
    }

    @inline(never)
    private func replaceHolder(by batch: UInt64) {
        dropped &+= UInt64(outbox.count)
        outbox.removeAll()
        holder = batch
    }

    fileprivate func release(by batch: UInt64) {
        guard holder == batch else { return }
        outbox.removeAll()
        holder = 0
    }
}

/// One socket's lease of the worker's ``BatchMemory``. It holds what was appended to it and nothing else: it begins
/// empty, and is empty again after ``removeAll()``, when another socket's batch has taken the memory over, and when it
/// is destroyed.
struct OutgoingBatch: ~Copyable {
    private let memory: BatchMemory
    private let number: UInt64

    fileprivate init(_ memory: BatchMemory, number: UInt64) {
        self.memory = memory
        self.number = number
    }

    deinit { memory.release(by: number) }

    @inline(__always)
    private var holdsMemory: Bool { memory.holder == number }

    @inline(__always)
    var isEmpty: Bool { count == 0 }

    @inline(__always)
    var count: Int { holdsMemory ? memory.outbox.count : 0 }

    /// Whether more than half of the memory is taken: then the batch is to be sent before more is appended.
    @inline(__always)
    var isFilling: Bool { holdsMemory && memory.outbox.isFilling }

    /// Appends a message that consists of two parts. The first one may be empty.
    /// - Returns: false where there was no room, or nothing to append.
    @inline(__always)
    @discardableResult
    func append(_ head: UnsafeRawBufferPointer, _ rest: UnsafeRawBufferPointer) -> Bool {
        memory.claim(for: number)
        return head.isEmpty ? memory.outbox.append(rest) : memory.outbox.append(head, rest)
    }

    @inline(__always)
    @discardableResult
    func append(_ message: UnsafeRawBufferPointer) -> Bool {
        memory.claim(for: number)
        return memory.outbox.append(message)
    }

    /// The messages' bytes, one after the other, and their sizes; valid during the call.
    @inline(__always)
    func withMessages<Result>(
        _ body: (UnsafeMutableRawBufferPointer, UnsafeBufferPointer<Int>) -> Result
    ) -> Result {
        guard holdsMemory else {
            return body(UnsafeMutableRawBufferPointer(start: nil, count: 0), UnsafeBufferPointer(start: nil, count: 0))
        }
        return memory.outbox.withDatagrams(body)
    }

    /// Gives the memory back.
    func removeAll() { memory.release(by: number) }
}
