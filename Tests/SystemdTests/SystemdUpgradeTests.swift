import Testing

/// What a client notices when the daemon is restarted, killed, upgraded or stopped.
@Suite(
    .serialized, .enabled(if: Lab.obstacle == nil, "no systemd can be booted for the test: \(Lab.obstacle ?? "")"))
struct SystemdUpgradeTests {
    /// A lab whose daemon runs from a path that can be written to, and serves a client.
    private func bootedLab() async throws -> Lab {
        let lab = try await Lab.withEcho()
        try lab.write(
            """
            [Service]
            ExecStart=
            ExecStart=/opt/dtlsd --config /etc/dtlsd/dtlsd.toml

            """, to: "/etc/systemd/system/dtlsd.service.d/program.conf")
        try await lab.boot()
        try await lab.succeed("mkdir -p /opt && cp /usr/sbin/dtlsd /opt/dtlsd && systemctl start dtlsd")
        return lab
    }

    /// Puts another file in the place of the program, as a package manager does.
    private func replaceProgram(_ lab: Lab, by command: String = "cp /usr/sbin/dtlsd /opt/new") async throws {
        try await lab.succeed("\(command) && chmod 755 /opt/new && mv /opt/new /opt/dtlsd")
    }

    @Test func `a restart keeps connections`() async throws {
        let lab = try await bootedLab()
        try await lab.startClient("one")
        try await lab.startClient("two", at: "[::1]:4433")
        for client in ["one", "two"] { try await lab.exchange("before", client) }
        for round in ["first", "second"] {
            let process = try await lab.property("MainPID")
            try await lab.succeed("systemctl restart dtlsd")
            #expect(try await lab.property("MainPID") != process)
            for client in ["one", "two"] { try await lab.exchange("after the \(round)", client) }
        }
        try await lab.stop()
    }

    @Test func `a main process that is killed loses no connection`() async throws {
        let lab = try await bootedLab()
        try await lab.startClient("one")
        try await lab.exchange("before", "one")
        try await lab.succeed("systemctl kill --kill-whom=main --signal=KILL dtlsd")
        try await lab.wait(for: "systemctl show -p ActiveState -p NRestarts dtlsd") {
            $0.contains("ActiveState=active") && $0.contains("NRestarts=1")
        }
        try await lab.exchange("after", "one")
        try await lab.stop()
    }

    @Test func `a stop closes connections`() async throws {
        let lab = try await bootedLab()
        try await lab.startClient("one")
        try await lab.exchange("before", "one")
        try await lab.succeed("systemctl stop dtlsd")
        // s_client ends with 0 after close_notify alone.
        try await lab.wait(for: "cat /root/one.status") { !$0.contains("No such file") }
        #expect(try await lab.succeed("cat /root/one.status") == "0")
        #expect(try await lab.property("NFileDescriptorStore") == "0")
        try await lab.stop()
    }

    @Test func `a reload after the program was replaced upgrades the daemon and keeps connections`() async throws {
        let lab = try await bootedLab()
        try await lab.startClient("one")
        try await lab.exchange("before", "one")
        // A reload of the same program does not.
        var process = try await lab.property("MainPID")
        try await lab.succeed("systemctl reload dtlsd")
        #expect(try await lab.property("MainPID") == process)
        for round in ["first", "second"] {
            try await replaceProgram(lab)
            try await lab.succeed("systemctl reload dtlsd")
            let successor = try await lab.property("MainPID")
            #expect(successor != process)
            #expect(try await lab.succeed("readlink /proc/\(successor)/exe") == "/opt/dtlsd")
            #expect(try await lab.property("ActiveState") == "active")
            #expect(try await lab.property("NRestarts") == "0")
            #expect(try await lab.run("test -e /proc/\(process)/exe").status != 0)
            try await lab.exchange("after the \(round)", "one")
            #expect(try await lab.servedName() == "first")
            process = successor
        }
        // The new main process is watched over as the first one was.
        try await lab.succeed("kill -KILL \(process)")
        try await lab.wait(for: "systemctl show -p ActiveState -p NRestarts dtlsd") {
            $0.contains("ActiveState=active") && $0.contains("NRestarts=1")
        }
        try await lab.exchange("after a kill", "one")
        try await lab.succeed("systemctl stop dtlsd")
        #expect(try await lab.property("Result") == "success")
        #expect(try await lab.run("cat \(lab.processes)").status != 0)
        try await lab.stop()
    }

    @Test func `sockets of a socket unit are passed on by an upgrade`() async throws {
        let lab = try await Lab.withEcho(listen: nil)
        try await lab.boot()
        try await lab.succeed("systemctl start dtlsd.socket dtlsd.service")
        try await lab.startClient("one")
        try await lab.exchange("before", "one")
        let process = try await lab.property("MainPID")
        try await lab.succeed("kill -USR2 \(process)")
        try await lab.wait(for: "systemctl show -P MainPID dtlsd") { $0 != process }
        try await lab.exchange("after", "one")
        #expect(try await lab.servedName() == "first")
        #expect(try await lab.servedName(at: "[::1]:4433") == "first")
        try await lab.stop()
    }

