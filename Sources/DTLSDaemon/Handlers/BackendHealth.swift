/// Whether a service's backend takes datagrams, as far as one worker has seen: so that a burst of refusals is one line
/// in the log.
struct BackendHealth {
    private(set) var isRefusing = false
    private(set) var refusals: UInt64 = 0

    /// - Returns: whether this refusal begins a burst.
    mutating func refused() -> Bool {
        refusals &+= 1
        defer { isRefusing = true }
        return !isRefusing
    }

    /// - Returns: how many refusals the burst had that has ended now, or `nil` when there was none.
    mutating func answered() -> UInt64? {
        guard isRefusing else { return nil }
        defer {
            isRefusing = false
            refusals = 0
        }
        return refusals
    }
}
