import Primitives

/// When files that have changed are read again. It has no clock.
///
/// Who replaces a certificate and its key writes two files, and who copies one writes it piece by piece. So a change waits
/// until there has been none for a while, but not for ever; and reloads keep a distance, whatever goes on in the folders.
struct ReloadPacing {
    /// Without a change, after which the files are taken for complete.
    static let quiet = Duration.seconds(1)
    /// The longest time from the first change to the reload.
    static let longestWait = Duration.seconds(10)
    /// From one reload to the next.
    static let interval = Duration.seconds(10)

    private var firstChange: Instant?
    private var lastChange = Instant.distantPast
    private var earliest = Instant.distantPast

    mutating func noteChange(now: Instant) {
        if firstChange == nil { firstChange = now }
        lastChange = now
    }

    /// When the files are to be read; `nil` where nothing has changed.
    var due: Instant? {
        firstChange.map { max(min(lastChange + Self.quiet, $0 + Self.longestWait), earliest) }
    }

    /// The files are read now.
    mutating func begin(now: Instant) {
        firstChange = nil
        earliest = now + Self.interval
    }
}
