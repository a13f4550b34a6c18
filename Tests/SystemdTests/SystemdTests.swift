import Foundation
import Testing

/// The shipped units with the real daemon under a real systemd, each test in a lab of its own.
@Suite(
    .serialized, .enabled(if: Lab.obstacle == nil, "no systemd can be booted for the test: \(Lab.obstacle ?? "")"))
struct SystemdTests {
    @Test func theUnitsAreSoundAndTheSandboxIsTight() throws {
        let lab = try Lab.withEcho()
        try lab.boot()
        for unit in ["dtlsd.service", "dtlsd.socket"] {
            // It exits with 0 for a key that it does not know: what it says counts.
            let verified = try lab.run("systemd-analyze verify --man=no \(unit)")
            #expect(verified.status == 0)
            #expect(verified.text == "")
        }
        // Thresholds are tenths.
        let path = "/usr/lib/systemd/system/dtlsd.service"
        let security = try lab.run("systemd-analyze security --no-pager --offline=true --threshold=15 \(path)")
        #expect(security.status == 0, "\(security.text)")
        try lab.stop()
    }

    @Test func itStartsServesAndStops() throws {
        let lab = try Lab.withEcho()
        try lab.boot()
        try lab.succeed("systemctl start dtlsd")
        #expect(try lab.property("ActiveState") == "active")
        #expect(try lab.property("StatusText") != "")
        #expect(try lab.servedName() == "first")
        #expect(try lab.servedName(at: "[::1]:4433") == "first")

        try lab.succeed("systemctl stop dtlsd")
        #expect(try lab.property("ActiveState") == "inactive")
        #expect(try lab.property("Result") == "success")
        #expect(try lab.run("cat \(lab.processes)").status != 0)
        #expect(try lab.run("ls /run/dtlsd").status != 0)
        let kinds = Set(try lab.journal().compactMap { $0["MESSAGE_ID"] })
        #expect(kinds.isSuperset(of: [MessageID.ready, MessageID.stopping]))
        try lab.stop()
    }

    @Test func theJournalHasTheFieldsOfAConnection() throws {
        let lab = try Lab.withEcho()
        try lab.boot()
        try lab.succeed("systemctl start dtlsd")
        #expect(try lab.servedName() == "first")
        let command = "journalctl --no-pager -o json MESSAGE_ID=\(MessageID.connectionClosed)"
        try lab.wait(for: command) { $0.contains("\n") == false && $0.hasPrefix("{") }
        let opened = try #require(try lab.journal().first { $0["MESSAGE_ID"] == MessageID.connectionOpened })
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
        try lab.stop()
    }

    @Test func aReloadServesTheRenewedCertificate() throws {
        let lab = try Lab.withEcho()
        try lab.boot()
        try lab.succeed("systemctl start dtlsd")
        let process = try lab.property("MainPID")
        #expect(try lab.servedName() == "first")
        for name in ["second", "third"] {
            try lab.renew("echo", commonName: name)
            try lab.succeed("systemctl reload dtlsd")
            // At once: a reload has not finished before the daemon has taken it.
            #expect(try lab.servedName() == name)
        }
        #expect(try lab.property("MainPID") == process)
        #expect(try lab.property("ActiveState") == "active")
        #expect(try lab.journal().count { $0["MESSAGE_ID"] == MessageID.reloaded } == 2)
        #expect(try lab.run("ls -d /run/.dtlsd-credentials.*").status != 0)

        // Started again it has what is on disk, with nothing left of the copies.
        try lab.renew("echo", commonName: "fourth")
        try lab.succeed("systemctl restart dtlsd")
        #expect(try lab.servedName() == "fourth")
        #expect(try lab.run("ls /run/dtlsd/credentials").status != 0)
        try lab.stop()
    }

    @Test func aReloadLastsUntilTheDaemonHasTakenIt() throws {
        let lab = try Lab.withEcho()
        try lab.boot()
        try lab.succeed("systemctl start dtlsd")
        let process = try lab.property("MainPID")
        try lab.succeed("kill -STOP \(process) && systemctl reload --no-block dtlsd")
        // SIGHUP, the lowest bit, is pending, and the process that sent it has ended.
        try lab.wait(for: "sed -n 's/^ShdPnd:.*\\(.\\)$/\\1/p' /proc/\(process)/status") { $0 == "1" }
        try lab.wait(for: "systemctl show -P ControlPID dtlsd") { $0 == "0" }
        #expect(try lab.property("ActiveState") == "reloading")
        try lab.succeed("kill -CONT \(process)")
        try lab.wait(for: "systemctl is-active dtlsd") { $0 == "active" }
        #expect(try lab.journal().contains { $0["MESSAGE_ID"] == MessageID.reloaded })
        try lab.stop()
    }

