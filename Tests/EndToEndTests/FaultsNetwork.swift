import Foundation
import LinuxSystem
import TestSupport

/// Two networks with a cable between them: the daemon's, which has a small disk beside it, and that of its clients. It
/// takes root.
final class FaultNetwork: Sendable {
    static let server = "10.77.0.1"
    /// Programs that do nothing but keep the networks.
    private let near: Program
    private let far: Program
    private let folder: TestFolder

    /// The small disk.
    var disk: String { folder.file("disk") }

    init(in folder: TestFolder) async throws {
        self.folder = folder
        near = try Program(["unshare", "-n", "-m", "sleep", "infinity"], in: folder)
        far = try Program(["unshare", "-n", "sleep", "infinity"], in: folder)
        for program in [near, far] {
            try await eventually("a network is there", details: program.errors) {
                ProcessTable.name(of: program.pid) == "sleep"
            }
        }
        try FileManager.default.createDirectory(atPath: disk, withIntermediateDirectories: true)
        try await run("mount -t tmpfs -o size=4m,mode=755 none \(disk)")
        try await run("ip link set lo up && ip link add v0 type veth peer name v1 netns \(far.pid)")
        try await run("ip addr add \(Self.server)/24 dev v0")
        try await plugIn()
        try await runFar("ip link set lo up && ip addr add 10.77.0.2/24 dev v1 && ip link set v1 up")
    }

    func plugIn() async throws { try await run("ip link set v0 up") }

    /// Has the daemon's interface go down.
    func unplug() async throws { try await run("ip link set v0 down") }

    /// What the daemon and those behind it are to be started with.
    var prefix: [String] { ["nsenter", "--net=/proc/\(near.pid)/ns/net", "--mount=/proc/\(near.pid)/ns/mnt"] }
    /// What its clients are to be started with.
    var clientPrefix: [String] { ["nsenter", "--net=/proc/\(far.pid)/ns/net"] }

    /// Runs a shell's command where the daemon is.
    func run(_ command: String) async throws {
        try await Program.run(prefix + ["sh", "-c", command], in: folder)
    }

    private func runFar(_ command: String) async throws {
        try await Program.run(clientPrefix + ["sh", "-c", command], in: folder)
    }

    /// The small disk, from outside of its mount namespace.
    private var diskFromHere: String { "/proc/\(near.pid)/root\(disk)" }

    /// A file of the small disk.
    func read(_ name: String) -> String {
        String(decoding: FileManager.default.contents(atPath: "\(diskFromHere)/\(name)") ?? Data(), as: UTF8.self)
    }

    var filesOfDisk: [String] { (try? FileManager.default.contentsOfDirectory(atPath: diskFromHere)) ?? [] }

    /// Has a file of the test's folder be on the small disk.
    func linkToDisk(_ name: String) throws {
        try FileManager.default.createSymbolicLink(
            atPath: folder.file(name), withDestinationPath: "\(diskFromHere)/\(name)")
    }

    /// A socket behind the daemon.
    func socket(at address: SocketAddress) throws -> DatagramSocket {
        try OwnThread.run(inNetworkOf: near.pid) { try DatagramSocket(at: address) }
    }

    /// A socket of a client.
    func clientSocket() throws -> DatagramSocket {
        guard let address = SocketAddress(host: "10.77.0.2", port: 0) else { throw NoFreePort(host: "10.77.0.2") }
        return try OwnThread.run(inNetworkOf: far.pid) { try DatagramSocket(at: address) }
    }

    /// Has the daemon's interface go down and come back.
    func interrupt(for time: Duration) async throws {
        try await unplug()
        try await Task.sleep(for: time)
        try await plugIn()
    }

    /// Takes the daemon's address away and gives it back.
    func removeAddress(for time: Duration) async throws {
        try await run("ip addr del \(Self.server)/24 dev v0")
        try await Task.sleep(for: time)
        try await run("ip addr add \(Self.server)/24 dev v0")
    }

    /// Changes the largest packet of the cable.
    func set(mtu: Int) async throws {
        try await run("ip link set v0 mtu \(mtu)")
        try await runFar("ip link set v1 mtu \(mtu)")
    }
}
