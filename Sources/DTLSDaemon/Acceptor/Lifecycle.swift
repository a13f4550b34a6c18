/// The life of the main process: the start, reloads, roll-backs, and the end.
///
/// It is a value without I/O. ``handle(_:)`` takes one event, and returns the actions to perform, in this order. The
/// outcome of an action comes back as an event.
///
/// `Active` is a configuration together with everything that was opened for it.
struct Lifecycle<Active> {
    enum Phase {
        /// The loader reads the first configuration.
        case loading(LoaderRun)
        /// The workers were started with `active`, and not all of them are ready. No listener is open.
        case starting(active: Active, LoaderRun?)
        /// The daemon serves. There is a `previous` configuration while the workers take up changed OCSP responses: it
        /// is activated again if a worker cannot use them.
        case serving(active: Active, previous: Active?)
        /// A reload: the daemon serves, and the loader reads a new configuration.
        case reading(active: Active, previous: Active?, LoaderRun)
        /// A reload: the workers were given `active`, and not all of them serve it. A loader runs if SIGHUP has come
        /// meanwhile.
        case distributing(active: Active, previous: Active, LoaderRun?)
        /// The daemon serves, and another process is about to take its place.
        case upgrading(active: Active, previous: Active?, Upgrade)
        /// The listeners are closed, and the workers were told to end. There is no `active` configuration if the daemon
        /// has stopped before the first one was read.
        case stopping(active: Active?)
    }

    /// A loader process that has not told its result yet.
    enum LoaderRun {
        case once
        /// SIGHUP came while the loader was reading, perhaps before the change that it is about. So another loader
        /// reads everything again.
        case again
    }

    enum Event {
        /// SIGHUP.
        case reloadRequested
        /// The loader has returned a valid configuration.
        case loaded(Active)
        /// The configuration of the loader is active: its new listeners are bound, and the workers were given it.
        case activated(Active)
        /// The new configuration is not used: the loader has found problems or could not be started, or the
        /// configuration could not be activated.
        case refused(problems: [String], StartupFailure)
        case listenersOpened
        case listenersFailed(reason: String)
        /// All workers serve the configuration that they were given last.
        case workersReady
        /// A worker cannot use the configuration that it was given last, and keeps the one that it had.
        case workerRejected(worker: Int, reason: String)
        /// The action ``Action/rollBack(from:to:)`` has changed nothing.
        case rollBackFailed(active: Active, reason: String)
        /// The workers were given the active configuration with other OCSP responses.
        case staplesActivated(Active)
        /// SIGTERM, SIGINT or SIGUSR1.
        case stopRequested(StopRequest)
        /// SIGUSR2.
        case upgradeRequested
        /// What concerns the upgrade that is under way.
        case upgrade(Upgrade.Event)
        /// The workers had `stop_timeout` to end.
        case stopTimedOut
        case workersEnded
    }

    enum Action {
        /// Start a loader. Its result comes as ``Event/loaded(_:)`` or ``Event/refused(problems:_:)``.
        case startLoader
        /// Bind the new listeners of a configuration and give it to the workers. The outcome comes as
        /// ``Event/activated(_:)`` or ``Event/refused(problems:_:)``.
        case activate(Active)
        /// Read from the listeners. The outcome comes as ``Event/listenersOpened`` or
        /// ``Event/listenersFailed(reason:)``.
        case openListeners
        /// Activate the previous configuration again. A failure comes as ``Event/rollBackFailed(active:reason:)``.
        case rollBack(from: Active, to: Active)
        /// Tell a worker to end, so that it is replaced: all others can use the configuration that it has rejected.
        case replaceWorker(Int, reason: String)
        case notifyReloading
        case notifyReady
        case log(LogEvent, String)
        /// Notify the service manager, close the listeners, tell the workers to end, and begin to count `stop_timeout`.
        case shutDown(keepingConnections: Bool)
        case upgrade(Upgrade.Action)
        case killWorkers
        /// Leave the event loop.
        case end
    }

