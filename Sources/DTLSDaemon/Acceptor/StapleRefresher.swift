import Glibc
import LinuxSystem
import Logging
import Primitives

/// Reads OCSP responses again when their files change or when they expire, and nothing else of the configuration: its
/// operator may be half-way through editing it.
///
/// The loader has set the watches up before it read the files, so no change is missed. The main process must not wait
/// for a file system, so it only reads the events of the watches.
final class StapleRefresher: TimerTarget, EventHandler {
    private let file: String
    private let environment: [String: String]
    private let loop: EventLoop
    private let logger: Logger
    /// The active configuration; `nil` while another one is being read or distributed.
    var currentConfiguration: () -> Configuration? = { nil }
    /// Gives the workers the active configuration with other OCSP responses.
    var onRefreshed: (Configuration) throws -> Void = { _ in }
    private(set) var watcher: FileWatcher?
    private var registration: EventLoop.Registration?
    private var loader: LoaderHandle?
    /// When the responses are read again.
    private var due = Instant.distantFuture
    /// The warnings of the last time that the files were read. They are not logged again.
    private var warnings: [ConfigurationProblem] = []

    /// The time from the first change until the files are read, since others mostly follow it. A loader is started at
    /// most this often.
    private static let settlingTime = Duration.milliseconds(500)
    /// The pause before a failed attempt is repeated.
    private static let retryInterval = StapleFile.interval
    /// Responses expire by the wall clock, which can be set, and which goes on while the machine sleeps. The clock of
    /// the loop does neither, so the wall clock is looked at this often.
    private static let longestWait = Duration.seconds(3_600)

    /// - Parameter file: the path of the configuration file, for messages.
    init(file: String, environment: [String: String], loop: EventLoop, logger: Logger) {
        self.file = file
        self.environment = environment
        self.loop = loop
        self.logger = logger
        super.init()
    }

    /// Begins to look after the responses of a new configuration.
    /// - Parameter watcher: `nil` when it has no files, or when they cannot be watched.
    func watch(_ configuration: Configuration, with watcher: FileWatcher?) {
        warnings = []
        replaceWatcher(with: watcher)
        schedule(configuration)
    }

    private func replaceWatcher(with watcher: FileWatcher?) {
        if let old = self.watcher, let registration { loop.remove(old.descriptor, registration) }
        (self.watcher, registration) = (watcher, nil)
        guard let watcher else { return }
        do throws(SystemError) {
            registration = try loop.add(watcher.descriptor, .readable, self)
        } catch {
            logger.log(
                .internalError,
                "OCSP responses cannot be watched, and are read again every \(StapleFile.interval.seconds) s: \(error)")
        }
    }

    func ready(_ events: EventLoop.Events) {
        guard (try? watcher?.takeChanges()) == true else { return }
        refresh(in: Self.settlingTime)
    }

    /// Schedules the next reading: after a pause where not all files are watched, and when the first response expires.
    private func schedule(_ configuration: Configuration) {
        let isWatched = registration != nil && configuration.staples.allSatisfy(\.isWatched)
        if !configuration.staples.isEmpty, !isWatched { refresh(in: Self.retryInterval) }
        guard let expiry = configuration.nextStapleExpiry else { return }
        let left = UnixTime.now().duration(to: expiry)
        refresh(in: min(max(left, .seconds(1)), Self.longestWait))
    }

    /// Schedules a reading after this time, unless there is one before.
    private func refresh(in wait: Duration) {
        guard loop.now + wait < due else { return }
        due = loop.now + wait
        loop.timers.arm(self, at: due)
    }

    override func timerFired(now: Instant) {
        due = .distantFuture
        guard loader == nil, let configuration = currentConfiguration() else { return refresh(in: Self.settlingTime) }
        do throws(SystemError) {
            loader = try LoaderHandle(
                file: file, refreshing: configuration, environment: environment, loop: loop
            ) { [weak self] in self?.loaderEnded($0, configuration) }
        } catch {
            retry("the loader process cannot be started: \(error)\(ChildProcess.hint(error))")
        }
    }

    private func retry(_ reason: String) {
        logger.log(
            .internalError,
            "OCSP responses cannot be read again; the next try is in \(StapleFile.interval.seconds) s: \(reason)")
        refresh(in: Self.retryInterval)
    }

    /// Notes that a child process has ended, which may be the loader.
    func childEnded(_ pid: pid_t, _ ending: ChildProcess.Ending) { loader?.childEnded(pid, ending) }

    private func loaderEnded(_ result: LoaderHandle.Result, _ configuration: Configuration) {
        loader = nil
        // Another configuration has become active meanwhile, or is about to, unless it is refused.
        guard let current = currentConfiguration(), current == configuration else {
            return refresh(in: Self.settlingTime)
        }
        guard case .loaded(let refreshed, let watcher) = result else {
            return retry((result.problems ?? []).joined(separator: "; "))
        }
        if let watcher { replaceWatcher(with: watcher) }
        for warning in refreshed.warnings where !warnings.contains(warning) {
            logger.log(.configurationWarning, "\(warning)")
        }
        warnings = refreshed.warnings
        do {
            if refreshed.services != configuration.services {
                try onRefreshed(refreshed)
                logger.log(.staplesReloaded, "OCSP responses have changed: new handshakes get the valid ones")
            }
            schedule(refreshed)
        } catch {
            retry("the workers cannot be given them: \(error)")
        }
    }
}
