import Primitives

/// A point in time of a test, as nanoseconds from the clock's start.
package func at(_ nanoseconds: UInt64) -> Instant { Instant(nanoseconds: nanoseconds) }
