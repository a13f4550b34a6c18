import LinuxSystem
import Testing

@testable import DTLSDaemon

@Suite struct WorkerNeedsTests {
    @Test func `walls for some needs are wide enough for fewer, and not for others`() {
        let echo = WorkerNeeds()
        let forward = WorkerNeeds(internetSockets: true)
        let log = WorkerNeeds(unixSockets: true, logFolders: ["/var/log/a"])
        let programs = WorkerNeeds(programs: true)
        for needs in [echo, forward, log, programs] {
            #expect(needs.cover(needs) && needs.cover(echo) && programs.cover(needs))
        }
        #expect(!echo.cover(forward) && !echo.cover(log) && !forward.cover(log) && !log.cover(forward))
        #expect(!log.cover(programs))
        #expect(!log.cover(WorkerNeeds(logFolders: ["/var/log/a", "/var/log/b"])))
        var low = forward
        low.lowPorts = true
        #expect(low.cover(forward) && !forward.cover(low) && !programs.cover(low))
    }

    @Test func `what workers of two kinds can serve is what both can`() {
        let one = WorkerNeeds(internetSockets: true, unixSockets: true, logFolders: ["/a", "/b"])
        let other = WorkerNeeds(unixSockets: true, logFolders: ["/b", "/c"])
        #expect(one.common(with: other) == WorkerNeeds(unixSockets: true, logFolders: ["/b"]))
        #expect(one.common(with: WorkerNeeds(programs: true)) == one)
        #expect(WorkerNeeds(programs: true).common(with: one) == one)
    }
}
