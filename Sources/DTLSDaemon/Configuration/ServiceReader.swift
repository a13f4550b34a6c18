import DTLSEngine
import LinuxSystem

/// Reads one `[service.NAME]` table with the tables in it. What is wrong is reported, and a stand-in takes its place,
/// so that the rest is checked too.
struct ServiceReader {
    struct Result {
        var configuration: ServiceConfiguration
        var listeners: [ConfiguredListener]
    }

    private let table: TableReader<ServiceKey>
    private let name: String

    init(_ table: TableReader<ServiceKey>, name: String) {
        self.table = table
        self.name = name
    }

    func read() -> Result {
        checkName()
        let socket = socketOptions()
        let listeners = ConfiguredListener.read(table, .listen, socket)
        if socket.timeToLive == 0, listeners.contains(where: { $0.address.family == .ipv4 }) {
            // ip(7): IP_TTL takes 1 to 255, where IPV6_UNICAST_HOPS takes 0 too.
            table.table(.socket, SocketKey.self)?.report(
                .timeToLive, "expected 1 to 255 for a service with IPv4 addresses, found 0, which Linux refuses there")
        }
        let configuration = ServiceConfiguration(
            name: name, listen: listeners.map(\.address), tls: CredentialsReader(table: table, service: name).read(),
            handshakeTimeout: table.duration(.handshakeTimeout, seconds: 2...120) ?? .seconds(60),
            idleTimeout: table.duration(.idleTimeout, seconds: 0...86_400) ?? .seconds(300),
            mtu: table.integer(.mtu, 256...9_000, "an integer of bytes") ?? 1_400,
            handler: HandlerReader.read(table) ?? .echo, socket: socket)
        return Result(configuration: configuration, listeners: listeners)
    }

    private func checkName() {
        TableName.check(name, at: table.path, of: "service", table.reading)
    }

    private func socketOptions() -> SocketOptions { SocketOptionsReader.read(table.table(.socket, SocketKey.self)) }
}
