/// Whether a process answers, by the pings in a row that nothing has followed.
///
/// Silence alone says nothing: while this process is stopped (a paused virtual machine, a debugger), nobody is asked.
struct Heartbeat {
    /// Pings that may go unanswered, one after the other.
    static let patience = 6
    private var unanswered = 0

    /// A ping is sent, some seconds after the last one.
    /// - Returns: true when all of the last ``patience`` pings went unanswered; once in a row.
    mutating func asks() -> Bool {
        defer { unanswered += 1 }
        return unanswered == Self.patience
    }

    /// Something was heard, whatever it was.
    mutating func hears() { unanswered = 0 }
}
