import DTLSEngine
import Glibc
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
        let listeners = ConfiguredListener.read(table, socket)
        if socket.timeToLive == 0, listeners.contains(where: { $0.address.family == .ipv4 }) {
            // ip(7): IP_TTL takes 1 to 255, where IPV6_UNICAST_HOPS takes 0 too.
            table.table(.socket, SocketKey.self)?.report(
                .timeToLive, "expected 1 to 255 for a service with IPv4 addresses, found 0, which Linux refuses there")
        }
        let configuration = ServiceConfiguration(
            name: name, listen: listeners.map(\.address), tls: CredentialsReader(table: table, service: name).read(),
            handshakeTimeout: table.duration(.handshakeTimeout, seconds: 2...120) ?? 60_000,
            idleTimeout: table.duration(.idleTimeout, seconds: 0...86_400) ?? 300_000,
            mtu: table.integer(.mtu, 256...9_000, "an integer of bytes") ?? 1_400,
            handler: HandlerReader.read(table) ?? .echo, socket: socket)
        return Result(configuration: configuration, listeners: listeners)
    }

    private func checkName() {
        let isGood = name.utf8.allSatisfy { $0.isLetterOrDigit || [0x2d, 0x5f, 0x2e].contains($0) }
        if name.isEmpty || !isGood {
            table.reading.report(
                table.path, "not a name for a service; expected letters of ASCII, digits and the characters - _ .")
        }
    }

    private func socketOptions() -> SocketOptions {
        guard let table = table.table(.socket, SocketKey.self) else { return SocketOptions() }
        return SocketOptions(
            receiveBuffer: table.integer(.receiveBuffer, SocketOptions.bufferSizes, "an integer of bytes"),
            sendBuffer: table.integer(.sendBuffer, SocketOptions.bufferSizes, "an integer of bytes"),
            timeToLive: table.integer(.timeToLive, SocketOptions.timesToLive),
            interface: interface(table), ipv6Only: table.bool(.ipv6Only) ?? true)
    }

    private func interface(_ table: TableReader<SocketKey>) -> String? {
        let expected = "the name of a network interface of this machine"
        guard let name = table.string(.interface, expected) else { return nil }
        if if_nametoindex(name) == 0 {
            table.report(.interface, "expected \(expected), found the string \(ConfigurationReading.quoted(name))")
        }
        return name
    }
}
