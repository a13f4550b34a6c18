import Testing

/// Reloads of the shipped unit, and the copies of credentials that they make.
@Suite(
    .serialized, .enabled(if: Lab.obstacle == nil, "no systemd can be booted for the test: \(Lab.obstacle ?? "")"))
struct SystemdReloadTests {
    @Test func `a reload serves the renewed certificate`() async throws {
        let lab = try await Lab.withEcho()
        try await lab.boot()
        try await lab.succeed("systemctl start dtlsd")
        let process = try await lab.property("MainPID")
        #expect(try await lab.servedName() == "first")
        for name in ["second", "third"] {
            try await lab.renew("echo", commonName: name)
            try await lab.succeed("systemctl reload dtlsd")
            // At once: a reload has not finished before the daemon has taken it.
            #expect(try await lab.servedName() == name)
        }
        #expect(try await lab.property("MainPID") == process)
        #expect(try await lab.property("ActiveState") == "active")
        #expect(try await lab.logged(2) { $0["MESSAGE_ID"] == MessageID.reloaded }.count == 2)
        #expect(try await lab.run("ls -d /run/.dtlsd-credentials.*").status != 0)

        // Started again it has what is on disk, with nothing left of the copies.
        try await lab.renew("echo", commonName: "fourth")
        try await lab.succeed("systemctl restart dtlsd")
        #expect(try await lab.servedName() == "fourth")
        #expect(try await lab.run("ls /run/dtlsd/credentials").status != 0)
        try await lab.stop()
    }

    @Test func `systemctl reload lasts until the daemon has applied the configuration`() async throws {
        let lab = try await Lab.withEcho()
        try await lab.boot()
        try await lab.succeed("systemctl start dtlsd")
        let process = try await lab.property("MainPID")
        try await lab.succeed("kill -STOP \(process) && systemctl reload --no-block dtlsd")
        // SIGHUP, the lowest bit, is pending, and the process that sent it has ended.
        try await lab.wait(for: "sed -n 's/^ShdPnd:.*\\(.\\)$/\\1/p' /proc/\(process)/status") { $0 == "1" }
        try await lab.wait(for: "systemctl show -P ControlPID dtlsd") { $0 == "0" }
        #expect(try await lab.property("ActiveState") == "reloading")
        try await lab.succeed("kill -CONT \(process)")
        try await lab.wait(for: "systemctl is-active dtlsd") { $0 == "active" }
        try await lab.logged { $0["MESSAGE_ID"] == MessageID.reloaded }
        try await lab.stop()
    }

    @Test func `a reload with a key that does not fit fails and changes nothing`() async throws {
        let lab = try await Lab.withEcho()
        try await lab.boot()
        try await lab.succeed("systemctl start dtlsd")
        let process = try await lab.property("MainPID")
        // As when the ACME client has written one of two files.
        try await lab.prepare("cp -P etc/letsencrypt/live/echo/privkey.pem old-key")
        try await lab.renew("echo", commonName: "second")
        try await lab.prepare("mv old-key etc/letsencrypt/live/echo/privkey.pem")
        #expect(try await lab.run("systemctl reload dtlsd").status != 0)
        #expect(try await lab.property("ActiveState") == "active")
        #expect(try await lab.servedName() == "first")
        // A source that is missing, too.
        try await lab.prepare("rm etc/letsencrypt/live/echo/privkey.pem")
        #expect(try await lab.run("systemctl reload dtlsd").status != 0)
        #expect(try await lab.servedName() == "first")
        // A signal by hand is refused by the daemon itself.
        try await lab.succeed("echo nonsense >>/etc/dtlsd/dtlsd.toml; systemctl kill --kill-whom=main -s HUP dtlsd")
        try await lab.wait(for: "journalctl --no-pager -o cat MESSAGE_ID=\(MessageID.reloadFailed)") { !$0.isEmpty }
        #expect(try await lab.servedName() == "first")

        try await lab.renew("echo", commonName: "third")
        try await lab.succeed("sed -i '/nonsense/d' /etc/dtlsd/dtlsd.toml; systemctl reload dtlsd")
        #expect(try await lab.servedName() == "third")
        #expect(try await lab.property("MainPID") == process)
        try await lab.stop()
    }

    @Test func `no other user can read the key`() async throws {
        let lab = try await Lab.withEcho()
        try await lab.boot()
        try await lab.succeed("systemctl start dtlsd")
        try await lab.renew("echo", commonName: "second")
        try await lab.succeed("systemctl reload dtlsd")
        #expect(try await lab.servedName() == "second")

        let owner = try await lab.succeed("stat -c %u /proc/$(systemctl show -P MainPID dtlsd)")
        // DynamicUser= takes one of these.
        #expect((61_184...65_519).contains(Int(owner) ?? 0), "\(owner)")
        let processes = try await lab.succeed("for p in $(cat \(lab.processes)); do stat -c %u /proc/$p; done").split(
            separator: "\n")
        #expect(processes.count >= 3)
        #expect(Set(processes) == [owner[...]])
        let files = try await lab.succeed("stat -c '%n %a %u' /run/dtlsd/credentials/*").split(separator: "\n")
        #expect(
            files == [
                "/run/dtlsd/credentials/echo.crt 400 \(owner)", "/run/dtlsd/credentials/echo.key 400 \(owner)",
            ])
        // The service's user can read them, another user cannot: neither these, nor systemd's, nor the source.
        let key = "/run/dtlsd/credentials/echo.key"
        #expect(try await lab.run("setpriv --reuid=\(owner) --clear-groups cat \(key)").text.contains("PRIVATE KEY"))
        for path in [key, "/run/credentials/dtlsd.service/echo.key", "/etc/letsencrypt/live/echo/privkey.pem"] {
            let output = try await lab.run("setpriv --reuid=65534 --regid=65534 --clear-groups cat \(path)")
            #expect(output.status != 0, "\(path)")
            #expect(!output.text.contains("PRIVATE KEY"), "\(path)")
        }
        // Nor does it show in the journal.
        #expect(!(try await lab.succeed("journalctl --no-pager").contains("PRIVATE KEY")))
        try await lab.stop()
    }

    @Test func `the service's user cannot redirect the reload`() async throws {
        let lab = try await Lab.withEcho()
        try await lab.boot()
        try await lab.succeed("systemctl start dtlsd")
        let owner = try await lab.succeed("stat -c %u /run/dtlsd")
        let asUser = "setpriv --reuid=\(owner) --regid=\(owner) --clear-groups sh -c"
        try await lab.succeed("mkdir -m 755 /srv/target && echo precious >/srv/target/echo.key")
        try await lab.succeed("\(asUser) 'ln -s /srv/target /run/dtlsd/credentials'")
        try await lab.renew("echo", commonName: "second")
        try await lab.succeed("systemctl reload dtlsd")
        #expect(try await lab.servedName() == "second")
        #expect(try await lab.succeed("cat /srv/target/echo.key") == "precious")
        #expect(try await lab.succeed("stat -c '%u %a' /srv/target /srv/target/echo.key") == "0 755\n0 644")
        try await lab.stop()
    }
}
