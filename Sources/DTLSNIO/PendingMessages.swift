#if NIO
    import NIOCore

    /// Messages that were written and cannot leave yet: they were not flushed, or the handshake goes on.
    struct PendingMessages {
        typealias Item = (message: ByteBuffer, promise: EventLoopPromise<Void>?)

        private var items = MarkedCircularBuffer<Item>(initialCapacity: 4)

        mutating func append(_ message: ByteBuffer, _ promise: EventLoopPromise<Void>?) {
            items.append((message, promise))
        }

        /// All that was appended may leave.
        mutating func flush() { items.mark() }

        /// The next message that may leave.
        mutating func next() -> Item? { items.hasMark ? items.popFirst() : nil }

        /// Fails all. A promise's callbacks may write again: what they write is not among these.
        mutating func takeAll() -> [Item] {
            defer { items = MarkedCircularBuffer(initialCapacity: 0) }
            return Array(items)
        }
    }

    extension [PendingMessages.Item] {
        func fail(_ error: any Error) { for item in self { item.promise?.fail(error) } }
    }
#endif
