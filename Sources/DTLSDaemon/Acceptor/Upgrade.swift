import Primitives

/// An upgrade, as the main process sees it that is being replaced by its successor: a process of the program file that
/// is at the daemon's path by now.
///
/// It is a value without I/O, a part of ``Lifecycle/Phase/upgrading(active:previous:_:)``. Up to ``Step/preparing`` this
/// process serves as if nothing was. Whatever goes wrong before the successor serves leaves this process serving.
struct Upgrade: Equatable {
    enum Step: Equatable {
        /// The successor reads the configuration and starts its workers. This process serves.
        case preparing
        /// The listeners are not read, and the workers finish the handshakes that are under way.
        case settling
        /// The workers leave their connections in the slots and end.
        case emptying
        /// The successor has failed while the workers were ending. Once they have, others take their places.
        case recovering
        /// The successor has the connections, and is to say that it serves.
        case handedOver
    }

    enum Event: Equatable {
        /// The successor could not be started.
        case startFailed(reason: String)
        /// The successor's workers have the configuration.
        case prepared
        /// The successor cannot take over, for a reason that it has told, and ends.
        case refused(reason: String)
        /// The successor has ended.
        case successorEnded
        /// No handshake is under way.
        case handshakesEnded
        /// All workers have ended.
        case workersEnded
        /// The successor has taken the connections over, and reads the listeners.
        case successorServes
        /// The time of ``Action/setDeadline(_:)`` is over.
        case timedOut
        /// SIGHUP.
        case reloadRequested
        /// SIGTERM, SIGINT or SIGUSR1.
        case stopRequested(StopRequest)
    }

    enum Action: Equatable {
        /// Start the successor, and send it what it needs. A failure comes as ``Event/startFailed(reason:)``.
        case startSuccessor
        /// Kill the successor and all processes that it has started.
        case killSuccessor
        /// Report ``Event/timedOut`` after this time, unless another deadline is set before.
        case setDeadline(Duration)
        /// Read the listeners no more, and report ``Event/handshakesEnded``.
        case pauseListeners
        /// Read the listeners again.
        case resumeListeners
        /// Tell the workers to leave their connections in the slots and to end.
        case empty
        case killWorkers
        /// Send the successor the slot files, and tell it to serve.
        case handOver
        /// Start the workers again, on the slot files as they are, and read the listeners.
        case takeBack
        /// Tell the service manager and the successor that it is the main process now. It gets these requests, which
        /// came meanwhile.
        case retire(reload: Bool, StopRequest?)
    }

    /// How the upgrade goes on after an event.
    enum Outcome: Equatable {
        case goesOn([Action])
        /// This process serves on, after these actions.
        case failed([Action], reason: String)
        /// The successor serves. This process performs these actions, and ends.
        case succeeded([Action])
    }

    private(set) var step = Step.preparing
    /// SIGHUP has come, perhaps after the successor has read the configuration. The process that serves in the end reads it again.
    private(set) var isReloadRequested = false
    /// The daemon is to stop once it is clear which process serves.
    private(set) var stopRequest: StopRequest?
    /// Why the successor has failed, while this process waits for the end of its workers.
    private var failure: String?

    /// The loader of the successor may take a minute; the rest is left for its workers.
    static let preparationTime = Duration.seconds(90)
    /// How long new clients wait, and handshakes may take to end. Meanwhile connections are served.
    static let settlingTime = Duration.seconds(1)
    static let emptyingTime = Duration.seconds(5)
    /// A worker waits for handshakes of its own accord when it is told to end. All connections are silent by then, and
    /// a client that stalls its handshake shall not prolong that.
    static let emptyingTimeWithHandshakes = Duration.milliseconds(300)
    static let takeOverTime = Duration.seconds(10)

    /// The actions that an upgrade begins with.
    static let begin: [Action] = [.setDeadline(preparationTime), .startSuccessor]

    init(step: Step = .preparing, isReloadRequested: Bool = false, stopRequest: StopRequest? = nil) {
        self.step = step
        self.isReloadRequested = isReloadRequested
        self.stopRequest = stopRequest
    }

    /// Handles an event. Those that come too late to mean anything change nothing.
    mutating func handle(_ event: Event) -> Outcome {
        switch event {
        case .startFailed(let reason): return fail("the program cannot be started: \(reason)", [])
        case .refused(let reason): return fail(reason, [.killSuccessor])
        case .successorEnded: return fail("the new process has ended before it served", [.killSuccessor])
        case .prepared:
            guard step == .preparing else { return .goesOn([]) }
            step = .settling
            return .goesOn([.setDeadline(Self.settlingTime), .pauseListeners])
        case .handshakesEnded:
            guard step == .settling else { return .goesOn([]) }
            step = .emptying
            return .goesOn([.setDeadline(Self.emptyingTime), .empty])
        case .workersEnded: return workersEnded()
        case .successorServes:
            guard step == .handedOver else {
                return fail("the new process did not keep to the protocol", [.killSuccessor])
            }
            return .succeeded([.retire(reload: isReloadRequested, stopRequest)])
        case .timedOut: return timeOut()
        case .reloadRequested:
            isReloadRequested = true
            return .goesOn([])
        case .stopRequested(let request):
            if step == .preparing || step == .settling {
                return fail("the daemon stops", [.killSuccessor], stop: request)
            }
            // A second request ends everything at once; the connections are in the slots.
            let actions: [Action] = stopRequest == nil ? [] : [.killWorkers]
            stopRequest = request
            return .goesOn(actions)
        }
    }

    private mutating func fail(_ reason: String, _ actions: [Action], stop: StopRequest? = nil) -> Outcome {
        if let stop { stopRequest = stop }
        switch step {
        case .preparing: return .failed(actions, reason: reason)
        case .settling: return .failed(actions + [.resumeListeners], reason: reason)
        case .emptying:
            step = .recovering
            failure = reason
            return .goesOn(actions)
        case .recovering: return .goesOn([])
        case .handedOver: return .failed(actions + [.takeBack], reason: reason)
        }
    }

    private mutating func workersEnded() -> Outcome {
        switch step {
        case .emptying:
            step = .handedOver
            return .goesOn([.setDeadline(Self.takeOverTime), .handOver])
        case .recovering: return .failed([.takeBack], reason: failure ?? "the new process has ended")
        case .preparing, .settling, .handedOver: return .goesOn([])
        }
    }

    private mutating func timeOut() -> Outcome {
        switch step {
        case .preparing:
            return fail(
                "the new process was not prepared after \(Self.preparationTime.seconds) s", [.killSuccessor])
        case .settling:
            step = .emptying
            return .goesOn([.setDeadline(Self.emptyingTimeWithHandshakes), .empty])
        // The connections are in the slots, whatever the workers were doing.
        case .emptying, .recovering: return .goesOn([.killWorkers])
        case .handedOver:
            return fail("the new process did not serve after \(Self.takeOverTime.seconds) s", [.killSuccessor])
        }
    }
}

/// That the daemon is to stop, and how.
struct StopRequest: Equatable, Sendable {
    /// Why, for the log.
    let reason: String
    /// Whether the connections are left for the daemon's next start (SIGUSR1), or closed.
    let keepingConnections: Bool
}
