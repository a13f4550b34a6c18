import TestSupport
import Testing

@testable import DTLSDaemon

/// The life of the main process: each event in each phase, without processes, sockets or a clock.
@Suite struct LifecycleTests {
    private typealias Life = Lifecycle<String>
    private typealias Phase = Life.Phase
    private typealias Action = Life.Action

    /// One of each phase, with all of its variants: `a` is active, `p` the previous configuration.
    private let phases: [Phase] = [
        .loading(.once), .loading(.again),
        .starting(active: "a", nil), .starting(active: "a", .once), .starting(active: "a", .again),
        .serving(active: "a", previous: nil), .serving(active: "a", previous: "p"),
        .reading(active: "a", previous: nil, .once), .reading(active: "a", previous: nil, .again),
        .reading(active: "a", previous: "p", .once), .reading(active: "a", previous: "p", .again),
        .distributing(active: "a", previous: "p", nil), .distributing(active: "a", previous: "p", .once),
        .distributing(active: "a", previous: "p", .again),
        .upgrading(active: "a", previous: nil, Upgrade()), .upgrading(active: "a", previous: "p", Upgrade()),
        .stopping(active: nil), .stopping(active: "a"),
    ]

    private func life(in phase: Phase) -> Life { Life(configurationFile: "d.toml", phase: phase) }

    /// Handles an event in every phase. `changes` are the phases in which something happens, and what happens there.
    private func check(
        _ event: Life.Event, _ changes: [(from: Phase, to: Phase, actions: [Action])],
        sourceLocation: SourceLocation = #_sourceLocation
    ) {
        for change in changes {
            #expect(phases.contains(change.from), "\(change.from)", sourceLocation: sourceLocation)
        }
        for phase in phases {
            var life = life(in: phase)
            let actions = life.handle(event)
            let expected = changes.first { $0.from == phase } ?? (phase, phase, [])
            #expect(life.phase == expected.to, "in \(phase)", sourceLocation: sourceLocation)
            #expect(actions == expected.actions, "in \(phase)", sourceLocation: sourceLocation)
        }
    }

    private let failed = Action.log(
        .reloadFailed, "reload failed: the previous configuration and certificates stay active")
    private let reloaded = Action.log(
        .reloaded, "configuration and certificates reloaded from d.toml")

    @Test func `SIGHUP starts a loader or makes the one that runs read again`() {
        check(
            .reloadRequested,
            [
                (.loading(.once), .loading(.again), []),
                (.starting(active: "a", nil), .starting(active: "a", .once), [.startLoader]),
                (.starting(active: "a", .once), .starting(active: "a", .again), []),
                (
                    .serving(active: "a", previous: nil), .reading(active: "a", previous: nil, .once),
                    [.notifyReloading, .startLoader]
                ),
                (
                    .serving(active: "a", previous: "p"), .reading(active: "a", previous: "p", .once),
                    [.notifyReloading, .startLoader]
                ),
                (.reading(active: "a", previous: nil, .once), .reading(active: "a", previous: nil, .again), []),
                (.reading(active: "a", previous: "p", .once), .reading(active: "a", previous: "p", .again), []),
                (
                    .distributing(active: "a", previous: "p", nil), .distributing(active: "a", previous: "p", .once),
                    [.startLoader]
                ),
                (
                    .distributing(active: "a", previous: "p", .once),
                    .distributing(active: "a", previous: "p", .again), []
                ),
                (
                    .upgrading(active: "a", previous: nil, Upgrade()),
                    .upgrading(active: "a", previous: nil, Upgrade(isReloadRequested: true)), []
                ),
                (
                    .upgrading(active: "a", previous: "p", Upgrade()),
                    .upgrading(active: "a", previous: "p", Upgrade(isReloadRequested: true)), []
                ),
            ])
    }

    @Test func `a loaded configuration is activated unless the daemon stops`() {
        let reading = phases.filter { phase in
            switch phase {
            case .loading, .reading, .starting(_, .some), .distributing(_, _, .some): true
            case .starting, .serving, .distributing, .upgrading, .stopping: false
            }
        }
        check(.loaded("n"), reading.map { ($0, $0, [.activate("n")]) })
    }