    @Test func `a new program that cannot serve leaves the old one serving, and the log says why`() async throws {
        let lab = try await bootedLab()
        try await lab.startClient("one")
        try await lab.exchange("before", "one")
        let process = try await lab.property("MainPID")
        func expectOldProgram(_ reason: String) async throws {
            try await lab.logged {
                $0["MESSAGE_ID"] == MessageID.upgradeFailed && $0["MESSAGE"]?.contains(reason) == true
            }
            #expect(try await lab.property("MainPID") == process)
            #expect(try await lab.property("ActiveState") == "active")
            #expect(try await lab.property("StatusText").contains(reason))
            #expect(try await lab.run("pgrep -f '[d]tlsd: main process'").status != 0)
            try await lab.exchange(reason, "one")
            #expect(try await lab.servedName() == "first")
        }
        // It is no program for this machine.
        try await replaceProgram(lab, by: "printf 'no program' >/opt/new")
        try await lab.succeed("kill -USR2 \(process)")
        try await expectOldProgram("cannot be started")
        // It ends at once.
        try await replaceProgram(lab, by: "cp /usr/bin/false /opt/new")
        try await lab.succeed("kill -USR2 \(process)")
        try await expectOldProgram("has ended before it served")
        // It refuses the configuration.
        try await replaceProgram(lab)
        try await lab.succeed("echo 'nonsense = 1' >>/etc/dtlsd/dtlsd.toml; kill -USR2 \(process)")
        try await expectOldProgram("nonsense")
        try await lab.succeed("sed -i '/nonsense/d' /etc/dtlsd/dtlsd.toml && systemctl reload dtlsd")
        #expect(try await lab.property("MainPID") != process)
        try await lab.exchange("after", "one")
        try await lab.stop()
    }

    @Test func `a reload and a stop during an upgrade are for the process that serves in the end`() async throws {
        let lab = try await bootedLab()
        let process = try await lab.property("MainPID")
        try await lab.renew("echo", commonName: "second")
        try await lab.succeed("kill -USR2 \(process) && kill -USR2 \(process) && kill -HUP \(process)")
        try await lab.wait(for: "systemctl show -P MainPID dtlsd") { $0 != process && $0 != "0" }
        try await lab.logged { $0["MESSAGE_ID"] == MessageID.reloaded }
        let successor = try await lab.property("MainPID")
        try await lab.succeed("kill -USR2 \(successor); systemctl stop dtlsd")
        #expect(try await lab.property("Result") == "success")
        #expect(try await lab.run("cat \(lab.processes)").status != 0)
        try await lab.stop()
    }

    @Test func `listening sockets are stored for as long as the configuration has them`() async throws {
        let lab = try await Lab.withEcho()
        try await lab.boot()
        try await lab.succeed("systemctl start dtlsd")
        func stored() async throws -> Int { Int(try await lab.property("NFileDescriptorStore")) ?? -1 }
        let before = try await stored()
        try await lab.succeed("sed -i 's/, \"\\[::1\\]:4433\"//' /etc/dtlsd/dtlsd.toml && systemctl reload dtlsd")
        try await lab.wait(for: "systemctl show -P NFileDescriptorStore dtlsd") { Int($0) == before - 1 }
        // Nobody has the port, systemd neither.
        #expect(try await lab.run("grep -i ':1151 ' /proc/net/udp6").text == "")
        try await lab.succeed("systemctl restart dtlsd")
        #expect(try await lab.servedName() == "first")
        #expect(try await stored() == before - 1)
        try await lab.stop()
    }
}

extension Lab {
    /// Starts a client with a name that sends what is appended to `/root/NAME.in`, and writes answers to
    /// `/root/NAME.out`. When it ends, its exit status is in `/root/NAME.status`.
    func startClient(_ name: String, at address: String = "127.0.0.1:4433") async throws {
        try await succeed(
            """
            : >/root/\(name).in
            systemd-run --quiet --unit=client-\(name) sh -c 'tail -f /root/\(name).in |
                openssl s_client -quiet -nbio -dtls1_2 -connect "\(address)" >/root/\(name).out 2>/root/\(name).err
                echo $? >/root/\(name).status'
            """)
    }

    /// Has a client send a line, and waits until it comes back. A datagram that is lost is not sent again.
    func exchange(_ line: String, _ client: String) async throws {
        try await succeed("echo '\(line)' >>/root/\(client).in")
        try await wait(for: "cat /root/\(client).out") { $0.contains(line) }
    }
}
