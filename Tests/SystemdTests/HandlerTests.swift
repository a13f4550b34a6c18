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

    private func lab(_ services: String..., dropIn: String = "") async throws -> Lab {
        let lab = try await Lab.withEcho()
        try lab.write("workers = 1\n" + services.joined(), to: "/etc/dtlsd/dtlsd.toml")
        try lab.write("[Service]\n\(dropIn)\n", to: "/etc/systemd/system/dtlsd.service.d/handlers.conf")
        try await lab.boot()
        try await lab.succeed("systemctl start dtlsd")
        return lab
    }

    /// A program runs as the daemon's user, with its limits, and sees neither the service manager nor the journal.
    @Test func `a program runs in the sandbox`() async throws {
        let script = "ulimit -v; ulimit -n; ulimit -t; id -u; env; cat /proc/self/cgroup; exec cat"
        let lab = try await lab(
            service(
                "run", port: 4433,
                "handler = \"exec\"\nexec.command = [\"/bin/sh\", \"-c\", \"\(script)\"]\nexec.memory = 64\n"
                    + "exec.open_files = 17\nexec.cpu_time = 9"))
        let said = try await lab.run(
            """
            mkfifo /root/input
            timeout -s KILL 60 openssl s_client -dtls1_2 -nbio -connect 127.0.0.1:4433 -quiet -no_ign_eof \
                </root/input >/root/output 2>/dev/null &
            exec 3>/root/input
            echo hello >&3
            while kill -0 $! && ! grep -qx hello /root/output; do sleep 0.05; done
            exec 3>&-
            wait
            cat /root/output
            """
        ).text.split(separator: "\n").map(String.init)
        let user = try await lab.succeed("stat -c %u /proc/\(await lab.property("MainPID"))")
        #expect(Array(said.prefix(4)) == ["65536", "17", "9", user])
        #expect(said.contains("DTLSD_SERVICE=run") && said.contains("hello"))
        #expect(said.contains { $0.hasSuffix("/dtlsd.service") })
        for name in ["NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY", "JOURNAL_STREAM", "RUNTIME_DIRECTORY", "WATCHDOG_USEC"] {
            #expect(!said.contains { $0.hasPrefix(name + "=") })
        }
        try await lab.wait(for: "cat \(lab.processes) | wc -l") { $0 == "3" }
        #expect(try await !lab.journal().contains { $0["MESSAGE"]?.contains("the program of") == true })
        try await lab.stop()
    }

    /// A collector: by itself into the journal, by way of /dev/log, and into a file of the folder that it is given.
    @Test func `messages reach the journal and the file`() async throws {
        let lab = try await lab(
            service("direct", port: 4433, "handler = \"log\"\nlog.format = \"syslog\""),
            service("passed", port: 4434, "handler = \"log\"\nlog.to = \"syslog\""),
            service("file", port: 4435, "handler = \"log\"\nlog.to = \"file:/var/log/dtlsd/messages\""),
            dropIn: "LogsDirectory=dtlsd")
        let message = "<11>Feb  5 17:32:18 app[77]: hello"
        for port in 4_433...4_435 {
            try await lab.succeed(
                """
                printf '%s' '\(message)' | timeout -s KILL 60 openssl s_client -dtls1_2 -quiet -no_ign_eof \
                    -connect 127.0.0.1:\(port)
                """)
        }
        try await lab.wait(for: "journalctl -q --no-pager -o cat -t app | wc -l") { $0 == "2" }
        let direct = try await lab.logged { $0["SERVICE"] == "direct" && $0["MESSAGE"] == "hello" }[0]
        #expect(direct["_TRANSPORT"] == "journal")
        #expect(direct["PRIORITY"] == "3" && direct["SYSLOG_FACILITY"] == "1" && direct["SYSLOG_PID"] == "77")
        #expect(direct["PEER"]?.hasPrefix("127.0.0.1:") == true)
        let passed = try await lab.logged { $0["_TRANSPORT"] == "syslog" }[0]
        #expect(passed["MESSAGE"] == "hello" && passed["PRIORITY"] == "3" && passed["SYSLOG_PID"] == "77")
        try await lab.wait(for: "cat /var/log/dtlsd/messages") { $0.hasSuffix(" - " + message) }

        // logrotate's way.
        try await lab.succeed("mv /var/log/dtlsd/messages /var/log/dtlsd/messages.1; systemctl reload dtlsd")
        try await lab.succeed(
            """
            echo again | timeout -s KILL 60 openssl s_client -dtls1_2 -quiet -no_ign_eof \
                -connect 127.0.0.1:4435
            """)
        try await lab.wait(for: "cat /var/log/dtlsd/messages") { $0.hasSuffix(" - again") }
        try await lab.stop()
    }

    /// journald stops reading, ends with its sockets, and is restarted, while more is logged than its queue takes.
    @Test func `clients are served whatever becomes of the journal`() async throws {
        let lab = try await lab(
            service("echo", port: 4433, "handler = \"echo\""), service("log", port: 4434, "handler = \"log\""))
        let journald = try await lab.succeed("systemctl show -P MainPID systemd-journald")
        let units = "systemd-journald.socket systemd-journald-dev-log.socket systemd-journald.service"
        try await lab.startClient("one")
        func say(_ text: String) async throws {
            try await lab.succeed(
                "\(text) | timeout -s KILL 60 openssl s_client -dtls1_2 -quiet -no_ign_eof -connect 127.0.0.1:4434")
        }
        for (name, breaking, mending) in [
            ("blocked", "kill -STOP \(journald)", "kill -CONT \(journald)"),
            ("gone", "systemctl stop \(units)", "systemctl start \(units)"),
            ("restarted", "systemctl restart systemd-journald", "true"),
        ] {
            try await lab.succeed(breaking)
            try await lab.exchange("one, \(name)", "one")
            try await say("for i in $(seq 400); do echo \"message $i\"; sleep 0.002; done")
            try await lab.exchange("two, \(name)", "one")
            #expect(try await lab.servedName() == "first")
            try await lab.succeed(mending)
            try await lab.exchange("three, \(name)", "one")
            try await say("echo after-\(name)")
            try await lab.wait(for: "journalctl -q --no-pager -o cat -t log | grep -c '^after-\(name)$'") {
                $0 == "1"
            }
        }
        try await lab.stop()
    }

    @Test func `the journal has the fields of a connection`() async throws {
        let lab = try await Lab.withEcho()
        try await lab.boot()
        try await lab.succeed("systemctl start dtlsd")
        #expect(try await lab.servedName() == "first")
        let command = "journalctl --no-pager -o json MESSAGE_ID=\(MessageID.connectionClosed)"
        try await lab.wait(for: command) { $0.contains("\n") == false && $0.hasPrefix("{") }
        let opened = try #require(try await lab.journal().first { $0["MESSAGE_ID"] == MessageID.connectionOpened })
        #expect(opened["SERVICE"] == "echo")
        #expect(opened["PEER"]?.hasPrefix("127.0.0.1:") == true)
        #expect(opened["WORKER"].flatMap { Int($0) } != nil)
        #expect(opened["CIPHER"]?.isEmpty == false)
        #expect(opened["HANDSHAKE_USEC"].flatMap { Int($0) } != nil)
        #expect(opened["PRIORITY"] == "6")
        #expect(opened["SYSLOG_IDENTIFIER"] == "dtlsd")
        #expect(opened["_SYSTEMD_UNIT"] == "dtlsd.service")
        // Not by way of standard error.
        #expect(opened["_TRANSPORT"] == "journal")
        try await lab.stop()
    }
}