    @Test func `an activated configuration is distributed with the previous one to roll back to`() {
        check(
            .activated("n"),
            [
                (.loading(.once), .starting(active: "n", nil), []),
                (.loading(.again), .starting(active: "n", .once), [.startLoader]),
                (.starting(active: "a", .once), .starting(active: "n", nil), []),
                (.starting(active: "a", .again), .starting(active: "n", .once), [.startLoader]),
                (
                    .reading(active: "a", previous: nil, .once), .distributing(active: "n", previous: "a", nil), []
                ),
                (
                    .reading(active: "a", previous: nil, .again), .distributing(active: "n", previous: "a", .once),
                    [.startLoader]
                ),
                // No worker has confirmed the OCSP responses of "a".
                (
                    .reading(active: "a", previous: "p", .once), .distributing(active: "n", previous: "p", nil), []
                ),
                (
                    .reading(active: "a", previous: "p", .again), .distributing(active: "n", previous: "p", .once),
                    [.startLoader]
                ),
                // No worker has confirmed "a".
                (
                    .distributing(active: "a", previous: "p", .once), .distributing(active: "n", previous: "p", nil),
                    []
                ),
                (
                    .distributing(active: "a", previous: "p", .again),
                    .distributing(active: "n", previous: "p", .once), [.startLoader]
                ),
            ])
    }

    @Test func `a refused configuration ends the start and leaves later ones as they are`() {
        let problems = [Action.log(.configurationInvalid, "x"), .log(.configurationInvalid, "y")]
        let end: [Action] = [
            .log(.stopping, "stopping: the configuration cannot be used"), .shutDown(keepingConnections: false),
        ]
        check(
            .refused(problems: ["x", "y"], .configuration),
            [
                (.loading(.once), .stopping(active: nil), problems + end),
                (.loading(.again), .stopping(active: nil), problems + end),
                (.starting(active: "a", .once), .starting(active: "a", nil), problems + [failed]),
                (
                    .starting(active: "a", .again), .starting(active: "a", .once),
                    problems + [failed, .startLoader]
                ),
                (
                    .reading(active: "a", previous: nil, .once), .serving(active: "a", previous: nil),
                    problems + [failed, .notifyReady]
                ),
                (
                    .reading(active: "a", previous: nil, .again), .reading(active: "a", previous: nil, .once),
                    problems + [failed, .startLoader]
                ),
                (
                    .reading(active: "a", previous: "p", .once), .serving(active: "a", previous: "p"),
                    problems + [failed, .notifyReady]
                ),
                (
                    .reading(active: "a", previous: "p", .again), .reading(active: "a", previous: "p", .once),
                    problems + [failed, .startLoader]
                ),
                (
                    .distributing(active: "a", previous: "p", .once), .distributing(active: "a", previous: "p", nil),
                    problems + [failed]
                ),
                (
                    .distributing(active: "a", previous: "p", .again),
                    .distributing(active: "a", previous: "p", .once), problems + [failed, .startLoader]
                ),
            ])
    }

    @Test func `workers that are ready open the listeners or end the reload`() {
        check(
            .workersReady,
            [
                (.starting(active: "a", nil), .starting(active: "a", nil), [.openListeners]),
                (.starting(active: "a", .once), .starting(active: "a", .once), [.openListeners]),
                (.starting(active: "a", .again), .starting(active: "a", .again), [.openListeners]),
                (.serving(active: "a", previous: "p"), .serving(active: "a", previous: nil), []),
                (.reading(active: "a", previous: "p", .once), .reading(active: "a", previous: nil, .once), []),
                (.reading(active: "a", previous: "p", .again), .reading(active: "a", previous: nil, .again), []),
                (
                    .upgrading(active: "a", previous: "p", Upgrade()),
                    .upgrading(active: "a", previous: nil, Upgrade()), []
                ),
                (
                    .distributing(active: "a", previous: "p", nil), .serving(active: "a", previous: nil),
                    [reloaded, .notifyReady]
                ),
                (
                    .distributing(active: "a", previous: "p", .once), .reading(active: "a", previous: nil, .once),
                    [reloaded]
                ),
                (
                    .distributing(active: "a", previous: "p", .again), .reading(active: "a", previous: nil, .again),
                    [reloaded]
                ),
            ])
    }