    private(set) var phase: Phase
    /// Why the last reload or upgrade has failed; empty once a reload has succeeded.
    private(set) var problems: [String] = []
    /// The first of ``problems``.
    var reloadFailure: String? { problems.first }
    /// SIGUSR2 came during the start or a reload. The upgrade begins when that is done.
    private(set) var isUpgradeRequested = false
    /// Whether ``reloadFailure`` is of a reload that was requested after the one whose configuration the workers are
    /// being given.
    private var hasLaterReloadFailed = false
    /// The exit status of the process, once ``Action/end`` is returned.
    private(set) var exitStatus: Int32 = 0
    private let configurationFile: String

    /// A life begins with a loader that runs: the caller performs the first ``Action/startLoader``.
    init(configurationFile: String, phase: Phase = .loading(.once)) {
        self.configurationFile = configurationFile
        self.phase = phase
    }

    /// The configuration that the workers were given last; `nil` before the first one.
    var active: Active? {
        switch phase {
        case .loading: nil
        case .starting(let active, _), .serving(let active, _), .reading(let active, _, _),
            .distributing(let active, _, _), .upgrading(let active, _, _):
            active
        case .stopping(let active): active
        }
    }

    /// Whether the daemon serves and neither a reload nor an upgrade is under way.
    var isServing: Bool { if case .serving = phase { true } else { false } }

    /// Whether a reload is under way, whose outcome ``problems`` tells once it is not.
    var isReloading: Bool {
        switch phase {
        case .reading, .distributing: true
        case .loading, .starting, .serving, .upgrading, .stopping: false
        }
    }

    var isUpgrading: Bool { if case .upgrading = phase { true } else { false } }

    mutating func handle(_ event: Event) -> [Action] {
        switch event {
        case .reloadRequested: return requestReload()
        case .loaded(let loaded): return loaderRun == nil ? [] : [.activate(loaded)]
        case .activated(let new): return activate(new)
        case .refused(let problems, let failure): return refuse(problems, failure)
        case .listenersOpened: return serve()
        case .listenersFailed(let reason):
            guard case .starting = phase else { return [] }
            return [.log(.listenerFailed, "the listeners cannot be opened: \(reason)")] + stop(.sockets)
        case .workersReady: return confirm()
        case .workerRejected(let worker, let reason): return reject(worker, reason)
        case .rollBackFailed(let active, let reason):
            replaceActive(active)
            return [.log(.internalError, "the previous configuration cannot be activated again: \(reason)")]
        case .staplesActivated(let new):
            if case .serving(let active, let previous) = phase {
                phase = .serving(active: new, previous: previous ?? active)
            } else {
                replaceActive(new)
            }
            return []
        case .stopRequested(let request): return stop(request)
        case .upgradeRequested: return requestUpgrade()
        case .upgrade(let event): return upgrade(event)
        case .stopTimedOut: return isStopping ? [.killWorkers] : []
        case .workersEnded: return isStopping ? [.end] : upgrade(.workersEnded)
        }
    }

    // MARK: Loader

    private var loaderRun: LoaderRun? {
        switch phase {
        case .loading(let run), .reading(_, _, let run): run
        case .starting(_, let run), .distributing(_, _, let run): run
        case .serving, .upgrading, .stopping: nil
        }
    }

    private mutating func requestReload() -> [Action] {
        switch phase {
        case .loading: phase = .loading(.again)
        case .starting(let active, let run):
            phase = .starting(active: active, run == nil ? .once : .again)
            return run == nil ? [.startLoader] : []
        case .serving(let active, let previous):
            phase = .reading(active: active, previous: previous, .once)
            return [.notifyReloading, .startLoader]
        case .reading(let active, let previous, _): phase = .reading(active: active, previous: previous, .again)
        case .distributing(let active, let previous, let run):
            // The new configuration may be the one that helps the workers, so it is read at once.
            phase = .distributing(active: active, previous: previous, run == nil ? .once : .again)
            return run == nil ? [.startLoader] : []
        case .upgrading: return upgrade(.reloadRequested)
        case .stopping: break
        }
        return []
    }

    private mutating func activate(_ new: Active) -> [Action] {
        guard let run = loaderRun else { return [] }
        hasLaterReloadFailed = false
        switch phase {
        case .loading, .starting: phase = .starting(active: new, nil)
        // What was active before changed OCSP responses is what all workers are known to use.
        case .reading(let active, let previous, _):
            phase = .distributing(active: new, previous: previous ?? active, nil)
        case .distributing(_, let previous, _): phase = .distributing(active: new, previous: previous, nil)
        case .serving, .upgrading, .stopping: return []
        }
        return run == .again ? requestReload() : []
    }

