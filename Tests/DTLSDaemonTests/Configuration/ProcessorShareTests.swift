import Testing

@testable import DTLSDaemon

@Suite struct ProcessorShareTests {
    @Test(arguments: [
        (8, ["max 100000\n"], 8), (8, ["150000 100000\n"], 2), (8, ["50000 100000"], 1), (8, ["200000 100000"], 2),
        (8, ["1600000 100000"], 8), (8, ["400000 100000", "300000 100000", "max 100000"], 3), (0, [], 1),
        (4, ["0 100000"], 1), (4, ["nonsense"], 4), (4, ["1 0"], 4), (4, ["18446744073709551615 1"], 4),
    ])
    func `the default of workers is what the control groups allow, rounded up`(
        processors: Int, limits: [String], workers: Int
    ) {
        #expect(ProcessorShare.count(processors: processors, limits: limits) == workers)
    }

    @Test func `limits of all groups above the process count`() {
        #expect(
            ProcessorShare.limitFiles(group: "1:name=systemd:/x\n0::/system.slice/dtlsd.service\n") == [
                "/sys/fs/cgroup/system.slice/dtlsd.service/cpu.max", "/sys/fs/cgroup/system.slice/cpu.max",
                "/sys/fs/cgroup/cpu.max",
            ])
        // In a container, and where there is no version 2.
        for group in ["0::/\n", "4:cpu:/docker/1", nil] {
            #expect(ProcessorShare.limitFiles(group: group) == ["/sys/fs/cgroup/cpu.max"])
        }
    }

    @Test func `this process may use at least one processor`() { #expect(ProcessorShare.current() >= 1) }
}