    @Test func `open listeners end the start`() {
        check(
            .listenersOpened,
            [
                (.starting(active: "a", nil), .serving(active: "a", previous: nil), [.notifyReady]),
                (.starting(active: "a", .once), .reading(active: "a", previous: nil, .once), [.notifyReady]),
                (.starting(active: "a", .again), .reading(active: "a", previous: nil, .again), [.notifyReady]),
            ])
    }

    @Test func `listeners that cannot be opened end the daemon at its start`() {
        let actions: [Action] = [
            .log(.listenerFailed, "the listeners cannot be opened: EMFILE"),
            .log(.stopping, "stopping: the sockets cannot be opened"), .shutDown(keepingConnections: false),
        ]
        check(
            .listenersFailed(reason: "EMFILE"),
            [
                (.starting(active: "a", nil), .stopping(active: "a"), actions),
                (.starting(active: "a", .once), .stopping(active: "a"), actions),
                (.starting(active: "a", .again), .stopping(active: "a"), actions),
            ])
    }

    @Test func `a worker that rejects its setup ends the start, rolls back, or is replaced`() {
        let end: [Action] = [
            .log(.configurationInvalid, "worker 3 cannot use the configuration: out of memory"),
            .log(.stopping, "stopping: the configuration cannot be used"), .shutDown(keepingConnections: false),
        ]
        let replaced = [Action.replaceWorker(3, reason: "out of memory")]
        let staples: [Action] = [
            .log(
                .internalError,
                "changed OCSP responses cannot be used: worker 3: out of memory; the previous ones are activated again"),
            .rollBack(from: "a", to: "p"),
        ]
        let reload: [Action] = [
            .log(
                .reloadFailed,
                "reload failed: worker 3: out of memory; the previous configuration is activated again"),
            .rollBack(from: "a", to: "p"),
        ]
        check(
            .workerRejected(worker: 3, reason: "out of memory"),
            [
                (.starting(active: "a", nil), .stopping(active: "a"), end),
                (.starting(active: "a", .once), .stopping(active: "a"), end),
                (.starting(active: "a", .again), .stopping(active: "a"), end),
                (.serving(active: "a", previous: nil), .serving(active: "a", previous: nil), replaced),
                (.serving(active: "a", previous: "p"), .serving(active: "p", previous: nil), staples),
                (
                    .reading(active: "a", previous: nil, .once), .reading(active: "a", previous: nil, .once), replaced
                ),
                (
                    .reading(active: "a", previous: nil, .again), .reading(active: "a", previous: nil, .again),
                    replaced
                ),
                (.reading(active: "a", previous: "p", .once), .reading(active: "p", previous: nil, .once), staples),
                (.reading(active: "a", previous: "p", .again), .reading(active: "p", previous: nil, .again), staples),
                (
                    .upgrading(active: "a", previous: nil, Upgrade()),
                    .upgrading(active: "a", previous: nil, Upgrade()), replaced
                ),
                (
                    .upgrading(active: "a", previous: "p", Upgrade()),
                    .upgrading(active: "p", previous: nil, Upgrade()), staples
                ),
                (
                    .distributing(active: "a", previous: "p", nil), .serving(active: "p", previous: nil),
                    reload + [.notifyReady]
                ),
                (
                    .distributing(active: "a", previous: "p", .once), .reading(active: "p", previous: nil, .once),
                    reload
                ),
                (
                    .distributing(active: "a", previous: "p", .again), .reading(active: "p", previous: nil, .again),
                    reload
                ),
            ])
    }