    /// A problem with the first configuration is the end. With a later one, everything stays as it is.
    private mutating func refuse(_ problems: [String], _ failure: StartupFailure) -> [Action] {
        guard let run = loaderRun else { return [] }
        var actions = problems.map { Action.log(.configurationInvalid, $0) }
        if case .loading = phase { return actions + stop(failure) }
        self.problems = problems
        actions.append(.log(.reloadFailed, "reload failed: the previous configuration and certificates stay active"))
        switch phase {
        case .starting(let active, _): phase = .starting(active: active, nil)
        case .reading(let active, let previous, .once):
            phase = .serving(active: active, previous: previous)
            return actions + [.notifyReady] + beginUpgradeIfRequested()
        case .reading(let active, let previous, .again):
            // The next reload has been requested already: READY=1 and the result are sent when that one ends.
            phase = .reading(active: active, previous: previous, .once)
            return actions + [.startLoader]
        case .distributing(let active, let previous, _):
            phase = .distributing(active: active, previous: previous, nil)
            hasLaterReloadFailed = true
        case .loading, .serving, .upgrading, .stopping: break
        }
        return run == .again ? actions + requestReload() : actions
    }

    // MARK: Workers

    private mutating func confirm() -> [Action] {
        switch phase {
        case .loading, .stopping: return []
        case .starting: return [.openListeners]
        case .serving(let active, _):
            phase = .serving(active: active, previous: nil)
            return []
        case .reading(let active, _, let run):
            phase = .reading(active: active, previous: nil, run)
            return []
        case .upgrading(let active, _, let upgrade):
            phase = .upgrading(active: active, previous: nil, upgrade)
            return []
        case .distributing(let active, _, let run):
            if !hasLaterReloadFailed { problems = [] }
            return [.log(.reloaded, "configuration and certificates reloaded from \(configurationFile)")]
                + endDistribution(active, run)
        }
    }

    /// The listeners are open, with workers that are ready for the first client.
    private mutating func serve() -> [Action] {
        guard case .starting(let active, let run) = phase else { return [] }
        // A reload that was requested meanwhile goes on.
        phase = run.map { .reading(active: active, previous: nil, $0) } ?? .serving(active: active, previous: nil)
        return [.notifyReady] + beginUpgradeIfRequested()
    }

    private mutating func reject(_ worker: Int, _ reason: String) -> [Action] {
        let rejection = "worker \(worker): \(reason)"
        switch phase {
        case .loading, .stopping: return []
        case .starting:
            return [.log(.configurationInvalid, "worker \(worker) cannot use the configuration: \(reason)")]
                + stop(.configuration)
        case .serving(let active, let previous?):
            phase = .serving(active: previous, previous: nil)
            return rollBackStaples(rejection, from: active, to: previous)
        case .reading(let active, let previous?, let run):
            phase = .reading(active: previous, previous: nil, run)
            return rollBackStaples(rejection, from: active, to: previous)
        // The workers are ending, or have ended.
        case .upgrading(_, _, let upgrade) where upgrade.step != .preparing: return []
        case .upgrading(let active, let previous?, let upgrade):
            phase = .upgrading(active: previous, previous: nil, upgrade)
            return rollBackStaples(rejection, from: active, to: previous)
        case .distributing(let active, let previous, let run):
            problems = [rejection]
            return [
                .log(.reloadFailed, "reload failed: \(rejection); the previous configuration is activated again"),
                .rollBack(from: active, to: previous),
            ] + endDistribution(previous, run)
        // All workers have used this configuration before, so this one is short of memory, or worse.
        case .serving(_, nil), .reading(_, nil, _), .upgrading(_, nil, _):
            return [.replaceWorker(worker, reason: reason)]
        }
    }

    private func rollBackStaples(_ rejection: String, from active: Active, to previous: Active) -> [Action] {
        [
            .log(
                .internalError,
                "changed OCSP responses cannot be used: \(rejection); the previous ones are activated again"),
            .rollBack(from: active, to: previous),
        ]
    }

