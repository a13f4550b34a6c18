import DTLSTransport
import Glibc
import LinuxSystem
import Primitives

/// The end of a worker, until it is known what has become of its connections.
struct WorkerDeath {
    let number: Int
    let pid: pid_t
    /// The number of the ``SlotTable`` with its connections.
    let table: Int
    let ending: ChildProcess.Ending
    /// What follows from it, for the log.
    let consequence: String
    /// Whether the worker was to end, so that this is worth no line where it had no connections.
    let isExpected: Bool

    /// What the log says.
    /// - Parameter admission: knows the names of services.
    func entries(_ survival: SlotReview.Survival, _ admission: Admission) -> [WorkerPool.Action] {
        (survival.poison.map { [poisoned($0, admission.name(of: $0.target))] } ?? []) + [entry(survival)]
    }

    private func entry(_ survival: SlotReview.Survival) -> WorkerPool.Action {
        var lost = "\(survival.lost) \(survival.lost == 1 ? "is" : "are") lost"
        var reasons: [String] = []
        if survival.handshaking > 0 {
            reasons.append(
                "\(survival.handshaking) \(survival.handshaking == 1 ? "was in its" : "were in their") handshake")
        }
        if survival.bound > 0 {
            reasons.append(
                counted(survival.bound, "uses AES-CBC or allows", "use AES-CBC or allow")
                    + " renegotiation, so that its state was in the process")
        }
        if survival.poison != nil { reasons.append("1 is ended, since a worker has died on it twice") }
        if !reasons.isEmpty { lost += " (\(reasons.joined(separator: ", ")))" }
        return .log(
            .workerDied,
            "worker \(number) \(ending): \(counted(survival.kept, "connection is", "connections are")) kept, \(lost); \(consequence)",
            fields: [
                "WORKER": "\(number)", "WORKER_PID": "\(pid)", "CONNECTIONS_LOST": "\(survival.lost)",
                "CONNECTIONS_KEPT": "\(survival.kept)", "ENDING": "\(ending)",
            ])
    }

    private func poisoned(_ poison: (flow: FlowKey, target: UInt64), _ name: String?) -> WorkerPool.Action {
        .log(
            .workerDied,
            "the connection of \(poison.flow.peer)\(name.map { " with service \($0)" } ?? "") is ended: worker"
                + " \(number) has died twice within \(ConnectionTable.deathInterval.seconds) s while it worked on it",
            fields: ["WORKER": "\(number)", "PEER": "\(poison.flow.peer)"].merging(
                name.map { ["SERVICE": $0] } ?? [:], uniquingKeysWith: { first, _ in first }))
    }
}
