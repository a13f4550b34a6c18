import Foundation
import TestSupport

extension Daemon {
    /// How many sockets its processes have open.
    var openSockets: Int { ProcessTable.openSockets(of: program.pid) + workersSockets.reduce(0, +) }

    /// Waits until its processes have as many sockets as before its clients came, and `more`: the others are parked.
    func parked(sockets before: Int, more: Int = 0) async throws {
        try await eventually("the connections are parked", details: "\(openSockets) sockets\n\(program.errors)") {
            openSockets == before + more
        }
    }

    /// The worker with this number.
    func worker(_ number: Int) -> pid_t? { workers.first { ProcessTable.name(of: $0) == "dtlsd: worker \(number)" } }

    /// Kills a worker, and waits until there is another in its place.
    func replaceWorker(_ number: Int = 0) async throws {
        guard let victim = worker(number) else {
            throw NeverHappened(description: "there is no worker \(number) to be killed\n\(program.errors)")
        }
        kill(victim, SIGKILL)
        try await eventually("worker \(number) is replaced", details: program.errors) {
            worker(number).map { $0 != victim } ?? false
        }
    }
}
