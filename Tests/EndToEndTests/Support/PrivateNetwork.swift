import Foundation
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
    /// - Parameter addresses: more addresses of the interface.
    static func prefix(mtu: Int, addresses: [String] = []) -> [String] {
        let steps = ["ip link set lo mtu \(mtu) up"] + addresses.map { "ip addr add \($0) dev lo nodad" }
        return ["unshare", "-n", "sh", "-c", steps.joined(separator: " && ") + " && exec \"$@\"", "sh"]
    }

    /// What a program is to be started with to be in a daemon's network.
    static func prefix(of daemon: Daemon) -> [String] { ["nsenter", "--net=/proc/\(daemon.program.pid)/ns/net"] }

    /// UDP datagrams that have reached any socket of a daemon's network.
    static func datagramsReceived(in daemon: Daemon) -> Int {
        let text = ProcessTable.text(of: "/proc/\(daemon.program.pid)/net/snmp")
        let rows = text.split(separator: "\n").filter { $0.hasPrefix("Udp: ") }.map { $0.split(separator: " ") }
        guard rows.count == 2, let column = rows[0].firstIndex(of: "InDatagrams") else { return 0 }
        return Int(rows[1][column]) ?? 0
    }
}
