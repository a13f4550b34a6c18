import Foundation
import LinuxSystem
import TestSupport
import Testing

/// What breaks.
enum Fault: String, CaseIterable {
    case workerKilled, workersKilled, workerStopped, workerTraps, workerSegfaults
    case mainKilled, mainStopped
    case loaderKilled, loaderStopped
    case checkerKilled, checkerStopped, resolverKilled, resolverStopped
    case workerWithoutDescriptors, mainWithoutDescriptors
    case workerWithoutMemory, workerOverMemoryLimit, mainWithoutMemory, loaderWithoutMemory
    case diskFull, journalBlocked, journalRestarted
    case backendGone, backendSlow, backendMoved
    case nameServerGone, nameServerSlow, nameServerWrong, nameServerForges
    case clockAhead, clockBehind
    case reloads
    case interfaceDown, addressRemoved, narrowPath
    case garbage, clientsVanish, clientReturns

    /// Whether it ends a process, which begins with little memory again.
    var endsProcess: Bool {
        switch self {
        case .workerKilled, .workersKilled, .workerTraps, .workerSegfaults, .mainKilled, .workerWithoutMemory,
            .workerOverMemoryLimit, .mainWithoutMemory, .diskFull:
            true
        default: false
        }
    }

    /// Whether this machine lets it happen.
    var isPossible: Bool { self != .workerOverMemoryLimit || MemoryGroup.isAllowed }

    /// Does it, and undoes it.
    func happen(in world: FaultWorld) async throws {
        switch self {
        case .workerKilled: try await world.kill([world.anyWorker()])
        case .workersKilled: try await world.kill(world.daemon.workers)
        case .workerStopped: try await world.pause(world.anyWorker())
        case .workerTraps: try await world.crashWorker("crash", SIGTRAP)
        case .workerSegfaults: try await world.crashWorker("segfault", SIGSEGV)
        case .mainKilled: try await world.killMain()
        case .mainStopped: try await world.pause(world.daemon.program.pid)
        case .loaderKilled: try await world.interruptLoader { kill($0, SIGKILL) }
        case .loaderStopped: try await world.stopLoader()
        case .checkerKilled: try await world.kill([world.helper("checker")].compactMap(\.self))
        case .checkerStopped: if let checker = world.helper("checker") { try await world.pause(checker) }
        case .resolverKilled: try await world.kill([world.helper("resolver")].compactMap(\.self))
        case .resolverStopped: if let resolver = world.helper("resolver") { try await world.pause(resolver) }
        case .workerWithoutDescriptors: try await world.takeDescriptors(from: world.anyWorker())
        case .mainWithoutDescriptors: try await world.takeDescriptors(from: world.daemon.program.pid)
        case .workerWithoutMemory: try await world.takeAddressSpace(from: world.anyWorker())
        case .workerOverMemoryLimit: try await world.limitMemory(of: world.anyWorker())
        case .mainWithoutMemory: try await world.takeAddressSpaceFromMain()
        case .loaderWithoutMemory: try await world.interruptLoader { try await world.takeAddressSpace(fromLoader: $0) }
        case .diskFull: try await world.fillDisk()
        case .journalBlocked: try await world.blockJournal()
        case .journalRestarted: try await world.restartJournal()
        case .backendGone: try await world.interruptBackend()
        case .backendSlow: try await world.slowBackend()
        case .backendMoved: try await world.moveBackend()
        case .nameServerGone: try await world.interruptNameServer()
        case .nameServerSlow: try await world.pause(world.nameServer.pid)
        case .nameServerWrong: try await world.misleadNameServer()
        case .nameServerForges: try await world.replaceNameServerByForger()
        case .clockAhead: try await world.setClock(ahead: 366 * 86_400)
        case .clockBehind: try await world.setClock(ahead: -366 * 86_400)
        case .reloads: try await world.reloadInALoop()
        case .interfaceDown: try await world.network.interrupt(for: .milliseconds(700))
        case .addressRemoved: try await world.network.removeAddress(for: .milliseconds(700))
        case .narrowPath: try await world.narrowPath()
        case .garbage: try await world.sendGarbage()
        case .clientsVanish: for _ in 0..<3 { try await world.replaceClient() }
        case .clientReturns: try await world.returnFromSamePort()
        }
    }
}