    /// The reload is over, unless another one was requested meanwhile.
    private mutating func endDistribution(_ active: Active, _ run: LoaderRun?) -> [Action] {
        if let run {
            phase = .reading(active: active, previous: nil, run)
            return []
        }
        phase = .serving(active: active, previous: nil)
        return [.notifyReady] + beginUpgradeIfRequested()
    }

    private mutating func replaceActive(_ new: Active) {
        switch phase {
        case .loading: break
        case .starting(_, let run): phase = .starting(active: new, run)
        case .serving(_, let previous): phase = .serving(active: new, previous: previous)
        case .reading(_, let previous, let run): phase = .reading(active: new, previous: previous, run)
        case .distributing(_, let previous, let run):
            phase = .distributing(active: new, previous: previous, run)
        case .upgrading(_, let previous, let upgrade):
            phase = .upgrading(active: new, previous: previous, upgrade)
        case .stopping: phase = .stopping(active: new)
        }
    }

    // MARK: Upgrade

    private mutating func requestUpgrade() -> [Action] {
        switch phase {
        case .serving(let active, let previous):
            phase = .upgrading(active: active, previous: previous, Upgrade())
            return [.notifyReloading, .log(.upgradeStarted, "an upgrade begins: the program is started from its path")]
                + Upgrade.begin.map { .upgrade($0) }
        case .loading, .starting, .reading, .distributing: isUpgradeRequested = true
        case .upgrading, .stopping: break
        }
        return []
    }

    private mutating func beginUpgradeIfRequested() -> [Action] {
        guard isUpgradeRequested, isServing else { return [] }
        isUpgradeRequested = false
        return requestUpgrade()
    }

    private mutating func upgrade(_ event: Upgrade.Event) -> [Action] {
        guard case .upgrading(let active, let previous, var upgrade) = phase else { return [] }
        let outcome = upgrade.handle(event)
        phase = .upgrading(active: active, previous: previous, upgrade)
        switch outcome {
        case .goesOn(let actions): return actions.map { .upgrade($0) }
        case .succeeded(let actions):
            phase = .stopping(active: active)
            return [.log(.upgraded, "the upgrade is done: another process serves, and this one ends")]
                + actions.map { .upgrade($0) } + [.end]
        case .failed(let actions, let reason):
            phase = .serving(active: active, previous: previous)
            if let request = upgrade.stopRequest { return actions.map { .upgrade($0) } + stop(request) }
            problems = ["the upgrade failed: \(reason)"]
            let log = Action.log(.upgradeFailed, "the upgrade failed, and this process goes on: \(reason)")
            guard upgrade.isReloadRequested else { return actions.map { .upgrade($0) } + [log, .notifyReady] }
            // The service manager has been told already that something is under way.
            phase = .reading(active: active, previous: previous, .once)
            return actions.map { .upgrade($0) } + [log, .startLoader]
        }
    }

    // MARK: Shutdown

    var isStopping: Bool { if case .stopping = phase { true } else { false } }

    private mutating func stop(_ failure: StartupFailure) -> [Action] {
        exitStatus = failure.exitStatus
        return stop(failure.rawValue, keepingConnections: false)
    }

    private mutating func stop(_ request: StopRequest) -> [Action] {
        if case .upgrading = phase { return upgrade(.stopRequested(request)) }
        return stop(request.reason, keepingConnections: request.keepingConnections)
    }

    /// The first request lets the workers close their connections, or leave them for the next start. The second one
    /// ends them at once.
    private mutating func stop(_ reason: String, keepingConnections: Bool) -> [Action] {
        if isStopping { return [.killWorkers] }
        phase = .stopping(active: active)
        return [.log(.stopping, "stopping: \(reason)"), .shutDown(keepingConnections: keepingConnections)]
    }
}

/// Why the daemon cannot start, in the words of its log.
enum StartupFailure: String {
    case configuration = "the configuration cannot be used"
    case temporaryProblem = "the configuration cannot be used at the moment"
    case sockets = "the sockets cannot be opened"
    case system = "a resource of the system is missing"

    var exitStatus: Int32 {
        switch self {
        case .configuration: ExitStatus.configuration
        case .temporaryProblem: ExitStatus.temporary
        case .sockets, .system: ExitStatus.system
        }
    }
}

extension Lifecycle.Phase: Equatable where Active: Equatable {}
extension Lifecycle.Action: Equatable where Active: Equatable {}
