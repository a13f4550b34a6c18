import Foundation
import LinuxSystem
import TestSupport

/// A network that a daemon has to itself: a loopback interface of a chosen MTU. It takes root.
enum PrivateNetwork {
    static let isAllowed: Bool = {
        guard let process = try? Process.run(URL(filePath: "/usr/bin/env"), arguments: prefix(mtu: 1_500) + ["true"])
        else { return false }
        process.waitUntilExit()
        return process.terminationStatus == 0
    }()

    /// What a program is to be started with to have such a network.
    /// - Parameters:
    ///   - addresses: more addresses of the interface.
    ///   - ports: the local ports that the kernel chooses from.
    static func prefix(mtu: Int, addresses: [String] = [], ports: ClosedRange<UInt16>? = nil) -> [String] {
        var steps = ["ip link set lo mtu \(mtu) up"] + addresses.map { "ip addr add \($0) dev lo nodad" }
        if let ports {
            steps.append("echo \(ports.lowerBound) \(ports.upperBound) > /proc/sys/net/ipv4/ip_local_port_range")
        }
        return ["unshare", "-n", "sh", "-c", steps.joined(separator: " && ") + " && exec \"$@\"", "sh"]
    }

    /// What a program is to be started with to be in a daemon's network.
    static func prefix(of daemon: Daemon) -> [String] { ["nsenter", "--net=/proc/\(daemon.program.pid)/ns/net"] }

    /// A socket of the test in a daemon's network.
    static func socket(at address: SocketAddress, in daemon: Daemon) throws -> DatagramSocket {
        try OwnThread.run(inNetworkOf: daemon.program.pid) { try DatagramSocket(at: address) }
    }

    /// UDP datagrams that have reached any socket of a daemon's network.
    static func datagramsReceived(in daemon: Daemon) -> Int {
        let text = ProcessTable.text(of: "/proc/\(daemon.program.pid)/net/snmp")
        let rows = text.split(separator: "\n").filter { $0.hasPrefix("Udp: ") }.map { $0.split(separator: " ") }
        guard rows.count == 2, let column = rows[0].firstIndex(of: "InDatagrams") else { return 0 }
        return Int(rows[1][column]) ?? 0
    }
}
