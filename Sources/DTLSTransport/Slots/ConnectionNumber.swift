/// The number of a connection, unique among all connections of the daemon: whose slot it is, and the how many-th
/// connection the slot holds.
///
/// A message between the processes that names a connection which has ended is thereby told from one that names the
/// connection that has the slot now.
package struct ConnectionNumber: Hashable, Sendable, RawRepresentable {
    /// The number in one piece, as messages carry it.
    package let rawValue: UInt64

    package init(rawValue: UInt64) { self.rawValue = rawValue }

    /// - Parameters:
    ///   - worker: the number of the worker, 0 to 65,535.
    ///   - slot: the index of the slot in the worker's ``SlotFile``, below ``SlotFile/maximumCapacity``.
    ///   - generation: how often the slot has been taken; the lower 24 bits count.
    package init(worker: Int, slot: Int, generation: UInt32) {
        rawValue =
            UInt64(truncatingIfNeeded: generation & 0xff_ffff) << 40 | UInt64(truncatingIfNeeded: slot & 0xff_ffff)
            << 16
            | UInt64(truncatingIfNeeded: worker & 0xffff)
    }

    package var worker: Int { Int(rawValue & 0xffff) }
    package var slot: Int { Int(rawValue >> 16 & 0xff_ffff) }
    package var generation: UInt32 { UInt32(truncatingIfNeeded: rawValue >> 40) }
}
