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
        // SIGHUP, the lowest bit, is pending.
        try await lab.wait(for: "sed -n 's/^ShdPnd:.*\\(.\\)$/\\1/p' /proc/\(process)/status") { $0 == "1" }
        // What else the daemon may have to say is not taken for the end of the reload.
        try await lab.succeed("sleep 1")
        #expect(try await lab.property("ActiveState") == "reloading")
        #expect(try await lab.succeed("systemctl list-jobs --no-legend").contains("dtlsd.service"))
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
        // What only the daemon can find out: RFC 5737's addresses belong to no machine.
        try await lab.renew("echo", commonName: "first-again")
        try await lab.succeed("cp /etc/dtlsd/dtlsd.toml /root/; sed -i 's/\\[::1\\]/192.0.2.1/' /etc/dtlsd/dtlsd.toml")
        #expect(try await lab.run("systemctl reload dtlsd").status != 0)
        #expect(try await lab.property("ActiveState") == "active")
        #expect(try await lab.property("StatusText").contains("the last reload failed"))
        #expect(try await lab.servedName() == "first")
        try await lab.succeed("cp /root/dtlsd.toml /etc/dtlsd/")
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

    /// Each kind of credential that systemd.exec(5) has.
    @Test func `credentials of every kind are there after a reload`() async throws {
        let lab = try await Lab.withEcho()
        for (name, port) in [("set", 5_001), ("encrypted", 5_002), ("imported", 5_003)] {
            try await lab.renew(name, commonName: name)
            try lab.write(
                Lab.service(name, listen: "\"127.0.0.1:\(port)\""), to: "/root/services/\(name).toml")
        }
        try await lab.boot()
        let version = try #require(
            Int(try await lab.succeed("systemctl --version | sed -n '1s/systemd \\([0-9]*\\).*/\\1/p'")))
        let kinds = version < 254 ? ["set", "encrypted"] : ["set", "encrypted", "imported"]
        try await lab.succeed(
            """
            cd /etc/letsencrypt/live
            {
                echo '[Service]'
                for file in crt:fullchain key:privkey; do
                    printf 'SetCredential=set.%s:%s\\n' "${file%:*}" "$(sed 's/$/\\\\n/' "set/${file#*:}.pem" | tr -d '\\n')"
                    echo "LoadCredentialEncrypted=encrypted.${file%:*}:/root/encrypted.${file%:*}"
                    install -D -m 600 imported/${file#*:}.pem /etc/credstore/imported.${file%:*}
                done
                \(kinds.contains("imported") ? "echo 'ImportCredential=imported.*'" : ":")
            } >/etc/systemd/system/dtlsd.service.d/kinds.conf
            cat \(kinds.map { "/root/services/\($0).toml" }.joined(separator: " ")) >>/etc/dtlsd/dtlsd.toml
            \(Self.encrypt)
            systemctl daemon-reload
            systemctl start dtlsd
            """)
        let ports = ["set": 5_001, "encrypted": 5_002, "imported": 5_003]
        for kind in kinds { #expect(try await lab.servedName(at: "127.0.0.1:\(ports[kind] ?? 0)") == kind) }

        try await lab.renew("echo", commonName: "second")
        try await lab.renew("encrypted", commonName: "renewed")
        try await lab.succeed("\(Self.encrypt); systemctl reload dtlsd")
        #expect(try await lab.servedName() == "second")
        for kind in kinds {
            let expected = kind == "encrypted" ? "renewed" : kind
            #expect(try await lab.servedName(at: "127.0.0.1:\(ports[kind] ?? 0)") == expected)
        }
        try await lab.stop()
    }

    /// Encrypts what LoadCredentialEncrypted= loads.
    private static let encrypt = """
        for file in crt:fullchain key:privkey; do
            systemd-creds --with-key=host --name=encrypted.${file%:*} encrypt \
                /etc/letsencrypt/live/encrypted/${file#*:}.pem /root/encrypted.${file%:*} 2>/dev/null
        done
        """

    @Test func `a unit without credentials reloads, too`() async throws {
        let lab = try await Lab.withEcho()
        try lab.write("", to: "/etc/systemd/system/dtlsd.service.d/credentials.conf")
        func client(_ port: Int) throws {
            try lab.write(
                """
                [client.out]
                listen = "127.0.0.1:\(port)"
                connect = "127.0.0.1:4433"
                verify = false

                """, to: "/etc/dtlsd/dtlsd.toml")
        }
        try client(4_500)
        try await lab.boot()
        try await lab.succeed("systemctl start dtlsd")
        try client(4_501)
        try await lab.succeed("systemctl reload dtlsd")
        #expect(try await lab.succeed("ss -Hlun").contains("127.0.0.1:4501"))
        #expect(try await lab.run("ls /run/dtlsd/credentials").status != 0)
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
