import Testing

@testable import DTLSDaemon

/// What one client has sent never reaches another client's backend, whatever its handler forgets to do.
@Suite struct OutgoingBatchTests {
    private let memory = BatchMemory()

    /// A batch as an object: #expect cannot call a noncopyable value.
    private final class Batch {
        private let value: OutgoingBatch
        init(_ memory: BatchMemory) { value = memory.makeBatch() }
        func append(_ text: String) { Array(text.utf8).withUnsafeBytes { _ = value.append($0) } }
        func append(_ head: String, _ text: String) {
            Array(head.utf8).withUnsafeBytes { head in
                Array(text.utf8).withUnsafeBytes { _ = value.append(head, $0) }
            }
        }
        func removeAll() { value.removeAll() }
        var isEmpty: Bool { value.isEmpty }
        var isFilling: Bool { value.isFilling }
        var messages: [String] {
            value.withMessages { bytes, sizes in
                var offset = 0
                return sizes.map { size in
                    defer { offset += size }
                    return String(decoding: bytes[offset..<(offset + size)], as: UTF8.self)
                }
            }
        }
    }

    @Test func `a batch begins empty and holds what was appended in its order`() {
        let batch = Batch(memory)
        #expect(batch.isEmpty && batch.messages.isEmpty)
        batch.append("one")
        batch.append("two-", "parts")
        batch.append("", "three")
        #expect(batch.messages == ["one", "two-parts", "three"])
        batch.removeAll()
        #expect(batch.isEmpty && batch.messages.isEmpty)
        #expect(memory.dropped == 0)
    }

    @Test func `messages that a connection forgets in the middle of a batch never leave with the next one's`() {
        let one = Batch(memory)
        let other = Batch(memory)
        one.append("a secret of one")
        one.append("another one")
        #expect(other.isEmpty && other.messages.isEmpty)
        other.append("hello")
        #expect(other.messages == ["hello"])
        #expect(one.isEmpty && one.messages.isEmpty)
        #expect(memory.dropped == 2)
    }

    @Test func `a batch that was interrupted goes on without what the other one holds`() {
        let one = Batch(memory)
        let other = Batch(memory)
        one.append("lost")
        other.append("other's")
        one.append("later")
        #expect(one.messages == ["later"])
        #expect(other.messages.isEmpty)
    }

    @Test func `a connection that ends in the middle of a batch leaves nothing behind`() {
        // Objects that are made and destroyed in turn mostly get the same address.
        for _ in 0..<100 {
            let one = Batch(memory)
            #expect(one.messages.isEmpty)
            one.append("a secret")
            #expect(one.messages == ["a secret"])
        }
        #expect(memory.dropped == 0)
    }

    /// The new handler is made, and may have begun its batch, before the old one is destroyed.
    @Test func `the end of the connection before a re-handshake does not take the new one's messages along`() {
        var before: Batch? = Batch(memory)
        before?.append("of the life before")
        let after = Batch(memory)
        after.append("new")
        before?.removeAll()
        #expect(after.messages == ["new"])
        before = nil
        #expect(after.messages == ["new"])
    }

    @Test func `a batch that is made meanwhile disturbs none`() {
        let one = Batch(memory)
        one.append("hello")
        let other = Batch(memory)
        #expect(other.isEmpty && !other.isFilling)
        other.removeAll()
        #expect(one.messages == ["hello"])
    }

    @Test func `a batch is filling at more than half of the memory and only for its owner`() {
        let one = Batch(memory)
        let other = Batch(memory)
        for _ in 0..<257 { one.append("x") }
        #expect(one.isFilling && !other.isFilling)
        other.append("y")
        #expect(!one.isFilling && !other.isFilling)
    }
}
