import Testing

/// A boot during which no name server answers.
@Suite(
    .serialized, .enabled(if: Lab.obstacle == nil, "no systemd can be booted for the test: \(Lab.obstacle ?? "")"))
struct NameServerTests {
    @Test func `the service starts, and finds its backend when its name can be resolved`() async throws {
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
        try await lab.succeed("systemctl start dtlsd")
        try await lab.wait(for: "journalctl -u dtlsd -o cat") {
            $0.contains("the host name backend.example cannot be resolved")
        }
        try await lab.succeed("echo 127.0.0.1 backend.example >>/etc/hosts")
        try await lab.wait(for: "journalctl -u dtlsd -o cat") {
            $0.contains("the host name backend.example is resolved: 127.0.0.1")
        }
        // The resolver runs in the sandbox of the unit, and nothing was started twice.
        try await lab.wait(for: "systemctl show -P NRestarts dtlsd") { $0 == "0" }
        try await lab.stop()
    }
}
