import LinuxSystem
import TestSupport

/// A configuration with every kind of table, and the files that it names, right ones and wrong ones.
struct RichConfiguration {
    let folder: TestFolder
    let identity: Identity
    /// Where its service "echo" listens.
    let address: SocketAddress
    let text: ConfigurationText

    init() async throws {
        folder = try TestFolder()
        let maker = CertificateMaker(folder: folder)
        identity = try await maker.selfSigned("server")
        _ = try await maker.selfSigned("other")
        try await maker.encryptKey(of: identity, as: "sealed.key", passphrase: "sesame")
        try folder.write("sesame\n", to: "sealed.passphrase")
        try folder.write(String(repeating: "s", count: 32), to: "cookie.secret")
        try folder.write("sensor-7:00112233445566778899aabbccddeeff\n", to: "keys.psk")

        try folder.write("guess\n", to: "wrong.passphrase")
        try folder.write("abc", to: "short")
        try folder.write("", to: "empty")
        try folder.write("sensor-7:0011\n", to: "weak.psk")
        for (name, copy) in [("keys.psk", "open.psk"), ("server.key", "open.key"), ("cookie.secret", "open.secret")] {
            try folder.write(folder.read(name), to: copy)
            try await Program.run(["chmod", "644", folder.file(copy)], in: folder)
        }
        address = try SocketAddress.freeOnOwnLoopback()
        let others = try (0..<6).map { _ in try SocketAddress.freeOnOwnLoopback() }
        text = ConfigurationText(Self.text(at: address, others))
    }

    private static func text(at address: SocketAddress, _ others: [SocketAddress]) -> String {
        """
        workers = 1
        cookie_secret_file = "cookie.secret"
        [control]
        path = ""
        [tickets]
        lifetime = 7200
        [connection_ids]
        server_id = "01"
        [resolver]
        servers = "127.0.0.1"
        [limits]
        connections = 1000
        [service.echo]
        listen = "\(address)"
        certificate = "server.pem"
        private_key = "server.key"
        ca = "server.pem"
        client_certificate = "requested"
        handler = "echo"
        [service.echo.socket]
        ttl = 64
        [service.echo.name."*.localhost"]
        certificate = "server.pem"
        private_key = "server.key"
        [service.echo.clients]
        deny = "cn:lost"
        [service.echo.limits]
        connections = 100
        [service.echo.psk]
        file = "keys.psk"
        [service.pass]
        listen = "\(others[0])"
        certificate = "server.pem"
        private_key = "server.key"
        handler = "forward"
        [service.pass.forward]
        backend = "udp:\(others[1])"
        [service.pass.forward.health_check]
        send = "ping"
        [service.pass.forward.rule.one]
        server_name = "*.example.org"
        backend = "udp:\(others[1])"
        [service.run]
        listen = "\(others[2])"
        certificate = "server.pem"
        private_key = "server.key"
        handler = "exec"
        [service.run.exec]
        command = ["/bin/cat"]
        [service.collect]
        listen = "\(others[3])"
        certificate = "server.pem"
        private_key = "sealed.key"
        passphrase_file = "sealed.passphrase"
        handler = "log"
        [service.collect.log]
        to = "syslog"
        [service.collect.authorize]
        server = "unix:/run/authz.sock"
        [client.out]
        listen = "\(others[4])"
        connect = "\(address)"
        ca = "server.pem"
        certificate = "server.pem"
        private_key = "sealed.key"
        passphrase_file = "sealed.passphrase"
        [client.out.socket]
        ttl = 64
        [client.keys]
        listen = "\(others[5])"
        connect = "\(address)"
        [client.keys.psk]
        file = "keys.psk"

        """
    }
}