    @Test func aReloadWithAKeyThatDoesNotFitFailsAndChangesNothing() throws {
        let lab = try Lab.withEcho()
        try lab.boot()
        try lab.succeed("systemctl start dtlsd")
        let process = try lab.property("MainPID")
        // As when the ACME client has written one of two files.
        try lab.prepare("cp -P etc/letsencrypt/live/echo/privkey.pem old-key")
        try lab.renew("echo", commonName: "second")
        try lab.prepare("mv old-key etc/letsencrypt/live/echo/privkey.pem")
        #expect(try lab.run("systemctl reload dtlsd").status != 0)
        #expect(try lab.property("ActiveState") == "active")
        #expect(try lab.servedName() == "first")
        // A source that is missing, too.
        try lab.prepare("rm etc/letsencrypt/live/echo/privkey.pem")
        #expect(try lab.run("systemctl reload dtlsd").status != 0)
        #expect(try lab.servedName() == "first")
        // A signal by hand is refused by the daemon itself.
        try lab.succeed("echo nonsense >>/etc/dtlsd/dtlsd.toml; systemctl kill --kill-whom=main -s HUP dtlsd")
        try lab.wait(for: "journalctl --no-pager -o cat MESSAGE_ID=\(MessageID.reloadFailed)") { !$0.isEmpty }
        #expect(try lab.servedName() == "first")

        try lab.renew("echo", commonName: "third")
        try lab.succeed("sed -i '/nonsense/d' /etc/dtlsd/dtlsd.toml; systemctl reload dtlsd")
        #expect(try lab.servedName() == "third")
        #expect(try lab.property("MainPID") == process)
        try lab.stop()
    }