    @Test func `a failed roll back leaves the configuration active that the workers were given`() {
        let log = Action.log(.internalError, "the previous configuration cannot be activated again: ENFILE")
        check(
            .rollBackFailed(active: "n", reason: "ENFILE"),
            phases.map { phase in
                let changed: Phase =
                    switch phase {
                    case .loading(let run): .loading(run)
                    case .starting(_, let run): .starting(active: "n", run)
                    case .serving(_, let previous): .serving(active: "n", previous: previous)
                    case .reading(_, let previous, let run): .reading(active: "n", previous: previous, run)
                    case .distributing(_, let previous, let run): .distributing(active: "n", previous: previous, run)
                    case .upgrading(_, let previous, let upgrade):
                        .upgrading(active: "n", previous: previous, upgrade)
                    case .stopping: .stopping(active: "n")
                    }
                return (phase, changed, [log])
            })
    }

    @Test func `changed OCSP responses can be rolled back until the workers confirm them`() {
        check(
            .staplesActivated("n"),
            [
                (.starting(active: "a", nil), .starting(active: "n", nil), []),
                (.starting(active: "a", .once), .starting(active: "n", .once), []),
                (.starting(active: "a", .again), .starting(active: "n", .again), []),
                (.serving(active: "a", previous: nil), .serving(active: "n", previous: "a"), []),
                (.serving(active: "a", previous: "p"), .serving(active: "n", previous: "p"), []),
                (.reading(active: "a", previous: nil, .once), .reading(active: "n", previous: nil, .once), []),
                (.reading(active: "a", previous: nil, .again), .reading(active: "n", previous: nil, .again), []),
                (.reading(active: "a", previous: "p", .once), .reading(active: "n", previous: "p", .once), []),
                (.reading(active: "a", previous: "p", .again), .reading(active: "n", previous: "p", .again), []),
                (
                    .distributing(active: "a", previous: "p", nil), .distributing(active: "n", previous: "p", nil), []
                ),
                (
                    .distributing(active: "a", previous: "p", .once),
                    .distributing(active: "n", previous: "p", .once), []
                ),
                (
                    .distributing(active: "a", previous: "p", .again),
                    .distributing(active: "n", previous: "p", .again), []
                ),
                (
                    .upgrading(active: "a", previous: nil, Upgrade()),
                    .upgrading(active: "n", previous: nil, Upgrade()), []
                ),
                (
                    .upgrading(active: "a", previous: "p", Upgrade()),
                    .upgrading(active: "n", previous: "p", Upgrade()), []
                ),
                (.stopping(active: nil), .stopping(active: "n"), []),
                (.stopping(active: "a"), .stopping(active: "n"), []),
            ])
    }

    @Test(arguments: [false, true])
    func `the first request to stop ends the connections or keeps them, and the second one ends the workers`(
        isToKeep: Bool
    ) {
        check(
            .stopRequested(StopRequest(reason: "signal 15", keepingConnections: isToKeep)),
            phases.map { phase in
                if case .stopping = phase { return (phase, phase, [.killWorkers]) }
                let active: String? = if case .loading = phase { nil } else { "a" }
                let kill: [Action] = if case .upgrading = phase { [.upgrade(.killSuccessor)] } else { [] }
                return (
                    phase, .stopping(active: active),
                    kill + [.log(.stopping, "stopping: signal 15"), .shutDown(keepingConnections: isToKeep)]
                )
            })
    }

    private let begun: [Action] = [
        .notifyReloading, .log(.upgradeStarted, "an upgrade begins: the program is started from its path"),
        .upgrade(.setDeadline(Upgrade.preparationTime)), .upgrade(.startSuccessor),
    ]

    @Test func `SIGUSR2 begins an upgrade, at once or after the start or the reload`() {
        check(
            .upgradeRequested,
            [
                (
                    .serving(active: "a", previous: nil), .upgrading(active: "a", previous: nil, Upgrade()), begun
                ),
                (
                    .serving(active: "a", previous: "p"), .upgrading(active: "a", previous: "p", Upgrade()), begun
                ),
            ])
        var life = life(in: .loading(.once))
        #expect(life.handle(.upgradeRequested) == [] && life.isUpgradeRequested)
        _ = life.handle(.activated("a"))
        #expect(life.handle(.listenersOpened) == [.notifyReady] + begun)
        #expect(life.phase == .upgrading(active: "a", previous: nil, Upgrade()) && !life.isUpgradeRequested)

        life = self.life(in: .reading(active: "a", previous: nil, .once))
        _ = life.handle(.upgradeRequested)
        #expect(life.handle(.refused(problems: ["x"], .configuration)).suffix(5) == [.notifyReady] + begun)

        life = self.life(in: .distributing(active: "b", previous: "a", nil))
        _ = life.handle(.upgradeRequested)
        #expect(life.handle(.workersReady) == [reloaded, .notifyReady] + begun)
    }

