import Synchronization

/// A 64-bit word in memory that several processes share, or that another process reads once this one has died.
///
/// Stores take effect in the order in which they are written: what was stored before, also by ordinary stores, is in
/// memory once a later ``store(_:_:)`` is.
public enum SharedWord {
    /// - Parameter pointer: 8-byte aligned.
    @inline(__always)
    public static func load(_ pointer: UnsafeRawPointer) -> UInt64 {
        pointer.assumingMemoryBound(to: Atomic<UInt64>.self).pointee.load(ordering: .acquiring)
    }

    /// - Parameter pointer: 8-byte aligned.
    @inline(__always)
    public static func store(_ value: UInt64, _ pointer: UnsafeMutableRawPointer) {
        pointer.assumingMemoryBound(to: Atomic<UInt64>.self).pointee.store(value, ordering: .releasing)
    }

    /// The value at some moment, whatever other memory holds by then: for a counter.
    /// - Parameter pointer: 8-byte aligned.
    @inline(__always)
    public static func loadRelaxed(_ pointer: UnsafeRawPointer) -> UInt64 {
        pointer.assumingMemoryBound(to: Atomic<UInt64>.self).pointee.load(ordering: .relaxed)
    }

    /// - Parameter pointer: 8-byte aligned.
    @inline(__always)
    public static func storeRelaxed(_ value: UInt64, _ pointer: UnsafeMutableRawPointer) {
        pointer.assumingMemoryBound(to: Atomic<UInt64>.self).pointee.store(value, ordering: .relaxed)
    }

    /// Adds to a word that no other thread or process writes. A reader finds the sum or the value before it, never a part
    /// of either. It costs what an addition to ordinary memory costs.
    /// - Parameter pointer: 8-byte aligned.
    @inline(__always)
    public static func add(_ number: UInt64, to pointer: UnsafeMutableRawPointer) {
        storeRelaxed(loadRelaxed(pointer) &+ number, pointer)
    }

    /// Replaces one value by another.
    /// - Parameter pointer: 8-byte aligned.
    /// - Returns: whether the word had the expected value; it keeps any other one.
    public static func exchange(_ expected: UInt64, _ value: UInt64, in pointer: UnsafeMutableRawPointer) -> Bool {
        pointer.assumingMemoryBound(to: Atomic<UInt64>.self).pointee
            .compareExchange(expected: expected, desired: value, ordering: .acquiringAndReleasing).exchanged
    }

    /// Keeps the accesses to memory on both sides of it in their order.
    @inline(__always)
    public static func fence() { atomicMemoryFence(ordering: .acquiringAndReleasing) }
}
