import Primitives

/// What a ``Connection`` counts while datagrams pass.
package enum TrafficCounter: Int, CaseIterable, Sendable {
    /// Datagrams that the connections' sockets have yielded, or that were passed on to them, and their bytes.
    case datagramsReceived
    case datagramBytesReceived
    /// Datagrams that the kernel has taken, and the bytes of all that were given to it.
    case datagramsSent
    case datagramBytesSent
    /// Messages, and their bytes: application data alone.
    case messagesReceived
    case messageBytesReceived
    case messagesSent
    case messageBytesSent
    /// Flights of handshakes that were sent again.
    case flightsRetransmitted
    /// Datagrams that the kernel has not taken, and messages that were dropped for a re-handshake.
    case unsent
    /// Messages that were larger than the peer or the path takes.
    case tooLarge
}

/// A place where the connections of one service or client count: one word for each ``TrafficCounter``, in their order,
/// which others may read at any time.
///
/// A counter costs the path of a datagram an addition to memory.
package struct TrafficCounters {
    private let words: UnsafeMutableRawPointer

    /// - Parameter words: a word of 8 bytes for each ``TrafficCounter``, 8-byte aligned. They outlive all connections that
    ///   count there.
    package init(_ words: UnsafeMutableRawPointer) { self.words = words }

    /// Where connections count that nobody asks: all of a process in the same place, which is never freed.
    package static nonisolated(unsafe) let ignored: TrafficCounters = {
        let count = TrafficCounter.allCases.count * 8
        let words = UnsafeMutableRawPointer.allocate(byteCount: count, alignment: 8)
        words.initializeMemory(as: UInt8.self, repeating: 0, count: count)
        return TrafficCounters(words)
    }()

    @inline(__always)
    package func add(_ number: Int, _ counter: TrafficCounter) {
        SharedWord.add(UInt64(truncatingIfNeeded: number), to: words + 8 * counter.rawValue)
    }

    package subscript(counter: TrafficCounter) -> UInt64 { SharedWord.loadRelaxed(words + 8 * counter.rawValue) }
}
