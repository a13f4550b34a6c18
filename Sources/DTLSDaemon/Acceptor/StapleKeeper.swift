import Glibc
import LinuxSystem
import Logging

/// Whose OCSP responses are kept.
protocol StapleKeeperDelegate: AnyObject {
    /// The configuration in force with the file that it came from; `nil` while another one is being taken.
    var refreshable: (file: String, configuration: Configuration)? { get }
    /// The configuration in force, with other OCSP responses.
    func take(refreshed: Configuration) throws
}

/// Takes OCSP responses up again when their files change, and nothing else of the configuration: its operator may be
/// half-way through editing it.
///
/// The loader's process has set the watches up before it read the files, so no change is missed; this one, which must
/// not wait for a file system, only reads what they tell.
final class StapleKeeper: EventHandler {
    private let environment: [String: String]
    private let loop: EventLoop
    private let logger: Logger
    private unowned let delegate: any StapleKeeperDelegate
    private var watcher: FileWatcher?
    private var registration: EventLoop.Registration?
    private var timer: CallbackTimer?
    private var loading: Loading?

    /// How long the first change waits for the ones that come along with it, in milliseconds; a loader is started at
    /// most this often.
    private static let patience = 500

    init(
        environment: [String: String], loop: EventLoop, logger: Logger, delegate: any StapleKeeperDelegate
    ) {
        self.environment = environment
        self.loop = loop
        self.logger = logger
        self.delegate = delegate
        timer = CallbackTimer { [weak self] _ in self?.refresh() }
    }

    /// Watches for a new configuration's files; `nil`: it has none.
    func watch(with watcher: FileWatcher?) {
        if let old = self.watcher, let registration { loop.remove(old.descriptor, registration) }
        (self.watcher, registration) = (watcher, nil)
        guard let watcher else { return }
        do throws(SystemError) {
            registration = try loop.add(watcher.descriptor, .readable, self)
        } catch {
            logger.log(.internalError, "OCSP responses cannot be watched, and are read with the next SIGHUP: \(error)")
        }
    }

    func ready(_ events: EventLoop.Events) {
        guard (try? watcher?.takeChanges()) == true else { return }
        refreshSoon()
    }

    private func refreshSoon() {
        if let timer, !isWaiting {
            isWaiting = true
            loop.timers.arm(timer, at: loop.now &+ .milliseconds(Self.patience))
        }
    }

    /// Whether the timer is armed.
    private var isWaiting = false

    private func refresh() {
        isWaiting = false
        guard loading == nil, let (file, configuration) = delegate.refreshable else { return refreshSoon() }
        do throws(SystemError) {
            loading = try Loading(
                file: file, refreshing: configuration, environment: environment, loop: loop
            ) { [weak self] in self?.finish($0, configuration) }
        } catch {
            logger.log(.internalError, "OCSP responses cannot be read again: the loader process cannot start: \(error)")
        }
    }

    func childEnded(_ pid: pid_t, _ ending: ChildProcess.Ending) { loading?.childEnded(pid, ending) }

    private func finish(_ result: Loading.Result, _ configuration: Configuration) {
        loading = nil
        // Another configuration has come meanwhile, or is about to, if it is not refused.
        guard let present = delegate.refreshable?.configuration, present == configuration else { return refreshSoon() }
        guard case .loaded(let refreshed, let watcher) = result else {
            for problem in result.problems ?? [] { logger.log(.internalError, "OCSP responses: \(problem)") }
            return
        }
        if let watcher { watch(with: watcher) }
        for warning in refreshed.warnings { logger.log(.configurationWarning, "\(warning)") }
        guard refreshed.services != configuration.services else { return }
        do {
            try delegate.take(refreshed: refreshed)
            logger.log(.staplesReloaded, "OCSP responses have changed, and are stapled to new handshakes")
        } catch {
            logger.log(.internalError, "changed OCSP responses cannot be given to the workers: \(error)")
        }
    }
}