extension EndToEndCrowds {
    /// Things break while clients work, in an order that a seed decides. Variables of the environment: `DTLSD_FAULT_SEED`
    /// repeats an order; `DTLSD_FAULTS` names faults, with commas between them, that happen once each in the order given;
    /// else faults follow one another for `DTLSD_FAULT_SECONDS`. What stops does so for up to 5 seconds, from ten minutes
    /// on for up to 20. With `DTLSD_FAULT_REPORT`, a folder, there is a load beside the faults, what stops does so for up to
    /// a minute, and what was measured is there afterwards (`scripts/soak`).
    @Suite(.enabled(if: PrivateNetwork.isAllowed, "networks of its own are root's"))
    struct FaultsTests {
        private static func variable(_ name: String) -> String? { ProcessInfo.processInfo.environment[name] }

        /// The day, so that each has another order, and that all runs of a day have the same.
        private static var seed: UInt64 {
            variable("DTLSD_FAULT_SEED").flatMap { UInt64($0) } ?? UInt64(Date.now.timeIntervalSince1970 / 86_400)
        }

        /// What happens next: faults in an order that the world's seed decides, each before any comes again.
        private struct Sequence {
            private var chosen: [Fault]?
            private var rest: [Fault] = []
            private let end: ContinuousClock.Instant
            /// From then on no process ends of a fault, so that one that grows can be seen to.
            private let calm: ContinuousClock.Instant

            init(faults: String?, seconds: Int, hasCalmHalf: Bool) throws {
                let now = ContinuousClock.now
                end = now + .seconds(seconds)
                calm = hasCalmHalf ? now + .seconds(seconds / 2) : end
                chosen = try faults?.split(separator: ",").map { name in
                    guard let fault = Fault(rawValue: String(name)) else {
                        let all = Fault.allCases.map(\.rawValue).joined(separator: ", ")
                        throw NeverHappened(description: "there is no fault \(name); there are \(all)")
                    }
                    return fault
                }
            }

            mutating func next(_ random: inout SeededGenerator) -> Fault? {
                if chosen != nil { return chosen?.isEmpty == true ? nil : chosen?.removeFirst() }
                let now = ContinuousClock.now
                guard now < end else { return nil }
                if now >= calm { rest.removeAll(where: \.endsProcess) }
                if rest.isEmpty {
                    let possible = Fault.allCases.filter { $0.isPossible && !($0.endsProcess && now >= calm) }
                    rest = possible.shuffled(using: &random)
                }
                return rest.popLast()
            }
        }

        @Test func `all clients are served after each fault`() async throws {
            let seconds = Self.variable("DTLSD_FAULT_SECONDS").flatMap { Int($0) } ?? 60
            let folder = Self.variable("DTLSD_FAULT_REPORT")
            var sequence = try Sequence(
                faults: Self.variable("DTLSD_FAULTS"), seconds: seconds, hasCalmHalf: folder != nil)
            var story: [String] = []
            do {
                let pauses = folder != nil ? FaultWorld.Pauses.long : seconds >= 600 ? .medium : .short
                let world = try await FaultWorld(seed: Self.seed, pauses: pauses)
                try await world.warmUp()
                try await world.fillUp()
                _ = try await world.check()
                var soak: Soak?
                if let folder { soak = try await Soak(in: world, folder: folder, seed: Self.seed, seconds: seconds) }
                while let fault = sequence.next(&world.random) {
                    story.append("\(fault)")
                    try await soak?.begin()
                    world.talk()
                    let start = ContinuousClock.now
                    try await fault.happen(in: world)
                    let wait = try await world.exchange()
                    let outcomes = try await soak?.pause() ?? []
                    _ = try await world.check()
                    print("\(fault): \(ContinuousClock.now - start), of which a client has waited \(wait)")
                    try await soak?.add(fault, wait: wait, outcomes)
                }
                try soak?.finish()
                try await world.stop()
            } catch {
                Issue.record("with DTLSD_FAULT_SEED=\(Self.seed), after \(story.joined(separator: ", ")): \(error)")
            }
        }
    }
}
