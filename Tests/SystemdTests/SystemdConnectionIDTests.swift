import Foundation
import Testing

/// Clients with connection IDs, on stacks that we did not write, that come from another port after the daemon's processes
/// have changed under systemd.
@Suite(
    .serialized, .enabled(if: Lab.obstacle == nil, "no systemd can be booted for the test: \(Lab.obstacle ?? "")"),
    .enabled(
        if: PeerPrograms.areMade, "scripts/peers has not been run, which makes clients on other stacks"))
struct SystemdConnectionIDTests {
    /// The numbers of lines that a client has printed are how it is known what an answer belongs to.
    private func perform(_ command: String, on peer: String, until answer: String, _ count: Int, _ lab: Lab)
        async throws
    {
        try await lab.succeed("echo '\(command)' >>/root/\(peer).in")
        try await lab.wait(for: "grep -c '^\(answer)' /root/\(peer).out || :") { Int($0) ?? 0 >= count }
    }

    @Test func `clients move after a restart, an upgrade, and the death of the main process`() async throws {
        let lab = try await Lab.withEcho()
        try lab.write(
            "workers = 2\n" + Lab.service("echo", listen: "\"127.0.0.1:4433\"") + "connection_id = 10\n",
            to: "/etc/dtlsd/dtlsd.toml")
        for peer in PeerPrograms.names { try await lab.prepare("cp '\(PeerPrograms.path(peer))' root/\(peer)") }
        try await lab.boot()
        try await lab.succeed("systemctl start dtlsd")
        for peer in PeerPrograms.names {
            try await lab.succeed(
                """
                : >/root/\(peer).in
                systemd-run --quiet --unit=client-\(peer) sh -c 'tail -f /root/\(peer).in |
                    /root/\(peer) client 127.0.0.1:4433 cid=c0ffee >/root/\(peer).out 2>/root/\(peer).err'
                """)
            try await perform("echo 3", on: peer, until: "echoed 3 of 3", 1, lab)
        }
        let ends = [
            "systemctl restart dtlsd", "kill -USR2 $(systemctl show -P MainPID dtlsd)",
            "systemctl kill --kill-whom=main --signal=KILL dtlsd",
        ]
        for (round, command) in ends.enumerated() {
            let process = try await lab.property("MainPID")
            try await lab.succeed(command)
            try await lab.wait(for: "systemctl show -P MainPID dtlsd") { $0 != process && $0 != "0" }
            try await lab.wait(for: "systemctl show -P ActiveState dtlsd") { $0 == "active" }
            for peer in PeerPrograms.names {
                // A socket of its own each time, as behind a NAT that has forgotten it.
                try await perform("move", on: peer, until: "port ", round + 2, lab)
                try await perform("echo 3", on: peer, until: "echoed 3 of 3", round + 2, lab)
            }
        }
        let opened = try await lab.logged(PeerPrograms.names.count) { $0["MESSAGE_ID"] == MessageID.connectionOpened }
        #expect(opened.count == PeerPrograms.names.count, "\(opened)")
        let ids = Set(opened.compactMap { $0["CONNECTION_ID"] })
        #expect(ids.count == PeerPrograms.names.count)
        let moved = try await lab.logged(ends.count * PeerPrograms.names.count) {
            $0["MESSAGE_ID"] == MessageID.connectionMoved
        }
        #expect(Set(moved.compactMap { $0["CONNECTION_ID"] }) == ids)
        try await lab.stop()
    }
}

/// The clients that `scripts/peers` makes.
private enum PeerPrograms {
    static let names = ["mbedtls-peer", "wolfssl-peer", "pion-peer"]

    static func path(_ name: String) -> String {
        URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../../.peers/\(name)").standardized.path
    }

    static let areMade = names.allSatisfy { FileManager.default.isExecutableFile(atPath: path($0)) }
}
