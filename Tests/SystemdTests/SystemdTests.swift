import Testing

/// The shipped unit with the real daemon under a real systemd, each test in a lab of its own.
@Suite(
    .serialized, .enabled(if: Lab.obstacle == nil, "no systemd can be booted for the test: \(Lab.obstacle ?? "")"))
struct SystemdTests {
    @Test func `the daemon starts, serves and stops`() async throws {
        let lab = try await Lab.withEcho()
        try await lab.boot()
        try await lab.succeed("systemctl start dtlsd")
        #expect(try await lab.property("ActiveState") == "active")
        #expect(try await lab.property("StatusText") != "")
        #expect(try await lab.servedName() == "first")
        #expect(try await lab.servedName(at: "[::1]:4433") == "first")

        try await lab.succeed("systemctl stop dtlsd")
        #expect(try await lab.property("ActiveState") == "inactive")
        #expect(try await lab.property("Result") == "success")
        #expect(try await lab.run("cat \(lab.processes)").status != 0)
        #expect(try await lab.run("ls /run/dtlsd").status != 0)
        for kind in [MessageID.ready, MessageID.stopping] { try await lab.logged { $0["MESSAGE_ID"] == kind } }
        try await lab.stop()
    }

    @Test func `the watchdog replaces a main process that hangs`() async throws {
        let lab = try await Lab.withEcho()
        try lab.write("[Service]\nWatchdogSec=6s\n", to: "/etc/systemd/system/dtlsd.service.d/watchdog.conf")
        try await lab.boot()
        try await lab.succeed("systemctl start dtlsd")
        let process = try await lab.property("MainPID")
        // Longer than the watchdog allows: the daemon's pings arrive.
        let started = try #require(Int(try await lab.property("ActiveEnterTimestampMonotonic")))
        try await lab.wait(for: "systemctl show -P WatchdogTimestampMonotonic dtlsd") {
            Int($0) ?? 0 > started + 7_000_000
        }
        #expect(try await lab.property("NRestarts") == "0")

        try await lab.succeed("kill -STOP \(process)")
        try await lab.wait(for: "systemctl show -P NRestarts dtlsd") { $0 == "1" }
        try await lab.wait(for: "systemctl is-active dtlsd") { $0 == "active" }
        #expect(try await lab.property("MainPID") != process)
        #expect(try await lab.servedName() == "first")
        #expect(try await lab.succeed("journalctl --no-pager -o cat _PID=1").contains("Watchdog timeout"))
        try await lab.stop()
    }

    @Test func `a bad configuration is not tried again`() async throws {
        let lab = try await Lab.withEcho()
        try lab.write("wrokers = 2\n" + Lab.service("echo", listen: nil), to: "/etc/dtlsd/dtlsd.toml")
        try await lab.boot()
        #expect(try await lab.run("systemctl start dtlsd").status != 0)
        #expect(try await lab.property("ExecMainStatus") == "78")
        #expect(try await lab.property("ActiveState") == "failed")
        #expect(try await lab.property("NRestarts") == "0")
        try await lab.logged { $0["MESSAGE"]?.contains("wrokers") == true && $0["PRIORITY"] == "3" }
        try await lab.stop()
    }
}
