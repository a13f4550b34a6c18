import Testing

/// Programs and logs inside the unit's sandbox.
@Suite(
    .serialized, .enabled(if: Lab.obstacle == nil, "no systemd can be booted for the test: \(Lab.obstacle ?? "")"))
struct HandlerTests {
    private func service(_ name: String, port: Int, _ handler: String) -> String {
        """
        [service.\(name)]
        listen = "127.0.0.1:\(port)"
        certificate = "credential:echo.crt"
        private_key = "credential:echo.key"
        \(handler)

        """
    }

    private func lab(_ services: String..., dropIn: String = "") throws -> Lab {
        let lab = try Lab.withEcho()
        try lab.write("workers = 1\n" + services.joined(), to: "/etc/dtlsd/dtlsd.toml")
        try lab.write("[Service]\n\(dropIn)\n", to: "/etc/systemd/system/dtlsd.service.d/handlers.conf")
        try lab.boot()
        try lab.succeed("systemctl start dtlsd")
        return lab
    }

    /// A program runs as the daemon's user, with its limits, and sees neither the service manager nor the journal.
    @Test func aProgramRunsInTheSandbox() throws {
        let script = "ulimit -v; ulimit -n; ulimit -t; id -u; env; cat /proc/self/cgroup; exec cat"
        let lab = try lab(
            service(
                "run", port: 4433,
                "handler = \"exec\"\nexec.command = [\"/bin/sh\", \"-c\", \"\(script)\"]\nexec.memory = 64\n"
                    + "exec.open_files = 17\nexec.cpu_time = 9"))
        let said = try lab.run(
            """
            (echo hello; sleep 2) | timeout -s KILL 20 openssl s_client -dtls1_2 -connect 127.0.0.1:4433 -quiet \
                -no_ign_eof 2>/dev/null
            """
        ).text.split(separator: "\n").map(String.init)
        let user = try lab.succeed("stat -c %u /proc/\(lab.property("MainPID"))")
        #expect(Array(said.prefix(4)) == ["65536", "17", "9", user])
        #expect(said.contains("DTLSD_SERVICE=run") && said.contains("hello"))
        #expect(said.contains { $0.hasSuffix("/dtlsd.service") })
        for name in ["NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY", "JOURNAL_STREAM", "RUNTIME_DIRECTORY", "WATCHDOG_USEC"] {
            #expect(!said.contains { $0.hasPrefix(name + "=") })
        }
        try lab.wait(for: "cat \(lab.processes) | wc -l") { $0 == "2" }
        #expect(try !lab.journal().contains { $0["MESSAGE"]?.contains("the program of") == true })
        try lab.stop()
    }

    /// A collector: by itself into the journal, by way of /dev/log, and into a file of the folder that it is given.
    @Test func messagesReachTheJournalAndTheFile() throws {
        let lab = try lab(
            service("direct", port: 4433, "handler = \"log\"\nlog.format = \"syslog\""),
            service("passed", port: 4434, "handler = \"log\"\nlog.to = \"syslog\""),
            service("file", port: 4435, "handler = \"log\"\nlog.to = \"file:/var/log/dtlsd/messages\""),
            dropIn: "LogsDirectory=dtlsd")
        let message = "<11>Feb  5 17:32:18 app[77]: hello"
        for port in 4_433...4_435 {
            try lab.succeed(
                """
                (printf '%s' '\(message)'; sleep 1) | timeout -s KILL 20 openssl s_client -dtls1_2 -quiet -no_ign_eof \
                    -connect 127.0.0.1:\(port)
                """)
        }
        try lab.wait(for: "journalctl -q --no-pager -o cat -t app | wc -l") { $0 == "2" }
        let direct = try #require(try lab.journal().first { $0["SERVICE"] == "direct" && $0["MESSAGE"] == "hello" })
        #expect(direct["_TRANSPORT"] == "journal")
        #expect(direct["PRIORITY"] == "3" && direct["SYSLOG_FACILITY"] == "1" && direct["SYSLOG_PID"] == "77")
        #expect(direct["PEER"]?.hasPrefix("127.0.0.1:") == true)
        let passed = try #require(try lab.journal().first { $0["_TRANSPORT"] == "syslog" })
        #expect(passed["MESSAGE"] == "hello" && passed["PRIORITY"] == "3" && passed["SYSLOG_PID"] == "77")
        try lab.wait(for: "cat /var/log/dtlsd/messages") { $0.hasSuffix(" - " + message) }

        // logrotate's way.
        try lab.succeed("mv /var/log/dtlsd/messages /var/log/dtlsd/messages.1; systemctl reload dtlsd")
        try lab.succeed(
            """
            (echo again; sleep 1) | timeout -s KILL 20 openssl s_client -dtls1_2 -quiet -no_ign_eof \
                -connect 127.0.0.1:4435
            """)
        try lab.wait(for: "cat /var/log/dtlsd/messages") { $0.hasSuffix(" - again") }
        try lab.stop()
    }
}
