import Glibc
import LinuxSystem

/// Reads `[service.NAME.socket]` and `[client.NAME.socket]`.
enum SocketOptionsReader {
    static func read(_ table: TableReader<SocketKey>?) -> SocketOptions {
        guard let table else { return SocketOptions(fragmentation: false) }
        return SocketOptions(
            receiveBuffer: table.integer(.receiveBuffer, SocketOptions.bufferSizes, "an integer of bytes"),
            sendBuffer: table.integer(.sendBuffer, SocketOptions.bufferSizes, "an integer of bytes"),
            timeToLive: table.integer(.timeToLive, SocketOptions.timesToLive),
            interface: interface(table), ipv6Only: table.bool(.ipv6Only) ?? true,
            fragmentation: table.bool(.fragment) ?? false)
    }

    private static func interface(_ table: TableReader<SocketKey>) -> String? {
        let expected = "the name of a network interface of this machine"
        guard let name = table.string(.interface, expected) else { return nil }
        if if_nametoindex(name) == 0 {
            table.report(.interface, "expected \(expected), found the string \(ReadContext.quoted(name))")
        }
        return name
    }
}