    @Test func nobodyElseReadsTheKey() throws {
        let lab = try Lab.withEcho()
        try lab.boot()
        try lab.succeed("systemctl start dtlsd")
        try lab.renew("echo", commonName: "second")
        try lab.succeed("systemctl reload dtlsd")
        #expect(try lab.servedName() == "second")

        let owner = try lab.succeed("stat -c %u /proc/$(systemctl show -P MainPID dtlsd)")
        // DynamicUser= takes one of these.
        #expect((61_184...65_519).contains(Int(owner) ?? 0), "\(owner)")
        let processes = try lab.succeed("for p in $(cat \(lab.processes)); do stat -c %u /proc/$p; done").split(
            separator: "\n")
        #expect(processes.count >= 3)
        #expect(Set(processes) == [owner[...]])
        let files = try lab.succeed("stat -c '%n %a %u' /run/dtlsd/credentials/*").split(separator: "\n")
        #expect(
            files == [
                "/run/dtlsd/credentials/echo.crt 400 \(owner)", "/run/dtlsd/credentials/echo.key 400 \(owner)",
            ])
        // The service's user can read them, another user cannot: neither these, nor systemd's, nor the source.
        let key = "/run/dtlsd/credentials/echo.key"
        #expect(try lab.run("setpriv --reuid=\(owner) --clear-groups cat \(key)").text.contains("PRIVATE KEY"))
        for path in [key, "/run/credentials/dtlsd.service/echo.key", "/etc/letsencrypt/live/echo/privkey.pem"] {
            let output = try lab.run("setpriv --reuid=65534 --regid=65534 --clear-groups cat \(path)")
            #expect(output.status != 0, "\(path)")
            #expect(!output.text.contains("PRIVATE KEY"), "\(path)")
        }
        // Nor does it show in the journal.
        #expect(!(try lab.succeed("journalctl --no-pager").contains("PRIVATE KEY")))
        try lab.stop()
    }

    @Test func theServicesUserCannotLeadTheReloadAstray() throws {
        let lab = try Lab.withEcho()
        try lab.boot()
        try lab.succeed("systemctl start dtlsd")
        let owner = try lab.succeed("stat -c %u /run/dtlsd")
        let asUser = "setpriv --reuid=\(owner) --regid=\(owner) --clear-groups sh -c"
        try lab.succeed("mkdir -m 755 /srv/target && echo precious >/srv/target/echo.key")
        try lab.succeed("\(asUser) 'ln -s /srv/target /run/dtlsd/credentials'")
        try lab.renew("echo", commonName: "second")
        try lab.succeed("systemctl reload dtlsd")
        #expect(try lab.servedName() == "second")
        #expect(try lab.succeed("cat /srv/target/echo.key") == "precious")
        #expect(try lab.succeed("stat -c '%u %a' /srv/target /srv/target/echo.key") == "0 755\n0 644")
        try lab.stop()
    }

    @Test func socketsArePassedInByName() throws {
        let lab = try Lab.withEcho(listen: nil)
        try lab.renew("coap", commonName: "coap")
        try lab.write(
            Lab.service("echo", listen: nil) + Lab.service("coap", listen: nil), to: "/etc/dtlsd/dtlsd.toml")
        try lab.write(Lab.credentials("coap"), to: "/etc/systemd/system/dtlsd.service.d/coap.conf")
        try lab.write(
            "[Socket]\nListenDatagram=\nListenDatagram=127.0.0.1:5443\nListenDatagram=[::1]:5443\n",
            to: "/etc/systemd/system/dtlsd.socket.d/ports.conf")
        try lab.write(
            """
            [Socket]
            Service=dtlsd.service
            ListenDatagram=127.0.0.1:5684
            FileDescriptorName=coap
            BindIPv6Only=ipv6-only
            ReusePort=yes
            PassPacketInfo=yes
            """, to: "/etc/systemd/system/dtlsd-coap.socket")
        try lab.boot()
        try lab.succeed("systemctl start dtlsd.socket dtlsd-coap.socket")
        #expect(try lab.property("ActiveState") == "inactive")
        // The first datagram starts the service, and is answered.
        #expect(try lab.servedName(at: "127.0.0.1:5443") == "first")
        #expect(try lab.servedName(at: "[::1]:5443") == "first")
        #expect(try lab.servedName(at: "127.0.0.1:5684") == "coap")
        #expect(try lab.property("ActiveState") == "active")
        // The sockets outlive the service and a reload.
        try lab.renew("coap", commonName: "renewed")
        try lab.succeed("systemctl reload dtlsd")
        #expect(try lab.servedName(at: "127.0.0.1:5684") == "renewed")
        try lab.succeed("systemctl restart dtlsd")
        #expect(try lab.servedName(at: "127.0.0.1:5443") == "first")
        // Workers have no variables that were meant for the main process.
        let environment = try lab.succeed(
            "for p in $(pgrep -P $(systemctl show -P MainPID dtlsd)); do cat /proc/$p/environ; done")
        #expect(environment.contains("CREDENTIALS_DIRECTORY="))
        for name in ["LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET", "WATCHDOG_USEC"] {
            #expect(!environment.contains(name), "\(name)")
        }
        try lab.stop()
    }

    @Test func socketsWithoutANameArePassedInByAddress() throws {
        let lab = try Lab.withEcho(listen: #""127.0.0.1:4433""#)
        try lab.write(
            "[Socket]\nListenDatagram=\nListenDatagram=127.0.0.1:4433\nFileDescriptorName=whatever\n",
            to: "/etc/systemd/system/dtlsd.socket.d/address.conf")
        try lab.boot()
        try lab.succeed("systemctl start dtlsd.socket")
        #expect(try lab.servedName() == "first")
        try lab.stop()
    }

    @Test(arguments: [true, false])
    func aPortBelow1024NeedsTheDropInOfTheUnitsComment(isPassedIn: Bool) throws {
        let lab = try Lab.withEcho(listen: #""127.0.0.1:443""#)
        try lab.write(
            """
            [Service]
            AmbientCapabilities=CAP_NET_BIND_SERVICE
            CapabilityBoundingSet=CAP_NET_BIND_SERVICE
            PrivateUsers=no
            """, to: "/etc/systemd/system/dtlsd.service.d/port.conf")
        try lab.write(
            "[Socket]\nListenDatagram=\nListenDatagram=127.0.0.1:443\n",
            to: "/etc/systemd/system/dtlsd.socket.d/port.conf")
        try lab.boot()
        try lab.succeed("systemctl start \(isPassedIn ? "dtlsd.socket" : "dtlsd.service")")
        #expect(try lab.servedName(at: "127.0.0.1:443") == "first")
        try lab.stop()
    }

    /// systemd keeps the keys of session tickets as long as it means to start the daemon again, and no longer.
    @Test func sessionsAreResumedAfterARestart() throws {
        let lab = try Lab.withEcho()
        try lab.boot()
        try lab.succeed("systemctl start dtlsd")
        func visit(_ option: String) throws -> String {
            try lab.run(
                "timeout -s KILL 20 openssl s_client -dtls1_2 -connect 127.0.0.1:4433 \(option) /root/session </dev/null"
            ).text
        }
        #expect(try visit("-sess_out").contains("New, "))
        try lab.wait(for: "systemctl show -P NFileDescriptorStore dtlsd") { $0 == "1" }
        try lab.succeed("systemctl restart dtlsd")
        #expect(try visit("-sess_in").contains("Reused, "))

        let process = try lab.property("MainPID")
        try lab.succeed("kill -KILL \(process)")
        try lab.wait(for: "systemctl is-active dtlsd; systemctl show -P MainPID dtlsd") {
            $0.hasPrefix("active") && !$0.hasSuffix("\n\(process)")
        }
        #expect(try visit("-sess_in").contains("Reused, "))
        #expect(try lab.property("NFileDescriptorStore") == "1")

        try lab.succeed("systemctl stop dtlsd")
        #expect(try lab.property("NFileDescriptorStore") == "0")
        try lab.succeed("systemctl start dtlsd")
        #expect(try visit("-sess_in").contains("New, "))
        try lab.stop()
    }

    @Test func theWatchdogReplacesAMainProcessThatHangs() throws {
        let lab = try Lab.withEcho()
        try lab.write("[Service]\nWatchdogSec=2s\n", to: "/etc/systemd/system/dtlsd.service.d/watchdog.conf")
        try lab.boot()
        try lab.succeed("systemctl start dtlsd")
        let process = try lab.property("MainPID")
        // Longer than the watchdog allows: the daemon's pings arrive.
        try lab.wait(for: "systemctl show -P WatchdogTimestampMonotonic dtlsd; cut -d. -f1 /proc/uptime") { text in
            let numbers = text.split(separator: "\n").compactMap { Int($0) }
            return numbers.count == 2 && numbers[0] > 0
        }
        let started = try #require(Int(try lab.property("ActiveEnterTimestampMonotonic")))
        try lab.wait(for: "systemctl show -P WatchdogTimestampMonotonic dtlsd") { Int($0) ?? 0 > started + 5_000_000 }
        #expect(try lab.property("NRestarts") == "0")

        try lab.succeed("kill -STOP \(process)")
        try lab.wait(for: "systemctl show -P NRestarts dtlsd") { $0 == "1" }
        try lab.wait(for: "systemctl is-active dtlsd") { $0 == "active" }
        #expect(try lab.property("MainPID") != process)
        #expect(try lab.servedName() == "first")
        #expect(try lab.succeed("journalctl --no-pager -o cat _PID=1").contains("Watchdog timeout"))
        try lab.stop()
    }

    @Test func aBadConfigurationIsNotTriedAgain() throws {
        let lab = try Lab.withEcho()
        try lab.write("wrokers = 2\n" + Lab.service("echo", listen: nil), to: "/etc/dtlsd/dtlsd.toml")
        try lab.boot()
        #expect(try lab.run("systemctl start dtlsd").status != 0)
        #expect(try lab.property("ExecMainStatus") == "78")
        #expect(try lab.property("ActiveState") == "failed")
        #expect(try lab.property("NRestarts") == "0")
        #expect(try lab.journal().contains { $0["MESSAGE"]?.contains("wrokers") == true && $0["PRIORITY"] == "3" })
        try lab.stop()
    }
}

/// The identifiers of Sources/DTLSDaemon/Service/LogEvent.swift that operators search for.
private enum MessageID {
    static let ready = "1e2929ec3e84490e82e031073b4fadb3"
    static let reloaded = "8db8f4a81c264caeaffe85f720c889c9"
    static let reloadFailed = "35e1481a3fe34d4d85b4a2b71adb0756"
    static let stopping = "13f825680ba54e4f96e3d60c4eec8c3a"
    static let connectionOpened = "cde74a02b67b470ea9b7613559d68da5"
    static let connectionClosed = "1db8a567d8224492ac040ea2b0d1006f"
}
