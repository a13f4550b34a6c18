import Testing

/// What systemd opens and keeps for the daemon: sockets, also below port 1024, and the keys of session tickets; and
/// what it says of both units.
@Suite(
    .serialized, .enabled(if: Lab.obstacle == nil, "no systemd can be booted for the test: \(Lab.obstacle ?? "")"))
struct SystemdSocketTests {
    @Test func `sockets are passed by name`() async throws {
        let lab = try await Lab.withEcho(listen: nil)
        try await lab.renew("coap", commonName: "coap")
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
        try await lab.boot()
        try await lab.succeed("systemctl start dtlsd.socket dtlsd-coap.socket")
        #expect(try await lab.property("ActiveState") == "inactive")
        // The first datagram starts the service, and is answered.
        #expect(try await lab.servedName(at: "127.0.0.1:5443") == "first")
        #expect(try await lab.servedName(at: "[::1]:5443") == "first")
        #expect(try await lab.servedName(at: "127.0.0.1:5684") == "coap")
        #expect(try await lab.property("ActiveState") == "active")
        // The sockets outlive the service and a reload.
        try await lab.renew("coap", commonName: "renewed")
        try await lab.succeed("systemctl reload dtlsd")
        #expect(try await lab.servedName(at: "127.0.0.1:5684") == "renewed")
        try await lab.succeed("systemctl restart dtlsd")
        #expect(try await lab.servedName(at: "127.0.0.1:5443") == "first")
        // Workers have no variables that were meant for the main process.
        let environment = try await lab.succeed(
            "for p in $(pgrep -P $(systemctl show -P MainPID dtlsd)); do cat /proc/$p/environ; done")
        #expect(environment.contains("CREDENTIALS_DIRECTORY="))
        for name in ["LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET", "WATCHDOG_USEC"] {
            #expect(!environment.contains(name), "\(name)")
        }
        try await lab.stop()
    }

    @Test func `sockets without a name are matched by address`() async throws {
        let lab = try await Lab.withEcho(listen: #""127.0.0.1:4433""#)
        try lab.write(
            "[Socket]\nListenDatagram=\nListenDatagram=127.0.0.1:4433\nFileDescriptorName=whatever\n",
            to: "/etc/systemd/system/dtlsd.socket.d/address.conf")
        try await lab.boot()
        try await lab.succeed("systemctl start dtlsd.socket")
        #expect(try await lab.servedName() == "first")
        try await lab.stop()
    }

    @Test(arguments: [true, false])
    func `a port below 1024 needs the drop-in of the unit's comment`(isPassedIn: Bool) async throws {
        let lab = try await Lab.withEcho(listen: #""127.0.0.1:443""#)
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
        try await lab.boot()
        try await lab.succeed("systemctl start \(isPassedIn ? "dtlsd.socket" : "dtlsd.service")")
        #expect(try await lab.servedName(at: "127.0.0.1:443") == "first")
        try await lab.stop()
    }

    @Test func `the units are sound and the sandbox is tight`() async throws {
        let lab = try await Lab.withEcho()
        try await lab.boot()
        for unit in ["dtlsd.service", "dtlsd.socket"] {
            // It exits with 0 for a key that it does not know: what it says counts.
            let verified = try await lab.run("systemd-analyze verify --man=no \(unit)")
            #expect(verified.status == 0)
            #expect(verified.text == "")
        }
        // Thresholds are tenths.
        let path = "/usr/lib/systemd/system/dtlsd.service"
        let security = try await lab.run("systemd-analyze security --no-pager --offline=true --threshold=15 \(path)")
        #expect(security.status == 0, "\(security.text)")
        try await lab.stop()
    }

    /// systemd keeps the keys of session tickets as long as it means to start the daemon again, and no longer.
    @Test func `sessions are resumed after a restart`() async throws {
        let lab = try await Lab.withEcho()
        try await lab.boot()
        try await lab.succeed("systemctl start dtlsd")
        func visit(_ option: String, _ session: String = "/root/session") async throws -> String {
            try await lab.run(
                "timeout -s KILL 60 openssl s_client -dtls1_2 -connect 127.0.0.1:4433 \(option) \(session) </dev/null"
            ).text
        }
        let withoutTicket = "/root/session-id"
        #expect(try await visit("-sess_out").contains("New, "))
        #expect(try await visit("-no_ticket -sess_out", withoutTicket).contains("New, "))
        // The keys, the cookie secret, the sessions, and the connections of one worker, at least.
        try await lab.wait(for: "systemctl show -P NFileDescriptorStore dtlsd") { Int($0) ?? 0 >= 4 }
        try await lab.succeed("systemctl restart dtlsd")
        #expect(try await visit("-sess_in").contains("Reused, "))
        #expect(try await visit("-no_ticket -sess_in", withoutTicket).contains("Reused, "))

        try await lab.succeed("systemctl kill --kill-whom=main --signal=KILL dtlsd")
        // In one answer of systemd: between two the service may end.
        try await lab.wait(for: "systemctl show -p ActiveState -p NRestarts dtlsd") {
            $0.contains("ActiveState=active") && $0.contains("NRestarts=1")
        }
        #expect(try await visit("-sess_in").contains("Reused, "))
        #expect(try await visit("-no_ticket -sess_in", withoutTicket).contains("Reused, "))
        #expect(Int(try await lab.property("NFileDescriptorStore")) ?? 0 >= 4)

        try await lab.succeed("systemctl stop dtlsd")
        #expect(try await lab.property("NFileDescriptorStore") == "0")
        try await lab.succeed("systemctl start dtlsd")
        #expect(try await visit("-sess_in").contains("New, "))
        #expect(try await visit("-no_ticket -sess_in", withoutTicket).contains("New, "))
        try await lab.stop()
    }
}
