import Testing

/// A boot during which no name server answers.
@Suite(
    .serialized, .enabled(if: Lab.obstacle == nil, "no systemd can be booted for the test: \(Lab.obstacle ?? "")"))
struct NameServerTests {
    @Test func `the service is restarted until its names can be resolved`() async throws {
        let lab = try await Lab.withEcho()
        try lab.write(
            """
            [service.echo]
            listen = "127.0.0.1:4433"
            certificate = "credential:echo.crt"
            private_key = "credential:echo.key"
            handler = "forward"
            forward.backend = "udp:backend.example:5683"

            """, to: "/etc/dtlsd/dtlsd.toml")
        // There is none, and that is known at once.
        try lab.write("hosts: files dns\n", to: "/etc/nsswitch.conf")
        try lab.write("nameserver 127.0.0.1\n", to: "/etc/resolv.conf")
        try await lab.boot()
        try await lab.succeed("systemctl start --no-block dtlsd")
        // More often than systemd's own limit, five times in ten seconds, would allow.
        try await lab.wait(for: "systemctl show -P NRestarts dtlsd") { Int($0) ?? 0 > 6 }
        try await lab.wait(for: "systemctl show -P ExecMainStatus dtlsd") { $0 == "75" }
        try await lab.succeed("echo 127.0.0.1 backend.example >>/etc/hosts")
        try await lab.wait(for: "systemctl is-active dtlsd") { $0 == "active" }
        try await lab.stop()
    }
}