    @Test func `a failed upgrade leaves the daemon serving, and says why`() {
        var life = life(in: .upgrading(active: "a", previous: "p", Upgrade()))
        #expect(
            life.handle(.upgrade(.refused(reason: "d.toml:1: x"))) == [
                .upgrade(.killSuccessor),
                .log(.upgradeFailed, "the upgrade failed, and this process goes on: d.toml:1: x"), .notifyReady,
            ])
        #expect(life.phase == .serving(active: "a", previous: "p"))
        #expect(life.reloadFailure == "the upgrade failed: d.toml:1: x")
    }

    @Test func `a reload that was requested during a failed upgrade follows it`() {
        var life = life(in: .upgrading(active: "a", previous: nil, Upgrade()))
        #expect(life.handle(.reloadRequested) == [])
        #expect(
            life.handle(.upgrade(.startFailed(reason: "ENOENT"))) == [
                .log(
                    .upgradeFailed,
                    "the upgrade failed, and this process goes on: the program cannot be started: ENOENT"),
                .startLoader,
            ])
        #expect(life.phase == .reading(active: "a", previous: nil, .once))
    }

    @Test func `an upgrade ends this process when the other one serves`() {
        var life = life(in: .upgrading(active: "a", previous: nil, Upgrade()))
        #expect(
            life.handle(.upgrade(.prepared)) == [
                .upgrade(.setDeadline(Upgrade.settlingTime)), .upgrade(.pauseListeners),
            ])
        #expect(
            life.handle(.upgrade(.handshakesEnded)) == [
                .upgrade(.setDeadline(Upgrade.emptyingTime)), .upgrade(.empty),
            ])
        #expect(
            life.handle(.workersEnded) == [
                .upgrade(.setDeadline(Upgrade.takeOverTime)), .upgrade(.handOver),
            ])
        #expect(
            life.handle(.upgrade(.successorServes)).suffix(2) == [
                .upgrade(.retire(reload: false, nil)), .end,
            ])
        #expect(life.exitStatus == 0)
    }

    /// The workers are ending: another configuration would start new ones.
    @Test func `a worker that rejects OCSP responses at the end of an upgrade changes nothing`() {
        let phase = Phase.upgrading(active: "a", previous: "p", Upgrade(step: .emptying))
        var life = life(in: phase)
        #expect(life.handle(.workerRejected(worker: 0, reason: "x")) == [])
        #expect(life.phase == phase)
    }

    @Test func `workers that have not ended in time are killed`() {
        check(
            .stopTimedOut,
            [
                (.stopping(active: nil), .stopping(active: nil), [.killWorkers]),
                (.stopping(active: "a"), .stopping(active: "a"), [.killWorkers]),
            ])
    }

    @Test func `the daemon ends with its last worker`() {
        check(
            .workersEnded,
            [
                (.stopping(active: nil), .stopping(active: nil), [.end]),
                (.stopping(active: "a"), .stopping(active: "a"), [.end]),
            ])
    }

    @Test(arguments: [
        (StartupFailure.configuration, 78 as Int32), (.temporaryProblem, 75), (.sockets, 71), (.system, 71),
    ])
    func `the exit status says what the start has failed for`(_ failure: StartupFailure, _ status: Int32) {
        var life = life(in: .loading(.once))
        #expect(life.exitStatus == 0)
        _ = life.handle(.refused(problems: ["x"], failure))
        #expect(life.exitStatus == status)
        // SIGTERM on top of it changes nothing.
        _ = life.handle(.stopRequested(StopRequest(reason: "signal 15", keepingConnections: false)))
        #expect(life.exitStatus == status)
    }

    @Test func `a configuration that only the workers refuse has exit status 78 at the start`() {
        var life = life(in: .starting(active: "a", nil))
        _ = life.handle(.workerRejected(worker: 0, reason: "x"))
        #expect(life.exitStatus == 78)
    }

    @Test func `a failed reload is remembered until one succeeds`() {
        var life = life(in: .serving(active: "a", previous: nil))
        #expect(!life.isReloading)
        _ = life.handle(.reloadRequested)
        #expect(life.isReloading)
        _ = life.handle(.refused(problems: ["x", "y"], .configuration))
        #expect(!life.isReloading)
        #expect(life.reloadFailure == "x" && life.problems == ["x", "y"])
        #expect(life.active == "a")
        _ = life.handle(.reloadRequested)
        _ = life.handle(.loaded("b"))
        _ = life.handle(.activated("b"))
        #expect(life.reloadFailure == "x" && life.isReloading)
        _ = life.handle(.workerRejected(worker: 1, reason: "z"))
        #expect(life.reloadFailure == "worker 1: z")
        #expect(life.active == "a")
        _ = life.handle(.reloadRequested)
        _ = life.handle(.activated("c"))
        _ = life.handle(.workersReady)
        #expect(life.reloadFailure == nil)
        #expect(life.active == "c")
    }

    @Test func `a reload that is refused while an earlier one is distributed stays failed`() {
        var life = life(in: .serving(active: "a", previous: nil))
        _ = life.handle(.reloadRequested)
        _ = life.handle(.activated("b"))
        _ = life.handle(.reloadRequested)
        _ = life.handle(.refused(problems: ["x"], .configuration))
        #expect(life.handle(.workersReady) == [reloaded, .notifyReady])
        #expect(life.reloadFailure == "x" && life.active == "b")
        _ = life.handle(.reloadRequested)
        _ = life.handle(.activated("c"))
        _ = life.handle(.workersReady)
        #expect(life.reloadFailure == nil)
    }

    /// Thousands of lives with the outcomes in random order, as the main process brings them about.
    @Test func `there is never more than one loader, and READY ends every RELOADING`() {
        var random = SeededGenerator(seed: 8)
        for _ in 0..<2_000 {
            var life = life(in: .loading(.once))
            var loaders = 1
            var isReloading = false
            func perform(_ actions: [Action]) {
                for action in actions {
                    switch action {
                    case .startLoader:
                        loaders += 1
                        #expect(loaders == 1)
                    case .activate(let new):
                        loaders -= 1
                        perform(
                            life.handle(
                                Bool.random(using: &random)
                                    ? .activated(new) : .refused(problems: ["x"], .sockets)))
                    case .openListeners: perform(life.handle(.listenersOpened))
                    case .notifyReloading:
                        #expect(!isReloading)
                        isReloading = true
                    case .notifyReady: isReloading = false
                    case .rollBack(let active, _):
                        if Int.random(in: 0..<4, using: &random) == 0 {
                            perform(life.handle(.rollBackFailed(active: active, reason: "x")))
                        }
                    case .replaceWorker, .log, .shutDown, .killWorkers, .upgrade, .end: break
                    }
                }
            }
            for step in 0..<30 {
                switch Int.random(in: 0..<9, using: &random) {
                case 0: perform(life.handle(.reloadRequested))
                case 1 where loaders == 1: perform(life.handle(.loaded("\(step)")))
                case 2 where loaders == 1:
                    loaders -= 1
                    perform(life.handle(.refused(problems: ["x"], .configuration)))
                case 3: perform(life.handle(.workersReady))
                case 4 where life.isServing: perform(life.handle(.staplesActivated("s\(step)")))
                case 5: perform(life.handle(.workerRejected(worker: 0, reason: "x")))
                case 6: perform(life.handle(.upgradeRequested))
                case 7: perform(life.handle(.upgrade(.refused(reason: "x"))))
                case 8:
                    perform(life.handle(.upgrade(.prepared)))
                    perform(life.handle(.upgrade(.handshakesEnded)))
                    perform(life.handle(.upgrade(.successorEnded)))
                    perform(life.handle(.workersEnded))
                default: break
                }
                if case .stopping = life.phase { break }
                if life.isServing { #expect(!isReloading) }
            }
        }
    }
}
