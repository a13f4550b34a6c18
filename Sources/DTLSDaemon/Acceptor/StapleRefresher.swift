import Glibc
import LinuxSystem
import Logging
import Primitives

/// Whose OCSP responses are kept.
protocol StapleRefresherDelegate: AnyObject {
    /// The configuration in force with the file that it came from; `nil` while another one is being taken.
    var refreshable: (file: String, configuration: Configuration)? { get }
    /// The configuration in force, with other OCSP responses.
    func take(refreshed: Configuration) throws
}

/// Takes OCSP responses up again when their files change or they run out, and nothing else of the configuration: its
/// operator may be half-way through editing it.
///
/// The loader's process has set the watches up before it read the files, so no change is missed; this one, which must
/// not wait for a file system, only reads what they tell.
final class StapleRefresher: EventHandler {
    private let environment: [String: String]
    private let loop: EventLoop
    private let logger: Logger
    private unowned let delegate: any StapleRefresherDelegate
    private(set) var watcher: FileWatcher?
    private var registration: EventLoop.Registration?
    /// Armed for `due`.
    private var timer: CallbackTimer?
    private var due = Instant.distantFuture
    private var loading: LoaderHandle?
    /// Of the last time that the files were read: what is still so is not said again.
    private var warnings: [ConfigurationProblem] = []

    /// How long the first change waits for the ones that come along with it; a loader is started at most this often.
    private static let patience = Duration.milliseconds(500)
    /// After which what did not succeed is tried again.
    private static let pause = StapleFile.interval
    /// Responses run out by the wall clock, which can be set, and goes on while the machine sleeps: the loop's
    /// does not.
    private static let longestWait = Duration.seconds(3_600)

    init(
        environment: [String: String], loop: EventLoop, logger: Logger, delegate: any StapleRefresherDelegate
    ) {
        self.environment = environment
        self.loop = loop
        self.logger = logger
        self.delegate = delegate
        timer = CallbackTimer { [weak self] _ in self?.refresh() }
    }

    /// Looks after the responses of a new configuration.
    /// - Parameter watcher: `nil`: it has no files, or they cannot be watched.
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
        refresh(in: Self.patience)
    }

    /// Has them read again after a pause where not all are watched, and when the first one runs out.
    private func schedule(_ configuration: Configuration) {
        let isWatched = registration != nil && configuration.staples.allSatisfy(\.isWatched)
        if !configuration.staples.isEmpty, !isWatched { refresh(in: Self.pause) }
        guard let expiry = configuration.nextStapleExpiry else { return }
        let left = UnixTime.now().duration(to: expiry)
        refresh(in: min(max(left, .seconds(1)), Self.longestWait))
    }

    /// Has them read again after this time, or sooner if that was said before.
    private func refresh(in wait: Duration) {
        guard let timer, loop.now + wait < due else { return }
        due = loop.now + wait
        loop.timers.arm(timer, at: due)
    }

    private func refresh() {
        due = .distantFuture
        guard loading == nil, let (file, configuration) = delegate.refreshable else {
            return refresh(in: Self.patience)
        }
        do throws(SystemError) {
            loading = try LoaderHandle(
                file: file, refreshing: configuration, environment: environment, loop: loop
            ) { [weak self] in self?.finish($0, configuration) }
        } catch {
            retry("the loader process cannot start: \(error)")
        }
    }

    private func retry(_ reason: String) {
        logger.log(
            .internalError,
            "OCSP responses cannot be read again; the next try is in \(StapleFile.interval.seconds) s: \(reason)")
        refresh(in: Self.pause)
    }

    func childEnded(_ pid: pid_t, _ ending: ChildProcess.Ending) { loading?.childEnded(pid, ending) }

    private func finish(_ result: LoaderHandle.Result, _ configuration: Configuration) {
        loading = nil
        // Another configuration has come meanwhile, or is about to, if it is not refused.
        guard let present = delegate.refreshable?.configuration, present == configuration else {
            return refresh(in: Self.patience)
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
            try take(refreshed, after: configuration)
            schedule(refreshed)
        } catch {
            retry("the workers cannot be given them: \(error)")
        }
    }

    private func take(_ refreshed: Configuration, after configuration: Configuration) throws {
        guard refreshed.services != configuration.services else { return }
        try delegate.take(refreshed: refreshed)
        logger.log(.staplesReloaded, "OCSP responses have changed: new handshakes get those that are good now")
    }
}
